//! Every portal's state with its secrets and its timer. Applies the rules to one portal at a time;
//! talks to nobody.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use super::{
    Settings,
    entry::Entry,
    load::StoredGrant,
    view::{PortalView, Slot},
};
use crate::{
    lifecycle::{Belief, Context, Crowd, Effect, Event, Phase, Portal, RefreshMode, Step},
    portal::PortalId,
    store::Known,
    time::BootTime,
};

/// For each portal, which change of its record we had seen when a reading of the store began: an
/// answer older than that is not believed.
pub(super) type Stamps = BTreeMap<PortalId, u64>;

/// As many others are looked at for a second opinion: in a storm each portal looks, and there is a next
/// time.
const ASKED_ROUND: usize = 32;
/// What the rules are told beside the portal itself.
#[derive(Debug)]
pub(super) struct Surroundings<'a> {
    pub(super) step: Step,
    pub(super) now: BootTime,
    pub(super) chance: f64,
    pub(super) settings: &'a Settings,
    pub(super) mode: RefreshMode,
    pub(super) may_rotate: bool,
    pub(super) crowd: &'a Crowd,
}

/// All portals, and when each wants to be looked at.
#[derive(Debug, Default)]
pub(super) struct Portals {
    entries: BTreeMap<PortalId, Entry>,
    timers: BTreeSet<(BootTime, PortalId)>,
    /// How many of them have ended.
    ended: usize,
    /// How many have ended or are paused: HubSpot is asked about none of them.
    silent: usize,
    /// Whose turn it is to be asked about when only the app is in question.
    asked_last: Option<PortalId>,
    /// Those whose app is said to have been taken out, and that are asked about once nothing is in flight for them.
    pub(super) reported: BTreeSet<PortalId>,
}

