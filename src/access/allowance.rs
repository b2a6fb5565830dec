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
    /// How far ahead of that a user may be.
    ahead: Duration,
    /// By user, when all that was asked would be paid for.
    paid_at: HashMap<Payer, BootTime>,
}

impl Allowances {
    /// `per_second` requests for each user, and as many at once as in a second.
    #[must_use]
    pub fn per_second(per_second: u32) -> Self {
        let interval = Duration::from_secs(1) / per_second.max(1);
        Self { interval, ahead: Duration::from_secs(1), paid_at: HashMap::new() }
    }

    /// One for each user in `interval`, and `at_once` of them without waiting.
    #[must_use]
    pub fn one_in(interval: Duration, at_once: u32) -> Self {
        Self { interval, ahead: interval * at_once, paid_at: HashMap::new() }
    }

    /// Whether a request of `payer`'s would be one too many.
    #[must_use]
    pub fn is_spent(&self, payer: Payer, now: BootTime) -> bool {
        self.paid_at.get(&payer).is_some_and(|paid_at| paid_at.until(now) > self.ahead)
    }

    /// Takes one request of `payer`'s.
    ///
    /// # Errors
    /// It is one too many: how long it would have to wait.
    pub fn take(&mut self, payer: Payer, now: BootTime) -> Result<(), Duration> {
        let paid_at = self.paid_at.get(&payer).copied().unwrap_or(now).max(now);
        let owed = paid_at.until(now);
        if let Some(wait) = owed.checked_sub(self.ahead).filter(|wait| !wait.is_zero()) {
            return Err(wait);
        }
        if self.paid_at.len() >= REMEMBERED {
            self.paid_at.retain(|_, paid_at| *paid_at > now);
        }
        self.paid_at.insert(payer, paid_at + self.interval);
        Ok(())
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
