//! What is said of installations by others than HubSpot's OAuth endpoints: an event never ends a grant, it only has the
//! grant looked at, as a validation does (I5). Knows no journal: the [`Poller`] reads that, beside the engine.

use std::{collections::BTreeSet, time::Duration};

use tokio::sync::oneshot;

use super::{Engine, entry::Entry, metrics::ByOutcome, upkeep::Probing};
use crate::{
    lifecycle::{ClientPair, Event, Phase, Refusal, RefusalClass},
    portal::PortalId,
};

mod poller;
mod walk;

pub use poller::Poller;
pub use walk::Read;

/// The word for a grant that HubSpot is asked about.
const ASKED: &str = "asked";
/// Every word for what is done about an event.
pub(super) const OUTCOMES: [&str; 4] = [ASKED, "ended", "paused", "unknown_portal"];

/// What the poller has to say to the engine.
#[derive(Debug)]
pub enum Watching {
    /// It needs the client pair for a request to the token endpoint, which takes its turn like others (I8). Hears
    /// nothing where the pair is refused, or not known yet.
    Lend(oneshot::Sender<ClientPair>),
    /// What the token endpoint said of that pair.
    Refused(Refusal),
    /// What is said to have happened.
    Changes(Changes),
}

/// What is said to have happened, each portal once.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// The app was taken out.
    pub uninstalled: BTreeSet<PortalId>,
    /// The app was installed.
    pub installed: BTreeSet<PortalId>,
    /// And what else happened is not known: everybody is to be asked about.
    pub missed: bool,
}

impl Changes {
    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0 && !self.missed
    }

    pub(super) fn len(&self) -> usize {
        self.uninstalled.len() + self.installed.len()
    }
}

impl Engine {
    pub(super) fn watching(&mut self, said: Watching) {
        match said {
            Watching::Lend(to) => self.errands.lend(to),
            Watching::Refused(refusal) => self.heed_watching(&refusal),
            Watching::Changes(changes) => self.look_into(changes),
        }
    }

    /// It is the token endpoint's limit, and may be everybody's pair. Of HubSpot's health it says nothing: only what is
    /// asked about grants does.
    fn heed_watching(&mut self, refusal: &Refusal) {
        match refusal.class {
            RefusalClass::RateLimited => self.throttled(refusal.retry_after),
            // That the app can't have a token of its own may be called so too: asked about a grant, HubSpot says.
            RefusalClass::AppRefused if self.probing == Probing::No => self.probe(),
            _ => {}
        }
    }

    fn look_into(&mut self, changes: Changes) {
        let Changes { uninstalled, installed, missed } = changes;
        for portal in uninstalled {
            let outcome = self.told_uninstalled(portal);
            if outcome == ASKED {
                tracing::info!(%portal, "HubSpot's webhooks journal says that the app was taken out; asking HubSpot about the grant");
            }
            self.metrics.uninstall_events.get_or_create(&ByOutcome { outcome }).inc();
        }
        for portal in installed {
            // The customer may have consented anew, and another program stored the grant.
            if let Some(entry) = self.portals.get_mut(portal)
                && entry.portal.ended().is_some()
            {
                entry.look_again = true;
                self.look_again(portal);
            }
        }
        if missed {
            let within = self.time_to_ask_all();
            for portal in self.portals.ids() {
                if self.portals.rests(portal) {
                    self.step(portal, Event::AskWithin(within));
                } else {
                    self.portals.reported.insert(portal);
                    self.ask_if_reported(portal);
                }
            }
        }
    }

    /// Has the grant asked about, and says what is done about it in a word.
    fn told_uninstalled(&mut self, portal: PortalId) -> &'static str {
        let Some(entry) = self.portals.get(portal) else { return "unknown_portal" };
        if entry.portal.ended().is_some() {
            return "ended";
        }
        let outcome = if entry.portal.paused { "paused" } else { ASKED };
        self.portals.reported.insert(portal);
        self.ask_if_reported(portal);
        outcome
    }

    /// Asks about a portal that is said to have ended once nothing is in flight for it, since an answer that is on its
    /// way may be older than the news, and once it is not paused.
    pub(super) fn ask_if_reported(&mut self, portal: PortalId) {
        if !self.portals.reported.contains(&portal) {
            return;
        }
        let paused = |entry: &Entry| entry.portal.paused;
        if self.portals.get(portal).is_some_and(paused) {
            return;
        }
        match self.portals.get(portal).map(|entry| entry.portal.phase) {
            Some(Phase::Resting) => {
                self.portals.reported.remove(&portal);
                self.step(portal, Event::AskWithin(Duration::ZERO));
            }
            // What waits for its turn will be newer than the news.
            None | Some(Phase::Ended(_) | Phase::Queued | Phase::Asking(_)) => {
                self.portals.reported.remove(&portal);
            }
            Some(_) => {}
        }
    }
}
