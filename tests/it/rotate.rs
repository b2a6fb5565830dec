//! `grantkeeper rotate client-secret`: both ways HubSpot may behave, and every way it can go wrong.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    sync::Arc,
    time::Duration,
};

use grantkeeper::{
    secret::ClientSecret,
    sim::{Effect, Endpoint, Fault},
    store::{CredentialStore, Expected, Key, vault::VaultStore},
    time::SystemClock,
};
use serde_json::json;

use crate::support::{
    openbao, portal,
    service::{Ended, Place, Service, eventually, secret_file},
    sim::http,
};

const SHORT: &str = "[settings]\nrotating = true\nexpires_in = 6";
const LONG: &str = "[settings]\nrotating = true\nexpires_in = 1800";

/// A service that is ready, with so many portals.
async fn served(portals: u64, settings: &str) -> (Place, Service) {
    let place = Place::new(portals, settings).await;
    let service = place.serve().await;
    service.ready().await;
    (place, service)
}

/// The secret before and the one that somebody made at HubSpot, which takes both for now.
fn changed(place: &Place) -> (ClientSecret, ClientSecret) {
    let old = place.standin.sim.client_secret();
    (old, place.standin.sim.rotate_client_secret(Duration::from_secs(600)))
}

async fn rotate(place: &Place, secret: &str) -> Ended {
    place.run_with(&["rotate", "client-secret", "--from-file", "-"], secret).await
}

async fn app_record(store: &dyn CredentialStore) -> serde_json::Value {
    let stored = store.read(Key::App).await.unwrap();
    serde_json::from_str(&stored.record.to_json()).unwrap()
}

#[tokio::test]
async fn with_an_overlap_nobody_notices() {
    let (place, service) = served(3, SHORT).await;
    let (old, new) = changed(&place);
    let args = ["-o", "json", "rotate", "client-secret", "--from-file", "-"];
    let ended = place.run_with(&args, &format!("{}\n", new.expose())).await;
    assert_eq!(ended.code, 0, "{}", ended.err);
    let told: serde_json::Value = serde_json::from_str(&ended.out).unwrap();
    assert!(told["tried"].is_u64() && told["service_follows"] == true, "{told}");
    for step in ["proven", "staged", "tried: portal ", "promoted", "followed"] {
        assert!(ended.err.contains(step), "{step}: {}", ended.err);
    }
    let record = app_record(&place.file_store()).await;
    assert_eq!(record["client_secret"], new.expose());
    assert_eq!(record["previous_client_secret"], old.expose());
    assert_eq!(record["next_client_secret"], serde_json::Value::Null);
    // The overlap ends: the service is on the new secret already.
    place.standin.sim.set_client_secret(new, Duration::ZERO);
    let before = place.standin.sim.report().refreshes;
    eventually("all are refreshed again", || async {
        service.token(1).await.unwrap();
        place.standin.sim.report().refreshes > before + 6
    })
    .await;
    assert!(place.alerts.all().is_empty(), "{:?}", place.alerts.all());
}

#[tokio::test]
async fn after_a_hard_cut_over_the_service_recovers_without_a_restart() {
    let (place, service) = served(3, SHORT).await;
    let new = place.standin.sim.rotate_client_secret(Duration::ZERO);
    place.alerts.wait_for("app_rejected", "opened").await;
    assert_eq!(rotate(&place, new.expose()).await.code, 0);
    place.alerts.wait_for("app_rejected", "resolved").await;
    service.ready().await;
    for number in 1..=3 {
        service.token(number).await.unwrap();
    }
    assert_eq!(place.alerts.all().len(), 2);
}

/// What `rotate status` says, by the secret's place.
async fn status(place: &Place) -> serde_json::Value {
    let ended = place.run(&["-o", "json", "rotate", "status"]).await;
    assert_eq!(ended.code, 0, "{}", ended.err);
    let told: serde_json::Value = serde_json::from_str(&ended.out).unwrap();
    let by_place = told["secrets"].as_array().unwrap().iter();
    by_place
        .map(|kept| (kept["secret"].as_str().unwrap().to_owned(), kept["accepted"].clone()))
        .collect()
}

