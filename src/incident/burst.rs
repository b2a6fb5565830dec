//! Whether portals that fail alike within minutes are told of one by one or together (I12): a handful may be a
//! handful of customers' own doing, more of them have one cause.

use std::{collections::VecDeque, time::Duration};

use crate::time::BootTime;

/// As many of a kind are told of one by one within the window.
const SINGLY: usize = 5;
const WINDOW: Duration = Duration::from_secs(600);

/// The incidents of one kind that were opened of late.
#[derive(Debug, Clone, Default)]
pub(super) struct Burst {
    singles: VecDeque<BootTime>,
    joined: Option<BootTime>,
    /// Numbers the bursts: another one, later, has another cause.
    number: u32,
}

impl Burst {
    /// The burst to which one more, now, belongs; none if it stands for itself. Counts it.
    pub(super) fn takes(&mut self, now: BootTime) -> Option<u32> {
        let recent = |then: BootTime| now.since(then) < WINDOW;
        while self.singles.front().is_some_and(|then| !recent(*then)) {
            self.singles.pop_front();
        }
        let goes_on = self.joined.is_some_and(recent);
        if !goes_on && self.singles.len() < SINGLY {
            self.singles.push_back(now);
            return None;
        }
        self.number += u32::from(!goes_on);
        self.joined = Some(now);
        Some(self.number)
    }

    /// A burst that an earlier process told of, so long ago. A restart in the middle of it is no new one.
    pub(super) fn resumed(&mut self, ago: Duration, now: BootTime) -> u32 {
        self.number += 1;
        if ago < WINDOW {
            self.joined = Some(now);
        }
        self.number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_within_ten_minutes_stand_for_themselves_and_what_follows_goes_together() {
        let at = |second: u64| BootTime::new(Duration::from_secs(second));
        let mut burst = Burst::default();
        let told: Vec<_> = (0..8).map(|second| burst.takes(at(second))).collect();
        assert_eq!(told, [None, None, None, None, None, Some(1), Some(1), Some(1)]);
        assert_eq!(burst.takes(at(606)), Some(1), "the last one was less than ten minutes ago");
        assert_eq!(burst.takes(at(1300)), None, "a day's one or two are each customer's own");
        for second in 1301..1305 {
            assert_eq!(burst.takes(at(second)), None);
        }
        assert_eq!(burst.takes(at(1306)), Some(2), "another burst is another cause");
        let mut slow = Burst::default();
        assert!(
            (0..100).all(|n| slow.takes(at(n * 150)).is_none()),
            "one in two and a half minutes"
        );
    }
}
