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
        CredentialStore, Expected, Key, Listing, Record, StoreError, StoreErrorKind, Stored,
        Version, record::corrupt,
    },
};

#[derive(Debug, Clone, Default)]
pub(crate) struct MemoryStore(Arc<Mutex<Content>>);

#[derive(Debug, Default)]
struct Content {
    records: BTreeMap<Key, (Record, u64)>,
    versions: u64,
    down: bool,
    latency: Duration,
}

impl MemoryStore {
    fn content(&self) -> MutexGuard<'_, Content> {
        self.0.lock().unwrap()
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
        let latency = self.content().latency;
        tokio::time::sleep(latency).await;
        let content = self.content();
        if content.down {
            let what = "the simulated store is down";
            return Err(StoreError::new(StoreErrorKind::Unreachable, what, "Wait."));
        }
        Ok(content)
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
            Key::App => None,
        });
        Ok(Listing { portals: portals.collect(), strays: Vec::new() })
    }

    async fn read(&self, key: Key) -> Result<Stored, StoreError> {
        let content = self.call().await?;
        let (record, version) = content.records.get(&key).ok_or_else(|| none(key))?;
        Ok(Stored { record: record.clone(), version: version.to_string().into() })
    }

    async fn read_all(&self, portals: &[PortalId]) -> Vec<(PortalId, Result<Stored, StoreError>)> {
        let mut read = Vec::new();
        for portal in portals {
            read.push((*portal, self.read(Key::Portal(*portal)).await));
        }
        read
    }

    async fn write(
        &self,
        key: Key,
        record: &Record,
        expected: &Expected,
    ) -> Result<Version, StoreError> {
        let mut content = self.call().await?;
        let there = content.records.get(&key).map(|(_, version)| version.to_string().into());
        let holds = match expected {
            Expected::Absent => there.is_none(),
            Expected::At(version) => there.as_ref() == Some(version),
        };
        if !holds {
            return Err(StoreError::new(StoreErrorKind::Conflict, "it changed", "Read it again."));
        }
        record.portal().map(drop).or_else(|fault| match key {
            Key::App => Ok(()),
            Key::Portal(_) => Err(corrupt(key, &fault)),
        })?;
        content.versions += 1;
        let version = content.versions;
        content.records.insert(key, (record.clone(), version));
        Ok(version.to_string().into())
    }

    async fn remove(&self, key: Key, _: &Version) -> Result<(), StoreError> {
        self.call().await?.records.remove(&key).map(drop).ok_or_else(|| none(key))
    }
}
