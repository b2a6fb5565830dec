//! What is believed, and when: a refusal is looked at again in the record, asked about, and held
//! against how others fare, before anybody's grant counts as ended (I5, I6).

use std::time::Duration;

use super::{Deciding, SECOND_OPINION};
use crate::lifecycle::{
    answer::RefusalClass,
    crowd::Belief,
    effect::{Cause, Effect},
    event::Facts,
    state::{Doubt, End, Phase, Portal},
};

/// Refusals in a row, over so long at least, that are believed even where HubSpot can't be asked (I5).
pub(super) const REFUSALS_BELIEVED: u32 = 5;
pub(super) const OVER: Duration = Duration::from_secs(120);
impl Deciding<'_> {
    /// The record still holds the grant that is in doubt.
    pub(super) fn same_record(&mut self, doubt: Doubt) {
        let refusals = self.portal.refusals;
        match doubt {
            Doubt::Conflict => self.save(),
            Doubt::Inactive | Doubt::Spent => self.believe(self.refusal()),
            Doubt::OtherApp => self.believe(End::Mismatched),
            Doubt::Refused(RefusalClass::GrantRefused) => self.question(doubt),
            // It has been seen to pass by itself (study `hubspot.md` 3.1); introspection says whose it is.
            Doubt::Refused(RefusalClass::GrantMismatched) if refusals >= REFUSALS_BELIEVED => {
                self.question(doubt);
            }
            // Introspection says nothing of it.
            Doubt::Refused(RefusalClass::PortalUnavailable) if self.is_refused_for_long() => {
                self.believe(End::Unavailable);
            }
            Doubt::Refused(class) => self.fail(class, None),
            Doubt::Routine | Doubt::Ended(_) => {}
        }
    }

    /// The store can't be asked, so nothing is believed.
    pub(super) fn try_later(&mut self, doubt: Doubt) {
        match doubt {
            Doubt::Refused(class) => self.fail(class, None),
            Doubt::Spent => self.fail(RefusalClass::AnswerLost, None),
            _ => {
                self.portal.phase = Phase::Resting;
                self.validate_later();
            }
        }
    }

    pub(super) fn active(&mut self, doubt: Doubt, facts: Facts) {
        self.effects.push(Effect::AppAccepted);
        if facts.wrong_portal {
            return self.end(End::WrongPortal);
        }
        if facts.wrong_app {
            if matches!(doubt, Doubt::Ended(_)) {
                return self.end(End::Mismatched);
            }
            // Where it is everybody's, the client pair is the other app's.
            self.effects.push(Effect::GrantRefused);
            return self.reread(Doubt::OtherApp);
        }
        self.accepted();
        self.portal.forget_refusals();
        if !self.portal.proven {
            self.portal.proven = true;
            self.effects.push(Effect::NoteProven);
        }
        if std::mem::take(&mut self.portal.in_doubt) {
            self.effects.push(Effect::CloseIntent);
        }
        self.note_scopes(facts);
        match doubt {
            Doubt::Refused(class) => self.fail(class, None),
            Doubt::Ended(_) => {
                for end in [End::Revoked, End::Lost, End::NeverWorked] {
                    self.effects.push(Effect::Close(Cause::Ended(end)));
                }
                self.rest_and_renew();
            }
            // What was to be spent when the doubt came up is spent now.
            Doubt::Spent => {
                self.portal.phase = Phase::Resting;
                self.validated();
                self.follow_mode();
                if self.portal.renew_at.is_some_and(|at| at <= self.context.now) {
                    self.queue();
                }
            }
            _ => {
                self.portal.phase = Phase::Resting;
                self.validated();
            }
        }
    }

    pub(super) fn inactive(&mut self, doubt: Doubt) {
        self.effects.push(Effect::AppAccepted);
        match doubt {
            Doubt::Refused(RefusalClass::GrantMismatched) => self.believe(End::Mismatched),
            Doubt::Refused(_) => self.believe(self.refusal()),
            Doubt::Ended(end) => {
                self.portal.phase = Phase::Ended(end);
                self.validated();
            }
            // Why it is refused is known: it says nothing about the others' grants.
            Doubt::Spent => self.reread(Doubt::Spent),
            _ => {
                self.effects.push(Effect::GrantRefused);
                self.reread(Doubt::Inactive);
            }
        }
    }

    fn is_refused_for_long(&self) -> bool {
        let Portal { refusals, refused_since, .. } = self.portal;
        refusals >= REFUSALS_BELIEVED && self.context.now.since(refused_since) >= OVER
    }

    fn reread(&mut self, doubt: Doubt) {
        self.portal.phase = Phase::Rereading(doubt);
        self.effects.push(Effect::Reread);
    }

    /// HubSpot would not say.
    pub(super) fn not_told(&mut self, doubt: Doubt, class: RefusalClass) {
        if class == RefusalClass::AppRefused {
            return self.question_left_to_app(doubt);
        }
        match doubt {
            Doubt::Refused(RefusalClass::GrantRefused) if self.is_refused_for_long() => {
                self.believe(self.refusal());
            }
            Doubt::Refused(refused) => self.fail(refused, None),
            // There is no such question, and not by one proxy's page alone: presenting the token again is
            // all that can be done.
            Doubt::Spent
                if matches!(class, RefusalClass::NotUnderstood | RefusalClass::ApiRetired)
                    && self.portal.failures + 1 >= REFUSALS_BELIEVED =>
            {
                self.portal.trouble = Some(class);
                self.queue();
            }
            Doubt::Spent => self.fail(class, None),
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

    fn question_left_to_app(&mut self, doubt: Doubt) {
        if let Doubt::Ended(end) = doubt {
            self.portal.phase = Phase::Ended(end);
            self.validate_later();
            self.effects.push(Effect::AppRefused);
            return;
        }
        let renew_at = self.portal.renew_at;
        self.portal.validation_due = self.context.now;
        self.leave_to_app();
        if doubt == Doubt::Routine {
            self.portal.renew_at = renew_at;
        }
    }

    /// A grant that worked once was ended by its customer; one that never did may be somebody else's.
    /// Where an answer of HubSpot's went missing before, that is the likelier cause.
    const fn refusal(&self) -> End {
        if self.is_spent() {
            End::Lost
        } else if self.portal.proven {
            End::Revoked
        } else {
            End::NeverWorked
        }
    }

    /// A refusal is confirmed for this grant; before it is believed, others are heard (I6).
    fn believe(&mut self, end: End) {
        match self.context.belief {
            Belief::Own => return self.end(end),
            // A spend whose answer went missing explains it.
            Belief::Unclear if end == End::Lost => return self.end(end),
            Belief::Unclear => self.effects.push(Effect::SecondOpinion),
            Belief::Common => self.effects.push(Effect::Suspect),
        }
        let again = self.context.now + SECOND_OPINION;
        self.portal.phase = Phase::Resting;
        self.portal.renew_at = Some(again);
        self.portal.not_before = again;
        self.portal.validation_due = again;
    }

    pub(super) fn end(&mut self, end: End) {
        // What was said of another end is no longer so, whether or not it worked in between.
        let before = self.portal.ended();
        for other in End::ALL {
            let same_incident = other.is_mismatch() && end.is_mismatch();
            if other != end && (before == Some(other) || !same_incident) {
                self.effects.push(Effect::Close(Cause::Ended(other)));
            }
        }
        self.portal.phase = Phase::Ended(end);
        // Where only the answer was lost, HubSpot ended nothing: the token in hand is good until it expires.
        if end != End::Lost {
            self.portal.token = None;
            self.effects.push(Effect::Withdraw);
        }
        self.portal.held = None;
        self.portal.failures = 0;
        self.portal.forget_refusals();
        self.portal.trouble = None;
        self.validated();
        self.effects.push(Effect::Settled);
        self.fails_no_more();
        self.effects.push(Effect::Open(Cause::Ended(end)));
    }

    pub(super) fn accepted(&mut self) {
        self.effects.push(Effect::GrantAccepted);
    }

    /// Whatever was said of an end is no longer so.
    pub(super) fn recovered(&mut self) {
        for end in End::ALL {
            self.effects.push(Effect::Close(Cause::Ended(end)));
        }
        self.fails_no_more();
    }

    pub(super) fn note_scopes(&mut self, facts: Facts) {
        match facts.scopes_missing {
            Some(true) => self.effects.push(Effect::Open(Cause::ScopeMissing)),
            Some(false) => self.effects.push(Effect::Close(Cause::ScopeMissing)),
            None => {}
        }
    }
}
