//! One portal's refresh with the client secret that is staged, before everybody's depends on it: a real refresh, with
//! intent, answer and store as always, of a portal that is well. Refused, it costs that portal one try.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::{sync::oneshot, time::sleep};

use super::{Command, Denial, Engine, Handle, asked::Asked, load::load_app, work::Report};
use crate::{
    access::{Caller, Right},
    lifecycle::{App, ClientPair, Event, Phase, Portal, Refusal, RefusalClass},
    portal::PortalId,
    store::StoreError,
    time::BootTime,
};

/// A try that has not come about by then counts for nothing.
const PATIENCE: Duration = Duration::from_secs(45);

const NONE: &str = "no portal has a token that lives";
const THEIR_OWN: &str = "each portal that was tried has trouble of its own";
const BUSY: &str = "no portal is well and at rest";
/// Until one is, it is looked again so often, and so many times.
const AGAIN: Duration = Duration::from_millis(500);
const LOOKS: u32 = 10;
/// So many portals are tried, where each has trouble of its own.
const PORTALS: usize = 3;
const CLOSED: &str = "the client secret in use is refused, so that nothing is refreshed";
const SUSPECT: &str = "most grants are refused at present, so that nothing is refreshed";

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tried {
    /// HubSpot gave this portal a token.
    Accepted(PortalId),
    /// HubSpot refused, or did not answer.
    Refused(PortalId, Refusal),
    /// There is nobody to try it on, and why: that doesn't pass by itself.
    Nobody(&'static str),
    /// Nobody could be tried at present, and why: so nothing is known.
    NotNow(&'static str),
}

/// Why no portal is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Untried {
    Nobody(&'static str),
    NotNow(&'static str),
    /// It is worth another look; and whether any portal has a token that lives.
    Busy {
        live: bool,
    },
}

impl Untried {
    /// What is answered where no more looks are left.
    const fn told(self) -> Tried {
        match self {
            Self::Nobody(why) => Tried::Nobody(why),
            Self::NotNow(why) => Tried::NotNow(why),
            Self::Busy { live: true } => Tried::NotNow(BUSY),
            Self::Busy { live: false } => Tried::Nobody(NONE),
        }
    }

    /// Why nothing is tried for good, while HubSpot takes the app like this.
    const fn by(app: &App) -> Option<Self> {
        match app {
            App::Refused(_) => Some(Self::Nobody(CLOSED)),
            App::Suspect(_) => Some(Self::NotNow(SUSPECT)),
            // Doubt ends within moments.
            App::Unproven | App::Accepted | App::Doubted => None,
        }
    }
}

/// The one that is under way.
#[derive(Debug)]
pub(super) struct Canary {
    portal: PortalId,
    pair: ClientPair,
    /// The portal's refresh has gone out with it.
    sent: bool,
    /// Those that could not say, for reasons of their own.
    tried: BTreeSet<PortalId>,
    until: BootTime,
    done: oneshot::Sender<Tried>,
}

/// Who wants to know, and what was tried for them.
#[derive(Debug)]
pub(super) struct Wish {
    done: oneshot::Sender<Tried>,
    /// As many looks are left for a portal that is well and at rest.
    looks: u32,
    /// Then nobody waits for it any more.
    until: BootTime,
    tried: BTreeSet<PortalId>,
}

impl Engine {
    /// The record is read first: what is staged may be younger than what was read last.
    pub(super) fn begin_canary(&mut self, done: oneshot::Sender<Tried>) {
        let store = Arc::clone(&self.world.store);
        let until = self.world.clock.boot() + PATIENCE;
        let wish = Wish { done, looks: LOOKS, until, tried: BTreeSet::new() };
        self.tasks.spawn(async move { Report::Staged { pair: load_app(&*store).await, wish } });
    }

    pub(super) fn staged(&mut self, pair: Result<ClientPair, StoreError>, wish: Wish) {
        let Wish { done, looks, until, tried } = wish;
        if let Ok(pair) = &pair
            && looks == LOOKS
            && tried.is_empty()
        {
            // It was read just now, and webhooks may be signed with what is staged from now on.
            self.take_up(pair);
        }
        match self.canary_of(&pair, &tried) {
            Ok((portal, pair)) => {
                self.watched.canary =
                    Some(Canary { portal, pair, sent: false, tried, until, done });
                self.portals.wanted(portal);
                self.step(portal, Event::Wanted);
                self.queue.hurry(portal);
            }
            // Each may have been refreshed within the last second, and none is twice.
            Err(Untried::Busy { .. }) if looks > 0 => {
                self.tasks.spawn(async move {
                    sleep(AGAIN).await;
                    Report::Staged { pair, wish: Wish { done, looks: looks - 1, until, tried } }
                });
            }
            Err(why) => {
                let why = if tried.is_empty() { why } else { Untried::NotNow(THEIR_OWN) };
                // Who asked may be gone.
                done.send(why.told()).ok();
            }
        }
    }

    fn canary_of(
        &self,
        pair: &Result<ClientPair, StoreError>,
        tried: &BTreeSet<PortalId>,
    ) -> Result<(PortalId, ClientPair), Untried> {
        let pair = pair.as_ref().map_err(|_| Untried::NotNow("the app's record can't be read"))?;
        let next = pair.further.next.clone();
        let next = next.ok_or(Untried::NotNow("no new client secret is staged"))?;
        let now = self.world.clock.boot();
        if self.watched.canary.as_ref().is_some_and(|one| one.until > now && !one.done.is_closed())
        {
            return Err(Untried::NotNow("another try is under way"));
        }
        if let Some(why) = Untried::by(&self.app) {
            return Err(why);
        }
        let untried: Vec<_> =
            self.portals.ids().into_iter().filter(|id| !tried.contains(id)).collect();
        let portal = |id: &PortalId| self.portals.get(*id).map(|entry| &entry.portal);
        let fit = |id: &&PortalId| portal(id).is_some_and(|portal| is_fit(portal, now));
        match untried.iter().find(fit) {
            Some(id) if self.app.is_open() => {
                Ok((*id, ClientPair { client_secret: next, ..pair.clone() }))
            }
            _ => {
                let live = untried.iter().filter_map(portal).any(|portal| is_live(portal, now));
                Err(Untried::Busy { live })
            }
        }
    }

    /// The pair with which a portal's refresh goes out, if it is the one that is tried.
    pub(super) fn canary_pair(&mut self, portal: PortalId) -> Option<ClientPair> {
        let now = self.world.clock.boot();
        let canary =
            self.watched.canary.as_mut().filter(|one| one.portal == portal && one.until > now)?;
        canary.sent = true;
        Some(canary.pair.clone())
    }

    /// What HubSpot said to a portal's refresh.
    pub(super) fn note_canary(&mut self, portal: PortalId, refusal: Option<&Refusal>) {
        let sent = |canary: &mut Canary| canary.portal == portal && canary.sent;
        let Some(Canary { pair, mut tried, until, done, .. }) = self.watched.canary.take_if(sent)
        else {
            return;
        };
        let own = refusal.is_some_and(|refusal| is_its_own(refusal.class));
        if own && tried.len() + 1 < PORTALS {
            // That customer's grant has its own trouble, which says nothing of the secret.
            tried.insert(portal);
            return self.staged(Ok(pair), Wish { done, looks: LOOKS, until, tried });
        }
        let tried = match refusal {
            None => Tried::Accepted(portal),
            Some(refusal) => Tried::Refused(portal, refusal.clone()),
        };
        // Who asked may be gone.
        done.send(tried).ok();
    }

    /// What has not been sent in time, or can't be any more, is answered.
    pub(super) fn end_canary(&mut self, now: BootTime) {
        let shut = Untried::by(&self.app);
        let over = |canary: &mut Canary| !canary.sent && (canary.until <= now || shut.is_some());
        if let Some(canary) = self.watched.canary.take_if(over) {
            let why = shut.unwrap_or(Untried::NotNow("HubSpot could not be asked in time"));
            canary.done.send(why.told()).ok();
        }
    }
}

/// Whether a portal's token is served and renewed, now or in a while.
fn is_live(portal: &Portal, now: BootTime) -> bool {
    let served = portal.token.is_some_and(|token| !token.left(now).is_zero());
    served && !portal.paused && portal.ended().is_none()
}

/// Whether a portal can be tried now.
fn is_fit(portal: &Portal, now: BootTime) -> bool {
    let well = portal.failures == 0 && !portal.in_doubt;
    let rests = portal.phase == Phase::Resting && portal.not_before <= now;
    is_live(portal, now) && well && rests
}

/// Refusals that are a matter of one grant.
const fn is_its_own(class: RefusalClass) -> bool {
    use RefusalClass::{GrantMismatched, GrantRefused, Migrating, PortalUnavailable};
    matches!(class, GrantRefused | GrantMismatched | PortalUnavailable | Migrating)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        lifecycle::Probe,
        time::{Clock, SystemClock},
    };

    #[test]
    fn nobody_to_try_it_on_is_told_apart_from_nobody_who_can_be_tried_at_present() {
        assert_eq!(Untried::Busy { live: true }.told(), Tried::NotNow(BUSY));
        assert_eq!(Untried::Busy { live: false }.told(), Tried::Nobody(NONE));
        let now = SystemClock.boot();
        let (refused, _) = App::Doubted.probed(Probe::Refused, now, 0.0);
        assert_eq!(Untried::by(&refused), Some(Untried::Nobody(CLOSED)));
        let (suspect, _) = App::Accepted.suspected(now, 0.0);
        assert_eq!(Untried::by(&suspect), Some(Untried::NotNow(SUSPECT)));
        assert_eq!(Untried::by(&App::Doubted), None, "it ends within moments");
    }
}
