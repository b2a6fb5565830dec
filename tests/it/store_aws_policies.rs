//! The IAM policies that come with the program: a linter finds nothing wrong with them, an evaluator allows each
//! role what it does on its own secrets and nothing else, and a server that enforces them lets the store do its
//! work. AWS itself says no with a code of its own, which `store_aws.rs` has.

use std::{fs, path::Path, process::Stdio, sync::Arc};

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_secretsmanager::config::{Credentials, SharedCredentialsProvider};
use grantkeeper::{
    store::{
        CredentialStore, Expected, Key, Known,
        aws::{AwsStore, Settings},
    },
    time::SystemClock,
};
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt, process::Command};

use crate::support::{
    iam::{enforce, user},
    moto::{Moto, sdk_config},
    portal,
    program::installed,
    record,
};

const ROLES: [&str; 4] = ["agent", "agent-grants", "init", "operator"];
const OURS: &str = "arn:aws:secretsmanager:eu-west-1:111122223333:secret:grantkeeper/acme-sync";

fn policy(role: &str) -> Value {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("policies/aws/{role}.json"));
    serde_json::from_slice(&fs::read(file).unwrap()).unwrap()
}

/// What a program of the test environment says to `input`: its exit code and standard output.
async fn piped(program: &str, args: &[&str], input: &str) -> (i32, String) {
    let mut child = Command::new(installed(program))
        .args(args)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).await.unwrap();
    drop(stdin);
    let ended = child.wait_with_output().await.unwrap();
    (ended.status.code().unwrap_or(-1), String::from_utf8(ended.stdout).unwrap())
}

#[tokio::test]
async fn the_linter_finds_nothing_in_the_iam_policies_and_a_slip_in_each() {
    for role in ROLES {
        let good = policy(role).to_string();
        assert_eq!(piped("bin/parliament", &[], &good).await, (0, String::new()), "{role}");
        for (right, wrong) in [("GetSecretValue", "GetSecretValu"), ("secret:", "secrets:")] {
            let slip = good.replace(right, wrong);
            let (code, told) = piped("bin/parliament", &[], &slip).await;
            assert_ne!(code, 0, "{role}: {wrong}: {told}");
        }
    }
}

#[tokio::test]
async fn each_role_may_do_its_work_on_its_own_secrets_and_nothing_else() {
    let client = format!("{OURS}/client-AbCdEf");
    let portals =
        [format!("{OURS}/portals/4711-AbCdEf"), format!("{OURS}/portals/shard-007-AbCdEf")];
    let others = [
        OURS.replace("acme-sync", "other") + "/portals/4711-AbCdEf",
        format!("{OURS}/clients-AbCdEf"),
        format!("{OURS}-2/client-AbCdEf"),
        "arn:aws:secretsmanager:eu-west-1:111122223333:secret:prod/database-AbCdEf".to_owned(),
    ];
    let read = ["GetSecretValue"].as_slice();
    let write = ["PutSecretValue", "UpdateSecretVersionStage"].as_slice();
    let manage = ["CreateSecret", "DeleteSecret", "RestoreSecret"].as_slice();
    let never = ["PutResourcePolicy", "ReplicateSecretToRegions", "RotateSecret", "UpdateSecret"];
    for role in ROLES {
        let mut rows: Vec<(String, String, bool)> = Vec::new();
        let mut row = |actions: &[&str], secret: &str, allowed| {
            for action in actions {
                rows.push((format!("secretsmanager:{action}"), secret.to_owned(), allowed));
            }
        };
        let operator = role == "operator";
        for secret in portals.iter().chain([&client]) {
            row(read, secret, true);
            row(write, secret, operator || (role.starts_with("agent") && secret != &client));
            row(manage, secret, operator || (role == "agent-grants" && secret != &client));
            row(&never, secret, false);
        }
        for secret in &others {
            for actions in [read, write, manage, never.as_slice()] {
                row(actions, secret, false);
            }
        }
        row(&["ListSecrets", "BatchGetSecretValue"], "*", true);
        let questions: Vec<_> = rows.iter().map(|(action, secret, _)| [action, secret]).collect();
        let asked = json!({"policy": policy(role), "questions": questions}).to_string();
        let (code, told) = piped("bin/python", &["tests/it/iam.py"], &asked).await;
        assert_eq!(code, 0, "{told}");
        let told: Vec<bool> = serde_json::from_str(&told).unwrap();
        for ((action, secret, allowed), told) in rows.iter().zip(told) {
            assert_eq!(told, *allowed, "{role}: {action} on {secret}");
        }
    }
}

/// A user who has the role's policy and no other; on every secret, as this server looks at actions alone.
async fn acting_as(moto: &Moto, role: &str) -> SdkConfig {
    let mut document = policy(role);
    for statement in document["Statement"].as_array_mut().unwrap() {
        statement["Resource"] = json!("*");
    }
    let (id, secret) = user(moto, role, &document).await;
    let credentials = Credentials::new(id, secret, None, None, "tests");
    SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("eu-west-1"))
        .credentials_provider(SharedCredentialsProvider::new(credentials))
        .build()
}

#[tokio::test]
async fn a_server_that_enforces_the_policies_lets_each_role_do_its_work_and_no_more() {
    let moto = Moto::start().await;
    enforce(&moto, 1_000_000).await;
    for role in ROLES {
        let settings = Settings { prefix: format!("gk/{role}"), ..moto.settings() };
        let connect = |sdk: &SdkConfig| {
            AwsStore::with_sdk_config(settings.clone(), sdk, Arc::new(SystemClock)).unwrap()
        };
        let root = connect(&sdk_config());
        let grant = record(&json!({"refresh_token": "t"}));
        let keys = [1, 2, 3].map(|number| Key::Portal(portal(number)));
        let mut version = None;
        for key in keys {
            version = Some(root.write(key, &grant, &Expected::Absent).await.unwrap());
        }
        let store = connect(&acting_as(&moto, role).await);
        enforce(&moto, 0).await;
        let contents = store.load(&Known::new()).await.unwrap();
        assert_eq!(contents.records.len(), 3, "{role}");
        assert!(contents.records.iter().all(|(_, stored)| stored.is_ok()), "{role}");
        let lacks = store.lacks().await.unwrap();
        let newer = record(&json!({"refresh_token": "newer"}));
        let written = store.write(keys[2], &newer, &Expected::At(version.unwrap())).await;
        let created = store.write(Key::Portal(portal(9)), &grant, &Expected::Absent).await;
        let first = store.read(keys[0]).await.unwrap().version;
        let removed = store.remove(keys[0], &first).await;
        enforce(&moto, 1_000_000).await;
        assert_eq!(written.is_ok(), role != "init", "{role}: {written:?}");
        let manages = ["agent-grants", "operator"].contains(&role);
        assert_eq!(created.is_ok(), manages, "{role}: {created:?}");
        assert_eq!(removed.is_ok(), manages, "{role}: {removed:?}");
        assert_eq!(lacks.is_empty(), role != "init", "{role}: {lacks:?}");
        let after = root.list().await.unwrap().portals;
        let expected = if manages { [2, 3, 9] } else { [1, 2, 3] };
        assert_eq!(after, expected.map(portal), "{role}");
    }
}
