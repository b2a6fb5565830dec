//! What the journal knows of incidents: the latest notice of each, and which receivers have taken what of it (I12).
//! Pure. One that is over stays until everybody who was to hear of it has.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    incident::{Change, Notice, outbox::Told},
    time::Clock,
};

/// What is over and not taken for so many days is given up: nobody will come for it.
const GIVEN_UP_AFTER_DAYS: i64 = 7;

/// One incident as it was last told, and to whom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// The latest that there is to tell.
    pub notice: Notice,
    /// Who is to hear of it, and what each has taken.
    pub receivers: BTreeMap<String, Option<Told>>,
}

/// All of them, by incident.
#[derive(Debug, Clone, Default)]
pub(super) struct Alerts(BTreeMap<String, Standing>);

impl Alerts {
    pub(super) fn happened(&mut self, notice: Notice, receivers: Vec<String>) {
        let id = notice.incident.incident_id.clone();
        let known = self.0.remove(&id).map(|standing| standing.receivers).unwrap_or_default();
        let told = |name: String| {
            let told = known.get(&name).copied().flatten();
            (name, told)
        };
        let mut all: BTreeMap<_, _> = receivers.into_iter().map(told).collect();
        // Who was told of it hears the end of it, whether or not they want to hear of such things by now.
        all.extend(known.iter().filter(|(_, told)| told.is_some()).map(|(n, t)| (n.clone(), *t)));
        self.put(Standing { notice, receivers: all });
    }

    pub(super) fn taken(&mut self, incident: &str, receiver: String, told: Told) {
        let Some(mut standing) = self.0.remove(incident) else { return };
        standing.receivers.insert(receiver, Some(told));
        self.put(standing);
    }

    /// Keeps what anybody is still to hear of, and what is not over.
    pub(super) fn put(&mut self, standing: Standing) {
        let number = standing.notice.number;
        let has_it = |told: &Option<Told>| told.is_some_and(|told| told.number >= number);
        let over = standing.notice.change == Change::Resolved;
        if !over || !standing.receivers.values().all(has_it) {
            self.0.insert(standing.notice.incident.incident_id.clone(), standing);
        }
    }

    pub(super) fn prune(&mut self, clock: &dyn Clock) {
        let now = clock.wall();
        self.0.retain(|_, standing| {
            let days = now.duration_since(standing.notice.at).as_hours() / 24;
            standing.notice.change != Change::Resolved || days < GIVEN_UP_AFTER_DAYS
        });
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Standing> {
        self.0.values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        incident::{Book, Kind, Moment},
        portal::AppName,
        time::{BootTime, SystemClock},
    };

    #[test]
    fn i12_what_is_over_is_kept_until_every_receiver_has_it() {
        let now = Moment { boot: BootTime::default(), wall: SystemClock.wall() };
        let mut book = Book::new(AppName::parse("acme").unwrap(), now.boot);
        let opened = book.open(Kind::AppRejected, None, None, &[], now).unwrap();
        let resolved = book.close(Kind::AppRejected, None, now).unwrap();
        let id = opened.incident.incident_id.clone();
        let (names, told) =
            (vec!["log".to_owned(), "ops".to_owned()], |n| Told { number: n, at: now.wall });
        let mut alerts = Alerts::default();
        alerts.happened(opened, names.clone());
        alerts.taken(&id, "log".to_owned(), told(0));
        alerts.happened(resolved, names);
        let kept: Vec<_> = alerts.all().cloned().collect();
        assert_eq!(kept[0].receivers["log"], Some(told(0)), "what was taken of it is still known");
        assert_eq!(kept[0].receivers["ops"], None);
        alerts.taken(&id, "log".to_owned(), told(1));
        alerts.taken(&id, "ops".to_owned(), told(0));
        assert_eq!(alerts.all().count(), 1, "that it is over, ops has not taken");
        alerts.taken(&id, "ops".to_owned(), told(1));
        assert_eq!(alerts.all().count(), 0);
        alerts.taken(&id, "ops".to_owned(), told(1));
        assert_eq!(alerts.all().count(), 0, "a late mark brings nothing back");
    }
}
