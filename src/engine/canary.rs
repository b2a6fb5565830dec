//! One portal's refresh with the client secret that is staged, before everybody's depends on it: a real refresh, with
//! intent, answer and store as always, of a portal that is well. Refused, it costs that portal one try.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use tokio::{sync::oneshot, time::sleep};

use super::{Command, Denial, Engine, Handle, asked::Asked, load::load_app, work::Report};
use crate::{
    access::{Caller, Right},
    hubspot::signature::Signers,
    incident::{KEPT_ON, Kind},
    lifecycle::{ClientPair, Event, Phase, Refusal},
    portal::PortalId,
    store::StoreError,
    time::BootTime,
};

/// A try that has not come about by then counts for nothing.
const PATIENCE: Duration = Duration::from_secs(45);

const BUSY: &str = "no portal is well and at rest";
/// Until one is, it is looked again so often, and so many times.
const AGAIN: Duration = Duration::from_millis(500);
const TRIES: u32 = 10;

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tried {
    /// HubSpot gave this portal a token.
    Accepted(PortalId),
    /// HubSpot refused, or did not answer.
    Refused(PortalId, Refusal),
    /// Nothing was tried, and why.
    Skipped(&'static str),
}

/// The one that is under way.
#[derive(Debug)]
pub(super) struct Canary {
    portal: PortalId,
    pair: ClientPair,
    until: BootTime,
    done: oneshot::Sender<Tried>,
}

impl Engine {
    /// The record is read first: what is staged may be younger than what was read last.
    pub(super) fn begin_canary(&mut self, done: oneshot::Sender<Tried>) {
        let store = Arc::clone(&self.world.store);
        let tries = TRIES;
        let read = async move { Report::Staged { pair: load_app(&*store).await, done, tries } };
        self.tasks.spawn(read);
    }

    pub(super) fn staged(
        &mut self,
        pair: Result<ClientPair, StoreError>,
        done: oneshot::Sender<Tried>,
        tries: u32,
    ) {
        match self.canary_of(&pair) {
            Ok((portal, pair)) => {
                let until = self.world.clock.boot() + PATIENCE;
                self.canary = Some(Canary { portal, pair, until, done });
                self.portals.wanted(portal);
                self.step(portal, Event::Wanted);
                self.queue.hurry(portal);
            }
            // Each may have been refreshed within the last second, and none is twice.
            Err(BUSY) if tries > 0 => {
                self.tasks.spawn(async move {
                    sleep(AGAIN).await;
                    Report::Staged { pair, done, tries: tries - 1 }
                });
            }
            // Who asked may be gone.
            Err(why) => drop(done.send(Tried::Skipped(why))),
        }
    }

    fn canary_of(
        &self,
        pair: &Result<ClientPair, StoreError>,
    ) -> Result<(PortalId, ClientPair), &'static str> {
        let pair = pair.as_ref().map_err(|_| "the app's record can't be read")?;
        let next = pair.further.next.clone().ok_or("no new client secret is staged")?;
        let now = self.world.clock.boot();
        if self.canary.as_ref().is_some_and(|one| one.until > now && !one.done.is_closed()) {
            return Err("another try is under way");
        }
        if !self.app.is_open() {
            return Err("the client secret in use is refused, so that nothing is refreshed");
        }
        let fit = |portal: &PortalId| {
            let portal = self.portals.get(*portal).map(|entry| &entry.portal);
            portal.is_some_and(|portal| {
                let well = portal.failures == 0 && !portal.in_doubt && !portal.paused;
                let rests = portal.phase == Phase::Resting && portal.not_before <= now;
                well && rests && portal.token.is_some_and(|token| !token.left(now).is_zero())
            })
        };
        let portal = self.portals.ids().into_iter().find(fit);
        let portal = portal.ok_or(BUSY)?;
        Ok((portal, ClientPair { client_secret: next, ..pair.clone() }))
    }

    /// The pair with which a portal's refresh goes out, if it is the one that is tried.
    pub(super) fn canary_pair(&self, portal: PortalId) -> Option<ClientPair> {
        let now = self.world.clock.boot();
        let canary = self.canary.as_ref().filter(|one| one.portal == portal && one.until > now)?;
        Some(canary.pair.clone())
    }

    /// What HubSpot said to a portal's refresh.
    pub(super) fn note_canary(&mut self, portal: PortalId, refusal: Option<&Refusal>) {
        if let Some(canary) = self.canary.take_if(|canary| canary.portal == portal) {
            let tried = match refusal {
                None => Tried::Accepted(portal),
                Some(refusal) => Tried::Refused(portal, refusal.clone()),
            };
            // Who asked may be gone.
            canary.done.send(tried).ok();
        }
    }
}

/// A secret that has stood staged for so long is forgotten by whoever staged it.
const STAGED_FOR_LONG: Duration = Duration::from_secs(3600);

impl Engine {
    /// By what signatures are known now, and whether a rotation waits for somebody.
    pub(super) fn follow_rotation(&mut self) {
        let Some(mut pair) = self.pair.clone() else { return };
        let (boot, wall) = (self.world.clock.boot(), self.world.clock.wall());
        let age = |at: Timestamp| Duration::try_from(wall.duration_since(at)).unwrap_or_default();
        let over = |at| age(at) > self.settings.keep_previous;
        let kept = pair.further.previous.is_some() && pair.further.promoted_at.is_some_and(over);
        if kept {
            pair.further.previous = None;
        }
        let staged = pair.further.next.is_some();
        self.staged_seen = self.staged_seen.or(Some(boot)).filter(|_| staged);
        let since = pair.further.staged_at.map(age);
        let since = since.or_else(|| self.staged_seen.map(|seen| boot.since(seen)));
        if staged && since.is_some_and(|since| since > STAGED_FOR_LONG) {
            self.tell_open(Kind::RotationUnfinished, None, None);
        } else if kept {
            self.tell_open(Kind::RotationUnfinished, None, Some(KEPT_ON));
        } else {
            self.tell_close(Kind::RotationUnfinished, None);
        }
        self.view.signers.store(Arc::new(Signers::of(&pair)));
    }
}

impl Handle {
    /// Has one portal's token refreshed with the client secret that is staged.
    ///
    /// # Errors
    /// Not allowed.
    pub async fn try_staged(&self, caller: &Caller) -> Result<Tried, Denial> {
        let (handle, caller) = (self.clone(), caller.clone());
        self.see_through(async move {
            let allowed = handle.rules.load().allow_all(&caller, Right::Rotate);
            let asked = Asked { caller: &caller, action: "try_staged", portal: None };
            handle.begin(&asked, allowed).await?;
            let answer = handle.order(Command::TryStaged).await;
            handle.done(&asked, answer).await
        })
        .await
    }
}
