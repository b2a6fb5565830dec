//! Grants that come and go by an order, from where it is taken to where it ends. A code is exchanged here, so that an
//! app never holds the client secret; what it brings is in the journal before anything else is done with it (I3). For
//! one portal one thing happens at a time: what is under way ends first, then it leaves, then another grant arrives.

use std::time::Duration;

use tokio::{sync::mpsc, time::timeout};

use super::{
    Denial, Engine,
    load::StoredGrant,
    orders::{Enrolled, News, Offered, Order, Removed, Waiting, tell},
    upkeep::Probing,
    view::Issued,
    work::Report,
};
use crate::{
    access::Portals,
    journal::{Access, Answer, Entry as Line},
    lifecycle::{Event, Found, Refusal, RefusalClass, TokenLife},
    portal::{PortalId, Scopes},
    secret::{Fingerprint, RefreshToken},
    time::BootTime,
};

/// A disk that takes longer has taken nothing.
const DISK_PATIENCE: Duration = Duration::from_secs(5);
/// As many orders wait for their turn; more would wait longer than anybody listens.
const MOST_WAITING: usize = 64;
/// When to ask again, where nothing says when.
const AGAIN: Duration = Duration::from_secs(5);

/// What waits for its turn at HubSpot.
#[derive(Debug)]
pub(super) enum Errand {
    TakeIn(Offered, Portals, mpsc::Sender<News>),
    /// End the grant of a portal that leaves.
    End(PortalId),
}

/// A grant that was just had from HubSpot.
#[derive(Debug, Clone)]
pub(super) struct Fresh {
    pub(super) portal: PortalId,
    pub(super) token: RefreshToken,
    pub(super) scopes: Option<Scopes>,
    /// When it was asked for, and the access token that came with it.
    pub(super) access: Option<(BootTime, Access)>,
    pub(super) stored: InStore,
}

/// What stands in the store for a grant's portal.
#[derive(Debug, Clone)]
pub(super) enum InStore {
    Nothing,
    Something(Box<StoredGrant>),
    /// It could not be read; it is before it is written to.
    Unknown,
}

/// A grant on its way into the portal's entry.
#[derive(Debug)]
pub(super) struct Arrival {
    fresh: Box<Fresh>,
    news: mpsc::Sender<News>,
    /// The journal has it.
    kept: bool,
    /// Something of the portal's was under way when it came, and may be behind it in the journal.
    overtaken: bool,
}

/// A portal that is to go as soon as nothing is under way for it.
#[derive(Debug)]
pub(super) struct Leaving {
    revoke: bool,
    /// Whoever waits, until it has begun.
    waiting: Option<Waiting>,
    /// Paused, once it is clear that it stays.
    pub(super) paused: bool,
}

/// Whoever waits for a grant to be stored, and what they are told then.
#[derive(Debug)]
pub(super) struct Enrolling(mpsc::Sender<News>, Enrolled);

impl Enrolling {
    /// There was another grant.
    pub(super) const fn replaces(&mut self) {
        self.1.replaced = true;
    }
}

/// Why an order came to nothing.
#[derive(Debug)]
pub(super) enum Failed {
    /// By what HubSpot said, which tells something of HubSpot and the app as well.
    AtHubSpot(Refusal),
    Otherwise(Denial),
}

impl Engine {
    /// Takes note of an order. What has to be asked of HubSpot waits for its turn.
    pub(super) fn take_order(&mut self, order: Order) {
        match order {
            Order::Enrol(offered, reach, news) => {
                if let Err(denial) = self.may_ask() {
                    return tell(&news, News::Refused(denial));
                }
                self.errands.push_back(Errand::TakeIn(offered, reach, news));
            }
            Order::Remove(portal, revoke, waiting) => {
                if let Err(denial) = self.begin_leaving(portal, revoke) {
                    waiting.send(Err(denial)).ok();
                    return;
                }
                self.take_back(portal);
                if let Some(entry) = self.portals.get_mut(portal) {
                    let paused = entry.portal.paused;
                    entry.leaving = Some(Leaving { revoke, waiting: Some(waiting), paused });
                }
                // What is on its way comes to its end; nothing more is begun.
                self.step(portal, Event::Pause(true));
            }
        }
    }

