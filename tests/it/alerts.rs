//! Who is told what and when, across kills, stops and reloads; and what an operator does about it.

use std::{collections::BTreeSet, fs, path::PathBuf, time::Duration};

use grantkeeper::{
    secret::ClientSecret,
    store::{CredentialStore, Expected, Key},
};
use reqwest::Method;
use rustix::process::Signal;
use serde_json::Value;

use crate::support::{
    answerer::{Answerer, Greeting},
    openbao::OpenBao,
    program::free_port_pair,
    service::{Alerts, Place, Service, eventually, portal, secret_file},
};

const ROTATING: &str = "[settings]\nrotating = true\nexpires_in = 1800";
/// Grants are asked about so often that what ends shows at once.
const LOOK_OFTEN: &str = "[validate]\nevery = \"2s\"\n";

/// A place with a journal, whose grants are looked at all the time.
async fn place(portals: u64) -> Place {
    let mut place = Place::new(portals, ROTATING).await;
    place.head = format!("state_dir = \"{}\"\n", place.path("state").display());
    place.extra += LOOK_OFTEN;
    place
}

/// Another receiver, whose address stands in a file.
fn second(place: &mut Place, url: &str) -> PathBuf {
    let file = place.path("second-url");
    secret_file(&file, url);
    place.extra += &format!(
        "[[alert]]\nname = \"second\"\nkind = \"webhook\"\nurl_file = \"{}\"\n",
        file.display()
    );
    file
}

/// The customer connects again, and somebody stores the new grant.
async fn reconnect(place: &Place, number: u64) {
    let (_, token) = place.standin.sim.install(Some(portal(number)), None);
    let (store, key) = (place.file_store(), Key::Portal(portal(number)));
    let stored = store.read(key).await.unwrap();
    let record = stored.record.with_refresh_token(&token);
    store.write(key, &record, &Expected::At(stored.version)).await.unwrap();
}

async fn kill(mut service: Service) {
    service.signal(Signal::KILL);
    service.ended().await;
}

/// What was told, once for each key: a kill may come before it was noted that a receiver has something.
fn keys(alerts: &Alerts) -> BTreeSet<String> {
    let key = |headers: &hyper::HeaderMap| headers["webhook-id"].to_str().unwrap().to_owned();
    alerts.raw().iter().map(|(headers, _)| key(headers)).collect()
}

/// Everything one receiver was told of one kind.
fn changes(alerts: &Alerts, kind: &str) -> Vec<String> {
    let all = alerts.all().into_iter().filter(|told| told["data"]["kind"] == kind);
    let word = |told: Value| told["type"].as_str().unwrap().rsplit('.').next().unwrap().to_owned();
    let mut words: Vec<_> = all.map(word).collect();
    words.dedup();
    words
}

#[tokio::test]
async fn i12_an_alert_outlives_kill_9_until_its_receiver_has_it_and_nobody_hears_it_twice() {
    let mut place = place(3).await;
    let late = Alerts::start().await;
    let file = second(&mut place, &format!("http://127.0.0.1:{}/", free_port_pair()));
    let service = place.serve().await;
    service.ready().await;
    place.standin.sim.revoke(portal(1));
    place.alerts.wait_for("grant_revoked", "opened").await;
    eventually("the second receiver is found to be away", async || {
        let status = service.get("/v1/status").await.unwrap();
        let receivers = status["receivers"].as_array().unwrap().clone();
        receivers.iter().any(|one| one["name"] == "second" && one["failures"].as_u64() > Some(0))
    })
    .await;
    let status = place.run(&["status"]).await;
    assert!(status.out.contains("alerts to second don't arrive"), "{}", status.out);
    kill(service).await;

    secret_file(&file, &late.url);
    let service = place.serve().await;
    late.wait_for("grant_revoked", "opened").await;
    service.ready().await;
    eventually("the grant is looked at again", async || service.refusal_of(1).await).await;
    assert_eq!(keys(&late), keys(&place.alerts), "one key, and told once to each");
    assert_eq!(service.stop().await, 0);

    reconnect(&place, 1).await;
    let service = place.serve().await;
    for alerts in [&place.alerts, &late] {
        alerts.wait_for("grant_revoked", "resolved").await;
        assert_eq!(changes(alerts, "grant_revoked"), ["opened", "resolved"]);
    }
    assert_eq!(keys(&late), keys(&place.alerts));
    kill(service).await;

    let service = place.serve().await;
    service.ready().await;
    service.token(1).await.unwrap();
    assert_eq!(service.stop().await, 0);
    for alerts in [&place.alerts, &late] {
        assert_eq!(keys(alerts).len(), 2, "what is over is not told anew: {:?}", alerts.all());
    }
}

