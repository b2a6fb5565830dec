//! What only AWS can do to us: IAM, throttling, recovery windows, stages, and no credentials at all.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use aws_config::{BehaviorVersion, Region, SdkConfig};
use axum::{
    Router,
    body::Bytes,
    http::{HeaderMap, StatusCode, header::CONTENT_TYPE},
};
use grantkeeper::{
    store::{
        CredentialStore, Expected, Key, StoreError, StoreErrorKind,
        aws::{AwsStore, Settings},
    },
    time::SystemClock,
};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::{
    store_beds,
    store_contract::Beneath,
    support::{moto::sdk_config, portal, record},
};

const SEVEN: fn() -> Key = || Key::Portal(portal(7));

fn assert_told(error: &StoreError, kind: StoreErrorKind, what: &str, hint: &str) {
    assert_eq!(error.kind, kind, "{error:?}");
    assert!(error.what.contains(what), "{error:?}");
    assert!(error.hint.contains(hint), "{error:?}");
    assert!(!format!("{error:?}").contains("CANARY"), "{error:?}");
}

/// An endpoint that refuses everything with one code: moto knows neither IAM nor throttling.
struct Refusing {
    settings: Settings,
    asked: Arc<AtomicUsize>,
    _server: JoinSet<()>,
}

async fn refusing(status: u16, code: &str) -> Refusing {
    let body = json!({"__type": code, "message": "CANARY"});
    answering(move |_, _| (status, body.clone())).await
}

