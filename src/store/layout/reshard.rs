//! Moves every portal's record to where the layout in force keeps it. A copy is made that names its original,
//! the original is taken away if it still is what was copied, and the name is taken out: wherever that is cut
//! off, exactly one record counts, and the next run goes on. Knows no store but the one below the layout.
//!
//! Each of the three steps is taken for all before the next: what concerns one shard comes together then and is
//! written together, for AWS keeps a hundred versions of a secret and takes no more in a day.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use tokio::task::{Id, JoinSet};

use super::{
    Change, LaidOut, Layout,
    places::member_of,
    shard::{forwarding, is_forwarding, marked, moved_from, unmarked},
};
use crate::{
    portal::PortalId,
    store::{CredentialStore, Expected, Key, Record, StoreError, StoreErrorKind, Stored, Version},
};

/// As many records go through the steps together.
const TOGETHER: usize = 20_000;
/// As many that something came in between of are moved one by one at once.
const AT_ONCE: usize = 64;
/// A record that others change meanwhile is copied again, so often.
const TRIES: u32 = 5;

/// What became of each record.
#[derive(Debug, Default)]
pub struct Moved {
    /// They stood where they belong.
    pub in_place: usize,
    /// They were moved.
    pub moved: usize,
    /// They could not be.
    pub left: Vec<(PortalId, StoreError)>,
}

/// Moves what is not in its place; `tell` hears after each step of each how many are done, and of how many.
///
/// # Errors
/// The store can't be read.
pub async fn reshard(
    store: &Arc<LaidOut>,
    mut tell: impl FnMut(usize, usize),
) -> Result<Moved, StoreError> {
    let portals = store.list().await?.portals;
    let total = portals.len();
    let mut away: Vec<PortalId> =
        portals.into_iter().filter(|portal| !store.rests_at_home(*portal)).collect();
    let mut moved = Moved { in_place: total - away.len(), ..Moved::default() };
    if let Some(first) = away.first().copied() {
        match store.bring_home(first).await {
            // Who may not do it for one may not do it for any.
            Err(error) if error.kind == StoreErrorKind::Denied => return Err(error),
            // It is tried again with the others.
            Err(_) => {}
            Ok(brought) => {
                away.remove(0);
                let count = if brought { &mut moved.moved } else { &mut moved.in_place };
                *count += 1;
            }
        }
    }
    let settled = total - away.len();
    let mut steps = 0;
    for away in away.chunks(TOGETHER) {
        let mut rest: BTreeSet<PortalId> = away.iter().copied().collect();
        let mut step = || {
            steps += 1;
            tell(settled + steps / 3, total);
        };
        let moving = store.originals(away).await;
        let moving = each(moving, |moving| copy(Arc::clone(store), moving), &mut step).await;
        let moving = each(moving, |moving| clear(Arc::clone(store), moving), &mut step).await;
        let done = each(moving, |moving| settle(Arc::clone(store), moving), &mut step).await;
        moved.moved += done.len();
        for portal in done {
            rest.remove(&portal);
        }
        one_by_one(store, rest, &mut moved).await;
    }
    tell(total, total);
    Ok(moved)
}

/// One record on its way.
#[derive(Debug)]
struct Moving {
    portal: PortalId,
    from: Key,
    original: Stored,
    /// The copy at home, once it is made.
    copy: Option<(Record, Version)>,
}

/// Takes one step with each; gives those with whom it went well.
async fn each<T, U, F>(all: Vec<T>, step: impl Fn(T) -> F, mut tell: impl FnMut()) -> Vec<U>
where
    F: Future<Output = Option<U>> + Send + 'static,
    U: Send + 'static,
{
    let mut running: JoinSet<Option<U>> = JoinSet::new();
    for one in all {
        running.spawn(step(one));
    }
    let mut good = Vec::new();
    while let Some(done) = running.join_next().await {
        good.extend(done.ok().flatten());
        tell();
    }
    good
}