#[tokio::test]
async fn with_an_overlap_a_rotation_can_be_rolled_back_gone_on_with_and_ended() {
    let (place, service) = served(2, SHORT).await;
    let (old, new) = changed(&place);
    assert_eq!(rotate(&place, new.expose()).await.code, 0);
    assert_eq!(status(&place).await, json!({"current": true, "previous": true}));

    let back = place.run(&["rotate", "rollback"]).await;
    assert_eq!(back.code, 0, "{}", back.err);
    assert!(back.err.contains("rolled back") && back.err.contains("followed"), "{}", back.err);
    let record = app_record(&place.file_store()).await;
    assert_eq!(
        (&record["client_secret"], &record["next_client_secret"]),
        (&json!(old.expose()), &json!(new.expose()))
    );
    assert_eq!(record["previous_client_secret"], serde_json::Value::Null);
    // Twice is not back and forth.
    let again = place.run(&["rotate", "rollback"]).await;
    assert_eq!(again.code, 3, "{}", again.err);
    assert_eq!(status(&place).await, json!({"current": true, "next": true}));

    assert_eq!(place.run(&["rotate", "promote"]).await.code, 0);
    assert_eq!(app_record(&place.file_store()).await["client_secret"], new.expose());
    assert_eq!(place.run(&["rotate", "promote"]).await.code, 3, "nothing is staged any more");
    let kept = place.run(&["rotate", "retire"]).await;
    assert_eq!(kept.code, 2, "{}", kept.err);
    assert!(kept.err.contains("rotate status") && !kept.err.contains("--dry-run"), "{}", kept.err);
    assert!(kept.err.contains("accepts the earlier client secret still"), "{}", kept.err);
    let retired = place.run(&["rotate", "retire", "--yes"]).await;
    assert_eq!(retired.code, 0, "{}", retired.err);
    assert!(retired.err.contains("HubSpot accepts it still"), "{}", retired.err);
    assert_eq!(place.run(&["rotate", "retire"]).await.code, 0);
    assert_eq!(status(&place).await, json!({"current": true}));
    for number in 1..=2 {
        service.token(number).await.unwrap();
    }
    assert!(place.alerts.all().is_empty(), "{:?}", place.alerts.all());
}

#[tokio::test]
async fn a_staged_secret_that_is_not_proven_stays_staged() {
    let place = Place::new(1, SHORT).await;
    let store = place.file_store();
    let stored = store.read(Key::App).await.unwrap();
    let staged = ClientSecret::parse("the-only-copy").unwrap();
    let record = stored.record.with_next_secret(Some(&staged));
    store.write(Key::App, &record, &Expected::At(stored.version)).await.unwrap();
    drop(store);
    let before = app_record(&place.file_store()).await;
    assert_eq!(place.run(&["rotate", "promote"]).await.code, 78);
    assert_eq!(app_record(&place.file_store()).await, before);
    let down = http(503);
    place.standin.sim.set_fault(Fault::new(down));
    assert_eq!(place.run(&["rotate", "promote"]).await.code, 75);
    assert_eq!(app_record(&place.file_store()).await, before);
}

#[tokio::test]
async fn after_a_hard_cut_over_the_old_secret_is_shown_to_be_dead_and_not_gone_back_to() {
    let place = Place::new(1, SHORT).await;
    let new = place.standin.sim.rotate_client_secret(Duration::ZERO);
    assert_eq!(status(&place).await, json!({"current": false}), "the leak drill begins");
    assert_eq!(rotate(&place, new.expose()).await.code, 0);
    assert_eq!(status(&place).await, json!({"current": true, "previous": false}));
    let before = app_record(&place.file_store()).await;
    let back = place.run(&["rotate", "rollback"]).await;
    assert_eq!(back.code, 78, "{}", back.err);
    assert!(back.err.contains("no way back"), "{}", back.err);
    assert_eq!(app_record(&place.file_store()).await, before);
    let retired = place.run(&["-o", "json", "rotate", "retire"]).await;
    let told: serde_json::Value = serde_json::from_str(&retired.out).unwrap();
    assert_eq!(told, json!({"retired": true, "still_accepted": false}));
    assert_eq!(
        app_record(&place.file_store()).await["previous_client_secret"],
        serde_json::Value::Null
    );
}

