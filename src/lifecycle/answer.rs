//! What is asked of HubSpot and what it can answer, in our own words. Knows no HTTP: `hubspot`
//! translates into these.

use std::time::Duration;

use jiff::Timestamp;

use crate::{
    portal::{ClientId, PortalId, Scopes},
    secret::{AccessToken, AuthorizationCode, ClientSecret, CodeVerifier, RefreshToken},
};

/// The app's credentials, as one call needs them.
#[derive(Debug, Clone)]
pub struct ClientPair {
    /// Public half.
    pub client_id: ClientId,
    /// Secret half.
    pub client_secret: ClientSecret,
    /// What stands beside it during a rotation.
    pub further: FurtherSecrets,
}

/// Client secrets beside the one in use: HubSpot may sign webhooks with them.
#[derive(Debug, Clone, Default)]
pub struct FurtherSecrets {
    /// The one that is staged.
    pub next: Option<ClientSecret>,
    /// The one before.
    pub previous: Option<ClientSecret>,
    /// Since when that one is staged, if the record says.
    pub staged_at: Option<Timestamp>,
    /// Since when the one in use is, if the record says.
    pub promoted_at: Option<Timestamp>,
}

impl ClientPair {
    /// Whether both halves are the same.
    #[must_use]
    pub fn same_as(&self, other: &Self) -> bool {
        self.client_id == other.client_id && self.client_secret.same_as(&other.client_secret)
    }
}

/// A code with what belongs to its exchange (RFC 6749 section 4.1.3, RFC 7636).
#[derive(Debug, Clone)]
pub struct Code {
    /// The code.
    pub code: AuthorizationCode,
    /// Where it was sent to.
    pub redirect_uri: String,
    /// The verifier, if a challenge was sent along.
    pub verifier: Option<CodeVerifier>,
}

/// What a refresh or a code exchange brought.
#[derive(Debug, Clone)]
pub struct Granted {
    /// The new access token.
    pub access_token: AccessToken,
    /// The refresh token to use from now on, if the answer names one (it may be the old one).
    pub refresh_token: Option<RefreshToken>,
    /// Life of the access token, counted from the start of the request.
    pub expires_in: Duration,
    /// The portal it is for, if the answer says.
    pub portal: Option<PortalId>,
    /// The scopes granted, if the answer says.
    pub scopes: Option<Scopes>,
    /// What time it was by the provider's own clock when it answered.
    pub dated: Option<Timestamp>,
}

/// What introspection (RFC 7662) said of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Introspection {
    /// Good, and this is what it is for.
    Active {
        /// The portal it is for, if the answer says.
        portal: Option<PortalId>,
        /// The app it was given to, if the answer says.
        client_id: Option<ClientId>,
        /// The scopes granted, if the answer says.
        scopes: Option<Scopes>,
    },
    /// Unknown, revoked or expired.
    Inactive,
}

/// Everything that is not a success, sorted by what follows from it (study `hubspot.md` 3.3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What follows from it.
    pub class: RefusalClass,
    /// HTTP status, if there was an answer.
    pub http: Option<u16>,
    /// HubSpot's own word for it, from a closed list; never free text from the network.
    pub word: Option<&'static str>,
    /// How long HubSpot asks to wait, capped at a day.
    pub retry_after: Option<Duration>,
}

/// What follows from a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RefusalClass {
    /// HubSpot refuses this grant: revoked, uninstalled, or a stale token. To be confirmed (I5).
    GrantRefused,
    /// The grant was given to another app.
    GrantMismatched,
    /// The portal is gone, or deactivated.
    PortalUnavailable,
    /// The client pair is refused: the same for every portal (I6).
    AppRefused,
    /// Too many requests.
    RateLimited,
    /// The account is moving between data centres; wait as told.
    Migrating,
    /// This API version does not exist any more.
    ApiRetired,
    /// HubSpot does not understand our request: a defect here, or a proxy that rewrites bodies.
    NotUnderstood,
    /// HubSpot or its edge has trouble; the request may or may not have been carried out.
    Outage,
    /// No connection was made: the request never arrived.
    Unreachable,
    /// The connection broke or the answer was cut off after the request was sent.
    AnswerLost,
    /// None of the above. Treated as passing, never as a revocation.
    Unknown,
}

impl RefusalClass {
    /// A word for metrics, states and JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::GrantRefused => "grant_refused",
            Self::GrantMismatched => "grant_mismatched",
            Self::PortalUnavailable => "portal_unavailable",
            Self::AppRefused => "app_refused",
            Self::RateLimited => "rate_limited",
            Self::Migrating => "migrating",
            Self::ApiRetired => "api_retired",
            Self::NotUnderstood => "not_understood",
            Self::Outage => "outage",
            Self::Unreachable => "unreachable",
            Self::AnswerLost => "answer_lost",
            Self::Unknown => "unknown",
        }
    }

    /// Whether it says something about HubSpot or the network, and nothing about grant or app.
    #[must_use]
    pub const fn is_transient(self) -> bool {
        matches!(
            self,
            Self::RateLimited
                | Self::Migrating
                | Self::Outage
                | Self::Unreachable
                | Self::AnswerLost
                | Self::Unknown
        )
    }
}
