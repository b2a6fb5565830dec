//! Grants that come and go by somebody's order: enrolled by a code or by a refresh token, forgotten, revoked. The
//! code is exchanged here, so that an app never holds the client secret; what it brings is in the journal before
//! anything else is done with it (I3). Goes on whoever hangs up.

use std::time::Duration;

use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

use super::{
    Denial, Engine, Handle, asked::Asked, command::Command, load::StoredGrant, view::Issued,
};
use crate::{
    access::{Caller, Portals, Right},
    journal::Access,
    lifecycle::{Code, Event, Found, TokenLife},
    portal::{PortalId, Scopes},
    secret::RefreshToken,
    time::BootTime,
};

/// The longest an exchange is waited for, turn and all.
const EXCHANGE_PATIENCE: Duration = Duration::from_secs(45);
/// The longest the store is waited for once a grant is there.
const STORE_PATIENCE: Duration = Duration::from_secs(15);
/// The longest a removal takes.
const REMOVAL_PATIENCE: Duration = Duration::from_secs(45);

/// What somebody brings for a grant.
#[derive(Debug)]
pub enum Offered {
    /// A code to exchange.
    Code(Code),
    /// A refresh token that they have.
    RefreshToken(RefreshToken),
}

/// A grant that came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enrolled {
    /// Whose it is, as HubSpot says.
    pub portal: PortalId,
    /// Another grant was stored for this portal before.
    pub replaced: bool,
    /// Its scopes, if told.
    pub scopes: Option<Scopes>,
}

/// An order about a grant.
#[derive(Debug)]
pub enum Order {
    /// Take a grant in, if it is one of these portals'.
    Enrol(Offered, Portals, mpsc::Sender<News>),
    /// Forget a portal, and end its grant at HubSpot first if that is wanted.
    Remove(PortalId, bool, oneshot::Sender<Result<(), Denial>>),
}

/// How an enrolment goes.
#[derive(Debug)]
pub enum News {
    /// The grant is there, and kept.
    Taken(PortalId),
    /// It is in the store.
    Stored(Enrolled),
    /// It is not taken.
    Refused(Denial),
}

/// A grant that was just had from HubSpot.
#[derive(Debug)]
pub(super) struct Fresh {
    pub(super) portal: PortalId,
    pub(super) token: RefreshToken,
    pub(super) scopes: Option<Scopes>,
    /// When it was asked for, and the access token that came with it.
    pub(super) access: Option<(BootTime, Access)>,
    /// What stands in the store for its portal.
    pub(super) stored: Option<StoredGrant>,
}

/// A grant on its way into the portal's entry.
#[derive(Debug)]
pub(super) struct Arrival {
    pub(super) fresh: Fresh,
    pub(super) news: mpsc::Sender<News>,
    /// The journal has it.
    pub(super) durable: bool,
}

/// A portal that is to go as soon as nothing is under way for it.
#[derive(Debug)]
pub(super) struct Leaving {
    revoke: bool,
    done: oneshot::Sender<Result<(), Denial>>,
}

/// Whoever waits for a grant to be stored, and what they are told then.
#[derive(Debug)]
pub(super) struct Enrolling(mpsc::Sender<News>, Enrolled);

pub(super) fn tell(news: &mpsc::Sender<News>, what: News) {
    // Whoever waited may have gone.
    news.try_send(what).ok();
}

impl Engine {
    /// Takes note of an order. What has to be asked of HubSpot waits for its turn.
    pub(super) fn take_order(&mut self, order: Order) {
        match order {
            Order::Enrol(_, _, news) if !self.app.is_open() => {
                let again = self
                    .app
                    .next_probe()
                    .map_or(Duration::ZERO, |at| at.until(self.world.clock.boot()));
                tell(&news, News::Refused(Denial::AppRejected(again.max(Duration::from_secs(1)))));
            }
            Order::Enrol(offered, reach, news) => self.orders.push_back((offered, reach, news)),
            Order::Remove(portal, revoke, done) => {
                let Some(entry) = self.portals.get_mut(portal) else {
                    done.send(Err(self.unknown())).ok();
                    return;
                };
                if entry.leaving.is_some() {
                    done.send(Err(Denial::Paused)).ok();
                    return;
                }
                entry.leaving = Some(Leaving { revoke, done });
                entry.was_paused = entry.portal.paused;
                // What is on its way comes to its end; nothing more is begun.
                self.step(portal, Event::Pause(true));
            }
        }
    }

    fn unknown(&self) -> Denial {
        if self.overall.without_store {
            return Denial::StoreUnreachable(Duration::from_secs(5));
        }
        Denial::UnknownPortal
    }

    /// Sends the next enrolment to HubSpot. It takes a slot like any other request (I8).
    pub(super) fn send_order(&mut self) {
        let Some((offered, reach, news)) = self.orders.pop_front() else { return };
        let Some(pair) = self.pair.clone() else {
            return tell(&news, News::Refused(Denial::StoreUnreachable(Duration::from_secs(5))));
        };
        self.tasks.spawn(self.world.clone().take_in(pair, offered, reach, news));
    }

