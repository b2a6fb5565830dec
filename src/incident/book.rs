//! The book of open incidents: each cause is opened once, however often it is reported, and
//! resolved once (I12). Pure, and bounded by the number of portals.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::Timestamp;

use super::{Change, Incident, Kind, Notice, words};
use crate::{
    portal::{AppName, PortalId},
    time::BootTime,
};

/// As many portal ids as one alert names.
const NAMED: usize = 50;

/// What is open, by cause.
#[derive(Debug, Clone)]
pub struct Book {
    app: AppName,
    /// Names the process in ids: the wall clock alone may be set back to when another gave the same.
    run: String,
    open: BTreeMap<(Kind, Option<PortalId>), Open>,
    /// The last number in an id: none is given twice, not even within one second.
    last: i64,
}

#[derive(Debug, Clone)]
struct Open {
    incident: Arc<Incident>,
    /// The portals it concerns, where it is shared by several.
    sharing: BTreeSet<PortalId>,
    notices: u32,
}

impl Open {
    fn notice(&mut self, change: Change, at: Timestamp) -> Notice {
        let number = self.notices;
        self.notices += 1;
        Notice { incident: Incident::clone(&self.incident), change, at, number }
    }

    fn count(&mut self) {
        let incident = Arc::make_mut(&mut self.incident);
        incident.portals = self.sharing.iter().take(NAMED).copied().collect();
        incident.portal_count = self.sharing.len();
    }
}

impl Book {
    /// The empty book of a process that began at `start`.
    #[must_use]
    pub fn new(app: AppName, start: BootTime) -> Self {
        let run = format!("{:x}", start.since_boot().as_millis());
        Self { app, run, open: BTreeMap::new(), last: i64::MIN }
    }

    /// Notes that `kind` is the case for `portal`, or for the whole app. `affected` are the portals
    /// to name when it is about the app. Nothing if it is open already.
    pub fn open(
        &mut self,
        kind: Kind,
        portal: Option<PortalId>,
        detail: Option<&str>,
        affected: &[PortalId],
        at: Timestamp,
    ) -> Option<Notice> {
        let subject = portal.filter(|_| !kind.is_shared());
        if let Some(open) = self.open.get_mut(&(kind, subject)) {
            let joins =
                kind.is_shared() && portal.is_some_and(|portal| open.sharing.insert(portal));
            if !joins {
                return None;
            }
            open.count();
            return Some(open.notice(Change::Updated, at));
        }
        let (summary, action) = words::of(kind, subject, detail);
        let about = portal.as_ref().map_or(affected, std::slice::from_ref);
        let named = subject.map_or_else(|| "app".to_owned(), |id| id.to_string());
        self.last = at.as_millisecond().max(self.last.saturating_add(1));
        let incident = Incident {
            incident_id: format!("{}-{kind}-{named}-{}-{}", self.app, self.last, self.run),
            kind,
            severity: kind.severity(),
            app: self.app.clone(),
            portals: about.iter().take(NAMED).copied().collect(),
            portal_count: about.len(),
            summary,
            action,
            since: at,
        };
        let sharing = portal.filter(|_| kind.is_shared()).into_iter().collect();
        let open = Open { incident: Arc::new(incident), sharing, notices: 0 };
        let open = self.open.entry((kind, subject)).or_insert(open);
        Some(open.notice(Change::Opened, at))
    }

    /// Notes that `kind` is no longer the case for `portal`, or for the app. Nothing if it was not open.
    pub fn close(&mut self, kind: Kind, portal: Option<PortalId>, at: Timestamp) -> Option<Notice> {
        let subject = portal.filter(|_| !kind.is_shared());
        if let Some(portal) = portal.filter(|_| kind.is_shared()) {
            let open = self.open.get_mut(&(kind, subject))?;
            if !open.sharing.contains(&portal) {
                return None;
            }
            if open.sharing.len() > 1 {
                open.sharing.remove(&portal);
                open.count();
                return Some(open.notice(Change::Updated, at));
            }
        }
        self.open.remove(&(kind, subject)).map(|mut open| open.notice(Change::Resolved, at))
    }

    /// Closes everything that is open about `portal`: it is no longer ours.
    pub fn forget(&mut self, portal: PortalId, at: Timestamp) -> Vec<Notice> {
        Kind::ALL.into_iter().filter_map(|kind| self.close(kind, Some(portal), at)).collect()
    }

    /// Whether this is open about the app.
    #[must_use]
    pub fn is_open(&self, kind: Kind) -> bool {
        self.open.contains_key(&(kind, None))
    }

    /// Everything open, by kind and portal.
    pub fn incidents(&self) -> impl Iterator<Item = &Arc<Incident>> {
        self.open.values().map(|open| &open.incident)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn book() -> Book {
        Book::new(AppName::parse("acme-sync").unwrap(), BootTime::default())
    }

    fn portals(count: u64) -> Vec<PortalId> {
        (1..=count).map(|n| PortalId::new(n).unwrap()).collect()
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).unwrap()
    }

