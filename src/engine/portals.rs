//! Every portal's state with its secrets and its timer. Applies the rules to one portal at a time;
//! talks to nobody.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use jiff::Timestamp;

use super::{
    Settings,
    load::StoredGrant,
    view::{Issued, PortalView, Slot},
};
use crate::{
    lifecycle::{Context, Effect, Event, Phase, Portal, RefreshMode, step},
    portal::{PortalId, Scopes},
    secret::RefreshToken,
    time::BootTime,
};

/// For each portal, which change of its record we had seen when a reading of the store began: an
/// answer older than that is not believed.
pub(super) type Stamps = HashMap<PortalId, u64>;

/// One portal: what the rules know, and the secrets beside it.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) portal: Portal,
    /// What the store has.
    pub(super) stored: Option<StoredGrant>,
    /// A newer refresh token that the store does not have yet.
    pub(super) unsaved: Option<RefreshToken>,
    /// What callers get.
    pub(super) issued: Option<Issued>,
    /// What callers will get once its refresh token is stored (I3).
    pub(super) held: Option<Issued>,
    pub(super) last_refresh: Option<Timestamp>,
    pub(super) scopes: Option<Scopes>,
    /// Grows with every change of `stored`.
    pub(super) stamp: u64,
    /// A reading came while something was in flight; read again when it is done.
    pub(super) look_again: bool,
    /// Somebody waits for a token: what is asked of HubSpot goes to the front.
    pub(super) wanted: bool,
    /// The record can't be used as it stands; the grant in memory goes on.
    pub(super) unusable: bool,
    slot: Arc<Slot>,
    timer: Option<BootTime>,
}

impl Entry {
    /// The refresh token in use.
    pub(super) fn refresh_token(&self) -> Option<&RefreshToken> {
        self.unsaved.as_ref().or(self.stored.as_ref().map(|stored| &stored.refresh_token))
    }

    /// Whether `token` is the grant in use, or the one it came from that the store still has.
    pub(super) fn knows(&self, token: &RefreshToken) -> bool {
        let stored = self.stored.as_ref().map(|stored| &stored.refresh_token);
        [self.unsaved.as_ref(), stored].into_iter().flatten().any(|known| known.same_as(token))
    }

    pub(super) fn store_has(&mut self, stored: Option<StoredGrant>) {
        self.stored = stored;
        self.stamp += 1;
    }
}

/// All portals, and when each wants to be looked at.
#[derive(Debug, Default)]
pub(super) struct Portals {
    entries: HashMap<PortalId, Entry>,
    timers: BTreeSet<(BootTime, PortalId)>,
}

impl Portals {
    pub(super) fn get(&self, portal: PortalId) -> Option<&Entry> {
        self.entries.get(&portal)
    }

    pub(super) fn get_mut(&mut self, portal: PortalId) -> Option<&mut Entry> {
        self.entries.get_mut(&portal)
    }

    /// Adds a portal that was not there.
    pub(super) fn insert(&mut self, portal: PortalId, stored: Option<StoredGrant>, now: BootTime) {
        let state = Portal::loaded(now, now);
        let view =
            PortalView { portal: state.clone(), token: None, last_refresh: None, scopes: None };
        let entry = Entry {
            portal: state,
            stored,
            unsaved: None,
            issued: None,
            held: None,
            last_refresh: None,
            scopes: None,
            stamp: 0,
            look_again: false,
            wanted: false,
            unusable: false,
            slot: Arc::new(Slot::new(view, now)),
            timer: None,
        };
        self.entries.insert(portal, entry);
        self.settle(portal);
    }

    pub(super) fn remove(&mut self, portal: PortalId) {
        if let Some(timer) = self.entries.remove(&portal).and_then(|entry| entry.timer) {
            self.timers.remove(&(timer, portal));
        }
    }

    /// One event through the rules; the caller carries the effects out and then settles.
    pub(super) fn step(
        &mut self,
        portal: PortalId,
        event: &Event,
        now: BootTime,
        chance: f64,
        settings: &Settings,
    ) -> Vec<Effect> {
        let mode = self.mode(settings);
        let introspect_first = self.introspect_first(settings);
        let Some(entry) = self.entries.get_mut(&portal) else { return Vec::new() };
        let context = Context {
            now,
            portal,
            policy: &settings.refresh,
            validate_every: settings.validate.every,
            warm: match mode {
                RefreshMode::Auto | RefreshMode::Eager => true,
                RefreshMode::Recent => {
                    now.since(entry.slot.last_used()) < settings.refresh.recent_window
                }
                RefreshMode::OnDemand => false,
            },
            introspect_first,
            chance,
        };
        let (next, effects) = step(&entry.portal, event, &context);
        entry.portal = next;
        effects
    }

