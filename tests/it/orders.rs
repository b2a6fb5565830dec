//! Orders about grants that meet each other, or what is under way: one thing at a time for a portal, nothing lost in
//! between, and nobody's renewal held up.

use std::time::Duration;

use grantkeeper::{
    secret::RefreshToken,
    sim::{Effect, Endpoint, Fault, HttpFault},
    socket::client::AskError,
    store::{CredentialStore, Expected, Key, Record, StoreErrorKind},
};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::support::{
    openbao::OpenBao,
    portal,
    service::{Place, Service, eventually},
};

const SETTINGS: &str = "[settings]\nrotating = true\nexpires_in = 1800";
const URI: &str = "https://app.example.com/hubspot/callback";

fn word(refused: Result<Value, AskError>) -> String {
    match refused {
        Err(AskError::Refused(problem)) => problem.code,
        other => panic!("not refused: {other:?}"),
    }
}

fn token(text: &str) -> RefreshToken {
    RefreshToken::parse(text.to_owned()).unwrap()
}

async fn place(portals: u64) -> Place {
    let mut place = Place::new(portals, SETTINGS).await;
    place.head = format!("state_dir = \"{}\"\n", place.path("state").display());
    place
}

fn code(place: &Place, number: u64) -> Value {
    let (_, code) = place.standin.sim.issue_code(Some(portal(number)), None, Some(URI.to_owned()));
    json!({"code": code, "redirect_uri": URI})
}

/// Has HubSpot take its time to end a grant, and begins to.
async fn leaving(place: &Place, service: &Service) -> JoinSet<Result<Value, AskError>> {
    place.standin.sim.set_fault(Fault::new(Effect::Late(1500)).on(Endpoint::Revoke));
    let client = service.client.clone();
    let removal = async move { client.delete::<Value>("/v1/portals/1?revoke=true").await };
    let removals = JoinSet::from_iter([removal]);
    let token = place.standin.sim.refresh_token(portal(1)).unwrap();
    eventually("it is ended at HubSpot", async || !place.standin.sim.is_good(&token)).await;
    removals
}

#[tokio::test]
async fn one_removal_at_a_time_and_an_operator_s_pause_meanwhile_is_kept() {
    let place = place(1).await;
    let service = place.serve().await;
    service.ready().await;
    let down = Effect::Http(HttpFault { status: 503, retry_after: None });
    place.standin.sim.set_fault(Fault::new(Effect::HangBefore).on(Endpoint::Revoke));
    let client = service.client.clone();
    let first = async move { client.delete::<Value>("/v1/portals/1?revoke=true").await };
    let mut first = JoinSet::from_iter([first]);
    eventually("it has begun", async || service.state(1).await == "paused").await;
    assert_eq!(word(service.client.delete("/v1/portals/1").await), "portal_leaving");
    let paused: Value = service.client.post_json("/v1/portals/1/pause", &json!({})).await.unwrap();
    assert_eq!(paused["paused"], true);
    place.standin.sim.set_fault(Fault::new(down).on(Endpoint::Revoke));
    let ended = first.join_next().await.unwrap().unwrap();
    assert_eq!(word(ended), "hubspot_unreachable");
    eventually("it stays, and paused", async || {
        word(service.client.delete("/v1/portals/1?revoke=true").await) == "hubspot_unreachable"
    })
    .await;
    assert_eq!(service.state(1).await, "paused");
    let resumed: Value =
        service.client.post_json("/v1/portals/1/resume", &json!({})).await.unwrap();
    assert_eq!(resumed["paused"], false);
    service.token(1).await.unwrap();
}

