//! What can happen to a portal's grant, without any secret. Knows no HTTP and no store: those rooms
//! translate into these.

use std::time::Duration;

use super::{
    answer::RefusalClass,
    state::{Generation, TokenLife},
};

/// What happened to one portal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// An instant named by [`Portal::wakes`](super::Portal::wakes) has come.
    Woke,
    /// A caller needs a better token than the one in hand.
    Wanted,
    /// What waited in the queue may be sent.
    Turn,
    /// What was found of this grant at a start, before anything else happens to it.
    Found(Found),
    /// Another portal's refusal needs a second opinion: this grant is to be asked about.
    Ask,
    /// HubSpot is to be asked about the grant within this time, whatever the period of validation: somebody
    /// says that it has ended, or nobody looked for a while.
    AskWithin(Duration),
    /// An operator pauses the portal, or lets it go on.
    Pause(bool),
    /// The configuration was read again: the period of validation may be another.
    Configured,
    /// HubSpot answers again after an outage.
    HubSpotBack,
    /// The journal takes again what it is given.
    JournalBack,
    /// The service is about to end.
    LastCall,
    /// What waited to be sent was taken back before it was.
    NotSent,
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
    /// Whether the intent to spend is durable (I4).
    Intended(bool),
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
    /// Whether the answer is durable in the journal (I3).
    Kept(bool),
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
    IntrospectionRefused {
        /// What follows from it.
        class: RefusalClass,
        /// How long HubSpot asks to wait.
        retry_after: Option<Duration>,
    },
}

/// What the journal knows of a grant at a start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Found {
    /// An access token that still lives.
    pub token: Option<TokenLife>,
    /// The grant has worked under this app.
    pub proven: bool,
    /// The store does not have its newest refresh token.
    pub unsaved: bool,
    /// It was about to be spent, and what came of that is not known (I4): what was sent may still arrive for so
    /// long from now.
    pub in_doubt: Option<Duration>,
    /// An operator paused the portal.
    pub paused: bool,
    /// Within this time HubSpot is asked whether the grant is still good: while nobody looked it may have ended. None
    /// leaves it to the period of validation.
    pub asked_within: Option<Duration>,
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
