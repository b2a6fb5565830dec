//! Where alerts go, behind the [`AlertSink`] seam: one file a kind of receiver. A sink delivers one
//! notice or says why not; trying again is the engine's business.

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;

use crate::{incident::Notice, time::Clock};

pub mod alertmanager;
pub mod email;
pub mod exec;
pub mod log;
pub mod pagerduty;
pub mod post;
pub mod slack;
pub mod sns;
pub mod webhook;

pub use alertmanager::Alertmanager;
pub use email::Email;
pub use exec::Exec;
pub use log::Log;
pub use pagerduty::PagerDuty;
pub use slack::Slack;
pub use sns::Sns;
pub use webhook::Webhook;

use post::Target;

/// A receiver as configured.
#[derive(Debug, Clone)]
pub enum Settings {
    /// A signed webhook.
    Webhook(webhook::Settings),
    /// A Slack channel.
    Slack(slack::Settings),
    /// A PagerDuty service.
    PagerDuty(pagerduty::Settings),
    /// Prometheus' Alertmanager.
    Alertmanager(alertmanager::Settings),
    /// A topic of Amazon SNS.
    Sns(sns::Settings),
    /// Mail.
    Email(email::Settings),
    /// A program.
    Exec(exec::Settings),
}

impl Settings {
    /// What the operator calls it.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Webhook(settings) => &settings.name,
            Self::Slack(settings) => &settings.name,
            Self::PagerDuty(settings) => &settings.name,
            Self::Alertmanager(settings) => &settings.name,
            Self::Sns(settings) => &settings.name,
            Self::Email(settings) => &settings.name,
            Self::Exec(settings) => &settings.name,
        }
    }

    /// Where it is sent to over HTTP, if it is.
    #[must_use]
    pub fn target(&self) -> Option<Target> {
        match self {
            Self::Webhook(settings) => Some(settings.target.clone()),
            Self::Slack(settings) => Some(settings.target.clone()),
            Self::Alertmanager(settings) => Some(settings.target.clone()),
            Self::PagerDuty(settings) => Some(Target::Url(settings.address.clone())),
            Self::Sns(settings) => settings.address().map(Target::Url),
            Self::Email(_) | Self::Exec(_) => None,
        }
    }

    /// The files with its secrets, each by its key in the configuration.
    #[must_use]
    pub fn secret_files(&self) -> Vec<(&'static str, PathBuf)> {
        let mut files = Vec::new();
        if let Some(Target::File(file)) = self.target() {
            files.push(("url_file", file));
        }
        match self {
            Self::Webhook(settings) => {
                let signing = settings.signing_secret_file.clone();
                files.extend(signing.map(|file| ("signing_secret_file", file)));
            }
            Self::PagerDuty(settings) => {
                files.push(("routing_key_file", settings.routing_key_file.clone()));
            }
            Self::Email(settings) => {
                let login = settings.login.clone();
                files.extend(login.map(|(_, file)| ("password_file", file)));
            }
            Self::Slack(_) | Self::Alertmanager(_) | Self::Sns(_) | Self::Exec(_) => {}
        }
        files
    }

    /// Makes ready to be told whoever it stands for: mail goes to several addresses, and each is one by itself. Says
    /// nothing to them yet.
    ///
    /// # Errors
    /// The machine has no CA certificates.
    pub fn open(&self, clock: &Arc<dyn Clock>) -> Result<Vec<Arc<dyn AlertSink>>, reqwest::Error> {
        let clock = Arc::clone(clock);
        let one: Arc<dyn AlertSink> = match self.clone() {
            Self::Webhook(settings) => Arc::new(Webhook::new(settings, clock)?),
            Self::Slack(settings) => Arc::new(Slack::new(settings)?),
            Self::PagerDuty(settings) => Arc::new(PagerDuty::new(settings)?),
            Self::Alertmanager(settings) => Arc::new(Alertmanager::new(settings, clock)?),
            Self::Sns(settings) => Arc::new(Sns::new(settings)),
            Self::Email(settings) => {
                return Ok(Email::each(&settings).map(|one| Arc::new(one) as _).collect());
            }
            Self::Exec(settings) => Arc::new(Exec::new(settings)),
        };
        Ok(vec![one])
    }
}

/// Somewhere an alert can go.
#[async_trait]
pub trait AlertSink: fmt::Debug + Send + Sync + 'static {
    /// Its own name, by which it is known wherever receivers are told apart.
    fn name(&self) -> &str;

    /// Hands over one notice. A success means that the receiver has taken it.
    async fn deliver(&self, notice: &Notice) -> Result<(), DeliveryError>;
}

/// An alert was not taken. Holds neither the URL, which may be a secret, nor the receiver's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct DeliveryError {
    /// What happened.
    pub what: String,
    /// Whether the same may go through later.
    pub retryable: bool,
    /// How long the receiver wants to be left alone, if it said so.
    pub wait: Option<Duration>,
}

impl DeliveryError {
    fn retryable(what: impl Into<String>) -> Self {
        Self { what: what.into(), retryable: true, wait: None }
    }

    fn permanent(what: impl Into<String>) -> Self {
        Self { what: what.into(), retryable: false, wait: None }
    }
}
