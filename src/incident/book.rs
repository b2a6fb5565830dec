//! The book of open incidents: each cause is opened once, however often it is reported, and
//! resolved once (I12), whatever restarts lie between. Pure, and bounded by the number of portals.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use super::{
    Acknowledged, Change, Incident, InstallUrl, Kind, Moment, NotOpen, Notice,
    burst::Burst,
    open::{NAMED, Open},
    words,
};
use crate::{
    portal::{AppName, PortalId},
    time::BootTime,
};

/// What is open, by cause.
#[derive(Debug, Clone)]
pub struct Book {
    app: AppName,
    install: Option<InstallUrl>,
    /// Names the process in ids: the wall clock alone may be set back to when another gave the same.
    run: String,
    open: BTreeMap<(Kind, Subject), Open>,
    bursts: BTreeMap<Kind, Burst>,
    /// The last number in an id: none is given twice, not even within one second.
    last: i64,
    /// Grows with each change of what is open, told or not.
    revision: u64,
}

/// What one incident of a kind is about, beside others of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Subject {
    /// The app, or whoever is hit together whenever.
    All,
    /// Portals that were hit within one burst.
    Burst(u32),
    Portal(PortalId),
}

impl Book {
    /// The empty book of a process that began at `start`.
    #[must_use]
    pub fn new(app: AppName, start: BootTime) -> Self {
        let run = format!("{:x}", start.since_boot().as_millis());
        let (open, bursts) = (BTreeMap::new(), BTreeMap::new());
        Self { app, install: None, run, open, bursts, last: i64::MIN, revision: 0 }
    }