    fn may_ask(&self) -> Result<(), Denial> {
        if !self.app.is_open() {
            let now = self.world.clock.boot();
            let again = self.app.next_probe().map_or(Duration::ZERO, |at| at.until(now));
            return Err(Denial::AppRejected(again.max(Duration::from_secs(1))));
        }
        if self.pair.is_none() {
            return Err(Denial::StoreUnreachable(AGAIN));
        }
        if self.errands.len() >= MOST_WAITING || self.draining {
            return Err(Denial::TooMany(AGAIN));
        }
        Ok(())
    }

    fn begin_leaving(&self, portal: PortalId, revoke: bool) -> Result<(), Denial> {
        let Some(entry) = self.portals.get(portal) else {
            let unread = self.overall.without_store;
            let unknown = Denial::UnknownPortal;
            return Err(if unread { Denial::StoreUnreachable(AGAIN) } else { unknown });
        };
        if entry.leaving.is_some() {
            return Err(Denial::Leaving);
        }
        if revoke { self.may_ask() } else { Ok(()) }
    }

    /// What only waits for its turn is taken back, so that nothing is under way for it.
    fn take_back(&mut self, portal: PortalId) {
        if self.queue.remove(portal) {
            self.step(portal, Event::NotSent);
        }
    }

    /// Sends the next errand to HubSpot. It takes a slot like any other request (I8).
    pub(super) fn send_errand(&mut self) {
        let Some(errand) = self.errands.pop_front() else { return };
        let may = match (self.app.is_open(), self.pair.clone()) {
            (true, Some(pair)) => Ok(pair),
            _ => Err(Denial::AppRejected(AGAIN)),
        };
        match (errand, may) {
            (Errand::TakeIn(_, _, news), Err(denial)) => tell(&news, News::Refused(denial)),
            (Errand::TakeIn(offered, reach, news), Ok(pair)) => {
                tell(&news, News::Sent);
                self.sending.at_hubspot += 1;
                self.tasks.spawn(self.world.clone().take_in(pair, offered, reach, news));
            }
            (Errand::End(portal), may) => {
                let Some(leaving) = self.portals.get_mut(portal).and_then(|e| e.leaving.as_mut())
                else {
                    return;
                };
                let Some(waiting) = leaving.waiting.take() else { return };
                match (may, self.ending(portal)) {
                    (Ok(pair), Some((token, known))) => {
                        self.sending.at_hubspot += 1;
                        let work = self.world.clone().end_grant(portal, pair, token, known);
                        self.tasks.spawn(async move { work.await.told_to(waiting) });
                    }
                    (Err(denial), _) => {
                        waiting.send(Err(denial)).ok();
                        self.stays(portal);
                    }
                    (Ok(_), None) => self.remove_record(portal, waiting),
                }
            }
        }
    }

    /// Whether whoever gave the next order has gone: then it is not carried out.
    pub(super) fn drop_unwanted_errands(&mut self) {
        let mut given_up = Vec::new();
        let portals = &self.portals;
        self.errands.retain(|errand| match errand {
            Errand::TakeIn(_, _, news) => !news.is_closed(),
            Errand::End(portal) => {
                let leaving = portals.get(*portal).and_then(|entry| entry.leaving.as_ref());
                let unwanted = leaving.is_none_or(Leaving::is_unwanted);
                given_up.extend(unwanted.then_some(*portal));
                !unwanted
            }
        });
        for portal in given_up {
            self.stays(portal);
        }
    }

    /// The grant to end, and the names of what its record may hold.
    fn ending(&self, portal: PortalId) -> Option<(RefreshToken, Vec<Fingerprint>)> {
        let token = self.portals.get(portal)?.refresh_token()?.clone();
        Some((token, self.names(portal)))
    }

    /// The names of a portal's refresh tokens: what its record holds, unless another hand wrote it.
    fn names(&self, portal: PortalId) -> Vec<Fingerprint> {
        let Some(entry) = self.portals.get(portal) else { return Vec::new() };
        let stored = entry.stored.as_ref().map(|stored| stored.refresh_token.fingerprint());
        let unsaved = entry.unsaved.as_ref().map(RefreshToken::fingerprint);
        entry.lineage.iter().copied().chain(stored).chain(unsaved).collect()
    }

    fn remove_record(&mut self, portal: PortalId, waiting: Waiting) {
        let work = self.world.clone().forget_record(portal, self.names(portal), false);
        self.tasks.spawn(async move {
            let outcome = work.await;
            Report::Left { portal, asked: None, outcome, waiting }
        });
    }

