//! What is known of one portal's grant, without any secret: phases, times, counts. The engine keeps
//! the secrets beside it.

use std::time::Duration;

use super::{answer::RefusalClass, schedule, shown::PortalState};
use crate::{lifecycle::policy::RefreshPolicy, time::BootTime};

/// Numbers the grants a portal has had here: grows by one whenever a different refresh token
/// becomes the one in use. An answer to an older one's request changes nothing (I13).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Generation(pub u64);

impl Generation {
    /// The one after this.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// Everything the rules know of one portal.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts, each with its own name")]
pub struct Portal {
    /// What is going on.
    pub phase: Phase,
    /// Which grant is in use.
    pub generation: Generation,
    /// Whether this grant has ever worked under this app.
    pub proven: bool,
    /// It was spent, and what came of that is not known (I4).
    pub in_doubt: bool,
    /// An operator paused the portal.
    pub paused: bool,
    /// Its failures were HubSpot's: the next try counts among the healthy ones (I7).
    pub excused: bool,
    /// The access token callers can have, if any.
    pub token: Option<TokenLife>,
    /// A token that is held back until its refresh token is stored (I3).
    pub held: Option<TokenLife>,
    /// When to try again to store a new refresh token; `None` while the store has what we have.
    pub save_at: Option<BootTime>,
    /// Failures in a row; zero after any success.
    pub failures: u32,
    /// Times that the grant was refused for one and the same reason since it last was taken; an answer that
    /// says nothing of the grant counts for nothing.
    pub refusals: u32,
    /// That reason.
    pub refused_as: Option<RefusalClass>,
    /// When the first of them was.
    pub refused_since: BootTime,
    /// Until then, what was spent may still arrive at HubSpot.
    pub arrives_by: BootTime,
    /// Times in a row that a refresh was refused for the client pair; zero after any success.
    pub app_refusals: u32,
    /// Times in a row that the store said that somebody else had written.
    pub conflicts: u32,
    /// What the last failure was.
    pub trouble: Option<RefusalClass>,
    /// When the token is to be renewed; `None` if only on demand.
    pub renew_at: Option<BootTime>,
    /// Not before this is anything sent to HubSpot for this portal, whoever asks.
    pub not_before: BootTime,
    /// When the grant is to be validated, if nothing else has proven it by then.
    pub validation_due: BootTime,
}

/// What is going on with one portal. At most one request is ever in flight (I2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Nothing in flight.
    Resting,
    /// A refresh waits for its turn.
    Queued,
    /// The intent to spend is being made durable (I4).
    Intending,
    /// A refresh is in flight.
    Refreshing,
    /// The answer is being made durable in the journal (I3).
    Keeping {
        /// It names another refresh token than the one spent.
        rotated: bool,
        /// It is for another portal than the one it is stored under.
        wrong_portal: bool,
    },
    /// A new refresh token is being stored; its access token is held back (I3).
    Saving,
    /// A doubt arose; the record is being read again before anything is believed (I5).
    Rereading(Doubt),
    /// A question about the grant waits for its turn.
    Asking(Doubt),
    /// HubSpot is being asked about the grant.
    Introspecting(Doubt),
    /// Nothing is spent until the record changes or HubSpot says that the grant is good after all.
    Ended(End),
}

/// Why the record or HubSpot is being asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Doubt {
    /// None: a validation on schedule.
    Routine,
    /// A refresh was refused.
    Refused(RefusalClass),
    /// The grant was spent and the outcome is not known: is it still good (I4)?
    Spent,
    /// Introspection said that the grant is dead.
    Inactive,
    /// Introspection said that the grant was given to another app.
    OtherApp,
    /// The store refused a write because somebody else had written.
    Conflict,
    /// An ended grant is looked at again: people repair things.
    Ended(End),
}

/// Why nothing is done any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum End {
    /// The customer ended the grant.
    Revoked,
    /// The portal is gone.
    Unavailable,
    /// The grant belongs to another app.
    Mismatched,
    /// The grant is refused, and has never worked for this app.
    NeverWorked,
    /// The grant was spent, the answer did not arrive, and HubSpot has replaced it.
    Lost,
    /// The grant answers for another portal than the one it is stored under.
    WrongPortal,
    /// The record can't be used as it stands.
    Unusable,
}

impl End {
    /// Every one.
    pub const ALL: [Self; 7] = [
        Self::Revoked,
        Self::Unavailable,
        Self::Mismatched,
        Self::NeverWorked,
        Self::Lost,
        Self::WrongPortal,
        Self::Unusable,
    ];

    /// The portal's state as users see it.
    #[must_use]
    pub const fn state(self) -> PortalState {
        match self {
            // For its customer there is no difference: the app has to be connected again.
            Self::Revoked | Self::Lost => PortalState::Revoked,
            Self::Unavailable => PortalState::Unavailable,
            Self::Mismatched | Self::NeverWorked | Self::WrongPortal | Self::Unusable => {
                PortalState::Mismatched
            }
        }
    }

    /// Whether this is told of as a mix-up, whichever it is.
    pub(super) const fn is_mismatch(self) -> bool {
        matches!(self.state(), PortalState::Mismatched)
    }

    /// Whether HubSpot is asked now and then if it still is so. Where the record is wrong, only another
    /// record helps.
    #[must_use]
    pub const fn is_asked_about(self) -> bool {
        !matches!(self, Self::WrongPortal | Self::Unusable)
    }

