//! The one function that says what follows: `step(portal, event, context)`. Production, tests and
//! simulation run the same one. Effects are data; the engine carries them out and reports back.

use std::time::Duration;

use super::{
    answer::RefusalClass,
    effect::{Cause, Effect},
    event::{Event, Facts, Outcome, Reread},
    policy::RefreshPolicy,
    schedule,
    state::{Doubt, End, Phase, Portal, Superseded, TokenLife},
};
use crate::{
    portal::PortalId,
    time::{Backoff, BootTime},
};

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
    /// A number from 0 to 1, drawn for this step.
    pub chance: f64,
}

/// Refusals in a row after which a grant counts as revoked even where HubSpot can't be asked (I5).
const REFUSALS_BELIEVED: u32 = 5;
/// `MISMATCH_REFRESH_TOKEN_CLIENT` has been seen to pass by itself (study `hubspot.md` 3.1).
const MISMATCHES_BELIEVED: u32 = 3;
/// `BAD_HUB` in a row before a portal counts as gone.
const UNAVAILABLE_BELIEVED: u32 = 2;
/// Refusals of the client pair, met by one portal in a row, that are held against the app alone.
const APP_REFUSALS_BORNE: u32 = 3;
/// Conflicting writes in a row before the store is left alone for a while.
const CONFLICTS_BORNE: u32 = 5;
/// No portal is refreshed twice within this time, however often it is asked for.
const REFRESH_FLOOR: Duration = Duration::from_secs(1);
/// The longest wait that HubSpot can ask for (a migration, study `hubspot.md` 3.2).
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 3600);

/// What follows when `event` happens to `portal`.
///
/// Every pair of phase and event is decided: one that does not belong together (a late answer, a
/// timer that fired while something was in flight) changes nothing.
#[must_use]
pub fn step(portal: &Portal, event: &Event, context: &Context<'_>) -> (Portal, Vec<Effect>) {
    let mut next = Step { portal: portal.clone(), effects: Vec::new(), context };
    next.take(event);
    (next.portal, next.effects)
}

struct Step<'a> {
    portal: Portal,
    effects: Vec<Effect>,
    context: &'a Context<'a>,
}

