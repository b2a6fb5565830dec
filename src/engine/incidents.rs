//! What the engine tells people: it notes what is the case in the book of incidents, and hands what the book makes of
//! it to whoever is to be told. After a start, what an earlier process had told of is taken up, and told to be over
//! once it is.

use std::time::Duration;

use tokio::{sync::oneshot, time::timeout};

use super::{
    Command, Denial, Engine, Handle, Untested, alerting::Receiver, asked::Asked,
    throttling::Throttling,
};
use crate::{
    access::{Caller, Right},
    incident::{Kind, Moment, NotOpen, Notice},
    journal::Standing,
    lifecycle::{App, Cause, RefusalClass},
    portal::PortalId,
    sink::DeliveryError,
};

/// The longest that is waited for a receiver to take a test, or the engine to take an order.
const PATIENCE: Duration = Duration::from_secs(60);
const AGAIN: Duration = Duration::from_secs(5);

impl Engine {
    fn moment(&self) -> Moment {
        let boot = self.world.clock.boot();
        Moment { boot, wall: self.world.clock.wall_at(boot) }
    }

    /// Tells whoever is to be told, and whoever listens.
    fn announce(&mut self, notice: &Notice) {
        self.alerting.tell(notice);
        self.view.feed.tell(notice.into());
    }

    pub(super) fn tell_open(&mut self, kind: Kind, portal: Option<PortalId>, detail: Option<&str>) {
        let of_app = portal.is_none() && !self.book.is_open(kind);
        let affected = if of_app { self.portals.ids() } else { Vec::new() };
        let now = self.moment();
        if let Some(notice) = self.book.open(kind, portal, detail, &affected, now) {
            self.announce(&notice);
        }
    }

    /// Says whether it was open, and is over with this.
    pub(super) fn tell_close(&mut self, kind: Kind, portal: Option<PortalId>) -> bool {
        let now = self.moment();
        let Some(notice) = self.book.close(kind, portal, now) else { return false };
        self.announce(&notice);
        true
    }

    /// Tells what has changed of what is open.
    pub(super) fn tell_due(&mut self) {
        let now = self.moment();
        for notice in self.book.due(now) {
            self.announce(&notice);
        }
    }

    /// Tells what has changed before the end.
    pub(super) fn tell_the_rest(&mut self) {
        let now = self.moment();
        for notice in self.book.rest(now) {
            self.announce(&notice);
        }
    }

    /// The portal is no longer ours.
    pub(super) fn forget_incidents(&mut self, portal: PortalId) {
        let now = self.moment();
        for notice in self.book.forget(portal, now) {
            self.announce(&notice);
        }
    }

    /// HubSpot takes the portal's grant. What this process has told of it the rules close; what an earlier one did
    /// they may never have met.
    pub(super) fn is_good_after_all(&mut self, portal: PortalId) {
        let spoilt = self.portals.get(portal).is_some_and(|entry| entry.unusable);
        // What is said of the record stays true until the record is mended.
        let mismatched = Some(Kind::GrantMismatched).filter(|_| !spoilt);
        for kind in [Kind::GrantRevoked, Kind::GrantLost].into_iter().chain(mismatched) {
            self.tell_close(kind, Some(portal));
        }
        if self.app == App::Accepted {
            for kind in [Kind::AppRejected, Kind::AppSuspect] {
                self.tell_close(kind, None);
            }
        }
    }

    /// Whether what a portal fails for is known to be everybody's trouble, and told as that.
    pub(super) fn is_everybodys(&self) -> bool {
        let known = [Kind::HubspotUnreachable, Kind::ApiVersionRetiring, Kind::RateLimited];
        !self.app.is_open() || known.into_iter().any(|kind| self.book.is_open(kind))
    }

    /// Whether what a portal fails for is told of it by another name: a process that has just begun meets it as a failure
    /// like any other.
    pub(super) fn is_told_otherwise(&self, portal: PortalId, cause: Cause) -> bool {
        let trouble = self.portals.get(portal).and_then(|entry| entry.portal.trouble);
        let told = |kind| self.book.concerns(kind, portal);
        let failing = cause == Cause::Failing;
        told(Kind::PortalUnavailable)
            || (failing && told(Kind::TokenExpired))
            // Whether that is its end is known soon.
            || (failing && trouble == Some(RefusalClass::PortalUnavailable))
    }

