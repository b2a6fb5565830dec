//! How many portals a rate keeps warm, which mode follows from that, and both in plain words. Pure.

use std::{fmt, time::Duration};

use super::policy::{RefreshMode, RefreshPolicy};

/// The life of HubSpot's access tokens, until an answer says otherwise (study `hubspot.md` 1.5).
pub const USUAL_LIFE: Duration = Duration::from_secs(1800);
/// The share of the rate that planned renewals may take; the rest is for callers and for retries.
const FOR_RENEWALS: f64 = 0.8;
/// A better mode is returned to when it fits with this much to spare, so that the mode does not flap.
const TO_SPARE: f64 = 0.9;

/// How many portals there are, and how many requests a second may be made for them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Budget {
    /// Requests a second that can be counted on.
    pub per_second: f64,
    /// The ceiling that is configured for them.
    pub ceiling: f64,
    /// HubSpot has not said no of late: only then more is kept warm than before.
    pub calm: bool,
    /// Portals whose grants have not ended.
    pub portals: usize,
    /// Those of them that were used within the recent window.
    pub recent: usize,
    /// Life of an access token.
    pub life: Duration,
    /// The share of it after which one is renewed.
    pub at: f64,
}

impl Budget {
    /// As many portals as can be kept warm.
    #[must_use]
    pub fn carries(&self) -> usize {
        let carried = self.per_second * FOR_RENEWALS * self.life.as_secs_f64() * self.at;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "whole portals; an estimate"
        )]
        let carried = carried.max(0.0) as usize;
        carried
    }

    /// The mode in force under `policy`, when `now` was the one before. Only `auto` changes by itself:
    /// every portal, else those in use, else none, as far as the rate carries them.
    #[must_use]
    pub fn mode(&self, policy: &RefreshPolicy, now: RefreshMode) -> RefreshMode {
        if policy.mode != RefreshMode::Auto {
            return policy.mode;
        }
        let fits = |portals: usize, mode: RefreshMode| {
            #[expect(clippy::cast_precision_loss, reason = "an estimate")]
            let (portals, carried) = (portals as f64, self.carries() as f64);
            if rank(mode) < rank(now) {
                return self.calm && portals <= carried * TO_SPARE;
            }
            portals <= carried
        };
        if fits(self.portals, RefreshMode::Eager) {
            RefreshMode::Eager
        } else if fits(self.recent, RefreshMode::Recent) {
            RefreshMode::Recent
        } else {
            RefreshMode::OnDemand
        }
    }
}

/// The fewer are kept warm, the higher. Nothing was in force before `auto` has decided.
const fn rank(mode: RefreshMode) -> u8 {
    match mode {
        RefreshMode::Auto | RefreshMode::Eager => 0,
        RefreshMode::Recent => 1,
        RefreshMode::OnDemand => 2,
    }
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { per_second, ceiling, portals, .. } = self;
        let carries = self.carries();
        write!(f, "{per_second:.1} requests a second keep {carries} portals warm")?;
        if per_second < ceiling {
            write!(f, " ({ceiling:.1} are allowed, HubSpot bore no more)")?;
        }
        match (*portals <= carries, *portals) {
            (true, portals) => write!(f, "; that is enough for the {portals} to be served"),
            (false, portals) => {
                write!(
                    f,
                    "; of the {portals} to be served not all can be kept warm, and some calls will wait for a refresh"
                )?;
                if per_second < ceiling {
                    return Ok(());
                }
                write!(
                    f,
                    " (hubspot.max_refreshes_per_second may be raised as far as HubSpot bears it)"
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn budget(per_second: f64, portals: usize, recent: usize) -> Budget {
        Budget { per_second, ceiling: 5.0, calm: true, portals, recent, life: USUAL_LIFE, at: 0.66 }
    }

    #[test]
    fn five_a_second_keep_four_thousand_seven_hundred_and_fifty_two_portals_warm() {
        assert_eq!(budget(5.0, 0, 0).carries(), 4752);
        assert_eq!(budget(0.5, 0, 0).carries(), 475);
    }

    #[test]
    fn auto_slides_from_eager_to_recent_to_on_demand_and_back_with_something_to_spare() {
        use RefreshMode::{Auto, Eager, OnDemand, Recent};
        let policy = RefreshPolicy::default();
        for (portals, recent, before, after) in [
            (4752, 4752, Auto, Eager),
            (4753, 100, Auto, Recent),
            (4753, 4752, Eager, Recent),
            (9000, 4753, Eager, OnDemand),
            (9000, 4753, Recent, OnDemand),
            (9000, 4700, OnDemand, OnDemand),
            (9000, 4200, OnDemand, Recent),
            (4700, 4200, Recent, Recent),
            (4200, 4200, Recent, Eager),
            (4200, 4200, OnDemand, Eager),
        ] {
            let mode = budget(5.0, portals, recent).mode(&policy, before);
            assert_eq!(mode, after, "{portals} {recent} {before:?}");
        }
        let stormy = Budget { calm: false, ..budget(5.0, 4200, 4200) };
        assert_eq!(stormy.mode(&policy, Recent), Recent, "not while HubSpot says no");
        assert_eq!(stormy.mode(&policy, Auto), Eager);
        let fixed = RefreshPolicy { mode: OnDemand, ..policy };
        assert_eq!(budget(5.0, 1, 1).mode(&fixed, Eager), OnDemand);
    }

    #[test]
    fn the_budget_is_said_in_plain_words() {
        assert_eq!(
            budget(5.0, 12, 12).to_string(),
            "5.0 requests a second keep 4752 portals warm; that is enough for the 12 to be served"
        );
        let short = budget(2.0, 9000, 12).to_string();
        assert!(short.contains("HubSpot bore no more") && short.contains("not all"), "{short}");
    }

    proptest! {
        #[test]
        fn the_mode_in_force_never_promises_more_than_the_rate_carries(
            per_second in 0.0_f64..100.0, portals in 0_usize..200_000, share in 0.0_f64..=1.0, before in 0_u8..4,
        ) {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "a test's numbers")]
            let recent = (portals as f64 * share) as usize;
            let budget = budget(per_second, portals, recent);
            let before = [RefreshMode::Auto, RefreshMode::Eager, RefreshMode::Recent, RefreshMode::OnDemand][usize::from(before)];
            let mode = budget.mode(&RefreshPolicy::default(), before);
            let warm = match mode { RefreshMode::Eager => portals, RefreshMode::Recent => recent, _ => 0 };
            prop_assert!(warm <= budget.carries());
            prop_assert_eq!(budget.mode(&RefreshPolicy::default(), mode), mode, "it stays");
        }
    }
}