    /// HubSpot has answered an enrolment, or it came to nothing.
    pub(super) fn came(&mut self, outcome: Result<Box<Fresh>, Failed>, news: mpsc::Sender<News>) {
        self.sending.at_hubspot -= 1;
        match outcome {
            Ok(fresh) => {
                self.note_hubspot(None, false);
                self.keep_arrival(fresh, news);
            }
            Err(failed) => tell(&news, News::Refused(self.heed(failed))),
        }
    }

    fn heed(&mut self, failed: Failed) -> Denial {
        let refusal = match failed {
            Failed::AtHubSpot(refusal) => refusal,
            Failed::Otherwise(denial) => return denial,
        };
        self.note_hubspot(Some(&refusal), false);
        match refusal.class {
            RefusalClass::RateLimited => self.throttled(refusal.retry_after),
            // Others' redirect URIs may be what is wrong: asked about a grant, HubSpot says.
            RefusalClass::AppRefused if self.probing == Probing::No => self.probe(),
            _ => {}
        }
        Denial::from(&refusal)
    }

    /// Writes a grant into the journal, before anything else is done with it.
    fn keep_arrival(&mut self, fresh: Box<Fresh>, news: mpsc::Sender<News>) {
        let portal = fresh.portal;
        self.take_back(portal);
        let entry = self.portals.get(portal);
        let overtaken = entry.is_some() && !self.portals.rests(portal);
        let written = self.world.journal.keep_in_order(self.line(&fresh));
        let is_there = self.world.journal.is_there();
        self.tasks.spawn(async move {
            // A disk that hangs keeps the grant from the store no longer than this.
            let kept = timeout(DISK_PATIENCE, written).await.unwrap_or(false) && is_there;
            tracing::trace!(%portal, kept, point = "enrolment_kept", "enrolment");
            Report::Arrived(Box::new(Arrival { fresh, news, kept, overtaken }))
        });
    }

    fn line(&self, fresh: &Fresh) -> Line {
        let known = self.portals.get(fresh.portal).and_then(|entry| entry.stored.as_ref());
        let read = match &fresh.stored {
            InStore::Something(stored) => Some(&**stored),
            _ => None,
        };
        let before = known.or(read).map(|stored| stored.refresh_token.fingerprint());
        let answer = Answer {
            spent: before.unwrap_or_else(|| fresh.token.fingerprint()),
            refresh_token: Some(fresh.token.clone()),
            access: fresh.access.as_ref().map(|(_, access)| access.clone()),
            enrolled: true,
        };
        Line::Answered { portal: fresh.portal, answer }
    }

    /// The journal has a grant that came, or is known not to take it.
    pub(super) fn arrived(&mut self, arrival: Box<Arrival>) {
        let portal = arrival.fresh.portal;
        tell(&arrival.news, News::Taken(portal, arrival.kept));
        if self.portals.get(portal).is_none() {
            self.trails.remove(&portal);
            let now = self.world.clock.boot();
            self.portals.insert(portal, None, now);
            if let Some(entry) = self.portals.get_mut(portal) {
                entry.is_new = matches!(arrival.fresh.stored, InStore::Nothing);
            }
            tracing::info!(%portal, "a new portal is enrolled");
            self.publish_portals();
        }
        self.take_back(portal);
        if let Some(entry) = self.portals.get_mut(portal) {
            entry.arriving = Some(arrival);
        }
        self.follow_orders(portal);
    }

    /// What waited for nothing to be under way for this portal; says whether there was anything.
    pub(super) fn follow_orders(&mut self, portal: PortalId) -> bool {
        if !self.portals.rests(portal) {
            return false;
        }
        let Some(entry) = self.portals.get_mut(portal) else { return false };
        let Some(leaving) = &mut entry.leaving else {
            let Some(arrival) = entry.arriving.take() else { return false };
            self.settle_in(portal, *arrival);
            return true;
        };
        if leaving.is_unwanted() {
            self.stays(portal);
        } else if leaving.revoke {
            let waits = |errand: &Errand| matches!(errand, Errand::End(id) if *id == portal);
            if leaving.waiting.is_some() && !self.errands.iter().any(waits) {
                self.errands.push_back(Errand::End(portal));
            }
        } else if let Some(waiting) = leaving.waiting.take() {
            self.remove_record(portal, waiting);
        }
        true
    }

