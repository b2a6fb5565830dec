//! What outlives the process: the real service, killed with -9, started again.

use grantkeeper::store::{CredentialStore, Expected, Key};
use rustix::process::Signal;

use crate::support::{
    openbao, portal,
    service::{Place, Service, eventually},
};

/// Tokens that live long, and a provider that replaces a refresh token at each use.
const ROTATING: &str = "[settings]\nrotating = true\nexpires_in = 1800";

async fn place(portals: u64) -> Place {
    let mut place = Place::new(portals, ROTATING).await;
    place.head = format!("state_dir = \"{}\"\n", place.path("state").display());
    place
}

async fn killed(mut service: Service) {
    service.signal(Signal::KILL);
    service.ended().await;
}

#[tokio::test]
async fn i3_i9_a_restart_with_store_and_hubspot_both_down_serves_the_tokens_that_live() {
    let mut place = place(5).await;
    place.move_to_openbao(openbao().await).await;
    let service = place.serve().await;
    service.ready().await;
    let before = service.token(3).await.unwrap();
    killed(service).await;

    // Nobody listens there any more.
    let (bao, hubspot) = (openbao().await.addr.clone(), place.standin.url.clone());
    let nobody = "http://127.0.0.1:1";
    place.store = place.store.replace(&bao, nobody);
    let spent = place.standin.sim.report().refreshes;
    place.standin.url = nobody.to_owned();
    let service = place.serve().await;
    let after = service.token(3).await.unwrap();
    assert_eq!(after["access_token"], before["access_token"]);
    assert!(after["expires_in"].as_u64() <= before["expires_in"].as_u64());
    assert_eq!(place.standin.sim.report().refreshes, spent, "nothing was spent for it");
    let status = service.get("/v1/status").await.unwrap();
    assert_eq!(status["store"]["ok"], false, "{status}");
    // A portal that the journal doesn't know may exist: that can't be told without the store.
    assert_eq!(service.refusal(77).await, "store_unreachable");

    // The store is back, and it goes on as if nothing had been.
    killed(service).await;
    place.store = place.store.replace(nobody, &bao);
    place.standin.url = hubspot;
    let service = place.serve().await;
    service.ready().await;
    assert_eq!(service.token(3).await.unwrap()["access_token"], before["access_token"]);
}

#[tokio::test]
async fn a_paused_portal_gives_no_token_asks_nothing_of_hubspot_and_stays_paused_over_a_kill() {
    let place = place(3).await;
    let service = place.serve().await;
    service.ready().await;
    let said = place.run(&["portal", "pause", "2"]).await;
    assert_eq!((said.code, said.err.as_str()), (0, ""), "{said:?}");
    assert!(said.out.contains("portal 2 is paused"), "{said:?}");
    assert_eq!(service.refusal(2).await, "portal_paused");
    assert_eq!(service.state(2).await, "paused");
    let told = place.run(&["token", "2"]).await;
    assert_eq!(told.code, 1, "{told:?}");
    assert!(told.err.contains("grantkeeper portal resume"), "{told:?}");
    service.token(1).await.unwrap();
    killed(service).await;

    let checked = place.run(&["check"]).await;
    assert!(checked.out.contains("good, and paused by an operator"), "{checked:?}");

    let asked = place.standin.sim.ledger(0, Some(portal(2))).len();
    let service = place.serve().await;
    service.ready().await;
    assert_eq!(service.refusal(2).await, "portal_paused");
    service.token(3).await.unwrap();
    let list = place.run(&["portal", "list", "--state", "paused"]).await;
    assert!(list.out.contains("paused") && list.out.contains('2'), "{list:?}");
    assert_eq!(place.standin.sim.ledger(0, Some(portal(2))).len(), asked);

    let json = place.run(&["--output", "json", "portal", "resume", "2"]).await;
    assert_eq!(json.code, 0, "{json:?}");
    let json: serde_json::Value = serde_json::from_str(&json.out).unwrap();
    let portals = serde_json::json!([{"portal_id": 2, "state": "paused", "changes": true}]);
    assert_eq!(json["portals"], portals);
    service.token(2).await.unwrap();
    assert_eq!(place.run(&["portal", "pause", "99"]).await.code, 3);
}

