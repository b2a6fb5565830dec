//! One incident that is open: whom it concerns, what of that has been told, and when more of it may be.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use super::{Change, Incident, Moment, Notice, Severity};
use crate::{portal::PortalId, time::BootTime};

/// As many portal ids as one alert names.
pub(super) const NAMED: usize = 50;
/// As many are written down with an incident; the rest are found again after a restart.
const SHARING: usize = 50_000;
/// Who else an incident concerns is told so long after it was opened, and then ever more rarely.
const FIRST_UPDATE: Duration = Duration::from_secs(15);
const SELDOMEST_UPDATE: Duration = Duration::from_secs(600);

#[derive(Debug, Clone)]
pub(super) struct Open {
    pub(super) incident: Arc<Incident>,
    /// The portals it concerns, where it is shared by several.
    pub(super) sharing: BTreeSet<PortalId>,
    /// Those of them that nobody has been told of, and those that it no longer concerns but are not told of yet:
    /// each is named at least once.
    untold: BTreeSet<PortalId>,
    left: BTreeSet<PortalId>,
    pub(super) notices: u32,
    /// Whom it concerns has changed since the last notice.
    pub(super) changed: bool,
    /// Not before this is that told.
    pub(super) update_due: BootTime,
    pub(super) updates: u32,
}

impl Open {
    pub(super) fn new(incident: Incident, sharing: BTreeSet<PortalId>, notices: u32) -> Self {
        Self {
            incident: Arc::new(incident),
            sharing,
            untold: BTreeSet::new(),
            left: BTreeSet::new(),
            notices,
            changed: false,
            update_due: BootTime::default(),
            updates: 0,
        }
    }

    pub(super) fn notice(&mut self, change: Change, now: Moment) -> Notice {
        let number = self.notices;
        self.notices += 1;
        self.update_due = now.boot + update_gap(self.updates);
        let notice = Notice {
            incident: Incident::clone(&self.incident),
            change,
            at: now.wall,
            number,
            sharing: self.sharing.iter().take(SHARING).copied().collect(),
        };
        self.untold.clear();
        self.changed = !self.left.is_empty();
        for portal in std::mem::take(&mut self.left) {
            self.sharing.remove(&portal);
        }
        if self.changed {
            self.count();
        }
        notice
    }

    /// It has become another matter, and no milder one: what is to be done about it is something else. Whether it has.
    pub(super) fn reword(&mut self, summary: String, action: String, severity: Severity) -> bool {
        if self.incident.action == action || severity < self.incident.severity {
            return false;
        }
        let incident = Arc::make_mut(&mut self.incident);
        (incident.summary, incident.action) = (summary, action);
        if severity > incident.severity {
            // Who took on the milder one may not know of this.
            incident.acknowledged = None;
        }
        incident.severity = severity;
        self.changed = true;
        true
    }

    pub(super) fn join(&mut self, portal: PortalId) {
        if !self.left.remove(&portal) && self.sharing.insert(portal) {
            self.untold.insert(portal);
        }
        self.count();
    }

    /// Whether it concerns anybody any more.
    pub(super) fn leave(&mut self, portal: PortalId) -> bool {
        if self.untold.contains(&portal) {
            self.left.insert(portal);
        } else if self.sharing.len() > 1 {
            self.sharing.remove(&portal);
        } else {
            self.left.insert(portal);
        }
        let others = self.left.len() < self.sharing.len();
        self.count();
        others
    }

    pub(super) fn concerns(&self, portal: PortalId) -> bool {
        self.sharing.contains(&portal) && !self.left.contains(&portal)
    }

    fn count(&mut self) {
        let incident = Arc::make_mut(&mut self.incident);
        // Those first whom nobody has heard of.
        let known = self.sharing.difference(&self.untold);
        incident.portals = self.untold.iter().chain(known).take(NAMED).copied().collect();
        incident.portals.sort_unstable();
        incident.portal_count = self.sharing.len();
        self.changed = true;
    }
}

fn update_gap(updates: u32) -> Duration {
    FIRST_UPDATE
        .saturating_mul(1_u32.checked_shl(updates).unwrap_or(u32::MAX))
        .min(SELDOMEST_UPDATE)
}