#[tokio::test]
async fn no_other_secret_than_the_one_that_was_looked_at_is_forgotten() {
    let place = Place::new(1, SHORT).await;
    let new = place.standin.sim.rotate_client_secret(Duration::from_secs(600));
    assert_eq!(rotate(&place, new.expose()).await.code, 0);
    let late = Fault::new(Effect::Late(1_000)).times(1);
    place.standin.sim.set_fault(late.on(Endpoint::Introspect));
    let other = ClientSecret::parse("in-use-until-a-moment-ago").unwrap();
    let meanwhile = async {
        let looks = async || place.standin.sim.report().faults.is_empty();
        eventually("it looks", looks).await;
        let store = place.file_store();
        let stored = store.read(Key::App).await.unwrap();
        let record = stored.record.with_previous_secret(Some(&other));
        store.write(Key::App, &record, &Expected::At(stored.version)).await.unwrap();
    };
    let (ended, ()) = tokio::join!(place.run(&["rotate", "retire", "--yes"]), meanwhile);
    assert_eq!(ended.code, 75, "{ended:?}");
    assert!(ended.err.contains("somebody else changed"), "{ended:?}");
    assert_eq!(app_record(&place.file_store()).await["previous_client_secret"], other.expose());
}

#[tokio::test]
async fn status_says_why_hubspot_s_word_is_not_known_and_a_secret_s_file_that_all_may_read_is_remarked_on()
 {
    let place = Place::new(1, SHORT).await;
    let down = http(503);
    place.standin.sim.set_fault(Fault::new(down));
    let ended = place.run(&["rotate", "status"]).await;
    assert_eq!(ended.code, 0, "{}", ended.err);
    assert!(ended.out.contains("not known"), "{}", ended.out);
    assert!(ended.err.contains("HubSpot gave no useful answer"), "{}", ended.err);

    place.standin.sim.clear_faults();
    let new = place.standin.sim.rotate_client_secret(Duration::from_secs(600));
    let file = place.path("new-secret");
    secret_file(&file, new.expose());
    let args = ["rotate", "client-secret", "--no-canary", "--from-file", file.to_str().unwrap()];
    fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
    let ended = place.run(&args).await;
    assert_eq!(ended.code, 0, "{}", ended.err);
    assert!(ended.err.contains("can be read by every user of this machine"), "{}", ended.err);
    fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
    let again = place.run(&args).await;
    assert_eq!(again.code, 0, "{}", again.err);
    assert!(!again.err.contains("every user"), "{}", again.err);
}

#[tokio::test]
async fn the_earlier_secret_is_no_new_one_and_is_not_forgotten_unasked_while_hubspot_s_word_is_not_known()
 {
    let place = Place::new(2, SHORT).await;
    let (old, new) = changed(&place);
    // One portal's own trouble is no reason not to prove a secret.
    let migrating = http(477);
    place.standin.sim.set_fault(Fault::new(migrating).of(portal(1)));
    assert_eq!(rotate(&place, new.expose()).await.code, 0);
    place.standin.sim.clear_faults();
    let before = app_record(&place.file_store()).await;
    let pasted = rotate(&place, old.expose()).await;
    assert_eq!(pasted.code, 2, "{}", pasted.err);
    assert!(pasted.err.contains("rotate rollback"), "{}", pasted.err);

    let down = http(503);
    place.standin.sim.set_fault(Fault::new(down));
    let unasked = place.run(&["rotate", "retire"]).await;
    assert_eq!(unasked.code, 2, "{}", unasked.err);
    assert!(unasked.err.contains("HubSpot could not be asked"), "{}", unasked.err);
    assert_eq!(app_record(&place.file_store()).await, before);
    assert_eq!(place.run(&["rotate", "retire", "--yes"]).await.code, 0);
}

