//! Prometheus' Alertmanager, by its API v2. It forgets what is not repeated, so that a firing alert is sent again each
//! minute: should Grantkeeper die, its alerts end by themselves. Grouping, silences and people are its business.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use serde_json::{Value, json};

use super::{
    AlertSink, DeliveryError,
    post::{self, Target},
};
use crate::{
    incident::{Change, Notice},
    time::Clock,
};

/// How often a firing alert is sent again.
pub const REPEAT: Duration = Duration::from_secs(60);
/// One that is not sent again is over after so long: three repeats may get lost.
const LASTS: Duration = Duration::from_secs(240);

/// One Alertmanager.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What the operator calls it.
    pub name: String,
    /// Its address, without the path of the API.
    pub target: Target,
}

/// An Alertmanager, ready to be told.
#[derive(Debug)]
pub struct Alertmanager {
    settings: Settings,
    http: reqwest::Client,
    clock: Arc<dyn Clock>,
}

impl Alertmanager {
    /// # Errors
    /// The machine has no CA certificates.
    pub fn new(settings: Settings, clock: Arc<dyn Clock>) -> Result<Self, reqwest::Error> {
        Ok(Self { settings, http: post::client()?, clock })
    }

    /// The alert, with labels that are the same from its beginning to its end: they are what it is known by.
    fn alert(&self, notice: &Notice) -> Value {
        let (incident, now) = (&notice.incident, self.clock.wall());
        let ends = match notice.change {
            Change::Resolved => now,
            _ => now.checked_add(LASTS).unwrap_or(now),
        };
        json!([{
            "labels": {
                "alertname": "GrantkeeperIncident",
                "kind": incident.kind.as_str(),
                "severity": incident.severity.as_str(),
                "app": incident.app.as_str(),
                "incident": incident.incident_id,
            },
            "annotations": {
                "summary": notice.headline(),
                "description": incident.summary,
                "action": incident.action,
                "portals": incident.who(),
            },
            // A clock that was set back since must not make it end before it began.
            "startsAt": incident.since.min(now),
            "endsAt": ends,
        }])
    }
}

#[async_trait]
impl AlertSink for Alertmanager {
    fn name(&self) -> &str {
        &self.settings.name
    }

    async fn deliver(&self, notice: &Notice) -> Result<(), DeliveryError> {
        let mut url = self.settings.target.url().await?;
        let path = format!("{}/api/v2/alerts", url.path().trim_end_matches('/'));
        url.set_path(&path);
        post::send(self.http.post(url).json(&self.alert(notice))).await
    }
}
