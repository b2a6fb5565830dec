//! What the walk promises, claim by claim.

use super::*;
use crate::portal::PortalId;

const EVERY: Duration = Duration::from_secs(60);

fn at(seconds: u64) -> BootTime {
    BootTime::new(Duration::from_secs(1_000_000 + seconds))
}

fn offset(text: &str) -> Offset {
    Offset::parse(text).unwrap()
}

fn taken_out(number: u64) -> Happened {
    Happened { portal: PortalId::new(number).unwrap(), change: Change::Uninstalled }
}

fn ids(changes: &Changes) -> Vec<u64> {
    changes.uninstalled.iter().map(|id| id.number()).collect()
}

/// One that has read up to "5".
fn walking() -> Walk {
    let left = Read { offset: offset("5"), ago: Some(EVERY) };
    Walk::from(Some(left), EVERY, at(0))
}

#[test]
fn who_never_read_begins_at_the_end_and_has_everybody_asked_about() {
    for (end, place) in [
        (Brought::End(offset("7")), Place::After(offset("7"))),
        (Brought::Nothing, Place::Earliest),
    ] {
        let mut walk = Walk::from(None, EVERY, at(0));
        assert_eq!(walk.place(at(0)), &Place::Latest);
        let next = walk.after(end, at(0), 0.0);
        assert_eq!(next, Next { wait: EVERY, tell: true, news: Some(News::Begun) });
        assert!(walk.take().missed);
        assert_eq!(walk.place, place);
        let next = walk.after(Brought::Nothing, at(60), 0.0);
        assert_eq!(next, Next { wait: EVERY, tell: false, news: None }, "once is enough");
    }
}

#[test]
fn reading_goes_on_where_it_was_left_unless_that_is_too_long_ago() {
    let hours = |hours: u64| Some(Duration::from_secs(hours * 3600));
    for (ago, lost) in [(hours(0), false), (hours(59), false), (hours(61), true), (None, true)] {
        let left = Read { offset: offset("5"), ago };
        let mut walk = Walk::from(Some(left), EVERY, at(0));
        let place = if lost { Place::Latest } else { Place::After(offset("5")) };
        assert_eq!(walk.place(at(0)), &place, "{ago:?}");
        if lost {
            let next = walk.after(Brought::End(offset("9")), at(0), 0.0);
            assert_eq!(next.news, Some(News::Missed));
            assert!(walk.take().missed);
        }
    }
    let mut walk = walking();
    walk.after(Brought::Nothing, at(0), 0.0);
    assert_eq!(walk.place(at(59 * 3600)), &Place::After(offset("5")));
    assert_eq!(walk.place(at(61 * 3600)), &Place::Latest, "nobody could read it meanwhile");
}

#[test]
fn it_walks_forward_to_the_end_and_tells_each_portal_once() {
    let mut walk = walking();
    for number in 6..=9_u64 {
        let happened = vec![taken_out(1), taken_out(number), taken_out(1)];
        let entry = Brought::Entry(offset(&number.to_string()), happened);
        let next = walk.after(entry, at(0), 0.0);
        assert_eq!(next, Next { wait: STEP, tell: false, news: None });
        assert_eq!(walk.settled(), None, "a place is remembered once what it told is told");
    }
    assert!(walk.after(Brought::Nothing, at(1), 0.0).tell);
    assert_eq!(ids(&walk.take()), [1, 6, 7, 8, 9]);
    assert_eq!(walk.settled(), Some((&offset("9"), at(1))));
}

#[test]
fn what_came_together_is_not_kept_waiting_by_more() {
    let mut walk = walking();
    let entry = |number: u64| Brought::Entry(offset(&number.to_string()), vec![taken_out(number)]);
    assert!(!walk.after(entry(6), at(0), 0.0).tell);
    assert!(!walk.after(entry(7), at(9), 0.0).tell);
    assert!(walk.after(entry(8), at(10), 0.0).tell, "ten seconds are enough");
    walk.take();
    let many = (1..=10_000).map(taken_out).collect();
    assert!(walk.after(Brought::Entry(offset("9"), many), at(10), 0.0).tell, "so are so many");
    walk.take();
    walk.after(entry(10), at(11), 0.0);
    let failed = walk.after(Brought::Failed(Trouble::Unanswered), at(11), 0.0);
    assert!(failed.tell, "nor by trouble");
}