    /// The `reason` shown to users.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Revoked => "grant_refused",
            Self::Unavailable => "portal_unavailable",
            Self::Mismatched => "grant_mismatched",
            Self::NeverWorked => "never_worked",
            Self::Lost => "answer_lost",
            Self::WrongPortal => "wrong_portal",
            Self::Unusable => "record_unusable",
        }
    }
}

/// An access token's span, counted on the boot clock from the start of the request for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TokenLife {
    /// When it was asked for.
    pub issued: BootTime,
    /// When it is good for nothing any more, safety margin taken off.
    pub expires: BootTime,
    /// The life it was given, which may have begun before this machine's present run.
    pub given: Duration,
}

impl TokenLife {
    /// A token asked for at `issued` that HubSpot says lives for `expires_in`.
    #[must_use]
    pub fn new(issued: BootTime, expires_in: Duration) -> Self {
        Self {
            issued,
            expires: issued + expires_in.saturating_sub(schedule::safety_margin(expires_in)),
            given: expires_in,
        }
    }

    /// The same of a token that was given a longer life, some of which had passed at `issued`.
    #[must_use]
    pub const fn of(self, given: Duration) -> Self {
        Self { given, ..self }
    }

    /// The whole span.
    #[must_use]
    pub const fn life(&self) -> Duration {
        self.expires.since(self.issued)
    }

    /// What is left at `now`.
    #[must_use]
    pub const fn left(&self, now: BootTime) -> Duration {
        self.expires.until(now)
    }
}

impl Portal {
    /// A portal whose record was just read for the first time.
    #[must_use]
    pub const fn loaded(now: BootTime, validation_due: BootTime) -> Self {
        Self {
            phase: Phase::Resting,
            generation: Generation(1),
            proven: false,
            in_doubt: false,
            paused: false,
            excused: false,
            token: None,
            held: None,
            save_at: None,
            failures: 0,
            refusals: 0,
            refused_as: None,
            refused_since: now,
            arrives_by: now,
            app_refusals: 0,
            conflicts: 0,
            trouble: None,
            renew_at: Some(now),
            not_before: now,
            validation_due,
        }
    }

    /// Why nothing is done for this portal any more, if that is so.
    #[must_use]
    pub const fn ended(&self) -> Option<End> {
        match self.phase {
            Phase::Ended(end)
            | Phase::Asking(Doubt::Ended(end))
            | Phase::Introspecting(Doubt::Ended(end)) => Some(end),
            _ => None,
        }
    }

    /// The state as users see it. `app_open` is false while the app's own credential is refused.
    #[must_use]
    pub fn state(&self, now: BootTime, app_open: bool) -> PortalState {
        if let Some(end) = self.ended() {
            return end.state();
        }
        if self.paused {
            return PortalState::Paused;
        }
        let served = self.serves(now, Duration::ZERO);
        let waiting = self.trouble == Some(RefusalClass::Migrating) || (!app_open && !served);
        match () {
            () if self.save_at.is_some() => PortalState::Unsaved,
            () if waiting => PortalState::Suspended,
            () if self.failures > 0 => PortalState::Retrying,
            () if served => PortalState::Live,
            () => PortalState::Pending,
        }
    }

    /// Why the state is what it is, if there is anything to say.
    #[must_use]
    pub fn reason(&self) -> Option<&'static str> {
        self.ended().map(End::reason).or_else(|| self.trouble.map(RefusalClass::as_str))
    }

    pub(super) fn count_refusal(&mut self, class: RefusalClass, now: BootTime) {
        if self.refused_as == Some(class) {
            self.refusals = self.refusals.saturating_add(1);
        } else {
            (self.refusals, self.refused_as, self.refused_since) = (1, Some(class), now);
        }
    }

    pub(super) const fn forget_refusals(&mut self) {
        (self.refusals, self.refused_as) = (0, None);
    }

    /// Whether a caller who needs `least` of life can be given the token in hand.
    #[must_use]
    pub fn serves(&self, now: BootTime, least: Duration) -> bool {
        self.token.is_some_and(|token| token.left(now) >= least && !token.left(now).is_zero())
    }

    /// Whether HubSpot is asked now and then whether the grant has not come back.
    pub(super) const fn is_asked_about(&self, end: End) -> bool {
        end.is_asked_about() && !self.paused
    }

    /// The next instant at which the rules want to be asked, if nothing happens before.
    #[must_use]
    pub fn wakes(&self) -> Option<BootTime> {
        match self.phase {
            Phase::Resting if self.paused => self.save_at,
            Phase::Resting => {
                // HubSpot's wish to be left alone does not keep the store waiting.
                let asking = self.renew_at.into_iter().chain([self.validation_due]).min();
                let asking = asking.map(|at| at.max(self.not_before));
                asking.into_iter().chain(self.save_at).min()
            }
            // A question that nobody waits for doesn't hold up the renewal.
            Phase::Asking(Doubt::Routine) if self.token.is_some() => {
                self.renew_at.map(|at| at.max(self.not_before))
            }
            Phase::Ended(end) => {
                let asked = self.is_asked_about(end).then_some(self.validation_due);
                asked.into_iter().chain(self.save_at).min()
            }
            _ => None,
        }
    }

    /// The least life callers are given, by policy and by this portal's own token life.
    #[must_use]
    pub fn least_life(&self, policy: &RefreshPolicy) -> Duration {
        self.token.map_or(policy.min_ttl, |token| schedule::least_life(policy, token.given))
    }
}
