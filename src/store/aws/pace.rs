//! Writes kept under the account's quotas: fifty calls a second for all its secrets together, and for each secret
//! one write in ten minutes as a rule, because its versions are kept for a day and are limited in number (study
//! `backends.md` 2, last paragraph). The first is waited for, the second is told. Knows no secret's value.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::time::{BootTime, Clock};

/// Calls a second that write; AWS allows fifty, for everybody who writes in this account and region.
const CALLS: u32 = 40;
/// More writes of one secret than one in ten minutes, over this time, are worth a word.
const WINDOW: Duration = Duration::from_secs(3600);
const IN_WINDOW: usize = 6;

#[derive(Debug)]
pub(super) struct Pace {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// When the next call may be made.
    free: BootTime,
    /// When each secret was written, within the window.
    written: BTreeMap<String, Vec<BootTime>>,
    told: Option<BootTime>,
}

impl State {
    /// When so many calls may begin.
    fn book(&mut self, calls: u32, now: BootTime) -> BootTime {
        let start = self.free.max(now);
        self.free = start + Duration::from_secs(1) * calls / CALLS;
        start
    }

    /// Whether this secret is written too often, and that was not said within the window.
    fn note(&mut self, name: &str, now: BootTime) -> bool {
        let times = self.written.entry(name.to_owned()).or_default();
        times.retain(|at| now.since(*at) < WINDOW);
        times.push(now);
        let often = times.len() > IN_WINDOW;
        let news = self.told.is_none_or(|told| now.since(told) >= WINDOW);
        if often && news {
            self.told = Some(now);
        }
        often && news
    }

    fn too_often(&mut self, now: BootTime) -> usize {
        self.written.retain(|_, times| {
            times.retain(|at| now.since(*at) < WINDOW);
            !times.is_empty()
        });
        self.written.values().filter(|times| times.len() > IN_WINDOW).count()
    }
}

impl Pace {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until so many calls that write may be made.
    pub(super) async fn turn(&self, calls: u32) {
        let now = self.clock.boot();
        let start = self.state().book(calls, now);
        tokio::time::sleep(start.until(now.max(self.clock.boot()))).await;
    }

    /// A secret is written.
    pub(super) fn note(&self, name: &str) {
        let now = self.clock.boot();
        if self.state().note(name, now) {
            tracing::warn!(secret = %name, "{}", told(1));
        }
    }

    pub(super) fn remarks(&self) -> Vec<String> {
        let now = self.clock.boot();
        match self.state().too_often(now) {
            0 => Vec::new(),
            count => vec![told(count)],
        }
    }
}

fn told(secrets: usize) -> String {
    let which =
        if secrets == 1 { "a secret is".to_owned() } else { format!("{secrets} secrets are") };
    format!(
        "{which} written more often than once in ten minutes; AWS keeps each version for a day and limits their number, so that writes may be refused: keep fewer portals in a secret (layout, shards), or use Vault where HubSpot replaces refresh tokens"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: u64) -> BootTime {
        BootTime::new(Duration::from_secs(10_000 + second))
    }

    #[test]
    fn a_thousand_writes_take_as_long_as_the_quota_wants() {
        let mut state = State::default();
        let last = (0..1000).map(|_| state.book(2, at(0))).last().unwrap();
        let took = last.since(at(0)).as_secs_f64();
        assert!((took - 999.0 * 2.0 / 40.0).abs() < 0.1, "{took}");
        assert_eq!(state.book(1, at(1000)), at(1000), "what was not used is not saved up");
    }

    #[test]
    fn a_secret_that_is_written_again_and_again_is_told_once_an_hour() {
        let mut state = State::default();
        let told = |state: &mut State, seconds: std::ops::Range<u64>| {
            seconds.step_by(300).filter(|second| state.note("one", at(*second))).count()
        };
        assert_eq!(told(&mut state, 0..1800), 0, "six in half an hour");
        assert_eq!(told(&mut state, 1800..3 * 3600), 3);
        assert_eq!(state.too_often(at(3 * 3600)), 1);
        let slow = (0..36).filter(|n| state.note("two", at(n * 600))).count();
        assert_eq!(slow, 0, "one in ten minutes");
        assert_eq!(state.too_often(at(100_000)), 0);
    }
}
