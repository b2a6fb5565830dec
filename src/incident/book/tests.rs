//! What the book makes of what is noted in it: one incident a cause, told once, across restarts.

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