#[tokio::test]
async fn where_each_portal_that_is_tried_has_trouble_of_its_own_nothing_is_promoted() {
    let (place, service) = served(1, LONG).await;
    let (old, new) = changed(&place);
    let migrating = http(477);
    place.standin.sim.set_fault(Fault::new(migrating).on(Endpoint::Token).of(portal(1)));
    let ended = rotate(&place, new.expose()).await;
    assert_eq!(ended.code, 75, "{}", ended.err);
    assert!(ended.err.contains("trouble of its own"), "{}", ended.err);
    assert_eq!(app_record(&place.file_store()).await["client_secret"], old.expose());
    service.token(1).await.unwrap();
}

/// The steps that the record remembers.
async fn steps(place: &Place) -> Vec<String> {
    let ended = place.run(&["-o", "json", "rotate", "status"]).await;
    let told: serde_json::Value = serde_json::from_str(&ended.out).unwrap();
    let steps = told["steps"].as_array().unwrap().iter();
    steps
        .map(|step| {
            assert!(step["by"].as_str().unwrap().starts_with("uid "), "{step}");
            step["what"].as_str().unwrap().to_owned()
        })
        .collect()
}

#[tokio::test]
async fn a_secret_that_introspects_as_good_and_refreshes_nothing_is_found_out_by_one_portal() {
    let (place, service) = served(3, LONG).await;
    let (old, new) = changed(&place);
    // What a real one might do: take the new secret for a question and not for a refresh, or have trouble.
    for (effect, code, said) in [
        (json!({ "refuse": "BAD_CLIENT_SECRET" }), 78, "HubSpot refuses to refresh a portal"),
        (json!({ "http": 500 }), 75, "one portal could not be refreshed"),
    ] {
        let effect = serde_json::from_value(effect).unwrap();
        let id = place.standin.sim.set_fault(Fault::new(effect).on(Endpoint::Token));
        let ended = rotate(&place, new.expose()).await;
        place.standin.sim.clear_fault(id);
        assert_eq!(ended.code, code, "{}", ended.err);
        assert!(ended.err.contains(said), "{}", ended.err);
        assert!(ended.err.contains("taken out of the store again"), "{}", ended.err);
    }
    let record = app_record(&place.file_store()).await;
    assert_eq!(
        (&record["client_secret"], &record["next_client_secret"]),
        (&json!(old.expose()), &json!(null))
    );
    assert_eq!(steps(&place).await, ["staged", "discarded", "staged", "discarded"]);
    for number in 1..=3 {
        service.token(number).await.unwrap();
    }
    place.standin.sim.clear_faults();
    let ended = rotate(&place, new.expose()).await;
    assert_eq!(ended.code, 0, "{}", ended.err);
    assert!(ended.err.contains("tried: portal"), "{}", ended.err);
    assert_eq!(steps(&place).await.last().unwrap(), "promoted");
    assert!(place.alerts.all().is_empty(), "{:?}", place.alerts.all());
}

#[tokio::test]
async fn a_try_that_could_not_be_made_for_a_passing_reason_promotes_nothing() {
    let (place, _service) = served(1, LONG).await;
    let (old, new) = changed(&place);
    let file = place.path("new");
    secret_file(&file, new.expose());
    let hangs = Fault::new(Effect::HangBefore);
    let hangs = place.standin.sim.set_fault(hangs.on(Endpoint::Token));
    let args = ["rotate", "client-secret", "--from-file", file.to_str().unwrap()];
    let mut first = place.command(&args).spawn().unwrap();
    eventually("its try is under way", async || {
        place.standin.sim.portal(portal(1)).unwrap().in_flight == 1
    })
    .await;
    // Whoever hangs up cancels nothing, so that the second run can't try.
    first.kill().await.unwrap();
    let second = place.run(&[&args[..], &["-o", "json"]].concat()).await;
    assert_eq!(second.code, 75, "{second:?}");
    assert!(second.err.contains("another try is under way"), "{second:?}");
    let record = app_record(&place.file_store()).await;
    assert_eq!(
        (&record["client_secret"], &record["next_client_secret"]),
        (&json!(old.expose()), &json!(null))
    );
    place.standin.sim.clear_fault(hangs);
    let wanting = [&args[..], &["--no-canary", "-o", "json"]].concat();
    let told: serde_json::Value = serde_json::from_str(&place.run(&wanting).await.out).unwrap();
    assert_eq!(told, json!({"changed": true, "tried": null, "service_follows": true}));
}

