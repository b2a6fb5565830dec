//! Users and roles of a moto server that asks who may do what. It looks at actions, not at resources.

use serde_json::Value;

use super::moto::Moto;

/// One call of IAM's own API, as whoever set up the account would make it.
async fn iam(moto: &Moto, form: &[(&str, &str)]) -> String {
    call(moto, "iam", form).await
}

async fn call(moto: &Moto, service: &str, form: &[(&str, &str)]) -> String {
    let scope = format!(
        "AWS4-HMAC-SHA256 Credential=root/20260101/us-east-1/{service}/aws4_request, SignedHeaders=host, Signature=0"
    );
    let request = reqwest::Client::builder().build().unwrap().post(&moto.endpoint);
    let answer = request.header("Authorization", scope).form(form).send().await.unwrap();
    assert!(answer.status().is_success(), "{form:?}: {answer:?}");
    answer.text().await.unwrap()
}

/// From now on so many calls are let through unasked.
pub(crate) async fn enforce(moto: &Moto, after: u32) {
    let url = format!("{}/moto-api/reset-auth", moto.endpoint);
    let request = reqwest::Client::builder().build().unwrap().post(url).body(after.to_string());
    assert!(request.send().await.unwrap().status().is_success());
}

/// A user with this policy and no other: the access key's id and secret.
pub(crate) async fn user(moto: &Moto, name: &str, policy: &Value) -> (String, String) {
    iam(moto, &[("Action", "CreateUser"), ("UserName", name)]).await;
    let document = policy.to_string();
    let put = [
        ("Action", "PutUserPolicy"),
        ("UserName", name),
        ("PolicyName", name),
        ("PolicyDocument", &document),
    ];
    iam(moto, &put).await;
    let key = iam(moto, &[("Action", "CreateAccessKey"), ("UserName", name)]).await;
    (between(&key, "AccessKeyId"), between(&key, "SecretAccessKey"))
}

/// A role with this policy and no other, which anybody may assume: its ARN.
pub(crate) async fn role(moto: &Moto, name: &str, policy: &Value) -> String {
    let trust = serde_json::json!({"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "sts:AssumeRole"}
    ]});
    let trust = trust.to_string();
    let create =
        [("Action", "CreateRole"), ("RoleName", name), ("AssumeRolePolicyDocument", &*trust)];
    let made = iam(moto, &create).await;
    let document = policy.to_string();
    let put = [
        ("Action", "PutRolePolicy"),
        ("RoleName", name),
        ("PolicyName", name),
        ("PolicyDocument", &document),
    ];
    iam(moto, &put).await;
    between(&made, "Arn")
}

/// Credentials of a session under the role: the key's id and secret, and the session's token.
pub(crate) async fn session(moto: &Moto, arn: &str) -> [String; 3] {
    let form = [("Action", "AssumeRole"), ("RoleArn", arn), ("RoleSessionName", "test")];
    let told = call(moto, "sts", &form).await;
    ["AccessKeyId", "SecretAccessKey", "SessionToken"].map(|tag| between(&told, tag))
}

fn between(text: &str, tag: &str) -> String {
    let (_, rest) = text.split_once(&format!("<{tag}>")).unwrap();
    rest.split_once("</").unwrap().0.to_owned()
}
