//! The hours in which a receiver wants to hear of nothing but what is critical.

use std::{str::FromStr, time::Duration};

use jiff::{Timestamp, ZonedDateTime, civil::Time, tz::TimeZone};

/// From when to when, each day, on whose clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuietHours {
    from: Time,
    to: Time,
    zone: TimeZone,
}

/// The text does not name hours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("quiet hours are two different times of day, such as 22:00-07:00")]
pub struct NotHours;

impl FromStr for QuietHours {
    type Err = NotHours;

    /// Hours in UTC; see [`QuietHours::within`].
    fn from_str(text: &str) -> Result<Self, NotHours> {
        let (from, to) = text.split_once('-').ok_or(NotHours)?;
        let time = |text: &str| {
            let (hour, minute) = text.trim().split_once(':').ok_or(NotHours)?;
            let digits = |text: &str| text.len() == 2 && text.bytes().all(|b| b.is_ascii_digit());
            let (true, true) = (digits(hour), digits(minute)) else { return Err(NotHours) };
            let hour = hour.parse().map_err(|_| NotHours)?;
            Time::new(hour, minute.parse().map_err(|_| NotHours)?, 0, 0).map_err(|_| NotHours)
        };
        let (from, to) = (time(from)?, time(to)?);
        if from == to { Err(NotHours) } else { Ok(Self { from, to, zone: TimeZone::UTC }) }
    }
}

impl QuietHours {
    /// The same hours on the clocks of `zone`.
    #[must_use]
    pub fn within(self, zone: TimeZone) -> Self {
        Self { zone, ..self }
    }

    /// How long they go on from `now`; none outside of them.
    #[must_use]
    pub fn left(&self, now: Timestamp) -> Option<Duration> {
        let here = now.to_zoned_datetime(self.zone.clone());
        let time = here.time();
        let over_night = self.to < self.from;
        let inside = if over_night {
            time >= self.from || time < self.to
        } else {
            time >= self.from && time < self.to
        };
        let end = self.next_end(&here).filter(|_| inside)?;
        Duration::try_from(end.timestamp().duration_since(now)).ok()
    }

    fn next_end(&self, here: &ZonedDateTime) -> Option<ZonedDateTime> {
        let today = here.date();
        let day = if here.time() < self.to { today } else { today.tomorrow().ok()? };
        day.to_datetime(self.to).to_zoned_datetime(self.zone.clone()).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(hours: &str, zone: &str, now: &str) -> Option<u64> {
        let hours = hours.parse::<QuietHours>().unwrap().within(TimeZone::get(zone).unwrap());
        hours.left(now.parse().unwrap()).map(|left| left.as_secs() / 60)
    }

    #[test]
    fn hours_may_go_over_midnight_and_are_those_of_their_zone() {
        for (hours, zone, now, minutes) in [
            ("22:00-07:00", "UTC", "2026-11-24T21:59:59Z", None),
            ("22:00-07:00", "UTC", "2026-11-24T22:00:00Z", Some(540)),
            ("22:00-07:00", "UTC", "2026-11-25T06:30:00Z", Some(30)),
            ("22:00-07:00", "UTC", "2026-11-25T07:00:00Z", None),
            ("12:00-13:00", "UTC", "2026-11-25T12:15:00Z", Some(45)),
            ("12:00-13:00", "UTC", "2026-11-25T11:00:00Z", None),
            ("22:00-07:00", "Europe/Berlin", "2026-11-24T21:00:00Z", Some(540)),
            ("22:00-07:00", "Europe/Berlin", "2026-11-24T20:59:00Z", None),
            // The night in which the clocks go forward is an hour shorter.
            ("22:00-07:00", "Europe/Berlin", "2026-03-28T21:00:00Z", Some(480)),
        ] {
            assert_eq!(left(hours, zone, now), minutes, "{hours} {zone} {now}");
        }
    }

    #[test]
    fn what_are_no_hours_is_refused() {
        for bad in ["", "22:00", "22-07", "22:00-22:00", "24:00-07:00", "22:60-07:00", "2:00-7:00"]
        {
            assert_eq!(bad.parse::<QuietHours>(), Err(NotHours), "{bad:?}");
        }
    }
}
