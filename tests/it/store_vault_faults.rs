//! Faults of a real server and its network that are told while a service lives on from memory (I9).

use std::{fs, sync::Arc};

use grantkeeper::{
    store::{
        CredentialStore, Key, StoreErrorKind,
        vault::{Settings, VaultStore},
    },
    time::SystemClock,
};
use rcgen::CertificateParams;
use reqwest::Method;
use serde_json::json;

use crate::support::{
    answerer::{Act, Answerer, Greeting},
    openbao,
    openbao::OpenBao,
    portal,
    service::{Place, eventually},
    temp_dir,
};

const SEVEN: fn() -> Key = || Key::Portal(portal(7));

fn connect(settings: Settings) -> VaultStore {
    VaultStore::connect(settings, Arc::new(SystemClock)).unwrap()
}

/// A service with tokens that live for seconds, on a server of its own.
async fn place(bao: &OpenBao) -> Place {
    let mut place = Place::new(2, "[settings]\nexpires_in = 8").await;
    place.move_to_openbao(bao).await;
    place.extra += "[validate]\nevery = \"10s\"\n";
    place
}

#[tokio::test]
async fn i9_a_full_audit_disk_is_told_as_the_server_s_and_apps_are_served_on() {
    let bao = OpenBao::start_with("unsafe_allow_api_audit_creation = true\n").await;
    let place = place(&bao).await;
    let service = place.serve().await;
    service.ready().await;
    let full = json!({"type": "file", "options": {"file_path": "/dev/full", "skip_test": "true"}});
    // From now on every answer is a 500, this one among them.
    assert_eq!(bao.api(Method::PUT, "sys/audit/full", Some(full)).await.0, 500);
    let opened = place.alerts.wait_for("store_unreachable", "opened").await;
    let summary = opened["data"]["summary"].as_str().unwrap();
    assert!(summary.contains("trouble of its own (500)"), "{summary}");
    let before = place.standin.sim.report().refreshes;
    eventually("tokens are renewed all the same", async || {
        service.token(1).await.unwrap();
        place.standin.sim.report().refreshes > before + 4
    })
    .await;
}

#[tokio::test]
async fn i9_a_sealed_server_is_told_and_its_unsealing_heals_by_itself() {
    let bao = OpenBao::start().await;
    let place = place(&bao).await;
    let service = place.serve().await;
    service.ready().await;
    let (status, _) = bao.api(Method::PUT, "sys/seal", None).await;
    assert_eq!(status, 204);
    let opened = place.alerts.wait_for("store_unreachable", "opened").await;
    let summary = opened["data"]["summary"].as_str().unwrap();
    assert!(summary.contains("sealed or not ready (503)"), "{summary}");
    // For longer than any token lives that was given before.
    let before = place.standin.sim.report().refreshes;
    eventually("tokens are renewed all the same", async || {
        service.token(2).await.unwrap();
        place.standin.sim.report().refreshes > before + 4
    })
    .await;
    bao.unseal().await;
    place.alerts.wait_for("store_unreachable", "resolved").await;
    eventually("the store is well again", async || {
        service.get("/v1/status").await.unwrap()["store"]["ok"] == true
    })
    .await;
}

#[tokio::test]
async fn what_the_network_does_to_a_call_is_told_in_its_own_words() {
    let bao = openbao().await;
    let certificate = |change: fn(&mut CertificateParams)| {
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        change(&mut params);
        Greeting::tls_and_pem(&params)
    };
    let (expired, pem) = certificate(|params| {
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2020, 2, 1);
    });
    let dir = temp_dir();
    let ca_file = dir.path().join("ca.pem");
    fs::write(&ca_file, pem).unwrap();
    let precondition =
        b"HTTP/1.1 412 Precondition Failed\r\nContent-Length: 13\r\n\r\n{\"errors\":[]}".to_vec();
    let half = b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{\"data\"".to_vec();
    let rows = [
        ("reset before an answer", "http", Greeting::Plain, Act::SayAndReset(vec![]), "broke"),
        ("reset in an answer", "http", Greeting::Plain, Act::SayAndReset(half.clone()), "broke"),
        ("half an answer", "http", Greeting::Plain, Act::SayAndClose(half), "broke"),
        ("412", "http", Greeting::Plain, Act::Say(precondition), "trouble of its own (412)"),
        ("expired", "https", expired, Act::Say(vec![]), "certificate has expired"),
        ("no TLS", "https", Greeting::Plain, Act::Say(vec![]), ""),
    ];
    for (name, scheme, greeting, act, said) in rows {
        let server = Answerer::start(greeting, vec![act; 4]).await;
        let address = format!("{scheme}://{}", server.authority);
        let ca_file = (scheme == "https").then(|| ca_file.clone());
        let store = connect(Settings { address, ca_file, ..bao.settings("secret") });
        let error = store.read(SEVEN()).await.unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Unreachable, "{name}: {error:?}");
        assert!(error.what.contains(said), "{name}: {error:?}");
        assert!(error.hint.len() > 20, "{name}: {error:?}");
    }
}