#[tokio::test]
async fn a_staged_secret_that_could_not_be_taken_out_again_is_told_of() {
    let place = Place::new(1, "[settings]\nrotating = true\nexpires_in = 1800").await;
    let mut service = place.serve().await;
    service.ready().await;
    let new = place.standin.sim.rotate_client_secret(Duration::from_secs(600));
    let hangs = Fault::new(Effect::HangBefore);
    place.standin.sim.set_fault(hangs.on(Endpoint::Token));
    let meanwhile = async {
        let tries = async || place.standin.sim.portal(portal(1)).unwrap().in_flight == 1;
        eventually("its try is under way", tries).await;
        let store = place.file_store();
        let stored = store.read(Key::App).await.unwrap();
        let record = stored.record.with_member("note", json!("by another hand"));
        store.write(Key::App, &record, &Expected::At(stored.version)).await.unwrap();
        drop(store);
        service.child.kill().await.unwrap();
    };
    let (ended, ()) = tokio::join!(rotate(&place, new.expose()), meanwhile);
    assert_eq!(ended.code, 75, "{ended:?}");
    assert!(ended.err.contains("not taken out of the store again"), "{ended:?}");
    assert!(ended.err.contains("rotate discard"), "{ended:?}");
    assert_eq!(app_record(&place.file_store()).await["next_client_secret"], new.expose());
}

#[tokio::test]
async fn without_a_service_or_on_request_no_portal_is_tried_and_that_is_said() {
    let place = Place::new(1, SHORT).await;
    let new = place.standin.sim.rotate_client_secret(Duration::from_secs(600));
    let ended = rotate(&place, new.expose()).await;
    assert_eq!(ended.code, 0, "{}", ended.err);
    assert!(ended.err.contains("no service runs on this machine"), "{}", ended.err);
    let service = place.serve().await;
    service.ready().await;
    let newer = place.standin.sim.rotate_client_secret(Duration::from_secs(600));
    let args = ["rotate", "client-secret", "--no-canary", "--from-file", "-"];
    let ended = place.run_with(&args, newer.expose()).await;
    assert!(ended.code == 0 && ended.err.contains("not tried on a portal"), "{}", ended.err);
}

#[tokio::test]
async fn a_mistake_in_who_is_told_keeps_nobody_from_rotating() {
    let mut place = Place::new(1, "").await;
    let service = place.serve().await;
    service.ready().await;
    place.extra +=
        "[[alert]]\nname = \"team\"\nkind = \"slack\"\nurl = \"nowhere\"\nremind = \"1s\"\n";
    let new = place.standin.sim.rotate_client_secret(Duration::from_secs(600));
    let ended = rotate(&place, new.expose()).await;
    assert_eq!(ended.code, 0, "{}", ended.err);
    assert!(ended.err.contains("[[alert]] sections have mistakes"), "{}", ended.err);
    assert_eq!(place.run(&["status"]).await.code, 0);
    assert_eq!(place.run(&["check", "--offline"]).await.code, 78, "and check names them");
    place.extra += "[refresh]\nat = 7\n";
    assert_eq!(rotate(&place, new.expose()).await.code, 78, "any other mistake counts");
}

