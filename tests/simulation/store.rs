//! A store in memory that goes wrong on order, for simulated time: the real ones need real seconds.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use async_trait::async_trait;
use grantkeeper::{
    portal::PortalId,
    store::{
        CredentialStore, Expected, Key, Listing, Outcomes, Record, StoreError, StoreErrorKind,
        Stored, Version, record::corrupt,
    },
};
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;

use crate::machine::Crash;

#[derive(Debug, Clone)]
pub(crate) struct MemoryStore {
    content: Arc<Mutex<Content>>,
    crash: Crash,
    world: TaskTracker,
}

#[derive(Debug, Default)]
struct Content {
    records: BTreeMap<Key, (Record, u64)>,
    versions: u64,
    down: bool,
    latency: Duration,
}

impl MemoryStore {
    pub(crate) fn new(crash: Crash, world: TaskTracker) -> Self {
        Self { content: Arc::default(), crash, world }
    }

    fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap()
    }

    /// Every portal's record.
    pub(crate) fn portals(&self) -> Vec<(PortalId, Record)> {
        let content = self.content();
        let portal = |(key, (record, _)): (&Key, &(Record, u64))| match key {
            Key::Portal(id) => Some((*id, record.clone())),
            Key::App | Key::Shard(_) => None,
        };
        content.records.iter().filter_map(portal).collect()
    }

    pub(crate) fn set_down(&self, down: bool) {
        self.content().down = down;
    }

    pub(crate) fn set_latency(&self, latency: Duration) {
        self.content().latency = latency;
    }

    /// Puts a record there as an operator would, whatever stood there.
    pub(crate) fn put(&self, key: Key, record: Record) {
        let mut content = self.content();
        content.versions += 1;
        let version = content.versions;
        content.records.insert(key, (record, version));
    }

    /// What stands there.
    pub(crate) fn get(&self, key: Key) -> Option<Record> {
        self.content().records.get(&key).map(|(record, _)| record.clone())
    }

    async fn call(&self) -> Result<MutexGuard<'_, Content>, StoreError> {
        self.crash.point().await;
        let latency = self.content().latency;
        tokio::time::sleep(latency).await;
        self.crash.point().await;
        let content = self.content();
        if content.down {
            let what = "the simulated store is down";
            return Err(StoreError::new(StoreErrorKind::Unreachable, what, "Wait."));
        }
        Ok(content)
    }
}

impl Content {
    fn read(&self, key: Key) -> Result<Stored, StoreError> {
        let (record, version) = self.records.get(&key).ok_or_else(|| none(key))?;
        Ok(Stored { record: record.clone(), version: version.to_string().into() })
    }

    fn write(
        &mut self,
        key: Key,
        record: &Record,
        expected: &Expected,
    ) -> Result<Version, StoreError> {
        if self.down {
            let what = "the simulated store is down";
            return Err(StoreError::new(StoreErrorKind::Unreachable, what, "Wait."));
        }
        let there = self.records.get(&key).map(|(_, version)| version.to_string().into());
        let holds = match expected {
            Expected::Absent => there.is_none(),
            Expected::At(version) => there.as_ref() == Some(version),
        };
        if !holds {
            return Err(StoreError::new(StoreErrorKind::Conflict, "it changed", "Read it again."));
        }
        record.portal().map(drop).or_else(|fault| match key {
            Key::App | Key::Shard(_) => Ok(()),
            Key::Portal(_) => Err(corrupt(key, &fault)),
        })?;
        self.versions += 1;
        let version = self.versions;
        self.records.insert(key, (record.clone(), version));
        Ok(version.to_string().into())
    }
}

/// As many records are read at once.
const AT_ONCE: usize = 16;

fn one(
    content: &Result<MutexGuard<'_, Content>, StoreError>,
    key: Key,
) -> Result<Stored, StoreError> {
    match content {
        Ok(content) => content.read(key),
        Err(error) => Err(StoreError::new(error.kind, error.to_string(), error.hint.clone())),
    }
}

fn none(key: Key) -> StoreError {
    StoreError::new(StoreErrorKind::Missing, format!("there is no `{key}`"), "Store it.")
}

#[async_trait]
impl CredentialStore for MemoryStore {
    fn kind(&self) -> &'static str {
        "memory"
    }

    async fn check(&self) -> Result<(), StoreError> {
        self.call().await.map(drop)
    }

    async fn list(&self) -> Result<Listing, StoreError> {
        let content = self.call().await?;
        let portals = content.records.keys().filter_map(|key| match key {
            Key::Portal(id) => Some(*id),
            Key::App | Key::Shard(_) => None,
        });
        Ok(Listing { portals: portals.collect(), ..Listing::default() })
    }

    async fn look(&self) -> Result<Listing, StoreError> {
        let listing = self.list().await?;
        let content = self.call().await?;
        let records = content.records.iter();
        let versions =
            records.map(|(key, (_, version))| (*key, version.to_string().into())).collect();
        Ok(Listing { versions, ..listing })
    }

    async fn read(&self, key: Key) -> Result<Stored, StoreError> {
        self.call().await?.read(key)
    }

    async fn read_all(&self, keys: &[Key]) -> Outcomes {
        let mut read = Vec::new();
        for together in keys.chunks(AT_ONCE) {
            let content = self.call().await;
            read.extend(together.iter().map(|key| (*key, one(&content, *key))));
        }
        read
    }

    /// What is on its way to the store arrives whether or not its sender still lives.
    async fn write(
        &self,
        key: Key,
        record: &Record,
        expected: &Expected,
    ) -> Result<Version, StoreError> {
        self.crash.point().await;
        let (written, outcome) = oneshot::channel();
        let (store, record, expected) = (self.clone(), record.clone(), expected.clone());
        self.world.spawn(async move {
            let latency = store.content().latency;
            tokio::time::sleep(latency).await;
            // Whoever wrote may be dead by now.
            written.send(store.content().write(key, &record, &expected)).ok();
        });
        let outcome = outcome.await.unwrap();
        self.crash.point().await;
        outcome
    }

    async fn remove(&self, key: Key, _: &Version) -> Result<(), StoreError> {
        self.call().await?.records.remove(&key).map(drop).ok_or_else(|| none(key))
    }
}