impl Step<'_> {
    fn take(&mut self, event: &Event) {
        match *event {
            Event::Woke => self.woke(),
            Event::Wanted if self.portal.phase == Phase::Resting => self.wanted(),
            Event::Wanted => {}
            Event::HubSpotBack => self.hubspot_back(),
            Event::LastCall => self.last_call(),
            Event::NotSent => self.not_sent(),
            Event::RecordChanged => self.superseded(Superseded::ByNewer),
            Event::RecordUnusable => self.superseded(Superseded::ByUnusable),
            Event::Done { generation, outcome }
                if generation == self.portal.generation && self.portal.superseded.is_none() =>
            {
                self.done(outcome);
            }
            Event::Done { .. } => {
                if let Some(by) = self.portal.superseded.take() {
                    self.replace(by);
                }
            }
        }
    }

    fn not_sent(&mut self) {
        match self.portal.phase {
            Phase::Refreshing => {
                self.portal.phase = Phase::Resting;
                self.portal.renew_at = Some(self.context.now);
            }
            Phase::Introspecting(Doubt::Ended(end)) => self.portal.phase = Phase::Ended(end),
            Phase::Introspecting(_) => self.portal.phase = Phase::Resting,
            _ => return,
        }
        if let Some(by) = self.portal.superseded.take() {
            self.replace(by);
        }
    }

    fn last_call(&mut self) {
        if self.portal.phase == Phase::Resting && self.portal.save_at.is_some() {
            self.save();
        }
    }

    /// What failed for want of an answer need not sit out its wait; the queue's order and pace see
    /// to it that all of them together are no storm.
    fn hubspot_back(&mut self) {
        let wanting = matches!(
            self.portal.trouble,
            Some(RefusalClass::Outage | RefusalClass::Unreachable | RefusalClass::AnswerLost)
        );
        // The failures stay counted: whoever fails on its own account goes on backing off.
        if wanting && self.portal.phase == Phase::Resting {
            self.portal.renew_at = Some(self.context.now);
            self.portal.not_before = self.context.now;
        }
    }

    fn done(&mut self, outcome: Outcome) {
        match (self.portal.phase, outcome) {
            (Phase::Refreshing, Outcome::Refreshed { token, rotated, facts }) => {
                self.refreshed(token, rotated, facts);
            }
            (Phase::Refreshing, Outcome::RefreshRefused { class, retry_after }) => {
                self.refused(class, retry_after);
            }
            (Phase::Saving, Outcome::Saved) => self.saved(),
            (Phase::Saving, Outcome::SaveConflict) if self.portal.conflicts >= CONFLICTS_BORNE => {
                self.unsaved();
            }
            (Phase::Saving, Outcome::SaveConflict) => {
                self.portal.conflicts += 1;
                self.portal.phase = Phase::Rereading(Doubt::Conflict);
                self.effects.push(Effect::Reread);
            }
            (Phase::Saving, Outcome::SaveFailed)
            | (Phase::Rereading(Doubt::Conflict), Outcome::Reread(Reread::Failed)) => {
                self.unsaved();
            }
            (Phase::Rereading(_), Outcome::Reread(Reread::Newer)) => {
                self.portal.generation = self.portal.generation.next();
                self.replace(Superseded::ByNewer);
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

    /// The record changed under us. What is in flight is waited for, and its answer then dropped:
    /// there is never a second request beside it (I2), and the newer grant wins (I13).
    fn superseded(&mut self, by: Superseded) {
        self.portal.generation = self.portal.generation.next();
        if matches!(self.portal.phase, Phase::Resting | Phase::Ended(_)) {
            self.replace(by);
        } else {
            self.portal.superseded = Some(by);
        }
    }

    fn replace(&mut self, by: Superseded) {
        if self.portal.held.take().is_some() {
            self.effects.push(Effect::DropHeld);
        }
        if self.portal.save_at.take().is_some() {
            self.effects.push(Effect::Close(Cause::Unsaved));
        }
        self.portal.proven = false;
        match by {
            Superseded::ByNewer => self.rest_and_renew(),
            Superseded::ByUnusable => self.end(End::Unusable),
        }
    }

    fn woke(&mut self) {
        let now = self.context.now;
        if let (Phase::Ended(end), Some(_)) = (self.portal.phase, self.portal.wakes()) {
            return self.introspect(Doubt::Ended(end));
        }
        if self.portal.phase != Phase::Resting {
            return;
        }
        let reached = |at: Option<BootTime>| at.is_some_and(|at| at <= now);
        if reached(self.portal.save_at) {
            return self.save();
        }
        if now < self.portal.not_before {
            return;
        }
        self.follow_mode();
        let unseen = !self.portal.proven && self.portal.token.is_none();
        let validation = reached(Some(self.portal.validation_due));
        if self.context.introspect_first && unseen && validation {
            self.introspect(Doubt::Routine);
        } else if reached(self.portal.renew_at) {
            self.refresh();
        } else if validation {
            self.introspect(Doubt::Routine);
        }
    }

    /// A portal that is not kept warm is refreshed when somebody asks; one that is again, by itself.
    fn follow_mode(&mut self) {
        let Context { now, portal, policy, warm, .. } = *self.context;
        self.portal.renew_at = self.portal.renew_at.filter(|_| warm).or_else(|| {
            let renewal =
                |token: TokenLife| schedule::renewal(portal, token.issued, token.life(), policy);
            warm.then(|| self.portal.token.map_or(now, renewal))
        });
    }

    fn wanted(&mut self) {
        if self.context.now >= self.portal.not_before {
            self.refresh();
        }
    }

    fn refresh(&mut self) {
        self.portal.phase = Phase::Refreshing;
        self.portal.not_before = self.context.now + REFRESH_FLOOR;
        self.effects.push(Effect::Refresh);
    }

    fn save(&mut self) {
        self.portal.phase = Phase::Saving;
        self.effects.push(Effect::Save);
    }

    fn introspect(&mut self, doubt: Doubt) {
        self.portal.phase = Phase::Introspecting(doubt);
        self.effects.push(Effect::Introspect);
    }

    fn refreshed(&mut self, token: TokenLife, rotated: bool, facts: Facts) {
        self.effects.push(Effect::AppAccepted);
        if facts.wrong_portal {
            // The grant stays alive in the record it came from, and nobody gets its token.
            if rotated {
                self.effects.push(Effect::Save);
            }
            self.end(End::WrongPortal);
            return;
        }
        self.note_scopes(facts);
        self.portal.proven = true;
        if rotated {
            self.portal.held = Some(token);
            self.save();
        } else {
            self.publish(token);
        }
    }

    fn publish(&mut self, token: TokenLife) {
        self.portal.token = Some(token);
        self.portal.held = None;
        self.portal.phase = Phase::Resting;
        self.portal.failures = 0;
        self.portal.app_refusals = 0;
        self.portal.trouble = None;
        self.portal.renew_at = self.context.warm.then(|| {
            schedule::renewal(self.context.portal, token.issued, token.life(), self.context.policy)
        });
        self.validated();
        self.effects.push(Effect::Publish);
        self.recovered();
    }

    fn recovered(&mut self) {
        for end in
            [End::Revoked, End::Unavailable, End::Mismatched, End::WrongPortal, End::Unusable]
        {
            self.effects.push(Effect::Close(Cause::Ended(end)));
        }
    }

    fn saved(&mut self) {
        self.portal.conflicts = 0;
        if self.portal.save_at.take().is_some() {
            self.effects.push(Effect::Close(Cause::Unsaved));
        }
        self.publish_held();
    }

    fn unsaved(&mut self) {
        self.portal.conflicts = 0;
        let tries = if self.portal.save_at.is_some() { 3 } else { 1 };
        self.portal.save_at = Some(self.context.now + self.wait(tries));
        self.effects.push(Effect::Open(Cause::Unsaved));
        // Withholding the access token would protect nobody; a person is told instead.
        self.publish_held();
    }

    fn publish_held(&mut self) {
        match self.portal.held.take() {
            Some(token) => self.publish(token),
            None => self.portal.phase = Phase::Resting,
        }
    }

    fn refused(&mut self, class: RefusalClass, retry_after: Option<Duration>) {
        match class {
            RefusalClass::AppRefused => self.leave_to_app(),
            RefusalClass::GrantRefused
            | RefusalClass::GrantMismatched
            | RefusalClass::PortalUnavailable => {
                self.portal.phase = Phase::Rereading(Doubt::Refused(class));
                self.effects.push(Effect::Reread);
            }
            RefusalClass::RateLimited => {
                self.effects.push(Effect::Throttled(retry_after));
                self.fail(class, retry_after);
            }
            _ => self.fail(class, retry_after),
        }
    }

    /// Not this portal's failure: nothing is counted, and it goes on when the app does.
    /// Unless it comes again and again while the pair is found good in between: then something is
    /// wrong with this portal after all.
    fn leave_to_app(&mut self) {
        self.portal.app_refusals += 1;
        if self.portal.app_refusals > APP_REFUSALS_BORNE {
            self.effects.push(Effect::AppRefused);
            return self.fail(RefusalClass::AppRefused, None);
        }
        self.portal.phase = Phase::Resting;
        self.portal.renew_at = Some(self.context.now);
        self.effects.push(Effect::AppRefused);
    }

    fn fail(&mut self, class: RefusalClass, retry_after: Option<Duration>) {
        self.portal.failures = self.portal.failures.saturating_add(1);
        self.portal.trouble = Some(class);
        let asked = retry_after.unwrap_or_default().min(LONGEST_WAIT);
        let again = self.context.now + self.wait(self.portal.failures).max(asked);
        self.portal.phase = Phase::Resting;
        self.portal.renew_at = Some(again);
        self.portal.not_before = again;
    }

    fn wait(&self, failures: u32) -> Duration {
        const FLOOR: Duration = Duration::from_secs(2);
        const CEILING: Duration = Duration::from_secs(300);
        Backoff::new(FLOOR, CEILING, 0.3)
            .map_or(CEILING, |backoff| backoff.after(failures, self.context.chance))
    }

    fn same_record(&mut self, doubt: Doubt) {
        let failures = self.portal.failures + 1;
        match doubt {
            Doubt::Conflict => self.save(),
            Doubt::Inactive => self.end(End::Revoked),
            Doubt::Refused(RefusalClass::GrantMismatched) if failures >= MISMATCHES_BELIEVED => {
                self.end(End::Mismatched);
            }
            Doubt::Refused(RefusalClass::PortalUnavailable) if failures >= UNAVAILABLE_BELIEVED => {
                self.end(End::Unavailable);
            }
            Doubt::Refused(RefusalClass::GrantRefused) => self.introspect(doubt),
            Doubt::Refused(class) => self.fail(class, None),
            Doubt::Routine | Doubt::Ended(_) => self.portal.phase = Phase::Resting,
        }
    }

    /// The store can't be asked, so nothing is believed.
    fn try_later(&mut self, doubt: Doubt) {
        if let Doubt::Refused(class) = doubt {
            self.fail(class, None);
        } else {
            self.portal.phase = Phase::Resting;
            self.validate_later();
        }
    }

    fn active(&mut self, doubt: Doubt, facts: Facts) {
        self.effects.push(Effect::AppAccepted);
        if facts.wrong_portal {
            return self.end(End::WrongPortal);
        }
        if facts.wrong_app {
            return self.end(End::Mismatched);
        }
        self.note_scopes(facts);
        match doubt {
            Doubt::Refused(class) => self.fail(class, None),
            Doubt::Ended(_) => self.rest_and_renew(),
            _ => {
                self.portal.phase = Phase::Resting;
                self.validated();
            }
        }
    }

    fn inactive(&mut self, doubt: Doubt) {
        self.effects.push(Effect::AppAccepted);
        match doubt {
            Doubt::Refused(_) => self.end(End::Revoked),
            Doubt::Ended(end) => {
                self.portal.phase = Phase::Ended(end);
                self.validated();
            }
            _ => {
                self.portal.phase = Phase::Rereading(Doubt::Inactive);
                self.effects.push(Effect::Reread);
            }
        }
    }

    fn not_told(&mut self, doubt: Doubt, class: RefusalClass) {
        if class == RefusalClass::AppRefused {
            if let Doubt::Ended(end) = doubt {
                self.portal.phase = Phase::Ended(end);
                self.validate_later();
                self.effects.push(Effect::AppRefused);
            } else {
                self.portal.validation_due = self.context.now;
                self.leave_to_app_quietly(doubt);
            }
            return;
        }
        match doubt {
            Doubt::Refused(RefusalClass::GrantRefused)
                if self.portal.failures + 1 >= REFUSALS_BELIEVED =>
            {
                self.end(End::Revoked);
            }
            Doubt::Refused(refused) => self.fail(refused, None),
            Doubt::Ended(end) => {
                self.portal.phase = Phase::Ended(end);
                self.validate_later();
            }
            _ => {
                self.portal.phase = Phase::Resting;
                self.validate_later();
            }
        }
    }

    fn leave_to_app_quietly(&mut self, doubt: Doubt) {
        let renew_at = self.portal.renew_at;
        self.leave_to_app();
        if doubt == Doubt::Routine {
            self.portal.renew_at = renew_at;
        }
    }

    fn rest_and_renew(&mut self) {
        self.portal.phase = Phase::Resting;
        self.portal.failures = 0;
        self.portal.trouble = None;
        self.portal.renew_at = Some(self.context.now);
        self.portal.not_before = self.context.now;
    }

    fn end(&mut self, end: End) {
        if self.portal.ended().is_some_and(|before| before != end) {
            self.recovered();
        }
        self.portal.phase = Phase::Ended(end);
        self.portal.token = None;
        self.portal.held = None;
        self.portal.failures = 0;
        self.portal.trouble = None;
        self.validated();
        self.effects.push(Effect::Withdraw);
        self.effects.push(Effect::Open(Cause::Ended(end)));
    }

    fn note_scopes(&mut self, facts: Facts) {
        match facts.scopes_missing {
            Some(true) => self.effects.push(Effect::Open(Cause::ScopeMissing)),
            Some(false) => self.effects.push(Effect::Close(Cause::ScopeMissing)),
            None => {}
        }
    }

    fn validated(&mut self) {
        let every = self.context.validate_every;
        let half = self.context.now + every / 2;
        self.portal.validation_due = schedule::next_of_phase(self.context.portal, half, every);
    }

    fn validate_later(&mut self) {
        let soon = self.wait(3).min(self.context.validate_every);
        self.portal.validation_due = self.context.now + soon;
    }
}

#[cfg(test)]
mod tests;
