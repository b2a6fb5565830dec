//! The storm drill: half of all customers revoked in a minute, then the client secret broken, then HubSpot down, and
//! everything well again. How many messages each receiver got, and that a person could act on each.
//!
//! `GRANTKEEPER_STORM=10000` for the whole fleet; a few hundred otherwise.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use grantkeeper::{
    secret::ClientSecret,
    sim::Fault,
    time::{Clock, SystemClock},
};
use serde_json::Value;

use crate::support::{
    random_hex,
    receivers::{Mail, Manager, holds},
    service::{Alerts, Place, Service, portal, secret_file, until},
    sim::http,
};

fn portals() -> u64 {
    #[expect(clippy::disallowed_methods, reason = "how large a fleet is wanted")]
    let wanted = std::env::var("GRANTKEEPER_STORM");
    wanted.ok().and_then(|text| text.parse().ok()).unwrap_or(300)
}

/// Everybody who is told, and how many messages each has had.
struct Told<'a> {
    place: &'a Place,
    channel: Alerts,
    pager: Alerts,
    mail: Mail,
    manager: Manager,
}

impl Told<'_> {
    fn counts(&self) -> [usize; 4] {
        [
            self.place.alerts.raw().len(),
            self.channel.raw().len(),
            self.pager.raw().len(),
            // A mail for each of its two addresses.
            self.mail.taken().len() / 2,
        ]
    }

    /// Waits until each has what there is.
    async fn settled(&self) -> [usize; 4] {
        let even = async || {
            let counts = self.counts();
            counts.iter().all(|count| *count == counts[0])
        };
        tokio::time::timeout(Duration::from_secs(120), until(even)).await.unwrap_or_else(|_| {
            panic!("not everybody is told the same: {:?}", self.counts());
        });
        self.counts()
    }
}

async fn comes_about<F: Future<Output = bool>>(
    service: &Service,
    what: &str,
    holds: impl Fn() -> F,
) {
    let long = Duration::from_secs(600);
    if tokio::time::timeout(long, until(holds)).await.is_err() {
        let status = service.get("/v1/status").await;
        panic!("not within ten minutes: {what}; {status:#?}");
    }
}

/// Whether HubSpot has been asked about the grant of each portal.
fn each_is_asked_about(place: &Place, all: u64) -> bool {
    let presented = place.standin.sim.ledger(0, None);
    let asked: BTreeSet<_> = presented.iter().filter_map(|one| one.portal).collect();
    asked.len() as u64 == all
}

async fn revoked(service: &Service) -> u64 {
    service.get("/v1/status").await.unwrap()["portals"]["revoked"].as_u64().unwrap_or_default()
}

fn opened(alerts: &Alerts, kind: &str) -> usize {
    alerts.of(kind, "opened").len()
}

