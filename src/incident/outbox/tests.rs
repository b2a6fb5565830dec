//! What a receiver is owed, notice by notice.

use super::*;
use crate::{
    incident::{Book, Kind},
    portal::{AppName, PortalId},
};

const HOUR: u64 = 3600;
const HOUR_LONG: Duration = Duration::from_secs(HOUR);

fn at(second: u64) -> Moment {
    // Noon.
    let wall = Timestamp::from_second(1_700_049_600 + i64::try_from(second).unwrap()).unwrap();
    Moment { boot: BootTime::new(Duration::from_secs(second)), wall }
}

fn book() -> Book {
    Book::new(AppName::parse("acme").unwrap(), BootTime::default())
}

fn portal(number: u64) -> Option<PortalId> {
    PortalId::new(number).ok()
}

fn sent(outbox: &mut Outbox, now: Moment) -> Option<Notice> {
    match outbox.next(now, Closing::No) {
        Next::Send(notice) => Some(*notice),
        Next::Wait(_) => None,
    }
}

/// Everything that a receiver which takes all would get now, by key.
fn all(outbox: &mut Outbox, now: Moment) -> Vec<String> {
    let mut keys = Vec::new();
    while let Some(notice) = sent(outbox, now) {
        let word = notice.change.in_words();
        keys.push(format!("{} {word}", notice.incident.kind));
        outbox.settled(&notice, now);
    }
    keys
}

#[test]
fn i12_each_notice_is_told_once_and_in_order() {
    let (mut book, mut outbox) = (book(), Outbox::new(Manner::PLAIN));
    let opened = book.open(Kind::GrantRevoked, portal(1), None, &[], at(0)).unwrap();
    outbox.take(opened, None, at(0));
    assert_eq!(all(&mut outbox, at(0)), ["grant_revoked opened"]);
    assert_eq!(outbox.next(at(1), Closing::No), Next::Wait(None));
    let resolved = book.close(Kind::GrantRevoked, portal(1), at(2)).unwrap();
    outbox.take(resolved, None, at(2));
    assert_eq!(all(&mut outbox, at(2)), ["grant_revoked resolved"]);
    assert!(outbox.cases.is_empty());
}

#[test]
fn i12_a_receiver_that_was_away_gets_what_is_over_as_well_and_no_update_in_between() {
    let (mut book, mut outbox) = (book(), Outbox::new(Manner::PLAIN));
    let kind = Kind::GrantLost;
    outbox.take(book.open(kind, portal(1), None, &[], at(0)).unwrap(), None, at(0));
    let first = sent(&mut outbox, at(0)).unwrap();
    outbox.failed(&first, None, at(0));
    book.open(kind, portal(2), None, &[], at(1));
    for notice in book.due(at(20)) {
        outbox.take(notice, None, at(20));
    }
    let again = sent(&mut outbox, at(20)).unwrap();
    assert_eq!(again, first, "one key has one text");
    book.close(kind, portal(1), at(21));
    outbox.take(book.close(kind, portal(2), at(22)).unwrap(), None, at(22));
    outbox.settled(&again, at(23));
    assert_eq!(all(&mut outbox, at(23)), ["grant_lost resolved"]);
}

#[test]
fn i12_what_was_told_before_a_restart_is_not_told_again_and_what_was_not_is() {
    let mut book = book();
    let kinds = [Kind::AppRejected, Kind::StoreDenied, Kind::RateLimited];
    let notices = kinds.map(|kind| book.open(kind, None, None, &[], at(0)).unwrap());
    let over = book.close(Kind::StoreDenied, None, at(5)).unwrap();
    let told = |number| Some(Told { number, at: at(1).wall });
    let mut outbox = Outbox::new(Manner::PLAIN);
    outbox.take(notices[0].clone(), told(0), at(100));
    outbox.take(over, told(0), at(100));
    outbox.take(notices[2].clone(), None, at(100));
    assert_eq!(outbox.waiting(), 2);
    assert_eq!(all(&mut outbox, at(100)), ["store_denied resolved", "rate_limited opened"]);
}

