//! Time as this product sees it: the [`Clock`] seam, instants that go on counting while the machine
//! is suspended, and a [`Backoff`] that can't be built wrong. The only place that asks what time it
//! is; everybody else is told.

use std::{
    fmt, fs,
    ops::{Add, Sub},
    sync::OnceLock,
    time::Duration,
};

use jiff::Timestamp;
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// An instant on `CLOCK_BOOTTIME`: monotonic, and counting through suspend.
///
/// `std::time::Instant` stops while the machine sleeps, and a token does not (study `scale.md` 3.4).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
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

/// Names one run of the machine: instants on the boot clock can be compared within one run only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BootId(String);

impl BootId {
    /// The run that the system calls `name`.
    #[must_use]
    pub const fn new(name: String) -> Self {
        Self(name)
    }

    /// Whether `other` is known to be the same run.
    #[must_use]
    pub fn is_same_as(&self, other: &Self) -> bool {
        !self.0.is_empty() && self == other
    }
}

/// An instant that can be understood by another process, after a restart or a reboot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    boot_id: BootId,
    boot: BootTime,
    wall: Timestamp,
}

impl Stamp {
    /// `instant`, which is not in the future, as `clock` would tell it to somebody else.
    #[must_use]
    pub fn of(instant: BootTime, clock: &dyn Clock) -> Self {
        Self { boot_id: clock.boot_id(), boot: instant, wall: clock.wall_at(instant) }
    }

    /// Whether it was in this run of the machine.
    #[must_use]
    pub fn is_of(&self, run: &BootId) -> bool {
        self.boot_id.is_same_as(run)
    }

    /// How long ago that was. Within one run of the machine the boot clock tells, and no step of the
    /// wall clock matters. After a reboot there is only the wall clock: the whole seconds it was
    /// written in are rounded against us, and where it has gone back nothing is known.
    #[must_use]
    pub fn age(&self, clock: &dyn Clock) -> Option<Age> {
        if self.is_of(&clock.boot_id()) {
            return Some(Age { span: clock.boot().since(self.boot), sure: true });
        }
        let span = Duration::try_from(clock.wall().duration_since(self.wall)).ok()?;
        Some(Age { span: span + Duration::from_secs(1), sure: false })
    }

    /// By the wall clock.
    #[must_use]
    pub const fn wall(&self) -> Timestamp {
        self.wall
    }
}

/// How long ago something was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Age {
    /// So long.
    pub span: Duration,
    /// Whether a clock that can't be set says so.
    pub sure: bool,
}

/// What time it is, for code that has to know.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// For measuring: expiry, deadlines, back-off.
    fn boot(&self) -> BootTime;

    /// For people and other machines: logs, answers, signatures. Never for deciding.
    fn wall(&self) -> Timestamp;

    /// Which run of the machine [`Clock::boot`] counts in.
    fn boot_id(&self) -> BootId;

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

    fn boot_id(&self) -> BootId {
        static ID: OnceLock<BootId> = OnceLock::new();
        let read = || fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        ID.get_or_init(|| BootId(read().trim().to_owned())).clone()
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

    fn boot_id(&self) -> BootId {
        BootId("simulated".to_owned())
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
    use proptest::prelude::*;

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

    /// A machine whose clocks stand where the test puts them.
    #[derive(Debug)]
    struct Fixed {
        boot: u64,
        wall: &'static str,
        run: &'static str,
    }

    impl Clock for Fixed {
        fn boot(&self) -> BootTime {
            BootTime::new(Duration::from_secs(self.boot))
        }

        fn wall(&self) -> Timestamp {
            self.wall.parse().unwrap()
        }

        fn boot_id(&self) -> BootId {
            BootId::new(self.run.to_owned())
        }
    }

    #[test]
    fn i1_an_age_within_one_run_of_the_machine_does_not_ask_the_wall_clock() {
        let written = Fixed { boot: 1000, wall: "2026-11-24T00:00:00Z", run: "one" };
        let stamp = Stamp::of(written.boot(), &written);
        for wall in ["2026-11-24T00:00:10Z", "2020-01-01T00:00:00Z", "2031-01-01T00:00:00Z"] {
            let age = stamp.age(&Fixed { boot: 1010, wall, run: "one" }).unwrap();
            assert_eq!(age, Age { span: 10 * SECOND, sure: true }, "{wall}");
        }
    }

    #[test]
    fn i1_an_age_over_a_reboot_is_the_wall_clock_s_and_none_if_that_went_back() {
        let written = Fixed { boot: 100_000, wall: "2026-11-24T00:00:00Z", run: "one" };
        let stamp = Stamp::of(written.boot(), &written);
        let later = Fixed { boot: 5, wall: "2026-11-24T00:01:00Z", run: "two" };
        assert_eq!(stamp.age(&later), Some(Age { span: 61 * SECOND, sure: false }));
        let back = Fixed { boot: 5, wall: "2026-11-23T00:00:00Z", run: "two" };
        assert_eq!(stamp.age(&back), None);
        let nameless = Fixed { boot: 5, wall: "2026-11-23T00:00:00Z", run: "" };
        assert_eq!(
            Stamp::of(nameless.boot(), &nameless).age(&nameless).map(|a| a.sure),
            Some(false)
        );
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

    proptest! {
        #[test]
        fn a_wait_grows_with_the_failures_and_stays_within_its_bounds(
            floor in 1_u64..10_000, more in 0_u64..10_000_000, jitter in 0.0..=1.0_f64,
            failures in 0_u32..5_000, chance in -1.0..2.0_f64,
        ) {
            let (floor, ceiling) = (Duration::from_millis(floor), Duration::from_millis(floor + more));
            let backoff = Backoff::new(floor, ceiling, jitter).unwrap();
            let wait = backoff.after(failures, chance);
            prop_assert!(floor <= wait && wait <= ceiling, "{wait:?}");
            prop_assert!(wait <= backoff.after(failures + 1, chance));
            prop_assert!(backoff.after(failures, 1.0) <= wait && wait <= backoff.after(failures, 0.0));
        }
    }
}
