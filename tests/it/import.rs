//! `grantkeeper import` and `grantkeeper reshard`, as an operator runs them, on real stores.

use std::{fmt::Write, fs};

use grantkeeper::{
    sim::Endpoint,
    store::{CredentialStore, Expected, Key},
};
use serde_json::{Value, json};

use crate::support::{
    moto, openbao, portal,
    service::{Ended, Place, secret_file},
};

/// A place whose stand-in has portals 1 to `portals`, and whose store has the app's pair alone.
async fn empty(portals: u64) -> Place {
    let place = Place::new(portals, "").await;
    let store = place.file_store();
    for number in 1..=portals {
        let key = Key::Portal(portal(number));
        let found = store.read(key).await.unwrap();
        store.remove(key, &found.version).await.unwrap();
    }
    place
}

fn token(place: &Place, number: u64) -> String {
    place.standin.sim.refresh_token(portal(number)).unwrap().expose().to_owned()
}

fn told(ended: &Ended) -> Value {
    serde_json::from_str(&ended.out).unwrap_or_else(|error| panic!("{error}: {ended:?}"))
}

async fn stored(store: &dyn CredentialStore, number: u64) -> Value {
    let found = store.read(Key::Portal(portal(number))).await.unwrap();
    serde_json::from_str(&found.record.to_json()).unwrap()
}

#[tokio::test]
async fn a_csv_with_columns_of_its_own_is_stored_and_run_again_changes_nothing() {
    let place = empty(3).await;
    let mut csv = "account,rt,owner\n".to_owned();
    for number in 1..=3 {
        writeln!(csv, "{number},{},team-{number}", token(&place, number)).unwrap();
    }
    let columns = ["--portal-column", "account", "--token-column", "rt", "--keep-column", "owner"];
    let args: Vec<&str> = ["-o", "json", "import", "-"].into_iter().chain(columns).collect();
    let first = place.run_with(&args, &csv).await;
    assert_eq!(first.code, 0, "{first:?}");
    assert_eq!(told(&first), json!({"dry_run": false, "counts": {"stored": 3}, "skipped": []}));
    let record = stored(&place.file_store(), 2).await;
    assert_eq!(record["refresh_token"], token(&place, 2));
    assert_eq!(record["owner"], "team-2");
    assert!(record["enrolled_at"].is_string(), "{record}");
    let again = place.run_with(&args, &csv).await;
    assert_eq!(told(&again)["counts"], json!({"known": 3}), "{again:?}");
    assert_eq!(stored(&place.file_store(), 2).await, record);
}

#[tokio::test]
async fn a_dry_run_asks_hubspot_about_each_grant_and_stores_none() {
    let place = empty(4).await;
    place.standin.sim.revoke(portal(2));
    let mut lines = String::new();
    for (number, owner) in [(1, 1), (2, 2), (3, 4)] {
        let row = json!({"portal_id": number, "refresh_token": token(&place, owner)});
        writeln!(lines, "{row}").unwrap();
    }
    lines.push_str("{\"portal_id\": 9}\nnonsense\n");
    let file = place.path("grants.jsonl");
    secret_file(&file, &lines);
    let ended = place.run(&["-o", "json", "import", "--dry-run", file.to_str().unwrap()]).await;
    assert_eq!(ended.code, 4, "{ended:?}");
    let report = told(&ended);
    assert_eq!(report["counts"], json!({"stored": 1, "not_good": 2, "unusable": 2}), "{report}");
    let skipped = report["skipped"].as_array().unwrap();
    assert_eq!(
        skipped[0]["detail"],
        "HubSpot says that it is revoked, or was never good for this app"
    );
    assert_eq!(skipped[1]["detail"], "HubSpot says that it is portal 4's");
    assert_eq!(skipped[2]["portal_id"], 9);
    assert_eq!(skipped[3]["line"], 5);
    assert_eq!(place.file_store().list().await.unwrap().portals, []);
    let ledger = place.standin.sim.ledger(0, None);
    assert!(ledger.iter().all(|entry| entry.endpoint == Endpoint::Introspect), "nothing was spent");
    let table = place.run(&["import", "--dry-run", file.to_str().unwrap()]).await;
    assert!(
        table.out.contains("nothing was stored; it would be: 2 not_good, 1 stored, 2 unusable"),
        "{table:?}"
    );
}

#[tokio::test]
async fn a_dry_run_asks_about_grants_that_are_stored_already_too() {
    let place = Place::new(2, "").await;
    let row = |number| json!({"portal_id": number, "refresh_token": token(&place, number)});
    let lines = format!("{}\n{}\n", row(1), row(2));
    place.standin.sim.revoke(portal(2));
    let ended = place.run_with(&["-o", "json", "import", "--dry-run", "-"], &lines).await;
    assert_eq!(ended.code, 4, "{ended:?}");
    assert_eq!(told(&ended)["counts"], json!({"known": 1, "not_good": 1}), "{ended:?}");
}

