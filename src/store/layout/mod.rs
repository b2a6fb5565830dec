//! Where each portal's record stands: in a record of its own (`single`), or as a member of one of `shards`
//! records that many portals share (`packed`). Wherever one is found, it is served and written there; where it
//! belongs is for new ones and for `reshard`. Knows the seam below it, not who stands behind that.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use self::{
    lane::{Change, Lane},
    places::{Seen, member_of, missing},
    shard::moved_from,
};
use super::{
    Contents, CredentialStore, Expected, Key, Known, Listing, Outcomes, Record, StoreError,
    StoreErrorKind, Stored, Version, conflict,
};
use crate::portal::PortalId;

mod lane;
mod loading;
mod places;
pub mod reshard;
mod shard;

pub use shard::{LARGEST, NotAShard, Shard};

/// As many shards where none are named: 10,000 portals make 156 in each.
pub const SHARDS: u16 = 64;

/// Writes at the store at once.
const WRITES: usize = 16;

/// Where new records go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Layout {
    /// A record for each portal.
    #[default]
    Single,
    /// Many portals in each of so many records.
    Packed(u16),
}

impl Layout {
    /// The record in which this portal's stands, or is a member.
    #[must_use]
    pub fn home(self, portal: PortalId) -> Key {
        match self {
            Self::Single => Key::Portal(portal),
            Self::Packed(shards) => Key::Shard(Shard::of(portal, shards)),
        }
    }
}

/// A store with a layout on top.
#[derive(Debug)]
pub struct LaidOut {
    store: Arc<dyn CredentialStore>,
    layout: Layout,
    /// New members are written as JSON text: some servers count the strings of a request (OpenBao takes a
    /// thousand), and an object has more of them.
    as_text: bool,
    /// More writes at once would only wait for each other (study `backends.md` 1.9).
    writes: Semaphore,
    lanes: Mutex<BTreeMap<Shard, Arc<Lane>>>,
    seen: Mutex<Seen>,
}

impl LaidOut {
    /// `store` with its portals' records laid out as `layout` says.
    #[must_use]
    pub fn new(store: Arc<dyn CredentialStore>, layout: Layout) -> Self {
        let as_text = store.kind() == "vault";
        Self {
            store,
            layout,
            as_text,
            writes: Semaphore::new(WRITES),
            lanes: Mutex::default(),
            seen: Mutex::default(),
        }
    }
}

#[async_trait]
impl CredentialStore for LaidOut {
    fn kind(&self) -> &'static str {
        self.store.kind()
    }

    async fn check(&self) -> Result<(), StoreError> {
        self.store.check().await
    }

    async fn lacks(&self) -> Result<Vec<String>, StoreError> {
        self.store.lacks().await
    }

    fn remarks(&self) -> Vec<String> {
        let mut remarks = self.store.remarks();
        remarks.extend(self.seen().remarks(self.layout));
        remarks
    }

    fn lag(&self) -> Duration {
        self.store.lag()
    }

    async fn list(&self) -> Result<Listing, StoreError> {
        let found = self.survey().await?;
        let seen = self.seen();
        let mut listing = Listing { strays: found.strays, ..Listing::default() };
        let mut portals = seen.own.clone();
        for (shard, members) in &seen.shards {
            portals.extend(members.members.keys());
            listing.strays.extend(members.strays.iter().map(|name| format!("{shard}/{name}")));
        }
        listing.portals = portals.into_iter().collect();
        Ok(listing)
    }

    async fn load(&self, known: &Known) -> Result<Contents, StoreError> {
        self.load_all(known).await
    }

    async fn read(&self, key: Key) -> Result<Stored, StoreError> {
        match key {
            Key::Portal(portal) => self.find(portal).await.map(|(_, stored)| stored),
            Key::App | Key::Shard(_) => self.store.read(key).await,
        }
    }

    async fn read_all(&self, keys: &[Key]) -> Outcomes {
        let mut places: BTreeMap<Key, Vec<Key>> = BTreeMap::new();
        for key in keys {
            let place = match key {
                Key::Portal(portal) => self.layout.home(*portal),
                Key::App | Key::Shard(_) => *key,
            };
            places.entry(place).or_default().push(*key);
        }
        let wanted: Vec<Key> = places.keys().copied().collect();
        let mut outcomes = Vec::with_capacity(keys.len());
        for (place, stored) in self.store.read_all(&wanted).await {
            for key in places.remove(&place).unwrap_or_default() {
                let outcome = match (key, &stored) {
                    (Key::Portal(portal), Ok(shard)) if key != place => member_of(shard, portal),
                    (_, Ok(stored)) => Some(Ok(stored.clone())),
                    (_, Err(error)) if error.kind == StoreErrorKind::Missing => None,
                    (_, Err(error)) => {
                        Some(Err(StoreError::new(error.kind, &error.what, &error.hint)))
                    }
                };
                // It is not where it belongs, or in the middle of a move.
                let elsewhere = outcome.as_ref().is_none_or(|outcome| {
                    outcome.as_ref().is_ok_and(|found| moved_from(&found.record).is_some())
                });
                let outcome = match (elsewhere, outcome) {
                    (false, Some(outcome)) => outcome,
                    _ => self.read(key).await,
                };
                outcomes.push((key, outcome));
            }
        }
        outcomes
    }

    async fn write(
        &self,
        key: Key,
        record: &Record,
        expected: &Expected,
    ) -> Result<Version, StoreError> {
        let Key::Portal(portal) = key else {
            return self.store.write(key, record, expected).await;
        };
        let place = match expected {
            Expected::At(version) => match self.place_of(portal, version).await {
                Err(error) if error.kind == StoreErrorKind::Missing => return Err(conflict(key)),
                place => place?,
            },
            // Nothing was seen of it when everything was looked at; its home is looked at with the write.
            Expected::Absent if self.is_unseen(portal) => self.layout.home(portal),
            Expected::Absent => match self.find(portal).await {
                Ok(_) => return Err(conflict(key)),
                Err(error) if error.kind == StoreErrorKind::Missing => self.layout.home(portal),
                Err(error) if error.kind == StoreErrorKind::Corrupt => return Err(conflict(key)),
                Err(error) => return Err(error),
            },
        };
        match place {
            Key::Shard(shard) => {
                let (record, expected) = (Some(record.clone()), expected.clone());
                self.change(shard, Change { portal, record, expected }).await
            }
            Key::App | Key::Portal(_) if *expected == Expected::Absent => {
                self.create_own(portal, record).await
            }
            Key::App | Key::Portal(_) => {
                let _permit = self.writes.acquire().await.ok();
                self.store.write(key, record, expected).await
            }
        }
    }

    async fn maintain(&self, stop: CancellationToken) {
        self.store.maintain(stop).await;
    }

    async fn remove(&self, key: Key, expected: &Version) -> Result<(), StoreError> {
        let Key::Portal(portal) = key else { return self.store.remove(key, expected).await };
        match self.place_of(portal, expected).await {
            Err(error) if error.kind == StoreErrorKind::Missing => Err(missing(portal)),
            Err(error) => Err(error),
            Ok(Key::Shard(shard)) => {
                let expected = Expected::At(expected.clone());
                let change = Change { portal, record: None, expected };
                self.change(shard, change).await.map(drop)
            }
            Ok(_) => {
                self.store.remove(key, expected).await?;
                self.seen().own.remove(&portal);
                Ok(())
            }
        }
    }
}
