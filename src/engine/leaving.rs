//! Portals that go by an order: the grant is ended at HubSpot if that is wanted, the record removed, and only then
//! nothing is known of it any more. What can't be done leaves the portal as it was.

use super::{
    Denial, Engine,
    denial::AGAIN,
    errands::Failed,
    orders::{Removed, Waiting, Wanting},
    upkeep::Question,
    work::Report,
};
use crate::{
    journal::Entry as Line,
    lifecycle::{ClientPair, Event, Refusal},
    portal::PortalId,
    secret::{Fingerprint, RefreshToken},
    time::Stamp,
};

/// A portal that is to go as soon as nothing is under way for it.
#[derive(Debug)]
pub(super) struct Leaving {
    revoke: bool,
    /// Whoever wants it, until it has begun.
    wanting: Option<Wanting>,
    /// Paused, once it is clear that it stays.
    pub(super) paused: bool,
}

impl Engine {
    /// Has a portal go as soon as nothing is under way for it, and end its grant first if `revoke`.
    pub(super) fn begin_leaving(&mut self, portal: PortalId, revoke: bool, wanting: Wanting) {
        if let Err(denial) = self.may_leave(portal, revoke) {
            return wanting.refuse(denial);
        }
        self.take_back(portal);
        if let Some(entry) = self.portals.get_mut(portal) {
            let paused = entry.portal.paused;
            entry.leaving = Some(Leaving { revoke, wanting: Some(wanting), paused });
        }
        // What is on its way comes to its end; nothing more is begun.
        self.step(portal, Event::Pause(true));
    }

    fn may_leave(&self, portal: PortalId, revoke: bool) -> Result<(), Denial> {
        let unread = self.overall.without_store;
        let Some(entry) = self.portals.get(portal) else {
            return Err(if unread {
                Denial::StoreUnreachable(AGAIN)
            } else {
                Denial::UnknownPortal
            });
        };
        if entry.leaving.is_some() {
            return Err(Denial::Leaving);
        }
        if revoke { self.may_ask(self.errands.may_end()) } else { Ok(()) }
    }

    /// Ends a grant at HubSpot, now that it has its turn, or is told that it can't.
    pub(super) fn end(&mut self, portal: PortalId, may: Result<ClientPair, Denial>) {
        let leaving = self.portals.get_mut(portal).and_then(|entry| entry.leaving.as_mut());
        let Some(wanting) = leaving.and_then(|leaving| leaving.wanting.take()) else { return };
        let pair = match may {
            Ok(pair) => pair,
            Err(denial) => {
                wanting.refuse(denial);
                return self.stays(portal);
            }
        };
        let Some(waiting) = wanting.begin() else { return self.stays(portal) };
        let token = self.portals.get(portal).and_then(|entry| entry.refresh_token()).cloned();
        // There may be no grant to end.
        let Some(token) = token else { return self.remove_record(portal, waiting) };
        self.sending.errands_out += 1;
        let work = self.world.clone().end_grant(portal, pair, token, self.names(portal));
        self.tasks.spawn(async move { work.await.told_to(waiting) });
    }

    /// The names of a portal's refresh tokens: what its record holds, unless another hand wrote it.
    fn names(&self, portal: PortalId) -> Vec<Fingerprint> {
        let Some(entry) = self.portals.get(portal) else { return Vec::new() };
        let stored = entry.stored.as_ref().map(|stored| stored.refresh_token.fingerprint());
        let unsaved = entry.unsaved.as_ref().map(RefreshToken::fingerprint);
        entry.lineage.iter().copied().chain(stored).chain(unsaved).collect()
    }

    pub(super) fn remove_record(&mut self, portal: PortalId, waiting: Waiting) {
        let work = self.world.clone().forget_record(portal, self.names(portal), false);
        self.tasks.spawn(async move {
            let outcome = work.await;
            Report::Left { portal, asked: None, outcome, waiting }
        });
    }

    /// A removal has ended. `asked` is what HubSpot said, if it was asked.
    pub(super) fn left(
        &mut self,
        portal: PortalId,
        asked: Option<Result<(), Refusal>>,
        outcome: Result<Removed, Denial>,
        waiting: Waiting,
    ) {
        let lost = matches!(&asked, Some(Err(refusal)) if refusal.http.is_none());
        if let Some(said) = asked {
            self.sending.errands_out -= 1;
            match said {
                Ok(()) => self.note_hubspot(None, Question::Order),
                Err(refusal) => drop(self.heed(Failed::AtHubSpot(refusal))),
            }
        }
        let leaves = self.portals.get(portal).is_some_and(|entry| entry.leaving.is_some());
        if outcome.is_ok() && leaves {
            if self.forget(portal) {
                return self.tell_when_written(portal, outcome, waiting);
            }
        } else if let Some(entry) = self.portals.get_mut(portal) {
            // The store may have changed, and be the reason.
            entry.look_again = true;
            self.stays(portal);
            if lost {
                // It may have been ended all the same.
                self.portals.reported.insert(portal);
                self.ask_if_reported(portal);
            }
        }
        // Whoever waited may have gone.
        waiting.send(outcome).ok();
    }

    /// That it is gone outlives a crash by the time that it is told: or a start would take the journal's grant for one
    /// that has not reached the store yet.
    fn tell_when_written(
        &mut self,
        portal: PortalId,
        outcome: Result<Removed, Denial>,
        waiting: Waiting,
    ) {
        let at = Stamp::of(self.world.clock.boot(), &*self.world.clock);
        let written = self.world.journal.keep_in_order(Line::Forgotten { portal, at });
        self.tasks.spawn(async move {
            // Without a journal, or one that fails, it is gone all the same.
            written.await;
            waiting.send(outcome).ok();
            Report::Noted
        });
    }

    /// A portal that was to leave stays.
    pub(super) fn stays(&mut self, portal: PortalId) {
        let leaving = self.portals.get_mut(portal).and_then(|entry| entry.leaving.take());
        if let Some(leaving) = leaving {
            self.step(portal, Event::Pause(leaving.paused));
        }
    }
}

impl Leaving {
    /// It has not begun, and nobody waits for it any more.
    pub(super) fn is_unwanted(&self) -> bool {
        self.wanting.as_ref().is_some_and(Wanting::is_withdrawn)
    }

    /// What comes next, where nothing is under way for the portal.
    pub(super) fn next(&mut self) -> Turn {
        if self.is_unwanted() {
            return Turn::Stay;
        }
        if self.revoke && self.wanting.is_some() {
            return Turn::End;
        }
        let Some(wanting) = self.wanting.take() else { return Turn::UnderWay };
        wanting.begin().map_or(Turn::Stay, Turn::Remove)
    }
}

/// What comes next for a portal that leaves.
#[derive(Debug)]
pub(super) enum Turn {
    /// It was told to stay.
    Stay,
    /// Its grant is ended.
    End,
    /// Its record is removed.
    Remove(Waiting),
    /// That has begun.
    UnderWay,
}
