//! What the journal knows of one portal, as its entries add up. Pure.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    alerts::Alerts,
    entry::{Answer, Entry, Provider, WebhooksRead, access_token, refresh_token},
};
use crate::{
    portal::{PortalId, Scopes},
    secret::{AccessToken, Fingerprint, RefreshToken},
    time::{Clock, Stamp},
};

/// How long a refresh token is kept after the store has it: it is what heals a store that comes back
/// from a backup without it (study `scale.md` 3.3).
pub const KEPT_FOR: Duration = Duration::from_secs(24 * 3600);
/// As many of a grant's earlier refresh tokens are remembered by name: a day's worth, and some.
const ANCESTORS: usize = 96;

/// What is known of one portal.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Trail {
    /// A spend whose outcome is not known.
    pub intent: Option<Intent>,
    /// The names of the grant's refresh tokens, oldest first. The last is the newest we know of.
    pub lineage: Vec<Fingerprint>,
    /// The newest refresh token, if HubSpot's answer to us brought it and it is not long since.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "refresh_token")]
    pub newest: Option<RefreshToken>,
    /// Whether the store is known to have the newest one.
    pub stored: bool,
    /// The newest access token.
    pub access: Option<Access>,
    /// The refresh token that is known to work, or to have worked, under this app.
    pub proven: Option<Fingerprint>,
    /// The grant came by a code, and the store is not known to have a record of it yet.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub enrolled: bool,
    /// An operator paused the portal.
    pub paused: bool,
    /// The portal's record is gone, since then. If it comes back from a backup within a day, what is
    /// known of its grant still counts.
    pub gone: Option<Stamp>,
}

/// A spend that was begun.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    /// The refresh token.
    pub spent: Fingerprint,
    /// When.
    pub at: Stamp,
    /// Since when its process is known to be gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub orphaned: Option<Stamp>,
}

/// An access token and when it was asked for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Access {
    /// The token.
    #[serde(serialize_with = "access_token")]
    pub token: AccessToken,
    /// When it was asked for.
    pub issued: Stamp,
    /// Its life from then.
    pub expires_in: Duration,
    /// What HubSpot's clock said as it answered: after a reboot nothing else tells the token's age.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dated: Option<Timestamp>,
    /// Its scopes, if told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scopes: Option<Scopes>,
}

impl Trail {
    /// The refresh token that HubSpot has given for `stored`, if that is one of the grant's earlier ones.
    #[must_use]
    pub fn newer_than(&self, stored: &RefreshToken) -> Option<&RefreshToken> {
        let name = stored.fingerprint();
        let behind = self.lineage.contains(&name) && self.lineage.last() != Some(&name);
        self.newest.as_ref().filter(|_| behind)
    }

    fn answered(&mut self, answer: Answer) {
        let Answer { spent, refresh_token, access, enrolled } = answer;
        if self.enrolled && !enrolled && self.lineage.last() != Some(&spent) {
            // The grant that it came before was still being renewed: nothing of that counts any more.
            self.intent = None;
            let behind = self.lineage.len().saturating_sub(1);
            let names = refresh_token.as_ref().map(RefreshToken::fingerprint);
            let names = [Some(spent), names].into_iter().flatten();
            let new: Vec<_> = names.filter(|name| !self.lineage.contains(name)).collect();
            self.lineage.splice(behind..behind, new);
            return;
        }
        self.enrolled |= enrolled;
        self.gone = None;
        self.intent = None;
        if !self.lineage.contains(&spent) {
            // A grant we had not seen: what was known of another says nothing of it.
            self.lineage.clear();
            self.lineage.push(spent);
            self.newest = None;
        }
        if let Some(token) = refresh_token {
            self.lineage.push(token.fingerprint());
            let surplus = self.lineage.len().saturating_sub(ANCESTORS);
            self.lineage.drain(..surplus);
            self.newest = Some(token);
            self.stored = false;
        }
        self.proven = self.lineage.last().copied();
        self.access = access;
    }

    /// Drops what is old enough. A refresh token that the store is not known to have never is.
    fn prune(&mut self, is_old: impl Fn(&Stamp) -> bool) {
        if self.access.as_ref().is_some_and(|access| is_old(&access.issued)) {
            self.access = None;
            if self.stored {
                self.newest = None;
            }
        }
    }
}

/// All portals' trails, what was learned of the provider, and what people are told.
#[derive(Debug, Clone, Default)]
pub(super) struct Trails {
    pub(super) portals: BTreeMap<PortalId, Trail>,
    pub(super) provider: Provider,
    pub(super) alerts: Alerts,
    pub(super) webhooks: Option<WebhooksRead>,
}