    pub(super) fn acknowledge(&mut self, incident: &str, uid: u32) -> Result<(), NotOpen> {
        let now = self.moment();
        if let Some(notice) = self.book.acknowledge(incident, uid, now)? {
            self.announce(&notice);
        }
        Ok(())
    }

    /// Takes up what an earlier process had still to tell.
    pub(super) fn go_on_telling(&mut self, standing: Vec<Standing>) {
        self.book.link_to(self.settings.install_url.clone());
        self.alerting.resume(standing);
    }

    /// Of what an earlier process has told of: what is over, as far as the records and the journal show.
    pub(super) fn tell_what_is_over(&mut self) {
        if !self.overall.without_store {
            let told = Kind::ALL.map(|kind| self.book.portals(kind));
            for portal in told.into_iter().flatten() {
                if self.portals.get(portal).is_none() {
                    self.forget_incidents(portal);
                }
            }
        }
        for kind in [Kind::GrantRevoked, Kind::GrantLost, Kind::PortalUnavailable] {
            self.crowd.knew(self.book.portals(kind));
        }
        let unsaved = self.portals.unsaved();
        for portal in self.book.portals(Kind::GrantUnsaved) {
            if !unsaved.contains(&portal) {
                self.tell_close(Kind::GrantUnsaved, Some(portal));
            }
        }
        if self.book.is_open(Kind::RateLimited) {
            self.throttling = Throttling::going_on(self.world.clock.boot());
        }
        if self.book.is_open(Kind::StoreDenied) {
            // What was denied is tried before it is told to be over.
            self.denied.insert("read_app", 1);
        }
    }
}

impl Handle {
    /// Notes that the caller has taken an incident on: nobody is reminded of it any more.
    ///
    /// # Errors
    /// Not allowed, or no such incident is open.
    pub async fn acknowledge(&self, caller: &Caller, incident: String) -> Result<(), Denial> {
        let (handle, caller) = (self.clone(), caller.clone());
        self.see_through(async move {
            let allowed = handle.rules.load().allow_all(&caller, Right::Admin);
            let asked = Asked { caller: &caller, action: "acknowledge", portal: None };
            handle.begin(&asked, allowed).await?;
            let uid = caller.uid();
            let answer = handle.order(|done| Command::Acknowledge(incident, uid, done)).await;
            let answer = answer.and_then(|open| open.map_err(|NotOpen| Denial::UnknownIncident));
            handle.done(&asked, answer).await
        })
        .await
    }

    /// Sends a test to a receiver of alerts: why it did not take it, if it did not.
    ///
    /// # Errors
    /// Not allowed, or there is no such receiver.
    pub async fn test_alert(
        &self,
        caller: &Caller,
        receiver: String,
    ) -> Result<Result<(), DeliveryError>, Denial> {
        let (handle, caller) = (self.clone(), caller.clone());
        self.see_through(async move {
            let allowed = handle.rules.load().allow_all(&caller, Right::Admin);
            let asked = Asked { caller: &caller, action: "test_alert", portal: None };
            handle.begin(&asked, allowed).await?;
            let answer = handle.order(|done| Command::TestAlert(receiver, done)).await;
            let answer = answer.and_then(|tested| match tested {
                Ok(()) => Ok(Ok(())),
                Err(Untested::NotTaken(error)) => Ok(Err(error)),
                Err(Untested::NoSuch) => Err(Denial::UnknownReceiver),
            });
            handle.done(&asked, answer).await
        })
        .await
    }

    pub(super) async fn order<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, Denial> {
        let (done, heard) = oneshot::channel();
        let sent = self.commands.send(command(done)).await;
        sent.map_err(|_| Denial::NoTokenYet(AGAIN))?;
        match timeout(PATIENCE, heard).await {
            Ok(Ok(answer)) => Ok(answer),
            _ => Err(Denial::TooMany(AGAIN)),
        }
    }

    /// How those do who are told of incidents.
    #[must_use]
    pub fn receivers(&self) -> Vec<Receiver> {
        self.view.receivers.now()
    }
}