#[tokio::test]
async fn a_stored_grant_gives_way_to_another_one_only_when_told_to() {
    let place = Place::new(2, "").await;
    let key = Key::Portal(portal(1));
    let found = place.file_store().read(key).await.unwrap();
    let theirs = found.record.with_member("owner", json!("theirs"));
    place.file_store().write(key, &theirs, &Expected::At(found.version)).await.unwrap();
    let before = stored(&place.file_store(), 1).await;
    let row = json!({"portal_id": 1, "refresh_token": "another", "note": "new"}).to_string();
    let third = json!({"portal_id": 1, "refresh_token": "a-third"});
    let thrice = format!("{row}\n{row}\n{third}\n");
    let kept = place.run_with(&["-o", "json", "import", "-"], &thrice).await;
    assert_eq!(kept.code, 4, "{kept:?}");
    assert_eq!(told(&kept)["counts"], json!({"other_grant": 1, "repeated": 1, "twice": 1}));
    assert_eq!(stored(&place.file_store(), 1).await, before);
    let replaced = place.run_with(&["-o", "json", "import", "--replace", "-"], &row).await;
    assert_eq!(told(&replaced)["counts"], json!({"replaced": 1}), "{replaced:?}");
    let after = stored(&place.file_store(), 1).await;
    assert_eq!((&after["note"], &after["owner"]), (&json!("new"), &json!("theirs")), "{after}");
    assert_eq!(after["refresh_token"], "another");
    // Where a row says when it was enrolled, that stands.
    let row =
        json!({"portal_id": 1, "refresh_token": "older", "enrolled_at": "2025-01-01T00:00:00Z"});
    let dated = place.run_with(&["import", "--replace", "-"], &row.to_string()).await;
    assert_eq!(dated.code, 0, "{dated:?}");
    assert_eq!(stored(&place.file_store(), 1).await["enrolled_at"], row["enrolled_at"]);
    // Told to look first, it takes none that HubSpot does not know.
    let row = json!({"portal_id": 2, "refresh_token": "a-third"}).to_string();
    let checked =
        place.run_with(&["-o", "json", "import", "--replace", "--check", "-"], &row).await;
    assert_eq!(told(&checked)["counts"], json!({"not_good": 1}), "{checked:?}");
}

#[tokio::test]
async fn what_can_t_be_read_is_told_without_its_content() {
    let place = empty(1).await;
    for (text, said) in [
        ("account,CANARY\n1,2\n", "none of the 2 columns"),
        ("4711,CANARY\n", "none of the 2 columns"),
        ("[{\"portal_id\":1,\"refresh_token\":\"CANARY\"}]\n", "one JSON array"),
        ("\u{feff}[{\"portal_id\":1,\"refresh_token\":\"CANARY\"}]\n", "one JSON array"),
    ] {
        let refused = place.run_with(&["import", "-"], text).await;
        assert_eq!(refused.code, 2, "{refused:?}");
        assert!(refused.err.contains(said), "{refused:?}");
        assert!(!refused.err.contains("CANARY") && refused.out.is_empty(), "{refused:?}");
    }
    let latin = place.path("latin.csv");
    fs::write(&latin, b"portal_id,refresh_token,name\n1,CANARY,M\xfcller\n").unwrap();
    let refused = place.run(&["import", latin.to_str().unwrap()]).await;
    assert_eq!(refused.code, 2, "{refused:?}");
    assert!(refused.err.contains("line 2 is not UTF-8"), "{refused:?}");
    assert!(!refused.err.contains("CANARY"), "{refused:?}");
    let nothing = place.run_with(&["import", "-"], "").await;
    assert_eq!(nothing.code, 2, "{nothing:?}");
    let missing = place.run(&["import", "/nowhere.csv"]).await;
    assert_eq!(missing.code, 2, "{missing:?}");
    assert_eq!(place.run(&["import"]).await.code, 2);
}

