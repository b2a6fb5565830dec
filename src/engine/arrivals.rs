//! Grants that come by an order, from HubSpot's answer to where they are in use. What a code brought is in the journal
//! before anything else is done with it (I3).

use std::{collections::BTreeMap, time::Duration};

use tokio::{sync::mpsc, time::timeout};

use super::{
    Denial, Engine,
    errands::Failed,
    load::StoredGrant,
    orders::{Enrolled, News, tell},
    upkeep::Question,
    view::Issued,
    work::Report,
};
use crate::{
    incident::Kind,
    journal::{Access, Answer, Entry as Line},
    lifecycle::{App, Event, Found, TokenLife},
    portal::{PortalId, Scopes},
    secret::RefreshToken,
    time::BootTime,
};

/// A disk that takes longer has taken nothing.
const DISK_PATIENCE: Duration = Duration::from_secs(5);

/// What an end of a portal's grant is told as.
const ENDED: [Kind; 4] =
    [Kind::GrantRevoked, Kind::PortalUnavailable, Kind::GrantLost, Kind::GrantMismatched];

/// A grant that was just had from HubSpot.
#[derive(Debug, Clone)]
pub(super) struct Fresh {
    pub(super) portal: PortalId,
    pub(super) token: RefreshToken,
    pub(super) scopes: Option<Scopes>,
    /// When it was asked for, and the access token that came with it.
    pub(super) access: Option<(BootTime, Access)>,
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
    /// Which one it is, of all that came: of two for one portal the later one counts.
    number: u64,
    fresh: Box<Fresh>,
    stored: InStore,
    news: mpsc::Sender<News>,
    /// The journal has it.
    kept: bool,
}

/// Grants on their way in.
#[derive(Debug, Default)]
pub(super) struct Arrivals {
    /// How many have come.
    count: u64,
    /// Those that the journal is taking, by their numbers. Of a portal that is forgotten meanwhile they are taken out.
    keeping: BTreeMap<u64, PortalId>,
}

impl Arrivals {
    fn begin(&mut self, portal: PortalId, again: Option<u64>) -> u64 {
        let number = again.unwrap_or(self.count + 1);
        self.count = self.count.max(number);
        self.keeping.insert(number, portal);
        number
    }

    /// Whether one that came later is being taken for the same portal.
    fn has_later(&self, portal: PortalId, number: u64) -> bool {
        self.keeping.range(number + 1..).any(|(_, one)| *one == portal)
    }

    /// Whether the portal is the one that it was when this one was begun.
    fn end(&mut self, number: u64) -> bool {
        self.keeping.remove(&number).is_some()
    }

    /// Whether one of the portal's is among them.
    pub(super) fn has(&self, portal: PortalId) -> bool {
        self.keeping.values().any(|one| *one == portal)
    }

    /// The portal is forgotten. Whether a grant is coming that will begin it anew.
    pub(super) fn portal_forgotten(&mut self, portal: PortalId) -> bool {
        self.keeping.extract_if(.., |_, one| *one == portal).count() > 0
    }
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

impl Engine {
    /// HubSpot has answered an enrolment, or it came to nothing.
    pub(super) fn came(&mut self, outcome: Result<Box<Fresh>, Failed>, news: mpsc::Sender<News>) {
        self.sending.errands_out -= 1;
        match outcome {
            Ok(fresh) => {
                self.note_hubspot(None, Question::Order);
                self.keep_arrival(fresh, news, None);
            }
            Err(failed) => tell(&news, News::Refused(self.heed(failed))),
        }
    }

    /// Whether a refresh token that somebody brought is one that HubSpot has replaced since: that is no new grant, and
    /// what replaced it must not be lost for it.
    fn is_outdated(&self, fresh: &Fresh) -> bool {
        let name = fresh.token.fingerprint();
        let entry = self.portals.get(fresh.portal).filter(|_| fresh.access.is_none());
        entry.is_some_and(|entry| {
            entry.lineage.contains(&name) && entry.lineage.last() != Some(&name)
        })
    }

