//! The stand-in's faults on real connections, and the ground truth it keeps of them.

use std::{error::Error as _, io, time::Duration};

use grantkeeper::{
    secret::RefreshToken,
    sim::{Delivery, Effect, Endpoint, Fault, HttpFault, Presentation, Refusal},
};
use reqwest::Response;
use serde_json::Value;

use crate::support::{
    sim::Standin,
    sim_client::{App, portal, read, text},
};

/// A stand-in with one grant and one fault, and what a refresh met.
struct Met {
    standin: Standin,
    app: App,
    token: RefreshToken,
    answer: Result<Response, reqwest::Error>,
}

async fn meeting(fault: Fault) -> Met {
    let standin = Standin::start("").await;
    let app = App::of(&standin);
    let (_, token) = standin.sim.install(None, None);
    standin.sim.configure(|settings| settings.rotating = true);
    standin.sim.set_fault(fault);
    let answer = app.try_refresh(&token).await;
    Met { standin, app, token, answer }
}

impl Met {
    fn only_presentation(&self) -> Presentation {
        let mut all = self.standin.sim.ledger(0, None);
        assert_eq!(all.len(), 1, "{all:?}");
        all.remove(0)
    }
}

fn http(status: u16, retry_after: Option<u32>) -> Effect {
    Effect::Http(HttpFault { status, retry_after })
}

fn is_reset(error: &reqwest::Error) -> bool {
    let mut cause = error.source();
    while let Some(error) = cause {
        if error.downcast_ref::<io::Error>().map(io::Error::kind)
            == Some(io::ErrorKind::ConnectionReset)
        {
            return true;
        }
        cause = error.source();
    }
    false
}

#[tokio::test]
async fn a_reset_before_spends_nothing() {
    let met = meeting(Fault::new(Effect::ResetBefore).times(1)).await;
    assert!(is_reset(met.answer.as_ref().unwrap_err()), "{:?}", met.answer);
    let noted = met.only_presentation();
    assert!(!noted.carried_out && noted.http.is_none() && noted.delivery == Delivery::Cut);
    assert_eq!(met.app.refresh(&met.token).await.0, 200);
}

#[tokio::test]
async fn a_reset_after_has_rotated_the_token_and_nobody_knows_the_new_one() {
    let met = meeting(Fault::new(Effect::ResetAfter).times(1)).await;
    assert!(is_reset(met.answer.as_ref().unwrap_err()), "{:?}", met.answer);
    let noted = met.only_presentation();
    assert!(noted.carried_out && noted.delivery == Delivery::Cut);
    assert_eq!((noted.http, noted.generation, noted.issued), (Some(200), Some(1), Some(2)));
    assert_eq!(text(&met.app.refresh(&met.token).await.1, "status"), "BAD_REFRESH_TOKEN");
}

#[tokio::test]
async fn an_edge_page_is_html_and_nothing_was_carried_out() {
    for status in [502, 503, 504, 521, 522, 523, 524, 525, 526] {
        let met = meeting(Fault::new(http(status, Some(7))).times(1)).await;
        let answer = met.answer.as_ref().unwrap();
        assert_eq!(answer.status(), status);
        assert_eq!(answer.headers()["content-type"], "text/html;charset=utf-8");
        assert_eq!(answer.headers()["retry-after"], "7");
        assert!(!met.only_presentation().carried_out);
        assert_eq!(met.app.refresh(&met.token).await.0, 200);
    }
}

#[tokio::test]
async fn a_forced_429_has_hubspot_s_body_with_and_without_retry_after() {
    for wait in [None, Some(2)] {
        let met = meeting(Fault::new(http(429, wait)).on(Endpoint::Token)).await;
        let answer = met.answer.unwrap();
        assert_eq!(answer.headers().contains_key("retry-after"), wait.is_some());
        let (status, body) = read(answer).await;
        assert_eq!((status, text(&body, "policyName")), (429, "SECONDLY"));
        assert_eq!(text(&body, "errorType"), "RATE_LIMIT");
    }
}

#[tokio::test]
async fn a_migration_is_477_on_the_endpoints_it_was_set_for() {
    let met = meeting(Fault::new(http(477, Some(3600))).on(Endpoint::AccountInfo)).await;
    let (_, granted) = read(met.answer.unwrap()).await;
    let answer = met.app.details(text(&granted, "access_token")).await;
    assert_eq!(answer.status(), 477);
    assert_eq!(answer.headers()["retry-after"], "3600");
}

