//! Where the credentials live: the [`CredentialStore`] seam and what every store has in common.
//! One system a file. Knows records, versions and keys; nothing of refreshing or of HubSpot.

use std::{
    collections::{BTreeMap, HashSet},
    error::Error,
    fmt,
    future::Future,
    time::Duration,
};

use async_trait::async_trait;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::portal::PortalId;

pub mod aws;
pub mod file;
pub mod layout;
pub mod record;
pub mod vault;

pub use layout::{LaidOut, Layout, Shard};
pub use record::{AppRecord, PortalRecord, Record, RecordFault};

/// Which record: the app's own, or one portal's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Key {
    /// `<prefix>/client`
    App,
    /// `<prefix>/portals/<portal id>`
    Portal(PortalId),
    /// `<prefix>/portals/shard-NNN`, where many portals share a record
    Shard(Shard),
}

impl fmt::Display for Key {
    /// The path below the prefix, the same in every store.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::App => f.write_str("client"),
            Self::Portal(id) => write!(f, "portals/{id}"),
            Self::Shard(shard) => write!(f, "portals/{shard}"),
        }
    }
}

/// A store's own name for one state of a record (a KV version, an AWS version id). Opaque, compared
/// only for equality: it is what makes a write conditional.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Version(pub(crate) String);

impl From<String> for Version {
    /// A version by its store's own name for it.
    fn from(name: String) -> Self {
        Self(name)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A record as read, with the version a later write must name.
#[derive(Debug, Clone)]
pub struct Stored {
    /// Everything that stood there, known to us or not.
    pub record: Record,
    /// The state it was read in.
    pub version: Version,
}

/// What must be true of a record for a write to happen (check-and-set).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expected {
    /// There is no such record yet (a deleted one counts as none).
    Absent,
    /// It is still in the state it was read in.
    At(Version),
}

/// What is in the store at one moment.
#[derive(Debug, Default)]
pub struct Listing {
    /// The portals that have a record, ascending.
    pub portals: Vec<PortalId>,
    /// Records that many portals share, ascending.
    pub shards: Vec<Shard>,
    /// The state each record is in, where the store told that along.
    pub versions: BTreeMap<Key, Version>,
    /// Names beside them that are not portal ids; nobody's secret, shown so that a typing error is found.
    pub strays: Vec<String>,
}

/// The states in which portals' records are known.
pub type Known = BTreeMap<PortalId, Version>;

/// Every portal's record, as far as it is not known.
#[derive(Debug, Default)]
pub struct Contents {
    /// What was read, each with its own outcome, in any order.
    pub records: Outcomes<PortalId>,
    /// The portals whose records are as they are known.
    pub unchanged: Vec<PortalId>,
    /// See [`Listing::strays`].
    pub strays: Vec<String>,
}

/// What became of reading each of some records.
pub type Outcomes<K = Key> = Vec<(K, Result<Stored, StoreError>)>;

/// One system that keeps the app's and the portals' credentials.
///
/// Every method may be called from many tasks at once. None retries for longer than its own
/// time-out (seconds): when to try again is the caller's decision.
#[async_trait]
pub trait CredentialStore: fmt::Debug + Send + Sync + 'static {
    /// What the store is called in metrics and messages: `vault`, `aws` or `file`.
    fn kind(&self) -> &'static str;

    /// Logs in and looks at what must be right before anything else can work: is it there, does it
    /// let us in, does the mount or the key fit. Changes nothing.
    async fn check(&self) -> Result<(), StoreError>;

    /// What the policy of this login lacks for the service's work: lines to add to it. Nothing where the
    /// store can't tell.
    async fn lacks(&self) -> Result<Vec<String>, StoreError> {
        Ok(Vec::new())
    }

    /// Which portals have a record.
    async fn list(&self) -> Result<Listing, StoreError>;

    /// One record, in its current state.
    async fn read(&self, key: Key) -> Result<Stored, StoreError>;

    /// The same with each record's state, if the store tells that for less than reading every record.
    async fn look(&self) -> Result<Listing, StoreError> {
        self.list().await
    }

    /// All of `keys`, each with its own outcome, in any order; as fast as the store allows.
    async fn read_all(&self, keys: &[Key]) -> Outcomes;

    /// Every portal's record. Where `known` names states, and the store can tell that some records are in
    /// them still, those are not read. A portal that `known` names is left out only if its record is gone for
    /// certain.
    async fn load(&self, known: &Known) -> Result<Contents, StoreError> {
        let listing = if known.is_empty() { self.list().await? } else { self.look().await? };
        let is_known = |portal: &PortalId| {
            let version = listing.versions.get(&Key::Portal(*portal));
            version.is_some() && version == known.get(portal)
        };
        let (unchanged, other): (Vec<_>, Vec<_>) =
            listing.portals.iter().copied().partition(is_known);
        let keys: Vec<Key> = other.into_iter().map(Key::Portal).collect();
        let read = self.read_all(&keys).await.into_iter();
        let records = read.filter_map(|(key, stored)| match key {
            Key::Portal(portal) => Some((portal, stored)),
            Key::App | Key::Shard(_) => None,
        });
        let shards = listing.shards.iter().map(ToString::to_string);
        Ok(Contents {
            records: records.collect(),
            unchanged,
            strays: listing.strays.iter().cloned().chain(shards).collect(),
        })
    }

    /// For how long [`list`](Self::list) and [`look`](Self::look) may not show what has changed.
    fn lag(&self) -> Duration {
        Duration::ZERO
    }

    /// What people should know of how the store is used, besides failures.
    fn remarks(&self) -> Vec<String> {
        Vec::new()
    }

