//! Counting what happened within the last stretch of time: the rate limiter's memory and the
//! meter of the worst second. Knows nothing of what it counts.

use std::{collections::VecDeque, time::Duration};

use crate::time::BootTime;

/// The moments of a sliding stretch of time.
#[derive(Debug, Default)]
pub(super) struct Window {
    moments: VecDeque<BootTime>,
    worst: usize,
}

impl Window {
    /// How many moments lie within `span` before `now`.
    pub(super) fn count(&mut self, span: Duration, now: BootTime) -> usize {
        while self.moments.front().is_some_and(|first| now.since(*first) >= span) {
            self.moments.pop_front();
        }
        self.moments.len()
    }

    /// Takes note of `now` and returns how many moments there are within `span`, this one included.
    pub(super) fn note(&mut self, span: Duration, now: BootTime) -> usize {
        self.moments.push_back(now);
        let count = self.count(span, now);
        self.worst = self.worst.max(count);
        count
    }

    /// Takes note of `now` unless there are `limit` moments within `span` already.
    pub(super) fn admit(&mut self, limit: usize, span: Duration, now: BootTime) -> bool {
        let admitted = self.count(span, now) < limit;
        if admitted {
            self.note(span, now);
        }
        admitted
    }

    /// The most moments that ever lay within one span.
    pub(super) const fn worst(&self) -> usize {
        self.worst
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn at(millis: u64) -> BootTime {
        BootTime::new(Duration::from_millis(millis))
    }

    #[test]
    fn the_limit_holds_over_every_second_not_over_calendar_seconds() {
        let mut window = Window::default();
        assert!(window.admit(2, SECOND, at(900)));
        assert!(window.admit(2, SECOND, at(950)));
        assert!(!window.admit(2, SECOND, at(1100)));
        assert!(window.admit(2, SECOND, at(1900)), "the first one is a second old");
    }

    #[test]
    fn the_worst_second_is_remembered() {
        let mut window = Window::default();
        for millis in [0, 10, 20, 5000] {
            window.note(SECOND, at(millis));
        }
        assert_eq!(window.worst(), 3);
        assert_eq!(window.count(SECOND, at(5000)), 1);
    }
}
