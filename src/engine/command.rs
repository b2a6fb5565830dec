//! What is asked of the engine beside a token: by operators, by the service itself. The way in, and what
//! the engine does about it. Decides nothing of a grant: that is the rules' business.

use std::{sync::Arc, time::Duration};

use tokio::{sync::oneshot, time::timeout};

use super::{
    Denial, Engine, Handle, Route, Settings, Tried, Untested, asked::Asked, handle::Terms,
    orders::Order, uninstalls::Watching, work::Report,
};
use crate::{
    access::{Caller, Right, Rules},
    incident::{Kind, NotOpen},
    journal::Entry,
    lifecycle::{Event, TokenLife},
    portal::PortalId,
    store::StoreErrorKind,
};

/// Questions and wishes from outside the engine.
#[derive(Debug)]
pub enum Command {
    /// Somebody waits for a better token of this portal's than the one they saw.
    Want(PortalId, Option<TokenLife>),
    /// An operator pauses a portal, or lets it go on; the sender hears whether that outlives a restart,
    /// or nothing if there is no such portal.
    Pause(PortalId, bool, oneshot::Sender<bool>),
    /// Read every record again; the sender hears when it has been applied, and whether the client pair in use is the
    /// one that is stored.
    Reload(oneshot::Sender<Result<bool, StoreErrorKind>>),
    /// Go on with other settings.
    Configure(Box<Settings>),
    /// Tell other receivers of alerts from now on.
    Reroute(Vec<Route>),
    /// Somebody has taken an incident on; the sender hears whether it is open.
    Acknowledge(String, u32, oneshot::Sender<Result<(), NotOpen>>),
    /// Refresh one portal's token with the staged client secret; the sender hears what came of it.
    TryStaged(oneshot::Sender<Tried>),
    /// A webhook's signature fits none of the secrets that are known.
    Unsigned,
    /// Send a test to a receiver of alerts; the sender hears what came of it.
    TestAlert(String, oneshot::Sender<Result<(), Untested>>),
    /// Take a grant in, or take one away.
    Order(Order),
    /// Whether decisions can be written down.
    Audit(bool),
    /// What the reader of the webhooks journal has to say.
    Watching(Watching),
}

/// Commands that may wait; more than any socket has connections.
pub(super) const WAITING: usize = 4096;
/// The longest a caller waits for records to be read again.
const RELOAD_PATIENCE: Duration = Duration::from_secs(60);

/// The longest an operator waits for their order to be written down.
const ORDER_PATIENCE: Duration = Duration::from_secs(15);

impl Engine {
    pub(super) fn obey(&mut self, command: Command) {
        match command {
            Command::Want(portal, seen) => {
                // What was wished for may have come while the wish waited: it is not fetched twice.
                if self.portals.get(portal).is_some_and(|entry| entry.portal.token == seen) {
                    self.portals.wanted(portal);
                    self.step(portal, Event::Wanted);
                    self.queue.hurry(portal);
                }
            }
            Command::Pause(portal, paused, done) => self.pause(portal, paused, done),
            Command::Order(order) => self.take_order(order),
            Command::Watching(said) => self.watching(said),
            Command::Audit(true) => drop(self.tell_close(Kind::AuditFailing, None)),
            Command::Audit(false) => self.tell_open(Kind::AuditFailing, None, None),
            Command::Reload(done) => {
                self.try_journal();
                // The client pair does not wait for thousands of records.
                self.read_pair();
                self.reload_for(done);
            }
            Command::Reroute(routes) => self.alerting.reroute(routes, self.book.standing()),
            Command::Acknowledge(incident, uid, done) => {
                // Who asked may be gone.
                done.send(self.acknowledge(&incident, uid)).ok();
            }
            Command::Unsigned => self.look_at_pair(),
            Command::TryStaged(done) => self.begin_canary(done),
            Command::TestAlert(receiver, done) => {
                self.alerting.test(receiver, &self.settings.app, done);
            }
            Command::Configure(settings) => {
                let now = self.world.clock.boot();
                self.rate = self.rate.under(settings.max_requests_per_second, now);
                self.budget_due = now;
                self.book.link_to(settings.install_url.clone());
                self.reload.due = self.reload.due.min(now + settings.validate.every);
                let every = std::mem::replace(&mut self.settings, *settings).validate.every;
                if self.settings.validate.every < every {
                    for portal in self.portals.ids() {
                        self.step(portal, Event::Configured);
                    }
                }
            }
        }
    }

