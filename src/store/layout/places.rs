//! Where each portal's record was seen, and finding it again if it is not there any more. Decides nothing of what
//! is written.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, MutexGuard, PoisonError},
};

use super::{
    LaidOut, Layout, NotAShard, Shard,
    lane::{Change, Lane},
    shard::{is_forwarding, is_member, member, moved_from, names, version},
};
use crate::{
    portal::PortalId,
    store::{
        Expected, Key, Listing, Record, StoreError, StoreErrorKind, Stored, Version, enrol,
        record::corrupt,
    },
};

/// As many portals with several records are named.
const TOLD: usize = 5;

/// What was last seen of the places.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) shards: BTreeMap<Shard, Holding>,
    pub(super) own: BTreeSet<PortalId>,
    /// Everything there is has been looked at once.
    pub(super) everything: bool,
    /// Shards that can't be used as they stand.
    pub(super) spoilt: BTreeSet<Shard>,
    /// Portals with several records, and none of them a copy on its way.
    pub(super) twice: BTreeMap<PortalId, Vec<Key>>,
}

#[derive(Debug)]
pub(super) struct Holding {
    pub(super) version: Version,
    pub(super) members: BTreeMap<PortalId, Version>,
    /// Those of them that are copies whose move is not over.
    pub(super) moving: BTreeSet<PortalId>,
    pub(super) strays: Vec<String>,
}

impl Seen {
    /// Every record in which this portal was seen.
    pub(super) fn places(&self, portal: PortalId) -> Vec<Key> {
        let shards = self.shards.iter().filter(|(_, seen)| seen.members.contains_key(&portal));
        let own = self.own.contains(&portal).then_some(Key::Portal(portal));
        shards.map(|(shard, _)| Key::Shard(*shard)).chain(own).collect()
    }

    pub(super) fn forget_shard(&mut self, shard: Shard) {
        self.shards.remove(&shard);
        self.spoilt.remove(&shard);
    }

    /// What people should mend.
    pub(super) fn remarks(&self, layout: Layout) -> Vec<String> {
        let misplaced = |shard: Option<&Shard>, portal: &&PortalId| {
            let place = shard.map_or(Key::Portal(**portal), |shard| Key::Shard(*shard));
            layout.home(**portal) != place && !self.twice.contains_key(*portal)
        };
        let in_shards = self.shards.iter().map(|(shard, seen)| {
            let away = seen.members.keys().filter(|portal| misplaced(Some(shard), portal)).count();
            away + seen.moving.len()
        });
        let own = self.own.iter().filter(|portal| misplaced(None, portal)).count();
        let away = in_shards.sum::<usize>() + own;
        let away = (away > 0).then(|| {
            format!("records that are not where `layout` keeps them, or whose move was cut off: {away}; `grantkeeper reshard` moves them")
        });
        let spoilt = self.spoilt.iter().map(|shard| {
            format!(
                "the record `{}` can't be read as JSON: portals that stand in it are served from memory or not at all, until it is mended",
                Key::Shard(*shard)
            )
        });
        let twice = self.twice.iter().take(TOLD).map(|(portal, places)| {
            let places: Vec<_> = places.iter().map(|place| format!("`{place}`")).collect();
            format!(
                "portal {portal} has records in {}: the one where the layout keeps it counts, take the other away",
                places.join(" and ")
            )
        });
        let rest = self.twice.len().saturating_sub(TOLD);
        let rest = (rest > 0).then(|| format!("{rest} more portals have several records"));
        away.into_iter().chain(spoilt).chain(twice).chain(rest).collect()
    }
}

impl LaidOut {
    pub(super) fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn lane(&self, shard: Shard) -> Arc<Lane> {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(lanes.entry(shard).or_default())
    }

