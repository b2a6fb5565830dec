//! The real service on a real OpenBao, killed with -9 at each named point of a refresh and at random,
//! towards a provider that replaces refresh tokens and takes none twice. `GRANTKEEPER_KILLS=300` for
//! the long run.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    time::Duration,
};

use grantkeeper::{
    portal::PortalId,
    sim::Endpoint,
    store::{CredentialStore, Expected, Key, vault::VaultStore},
};

use tokio::sync::Mutex;

use crate::support::{
    openbao,
    service::{Place, eventually, portal},
};

const PORTALS: u64 = 40;
/// Where a refresh can be cut off, as its own log names it.
const POINTS: [&str; 6] =
    ["sending", "intent_kept", "answered", "answer_kept", "stored", "published"];

async fn shim(dir: &Path) -> String {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/support/kill_at.c");
    let library = dir.join("kill_at.so");
    let mut compiler = tokio::process::Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(source).arg("-ldl");
    assert!(compiler.status().await.unwrap().success(), "the C compiler that the build needs, too");
    library.to_str().unwrap().to_owned()
}

fn kills() -> u64 {
    #[expect(clippy::disallowed_methods, reason = "a test's own switch")]
    let asked = std::env::var("GRANTKEEPER_KILLS").ok();
    asked.map_or(35, |asked| asked.parse().unwrap())
}

/// The portals that a `grant_lost` incident has named so far.
fn named(place: &Place) -> BTreeSet<u64> {
    let all = ["opened", "updated"].map(|change| place.alerts.of("grant_lost", change));
    let portals = all.into_iter().flatten().flat_map(|notice| {
        let portals = notice["data"]["portals"].as_array().unwrap().clone();
        portals.into_iter().map(|id| id.as_u64().unwrap())
    });
    portals.collect()
}

/// The service is left in peace until every portal has a working grant. Customers whose grants it calls
/// lost connect again; they are counted, and must have been named in an incident.
async fn heal(place: &mut Place, store: &VaultStore) -> u64 {
    place.env.clear();
    let service = place.serve().await;
    let lost = Mutex::new(BTreeSet::new());
    let live = || async {
        for number in 1..=PORTALS {
            let view = service.get(&format!("/v1/portals/{number}")).await.unwrap();
            if view["state"] != "revoked" || !lost.lock().await.insert(number) {
                continue;
            }
            assert_eq!(view["reason"], "answer_lost", "portal {number}");
            let key = Key::Portal(portal(number));
            let stored = store.read(key).await.unwrap();
            let (_, token) = place.standin.sim.install(Some(portal(number)), None);
            let record = stored.record.with_refresh_token(&token);
            store.write(key, &record, &Expected::At(stored.version)).await.unwrap();
            service.signal(rustix::process::Signal::HUP);
        }
        let status = service.get("/v1/status").await.unwrap();
        status["portals"]["live"] == PORTALS
    };
    eventually("every portal has a working grant, or one that was connected again", live).await;
    assert_eq!(service.stop().await, 0);
    let (lost, named) = (lost.into_inner(), named(place));
    assert!(lost.is_subset(&named), "{lost:?} were lost, and people heard of {named:?}");
    for number in 1..=PORTALS {
        let stored = store.read(Key::Portal(portal(number))).await.unwrap();
        let token = stored.record.portal().unwrap().refresh_token;
        assert!(place.standin.sim.is_good(&token), "portal {number}");
    }
    lost.len() as u64
}

#[tokio::test]
async fn i3_i4_killed_at_every_point_of_a_refresh_the_service_loses_no_grant_it_had_an_answer_for()
{
    let mut place = Place::new(PORTALS, "[settings]\nrotating = true\nexpires_in = 8").await;
    let (_, store) = place.move_to_openbao(openbao().await).await;
    place.head = format!("state_dir = \"{}\"\n", place.path("state").display());
    let library = shim(place.dir.path()).await;
    let mut lost = 0;
    let mut at: BTreeMap<&str, u64> = BTreeMap::new();
    for kill in 0..kills() {
        let point = POINTS.get(usize::try_from(kill).unwrap() % (POINTS.len() + 1));
        place.env.clear();
        if let Some(point) = point {
            place.env.push(("LD_PRELOAD".to_owned(), library.clone()));
            place.env.push(("KILL_AT".to_owned(), format!("point=\"{point}\"")));
            place.env.push(("KILL_AFTER".to_owned(), (1 + kill % 9).to_string()));
        }
        let mut service = place.spawn();
        if point.is_none() {
            service.answers().await;
            tokio::time::sleep(Duration::from_millis(kill * 37 % 900)).await;
            service.signal(rustix::process::Signal::KILL);
        }
        assert_eq!(service.ended().await, -1, "not killed at {point:?}: {}", service.log());
        *at.entry(point.copied().unwrap_or("random")).or_insert(0) += 1;
        if kill % 20 == 19 {
            lost += heal(&mut place, &store).await;
        }
    }
    lost += heal(&mut place, &store).await;
    no_grant_was_spent_twice(&place);
    println!(
        "killed {at:?}; {lost} grants lost with an answer that no process could keep, each told of"
    );
    // A kill after the answer and before it is kept takes what was in that instant; no other does.
    assert!(lost == 0 || at.contains_key("answered") || at.contains_key("random"));
}

fn no_grant_was_spent_twice(place: &Place) {
    let mut spent: BTreeSet<(PortalId, u32)> = BTreeSet::new();
    for entry in place.standin.sim.ledger(0, None) {
        let (Some(portal), Some(generation)) = (entry.portal, entry.generation) else { continue };
        if entry.endpoint != Endpoint::Token {
            continue;
        }
        assert!(!spent.contains(&(portal, generation)), "portal {portal}: {generation} again");
        if entry.carried_out && entry.issued.is_some_and(|issued| issued != generation) {
            spent.insert((portal, generation));
        }
    }
}