async fn copy(store: Arc<LaidOut>, moving: Moving) -> Option<Moving> {
    let copy = marked(&moving.original.record, &name(moving.from, moving.portal));
    let version = store.add(store.layout.home(moving.portal), moving.portal, &copy).await.ok()?;
    Some(Moving { copy: Some((copy, version)), ..moving })
}

async fn clear(store: Arc<LaidOut>, moving: Moving) -> Option<Moving> {
    store.take_away(moving.from, moving.portal, &moving.original.version).await.ok()?;
    Some(moving)
}

async fn settle(store: Arc<LaidOut>, moving: Moving) -> Option<PortalId> {
    let (copy, version) = moving.copy?;
    let home = store.layout.home(moving.portal);
    store.put(home, moving.portal, &unmarked(&copy), version).await.ok()?;
    Some(moving.portal)
}

/// Those that something came in between of.
async fn one_by_one(store: &Arc<LaidOut>, rest: BTreeSet<PortalId>, moved: &mut Moved) {
    let mut waiting = rest.into_iter();
    let mut names: BTreeMap<Id, PortalId> = BTreeMap::new();
    let mut running = JoinSet::new();
    loop {
        while running.len() < AT_ONCE {
            let Some(portal) = waiting.next() else { break };
            let store = Arc::clone(store);
            let task = running.spawn(async move { store.bring_home(portal).await });
            names.insert(task.id(), portal);
        }
        let Some(ended) = running.join_next_with_id().await else { break };
        let (id, outcome) = match ended {
            Ok((id, outcome)) => (id, outcome),
            Err(error) => {
                let what = "moving it was broken off";
                let hint = "Run the command again; if it stays so, report it as a defect.";
                (error.id(), Err(StoreError::new(StoreErrorKind::Unreachable, what, hint)))
            }
        };
        let Some(portal) = names.remove(&id) else { continue };
        match outcome {
            Ok(true) => moved.moved += 1,
            Ok(false) => moved.in_place += 1,
            Err(error) => moved.left.push((portal, error)),
        }
    }
}

fn name(place: Key, portal: PortalId) -> String {
    match place {
        Key::Shard(shard) => shard.to_string(),
        Key::App | Key::Portal(_) => portal.to_string(),
    }
}

impl LaidOut {
    /// Whether this one needs no look: it is where it belongs, and no move of it was cut off.
    fn rests_at_home(&self, portal: PortalId) -> bool {
        let seen = self.seen();
        let moving = seen.shards.values().any(|seen| seen.moving.contains(&portal));
        // Of a record of its own only a reading tells.
        let certain = self.layout != Layout::Single || seen.shards.is_empty();
        certain && !moving && seen.places(portal) == [self.layout.home(portal)]
    }

    /// The records of those that stand in one place, which is not where they belong, and are as they should be.
    async fn originals(&self, away: &[PortalId]) -> Vec<Moving> {
        let mut places: BTreeMap<Key, Vec<PortalId>> = BTreeMap::new();
        for portal in away {
            if let [only] = self.seen().places(*portal).as_slice()
                && *only != self.layout.home(*portal)
            {
                places.entry(*only).or_default().push(*portal);
            }
        }
        let keys: Vec<Key> = places.keys().copied().collect();
        let mut moving = Vec::new();
        for (from, stored) in self.store.read_all(&keys).await {
            let Ok(stored) = stored else { continue };
            for portal in places.remove(&from).unwrap_or_default() {
                let original = match from {
                    Key::Shard(_) => member_of(&stored, portal).and_then(Result::ok),
                    Key::App | Key::Portal(_) => Some(stored.clone()),
                };
                let plain = |original: &Stored| {
                    moved_from(&original.record).is_none() && !is_forwarding(&original.record)
                };
                let original = original.filter(plain);
                moving.extend(original.map(|original| Moving {
                    portal,
                    from,
                    original,
                    copy: None,
                }));
            }
        }
        moving
    }

