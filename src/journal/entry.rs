//! What can be written into the journal. Words only; serialised by `frame` alone, which seals them.

use serde::{Deserialize, Serialize, Serializer};

use super::{
    alerts::Standing,
    trail::{Access, Trail},
};
use crate::{
    incident::{Notice, outbox::Told},
    lifecycle::Rotation,
    portal::PortalId,
    secret::{AccessToken, Fingerprint, RefreshToken},
    time::Stamp,
};

/// One thing to remember.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Entry {
    /// A refresh token is about to be spent (I4).
    Intent {
        /// Whose.
        portal: PortalId,
        /// Which.
        spent: Fingerprint,
        /// When.
        at: Stamp,
    },
    /// A start found the intent open: whoever had it is gone since then at the latest.
    Orphaned {
        /// Whose.
        portal: PortalId,
        /// Since when.
        at: Stamp,
    },
    /// HubSpot answered a spend (I3). Closes the intent.
    Answered {
        /// Whose.
        portal: PortalId,
        /// With what.
        answer: Answer,
    },
    /// A spend is known to have brought nothing. Closes the intent.
    Refused {
        /// Whose.
        portal: PortalId,
    },
    /// The store has this refresh token.
    Stored {
        /// Whose.
        portal: PortalId,
        /// Which.
        token: Fingerprint,
    },
    /// This grant is known to work under this app, though no answer of ours shows it.
    Proven {
        /// Whose.
        portal: PortalId,
        /// Which.
        token: Fingerprint,
    },
    /// The grant has ended, and its access token is given to nobody any more: not after a restart, either.
    Withdrawn {
        /// Whose.
        portal: PortalId,
    },
    /// An operator paused the portal, or let it go on.
    Paused {
        /// Whose.
        portal: PortalId,
        /// Which of the two.
        paused: bool,
    },
    /// The portal's record is gone.
    Forgotten {
        /// Whose.
        portal: PortalId,
        /// Since when.
        at: Stamp,
    },
    /// What was learned of the provider.
    Provider(Provider),
    /// An incident has come so far, and these receivers are to hear of it (I12).
    Alert {
        /// How far.
        notice: Box<Notice>,
        /// Who, by name.
        receivers: Vec<String>,
    },
    /// A receiver has taken what there is to tell of an incident.
    Told {
        /// Of which.
        incident: String,
        /// Who, by name.
        receiver: String,
        /// Up to where, and when.
        told: Told,
    },
    /// All that is known of one incident, in place of what was before.
    Standing(Box<Standing>),
    /// How far HubSpot's webhooks journal has been read.
    WebhooksRead(WebhooksRead),
    /// All that is known of one portal, in place of what was before.
    Portal {
        /// Whose.
        portal: PortalId,
        /// What.
        trail: Box<Trail>,
    },
}

/// What HubSpot answered a spend with.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Answer {
    /// The refresh token that was spent.
    pub spent: Fingerprint,
    /// The one that replaces it, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none", serialize_with = "refresh_token")]
    pub refresh_token: Option<RefreshToken>,
    /// The access token, if it is one that this portal may have.
    pub access: Option<Access>,
    /// The grant came by an order: the store may have no record of the portal yet, or another grant's.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub enrolled: bool,
}

/// What was learned of the provider, and is worth not learning again.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Provider {
    /// Whether it replaces refresh tokens.
    pub rotation: Rotation,
    /// The rate it bears, requests a second, if it ever asked to slow down.
    pub rate: Option<f64>,
}

/// How far HubSpot's webhooks journal has been read: what it told up to there is being looked into, or was.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct WebhooksRead {
    /// The place, in HubSpot's own words.
    pub offset: String,
    /// When there was last nothing beyond it.
    pub at: Stamp,
}

#[expect(clippy::ref_option, reason = "the form that serde calls")]
pub(super) fn refresh_token<S: Serializer>(
    token: &Option<RefreshToken>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match token {
        // exposed: into a frame that is sealed before it leaves this room
        Some(token) => serializer.serialize_some(token.expose()),
        None => serializer.serialize_none(),
    }
}

pub(super) fn access_token<S: Serializer>(
    token: &AccessToken,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    // exposed: into a frame that is sealed before it leaves this room
    serializer.serialize_str(token.expose())
}
