//! What is not about one portal: how HubSpot takes the client pair, how HubSpot and the store answer,
//! reading the records again, and telling people.

use std::time::Duration;

use tokio::sync::oneshot;

use super::{Engine, load, metrics::ByStoreCall, portals::Stamps};
use crate::{
    incident::Kind,
    lifecycle::{Change, ClientPair, Event, Probe, Refusal, RefusalClass},
    portal::PortalId,
    store::{StoreError, StoreErrorKind},
    time::{Backoff, BootTime},
};

/// HubSpot counts as unreachable after this long without an answer, and this many failures.
const HUBSPOT_GONE: (Duration, u32) = (Duration::from_secs(10), 3);

/// Whether a probe of the client pair is under way, and whether another was asked for meanwhile: the
/// record may have changed after the one under way had read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Probing {
    #[default]
    No,
    Yes,
    YesAndAgain,
}

/// The reading of all records: when the next is due, and who waits for one.
#[derive(Debug)]
pub(super) struct Reload {
    pub(super) due: BootTime,
    pub(super) running: bool,
    pub(super) again: bool,
    pub(super) waiting: Vec<oneshot::Sender<Result<(), StoreErrorKind>>>,
}

impl Reload {
    fn answer(&mut self, outcome: Result<(), StoreErrorKind>) {
        for waiting in self.waiting.drain(..) {
            // Whoever asked may have gone.
            waiting.send(outcome).ok();
        }
    }
}

impl Engine {
    pub(super) fn app_accepted(&mut self) {
        let before = self.app;
        self.app = self.app.accepted();
        self.overall_changed |= before != self.app;
    }

    pub(super) fn app_refused(&mut self) {
        let (app, change) = self.app.refused();
        self.app = app;
        self.overall_changed = true;
        if change == Change::ProbeNow {
            self.probe();
        }
    }

    pub(super) fn probe(&mut self) {
        if self.probing != Probing::No {
            self.probing = Probing::YesAndAgain;
            return;
        }
        self.probing = Probing::Yes;
        let token = self.portals.any_token();
        self.tasks.spawn(self.world.clone().probe(self.pair.clone(), token));
    }

    pub(super) fn probed(
        &mut self,
        pair: Result<ClientPair, StoreError>,
        verdict: &Result<(), Refusal>,
    ) {
        let again = std::mem::take(&mut self.probing) == Probing::YesAndAgain;
        self.note_store("read", pair.as_ref().err());
        self.note_hubspot(verdict.as_ref().err());
        let probe = match verdict {
            Ok(()) => Probe::Accepted,
            Err(refusal) if refusal.class == RefusalClass::AppRefused => Probe::Refused,
            Err(_) => Probe::NotTold,
        };
        if let (Ok(pair), Probe::Accepted) = (pair, probe) {
            if !pair.same_as(&self.pair) {
                let fingerprint = pair.client_secret.fingerprint();
                tracing::info!(secret = %fingerprint, "the app's new client pair is proven and in use");
            }
            self.pair = pair;
        }
        let now = self.world.clock.boot();
        let (app, change) = self.app.probed(probe, now, self.chance.draw());
        self.app = app;
        self.overall_changed = true;
        match change {
            Change::Open => {
                let word = verdict.as_ref().err().and_then(|refusal| refusal.word);
                self.tell_open(Kind::AppRejected, None, word);
            }
            Change::Close => drop(self.tell_close(Kind::AppRejected, None)),
            Change::ProbeNow | Change::None => {}
        }
        if again && !self.draining {
            self.probe();
        } else if !self.reload.running {
            self.reload.answer(Ok(()));
        }
    }

    pub(super) fn reload(&mut self) {
        if self.reload.running || self.draining {
            return;
        }
        self.reload.running = true;
        self.reload.due = self.world.clock.boot() + self.settings.validate.every;
        let stamps = self.portals.stamps();
        self.tasks.spawn(self.world.clone().reload(stamps));
    }

