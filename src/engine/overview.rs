//! What the engine tells of itself: states, readiness, counts. Reads what is published, waits for
//! nobody, and takes a caller wherever it is about portals.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;

use super::{
    Denial, Handle,
    asked::Asked,
    handle::permit,
    metrics::{ByKind, ByState},
    view::{Health, Overall, PortalView},
};
use crate::{
    access::{Caller, Right},
    incident::{Kind, Severity},
    lifecycle::{App, OnStart, PortalState, RefreshMode},
    portal::PortalId,
};

/// A page of portals.
#[derive(Debug, Clone)]
pub struct Page {
    /// The portals, ascending.
    pub portals: Vec<(PortalId, Arc<PortalView>)>,
    /// Where the next page starts, if there is one.
    pub next: Option<PortalId>,
}

/// Whether the service does its job, and if not, why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Readiness {
    /// Reasons against, as stable words; none means ready.
    pub reasons: Vec<&'static str>,
    /// Remarks that do not count against.
    pub remarks: Vec<String>,
}

/// What is open, without whom it concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trouble {
    /// What kind.
    pub kind: Kind,
    /// How bad.
    pub severity: Severity,
    /// How many portals.
    pub portals: usize,
    /// When it was noticed.
    pub since: Timestamp,
}

/// How everything is, in words and counts: nothing that a right would be needed for.
#[derive(Debug, Clone)]
pub struct Outline {
    /// How HubSpot takes the client pair.
    pub app: App,
    /// The store.
    pub store: Health,
    /// HubSpot.
    pub hubspot: Health,
    /// The refresh mode in force.
    pub mode: RefreshMode,
    /// Open incidents.
    pub open: Vec<Trouble>,
}

impl Handle {
    /// One portal's state.
    ///
    /// # Errors
    /// Not allowed, or no such portal.
    pub async fn portal(
        &self,
        caller: &Caller,
        portal: PortalId,
    ) -> Result<Arc<PortalView>, Denial> {
        let found = permit(self.rules.load().allow(caller, Right::Status, portal));
        let found = found.and_then(|()| self.view.slot(portal).ok_or_else(|| self.unknown()));
        let asked = Asked { caller, action: "portal", portal: Some(portal) };
        self.told(&asked, None, found.map(|slot| slot.now())).await
    }

    /// The portals the caller may see, in state `state` if one is named, after `after`, at most `limit`.
    ///
    /// # Errors
    /// The caller may see none.
    pub async fn portals(
        &self,
        caller: &Caller,
        state: Option<PortalState>,
        after: Option<PortalId>,
        limit: usize,
    ) -> Result<Page, Denial> {
        let page = self.page(caller, state, after, limit);
        self.told(&Asked { caller, action: "portals", portal: None }, None, page).await
    }

    fn page(
        &self,
        caller: &Caller,
        state: Option<PortalState>,
        after: Option<PortalId>,
        limit: usize,
    ) -> Result<Page, Denial> {
        let rules = self.rules.load();
        permit(rules.allow_any(caller, Right::Status))?;
        let (now, open) = (self.clock.boot(), self.view.overall.load().app.is_open());
        let slots = self.view.portals.load();
        let from = after.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        let mut portals = Vec::new();
        for (id, slot) in slots.range((from, std::ops::Bound::Unbounded)) {
            let view = slot.now();
            let wanted = state.is_none_or(|state| view.portal.state(now, open) == state);
            if !wanted || !rules.allow(caller, Right::Status, *id) {
                continue;
            }
            if portals.len() == limit {
                let next = portals.last().map(|(id, _): &(PortalId, _)| *id);
                return Ok(Page { portals, next });
            }
            portals.push((*id, view));
        }
        Ok(Page { portals, next: None })
    }

    /// Everything that is not about one portal.
    ///
    /// # Errors
    /// The caller may not see all portals.
    pub async fn overall(&self, caller: &Caller) -> Result<Arc<Overall>, Denial> {
        let allowed = permit(self.rules.load().allow_all(caller, Right::Status));
        let answer = allowed.map(|()| self.view.overall.load_full());
        self.told(&Asked { caller, action: "status", portal: None }, None, answer).await
    }

    /// What is worth a word and names records: for who may see all.
    #[must_use]
    pub fn details(&self) -> Vec<String> {
        let overall = self.view.overall.load();
        let store = overall.store_remarks.iter().cloned();
        let strays = overall.strays.iter().map(|name| {
            format!(
                "the store has a record named {name:?} among the portals; a portal id is digits only"
            )
        });
        store.chain(strays).collect()
    }

    /// How everything is. Told to anybody, so no portal is named.
    #[must_use]
    pub fn outline(&self) -> Outline {
        let overall = self.view.overall.load();
        let open = overall.incidents.iter().map(|incident| Trouble {
            kind: incident.kind,
            severity: incident.severity,
            portals: incident.portal_count,
            since: incident.since,
        });
        Outline {
            app: overall.app,
            store: overall.store.clone(),
            hubspot: overall.hubspot.clone(),
            mode: overall.mode,
            open: open.collect(),
        }
    }