#[test]
fn a_receiver_that_fails_is_tried_ever_more_rarely_and_not_before_it_asked_for() {
    let (mut book, mut outbox) = (book(), Outbox::new(Manner::PLAIN));
    for number in 1..=2 {
        let notice = book.open(Kind::GrantRevoked, portal(number), None, &[], at(0)).unwrap();
        outbox.take(notice, None, at(0));
    }
    let first = sent(&mut outbox, at(0)).unwrap();
    outbox.failed(&first, Some(Duration::from_secs(30)), at(0));
    assert_eq!(outbox.next(at(29), Closing::No), Next::Wait(Some(at(30).boot)));
    let second = sent(&mut outbox, at(30)).unwrap();
    assert_ne!(second.key(), first.key(), "one that nobody takes holds up no other");
    outbox.settled(&second, at(30));
    assert_eq!(sent(&mut outbox, at(30)).unwrap(), first);
    for _ in 0..20 {
        outbox.failed(&first, None, at(30));
    }
    assert_eq!(outbox.next(at(30), Closing::No), Next::Wait(Some(at(330).boot)));
    assert!(matches!(outbox.next(at(31), Closing::Kept), Next::Send(_)), "the last chance");
}

#[test]
fn who_is_reminded_is_reminded_until_it_is_over_or_somebody_has_it() {
    let hours = |hours| Some(Duration::from_secs(hours * HOUR));
    let manner = Manner { remind_critical: hours(4), remind: hours(24), ..Manner::PLAIN };
    let (mut book, mut outbox) = (book(), Outbox::new(manner));
    let critical = book.open(Kind::AppRejected, None, None, &[], at(0)).unwrap();
    outbox.take(critical.clone(), None, at(0));
    outbox.take(book.open(Kind::RateLimited, None, None, &[], at(0)).unwrap(), None, at(0));
    all(&mut outbox, at(0));
    assert_eq!(outbox.next(at(1), Closing::No), Next::Wait(Some(at(4 * HOUR).boot)));
    assert_eq!(all(&mut outbox, at(4 * HOUR)), ["app_rejected still open"]);
    assert_eq!(all(&mut outbox, at(5 * HOUR)), [""; 0]);
    assert_eq!(all(&mut outbox, at(8 * HOUR)), ["app_rejected still open"]);
    let id = &critical.incident.incident_id;
    let acknowledged = book.acknowledge(id, 0, at(9 * HOUR)).unwrap().unwrap();
    outbox.take(acknowledged, None, at(9 * HOUR));
    assert_eq!(all(&mut outbox, at(9 * HOUR)), ["app_rejected acknowledged"]);
    assert_eq!(all(&mut outbox, at(24 * HOUR)), ["rate_limited still open"]);
}

#[test]
fn a_restart_neither_hurries_a_reminder_nor_puts_it_off() {
    let every = Some(Duration::from_secs(4 * HOUR));
    let manner = Manner { remind_critical: every, ..Manner::PLAIN };
    let opened = book().open(Kind::AppRejected, None, None, &[], at(0)).unwrap();
    let mut outbox = Outbox::new(manner);
    outbox.take(opened, Some(Told { number: 0, at: at(0).wall }), at(3 * HOUR));
    assert_eq!(outbox.next(at(3 * HOUR), Closing::No), Next::Wait(Some(at(4 * HOUR).boot)));
}

