//! The app's own credential as a state: accepted, doubted, refused. While it is not accepted, no
//! portal is refreshed and none changes state; one probe goes out now and then (I6).

use std::time::Duration;

use crate::time::{Backoff, BootTime};

/// How HubSpot takes the client pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum App {
    /// Nothing has been asked yet.
    Unproven,
    /// The last word was good.
    Accepted,
    /// A request was refused; before it is believed, the record is read again and HubSpot is asked.
    Doubted,
    /// Refused, and confirmed.
    Refused {
        /// Since when.
        since: BootTime,
        /// Probes that were refused.
        probes: u32,
        /// When the next one goes out.
        next_probe: BootTime,
    },
}

/// What a probe (the record read again, the pair introspected) showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probe {
    /// The pair is good.
    Accepted,
    /// The pair is refused.
    Refused,
    /// HubSpot or the store could not be asked.
    NotTold,
}

/// What changed, for the one incident.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Nothing to tell.
    None,
    /// A probe is to go out at once.
    ProbeNow,
    /// Tell people that the pair is refused.
    Open,
    /// Tell people that it is accepted again.
    Close,
}

impl App {
    /// Whether portals may be refreshed.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        matches!(self, Self::Unproven | Self::Accepted)
    }

    /// The word in `status`.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Unproven => "unproven",
            Self::Accepted => "ok",
            Self::Doubted => "doubted",
            Self::Refused { .. } => "rejected",
        }
    }

    /// When the next probe is due, if one is.
    #[must_use]
    pub const fn next_probe(&self) -> Option<BootTime> {
        match self {
            Self::Refused { next_probe, .. } => Some(*next_probe),
            _ => None,
        }
    }

    /// Some request was refused for its client pair.
    #[must_use]
    pub const fn refused(self) -> (Self, Change) {
        match self {
            Self::Unproven | Self::Accepted => (Self::Doubted, Change::ProbeNow),
            same => (same, Change::None),
        }
    }

    /// Some request was answered, so the pair is good. An answer that was on its way while the pair
    /// was refused elsewhere proves nothing: there the probe decides.
    #[must_use]
    pub const fn accepted(self) -> Self {
        match self {
            Self::Unproven => Self::Accepted,
            same => same,
        }
    }

    /// A probe came back.
    #[must_use]
    pub fn probed(self, probe: Probe, now: BootTime, chance: f64) -> (Self, Change) {
        match (self, probe) {
            (Self::Refused { .. }, Probe::Accepted) => (Self::Accepted, Change::Close),
            (_, Probe::Accepted) => (Self::Accepted, Change::None),
            (Self::Refused { since, probes, .. }, Probe::Refused) => {
                let probes = probes.saturating_add(1);
                let next_probe = now + wait(probes, chance);
                (Self::Refused { since, probes, next_probe }, Change::None)
            }
            (Self::Refused { since, probes, .. }, Probe::NotTold) => (
                Self::Refused { since, probes, next_probe: now + wait(probes, chance) },
                Change::None,
            ),
            // A refusal that can't be confirmed now is taken as seen: refreshing on would only
            // repeat it for every portal.
            (_, Probe::Refused) | (Self::Doubted, Probe::NotTold) => {
                let next_probe = now + wait(1, chance);
                (Self::Refused { since: now, probes: 1, next_probe }, Change::Open)
            }
            (same, Probe::NotTold) => (same, Change::None),
        }
    }
}

fn wait(probes: u32, chance: f64) -> Duration {
    const FLOOR: Duration = Duration::from_secs(2);
    const CEILING: Duration = Duration::from_secs(60);
    Backoff::new(FLOOR, CEILING, 0.2).map_or(CEILING, |backoff| backoff.after(probes, chance))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: BootTime = BootTime::new(Duration::from_secs(100));

    #[test]
    fn i6_a_thousand_refusals_are_one_probe_and_one_incident() {
        let (mut app, change) = App::Accepted.refused();
        assert_eq!(change, Change::ProbeNow);
        for _ in 0..1000 {
            let (next, change) = app.refused();
            assert_eq!(change, Change::None);
            app = next;
        }
        let (refused, change) = app.probed(Probe::Refused, NOW, 0.0);
        assert_eq!(change, Change::Open);
        assert!(!refused.is_open());
        let (again, change) = refused.probed(Probe::Refused, NOW, 0.0);
        assert_eq!(change, Change::None);
        let (open, change) = again.probed(Probe::Accepted, NOW, 0.0);
        assert_eq!((open, change), (App::Accepted, Change::Close));
    }

    #[test]
    fn i6_probes_slow_down_to_one_a_minute_and_never_stop() {
        let (mut app, _) = App::Doubted.probed(Probe::Refused, NOW, 0.0);
        for _ in 0..50 {
            let wait = app.next_probe().unwrap().since(NOW);
            assert!((2..=60).contains(&wait.as_secs()), "{wait:?}");
            app = app.probed(Probe::Refused, NOW, 0.0).0;
        }
        assert_eq!(app.next_probe().unwrap().since(NOW), Duration::from_secs(60));
    }

    #[test]
    fn a_refusal_healed_by_a_second_look_is_no_incident() {
        let (app, _) = App::Accepted.refused();
        assert_eq!(app.probed(Probe::Accepted, NOW, 0.0), (App::Accepted, Change::None));
    }

    #[test]
    fn a_late_success_does_not_reopen_a_refused_app() {
        let (app, _) = App::Doubted.probed(Probe::Refused, NOW, 0.0);
        assert_eq!(app.accepted(), app);
    }
}
