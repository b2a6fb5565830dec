//! What is worth telling a person: kinds of incidents, their words, the book that opens each once and
//! resolves it once, and what each receiver is still owed of that. Pure; holds no secret by type. Who is
//! told, and how, is `sink/`.

use std::{collections::BTreeSet, str::FromStr};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    portal::{AppName, PortalId},
    time::BootTime,
};

pub mod book;
mod burst;
mod kind;
mod open;
pub mod outbox;
pub mod quiet;
mod words;

/// The detail of a grant that goes on though its record can't be used any more.
pub const SERVED_ON: &str = "record_unusable and served";

/// The detail of a client secret that is kept though its time is over.
pub const KEPT_ON: &str = "the earlier one is kept";

pub use book::Book;
pub use kind::Kind;
pub use outbox::{Closing, Manner, Outbox};
pub use quiet::QuietHours;
pub use words::{InstallUrl, NotAnInstallUrl};

/// The time, as intervals are counted and as people say it.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// For intervals.
    pub boot: BootTime,
    /// For people.
    pub wall: Timestamp,
}

/// No such incident is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no such incident is open")]
pub struct NotOpen;

/// How loudly to tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Good to know.
    Info,
    /// Something will go wrong, or has for one customer.
    Warning,
    /// The integration is, or is about to be, offline for many.
    Critical,
}

impl Severity {
    /// The word in JSON and in the configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

/// The word is not a severity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a severity is one of info, warning, critical")]
pub struct NotASeverity;

impl FromStr for Severity {
    type Err = NotASeverity;

    fn from_str(word: &str) -> Result<Self, NotASeverity> {
        let all = [Self::Info, Self::Warning, Self::Critical];
        all.into_iter().find(|severity| severity.as_str() == word).ok_or(NotASeverity)
    }
}

/// One cause, as long as it lasts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incident {
    /// Constant from opening to resolving, in every delivery.
    pub incident_id: String,
    /// What kind.
    pub kind: Kind,
    /// How loudly to tell.
    pub severity: Severity,
    /// Whose app.
    pub app: AppName,
    /// Which portals, at most fifty.
    pub portals: Vec<PortalId>,
    /// How many portals.
    pub portal_count: usize,
    /// What happened, and what Grantkeeper does.
    pub summary: String,
    /// What a person must do.
    pub action: String,
    /// When it was noticed.
    pub since: Timestamp,
    /// Who has taken it on, if somebody has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acknowledged: Option<Acknowledged>,
}

impl Incident {
    /// The portals in words: the first few by id, and how many more there are.
    #[must_use]
    pub fn who(&self) -> String {
        const SHOWN: usize = 5;
        let shown: Vec<_> = self.portals.iter().take(SHOWN).map(PortalId::to_string).collect();
        match (self.portal_count, self.portal_count.saturating_sub(shown.len())) {
            (0, _) => "no portal".to_owned(),
            (1, _) => format!("portal {}", shown.join("")),
            (_, 0) => format!("portals {}", shown.join(", ")),
            (all, more) => format!("{all} portals: {} and {more} more", shown.join(", ")),
        }
    }
}

/// Somebody has taken an incident on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acknowledged {
    /// When.
    pub at: Timestamp,
    /// The user id of who did, on this machine.
    pub uid: u32,
}

/// What became of an incident.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// It is new.
    Opened,
    /// It concerns more portals, or fewer.
    Updated,
    /// Somebody has taken it on.
    Acknowledged,
    /// It still is the case.
    Reminded,
    /// It is over.
    Resolved,
}

impl Change {
    /// The word in an event type, of which the contract knows three.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Opened => "opened",
            Self::Updated | Self::Acknowledged | Self::Reminded => "updated",
            Self::Resolved => "resolved",
        }
    }

    /// The word for people.
    #[must_use]
    pub const fn in_words(self) -> &'static str {
        match self {
            Self::Opened => "opened",
            Self::Updated => "changed",
            Self::Acknowledged => "acknowledged",
            Self::Reminded => "still open",
            Self::Resolved => "resolved",
        }
    }
}

/// One thing to deliver: an incident, and what became of it when. The latest of an incident is all that is
/// known of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// The incident as it stands.
    pub incident: Incident,
    /// What became of it.
    pub change: Change,
    /// When.
    pub at: Timestamp,
    /// How many notices there were of this incident before.
    pub number: u32,
    /// Every portal it concerns, where it is one incident for several.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub sharing: BTreeSet<PortalId>,
}

impl Notice {
    /// The same for every attempt to deliver this notice, so that a receiver can tell a repeat (I12).
    #[must_use]
    pub fn key(&self) -> String {
        let name = format!("{}.{}", self.incident.incident_id, self.change.as_str());
        match self.change {
            Change::Opened | Change::Resolved => name,
            Change::Updated | Change::Acknowledged => format!("{name}.{}", self.number),
            Change::Reminded => format!("{name}.{}-{}", self.number, self.at.as_second()),
        }
    }

    /// The notice that opened this incident, as it stands by now.
    #[must_use]
    pub fn as_opened(&self) -> Self {
        Self { change: Change::Opened, number: 0, at: self.incident.since, ..self.clone() }
    }

    /// One line for people: what became of it, of what kind, for whom.
    #[must_use]
    pub fn headline(&self) -> String {
        let Incident { kind, severity, app, .. } = &self.incident;
        let who = if kind.is_about_portals() { self.incident.who() } else { "the app".to_owned() };
        format!("{app}: {kind} {} ({}), {who}", self.change.in_words(), severity.as_str())
    }

    /// The whole of it for people: what became of it, what happened, what is to be done.
    #[must_use]
    pub fn text(&self) -> String {
        let Incident { summary, action, since, incident_id, .. } = &self.incident;
        let headline = self.headline();
        format!(
            "{headline}\n\n{summary}\n\nWhat to do: {action}\n\nSince {since}.\nIncident {incident_id}.\n"
        )
    }

    /// What `alert test` sends: like the real ones, and saying that it is none.
    #[must_use]
    pub fn test(app: &AppName, at: Timestamp) -> Self {
        let incident = Incident {
            incident_id: format!("{app}-test-{}", at.as_millisecond()),
            kind: Kind::Test,
            severity: Severity::Info,
            app: app.clone(),
            portals: Vec::new(),
            portal_count: 0,
            summary: "This is a test of Grantkeeper's alerts. Nothing has happened.".to_owned(),
            action: "Nothing is to be done: you are reached.".to_owned(),
            since: at,
            acknowledged: None,
        };
        Self { incident, change: Change::Opened, at, number: 0, sharing: BTreeSet::new() }
    }

    /// The same, over.
    #[must_use]
    pub fn over(&self) -> Self {
        Self { change: Change::Resolved, number: self.number + 1, ..self.clone() }
    }
}