#[test]
fn in_quiet_hours_only_what_is_critical_is_told_and_the_rest_when_they_end() {
    let quiet = Some("11:00-14:00".parse().unwrap());
    let (mut book, mut outbox) = (book(), Outbox::new(Manner { quiet, ..Manner::PLAIN }));
    outbox.take(book.open(Kind::RateLimited, None, None, &[], at(0)).unwrap(), None, at(0));
    outbox.take(book.open(Kind::StoreDenied, None, None, &[], at(0)).unwrap(), None, at(0));
    outbox.take(book.open(Kind::AppRejected, None, None, &[], at(0)).unwrap(), None, at(0));
    assert_eq!(all(&mut outbox, at(0)), ["app_rejected opened"]);
    assert_eq!(outbox.next(at(1), Closing::No), Next::Wait(Some(at(2 * HOUR).boot)));
    outbox.take(book.close(Kind::StoreDenied, None, at(HOUR)).unwrap(), None, at(HOUR));
    assert_eq!(outbox.passed_over(at(HOUR)).len(), 1, "over before anybody was to hear of it");
    assert_eq!(all(&mut outbox, at(2 * HOUR)), ["rate_limited opened"]);
}

#[test]
fn a_receiver_that_forgets_is_told_again_and_again_whatever_the_hour() {
    let quiet = Some("11:00-14:00".parse().unwrap());
    let repeat = Some(Duration::from_secs(60));
    let (mut book, mut outbox) = (book(), Outbox::new(Manner { quiet, repeat, ..Manner::PLAIN }));
    outbox.take(book.open(Kind::RateLimited, None, None, &[], at(0)).unwrap(), None, at(0));
    assert_eq!(all(&mut outbox, at(0)), ["rate_limited opened"]);
    assert_eq!(all(&mut outbox, at(60)), ["rate_limited still open"]);
    outbox.take(book.close(Kind::RateLimited, None, at(61)).unwrap(), None, at(61));
    assert_eq!(all(&mut outbox, at(61)), ["rate_limited resolved"]);
    assert_eq!(outbox.next(at(200), Closing::No), Next::Wait(None));
}

#[test]
fn what_is_not_severe_enough_is_not_told() {
    let manner = Manner { min_severity: Severity::Critical, ..Manner::PLAIN };
    let (mut book, mut outbox) = (book(), Outbox::new(manner));
    outbox.take(book.open(Kind::RateLimited, None, None, &[], at(0)).unwrap(), None, at(0));
    outbox.take(book.open(Kind::AppRejected, None, None, &[], at(0)).unwrap(), None, at(0));
    assert_eq!(all(&mut outbox, at(0)), ["app_rejected opened"]);
}

#[test]
fn a_receiver_that_is_new_learns_what_is_open_as_it_stands() {
    let (mut book, mut outbox) = (book(), Outbox::new(Manner::PLAIN));
    book.open(Kind::GrantLost, portal(1), None, &[], at(0));
    book.open(Kind::GrantLost, portal(2), None, &[], at(1));
    book.due(at(20));
    for notice in book.standing() {
        outbox.take(notice, None, at(30));
    }
    let notice = sent(&mut outbox, at(30)).unwrap();
    assert_eq!((notice.change, notice.incident.portal_count), (Change::Opened, 2));
    outbox.settled(&notice, at(30));
    assert_eq!(outbox.waiting(), 0);
}

#[test]
fn a_reload_stops_no_reminder_and_a_receiver_that_wants_less_hears_the_end_of_what_it_was_told() {
    let every = |hours: u64| Some(Duration::from_secs(hours * HOUR));
    let manner = Manner { remind_critical: every(4), ..Manner::PLAIN };
    let (mut book, mut outbox) = (book(), Outbox::new(manner.clone()));
    outbox.take(book.open(Kind::AppRejected, None, None, &[], at(0)).unwrap(), None, at(0));
    outbox.take(book.open(Kind::RateLimited, None, None, &[], at(0)).unwrap(), None, at(0));
    all(&mut outbox, at(0));
    outbox.change(manner.clone(), at(HOUR));
    assert_eq!(outbox.next(at(HOUR), Closing::No), Next::Wait(Some(at(4 * HOUR).boot)));
    let critical = Manner { min_severity: Severity::Critical, repeat: every(1), ..manner };
    outbox.change(critical, at(2 * HOUR));
    assert_eq!(all(&mut outbox, at(2 * HOUR)), ["app_rejected still open"]);
    outbox.take(book.close(Kind::RateLimited, None, at(3 * HOUR)).unwrap(), None, at(3 * HOUR));
    assert!(all(&mut outbox, at(3 * HOUR)).contains(&"rate_limited resolved".to_owned()));
    outbox.take(
        book.open(Kind::StoreDenied, None, None, &[], at(3 * HOUR)).unwrap(),
        None,
        at(3 * HOUR),
    );
    assert_eq!(outbox.waiting(), 0, "what it was never told it need not hear of");
}