#[tokio::test]
async fn a_whole_store_moves_to_another_kind_and_layout_and_the_service_goes_on_there() {
    let mut place = Place::new(30, "[settings]\nrotating = true\nexpires_in = 1800").await;
    let old = place.path("old.toml");
    fs::write(&old, place.config_text()).unwrap();
    let bao = openbao().await;
    let mount = bao.mount().await;
    place.use_openbao(bao, &mount, &bao.root_token);
    place.store.push_str("layout = \"packed\"\nshards = 4\n");
    let dry = place.run(&["import", "--dry-run", "--from-config", old.to_str().unwrap()]).await;
    assert_eq!(dry.code, 0, "{dry:?}");
    assert!(dry.out.contains("nothing was stored; it would be: 30 stored"), "{dry:?}");
    let moved = place.run(&["import", "--from-config", old.to_str().unwrap()]).await;
    assert_eq!(moved.code, 0, "{moved:?}");
    assert!(moved.out.contains("30 stored"), "{moved:?}");
    assert!(moved.err.contains("client pair"), "{moved:?}");

    let service = place.serve().await;
    service.ready().await;
    for number in [1, 17, 30] {
        service.token(number).await.unwrap();
    }
    // Each refresh replaced a refresh token, and each is a member of a shard.
    let shards = bao.list(&mount, "grantkeeper/acme-sync/portals").await;
    assert_eq!(shards, ["shard-000", "shard-001", "shard-002", "shard-003"]);

    // To more shards, and to records of their own, beside the running service.
    for (layout, count) in [("layout = \"packed\"\nshards = 9\n", 9), ("", 30)] {
        let before = place.store.find("layout").unwrap_or(place.store.len());
        place.store.truncate(before);
        place.store.push_str(layout);
        let ended = place.run(&["-o", "json", "reshard"]).await;
        assert_eq!(ended.code, 0, "{ended:?}");
        let report = told(&ended);
        assert_eq!(report["left"], json!([]), "{report}");
        let all = report["moved"].as_u64().unwrap() + report["in_place"].as_u64().unwrap();
        assert_eq!(all, 30, "{report}");
        let names = bao.list(&mount, "grantkeeper/acme-sync/portals").await;
        let full = names.iter().filter(|name| layout.is_empty() != name.starts_with("shard-"));
        assert_eq!(full.count(), count, "{names:?}");
        service.token(5).await.unwrap();
    }
    assert_eq!(service.stop().await, 0);
    let checked = place.run(&["check"]).await;
    assert_eq!(checked.code, 0, "{checked:?}");
}

#[tokio::test]
async fn reshard_says_that_the_embedded_store_has_no_layout() {
    let place = empty(1).await;
    let ended = place.run(&["reshard"]).await;
    assert_eq!(ended.code, 78, "{ended:?}");
    assert!(ended.err.contains("one way only"), "{ended:?}");
}

#[tokio::test]
async fn check_touches_no_record_on_aws_and_says_what_a_reshard_is_due_for() {
    let mut place = empty(4).await;
    let store = place.move_to_aws(moto().await).await;
    for number in 1..=4 {
        let key = Key::Portal(portal(number));
        store.remove(key, &store.read(key).await.unwrap().version).await.unwrap();
    }
    for number in 1..=3 {
        // Each import writes to the one shard again.
        let layout = place.store.find("layout").unwrap_or(place.store.len());
        place.store.truncate(layout);
        place.store.push_str("layout = \"packed\"\nshards = 1\n");
        let row = json!({"portal_id": number, "refresh_token": token(&place, number)});
        let stored = place.run_with(&["import", "--replace", "-"], &row.to_string()).await;
        assert_eq!(stored.code, 0, "{stored:?}");
        let checked = place.run(&["check"]).await;
        assert_eq!(checked.code, 0, "{checked:?}");
    }
    place.store = place.store.replace("layout = \"packed\"\nshards = 1\n", "");
    let checked = place.run(&["check"]).await;
    assert_eq!(checked.code, 0, "{checked:?}");
    assert!(checked.out.contains("`grantkeeper reshard` moves them"), "{checked:?}");
}

#[tokio::test]
async fn check_names_the_cost_of_both_layouts_on_aws() {
    let mut place = Place::new(2, "").await;
    let store = place.move_to_aws(moto().await).await;
    drop(store);
    let checked = place.run(&["check"]).await;
    assert_eq!(checked.code, 0, "{checked:?}");
    assert!(checked.out.contains("single: 3 secrets, $1.20 a month"), "{checked:?}");
    assert!(checked.out.contains("the other layout would be packed, 64 shards"), "{checked:?}");
}

/// The largest fleet there is, in one run.
#[tokio::test]
async fn ten_thousand_grants_are_imported_in_one_run() {
    let mut place = empty(1).await;
    let bao = openbao().await;
    let mount = bao.mount().await;
    place.use_openbao(bao, &mount, &bao.root_token);
    place.store.push_str("layout = \"packed\"\n");
    let mut csv = "hub_id,refresh_token\n".to_owned();
    for number in 1..=10_000 {
        writeln!(csv, "{number},na1-0000-{number:08}").unwrap();
    }
    let file = place.path("grants.csv");
    secret_file(&file, &csv);
    let ended = place.run(&["-o", "json", "import", file.to_str().unwrap()]).await;
    assert_eq!(ended.code, 0, "{ended:?}");
    assert_eq!(told(&ended)["counts"], json!({"stored": 10_000}));
    let again = place.run(&["-o", "json", "import", file.to_str().unwrap()]).await;
    assert_eq!(told(&again)["counts"], json!({"known": 10_000}), "{again:?}");
}