    fn pause(&mut self, portal: PortalId, paused: bool, done: oneshot::Sender<bool>) {
        if self.portals.get(portal).is_none() {
            // Who hears nothing knows that there is no such portal.
            return drop(done);
        }
        tracing::info!(%portal, paused, "an operator's order");
        match self.portals.get_mut(portal).and_then(|entry| entry.leaving.as_mut()) {
            // If it does not leave, it goes on like this.
            Some(leaving) => leaving.paused = paused,
            None => self.step(portal, Event::Pause(paused)),
        }
        let written = self.world.journal.keep_in_order(Entry::Paused { portal, paused });
        self.tasks.spawn(async move {
            // Whoever gave the order may be gone by now.
            done.send(written.await).ok();
            Report::Noted
        });
    }
}

impl Handle {
    /// Has every record read again, and waits until that has been applied: whether the client pair in use is the one
    /// that is stored. Another one stays in use as long as HubSpot does not accept that.
    ///
    /// # Errors
    /// Not allowed, or the store can't be read.
    pub async fn reload(&self, caller: &Caller) -> Result<bool, Denial> {
        let (handle, caller) = (self.clone(), caller.clone());
        self.see_through(async move {
            let allowed = {
                let rules = handle.rules.load();
                [Right::Rotate, Right::Admin, Right::Enroll]
                    .into_iter()
                    .any(|right| rules.allow_all(&caller, right))
            };
            let asked = Asked { caller: &caller, action: "reload", portal: None };
            handle.begin(&asked, allowed).await?;
            handle.done(&asked, handle.read_again().await).await
        })
        .await
    }

    async fn read_again(&self) -> Result<bool, Denial> {
        let (done, heard) = oneshot::channel();
        let again = Duration::from_secs(5);
        let sent = self.commands.send(Command::Reload(done)).await;
        sent.map_err(|_| Denial::StoreUnreachable(again))?;
        match timeout(RELOAD_PATIENCE, heard).await {
            Ok(Ok(Ok(follows))) => Ok(follows),
            Ok(Ok(Err(StoreErrorKind::Corrupt | StoreErrorKind::Missing))) => {
                Err(Denial::BadRequest("the app's record can't be used as it stands".to_owned()))
            }
            _ => Err(Denial::StoreUnreachable(again)),
        }
    }

    /// Puts other rules and settings in force.
    pub async fn configure(&self, rules: Rules, settings: Settings) {
        self.rules.store(Arc::new(rules));
        self.terms.store(Arc::new(Terms::of(&settings)));
        self.refused_reload.store(Arc::new(None));
        // The engine only stops listening when the process ends.
        self.commands.send(Command::Configure(Box::new(settings))).await.ok();
    }

    /// Notes that a new configuration was refused and the old one goes on.
    pub fn note_refused_reload(&self, why: String) {
        self.refused_reload.store(Arc::new(Some(why)));
    }

    /// Pauses a portal, or lets it go on: whether that outlives a restart of the service.
    ///
    /// # Errors
    /// Not allowed, or there is no such portal.
    pub async fn pause(
        &self,
        caller: &Caller,
        portal: PortalId,
        paused: bool,
    ) -> Result<bool, Denial> {
        let (handle, caller) = (self.clone(), caller.clone());
        self.see_through(async move {
            let allowed = handle.rules.load().allow(&caller, Right::Admin, portal);
            let action = if paused { "pause" } else { "resume" };
            let asked = Asked { caller: &caller, action, portal: Some(portal) };
            handle.begin(&asked, allowed).await?;
            handle.done(&asked, handle.order_pause(portal, paused).await).await
        })
        .await
    }

    async fn order_pause(&self, portal: PortalId, paused: bool) -> Result<bool, Denial> {
        let (done, heard) = oneshot::channel();
        let again = Duration::from_secs(5);
        let sent = self.commands.send(Command::Pause(portal, paused, done)).await;
        sent.map_err(|_| Denial::NoTokenYet(again))?;
        let heard = timeout(ORDER_PATIENCE, heard).await;
        heard.map_or(Ok(false), |heard| heard.map_err(|_| self.unknown()))
    }
}
