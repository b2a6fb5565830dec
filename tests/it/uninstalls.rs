//! Uninstalls, told by the webhooks journal: the real service against the stand-in. What the journal says is never
//! believed; it only has HubSpot asked.

use std::{sync::Arc, time::Duration};

use grantkeeper::{
    hubspot::{
        HubSpot, Settings,
        webhooks_journal::{Place as At, Trouble},
    },
    sim::{Action, Effect, Endpoint, Fault, HttpFault},
    store::{CredentialStore, Expected, Key},
    time::{Clock, SystemClock},
};
use hyper::Method;
use rustix::process::Signal;

use crate::{
    hubspot_replies::pair,
    support::{
        answerer::{Act, Answerer, Greeting},
        service::{Place, Service, eventually, portal},
    },
};

const UNINSTALLED: Action = Action::AppUninstall;

/// A place whose service reads the journal each second.
async fn watching(portals: u64, scenario: &str) -> Place {
    let mut place = Place::new(portals, scenario).await;
    place.head = format!("state_dir = \"{}\"\n", place.path("state").display());
    place.extra += "poll_uninstalls = \"1s\"\n";
    place
}

/// What a counter has come to.
async fn counted(service: &Service, metric: &str, outcome: &str) -> u64 {
    let reply = service.client.ask(Method::GET, "/metrics").await.unwrap();
    let text = String::from_utf8(reply.body.to_vec()).unwrap();
    let name = format!("grantkeeper_{metric}_total{{outcome=\"{outcome}\"}} ");
    let line = text.lines().find_map(|line| line.strip_prefix(&name));
    line.map_or(0, |count| count.parse().unwrap())
}

async fn asked(service: &Service) -> u64 {
    counted(service, "uninstall_events", "asked").await
}

/// Waits until the journal was read to its end this many times more.
async fn polls(service: &Service, more: u64) {
    let polled = async || counted(service, "webhooks_journal_reads", "nothing").await;
    let before = polled().await;
    eventually("the journal is read", || async { polled().await >= before + more }).await;
}

/// How often HubSpot was asked about a portal's grant.
fn introspected(place: &Place, number: u64) -> usize {
    let all = place.standin.sim.ledger(0, Some(portal(number)));
    all.iter().filter(|presented| presented.endpoint == Endpoint::Introspect).count()
}

/// A service that has read the journal to its end, and has nothing more to ask.
async fn settled(place: &Place) -> Service {
    let service = place.serve().await;
    service.ready().await;
    calm(place, &service).await;
    service
}

async fn calm(place: &Place, service: &Service) {
    let total = || place.standin.sim.ledger(0, None).len();
    loop {
        let before = total();
        polls(service, 2).await;
        if total() == before {
            return;
        }
    }
}

async fn remarks(service: &Service) -> String {
    service.get("/v1/status").await.unwrap()["remarks"].to_string()
}

#[tokio::test]
async fn i5_an_uninstall_is_known_long_before_a_refresh_and_believed_once_hubspot_says_so() {
    let place = watching(3, "").await;
    let service = settled(&place).await;
    let last = place.standin.sim.ledger(0, None).last().unwrap().seq;
    place.standin.sim.uninstall(portal(2));
    let opened = place.alerts.wait_for("grant_revoked", "opened").await;
    assert_eq!(opened["data"]["portals"], serde_json::json!([2]), "{opened}");
    assert!(service.refusal_of(2).await);
    // What happened to it after it was given its token: the question came first, a quarter of an hour before a refresh.
    let seen = place.standin.sim.ledger(0, Some(portal(2)));
    let first = seen.iter().find(|seen| seen.seq > last).unwrap();
    assert_eq!(first.endpoint, Endpoint::Introspect, "{seen:#?}");
    assert_eq!(asked(&service).await, 1);
    for number in [1, 3] {
        assert_eq!(service.state(number).await, "live");
    }
    calm(&place, &service).await;
    assert_eq!(place.alerts.of("grant_revoked", "opened").len(), 1);
    assert_eq!(place.alerts.all().len(), 1, "{:#?}", place.alerts.all());
    // Told once more, it is known.
    place.standin.sim.tell(UNINSTALLED, portal(2));
    let known = async || counted(&service, "uninstall_events", "ended").await == 1;
    eventually("what has ended is known", known).await;
    assert_eq!(asked(&service).await, 1);
}