    /// Takes note of what a shard holds.
    pub(super) fn note(&self, shard: Shard, stored: &Stored) {
        let (portals, strays) = names(&stored.record);
        let mut found = Holding {
            version: stored.version.clone(),
            members: BTreeMap::new(),
            moving: BTreeSet::new(),
            strays,
        };
        for portal in portals {
            // One that can't be used as it stands is read anew each time.
            let mut version_of = Version(String::new());
            if let Some(Ok(record)) = member(&stored.record, portal) {
                version_of = version(&record);
                if moved_from(&record).is_some() {
                    found.moving.insert(portal);
                }
            }
            found.members.insert(portal, version_of);
        }
        let mut seen = self.seen();
        seen.spoilt.remove(&shard);
        seen.shards.insert(shard, found);
    }

    /// Which shards have changed since they were read, by a look at what the store lists.
    pub(super) fn changed(&self, listing: &Listing) -> Vec<Shard> {
        let seen = self.seen();
        let same = |shard: &Shard| {
            let version = listing.versions.get(&Key::Shard(*shard));
            version.is_some() && version == seen.shards.get(shard).map(|seen| &seen.version)
        };
        listing.shards.iter().filter(|shard| !same(shard)).copied().collect()
    }

    /// Takes note of which records there are, and forgets what is gone. Says whether nothing was known before.
    pub(super) fn note_listing(&self, listing: &Listing) -> bool {
        let mut seen = self.seen();
        seen.shards.retain(|shard, _| listing.shards.contains(shard));
        seen.spoilt.retain(|shard| listing.shards.contains(shard));
        seen.own = listing.portals.iter().copied().collect();
        !seen.everything
    }

    /// Looks again where everything stands.
    pub(super) async fn survey(&self) -> Result<Listing, StoreError> {
        let listing = self.store.look().await?;
        self.note_listing(&listing);
        let keys: Vec<Key> = self.changed(&listing).into_iter().map(Key::Shard).collect();
        let mut whole = true;
        for (key, stored) in self.store.read_all(&keys).await {
            let Key::Shard(shard) = key else { continue };
            match stored {
                Ok(stored) => self.note(shard, &stored),
                // A deleted one goes on being listed by KV version 2.
                Err(error) if error.kind == StoreErrorKind::Missing => {
                    self.seen().forget_shard(shard);
                }
                Err(error) if error.kind == StoreErrorKind::Corrupt => {
                    whole = false;
                    self.seen().spoilt.insert(shard);
                }
                Err(error) => return Err(error),
            }
        }
        self.seen().everything |= whole;
        Ok(listing)
    }

    /// The portal's record in this place, if it is there.
    pub(super) async fn read_at(&self, place: Key, portal: PortalId) -> Result<Stored, StoreError> {
        let found = self.store.read(place).await;
        let Key::Shard(shard) = place else {
            return match found {
                Ok(stored) if is_forwarding(&stored.record) => Err(missing(portal)),
                Ok(stored) => {
                    self.seen().own.insert(portal);
                    Ok(stored)
                }
                found => found,
            };
        };
        match found {
            Ok(stored) => {
                self.note(shard, &stored);
                member_of(&stored, portal).unwrap_or_else(|| Err(missing(portal)))
            }
            Err(error) if error.kind == StoreErrorKind::Missing => Err(missing(portal)),
            Err(error) => Err(error),
        }
    }

    /// The record that counts, and where it stands.
    pub(super) async fn find(&self, portal: PortalId) -> Result<(Key, Stored), StoreError> {
        let places = self.seen().places(portal);
        let home = self.layout.home(portal);
        let likely = if places.is_empty() || places.contains(&home) { home } else { places[0] };
        if let Some(found) = self.look_at(likely, portal).await? {
            return Ok(found);
        }
        self.survey().await?;
        let places = self.seen().places(portal);
        let other = places.iter().find(|place| **place != likely);
        if let Some(place) = other.copied()
            && let Some(found) = self.look_at(place, portal).await?
        {
            return Ok(found);
        }
        // One that was moved between two of these looks is where it belongs by now.
        self.look_at(home, portal).await?.ok_or_else(|| missing(portal))
    }

