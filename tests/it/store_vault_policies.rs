//! The policies that are shipped, on a real OpenBao: everything a role does works, everything else is
//! denied, and what is missing is named.

use std::{fs, path::Path};

use grantkeeper::{
    secret::StoreCredential,
    socket::client::AskError,
    store::{
        CredentialStore, Expected, Key, StoreError, StoreErrorKind,
        vault::{Auth, Settings, VaultStore},
    },
};
use rustix::process::Signal;
use serde_json::json;

use crate::{
    store_vault::{SEVEN, connect, furnished},
    support::{
        openbao,
        openbao::OpenBao,
        service::{Place, eventually},
    },
};

/// The policy of a role as it is shipped, with this mount and the tests' prefix in it.
async fn shipped(bao: &OpenBao, mount: &str, role: &str) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("policies/vault/{role}.hcl"));
    let text = fs::read_to_string(file).unwrap();
    bao.policy(
        &text
            .replace("\"secret/", &format!("\"{mount}/"))
            .replace("grantkeeper/acme-sync", "gk/app"),
    )
    .await
}

#[tokio::test]
async fn the_shipped_policies_allow_each_role_its_work_and_nothing_beside_it() {
    use Op::{List, Read, Remove, Write};
    let bao = openbao().await;
    let all = [
        (Read, Key::App),
        (Write, Key::App),
        (Read, SEVEN()),
        (Write, SEVEN()),
        (List, Key::App),
        (Remove, SEVEN()),
    ];
    let may: [(&str, [bool; 6]); 4] = [
        ("agent", [true, false, true, true, true, false]),
        ("agent-grants", [true, false, true, true, true, true]),
        ("init", [true, false, true, false, true, false]),
        ("operator", [true, true, true, true, true, true]),
    ];
    for (role, allowed) in may {
        let (mount, _) = furnished(bao).await;
        let app = json!({"client_id": "id", "client_secret": "CANARY-secret"});
        bao.put(&mount, "gk/app/client", app).await;
        bao.put(&mount, "gk/other/client", json!({"client_id": "other"})).await;
        let policy = shipped(bao, &mount, role).await;
        let store = connect(settings_of(bao, &mount, &policy).await);
        let states = store.look().await.unwrap().versions.len();
        assert_eq!(
            states > 0,
            role != "init",
            "{role}: what has changed is seen without reading it"
        );
        for ((op, key), allowed) in all.into_iter().zip(allowed) {
            let outcome = op.run(&store, bao, &mount, key).await;
            match outcome {
                Ok(()) => assert!(allowed, "{role} may {op:?} {key}"),
                Err(error) => {
                    assert!(!allowed, "{role} may not {op:?} {key}: {error:?}");
                    assert_eq!(
                        error.kind,
                        StoreErrorKind::Denied,
                        "{role} {op:?} {key}: {error:?}"
                    );
                    assert!(error.hint.contains("path \""), "{error:?}");
                }
            }
        }
        let lacks = store.lacks().await.unwrap();
        assert_eq!(lacks.is_empty(), role != "init", "{role}: {lacks:?}");
        let other =
            Settings { prefix: "gk/other".to_owned(), ..settings_of(bao, &mount, &policy).await };
        let error = connect(other).read(Key::App).await.unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Denied, "{role} reads another app's record");
    }
}

async fn settings_of(bao: &OpenBao, mount: &str, policy: &str) -> Settings {
    let token = bao.token(policy, json!({})).await;
    let auth = Auth::Token(StoreCredential::parse(token).unwrap());
    Settings { auth, ..bao.settings(mount) }
}

#[derive(Debug, Clone, Copy)]
enum Op {
    Read,
    Write,
    List,
    Remove,
}

impl Op {
    async fn run(
        self,
        store: &VaultStore,
        bao: &OpenBao,
        mount: &str,
        key: Key,
    ) -> Result<(), StoreError> {
        // What stands there is looked up as root, so that each right is asked for by itself.
        let stored = connect(bao.settings(mount)).read(key).await?;
        match self {
            Self::Read => store.read(key).await.map(drop),
            Self::List => store.list().await.map(drop),
            Self::Remove => store.remove(key, &stored.version).await,
            Self::Write => {
                let expected = Expected::At(stored.version);
                store.write(key, &stored.record, &expected).await.map(drop)
            }
        }
    }
}

