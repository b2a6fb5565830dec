//! Why a question is not answered, in words that tell a caller nothing it may not know.

use std::time::Duration;

use crate::{lifecycle::End, portal::PortalId};

/// When to ask again, where nothing says when.
pub(super) const AGAIN: Duration = Duration::from_secs(5);

/// Why a question was not answered. Says nothing that the caller may not know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denial {
    /// The caller has no right to this, whether it exists or not.
    #[error("this caller may not do this")]
    Forbidden,
    /// The grant that was brought is a portal's for which the caller may not enrol. Told like any other refusal; the
    /// log knows whose it was.
    #[error("this caller may not do this")]
    NotYours(PortalId),
    /// There is no such portal.
    #[error("no grant is stored for this portal")]
    UnknownPortal,
    /// There is no such incident, or it is over.
    #[error("no such incident is open")]
    UnknownIncident,
    /// There is no such receiver of alerts.
    #[error("no receiver of alerts has this name")]
    UnknownReceiver,
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
    /// HubSpot gives no token at present, and the one in hand is used up; or it answers no order.
    #[error("HubSpot gives no useful answer at present")]
    HubspotUnreachable(Duration),
    /// The store can't be read.
    #[error("the credential store can't be reached")]
    StoreUnreachable(Duration),
    /// HubSpot does not accept the code or refresh token that was brought; its word for it.
    #[error("HubSpot does not accept this code or refresh token for this app{}", .0.map(|word| format!(" ({word})")).unwrap_or_default())]
    NotGood(Option<&'static str>),
    /// A grant was taken in and is not in the store yet. It is kept, and stored as soon as that is possible.
    #[error(
        "the grant of portal {portal} is taken in, and {}: don't use the code again",
        if *.kept { "kept until the store takes it" } else { "held in memory alone until the store takes it" }
    )]
    Unsaved {
        /// Whose.
        portal: PortalId,
        /// It outlives the process.
        kept: bool,
    },
    /// The token that was rejected is not older than a moment.
    #[error("this token is not older than a moment: another one would fare no better")]
    TooSoon(Duration),
    /// Too many others wait for the same.
    #[error("too many orders wait; this one was not begun")]
    TooMany(Duration),
    /// The portal is about to be removed.
    #[error("the portal is being removed by another order")]
    Leaving,
    /// The record holds a grant that somebody else stored meanwhile.
    #[error("another grant is there by now, and is left as it is")]
    Replaced,
    /// The record is still there.
    #[error(
        "the store {} the record{}",
        if *.denied { "does not let the service remove" } else { "could not be reached to remove" },
        if *.revoked { ", though the grant is ended at HubSpot" } else { "" }
    )]
    NotRemoved {
        /// The store refuses.
        denied: bool,
        /// The grant was ended at HubSpot before.
        revoked: bool,
    },
    /// What is decided can't be written down, so nothing is.
    #[error("the audit log can't be written, and without it nothing is answered")]
    AuditFailing,
}

impl Denial {
    /// The stable word (contract section 4).
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Forbidden | Self::NotYours(_) => "forbidden",
            Self::UnknownPortal => "unknown_portal",
            Self::UnknownIncident => "unknown_incident",
            Self::UnknownReceiver => "unknown_receiver",
            Self::BadRequest(_) => "bad_request",
            Self::Ended(_) => "grant_revoked",
            Self::Paused => "portal_paused",
            Self::AppRejected(_) => "app_rejected",
            Self::NoTokenYet(_) => "no_token_yet",
            Self::HubspotUnreachable(_) => "hubspot_unreachable",
            Self::StoreUnreachable(_) | Self::NotRemoved { denied: false, .. } => {
                "store_unreachable"
            }
            Self::NotGood(_) => "grant_not_good",
            Self::Unsaved { .. } => "grant_unsaved",
            Self::TooSoon(_) | Self::TooMany(_) => "too_many_requests",
            Self::Leaving => "portal_leaving",
            Self::Replaced => "record_replaced",
            Self::NotRemoved { denied: true, .. } => "store_denied",
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
            | Self::TooSoon(after)
            | Self::TooMany(after)
            | Self::StoreUnreachable(after) => Some(*after),
            Self::AuditFailing | Self::Unsaved { .. } | Self::NotRemoved { denied: false, .. } => {
                Some(Duration::from_secs(5))
            }
            _ => None,
        }
    }
}
