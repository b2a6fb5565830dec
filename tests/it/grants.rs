//! Grants that come and go over the socket: renewed when an app met a 401, enrolled by code or by refresh token,
//! forgotten, revoked; webhooks recognised; and what an app hears of all that.

use std::time::Duration;

use aws_lc_rs::hmac;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use grantkeeper::{
    sim::{Effect, Endpoint, Fault, HttpFault},
    socket::client::AskError,
    store::{CredentialStore, Key, StoreErrorKind},
    time::{Clock, SystemClock},
};
use hyper::Method;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
    time::timeout,
};

use crate::support::{
    openbao::OpenBao,
    portal,
    service::{PATIENCE, Place, Service, eventually},
};

const ROTATING: &str = "[settings]\nrotating = true\nexpires_in = 1800";
const URI: &str = "https://app.example.com/hubspot/callback";

async fn post(service: &Service, target: &str, body: &Value) -> Result<Value, AskError> {
    service.client.post_json(target, body).await
}

/// The stable word of a refusal.
fn word(refused: Result<Value, AskError>) -> String {
    match refused {
        Err(AskError::Refused(problem)) => problem.code,
        other => panic!("not refused: {other:?}"),
    }
}

/// A place with a journal, on the embedded store.
async fn place(portals: u64) -> Place {
    let mut place = Place::new(portals, ROTATING).await;
    place.head = format!("state_dir = \"{}\"\n", place.path("state").display());
    place
}

fn code(place: &Place, number: u64) -> Value {
    let (_, code) = place.standin.sim.issue_code(Some(portal(number)), None, Some(URI.to_owned()));
    json!({"code": code, "redirect_uri": URI})
}

fn refreshes(place: &Place) -> u64 {
    place.standin.sim.report().refreshes
}

fn etag(token: &Value) -> String {
    let text = token["access_token"].as_str().unwrap().to_owned();
    format!("\"{}\"", grantkeeper::secret::AccessToken::parse(text).unwrap().fingerprint())
}

#[tokio::test]
async fn i2_a_rejected_token_is_renewed_once_however_many_callers_met_a_401_with_it() {
    let place = Place::new(1, "[settings]\nexpires_in = 1800").await;
    let service = place.serve().await;
    service.ready().await;
    let first = service.token(1).await.unwrap();
    let rejected = json!({ "rejected": etag(&first) });
    // A moment after it was given another one would fare no better.
    let young = post(&service, "/v1/portals/1/refresh", &rejected).await;
    assert_eq!(word(young), "too_many_requests");
    let before = refreshes(&place);
    // One that is not the current one has been renewed meanwhile: that one is the answer.
    let other =
        post(&service, "/v1/portals/1/refresh", &json!({"rejected": "\"0123456789ab\""})).await;
    assert_eq!(etag(&other.unwrap()), etag(&first));
    assert_eq!(refreshes(&place), before);
    for body in [
        json!({}),
        json!({"rejected": 7}),
        json!({"rejected": "x"}),
        json!({"rejected": "\"0123456789ab\"", "x": 1}),
    ] {
        assert_eq!(
            word(post(&service, "/v1/portals/1/refresh", &body).await),
            "bad_request",
            "{body}"
        );
    }
    let unknown = post(&service, "/v1/portals/9/refresh", &rejected).await;
    assert_eq!(word(unknown), "unknown_portal");
}