#[test]
fn i12_what_a_start_finds_to_be_over_is_not_overtaken_by_what_was_known_before_it() {
    let mut book = book();
    let opened = book.open(Kind::StoreUnreachable, None, None, &[], at(0)).unwrap();
    let over = book.close(Kind::StoreUnreachable, None, at(5)).unwrap();
    let told = Some(Told { number: 0, at: at(1).wall });
    let mut outbox = Outbox::new(Manner { remind_critical: Some(HOUR_LONG), ..Manner::PLAIN });
    outbox.take(over, None, at(10));
    outbox.take(opened, told, at(10));
    assert_eq!(all(&mut outbox, at(10)), ["store_unreachable resolved"]);
    assert!(outbox.cases.is_empty(), "and nobody is reminded of it");
}

#[test]
fn i7_a_receiver_that_is_slow_to_take_its_repeats_hears_of_what_is_new_first_and_of_each_in_turn() {
    let manner = Manner { repeat: Some(Duration::from_secs(60)), ..Manner::PLAIN };
    let (mut book, mut outbox) = (book(), Outbox::new(manner));
    let kinds = [Kind::StoreDenied, Kind::RateLimited, Kind::JournalFailing];
    for kind in kinds {
        outbox.take(book.open(kind, None, None, &[], at(0)).unwrap(), None, at(0));
    }
    assert_eq!(all(&mut outbox, at(0)).len(), 3);
    // Each takes half a minute, so that all are due again before the last has had its turn.
    let mut told = Vec::new();
    for second in [60, 90, 120, 150, 180, 210] {
        if second == 150 {
            let new = book.open(Kind::AppRejected, None, None, &[], at(150)).unwrap();
            outbox.take(new, None, at(150));
        }
        let notice = sent(&mut outbox, at(second)).unwrap();
        let remembered = outbox.settled(&notice, at(second + 30));
        assert_eq!(remembered.is_some(), notice.change == Change::Opened, "a repeat is no news");
        told.push(notice.incident.kind);
    }
    let [first, second, third] = kinds;
    assert_eq!(told, [first, second, third, Kind::AppRejected, first, second]);
}

#[test]
fn i7_one_notice_that_nobody_takes_keeps_no_reminder_of_another_waiting() {
    let manner = Manner { remind_critical: Some(HOUR_LONG), ..Manner::PLAIN };
    let (mut book, mut outbox) = (book(), Outbox::new(manner));
    outbox.take(book.open(Kind::AppRejected, None, None, &[], at(0)).unwrap(), None, at(0));
    all(&mut outbox, at(0));
    let poison = book.open(Kind::StoreDenied, None, None, &[], at(1)).unwrap();
    outbox.take(poison, None, at(1));
    let mut now = 1;
    let mut told = Vec::new();
    while told.is_empty() {
        let notice = sent(&mut outbox, at(now)).unwrap();
        if notice.incident.kind == Kind::StoreDenied {
            outbox.failed(&notice, None, at(now));
            now += 300;
        } else {
            told.push(notice.change);
        }
        assert!(now < 2 * HOUR, "the reminder never comes");
    }
    assert_eq!(told, [Change::Reminded]);
}
