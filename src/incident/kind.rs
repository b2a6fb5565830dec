//! Kinds of incidents: which there are, how loudly each is told, and whom it is about.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Severity;

/// Kinds of incidents (contract section 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
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
    /// A grant fails on and on, and its token would run out before the next try.
    RefreshFailing,
    /// A grant that fails on has no token left.
    TokenExpired,
    /// The app's new client secret was staged, and neither promoted nor rolled back.
    RotationUnfinished,
    /// None: somebody wants to see whether alerts arrive.
    Test,
}

impl Kind {
    /// Every kind that is opened for a cause.
    pub const ALL: [Self; 18] = [
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
        Self::RefreshFailing,
        Self::TokenExpired,
        Self::RotationUnfinished,
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
            Self::RefreshFailing => "refresh_failing",
            Self::TokenExpired => "token_expired",
            Self::RotationUnfinished => "rotation_unfinished",
            Self::Test => "test",
        }
    }

    /// Whether all portals it concerns are one incident: one cause hit them together.
    #[must_use]
    pub const fn is_shared(self) -> bool {
        matches!(self, Self::GrantLost | Self::GrantUnsaved)
    }

    /// Whether it is about portals at all, and not the app, the store, or HubSpot.
    #[must_use]
    pub const fn is_about_portals(self) -> bool {
        self.is_shared() || self.is_single()
    }

    /// Whether each portal it concerns is an incident of its own, as long as there are few of them: each may
    /// have another cause.
    #[must_use]
    pub const fn is_single(self) -> bool {
        matches!(
            self,
            Self::GrantRevoked
                | Self::GrantMismatched
                | Self::PortalUnavailable
                | Self::ScopeMissing
                | Self::RefreshFailing
                | Self::TokenExpired
        )
    }

    /// How loudly to tell of it where many portals are concerned.
    #[must_use]
    pub const fn severity_of_many(self) -> Severity {
        match self {
            // Their tokens are still served.
            Self::ScopeMissing | Self::RefreshFailing => Severity::Warning,
            Self::GrantRevoked
            | Self::GrantMismatched
            | Self::PortalUnavailable
            | Self::TokenExpired => Severity::Critical,
            _ => self.severity(),
        }
    }

    /// How loudly to tell of it, for this reason, of one or of many.
    #[must_use]
    pub fn severity_when(self, detail: Option<&str>, many: bool) -> Severity {
        match (self, many) {
            // Somebody else holds what opens the store.
            (Self::StoreDenied, _) if detail == Some("compromised") => Severity::Critical,
            (_, true) => self.severity_of_many(),
            (_, false) => self.severity(),
        }
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
            | Self::StoreDenied
            | Self::RefreshFailing
            | Self::TokenExpired
            | Self::RotationUnfinished => Severity::Warning,
            Self::Test => Severity::Info,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