    pub(super) fn reloaded(
        &mut self,
        pair: &Result<ClientPair, StoreError>,
        portals: Result<(load::Portals, Vec<String>), StoreError>,
        stamps: &Stamps,
    ) {
        self.reload.running = false;
        let trouble = pair.as_ref().err().or_else(|| portals.as_ref().err());
        let outcome = trouble.map_or(Ok(()), |error| Err(error.kind));
        if let Some(error) = trouble {
            tracing::warn!(%error, hint = %error.hint, "records could not be read again; going on with those in memory");
            let again = Backoff::new(Duration::from_secs(5), Duration::from_secs(300), 0.2);
            let wait = again.map_or(self.settings.validate.every, |backoff| {
                backoff.after(self.overall.store.failures + 1, self.chance.draw())
            });
            self.reload.due = self.world.clock.boot() + wait.min(self.settings.validate.every);
        }
        self.note_store("list", trouble);
        if let Ok((records, strays)) = portals {
            self.overall.strays = strays;
            self.overall.records_read = Some(self.world.clock.wall_at(self.world.clock.boot()));
            self.overall_changed = true;
            self.take_records(records, Some(stamps));
        }
        // Who waits for the reload waits for the pair to be proven as well.
        if pair.is_ok() && !self.draining {
            self.probe();
        }
        if pair.is_err() || outcome.is_err() || self.draining {
            self.reload.answer(outcome);
        }
        if std::mem::take(&mut self.reload.again) {
            self.reload();
        }
    }

    pub(super) fn note_hubspot(&mut self, refusal: Option<&Refusal>) {
        let now = self.world.clock.boot();
        let silent = refusal.filter(|refusal| {
            use RefusalClass::{AnswerLost, Outage, Unreachable};
            matches!(refusal.class, Outage | Unreachable | AnswerLost)
        });
        let Some(refusal) = silent else {
            if self.hubspot_failing_since.take().is_some() && self.overall.hubspot.failures > 1 {
                tracing::info!("HubSpot answers again");
            }
            self.overall_changed |= !self.overall.hubspot.ok;
            self.overall.hubspot.good();
            // Only after a declared outage: one portal's failures are its own.
            if self.tell_close(Kind::HubspotUnreachable, None) {
                for portal in self.portals.ids() {
                    self.step(portal, Event::HubSpotBack);
                }
            }
            return;
        };
        if self.overall.hubspot.failures == 1 {
            let trouble = refusal.class.as_str();
            tracing::warn!(
                trouble,
                http = refusal.http,
                "HubSpot gave no useful answer, twice in a row"
            );
        }
        let since = *self.hubspot_failing_since.get_or_insert(now);
        self.overall.hubspot.bad(refusal.class.as_str());
        self.overall_changed = true;
        let (long, often) = HUBSPOT_GONE;
        if now.since(since) >= long && self.overall.hubspot.failures >= often {
            self.tell_open(Kind::HubspotUnreachable, None, Some(refusal.class.as_str()));
        }
    }

    pub(super) fn note_store(&mut self, op: &'static str, error: Option<&StoreError>) {
        let outcome = error.map_or("ok", |error| error.kind.as_str());
        let store = self.world.store.kind();
        self.metrics.store_requests.get_or_create(&ByStoreCall { store, op, outcome }).inc();
        let troubles = |error: &&StoreError| {
            use StoreErrorKind::{Denied, Misconfigured, Unreachable};
            matches!(error.kind, Unreachable | Denied | Misconfigured)
        };
        let was_ok = self.overall.store.ok;
        if let Some(error) = error.filter(troubles) {
            self.overall.store.bad(error.kind.as_str());
            if error.kind != StoreErrorKind::Unreachable {
                self.tell_open(Kind::StoreDenied, None, Some(error.kind.as_str()));
            } else if self.overall.store.failures == 2 {
                self.tell_open(Kind::StoreUnreachable, None, None);
            }
            self.overall_changed = true;
        } else {
            self.overall.store.good();
            self.tell_close(Kind::StoreUnreachable, None);
            self.tell_close(Kind::StoreDenied, None);
            self.overall_changed |= !was_ok;
        }
    }

    pub(super) fn tell_open(&mut self, kind: Kind, portal: Option<PortalId>, detail: Option<&str>) {
        let affected = if portal.is_none() { self.portals.ids() } else { Vec::new() };
        let at = self.world.clock.wall_at(self.world.clock.boot());
        if let Some(notice) = self.book.open(kind, portal, detail, &affected, at) {
            self.alerting.tell(&notice);
            self.overall_changed = true;
        }
    }

    /// Says whether it was open.
    pub(super) fn tell_close(&mut self, kind: Kind, portal: Option<PortalId>) -> bool {
        let at = self.world.clock.wall_at(self.world.clock.boot());
        let Some(notice) = self.book.close(kind, portal, at) else { return false };
        self.alerting.tell(&notice);
        self.overall_changed = true;
        true
    }
}
