//! Reading everything at once, wherever it stands, while others may be moving it. What was there and is not met
//! is looked for again before it counts as gone. Writes nothing.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    LaidOut, Shard,
    places::{member_of, place_named},
    shard::{is_forwarding, moved_from, names},
};
use crate::{
    portal::PortalId,
    store::{
        Contents, CredentialStore as _, Key, Known, Outcomes, StoreError, StoreErrorKind, Stored,
        Version,
    },
};

/// One portal's record with the place it was read from.
#[derive(Debug)]
struct Found {
    place: Key,
    stored: Result<Stored, StoreError>,
}

type Everything = BTreeMap<PortalId, Vec<Found>>;

/// Whether two of a portal's records are the two ends of a move.
fn is_moving(found: &[Found]) -> bool {
    let copy = |found: &Found| found.stored.as_ref().is_ok_and(|s| moved_from(&s.record).is_some());
    found.iter().any(copy)
}

/// Of a portal's records, the one that counts: the original while a move is under way, else the one where it
/// belongs.
fn counts(portal: PortalId, mut found: Vec<Found>, home: Key) -> Option<Found> {
    let from = found.iter().find_map(|found| {
        let record = &found.stored.as_ref().ok()?.record;
        place_named(moved_from(record)?, portal)
    });
    let best = found
        .iter()
        .position(|found| Some(found.place) == from)
        .or_else(|| found.iter().position(|found| found.place == home));
    if found.is_empty() { None } else { Some(found.swap_remove(best.unwrap_or(0))) }
}

impl LaidOut {
    pub(super) async fn load_all(&self, known: &Known) -> Result<Contents, StoreError> {
        let before = self.expected_from(known);
        let listing = if known.is_empty() { self.store.list() } else { self.store.look() }.await?;
        let first = self.note_listing(&listing);
        let mut contents = Contents { strays: listing.strays.clone(), ..Contents::default() };
        // A shard that is as it was read, and of which all is known, is not read again.
        let mut shards: BTreeSet<Shard> = self.changed(&listing).into_iter().collect();
        {
            let seen = self.seen();
            let differ =
                |(portal, version): (&PortalId, &Version)| known.get(portal) != Some(version);
            let needed = seen.shards.iter().filter(|(_, seen)| seen.members.iter().any(differ));
            shards.extend(needed.map(|(shard, _)| *shard));
            for (_, seen) in seen.shards.iter().filter(|(shard, _)| !shards.contains(shard)) {
                contents.unchanged.extend(seen.members.keys());
            }
        }
        let own = |portal: &&PortalId| {
            let version = listing.versions.get(&Key::Portal(**portal));
            version.is_none() || version != known.get(portal)
        };
        let (read, same): (Vec<PortalId>, Vec<_>) = listing.portals.iter().partition(own);
        contents.unchanged.extend(same);
        let shards = shards.into_iter().map(Key::Shard);
        let keys: Vec<Key> = shards.chain(read.iter().copied().map(Key::Portal)).collect();
        let mut found = self.gather(&keys, &mut contents.strays).await?;
        // One that is being moved stands in two places, and one of them may not have changed.
        contents.unchanged.retain(|portal| !found.contains_key(portal));
        let met: BTreeSet<PortalId> = found.keys().chain(&contents.unchanged).copied().collect();
        // At the first reading nothing was there before; what is listed and not met may be on its way.
        let there = if first { read } else { Vec::new() };
        let missed: BTreeSet<PortalId> =
            before.into_iter().chain(there).filter(|portal| !met.contains(portal)).collect();
        contents.records.extend(self.look_for(missed).await?);
        self.seen().twice.clear();
        for (portal, found) in std::mem::take(&mut found) {
            let home = self.layout.home(portal);
            let places = self.seen().places(portal);
            let both = places.len() > found.len();
            if places.len() > 1 && !both && !is_moving(&found) {
                self.seen().twice.insert(portal, places);
            }
            let found = counts(portal, found, home).map(|found| found.stored);
            let stored = if both { Some(self.read(Key::Portal(portal)).await) } else { found };
            contents.records.extend(stored.map(|stored| (portal, stored)));
        }
        Ok(contents)
    }