    /// The record that counts and where it stands, if there is one in this place: of a copy whose original is there
    /// still, that one counts.
    async fn look_at(
        &self,
        place: Key,
        portal: PortalId,
    ) -> Result<Option<(Key, Stored)>, StoreError> {
        let Some(stored) = if_there(self.read_at(place, portal).await)? else { return Ok(None) };
        let from = moved_from(&stored.record).and_then(|from| place_named(from, portal));
        if let Some(from) = from
            && let Some(original) = if_there(self.read_at(from, portal).await)?
        {
            return Ok(Some((from, original)));
        }
        Ok(Some((place, stored)))
    }

    /// Whether this portal has no record anywhere, as far as everything was looked at.
    pub(super) fn is_unseen(&self, portal: PortalId) -> bool {
        let seen = self.seen();
        seen.everything && seen.places(portal).is_empty()
    }

    /// Puts one member in place of what `expected` says, or takes it away.
    pub(super) async fn change(&self, shard: Shard, change: Change) -> Result<Version, StoreError> {
        let (portal, removed) = (change.portal, change.record.is_none());
        let lane = self.lane(shard);
        let version =
            lane.carry_out(&*self.store, &self.writes, shard, change, self.as_text).await?;
        let mut seen = self.seen();
        if let Some(members) = seen.shards.get_mut(&shard) {
            if removed {
                members.members.remove(&portal);
            } else {
                members.members.insert(portal, version.clone());
            }
        }
        Ok(version)
    }

    /// Puts a record of its own in place where there is none, or no more than what a move has left of one.
    pub(super) async fn create_own(
        &self,
        portal: PortalId,
        record: &Record,
    ) -> Result<Version, StoreError> {
        let own = Key::Portal(portal);
        let _permit = self.writes.acquire().await.ok();
        let written = match self.store.write(own, record, &Expected::Absent).await {
            Err(error) if error.kind == StoreErrorKind::Conflict => {
                let left = self.store.read(own).await?;
                if !is_forwarding(&left.record) {
                    return Err(error);
                }
                self.store.write(own, record, &Expected::At(left.version)).await?
            }
            written => written?,
        };
        self.seen().own.insert(portal);
        Ok(written)
    }

    /// Where a record of this version is written to.
    pub(super) async fn place_of(&self, portal: PortalId, at: &Version) -> Result<Key, StoreError> {
        if !is_member(at) {
            return Ok(Key::Portal(portal));
        }
        let places = self.seen().places(portal);
        let shards: Vec<Key> =
            places.into_iter().filter(|place| matches!(place, Key::Shard(_))).collect();
        match shards.as_slice() {
            [only] => Ok(*only),
            // In the middle of a move, or not seen yet.
            _ => Ok(self.find(portal).await?.0),
        }
    }
}

fn if_there(read: Result<Stored, StoreError>) -> Result<Option<Stored>, StoreError> {
    match read {
        Ok(stored) => Ok(Some(stored)),
        Err(error) if error.kind == StoreErrorKind::Missing => Ok(None),
        Err(error) => Err(error),
    }
}

pub(super) fn missing(portal: PortalId) -> StoreError {
    let key = Key::Portal(portal);
    let what = format!("there is no record `{key}` in the store");
    StoreError::new(StoreErrorKind::Missing, what, enrol(key))
}

pub(super) fn member_of(shard: &Stored, portal: PortalId) -> Option<Result<Stored, StoreError>> {
    Some(match member(&shard.record, portal)? {
        Ok(record) => Ok(Stored { version: version(&record), record }),
        Err(fault) => Err(corrupt(Key::Portal(portal), &fault)),
    })
}

/// The place that a copy names as its original's.
pub(super) fn place_named(name: &str, portal: PortalId) -> Option<Key> {
    match name.parse() {
        Ok(shard) => Some(Key::Shard(shard)),
        Err(NotAShard) => (name == portal.to_string()).then_some(Key::Portal(portal)),
    }
}
