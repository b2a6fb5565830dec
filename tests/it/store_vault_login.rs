//! Each way to log in to a real OpenBao: taken, refused in words that help, and its files read anew.

use std::{fs, path::Path};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use grantkeeper::{
    store::{
        CredentialStore, StoreErrorKind,
        vault::{Auth, Identity, Method, Settings},
    },
    time::{Clock, SystemClock},
};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, PKCS_ED25519, SigningKey,
};
use serde_json::{Value, json};

use crate::{
    store_vault::{SEVEN, assert_told, connect, furnished},
    support::{
        openbao, openbao::OpenBao, pod::Account, random_hex, service::secret_file, temp_dir,
    },
};

fn by(mount: &str, method: Method, settings: Settings) -> Settings {
    Settings { auth: Auth::Method { mount: mount.to_owned(), method }, ..settings }
}

/// Ends every token that was given by the login at `mount`.
async fn revoke(bao: &OpenBao, mount: &str) {
    bao.post(&format!("sys/leases/revoke-prefix/auth/{mount}/login"), json!({})).await;
}

/// A login of its own of this kind, configured so.
async fn enabled(bao: &OpenBao, kind: &str, config: Value) -> String {
    let mount = format!("{kind}-{}", random_hex(4));
    bao.post(&format!("sys/auth/{mount}"), json!({"type": kind})).await;
    bao.post(&format!("auth/{mount}/config"), config).await;
    mount
}

/// A JWT with these claims, signed by `key`.
fn jwt(claims: &Value, key: &KeyPair) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let head = format!("{}.{}", part(&json!({"alg": "EdDSA", "typ": "JWT"})), part(claims));
    let signature = URL_SAFE_NO_PAD.encode(key.sign(head.as_bytes()).unwrap());
    format!("{head}.{signature}")
}

fn in_a_minute() -> i64 {
    SystemClock.wall().as_second() + 60
}

/// A secret id's wrapping token, of the role that `approle` made at `mount`.
async fn wrapped_secret_id(bao: &OpenBao, mount: &str) -> String {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let answer = client
        .post(format!("{}/v1/auth/{mount}/role/r/secret-id", bao.addr))
        .header("X-Vault-Token", &bao.root_token)
        .header("X-Vault-Wrap-TTL", "60s")
        .send()
        .await
        .unwrap();
    wrapping_token(&answer.json().await.unwrap())
}

fn wrapping_token(answer: &Value) -> String {
    answer["wrap_info"]["token"].as_str().unwrap().to_owned()
}

fn wrapped(role_id: &str, file: &Path) -> Method {
    let (role_id, secret_id_file) = (role_id.to_owned(), file.to_owned());
    Method::AppRole { role_id, secret_id_file, wrapped: true }
}

#[tokio::test]
async fn a_wrapped_secret_id_is_opened_once_and_good_for_more_logins() {
    let bao = openbao().await;
    let (mount, policy) = furnished(bao).await;
    let (login, role_id, _) = bao.approle(&policy, json!({})).await;
    let dir = temp_dir();
    let file = dir.path().join("wrapped");
    secret_file(&file, &(wrapped_secret_id(bao, &login).await + "\n"));
    let method = wrapped(&role_id, &file);
    let store = connect(by(&login, method, bao.settings(&mount)));
    store.read(SEVEN()).await.unwrap();
    revoke(bao, &login).await;
    store.read(SEVEN()).await.unwrap();
    // The secret id is revoked, and another one delivered: the file is read again.
    bao.post(&format!("auth/{login}/role/r"), json!({"secret_id_num_uses": 1})).await;
    secret_file(&file, &(wrapped_secret_id(bao, &login).await));
    revoke(bao, &login).await;
    store.read(SEVEN()).await.unwrap();
}

#[tokio::test]
async fn a_wrapping_token_that_somebody_has_used_is_a_security_incident() {
    let bao = openbao().await;
    let (mount, policy) = furnished(bao).await;
    let (login, role_id, _) = bao.approle(&policy, json!({})).await;
    let dir = temp_dir();
    let file = dir.path().join("wrapped");
    let token = wrapped_secret_id(bao, &login).await;
    secret_file(&file, &token);
    bao.post("sys/wrapping/unwrap", json!({ "token": token })).await;
    let store = connect(by(&login, wrapped(&role_id, &file), bao.settings(&mount)));
    let error = store.check().await.unwrap_err();
    assert_told(&error, StoreErrorKind::Compromised, "has been used already", "revoke it");
    assert!(!format!("{error:?}").contains(&token), "{error:?}");
}

#[tokio::test]
async fn a_wrapping_token_of_something_else_is_left_unopened() {
    let bao = openbao().await;
    let (mount, policy) = furnished(bao).await;
    let (login, role_id, _) = bao.approle(&policy, json!({})).await;
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let answer = client
        .post(format!("{}/v1/sys/wrapping/wrap", bao.addr))
        .header("X-Vault-Token", &bao.root_token)
        .header("X-Vault-Wrap-TTL", "60s")
        .json(&json!({"secret_id": "CANARY-forged"}))
        .send()
        .await
        .unwrap();
    let token = wrapping_token(&answer.json().await.unwrap());
    let dir = temp_dir();
    let file = dir.path().join("wrapped");
    secret_file(&file, &token);
    let store = connect(by(&login, wrapped(&role_id, &file), bao.settings(&mount)));
    let error = store.check().await.unwrap_err();
    assert_told(&error, StoreErrorKind::Compromised, "was not made by a secret id", "unopened");
    let opened = bao.post("sys/wrapping/unwrap", json!({ "token": token })).await;
    assert_eq!(opened["data"]["secret_id"], "CANARY-forged", "it is still there to be looked at");
}

