//! Prometheus' Alertmanager, by its API v2. It forgets what is not repeated, so that a firing alert is sent again each
//! minute: should Grantkeeper die, its alerts end by themselves. Grouping, silences and people are its business.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    AlertSink, DeliveryError,
    post::{self, Target},
};
use crate::{
    incident::{Change, Notice, Severity},
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

    /// The alert, and one before it that it takes the place of: they are known by their labels, and one of these is how
    /// grave it is.
    fn alerts(&self, notice: &Notice) -> Vec<Value> {
        let (incident, now) = (&notice.incident, self.clock.wall());
        let ends = match notice.change {
            Change::Resolved => now,
            _ => now.checked_add(LASTS).unwrap_or(now),
        };
        let usual = incident.kind.severity();
        let graver = !incident.kind.is_about_portals() && incident.severity > usual;
        let former = graver.then(|| alert(notice, usual, now, now));
        former.into_iter().chain([alert(notice, incident.severity, now, ends)]).collect()
    }
}

fn alert(notice: &Notice, severity: Severity, now: Timestamp, ends: Timestamp) -> Value {
    let incident = &notice.incident;
    json!({
        "labels": {
            "alertname": "GrantkeeperIncident",
            "kind": incident.kind.as_str(),
            "severity": severity.as_str(),
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
    })
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
        post::send(self.http.post(url).json(&self.alerts(notice))).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        incident::{Book, Kind, Moment},
        portal::AppName,
        time::{BootTime, SystemClock},
    };

    #[test]
    fn one_that_became_graver_ends_the_milder_one_that_it_was() {
        let url = "http://127.0.0.1:9093".parse().unwrap();
        let settings = Settings { name: "manager".to_owned(), target: Target::Url(url) };
        let manager = Alertmanager::new(settings, Arc::new(SystemClock)).unwrap();
        let now = Moment { boot: BootTime::default(), wall: SystemClock.wall() };
        let mut book = Book::new(AppName::parse("acme").unwrap(), now.boot);
        let told = |notice: &Notice| {
            let alerts = manager.alerts(notice).into_iter();
            let word = |alert: &Value| alert["labels"]["severity"].as_str().unwrap().to_owned();
            alerts.map(|a| (word(&a), a["endsAt"] != a["startsAt"])).collect::<Vec<_>>()
        };
        let kind = Kind::StoreDenied;
        let opened = book.open(kind, None, None, &[], now).unwrap();
        assert_eq!(told(&opened), [("warning".to_owned(), true)]);
        book.open(kind, None, Some("compromised"), &[], now);
        let graver = book.rest(now).remove(0);
        let [milder, firing] = &told(&graver)[..] else { panic!("{graver:?}") };
        assert_eq!((milder.0.as_str(), firing), ("warning", &("critical".to_owned(), true)));
    }
}
