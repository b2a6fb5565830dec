//! A signed webhook: CloudEvents 1.0 JSON, signed as Standard Webhooks say. Nothing of ours but the
//! incident is in it.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use aws_lc_rs::hmac;
use base64::{Engine, prelude::BASE64_STANDARD};
use reqwest::{Url, redirect};
use serde::Serialize;
use zeroize::Zeroizing;

use super::{AlertSink, DeliveryError};
use crate::{
    incident::{Incident, Notice},
    secret::{
        SigningSecret,
        file::{self, SecretFileError},
    },
    time::Clock,
};

const DEADLINE: Duration = Duration::from_secs(10);

/// Where a webhook's URL stands.
#[derive(Debug, Clone)]
pub enum Target {
    /// In the configuration: it is no secret.
    Url(Url),
    /// In a file that is read for every delivery: it is a secret, and may be replaced.
    File(PathBuf),
}

/// One webhook receiver.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What the operator calls it.
    pub name: String,
    /// Where to send.
    pub target: Target,
    /// The file with the signing secret, `whsec_` and base64; unsigned without.
    pub signing_secret_file: Option<PathBuf>,
}

/// A webhook receiver, ready to be told.
#[derive(Debug)]
pub struct Webhook {
    settings: Settings,
    http: reqwest::Client,
    clock: Arc<dyn Clock>,
}

/// The URL can't be used for alerts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadTarget {
    /// Not a URL.
    #[error("it is not an http or https URL")]
    NotAUrl,
    /// Plain HTTP to another machine.
    #[error("plain http is accepted towards this machine only; use https")]
    PlainHttp,
}

/// The text as a URL an alert may go to: https, or http towards loopback.
///
/// # Errors
/// Why not. The error does not hold the text.
pub fn target(text: &str) -> Result<Url, BadTarget> {
    let url = Url::parse(text.trim()).map_err(|_| BadTarget::NotAUrl)?;
    let host = url.host_str().ok_or(BadTarget::NotAUrl)?;
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let loopback = host == "localhost"
        || bare.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    match url.scheme() {
        "https" => Ok(url),
        "http" if loopback => Ok(url),
        "http" => Err(BadTarget::PlainHttp),
        _ => Err(BadTarget::NotAUrl),
    }
}

impl Webhook {
    /// # Errors
    /// The machine has no CA certificates.
    pub fn new(settings: Settings, clock: Arc<dyn Clock>) -> Result<Self, reqwest::Error> {
        let http = reqwest::Client::builder()
            .user_agent(concat!("grantkeeper/", env!("CARGO_PKG_VERSION")))
            .redirect(redirect::Policy::none())
            .connect_timeout(DEADLINE / 2)
            .timeout(DEADLINE)
            .build()?;
        Ok(Self { settings, http, clock })
    }

    async fn url(&self) -> Result<Url, DeliveryError> {
        match &self.settings.target {
            Target::Url(url) => Ok(url.clone()),
            Target::File(path) => {
                let text = read(path).await?;
                target(&text)
                    .map_err(|error| DeliveryError::retryable(format!("url file: {error}")))
            }
        }
    }

    async fn key(&self) -> Result<Option<hmac::Key>, DeliveryError> {
        let Some(path) = &self.settings.signing_secret_file else { return Ok(None) };
        let text = read(path).await?;
        let secret = SigningSecret::parse(text.trim())
            .map_err(|error| DeliveryError::retryable(format!("signing secret file: {error}")))?;
        let key = signing_key(&secret).ok_or_else(|| {
            DeliveryError::retryable("signing secret file: it is not `whsec_` followed by base64")
        })?;
        Ok(Some(key))
    }
}

async fn read(path: &Path) -> Result<Zeroizing<String>, DeliveryError> {
    let unusable = |why: &dyn std::fmt::Display| {
        DeliveryError::retryable(format!("{}: {why}", path.display()))
    };
    let bytes = file::read_beside(path).await.map_err(|error| match error {
        SecretFileError::Open(open) => DeliveryError::retryable(format!("{open}; {}", open.hint())),
        SecretFileError::Io(error) => unusable(&error.kind()),
    })?;
    let text = std::str::from_utf8(&bytes).map_err(|error| unusable(&error))?;
    Ok(Zeroizing::new(text.to_owned()))
}

/// The key in a Standard Webhooks secret: base64 behind `whsec_`.
#[must_use]
pub fn signing_key(secret: &SigningSecret) -> Option<hmac::Key> {
    // exposed: into the key that signs alerts
    let text = secret.expose();
    let bytes = BASE64_STANDARD.decode(text.strip_prefix("whsec_").unwrap_or(text)).ok()?;
    let bytes = Zeroizing::new(bytes);
    (!bytes.is_empty()).then(|| hmac::Key::new(hmac::HMAC_SHA256, &bytes))
}

