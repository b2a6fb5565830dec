//! Records as they are read: at start, on schedule, in doubt. Says which grants come, go, and change
//! under us; above all what is in the store and what is not (I13).

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use super::{
    Engine,
    entry::Relation,
    feed::Happening,
    load::{Portals as Records, StoredGrant},
    portals::Stamps,
    recovery::life,
    work::limited,
};
use crate::{
    incident::{Kind, SERVED_ON},
    journal::{Entry as Line, Trail, trail::KEPT_FOR},
    lifecycle::{End, Event, Found, Generation, Outcome, Reread, step::STRAY},
    portal::PortalId,
    secret::RefreshToken,
    store::{StoreError, StoreErrorKind},
    time::{Clock, Stamp},
};

/// The store does not have the newest refresh token (any more).
const SAVE_AGAIN: Event = Event::Found(Found {
    token: None,
    proven: false,
    unsaved: true,
    in_doubt: None,
    paused: false,
    asked_within: None,
});

/// This share of the rate is for asking, after a restart and wherever else nobody looked for a while, whether grants are
/// still good.
const START_SHARE: f64 = 0.25;

/// As many records that are gone at once are worth a word of their own.
const NOTABLE: usize = 20;

/// Whether a record that went then may come back from a backup as it was.
fn is_recent(gone: &Stamp, clock: &dyn Clock) -> bool {
    gone.age(clock).is_some_and(|age| age.span < KEPT_FOR)
}

/// An earlier process was about to spend the grant that the record turns out to hold.
const IN_DOUBT: Event = Event::Found(Found {
    token: None,
    proven: false,
    unsaved: false,
    in_doubt: Some(STRAY),
    paused: false,
    asked_within: None,
});

impl Engine {
    /// A portal that was not there, with what the journal knows of it.
    pub(super) fn begin_with(&mut self, portal: PortalId, stored: Option<StoredGrant>) {
        self.portals.insert(portal, stored, self.world.clock.boot());
        let clock = &*self.world.clock;
        let counts = |trail: &Trail| trail.gone.as_ref().is_none_or(|at| is_recent(at, clock));
        let Some(trail) = self.trails.remove(&portal).filter(counts) else { return };
        let asked_within = self.time_to_ask_all();
        let Some(entry) = self.portals.get_mut(portal) else { return };
        let arrived = trail.lineage.last().copied().filter(|_| trail.enrolled);
        let found = entry.adopt(trail, &*self.world.clock, self.hubspot_time);
        let found = Found { asked_within: Some(asked_within), ..found };
        if let Some(token) = arrived.filter(|_| !found.unsaved && entry.stored.is_some()) {
            // It is where it was on its way to.
            self.world.journal.note(Line::Stored { portal, token });
        }
        if found.in_doubt.is_some() {
            // The next start need not wait as long once more.
            let at = Stamp::of(clock.boot(), clock);
            self.world.journal.note(Line::Orphaned { portal, at });
            tracing::warn!(%portal, "an earlier process was about to refresh this grant, or did, and did not see the answer");
        }
        if found.unsaved {
            tracing::warn!(%portal, "the journal holds a newer refresh token than the store; it is stored now");
        }
        self.step(portal, Event::Found(found));
    }

    /// As long as a share of the rate takes to ask HubSpot about every portal.
    pub(super) fn time_to_ask_all(&self) -> Duration {
        let per_second = self.rate.at(self.world.clock.boot()) * START_SHARE;
        self.portals.time_to_ask(self.trails.len(), per_second)
    }

    /// A portal whose record can't be used, or was not to be had. With a grant in the journal it goes on.
    pub(super) fn begin_without(&mut self, portal: PortalId, error: &StoreError) {
        // Of one whose record was seen to be gone, nothing goes on before a record is seen again.
        let going = self.trails.get(&portal).filter(|trail| trail.gone.is_none());
        let in_journal = going.is_some_and(|trail| {
            let lives = |access| life(access, &*self.world.clock, self.hubspot_time).is_some();
            trail.newest.is_some() || trail.access.as_ref().is_some_and(lives)
        });
        match error.kind {
            StoreErrorKind::Corrupt => {
                let gone = going.is_none().then(|| self.trails.remove(&portal)).flatten();
                self.begin_with(portal, None);
                self.trails.extend(gone.map(|trail| (portal, trail)));
                self.unusable(portal, error);
            }
            StoreErrorKind::Unreachable | StoreErrorKind::Denied if in_journal => {
                self.begin_with(portal, None);
            }
            // Deleted since it was listed, or not to be had: the next reading will show.
            _ => {}
        }
    }

    /// The portal's record is gone. If it comes back from a backup within a day, what is known of its grant
    /// still counts.
    fn forget_in_journal(&mut self, portal: PortalId) {
        let at = Stamp::of(self.world.clock.boot(), &*self.world.clock);
        if let Some(trail) = self.trails.get_mut(&portal) {
            (trail.access, trail.gone, trail.paused) = (None, Some(at.clone()), false);
        }
        self.world.journal.note(Line::Forgotten { portal, at });
    }

