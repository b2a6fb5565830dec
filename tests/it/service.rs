//! The service as a whole: what happens at HubSpot and in the store, and what apps and people see.

use std::time::Duration;

use grantkeeper::{
    lifecycle::PortalState,
    secret::ClientSecret,
    sim::{Effect, Endpoint, Fault},
    store::{CredentialStore, Expected, Key, Record},
};

use crate::support::{
    service::{Place, eventually, portal},
    sim::http,
};

const ROTATING: &str = "[settings]\nrotating = true\nexpires_in = 1800";
/// Tokens that live so shortly that every portal is refreshed within seconds.
const SHORT: &str = "[settings]\nrotating = true\nexpires_in = 4";

#[tokio::test]
async fn apps_get_tokens_that_hubspot_takes() {
    let place = Place::new(3, ROTATING).await;
    let service = place.serve().await;
    service.ready().await;
    let answer = service.token(2).await.unwrap();
    assert_eq!(answer["portal_id"], 2);
    assert_eq!(answer["token_type"], "bearer");
    assert!(answer["expires_in"].as_u64().unwrap() > 1700);
    let details = reqwest::Client::builder()
        .build()
        .unwrap()
        .get(format!("{}/account-info/2026-03/details", place.standin.url))
        .bearer_auth(answer["access_token"].as_str().unwrap())
        .send()
        .await
        .unwrap();
    assert_eq!(details.status(), 200);
    let details: serde_json::Value = details.json().await.unwrap();
    assert_eq!(details["portalId"], 2);
    assert_eq!(service.stop().await, 0);
}

#[tokio::test]
async fn a_grant_is_validated_by_introspection_before_anything_is_spent() {
    let place = Place::new(4, ROTATING).await;
    let service = place.serve().await;
    service.ready().await;
    for number in 1..=4 {
        let ledger = place.standin.sim.ledger(0, Some(portal(number)));
        assert_eq!(ledger[0].endpoint, Endpoint::Introspect, "{ledger:?}");
        assert_eq!(ledger.iter().filter(|p| p.endpoint == Endpoint::Token).count(), 1);
    }
    drop(service);
}

#[tokio::test]
async fn i3_a_rotated_refresh_token_is_in_the_store_when_its_access_token_is_served() {
    let place = Place::new(5, ROTATING).await;
    let service = place.serve().await;
    for number in 1..=5 {
        service.token(number).await.unwrap();
        let stored = place.file_store().read(Key::Portal(portal(number))).await.unwrap();
        let stored = stored.record.portal().unwrap().refresh_token;
        assert!(place.standin.sim.is_good(&stored), "portal {number}");
    }
    drop(service);
}

#[tokio::test]
async fn i5_a_portal_revoked_at_hubspot_is_one_incident_and_the_others_go_on() {
    let place = Place::new(6, SHORT).await;
    let service = place.serve().await;
    service.ready().await;
    place.standin.sim.uninstall(portal(4));
    let told = place.alerts.wait_for("grant_revoked", "opened").await;
    assert_eq!(told["data"]["portals"], serde_json::json!([4]));
    assert_eq!(told["data"]["portal_count"], 1);
    assert_eq!(service.refusal(4).await, "grant_revoked");
    assert_eq!(service.state(4).await, PortalState::Revoked.as_str());
    for number in [1, 2, 3, 5, 6] {
        service.token(number).await.unwrap();
    }
    // Many refreshes of the others later, it is still the only one.
    let before = place.standin.sim.report().refreshes;
    eventually("the others are refreshed", || async {
        place.standin.sim.report().refreshes > before + 15
    })
    .await;
    assert_eq!(place.alerts.all().len(), 1, "{:?}", place.alerts.all());

    let (_, token) = place.standin.sim.install(Some(portal(4)), None);
    let store = place.file_store();
    let stored = store.read(Key::Portal(portal(4))).await.unwrap();
    let record = stored.record.with_refresh_token(&token);
    store.write(Key::Portal(portal(4)), &record, &Expected::At(stored.version)).await.unwrap();
    service.signal(rustix::process::Signal::HUP);
    place.alerts.wait_for("grant_revoked", "resolved").await;
    service.token(4).await.unwrap();
    drop(service);
}

#[tokio::test]
async fn a_validation_finds_a_revocation_that_no_refresh_would_have_met() {
    let mut place = Place::new(2, ROTATING).await;
    place.extra += "[validate]\nevery = \"2s\"\n";
    let service = place.serve().await;
    service.ready().await;
    let before = place.standin.sim.portal(portal(1)).unwrap().refreshes;
    place.standin.sim.revoke(portal(1));
    place.alerts.wait_for("grant_revoked", "opened").await;
    let after = place.standin.sim.portal(portal(1)).unwrap();
    assert_eq!(after.refreshes, before, "found by introspection, with nothing spent");
    drop(service);
}

