//! What the targets have in common: a service in memory, a disk in memory, a clock that goes with tokio's.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use grantkeeper::{
    access::{Caller, Rules},
    audit::Audit,
    engine::{self, Alerting, Engine, Handle, Metrics, Settings, World},
    hubspot::TokenEndpoint,
    journal::{Disk, Journal, Recovered},
    lifecycle::{
        ClientPair, Code, Granted, Introspection, RefreshPolicy, Refusal, RefusalClass,
        ValidatePolicy,
    },
    portal::{AppName, PortalId, Scopes},
    secret::{AccessToken, RefreshToken},
    store::{
        CredentialStore, Expected, Key, Listing, Outcomes, Record, StoreError, StoreErrorKind,
        Stored, Version,
    },
    time::{BootId, BootTime, Clock},
};
use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// In every secret: nothing that leaves may hold it.
pub const CANARY: &str = "CANARY";

/// Goes with tokio's clock.
#[derive(Debug)]
pub struct TokioClock(Instant);

impl Default for TokioClock {
    fn default() -> Self {
        Self(Instant::now())
    }
}

impl Clock for TokioClock {
    fn boot(&self) -> BootTime {
        BootTime::new(Duration::from_secs(1_000_000) + self.0.elapsed())
    }

    fn wall(&self) -> Timestamp {
        let gone = SignedDuration::try_from(self.0.elapsed()).unwrap_or(SignedDuration::ZERO);
        Timestamp::UNIX_EPOCH + SignedDuration::from_hours(490_000) + gone
    }

    fn boot_id(&self) -> BootId {
        BootId::new("fuzz".to_owned())
    }
}

/// One record a key, in memory.
#[derive(Debug, Default)]
pub struct MemoryStore(Mutex<BTreeMap<Key, (Record, u64)>>);

fn missing(key: Key) -> StoreError {
    StoreError::new(StoreErrorKind::Missing, format!("no `{key}`"), "none")
}

#[async_trait]
impl CredentialStore for MemoryStore {
    fn kind(&self) -> &'static str {
        "memory"
    }

    async fn check(&self) -> Result<(), StoreError> {
        Ok(())
    }

    async fn list(&self) -> Result<Listing, StoreError> {
        let portal = |key: &Key| if let Key::Portal(portal) = key { Some(*portal) } else { None };
        let portals = self.0.lock().unwrap().keys().filter_map(portal).collect();
        Ok(Listing { portals, ..Listing::default() })
    }

    async fn read(&self, key: Key) -> Result<Stored, StoreError> {
        let records = self.0.lock().unwrap();
        let (record, version) = records.get(&key).ok_or_else(|| missing(key))?;
        Ok(Stored { record: record.clone(), version: Version::from(version.to_string()) })
    }

    async fn read_all(&self, keys: &[Key]) -> Outcomes {
        let mut outcomes = Vec::new();
        for key in keys {
            outcomes.push((*key, self.read(*key).await));
        }
        outcomes
    }

    async fn write(
        &self,
        key: Key,
        record: &Record,
        expected: &Expected,
    ) -> Result<Version, StoreError> {
        let mut records = self.0.lock().unwrap();
        let now = records.get(&key).map(|(_, version)| Version::from(version.to_string()));
        let good = match expected {
            Expected::Absent => now.is_none(),
            Expected::At(version) => now.as_ref() == Some(version),
        };
        if !good {
            return Err(StoreError::new(StoreErrorKind::Conflict, "changed", "none"));
        }
        let version = records.get(&key).map_or(1, |(_, version)| version + 1);
        records.insert(key, (record.clone(), version));
        Ok(Version::from(version.to_string()))
    }

    async fn remove(&self, key: Key, _: &Version) -> Result<(), StoreError> {
        self.0.lock().unwrap().remove(&key).map(drop).ok_or_else(|| missing(key))
    }
}

/// Grants whatever it is asked for, for portal 1.
#[derive(Debug)]
pub struct Granting;

fn granted() -> Granted {
    Granted {
        access_token: AccessToken::parse("access").unwrap(),
        refresh_token: RefreshToken::parse(format!("{CANARY}-refresh")).ok(),
        expires_in: Duration::from_secs(1800),
        portal: PortalId::new(1).ok(),
        scopes: None,
        dated: None,
    }
}