#[tokio::test]
async fn i5_an_event_about_a_good_grant_costs_one_question_and_changes_nothing() {
    let place = watching(2, "").await;
    let service = settled(&place).await;
    let (before, token) = (introspected(&place, 1), service.token(1).await.unwrap());
    place.standin.sim.tell(UNINSTALLED, portal(1));
    place.standin.sim.tell(UNINSTALLED, portal(4711));
    place.standin.sim.tell(Action::AppInstall, portal(2));
    eventually("it is asked about", || async { asked(&service).await == 1 }).await;
    calm(&place, &service).await;
    assert_eq!(introspected(&place, 1), before + 1);
    assert_eq!(service.token(1).await.unwrap()["access_token"], token["access_token"]);
    assert_eq!((service.state(1).await, service.state(2).await), ("live".into(), "live".into()));
    assert_eq!(counted(&service, "uninstall_events", "unknown_portal").await, 1);
    assert!(place.alerts.all().is_empty(), "{:#?}", place.alerts.all());
}

#[tokio::test]
async fn a_customer_who_comes_back_is_served_as_soon_as_the_journal_says_so() {
    let place = watching(2, "").await;
    let service = settled(&place).await;
    place.standin.sim.uninstall(portal(2));
    place.alerts.wait_for("grant_revoked", "opened").await;
    // Another program exchanged the code, and stored the grant.
    let (id, token) = place.standin.sim.install(Some(portal(2)), None);
    let (store, key) = (place.file_store(), Key::Portal(id));
    let found = store.read(key).await.unwrap();
    let record = found.record.with_refresh_token(&token);
    store.write(key, &record, &Expected::At(found.version)).await.unwrap();
    place.standin.sim.tell(Action::AppInstall, id);
    place.alerts.wait_for("grant_revoked", "resolved").await;
    eventually("it is served", || async { service.token(2).await.is_ok() }).await;
}

#[tokio::test]
async fn a_paused_portal_is_not_asked_about_whatever_is_said_of_it() {
    let place = watching(2, "").await;
    let service = settled(&place).await;
    assert_eq!(place.run(&["portal", "pause", "1"]).await.code, 0);
    let before = introspected(&place, 1);
    place.standin.sim.uninstall(portal(1));
    let paused = async || counted(&service, "uninstall_events", "paused").await == 1;
    eventually("it is noted", paused).await;
    calm(&place, &service).await;
    assert_eq!((introspected(&place, 1), service.state(1).await), (before, "paused".to_owned()));
    // Once it goes on, it finds out.
    assert_eq!(place.run(&["portal", "resume", "1"]).await.code, 0);
    place.alerts.wait_for("grant_revoked", "opened").await;
}

#[tokio::test]
async fn a_restart_reads_on_where_it_was_and_works_nothing_twice() {
    let place = watching(3, "").await;
    let mut service = settled(&place).await;
    place.standin.sim.tell(UNINSTALLED, portal(1));
    eventually("it is asked about", || async { asked(&service).await == 1 }).await;
    calm(&place, &service).await;
    service.signal(Signal::KILL);
    service.ended().await;
    place.standin.sim.tell(UNINSTALLED, portal(2));
    let service = settled(&place).await;
    eventually("what came meanwhile is read", || async { asked(&service).await == 1 }).await;
    calm(&place, &service).await;
    assert_eq!(asked(&service).await, 1, "and nothing else");
    let log = service.log();
    assert!(!log.contains("from now on; every grant"), "it does not begin anew: {log}");
    assert!(log.contains("the app was taken out") && log.contains("portal=2"), "{log}");
    assert_eq!(service.stop().await, 0);
}

#[tokio::test]
async fn where_the_place_is_gone_everybody_is_asked_about_and_that_is_said() {
    let place = watching(4, "seed = 7").await;
    let service = settled(&place).await;
    place.standin.sim.tell(UNINSTALLED, portal(1));
    eventually("it is asked about", || async { asked(&service).await == 1 }).await;
    calm(&place, &service).await;
    // Its tokens stay as they are, its journal is another one: nobody is subscribed, and no place is known.
    place.standin.sim.reset();
    let all = async || (1..=4).all(|number| introspected(&place, number) >= 1);
    eventually("everybody is asked about", all).await;
    assert!(service.log().contains("what it told since is lost"), "{}", service.log());
    calm(&place, &service).await;
    place.standin.sim.uninstall(portal(3));
    place.alerts.wait_for("grant_revoked", "opened").await;
    assert_eq!(service.state(1).await, "live");
}

