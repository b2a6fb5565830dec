//! HubSpot says that it is asked too much: what is held back, what is learned from it, and when people are
//! told. The rate itself is a rule of `lifecycle::rate`.

use std::time::Duration;

use super::Engine;
use crate::{incident::Kind, lifecycle::RefreshMode, time::BootTime};

/// Where a 429 does not say how long.
const USUAL_WAIT: Duration = Duration::from_secs(1);
/// Whatever a 429 asks for: tokens live for half an hour, and one request tells whether it still holds.
const LONGEST_QUIET: Duration = Duration::from_secs(600);
/// Nothing but 429s for so long, and so many, or one that asks for so long a wait: people are told.
const NOTABLE: Duration = Duration::from_secs(10);
const IN_A_ROW: u32 = 3;
/// And told that it is over when there was none for so long.
const OVER: Duration = Duration::from_secs(60);

/// HubSpot's 429s since it last said anything else.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Throttling {
    since: Option<BootTime>,
    times: u32,
    /// The last one, whatever was said since.
    last: Option<BootTime>,
}

impl Throttling {
    /// As it is taken to be after a start that finds it told of.
    pub(super) fn going_on(now: BootTime) -> Self {
        Self { last: Some(now), ..Self::default() }
    }

    fn another(&mut self, now: BootTime) {
        self.since.get_or_insert(now);
        self.times = self.times.saturating_add(1);
        self.last = Some(now);
    }

    /// Whether HubSpot says nothing else, and has for a while.
    fn is_notable(&self, now: BootTime) -> bool {
        let long = self.since.is_some_and(|since| now.since(since) >= NOTABLE);
        long && self.times >= IN_A_ROW
    }

    fn is_over(&self, now: BootTime) -> bool {
        self.last.is_none_or(|last| now.since(last) >= OVER)
    }
}

impl Engine {
    /// HubSpot asks everybody to slow down.
    pub(super) fn throttled(&mut self, wait: Option<Duration>) {
        let now = self.world.clock.boot();
        self.metrics.rate_limited.inc();
        self.sending.hold_until(now + wait.unwrap_or(USUAL_WAIT).min(LONGEST_QUIET));
        self.take_back_ready();
        self.rate = self.rate.throttled(now);
        self.throttling.another(now);
        self.overall.throttled = Some(self.sending.free_at());
        self.overall_changed = true;
        self.budget_due = self.budget_due.min(now + Duration::from_secs(1));
        self.remember_provider();
        self.tell_of_throttling(now);
    }

    /// HubSpot said something else than that it is asked too much.
    pub(super) fn not_throttled(&mut self) {
        let now = self.world.clock.boot();
        self.rate = self.rate.borne(now);
        (self.throttling.since, self.throttling.times) = (None, 0);
        self.overall_changed |= self.overall.throttled.take().is_some();
    }

    pub(super) fn tell_of_throttling(&mut self, now: BootTime) {
        let budget = &self.overall.budget;
        let kept_warm = self.settings.refresh.mode != RefreshMode::OnDemand;
        let slowed = budget.per_second < budget.ceiling && budget.portals > budget.carries();
        let held = self.overall.throttled.is_some_and(|until| until > now + NOTABLE);
        if held || self.throttling.is_notable(now) {
            self.tell_open(Kind::RateLimited, None, Some("nothing else is answered at present"));
        } else if slowed && kept_warm {
            self.tell_open(Kind::RateLimited, None, None);
        } else if self.throttling.is_over(now) {
            self.tell_close(Kind::RateLimited, None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_in_a_row_over_ten_seconds_are_worth_a_word_and_a_minute_without_ends_it() {
        let at = |second: u64| BootTime::new(Duration::from_secs(1000 + second));
        let mut throttling = Throttling::default();
        assert!(throttling.is_over(at(0)));
        for second in [0, 1, 2] {
            throttling.another(at(second));
            assert!(!throttling.is_notable(at(second)), "{second}");
        }
        throttling.another(at(10));
        assert!(throttling.is_notable(at(10)));
        assert!(!throttling.is_over(at(69)) && throttling.is_over(at(70)));
    }
}