#[tokio::test]
async fn a_refusal_on_order_comes_once_and_for_its_portal_only() {
    let standin = Standin::start("").await;
    let app = App::of(&standin);
    let (first, token) = standin.sim.install(None, None);
    let (_, other) = standin.sim.install(None, None);
    let refuse = Effect::Refuse(Refusal::MismatchRefreshTokenClient);
    standin.sim.set_fault(Fault::new(refuse).on(Endpoint::Token).of(first).times(1));
    assert_eq!(app.refresh(&other).await.0, 200);
    let (status, body) = app.refresh(&token).await;
    assert_eq!((status, text(&body, "status")), (400, "MISMATCH_REFRESH_TOKEN_CLIENT"));
    assert_eq!(app.refresh(&token).await.0, 200);
}

#[tokio::test]
async fn an_empty_or_truncated_answer_is_a_200_that_was_carried_out() {
    let met = meeting(Fault::new(Effect::Empty)).await;
    let noted = met.only_presentation();
    assert!(noted.carried_out && noted.delivery == Delivery::Delivered);
    let answer = met.answer.unwrap();
    assert_eq!((answer.status().as_u16(), answer.content_length()), (200, Some(0)));

    let met = meeting(Fault::new(Effect::Truncated)).await;
    assert!(met.only_presentation().carried_out);
    let body = met.answer.unwrap().bytes().await.unwrap();
    assert!(body.starts_with(b"{") && serde_json::from_slice::<Value>(&body).is_err());
}

#[tokio::test]
async fn a_cut_body_breaks_after_its_headers_arrived() {
    let met = meeting(Fault::new(Effect::Cut)).await;
    let noted = met.only_presentation();
    let answer = met.answer.unwrap();
    assert_eq!(answer.status(), 200);
    assert!(answer.bytes().await.is_err());
    assert!(noted.carried_out);
    assert_eq!(met.standin.sim.ledger(0, None)[0].delivery, Delivery::Cut);
}

#[tokio::test]
async fn a_bare_answer_has_no_portal_and_no_scopes() {
    let met = meeting(Fault::new(Effect::Bare)).await;
    let (status, body) = read(met.answer.unwrap()).await;
    assert_eq!(status, 200);
    let members: Vec<&String> = body.as_object().unwrap().keys().collect();
    assert_eq!(members, ["access_token", "expires_in", "refresh_token", "token_type"]);
}

#[tokio::test]
async fn a_hanging_answer_never_comes_and_does_not_keep_the_stand_in_from_stopping() {
    for (effect, carried_out) in [(Effect::HangBefore, false), (Effect::HangAfter, true)] {
        let standin = Standin::start("").await;
        let app = App::of(&standin);
        let (id, token) = standin.sim.install(None, None);
        standin.sim.set_fault(Fault::new(effect));
        let asked = tokio::time::timeout(Duration::from_millis(100), app.try_refresh(&token));
        assert!(asked.await.is_err());
        assert_eq!(standin.sim.ledger(0, None)[0].carried_out, carried_out);

        let sim = standin.sim.clone();
        let hanging = app.try_refresh(&token);
        let (answer, ()) = tokio::join!(hanging, async {
            while sim.ledger(0, None).len() < 2 {
                tokio::task::yield_now().await;
            }
            standin.stop().await;
        });
        assert!(answer.is_err());
        assert!(sim.ledger(0, None).iter().all(|noted| noted.delivery == Delivery::Cut));
        assert_eq!(sim.portal(id).unwrap().in_flight, 0);
    }
}

#[tokio::test]
async fn two_refreshes_of_one_portal_in_flight_are_seen() {
    let standin = Standin::start("").await;
    let app = App::of(&standin);
    let (shared, token) = standin.sim.install(None, None);
    let (alone, other) = standin.sim.install(None, None);
    standin.sim.set_fault(Fault::new(Effect::Late(100)));
    let answers = tokio::join!(app.refresh(&token), app.refresh(&token), app.refresh(&other));
    assert_eq!((answers.0.0, answers.1.0, answers.2.0), (200, 200, 200));
    let of = |id| standin.sim.portal(id).unwrap();
    assert_eq!((of(shared).in_flight_max, of(shared).in_flight, of(shared).refreshes), (2, 0, 2));
    assert_eq!(of(alone).in_flight_max, 1);
    let concurrent: Vec<u32> =
        standin.sim.ledger(0, Some(shared)).iter().map(|noted| noted.concurrent).collect();
    assert_eq!(concurrent, [1, 2]);
    assert_eq!(standin.sim.report().in_flight_max, 2);
}