#[tokio::test]
async fn i6_a_refused_client_pair_is_one_incident_for_forty_portals_and_recovers_by_itself() {
    let place = Place::new(40, SHORT).await;
    let service = place.serve().await;
    service.ready().await;
    let right = place.standin.sim.client_secret();
    let wrong = ClientSecret::parse("somebody-changed-it").unwrap();
    place.standin.sim.set_client_secret(wrong, Duration::ZERO);
    let told = place.alerts.wait_for("app_rejected", "opened").await;
    assert_eq!(told["data"]["severity"], "critical");
    assert_eq!(told["data"]["portal_count"], 40);
    eventually("tokens run out", || async { service.token(1).await.is_err() }).await;
    assert_eq!(service.refusal(1).await, "app_rejected");
    let status = service.get("/v1/status").await.unwrap();
    assert_eq!(status["app"]["state"], "rejected");
    assert_eq!(status["portals"]["revoked"], serde_json::Value::Null, "{status}");
    assert_eq!(status["incidents"].as_array().unwrap().len(), 1);
    let asked = place.standin.sim.report().refreshes;

    place.standin.sim.set_client_secret(right, Duration::ZERO);
    place.alerts.wait_for("app_rejected", "resolved").await;
    service.ready().await;
    service.token(1).await.unwrap();
    assert_eq!(place.alerts.all().len(), 2, "{:?}", place.alerts.all());
    assert!(asked > 0);
    drop(service);
}

#[tokio::test]
async fn i9_with_good_tokens_in_memory_neither_store_nor_hubspot_is_needed() {
    let place = Place::new(3, ROTATING).await;
    let service = place.serve().await;
    service.ready().await;
    place.standin.sim.set_fault(Fault::new(Effect::ResetBefore));
    std::fs::remove_file(place.path("store.redb")).unwrap();
    for number in 1..=3 {
        service.token(number).await.unwrap();
    }
    drop(service);
}

#[tokio::test]
async fn a_hubspot_outage_is_waited_out_and_ends_by_itself() {
    let place = Place::new(3, SHORT).await;
    place.standin.sim.set_fault(Fault::new(http(503)));
    let service = place.serve().await;
    assert_eq!(service.refusal(1).await, "hubspot_unreachable");
    let ready = service.client.ask(hyper::Method::GET, "/readyz").await.unwrap();
    assert_eq!(ready.status, 503);
    assert!(String::from_utf8_lossy(&ready.body).contains("hubspot_unreachable"));
    place.standin.sim.clear_faults();
    service.ready().await;
    eventually("it is served", || async { service.token(1).await.is_ok() }).await;
    assert!(place.alerts.of("grant_revoked", "opened").is_empty());
    drop(service);
}

#[tokio::test]
async fn records_that_others_add_change_and_delete_are_followed_at_sighup() {
    let place = Place::new(2, ROTATING).await;
    let service = place.serve().await;
    service.ready().await;
    let store = place.file_store();
    let (_, token) = place.standin.sim.install(Some(portal(77)), None);
    let record = Record::default().with_refresh_token(&token);
    store.write(Key::Portal(portal(77)), &record, &Expected::Absent).await.unwrap();
    let gone = store.read(Key::Portal(portal(1))).await.unwrap();
    store.remove(Key::Portal(portal(1)), &gone.version).await.unwrap();
    service.signal(rustix::process::Signal::HUP);
    eventually("the new portal is served", || async { service.token(77).await.is_ok() }).await;
    assert_eq!(service.refusal(1).await, "unknown_portal");
    drop(service);
}

#[tokio::test]
async fn i14_a_bad_configuration_at_sighup_leaves_the_old_one_running_and_says_so() {
    let place = Place::new(1, ROTATING).await;
    let service = place.serve().await;
    service.ready().await;
    std::fs::write(place.path("grantkeeper.toml"), "[refresh]\nmode = \"lazy\"\n").unwrap();
    service.signal(rustix::process::Signal::HUP);
    eventually("it is shown", || async {
        let ready = service.client.ask(hyper::Method::GET, "/readyz?verbose").await.unwrap();
        ready.status == 200
            && String::from_utf8_lossy(&ready.body).contains("the last reload was refused")
    })
    .await;
    service.token(1).await.unwrap();
    let log = service.log();
    assert!(log.contains("refresh.mode is not a value this key takes"), "{log}");
    place.config();
    service.signal(rustix::process::Signal::HUP);
    eventually("it is withdrawn", || async {
        let ready = service.client.ask(hyper::Method::GET, "/readyz?verbose").await.unwrap();
        !String::from_utf8_lossy(&ready.body).contains("refused")
    })
    .await;
    drop(service);
}

#[tokio::test]
async fn i14_a_stop_finishes_a_refresh_in_flight_and_stores_what_it_brought() {
    let place = Place::new(1, ROTATING).await;
    place.standin.sim.set_fault(Fault::new(Effect::Late(1500)).on(Endpoint::Token));
    let service = place.serve().await;
    eventually("the refresh is in flight", || async {
        place.standin.sim.portal(portal(1)).unwrap().in_flight == 1
    })
    .await;
    assert_eq!(service.stop().await, 0);
    let stored = place.file_store().read(Key::Portal(portal(1))).await.unwrap();
    let token = stored.record.portal().unwrap().refresh_token;
    assert!(place.standin.sim.is_good(&token), "the rotated token was stored before the end");
    assert!(!place.socket().exists(), "the socket goes with the service");
}