impl Trails {
    /// Takes note of one entry.
    pub(super) fn apply(&mut self, entry: Entry) {
        match entry {
            Entry::Intent { portal, spent, at } => {
                let trail = self.of(portal);
                (trail.intent, trail.gone) = (Some(Intent { spent, at, orphaned: None }), None);
            }
            Entry::Orphaned { portal, at } => {
                if let Some(intent) = &mut self.of(portal).intent {
                    intent.orphaned.get_or_insert(at);
                }
            }
            Entry::Answered { portal, answer } => self.of(portal).answered(answer),
            Entry::Refused { portal } => self.of(portal).intent = None,
            Entry::Stored { portal, token } => {
                let trail = self.of(portal);
                let is_newest = trail.lineage.last() == Some(&token);
                trail.stored |= is_newest;
                // One that came meanwhile is still on its way there.
                trail.enrolled &= !is_newest;
            }
            Entry::Proven { portal, token } => self.of(portal).proven = Some(token),
            Entry::Withdrawn { portal } => {
                let trail = self.of(portal);
                trail.access = None;
                if trail.stored {
                    trail.newest = None;
                }
            }
            Entry::Paused { portal, paused } => self.of(portal).paused = paused,
            Entry::Forgotten { portal, at } => {
                // Of a portal of which nothing is known nothing need be remembered.
                if let Some(trail) = self.portals.get_mut(&portal) {
                    (trail.access, trail.gone, trail.paused) = (None, Some(at), false);
                    trail.enrolled = false;
                }
            }
            Entry::Provider(provider) => self.provider = provider,
            Entry::Alert { notice, receivers } => self.alerts.happened(*notice, receivers),
            Entry::Told { incident, receiver, told } => {
                self.alerts.taken(&incident, receiver, told);
            }
            Entry::Standing(standing) => self.alerts.put(*standing),
            Entry::WebhooksRead(read) => self.webhooks = Some(read),
            Entry::Portal { portal, trail } => drop(self.portals.insert(portal, *trail)),
        }
    }

    fn of(&mut self, portal: PortalId) -> &mut Trail {
        self.portals.entry(portal).or_default()
    }

    /// Drops what is old. At a start, the wall clock is not believed to say so: it may not be right yet, and
    /// whoever asks HubSpot's is still to come.
    pub(super) fn prune(&mut self, clock: &dyn Clock, starting: bool) {
        let is_old = |at: &Stamp| match at.age(clock) {
            Some(age) => age.span > KEPT_FOR && (age.sure || !starting),
            None => !starting,
        };
        self.portals.retain(|_, trail| !trail.gone.as_ref().is_some_and(is_old));
        for trail in self.portals.values_mut() {
            trail.prune(is_old);
        }
        if !starting {
            self.alerts.prune(clock);
        }
    }

