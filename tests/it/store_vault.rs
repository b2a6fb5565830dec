//! What only Vault and OpenBao can do to us: tokens that die, policies that deny, and mounts.

use std::{
    fs::Permissions, os::unix::fs::PermissionsExt, path::PathBuf, sync::Arc, time::Duration,
};

use grantkeeper::{
    secret::StoreCredential,
    store::{
        CredentialStore, Expected, Key, Known, StoreError, StoreErrorKind,
        vault::{Auth, Method, Settings, VaultStore},
    },
    time::SystemClock,
};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::support::{openbao, openbao::OpenBao, portal, record, service::secret_file, temp_dir};

pub(crate) fn connect(settings: Settings) -> VaultStore {
    VaultStore::connect(settings, Arc::new(SystemClock)).unwrap()
}

fn with_token(bao: &OpenBao, mount: &str, token: &str) -> VaultStore {
    let auth = Auth::Token(StoreCredential::parse(token).unwrap());
    connect(Settings { auth, ..bao.settings(mount) })
}

fn approle(mount: String, role_id: String, secret_id_file: PathBuf) -> Auth {
    Auth::Method { mount, method: Method::AppRole { role_id, secret_id_file, wrapped: false } }
}

fn everything_below(mount: &str) -> String {
    format!(
        r#"path "{mount}/data/gk/app/*" {{ capabilities = ["create", "read", "update"] }}
           path "{mount}/metadata/gk/app/*" {{ capabilities = ["list", "delete"] }}"#
    )
}

/// A mount with one portal's record, and the policy that opens it.
pub(crate) async fn furnished(bao: &OpenBao) -> (String, String) {
    let mount = bao.mount().await;
    bao.put(&mount, "gk/app/portals/7", json!({"refresh_token": "CANARY-grant"})).await;
    let policy = bao.policy(&everything_below(&mount)).await;
    (mount, policy)
}

pub(crate) fn assert_told(error: &StoreError, kind: StoreErrorKind, what: &str, hint: &str) {
    assert_eq!(error.kind, kind, "{error:?}");
    assert!(error.what.contains(what), "{error:?}");
    assert!(error.hint.contains(hint), "{error:?}");
    assert!(!format!("{error:?}").contains("CANARY"), "{error:?}");
}

pub(crate) const SEVEN: fn() -> Key = || Key::Portal(portal(7));

#[tokio::test]
async fn the_documented_policy_is_enough_for_every_call() {
    let bao = openbao().await;
    let (mount, policy) = furnished(bao).await;
    let store = with_token(bao, &mount, &bao.token(&policy, json!({})).await);
    store.check().await.unwrap();
    let found = store.read(SEVEN()).await.unwrap();
    let version = store.write(SEVEN(), &found.record, &Expected::At(found.version)).await.unwrap();
    assert_eq!(store.list().await.unwrap().portals, [portal(7)]);
    store.remove(SEVEN(), &version).await.unwrap();
}

