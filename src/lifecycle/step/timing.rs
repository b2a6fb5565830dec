//! When something is done next: renewal, validation, the wait after a failure. Decides nothing of a grant.

use std::time::Duration;

use super::{Context, Deciding};
use crate::{
    lifecycle::{
        answer::RefusalClass,
        schedule,
        state::{Phase, TokenLife},
    },
    time::{Backoff, BootTime},
};

impl Deciding<'_> {
    /// What failed for want of an answer need not sit out its wait; the queue's order and pace see
    /// to it that all of them together are no storm.
    pub(super) fn hubspot_back(&mut self) {
        let wanting = matches!(
            self.portal.trouble,
            Some(RefusalClass::Outage | RefusalClass::Unreachable | RefusalClass::AnswerLost)
        );
        if !wanting {
            return;
        }
        // The failures stay counted: whoever fails on its own account goes on backing off.
        self.portal.excused = true;
        if self.portal.phase == Phase::Resting {
            let now = self.when_arrived(self.context.now);
            self.portal.renew_at = Some(now);
            self.portal.not_before = now;
        }
    }

    /// What waited for nothing but a journal that could be written need not sit out its wait.
    pub(super) fn journal_back(&mut self) {
        let waits = self.portal.not_before > self.context.now && self.portal.failures == 0;
        let in_doubt = self.portal.refusals > 0 || self.is_spent();
        if self.portal.phase == Phase::Resting && waits && !in_doubt {
            self.portal.renew_at = self.portal.renew_at.map(|_| self.context.now);
            self.portal.not_before = self.context.now;
        }
    }

    /// `instant`, or later: a grant in doubt is not asked about while what was spent may still arrive.
    pub(super) fn when_arrived(&self, instant: BootTime) -> BootTime {
        if self.is_spent() { instant.max(self.portal.arrives_by) } else { instant }
    }

    /// A portal that is not kept warm is refreshed when somebody asks; one that is again, by itself.
    pub(super) fn follow_mode(&mut self) {
        let Context { now, warm, .. } = *self.context;
        let kept = self.portal.renew_at.filter(|_| warm);
        self.portal.renew_at = kept.or_else(|| match self.portal.token {
            Some(token) => self.renewal(token),
            None => warm.then_some(now),
        });
    }

    pub(super) fn renewal(&self, token: TokenLife) -> Option<BootTime> {
        let Context { portal, policy, warm, .. } = *self.context;
        warm.then(|| schedule::renewal(portal, token.issued, token.life(), policy))
    }

    pub(super) fn wait(&self, failures: u32) -> Duration {
        const FLOOR: Duration = Duration::from_secs(2);
        const CEILING: Duration = Duration::from_secs(300);
        Backoff::new(FLOOR, CEILING, 0.3)
            .map_or(CEILING, |backoff| backoff.after(failures, self.context.chance))
    }

    pub(super) fn validated(&mut self) {
        let every = self.context.validate_every;
        let half = self.context.now + every / 2;
        self.portal.validation_due = schedule::next_of_phase(self.context.portal, half, every);
    }

    /// The grant is validated within `span`, if it was not to be before: a shorter period is felt at once.
    pub(super) fn ask_within(&mut self, span: Duration) {
        let Context { now, portal, .. } = *self.context;
        let soonest = schedule::next_of_phase(portal, now, span);
        self.portal.validation_due = self.portal.validation_due.min(soonest);
    }

    pub(super) fn validate_later(&mut self) {
        let soon = self.wait(3).min(self.context.validate_every);
        self.portal.validation_due = self.context.now + soon;
    }
}