#[tokio::test]
async fn i3_a_code_is_exchanged_stored_and_served_and_the_app_never_saw_the_secret() {
    let place = place(1).await;
    let service = place.serve().await;
    service.ready().await;
    let before = refreshes(&place);
    let enrolled = post(&service, "/v1/portals", &code(&place, 77)).await.unwrap();
    assert_eq!((&enrolled["portal_id"], &enrolled["replaced"]), (&77.into(), &false.into()));
    // It stands in the store by the time of the answer, and its token needs no refresh.
    let stored = place.file_store().read(Key::Portal(portal(77))).await.unwrap().record;
    assert!(place.standin.sim.is_good(&stored.portal().unwrap().refresh_token));
    assert!(stored.members()["enrolled_at"].is_string());
    let token = service.token(77).await.unwrap();
    assert_eq!(token["scopes"], enrolled["scopes"]);
    assert_eq!(refreshes(&place), before);
    assert_eq!(service.state(77).await, "live");
    // Once more: the customer connects again, and the newer grant takes the older one's place.
    let again = post(&service, "/v1/portals", &code(&place, 77)).await.unwrap();
    assert_eq!(again["replaced"], true, "{again}");
    let newer = place.file_store().read(Key::Portal(portal(77))).await.unwrap().record;
    let newer = newer.portal().unwrap().refresh_token;
    assert!(place.standin.sim.is_good(&newer));
    assert_ne!(etag(&service.token(77).await.unwrap()), etag(&token));
    assert_eq!(service.stop().await, 0);
    let service = place.serve().await;
    assert_eq!(service.state(77).await, "live", "after a restart as well");
}

#[tokio::test]
async fn a_code_that_hubspot_refuses_is_told_with_its_word_and_changes_nothing() {
    let place = place(1).await;
    let service = place.serve().await;
    service.ready().await;
    let good = code(&place, 77);
    let mut elsewhere = good.clone();
    elsewhere["redirect_uri"] = "https://elsewhere.example.com".into();
    for (body, said) in [
        (json!({"code": "CANARY-code", "redirect_uri": URI}), "BAD_AUTH_CODE"),
        (elsewhere, "BAD_REDIRECT_URI"),
    ] {
        let Err(AskError::Refused(problem)) = post(&service, "/v1/portals", &body).await else {
            panic!("it was taken: {body}");
        };
        assert_eq!((problem.status, problem.code.as_str()), (400, "grant_not_good"), "{problem:?}");
        assert!(problem.detail.contains(said), "{problem:?}");
        assert!(!problem.detail.contains("CANARY"), "{problem:?}");
    }
    // A code is good once.
    post(&service, "/v1/portals", &code(&place, 78)).await.unwrap();
    let used = code(&place, 79);
    post(&service, "/v1/portals", &used).await.unwrap();
    assert_eq!(word(post(&service, "/v1/portals", &used).await), "grant_not_good");
    assert_eq!(service.state(79).await, "live");
    let both = json!({"code": "x", "redirect_uri": URI, "refresh_token": "y"});
    for body in [json!({}), json!({"code": "x"}), both, json!({"refresh_token": "a b"}), json!([])]
    {
        assert_eq!(word(post(&service, "/v1/portals", &body).await), "bad_request", "{body}");
    }
    assert_eq!(
        word(post(&service, "/v1/portals", &json!({"refresh_token": "na1-x"})).await),
        "grant_not_good"
    );
    let large = json!({"refresh_token": "x".repeat(70_000)});
    assert_eq!(word(post(&service, "/v1/portals", &large).await), "payload_too_large");
    let count = service.get("/v1/status").await.unwrap()["portals_total"].clone();
    assert_eq!(count, 3);
}

#[tokio::test]
async fn i3_a_pkce_verifier_goes_with_the_code_and_a_refresh_token_is_not_spent() {
    let place = place(0).await;
    let service = place.serve().await;
    service.ready().await;
    // RFC 7636, appendix B.
    let verifier = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
    let challenge = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";
    let authorize = async || {
        let url = format!(
            "{}/oauth/authorize?client_id={}&redirect_uri={URI}&scope=oauth&portal=77&code_challenge={challenge}&code_challenge_method=S256",
            place.standin.url,
            place.standin.sim.client_id()
        );
        let browser = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none());
        let answer = browser.build().unwrap().get(url).send().await.unwrap();
        let location: reqwest::Url =
            answer.headers()["location"].to_str().unwrap().parse().unwrap();
        let mut pairs = location.query_pairs();
        pairs.find(|(name, _)| name == "code").unwrap().1.into_owned()
    };
    let wrong =
        json!({"code": authorize().await, "redirect_uri": URI, "code_verifier": "another-one"});
    assert_eq!(word(post(&service, "/v1/portals", &wrong).await), "grant_not_good");
    let good = json!({"code": authorize().await, "redirect_uri": URI, "code_verifier": verifier});
    post(&service, "/v1/portals", &good).await.unwrap();

    let (_, token) = place.standin.sim.install(Some(portal(78)), None);
    let body = json!({"refresh_token": token.expose()});
    let before = refreshes(&place);
    let enrolled = post(&service, "/v1/portals", &body).await.unwrap();
    assert_eq!(enrolled["portal_id"], 78);
    eventually("it is refreshed by the service alone", async || refreshes(&place) > before).await;
    service.token(78).await.unwrap();
}