#[tokio::test]
async fn what_a_policy_denies_is_told_with_the_line_that_would_allow_it() {
    let bao = openbao().await;
    let (mount, _) = furnished(bao).await;
    let only = |capability: &str| {
        format!(r#"path "{mount}/data/gk/app/*" {{ capabilities = ["{capability}"] }}"#)
    };
    let reader = bao.token(&bao.policy(&only("read")).await, json!({})).await;
    let store = with_token(bao, &mount, &reader);
    let found = store.read(SEVEN()).await.unwrap();

    let error = store.list().await.unwrap_err();
    let line = format!(r#"path "{mount}/metadata/gk/app/portals/" {{ capabilities = ["list"] }}"#);
    assert_told(&error, StoreErrorKind::Denied, "listing the portals failed", &line);

    let at = Expected::At(found.version.clone());
    let error = store.write(SEVEN(), &found.record, &at).await.unwrap_err();
    let line = format!(
        r#"path "{mount}/data/gk/app/portals/*" {{ capabilities = ["create", "update"] }}"#
    );
    assert_told(&error, StoreErrorKind::Denied, "writing `portals/7` failed", &line);

    let error = store.remove(SEVEN(), &found.version).await.unwrap_err();
    assert_told(&error, StoreErrorKind::Denied, "removing `portals/7`", r#"["delete"]"#);
}

#[tokio::test]
async fn a_token_without_any_right_to_the_mount_is_denied_and_told_both_reasons() {
    let bao = openbao().await;
    let (mount, _) = furnished(bao).await;
    let stranger = bao.token("default", json!({})).await;
    let error = with_token(bao, &mount, &stranger).read(SEVEN()).await.unwrap_err();
    assert_told(&error, StoreErrorKind::Denied, "no such mount, or no policy", "capabilities");
}

#[tokio::test]
async fn a_token_that_is_not_the_server_s_is_denied() {
    let bao = openbao().await;
    let mount = bao.mount().await;
    let error = with_token(bao, &mount, "s.CANARYnotatoken").check().await.unwrap_err();
    assert_told(&error, StoreErrorKind::Denied, "refuses the token", "valid token");
}

#[tokio::test]
async fn a_revoked_token_is_read_anew_from_its_file_and_the_call_goes_through() {
    let bao = openbao().await;
    let (mount, policy) = furnished(bao).await;
    let (dir, old) = (temp_dir(), bao.token(&policy, json!({})).await);
    let file = dir.path().join("token");
    secret_file(&file, &format!("{old}\n"));
    let auth = Auth::TokenFile(file.clone());
    let store = connect(Settings { auth, ..bao.settings(&mount) });
    store.read(SEVEN()).await.unwrap();

    bao.post("auth/token/revoke", json!({ "token": old })).await;
    let error = store.read(SEVEN()).await.unwrap_err();
    assert_told(&error, StoreErrorKind::Denied, "refuses the token", &file.display().to_string());

    secret_file(&file, &(bao.token(&policy, json!({})).await));
    store.read(SEVEN()).await.unwrap();
}

#[tokio::test]
async fn i10_a_token_that_every_user_of_the_machine_could_read_is_refused() {
    let bao = openbao().await;
    let (mount, policy) = furnished(bao).await;
    let (dir, token) = (temp_dir(), bao.token(&policy, json!({})).await);
    let file = dir.path().join("token");
    secret_file(&file, &token);
    let auth = Auth::TokenFile(file.clone());
    for (mode, taken) in [(0o644, false), (0o604, false), (0o640, true), (0o600, true)] {
        std::fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
        let store = connect(Settings { auth: auth.clone(), ..bao.settings(&mount) });
        match store.read(SEVEN()).await {
            Ok(_) => assert!(taken, "{mode:o}"),
            Err(error) => {
                assert!(!taken, "{mode:o}: {error:?}");
                assert_told(&error, StoreErrorKind::Denied, "is no secret", "chmod g-w,o=");
            }
        }
    }
}

#[tokio::test]
async fn a_credential_file_that_an_editor_mangled_is_refused_without_being_echoed() {
    let bao = openbao().await;
    let (mount, dir) = (bao.mount().await, temp_dir());
    for (name, text, why) in [
        ("two-lines", "CANARY\nCANARY\n", "line break"),
        ("quoted", "\"CANARY\"", "quotation marks"),
        ("empty", "\n", "empty"),
        ("blank", "CANARY CANARY", "blank"),
    ] {
        let file = dir.path().join(name);
        secret_file(&file, text);
        let auth = Auth::TokenFile(file.clone());
        let error = connect(Settings { auth, ..bao.settings(&mount) }).check().await.unwrap_err();
        let shown = file.display().to_string();
        assert_told(&error, StoreErrorKind::Misconfigured, &shown, "one line");
        let cause = error.cause.as_ref().unwrap().to_string();
        assert!(cause.contains(why), "{cause}");
    }
    let auth = Auth::TokenFile(dir.path().join("nothing"));
    let error = connect(Settings { auth, ..bao.settings(&mount) }).check().await.unwrap_err();
    assert_told(&error, StoreErrorKind::Misconfigured, "can't be read", "is there");
}

#[tokio::test]
async fn a_wrong_secret_id_is_denied_with_a_hint() {
    let bao = openbao().await;
    let (mount, policy) = furnished(bao).await;
    let (login, role_id, _) = bao.approle(&policy, json!({})).await;
    let dir = temp_dir();
    let secret_id_file = dir.path().join("secret-id");
    secret_file(&secret_id_file, "CANARY-wrong");
    let auth = approle(login, role_id, secret_id_file.clone());
    let error = connect(Settings { auth, ..bao.settings(&mount) }).check().await.unwrap_err();
    let shown = secret_id_file.display().to_string();
    assert_told(&error, StoreErrorKind::Denied, "refuses the approle login", &shown);
}

#[tokio::test]
async fn an_approle_mount_that_is_not_there_is_a_setting_to_correct() {
    let bao = openbao().await;
    let (mount, dir) = (bao.mount().await, temp_dir());
    let secret_id_file = dir.path().join("secret-id");
    secret_file(&secret_id_file, "CANARY");
    let login = "nowhere".to_owned();
    let auth = approle(login, "r".to_owned(), secret_id_file);
    let error = connect(Settings { auth, ..bao.settings(&mount) }).check().await.unwrap_err();
    assert!(!matches!(error.kind, StoreErrorKind::Unreachable), "{error:?}");
    assert!(!format!("{error:?}").contains("CANARY"), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_short_approle_lease_is_renewed_and_beyond_its_maximum_logged_in_anew() {
    let bao = openbao().await;
    let (mount, policy) = furnished(bao).await;
    let role = json!({"token_ttl": "2s", "token_max_ttl": "5s"});
    let (login, role_id, secret_id) = bao.approle(&policy, role).await;
    let dir = temp_dir();
    let secret_id_file = dir.path().join("secret-id");
    secret_file(&secret_id_file, &secret_id);
    let auth = approle(login, role_id, secret_id_file);
    let store = connect(Settings { auth, ..bao.settings(&mount) });
    store.read(SEVEN()).await.unwrap();

    let stop = CancellationToken::new();
    let keeper = {
        let (store, stop) = (store.clone(), stop.clone());
        tokio::task::JoinSet::from_iter([async move { store.maintain(stop).await }])
    };
    // Longer than the maximum life of one token: the server's own clock is what is waited for.
    for _ in 0..32 {
        store.read(SEVEN()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    stop.cancel();
    keeper.join_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_revocation_many_callers_cause_one_login() {
    let bao = openbao().await;
    let (mount, policy) = furnished(bao).await;
    let role = json!({"secret_id_num_uses": 2});
    let (login, role_id, secret_id) = bao.approle(&policy, role).await;
    let dir = temp_dir();
    let secret_id_file = dir.path().join("secret-id");
    secret_file(&secret_id_file, &secret_id);
    let auth = approle(login.clone(), role_id, secret_id_file);
    let store = connect(Settings { auth, ..bao.settings(&mount) });
    store.read(SEVEN()).await.unwrap();
    bao.post(&format!("sys/leases/revoke-prefix/auth/{login}/login"), json!({})).await;

    // The secret id is good for one more login: a second one would fail.
    let portals: Vec<_> = std::iter::repeat_n(SEVEN(), 24).collect();
    for (_, outcome) in store.read_all(&portals).await {
        outcome.unwrap();
    }
}

#[tokio::test]
async fn a_version_1_mount_is_refused_with_the_way_to_upgrade_it() {
    let bao = openbao().await;
    let mount = bao.mount_kv(1).await;
    let error = connect(bao.settings(&mount)).read(SEVEN()).await.unwrap_err();
    let fix = format!("vault kv enable-versioning {mount}/");
    assert_told(&error, StoreErrorKind::Misconfigured, "KV version 1", &fix);
}

#[tokio::test]
async fn a_mount_of_another_engine_is_refused() {
    let bao = openbao().await;
    let error = connect(bao.settings("cubbyhole")).check().await.unwrap_err();
    assert_told(&error, StoreErrorKind::Misconfigured, "not a KV engine", "store.vault.mount");
}

#[tokio::test]
async fn a_mount_that_is_not_there_is_told_apart_from_a_missing_record() {
    let bao = openbao().await;
    let error = connect(bao.settings("nowhere")).read(SEVEN()).await.unwrap_err();
    assert!(error.what.contains("no mount `nowhere`") || error.what.contains("no such mount"));
    assert_ne!(error.kind, StoreErrorKind::Missing, "{error:?}");
}

#[tokio::test]
async fn a_namespace_keeps_records_apart_and_one_that_is_not_there_is_told() {
    let bao = openbao().await;
    let namespace = format!("team-{}", crate::support::random_hex(3));
    bao.post(&format!("sys/namespaces/{namespace}"), json!({})).await;
    bao.post(
        &format!("{namespace}/sys/mounts/kv"),
        json!({"type": "kv", "options": {"version": "2"}}),
    )
    .await;
    let settings = |name: &str| Settings { namespace: Some(name.to_owned()), ..bao.settings("kv") };
    let store = connect(settings(&namespace));
    // A new mount of version 2 gets ready in a moment.
    for _ in 0..100 {
        match store.check().await {
            Ok(()) => break,
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
    store.write(SEVEN(), &record(&json!({"refresh_token": "t"})), &Expected::Absent).await.unwrap();
    assert_eq!(store.list().await.unwrap().portals, [portal(7)]);

    let error = connect(settings("nowhere")).check().await.unwrap_err();
    assert!(
        matches!(error.kind, StoreErrorKind::Misconfigured | StoreErrorKind::Denied),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_soft_deleted_or_destroyed_version_is_missing_and_can_be_written_again() {
    let bao = openbao().await;
    let (mount, _) = furnished(bao).await;
    let store = connect(bao.settings(&mount));
    let old = store.read(SEVEN()).await.unwrap().version;
    let grant = record(&json!({"refresh_token": "new"}));
    for (round, ruin) in [("1", "delete"), ("2", "destroy")] {
        let path = format!("{mount}/{ruin}/gk/app/portals/7");
        bao.post(&path, json!({"versions": [round]})).await;
        let error = store.read(SEVEN()).await.unwrap_err();
        assert_told(&error, StoreErrorKind::Missing, "portals/7", "enrol");
        let late = store.write(SEVEN(), &grant, &Expected::At(old.clone())).await.unwrap_err();
        assert_eq!(late.kind, StoreErrorKind::Conflict, "{late:?}");
        store.write(SEVEN(), &grant, &Expected::Absent).await.unwrap();
    }
    assert_eq!(bao.get(&mount, "gk/app/portals/7").await["refresh_token"], "new");
}

#[tokio::test]
async fn what_has_changed_is_seen_in_one_call_else_one_by_one_else_by_reading() {
    let bao = openbao().await;
    let mount = bao.mount().await;
    let root = connect(bao.settings(&mount));
    for number in 1..=4 {
        let grant = record(&json!({"refresh_token": "t"}));
        root.write(Key::Portal(portal(number)), &grant, &Expected::Absent).await.unwrap();
    }
    let read = format!(
        r#"path "{mount}/data/gk/app/*" {{ capabilities = ["read"] }}
           path "{mount}/metadata/gk/app/portals/" {{ capabilities = ["list"] }}"#
    );
    let at_once = format!(r#"path "{mount}/detailed-metadata/*" {{ capabilities = ["list"] }}"#);
    let singly =
        format!(r#"path "{mount}/metadata/gk/app/portals/*" {{ capabilities = ["read"] }}"#);
    // The second is what HashiCorp's Vault can do, the third an older policy.
    for (name, policy, passed_over) in [
        ("at once", format!("{read}\n{at_once}"), 3),
        ("one by one", format!("{read}\n{singly}"), 3),
        ("by reading", read.clone(), 0),
    ] {
        let token = bao.token(&bao.policy(&policy).await, json!({})).await;
        let store = with_token(bao, &mount, &token);
        let first = store.load(&Known::new()).await.unwrap().records.into_iter();
        let known: Known = first.map(|(id, found)| (id, found.unwrap().version)).collect();
        let two = Key::Portal(portal(2));
        let at = Expected::At(root.read(two).await.unwrap().version);
        root.write(two, &record(&json!({"refresh_token": name})), &at).await.unwrap();
        let second = store.load(&known).await.unwrap();
        assert_eq!(second.unchanged.len(), passed_over, "{name}");
        assert_eq!(second.records.len(), 4 - passed_over, "{name}");
        let changed = second.records.into_iter().find(|(id, _)| *id == portal(2)).unwrap().1;
        let token = changed.unwrap().record.members()["refresh_token"].clone();
        assert_eq!(token, name);
    }
}