    /// Entries that add up to all of this.
    pub(super) fn entries(&self) -> impl Iterator<Item = Entry> {
        let portals = self.portals.iter();
        let portals = portals
            .map(|(id, trail)| Entry::Portal { portal: *id, trail: Box::new(trail.clone()) });
        let alerts = self.alerts.all().map(|one| Entry::Standing(Box::new(one.clone())));
        let webhooks = self.webhooks.clone().map(Entry::WebhooksRead);
        let once = std::iter::once(Entry::Provider(self.provider));
        once.chain(webhooks).chain(alerts).chain(portals)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::SystemClock;

    fn portal() -> PortalId {
        PortalId::new(4711).unwrap()
    }

    fn token(text: &str) -> RefreshToken {
        RefreshToken::parse(text).unwrap()
    }

    fn answer(spent: &str, new: Option<&str>) -> Entry {
        let clock = SystemClock;
        let answer = Answer {
            spent: token(spent).fingerprint(),
            refresh_token: new.map(token),
            access: Some(Access {
                token: AccessToken::parse("access").unwrap(),
                issued: Stamp::of(clock.boot(), &clock),
                expires_in: Duration::from_secs(1800),
                dated: None,
                scopes: None,
            }),
            enrolled: false,
        };
        Entry::Answered { portal: portal(), answer }
    }

    fn after(entries: Vec<Entry>) -> Trail {
        let mut trails = Trails::default();
        for entry in entries {
            trails.apply(entry);
        }
        trails.portals.remove(&portal()).unwrap_or_default()
    }

    fn names(trail: &Trail) -> Vec<Fingerprint> {
        trail.lineage.clone()
    }

    #[test]
    fn i4_an_intent_stays_open_until_an_answer_or_a_refusal_closes_it() {
        let intent = || {
            let (spent, clock) = (token("a").fingerprint(), SystemClock);
            Entry::Intent { portal: portal(), spent, at: Stamp::of(clock.boot(), &clock) }
        };
        assert!(after(vec![intent()]).intent.is_some());
        assert_eq!(after(vec![intent(), answer("a", None)]).intent, None);
        assert_eq!(after(vec![intent(), Entry::Refused { portal: portal() }]).intent, None);
        assert!(after(vec![answer("a", None), intent()]).intent.is_some());
    }

    #[test]
    fn i3_a_new_refresh_token_is_kept_until_the_store_is_known_to_have_it() {
        let stored = |text| Entry::Stored { portal: portal(), token: token(text).fingerprint() };
        let trail = after(vec![answer("a", Some("b"))]);
        assert!(trail.newest.is_some_and(|newest| newest.same_as(&token("b"))) && !trail.stored);
        assert!(after(vec![answer("a", Some("b")), stored("b")]).stored);
        let late = after(vec![answer("a", Some("b")), answer("b", Some("c")), stored("b")]);
        assert!(!late.stored, "an older one's mark says nothing of the newest");
    }

    #[test]
    fn ancestors_are_known_by_name_and_another_grant_begins_anew() {
        let of =
            |texts: &[&str]| -> Vec<_> { texts.iter().map(|t| token(t).fingerprint()).collect() };
        let grown = after(vec![answer("a", Some("b")), answer("b", Some("c")), answer("c", None)]);
        assert_eq!(names(&grown), of(&["a", "b", "c"]));
        let other = after(vec![answer("a", Some("b")), answer("x", None)]);
        assert_eq!((names(&other), other.newest.is_none()), (of(&["x"]), true));
        let many = (0..500).map(|n| answer(&format!("t{n}"), Some(&format!("t{}", n + 1))));
        assert_eq!(after(many.collect()).lineage.len(), ANCESTORS);
    }

    #[test]
    fn a_portal_that_is_forgotten_leaves_its_grant_s_names_for_a_day_and_then_nothing() {
        let at = |seconds: u64| Later(Duration::from_secs(seconds));
        let gone = Entry::Forgotten { portal: portal(), at: Stamp::of(at(0).boot(), &at(0)) };
        let mut trails = Trails::default();
        for entry in [answer("a", Some("b")), gone] {
            trails.apply(entry);
        }
        trails.prune(&at(3600), false);
        let trail = &trails.portals[&portal()];
        assert!(trail.access.is_none() && trail.newest.is_some());
        trails.prune(&at(25 * 3600), false);
        assert!(trails.portals.is_empty());
    }

    #[test]
    fn i3_a_refresh_token_that_the_store_does_not_have_outlives_its_day() {
        let at = |hours: u64| Later(Duration::from_secs(hours * 3600));
        let stored = Entry::Stored { portal: portal(), token: token("b").fingerprint() };
        let mut trails = Trails::default();
        trails.apply(answer("a", Some("b")));
        trails.prune(&at(1000), false);
        assert!(trails.portals[&portal()].newest.is_some());
        trails.apply(stored);
        trails.prune(&at(1000), false);
        trails.apply(answer("b", None));
        trails.apply(Entry::Stored { portal: portal(), token: token("b").fingerprint() });
        trails.prune(&at(1), false);
        assert!(trails.portals[&portal()].newest.is_some());
        trails.prune(&at(1000), false);
        assert!(trails.portals[&portal()].newest.is_none());
    }

    /// The machine's own clock, so much later.
    #[derive(Debug)]
    struct Later(Duration);

    impl Clock for Later {
        fn boot(&self) -> crate::time::BootTime {
            SystemClock.boot() + self.0
        }

        fn wall(&self) -> Timestamp {
            SystemClock.wall().checked_add(self.0).unwrap()
        }

        fn boot_id(&self) -> crate::time::BootId {
            SystemClock.boot_id()
        }
    }

    #[test]
    fn i3_a_grant_that_came_by_an_order_is_not_displaced_by_a_renewal_of_the_one_before_it() {
        let mut trails = Trails::default();
        let arrived = |spent: &str| {
            let Entry::Answered { portal, answer } = answer(spent, Some("arrived")) else {
                unreachable!("it is one")
            };
            Entry::Answered { portal, answer: Answer { enrolled: true, ..answer } }
        };
        trails.apply(answer("a", Some("b")));
        trails.apply(arrived("b"));
        // It was on its way when the other one came, and is rotated.
        trails.apply(answer("b", Some("c")));
        trails.apply(Entry::Stored { portal: portal(), token: token("c").fingerprint() });
        let trail = &trails.portals[&portal()];
        assert!(trail.newest.as_ref().unwrap().same_as(&token("arrived")));
        assert!(trail.enrolled && !trail.stored);
        let names = ["a", "b", "c", "arrived"].map(|text| token(text).fingerprint());
        assert_eq!(trail.lineage, names, "what may stand in the store is known to be older");
        trails.apply(Entry::Stored { portal: portal(), token: token("arrived").fingerprint() });
        let trail = &trails.portals[&portal()];
        assert!(!trail.enrolled && trail.stored);
        // From then on it is a grant like any other.
        trails.apply(answer("arrived", Some("next")));
        assert!(trails.portals[&portal()].newest.as_ref().unwrap().same_as(&token("next")));
    }
}