/// What HubSpot answered a code with is the only place where the grant is: the store is sealed at that moment, and the
/// service is killed.
#[tokio::test]
async fn i3_a_grant_that_came_by_a_code_outlives_a_sealed_store_and_kill_9() {
    let mut place = place(1).await;
    let bao = OpenBao::start().await;
    let (_, store) = place.move_to_openbao(&bao).await;
    let mut service = place.serve().await;
    service.ready().await;
    let late = Fault::new(Effect::Late(1500)).on(Endpoint::Token);
    place.standin.sim.set_fault(late);
    let body = code(&place, 77);
    let enrolling = {
        let client = service.client.clone();
        let body = body.clone();
        tokio::task::JoinSet::from_iter([async move {
            client.post_json::<Value>("/v1/portals", &body).await
        }])
    };
    let exchanged = || place.standin.sim.portal(portal(77)).is_some();
    eventually("the code is exchanged", async || exchanged()).await;
    assert_eq!(bao.api(Method::PUT, "sys/seal", None).await.0, 204);
    eventually("the grant is kept", async || service.log().contains("enrolment_kept")).await;
    // Its first token can be had by then.
    eventually("its token is served", async || service.token(77).await.is_ok()).await;
    service.child.kill().await.unwrap();
    drop(enrolling);
    bao.unseal().await;
    eventually("the store is there", async || store.read(Key::App).await.is_ok()).await;
    let missing = store.read(Key::Portal(portal(77))).await.unwrap_err();
    assert_eq!(missing.kind, StoreErrorKind::Missing);

    place.standin.sim.clear_faults();
    let before = refreshes(&place);
    let service = place.serve().await;
    eventually("the grant is stored", async || {
        let found = store.read(Key::Portal(portal(77))).await;
        found.is_ok_and(|found| {
            place.standin.sim.is_good(&found.record.portal().unwrap().refresh_token)
        })
    })
    .await;
    service.token(77).await.unwrap();
    assert_eq!(refreshes(&place), before, "and not spent for it");
    assert_eq!(place.alerts.of("grant_lost", "opened").len(), 0);
}

#[tokio::test]
async fn i3_a_grant_that_can_t_be_stored_in_time_is_told_to_be_kept() {
    let mut place = place(1).await;
    let bao = OpenBao::start().await;
    let (_, store) = place.move_to_openbao(&bao).await;
    let service = place.serve().await;
    service.ready().await;
    let late = Fault::new(Effect::Late(1500)).on(Endpoint::Token);
    place.standin.sim.set_fault(late);
    let body = code(&place, 77);
    let (answer, ()) = tokio::join!(post(&service, "/v1/portals", &body), async {
        let exchanged = || place.standin.sim.portal(portal(77)).is_some();
        eventually("the code is exchanged", async || exchanged()).await;
        assert_eq!(bao.api(Method::PUT, "sys/seal", None).await.0, 204);
    });
    let Err(AskError::Refused(problem)) = answer else { panic!("{answer:?}") };
    assert_eq!((problem.status, problem.code.as_str()), (503, "grant_unsaved"), "{problem:?}");
    assert!(problem.detail.contains("portal 77"), "{problem:?}");
    // With the store sealed no code is spent.
    place.standin.sim.clear_faults();
    assert_eq!(word(post(&service, "/v1/portals", &code(&place, 78)).await), "store_unreachable");
    assert!(place.standin.sim.portal(portal(78)).is_none());
    bao.unseal().await;
    eventually("it is stored", async || store.read(Key::Portal(portal(77))).await.is_ok()).await;
}

