//! Grants that come and go by somebody's order: what may be ordered, and how others order it. An order that was begun
//! is carried out and written down to its end, whoever hangs up (I11). What the engine does about it is `arrivals`'
//! business.

use std::time::Duration;

use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

use super::{Denial, Handle, admission::Asking, asked::Asked, command::Command, denial::AGAIN};
use crate::{
    access::{Caller, Portals, Right},
    lifecycle::Code,
    portal::{PortalId, Scopes},
    secret::RefreshToken,
};

/// The longest an order waits for its turn at HubSpot.
const TURN_PATIENCE: Duration = Duration::from_secs(30);
/// Longer than an exchange can take once it has its turn: what comes of it is waited for, and written down.
const EXCHANGE_PATIENCE: Duration = Duration::from_secs(300);
/// The longest the store is waited for once a grant is there.
const STORE_PATIENCE: Duration = Duration::from_secs(15);
/// Longer than a removal can take once it has begun: what comes of it is waited for, and written down.
const REMOVAL_PATIENCE: Duration = Duration::from_secs(300);

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

/// A portal that is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Removed {
    /// Its grant was ended at HubSpot.
    pub revoked: bool,
}

/// Whoever waits for a portal to be gone.
pub type Waiting = oneshot::Sender<Result<Removed, Denial>>;

/// Whoever wants a portal to be gone, and may still think better of it.
#[derive(Debug)]
pub struct Wanting {
    begun: oneshot::Sender<()>,
    waiting: Waiting,
}

impl Wanting {
    /// It begins now; none where nobody wants it any more. From here on it is waited for.
    pub(super) fn begin(self) -> Option<Waiting> {
        self.begun.send(()).ok().map(|()| self.waiting)
    }

    pub(super) fn refuse(self, denial: Denial) {
        // Whoever waited may have gone.
        self.waiting.send(Err(denial)).ok();
    }

    pub(super) fn is_withdrawn(&self) -> bool {
        self.begun.is_closed()
    }
}

/// An order about a grant.
#[derive(Debug)]
pub enum Order {
    /// Take a grant in, if it is one of these portals'.
    Enrol(Offered, Portals, mpsc::Sender<News>),
    /// Forget a portal, and end its grant at HubSpot first if that is wanted.
    Remove(PortalId, bool, Wanting),
    /// Somebody has withdrawn theirs.
    Withdrawn,
}

/// How an enrolment goes.
#[derive(Debug)]
pub enum News {
    /// It has its turn at HubSpot: what is brought may be used up from now on.
    Sent,
    /// The grant is there; and whether it outlives this process.
    Taken(PortalId, bool),
    /// It is in the store.
    Stored(Enrolled),
    /// It is not taken.
    Refused(Denial),
}

pub(super) fn tell(news: &mpsc::Sender<News>, what: News) {
    // Whoever waited may have gone.
    news.try_send(what).ok();
}

impl Handle {
    /// Takes a grant in: the code is exchanged, or the refresh token recognised, and the grant stored.
    ///
    /// # Errors
    /// Not allowed for the grant's portal, not a good grant, or not stored in time (see [`Denial::Unsaved`]).
    pub async fn enrol(&self, caller: &Caller, offered: Offered) -> Result<Enrolled, Denial> {
        let (handle, caller) = (self.clone(), caller.clone());
        self.see_through(async move {
            let reach = handle.rules.load().reach(&caller, Right::Enroll);
            let asked = Asking::Enroll.by(&caller);
            handle.begin(&asked, reach.is_some()).await?;
            let answer = handle.have_enrolled(offered, reach.ok_or(Denial::Forbidden)?).await;
            let portal = match &answer {
                Ok(enrolled) => Some(enrolled.portal),
                Err(Denial::Unsaved { portal, .. } | Denial::NotYours(portal)) => Some(*portal),
                Err(_) => None,
            };
            handle.done(&Asked { portal, ..asked }, answer).await
        })
        .await
    }

    async fn have_enrolled(&self, offered: Offered, reach: Portals) -> Result<Enrolled, Denial> {
        let (news, mut heard) = mpsc::channel(4);
        let order = Command::Order(Order::Enrol(offered, reach, news));
        let sent = self.commands.send(order).await;
        sent.map_err(|_| Denial::TooMany(AGAIN))?;
        // Nobody has used what was brought; it is dropped before its turn once nobody listens.
        let (mut patience, mut none) = (TURN_PATIENCE, Denial::TooMany(AGAIN));
        loop {
            match timeout(patience, heard.recv()).await {
                Ok(Some(News::Sent)) => {
                    (patience, none) = (EXCHANGE_PATIENCE, Denial::HubspotUnreachable(AGAIN));
                }
                Ok(Some(News::Taken(portal, kept))) => {
                    (patience, none) = (STORE_PATIENCE, Denial::Unsaved { portal, kept });
                }
                Ok(Some(News::Stored(enrolled))) => return Ok(enrolled),
                Ok(Some(News::Refused(denial))) => return Err(denial),
                Ok(None) | Err(_) => return Err(none),
            }
        }
    }

    /// Forgets a portal; with `revoke`, ends its grant at HubSpot first. Access tokens that were given out work until
    /// they expire.
    ///
    /// # Errors
    /// Not allowed, no such portal, its turn does not come in time, or HubSpot or the store can't be had or refuses; then
    /// the portal is served on.
    pub async fn remove(
        &self,
        caller: &Caller,
        portal: PortalId,
        revoke: bool,
    ) -> Result<Removed, Denial> {
        let (handle, caller) = (self.clone(), caller.clone());
        self.see_through(async move {
            let allowed = handle.rules.load().allow(&caller, Right::Revoke, portal);
            let action = if revoke { "revoke" } else { "remove" };
            let asked = Asked { caller: &caller, action, portal: Some(portal) };
            handle.begin(&asked, allowed).await?;
            handle.done(&asked, handle.have_removed(portal, revoke).await).await
        })
        .await
    }

    async fn have_removed(&self, portal: PortalId, revoke: bool) -> Result<Removed, Denial> {
        let ((begun, mut turn), (waiting, heard)) = (oneshot::channel(), oneshot::channel());
        let order = Order::Remove(portal, revoke, Wanting { begun, waiting });
        let sent = self.commands.send(Command::Order(order)).await;
        sent.map_err(|_| Denial::StoreUnreachable(AGAIN))?;
        if timeout(TURN_PATIENCE, &mut turn).await.is_err() {
            turn.close();
            // It may have begun in this very moment.
            if turn.try_recv().is_err() {
                self.commands.send(Command::Order(Order::Withdrawn)).await.ok();
                return Err(Denial::TooMany(AGAIN));
            }
        }
        match timeout(REMOVAL_PATIENCE, heard).await {
            Ok(Ok(outcome)) => outcome,
            _ => Err(Denial::StoreUnreachable(AGAIN)),
        }
    }
}