    /// The portals that a reading should meet, if nobody has taken their records away.
    fn expected_from(&self, known: &Known) -> BTreeSet<PortalId> {
        let seen = self.seen();
        let mut all: BTreeSet<PortalId> = known.keys().copied().collect();
        all.extend(seen.shards.values().flat_map(|seen| seen.members.keys()));
        if !self.store.lag().is_zero() {
            all.extend(&seen.own);
        }
        all
    }

    /// What these records hold, portal by portal. One that is gone holds nothing; a shard that can't be used is
    /// remarked on, and keeps its portals from counting as gone.
    async fn gather(
        &self,
        keys: &[Key],
        strays: &mut Vec<String>,
    ) -> Result<Everything, StoreError> {
        let mut found = Everything::new();
        let mut whole = true;
        for (place, stored) in self.store.read_all(keys).await {
            let mut add =
                |portal, stored| found.entry(portal).or_default().push(Found { place, stored });
            match (place, stored) {
                (Key::Portal(_), Ok(stored)) if is_forwarding(&stored.record) => {}
                (Key::Portal(_), Err(error)) if error.kind == StoreErrorKind::Missing => {}
                (Key::Portal(portal), stored) => add(portal, stored),
                (Key::Shard(shard), Ok(stored)) => {
                    self.note(shard, &stored);
                    let (portals, others) = names(&stored.record);
                    strays.extend(others.into_iter().map(|name| format!("{shard}/{name}")));
                    for portal in portals {
                        if let Some(member) = member_of(&stored, portal) {
                            add(portal, member);
                        }
                    }
                }
                (Key::Shard(shard), Err(error)) if error.kind == StoreErrorKind::Missing => {
                    self.seen().forget_shard(shard);
                }
                (Key::Shard(shard), Err(error)) => {
                    whole = false;
                    let members: Option<Vec<PortalId>> = {
                        let mut seen = self.seen();
                        if error.kind == StoreErrorKind::Corrupt {
                            seen.spoilt.insert(shard);
                        }
                        seen.shards.get(&shard).map(|seen| seen.members.keys().copied().collect())
                    };
                    match members {
                        // Of a spoilt one nobody can say whose records it has; of the others that is known.
                        None if error.kind == StoreErrorKind::Corrupt => {}
                        // Whose records these are nobody knows: they must not count as gone.
                        None => return Err(error),
                        Some(members) => {
                            for portal in members {
                                let told = StoreError::new(error.kind, &error.what, &error.hint);
                                add(portal, Err(told));
                            }
                        }
                    }
                }
                (Key::App, _) => {}
            }
        }
        self.seen().everything |= whole;
        Ok(found)
    }

    /// Those of `missed` that are there after all: moved meanwhile from a place that was read late to one that was
    /// read early, or left out of a list that is behind.
    async fn look_for(&self, missed: BTreeSet<PortalId>) -> Result<Outcomes<PortalId>, StoreError> {
        if missed.is_empty() {
            return Ok(Vec::new());
        }
        let mut outcomes = Vec::new();
        self.survey().await?;
        let mut nowhere = Vec::new();
        for portal in missed {
            if self.seen().places(portal).is_empty() {
                nowhere.push(portal);
                continue;
            }
            match self.read(Key::Portal(portal)).await {
                Err(error) if error.kind == StoreErrorKind::Missing => {}
                stored => outcomes.push((portal, stored)),
            }
        }
        // Not listed yet, or moved there between the list and the reading of where it was.
        let homes: BTreeSet<Key> = nowhere.iter().map(|id| self.layout.home(*id)).collect();
        let homes: Vec<Key> = homes.into_iter().collect();
        let found = self.gather(&homes, &mut Vec::new()).await?;
        let wanted = found.into_iter().filter(|(portal, _)| nowhere.contains(portal));
        outcomes.extend(wanted.filter_map(|(portal, found)| {
            counts(portal, found, self.layout.home(portal)).map(|found| (portal, found.stored))
        }));
        Ok(outcomes)
    }
}