#[test]
fn trouble_is_waited_out_and_told_once_and_its_end_too() {
    for (trouble, told_at, longest) in [
        (Trouble::Unanswered, 3, 900),
        (Trouble::NotUnderstood, 3, 900),
        (Trouble::NotEntitled, 1, 3600),
        (Trouble::AppRefused, 1, 3600),
    ] {
        let mut walk = walking();
        let mut waits = Vec::new();
        for time in 1..=10 {
            let next = walk.after(Brought::Failed(trouble), at(time), 0.0);
            let news = (time == told_at).then_some(News::Trouble(trouble));
            assert_eq!(next.news, news, "{trouble:?}, {time}");
            waits.push(next.wait.as_secs());
        }
        assert_eq!((waits[0], waits[1], waits[9]), (60, 120, longest), "{trouble:?}");
        assert_eq!(walk.place(at(11)), &Place::After(offset("5")));
        let next = walk.after(Brought::Nothing, at(11), 0.0);
        assert_eq!(next, Next { wait: EVERY, tell: false, news: Some(News::Well) });
    }
    let mut walk = walking();
    let told = (1..=6).filter_map(|wait| {
        let limited = Trouble::RateLimited(Some(Duration::from_secs(wait)));
        walk.after(Brought::Failed(limited), at(wait), 0.0).news
    });
    assert_eq!(told.count(), 1, "whatever HubSpot asks for");
    let asked = Trouble::RateLimited(Some(Duration::from_secs(4000)));
    let next = walking().after(Brought::Failed(asked), at(0), 1.0);
    assert_eq!(next.wait.as_secs(), 4000, "as HubSpot asks");
}

#[test]
fn a_token_that_is_refused_is_replaced_at_once_and_then_with_patience() {
    let mut walk = walking();
    let refused = || Brought::Failed(Trouble::TokenRefused);
    assert_eq!(walk.after(refused(), at(0), 0.0).wait, STEP);
    assert_eq!(walk.after(refused(), at(0), 0.0).wait, 2 * EVERY);
}

#[test]
fn a_place_that_is_gone_has_everybody_asked_about_unless_nothing_came_after_it() {
    let mut walk = walking();
    assert_eq!(walk.after(Brought::Lost, at(0), 0.0).wait, STEP);
    assert_eq!(walk.place(at(0)), &Place::Latest);
    let next = walk.after(Brought::End(offset("9")), at(0), 0.0);
    assert_eq!(next.news, Some(News::Missed));
    assert!(walk.take().missed);

    let mut walk = walking();
    walk.after(Brought::Lost, at(0), 0.0);
    let next = walk.after(Brought::End(offset("5")), at(0), 0.0);
    assert_eq!(next, Next { wait: EVERY, tell: false, news: None });
    assert_eq!(walk.place(at(0)), &Place::After(offset("5")));
}

#[test]
fn a_file_that_can_not_be_read_holds_nothing_up_for_good() {
    for trouble in [Trouble::NotUnderstood, Trouble::NotThere] {
        let mut walk = walking();
        let spoilt = || Brought::Unreadable(offset("6"), trouble);
        for _ in 0..2 {
            walk.after(spoilt(), at(0), 0.0);
            assert_eq!(walk.place(at(0)), &Place::After(offset("5")));
        }
        let next = walk.after(spoilt(), at(0), 0.0);
        assert_eq!(next.news, Some(News::PassedOver(trouble)));
        assert_eq!(walk.place(at(0)), &Place::After(offset("6")));
        walk.after(Brought::Nothing, at(1), 0.0);
        assert!(walk.take().missed, "what it told is not known");
    }
    let mut walk = walking();
    for _ in 0..99 {
        walk.after(Brought::Unreadable(offset("6"), Trouble::Unanswered), at(0), 0.0);
    }
    assert_eq!(walk.place(at(0)), &Place::After(offset("5")), "a network comes back");
}
