//! The one function that says what follows: `step(portal, event, context)`. Production, tests and
//! simulation run the same one. Effects are data; the engine carries them out and reports back.

use std::time::Duration;

use super::{
    answer::RefusalClass,
    crowd::Belief,
    effect::{Cause, Effect},
    event::{Event, Found, Outcome, Reread},
    policy::RefreshPolicy,
    schedule,
    state::{Doubt, End, Phase, Portal},
};
use crate::{portal::PortalId, time::BootTime};

mod doubt;
mod spend;
mod timing;

/// What a decision depends on besides state and event.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// The time.
    pub now: BootTime,
    /// Whose state it is.
    pub portal: PortalId,
    /// When to renew.
    pub policy: &'a RefreshPolicy,
    /// The period of validation.
    pub validate_every: Duration,
    /// Whether this portal is kept warm at present.
    pub warm: bool,
    /// Whether a grant is introspected before it is spent for the first time.
    pub introspect_first: bool,
    /// Whether a spend may replace the refresh token, as far as the provider is known.
    pub may_rotate: bool,
    /// What may be made of a confirmed refusal of this portal's grant, seeing how others fare.
    pub belief: Belief,
    /// A number from 0 to 1, drawn for this step.
    pub chance: f64,
}

/// The rules as a value. Production has one set, [`step`]; the simulation also runs wrong ones, to see
/// that its judge finds them.
pub type Step = fn(&Portal, &Event, &Context<'_>) -> (Portal, Vec<Effect>);

/// No portal is refreshed twice within this time, however often it is asked for.
const REFRESH_FLOOR: Duration = Duration::from_secs(1);
/// The longest wait that HubSpot can ask for (a migration, study `hubspot.md` 3.2).
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 3600);
/// For so long after its sender has given it up or gone, a request may still arrive, or be worked on behind
/// an edge that answers for it: the deadline, and half of that again (study `scale.md` 3.3). Until then
/// nothing that is asked would be the last word.
pub const STRAY: Duration = Duration::from_secs(15);
/// How long a portal waits for others to be heard before its own refusal is looked at again.
const SECOND_OPINION: Duration = Duration::from_secs(4);

/// What follows when `event` happens to `portal`.
///
/// Every pair of phase and event is decided: one that does not belong together (a late answer, a
/// timer that fired while something was in flight) changes nothing.
#[must_use]
pub fn step(portal: &Portal, event: &Event, context: &Context<'_>) -> (Portal, Vec<Effect>) {
    let mut deciding = Deciding { portal: portal.clone(), effects: Vec::new(), context };
    deciding.take(event);
    (deciding.portal, deciding.effects)
}

struct Deciding<'a> {
    portal: Portal,
    effects: Vec<Effect>,
    context: &'a Context<'a>,
}