#[tokio::test]
async fn alerts_are_signed_cloud_events_that_the_standard_library_accepts() {
    let place = Place::new(2, SHORT).await;
    let service = place.serve().await;
    service.ready().await;
    place.standin.sim.revoke(portal(1));
    place.alerts.wait_for("grant_revoked", "opened").await;
    let (headers, body) = place.alerts.raw().remove(0);
    let verifier =
        standardwebhooks::Webhook::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
    verifier.verify(body.as_bytes(), &headers).unwrap();
    assert_eq!(headers["content-type"], "application/cloudevents+json");
    drop(service);
}

/// User and system time of the service so far.
fn cpu(service: &crate::support::service::Service) -> Duration {
    let stat =
        std::fs::read_to_string(format!("/proc/{}/stat", service.child.id().unwrap())).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

#[tokio::test]
async fn a_caller_who_waits_costs_no_processor_time() {
    let place = Place::new(1, ROTATING).await;
    place.standin.sim.set_fault(Fault::new(Effect::Late(4_000)).on(Endpoint::Token));
    let service = place.serve().await;
    let before = cpu(&service);
    service.token(1).await.unwrap();
    let spent = cpu(&service).saturating_sub(before);
    assert!(spent < Duration::from_millis(500), "{spent:?} while waiting four seconds");
}

#[tokio::test]
async fn i7_portals_that_fail_do_not_starve_those_that_do_not() {
    let mut place = Place::new(30, "[settings]\nrotating = true\nexpires_in = 6").await;
    place.extra = "[hubspot]\nmax_refreshes_per_second = 8\n".to_owned();
    let failing = http(500);
    for number in 1..=15 {
        let fault = Fault::new(failing).on(Endpoint::Token).of(portal(number));
        place.standin.sim.set_fault(fault);
    }
    let service = place.serve().await;
    eventually("the healthy ones have been refreshed four times each", || async {
        (16..=30).all(|number| place.standin.sim.portal(portal(number)).unwrap().refreshes >= 4)
    })
    .await;
    for number in 16..=30 {
        let answer = service.token(number).await.unwrap();
        assert!(answer["short_lived"].is_null(), "portal {number}: {answer}");
    }
    assert!(place.alerts.of("grant_revoked", "opened").is_empty());
}

#[tokio::test]
async fn i3_a_record_that_is_spoilt_and_mended_costs_no_rotated_grant() {
    let place = Place::new(1, ROTATING).await;
    place.standin.sim.set_fault(Fault::new(Effect::Late(2_000)).on(Endpoint::Token).times(1));
    let store = place.file_store();
    let good = store.read(Key::Portal(portal(1))).await.unwrap();
    let service = place.serve().await;
    eventually("the refresh is in flight", || async {
        place.standin.sim.portal(portal(1)).unwrap().in_flight == 1
    })
    .await;
    let junk = Record::default().with_member("note", serde_json::json!("oops"));
    let junk =
        store.write(Key::Portal(portal(1)), &junk, &Expected::At(good.version)).await.unwrap();
    place.alerts.wait_for("grant_mismatched", "opened").await;
    service.token(1).await.unwrap();
    store.write(Key::Portal(portal(1)), &good.record, &Expected::At(junk)).await.unwrap();
    eventually("the newest grant is in the store", || async {
        let stored = store.read(Key::Portal(portal(1))).await.unwrap();
        let token = stored.record.portal().unwrap().refresh_token;
        place.standin.sim.is_good(&token)
    })
    .await;
    assert!(place.alerts.of("grant_revoked", "opened").is_empty());
}

#[tokio::test]
async fn a_wrong_client_id_in_the_record_does_not_take_a_good_pair_s_place() {
    let place = Place::new(1, SHORT).await;
    let service = place.serve().await;
    service.ready().await;
    let store = place.file_store();
    let stored = store.read(Key::App).await.unwrap();
    let other = grantkeeper::portal::ClientId::parse("another-app").unwrap();
    let wrong = stored.record.with_client(&other, &place.standin.sim.client_secret());
    store.write(Key::App, &wrong, &Expected::At(stored.version)).await.unwrap();
    service.signal(rustix::process::Signal::HUP);
    let before = place.standin.sim.report().refreshes;
    eventually("refreshing goes on", || async {
        place.standin.sim.report().refreshes > before + 4
    })
    .await;
    assert!(place.alerts.all().is_empty(), "{:?}", place.alerts.all());
}

#[tokio::test]
async fn i14_told_to_stop_while_starting_it_stops_and_told_twice_at_once() {
    let place = Place::new(1, ROTATING).await;
    place.standin.sim.set_fault(Fault::new(Effect::HangBefore));
    let mut service = place.spawn();
    eventually("it has asked HubSpot", || async { service.log().contains("records loaded") }).await;
    service.signal(rustix::process::Signal::TERM);
    assert_eq!(service.ended().await, 0);
}