/// One that was known to have ended before, and one that ended while nobody looked.
#[tokio::test]
async fn a_restart_gives_out_no_token_of_a_grant_that_has_ended() {
    let mut place = place(3).await;
    place.extra += "[validate]\nevery = \"2s\"\n";
    let service = place.serve().await;
    service.ready().await;
    place.standin.sim.uninstall(portal(1));
    place.alerts.wait_for("grant_revoked", "opened").await;
    assert_eq!(service.refusal(1).await, "grant_revoked");
    // What is not synced at once is in the journal with what is.
    for order in ["pause", "resume"] {
        let target = format!("/v1/portals/3/{order}");
        let done: serde_json::Value = service.client.post(&target).await.unwrap();
        assert_eq!(done["outlives_restart"], true);
    }
    killed(service).await;
    place.standin.sim.uninstall(portal(2));

    place.extra = place.extra.replace("every = \"2s\"", "every = \"1h\"");
    let service = place.serve().await;
    // Before the first answer of HubSpot's there is none for it, and then none either.
    assert_ne!(service.refusal(1).await, "");
    eventually("both are told to have ended", async || {
        service.state(1).await == "revoked" && service.state(2).await == "revoked"
    })
    .await;
    assert_eq!(service.refusal(1).await, "grant_revoked");
    assert_eq!(service.refusal(2).await, "grant_revoked");
    service.token(3).await.unwrap();
}

#[tokio::test]
async fn without_a_journal_a_pause_says_that_it_ends_with_the_service() {
    let place = Place::new(1, ROTATING).await;
    let service = place.serve().await;
    service.ready().await;
    assert!(service.log().contains("state_dir"), "{}", service.log());
    let said = place.run(&["portal", "pause", "1"]).await;
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.err.contains("ends when the service restarts"), "{said:?}");
    let status = place.run(&["status"]).await;
    assert!(status.out.contains("none (state_dir)"), "{status:?}");
    assert!(status.out.contains("requests a second keep"), "{status:?}");
}

#[tokio::test]
async fn check_looks_at_the_journal_as_a_start_would_and_changes_nothing() {
    let place = place(1).await;
    let check = async || place.run(&["check"]).await;
    let before = check().await;
    assert!(before.code == 0 && before.out.contains("is made at the first start"), "{before:?}");
    assert!(!place.path("state").exists(), "nothing was made");
    let service = place.serve().await;
    service.ready().await;
    let during = check().await;
    assert!(during.code == 0 && during.out.contains("in use by the running"), "{during:?}");
    killed(service).await;
    let after = check().await;
    assert!(after.code == 0 && after.out.contains("readable"), "{after:?}");

    let (key, aside) = (place.path("state/state.key"), place.path("aside"));
    std::fs::rename(&key, &aside).unwrap();
    let without = check().await;
    assert_eq!(without.code, 78, "{without:?}");
    assert!(without.out.contains("there is no key file"), "{without:?}");
    assert!(!key.exists(), "no new key was made");
    grantkeeper::sealing::SealingKey::create(&key).unwrap();
    assert_eq!(check().await.code, 78, "a key that opens nothing");
    std::fs::rename(&aside, &key).unwrap();
    assert_eq!(check().await.code, 0);
}

#[tokio::test]
async fn i3_a_start_that_requires_every_grant_to_be_good_counts_what_only_the_journal_has() {
    let mut place = place(2).await;
    let store = place.file_store();
    let key = Key::Portal(portal(1));
    let first = store.read(key).await.unwrap();
    drop(store);
    let service = place.serve().await;
    service.ready().await;
    killed(service).await;

    // The store is put back from a backup: HubSpot has replaced that token since.
    let store = place.file_store();
    let now = store.read(key).await.unwrap();
    assert_ne!(first.record.to_json().as_str(), now.record.to_json().as_str());
    store.write(key, &first.record, &Expected::At(now.version)).await.unwrap();
    drop(store);
    let checked = place.run(&["check"]).await;
    assert_eq!(checked.code, 0, "{checked:?}");

    place.extra += "[validate]\non_start = \"require_all\"\n";
    let service = place.serve().await;
    service.ready().await;
    service.token(1).await.unwrap();
    // Served at once, from the journal; stored again beside that.
    eventually("the portal is live", async || service.state(1).await == "live").await;
    let stored = place.file_store().read(key).await.unwrap().record.portal().unwrap();
    assert!(place.standin.sim.is_good(&stored.refresh_token), "the store has it again");
}
