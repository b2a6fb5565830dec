//! A signed webhook: CloudEvents 1.0 JSON, signed as Standard Webhooks say. Nothing of ours but the
//! incident is in it.

use std::{path::PathBuf, sync::Arc};

use async_trait::async_trait;
use aws_lc_rs::hmac;
use base64::{Engine, prelude::BASE64_STANDARD};
use serde::Serialize;
use zeroize::Zeroizing;

use super::{
    AlertSink, DeliveryError,
    post::{self, Target},
};
use crate::{
    incident::{Incident, Notice},
    secret::SigningSecret,
    time::Clock,
};

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

impl Webhook {
    /// # Errors
    /// The machine has no CA certificates.
    pub fn new(settings: Settings, clock: Arc<dyn Clock>) -> Result<Self, reqwest::Error> {
        Ok(Self { settings, http: post::client()?, clock })
    }

    async fn key(&self) -> Result<Option<hmac::Key>, DeliveryError> {
        let Some(path) = &self.settings.signing_secret_file else { return Ok(None) };
        let text = post::read(path).await?;
        let secret = SigningSecret::parse(text.as_str())
            .map_err(|error| DeliveryError::retryable(format!("signing secret file: {error}")))?;
        let key = signing_key(&secret).ok_or_else(|| {
            DeliveryError::retryable("signing secret file: it is not `whsec_` followed by base64")
        })?;
        Ok(Some(key))
    }
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
        let (url, key) = (self.settings.target.url().await?, self.key().await?);
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
        post::send(request.body(body)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        incident::{Book, Kind, Moment},
        portal::{AppName, PortalId},
        time::BootTime,
    };

    fn notice() -> Notice {
        let mut book = Book::new(AppName::parse("acme-sync").unwrap(), BootTime::default());
        let wall = "2026-11-24T08:00:00Z".parse().unwrap();
        let at = Moment { boot: BootTime::default(), wall };
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
}
