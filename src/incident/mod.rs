//! What is worth telling a person: kinds of incidents, their words, and the book that opens each
//! once and resolves it once. Pure; holds no secret by type. Who is told, and how, is `sink/`.

use std::{fmt, str::FromStr};

use jiff::Timestamp;
use serde::Serialize;

use crate::portal::{AppName, PortalId};

pub mod book;
mod words;

/// The detail of a grant that goes on though its record can't be used any more.
pub const SERVED_ON: &str = "record_unusable and served";

pub use book::Book;

/// How loudly to tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
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

/// Kinds of incidents (contract section 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// HubSpot refuses the app's client pair: every portal is concerned.
    AppRejected,
    /// Most grants are refused, one after another: the app, the store or HubSpot is at fault.
    AppSuspect,
    /// A customer ended the grant.
    GrantRevoked,
    /// HubSpot replaced refresh tokens, and its answers did not arrive.
    GrantLost,
    /// A grant belongs to another app or portal, or its record can't be used.
    GrantMismatched,
    /// A portal is gone.
    PortalUnavailable,
    /// A grant lacks required scopes.
    ScopeMissing,
    /// A new refresh token is not in the store yet.
    GrantUnsaved,
    /// The journal can't be written.
    JournalFailing,
    /// HubSpot can't be reached, or has an outage.
    HubspotUnreachable,
    /// HubSpot bears fewer requests than the portals need.
    RateLimited,
    /// HubSpot does not serve, or not understand, the API version in use.
    ApiVersionRetiring,
    /// The store can't be reached.
    StoreUnreachable,
    /// The store lets us in no more, or refuses what we must do.
    StoreDenied,
    /// Decisions can't be written down.
    AuditFailing,
}

impl Kind {
    /// Every kind this version opens.
    pub const ALL: [Self; 15] = [
        Self::AppRejected,
        Self::AppSuspect,
        Self::GrantRevoked,
        Self::GrantLost,
        Self::GrantMismatched,
        Self::PortalUnavailable,
        Self::ScopeMissing,
        Self::GrantUnsaved,
        Self::JournalFailing,
        Self::HubspotUnreachable,
        Self::RateLimited,
        Self::ApiVersionRetiring,
        Self::StoreUnreachable,
        Self::StoreDenied,
        Self::AuditFailing,
    ];

    /// The word in JSON and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AppRejected => "app_rejected",
            Self::AppSuspect => "app_suspect",
            Self::GrantRevoked => "grant_revoked",
            Self::GrantLost => "grant_lost",
            Self::GrantMismatched => "grant_mismatched",
            Self::PortalUnavailable => "portal_unavailable",
            Self::ScopeMissing => "scope_missing",
            Self::GrantUnsaved => "grant_unsaved",
            Self::JournalFailing => "journal_failing",
            Self::HubspotUnreachable => "hubspot_unreachable",
            Self::RateLimited => "rate_limited",
            Self::ApiVersionRetiring => "api_version_retiring",
            Self::StoreUnreachable => "store_unreachable",
            Self::StoreDenied => "store_denied",
            Self::AuditFailing => "audit_failing",
        }
    }

    /// Whether all portals it concerns are one incident: one cause hit them together.
    #[must_use]
    pub const fn is_shared(self) -> bool {
        matches!(self, Self::GrantLost | Self::GrantUnsaved)
    }

    /// How loudly to tell of it.
    #[must_use]
    pub const fn severity(self) -> Severity {
        match self {
            Self::AppRejected
            | Self::AppSuspect
            | Self::GrantLost
            | Self::GrantUnsaved
            | Self::JournalFailing
            | Self::AuditFailing
            | Self::HubspotUnreachable
            | Self::ApiVersionRetiring => Severity::Critical,
            Self::RateLimited
            | Self::GrantRevoked
            | Self::GrantMismatched
            | Self::PortalUnavailable
            | Self::ScopeMissing
            | Self::StoreUnreachable
            | Self::StoreDenied => Severity::Warning,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One cause, as long as it lasts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
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
}

/// What became of an incident.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// It is new.
    Opened,
    /// It concerns more portals, or fewer.
    Updated,
    /// It is over.
    Resolved,
}

impl Change {
    /// The word in an event type.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Opened => "opened",
            Self::Updated => "updated",
            Self::Resolved => "resolved",
        }
    }
}

/// One thing to deliver: an incident, and what became of it when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// The incident as it stands.
    pub incident: Incident,
    /// What became of it.
    pub change: Change,
    /// When.
    pub at: Timestamp,
    /// How many notices there were of this incident before.
    pub number: u32,
}

impl Notice {
    /// The same for every attempt to deliver this notice, so that a receiver can tell a repeat (I12).
    #[must_use]
    pub fn key(&self) -> String {
        let name = format!("{}.{}", self.incident.incident_id, self.change.as_str());
        if self.change == Change::Updated { format!("{name}.{}", self.number) } else { name }
    }
}
