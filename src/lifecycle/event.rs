//! What can happen to a portal's grant, and what HubSpot can answer, in our own words. Knows no
//! HTTP and no store: those rooms translate into these.

use std::time::Duration;

use super::state::{Generation, TokenLife};
use crate::{
    portal::{ClientId, PortalId, Scopes},
    secret::{AccessToken, ClientSecret, RefreshToken},
};

/// The app's credentials, as one call needs them.
#[derive(Debug, Clone)]
pub struct ClientPair {
    /// Public half.
    pub client_id: ClientId,
    /// Secret half.
    pub client_secret: ClientSecret,
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

/// What happened to one portal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// An instant named by [`Portal::wakes`](super::Portal::wakes) has come.
    Woke,
    /// A caller needs a better token than the one in hand.
    Wanted,
    /// HubSpot answers again after an outage.
    HubSpotBack,
    /// The service is about to end.
    LastCall,
    /// The record holds another grant than the one in use.
    RecordChanged,
    /// The record can't be used as it stands.
    RecordUnusable,
    /// What was in flight has come back.
    Done {
        /// The grant it was about.
        generation: Generation,
        /// What came back.
        outcome: Outcome,
    },
}

/// How something that was in flight came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// A refresh brought a token.
    Refreshed {
        /// The access token's span.
        token: TokenLife,
        /// The answer named a refresh token other than the one spent.
        rotated: bool,
        /// What the answer says of portal and scopes.
        facts: Facts,
    },
    /// A refresh was refused or failed.
    RefreshRefused {
        /// What follows from it.
        class: RefusalClass,
        /// How long HubSpot asks to wait.
        retry_after: Option<Duration>,
    },
    /// The new refresh token is in the store.
    Saved,
    /// The store took nothing: somebody else wrote first.
    SaveConflict,
    /// The store could not be reached or said no.
    SaveFailed,
    /// The record was read again.
    Reread(Reread),
    /// HubSpot said that the grant is good.
    IntrospectedActive(Facts),
    /// HubSpot said that the grant is dead.
    IntrospectedInactive,
    /// The question was refused or failed.
    IntrospectionRefused(RefusalClass),
}

/// What an answer says of the grant, compared with what is expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Facts {
    /// It is for another portal than the one it is stored under.
    pub wrong_portal: bool,
    /// It was given to another app.
    pub wrong_app: bool,
    /// Required scopes are missing; `None` where the answer does not say.
    pub scopes_missing: Option<bool>,
}

/// What a second look at the record showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reread {
    /// The grant in use stands there still.
    Same,
    /// Another grant stands there: it is the one in use now.
    Newer,
    /// The store could not be asked.
    Failed,
}
