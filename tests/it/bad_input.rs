//! What is wrong before or at the start: each gets a message that says what happened, why and what to
//! do, the contract's exit code, and loses nothing.

use std::{fs, os::unix::net::UnixListener};

use grantkeeper::{
    secret::ClientSecret,
    store::{CredentialStore, Expected, Key},
};
use serde_json::json;

use crate::support::{
    openbao, record,
    service::{Ended, Place, eventually, portal, secret_file},
    sim::http,
};

const ROTATING: &str = "[settings]\nrotating = true";

/// What happened, why and what to do, with this exit code and these words.
#[track_caller]
fn refused(ended: &Ended, code: i32, words: &[&str]) {
    assert_eq!(ended.code, code, "{}", ended.err);
    assert!(ended.err.contains("error: "), "{}", ended.err);
    assert!(ended.err.contains("  fix: "), "{}", ended.err);
    for word in words {
        assert!(ended.err.contains(word), "{word:?} is not in:\n{}", ended.err);
    }
}

async fn put(place: &Place, key: Key, content: serde_json::Value) {
    let store = place.file_store();
    let expected = match store.read(key).await {
        Ok(stored) => Expected::At(stored.version),
        Err(_) => Expected::Absent,
    };
    store.write(key, &record(&content), &expected).await.unwrap();
}

#[tokio::test]
async fn a_store_without_the_app_s_record_is_refused_by_name() {
    let place = Place::new(0, ROTATING).await;
    let store = place.file_store();
    let stored = store.read(Key::App).await.unwrap();
    store.remove(Key::App, &stored.version).await.unwrap();
    let ended = place.run(&["run"]).await;
    refused(&ended, 78, &["client"]);
    assert!(!place.socket().exists());
}

#[tokio::test]
async fn an_app_record_that_lacks_or_mangles_a_member_is_refused_with_the_member() {
    for (content, word) in [
        (json!({}), "`client_id`"),
        (json!({"client_id": "id"}), "`client_secret`"),
        (json!({"client_id": "id", "client_secret": ""}), "it is empty"),
        (json!({"client_id": "id", "client_secret": "a\nb"}), "a line break"),
        (json!({"client_id": 7, "client_secret": "x"}), "wrong type"),
    ] {
        let place = Place::new(1, ROTATING).await;
        put(&place, Key::App, content).await;
        refused(&place.run(&["run"]).await, 78, &["the record `client` can't be used", word]);
        refused(
            &place.run(&["init", "--output-dir", "out"]).await,
            78,
            &["the record `client` can't be used"],
        );
    }
}

#[tokio::test]
async fn one_unusable_portal_record_is_told_and_the_others_are_served() {
    let place = Place::new(3, ROTATING).await;
    put(&place, Key::Portal(portal(2)), json!({"refresh_token": "na1-abc\n"})).await;
    let check = place.run(&["check"]).await;
    assert_eq!(check.code, 78, "{}", check.out);
    assert!(check.out.contains("portal 2") && check.out.contains("line break"), "{}", check.out);
    let service = place.serve().await;
    let told = place.alerts.wait_for("grant_mismatched", "opened").await;
    assert_eq!(told["data"]["portals"], json!([2]));
    assert_eq!(service.state(2).await, "mismatched");
    assert_eq!(service.refusal(2).await, "grant_revoked");
    service.token(1).await.unwrap();
    service.token(3).await.unwrap();

    // Repaired by an operator, it comes back.
    let token = place.standin.sim.refresh_token(portal(2)).unwrap();
    put(&place, Key::Portal(portal(2)), json!({"refresh_token": token.expose()})).await;
    service.signal(rustix::process::Signal::HUP);
    place.alerts.wait_for("grant_mismatched", "resolved").await;
    service.token(2).await.unwrap();
}

#[tokio::test]
async fn two_records_for_one_portal_are_one_portal_and_a_remark() {
    let mut place = Place::new(1, ROTATING).await;
    let bao = openbao().await;
    let (mount, _) = place.move_to_openbao(bao).await;
    bao.put(&mount, "grantkeeper/acme-sync/portals/01", json!({"refresh_token": "na1-x"})).await;
    let check = place.run(&["check"]).await;
    assert_eq!(check.code, 0, "{}{}", check.out, check.err);
    assert!(check.out.contains("\"01\""), "{}", check.out);
    let service = place.serve().await;
    service.ready().await;
    let status = service.get("/v1/status").await.unwrap();
    assert_eq!(status["portals_total"], 1);
    assert!(status["remarks"].to_string().contains("01"), "{status}");
    // Which, only to who may see all.
    let ready = service.client.ask(hyper::Method::GET, "/readyz?verbose").await.unwrap();
    let words = String::from_utf8_lossy(&ready.body);
    assert_eq!(words, "ready\nnote: remarks on the store's records, see the status: 1\n");
}