#[tokio::test]
async fn i12_what_mends_itself_while_nothing_runs_is_told_to_be_over() {
    let mut place = place(3).await;
    place.extra =
        place.extra.replace(LOOK_OFTEN, "[validate]\nevery = \"2s\"\non_start = \"warn\"\n");
    let service = place.serve().await;
    service.ready().await;
    let right = place.standin.sim.client_secret();
    let wrong = ClientSecret::parse("somebody-changed-it").unwrap();
    place.standin.sim.set_client_secret(wrong, Duration::ZERO);
    place.standin.sim.revoke(portal(2));
    let opened = place.alerts.wait_for("app_rejected", "opened").await;
    kill(service).await;

    // It still is so: nobody is told again.
    let service = place.serve().await;
    eventually("the app is known to be rejected", async || {
        service.get("/v1/status").await.unwrap()["app"]["state"] == "rejected"
    })
    .await;
    assert_eq!(changes(&place.alerts, "app_rejected"), ["opened"]);
    kill(service).await;

    place.standin.sim.set_client_secret(right, Duration::ZERO);
    let service = place.serve().await;
    let resolved = place.alerts.wait_for("app_rejected", "resolved").await;
    assert_eq!(resolved["data"]["incident_id"], opened["data"]["incident_id"]);
    place.alerts.wait_for("grant_revoked", "opened").await;
    kill(service).await;

    // The customer is let go of while nothing runs.
    let (store, key) = (place.file_store(), Key::Portal(portal(2)));
    let version = store.read(key).await.unwrap().version;
    store.remove(key, &version).await.unwrap();
    drop(store);
    let service = place.serve().await;
    place.alerts.wait_for("grant_revoked", "resolved").await;
    assert_eq!(service.get("/v1/status").await.unwrap()["incidents"], serde_json::json!([]));
    assert_eq!(keys(&place.alerts).len(), 4, "{:?}", place.alerts.all());
    assert_eq!(service.stop().await, 0);
}

#[tokio::test]
async fn a_receiver_that_hangs_holds_up_neither_the_others_nor_the_end() {
    let mut place = place(2).await;
    let hanging = Answerer::start(Greeting::Silence, Vec::new()).await;
    second(&mut place, &format!("http://{}/", hanging.authority));
    let service = place.serve().await;
    service.ready().await;
    place.standin.sim.revoke(portal(1));
    place.alerts.wait_for("grant_revoked", "opened").await;
    reconnect(&place, 1).await;
    service.signal(Signal::HUP);
    place.alerts.wait_for("grant_revoked", "resolved").await;
    assert_eq!(service.stop().await, 0);
    let log = fs::read_to_string(place.path("service.log")).unwrap();
    assert!(!log.contains("not everything was finished"), "{log}");
}

#[tokio::test]
async fn a_receiver_that_is_new_learns_what_is_open_and_one_that_is_gone_hears_nothing_more() {
    let mut place = place(2).await;
    place.extra += "[hardening]\nlandlock = \"off\"\n";
    let service = place.serve().await;
    service.ready().await;
    place.standin.sim.revoke(portal(1));
    let opened = place.alerts.wait_for("grant_revoked", "opened").await;
    let new = Alerts::start().await;
    second(&mut place, &new.url);
    let text = place.config_text();
    let (before, _) = text.split_once("[[alert]]\nname = \"pager\"").unwrap();
    fs::write(place.path("grantkeeper.toml"), before).unwrap();
    service.signal(Signal::HUP);
    let learned = new.wait_for("grant_revoked", "opened").await;
    assert_eq!(learned["data"]["incident_id"], opened["data"]["incident_id"]);
    reconnect(&place, 1).await;
    service.signal(Signal::HUP);
    new.wait_for("grant_revoked", "resolved").await;
    assert_eq!(changes(&place.alerts, "grant_revoked"), ["opened"]);
    assert_eq!(service.stop().await, 0);
}