#[tokio::test]
async fn another_secret_that_stands_staged_is_put_aside_only_on_request() {
    let place = Place::new(1, SHORT).await;
    let new = place.standin.sim.rotate_client_secret(Duration::from_secs(600));
    let store = place.file_store();
    let stored = store.read(Key::App).await.unwrap();
    let theirs = ClientSecret::parse("staged-by-somebody-else").unwrap();
    let record = stored.record.with_next_secret(Some(&theirs));
    store.write(Key::App, &record, &Expected::At(stored.version)).await.unwrap();
    drop(store);
    let refused = rotate(&place, new.expose()).await;
    assert_eq!(refused.code, 2, "{}", refused.err);
    assert!(refused.err.contains("another new client secret stands staged"), "{}", refused.err);
    assert_eq!(app_record(&place.file_store()).await["next_client_secret"], theirs.expose());
    let args = ["rotate", "client-secret", "--replace", "--from-file", "-"];
    let replaced = place.run_with(&args, new.expose()).await;
    assert_eq!(replaced.code, 0, "{}", replaced.err);
    assert_eq!(app_record(&place.file_store()).await["client_secret"], new.expose());
}

#[tokio::test]
async fn going_back_puts_another_secret_that_stands_staged_aside_only_on_request() {
    let place = Place::new(1, SHORT).await;
    let (old, new) = changed(&place);
    assert_eq!(rotate(&place, new.expose()).await.code, 0);
    let store = place.file_store();
    let stored = store.read(Key::App).await.unwrap();
    let theirs = ClientSecret::parse("staged-by-somebody-else").unwrap();
    let record = stored.record.with_next_secret(Some(&theirs));
    store.write(Key::App, &record, &Expected::At(stored.version)).await.unwrap();
    drop(store);
    let before = app_record(&place.file_store()).await;
    let refused = place.run(&["rotate", "rollback"]).await;
    assert_eq!(refused.code, 2, "{}", refused.err);
    assert!(refused.err.contains("another new client secret stands staged"), "{}", refused.err);
    assert_eq!(app_record(&place.file_store()).await, before);
    let back = place.run(&["rotate", "rollback", "--replace"]).await;
    assert_eq!(back.code, 0, "{}", back.err);
    let record = app_record(&place.file_store()).await;
    assert_eq!(
        (&record["client_secret"], &record["next_client_secret"]),
        (&json!(old.expose()), &json!(new.expose()))
    );
}

#[tokio::test]
async fn a_webhook_signed_with_a_secret_that_is_younger_than_the_last_reading_is_known_soon() {
    let place = Place::new(1, "").await;
    let service = place.serve().await;
    service.ready().await;
    let new = place.standin.sim.rotate_client_secret(Duration::from_secs(600));
    // From another machine: nobody tells the service.
    let args = ["rotate", "client-secret", "--socket", "/nowhere/gk.sock", "--from-file", "-"];
    let ended = place.run_with(&args, new.expose()).await;
    assert_eq!(ended.code, 0, "{}", ended.err);
    eventually("it is known", async || verified(&service, &new).await["valid"] == true).await;
    let followed = place.run(&["rotate", "follow"]).await;
    assert!(followed.code == 0 && followed.out.contains("followed"), "{followed:?}");
    assert_eq!(service.stop().await, 0);
    let nobody = place.run(&["rotate", "follow"]).await;
    assert_eq!(nobody.code, 69, "nobody was told: {nobody:?}");
}