const fn is_silent(portal: &Portal) -> bool {
    portal.ended().is_some() || portal.paused
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
            lineage: Vec::new(),
            intended: None,
            answer: None,
            issued: None,
            held: None,
            last_refresh: None,
            scopes: None,
            stamp: 0,
            look_again: false,
            wanted: false,
            unusable: false,
            is_new: false,
            enrolling: None,
            arriving: None,
            newest_arrival: 0,
            leaving: None,
            slot: Arc::new(Slot::new(view)),
            timer: None,
        };
        self.entries.insert(portal, entry);
        self.settle(portal);
    }

    pub(super) fn remove(&mut self, portal: PortalId) -> Option<Entry> {
        let entry = self.entries.remove(&portal)?;
        self.reported.remove(&portal);
        self.ended -= usize::from(entry.portal.ended().is_some());
        self.silent -= usize::from(is_silent(&entry.portal));
        if let Some(timer) = entry.timer {
            self.timers.remove(&(timer, portal));
        }
        Some(entry)
    }

    /// One event through the rules; the caller carries the effects out and then settles.
    pub(super) fn step(
        &mut self,
        portal: PortalId,
        event: &Event,
        around: &Surroundings<'_>,
    ) -> Vec<Effect> {
        let Surroundings { now, settings, .. } = *around;
        let introspect_first = self.introspect_first(settings);
        let others = self.entries.len() - self.silent;
        let Some(entry) = self.entries.get_mut(&portal) else { return Vec::new() };
        let belief = match entry.portal.phase {
            // Only where something is about to be believed does it matter how others fare.
            Phase::Introspecting(_) | Phase::Rereading(_) => {
                around.crowd.judge(portal, others, now)
            }
            _ => Belief::Own,
        };
        let context = Context {
            now,
            portal,
            policy: &settings.refresh,
            validate_every: settings.validate.every,
            warm: match around.mode {
                RefreshMode::Auto | RefreshMode::Eager => true,
                RefreshMode::Recent => entry.is_recent(now, settings.refresh.recent_window),
                RefreshMode::OnDemand => false,
            },
            introspect_first,
            may_rotate: around.may_rotate,
            belief,
            chance: around.chance,
        };
        let (next, effects) = (around.step)(&entry.portal, event, &context);
        let (before, after) = (entry.portal.ended().is_some(), next.ended().is_some());
        self.ended = self.ended + usize::from(after) - usize::from(before);
        let (before, after) = (is_silent(&entry.portal), is_silent(&next));
        self.silent = self.silent + usize::from(after) - usize::from(before);
        entry.portal = next;
        effects
    }

    /// Publishes a portal and sets its timer, after something happened to it.
    pub(super) fn settle(&mut self, portal: PortalId) {
        let Some(entry) = self.entries.get_mut(&portal) else { return };
        entry.wanted &= entry.portal.failures == 0 && entry.portal.ended().is_none();
        entry.slot.publish(PortalView {
            portal: entry.portal.clone(),
            token: entry.issued.clone(),
            last_refresh: entry.last_refresh,
            scopes: entry.scopes.clone(),
        });
        let wakes = entry.portal.wakes();
        self.set_timer(portal, wakes);
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

    /// The states in which the portals' records are known; of one that can't be used, or is to be looked at
    /// again, none is.
    pub(super) fn known(&self) -> Known {
        let certain = |entry: &&Entry| !entry.unusable && !entry.look_again;
        let entries = self.entries.iter().filter(|(_, entry)| certain(entry));
        entries
            .filter_map(|(id, entry)| Some((*id, entry.stored.as_ref()?.version.clone())))
            .collect()
    }

    pub(super) fn ids(&self) -> Vec<PortalId> {
        self.entries.keys().copied().collect()
    }

    /// How many there are whose grants have not ended.
    pub(super) fn going(&self) -> usize {
        self.entries.len() - self.ended
    }

    /// How many of them were used within `window`.
    pub(super) fn recent(&self, now: BootTime, window: Duration) -> usize {
        let going = self.entries.values().filter(|entry| entry.portal.ended().is_none());
        going.filter(|entry| entry.is_recent(now, window)).count()
    }

    /// Sets the timer of every portal anew: what it depends on has changed.
    pub(super) fn wake_all(&mut self, now: BootTime) {
        let due: Vec<PortalId> = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.portal.phase == Phase::Resting)
            .map(|(id, _)| *id)
            .collect();
        for portal in due {
            self.set_timer(portal, Some(now));
        }
    }

    fn set_timer(&mut self, portal: PortalId, wakes: Option<BootTime>) {
        let Some(entry) = self.entries.get_mut(&portal) else { return };
        if entry.timer == wakes {
            return;
        }
        if let Some(old) = entry.timer {
            self.timers.remove(&(old, portal));
        }
        self.timers.extend(wakes.map(|at| (at, portal)));
        entry.timer = wakes;
    }

    /// Notes that somebody waits for a token of this portal.
    pub(super) fn wanted(&mut self, portal: PortalId) {
        if let Some(entry) = self.entries.get_mut(&portal) {
            entry.wanted = true;
        }
    }

    /// The portals whose newest refresh token is not in the store.
    pub(super) fn unsaved(&self) -> Vec<PortalId> {
        let unsaved = self.entries.iter().filter(|(_, entry)| entry.portal.save_at.is_some());
        unsaved.map(|(id, _)| *id).collect()
    }

    pub(super) fn slots(&self) -> BTreeMap<PortalId, Arc<Slot>> {
        self.entries.iter().map(|(id, entry)| (*id, Arc::clone(&entry.slot))).collect()
    }

    /// Some portal with a refresh token to ask about when only the app is in question, another one each time: one that has
    /// worked, if there is one, and not `but` where there are others.
    pub(super) fn sample(&mut self, but: Option<PortalId>) -> Option<PortalId> {
        let usable = |(id, entry): (&PortalId, &Entry)| {
            let Portal { paused, proven, .. } = entry.portal;
            let asked = entry.refresh_token().is_some() && entry.portal.ended().is_none();
            (asked && !paused).then_some((*id, (but != Some(*id), proven)))
        };
        let after = self.asked_last.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        let later = self.entries.range((after, std::ops::Bound::Unbounded)).filter_map(usable);
        let round = later.chain(self.entries.iter().filter_map(usable));
        // The first of the best, and no more of them looked at than need be.
        let mut best: Option<(PortalId, (bool, bool))> = None;
        for (portal, worth) in round {
            if best.is_none_or(|(_, known)| worth > known) {
                best = Some((portal, worth));
            }
            if worth == (true, true) {
                break;
            }
        }
        let (portal, _) = best?;
        self.asked_last = Some(portal);
        Some(portal)
    }

    /// A portal whose grant can be asked about now, other than `portal` and those refused of late.
    pub(super) fn another(&mut self, portal: PortalId, crowd: &Crowd) -> Option<PortalId> {
        for _ in 0..ASKED_ROUND {
            let found = self.sample(Some(portal))?;
            if found != portal && !crowd.has_refused(found) && self.rests(found) {
                return Some(found);
            }
        }
        None
    }

    /// Introspecting each grant before its first refresh costs a request each: only while a minute
    /// carries them all.
    fn introspect_first(&self, settings: &Settings) -> bool {
        #[expect(clippy::cast_precision_loss, reason = "an estimate")]
        let portals = self.entries.len() as f64;
        portals <= 60.0 * settings.max_requests_per_second
    }

    /// How long it takes to ask about each of them, and about `more` that are still to come.
    pub(super) fn time_to_ask(&self, more: usize, per_second: f64) -> Duration {
        #[expect(clippy::cast_precision_loss, reason = "an estimate")]
        let portals = (self.entries.len() + more) as f64;
        Duration::from_secs_f64(portals / per_second.max(0.01))
    }

    /// Whether nothing is under way for this portal.
    pub(super) fn rests(&self, portal: PortalId) -> bool {
        self.get(portal)
            .is_some_and(|entry| matches!(entry.portal.phase, Phase::Resting | Phase::Ended(_)))
    }
}