#[tokio::test]
async fn who_takes_an_incident_on_is_named_to_everybody_and_stays_named_after_a_restart() {
    let place = place(2).await;
    let service = place.serve().await;
    service.ready().await;
    let nothing = place.run(&["alert", "list"]).await;
    assert!(
        nothing.out.contains("nothing is open") && nothing.out.contains("pager"),
        "{}",
        nothing.out
    );
    place.standin.sim.revoke(portal(1));
    let opened = place.alerts.wait_for("grant_revoked", "opened").await;
    let id = opened["data"]["incident_id"].as_str().unwrap().to_owned();
    let listed = place.run(&["alert", "list"]).await;
    assert!(listed.out.contains(&id) && listed.out.contains("to do:"), "{}", listed.out);

    let unknown = place.run(&["alert", "ack", "no-such-incident"]).await;
    assert_eq!(unknown.code, 3, "{}", unknown.err);
    assert!(unknown.err.contains("alert list"), "{}", unknown.err);
    assert_eq!(place.run(&["alert", "ack"]).await.code, 2, "which one has to be said");
    let done = place.run(&["alert", "ack", &id]).await;
    assert_eq!((done.code, done.out.trim()), (0, &*format!("acknowledged: {id}")), "{}", done.err);
    let again = place.run(&["alert", "ack", "--all"]).await;
    assert_eq!(again.code, 0, "{}", again.err);
    let told = place.alerts.wait_for("grant_revoked", "updated").await;
    let uid = rustix::process::geteuid().as_raw();
    assert_eq!(told["data"]["acknowledged"]["uid"], uid);
    kill(service).await;

    let service = place.serve().await;
    let listed = place.run(&["alert", "list", "--output", "json"]).await;
    let listed: Value = serde_json::from_str(&listed.out).unwrap();
    assert_eq!(listed["incidents"][0]["acknowledged"]["uid"], uid, "{listed:#}");
    assert_eq!(changes(&place.alerts, "grant_revoked"), ["opened", "updated"], "told once");
    assert_eq!(service.stop().await, 0);
    let away = place.run(&["alert", "list"]).await;
    assert_eq!(away.code, 69, "{}", away.err);
}

#[tokio::test]
async fn a_receiver_at_a_port_that_was_given_up_at_the_start_is_told_to_need_a_restart() {
    let mut place = place(1).await;
    let service = place.serve().await;
    service.signal(Signal::HUP);
    eventually("it is read", async || service.log().contains("configuration read again")).await;
    eventually("records too", async || service.log().contains("records read again")).await;
    assert!(!service.log().contains("gave up at its start"), "{}", service.log());
    let port = free_port_pair();
    second(&mut place, &format!("http://127.0.0.1:{port}/"));
    place.config();
    service.signal(Signal::HUP);
    eventually("it is told", async || {
        service.log().contains(&format!("TCP port {port}")) && service.log().contains("restart")
    })
    .await;
    let status = place.run(&["status"]).await;
    assert!(status.out.contains("restart"), "{}", status.out);
    assert_eq!(service.stop().await, 0);
}

#[tokio::test]
async fn i6_a_restart_with_customers_who_left_before_is_no_suspicion_of_the_app() {
    let place = place(12).await;
    let service = place.serve().await;
    service.ready().await;
    for number in 1..=4 {
        place.standin.sim.uninstall(portal(number));
        eventually("it is known", async || service.refusal_of(number).await).await;
    }
    assert_eq!(service.stop().await, 0);
    let before = place.alerts.of("app_suspect", "opened").len();
    for _ in 0..2 {
        let service = place.serve().await;
        service.ready().await;
        for number in 1..=4 {
            eventually("it is known again", async || service.refusal_of(number).await).await;
        }
        assert_eq!(service.stop().await, 0);
    }
    assert_eq!(place.alerts.of("app_suspect", "opened").len(), before, "{:?}", place.alerts.all());
    assert_eq!(changes(&place.alerts, "grant_revoked"), ["opened"], "four, and each once");
}

