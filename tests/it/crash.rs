//! The real service on a real OpenBao, killed with -9 at each named point of a refresh and at random,
//! towards a provider that replaces refresh tokens and takes none twice. `GRANTKEEPER_KILLS=300` for
//! the long run.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    sync::Arc,
    time::Duration,
};

use grantkeeper::{
    journal,
    portal::{AppName, PortalId},
    sim::Endpoint,
    store::{CredentialStore, Expected, Key, vault::VaultStore},
    time::{Clock, SystemClock},
};
use jiff::{SignedDuration, Timestamp};
use tokio::sync::Mutex;

use crate::support::{
    openbao,
    service::{PATIENCE, Place, portal, until},
    temp_dir,
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

/// What a machine that does much else may need from an answer's arrival to its place in the journal.
const INSTANT: SignedDuration = SignedDuration::from_secs(4);

fn kills() -> u64 {
    #[expect(clippy::disallowed_methods, reason = "a test's own switch")]
    let asked = std::env::var("GRANTKEEPER_KILLS").ok();
    asked.map_or(36, |asked| asked.parse().unwrap())
}

/// The portals that a `grant_lost` incident has named so far.
fn named(place: &Place) -> BTreeSet<u64> {
    let all = ["opened", "updated", "resolved"].map(|change| place.alerts.of("grant_lost", change));
    let portals = all.into_iter().flatten().flat_map(|notice| {
        let portals = notice["data"]["portals"].as_array().unwrap().clone();
        portals.into_iter().map(|id| id.as_u64().unwrap())
    });
    portals.collect()
}

/// A kill, and where.
struct Killed {
    place: Place,
    store: VaultStore,
    library: String,
    /// When it was seen to be dead, each time.
    at: Vec<Timestamp>,
    /// The names of all refresh tokens that were in the journal then.
    durable: BTreeSet<String>,
    lost: usize,
}

impl Killed {
    async fn new() -> Self {
        let mut place = Place::new(PORTALS, "[settings]\nrotating = true\nexpires_in = 8").await;
        let (_, store) = place.move_to_openbao(openbao().await).await;
        place.head = format!("state_dir = \"{}\"\n", place.path("state").display());
        let library = shim(place.dir.path()).await;
        Self { place, store, library, at: Vec::new(), durable: BTreeSet::new(), lost: 0 }
    }

    async fn kill(&mut self, number: u64, point: Option<&str>) {
        self.place.env.clear();
        if let Some(point) = point {
            self.place.env.push(("LD_PRELOAD".to_owned(), self.library.clone()));
            self.place.env.push(("KILL_AT".to_owned(), format!("point=\"{point}\"")));
            self.place.env.push(("KILL_AFTER".to_owned(), (1 + number % 9).to_string()));
        }
        let mut service = self.place.spawn();
        if point.is_none() {
            service.answers().await;
            // Nothing is waited for: any moment will do.
            tokio::time::sleep(Duration::from_millis(number * 37 % 900)).await;
            service.signal(rustix::process::Signal::KILL);
        }
        assert_eq!(service.ended().await, -1, "not killed at {point:?}: {}", service.log());
        self.at.push(SystemClock.wall());
        self.look_into_the_journal().await;
    }

    /// On a copy: opening writes.
    async fn look_into_the_journal(&mut self) {
        let copy = temp_dir();
        for entry in fs::read_dir(self.place.path("state")).unwrap().flatten() {
            fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
        }
        let settings = journal::Settings { dir: copy.path().to_owned(), key_file: None };
        let app = AppName::parse("acme-sync").unwrap();
        let opened = journal::open_state(&settings, &app, Arc::new(SystemClock)).await;
        let (_, recovered, _) = opened.unwrap();
        let newest = recovered.trails.values().filter_map(|trail| trail.lineage.last());
        self.durable.extend(newest.map(ToString::to_string));
    }

    /// The service is left in peace until every portal has a working grant. Customers whose grants it
    /// calls lost connect again; they are counted, and must have been named in an incident.
    async fn heal(&mut self) {
        self.place.env.clear();
        let (place, store) = (&self.place, &self.store);
        let service = place.serve().await;
        let lost = Mutex::new(BTreeMap::new());
        let live = || async {
            for number in 1..=PORTALS {
                let view = service.get(&format!("/v1/portals/{number}")).await.unwrap();
                let known = place.standin.sim.portal(portal(number)).unwrap();
                let newest = known.tokens.last().unwrap().token.clone();
                if view["state"] != "revoked" || lost.lock().await.contains_key(&number) {
                    continue;
                }
                lost.lock().await.insert(number, (known.generation, newest));
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
        // Every portal has a working grant, or one that was connected again.
        let healed = tokio::time::timeout(2 * PATIENCE, until(live)).await;
        if healed.is_err() {
            let states = service.get("/v1/portals").await.unwrap();
            panic!("not all are well again: {states:#}\n{}", service.log());
        }
        assert_eq!(service.stop().await, 0);
        let (lost, named) = (lost.into_inner(), named(place));
        for (number, (generation, name)) in &lost {
            assert!(!self.durable.contains(name), "portal {number}: {name} was in the journal");
            assert!(named.contains(number), "{number} was lost, and people heard of {named:?}");
            self.was_cut_off(*number, *generation);
        }
        for number in 1..=PORTALS {
            let stored = store.read(Key::Portal(portal(number))).await.unwrap();
            let token = stored.record.portal().unwrap().refresh_token;
            assert!(place.standin.sim.is_good(&token), "portal {number}");
        }
        self.lost += lost.len();
    }

    /// A grant may be lost only if a kill came in the instant when its answer was on its way, or was not
    /// in the journal yet.
    fn was_cut_off(&self, number: u64, generation: u32) {
        let ledger = self.place.standin.sim.ledger(0, Some(portal(number)));
        let answered = ledger.iter().find(|entry| entry.issued == Some(generation)).unwrap();
        let killed = self.at.iter().any(|at| {
            let since = at.duration_since(answered.at);
            !since.is_negative() && since < INSTANT
        });
        assert!(killed, "portal {number} lost generation {generation}: {answered:?}");
    }

    fn no_grant_was_spent_twice(&self) {
        let mut spent: BTreeSet<(PortalId, u32)> = BTreeSet::new();
        for entry in self.place.standin.sim.ledger(0, None) {
            let (Some(portal), Some(generation)) = (entry.portal, entry.generation) else {
                continue;
            };
            if entry.endpoint != Endpoint::Token {
                continue;
            }
            assert!(!spent.contains(&(portal, generation)), "portal {portal}: {generation} again");
            if entry.carried_out && entry.issued.is_some_and(|issued| issued != generation) {
                spent.insert((portal, generation));
            }
        }
    }
}

/// So many kills, one after the other, at one point after the other.
async fn killed(times: u64) -> (BTreeMap<&'static str, u64>, usize) {
    let (mut killed, mut at) = (Killed::new().await, BTreeMap::new());
    for number in 0..times {
        let point = POINTS.get(usize::try_from(number).unwrap() % (POINTS.len() + 1)).copied();
        killed.kill(number, point).await;
        *at.entry(point.unwrap_or("random")).or_insert(0) += 1;
        if number % 20 == 19 {
            killed.heal().await;
        }
    }
    killed.heal().await;
    killed.no_grant_was_spent_twice();
    (at, killed.lost)
}

#[tokio::test]
async fn i3_i4_killed_at_every_point_of_a_refresh_the_service_loses_no_grant_it_had_an_answer_for()
{
    // Each of them waits most of the time.
    let times = kills().div_ceil(3);
    let (one, two, three) = tokio::join!(killed(times), killed(times), killed(times));
    let (mut at, mut lost) = one;
    for (more_at, more_lost) in [two, three] {
        lost += more_lost;
        for (point, more) in more_at {
            *at.entry(point).or_insert(0) += more;
        }
    }
    println!(
        "killed {at:?}; {lost} grants lost with an answer that no process could keep, each told of"
    );
}