    /// A removal has ended. `asked` is what HubSpot said, if it was asked.
    pub(super) fn left(
        &mut self,
        portal: PortalId,
        asked: Option<Result<(), Refusal>>,
        outcome: Result<Removed, Denial>,
        waiting: Waiting,
    ) {
        if let Some(said) = asked {
            self.sending.at_hubspot -= 1;
            match said {
                Ok(()) => self.note_hubspot(None, false),
                Err(refusal) => drop(self.heed(Failed::AtHubSpot(refusal))),
            }
        }
        if outcome.is_ok() {
            self.forget(portal);
        } else {
            if let Some(entry) = self.portals.get_mut(portal) {
                // The store may have changed, and be the reason.
                entry.look_again = true;
            }
            self.stays(portal);
        }
        // Whoever waited may have gone.
        waiting.send(outcome).ok();
    }

    /// A portal that was to leave stays.
    fn stays(&mut self, portal: PortalId) {
        let leaving = self.portals.get_mut(portal).and_then(|entry| entry.leaving.take());
        if let Some(leaving) = leaving {
            self.step(portal, Event::Pause(leaving.paused));
        }
    }

    /// A portal is forgotten while a grant arrives for it: that one begins it anew.
    pub(super) fn arrive_again(&mut self, arrival: Arrival) {
        let Arrival { mut fresh, news, .. } = arrival;
        fresh.stored = InStore::Nothing;
        self.keep_arrival(fresh, news);
    }

    /// The grant that came is the one in use from now on.
    fn settle_in(&mut self, portal: PortalId, arrival: Arrival) {
        let Arrival { fresh, news, kept, overtaken } = arrival;
        if overtaken {
            self.world.journal.note(self.line(&fresh));
        }
        let Fresh { token, scopes, access, stored, .. } = *fresh;
        if let (Some(entry), InStore::Something(stored)) = (self.portals.get_mut(portal), stored) {
            entry.store_has(Some(*stored));
        }
        self.step(portal, Event::RecordChanged);
        let Some(entry) = self.portals.get_mut(portal) else { return };
        let before = entry.stored.as_ref().map(|stored| stored.refresh_token.clone());
        let unusable = entry.stored.as_ref().is_some_and(|s| s.record.portal().is_err());
        let is_stored = before.as_ref().is_some_and(|before| before.same_as(&token)) && !unusable;
        let replaced = before.is_some() && !is_stored && !unusable;
        let name = token.fingerprint();
        entry.lineage = before.iter().map(RefreshToken::fingerprint).collect();
        entry.lineage.push(name);
        entry.unsaved = (!is_stored).then_some(token);
        entry.scopes.clone_from(&scopes);
        let enrolled = Enrolled { portal, replaced, scopes };
        if is_stored {
            self.world.journal.note(Line::Stored { portal, token: name });
            tell(&news, News::Stored(enrolled));
        } else {
            entry.enrolling = Some(Enrolling(news, enrolled));
        }
        let access = access.filter(|_| kept);
        let life = access.map(|(started, access)| {
            let life = TokenLife::new(started, access.expires_in);
            let fingerprint = access.token.fingerprint();
            entry.held = Some(Issued { access_token: access.token.into(), fingerprint });
            life
        });
        let found = Found { token: life, proven: true, unsaved: !is_stored, ..Found::default() };
        self.step(portal, Event::Found(found));
    }

    /// The store has a portal's newest grant: whoever waited for that hears of it.
    pub(super) fn tell_enrolled(&mut self, portal: PortalId) {
        let Some(entry) = self.portals.get_mut(portal) else { return };
        entry.is_new = false;
        if let Some(Enrolling(news, enrolled)) = entry.enrolling.take() {
            tell(&news, News::Stored(enrolled));
        }
    }

    /// The end has come for what has not been sent.
    pub(super) fn refuse_errands(&mut self) {
        for errand in std::mem::take(&mut self.errands) {
            match errand {
                Errand::TakeIn(_, _, news) => tell(&news, News::Refused(Denial::TooMany(AGAIN))),
                Errand::End(portal) => self.stays(portal),
            }
        }
    }
}

impl Leaving {
    /// It has not begun, and nobody waits for it any more.
    fn is_unwanted(&self) -> bool {
        self.waiting.as_ref().is_some_and(Waiting::is_closed)
    }
}
