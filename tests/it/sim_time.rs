//! The stand-in in simulated time: asked without a connection, on a clock that jumps.

use std::{sync::Arc, time::Duration};

use axum::{
    body::{Body, to_bytes},
    http::{Request, StatusCode},
};
use grantkeeper::{
    secret::RefreshToken,
    sim::{Effect, Fault, InProcess, Scenario, Sim},
    time::RuntimeClock,
};
use serde_json::Value;

fn start() -> (Sim, InProcess) {
    let clock = RuntimeClock::starting_at("2026-11-24T00:00:00Z".parse().unwrap());
    let sim = Sim::new(Scenario::parse("seed = 1").unwrap(), Arc::new(clock));
    let asked = sim.in_process();
    (sim, asked)
}

async fn refresh(sim: &Sim, asked: &InProcess, token: &RefreshToken) -> Option<Value> {
    let (id, secret) = (sim.client_id(), sim.client_secret());
    let (secret, token) = (secret.expose(), token.expose());
    let form = format!(
        "grant_type=refresh_token&client_id={id}&client_secret={secret}&refresh_token={token}"
    );
    let request = Request::post("/oauth/2026-09/token")
        .header("content-type", "application/x-www-form-urlencoded")
        .body(Body::from(form))
        .unwrap();
    let body = asked.ask(request).await?.into_body();
    Some(serde_json::from_slice(&to_bytes(body, 100_000).await.unwrap()).unwrap())
}

async fn details(asked: &InProcess, access_token: &str) -> StatusCode {
    let request = Request::get("/account-info/2026-09/details")
        .header("authorization", format!("Bearer {access_token}"))
        .body(Body::empty())
        .unwrap();
    asked.ask(request).await.unwrap().status()
}

#[tokio::test(start_paused = true)]
async fn thirty_days_of_refreshing_pass_in_no_time() {
    let (sim, asked) = start();
    let (id, token) = sim.install(None, None);
    for _ in 0..30 * 48 {
        let granted = refresh(&sim, &asked, &token).await.unwrap();
        let access = granted["access_token"].as_str().unwrap().to_owned();
        tokio::time::advance(Duration::from_secs(1799)).await;
        assert_eq!(details(&asked, &access).await, 200);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(details(&asked, &access).await, 401);
    }
    let report = sim.portal(id).unwrap();
    assert_eq!((report.refreshes, report.in_flight_max, report.in_flight), (1440, 1, 0));
    assert_eq!(sim.ledger(1439, None)[0].at.to_string(), "2026-12-23T23:30:00Z");
}

#[tokio::test(start_paused = true)]
async fn a_reset_is_no_answer_and_a_late_one_comes_in_simulated_time() {
    let (sim, asked) = start();
    let (_, token) = sim.install(None, None);
    sim.set_fault(Fault::new(Effect::ResetBefore).times(1));
    assert!(refresh(&sim, &asked, &token).await.is_none());
    sim.set_fault(Fault::new(Effect::Late(3_600_000)).times(1));
    let answered = refresh(&sim, &asked, &token).await.unwrap();
    assert_eq!(answered["expires_in"], 1800);
    let access = answered["access_token"].as_str().unwrap();
    assert_eq!(details(&asked, access).await, 401, "its life began when it was asked for");
}

#[tokio::test(start_paused = true)]
async fn what_began_before_a_reset_is_not_noted_after_it() {
    let (sim, asked) = start();
    let (id, token) = sim.install(None, None);
    sim.set_fault(Fault::new(Effect::Late(1000)));
    let (answered, again) = tokio::join!(refresh(&sim, &asked, &token), async {
        while sim.ledger(0, None).is_empty() {
            tokio::task::yield_now().await;
        }
        sim.reset();
        sim.install(Some(id), None).1
    });
    assert!(answered.is_some() && sim.ledger(0, None).is_empty());
    assert!(again.same_as(&token), "one seed, one sequence");
    assert_eq!(sim.portal(id).unwrap().refreshes, 0);
}