    /// Publishes a portal and sets its timer, after something happened to it.
    pub(super) fn settle(&mut self, portal: PortalId) {
        let Some(entry) = self.entries.get_mut(&portal) else { return };
        entry.wanted &= entry.portal.failures == 0 && entry.portal.ended().is_none();
        let wakes = entry.portal.wakes();
        if entry.timer != wakes {
            if let Some(old) = entry.timer {
                self.timers.remove(&(old, portal));
            }
            self.timers.extend(wakes.map(|at| (at, portal)));
            entry.timer = wakes;
        }
        entry.slot.publish(PortalView {
            portal: entry.portal.clone(),
            token: entry.issued.clone(),
            last_refresh: entry.last_refresh,
            scopes: entry.scopes.clone(),
        });
    }

    pub(super) fn first_due(&self) -> Option<BootTime> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Takes the next portal whose time has come.
    pub(super) fn pop_due(&mut self, now: BootTime) -> Option<PortalId> {
        let (at, portal) = *self.timers.first()?;
        if at > now {
            return None;
        }
        self.timers.pop_first();
        if let Some(entry) = self.entries.get_mut(&portal) {
            entry.timer = None;
        }
        Some(portal)
    }

    pub(super) fn stamps(&self) -> Stamps {
        self.entries.iter().map(|(id, entry)| (*id, entry.stamp)).collect()
    }

    pub(super) fn ids(&self) -> Vec<PortalId> {
        let mut ids: Vec<_> = self.entries.keys().copied().collect();
        ids.sort_unstable();
        ids
    }

    /// Notes that somebody waits for a token of this portal.
    pub(super) fn wanted(&mut self, portal: PortalId) {
        if let Some(entry) = self.entries.get_mut(&portal) {
            entry.wanted = true;
        }
    }

    /// The portals whose newest refresh token is not in the store.
    pub(super) fn unsaved(&self) -> Vec<PortalId> {
        let unsaved = self.entries.iter().filter(|(_, entry)| entry.unsaved.is_some());
        unsaved.map(|(id, _)| *id).collect()
    }

    pub(super) fn slots(&self) -> BTreeMap<PortalId, Arc<Slot>> {
        self.entries.iter().map(|(id, entry)| (*id, Arc::clone(&entry.slot))).collect()
    }

    /// Some refresh token to ask about when only the client pair is in question: preferably of a
    /// grant that has worked.
    pub(super) fn any_token(&self) -> Option<RefreshToken> {
        let proven = self.entries.values().find(|entry| entry.portal.proven);
        proven.or_else(|| self.entries.values().next())?.refresh_token().cloned()
    }

    /// The mode in force: `auto` is eager while half the rate carries every portal.
    pub(super) fn mode(&self, settings: &Settings) -> RefreshMode {
        const USUAL_LIFE: f64 = 1800.0;
        match settings.refresh.mode {
            RefreshMode::Auto => {
                let carried =
                    settings.max_requests_per_second / 2.0 * USUAL_LIFE * settings.refresh.at;
                #[expect(clippy::cast_precision_loss, reason = "an estimate")]
                let eager = self.entries.len() as f64 <= carried;
                if eager { RefreshMode::Eager } else { RefreshMode::Recent }
            }
            chosen => chosen,
        }
    }

    /// Introspecting each grant before its first refresh costs a request each: only while a minute
    /// carries them all.
    fn introspect_first(&self, settings: &Settings) -> bool {
        #[expect(clippy::cast_precision_loss, reason = "an estimate")]
        let portals = self.entries.len() as f64;
        portals <= 60.0 * settings.max_requests_per_second
    }

    /// Whether nothing is under way for this portal.
    pub(super) fn rests(&self, portal: PortalId) -> bool {
        self.get(portal)
            .is_some_and(|entry| matches!(entry.portal.phase, Phase::Resting | Phase::Ended(_)))
    }
}
