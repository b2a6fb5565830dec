//! What is not about one portal: how HubSpot takes the client pair, how HubSpot and the store answer,
//! reading the records again, and telling people.

use std::time::Duration;

use super::{
    Engine,
    metrics::ByStoreCall,
    work::{Report, Sample},
};
use crate::{
    incident::Kind,
    journal::{Entry, Provider},
    lifecycle::{
        App, Budget, Change, ClientPair, Event, Introspection, Probe, RefreshMode, Refusal,
        RefusalClass,
    },
    portal::{ClientId, PortalId},
    store::{StoreError, StoreErrorKind},
    time::BootTime,
};

/// HubSpot counts as unreachable after this long without an answer, and this many failures.
const HUBSPOT_GONE: (Duration, u32) = (Duration::from_secs(10), 3);

/// How often HubSpot is asked while it is out. A token that was due when an outage of ten minutes began
/// has seven seconds left when it ends.
const OUTAGE_PROBE: Duration = Duration::from_secs(3);
/// As many answers that can't be understood, and none between them that can, are not one portal's.
const IN_A_ROW: u32 = 3;
/// What people should know while a wrong pair stands in the store.
const REFUSED_RECORD: &str = "the app's record in the store holds a client id and secret that HubSpot refuses; the pair from before goes on being used, and the next start will be refused: correct the record";
/// How often it is looked at what the rate carries.
const BUDGET_EVERY: Duration = Duration::from_secs(60);

/// What HubSpot was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Question {
    /// Something about a portal.
    Of(PortalId),
    /// By somebody's order.
    Order,
    /// By the probe.
    Probe,
}

/// HubSpot gives no useful answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Failing {
    since: BootTime,
    /// The portal that it was first met with, if it was one.
    portal: Option<PortalId>,
}

/// Whether a probe of the client pair is under way, and whether another was asked for meanwhile: the
/// record may have changed after the one under way had read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Probing {
    #[default]
    No,
    Yes,
    YesAndAgain,
}

impl Engine {
    pub(super) fn app_accepted(&mut self) {
        let before = self.app;
        self.app = self.app.accepted();
        self.overall_changed |= before != self.app;
    }

    pub(super) fn app_refused(&mut self) {
        let (app, change) = self.app.refused();
        self.change_app(app, change, None);
    }

    pub(super) fn app_suspected(&mut self) {
        let now = self.world.clock.boot();
        let (app, change) = self.app.suspected(now, self.chance.draw());
        self.change_app(app, change, None);
    }

    fn change_app(&mut self, app: App, change: Change, word: Option<&str>) {
        self.overall_changed |= self.app != app;
        self.app = app;
        match change {
            Change::None => {}
            Change::ProbeNow => self.probe(),
            Change::Refused => {
                // Now the cause is known.
                self.tell_close(Kind::AppSuspect, None);
                self.tell_open(Kind::AppRejected, None, word);
            }
            Change::Suspect => self.tell_open(Kind::AppSuspect, None, word),
            Change::Open => {
                if self.tell_close(Kind::AppSuspect, None) {
                    self.crowd.cleared(self.world.clock.boot());
                }
                self.tell_close(Kind::AppRejected, None);
            }
        }
    }

    pub(super) fn probe(&mut self) {
        if self.probing != Probing::No {
            self.probing = Probing::YesAndAgain;
            return;
        }
        self.probing = Probing::Yes;
        // What the one meets that fails may be its own.
        let but = self.hubspot_failing.and_then(|failing| failing.portal);
        let sample = self.portals.sample(but).and_then(|portal| {
            let entry = self.portals.get(portal)?;
            let token = entry.refresh_token()?.clone();
            Some(Sample { portal, token, is_unsaved: entry.unsaved.is_some() })
        });
        self.tasks.spawn(self.world.clone().probe(self.pair.clone(), sample));
    }

