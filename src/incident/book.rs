//! The book of open incidents: each cause is opened once, however often it is reported, and
//! resolved once (I12). Pure, and bounded by the number of portals.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::{Change, Incident, Kind, Notice, words};
use crate::portal::{AppName, PortalId};

/// As many portal ids as one alert names.
const NAMED: usize = 50;

/// What is open, by cause.
#[derive(Debug, Clone)]
pub struct Book {
    app: AppName,
    open: BTreeMap<(Kind, Option<PortalId>), Incident>,
}

impl Book {
    /// An empty book.
    #[must_use]
    pub const fn new(app: AppName) -> Self {
        Self { app, open: BTreeMap::new() }
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
        if self.open.contains_key(&(kind, portal)) {
            return None;
        }
        let (summary, action) = words::of(kind, portal, detail);
        let about = portal.as_ref().map_or(affected, std::slice::from_ref);
        let subject = portal.map_or_else(|| "app".to_owned(), |id| id.to_string());
        let incident = Incident {
            incident_id: format!("{}-{kind}-{subject}-{}", self.app, at.as_millisecond()),
            kind,
            severity: kind.severity(),
            app: self.app.clone(),
            portals: about.iter().take(NAMED).copied().collect(),
            portal_count: about.len(),
            summary,
            action,
            since: at,
        };
        self.open.insert((kind, portal), incident.clone());
        Some(Notice { incident, change: Change::Opened, at })
    }

    /// Notes that `kind` is no longer the case for `portal`, or for the app. Nothing if it was not open.
    pub fn close(&mut self, kind: Kind, portal: Option<PortalId>, at: Timestamp) -> Option<Notice> {
        let incident = self.open.remove(&(kind, portal))?;
        Some(Notice { incident, change: Change::Resolved, at })
    }

    /// Closes everything that is open about `portal`: it is no longer ours.
    pub fn forget(&mut self, portal: PortalId, at: Timestamp) -> Vec<Notice> {
        Kind::ALL.into_iter().filter_map(|kind| self.close(kind, Some(portal), at)).collect()
    }

    /// Everything open, by kind and portal.
    pub fn incidents(&self) -> impl Iterator<Item = &Incident> {
        self.open.values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn book() -> Book {
        Book::new(AppName::parse("acme-sync").unwrap())
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
        let again = book.open(Kind::GrantRevoked, Some(portal), None, &[], at(4)).unwrap();
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
}
