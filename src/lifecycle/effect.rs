//! What the rules can ask for, as data: the engine carries it out and reports back.

use std::time::Duration;

use super::state::End;

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Put a refresh into the queue.
    QueueRefresh,
    /// Put a question about the grant into the queue.
    QueueQuestion,
    /// Make the intent to spend durable (I4).
    Intend,
    /// Spend the refresh token once.
    Spend,
    /// Ask HubSpot what the refresh token is.
    Introspect,
    /// Make the answer durable in the journal, before anything else is done with it (I3).
    Keep,
    /// Note in the journal that the spend is known to have brought nothing.
    CloseIntent,
    /// Read the record again.
    Reread,
    /// Put the new refresh token into the store, by check-and-set.
    Save,
    /// Hand the new access token to callers.
    Publish,
    /// Give callers no token any more, and wipe it.
    Withdraw,
    /// Forget a token that was held back: a newer grant won.
    DropHeld,
    /// HubSpot accepted this grant: where others are refused, it is not everybody's affair (I6).
    GrantAccepted,
    /// HubSpot refused this grant.
    GrantRefused,
    /// Nothing more is to be made of this grant's refusals.
    Settled,
    /// Have another portal asked about before this one's refusal is believed (I6).
    SecondOpinion,
    /// Most grants are refused: a matter of the app (I6).
    Suspect,
    /// Note in the journal that this grant has worked.
    NoteProven,
    /// The client pair was refused: a matter of the app, not of this portal (I6).
    AppRefused,
    /// The client pair was accepted.
    AppAccepted,
    /// HubSpot asks everybody to slow down.
    Throttled(Option<Duration>),
    /// Tell people of this cause, if they have not been told.
    Open(Cause),
    /// Tell people that this cause is gone, if they had been told.
    Close(Cause),
}

/// What a person may have to know about one portal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// The grant ended, and why.
    Ended(End),
    /// A new refresh token is not in the store.
    Unsaved,
    /// Required scopes are missing.
    ScopeMissing,
    /// Refreshing fails on the portal's own account, and its token ends before the next try.
    Failing,
    /// The same, and the token has ended.
    Expired,
}
