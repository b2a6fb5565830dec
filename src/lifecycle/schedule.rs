//! When the next refresh is due, from a token's life and the portal's own phase, and how fast
//! requests may follow one another. Pure arithmetic with a floor and a ceiling everywhere.

use std::time::Duration;

use super::policy::RefreshPolicy;
use crate::{portal::PortalId, time::BootTime};

/// Taken off every token's life, so that "expired 0 s ago" can't happen on the way to HubSpot:
/// five seconds, or a twentieth of a short life.
#[must_use]
pub fn safety_margin(life: Duration) -> Duration {
    Duration::from_secs(5).min(life / 20)
}

/// The life below which a token is not handed out while a better one can be had: the configured
/// floor, but never so much of a short life that nothing could ever be handed out.
#[must_use]
pub fn least_life(policy: &RefreshPolicy, life: Duration) -> Duration {
    policy.min_ttl.min(life / 4)
}

/// When a token issued at `issued`, good for `life`, is to be renewed.
///
/// Each portal has a phase within one period (`at` × life), hashed from its id, and is renewed at
/// the one instant of that phase in a window exactly one period wide: a herd started at once is
/// flat after a single cycle (study `scale.md` 6.2).
#[must_use]
pub fn renewal(
    portal: PortalId,
    issued: BootTime,
    life: Duration,
    policy: &RefreshPolicy,
) -> BootTime {
    let period = life.mul_f64(policy.at.clamp(0.1, 0.95)).max(Duration::from_millis(1));
    let latest = life.mul_f64(f64::midpoint(policy.at.clamp(0.1, 0.95), 1.0));
    let window = issued + latest.saturating_sub(period);
    let aligned = next_of_phase(portal, window, period);
    let last_moment = life.saturating_sub(least_life(policy, life) + life / 20);
    aligned.min(issued + last_moment)
}

/// The first instant at or after `from` that has the portal's phase in `period`.
#[must_use]
pub fn next_of_phase(portal: PortalId, from: BootTime, period: Duration) -> BootTime {
    let period_ns = period.as_nanos().max(1);
    let phase = u128::from(hash(portal)) % period_ns;
    let at = from.since_boot().as_nanos() % period_ns;
    let wait = (phase + period_ns - at) % period_ns;
    from + Duration::from_nanos(u64::try_from(wait).unwrap_or(u64::MAX))
}

