//! The app's own credential as a state: accepted, doubted, refused. While it is not accepted, no
//! portal is refreshed and none changes state; one probe goes out now and then (I6).

use std::time::Duration;

use crate::time::{Backoff, BootTime};

/// How HubSpot takes the client pair, and the grants as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum App {
    /// Nothing has been asked yet.
    Unproven,
    /// The last word was good.
    Accepted,
    /// A request was refused; before it is believed, the record is read again and HubSpot is asked.
    Doubted,
    /// The client pair is refused, and that is confirmed.
    Refused(Closed),
    /// The pair is accepted, and most grants are refused: the wrong app, the wrong store, or HubSpot.
    Suspect(Closed),
}

/// Nothing is refreshed; one probe goes out now and then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closed {
    /// Probes that changed nothing.
    pub probes: u32,
    /// When the next one goes out.
    pub next_probe: BootTime,
}

impl Closed {
    fn at(now: BootTime, chance: f64) -> Self {
        Self { probes: 1, next_probe: now + wait(1, chance) }
    }

    fn again(self, now: BootTime, chance: f64) -> Self {
        let probes = self.probes.saturating_add(1);
        Self { probes, next_probe: now + wait(probes, chance) }
    }
}

/// What a probe (the records read again, HubSpot asked about a grant) showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probe {
    /// The pair is good; the grant asked about is not, or there was none.
    Accepted,
    /// The pair is good, and so is the grant.
    GrantGood,
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
    Refused,
    /// Tell people that most grants are refused.
    Suspect,
    /// Tell people that it is over.
    Open,
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
            Self::Refused(_) => "rejected",
            Self::Suspect(_) => "suspect",
        }
    }

    /// When the next probe is due, if one is.
    #[must_use]
    pub const fn next_probe(&self) -> Option<BootTime> {
        match self {
            Self::Refused(closed) | Self::Suspect(closed) => Some(closed.next_probe),
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

    /// Grant after grant is refused, and none accepted.
    #[must_use]
    pub fn suspected(self, now: BootTime, chance: f64) -> (Self, Change) {
        if self.is_open() {
            (Self::Suspect(Closed::at(now, chance)), Change::Suspect)
        } else {
            (self, Change::None)
        }
    }

    /// A probe came back.
    #[must_use]
    pub fn probed(self, probe: Probe, now: BootTime, chance: f64) -> (Self, Change) {
        use Probe::{Accepted, GrantGood, NotTold, Refused};
        match (self, probe) {
            (Self::Refused(_), Accepted | GrantGood) | (Self::Suspect(_), GrantGood) => {
                (Self::Accepted, Change::Open)
            }
            (Self::Suspect(closed), Accepted | NotTold) => {
                (Self::Suspect(closed.again(now, chance)), Change::None)
            }
            (_, Accepted | GrantGood) => (Self::Accepted, Change::None),
            (Self::Refused(closed), Refused | NotTold) => {
                (Self::Refused(closed.again(now, chance)), Change::None)
            }
            // A refusal that can't be confirmed now is taken as seen: refreshing on would only
            // repeat it for every portal.
            (_, Refused) | (Self::Doubted, NotTold) => {
                (Self::Refused(Closed::at(now, chance)), Change::Refused)
            }
            (same, NotTold) => (same, Change::None),
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
        assert_eq!(change, Change::Refused);
        assert!(!refused.is_open());
        let (again, change) = refused.probed(Probe::Refused, NOW, 0.0);
        assert_eq!(change, Change::None);
        let (open, change) = again.probed(Probe::Accepted, NOW, 0.0);
        assert_eq!((open, change), (App::Accepted, Change::Open));
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

    #[test]
    fn i6_a_suspicion_is_one_incident_and_ends_with_the_first_grant_that_is_good() {
        let (suspect, change) = App::Accepted.suspected(NOW, 0.0);
        assert_eq!((suspect.is_open(), change), (false, Change::Suspect));
        assert_eq!(suspect.suspected(NOW, 0.0), (suspect, Change::None));
        assert_eq!(suspect.refused(), (suspect, Change::None));
        let mut still = suspect;
        for probe in [Probe::Accepted, Probe::NotTold, Probe::Accepted] {
            let (next, change) = still.probed(probe, NOW, 0.0);
            assert!(!next.is_open() && next.next_probe().is_some(), "{probe:?}");
            assert_eq!(change, Change::None, "{probe:?}");
            still = next;
        }
        assert_eq!(still.probed(Probe::GrantGood, NOW, 0.0), (App::Accepted, Change::Open));
        let (refused, change) = still.probed(Probe::Refused, NOW, 0.0);
        assert!(matches!(refused, App::Refused(_)), "now the cause is known");
        assert_eq!(change, Change::Refused);
        assert_eq!(refused.suspected(NOW, 0.0).1, Change::None, "one incident for one cause");
    }
}
