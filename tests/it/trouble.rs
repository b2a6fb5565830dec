//! Trouble as people meet it: what is told of it, and that one portal's is not everybody's.

use std::time::Duration;

use grantkeeper::sim::{Effect, Endpoint, Fault, HttpFault};
use rustix::process::Signal;

use crate::support::service::{Place, Service, eventually, portal};

const ROTATING: &str = "[settings]\nrotating = true\nexpires_in = 1800";

fn http(status: u16, retry_after: Option<u32>) -> Effect {
    Effect::Http(HttpFault { status, retry_after })
}

async fn with_journal(portals: u64) -> Place {
    let mut place = Place::new(portals, ROTATING).await;
    place.head = format!("state_dir = \"{}\"\n", place.path("state").display());
    place
}

async fn readyz(service: &Service) -> serde_json::Value {
    service.get("/v1/status").await.unwrap()
}

async fn is_ready(service: &Service) -> bool {
    readyz(service).await["ready"] == true
}

#[tokio::test]
async fn i8_a_429_to_everything_is_one_incident_and_the_reason_at_each_portal_without_a_token() {
    let place = Place::new(5, ROTATING).await;
    place.standin.sim.set_fault(Fault::new(http(429, Some(20))).on(Endpoint::Token));
    let service = place.serve().await;
    let opened = place.alerts.wait_for("rate_limited", "opened").await;
    assert_eq!(opened["data"]["portal_count"], 5, "{opened}");
    let status = readyz(&service).await;
    assert_eq!(status["hubspot"]["trouble"], "rate_limited", "{status}");
    assert_eq!(status["reasons"], serde_json::json!(["rate_limited"]), "{status}");
    for number in 1..=5 {
        let shown = service.get(&format!("/v1/portals/{number}")).await.unwrap();
        assert_eq!(shown["reason"], "rate_limited", "{shown}");
    }
    // Nobody is kept waiting for what can't come.
    assert_eq!(service.refusal(3).await, "no_token_yet");
    assert_eq!(place.alerts.of("rate_limited", "opened").len(), 1);
}

#[tokio::test]
async fn one_portal_s_trouble_of_any_kind_keeps_no_service_from_being_ready() {
    let place = with_journal(4).await;
    for (number, effect) in
        [(1, http(477, Some(3600))), (2, http(503, None)), (3, Effect::ResetBefore)]
    {
        let fault = Fault::new(effect).on(Endpoint::Token).of(portal(number));
        place.standin.sim.set_fault(fault);
    }
    let service = place.serve().await;
    eventually("one in four is served, and that is told", || is_ready(&service)).await;
    let status = readyz(&service).await;
    assert_eq!(status["remarks"][0], "3 of 4 portals have no live token", "{status}");
    service.token(4).await.unwrap();
}

#[tokio::test]
async fn a_paused_portal_without_a_token_keeps_no_service_from_being_ready() {
    let place = with_journal(2).await;
    let service = place.serve().await;
    service.ready().await;
    assert_eq!(place.run(&["portal", "pause", "2"]).await.code, 0);
    let mut service = service;
    service.signal(Signal::KILL);
    service.ended().await;
    let service = place.serve().await;
    eventually("what is paused is missed by nobody", || is_ready(&service)).await;
    assert_eq!(readyz(&service).await["remarks"], serde_json::json!([]));
}

#[tokio::test]
async fn i3_an_answer_that_takes_its_time_is_waited_for_where_it_may_bring_the_next_refresh_token()
{
    let place = Place::new(1, ROTATING).await;
    place.standin.sim.set_fault(Fault::new(Effect::Late(12_000)).on(Endpoint::Token).times(1));
    let service = place.serve().await;
    eventually("the late answer is taken", async || service.state(1).await == "live").await;
    assert_eq!(place.standin.sim.report().refreshes, 1, "one spend, and nothing lost");
    assert_eq!(place.alerts.of("grant_lost", "opened").len(), 0);
}

#[tokio::test]
async fn i9_a_restart_serves_what_lives_at_once_however_long_hubspot_takes() {
    let place = with_journal(3).await;
    let service = place.serve().await;
    service.ready().await;
    let before = service.token(2).await.unwrap();
    let mut service = service;
    service.signal(Signal::KILL);
    service.ended().await;

    place.standin.sim.set_fault(Fault::new(Effect::HangBefore));
    let service = place.spawn();
    let at_once = async || service.token(2).await.is_ok();
    tokio::time::timeout(Duration::from_secs(8), eventually("served", at_once)).await.unwrap();
    assert_eq!(service.token(2).await.unwrap()["access_token"], before["access_token"]);
}

#[tokio::test]
async fn i6_a_restart_while_the_client_secret_is_refused_goes_on_with_the_tokens_in_hand() {
    let place = with_journal(3).await;
    let service = place.serve().await;
    service.ready().await;
    let mut service = service;
    service.signal(Signal::KILL);
    service.ended().await;

    drop(place.standin.sim.rotate_client_secret(Duration::ZERO));
    let service = place.serve().await;
    let told = place.alerts.wait_for("app_rejected", "opened").await;
    assert!(told["data"]["action"].as_str().unwrap().contains("A restart does not help"), "{told}");
    service.token(1).await.unwrap();
    assert_eq!(readyz(&service).await["reasons"], serde_json::json!(["app_rejected"]));
}