    /// Whether anything had to be done.
    async fn bring_home(&self, portal: PortalId) -> Result<bool, StoreError> {
        let home = self.layout.home(portal);
        for _ in 0..TRIES {
            let (place, original) = self.find(portal).await?;
            if place == home {
                let swept = self.sweep(portal).await?;
                let Some(from) = moved_from(&original.record) else { return Ok(swept) };
                // The original is gone, and the copy still names it.
                tracing::debug!(%portal, from, "a move that was cut off is brought to its end");
                self.put(home, portal, &unmarked(&original.record), original.version).await?;
                return Ok(true);
            }
            let copy = marked(&original.record, &name(place, portal));
            let version = match self.read_at(home, portal).await {
                Ok(former) if moved_from(&former.record).is_some() => {
                    self.put(home, portal, &copy, former.version).await
                }
                // Somebody stored one there meanwhile, and that one counts.
                Ok(_) => continue,
                Err(error) if error.kind == StoreErrorKind::Missing => {
                    self.add(home, portal, &copy).await
                }
                Err(error) => Err(error),
            };
            let version = match version {
                Err(error) if error.kind == StoreErrorKind::Conflict => continue,
                version => version?,
            };
            match self.take_away(place, portal, &original.version).await {
                Err(error) if error.kind == StoreErrorKind::Conflict => continue,
                taken => taken?,
            }
            self.put(home, portal, &unmarked(&copy), version).await?;
            return Ok(true);
        }
        let what = format!("`{}` was not moved: others keep changing it", Key::Portal(portal));
        Err(StoreError::new(StoreErrorKind::Conflict, what, "Run the command again."))
    }

    /// Deletes what a move that was cut off has left of a record of its own.
    async fn sweep(&self, portal: PortalId) -> Result<bool, StoreError> {
        let own = Key::Portal(portal);
        if self.layout.home(portal) == own || !self.seen().own.contains(&portal) {
            return Ok(false);
        }
        match self.store.read(own).await {
            Ok(left) if is_forwarding(&left.record) => {
                self.store.remove(own, &left.version).await?;
                self.seen().own.remove(&portal);
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    async fn add(
        &self,
        place: Key,
        portal: PortalId,
        record: &Record,
    ) -> Result<Version, StoreError> {
        self.put_as(place, portal, Some(record), Expected::Absent).await
    }

    async fn put(
        &self,
        place: Key,
        portal: PortalId,
        record: &Record,
        at: Version,
    ) -> Result<Version, StoreError> {
        self.put_as(place, portal, Some(record), Expected::At(at)).await
    }

    async fn take_away(
        &self,
        place: Key,
        portal: PortalId,
        at: &Version,
    ) -> Result<(), StoreError> {
        self.put_as(place, portal, None, Expected::At(at.clone())).await.map(drop)
    }

    async fn put_as(
        &self,
        place: Key,
        portal: PortalId,
        record: Option<&Record>,
        expected: Expected,
    ) -> Result<Version, StoreError> {
        match (place, record, &expected) {
            (Key::Shard(shard), record, _) => {
                let record = record.cloned();
                self.change(shard, Change { portal, record, expected }).await
            }
            (_, Some(record), Expected::Absent) => self.create_own(portal, record).await,
            (_, Some(record), Expected::At(_)) => {
                let _permit = self.writes.acquire().await.ok();
                self.store.write(place, record, &expected).await
            }
            (_, None, Expected::At(_)) => {
                let _permit = self.writes.acquire().await.ok();
                // From now on whoever read it before can't write it any more.
                let left = forwarding(&self.layout.home(portal).to_string());
                let version = self.store.write(place, &left, &expected).await?;
                self.store.remove(place, &version).await?;
                self.seen().own.remove(&portal);
                Ok(version)
            }
            (_, None, Expected::Absent) => Ok(Version(String::new())),
        }
    }
}