#[tokio::test]
async fn a_kv_version_1_mount_is_refused_with_the_fix() {
    let mut place = Place::new(1, ROTATING).await;
    let bao = openbao().await;
    let mount = bao.mount_kv(1).await;
    place.use_openbao(bao, &mount, &bao.root_token);
    refused(&place.run(&["run"]).await, 78, &["version"]);
}

#[tokio::test]
async fn every_mistake_of_a_configuration_is_told_at_once_with_line_and_column() {
    let place = Place::new(0, ROTATING).await;
    let path = place.path("bad.toml");
    fs::write(&path, "[app]\nnme = \"x\"\n[store]\nkind = \"file\"\n[refresh]\nat = 7\n").unwrap();
    let mut command = place.command(&["run"]);
    command.env("GRANTKEEPER_CONFIG", &path);
    let ended = place.run(&["--config", path.to_str().unwrap(), "check"]).await;
    assert_eq!(ended.code, 2, "two --config are wrong usage: {}", ended.err);
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_grantkeeper"));
    command.args(["check", "--offline"]).env_clear().env("GRANTKEEPER_CONFIG", &path);
    let ended = crate::support::service::finish(command, "").await;
    refused(&ended, 78, &[":2:1: app.nme", "did you mean name?", ":6:6: refresh.at", "key_file"]);
}

#[tokio::test]
async fn a_configuration_that_is_not_there_is_refused_with_the_way_to_name_one() {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_grantkeeper"));
    command.args(["run", "--allow-root", "--config", "/nonexistent.toml"]).env_clear();
    let ended = crate::support::service::finish(command, "").await;
    refused(&ended, 78, &["/nonexistent.toml", "--config"]);
}

#[tokio::test]
async fn a_taken_health_port_is_refused_with_the_address() {
    let mut place = Place::new(1, ROTATING).await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    place.extra += &format!("[http]\nlisten = \"{address}\"\n");
    refused(&place.run(&["run"]).await, 1, &[&address.to_string(), "in use"]);
    assert!(!place.socket().exists(), "nothing is left behind");
}

#[tokio::test]
async fn a_stale_socket_file_is_replaced() {
    let place = Place::new(1, ROTATING).await;
    drop(UnixListener::bind(place.socket()).unwrap());
    let service = place.serve().await;
    service.token(1).await.unwrap();
}

#[tokio::test]
async fn a_regular_file_in_the_socket_s_place_is_refused_and_left_alone() {
    let place = Place::new(1, ROTATING).await;
    fs::write(place.socket(), "precious").unwrap();
    refused(&place.run(&["run"]).await, 78, &["is not a socket", "Nothing was touched"]);
    assert_eq!(fs::read_to_string(place.socket()).unwrap(), "precious");
}

#[tokio::test]
async fn a_second_service_on_the_same_socket_is_refused_and_the_first_goes_on() {
    let place = Place::new(1, ROTATING).await;
    let first = place.serve().await;
    refused(&place.run(&["run"]).await, 75, &["another service is listening"]);
    first.token(1).await.unwrap();
}

#[tokio::test]
async fn a_missing_socket_folder_is_named() {
    let place = Place::new(1, ROTATING).await;
    let config = place.config_text().replace("gk.sock", "no/such/folder/gk.sock");
    fs::write(place.path("folder.toml"), config).unwrap();
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_grantkeeper"));
    command.args(["run", "--allow-root", "--config"]).arg(place.path("folder.toml")).env_clear();
    let ended = crate::support::service::finish(command, "").await;
    refused(&ended, 78, &["no/such/folder", "RuntimeDirectory"]);
}

#[tokio::test]
async fn a_machine_without_ca_certificates_is_told_how_to_get_them() {
    let place = Place::new(1, ROTATING).await;
    for what in ["check", "run"] {
        let mut command = place.command(&[what]);
        command.env("SSL_CERT_FILE", "/nonexistent").env("SSL_CERT_DIR", "/nonexistent");
        let ended = crate::support::service::finish(command, "").await;
        assert_eq!(ended.code, 78, "{}{}", ended.out, ended.err);
        let told = ended.out + &ended.err;
        assert!(told.contains("CA certificates") && told.contains("ca-certificates"), "{told}");
    }
}