#[tokio::test]
async fn a_removed_portal_is_forgotten_and_a_revoked_one_is_ended_at_hubspot_first() {
    let place = place(3).await;
    let service = place.serve().await;
    service.ready().await;
    let (kept, ended) = (
        place.standin.sim.refresh_token(portal(1)).unwrap(),
        place.standin.sim.refresh_token(portal(2)).unwrap(),
    );
    let removed: Value = service.client.delete("/v1/portals/1").await.unwrap();
    assert_eq!(removed, json!({"portal_id": 1, "revoked": false}));
    let revoked: Value = service.client.delete("/v1/portals/2?revoke=true").await.unwrap();
    assert_eq!(revoked, json!({"portal_id": 2, "revoked": true}));
    assert!(place.standin.sim.is_good(&kept) && !place.standin.sim.is_good(&ended));
    for number in [1, 2] {
        assert_eq!(service.refusal(number).await, "unknown_portal");
        let gone = place.file_store().read(Key::Portal(portal(number))).await.unwrap_err();
        assert_eq!(gone.kind, StoreErrorKind::Missing);
    }
    assert_eq!(word(service.client.delete("/v1/portals/2").await), "unknown_portal");
    assert_eq!(word(service.client.delete("/v1/portals/3?revoke=perhaps").await), "bad_request");
    service.token(3).await.unwrap();
    assert_eq!(service.stop().await, 0);
    let service = place.serve().await;
    service.ready().await;
    assert_eq!(service.refusal(1).await, "unknown_portal", "the journal brings nothing back");
    assert_eq!(
        place.alerts.of("grant_revoked", "opened").len(),
        0,
        "what was ordered is no incident"
    );
}

#[tokio::test]
async fn a_portal_that_hubspot_can_t_be_asked_to_end_is_served_on() {
    let place = place(1).await;
    let service = place.serve().await;
    service.ready().await;
    let down = Effect::Http(HttpFault { status: 503, retry_after: None });
    place.standin.sim.set_fault(Fault::new(down).on(Endpoint::Revoke));
    assert_eq!(
        word(service.client.delete("/v1/portals/1?revoke=true").await),
        "hubspot_unreachable"
    );
    assert_eq!(service.state(1).await, "live");
    service.token(1).await.unwrap();
    place.standin.sim.clear_faults();
    service.client.delete::<Value>("/v1/portals/1?revoke=true").await.unwrap();
}

#[tokio::test]
async fn i3_what_a_code_brought_is_asked_about_again_before_it_is_given_up_without_a_service_too() {
    let place = place(0).await;
    let (sim, down) =
        (&place.standin.sim, Effect::Http(HttpFault { status: 503, retry_after: None }));
    // An older version of the API, which does not say whose grant it is.
    sim.set_fault(Fault::new(Effect::Bare).on(Endpoint::Token));
    let enroll = async |number: u64| {
        let body = code(&place, number);
        let args = ["enroll", "--code", body["code"].as_str().unwrap(), "--redirect-uri", URI];
        place.run(&[&args[..], &["-o", "json"]].concat()).await
    };
    sim.set_fault(Fault::new(down).on(Endpoint::Introspect).times(2));
    let ended = enroll(77).await;
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(place.file_store().read(Key::Portal(portal(77))).await.is_ok());

    sim.set_fault(Fault::new(down).on(Endpoint::Introspect));
    let ended = enroll(78).await;
    assert_eq!(ended.code, 4, "{ended:?}");
    let error: Value = serde_json::from_str(&ended.err).unwrap();
    assert_eq!(error["retryable"], false, "{error}");
    let hint = error["hint"].as_str().unwrap();
    assert!(hint.contains("connect again") && !hint.contains("ry again"), "{error}");
}

