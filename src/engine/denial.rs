//! Why a question is not answered, in words that tell a caller nothing it may not know.

use std::time::Duration;

use crate::lifecycle::End;

/// Why a question was not answered. Says nothing that the caller may not know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denial {
    /// The caller has no right to this, whether it exists or not.
    #[error("this caller may not do this")]
    Forbidden,
    /// There is no such portal.
    #[error("no grant is stored for this portal")]
    UnknownPortal,
    /// The request makes no sense.
    #[error("{0}")]
    BadRequest(String),
    /// Nothing is to be had for this portal until a person acts.
    #[error("the grant has ended: {}", .0.reason())]
    Ended(End),
    /// An operator paused the portal.
    #[error("the portal is paused by an operator")]
    Paused,
    /// HubSpot refuses the app's client pair, and the token in hand is used up.
    #[error("HubSpot refuses the app's credentials; an incident is open")]
    AppRejected(Duration),
    /// The first token is not there yet, or the next one is held up.
    #[error("there is no token at present")]
    NoTokenYet(Duration),
    /// HubSpot gives no token at present, and the one in hand is used up.
    #[error("HubSpot gives no token at present")]
    HubspotUnreachable(Duration),
    /// The store can't be read.
    #[error("the credential store can't be reached")]
    StoreUnreachable(Duration),
    /// What is decided can't be written down, so nothing is.
    #[error("the audit log can't be written, and without it nothing is answered")]
    AuditFailing,
}

impl Denial {
    /// The stable word (contract section 4).
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Forbidden => "forbidden",
            Self::UnknownPortal => "unknown_portal",
            Self::BadRequest(_) => "bad_request",
            Self::Ended(_) => "grant_revoked",
            Self::Paused => "portal_paused",
            Self::AppRejected(_) => "app_rejected",
            Self::NoTokenYet(_) => "no_token_yet",
            Self::HubspotUnreachable(_) => "hubspot_unreachable",
            Self::StoreUnreachable(_) => "store_unreachable",
            Self::AuditFailing => "audit_failing",
        }
    }

    /// When to ask again, if that can help.
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::AppRejected(after)
            | Self::NoTokenYet(after)
            | Self::HubspotUnreachable(after)
            | Self::StoreUnreachable(after) => Some(*after),
            Self::AuditFailing => Some(Duration::from_secs(5)),
            _ => None,
        }
    }
}