#[tokio::test]
async fn whatever_goes_wrong_with_the_journal_disturbs_nothing_else_and_passes() {
    let place = watching(2, "").await;
    let service = settled(&place).await;
    let http = |status| Effect::Http(HttpFault { status, retry_after: Some(1) });
    let (mut told, token) = (0, service.token(1).await.unwrap());
    for (endpoint, effect) in [
        (Endpoint::Journal, http(500)),
        (Endpoint::Journal, http(429)),
        (Endpoint::Journal, http(401)),
        (Endpoint::Journal, http(403)),
        (Endpoint::Journal, Effect::ResetAfter),
        (Endpoint::Journal, Effect::Truncated),
        (Endpoint::JournalFile, http(503)),
        (Endpoint::JournalFile, http(403)),
        (Endpoint::JournalFile, Effect::Truncated),
        (Endpoint::JournalFile, Effect::Cut),
        (Endpoint::JournalFile, Effect::HangBefore),
    ] {
        place.standin.sim.set_fault(Fault::new(effect).on(endpoint).times(1));
        place.standin.sim.tell(UNINSTALLED, portal(1));
        told += 1;
        let asked = || async { asked(&service).await == told };
        eventually(&format!("{endpoint:?}, {effect:?}: it is read in the end"), asked).await;
        let still = service.token(1).await.unwrap();
        assert_eq!(still["access_token"], token["access_token"], "{endpoint:?}, {effect:?}");
    }
    let status = service.get("/v1/status").await.unwrap();
    assert_eq!((&status["ready"], &status["hubspot"]["ok"]), (&true.into(), &true.into()));
    assert_eq!(status["app"]["state"], "ok", "{status}");
    assert!(place.alerts.all().is_empty(), "{:#?}", place.alerts.all());
}

#[tokio::test]
async fn a_file_that_stays_unreadable_is_passed_over_and_everybody_asked_about_instead() {
    let place = watching(3, "[settings]\njournal_url_expires_in = 0\n").await;
    let service = settled(&place).await;
    let before: Vec<_> = (1..=3).map(|number| introspected(&place, number)).collect();
    // With one failure before them, the tries at the file are trouble enough to be told of.
    let failure = Effect::Http(HttpFault { status: 500, retry_after: None });
    place.standin.sim.set_fault(Fault::new(failure).on(Endpoint::Journal).times(1));
    place.standin.sim.tell(UNINSTALLED, portal(1));
    let all =
        async || (1..=3).all(|n| introspected(&place, n) > before[usize::try_from(n).unwrap() - 1]);
    eventually("everybody is asked about", all).await;
    assert!(service.log().contains("is passed over"), "{}", service.log());
    place.standin.sim.configure(|settings| settings.journal_url_expires_in = 60);
    place.standin.sim.tell(UNINSTALLED, portal(2));
    eventually("and reading goes on", || async { asked(&service).await == 1 }).await;
    assert!(service.log().contains("can't be read at present"), "{}", service.log());
    assert!(!remarks(&service).await.contains("can't be read"), "that is over");
}

#[tokio::test]
async fn an_app_without_the_scopes_is_told_what_to_do_once_and_serves_as_before() {
    let place = watching(2, "[settings]\napp_scopes = [\"developer.other\"]\n").await;
    let service = place.serve().await;
    service.ready().await;
    let told = async || remarks(&service).await.contains("developer.webhooks_journal.read");
    eventually("it is told", told).await;
    let refused = async || counted(&service, "webhooks_journal_reads", "not_entitled").await;
    eventually("it is tried again", || async { refused().await >= 2 }).await;
    assert_eq!(service.log().matches("does not let the app read").count(), 1, "{}", service.log());
    service.token(1).await.unwrap();
    let status = service.get("/v1/status").await.unwrap();
    assert_eq!((&status["ready"], &status["app"]["state"]), (&true.into(), &"ok".into()));
    assert!(place.alerts.all().is_empty(), "{:#?}", place.alerts.all());
    place.standin.sim.configure(|settings| settings.app_scopes = None);
    eventually("it is over", || async { !told().await }).await;
    place.standin.sim.uninstall(portal(2));
    place.alerts.wait_for("grant_revoked", "opened").await;
}

#[tokio::test]
async fn i6_while_the_client_pair_is_refused_the_journal_is_left_alone() {
    let mut place = watching(2, "").await;
    place.extra += "[refresh]\nmode = \"on_demand\"\n";
    let service = settled(&place).await;
    // Does no harm, and counts.
    place.standin.sim.set_fault(Fault::new(Effect::Late(0)).on(Endpoint::Journal));
    let read = || place.standin.sim.report().faults[0].met;
    eventually("it is read", || async { read() > 0 }).await;
    let good = place.standin.sim.client_secret();
    drop(place.standin.sim.rotate_client_secret(Duration::ZERO));
    // Somebody's wish for a token finds out.
    service.token(1).await.unwrap_err();
    place.alerts.wait_for("app_rejected", "opened").await;
    let probes = || place.standin.sim.ledger(0, None).len();
    let (before, probed) = (read(), probes());
    eventually("HubSpot is probed", || async { probes() > probed }).await;
    assert!(read() <= before + 1, "one may have been on its way");
    place.standin.sim.set_client_secret(good, Duration::ZERO);
    place.alerts.wait_for("app_rejected", "resolved").await;
    eventually("it is read again", || async { read() > before + 1 }).await;
    service.token(2).await.unwrap();
}