#[tokio::test]
async fn check_names_the_policy_line_that_is_missing() {
    let mut place = Place::new(1, "").await;
    let bao = openbao().await;
    let (mount, _) = place.move_to_openbao(bao).await;
    let prefix = "grantkeeper/acme-sync";
    let rights = format!(
        r#"path "{mount}/data/{prefix}/*" {{ capabilities = ["read"] }}
           path "{mount}/metadata/{prefix}/portals/" {{ capabilities = ["list"] }}"#
    );
    let token = bao.token(&bao.policy(&rights).await, json!({})).await;
    place.use_openbao(bao, &mount, &token);
    let checked = place.run(&["check"]).await;
    assert_eq!(checked.code, 77, "{checked:?}");
    let line = format!(
        "path \"{mount}/data/{prefix}/portals/*\" {{ capabilities = [\"create\", \"read\", \"update\"] }}"
    );
    assert!(checked.out.contains(&line), "{checked:?}");
}

#[tokio::test]
async fn a_portal_that_was_seen_to_be_gone_stays_gone_when_records_can_t_be_read_and_that_is_told()
{
    let mut place = Place::new(3, "[settings]\nrotating = true").await;
    let bao = openbao().await;
    let (mount, _) = place.move_to_openbao(bao).await;
    place.head = format!("state_dir = \"{}\"\n", place.path("state").display());
    let prefix = "grantkeeper/acme-sync";
    let rights = |portals: &str| {
        format!(
            r#"path "{mount}/data/{prefix}/client" {{ capabilities = ["read"] }}
               path "{mount}/data/{prefix}/portals/*" {{ capabilities = [{portals}] }}
               path "{mount}/metadata/{prefix}/portals/" {{ capabilities = ["list"] }}"#
        )
    };
    let whole = rights(r#""create", "read", "update""#);
    let policy = bao.policy(&whole).await;
    let change = async |text: &str| {
        bao.post(&format!("sys/policies/acl/{policy}"), json!({ "policy": text })).await;
    };
    place.use_openbao(bao, &mount, &bao.token(&policy, json!({})).await);
    let service = place.serve().await;
    service.ready().await;
    let path = format!("{mount}/data/{prefix}/portals/2");
    assert_eq!(bao.api(reqwest::Method::DELETE, &path, None).await.0, 204);
    service.signal(Signal::HUP);
    let is_gone = async || match service.token(2).await {
        Err(AskError::Refused(problem)) => problem.code == "unknown_portal",
        _ => false,
    };
    eventually("the portal is gone", is_gone).await;

    change(&rights(r#""update""#)).await;
    service.signal(Signal::HUP);
    let opened = place.alerts.wait_for("store_denied", "opened").await;
    assert_eq!(opened["data"]["portal_count"], 2, "{opened}");
    service.signal(Signal::HUP);
    eventually("the state is told", async || {
        service.get("/v1/status").await.unwrap()["store"]["trouble"] == "denied"
    })
    .await;
    assert!(is_gone().await, "the journal does not bring back what was taken away");
    service.token(1).await.unwrap();
    // Reading the app's record alone resolves nothing.
    assert_eq!(place.alerts.of("store_denied", "resolved").len(), 0);
    change(&whole).await;
    service.signal(Signal::HUP);
    place.alerts.wait_for("store_denied", "resolved").await;
    assert!(is_gone().await);
}

/// As `agent`, the service may write records and not take them away: what an order did is told, and by `agent-grants` it
/// is done.
#[tokio::test]
async fn a_store_that_refuses_a_removal_is_told_as_that_and_whether_the_grant_is_ended() {
    let bao = openbao().await;
    for (role, may) in [("agent", false), ("agent-grants", true)] {
        let mut place = Place::new(2, "[settings]\nrotating = true\nexpires_in = 1800").await;
        let (mount, store) = place.move_to_openbao(bao).await;
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("policies/vault/{role}.hcl"));
        let text = fs::read_to_string(file).unwrap();
        let policy = bao.policy(&text.replace("\"secret/", &format!("\"{mount}/"))).await;
        place.use_openbao(bao, &mount, &bao.token(&policy, json!({})).await);
        let service = place.serve().await;
        service.ready().await;
        for (target, ended) in [("/v1/portals/1", false), ("/v1/portals/2?revoke=true", true)] {
            let removed = service.client.delete::<serde_json::Value>(target).await;
            if may {
                assert_eq!(removed.unwrap()["revoked"], ended, "{target}");
                continue;
            }
            let Err(AskError::Refused(problem)) = removed else { panic!("{removed:?}") };
            assert_eq!((problem.status, &*problem.code), (503, "store_denied"), "{problem:?}");
            assert_eq!(problem.detail.contains("is ended at HubSpot"), ended, "{problem:?}");
        }
        for number in [1, 2] {
            let there = store.read(Key::Portal(crate::support::portal(number))).await;
            assert_eq!(there.is_ok(), !may, "{role} {number}");
        }
        // The one whose grant goes on is served on.
        assert_eq!(service.token(1).await.is_ok(), !may, "{role}");
    }
}