    pub(super) fn probed(
        &mut self,
        pair: Result<ClientPair, StoreError>,
        verdict: &Result<Introspection, Refusal>,
        record_refused: bool,
    ) {
        if self.record_refused != record_refused {
            self.record_refused = record_refused;
            self.budget_due = self.world.clock.boot();
            if record_refused {
                tracing::warn!("{REFUSED_RECORD}");
            }
        }
        let again = std::mem::take(&mut self.probing) == Probing::YesAndAgain;
        self.note_store("read_app", pair.as_ref().err());
        // Without a pair nobody was asked.
        if pair.is_ok() || self.pair.is_some() {
            self.note_hubspot(verdict.as_ref().err(), Question::Probe);
        }
        let of_another = |client: &ClientId| pair.as_ref().is_ok_and(|p| p.client_id != *client);
        let probe = match verdict {
            // Whose pair that is nobody knows; it is not this app's.
            Ok(Introspection::Active { client_id: Some(id), .. }) if of_another(id) => {
                tracing::warn!("a grant in the store is another app's, or the client pair is");
                Probe::NotTold
            }
            Ok(Introspection::Active { .. }) => Probe::GrantGood,
            Ok(Introspection::Inactive) => Probe::Accepted,
            Err(refusal) if refusal.class == RefusalClass::AppRefused => Probe::Refused,
            Err(_) => Probe::NotTold,
        };
        let stored = pair.as_ref().ok().filter(|_| !record_refused).cloned();
        if let (Ok(pair), Probe::Accepted | Probe::GrantGood) = (pair, probe) {
            if self.pair.as_ref().is_some_and(|known| !pair.same_as(known)) {
                let fingerprint = pair.client_secret.fingerprint();
                tracing::info!(secret = %fingerprint, "the app's new client pair is proven and in use");
            }
            self.use_pair(pair);
        }
        let now = self.world.clock.boot();
        self.outage_probe = now + OUTAGE_PROBE;
        let (app, change) = self.app.probed(probe, now, self.chance.draw());
        let word = verdict.as_ref().err().and_then(|refusal| refusal.word);
        self.change_app(app, change, word);
        // What an earlier process told of, this one may never have met.
        if self.app == App::Accepted {
            self.tell_close(Kind::AppRejected, None);
            if probe == Probe::GrantGood {
                self.tell_close(Kind::AppSuspect, None);
            }
        }
        if again && !self.draining {
            self.probe();
        } else {
            let used = self.pair.as_ref();
            let follows = stored.is_some_and(|stored| used.is_some_and(|p| p.same_as(&stored)));
            self.reload.proven(follows);
        }
    }

    /// While HubSpot is known to be out, it is asked often enough that the tokens which had just been due
    /// when it went are renewed before they end.
    pub(super) fn outage_probe_due(&self) -> Option<BootTime> {
        let out = self.book.is_open(Kind::HubspotUnreachable) && self.probing == Probing::No;
        out.then_some(self.outage_probe)
    }

    /// What an answer says of the provider.
    pub(super) fn learn(&mut self, rotated: bool, life: Duration) {
        self.life = life;
        let before = self.rotation;
        self.rotation = before.answered(rotated);
        if before != self.rotation {
            if rotated && !before.is_possible() {
                tracing::warn!(
                    "HubSpot has begun to replace refresh tokens; from now on no spend is repeated without asking first"
                );
            }
            self.remember_provider();
        }
    }

    pub(super) fn remember_provider(&self) {
        self.world.journal.note(self.provider_line());
    }

    fn provider_line(&self) -> Entry {
        Entry::Provider(Provider { rotation: self.rotation, rate: self.rate.expected() })
    }

    /// Somebody may have made room: it is not waited until the next refresh finds out.
    pub(super) fn try_journal(&mut self) {
        if self.book.is_open(Kind::JournalFailing) {
            let kept = self.world.journal.keep_in_order(self.provider_line());
            self.tasks.spawn(async move { Report::JournalTried { durable: kept.await } });
        }
    }

    /// Whether the journal took what it was given.
    pub(super) fn note_journal(&mut self, durable: bool) {
        if durable {
            if self.tell_close(Kind::JournalFailing, None) {
                for portal in self.portals.ids() {
                    self.step(portal, Event::JournalBack);
                }
            }
        } else {
            self.tell_open(Kind::JournalFailing, None, None);
        }
    }

    /// What the rate carries, and the mode that follows from it. Said where it changes.
    pub(super) fn follow_budget(&mut self) {
        let now = self.world.clock.boot();
        self.budget_due = now + BUDGET_EVERY;
        let policy = self.settings.refresh;
        let budget = Budget {
            per_second: self.rate.sustained(now),
            ceiling: self.settings.max_requests_per_second,
            calm: self.rate.is_calm(now),
            portals: self.portals.going(),
            recent: self.portals.recent(now, policy.recent_window),
            life: self.life,
            at: policy.at,
        };
        let mode = budget.mode(&policy, self.mode);
        let mut remarks = self.world.store.remarks();
        if self.record_refused {
            remarks.push(REFUSED_RECORD.to_owned());
        }
        self.overall_changed |= self.overall.store_remarks != remarks;
        self.overall.store_remarks = remarks;
        self.overall_changed |= self.overall.budget != budget;
        let former = std::mem::replace(&mut self.overall.budget, budget);
        let carried = |budget: &Budget| budget.portals <= budget.carries();
        if policy.mode == RefreshMode::Eager && carried(&former) && !carried(&budget) {
            tracing::warn!(%budget, "more portals than the rate keeps warm, and refresh.mode is eager");
        }
        let before = std::mem::replace(&mut self.mode, mode);
        if before != mode {
            self.overall_changed = true;
            if before == RefreshMode::Auto {
                tracing::info!(mode = mode.as_str(), "{budget}");
            } else {
                tracing::warn!(was = before.as_str(), is = mode.as_str(), %budget, "the refresh mode has changed");
                self.portals.wake_all(now);
            }
        }
        self.tell_of_throttling(now);
        self.follow_rotation();
    }