#[tokio::test]
async fn a_service_that_goes_on_with_another_secret_than_the_stored_one_is_not_said_to_follow() {
    let place = Place::new(1, "").await;
    let service = place.serve().await;
    service.ready().await;
    let (old, new) = changed(&place);
    let (wrong, staged) = (ClientSecret::parse("wrong"), ClientSecret::parse("staged"));
    let down = http(503);
    let down = Fault::new(down).on(Endpoint::Introspect);
    // HubSpot can't be asked about the one, and refuses the other.
    for (secret, fault) in [(new, Some(down)), (wrong.unwrap(), None)] {
        let store = place.file_store();
        let stored = store.read(Key::App).await.unwrap();
        let record = stored.record.with_client(&place.standin.sim.client_id(), &secret);
        let record = record.with_next_secret(staged.as_ref().ok());
        store.write(Key::App, &record, &Expected::At(stored.version)).await.unwrap();
        drop(store);
        fault.map(|fault| place.standin.sim.set_fault(fault));
        let followed = place.run(&["-o", "json", "rotate", "follow"]).await;
        assert_eq!((followed.code, followed.out.as_str()), (75, ""), "{followed:?}");
        assert!(followed.err.contains("not_followed"), "{followed:?}");
        let other = place.run(&["-o", "json", "rotate", "discard"]).await;
        let told: serde_json::Value = serde_json::from_str(&other.out).unwrap();
        assert_eq!(told["service_follows"], false, "{other:?}");
        assert!(!other.err.contains("uses it"), "{other:?}");
        place.standin.sim.clear_faults();
    }
    let store = place.file_store();
    let stored = store.read(Key::App).await.unwrap();
    let record = stored.record.with_client(&place.standin.sim.client_id(), &old);
    store.write(Key::App, &record, &Expected::At(stored.version)).await.unwrap();
    drop(store);
    assert_eq!(place.run(&["rotate", "follow"]).await.code, 0);
}

#[tokio::test]
async fn a_staged_secret_can_be_forgotten_and_the_client_id_is_no_secret() {
    let place = Place::new(1, SHORT).await;
    let store = place.file_store();
    let before = store.read(Key::App).await.unwrap();
    drop(store);
    let swapped = rotate(&place, place.standin.sim.client_id().as_str()).await;
    assert_eq!(swapped.code, 2, "{}", swapped.err);
    assert!(swapped.err.contains("client id, not its client secret"), "{}", swapped.err);
    let store = place.file_store();
    assert_eq!(store.read(Key::App).await.unwrap().version, before.version);
    let record = before.record.with_next_secret(Some(&ClientSecret::parse("forgotten").unwrap()));
    store.write(Key::App, &record, &Expected::At(before.version)).await.unwrap();
    drop(store);
    assert_eq!(place.run(&["rotate", "discard"]).await.code, 0);
    assert_eq!(app_record(&place.file_store()).await["next_client_secret"], json!(null));
    assert_eq!(place.run(&["rotate", "discard"]).await.code, 3, "there is none any more");
}

/// Whether a webhook that was signed with `secret` is HubSpot's, and by which secret.
async fn verified(service: &Service, secret: &ClientSecret) -> serde_json::Value {
    use base64::{Engine, prelude::BASE64_STANDARD};
    let text = format!("{}[]", secret.expose());
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
    let mut hex = String::new();
    for byte in digest.as_ref() {
        hex += &format!("{byte:02x}");
    }
    let asked = json!({
        "method": "POST", "uri": "https://app.example/hook", "body": BASE64_STANDARD.encode("[]"),
        "headers": { "x-hubspot-signature": hex },
    });
    service.client.post_json("/v1/webhooks/verify", &asked).await.unwrap()
}

#[tokio::test]
async fn the_earlier_secret_counts_for_as_long_as_is_configured_and_then_somebody_is_told() {
    let mut place = Place::new(1, SHORT).await;
    place.extra += "[rotation]\nkeep_previous = \"3s\"\n[validate]\nevery = \"2s\"\n";
    let service = place.serve().await;
    service.ready().await;
    let (old, new) = changed(&place);
    assert_eq!(rotate(&place, new.expose()).await.code, 0);
    assert_eq!(verified(&service, &new).await["signed_with"], "current");
    let told = place.alerts.wait_for("rotation_unfinished", "opened").await;
    assert!(told["data"]["action"].as_str().unwrap().contains("rotate retire"), "{told}");
    assert_eq!(verified(&service, &old).await["valid"], false);
    assert_eq!(place.run(&["rotate", "retire", "--yes"]).await.code, 0);
    place.alerts.wait_for("rotation_unfinished", "resolved").await;
    assert_eq!(steps(&place).await, ["staged", "promoted", "retired"]);
}