    /// Puts `record` in place if `expected` holds, in one step: no other record is touched, and of
    /// two writers with the same expectation exactly one succeeds. Returns the new state's version.
    ///
    /// `record` holds every member it is to have: keep what was read and change it, so that members
    /// unknown to us survive.
    async fn write(
        &self,
        key: Key,
        record: &Record,
        expected: &Expected,
    ) -> Result<Version, StoreError>;

    /// Keeps what access the store needs alive (a login's lease) until `stop`. The service runs it
    /// beside everything else; without it, calls log in again as they find they must.
    async fn maintain(&self, stop: CancellationToken) {
        stop.cancelled().await;
    }

    /// Deletes the record if it is still in the state `expected` (as far as the store can tell).
    async fn remove(&self, key: Key, expected: &Version) -> Result<(), StoreError>;
}

/// What kind of trouble a store had: all that a caller decides by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StoreErrorKind {
    /// There is no such record.
    Missing,
    /// Somebody else changed the record since it was read.
    Conflict,
    /// The store knows us, or refuses to, and says no.
    Denied,
    /// No answer, a sealed or overloaded server: the same call may go through later.
    Unreachable,
    /// The record is there and can't be used.
    Corrupt,
    /// Somebody else holds, or has put in place, what only we should have: a wrapped credential was opened
    /// before we came, or was made elsewhere.
    Compromised,
    /// Settings and store do not fit: a wrong mount, KV version 1, a key that opens nothing.
    Misconfigured,
}

impl StoreErrorKind {
    /// A word for metrics and JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Conflict => "conflict",
            Self::Denied => "denied",
            Self::Unreachable => "unreachable",
            Self::Corrupt => "corrupt",
            Self::Compromised => "compromised",
            Self::Misconfigured => "misconfigured",
        }
    }
}

/// A store's failure in our own words.
///
/// Never built from a client library's error by formatting it: those hold secrets and paths (study
/// `backends.md` 3). `what` happened, chained `cause`, and a `hint` for the person who reads it.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct StoreError {
    /// What a caller decides by.
    pub kind: StoreErrorKind,
    /// What happened, lower case, without a full stop.
    pub what: String,
    /// What to do about it, a sentence.
    pub hint: String,
    /// What lay beneath, if that is safe to show.
    #[source]
    pub cause: Option<Box<dyn Error + Send + Sync>>,
}

impl StoreError {
    /// A failure without anything beneath it.
    pub fn new(kind: StoreErrorKind, what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { kind, what: what.into(), hint: hint.into(), cause: None }
    }

    /// The same with what lay beneath. The caller vouches that `cause` shows no secret.
    #[must_use]
    pub fn because(mut self, cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.cause = Some(cause.into());
        self
    }

    /// Whether the same call may go through later without anybody's help.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        matches!(self.kind, StoreErrorKind::Unreachable | StoreErrorKind::Conflict)
    }
}

/// What helps where a record is not there.
const fn enrol(key: Key) -> &'static str {
    match key {
        Key::App => "Store the app's client id and secret there: `grantkeeper app set`.",
        Key::Portal(_) | Key::Shard(_) => {
            "Store the portal's refresh token there: `grantkeeper enroll`."
        }
    }
}

/// A write that came too late.
fn conflict(key: Key) -> StoreError {
    StoreError::new(
        StoreErrorKind::Conflict,
        format!("`{key}` was left as it is: somebody else changed the record since it was read"),
        "Read it again and decide anew.",
    )
}

impl Listing {
    /// With what the store told of the records of these names.
    fn with_versions(mut self, versions: BTreeMap<String, Version>) -> Self {
        let key = |name: &str| match (name.parse(), name.parse()) {
            (Ok(portal), _) => Some(Key::Portal(portal)),
            (_, Ok(shard)) => Some(Key::Shard(shard)),
            (Err(_), Err(_)) => None,
        };
        self.versions = versions
            .into_iter()
            .filter_map(|(name, version)| Some((key(&name)?, version)))
            .collect();
        self
    }
}

/// Sorts the names found beside one another below `portals/`.
fn sort_names(names: impl IntoIterator<Item = String>) -> Listing {
    let mut listing = Listing::default();
    for name in names {
        match (name.parse(), name.parse()) {
            (Ok(portal), _) => listing.portals.push(portal),
            (_, Ok(shard)) => listing.shards.push(shard),
            (Err(_), Err(_)) => listing.strays.push(name),
        }
    }
    listing.portals.sort_unstable();
    listing.shards.sort_unstable();
    listing.strays.sort_unstable();
    listing
}

/// Reads all of `keys` with `read`, `at_once` of them with one call and `in_flight` calls at a time.
async fn read_each<F, R>(keys: &[Key], at_once: usize, in_flight: usize, read: F) -> Outcomes
where
    F: Fn(Vec<Key>) -> R,
    R: Future<Output = Outcomes> + Send + 'static,
{
    let mut waiting = keys.chunks(at_once);
    let mut running = JoinSet::new();
    let mut outcomes = Vec::with_capacity(keys.len());
    loop {
        while running.len() < in_flight {
            let Some(keys) = waiting.next() else { break };
            running.spawn(read(keys.to_vec()));
        }
        match running.join_next().await {
            Some(Ok(read)) => outcomes.extend(read),
            // A read that panicked takes only its own records with it; those are told below.
            Some(Err(_)) => {}
            None => break,
        }
    }
    if outcomes.len() < keys.len() {
        let told: HashSet<Key> = outcomes.iter().map(|(key, _)| *key).collect();
        outcomes.extend(keys.iter().filter(|key| !told.contains(key)).map(|key| {
            let what = format!("reading `{key}` was broken off");
            let hint = "Try again; if it stays so, report it as a defect.";
            (*key, Err(StoreError::new(StoreErrorKind::Unreachable, what, hint)))
        }));
    }
    outcomes
}
