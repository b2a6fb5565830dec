//! Time as this product sees it: the [`Clock`] seam, instants that go on counting while the machine
//! is suspended, and a [`Backoff`] that can't be built wrong. The only place that asks what time it
//! is; everybody else is told.

use std::{
    fmt,
    ops::{Add, Sub},
    time::Duration,
};

use jiff::Timestamp;
use rustix::time::{ClockId, clock_gettime};

/// An instant on `CLOCK_BOOTTIME`: monotonic, and counting through suspend.
///
/// `std::time::Instant` stops while the machine sleeps, and a token does not (study `scale.md` 3.4).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct BootTime(Duration);

impl BootTime {
    /// `since_boot` after the machine started.
    #[must_use]
    pub const fn new(since_boot: Duration) -> Self {
        Self(since_boot)
    }

    /// How long after `earlier` this is; zero if it is not after.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// How long it is from `now` to here; zero if it is past.
    #[must_use]
    pub const fn until(self, now: Self) -> Duration {
        self.since(now)
    }

    /// The time since the machine started.
    #[must_use]
    pub const fn since_boot(self) -> Duration {
        self.0
    }
}

impl Add<Duration> for BootTime {
    type Output = Self;

    fn add(self, span: Duration) -> Self {
        Self(self.0.saturating_add(span))
    }
}

impl Sub<Duration> for BootTime {
    type Output = Self;

    fn sub(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(span))
    }
}

impl fmt::Debug for BootTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "boot+{:?}", self.0)
    }
}

/// What time it is, for code that has to know.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// For measuring: expiry, deadlines, back-off.
    fn boot(&self) -> BootTime;

    /// For people and other machines: logs, answers, signatures. Never for deciding.
    fn wall(&self) -> Timestamp;

    /// The wall-clock time at which `instant` falls, as far as can be told now, in whole seconds: the
    /// two clocks drift, and more digits would differ from one answer to the next.
    fn wall_at(&self, instant: BootTime) -> Timestamp {
        let (boot, wall) = (self.boot(), self.wall());
        let moved = if instant >= boot {
            wall.checked_add(instant.since(boot))
        } else {
            wall.checked_sub(boot.since(instant))
        };
        Timestamp::from_second(moved.unwrap_or(wall).as_second()).unwrap_or(wall)
    }
}

/// The machine's own clocks.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn boot(&self) -> BootTime {
        let now = clock_gettime(ClockId::Boottime);
        let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
        let nanoseconds = u32::try_from(now.tv_nsec).unwrap_or_default();
        BootTime(Duration::new(seconds, nanoseconds))
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that asks for the wall-clock time"
    )]
    fn wall(&self) -> Timestamp {
        Timestamp::now()
    }
}

/// A clock that follows tokio's, and so stands still and jumps with it: thirty simulated days take
/// a second. What it calls the present starts at a moment of the caller's choice.
#[derive(Debug, Clone)]
pub struct RuntimeClock {
    origin: tokio::time::Instant,
    wall_origin: Timestamp,
}

impl RuntimeClock {
    /// Starts at `wall_origin`, now. Must be called inside a runtime.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the one place that asks the runtime's clock")]
    pub fn starting_at(wall_origin: Timestamp) -> Self {
        Self { origin: tokio::time::Instant::now(), wall_origin }
    }
}

impl Clock for RuntimeClock {
    fn boot(&self) -> BootTime {
        // A day on, so that instants before the origin can be told apart.
        BootTime(Duration::from_secs(86_400) + self.origin.elapsed())
    }

    fn wall(&self) -> Timestamp {
        self.wall_origin.checked_add(self.origin.elapsed()).unwrap_or(self.wall_origin)
    }
}

/// How long to wait before trying again: doubling from a floor to a ceiling, with a share of jitter.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Backoff {
    floor: Duration,
    ceiling: Duration,
    jitter: f64,
}

/// The numbers do not make a back-off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a back-off needs a floor above zero, a ceiling not below it, and a jitter from 0 to 1")]
pub struct NotABackoff;

impl Backoff {
    /// `jitter` is the share of each wait that may be taken off.
    ///
    /// # Errors
    /// A floor of zero, a ceiling below the floor, a jitter outside `0.0..=1.0`.
    pub fn new(floor: Duration, ceiling: Duration, jitter: f64) -> Result<Self, NotABackoff> {
        let sound = !floor.is_zero() && ceiling >= floor && (0.0..=1.0).contains(&jitter);
        if sound { Ok(Self { floor, ceiling, jitter }) } else { Err(NotABackoff) }
    }

    /// The wait after `failures` failures in a row (at least one). `chance` is a number from 0 to 1
    /// drawn by the caller: 0 gives the longest wait, 1 the shortest. Never below the floor.
    #[must_use]
    pub fn after(&self, failures: u32, chance: f64) -> Duration {
        let doublings = failures.saturating_sub(1).min(31);
        let full = self.floor.saturating_mul(1_u32 << doublings).min(self.ceiling);
        let share = self.jitter * chance.clamp(0.0, 1.0);
        full.mul_f64(1.0 - share).max(self.floor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_backoff_that_could_spin_or_hang_can_not_be_built() {
        assert!(Backoff::new(Duration::ZERO, SECOND, 0.1).is_err());
        assert!(Backoff::new(2 * SECOND, SECOND, 0.1).is_err());
        assert!(Backoff::new(SECOND, SECOND, f64::NAN).is_err());
        assert!(Backoff::new(SECOND, SECOND, 1.1).is_err());
    }

    #[test]
    fn waits_double_from_the_floor_to_the_ceiling() {
        let backoff = Backoff::new(SECOND, 10 * SECOND, 0.5).unwrap();
        let waits: Vec<u64> = (1..=6).map(|n| backoff.after(n, 0.0).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 10, 10]);
        assert_eq!(backoff.after(4, 1.0), 4 * SECOND);
        assert_eq!(backoff.after(1, 1.0), SECOND, "never below the floor");
        assert_eq!(backoff.after(u32::MAX, 0.0), 10 * SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn the_runtime_clock_follows_paused_time() {
        let clock = RuntimeClock::starting_at("2026-11-24T00:00:00Z".parse().unwrap());
        let start = clock.boot();
        tokio::time::advance(Duration::from_secs(1800)).await;
        assert_eq!(clock.boot().since(start), Duration::from_secs(1800));
        assert_eq!(clock.wall().to_string(), "2026-11-24T00:30:00Z");
        assert_eq!(clock.wall_at(start).to_string(), "2026-11-24T00:00:00Z");
    }
}