/// SplitMix64's finaliser: spreads consecutive ids evenly, the same on every machine and build.
const fn hash(portal: PortalId) -> u64 {
    let mut z = portal.number().wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Lets requests go one by one, evenly spaced, never in bursts (I8): HubSpot limits its token
/// endpoint by the second.
#[derive(Debug, Clone)]
pub struct Pace {
    gap: Duration,
    free_at: BootTime,
}

impl Pace {
    /// `per_second` must be above zero.
    #[must_use]
    pub fn per_second(per_second: f64) -> Self {
        let per_second = if per_second.is_finite() { per_second.max(0.001) } else { 0.001 };
        Self { gap: Duration::from_secs_f64(1.0 / per_second), free_at: BootTime::default() }
    }

    /// Takes the next slot if it is free at `now`; else says when it will be.
    ///
    /// # Errors
    /// The instant at which to ask again.
    pub fn take(&mut self, now: BootTime) -> Result<(), BootTime> {
        if now < self.free_at {
            return Err(self.free_at);
        }
        // A slot may be used up to one gap late without losing the average: a timer that fires a
        // millisecond late must not lower the rate.
        let base = self.free_at.max(now - self.gap.min(Duration::from_millis(20)));
        self.free_at = base + self.gap;
        Ok(())
    }

    /// Goes on at another rate; quiet that was asked for stays.
    pub fn change_rate(&mut self, per_second: f64) {
        self.gap = Self::per_second(per_second).gap;
    }

    /// When the next slot is free.
    #[must_use]
    pub const fn free_at(&self) -> BootTime {
        self.free_at
    }

    /// Keeps every slot shut until `until`: HubSpot asked for quiet.
    pub fn hold_until(&mut self, until: BootTime) {
        self.free_at = self.free_at.max(until);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIFE: Duration = Duration::from_secs(1800);

    fn portal(number: u64) -> PortalId {
        PortalId::new(number).unwrap()
    }

    #[test]
    fn in_steady_state_every_interval_is_exactly_the_share_of_life() {
        let policy = RefreshPolicy::default();
        let mut at = BootTime::new(Duration::from_secs(5000));
        at = renewal(portal(4711), at, LIFE, &policy);
        for _ in 0..5 {
            let next = renewal(portal(4711), at, LIFE, &policy);
            let interval = next.since(at).as_secs_f64();
            assert!((interval - 1188.0).abs() < 0.001, "{interval}");
            at = next;
        }
    }

    #[test]
    fn a_herd_started_at_once_is_flat_after_one_cycle() {
        let start = BootTime::new(Duration::from_secs(77));
        let policy = RefreshPolicy::default();
        let mut buckets = [0_u32; 10];
        for number in 1..=10_000 {
            let due = renewal(portal(number), start, LIFE, &policy);
            let share = (due.since(start).as_secs_f64() / 1800.0 - 0.17) / 0.66;
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 9")]
            let bucket = (share * 10.0).clamp(0.0, 9.0) as usize;
            buckets[bucket] += 1;
        }
        assert!(buckets.iter().all(|n| (900..1100).contains(n)), "{buckets:?}");
    }

    #[test]
    fn a_short_life_still_leaves_room_for_callers() {
        let policy = RefreshPolicy::default();
        let life = Duration::from_secs(6);
        assert_eq!(least_life(&policy, life), Duration::from_millis(1500));
        assert_eq!(least_life(&policy, LIFE), Duration::from_secs(120));
        assert_eq!(safety_margin(LIFE), Duration::from_secs(5));
        assert_eq!(safety_margin(life), Duration::from_millis(300));
    }

    proptest! {
        #[test]
        fn renewal_is_always_after_issue_and_before_callers_run_dry(
            number in 1_u64.., issued in 0_u64..1 << 32, life_ms in 1000_u64..100_000_000,
            at in 0.1_f64..=0.95, min_ttl in 0_u64..10_000,
        ) {
            let policy = RefreshPolicy { at, min_ttl: Duration::from_secs(min_ttl), ..RefreshPolicy::default() };
            let (issued, life) = (BootTime::new(Duration::from_secs(issued)), Duration::from_millis(life_ms));
            let due = renewal(portal(number), issued, life, &policy);
            prop_assert!(due > issued);
            prop_assert!(due.since(issued) + least_life(&policy, life) < life);
        }

        #[test]
        fn i8_any_second_holds_at_most_the_rate_and_one(rate in 1_u32..500, gaps in prop::collection::vec(0_u64..50, 1..400)) {
            let mut pace = Pace::per_second(f64::from(rate));
            let mut now = BootTime::new(Duration::from_secs(1000));
            let mut sent = Vec::new();
            for gap in gaps {
                now = now + Duration::from_millis(gap);
                while pace.take(now).is_ok() {
                    sent.push(now);
                }
            }
            for (index, first) in sent.iter().enumerate() {
                let in_second = sent[index..].iter().take_while(|t| t.since(*first) < Duration::from_secs(1)).count();
                let allowance = rate as usize + 1 + rate as usize / 50;
                prop_assert!(in_second <= allowance, "{in_second} > {allowance}");
            }
        }
    }

    #[test]
    fn quiet_asked_for_is_kept_and_never_shortened() {
        let second = Duration::from_secs(1);
        let start = BootTime::new(10 * second);
        let mut pace = Pace::per_second(10.0);
        pace.hold_until(start + 30 * second);
        pace.hold_until(start + 5 * second);
        assert_eq!(pace.take(start), Err(start + 30 * second));
        assert!(pace.take(start + 30 * second).is_ok());
    }
}
