//! What a pod has of its cluster, played: a service-account token as the kubelet projects it, and the API server that
//! says whose it is. A real cluster can't run here; OpenBao, which asks, is real.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use grantkeeper::time::{Clock, SystemClock};
use rcgen::CertificateParams;
use serde_json::{Value, json};

use super::answerer::{Act, Answerer, Greeting};

/// A service account.
#[derive(Clone, Copy)]
pub(crate) struct Account {
    pub(crate) namespace: &'static str,
    pub(crate) name: &'static str,
}

impl Account {
    fn user(self) -> String {
        format!("system:serviceaccount:{}:{}", self.namespace, self.name)
    }

    /// A token of its own for `audience`. Nobody checks its signature but the API server.
    pub(crate) fn token(self, audience: &str) -> String {
        let now = SystemClock.wall().as_second();
        let claims = json!({
            "aud": [audience],
            "sub": self.user(),
            "iat": now,
            "nbf": now,
            "exp": now + 600,
            "kubernetes.io": {
                "namespace": self.namespace,
                "serviceaccount": {"name": self.name, "uid": "uid-1"},
            },
        });
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let head = json!({"alg": "RS256", "typ": "JWT"});
        format!("{}.{}.{}", part(&head), part(&claims), URL_SAFE_NO_PAD.encode([7; 256]))
    }

    /// An API server that says of the next `times` tokens that they are this account's, for `audience`; and what
    /// Vault's Kubernetes login is to be told of it.
    pub(crate) async fn vouched_for(self, audience: &str, times: usize) -> (Answerer, Value) {
        let review = json!({"status": {
            "authenticated": true,
            "audiences": [audience],
            "user": {"username": self.user(), "uid": "uid-1"},
        }})
        .to_string();
        let said = format!(
            "HTTP/1.1 201 Created\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{review}",
            review.len()
        );
        let params = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
        let (greeting, pem) = Greeting::tls_and_pem(&params);
        let says = vec![Act::SayAndClose(said.into()); times];
        let cluster = Answerer::start(greeting, says).await;
        let config = json!({
            "kubernetes_host": format!("https://{}", cluster.authority),
            "kubernetes_ca_cert": pem,
            "disable_local_ca_jwt": true,
            "token_reviewer_jwt": "reviewer",
        });
        (cluster, config)
    }
}