/// An endpoint that answers each action as it is told to: what AWS is recorded to answer (study `backends.md` 2,
/// column "real AWS") where no emulator does.
async fn answering(
    answer: impl Fn(&str, &Value) -> (u16, Value) + Clone + Send + Sync + 'static,
) -> Refusing {
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let app = Router::new().fallback(move |headers: HeaderMap, body: Bytes| {
        counted.fetch_add(1, Ordering::SeqCst);
        let target = headers["x-amz-target"].to_str().unwrap();
        let action = target.strip_prefix("secretsmanager.").unwrap().to_owned();
        let asked_for: Value = serde_json::from_slice(&body).unwrap();
        let (status, told) = answer(&action, &asked_for);
        async move {
            let kind = [(CONTENT_TYPE, "application/x-amz-json-1.1")];
            (StatusCode::from_u16(status).unwrap(), kind, told.to_string())
        }
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let settings = Settings {
        region: Some("eu-west-1".to_owned()),
        prefix: "gk/app".to_owned(),
        endpoint_url: Some(format!("http://{}", listener.local_addr().unwrap())),
        assume_role: None,
    };
    let mut server = JoinSet::new();
    server.spawn(async move { axum::serve(listener, app).await.unwrap() });
    Refusing { settings, asked, _server: server }
}

fn connect(settings: Settings) -> AwsStore {
    AwsStore::with_sdk_config(settings, &sdk_config(), Arc::new(SystemClock)).unwrap()
}

#[tokio::test]
async fn every_refusal_is_sorted_by_its_code_and_told_without_its_text() {
    use StoreErrorKind::{Denied, Missing, Unreachable};
    for (status, code, kind, what, hint) in [
        (
            400,
            "AccessDeniedException",
            Denied,
            "IAM",
            "\"Action\": \"secretsmanager:GetSecretValue\", \"Resource\": \"arn:aws:secretsmanager:*:*:secret:gk/app/portals/7-??????\"",
        ),
        (400, "UnrecognizedClientException", Denied, "credentials", "Renew"),
        (400, "ExpiredTokenException", Denied, "credentials", "Renew"),
        (400, "DecryptionFailure", Denied, "KMS", "kms:Decrypt"),
        (400, "InvalidRequestException", Missing, "scheduled for deletion", "restore-secret"),
        (400, "ResourceNotFoundException", Missing, "no such secret", "enrol"),
        (404, "ResourceNotFoundException", Missing, "no such secret", "enrol"),
        (400, "ThrottlingException", Unreachable, "throttles", "by itself"),
        (500, "InternalServiceError", Unreachable, "trouble of its own", "by itself"),
    ] {
        let refusing = refusing(status, code).await;
        let error = connect(refusing.settings).read(SEVEN()).await.unwrap_err();
        assert_told(&error, kind, what, hint);
        assert!(error.what.starts_with("reading `portals/7` failed"), "{error}");
        let asked = refusing.asked.load(Ordering::SeqCst);
        assert!((1..=3).contains(&asked), "{code}: asked {asked} times");
    }
}

#[tokio::test]
async fn a_denied_write_names_the_action_that_is_missing() {
    let refusing = refusing(400, "AccessDeniedException").await;
    let store = connect(refusing.settings);
    let grant = record(&json!({"refresh_token": "CANARY-grant"}));
    let error = store.write(SEVEN(), &grant, &Expected::Absent).await.unwrap_err();
    assert_told(&error, StoreErrorKind::Denied, "writing", "secretsmanager:CreateSecret");
    let error = store.list().await.unwrap_err();
    assert_told(&error, StoreErrorKind::Denied, "listing", "secretsmanager:ListSecrets");
}

#[tokio::test]
async fn without_credentials_the_ways_to_give_them_are_told() {
    let bed = store_beds::aws().await;
    let endpoint_url = Some(crate::support::moto().await.endpoint.clone());
    let settings =
        Settings { region: None, prefix: bed.prefix.clone(), endpoint_url, assume_role: None };
    let bare = SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("eu-west-1"))
        .build();
    let store = AwsStore::with_sdk_config(settings, &bare, Arc::new(SystemClock)).unwrap();
    let error = store.check().await.unwrap_err();
    assert_told(&error, StoreErrorKind::Denied, "no AWS credentials", "AWS_ACCESS_KEY_ID");
}

#[tokio::test]
async fn without_a_region_or_with_an_impossible_prefix_nothing_is_tried() {
    let settings = |prefix: &str| Settings {
        region: None,
        prefix: prefix.to_owned(),
        endpoint_url: None,
        assume_role: None,
    };
    let bare = SdkConfig::builder().behavior_version(BehaviorVersion::latest()).build();
    let error =
        AwsStore::with_sdk_config(settings("gk"), &bare, Arc::new(SystemClock)).unwrap_err();
    assert_told(&error, StoreErrorKind::Misconfigured, "region", "store.aws.region");
    let error =
        AwsStore::with_sdk_config(settings("gk//x y"), &sdk_config(), Arc::new(SystemClock))
            .unwrap_err();
    assert_told(&error, StoreErrorKind::Misconfigured, "store.aws.prefix", "letters");
}

#[tokio::test]
async fn nobody_at_the_endpoint_is_unreachable() {
    let port = crate::support::program::free_port_pair();
    let settings = Settings {
        region: None,
        prefix: "gk".to_owned(),
        endpoint_url: Some(format!("http://127.0.0.1:{port}")),
        assume_role: None,
    };
    let error = connect(settings).check().await.unwrap_err();
    assert_told(&error, StoreErrorKind::Unreachable, "no connection", "endpoint_url");
}

#[tokio::test]
async fn a_lost_race_leaves_no_pending_value_behind() {
    let bed = store_beds::aws().await;
    let store = bed.store();
    let grant = |text: &str| record(&json!({"refresh_token": text}));
    let first = store.write(SEVEN(), &grant("t0"), &Expected::Absent).await.unwrap();
    let mut writers = JoinSet::new();
    for writer in 0..4 {
        let (store, expected) = (Arc::clone(&store), Expected::At(first.clone()));
        writers.spawn(async move {
            let grant = record(&json!({"refresh_token": format!("w{writer}")}));
            store.write(SEVEN(), &grant, &expected).await.is_ok()
        });
    }
    let won = writers.join_all().await.into_iter().filter(|won| *won).count();
    assert_eq!(won, 1);
    let current = store.read(SEVEN()).await.unwrap().version.to_string();
    let name = format!("{}/portals/7", bed.prefix);
    let described = bed.client.describe_secret().secret_id(name).send().await.unwrap();
    for (version, stages) in described.version_ids_to_stages().unwrap() {
        let pending = stages.iter().any(|stage| stage == "AWSPENDING");
        assert!(!pending || *version == current, "{version}: {stages:?}");
    }
}

#[tokio::test]
async fn a_removed_secret_can_be_restored_by_its_owner() {
    let bed = store_beds::aws().await;
    let store = bed.store();
    let grant = record(&json!({"refresh_token": "t0"}));
    let version = store.write(SEVEN(), &grant, &Expected::Absent).await.unwrap();
    store.remove(SEVEN(), &version).await.unwrap();
    assert_eq!(store.read(SEVEN()).await.unwrap_err().kind, StoreErrorKind::Missing);
    let name = format!("{}/portals/7", bed.prefix);
    bed.client.restore_secret().secret_id(name).send().await.unwrap();
    assert_eq!(store.read(SEVEN()).await.unwrap().version, version);
}

#[tokio::test]
async fn another_app_s_portals_with_a_longer_prefix_are_not_listed() {
    let bed = store_beds::aws().await;
    bed.stray("7").await;
    let longer = format!("x{}/portals/8", bed.prefix);
    let inside = format!("{}/portals-old/9", bed.prefix);
    for name in [longer, inside] {
        bed.client.create_secret().name(name).secret_string("{}").send().await.unwrap();
    }
    let listing = bed.store().list().await.unwrap();
    assert_eq!(listing.portals, [portal(7)]);
    assert!(listing.strays.is_empty(), "{listing:?}");
}

#[tokio::test]
async fn more_portals_than_one_page_holds_are_all_listed() {
    let bed = store_beds::aws().await;
    for number in 1..=130 {
        bed.stray(&number.to_string()).await;
    }
    assert_eq!(bed.store().list().await.unwrap().portals.len(), 130);
}

fn secret(name: &str, stages: &[&str]) -> Value {
    let arn = format!("arn:aws:secretsmanager:eu-west-1:111122223333:secret:{name}-AbCdEf");
    let value = json!({"refresh_token": format!("of-{name}")}).to_string();
    json!({
        "ARN": arn, "Name": name, "VersionId": "0".repeat(32), "SecretString": value,
        "VersionStages": stages, "CreatedDate": 1_795_000_000.0,
    })
}

/// Neither emulator gives a batch in pages, with errors of single secrets among them, as AWS does.
#[tokio::test]
async fn a_batch_of_aws_in_pages_and_with_errors_gives_each_secret_its_own_outcome() {
    let name = |number: u64| format!("gk/app/portals/{number}");
    let server = answering(move |action, body| match action {
        "BatchGetSecretValue" => {
            let ids = body["SecretIdList"].as_array().unwrap();
            assert!(ids.len() <= 20, "AWS refuses more: {}", ids.len());
            let first = body["NextToken"].is_null();
            let half = ids.len() / 2;
            let page = if first { &ids[..half] } else { &ids[half..] };
            let mut values: Vec<Value> = Vec::new();
            let mut errors: Vec<Value> = Vec::new();
            for id in page.iter().map(|id| id.as_str().unwrap()) {
                match id {
                    id if id == name(3) => errors.push(json!({"SecretId": id, "ErrorCode": "ResourceNotFoundException", "Message": "CANARY"})),
                    id if id == name(14) => errors.push(json!({"SecretId": id, "ErrorCode": "AccessDeniedException", "Message": "CANARY"})),
                    // One whose current version is another by now.
                    id if id == name(7) => values.push(secret(id, &["AWSPREVIOUS"])),
                    id => values.push(secret(id, &["AWSCURRENT"])),
                }
            }
            let mut told = json!({"SecretValues": values, "Errors": errors});
            if first {
                told["NextToken"] = json!("more");
            }
            (200, told)
        }
        "GetSecretValue" => {
            assert_eq!(body["VersionStage"], "AWSCURRENT", "the stage is named");
            match body["SecretId"].as_str().unwrap() {
                id if id == name(3) => (400, json!({"__type": "ResourceNotFoundException"})),
                id if id == name(14) => (400, json!({"__type": "AccessDeniedException"})),
                id => (200, secret(id, &["AWSCURRENT"])),
            }
        }
        other => panic!("{other} was not expected"),
    })
    .await;
    let keys: Vec<Key> = (1..=45).map(|number| Key::Portal(portal(number))).collect();
    let outcomes = connect(server.settings).read_all(&keys).await;
    assert_eq!(outcomes.len(), 45);
    for (key, outcome) in outcomes {
        let kind = outcome.map(|found| found.record.portal().unwrap()).map_err(|error| error.kind);
        match key {
            key if key == keys[2] => assert_eq!(kind.unwrap_err(), StoreErrorKind::Missing),
            key if key == keys[13] => assert_eq!(kind.unwrap_err(), StoreErrorKind::Denied),
            key => assert_eq!(kind.unwrap().refresh_token.expose(), format!("of-gk/app/{key}")),
        }
    }
    // Six pages, and three secrets that were looked at by themselves.
    assert_eq!(server.asked.load(Ordering::SeqCst), 6 + 3);
}

/// moto takes a value for a secret that is scheduled for deletion; AWS does not.
#[tokio::test]
async fn a_secret_that_aws_is_about_to_delete_takes_no_value_and_is_told_as_changed() {
    let server = answering(|action, body| match action {
        "GetSecretValue" => (200, secret(body["SecretId"].as_str().unwrap(), &["AWSCURRENT"])),
        "PutSecretValue" => (
            400,
            json!({"__type": "InvalidRequestException", "Message": "CANARY: marked for deletion"}),
        ),
        other => panic!("{other} was not expected"),
    })
    .await;
    let store = connect(server.settings);
    let at = Expected::At(store.read(SEVEN()).await.unwrap().version);
    let error =
        store.write(SEVEN(), &record(&json!({"refresh_token": "t"})), &at).await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Conflict, "{error:?}");
    assert!(!format!("{error:?}").contains("CANARY"), "{error:?}");
}