#[tokio::test]
async fn a_jwt_logs_in_is_read_again_each_time_and_refused_if_somebody_else_signed_it() {
    let bao = openbao().await;
    let (mount, policy) = furnished(bao).await;
    let (key, other) = (ed25519(), ed25519());
    let config =
        json!({"jwt_validation_pubkeys": [key.public_key_pem()], "bound_issuer": "https://ci"});
    let login = enabled(bao, "jwt", config).await;
    let role = json!({"role_type": "jwt", "user_claim": "sub", "bound_audiences": ["bao"], "token_policies": [policy]});
    bao.post(&format!("auth/{login}/role/keeper"), role).await;
    let dir = temp_dir();
    let jwt_file = dir.path().join("jwt");
    let claims =
        |sub: &str| json!({"iss": "https://ci", "aud": "bao", "sub": sub, "exp": in_a_minute()});
    fs::write(&jwt_file, jwt(&claims("first"), &key)).unwrap();
    let method = Method::Jwt { role: Some("keeper".to_owned()), jwt_file: jwt_file.clone() };
    let store = connect(by(&login, method, bao.settings(&mount)));
    store.read(SEVEN()).await.unwrap();

    fs::write(&jwt_file, jwt(&claims("second"), &other)).unwrap();
    revoke(bao, &login).await;
    let error = store.read(SEVEN()).await.unwrap_err();
    let shown = jwt_file.display().to_string();
    assert_told(&error, StoreErrorKind::Denied, "refuses the jwt login", &shown);
    fs::write(&jwt_file, jwt(&claims("third"), &key)).unwrap();
    store.read(SEVEN()).await.unwrap();
}

fn ed25519() -> KeyPair {
    KeyPair::generate_for(&PKCS_ED25519).unwrap()
}

#[tokio::test]
async fn a_pod_logs_in_by_its_service_account_and_is_refused_outside_its_namespace() {
    let bao = openbao().await;
    let (mount, policy) = furnished(bao).await;
    let pod = |namespace| Account { namespace, name: "keeper" };
    let (cluster, config) = pod("apps").vouched_for("bao", 1).await;
    let login = enabled(bao, "kubernetes", config).await;
    let role = json!({"bound_service_account_names": ["keeper"], "bound_service_account_namespaces": ["apps"], "token_policies": [policy]});
    bao.post(&format!("auth/{login}/role/keeper"), role).await;
    let dir = temp_dir();
    let jwt_file = dir.path().join("token");
    let method = Method::Kubernetes { role: "keeper".to_owned(), jwt_file: jwt_file.clone() };
    let store = connect(by(&login, method, bao.settings(&mount)));
    fs::write(&jwt_file, pod("elsewhere").token("bao")).unwrap();
    let error = store.read(SEVEN()).await.unwrap_err();
    assert_told(&error, StoreErrorKind::Denied, "refuses the kubernetes login", "role/keeper");
    fs::write(&jwt_file, pod("apps").token("bao")).unwrap();
    store.read(SEVEN()).await.unwrap();
    assert!(cluster.requests()[0].starts_with("POST /apis/authentication.k8s.io/v1/tokenreviews"));
}

/// A certificate for the service, from `ca`, and its key, as files.
fn certificate(dir: &Path, ca: &CertifiedIssuer<'_, KeyPair>, name: &str) -> Identity {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let certificate = params.signed_by(&key, ca).unwrap();
    let (cert_file, key_file) = (dir.join("client.pem"), dir.join("client.key"));
    fs::write(&cert_file, certificate.pem()).unwrap();
    secret_file(&key_file, &key.serialize_pem());
    Identity { cert_file, key_file }
}

#[tokio::test]
async fn a_client_certificate_logs_in_and_a_renewed_one_is_taken_up_at_the_next_login() {
    let bao = OpenBao::start_with_tls().await;
    let (mount, policy) = furnished(&bao).await;
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    bao.post("sys/auth/cert", json!({"type": "cert"})).await;
    let role = json!({"certificate": ca.pem(), "allowed_common_names": ["keeper"], "token_policies": [policy]});
    bao.post("auth/cert/certs/keeper", role).await;

    let dir = temp_dir();
    let identity = certificate(dir.path(), &ca, "keeper");
    let method = || Method::Cert { role: Some("keeper".to_owned()) };
    let settings = || Settings {
        identity: Some(identity.clone()),
        ..by("cert", method(), bao.settings(&mount))
    };
    let store = connect(settings());
    store.read(SEVEN()).await.unwrap();

    certificate(dir.path(), &ca, "somebody-else");
    revoke(&bao, "cert").await;
    let error = store.read(SEVEN()).await.unwrap_err();
    assert_told(&error, StoreErrorKind::Denied, "refuses the cert login", "Renew the certificate");
    certificate(dir.path(), &ca, "keeper");
    store.read(SEVEN()).await.unwrap();

    let without = by("cert", method(), bao.settings(&mount));
    let error = connect(without).check().await.unwrap_err();
    assert_told(&error, StoreErrorKind::Denied, "refuses the cert login", "cert");
    fs::write(&identity.key_file, "not a key").unwrap();
    let error = grantkeeper::store::vault::VaultStore::connect(
        settings(),
        std::sync::Arc::new(SystemClock),
    );
    assert_told(
        &error.unwrap_err(),
        StoreErrorKind::Misconfigured,
        "no certificate and private key",
        "PEM",
    );
}