/// The value of `webhook-signature` for a body with this id, sent at this Unix second.
#[must_use]
pub fn signature(key: &hmac::Key, id: &str, second: i64, body: &str) -> String {
    let tag = hmac::sign(key, format!("{id}.{second}.{body}").as_bytes());
    format!("v1,{}", BASE64_STANDARD.encode(tag))
}

/// The envelope of CloudEvents 1.0, JSON format.
#[derive(Serialize)]
struct CloudEvent<'a> {
    specversion: &'static str,
    id: &'a str,
    source: String,
    #[serde(rename = "type")]
    kind: String,
    time: String,
    datacontenttype: &'static str,
    data: &'a Incident,
}

/// A notice as CloudEvents JSON.
#[must_use]
pub fn body(notice: &Notice) -> String {
    let event = CloudEvent {
        specversion: "1.0",
        id: &notice.key(),
        source: format!("/grantkeeper/{}", notice.incident.app),
        kind: format!("dev.grantkeeper.incident.{}", notice.change.as_str()),
        time: notice.at.to_string(),
        datacontenttype: "application/json",
        data: &notice.incident,
    };
    serde_json::to_string(&event).unwrap_or_default()
}

#[async_trait]
impl AlertSink for Webhook {
    fn name(&self) -> &str {
        &self.settings.name
    }

    async fn deliver(&self, notice: &Notice) -> Result<(), DeliveryError> {
        let (url, key) = (self.url().await?, self.key().await?);
        let (id, body) = (notice.key(), body(notice));
        let second = self.clock.wall().as_second();
        let mut request = self
            .http
            .post(url)
            .header("content-type", "application/cloudevents+json")
            .header("webhook-id", &id)
            .header("webhook-timestamp", second.to_string());
        if let Some(key) = key {
            request = request.header("webhook-signature", signature(&key, &id, second, &body));
        }
        // The library's own error would name the URL.
        let answer = request.body(body).send().await.map_err(|error| {
            let how =
                if error.is_timeout() { "did not answer in time" } else { "can't be reached" };
            DeliveryError::retryable(format!("the receiver {how}"))
        })?;
        let status = answer.status();
        match status.as_u16() {
            200..300 => Ok(()),
            408 | 425 | 429 | 500.. => {
                Err(DeliveryError::retryable(format!("the receiver answered {status}")))
            }
            _ => Err(DeliveryError::permanent(format!("the receiver answered {status}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        incident::{Book, Kind},
        portal::{AppName, PortalId},
        time::BootTime,
    };

    fn notice() -> Notice {
        let mut book = Book::new(AppName::parse("acme-sync").unwrap(), BootTime::default());
        let at = "2026-11-24T08:00:00Z".parse().unwrap();
        let portal = PortalId::new(4711).unwrap();
        book.open(Kind::GrantRevoked, Some(portal), None, &[], at).unwrap()
    }

    #[test]
    fn the_body_is_a_cloud_event_with_the_members_of_the_contract() {
        let event: serde_json::Value = serde_json::from_str(&body(&notice())).unwrap();
        assert_eq!(event["specversion"], "1.0");
        assert_eq!(event["type"], "dev.grantkeeper.incident.opened");
        assert_eq!(event["time"], "2026-11-24T08:00:00Z");
        let data = event["data"].as_object().unwrap();
        let members: Vec<&str> = data.keys().map(String::as_str).collect();
        let expected = [
            "action",
            "app",
            "incident_id",
            "kind",
            "portal_count",
            "portals",
            "severity",
            "since",
            "summary",
        ];
        assert_eq!(members, expected);
        assert_eq!(data["portals"], serde_json::json!([4711]));
    }

    #[test]
    fn the_signature_is_accepted_by_the_standard_webhooks_library() {
        let secret = SigningSecret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let key = signing_key(&secret).unwrap();
        let body = body(&notice());
        #[expect(clippy::disallowed_methods, reason = "the library compares with the real time")]
        let now = jiff::Timestamp::now().as_second();
        let mut headers = http::HeaderMap::new();
        headers.insert("webhook-id", "msg-1".parse().unwrap());
        headers.insert("webhook-timestamp", now.to_string().parse().unwrap());
        headers.insert("webhook-signature", signature(&key, "msg-1", now, &body).parse().unwrap());
        let verifier = standardwebhooks::Webhook::new(secret.expose()).unwrap();
        verifier.verify(body.as_bytes(), &headers).unwrap();
        headers.insert("webhook-id", "msg-2".parse().unwrap());
        verifier.verify(body.as_bytes(), &headers).unwrap_err();
    }

    #[test]
    fn plain_http_goes_to_this_machine_only() {
        for good in
            ["https://a.example/x", "http://127.0.0.1:9/x", "http://[::1]/", "http://localhost:1"]
        {
            assert!(target(good).is_ok(), "{good}");
        }
        assert_eq!(target("http://a.example/x"), Err(BadTarget::PlainHttp));
        for bad in ["", "nope", "ftp://127.0.0.1/", "file:///etc/passwd"] {
            assert_eq!(target(bad), Err(BadTarget::NotAUrl), "{bad}");
        }
    }
}