#[async_trait]
impl TokenEndpoint for Granting {
    async fn refresh(
        &self,
        _: &ClientPair,
        _: &RefreshToken,
        _: Duration,
    ) -> Result<Granted, Refusal> {
        Ok(granted())
    }

    async fn exchange(&self, _: &ClientPair, _: &Code) -> Result<Granted, Refusal> {
        Ok(granted())
    }

    async fn revoke(&self, _: &ClientPair, _: &RefreshToken) -> Result<(), Refusal> {
        Err(Refusal { class: RefusalClass::Outage, http: Some(503), word: None, retry_after: None })
    }

    async fn introspect(&self, _: &ClientPair, _: &RefreshToken) -> Result<Introspection, Refusal> {
        Ok(Introspection::Active { portal: PortalId::new(1).ok(), client_id: None, scopes: None })
    }

    async fn time(&self) -> Option<Timestamp> {
        None
    }

    fn kind(&self) -> &'static str {
        "fuzz"
    }

    fn clock_skew(&self) -> Option<SignedDuration> {
        None
    }
}

/// A running engine with one portal, whose own user is `own_uid`, and a way to ask it. Ends with the runtime.
pub async fn service(own_uid: u32) -> (Handle, tokio::task::JoinSet<()>) {
    let store = MemoryStore::default();
    let app = format!(r#"{{"client_id":"id","client_secret":"{CANARY}-secret"}}"#);
    let grant = format!(r#"{{"refresh_token":"{CANARY}-refresh"}}"#);
    for (key, text) in [(Key::App, app), (Key::Portal(PortalId::FIRST), grant)] {
        let record = Record::parse(text.as_bytes()).unwrap();
        store.write(key, &record, &Expected::Absent).await.unwrap();
    }
    let clock: Arc<dyn Clock> = Arc::new(TokioClock::default());
    let world = World {
        store: Arc::new(store),
        endpoint: Arc::new(Granting),
        journal: Journal::none(),
        clock: Arc::clone(&clock),
    };
    let start = engine::start(&world, Recovered::default()).await.unwrap();
    let settings = Settings {
        app: AppName::parse("fuzz").unwrap(),
        required_scopes: Scopes::default(),
        refresh: RefreshPolicy::default(),
        validate: ValidatePolicy::default(),
        max_requests_per_second: 100.0,
        install_url: None,
        keep_previous: std::time::Duration::from_secs(72 * 3600),
    };
    let (metrics, stop) = (Arc::new(Metrics::default()), CancellationToken::new());
    let alerting = Alerting::start(Vec::new(), Journal::none(), Arc::clone(&clock), &metrics, &stop);
    let (engine, running) =
        Engine::new(world, settings.clone(), start, alerting, Arc::clone(&metrics));
    let rules = Rules::new(own_uid, Vec::new());
    let handle = Handle::new(&running, rules, &settings, metrics, clock, Audit::none());
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(async move { engine.run(stop).await.unwrap() });
    (handle, tasks)
}

/// Segments in memory.
#[derive(Debug, Default, Clone)]
pub struct MemoryDisk(pub Arc<Mutex<BTreeMap<u64, Vec<u8>>>>);

#[async_trait]
impl Disk for MemoryDisk {
    async fn list(&self) -> io::Result<Vec<u64>> {
        Ok(self.0.lock().unwrap().keys().copied().collect())
    }

    async fn read(&self, segment: u64) -> io::Result<Vec<u8>> {
        self.0.lock().unwrap().get(&segment).cloned().ok_or(io::ErrorKind::NotFound.into())
    }

    async fn create(&self, segment: u64, content: Vec<u8>) -> io::Result<()> {
        self.0.lock().unwrap().insert(segment, content);
        Ok(())
    }

    async fn append(&self, segment: u64, content: Vec<u8>) -> io::Result<()> {
        self.0.lock().unwrap().entry(segment).or_default().extend(content);
        Ok(())
    }

    async fn remove(&self, segment: u64) -> io::Result<()> {
        self.0.lock().unwrap().remove(&segment);
        Ok(())
    }
}