    /// Writes a grant into the journal, before anything else is done with it; then looks what stands in the store.
    fn keep_arrival(&mut self, fresh: Box<Fresh>, news: mpsc::Sender<News>, again: Option<u64>) {
        if self.is_outdated(&fresh) {
            return tell(&news, News::Refused(Denial::Replaced));
        }
        let portal = fresh.portal;
        self.take_back(portal);
        let number = self.arrivals.begin(portal, again);
        let written = self.world.journal.keep_in_order(self.line(&fresh));
        let world = self.world.clone();
        self.tasks.spawn(async move {
            // A disk that hangs keeps the grant from the store no longer than this.
            let (written, stored) =
                tokio::join!(timeout(DISK_PATIENCE, written), world.in_store(&fresh));
            let kept = written.unwrap_or(false) && world.journal.is_there();
            tracing::trace!(%portal, kept, point = "enrolment_kept", "enrolment");
            Report::Arrived(Box::new(Arrival { number, fresh, stored, news, kept }))
        });
    }

    fn line(&self, fresh: &Fresh) -> Line {
        let known = self.portals.get(fresh.portal).and_then(|entry| entry.stored.as_ref());
        let before = known.map(|stored| stored.refresh_token.fingerprint());
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
        if !self.arrivals.end(arrival.number) {
            // What was read in the store is no longer so.
            return self.arrive_again(*arrival);
        }
        tell(&arrival.news, News::Taken(portal, arrival.kept));
        if self.portals.get(portal).is_none() {
            self.trails.remove(&portal);
            let now = self.world.clock.boot();
            self.portals.insert(portal, None, now);
            if let Some(entry) = self.portals.get_mut(portal) {
                entry.is_new = matches!(arrival.stored, InStore::Nothing);
            }
            tracing::info!(%portal, "a new portal is enrolled");
            self.publish_portals();
        }
        self.take_back(portal);
        if let Some(entry) = self.portals.get_mut(portal) {
            if entry.newest_arrival > arrival.number {
                return tell(&arrival.news, News::Refused(Denial::Replaced));
            }
            entry.newest_arrival = arrival.number;
            if let Some(older) = entry.arriving.replace(arrival) {
                tell(&older.news, News::Refused(Denial::Replaced));
            }
        }
        self.follow_orders(portal);
    }

    /// A portal is forgotten while a grant arrives for it: that one begins it anew, unless a later one does.
    pub(super) fn arrive_again(&mut self, Arrival { number, fresh, news, .. }: Arrival) {
        let portal = fresh.portal;
        let newest = self.portals.get(portal).map_or(0, |entry| entry.newest_arrival);
        if newest > number || self.arrivals.has_later(portal, number) {
            return tell(&news, News::Refused(Denial::Replaced));
        }
        self.keep_arrival(fresh, news, Some(number));
    }

    /// The grant that came is the one in use from now on.
    pub(super) fn settle_in(&mut self, portal: PortalId, arrival: Arrival) {
        let Arrival { fresh, stored, news, kept, .. } = arrival;
        if self.is_outdated(&fresh) {
            return tell(&news, News::Refused(Denial::Replaced));
        }
        let Fresh { token, scopes, access, .. } = *fresh;
        if let (Some(entry), InStore::Something(stored)) = (self.portals.get_mut(portal), stored)
            // What is known here may be newer than what was read; a conflict will show.
            && (entry.stored.is_none() || stored.record.portal().is_err())
        {
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
        let access_came = access.is_some();
        let access = access.filter(|_| kept);
        let life = access.map(|(started, access)| {
            let life = TokenLife::new(started, access.expires_in);
            let fingerprint = access.token.fingerprint();
            entry.held = Some(Issued { access_token: access.token.into(), fingerprint });
            life
        });
        let found = Found { token: life, proven: true, unsaved: !is_stored, ..Found::default() };
        self.step(portal, Event::Found(found));
        if matches!(self.app, App::Suspect(_)) {
            // That one grant is good says nothing of the others: it is the probe that looks at those.
            self.probe();
        }
        if access_came {
            // The customer has connected again: what had ended is over.
            for kind in ENDED {
                self.tell_close(kind, Some(portal));
            }
        }
    }

    /// The store has a portal's newest grant: whoever waited for that hears of it.
    pub(super) fn tell_enrolled(&mut self, portal: PortalId) {
        let Some(entry) = self.portals.get_mut(portal) else { return };
        entry.is_new = false;
        if let Some(Enrolling(news, enrolled)) = entry.enrolling.take() {
            tell(&news, News::Stored(enrolled));
        }
    }
}
