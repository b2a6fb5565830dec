//! How many requests a second HubSpot bears: never above the configured ceiling, less after a 429,
//! slowly more while there is none (additive increase, multiplicative decrease). HubSpot publishes no
//! figure for its OAuth endpoints (study `hubspot.md` 4.2), so it is learned. Pure.

use std::time::Duration;

use crate::time::BootTime;

/// What is left of the rate after a 429.
const DECREASE: f64 = 0.7;
/// From nothing to the ceiling in so many seconds without a 429 …
const CLIMB: f64 = 60.0;
/// … and so much slower from nine tenths of the rate at which HubSpot last said no.
const NEAR: f64 = 0.9;
const NEAR_CLIMB: f64 = 600.0;
/// The least of the ceiling that is left however often HubSpot says no.
const LEAST: f64 = 0.02;
/// 429s within this time are one: those in flight were sent at the rate that is being lowered.
const ONE: Duration = Duration::from_secs(1);
/// A 429 is remembered for so long when it comes to what the rate carries; if the next one comes soon after it
/// was forgotten, for twice as long, up to the longest: HubSpot has not changed its mind, and is asked ever more
/// rarely whether it has.
const REMEMBERED: Duration = Duration::from_secs(1800);
const LONGEST_REMEMBERED: Duration = Duration::from_secs(6 * 3600);
/// Where HubSpot says no at a higher rate than before, what is counted on rises by this share of the difference.
const BELIEVED: f64 = 0.2;
/// So long after the last 429, HubSpot bears what it is asked for.
const CALM: Duration = Duration::from_secs(300);

/// The rate in force, as it changes with time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    ceiling: f64,
    /// The rate at `since`; it climbs from there.
    base: f64,
    since: BootTime,
    /// Something was answered since: without that, nothing says that HubSpot bears more.
    borne: bool,
    /// The rate at which HubSpot last said no.
    limit: Option<f64>,
    /// None if that was before this process began.
    limited_at: Option<BootTime>,
    /// The rate at which it is expected to say no: falls at once and rises slowly, as one 429 says little.
    expected: f64,
    remembered: Duration,
}

impl Rate {
    /// Starts at the ceiling, or below what was learned before: `limit` is the rate at which HubSpot
    /// said no then.
    #[must_use]
    pub fn new(ceiling: f64, limit: Option<f64>, now: BootTime) -> Self {
        let ceiling = if ceiling.is_finite() { ceiling.max(0.001) } else { 0.001 };
        let limit = limit.filter(|limit| limit.is_finite() && *limit < ceiling);
        let base = limit.map_or(ceiling, |limit| (limit * DECREASE).max(ceiling * LEAST));
        let expected = limit.unwrap_or(ceiling);
        Self {
            ceiling,
            base,
            since: now,
            borne: true,
            limit,
            limited_at: None,
            expected,
            remembered: REMEMBERED,
        }
    }

    /// Requests a second at `now`.
    #[must_use]
    pub fn at(&self, now: BootTime) -> f64 {
        if !self.borne {
            return self.base;
        }
        let mut left = now.since(self.since).as_secs_f64();
        let mut rate = self.base;
        let near = self.limit.map_or(self.ceiling, |limit| (limit * NEAR).min(self.ceiling));
        if rate < near {
            let step = self.ceiling / CLIMB;
            let climbing = ((near - rate) / step).min(left);
            rate += climbing * step;
            left -= climbing;
        }
        (rate + left * self.ceiling / NEAR_CLIMB).min(self.ceiling)
    }

    /// HubSpot said no.
    #[must_use]
    pub fn throttled(self, now: BootTime) -> Self {
        let quiet = self.limited_at.map(|at| now.since(at));
        if quiet.is_some_and(|quiet| quiet < ONE) {
            return self;
        }
        let rate = self.at(now);
        let base = (rate * DECREASE).max(self.ceiling * LEAST);
        let remembered = match quiet {
            Some(quiet) if quiet < self.remembered => self.remembered,
            Some(quiet) if quiet < 2 * self.remembered => {
                (2 * self.remembered).min(LONGEST_REMEMBERED)
            }
            _ => REMEMBERED,
        };
        let expected = if self.limit.is_none() || rate < self.expected {
            rate
        } else {
            self.expected + BELIEVED * (rate - self.expected)
        };
        // What is refused before anything was borne says nothing new of where the limit is.
        let (limit, expected) =
            if self.borne { (Some(rate), expected) } else { (self.limit, self.expected) };
        let (borne, since, limited_at) = (false, now, Some(now));
        Self { base, since, borne, limit, limited_at, expected, remembered, ..self }
    }