    pub(super) fn reread(
        &mut self,
        portal: PortalId,
        generation: Generation,
        result: Result<StoredGrant, StoreError>,
    ) {
        let reread = match result {
            Ok(stored) => match self.in_use(portal, generation) {
                Some(entry) => {
                    let relation = entry.take_over(stored);
                    self.mended(portal);
                    match relation {
                        Relation::InUse => Reread::Same,
                        Relation::Behind => {
                            self.soon.push_back((portal, SAVE_AGAIN));
                            Reread::Same
                        }
                        Relation::Other => Reread::Newer,
                    }
                }
                None => Reread::Failed,
            },
            Err(error) if error.kind == StoreErrorKind::Missing => {
                // What was never there is not gone.
                if !self.may_be_missing(portal) {
                    self.forget(portal);
                    return;
                }
                Reread::Failed
            }
            Err(error) if error.kind == StoreErrorKind::Corrupt => {
                self.unusable(portal, &error);
                Reread::Failed
            }
            Err(_) => Reread::Failed,
        };
        self.step(portal, Event::Done { generation, outcome: Outcome::Reread(reread) });
        if reread == Reread::Newer {
            self.doubt_what_was_intended(portal);
        }
    }

    fn doubt_what_was_intended(&mut self, portal: PortalId) {
        let Some(entry) = self.portals.get_mut(portal) else { return };
        let name = entry.refresh_token().map(RefreshToken::fingerprint);
        if entry.intended.is_some() && entry.intended == name {
            entry.intended = None;
            self.step(portal, IN_DOUBT);
        }
    }

    /// A whole reading of the store. Without `stamps` it is the first.
    pub(super) fn take_records(
        &mut self,
        records: Records,
        unchanged: &BTreeSet<PortalId>,
        stamps: Option<&Stamps>,
    ) {
        let before = self.portals.ids();
        let clock = Arc::clone(&self.world.clock);
        self.trails.retain(|_, trail| trail.gone.as_ref().is_none_or(|at| is_recent(at, &*clock)));
        let read = records.iter().map(|(id, _)| *id);
        let met: BTreeSet<PortalId> = read.chain(unchanged.iter().copied()).collect();
        self.tell_unread(&records);
        for (portal, result) in records {
            let held = stamps.and_then(|stamps| stamps.get(&portal)).copied();
            if held.is_some() && self.portals.get(portal).is_none() {
                // It was removed after the reading began.
                continue;
            }
            let stamp = held.unwrap_or_default();
            if stamps.is_some() && result.is_ok() && self.portals.get(portal).is_none() {
                tracing::info!(%portal, "there is a record; the portal is served from now on");
            }
            self.consider(portal, stamp, result);
        }
        let before: Vec<PortalId> = before.into_iter().filter(|id| !met.contains(id)).collect();
        if before.len() >= NOTABLE {
            tracing::error!(
                portals = before.len(),
                "the records of many portals are gone at once; their customers are no longer served"
            );
        }
        for gone in before {
            let stamp = self.portals.get(gone).map(|entry| entry.stamp);
            if stamps.is_some_and(|stamps| stamps.get(&gone).copied() != stamp) {
                // It came, or was written, after the reading began.
                if let Some(entry) = self.portals.get_mut(gone) {
                    entry.look_again = true;
                }
                self.look_again(gone);
            } else if self.portals.rests(gone) {
                if !self.may_be_missing(gone) {
                    self.forget(gone);
                }
            } else if let Some(entry) = self.portals.get_mut(gone) {
                entry.look_again = true;
            }
        }
        // Records that the journal remembers and the store no longer has.
        let lost =
            self.trails.iter().filter(|(id, trail)| trail.gone.is_none() && !met.contains(id));
        // One that the journal is taking at this moment begins its portal anew.
        let lost = lost.filter(|(id, _)| !self.arrivals.has(**id));
        let lost: Vec<(PortalId, bool)> = lost.map(|(id, trail)| (*id, trail.enrolled)).collect();
        for (portal, enrolled) in lost {
            if enrolled {
                tracing::warn!(%portal, "the journal holds a grant that came by a code and was never stored; it is stored now");
                self.begin_with(portal, None);
            } else {
                self.forget_in_journal(portal);
            }
        }
        self.publish_portals();
    }

    /// Says of records that were there and could not be read.
    fn tell_unread(&mut self, records: &Records) {
        let refused = |error: &&StoreError| {
            matches!(error.kind, StoreErrorKind::Denied | StoreErrorKind::Unreachable)
        };
        let mut unread = records.iter().filter_map(|(_, read)| read.as_ref().err().filter(refused));
        let Some(first) = unread.next() else {
            if records.iter().any(|(_, read)| read.is_ok()) {
                self.note_store("read", None);
            }
            return;
        };
        let count = 1 + unread.count();
        tracing::warn!(count, error = %first, hint = %first.hint, "records could not be read; going on with those in memory");
        // One record may be shut to us by itself.
        for _ in 0..count.min(2) {
            self.note_store("read", Some(first));
        }
    }