#[tokio::test]
async fn the_command_line_refreshes_enrols_by_code_revokes_and_removes() {
    let place = place(2).await;
    let body = code(&place, 77);
    let args = ["enroll", "--code", body["code"].as_str().unwrap(), "--redirect-uri", URI];
    // Without a service it is done by the command's own hands.
    let ended = place.run(&args).await;
    assert_eq!(ended.code, 0, "{ended:?}");
    let service = place.serve().await;
    service.ready().await;
    service.token(77).await.unwrap();
    let body = code(&place, 78);
    let args = ["enroll", "--code", body["code"].as_str().unwrap(), "--redirect-uri", URI];
    let ended = place.run(&args).await;
    assert_eq!((ended.code, ended.out.as_str()), (0, "portal 78 is stored\n"), "{ended:?}");
    service.token(78).await.unwrap();
    let young = place.run(&["portal", "refresh", "78"]).await;
    assert_eq!(young.code, 75, "{young:?}");

    let dry = place.run(&["portal", "revoke", "78", "--dry-run"]).await;
    assert_eq!(dry.code, 0, "{dry:?}");
    assert!(dry.out.contains("Nothing was done"), "{dry:?}");
    let unasked = place.run(&["portal", "revoke", "78"]).await;
    assert_eq!(unasked.code, 2, "{unasked:?}");
    assert!(unasked.err.contains("--yes"), "{unasked:?}");
    service.token(78).await.unwrap();
    let revoked = place.run(&["-o", "json", "portal", "revoke", "78", "--yes"]).await;
    assert_eq!(revoked.code, 0, "{revoked:?}");
    let told: Value = serde_json::from_str(&revoked.out).unwrap();
    assert_eq!(told["portals"], json!([{"portal_id": 78, "state": "live", "changes": true}]));
    let removed = place.run(&["portal", "remove", "77", "--yes"]).await;
    assert_eq!(removed.code, 0, "{removed:?}");
    let gone = place.run(&["portal", "remove", "77", "--yes"]).await;
    assert_eq!(gone.code, 3, "{gone:?}");
}

fn signed(secret: &str, body: &[u8], timestamp: &str) -> Value {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let uri = "https://app.example.com/hooks?x=1";
    let message = [b"POST", uri.as_bytes(), body, timestamp.as_bytes()].concat();
    json!({
        "method": "POST",
        "uri": uri,
        "body": STANDARD.encode(body),
        "headers": {
            "X-HubSpot-Signature-v3": STANDARD.encode(hmac::sign(&key, &message)),
            "X-HubSpot-Request-Timestamp": timestamp,
            "Content-Type": "application/json",
        },
    })
}

#[tokio::test]
async fn webhooks_are_known_by_the_secret_in_use_and_by_the_one_before_it_after_a_rotation() {
    let place = place(1).await;
    let service = place.serve().await;
    service.ready().await;
    let now = || SystemClock.wall().as_millisecond().to_string();
    let verify = async |body: &Value| post(&service, "/v1/webhooks/verify", body).await.unwrap();
    let old = place.standin.sim.client_secret();
    let told = verify(&signed(old.expose(), b"[{}]", &now())).await;
    assert_eq!(
        told,
        json!({"valid": true, "signed_with": "current", "version": "v3", "reason": null})
    );
    let forged = verify(&signed("forged", b"[{}]", &now())).await;
    assert_eq!((&forged["valid"], &forged["reason"]), (&false.into(), &"mismatch".into()));
    let late = (SystemClock.wall().as_millisecond() - 301_000).to_string();
    assert_eq!(verify(&signed(old.expose(), b"[{}]", &late)).await["reason"], "too_old");

    let new = place.standin.sim.rotate_client_secret(Duration::ZERO);
    let rotated =
        place.run_with(&["rotate", "client-secret", "--from-file", "-"], new.expose()).await;
    assert_eq!(rotated.code, 0, "{rotated:?}");
    for (secret, name) in [(&new, "current"), (&old, "previous")] {
        let told = verify(&signed(secret.expose(), b"{}", &now())).await;
        assert_eq!(told["signed_with"], name, "{told}");
    }
    for body in
        [json!({}), json!({"method": "POST", "uri": "x", "headers": {}, "body": "not base64"})]
    {
        assert_eq!(word(post(&service, "/v1/webhooks/verify", &body).await), "bad_request");
    }
    // As large as HubSpot's largest, and no larger.
    let large = vec![b'x'; 1_000_000];
    assert_eq!(verify(&signed(new.expose(), &large, &now())).await["valid"], true);
    let huge = signed(new.expose(), &vec![b'x'; 2_000_000], &now());
    assert_eq!(word(post(&service, "/v1/webhooks/verify", &huge).await), "payload_too_large");
}