    /// Whether the journal does not take what it is given.
    #[must_use]
    pub fn journal_fails(&self) -> bool {
        self.view.overall.load().journal_fails()
    }

    /// The portals whose new refresh token the store has not taken.
    #[must_use]
    pub fn unsaved(&self) -> Vec<PortalId> {
        let slots = self.view.portals.load();
        let unsaved = slots.iter().filter(|(_, slot)| slot.now().portal.save_at.is_some());
        unsaved.map(|(portal, _)| *portal).collect()
    }

    /// How many portals are in each state.
    #[must_use]
    pub fn census(&self) -> Vec<(PortalState, usize)> {
        let (now, open) = (self.clock.boot(), self.view.overall.load().app.is_open());
        let slots = self.view.portals.load();
        let states: Vec<_> =
            slots.values().map(|slot| slot.now().portal.state(now, open)).collect();
        let count = |state| (state, states.iter().filter(|s| **s == state).count());
        PortalState::ALL.into_iter().map(count).collect()
    }

    /// Whether the service does its job. Asked by probes, which nobody is denied: it tells words
    /// and counts only.
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        let (now, overall) = (self.clock.boot(), self.view.overall.load());
        let terms = self.terms.load();
        let mut reasons = Vec::new();
        match overall.app {
            App::Suspect(_) => reasons.push("app_suspect"),
            app if !app.is_open() => reasons.push("app_rejected"),
            _ => {}
        }
        if overall.without_store {
            reasons.push("store_unreachable");
        }
        if self.audit.health().is_some_and(|health| !*health.borrow()) {
            reasons.push("audit_failing");
        }
        let slots = self.view.portals.load();
        let views: Vec<_> = slots.values().map(|slot| slot.now()).collect();
        let on_demand = matches!(overall.mode, RefreshMode::OnDemand);
        // One customer's trouble is no reason to take everybody's service away: a portal that fails
        // on its own account is a remark.
        let others_fare_well = views.iter().any(|view| view.portal.serves(now, Duration::ZERO));
        let waiting = |view: &Arc<PortalView>| {
            let first = view.portal.token.is_none() && view.portal.ended().is_none();
            let own_trouble = view.portal.failures > 0
                && !overall.hubspot_is_out()
                && (others_fare_well || view.portal.failures >= 3);
            first && view.portal.renew_at.is_some() && !view.portal.paused && !own_trouble
        };
        if !on_demand && views.iter().any(waiting) {
            reasons.push(match () {
                () if overall.journal_fails() => "journal_failing",
                () if overall.throttled.is_some() => "rate_limited",
                () if !overall.hubspot.ok => "hubspot_unreachable",
                () => "no_token_yet",
            });
        }
        // What an operator wants silent is missed by nobody.
        let wanted = |view: &&Arc<PortalView>| view.portal.ended().is_none() && !view.portal.paused;
        let going = views.iter().filter(wanted).count();
        let served = |view: &&Arc<PortalView>| view.portal.serves(now, Duration::ZERO);
        let without = going - views.iter().filter(wanted).filter(served).count();
        let mut remarks = Vec::new();
        if going > 0 && without == going && reasons.is_empty() && !on_demand {
            reasons.push("token_expired");
        } else if without > 0 && !on_demand {
            remarks.push(format!("{without} of {going} portals have no live token"));
        }
        let ended = views.iter().filter(|view| view.portal.ended().is_some()).count();
        if terms.on_start == OnStart::RequireAll && ended > 0 {
            reasons.push("grant_ended");
        }
        if ended > 0 && going == 0 {
            remarks.push(format!("no grant is left to serve: all {ended} have ended"));
        }
        if !overall.store.ok {
            let trouble = overall.store.trouble.unwrap_or("unreachable");
            remarks.push(format!(
                "the store does not do what it is asked ({trouble}); records in memory are used"
            ));
        }
        remarks.extend(self.refused_reload.load().as_ref().clone());
        remarks.extend(self.view.webhooks_remark.load().as_ref().clone());
        Readiness { reasons, remarks }
    }

    /// The metrics text, with what is counted on asking brought up to date.
    #[must_use]
    pub fn metrics(&self) -> String {
        for (state, count) in self.census() {
            let labels = ByState { state: state.as_str() };
            self.metrics
                .portals
                .get_or_create(&labels)
                .set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        let overall = self.view.overall.load();
        for kind in Kind::ALL {
            let open = overall.incidents.iter().filter(|incident| incident.kind == kind).count();
            let labels = ByKind { kind: kind.as_str() };
            let gauge = self.metrics.incidents_open.get_or_create(&labels);
            gauge.set(i64::try_from(open).unwrap_or(i64::MAX));
        }
        let now = self.clock.boot();
        let slots = self.view.portals.load();
        let lives = slots.values().filter_map(|slot| {
            let view = slot.now();
            let token = view.portal.token.filter(|_| view.portal.ended().is_none())?;
            Some(token.left(now))
        });
        self.metrics.soonest_expiry.set(lives.min().unwrap_or_default().as_secs_f64());
        self.metrics.render()
    }
}