    /// What a refresh says of the API version in use.
    pub(super) fn note_version(&mut self, refusal: Option<&Refusal>) {
        match refusal.map(|refusal| refusal.class) {
            Some(class @ (RefusalClass::ApiRetired | RefusalClass::NotUnderstood)) => {
                self.not_understood += 1;
                // One such answer may be a proxy's.
                if self.not_understood >= IN_A_ROW {
                    self.tell_open(Kind::ApiVersionRetiring, None, Some(class.as_str()));
                }
            }
            None => {
                self.not_understood = 0;
                self.tell_close(Kind::ApiVersionRetiring, None);
            }
            Some(_) => {}
        }
    }

    /// How HubSpot answered, to a question about a portal or to the probe.
    pub(super) fn note_hubspot(&mut self, refusal: Option<&Refusal>, asked: Question) {
        let now = self.world.clock.boot();
        let silent = refusal.filter(|refusal| {
            use RefusalClass::{AnswerLost, Outage, Unreachable};
            matches!(refusal.class, Outage | Unreachable | AnswerLost)
        });
        let Some(refusal) = silent else {
            let throttled = refusal.is_some_and(|r| r.class == RefusalClass::RateLimited);
            if !throttled {
                self.not_throttled();
            }
            if self.hubspot_failing.take().is_some() && self.overall.hubspot.failures > 1 {
                tracing::info!("HubSpot answers again");
            }
            self.overall_changed |= !self.overall.hubspot.ok;
            self.overall.hubspot.good();
            self.overall.hubspot.trouble = throttled.then_some("rate_limited");
            // Only after a declared outage: one portal's failures are its own.
            if self.tell_close(Kind::HubspotUnreachable, None) {
                for portal in self.portals.ids() {
                    self.queue.excuse(portal);
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
        let portal = if let Question::Of(portal) = asked { Some(portal) } else { None };
        let Failing { since, .. } =
            *self.hubspot_failing.get_or_insert(Failing { since: now, portal });
        self.overall.hubspot.bad(refusal.class.as_str());
        self.overall_changed = true;
        let (long, often) = HUBSPOT_GONE;
        if now.since(since) < long || self.overall.hubspot.failures < often {
            return;
        }
        // What one portal meets may be its own: before it is called everybody's, another is asked about.
        if asked != Question::Probe && !self.book.is_open(Kind::HubspotUnreachable) {
            if self.probing == Probing::No {
                self.probe();
            }
        } else {
            self.tell_open(Kind::HubspotUnreachable, None, Some(refusal.class.as_str()));
        }
    }

    pub(super) fn note_store(&mut self, op: &'static str, error: Option<&StoreError>) {
        let outcome = error.map_or("ok", |error| error.kind.as_str());
        let store = self.world.store.kind();
        self.metrics.store_requests.get_or_create(&ByStoreCall { store, op, outcome }).inc();
        let troubles = |error: &&StoreError| {
            use StoreErrorKind::{Compromised, Denied, Misconfigured, Unreachable};
            matches!(error.kind, Unreachable | Denied | Misconfigured | Compromised)
        };
        let was_ok = self.overall.store.ok;
        if let Some(error) = error.filter(troubles) {
            self.overall.store.bad(error.kind.as_str());
            if error.kind != StoreErrorKind::Unreachable {
                let times = self.denied.entry(op).or_default();
                *times += 1;
                // One record may be shut to us by itself.
                if *times >= 2 || error.kind == StoreErrorKind::Compromised {
                    let detail = match error.kind {
                        kind @ StoreErrorKind::Compromised => kind.as_str(),
                        _ => &error.what,
                    };
                    self.tell_open(Kind::StoreDenied, None, Some(detail));
                }
            } else if self.overall.store.failures >= 2 {
                self.tell_open(Kind::StoreUnreachable, None, Some(&error.what));
            }
            self.overall_changed = true;
        } else {
            self.tell_close(Kind::StoreUnreachable, None);
            // Who may read may not be allowed to write.
            let was_denied = self.denied.remove(op).is_some();
            if self.denied.is_empty() {
                self.overall.store.good();
                if was_denied {
                    self.tell_close(Kind::StoreDenied, None);
                }
            }
            self.overall_changed |= !was_ok;
        }
    }

    /// The pair is the one in use, also to know HubSpot's signatures by.
    pub(super) fn use_pair(&mut self, pair: ClientPair) {
        self.pair = Some(pair);
        self.follow_rotation();
    }
}