#[tokio::test]
async fn a_slow_body_comes_after_its_headers() {
    let met = meeting(Fault::new(Effect::Slow(50))).await;
    assert_eq!(met.only_presentation().delivery, Delivery::Pending);
    let (status, body) = read(met.answer.unwrap()).await;
    assert_eq!((status, body["expires_in"].as_u64()), (200, Some(1800)));
    assert_eq!(met.standin.sim.ledger(0, None)[0].delivery, Delivery::Delivered);
}

#[tokio::test]
async fn a_fault_can_stand_in_the_scenario_with_a_seed_and_a_probability() {
    let scenario = "seed = 3\n\
        [[portal]]\nid = 7\nrefresh_token = \"na1-known\"\n\
        [[fault]]\neffect = { http = 502 }\nprobability = 0.5\n";
    let token = RefreshToken::parse("na1-known").unwrap();
    let mut runs = Vec::new();
    for _ in 0..2 {
        let standin = Standin::start(scenario).await;
        let app = App::of(&standin);
        let mut statuses = Vec::new();
        for _ in 0..12 {
            statuses.push(app.try_refresh(&token).await.unwrap().status().as_u16());
        }
        assert!(statuses.contains(&502) && statuses.contains(&200));
        runs.push((app.client_id.clone(), statuses));
    }
    assert_eq!(runs[0], runs[1]);
}

#[tokio::test]
async fn the_ledger_names_tokens_by_fingerprint_and_generation() {
    let standin = Standin::start("").await;
    let app = App::of(&standin);
    let (id, token) = standin.sim.install(None, None);
    standin.sim.configure(|settings| settings.rotating = true);
    app.refresh(&token).await;
    app.refresh(&token).await;
    app.introspect(token.expose()).await;
    let unknown = RefreshToken::parse("na1-unknown").unwrap();
    app.refresh_at("/oauth/v1/token", &unknown).await;

    let noted = standin.sim.ledger(0, None);
    let fingerprint = token.fingerprint().to_string();
    for entry in &noted[..3] {
        assert_eq!((entry.portal, entry.generation), (Some(id), Some(1)));
        assert_eq!(entry.token.as_deref(), Some(&*fingerprint));
    }
    assert_eq!((noted[0].http, noted[0].issued), (Some(200), Some(2)));
    assert_eq!((noted[1].http, noted[1].refusal), (Some(400), Some("BAD_REFRESH_TOKEN")));
    assert_eq!(noted[2].endpoint, Endpoint::Introspect);
    assert_eq!((noted[3].portal, noted[3].generation), (None, None));
    assert_eq!(standin.sim.ledger(1, Some(id)).len(), 2);
    let shown = serde_json::to_string(&noted).unwrap();
    assert!(!shown.contains(token.expose()), "{shown}");
}