#[tokio::test]
async fn i3_a_grant_that_arrives_while_its_portal_leaves_is_stored_anew() {
    let place = place(1).await;
    let service = place.serve().await;
    service.ready().await;
    let mut removal = leaving(&place, &service).await;
    let body = code(&place, 1);
    let enrolled: Value = service.client.post_json("/v1/portals", &body).await.unwrap();
    assert_eq!(enrolled["portal_id"], 1);
    let removed = removal.join_next().await.unwrap().unwrap().unwrap();
    assert_eq!(removed, json!({"portal_id": 1, "revoked": true}));
    let stored = place.file_store().read(Key::Portal(portal(1))).await.unwrap();
    let token = stored.record.portal().unwrap().refresh_token;
    assert!(place.standin.sim.is_good(&token), "the grant that came is the one that is stored");
    service.token(1).await.unwrap();
    assert_eq!(place.alerts.of("grant_revoked", "opened").len(), 0);
    // And after a restart as well.
    assert_eq!(service.stop().await, 0);
    let service = place.serve().await;
    service.ready().await;
    service.token(1).await.unwrap();
}

/// The record is removed, and the store takes no new one: only the journal has the grant that came meanwhile.
#[tokio::test]
async fn i3_a_grant_that_arrives_while_its_portal_leaves_outlives_kill_9_before_it_is_stored() {
    let mut place = place(1).await;
    let bao = OpenBao::start().await;
    let (mount, store) = place.move_to_openbao(&bao).await;
    let rules = |records: &str| {
        let path = |path: &str, may: &str| {
            format!("path \"{mount}/{path}\" {{ capabilities = [{may}] }}\n")
        };
        path("*", r#""read", "list""#)
            + &path("metadata/grantkeeper/acme-sync/portals/*", r#""read", "list", "delete""#)
            + &path("data/grantkeeper/acme-sync/portals/*", records)
    };
    let policy = bao.policy(&rules(r#""create", "read", "update""#)).await;
    let token = bao.token(&policy, json!({})).await;
    place.use_openbao(&bao, &mount, &token);
    let mut service = place.serve().await;
    service.ready().await;

    let mut removal = leaving(&place, &service).await;
    let narrow = json!({ "policy": rules(r#""read""#) });
    bao.post(&format!("sys/policies/acl/{policy}"), narrow).await;
    let body = code(&place, 1);
    let client = service.client.clone();
    let enrolling =
        JoinSet::from_iter([async move { client.post_json::<Value>("/v1/portals", &body).await }]);
    let removed = removal.join_next().await.unwrap().unwrap().unwrap();
    assert_eq!(removed, json!({"portal_id": 1, "revoked": true}));
    eventually("the store has refused the grant that came", async || {
        service.log().contains("a new refresh token could not be stored")
    })
    .await;
    service.child.kill().await.unwrap();
    drop(enrolling);

    let missing = store.read(Key::Portal(portal(1))).await.unwrap_err();
    assert_eq!(missing.kind, StoreErrorKind::Missing);
    let wide = json!({ "policy": rules(r#""create", "read", "update""#) });
    bao.post(&format!("sys/policies/acl/{policy}"), wide).await;
    let service = place.serve().await;
    eventually("the grant is stored", async || {
        let found = store.read(Key::Portal(portal(1))).await;
        let token = found.ok().and_then(|found| found.record.portal().ok());
        token.is_some_and(|grant| place.standin.sim.is_good(&grant.refresh_token))
    })
    .await;
    service.token(1).await.unwrap();
}

#[tokio::test]
async fn i13_a_removal_leaves_a_record_that_another_hand_has_replaced() {
    let place = place(1).await;
    let service = place.serve().await;
    service.ready().await;
    let store = place.file_store();
    let key = Key::Portal(portal(1));
    let before = store.read(key).await.unwrap();
    let other = Record::default().with_refresh_token(&token("by-another-hand"));
    store.write(key, &other, &Expected::At(before.version)).await.unwrap();
    assert_eq!(word(service.client.delete("/v1/portals/1").await), "record_replaced");
    let left = store.read(key).await.unwrap().record.portal().unwrap().refresh_token;
    assert!(left.same_as(&token("by-another-hand")));
    // What is there now has been seen by then, or soon is; ordered again, it goes.
    eventually("it is removed", async || {
        service.client.delete::<Value>("/v1/portals/1").await.is_ok()
    })
    .await;
    assert_eq!(store.read(key).await.unwrap_err().kind, StoreErrorKind::Missing);
}

/// Twice as many orders as may wait, by one caller, at two requests a second: a token that somebody else waits for
/// comes before most of them.
#[tokio::test]
async fn i8_a_flood_of_enrolments_waits_and_holds_up_no_renewal() {
    let mut place = place(1).await;
    place.extra =
        "[hubspot]\nmax_refreshes_per_second = 2.0\n[refresh]\nmode = \"on_demand\"\n".into();
    let service = place.serve().await;
    service.ready().await;
    let mut orders = JoinSet::new();
    for number in 0..128 {
        let client = service.client.clone();
        let body = json!({"code": format!("no-such-code-{number}"), "redirect_uri": URI});
        orders.spawn(async move { client.post_json::<Value>("/v1/portals", &body).await });
    }
    let first = orders.join_next().await.unwrap().unwrap();
    assert!(["too_many_requests", "grant_not_good"].contains(&word(first).as_str()));
    let before = place.standin.sim.report().refreshes;
    let answer = tokio::time::timeout(Duration::from_secs(15), service.token(1)).await;
    answer.unwrap().unwrap();
    assert_eq!(place.standin.sim.report().refreshes, before + 1);
    let mut told = std::collections::BTreeMap::<String, u32>::new();
    while let Some(answer) = orders.try_join_next() {
        *told.entry(word(answer.unwrap())).or_default() += 1;
    }
    assert!(told["too_many_requests"] >= 60, "{told:?}");
    assert!(!orders.is_empty(), "others still wait when the token has come: {told:?}");
}

#[tokio::test]
async fn enrolments_that_wait_keep_nobody_from_ending_a_grant() {
    let mut place = place(2).await;
    place.extra = "[hubspot]\nmax_refreshes_per_second = 2.0\n".into();
    let service = place.serve().await;
    service.ready().await;
    let mut orders = JoinSet::new();
    for _ in 0..128 {
        let (client, body) = (service.client.clone(), json!({"refresh_token": "none-of-ours"}));
        orders.spawn(async move { client.post_json::<Value>("/v1/portals", &body).await });
    }
    // No more of them may wait.
    while word(orders.join_next().await.unwrap().unwrap()) != "too_many_requests" {}
    let revoked: Value = service.client.delete("/v1/portals/1?revoke=true").await.unwrap();
    assert_eq!(revoked["revoked"], true);
    assert!(!orders.is_empty());
}

/// Every caller comes again when it is told to: its token is too young to be rejected at first.
#[tokio::test]
async fn i2_twenty_callers_who_met_a_401_at_once_cost_one_refresh() {
    let place = place(1).await;
    let service = place.serve().await;
    service.ready().await;
    let text = service.token(1).await.unwrap()["access_token"].as_str().unwrap().to_owned();
    let name = grantkeeper::secret::AccessToken::parse(text.clone()).unwrap().fingerprint();
    let before = place.standin.sim.report().refreshes;
    let mut callers = JoinSet::new();
    for _ in 0..20 {
        let (client, body) = (service.client.clone(), json!({ "rejected": name }));
        callers.spawn(async move {
            loop {
                match client.post_json::<Value>("/v1/portals/1/refresh", &body).await {
                    Ok(token) => return token["access_token"].as_str().unwrap().to_owned(),
                    Err(AskError::Refused(young)) => {
                        assert_eq!(young.code, "too_many_requests");
                        // As an app does that is told when to come again.
                        tokio::time::sleep(Duration::from_secs(young.retry_after.unwrap())).await;
                    }
                    Err(error) => panic!("{error}"),
                }
            }
        });
    }
    let tokens: std::collections::BTreeSet<String> = callers.join_all().await.into_iter().collect();
    assert_eq!(tokens.len(), 1, "all have the same");
    assert!(!tokens.contains(&text), "and another than the rejected one");
    assert_eq!(place.standin.sim.report().refreshes, before + 1);
}
