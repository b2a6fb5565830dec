//! Where AWS credentials come from: the SDK's own chain and a role by configuration, with the program as it is and
//! a server that asks who may do what.

use std::fs;

use axum::{
    Json, Router,
    routing::{get, put},
};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinSet};

use crate::support::{
    iam::{enforce, role, session, user},
    moto::Moto,
    service::Place,
};

fn allowing(actions: &str) -> Value {
    json!({"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "Action": actions, "Resource": "*"}
    ]})
}

/// A place on a server of its own that asks everybody, and whoever may read secrets there.
struct Account {
    place: Place,
    moto: Moto,
    key: (String, String),
}

async fn account() -> Account {
    let moto = Moto::start().await;
    enforce(&moto, 1_000_000).await;
    let mut place = Place::new(2, "").await;
    drop(place.move_to_aws(&moto).await);
    place.env.clear();
    let key = user(&moto, "reader", &allowing("secretsmanager:*")).await;
    Account { place, moto, key }
}

impl Account {
    /// `check` with this environment; the server asks after `unasked` calls.
    async fn check(&mut self, env: &[(&str, String)], unasked: u32) -> (i32, String) {
        let none = ("AWS_EC2_METADATA_DISABLED", "true".to_owned());
        let home = ("HOME", self.place.path("home").display().to_string());
        let all = [none, home].into_iter().chain(env.iter().cloned());
        self.place.env = all.map(|(name, value)| (name.to_owned(), value)).collect();
        enforce(&self.moto, unasked).await;
        let ended = self.place.run(&["check"]).await;
        enforce(&self.moto, 1_000_000).await;
        (ended.code, ended.out + &ended.err)
    }
}

/// What a container's or an instance's own server says.
async fn giving([id, secret, token]: &[String; 3]) -> (String, JoinSet<()>) {
    let credentials = json!({
        "Code": "Success", "Type": "AWS-HMAC", "AccessKeyId": id, "SecretAccessKey": secret,
        "Token": token, "Expiration": "2036-01-01T00:00:00Z", "LastUpdated": "2026-01-01T00:00:00Z",
    });
    let (one, other) = (credentials.clone(), credentials);
    let app = Router::new()
        .route("/container", get(async move || Json(one)))
        .route(
            "/latest/api/token",
            put(async || ([("x-aws-ec2-metadata-token-ttl-seconds", "21600")], "session")),
        )
        .route("/latest/meta-data/iam/security-credentials/", get(async || "the-role"))
        .route(
            "/latest/meta-data/iam/security-credentials-extended/",
            get(async || http::StatusCode::NOT_FOUND),
        )
        .route(
            "/latest/meta-data/iam/security-credentials/the-role",
            get(async move || Json(other)),
        );
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let mut serving = JoinSet::new();
    serving.spawn(async move { axum::serve(listener, app).await.unwrap() });
    (address, serving)
}

#[tokio::test]
async fn credentials_come_from_the_environment_a_profile_a_container_or_an_instance() {
    let mut account = account().await;
    let (id, secret) = account.key.clone();
    let profile = account.place.path("credentials");
    fs::write(
        &profile,
        format!("[ops]\naws_access_key_id = {id}\naws_secret_access_key = {secret}\n"),
    )
    .unwrap();
    let arn = role(&account.moto, "pod", &allowing("secretsmanager:*")).await;
    let session = session(&account.moto, &arn).await;
    let (address, _serving) = giving(&session).await;
    let rows: [(&str, Vec<(&str, String)>); 4] = [
        ("environment", vec![("AWS_ACCESS_KEY_ID", id), ("AWS_SECRET_ACCESS_KEY", secret)]),
        (
            "profile",
            vec![
                ("AWS_SHARED_CREDENTIALS_FILE", profile.display().to_string()),
                ("AWS_PROFILE", "ops".to_owned()),
            ],
        ),
        ("container", vec![("AWS_CONTAINER_CREDENTIALS_FULL_URI", format!("{address}/container"))]),
        (
            "instance",
            vec![
                ("AWS_EC2_METADATA_SERVICE_ENDPOINT", address),
                ("AWS_EC2_METADATA_DISABLED", "false".to_owned()),
            ],
        ),
    ];
    for (name, env) in rows {
        let (code, said) = account.check(&env, 0).await;
        assert_eq!(code, 0, "{name}: {said}");
    }
    let (code, said) = account.check(&[], 0).await;
    assert_eq!(code, 77, "{said}");
    assert!(said.contains("no AWS credentials could be had"), "{said}");
}

#[tokio::test]
async fn a_role_is_assumed_by_configuration_and_by_web_identity() {
    let mut account = account().await;
    let arn = role(&account.moto, "keeper", &allowing("secretsmanager:*")).await;
    let (id, secret) = user(&account.moto, "nobody", &allowing("sts:AssumeRole")).await;
    let sts = ("AWS_ENDPOINT_URL_STS", account.moto.endpoint.clone());
    let own = [("AWS_ACCESS_KEY_ID", id), ("AWS_SECRET_ACCESS_KEY", secret), sts.clone()];
    let (code, said) = account.check(&own, 0).await;
    assert_eq!(code, 77, "who may only assume the role may read nothing: {said}");
    let without = account.place.store.clone();
    account.place.store += &format!("assume_role = \"{arn}\"\nexternal_id = \"acme\"\n");
    let (code, said) = account.check(&own, 0).await;
    assert_eq!(code, 0, "{said}");

    account.place.store = without;
    let token = account.place.path("web-identity");
    fs::write(&token, "a.jwt.of-the-pod").unwrap();
    let pod = [
        ("AWS_WEB_IDENTITY_TOKEN_FILE", token.display().to_string()),
        ("AWS_ROLE_ARN", arn),
        ("AWS_ROLE_SESSION_NAME", "pod".to_owned()),
        sts,
    ];
    // The first call bears no signature: the token is what it proves itself by.
    let (code, said) = account.check(&pod, 1).await;
    assert_eq!(code, 0, "{said}");
    // Asked about a token it can't check, this server breaks; what it says is nobody's to read.
    let (code, said) = account.check(&pod, 0).await;
    assert_eq!(code, 77, "{said}");
    assert!(said.contains("no AWS credentials could be had") && !said.contains("raw"), "{said}");
}