#[tokio::test]
async fn the_control_api_does_what_the_handle_does() {
    let standin = Standin::start("").await;
    let app = App::of(&standin);
    let (status, made) =
        app.control("POST", "/portals", r#"{"id": 4711, "scopes": ["oauth"]}"#).await;
    assert_eq!((status, made["portal"].as_u64()), (201, Some(4711)));
    let token = RefreshToken::parse(text(&made, "refresh_token")).unwrap();
    assert_eq!(app.refresh(&token).await.0, 200);

    let (_, shown) = app.control("GET", "/", "").await;
    assert_eq!(shown["client_id"], *app.client_id);
    assert_eq!(shown["portals"][0]["refreshes"], 1);
    assert!(!shown.to_string().contains(token.expose()), "{shown}");
    assert!(!shown.to_string().contains(&app.client_secret), "{shown}");
    let (_, shown) = app.control("GET", "/?tokens=true", "").await;
    assert_eq!(shown["portals"][0]["refresh_token"], token.expose());
    assert_eq!(shown["client_secret"], *app.client_secret);

    let (_, rotated) = app.control("POST", "/portals/4711/rotate", "").await;
    let second = RefreshToken::parse(text(&rotated, "refresh_token")).unwrap();
    assert_eq!(app.refresh(&token).await.0, 400);
    assert_eq!(app.refresh(&second).await.0, 200);
    let (_, report) = app.control("POST", "/portals/4711/revoke", "").await;
    assert_eq!((&report["good"], &report["standing"]), (&false.into(), &"installed".into()));
    assert_eq!(app.control("POST", "/portals/4711/rotate", "").await.0, 409);
    let (_, again) = app.control("POST", "/portals/4711/reinstall", "").await;
    let third = RefreshToken::parse(text(&again, "refresh_token")).unwrap();
    assert_eq!(app.refresh(&third).await.0, 200);
    let (_, report) = app.control("POST", "/portals/4711/uninstall", "").await;
    assert_eq!(report["standing"], "uninstalled");
    let (_, report) = app.control("POST", "/portals/4711/delete", "").await;
    assert_eq!(report["standing"], "deleted");
    assert_eq!(text(&app.refresh(&third).await.1, "status"), "BAD_HUB");
    let (_, events) = app.control("GET", "/events", "").await;
    let actions: Vec<&str> =
        events["events"].as_array().unwrap().iter().map(|event| text(event, "action")).collect();
    assert_eq!(actions, ["APP_INSTALL", "APP_UNINSTALL", "APP_INSTALL", "APP_UNINSTALL"]);

    let (_, fault) = app.control("POST", "/faults", r#"{"effect": {"http": 503}}"#).await;
    assert_eq!(app.try_refresh(&third).await.unwrap().status(), 503);
    assert_eq!(app.control("DELETE", &format!("/faults/{}", fault["id"]), "").await.0, 204);
    let (status, code) = app.control("POST", "/codes", r#"{"portal": 5}"#).await;
    assert_eq!(status, 201);
    let form = [("grant_type", "authorization_code"), ("code", text(&code, "code"))];
    assert_eq!(app.post("/oauth/v3/token", &form).await.unwrap().status(), 200);

    let (_, pair) = app.control("POST", "/app/secret", r#"{"grace_seconds": 0}"#).await;
    assert_eq!(app.introspect("x").await.0, 400);
    assert_ne!(pair["client_secret"], *app.client_secret);
    let (_, ledger) = app.control("GET", "/ledger?after=2&portal=4711", "").await;
    assert_eq!(ledger["presentations"][0]["seq"], 3);

    assert_eq!(app.control("POST", "/reset", "").await.0, 204);
    assert!(standin.sim.portal(portal(4711)).is_none());
}

#[tokio::test]
async fn a_control_request_that_is_not_understood_says_why() {
    let standin = Standin::start("").await;
    let app = App::of(&standin);
    for (method, path, body, status, why) in [
        ("PUT", "/settings", r#"{"expire_in": 2}"#, 400, "unknown field `expire_in`"),
        ("PUT", "/settings", "[]", 400, "a JSON object"),
        ("POST", "/faults", "", 400, "EOF"),
        ("POST", "/faults", r#"{"effect": "explode"}"#, 400, "an effect is"),
        ("POST", "/portals", r#"{"id": 0}"#, 400, "a portal id is"),
        ("POST", "/portals/5/revoke", "", 404, "no portal 5"),
        ("POST", "/portals/x/revoke", "", 400, "a portal id is"),
        ("DELETE", "/faults/9", "", 404, "no such fault"),
    ] {
        let answer = app.control(method, path, body).await;
        assert_eq!(answer.0, status, "{method} {path} {body}: {answer:?}");
        assert!(text(&answer.1, "error").contains(why), "{answer:?}");
    }
}

#[tokio::test]
async fn oversized_and_garbled_requests_are_refused_and_do_no_harm() {
    let standin = Standin::start("").await;
    let app = App::of(&standin);
    let url = format!("{}/oauth/v3/token", app.url);
    let send = async |kind: &str, body: Vec<u8>| {
        let request = app.http.post(&url).header("content-type", kind).body(body);
        request.send().await.unwrap().status().as_u16()
    };
    let form = "application/x-www-form-urlencoded";
    assert_eq!(send(form, vec![b'a'; 100_000]).await, 413);
    assert_eq!(send("text/plain", b"grant_type=x".to_vec()).await, 415);
    assert_eq!(send(form, b"client_id=%ff%fe&&=&=".to_vec()).await, 400);
    let long = "x".repeat(60_000);
    let head = app.http.get(format!("{}/{long}", app.url)).header("x-more", &long);
    assert_eq!(head.send().await.unwrap().status(), 431);
    assert_eq!(app.get("/oauth/v1/refresh-tokens/%ff").await.status(), 400);
    let (_, token) = standin.sim.install(None, None);
    assert_eq!(app.refresh(&token).await.0, 200);
}