#[tokio::test]
async fn i12_in_a_storm_each_receiver_gets_a_handful_of_messages_and_each_can_be_acted_on() {
    let (all, began) = (portals(), SystemClock.boot());
    let mut place = Place::new(all, "[settings]\nrotating = true\nexpires_in = 1800").await;
    let (channel, pager) = (Alerts::start().await, Alerts::start().await);
    let (mail, manager) = (Mail::start("s3cret").await, Manager::start().await);
    secret_file(&place.path("routing-key"), &random_hex(16));
    // Every grant is asked about once in this time.
    let every = (all / 150).max(4);
    place.head = format!("state_dir = \"{}\"\n", place.path("state").display());
    place.extra = format!(
        "[hubspot]\nmax_refreshes_per_second = 500\n[refresh]\nmode = \"on_demand\"\n\
         [validate]\nevery = \"{every}s\"\n\
         [[alert]]\nname = \"channel\"\nkind = \"slack\"\nurl = \"{}\"\n\
         [[alert]]\nname = \"duty\"\nkind = \"pagerduty\"\nurl = \"{}\"\nrouting_key_file = \"{}\"\n\
         [[alert]]\nname = \"manager\"\nkind = \"alertmanager\"\nurl = \"{}\"\n{}",
        channel.url,
        pager.url,
        place.path("routing-key").display(),
        manager.url,
        mail.section("s3cret"),
    );
    let service = place.serve().await;
    service.ready().await;
    let told = Told { place: &place, channel, pager, mail, manager };
    // A grant that is refused before it was ever seen to be good counts as one that never worked.
    comes_about(&service, "each grant is known to be good", async || {
        each_is_asked_about(&place, all)
    })
    .await;
    let mut phases = Vec::new();

    // Half of them, spread over a minute (or less, if there are few).
    let half = all / 2;
    let pause = Duration::from_secs(60).min(Duration::from_millis(40 * half))
        / u32::try_from(half).unwrap();
    for number in 1..=half {
        place.standin.sim.revoke(portal(number * 2));
        tokio::time::sleep(pause).await;
    }
    comes_about(&service, "all of them are known to be revoked", async || {
        revoked(&service).await == half
    })
    .await;
    let grouped = async || {
        let updates = place.alerts.of("grant_revoked", "updated");
        updates.last().is_some_and(|last| last["data"]["portal_count"] == half - 5)
    };
    comes_about(&service, "the group has been told whole", grouped).await;
    phases.push(("half of the customers revoked", told.settled().await));
    let group = place.alerts.of("grant_revoked", "updated").pop().unwrap();
    assert_eq!(group["data"]["severity"], "critical", "{group}");
    assert!(group["data"]["action"].as_str().unwrap().contains("portal list"), "{group}");
    let messages = place.alerts.all().len();
    assert!(messages <= 16, "{messages} messages for {half} customers");
    let within = |phases: &[(&str, [usize; 4])], most: usize| {
        let [.., (_, before), (phase, now)] = phases else { return };
        assert!(now[0] - before[0] <= most, "{phase}: {} messages", now[0] - before[0]);
    };

    let right = place.standin.sim.client_secret();
    let wrong = ClientSecret::parse("somebody-changed-it").unwrap();
    place.standin.sim.set_client_secret(wrong, Duration::ZERO);
    comes_about(&service, "the client secret is found to be wrong", async || {
        opened(&place.alerts, "app_rejected") == 1
    })
    .await;
    phases.push(("the client secret broken", told.settled().await));
    within(&phases, 3);

    let down = http(503);
    place.standin.sim.set_fault(Fault::new(down));
    comes_about(&service, "HubSpot is found to be down", async || {
        opened(&place.alerts, "hubspot_unreachable") == 1
    })
    .await;
    phases.push(("HubSpot down", told.settled().await));
    within(&phases, 2);
    let firing = told.manager.firing().await;
    assert_eq!(
        firing.len(),
        8,
        "five customers, the rest of them, the app and HubSpot: {firing:#?}"
    );

    place.standin.sim.clear_faults();
    place.standin.sim.set_client_secret(right, Duration::ZERO);
    for kind in ["app_rejected", "hubspot_unreachable"] {
        comes_about(&service, kind, async || place.alerts.of(kind, "resolved").len() == 1).await;
    }
    phases.push(("well again", told.settled().await));
    within(&phases, 4);

    can_be_acted_on(&told).await;
    let status = place.run(&["alert", "list", "-o", "json"]).await;
    let listed: Value = serde_json::from_str(&status.out).unwrap();
    assert_eq!(listed["incidents"].as_array().unwrap().len(), 6, "{listed:#}");
    println!("storm drill: {all} portals, {:.0?}", SystemClock.boot().since(began));
    println!("messages so far at: webhook, Slack, PagerDuty, mail");
    for (phase, counts) in phases {
        println!("  {phase}: {counts:?}");
    }
    assert_eq!(service.stop().await, 0);
}

/// In the words of each receiver; and there is one of each cause.
async fn can_be_acted_on(told: &Told<'_>) {
    for (_, body) in told.channel.raw() {
        holds("slack", &serde_json::from_str(&body).unwrap()).await;
    }
    for (_, body) in told.pager.raw() {
        holds("pagerduty", &serde_json::from_str(&body).unwrap()).await;
    }
    let mut causes: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for message in told.place.alerts.all() {
        let data = &message["data"];
        let word = |member: &str| data[member].as_str().unwrap_or_default().to_owned();
        let what_to_do = match &*word("kind") {
            "app_rejected" => "grantkeeper rotate client-secret",
            "grant_revoked" => "grantkeeper enroll",
            _ => "status.hubspot.com",
        };
        assert!(word("action").contains(what_to_do), "{message:#}");
        assert!(word("summary").len() > 40, "{message:#}");
        assert!(data["portal_count"].as_u64() > Some(0), "{message:#}");
        let change = message["type"].as_str().unwrap().rsplit('.').next().unwrap().to_owned();
        causes.entry(word("kind")).or_default().push(change);
    }
    // That nearly everybody is refused in a row may first look like the app's own fault: that is told once, too.
    let known = ["app_rejected", "app_suspect", "grant_revoked", "hubspot_unreachable"];
    assert!(causes.keys().all(|kind| known.contains(&&**kind)), "{causes:?}");
    let others: Vec<_> = causes.keys().filter(|kind| *kind != "grant_revoked").collect();
    for kind in others {
        let changes = &causes[kind];
        assert_eq!(changes.iter().filter(|change| *change == "opened").count(), 1, "{causes:?}");
    }
}