    /// HubSpot said something else: from now on the rate climbs.
    #[must_use]
    pub fn borne(self, now: BootTime) -> Self {
        if self.borne { self } else { Self { borne: true, since: now, ..self } }
    }

    /// Goes on under another ceiling.
    #[must_use]
    pub fn under(self, ceiling: f64, now: BootTime) -> Self {
        let new = Self::new(ceiling, self.expected(), now);
        if new.ceiling.total_cmp(&self.ceiling).is_eq() {
            return self;
        }
        let limited_at = self.limited_at.filter(|_| new.limit.is_some());
        Self { limited_at, remembered: self.remembered, ..new }
    }

    /// The rate at which HubSpot is expected to say no, if it ever did.
    #[must_use]
    pub fn expected(&self) -> Option<f64> {
        self.limit.map(|_| self.expected)
    }

    /// What can be counted on for long: the ceiling, or a cautious share of what HubSpot lately bore.
    #[must_use]
    pub fn sustained(&self, now: BootTime) -> f64 {
        if !self.was_limited_within(self.remembered, now) {
            return self.ceiling;
        }
        (self.expected * DECREASE).max(self.ceiling * LEAST)
    }

    /// Whether HubSpot has not said no of late.
    #[must_use]
    pub fn is_calm(&self, now: BootTime) -> bool {
        !self.was_limited_within(CALM, now)
    }

