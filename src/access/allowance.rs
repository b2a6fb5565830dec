//! How much each user may ask of the socket: so many requests a second, each user by itself, so that one who floods
//! takes nothing from the others. Pure: time is a parameter (GCRA, the form of a leaky bucket that keeps one instant a
//! user).

use std::{collections::HashMap, time::Duration};

use crate::time::BootTime;

/// Users that have asked nothing for so long that nothing is held against them are forgotten beyond this number.
const REMEMBERED: usize = 1024;

/// Who pays for a request: a user, or all together whom no rule names, lest one who can be many users takes as much
/// as many.
pub type Payer = Option<u32>;

/// What each user has asked.
#[derive(Debug, Clone)]
pub struct Allowances {
    /// Between two requests, on average.
    interval: Duration,
    /// How far ahead of that a user may be without waiting.
    smooth: Duration,
    /// How far ahead of that a user may be at all.
    ahead: Duration,
    /// By user, when all that was asked would be paid for.
    paid_at: HashMap<Payer, BootTime>,
}

impl Allowances {
    /// `per_second` requests for each user. A tenth of a second's worth may come at once; more, up to a second's, is to
    /// wait for its turn, so that a flood comes evenly.
    #[must_use]
    pub fn per_second(per_second: u32) -> Self {
        let second = Duration::from_secs(1);
        let interval = second / per_second.max(1);
        Self { interval, smooth: second / 10, ahead: second, paid_at: HashMap::new() }
    }

    /// One for each user in `interval`, and `at_once` of them without waiting.
    #[must_use]
    pub fn one_in(interval: Duration, at_once: u32) -> Self {
        let ahead = interval * at_once;
        Self { interval, smooth: ahead, ahead, paid_at: HashMap::new() }
    }

    /// Whether a request of `payer`'s would be one too many.
    #[must_use]
    pub fn is_spent(&self, payer: Payer, now: BootTime) -> bool {
        self.paid_at.get(&payer).is_some_and(|paid_at| paid_at.until(now) > self.ahead)
    }

    /// Takes one request of `payer`'s: how long it is to wait for its turn, mostly not at all.
    ///
    /// # Errors
    /// It is one too many: how long until it would not be.
    pub fn take(&mut self, payer: Payer, now: BootTime) -> Result<Duration, Duration> {
        let paid_at = self.paid_at.get(&payer).copied().unwrap_or(now).max(now);
        let owed = paid_at.until(now);
        if let Some(wait) = owed.checked_sub(self.ahead).filter(|wait| !wait.is_zero()) {
            return Err(wait);
        }
        self.charge(payer, 1, now);
        Ok(owed.saturating_sub(self.smooth))
    }

    /// Counts `requests` against `payer`, whether or not it has as many left. Nobody owes for longer than it takes to be
    /// allowed twice over: who has come to reason is answered again.
    pub fn charge(&mut self, payer: Payer, requests: u32, now: BootTime) {
        if self.paid_at.len() >= REMEMBERED {
            self.paid_at.retain(|_, paid_at| *paid_at > now);
        }
        let paid_at = self.paid_at.entry(payer).or_insert(now);
        let owed = (*paid_at).max(now) + self.interval * requests;
        *paid_at = owed.min(now + self.ahead * 2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> BootTime {
        BootTime::new(Duration::from_millis(1_000_000 + millis))
    }

    #[test]
    fn a_second_s_worth_may_come_at_once_and_then_as_many_as_a_second_gives() {
        let mut allowances = Allowances::per_second(100);
        let taken = (0..1000).filter(|_| allowances.take(Some(7), at(0)).is_ok()).count();
        assert_eq!(taken, 101);
        assert!(allowances.take(Some(7), at(0)).is_err());
        let later = (0..1000).filter(|_| allowances.take(Some(7), at(500)).is_ok()).count();
        assert_eq!(later, 50);
    }

    #[test]
    fn a_flood_is_made_to_come_evenly() {
        let mut allowances = Allowances::per_second(100);
        let waits: Vec<_> = (0..50).map(|_| allowances.take(Some(7), at(0)).unwrap()).collect();
        assert!(waits[..11].iter().all(Duration::is_zero), "{waits:?}");
        for (number, wait) in waits[11..].iter().enumerate() {
            assert_eq!(wait.as_millis(), 10 * (number as u128 + 1), "each a turn later");
        }
    }

    #[test]
    fn who_keeps_to_the_pace_is_never_refused_and_one_user_s_flood_is_nobody_else_s() {
        let mut allowances = Allowances::per_second(100);
        let mut flooded = 0;
        for millis in 0..20_000 {
            if millis % 10 == 0 {
                assert!(allowances.take(Some(1), at(millis)).is_ok(), "{millis}");
            }
            for _ in 0..5 {
                flooded += usize::from(allowances.take(Some(2), at(millis)).is_ok());
            }
        }
        assert!((2000..=2101).contains(&flooded), "{flooded}");
        assert!(allowances.take(Some(3), at(20_000)).is_ok());
    }

    #[test]
    fn some_may_come_at_once_and_then_one_in_each_interval() {
        let mut allowances = Allowances::one_in(Duration::from_millis(200), 50);
        let mut taken =
            |millis| (0..1000).filter(|_| allowances.take(None, at(millis)).is_ok()).count();
        assert_eq!((taken(0), taken(0), taken(1000)), (51, 0, 5));
        assert!(allowances.is_spent(None, at(1000)) && !allowances.is_spent(None, at(1200)));
        assert!(!allowances.is_spent(Some(7), at(0)));
        allowances.charge(Some(7), 50, at(0));
        assert!(!allowances.is_spent(Some(7), at(0)));
        allowances.charge(Some(7), 1, at(0));
        assert!(allowances.is_spent(Some(7), at(0)) && allowances.take(Some(7), at(0)).is_err());
        assert!(allowances.take(Some(7), at(200)).is_ok());
    }

    #[test]
    fn a_debt_has_a_ceiling() {
        let mut allowances = Allowances::per_second(50);
        for _ in 0..10_000 {
            allowances.charge(Some(7), 20, at(0));
        }
        assert!(allowances.take(Some(7), at(900)).is_err());
        assert!(allowances.take(Some(7), at(1000)).is_ok());
    }

    #[test]
    fn users_with_nothing_held_against_them_are_forgotten() {
        let mut allowances = Allowances::per_second(1000);
        for uid in 0..100_000 {
            allowances.take(Some(uid), at(u64::from(uid))).ok();
        }
        assert!(allowances.paid_at.len() <= REMEMBERED, "{}", allowances.paid_at.len());
    }
}