    /// A grant has come in.
    pub(super) fn came(&mut self, arrival: Box<Arrival>) {
        let portal = arrival.fresh.portal;
        tell(&arrival.news, News::Taken(portal));
        if self.portals.get(portal).is_none() {
            self.trails.remove(&portal);
            let now = self.world.clock.boot();
            self.portals.insert(portal, None, now);
            if let Some(entry) = self.portals.get_mut(portal) {
                entry.is_new = arrival.fresh.stored.is_none();
            }
            tracing::info!(%portal, "a new portal is enrolled");
            self.publish_portals();
        }
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
        if let Some(arrival) = entry.arriving.take() {
            self.settle_in(portal, *arrival);
            return true;
        }
        let Some(Leaving { revoke, done }) = entry.leaving.take() else { return false };
        let grant = entry.refresh_token().cloned().filter(|_| revoke);
        let grant = match (grant, &self.pair) {
            (Some(token), Some(pair)) => Some((pair.clone(), token)),
            _ => None,
        };
        if revoke && !self.app.is_open() {
            done.send(Err(Denial::AppRejected(Duration::from_secs(5)))).ok();
            self.stays(portal);
            return true;
        }
        self.queue.remove(portal);
        self.tasks.spawn(self.world.clone().take_away(portal, grant, done));
        true
    }

    /// A removal has ended.
    pub(super) fn left(&mut self, portal: PortalId, gone: bool) {
        if gone {
            self.forget(portal);
        } else {
            self.stays(portal);
        }
    }

    fn stays(&mut self, portal: PortalId) {
        if self.portals.get(portal).is_some_and(|entry| !entry.was_paused) {
            self.step(portal, Event::Pause(false));
        }
    }

    /// The grant that came is the one in use from now on.
    fn settle_in(&mut self, portal: PortalId, arrival: Arrival) {
        let Arrival { fresh, news, durable } = arrival;
        let Fresh { token, scopes, access, stored, .. } = fresh;
        if let (Some(entry), Some(stored)) = (self.portals.get_mut(portal), stored) {
            entry.store_has(Some(stored));
        }
        self.step(portal, Event::RecordChanged);
        let Some(entry) = self.portals.get_mut(portal) else { return };
        let before = entry.stored.as_ref().map(|stored| stored.refresh_token.clone());
        let unusable = entry.stored.as_ref().is_some_and(|s| s.record.portal().is_err());
        let is_stored = before.as_ref().is_some_and(|before| before.same_as(&token)) && !unusable;
        let replaced = before.is_some() && !is_stored && !unusable;
        entry.lineage = before.iter().map(RefreshToken::fingerprint).collect();
        entry.lineage.push(token.fingerprint());
        entry.unsaved = (!is_stored).then_some(token);
        entry.scopes.clone_from(&scopes);
        let enrolled = Enrolled { portal, replaced, scopes };
        if is_stored {
            tell(&news, News::Stored(enrolled));
        } else {
            entry.enrolling = Some(Enrolling(news, enrolled));
        }
        let access = access.filter(|_| durable);
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
}

impl Handle {
    /// Takes a grant in: the code is exchanged, or the refresh token recognised, and the grant stored.
    ///
    /// # Errors
    /// Not allowed for the grant's portal, not a good grant, or not stored in time (see [`Denial::Unsaved`]).
    pub async fn enrol(&self, caller: &Caller, offered: Offered) -> Result<Enrolled, Denial> {
        let reach = self.rules.load().reach(caller, Right::Enroll);
        let asked = Asked { caller, action: "enroll", portal: None };
        self.begin(&asked, reach.is_some()).await?;
        let answer = self.have_enrolled(offered, reach.ok_or(Denial::Forbidden)?).await;
        let portal = match &answer {
            Ok(enrolled) => Some(enrolled.portal),
            Err(Denial::Unsaved(portal)) => Some(*portal),
            Err(_) => None,
        };
        self.done(&Asked { portal, ..asked }, answer).await
    }

    async fn have_enrolled(&self, offered: Offered, reach: Portals) -> Result<Enrolled, Denial> {
        let (news, mut heard) = mpsc::channel(4);
        let again = Duration::from_secs(5);
        let order = Command::Order(Order::Enrol(offered, reach, news));
        let sent = self.commands.send(order).await;
        sent.map_err(|_| Denial::HubspotUnreachable(again))?;
        let mut taken = None;
        loop {
            let patience = if taken.is_some() { STORE_PATIENCE } else { EXCHANGE_PATIENCE };
            match timeout(patience, heard.recv()).await {
                Ok(Some(News::Taken(portal))) => taken = Some(portal),
                Ok(Some(News::Stored(enrolled))) => return Ok(enrolled),
                Ok(Some(News::Refused(denial))) => return Err(denial),
                Ok(None) | Err(_) => {
                    let none = Denial::HubspotUnreachable(again);
                    return Err(taken.map_or(none, Denial::Unsaved));
                }
            }
        }
    }

    /// Forgets a portal; with `revoke`, ends its grant at HubSpot first. Access tokens that were given out work until
    /// they expire.
    ///
    /// # Errors
    /// Not allowed, no such portal, or HubSpot or the store can't be had; then the portal is served on.
    pub async fn remove(
        &self,
        caller: &Caller,
        portal: PortalId,
        revoke: bool,
    ) -> Result<(), Denial> {
        let allowed = self.rules.load().allow(caller, Right::Revoke, portal);
        let action = if revoke { "revoke" } else { "remove" };
        let asked = Asked { caller, action, portal: Some(portal) };
        self.begin(&asked, allowed).await?;
        let (done, heard) = oneshot::channel();
        let again = Duration::from_secs(5);
        let sent = self.commands.send(Command::Order(Order::Remove(portal, revoke, done))).await;
        let answer = match sent {
            Err(_) => Err(Denial::StoreUnreachable(again)),
            Ok(()) => match timeout(REMOVAL_PATIENCE, heard).await {
                Ok(Ok(outcome)) => outcome,
                _ => Err(Denial::StoreUnreachable(again)),
            },
        };
        self.done(&asked, answer).await
    }
}