    #[test]
    fn i12_a_cause_is_opened_once_and_resolved_once() {
        let mut book = book();
        let portal = portals(1)[0];
        let opened = book.open(Kind::GrantRevoked, Some(portal), None, &[], at(0)).unwrap();
        assert_eq!(book.open(Kind::GrantRevoked, Some(portal), None, &[], at(1)), None);
        let resolved = book.close(Kind::GrantRevoked, Some(portal), at(2)).unwrap();
        assert_eq!(book.close(Kind::GrantRevoked, Some(portal), at(3)), None);
        assert_eq!(opened.incident.incident_id, resolved.incident.incident_id);
        assert_ne!(opened.key(), resolved.key());
        let again = book.open(Kind::GrantRevoked, Some(portal), None, &[], at(2)).unwrap();
        assert_ne!(again.key(), opened.key(), "a new incident is not a repeat of the old one");
    }

    #[test]
    fn i6_one_app_incident_names_fifty_portals_and_counts_them_all() {
        let notice = book().open(Kind::AppRejected, None, None, &portals(200), at(0)).unwrap();
        assert_eq!((notice.incident.portals.len(), notice.incident.portal_count), (50, 200));
    }

    #[test]
    fn a_portal_that_is_removed_leaves_nothing_open() {
        let mut book = book();
        let ids = portals(2);
        book.open(Kind::GrantRevoked, Some(ids[0]), None, &[], at(0));
        book.open(Kind::ScopeMissing, Some(ids[0]), None, &[], at(0));
        book.open(Kind::ScopeMissing, Some(ids[1]), None, &[], at(0));
        assert_eq!(book.forget(ids[0], at(1)).len(), 2);
        assert_eq!(book.incidents().count(), 1);
    }

    #[test]
    fn every_kind_says_what_happened_and_what_to_do() {
        let mut book = book();
        for kind in Kind::ALL {
            let incident = book.open(kind, None, Some("why"), &[], at(0)).unwrap().incident;
            assert!(incident.summary.contains("(why)") && !incident.action.is_empty(), "{kind}");
        }
    }

    #[test]
    fn i12_grants_that_one_cause_took_are_one_incident_that_names_them_all() {
        let (mut book, ids) = (book(), portals(3));
        let kind = Kind::GrantLost;
        let opened = book.open(kind, Some(ids[0]), None, &[], at(0)).unwrap();
        assert_eq!((opened.change, opened.incident.portal_count), (Change::Opened, 1));
        let more = book.open(kind, Some(ids[1]), None, &[], at(1)).unwrap();
        assert_eq!((more.change, &more.incident.portals[..]), (Change::Updated, &ids[..2]));
        let again = book.open(kind, Some(ids[2]), None, &[], at(2)).unwrap();
        assert_ne!(again.key(), more.key());
        assert_eq!(book.open(kind, Some(ids[2]), None, &[], at(3)), None, "told already");
        assert_eq!(book.incidents().count(), 1);
        assert_eq!(book.close(kind, Some(ids[1]), at(4)).unwrap().change, Change::Updated);
        assert_eq!(book.close(kind, Some(ids[1]), at(4)), None);
        assert_eq!(book.close(kind, Some(ids[0]), at(5)).unwrap().incident.portals, [ids[2]]);
        let over = book.close(kind, Some(ids[2]), at(6)).unwrap();
        assert_eq!((over.change, &over.incident.portals[..]), (Change::Resolved, &[ids[2]][..]));
        assert_eq!(over.incident.incident_id, opened.incident.incident_id);
    }

    proptest! {
        #[test]
        fn i12_whatever_is_noted_each_incident_opens_once_and_resolves_once(
            notes in prop::collection::vec((0_usize..13, 1_u64..5, any::<bool>()), 0..200),
        ) {
            let mut book = book();
            let mut told: BTreeMap<String, Vec<Notice>> = BTreeMap::new();
            for (second, (kind, number, open)) in (0_i64..).zip(notes) {
                let (kind, portal) = (Kind::ALL[kind], PortalId::new(number).ok());
                let notice = if open {
                    book.open(kind, portal, None, &[], at(second))
                } else {
                    book.close(kind, portal, at(second))
                };
                if let Some(notice) = notice {
                    told.entry(notice.incident.incident_id.clone()).or_default().push(notice);
                }
            }
            for notices in told.values() {
                let mut keys: Vec<_> = notices.iter().map(Notice::key).collect();
                keys.sort_unstable();
                keys.dedup();
                prop_assert_eq!(keys.len(), notices.len(), "a key is told once");
                prop_assert_eq!(notices[0].change, Change::Opened);
                let ends = notices.iter().filter(|n| n.change == Change::Resolved).count();
                prop_assert!(ends <= 1 && notices[1..].iter().all(|n| n.change != Change::Opened));
                prop_assert!(ends == 0 || notices[notices.len() - 1].change == Change::Resolved);
                prop_assert!(notices.iter().all(|n| n.incident.portal_count > 0));
            }
        }
    }
}
