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
}

impl Burst {
    /// Whether one more, now, belongs with others; else it stands for itself. Counts it.
    pub(super) fn takes(&mut self, now: BootTime) -> bool {
        let recent = |then: BootTime| now.since(then) < WINDOW;
        while self.singles.front().is_some_and(|then| !recent(*then)) {
            self.singles.pop_front();
        }
        let together = self.joined.is_some_and(recent) || self.singles.len() >= SINGLY;
        if together {
            self.joined = Some(now);
        } else {
            self.singles.push_back(now);
        }
        together
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_within_ten_minutes_stand_for_themselves_and_what_follows_goes_together() {
        let at = |second: u64| BootTime::new(Duration::from_secs(second));
        let mut burst = Burst::default();
        let told: Vec<bool> = (0..8).map(|second| burst.takes(at(second))).collect();
        assert_eq!(told, [false, false, false, false, false, true, true, true]);
        assert!(burst.takes(at(606)), "the last one was less than ten minutes ago");
        assert!(!burst.takes(at(1300)), "a day's one or two are each customer's own");
        let mut slow = Burst::default();
        assert!((0..100).all(|n| !slow.takes(at(n * 150))), "one in two and a half minutes");
    }
}
