//! Carries out what the rules decided for one portal: starts work, moves secrets to where readers see
//! them, tells the journal and the book. What comes back is `answers`' and `records`' business.

use std::{sync::Arc, time::Duration};

use super::{
    Engine,
    feed::Happening,
    queue::{Lane, Request},
    work::limited,
};
use crate::{
    incident::Kind,
    journal::Entry as Line,
    lifecycle::{Cause, Doubt, Effect, End, Event, Outcome, Phase},
    portal::PortalId,
    secret::RefreshToken,
    time::BootTime,
};

/// What may be sent waits for its slot no longer than this.
const HELD_NO_LONGER: Duration = Duration::from_secs(1);
/// A disk that takes longer takes nothing: an answer waits no longer before the store is told of it. Where
/// that is known, it is only tried.
const DISK_PATIENCE: Duration = Duration::from_secs(5);
const DISK_TRIED: Duration = Duration::from_secs(1);

impl Engine {
    pub(super) fn carry_out(&mut self, portal: PortalId, effect: Effect, now: BootTime) {
        let Some(entry) = self.portals.get_mut(portal) else { return };
        let generation = entry.portal.generation;
        let hangs = self.book.is_open(Kind::JournalFailing);
        let patience = if hangs { DISK_TRIED } else { DISK_PATIENCE };
        match effect {
            Effect::QueueRefresh => {
                let urgency = entry.urgency();
                let own_failures = entry.portal.failures > 0 && !entry.portal.excused;
                let lane = match (own_failures, entry.wanted) {
                    // Whoever waits for it: those who fail must not hold up those who don't (I7).
                    (true, _) => Lane::Retries,
                    (false, true) => Lane::Interactive,
                    (false, false) => Lane::Scheduled,
                };
                self.queue.push(portal, Request::Refresh, lane, urgency, now);
            }
            Effect::QueueQuestion => {
                let in_doubt =
                    matches!(entry.portal.phase, Phase::Asking(Doubt::Refused(_) | Doubt::Spent));
                let own_failures = entry.portal.failures > 0 && !entry.portal.excused;
                let lane = match (own_failures, entry.wanted, in_doubt) {
                    (true, true, _) | (true, _, true) => Lane::Retries,
                    (false, true, _) => Lane::Interactive,
                    (false, false, true) => Lane::Scheduled,
                    (_, false, false) => Lane::Questions,
                };
                // On one in doubt a refresh depends, on the others nothing.
                let urgency = if in_doubt { entry.urgency() } else { now };
                self.queue.push(portal, Request::Introspect, lane, urgency, now);
            }
            Effect::Intend => match entry.refresh_token().map(RefreshToken::fingerprint) {
                Some(spent) => {
                    self.sending.intending += 1;
                    self.tasks
                        .spawn(self.world.clone().intend(portal, generation, spent, patience));
                }
                None => self.soon.push_back((portal, Event::NotSent)),
            },
            // HubSpot asked for quiet meanwhile: until that is over, more than its turn may have changed.
            Effect::Spend | Effect::Introspect if self.sending.free_at() > now + HELD_NO_LONGER => {
                self.soon.push_back((portal, Event::NotSent));
            }
            Effect::Spend => {
                tracing::trace!(%portal, point = "intent_kept", "refresh");
                self.sending.ready.push_back((portal, Request::Refresh));
            }
            Effect::Introspect => self.sending.ready.push_back((portal, Request::Introspect)),
            Effect::Keep => {
                if let Some(answer) = entry.answer.take() {
                    let line = Line::Answered { portal, answer };
                    self.tasks.spawn(self.world.clone().keep(portal, generation, line, patience));
                }
            }
            Effect::CloseIntent => self.world.journal.note(Line::Refused { portal }),
            Effect::NoteProven => {
                if let Some(token) = entry.refresh_token().map(RefreshToken::fingerprint) {
                    self.world.journal.note(Line::Proven { portal, token });
                }
            }
            Effect::Reread => {
                let work = self.world.clone().reread(portal, generation);
                self.tasks.spawn(limited(Arc::clone(&self.store_permits), work));
            }
            Effect::Save => self.save(portal),
            Effect::Publish => self.hand_out(portal),
            Effect::Withdraw => {
                entry.issued = None;
                entry.held = None;
                self.world.journal.note(Line::Withdrawn { portal });
            }
            Effect::DropHeld => {
                entry.held = None;
                entry.unsaved = None;
            }
            Effect::GrantAccepted => {
                self.crowd.accepted(portal, now);
                self.is_good_after_all(portal);
            }
            Effect::GrantRefused => self.crowd.refused(portal, now),
            Effect::Settled => self.crowd.settled(portal),
            Effect::SecondOpinion => {
                if let Some(other) = self.portals.another(portal, &self.crowd) {
                    self.soon.push_back((other, Event::Ask));
                }
            }
            Effect::Suspect => self.app_suspected(),
            Effect::Open(cause) => self.open(portal, cause),
            Effect::Close(cause) => {
                // What is said of the record stays true until the record is mended.
                if !(entry.unusable && kind(cause) == Kind::GrantMismatched) {
                    self.tell_close(kind(cause), Some(portal));
                }
            }
            Effect::AppRefused => self.app_refused(),
            Effect::AppAccepted => self.app_accepted(),
            Effect::Throttled(wait) => self.throttled(wait),
        }
    }

