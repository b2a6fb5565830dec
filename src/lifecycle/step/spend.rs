//! The life of a spend: intent, request, answer kept, saved, published; and a spend that brought
//! nothing.

use std::time::Duration;

use super::{Deciding, LONGEST_WAIT, STRAY};
use crate::{
    lifecycle::{
        answer::RefusalClass,
        effect::{Cause, Effect},
        event::Facts,
        state::{Doubt, End, Phase, TokenLife},
    },
    time::BootTime,
};

/// Refusals of the client pair, met by one portal in a row, that are held against the app alone.
const APP_REFUSALS_BORNE: u32 = 3;
/// Conflicting writes in a row before the store is left alone for a while.
pub(super) const CONFLICTS_BORNE: u32 = 5;
/// As many failures in a row of a grant that has no token are worth a word.
const NOTABLE_FAILURES: u32 = 5;

impl Deciding<'_> {
    /// Without a durable intent nothing is spent (I4), unless a spend is known to replace nothing.
    pub(super) fn intended(&mut self, durable: bool) {
        if self.is_spent() && !self.is_unanswerable() {
            return self.question_spend();
        }
        if durable || !self.context.may_rotate {
            self.portal.phase = Phase::Refreshing;
            self.effects.push(Effect::Spend);
            return;
        }
        let again = self.context.now + self.wait(3);
        self.portal.phase = Phase::Resting;
        self.portal.renew_at = Some(again);
        self.portal.not_before = again;
        self.close_intent();
    }

    /// Whatever else the answer says, it is kept first (I3).
    pub(super) fn refreshed(&mut self, token: TokenLife, rotated: bool, facts: Facts) {
        self.effects.push(Effect::AppAccepted);
        self.portal.in_doubt = false;
        let wrong_portal = facts.wrong_portal;
        if !wrong_portal {
            self.accepted();
            self.note_scopes(facts);
            self.portal.proven = true;
            self.portal.held = Some(token);
        }
        self.portal.phase = Phase::Keeping { rotated, wrong_portal };
        self.effects.push(Effect::Keep);
    }

    /// The answer is in the journal; or that could not be had, and the store is all there is.
    pub(super) fn kept(&mut self, rotated: bool, wrong_portal: bool) {
        if wrong_portal {
            // The grant stays alive in the record it came from, and nobody gets its token.
            if rotated {
                self.effects.push(Effect::Save);
            }
            self.end(End::WrongPortal);
        } else if rotated {
            self.save();
        } else {
            self.publish_held();
        }
    }

    pub(super) fn save(&mut self) {
        self.portal.phase = Phase::Saving;
        self.effects.push(Effect::Save);
    }

    pub(super) fn saved(&mut self) {
        self.portal.conflicts = 0;
        self.stored();
        self.publish_held();
    }

    pub(super) fn stored(&mut self) {
        if self.portal.save_at.take().is_some() {
            self.effects.push(Effect::Close(Cause::Unsaved));
        }
    }

    pub(super) fn save_conflict(&mut self) {
        if self.portal.conflicts >= CONFLICTS_BORNE {
            return self.unsaved();
        }
        self.portal.conflicts += 1;
        self.portal.phase = Phase::Rereading(Doubt::Conflict);
        self.effects.push(Effect::Reread);
    }

    pub(super) fn unsaved(&mut self) {
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

    fn publish(&mut self, token: TokenLife) {
        self.portal.token = Some(token);
        self.portal.phase = Phase::Resting;
        self.portal.failures = 0;
        self.portal.forget_refusals();
        self.portal.app_refusals = 0;
        self.portal.trouble = None;
        self.portal.renew_at = self.renewal(token);
        self.validated();
        self.effects.push(Effect::Publish);
        self.recovered();
    }

    pub(super) fn refused(&mut self, class: RefusalClass, retry_after: Option<Duration>) {
        match class {
            // The request may have been carried out before the answer went missing, and may be still.
            RefusalClass::AnswerLost | RefusalClass::Outage => {
                self.portal.in_doubt = true;
                self.portal.arrives_by = self.context.now + STRAY;
            }
            _ => self.close_intent(),
        }
        match class {
            RefusalClass::AppRefused => self.leave_to_app(),
            RefusalClass::GrantRefused
            | RefusalClass::GrantMismatched
            | RefusalClass::PortalUnavailable => {
                self.portal.count_refusal(class, self.context.now);
                self.effects.push(Effect::GrantRefused);
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
    pub(super) fn leave_to_app(&mut self) {
        self.portal.app_refusals += 1;
        self.effects.push(Effect::AppRefused);
        if self.portal.app_refusals > APP_REFUSALS_BORNE {
            return self.fail(RefusalClass::AppRefused, None);
        }
        self.portal.phase = Phase::Resting;
        self.portal.renew_at = Some(self.context.now);
    }

    pub(super) fn fail(&mut self, class: RefusalClass, retry_after: Option<Duration>) {
        self.portal.failures = self.portal.failures.saturating_add(1);
        self.portal.trouble = Some(class);
        self.portal.excused = false;
        let asked = retry_after.unwrap_or_default().min(LONGEST_WAIT);
        let again = self.context.now + self.wait(self.portal.failures).max(asked);
        let again = self.when_arrived(again);
        self.portal.phase = Phase::Resting;
        self.portal.renew_at = Some(again);
        self.portal.not_before = again;
        self.tell_of_failure(again);
    }

    /// A failure that nobody need hear of as long as the token in hand outlasts it (study `scale.md` 3.6).
    fn tell_of_failure(&mut self, again: BootTime) {
        let now = self.context.now;
        let cause = match self.portal.token {
            // One that nobody used may have run out long before it failed.
            Some(token) if token.expires <= now => {
                if self.portal.failures < NOTABLE_FAILURES {
                    return;
                }
                Cause::Expired
            }
            Some(token) if token.expires <= again => Cause::Failing,
            None if self.portal.failures >= NOTABLE_FAILURES => Cause::Failing,
            _ => return,
        };
        self.effects.push(Effect::Open(cause));
    }

    /// Nothing is failing any more, or nothing is tried.
    pub(super) fn fails_no_more(&mut self) {
        for cause in [Cause::Failing, Cause::Expired] {
            self.effects.push(Effect::Close(cause));
        }
    }
}
