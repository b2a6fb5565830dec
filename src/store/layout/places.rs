//! Where each portal's record was seen, and finding it again if it is not there any more. Decides nothing of what
//! is written.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, MutexGuard, PoisonError},
};

use super::{
    LaidOut, NotAShard, Shard,
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

/// What was last seen of the places.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) shards: BTreeMap<Shard, Holding>,
    pub(super) own: BTreeSet<PortalId>,
    /// Everything there is has been looked at once.
    pub(super) everything: bool,
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
        self.seen().shards.insert(shard, found);
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

    /// Takes note of which records there are, and forgets what is gone.
    pub(super) fn note_listing(&self, listing: &Listing) {
        let mut seen = self.seen();
        seen.shards.retain(|shard, _| listing.shards.contains(shard));
        seen.own = listing.portals.iter().copied().collect();
    }

    /// Looks again where everything stands.
    pub(super) async fn survey(&self) -> Result<Listing, StoreError> {
        let listing = self.store.look().await?;
        self.note_listing(&listing);
        let keys: Vec<Key> = self.changed(&listing).into_iter().map(Key::Shard).collect();
        for (key, stored) in self.store.read_all(&keys).await {
            if let Key::Shard(shard) = key {
                self.note(shard, &stored?);
            }
        }
        self.seen().everything = true;
        Ok(listing)
    }

    /// Every record a portal was found in. One in the middle of a move is in two.
    pub(super) async fn read_at(&self, place: Key, portal: PortalId) -> Result<Stored, StoreError> {
        let found = self.store.read(place).await;
        let Key::Shard(shard) = place else {
            return match found {
                Ok(stored) if is_forwarding(&stored.record) => Err(missing(portal)),
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
        match self.read_at(likely, portal).await {
            Ok(stored) => match moved_from(&stored.record).map(|from| place_named(from, portal)) {
                None | Some(None) => Ok((likely, stored)),
                Some(Some(from)) => match self.read_at(from, portal).await {
                    Ok(original) => Ok((from, original)),
                    Err(error) if error.kind == StoreErrorKind::Missing => Ok((likely, stored)),
                    Err(error) => Err(error),
                },
            },
            Err(error) if error.kind == StoreErrorKind::Missing => {
                self.survey().await?;
                let place = self.seen().places(portal).into_iter().find(|place| *place != likely);
                match place {
                    Some(place) => Ok((place, self.read_at(place, portal).await?)),
                    None => Err(error),
                }
            }
            Err(error) => Err(error),
        }
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