    fn was_limited_within(&self, span: Duration, now: BootTime) -> bool {
        self.limited_at.is_some_and(|at| now.since(at) < span)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(millis: u64) -> BootTime {
        BootTime::new(Duration::from_millis(1_000_000 + millis))
    }

    #[test]
    fn i8_a_429_takes_three_tenths_and_a_minute_without_brings_most_of_it_back() {
        let rate = Rate::new(10.0, None, at(0));
        assert!((rate.at(at(0)) - 10.0).abs() < 1e-9);
        let less = rate.throttled(at(0)).borne(at(0));
        assert!((less.at(at(0)) - 7.0).abs() < 1e-9);
        assert!((less.at(at(6_000)) - 8.0).abs() < 1e-9, "a sixth of the ceiling in ten seconds");
        assert!((less.at(at(12_000)) - 9.0).abs() < 1e-9);
        assert!((less.at(at(72_000)) - 10.0).abs() < 1e-9, "near the limit it climbs slower");
        assert!((less.at(at(900_000)) - 10.0).abs() < 1e-9, "and never above the ceiling");
    }

    #[test]
    fn i8_the_429s_of_one_second_are_one() {
        let rate = Rate::new(10.0, None, at(0)).throttled(at(0));
        assert_eq!(rate.throttled(at(0)), rate);
        assert_eq!(rate.throttled(at(999)), rate);
        assert!(rate.throttled(at(1000)).at(at(1000)) < 5.1);
    }

    #[test]
    fn i8_what_was_learned_before_a_restart_is_where_it_begins() {
        let rate = Rate::new(100.0, Some(10.0), at(0));
        assert!((rate.at(at(0)) - 7.0).abs() < 1e-9);
        assert!((rate.sustained(at(0)) - 100.0).abs() < 1e-9, "that it still holds is to be seen");
        assert_eq!(Rate::new(5.0, Some(10.0), at(0)).expected(), None, "the ceiling says more");
    }

    #[test]
    fn a_configuration_read_again_changes_nothing_and_a_lower_ceiling_is_kept_to() {
        let rate = Rate::new(10.0, None, at(0)).throttled(at(0));
        assert_eq!(rate.under(10.0, at(5000)), rate);
        let lower = rate.under(2.0, at(5000));
        assert!(lower.at(at(5000)) <= 2.0 && lower.is_calm(at(5000)), "{lower:?}");
    }

    #[test]
    fn what_is_counted_on_is_what_was_borne_lately() {
        let rate = Rate::new(10.0, None, at(0));
        assert!((rate.sustained(at(0)) - 10.0).abs() < 1e-9);
        let less = rate.throttled(at(0)).borne(at(0));
        assert!((less.sustained(at(600_000)) - 7.0).abs() < 1e-9);
        assert!((less.sustained(at(1_800_000)) - 10.0).abs() < 1e-9);
    }

    #[test]
    fn i8_nothing_climbs_while_every_answer_is_a_429() {
        let mut rate = Rate::new(10.0, None, at(0));
        for minute in 0..10 {
            let before = rate.at(at(minute * 60_000));
            rate = rate.throttled(at(minute * 60_000));
            let after = rate.at(at((minute + 1) * 60_000));
            assert!(after < before && rate.expected().unwrap() <= 10.0, "minute {minute}");
        }
        let borne = rate.borne(at(600_000));
        assert!(borne.at(at(600_000)) <= rate.at(at(600_000)) && borne.at(at(660_000)) > 5.0);
    }

    #[test]
    fn a_limit_that_is_met_again_once_forgotten_is_remembered_for_longer() {
        let (mut rate, mut now) = (Rate::new(10.0, None, at(0)).throttled(at(0)).borne(at(0)), 0);
        for minutes in [30, 60, 120, 240, 360, 360] {
            let forgotten = now + minutes * 60_000;
            assert!(rate.sustained(at(forgotten - 1)) < 9.0, "after {minutes} minutes");
            assert!((rate.sustained(at(forgotten)) - 10.0).abs() < 1e-9);
            now = forgotten + 10_000;
            rate = rate.throttled(at(now)).borne(at(now));
        }
        let later = now + 13 * 3_600_000;
        rate = rate.throttled(at(later));
        assert!((rate.sustained(at(later + 1_800_000)) - 10.0).abs() < 1e-9, "a new one");
    }

    #[test]
    fn one_429_at_a_rate_that_was_not_used_says_little() {
        let mut rate = Rate::new(20.0, None, at(0));
        for second in 0..10 {
            rate = rate.throttled(at(second * 1000)).borne(at(second * 1000));
        }
        let low = rate.sustained(at(10_000));
        assert!(low < 2.0, "{low}");
        // Ten minutes without a word let the rate climb, and one call at the wrong moment is refused.
        let again = rate.throttled(at(610_000));
        assert!(!again.is_calm(at(610_000)) && again.is_calm(at(910_000)));
        let now = again.sustained(at(610_000));
        assert!(now > low && now < 20.0 * DECREASE / 3.0, "{now}");
    }

    /// A HubSpot that bears so much and no more, asked for ten minutes.
    #[test]
    fn i8_a_limit_below_the_ceiling_is_met_seldom_and_mostly_used() {
        let (mut rate, bears) = (Rate::new(20.0, None, at(0)), 6.0);
        let (mut refused, mut sent) = (0, 0.0);
        for tenth in 0..6000 {
            let now = at(tenth * 100);
            if rate.at(now) > bears {
                rate = rate.throttled(now).borne(now);
                // Ten seconds to find the limit.
                refused += u32::from(tenth > 100);
            }
            sent += rate.at(now) / 10.0;
        }
        assert!(refused < 30, "{refused} refusals in ten minutes");
        assert!(sent / 600.0 > bears * 0.75, "{} a second of {bears}", sent / 600.0);
    }

    proptest! {
        #[test]
        fn i8_whatever_happens_the_rate_stays_between_its_floor_and_its_ceiling(
            ceiling in 0.01_f64..1000.0, limit in prop::option::of(0.0_f64..2000.0), gaps in prop::collection::vec(0_u64..120_000, 0..100),
        ) {
            let mut rate = Rate::new(ceiling, limit, at(0));
            let mut now = 0;
            for gap in gaps {
                let before = rate.at(at(now));
                now += gap;
                let after = rate.at(at(now));
                prop_assert!(after >= before - 1e-9, "without a 429 it never falls");
                prop_assert!(after <= ceiling + 1e-9 && after >= ceiling * LEAST - 1e-9);
                prop_assert!(rate.sustained(at(now)) <= ceiling + 1e-9);
                rate = rate.throttled(at(now)).borne(at(now));
                prop_assert!(rate.at(at(now)) <= after + 1e-9);
            }
        }
    }
}