    /// One record as read, begun when the portal's stamp was `stamp`.
    pub(super) fn consider(
        &mut self,
        portal: PortalId,
        stamp: u64,
        result: Result<StoredGrant, StoreError>,
    ) {
        if self.portals.get(portal).is_none() {
            match result {
                Ok(stored) => self.begin_with(portal, Some(stored)),
                Err(error) => self.begin_without(portal, &error),
            }
            return self.publish_portals();
        }
        // What only waits to be sent is taken back: the record may name another grant by now.
        if self.queue.remove(portal) {
            self.step(portal, Event::NotSent);
        }
        let Some(entry) = self.portals.get(portal) else { return };
        // A reading that began before our own last write, or while something is in flight, may be
        // older than what we know.
        if entry.stamp != stamp || !self.portals.rests(portal) {
            if let Some(entry) = self.portals.get_mut(portal) {
                entry.look_again = true;
            }
            return;
        }
        match result {
            Ok(stored) => {
                let unusable = entry.portal.ended() == Some(End::Unusable);
                let Some(entry) = self.portals.get_mut(portal) else { return };
                let relation = entry.take_over(stored);
                self.mended(portal);
                if relation == Relation::Other || unusable {
                    tracing::info!(%portal, "the record holds another grant; it is used from now on");
                    self.step(portal, Event::RecordChanged);
                    self.doubt_what_was_intended(portal);
                } else if relation == Relation::Behind {
                    tracing::warn!(%portal, "the record holds a refresh token that HubSpot has replaced since; the newer one is stored again");
                    self.step(portal, SAVE_AGAIN);
                }
            }
            Err(error) if error.kind == StoreErrorKind::Missing => {
                if !self.may_be_missing(portal) {
                    self.forget(portal);
                }
            }
            Err(error) if error.kind == StoreErrorKind::Corrupt => self.unusable(portal, &error),
            // Looked at again when something next happens to the portal.
            Err(_) => {
                if let Some(entry) = self.portals.get_mut(portal) {
                    entry.look_again = true;
                }
            }
        }
    }

    /// The record is spoilt. A grant in memory goes on, above all one that the store does not have
    /// yet; without one there is nothing to go on with.
    fn unusable(&mut self, portal: PortalId, error: &StoreError) {
        tracing::warn!(%portal, %error, hint = %error.hint, "the record can't be used");
        if let Some(entry) = self.portals.get_mut(portal).filter(|e| e.refresh_token().is_some()) {
            entry.unusable = true;
            self.tell_open(Kind::GrantMismatched, Some(portal), Some(SERVED_ON));
            return;
        }
        let ended = self.portals.get(portal).and_then(|entry| entry.portal.ended());
        if ended != Some(End::Unusable) {
            self.step(portal, Event::RecordUnusable);
        }
    }

    /// A record that could not be used can be used again.
    fn mended(&mut self, portal: PortalId) {
        let Some(entry) = self.portals.get_mut(portal) else { return };
        let ended = entry.portal.ended().is_some();
        if std::mem::take(&mut entry.unusable) && !ended {
            self.tell_close(Kind::GrantMismatched, Some(portal));
        }
    }

    /// A record is missing: that of a portal whose grant is on its way there is made, one that is about to be removed
    /// anyway is looked for again. Says whether it is one of these.
    fn may_be_missing(&mut self, portal: PortalId) -> bool {
        let Some(entry) = self.portals.get_mut(portal) else { return false };
        if entry.leaving.is_some() {
            entry.look_again = true;
            return true;
        }
        entry.is_owed()
    }

    /// Nothing is known of the portal any more, unless a grant is on its way that begins it anew: what the journal has of
    /// that one stays (I3). Whether it is gone.
    pub(super) fn forget(&mut self, portal: PortalId) -> bool {
        tracing::info!(%portal, "the record is gone; the portal is no longer served");
        self.queue.remove(portal);
        let at = Stamp::of(self.world.clock.boot(), &*self.world.clock);
        let mut entry = self.portals.remove(portal);
        let arrival = entry.as_mut().and_then(|entry| entry.arriving.take());
        let begins_anew = self.arrivals.portal_forgotten(portal) || arrival.is_some();
        let trail = entry.and_then(|entry| entry.into_trail(&at)).filter(|_| !begins_anew);
        self.trails.extend(trail.map(|trail| (portal, trail)));
        self.crowd.settled(portal);
        if begins_anew {
            // Of the grant before it nothing stays.
            self.world.journal.note(Line::Paused { portal, paused: false });
        } else {
            self.forget_in_journal(portal);
            self.view.feed.tell(Happening::removed(portal));
        }
        if let Some(arrival) = arrival {
            self.arrive_again(*arrival);
        }
        self.forget_incidents(portal);
        self.publish_portals();
        !begins_anew
    }

    /// Reads a record once more if a reading was passed over while something was in flight.
    pub(super) fn look_again(&mut self, portal: PortalId) {
        if !self.portals.rests(portal) {
            return;
        }
        let Some(entry) = self.portals.get_mut(portal) else { return };
        if std::mem::take(&mut entry.look_again) {
            let work = self.world.clone().look(portal, entry.stamp);
            self.tasks.spawn(limited(Arc::clone(&self.store_permits), work));
        }
    }
}
