//! Moves every portal's record to where the layout in force keeps it. A copy is made that names its original,
//! the original is taken away if it still is what was copied, and the name is taken out: wherever that is cut
//! off, exactly one record counts, and the next run goes on. Knows no store but the one below the layout.

use std::sync::Arc;

use tokio::task::JoinSet;

use super::{
    Change, LaidOut, Layout,
    shard::{forwarding, is_forwarding, marked, moved_from, unmarked},
};
use crate::{
    portal::PortalId,
    store::{CredentialStore, Expected, Key, Record, StoreError, StoreErrorKind, Version},
};

/// As many records are moved at once; those of one shard are written together.
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

/// Moves what is not in its place; `tell` hears after each how many are done, and of how many.
///
/// # Errors
/// The store can't be read.
pub async fn reshard(
    store: &Arc<LaidOut>,
    mut tell: impl FnMut(usize, usize),
) -> Result<Moved, StoreError> {
    let portals = store.list().await?.portals;
    let total = portals.len();
    let mut moved = Moved::default();
    let mut waiting = portals.into_iter();
    let mut running = JoinSet::new();
    let mut done = 0;
    loop {
        while running.len() < AT_ONCE {
            let Some(portal) = waiting.next() else { break };
            if store.rests_at_home(portal) {
                moved.in_place += 1;
                done += 1;
                continue;
            }
            let store = Arc::clone(store);
            running.spawn(async move { (portal, store.bring_home(portal).await) });
        }
        match running.join_next().await {
            Some(Ok((_, Ok(true)))) => moved.moved += 1,
            Some(Ok((_, Ok(false)))) => moved.in_place += 1,
            Some(Ok((portal, Err(error)))) => moved.left.push((portal, error)),
            // One that panicked is where it was.
            Some(Err(_)) => {}
            None => break,
        }
        done += 1;
        tell(done, total);
    }
    tell(total, total);
    Ok(moved)
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
            let from = match place {
                Key::Shard(shard) => shard.to_string(),
                Key::App | Key::Portal(_) => portal.to_string(),
            };
            let copy = marked(&original.record, &from);
            let version = match self.read_at(home, portal).await {
                Ok(former) => self.put(home, portal, &copy, former.version).await,
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
            (_, Some(record), Expected::At(_)) => self.store.write(place, record, &expected).await,
            (_, None, Expected::At(_)) => {
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
