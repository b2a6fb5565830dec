//! What stands between us and a Vault: seals, quotas, hangs, redirects, certificates, wrong addresses.

use std::{fs, sync::Arc, time::Duration};

use grantkeeper::{
    secret::StoreCredential,
    store::{
        CredentialStore, StoreErrorKind,
        vault::{Auth, Settings, VaultStore},
    },
    time::SystemClock,
};
use reqwest::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    store_vault::{SEVEN, assert_told, connect, furnished},
    support::{openbao, openbao::OpenBao, service::eventually, temp_dir},
};

#[tokio::test]
async fn a_sealed_server_is_unreachable_until_it_is_unsealed() {
    let bao = OpenBao::start().await;
    bao.put("secret", "gk/app/portals/7", json!({"refresh_token": "CANARY-grant"})).await;
    let store = connect(bao.settings("secret"));
    store.read(SEVEN()).await.unwrap();
    assert_eq!(bao.api(Method::PUT, "sys/seal", None).await.0, 204);
    let error = store.read(SEVEN()).await.unwrap_err();
    assert_told(&error, StoreErrorKind::Unreachable, "sealed", "Unseal");
    assert!(error.is_transient());
    bao.unseal().await;
    eventually("it is read again", async || store.read(SEVEN()).await.is_ok()).await;
}

#[tokio::test]
async fn a_used_up_quota_is_told_as_such_and_passes() {
    let bao = openbao().await;
    let (mount, _) = furnished(bao).await;
    let store = connect(bao.settings(&mount));
    store.read(SEVEN()).await.unwrap();
    let quota = json!({"rate": 1, "interval": "2s", "path": format!("{mount}/")});
    bao.post(&format!("sys/quotas/rate-limit/{mount}"), quota).await;
    let outcomes = store.read_all(&[SEVEN(), SEVEN(), SEVEN()]).await;
    let refused = outcomes.into_iter().find_map(|(_, outcome)| outcome.err()).unwrap();
    assert_told(&refused, StoreErrorKind::Unreachable, "quota", "passes by itself");
    eventually("it has passed", async || store.read(SEVEN()).await.is_ok()).await;
}

#[tokio::test]
async fn nobody_at_the_address_is_unreachable() {
    let port = crate::support::program::free_port_pair();
    let bao = openbao().await;
    let address = format!("http://127.0.0.1:{port}");
    let error = connect(Settings { address, ..bao.settings("secret") }).check().await.unwrap_err();
    assert_told(&error, StoreErrorKind::Unreachable, "no connection", "store.vault.address");
}

#[tokio::test]
async fn a_server_that_hangs_is_given_up_after_a_time_out() {
    let bao = OpenBao::start().await;
    let store = connect(bao.settings("secret"));
    store.check().await.unwrap();
    bao.program.freeze().await;
    let error = store.read(SEVEN()).await.unwrap_err();
    assert_told(&error, StoreErrorKind::Unreachable, "did not answer in time", "firewall");
}

/// Answers each connection with `answer` once, and keeps what was asked.
async fn one_answer(answer: String) -> (String, tokio::task::JoinSet<Vec<String>>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let mut served = tokio::task::JoinSet::new();
    served.spawn(async move {
        let mut asked = Vec::new();
        while let Ok(Ok((mut stream, _))) =
            tokio::time::timeout(Duration::from_secs(1), listener.accept()).await
        {
            let mut buffer = vec![0; 8192];
            let length = stream.read(&mut buffer).await.unwrap();
            asked.push(String::from_utf8_lossy(&buffer[..length]).into_owned());
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
        asked
    });
    (address, served)
}

#[tokio::test]
async fn i10_a_redirect_to_another_host_is_not_followed_and_does_not_get_the_token() {
    let bao = openbao().await;
    let (elsewhere, thief) =
        one_answer("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".into()).await;
    let (address, _server) = one_answer(format!(
        "HTTP/1.1 307 Temporary Redirect\r\nlocation: {elsewhere}/v1/x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    ))
    .await;
    let auth = Auth::Token(StoreCredential::parse("CANARY-token").unwrap());
    let store = connect(Settings { address, auth, ..bao.settings("secret") });
    let error = store.check().await.unwrap_err();
    assert_told(&error, StoreErrorKind::Unreachable, "redirects elsewhere", "active node");
    assert_eq!(thief.join_all().await, [Vec::<String>::new()]);
}

#[tokio::test]
async fn a_web_server_that_is_no_vault_is_a_setting_to_correct() {
    let bao = openbao().await;
    let page = "<html>CANARY</html>";
    let (address, _server) = one_answer(format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{page}",
        page.len()
    ))
    .await;
    let error = connect(Settings { address, ..bao.settings("secret") }).check().await.unwrap_err();
    assert_told(&error, StoreErrorKind::Misconfigured, "not one a Vault server gives", "address");
}

#[tokio::test]
async fn settings_that_can_not_work_are_refused_before_any_network() {
    let bao = openbao().await;
    let dir = temp_dir();
    let empty = dir.path().join("ca.pem");
    fs::write(&empty, "no certificate").unwrap();
    let good = || bao.settings("secret");
    for (settings, what) in [
        (Settings { address: "vault:8200".into(), ..good() }, "address"),
        (Settings { mount: "a/../b".into(), ..good() }, "store.vault.mount"),
        (Settings { prefix: String::new(), ..good() }, "store.vault.prefix"),
        (Settings { namespace: Some("a\nb".into()), ..good() }, "namespace"),
        (
            Settings { address: "https://127.0.0.1:1".into(), ca_file: Some(empty), ..good() },
            "holds no PEM certificate",
        ),
    ] {
        let error = VaultStore::connect(settings, Arc::new(SystemClock)).unwrap_err();
        assert_told(&error, StoreErrorKind::Misconfigured, what, "");
    }
}

#[tokio::test]
async fn only_the_configured_ca_is_trusted() {
    let bao = OpenBao::start_with_tls().await;
    bao.put("secret", "gk/app/portals/7", json!({"refresh_token": "CANARY-grant"})).await;
    connect(bao.settings("secret")).read(SEVEN()).await.unwrap();

    let other = OpenBao::start_with_tls().await;
    for ca_file in [None, other.ca_file.clone()] {
        let settings = Settings { ca_file, ..bao.settings("secret") };
        let error = connect(settings).read(SEVEN()).await.unwrap_err();
        let what = "certificate is not trusted";
        assert_told(&error, StoreErrorKind::Misconfigured, what, "store.vault.ca_file");
    }
}

#[tokio::test]
async fn plain_http_towards_a_tls_server_is_told() {
    let bao = OpenBao::start_with_tls().await;
    let address = bao.addr.replace("https", "http");
    let error = connect(Settings { address, ..bao.settings("secret") }).check().await.unwrap_err();
    assert!(!error.what.is_empty() && !error.hint.is_empty(), "{error:?}");
    assert_ne!(error.kind, StoreErrorKind::Missing);
}