impl Deciding<'_> {
    fn take(&mut self, event: &Event) {
        match *event {
            Event::Woke => self.woke(),
            Event::Wanted => self.wanted(),
            Event::Turn => self.turn(),
            Event::Found(found) => self.found(found),
            Event::Ask => self.ask(),
            Event::Pause(paused) => self.pause(paused),
            Event::AskWithin(span) => self.ask_within(span),
            Event::Configured => self.ask_within(self.context.validate_every),
            Event::HubSpotBack => self.hubspot_back(),
            Event::JournalBack => self.journal_back(),
            Event::LastCall => self.last_call(),
            Event::NotSent => self.not_sent(),
            // What is in flight is waited for, and then the record is read once more: there is never a
            // second request beside it (I2), and check-and-set lets the newer grant win (I13).
            Event::RecordChanged if self.rests() => self.replace(),
            Event::RecordUnusable if self.rests() => {
                self.replace();
                self.end(End::Unusable);
            }
            Event::Done { generation, outcome } if generation == self.portal.generation => {
                self.done(outcome);
            }
            Event::RecordChanged | Event::RecordUnusable | Event::Done { .. } => {}
        }
    }

    fn done(&mut self, outcome: Outcome) {
        match (self.portal.phase, outcome) {
            (Phase::Intending, Outcome::Intended(durable)) => self.intended(durable),
            (Phase::Refreshing, Outcome::Refreshed { token, rotated, facts }) => {
                self.refreshed(token, rotated, facts);
            }
            (Phase::Refreshing, Outcome::RefreshRefused { class, retry_after }) => {
                self.refused(class, retry_after);
            }
            (Phase::Keeping { rotated, wrong_portal }, Outcome::Kept(_)) => {
                self.kept(rotated, wrong_portal);
            }
            (Phase::Ended(_), Outcome::Saved) => self.stored(),
            (Phase::Ended(_), Outcome::SaveFailed | Outcome::SaveConflict) => {
                self.portal.save_at = Some(self.context.now + self.wait(3));
            }
            (Phase::Saving, Outcome::Saved) => self.saved(),
            (Phase::Saving, Outcome::SaveConflict) => self.save_conflict(),
            (Phase::Saving, Outcome::SaveFailed)
            | (Phase::Rereading(Doubt::Conflict), Outcome::Reread(Reread::Failed)) => {
                self.unsaved();
            }
            (Phase::Rereading(_), Outcome::Reread(Reread::Newer)) => {
                self.replace();
            }
            (Phase::Rereading(doubt), Outcome::Reread(Reread::Same)) => self.same_record(doubt),
            (Phase::Rereading(doubt), Outcome::Reread(Reread::Failed)) => self.try_later(doubt),
            (Phase::Introspecting(doubt), Outcome::IntrospectedActive(facts)) => {
                self.active(doubt, facts);
            }
            (Phase::Introspecting(doubt), Outcome::IntrospectedInactive) => self.inactive(doubt),
            (Phase::Introspecting(doubt), Outcome::IntrospectionRefused { class, retry_after }) => {
                if class == RefusalClass::RateLimited {
                    self.effects.push(Effect::Throttled(retry_after));
                }
                self.not_told(doubt, class);
            }
            _ => {}
        }
    }

    /// What a start found in the journal.
    fn found(&mut self, found: Found) {
        let Found { token, proven, unsaved, in_doubt, paused, asked_within } = found;
        self.portal.proven |= proven;
        self.portal.paused |= paused;
        if unsaved {
            self.portal.save_at = Some(self.context.now);
        }
        if let Some(token) = token {
            self.portal.token = Some(token);
            self.portal.renew_at = self.renewal(token);
            self.validated();
            if let Some(within) =
                asked_within.filter(|within| *within < self.context.validate_every)
            {
                let Context { now, portal, .. } = *self.context;
                self.portal.validation_due = schedule::next_of_phase(portal, now, within);
            }
            self.effects.push(Effect::Publish);
        }
        if let Some(still) = in_doubt {
            self.portal.in_doubt = true;
            self.portal.arrives_by = self.context.now + still;
            // Not when the token runs out: then it is too late to ask the customer.
            self.portal.validation_due = self.portal.arrives_by;
            self.portal.not_before = self.portal.arrives_by;
        }
    }

    fn pause(&mut self, paused: bool) {
        self.portal.paused = paused;
        if paused {
            self.fails_no_more();
        }
        if !paused && self.portal.phase == Phase::Resting {
            self.portal.renew_at = Some(self.portal.renew_at.unwrap_or(self.context.now));
        }
    }

    /// What was waiting is taken back, or could not be sent.
    fn not_sent(&mut self) {
        let now = self.context.now;
        match self.portal.phase {
            Phase::Queued => {}
            // There is nothing to send it with; that takes a while to mend.
            Phase::Intending => self.portal.not_before = now + self.wait(1),
            Phase::Refreshing => {
                self.close_intent();
                self.portal.not_before = now + self.wait(1);
            }
            Phase::Asking(Doubt::Ended(end)) | Phase::Introspecting(Doubt::Ended(end)) => {
                self.portal.phase = Phase::Ended(end);
                return;
            }
            Phase::Asking(_) => {
                self.portal.phase = Phase::Resting;
                return;
            }
            Phase::Introspecting(_) => {
                self.portal.phase = Phase::Resting;
                self.portal.not_before = now + self.wait(1);
                return;
            }
            _ => return,
        }
        self.portal.phase = Phase::Resting;
        self.portal.renew_at = Some(now);
    }

    fn last_call(&mut self) {
        match self.portal.phase {
            Phase::Resting if self.portal.save_at.is_some() => self.save(),
            Phase::Ended(_) if self.portal.save_at.is_some() => self.effects.push(Effect::Save),
            _ => {}
        }
    }

    const fn rests(&self) -> bool {
        matches!(self.portal.phase, Phase::Resting | Phase::Ended(_))
    }

    /// The record holds another grant: it is the one in use from now on.
    fn replace(&mut self) {
        self.portal.generation = self.portal.generation.next();
        if self.portal.held.take().is_some() {
            self.effects.push(Effect::DropHeld);
        }
        if self.portal.save_at.take().is_some() {
            self.effects.push(Effect::Close(Cause::Unsaved));
        }
        // The intent stays in the journal: the record may be changed back.
        self.portal.in_doubt = false;
        self.portal.proven = false;
        self.effects.push(Effect::Settled);
        self.rest_and_renew();
    }

    fn woke(&mut self) {
        let now = self.context.now;
        let reached = |at: Option<BootTime>| at.is_some_and(|at| at <= now);
        if let Phase::Ended(end) = self.portal.phase {
            // A grant that is not served may still be one that the store must not lose.
            if reached(self.portal.save_at) {
                self.portal.save_at = Some(now + self.wait(3));
                self.effects.push(Effect::Save);
            } else if self.portal.is_asked_about(end) && self.portal.validation_due <= now {
                self.question(Doubt::Ended(end));
            }
            return;
        }
        let asking = self.portal.phase == Phase::Asking(Doubt::Routine);
        if asking && self.portal.token.is_some() && reached(self.portal.renew_at) {
            return self.queue();
        }
        if self.portal.phase != Phase::Resting {
            return;
        }
        if reached(self.portal.save_at) {
            return self.save();
        }
        if now < self.portal.not_before || self.portal.paused {
            return;
        }
        self.follow_mode();
        let unseen = !self.portal.proven && self.portal.token.is_none();
        let validation = reached(Some(self.portal.validation_due));
        let renewal = reached(self.portal.renew_at);
        if (renewal || validation) && self.is_spent() {
            self.question_spend();
        } else if self.context.introspect_first && unseen && validation {
            self.question(Doubt::Routine);
        } else if renewal {
            self.queue();
        } else if validation {
            self.question(Doubt::Routine);
        }
    }

    fn wanted(&mut self) {
        let free = self.portal.phase == Phase::Resting && !self.portal.paused;
        if !free || self.context.now < self.portal.not_before {
            return;
        }
        if self.is_spent() { self.question_spend() } else { self.queue() }
    }

    /// Another portal's refusal is to be told apart from everybody's: this grant is looked at, unless
    /// it is about to be heard of anyway.
    fn ask(&mut self) {
        let free = self.portal.phase == Phase::Resting && !self.portal.paused;
        // Of one that was spent of late, no answer is the last word yet.
        if free && !self.is_spent() && self.portal.not_before <= self.context.now {
            self.question(Doubt::Routine);
        }
    }

    /// Whether the grant may have been replaced by a spend whose answer nobody saw. Spending it again
    /// could end it for good where replaced tokens betray a thief (I4).
    const fn is_spent(&self) -> bool {
        self.portal.in_doubt && self.context.may_rotate
    }

    /// Whether there is nobody to ask whether the grant was replaced: presenting it again is all that is left.
    fn is_unanswerable(&self) -> bool {
        let class = self.portal.trouble;
        matches!(class, Some(RefusalClass::NotUnderstood | RefusalClass::ApiRetired))
            && self.portal.failures + 1 >= doubt::REFUSALS_BELIEVED
    }

    /// A spend is known to have brought nothing; what became of an earlier one still isn't.
    fn close_intent(&mut self) {
        if !self.portal.in_doubt {
            self.effects.push(Effect::CloseIntent);
        }
    }

    /// What became of the spend? Nothing that is said before it must have arrived is the last word.
    fn question_spend(&mut self) {
        let arrives_by = self.portal.arrives_by;
        if arrives_by <= self.context.now {
            return self.question(Doubt::Spent);
        }
        self.portal.phase = Phase::Resting;
        self.portal.renew_at = Some(arrives_by);
        self.portal.not_before = arrives_by;
    }

    fn question(&mut self, doubt: Doubt) {
        self.portal.phase = Phase::Asking(doubt);
        self.effects.push(Effect::QueueQuestion);
    }

    fn queue(&mut self) {
        self.portal.phase = Phase::Queued;
        self.effects.push(Effect::QueueRefresh);
    }

    fn turn(&mut self) {
        if self.portal.paused && matches!(self.portal.phase, Phase::Queued | Phase::Asking(_)) {
            return self.not_sent();
        }
        match self.portal.phase {
            // The provider may have begun to replace tokens since it was queued.
            Phase::Queued if self.is_spent() && !self.is_unanswerable() => self.question_spend(),
            Phase::Queued => {
                self.portal.phase = Phase::Intending;
                self.portal.not_before = self.context.now + REFRESH_FLOOR;
                self.effects.push(Effect::Intend);
            }
            Phase::Asking(doubt) => {
                self.portal.phase = Phase::Introspecting(doubt);
                self.effects.push(Effect::Introspect);
            }
            _ => {}
        }
    }

    fn rest_and_renew(&mut self) {
        self.portal.phase = Phase::Resting;
        self.portal.failures = 0;
        self.portal.forget_refusals();
        self.portal.trouble = None;
        self.portal.renew_at = Some(self.context.now);
        self.portal.not_before = self.context.now;
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