#[tokio::test]
async fn a_clock_wrong_by_an_hour_is_told_and_harms_no_token() {
    let place = Place::new(1, "[settings]\nrotating = true\ndate_offset = -3600").await;
    let check = place.run(&["check"]).await;
    assert_eq!(check.code, 0, "{}", check.out);
    assert!(check.out.contains("clock") && check.out.contains("ahead of HubSpot"), "{}", check.out);
    let service = place.serve().await;
    service.ready().await;
    let answer = service.token(1).await.unwrap();
    assert!(answer["expires_in"].as_u64().unwrap() > 1700, "{answer}");
    assert!(service.log().contains("this machine's clock and HubSpot's differ"));
}

#[tokio::test]
async fn a_store_that_is_down_at_start_is_75_and_the_same_command_works_when_it_is_back() {
    let mut place = Place::new(1, ROTATING).await;
    let good = place.store.clone();
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    secret_file(&place.path("vault-token"), "s.token");
    place.store = format!(
        "[store]\nkind = \"vault\"\n[store.vault]\naddress = \"http://{closed}\"\n\
         auth = {{ method = \"token\", token_file = \"{}\" }}\n",
        place.path("vault-token").display()
    );
    for command in [
        &["run"][..],
        &["init", "--json", "x.json"],
        &["rotate", "client-secret", "--from-file", "-"],
    ] {
        let ended = place.run_with(command, "a-new-secret").await;
        refused(&ended, 75, &[]);
    }
    let check = place.run(&["check"]).await;
    assert_eq!(check.code, 75, "{}", check.out);
    place.store = good;
    place.serve().await.token(1).await.unwrap();
}

#[tokio::test]
async fn hubspot_down_at_start_is_told_waited_out_and_costs_no_grant() {
    let place = Place::new(2, ROTATING).await;
    let down = http(503);
    place.standin.sim.set_fault(grantkeeper::sim::Fault::new(down));
    let check = place.run(&["check"]).await;
    assert_eq!(check.code, 75, "{}", check.out);
    refused(&place.run(&["init", "--json", "x.json"]).await, 75, &["status.hubspot.com"]);
    let service = place.serve().await;
    eventually("it says that it is not ready, and why", || async {
        let reply = service.client.ask(hyper::Method::GET, "/readyz").await.unwrap();
        reply.status == 503 && String::from_utf8_lossy(&reply.body).contains("hubspot_unreachable")
    })
    .await;
    place.standin.sim.clear_faults();
    service.ready().await;
    assert!(place.standin.sim.portals(None, 9).iter().all(|portal| portal.good));
}

#[tokio::test]
async fn a_refused_client_pair_ends_the_start_unless_told_to_go_on() {
    let mut place = Place::new(2, ROTATING).await;
    let other = ClientSecret::parse("changed-at-hubspot").unwrap();
    place.standin.sim.set_client_secret(other, std::time::Duration::ZERO);
    let ended = place.run(&["run"]).await;
    refused(&ended, 78, &["HubSpot refuses the app's client id and secret", "BAD_CLIENT_SECRET"]);
    assert!(place.standin.sim.portals(None, 9).iter().all(|portal| portal.good));
    place.extra += "[validate]\non_start = \"warn\"\n";
    let service = place.serve().await;
    place.alerts.wait_for("app_rejected", "opened").await;
    assert_eq!(service.refusal(1).await, "app_rejected");
}

#[tokio::test]
async fn require_all_ends_the_start_at_a_revoked_grant_and_names_it() {
    let mut place = Place::new(3, ROTATING).await;
    place.standin.sim.revoke(portal(2));
    place.extra += "[validate]\non_start = \"require_all\"\n";
    refused(&place.run(&["run"]).await, 4, &["1 grants are not good: 2", "grantkeeper check"]);
}

#[tokio::test]
async fn a_lost_key_of_the_embedded_store_is_told_and_the_store_is_left_alone() {
    let place = Place::new(1, ROTATING).await;
    let before = fs::read(place.path("store.redb")).unwrap();
    fs::rename(place.path("store.key"), place.path("moved.key")).unwrap();
    refused(&place.run(&["run"]).await, 78, &["key"]);
    assert_eq!(fs::read(place.path("store.redb")).unwrap(), before);
    assert!(!place.path("store.key").exists(), "no other key is made in its place");
    fs::rename(place.path("moved.key"), place.path("store.key")).unwrap();
    place.serve().await.token(1).await.unwrap();
}
