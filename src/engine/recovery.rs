//! What a start makes of the journal: tokens that still live are served, refresh tokens that the store
//! does not have are adopted, and grants whose spending was cut off are in doubt (I3, I4). A record that
//! the journal does not know wins over it (I13). Knows no disk.

use std::time::Duration;

use jiff::Timestamp;

use super::{World, entry::Entry, view::Issued};
use crate::{
    journal::{Access, Intent, Recovered, Trail},
    lifecycle::{Found, TokenLife, step::STRAY},
    secret::RefreshToken,
    time::{BootTime, Clock, Stamp},
};

/// A date is in whole seconds, and it was said at the end of a request of ten seconds at most.
const UNSURE: Duration = Duration::from_secs(12);

/// HubSpot's clock, looked at once after a reboot. The boot clock has begun anew then, and the wall clock
/// may have been set before or since, or not be right yet: by it, a token that ended hours ago may seem
/// young (I1).
#[derive(Debug, Clone, Copy)]
pub struct HubSpotTime {
    said: Timestamp,
    at: BootTime,
}

impl HubSpotTime {
    /// Asks for it, if anything depends on it: a token that an earlier run of the machine was given.
    pub(super) async fn ask_for(recovered: &Recovered, world: &World) -> Option<Self> {
        let run = world.clock.boot_id();
        let of_another =
            |trail: &Trail| trail.access.as_ref().is_some_and(|access| !access.issued.is_of(&run));
        if !recovered.trails.values().any(of_another) {
            return None;
        }
        // By then it was not later than what it says, however long the answer takes.
        let at = world.clock.boot();
        let said = world.endpoint.time().await?;
        Some(Self { said, at })
    }

    fn since(self, dated: Timestamp, now: BootTime) -> Option<Duration> {
        let then = Duration::try_from(self.said.duration_since(dated)).ok()?;
        Some(then + now.since(self.at) + UNSURE)
    }
}

/// The date of an answer that took so long. One that lay about while the machine slept may have been dated
/// when it was passed on, long after its token was made.
pub(super) fn believed(dated: Option<Timestamp>, took: Duration) -> Option<Timestamp> {
    dated.filter(|_| took <= UNSURE)
}

/// How long ago an access token was asked for, by a clock that nobody sets.
fn age(access: &Access, clock: &dyn Clock, hubspot: Option<HubSpotTime>) -> Option<Duration> {
    if access.issued.is_of(&clock.boot_id()) {
        return access.issued.age(clock).map(|age| age.span);
    }
    hubspot?.since(access.dated?, clock.boot())
}

/// What is left of an access token that an earlier process was given; none if nothing is, or nothing
/// certain.
pub(super) fn life(
    access: &Access,
    clock: &dyn Clock,
    hubspot: Option<HubSpotTime>,
) -> Option<TokenLife> {
    let (age, now) = (age(access, clock, hubspot)?, clock.boot());
    if age >= access.expires_in {
        return None;
    }
    // The machine may have been started after the token was: its life is then counted from there.
    let before_boot = age.saturating_sub(now.since_boot());
    let life = access.expires_in.saturating_sub(before_boot);
    let token = TokenLife::new(now - age, life).of(access.expires_in);
    (!token.left(now).is_zero()).then_some(token)
}

/// For how long what a process sent may still arrive: that it is gone is certain only since a start found its
/// intent, or since the machine started anew.
fn still_arriving(intent: &Intent, clock: &dyn Clock) -> Duration {
    let run = clock.boot_id();
    if !run.is_same_as(&run) {
        // Which run of the machine this is nobody can say.
        return STRAY;
    }
    let gone = match &intent.orphaned {
        Some(at) if at.is_of(&run) => at.age(clock).map_or(Duration::ZERO, |age| age.span),
        None if intent.at.is_of(&run) => Duration::ZERO,
        _ => clock.boot().since_boot(),
    };
    STRAY.saturating_sub(gone)
}

impl Entry {
    /// Takes over what the journal knows of this portal, and says what the rules have to know of it.
    pub(super) fn adopt(
        &mut self,
        trail: Trail,
        clock: &dyn Clock,
        hubspot: Option<HubSpotTime>,
    ) -> Found {
        let Trail { intent, lineage, newest, stored, access, proven, paused, enrolled, .. } = trail;
        self.is_new = enrolled && self.stored.is_none();
        let in_store = self.stored.as_ref().map(|stored| stored.refresh_token.fingerprint());
        self.lineage = lineage;
        // What stands in the store and is none of the grant's is a newer one (I13).
        if let Some(name) = in_store.filter(|name| !self.lineage.contains(name)) {
            if enrolled && newest.is_some() {
                // But for one that came by an order and was on its way there: it was not known what it replaces.
                self.lineage.insert(0, name);
            } else {
                self.lineage.clear();
            }
        }
        let ours = self.lineage.last().copied();
        if let Some(newest) = newest
            && ours.is_some()
            && ours != in_store
        {
            self.unsaved = Some(newest);
        }
        let used = self.refresh_token().map(RefreshToken::fingerprint).or(ours);
        let known = ours.is_some() && used == ours;
        let of_this = intent.as_ref().filter(|intent| used == Some(intent.spent));
        let in_doubt = of_this.map(|intent| still_arriving(intent, clock));
        self.intended = intent.filter(|_| in_doubt.is_none()).map(|intent| intent.spent);
        let token = access.filter(|_| known).and_then(|access| {
            let token = life(&access, clock, hubspot)?;
            let fingerprint = access.token.fingerprint();
            self.scopes = access.scopes;
            self.held = Some(Issued { access_token: access.token.into(), fingerprint });
            Some(token)
        });
        Found {
            token,
            proven: used.is_some() && proven == used,
            // Where the store could not be read, it is taken to have what it was known to have.
            unsaved: self.unsaved.is_some() && (in_store.is_some() || !stored),
            in_doubt,
            paused,
            asked_within: None,
        }
    }
}