#[tokio::test]
async fn i7_i8_ten_thousand_events_are_a_question_a_portal_and_nobody_waits_for_them() {
    let mut place = watching(20, "[settings]\njournal_batch = 1000\n").await;
    place.extra = place.extra.replace("= 200", "= 5") + "[refresh]\nmode = \"on_demand\"\n";
    let service = settled(&place).await;
    let introspections = || (1..=20).map(|number| introspected(&place, number)).sum::<usize>();
    let before = introspections();
    for number in 0..10_000 {
        place.standin.sim.tell(UNINSTALLED, portal(number % 20 + 1));
    }
    eventually("they are read", || async { asked(&service).await >= 20 }).await;
    service.token(7).await.unwrap();
    assert!(introspections() < before + 20, "whoever waits comes before the questions");
    eventually("all are asked about", || async { introspections() >= before + 20 }).await;
    calm(&place, &service).await;
    // They may have been read in two goes while they were still being told.
    assert!(introspections() <= before + 60, "{} questions", introspections() - before);
    assert!(place.standin.sim.report().worst_second <= 7);
    assert!(place.alerts.all().is_empty(), "{:#?}", place.alerts.all());
}

// The client alone, towards answers that no stand-in would give.

fn said(status: &str, body: &str) -> Act {
    let length = body.len();
    Act::SayAndClose(
        format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}")
            .into_bytes(),
    )
}

const GRANTED: &str = r#"{"access_token":"app-token","expires_in":1800,"token_type":"bearer"}"#;

/// What the file that an entry leads to comes to when this is the answer, and all that was asked.
async fn file_of(answer: Act) -> (Result<usize, Trouble>, Vec<String>) {
    let acts = |authority: &str| {
        let entry =
            format!(r#"{{"url":"http://{authority}/file?signature=CANARY","currentOffset":"7"}}"#);
        vec![said("200 OK", GRANTED), said("200 OK", &entry), answer]
    };
    let answerer = Answerer::start_knowing(Greeting::Plain, acts).await;
    let base_url = format!("http://{}", answerer.authority);
    let settings = Settings { base_url, ..Settings::default() };
    let client = HubSpot::new(settings, Arc::new(SystemClock)).unwrap();
    let token = client.app_token(&pair()).await.unwrap();
    assert!(token.is_good(SystemClock.boot()));
    let entry = client.journal_entry(&token, &At::Earliest).await.unwrap().unwrap();
    assert!(!format!("{entry:?}{token:?}").contains("CANARY"), "{entry:?}");
    let read = client.journal_file(&entry.link.unwrap()).await;
    (read.map(|happened| happened.len()), answerer.requests())
}

#[tokio::test]
async fn i10_the_file_is_asked_for_without_the_token_and_the_token_without_the_journal_s_words() {
    let body = r#"{"journalEvents":[{"action":"APP_UNINSTALL","portalId":1}]}"#;
    let (read, requests) = file_of(said("200 OK", body)).await;
    assert_eq!(read, Ok(1));
    let [token, entry, file] = &requests[..] else { panic!("{requests:?}") };
    assert!(
        token.starts_with("POST /oauth/2026-03/token ") && token.contains("client_credentials")
    );
    assert!(token.contains("scope=developer.webhooks_journal.read+developer."), "{token}");
    assert!(entry.starts_with("GET /webhooks-journal/journal/2026-03/earliest "), "{entry}");
    assert!(entry.to_lowercase().contains("authorization: bearer app-token"), "{entry}");
    assert!(!entry.contains("fixture-client-secret"), "{entry}");
    assert!(file.starts_with("GET /file?signature=CANARY "), "{file}");
    assert!(!file.to_lowercase().contains("authorization") && !file.contains("app-token"));
}

#[tokio::test]
async fn i10_no_redirect_is_followed_and_nothing_endless_is_read() {
    let elsewhere = "302 Found\r\nLocation: http://127.0.0.1:1/elsewhere";
    let huge = b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n[".to_vec();
    let endless = [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n".as_slice(),
        "x".repeat(5 * 1024 * 1024).as_bytes(),
    ]
    .concat();
    for (what, answer, trouble) in [
        ("a redirect", said(elsewhere, ""), Trouble::NotUnderstood),
        ("said to be huge", Act::SayAndHang(huge), Trouble::NotUnderstood),
        ("five megabytes", Act::SayAndHang(endless), Trouble::NotUnderstood),
        ("garbage", said("200 OK", "<html>"), Trouble::NotUnderstood),
        ("expired", said("403 Forbidden", "<Error/>"), Trouble::NotThere),
        ("reset", Act::SayAndReset(Vec::new()), Trouble::Unanswered),
    ] {
        let (read, requests) = file_of(answer).await;
        assert_eq!((read, requests.len()), (Err(trouble), 3), "{what}: {requests:?}");
    }
}