#[tokio::test]
async fn i6_while_the_app_is_suspected_a_customer_who_connects_again_is_taken_in() {
    let place = place(6).await;
    let service = place.serve().await;
    service.ready().await;
    for number in 1..=6 {
        place.standin.sim.uninstall(portal(number));
    }
    place.alerts.wait_for("app_suspect", "opened").await;
    let (_, token) = place.standin.sim.install(Some(portal(3)), None);
    let ended = place.run_with(&["enroll", "--refresh-token-file", "-"], token.expose()).await;
    assert_eq!(ended.code, 0, "{}", ended.err);
    let stored = place.file_store().read(Key::Portal(portal(3))).await.unwrap();
    assert!(place.standin.sim.is_good(&stored.record.portal().unwrap().refresh_token));
    for number in [1, 2, 4, 5, 6] {
        assert_ne!(
            service.state(number).await,
            "revoked",
            "one good grant is no proof against the others"
        );
    }
    assert_eq!(service.stop().await, 0);
}

/// The store is back before the process is: that is found out before anything that was open is taken up.
#[tokio::test]
async fn i12_an_outage_of_the_store_that_is_over_at_the_next_start_is_told_to_be_over_and_once() {
    let mut place = place(2).await;
    let bao = OpenBao::start().await;
    let (_, store) = place.move_to_openbao(&bao).await;
    let service = place.serve().await;
    service.ready().await;
    assert_eq!(bao.api(Method::PUT, "sys/seal", None).await.0, 204);
    let opened = place.alerts.wait_for("store_unreachable", "opened").await;
    kill(service).await;
    bao.unseal().await;
    eventually("the store is there", async || store.read(Key::App).await.is_ok()).await;

    let service = place.serve().await;
    let resolved = place.alerts.wait_for("store_unreachable", "resolved").await;
    assert_eq!(resolved["data"]["incident_id"], opened["data"]["incident_id"]);
    service.ready().await;
    // A later notice has passed every receiver by then.
    place.standin.sim.revoke(portal(1));
    place.alerts.wait_for("grant_revoked", "opened").await;
    assert_eq!(changes(&place.alerts, "store_unreachable"), ["opened", "resolved"]);
    assert_eq!(keys(&place.alerts).len(), 3, "{:?}", place.alerts.all());
    assert_eq!(service.stop().await, 0);
}

/// Where nothing is kept warm, no refresh shows that a grant is good again: the question does.
#[tokio::test]
async fn i12_a_record_that_is_mended_while_nothing_runs_is_told_to_be_well_though_nobody_wants_its_token()
 {
    let mut place = place(2).await;
    place.extra += "[refresh]\nmode = \"on_demand\"\n";
    place.standin.sim.revoke(portal(1));
    let service = place.serve().await;
    let opened = place.alerts.wait_for("grant_mismatched", "opened").await;
    assert!(opened["data"]["summary"].as_str().unwrap().contains("never_worked"), "{opened}");
    kill(service).await;
    reconnect(&place, 1).await;
    let service = place.serve().await;
    place.alerts.wait_for("grant_mismatched", "resolved").await;
    assert_eq!(service.stop().await, 0);
}

/// Whom a reload lets hear of milder things learns of those that are open.
#[tokio::test]
async fn a_receiver_that_wants_to_hear_of_milder_things_by_a_reload_hears_of_what_is_open() {
    let mut place = place(2).await;
    let late = Alerts::start().await;
    second(&mut place, &late.url);
    place.extra += "min_severity = \"critical\"\n";
    let service = place.serve().await;
    service.ready().await;
    place.standin.sim.revoke(portal(1));
    place.alerts.wait_for("grant_revoked", "opened").await;
    let file = place.path("grantkeeper.toml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("min_severity = \"critical\"", "min_severity = \"info\""))
        .unwrap();
    service.signal(Signal::HUP);
    late.wait_for("grant_revoked", "opened").await;
    assert_eq!(place.alerts.of("grant_revoked", "opened").len(), 1, "the other has heard of it");
    assert_eq!(service.stop().await, 0);
}
