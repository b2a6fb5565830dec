//! PagerDuty, by its Events API v2: a trigger opens, an acknowledgement and a resolution go to the same alert, by the
//! incident's id. It reminds people by itself.

use std::{path::PathBuf, sync::Arc};

use async_trait::async_trait;
use reqwest::Url;
use serde::Serialize;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::{AlertSink, DeliveryError, post};
use crate::incident::{Change, Incident, Notice};

/// Where events go, unless the account is in another region.
pub const ADDRESS: &str = "https://events.pagerduty.com/v2/enqueue";
/// A summary is cut there, in characters.
const SUMMARY: usize = 1024;

/// One service.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What the operator calls it.
    pub name: String,
    /// Where to.
    pub address: Url,
    /// The file with the integration key.
    pub routing_key_file: PathBuf,
}

/// A service, ready to be told.
#[derive(Debug)]
pub struct PagerDuty {
    settings: Settings,
    http: reqwest::Client,
    /// What alerts are said to come from.
    host: Arc<str>,
}

impl PagerDuty {
    /// # Errors
    /// The machine has no CA certificates.
    pub fn new(settings: Settings) -> Result<Self, reqwest::Error> {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        Ok(Self { settings, http: post::client()?, host: host.into() })
    }
}

/// An event.
#[derive(Serialize)]
struct Event<'a> {
    routing_key: &'a str,
    #[serde(rename = "event_action")]
    action: &'static str,
    dedup_key: &'a str,
    client: &'static str,
    payload: Value,
}

/// The events of one notice, in their order.
const fn actions(change: Change, acknowledged: bool) -> &'static [&'static str] {
    match change {
        Change::Resolved => &["resolve"],
        // Somebody has it already: it is not to ring until somebody says so here, too.
        Change::Opened if acknowledged => &["trigger", "acknowledge"],
        // Another trigger would let it ring on, though somebody has it.
        _ if acknowledged => &["acknowledge"],
        _ => &["trigger"],
    }
}

fn payload(notice: &Notice, host: &str) -> Value {
    let Incident { kind, severity, app, portals, portal_count, summary, action, since, .. } =
        &notice.incident;
    let text = format!("{}: {summary}", notice.headline());
    json!({
        "summary": text.chars().take(SUMMARY).collect::<String>(),
        "timestamp": notice.at,
        "severity": severity.as_str(),
        "source": host,
        "component": app.as_str(),
        "group": "grantkeeper",
        "class": kind.as_str(),
        "custom_details": {
            "what_to_do": action,
            "portals": portals,
            "portal_count": portal_count,
            "since": since,
        },
    })
}

#[async_trait]
impl AlertSink for PagerDuty {
    fn name(&self) -> &str {
        &self.settings.name
    }

    async fn deliver(&self, notice: &Notice) -> Result<(), DeliveryError> {
        let key: Zeroizing<String> = post::read(&self.settings.routing_key_file).await?;
        if key.is_empty() {
            return Err(DeliveryError::retryable("the routing key file is empty"));
        }
        for action in actions(notice.change, notice.incident.acknowledged.is_some()) {
            let event = Event {
                routing_key: &key,
                action,
                dedup_key: &notice.incident.incident_id,
                client: "Grantkeeper",
                payload: payload(notice, &self.host),
            };
            post::send(self.http.post(self.settings.address.clone()).json(&event)).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resolution_resolves_and_everything_before_triggers() {
        let words: [(Change, &str, &[&str]); 5] = [
            (Change::Opened, "trigger", &["trigger", "acknowledge"]),
            (Change::Updated, "trigger", &["acknowledge"]),
            (Change::Reminded, "trigger", &["acknowledge"]),
            (Change::Acknowledged, "trigger", &["acknowledge"]),
            (Change::Resolved, "resolve", &["resolve"]),
        ];
        for (change, open, taken) in words {
            assert_eq!((actions(change, false), actions(change, true)), (&[open][..], taken));
        }
    }
}