#[tokio::test]
async fn a_wrong_secret_changes_nothing() {
    let place = Place::new(1, SHORT).await;
    let before = app_record(&place.file_store()).await;
    let ended = rotate(&place, "copied-from-the-wrong-app").await;
    assert_eq!(ended.code, 78, "{}", ended.err);
    assert!(ended.err.contains("BAD_CLIENT_SECRET") && ended.err.contains("Nothing was changed"));
    assert!(!ended.err.contains("copied-from"), "{}", ended.err);
    assert_eq!(app_record(&place.file_store()).await, before);
}

#[tokio::test]
async fn the_same_secret_again_and_a_mangled_one_write_nothing() {
    let place = Place::new(1, SHORT).await;
    let store = place.file_store();
    let before = store.read(Key::App).await.unwrap().version;
    let same = place.standin.sim.client_secret();
    let again = rotate(&place, same.expose()).await;
    assert_eq!(again.code, 0, "running it twice is safe: {}", again.err);
    assert!(again.out.contains("in use already"), "{}", again.out);
    for mangled in ["", "\"quoted\"", "two words", "two\nlines"] {
        let ended = rotate(&place, mangled).await;
        assert_eq!(ended.code, 2, "{mangled:?}: {}", ended.err);
    }
    assert_eq!(store.read(Key::App).await.unwrap().version, before);
}

#[tokio::test]
async fn with_hubspot_down_the_old_secret_stays_in_use_and_it_can_be_run_again() {
    let place = Place::new(1, SHORT).await;
    let (old, new) = changed(&place);
    let down = http(503);
    place.standin.sim.set_fault(Fault::new(down));
    assert_eq!(rotate(&place, new.expose()).await.code, 75);
    let record = app_record(&place.file_store()).await;
    assert_eq!(record["client_secret"], old.expose());
    assert_eq!(record["next_client_secret"], json!(null), "what is not proven is not left there");
    place.standin.sim.clear_faults();
    assert_eq!(rotate(&place, new.expose()).await.code, 0);
    assert_eq!(app_record(&place.file_store()).await["client_secret"], new.expose());
}

#[tokio::test]
async fn a_rotation_that_was_cut_off_after_staging_is_finished_by_running_it_again() {
    let place = Place::new(1, SHORT).await;
    let new = place.standin.sim.rotate_client_secret(Duration::from_secs(600));
    let store = place.file_store();
    let stored = store.read(Key::App).await.unwrap();
    let staged = stored.record.with_next_secret(Some(&new));
    store.write(Key::App, &staged, &Expected::At(stored.version)).await.unwrap();
    assert_eq!(rotate(&place, new.expose()).await.code, 0);
    let record = app_record(&store).await;
    assert_eq!(record["client_secret"], new.expose());
    assert_eq!(record["next_client_secret"], serde_json::Value::Null);
}

#[tokio::test]
async fn on_openbao_members_of_others_survive_a_rotation() {
    let mut place = Place::new(1, SHORT).await;
    let bao = openbao().await;
    let mount = bao.mount().await;
    place.use_openbao(bao, &mount, &bao.root_token);
    let sim = &place.standin.sim;
    let app = json!({
        "clientId": sim.client_id().as_str(), "clientSecret": sim.client_secret().expose(), "team": "blue",
    });
    bao.put(&mount, "grantkeeper/acme-sync/client", app).await;
    let new: ClientSecret = place.standin.sim.rotate_client_secret(Duration::ZERO);
    assert_eq!(rotate(&place, new.expose()).await.code, 0);
    let mut settings = bao.settings(&mount);
    "grantkeeper/acme-sync".clone_into(&mut settings.prefix);
    let store = VaultStore::connect(settings, Arc::new(SystemClock)).unwrap();
    let record = app_record(&store).await;
    assert_eq!(record["clientSecret"], new.expose());
    assert_eq!(record["team"], "blue");
}