    /// The token that was held back is what callers get from now on.
    fn hand_out(&mut self, portal: PortalId) {
        let Some(entry) = self.portals.get_mut(portal) else { return };
        entry.issued = entry.held.take();
        entry.wanted = false;
        let clock = &*self.world.clock;
        entry.last_refresh =
            entry.portal.token.map(|token| super::recovery::asked_at(token, clock));
        tracing::trace!(%portal, point = "published", "refresh");
        if let Some((issued, life)) = entry.issued.as_ref().zip(entry.portal.token) {
            self.view.feed.tell(Happening::Token {
                portal_id: portal,
                etag: issued.fingerprint,
                expires_at: clock.wall_at(life.expires),
            });
        }
    }

    fn save(&mut self, portal: PortalId) {
        let Some(entry) = self.portals.get(portal) else { return };
        let generation = entry.portal.generation;
        if entry.leaving.is_some() {
            // Its record is about to be removed; if it stays, this is tried again.
            let event = Event::Done { generation, outcome: Outcome::SaveFailed };
            return self.soon.push_back((portal, event));
        }
        let Some(token) = entry.unsaved.clone() else {
            // The store has it by now: a write whose answer was lost, or another hand.
            let event = Event::Done { generation, outcome: Outcome::Saved };
            self.soon.push_back((portal, event));
            return self.tell_enrolled(portal);
        };
        if entry.stored.is_none() && entry.is_new {
            let work = self.world.clone().save_new(portal, generation, token);
            self.tasks.spawn(limited(Arc::clone(&self.store_permits), work));
            return;
        }
        let enrolled = entry.enrolling.is_some();
        let Some(base) = entry.stored.clone() else {
            // A start without the store: what stands there is read before it is written to.
            let event = Event::Done { generation, outcome: Outcome::SaveConflict };
            return self.soon.push_back((portal, event));
        };
        let work = self.world.clone().save(portal, generation, base, token, enrolled);
        self.tasks.spawn(limited(Arc::clone(&self.store_permits), work));
    }

    fn open(&mut self, portal: PortalId, cause: Cause) {
        let entry = self.portals.get(portal);
        let missing = || {
            let scopes = entry?.scopes.as_ref()?;
            Some(scopes.missing(&self.settings.required_scopes).to_string())
        };
        let detail = match cause {
            Cause::ScopeMissing => missing(),
            Cause::Ended(end) => Some(end.reason().to_owned()),
            Cause::Unsaved => None,
            Cause::Failing | Cause::Expired => {
                if self.is_everybodys() || self.is_told_otherwise(portal, cause) {
                    return;
                }
                entry.and_then(|entry| entry.portal.trouble).map(|class| class.as_str().to_owned())
            }
        };
        self.tell_open(kind(cause), Some(portal), detail.as_deref());
        if cause == Cause::Expired {
            // The one became the other.
            self.tell_close(Kind::RefreshFailing, Some(portal));
        }
    }
}

const fn kind(cause: Cause) -> Kind {
    match cause {
        Cause::Ended(End::Revoked) => Kind::GrantRevoked,
        Cause::Ended(End::Unavailable) => Kind::PortalUnavailable,
        Cause::Ended(End::Lost) => Kind::GrantLost,
        Cause::Ended(End::Mismatched | End::NeverWorked | End::WrongPortal | End::Unusable) => {
            Kind::GrantMismatched
        }
        Cause::Unsaved => Kind::GrantUnsaved,
        Cause::ScopeMissing => Kind::ScopeMissing,
        Cause::Failing => Kind::RefreshFailing,
        Cause::Expired => Kind::TokenExpired,
    }
}