/// A stream of events, one by one.
struct Stream(BufReader<UnixStream>);

impl Stream {
    async fn open(service: &Place, last: Option<&str>) -> Self {
        let mut stream = UnixStream::connect(service.socket()).await.unwrap();
        let last = last.map(|id| format!("Last-Event-ID: {id}\r\n")).unwrap_or_default();
        let request = format!("GET /v1/events HTTP/1.1\r\nHost: grantkeeper\r\n{last}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut stream = Self(BufReader::new(stream));
        while !stream.line().await.contains(": listening") {}
        stream
    }

    async fn line(&mut self) -> String {
        let mut line = String::new();
        let read = timeout(PATIENCE, self.0.read_line(&mut line)).await.expect("nothing comes");
        assert!(read.unwrap() > 0, "the stream has ended");
        line.trim_end().to_owned()
    }

    /// The next event: id, name, data.
    async fn next(&mut self) -> (String, String, Value) {
        let mut id = String::new();
        let mut name = String::new();
        loop {
            let line = self.line().await;
            if let Some(text) = line.strip_prefix("id: ") {
                text.clone_into(&mut id);
            } else if let Some(text) = line.strip_prefix("event: ") {
                text.clone_into(&mut name);
            } else if let Some(text) = line.strip_prefix("data: ") {
                return (id, name, serde_json::from_str(text).unwrap());
            }
        }
    }

    async fn until(&mut self, name: &str, holds: impl Fn(&Value) -> bool) -> (String, Value) {
        loop {
            let (id, found, data) = self.next().await;
            if found == name && holds(&data) {
                return (id, data);
            }
        }
    }
}

#[tokio::test]
async fn events_tell_tokens_states_and_alerts_by_name_and_go_on_where_a_listener_was() {
    let place = place(2).await;
    let service = place.serve().await;
    service.ready().await;
    let mut stream = Stream::open(&place, None).await;
    post(&service, "/v1/portals", &code(&place, 77)).await.unwrap();
    let (id, token) = stream.until("token", |data| data["portal_id"] == 77).await;
    let served = service.token(77).await.unwrap();
    assert_eq!(format!("\"{}\"", token["etag"].as_str().unwrap()), etag(&served));
    assert!(!token.to_string().contains(served["access_token"].as_str().unwrap()), "I10");
    service.client.delete::<Value>("/v1/portals/77").await.unwrap();
    let (_, gone) = stream.until("portal", |data| data["state"] == "removed").await;
    assert_eq!(gone["portal_id"], 77);
    drop(stream);

    // While nobody listens, a customer leaves.
    place.standin.sim.uninstall(portal(2));
    let removed = service.client.post::<Value>("/v1/portals/1/pause").await;
    removed.unwrap();
    let mut stream = Stream::open(&place, Some(&id)).await;
    let (_, paused) = stream.until("portal", |data| data["portal_id"] == 1).await;
    assert_eq!(paused["state"], "paused");
    // An id of another process, or none at all, means to look anew.
    for unknown in ["abc-7", "nonsense", "-"] {
        let mut stream = Stream::open(&place, Some(unknown)).await;
        let (id, name, _) = stream.next().await;
        assert_eq!(name, "reset", "{unknown}");
        assert!(id.contains('-'), "{id}");
    }
    // A stop does not wait for listeners.
    assert_eq!(service.stop().await, 0);
}