    /// The same, with what an earlier process had open (I12): its latest notices.
    #[must_use]
    pub fn restored<'a>(
        mut self,
        notices: impl IntoIterator<Item = &'a Notice>,
        now: Moment,
    ) -> Self {
        for notice in notices {
            let kind = notice.incident.kind;
            if notice.change == Change::Resolved || kind == Kind::Test {
                continue;
            }
            let subject = match notice.incident.portals.first() {
                Some(portal) if kind.is_single() && notice.sharing.is_empty() => {
                    Subject::Portal(*portal)
                }
                _ if kind.is_single() => {
                    // A burst lasts as long as it takes others in.
                    let last = match notice.change {
                        Change::Updated => notice.at,
                        _ => notice.incident.since,
                    };
                    let ago = now.wall.duration_since(last);
                    let ago = Duration::try_from(ago).unwrap_or_default();
                    Subject::Burst(self.bursts.entry(kind).or_default().resumed(ago, now.boot))
                }
                _ => Subject::All,
            };
            let sharing = notice.sharing.clone();
            let open = Open::new(notice.incident.clone(), sharing, notice.number + 1);
            self.open.insert((kind, subject), open);
        }
        self
    }

    /// From now on, incidents that a new install mends say where to begin it.
    pub fn link_to(&mut self, install: Option<InstallUrl>) {
        self.install = install;
    }

    /// Notes that `kind` is the case for `portal`, or for the whole app. `affected` are the portals
    /// to name when it is about the app. Nothing if it is open already, or if others are told first.
    pub fn open(
        &mut self,
        kind: Kind,
        portal: Option<PortalId>,
        detail: Option<&str>,
        affected: &[PortalId],
        now: Moment,
    ) -> Option<Notice> {
        if let Some(portal) = portal
            && let Some(subject) = self.subject_of(kind, portal)
        {
            // Known; but it may have become another matter.
            let alone = Some(portal).filter(|_| subject == Subject::Portal(portal));
            let many = alone.is_none();
            let link = self.install.as_ref().map(|url| url.of(alone));
            let (summary, action) = words::of(kind, alone, detail, many, link.as_deref());
            if let Some(open) = self.open.get_mut(&(kind, subject)).filter(|_| !many) {
                let reworded = open.reword(summary, action, kind.severity_when(detail, many));
                self.revision += u64::from(reworded);
            }
            return None;
        }
        let single = portal.filter(|_| kind.is_single());
        let burst = single.and_then(|_| self.bursts.entry(kind).or_default().takes(now.boot));
        let subject = match (single, burst) {
            (Some(_), Some(burst)) => Subject::Burst(burst),
            (Some(portal), None) => Subject::Portal(portal),
            (None, _) => Subject::All,
        };
        let alone = single.filter(|_| burst.is_none());
        let many = alone.is_none() && kind.is_about_portals();
        let sharing: BTreeSet<_> = portal.filter(|_| many).into_iter().collect();
        let link = self.install.as_ref().map(|url| url.of(alone));
        let (summary, action) = words::of(kind, alone, detail, many, link.as_deref());
        let severity = kind.severity_when(detail, many);
        if let Some(open) = self.open.get_mut(&(kind, subject)) {
            for portal in sharing {
                open.join(portal);
                self.revision += 1;
            }
            self.revision += u64::from(open.reword(summary, action, severity));
            return None;
        }
        let about = portal.as_ref().map_or(affected, std::slice::from_ref);
        let named = match alone {
            Some(portal) => portal.to_string(),
            None if many => "portals".to_owned(),
            None => "app".to_owned(),
        };
        self.last = now.wall.as_millisecond().max(self.last.saturating_add(1));
        let incident = Incident {
            incident_id: format!("{}-{kind}-{named}-{}-{}", self.app, self.last, self.run),
            kind,
            severity,
            app: self.app.clone(),
            portals: about.iter().take(NAMED).copied().collect(),
            portal_count: about.len(),
            summary,
            action,
            since: now.wall,
            acknowledged: None,
        };
        self.revision += 1;
        let open = Open::new(incident, sharing, 0);
        let open = self.open.entry((kind, subject)).or_insert(open);
        Some(open.notice(Change::Opened, now))
    }

    /// Whether `kind` is known to be the case for `portal`.
    #[must_use]
    pub fn concerns(&self, kind: Kind, portal: PortalId) -> bool {
        self.subject_of(kind, portal).is_some()
    }

    /// Where `kind` is known to be the case for `portal`, by itself or with others.
    fn subject_of(&self, kind: Kind, portal: PortalId) -> Option<Subject> {
        let alone = Subject::Portal(portal);
        if self.open.contains_key(&(kind, alone)) {
            return Some(alone);
        }
        let together = self.open.range((kind, Subject::All)..(kind, alone));
        let mut together = together.filter(|(_, open)| open.concerns(portal));
        together.next().map(|((_, subject), _)| *subject)
    }

    /// Notes that `kind` is no longer the case for `portal`, or for the app. Nothing if it was not open,
    /// or if it goes on for others: those are told of by [`Book::due`].
    pub fn close(&mut self, kind: Kind, portal: Option<PortalId>, now: Moment) -> Option<Notice> {
        let subject = match portal {
            None => Subject::All,
            Some(portal) => self.subject_of(kind, portal)?,
        };
        let key = (kind, subject);
        let open = self.open.get_mut(&key)?;
        self.revision += 1;
        if let (Some(portal), false) = (portal, matches!(subject, Subject::Portal(_)))
            && open.leave(portal)
        {
            return None;
        }
        self.open.remove(&key).map(|mut open| open.notice(Change::Resolved, now))
    }

    /// Closes everything that is open about `portal`: it is no longer ours.
    pub fn forget(&mut self, portal: PortalId, now: Moment) -> Vec<Notice> {
        Kind::ALL.into_iter().filter_map(|kind| self.close(kind, Some(portal), now)).collect()
    }

    /// Notes that `uid` has taken an incident on. Nothing if somebody had.
    ///
    /// # Errors
    /// No such incident is open.
    pub fn acknowledge(
        &mut self,
        incident: &str,
        uid: u32,
        now: Moment,
    ) -> Result<Option<Notice>, NotOpen> {
        let mut all = self.open.values_mut();
        let open = all.find(|open| open.incident.incident_id == incident).ok_or(NotOpen)?;
        if open.incident.acknowledged.is_some() {
            return Ok(None);
        }
        let acknowledged = Some(Acknowledged { at: now.wall, uid });
        Arc::make_mut(&mut open.incident).acknowledged = acknowledged;
        self.revision += 1;
        Ok(Some(open.notice(Change::Acknowledged, now)))
    }

    /// What has changed and may be told by now: the portals that open incidents concern.
    pub fn due(&mut self, now: Moment) -> Vec<Notice> {
        if self.wakes().is_none_or(|due| due > now.boot) {
            return Vec::new();
        }
        self.revision += 1;
        let due = self.open.values_mut().filter(|o| o.changed && o.update_due <= now.boot);
        due.map(|open| {
            open.updates += 1;
            open.notice(Change::Updated, now)
        })
        .collect()
    }

    /// The process ends: what has changed, whether it is time to tell it or not.
    pub fn rest(&mut self, now: Moment) -> Vec<Notice> {
        let changed = self.open.values_mut().filter(|open| open.changed);
        changed.map(|open| open.notice(Change::Updated, now)).collect()
    }

    /// When [`Book::due`] next has something to say.
    #[must_use]
    pub fn wakes(&self) -> Option<BootTime> {
        self.open.values().filter(|open| open.changed).map(|open| open.update_due).min()
    }

    /// Another number whenever what is open has changed, told or not.
    #[must_use]
    pub const fn revision(&self) -> u64 {
        self.revision
    }

    /// Whether this is open about the app.
    #[must_use]
    pub fn is_open(&self, kind: Kind) -> bool {
        self.open.contains_key(&(kind, Subject::All))
    }

    /// The portals for which `kind` is the case.
    #[must_use]
    pub fn portals(&self, kind: Kind) -> BTreeSet<PortalId> {
        let mut all = BTreeSet::new();
        for ((_, subject), open) in self.open.iter().filter(|((of, _), _)| *of == kind) {
            all.extend(if let Subject::Portal(portal) = subject { Some(*portal) } else { None });
            all.extend(&open.sharing);
        }
        all
    }

    /// Everything open, by kind and portal.
    pub fn incidents(&self) -> impl Iterator<Item = &Arc<Incident>> {
        self.open.values().map(|open| &open.incident)
    }

    /// The latest of everything open, as it would be told now.
    #[must_use]
    pub fn standing(&self) -> Vec<Notice> {
        let standing = |open: &Open| Notice {
            incident: Incident::clone(&open.incident),
            change: if open.notices > 1 { Change::Updated } else { Change::Opened },
            at: open.incident.since,
            number: open.notices.saturating_sub(1),
            sharing: BTreeSet::new(),
        };
        self.open.values().map(standing).collect()
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use proptest::prelude::*;

    use super::*;
    use crate::incident::Severity;

    fn book() -> Book {
        Book::new(AppName::parse("acme-sync").unwrap(), BootTime::default())
    }

    fn portals(count: u64) -> Vec<PortalId> {
        (1..=count).map(|n| PortalId::new(n).unwrap()).collect()
    }

    fn at(second: u64) -> Moment {
        let wall = Timestamp::from_second(1_700_000_000 + i64::try_from(second).unwrap()).unwrap();
        Moment { boot: BootTime::new(Duration::from_secs(second)), wall }
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
        assert_eq!(book.open(kind, Some(ids[1]), None, &[], at(1)), None, "told a little later");
        assert!(book.due(at(14)).is_empty() && book.wakes() == Some(at(15).boot));
        let more = book.due(at(15));
        assert_eq!((more[0].change, &more[0].incident.portals[..]), (Change::Updated, &ids[..2]));
        assert!(book.due(at(16)).is_empty() && book.wakes().is_none());
        book.open(kind, Some(ids[2]), None, &[], at(17));
        let again = book.due(at(45));
        assert_ne!(again[0].key(), more[0].key());
        assert_eq!(book.open(kind, Some(ids[2]), None, &[], at(46)), None, "told already");
        assert_eq!(book.incidents().count(), 1);
        assert_eq!(book.close(kind, Some(ids[1]), at(47)), None);
        assert_eq!(book.close(kind, Some(ids[0]), at(48)), None);
        assert_eq!(book.due(at(1000))[0].incident.portals, [ids[2]]);
        book.open(kind, Some(ids[0]), None, &[], at(1000));
        assert_eq!(book.close(kind, Some(ids[0]), at(1000)), None);
        assert_eq!(book.rest(at(1000))[0].incident.portals, [ids[0], ids[2]], "each is named");
        assert_eq!(
            book.rest(at(1000))[0].incident.portals,
            [ids[2]],
            "if only to say that it is well again"
        );
        let over = book.close(kind, Some(ids[2]), at(1001)).unwrap();
        assert_eq!((over.change, &over.incident.portals[..]), (Change::Resolved, &[ids[2]][..]));
        assert_eq!(over.incident.incident_id, opened.incident.incident_id);
    }

    #[test]
    fn i12_five_thousand_customers_lost_in_a_minute_are_a_handful_of_messages() {
        let (mut book, ids) = (book(), portals(5000));
        let mut told = Vec::new();
        for (n, id) in (0_u64..).zip(&ids) {
            let now = at(n * 60 / 5000);
            told.extend(book.open(Kind::GrantRevoked, Some(*id), None, &[], now));
            told.extend(book.due(now));
        }
        told.extend(book.due(at(3600)));
        let words: Vec<_> = told.iter().map(|n| (n.change, n.incident.portal_count)).collect();
        assert_eq!(words[..6], [(Change::Opened, 1); 6], "five by themselves, and the group");
        assert!(words.len() <= 10, "{words:?}");
        assert_eq!(words.last(), Some(&(Change::Updated, 4995)));
        let group = &told[5].incident;
        assert_eq!(
            (group.severity, told[0].incident.severity),
            (Severity::Critical, Severity::Warning)
        );
        // All but one connect again: the group lasts as long as it concerns anybody.
        for id in &ids[..4999] {
            book.close(Kind::GrantRevoked, Some(*id), at(7200));
        }
        assert_eq!(book.incidents().count(), 1);
        let over = book.close(Kind::GrantRevoked, Some(ids[4999]), at(7300)).unwrap();
        assert_eq!(over.incident.incident_id, group.incident_id);
    }

    #[test]
    fn i12_after_a_restart_what_was_open_is_neither_opened_again_nor_forgotten() {
        let (mut first, ids) = (book(), portals(9));
        let mut latest = BTreeMap::new();
        let mut keep = |notice: Option<Notice>| {
            if let Some(notice) = notice {
                // As the journal has it.
                let text = serde_json::to_string(&notice).unwrap();
                let read: Notice = serde_json::from_str(&text).unwrap();
                assert_eq!(read, notice);
                latest.insert(read.incident.incident_id.clone(), read);
            }
        };
        for id in &ids {
            keep(first.open(Kind::GrantRevoked, Some(*id), None, &[], at(0)));
        }
        first.due(at(60)).into_iter().for_each(|notice| keep(Some(notice)));
        keep(first.open(Kind::AppRejected, None, None, &ids, at(0)));
        keep(first.open(Kind::StoreDenied, None, None, &ids, at(0)));
        keep(first.close(Kind::StoreDenied, None, at(1)));
        let mut next = book().restored(latest.values(), at(90));
        for id in &ids {
            assert_eq!(next.open(Kind::GrantRevoked, Some(*id), None, &[], at(100)), None);
        }
        assert_eq!(next.open(Kind::AppRejected, None, None, &ids, at(100)), None);
        assert!(!next.is_open(Kind::StoreDenied), "what was over stays over");
        let over = next.close(Kind::AppRejected, None, at(101)).unwrap();
        assert!(latest.contains_key(&over.incident.incident_id) && over.number == 1);
        let alone = next.close(Kind::GrantRevoked, Some(ids[0]), at(102)).unwrap();
        assert_eq!(alone.incident.portals, [ids[0]]);
        for id in &ids[5..8] {
            assert_eq!(next.close(Kind::GrantRevoked, Some(*id), at(103)), None);
        }
        assert!(next.close(Kind::GrantRevoked, Some(ids[8]), at(103)).is_some());
        // In the middle of a burst a restart is no new one; long after it, a customer's end is their own again.
        let late = Some(PortalId::new(77).unwrap());
        for (later, told) in [(120, None), (640, None), (3600, Some(Change::Opened))] {
            let mut book = book().restored(latest.values(), at(later));
            let notice = book.open(Kind::GrantRevoked, late, None, &[], at(later));
            assert_eq!(notice.map(|notice| notice.change), told, "{later} s later");
        }
    }

    #[test]
    fn an_incident_is_acknowledged_once_and_says_by_whom() {
        let mut book = book();
        let opened = book.open(Kind::AppRejected, None, None, &[], at(0)).unwrap();
        let id = &opened.incident.incident_id;
        let notice = book.acknowledge(id, 1000, at(5)).unwrap().unwrap();
        let by = notice.incident.acknowledged.as_ref().unwrap();
        assert_eq!((notice.change, by.uid), (Change::Acknowledged, 1000));
        assert_ne!(notice.key(), opened.key());
        assert_eq!(book.acknowledge(id, 1001, at(6)), Ok(None), "the first one has it");
        assert_eq!(book.acknowledge("another", 1000, at(6)), Err(NotOpen));
    }

    #[test]
    fn what_a_new_install_mends_says_where_to_begin_it() {
        let mut book = book();
        let url = "https://app.example/connect?portal={portal}";
        book.link_to(Some(InstallUrl::parse(url).unwrap()));
        let told = book.open(Kind::GrantRevoked, Some(portals(3)[2]), None, &[], at(0)).unwrap();
        assert!(told.incident.action.contains("https://app.example/connect?portal=3"));
        let app = book.open(Kind::AppRejected, None, None, &[], at(0)).unwrap();
        assert!(!app.incident.action.contains("https://"), "{}", app.incident.action);
    }

    proptest! {
        #[test]
        fn i12_whatever_is_noted_each_incident_opens_once_and_resolves_once(
            notes in prop::collection::vec((0..Kind::ALL.len(), 1_u64..9, any::<bool>()), 0..300),
        ) {
            let mut book = book();
            let mut told: BTreeMap<String, Vec<Notice>> = BTreeMap::new();
            for (second, (kind, number, open)) in (0_u64..).zip(notes) {
                let (kind, portal) = (Kind::ALL[kind], PortalId::new(number).ok());
                let notice = if open {
                    book.open(kind, portal, None, &[], at(second))
                } else {
                    book.close(kind, portal, at(second))
                };
                for notice in book.due(at(second)).into_iter().chain(notice) {
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