impl Entry {
    /// What stays of a grant whose record is gone, if anything was learned of it.
    pub(super) fn into_trail(self, at: &Stamp) -> Option<Trail> {
        let name = self.refresh_token().map(RefreshToken::fingerprint)?;
        let known = self.lineage.last() == Some(&name);
        let spent = if self.portal.in_doubt { Some(name) } else { self.intended };
        (known || spent.is_some()).then(|| Trail {
            intent: spent.map(|spent| Intent { spent, at: at.clone(), orphaned: None }),
            stored: self.unsaved.is_none(),
            newest: self.refresh_token().filter(|_| known).cloned(),
            proven: self.portal.proven.then_some(name),
            lineage: if known { self.lineage } else { Vec::new() },
            ..Trail::default()
        })
    }
}

/// When a token was asked for, for people.
pub(super) fn asked_at(token: TokenLife, clock: &dyn Clock) -> Timestamp {
    clock.wall_at(token.issued.min(clock.boot()).max(BootTime::default()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{secret::AccessToken, time::BootId};

    /// A machine that is up for so long, in its run of this name, with this on its wall clock.
    #[derive(Debug)]
    struct Machine {
        run: &'static str,
        up: u64,
        wall: &'static str,
    }

    impl Clock for Machine {
        fn boot(&self) -> BootTime {
            BootTime::new(Duration::from_secs(self.up))
        }

        fn wall(&self) -> Timestamp {
            self.wall.parse().unwrap()
        }

        fn boot_id(&self) -> BootId {
            BootId::new(self.run.to_owned())
        }
    }

    const FIRST: Machine = Machine { run: "first", up: 90_000, wall: "2026-11-24T12:00:00Z" };

    /// A token of half an hour, given at noon.
    fn access() -> Access {
        Access {
            token: AccessToken::parse("token").unwrap(),
            issued: Stamp::of(FIRST.boot(), &FIRST),
            expires_in: Duration::from_secs(1800),
            dated: Some(FIRST.wall()),
            scopes: None,
        }
    }

    fn left(clock: &Machine, hubspot: Option<&str>) -> Option<u64> {
        let said = |said: &str| HubSpotTime { said: said.parse().unwrap(), at: clock.boot() };
        let token = life(&access(), clock, hubspot.map(said))?;
        Some(token.left(clock.boot()).as_secs())
    }

    #[test]
    fn i1_in_the_same_run_of_the_machine_the_boot_clock_tells_a_token_s_age() {
        let whole = left(&FIRST, None).unwrap();
        for wall in ["2026-11-24T12:10:00Z", "2020-01-01T00:00:00Z", "2031-01-01T00:00:00Z"] {
            let later = Machine { run: "first", up: 90_600, wall };
            assert_eq!(left(&later, None), Some(whole - 600), "{wall}");
            assert_eq!(left(&later, Some("2026-11-24T18:00:00Z")), Some(whole - 600), "{wall}");
        }
        assert_eq!(left(&Machine { run: "first", up: 92_000, wall: FIRST.wall }, None), None);
    }

    #[test]
    fn i1_an_answer_that_outlasts_its_deadline_has_no_date() {
        let dated = Some(FIRST.wall());
        assert_eq!(believed(dated, Duration::from_secs(10)), dated);
        assert_eq!(believed(dated, Duration::from_secs(13)), None);
    }

    #[test]
    fn i1_after_a_reboot_only_hubspot_s_clock_tells_a_token_s_age() {
        let whole = left(&FIRST, None).unwrap();
        // Right, set back by the hours it was off, and not set at all.
        for wall in ["2026-11-24T12:10:00Z", "2026-11-24T12:00:10Z", "1970-01-01T00:00:00Z"] {
            let rebooted = Machine { run: "second", up: 30, wall };
            assert_eq!(left(&rebooted, None), None, "{wall}");
            let ten_minutes = whole - 600 - UNSURE.as_secs();
            assert_eq!(left(&rebooted, Some("2026-11-24T12:10:00Z")), Some(ten_minutes), "{wall}");
            assert_eq!(left(&rebooted, Some("2026-11-24T17:00:00Z")), None, "{wall}");
            assert_eq!(left(&rebooted, Some("2026-11-24T11:00:00Z")), None, "{wall}");
        }
        let undated = Access { dated: None, ..access() };
        let rebooted = Machine { run: "second", up: 30, wall: FIRST.wall };
        let said = HubSpotTime { said: FIRST.wall(), at: rebooted.boot() };
        assert!(life(&undated, &rebooted, Some(said)).is_none());
    }
}
