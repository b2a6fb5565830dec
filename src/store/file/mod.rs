//! The embedded store: one redb file whose values are sealed with an AEAD. For a first try, a
//! single machine, and tests. Knows nothing of networks.

use std::{io, panic, path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::{sync::Mutex, task};

use self::database::{Fault, Found, NotMade, Wanted};
use super::{
    CredentialStore, Expected, Key, Listing, Outcomes, Record, StoreError, StoreErrorKind, Stored,
    Version, conflict, enrol, record::corrupt, sort_names,
};
use crate::sealing::{KeyFault, SealingKey};

mod database;

/// How often, and how far apart, a file that another process has open is tried: five seconds in all.
const TRIES: u32 = 250;
const BETWEEN_TRIES: Duration = Duration::from_millis(20);

/// Where the file and its key are.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The database file.
    pub path: PathBuf,
    /// 32 bytes, base64, mode 0600.
    pub key_file: PathBuf,
    /// Make the key (and the database) if there is none yet.
    pub create_key: bool,
}

/// Records as sealed values in one file. Cheap to clone: all clones take turns.
///
/// The names of records (and so portal ids) stand in the file in clear; their values do not.
#[derive(Debug, Clone)]
pub struct FileStore(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    key: SealingKey,
    /// Within one process, waiting in line beats trying again.
    turn: Mutex<()>,
}

impl FileStore {
    /// Reads the key; makes key and file if there are none yet and the settings say so. Blocks for a
    /// few file operations.
    ///
    /// # Errors
    /// `Denied`: a key file that others can read. `Misconfigured`: no key or no file, or not ours.
    pub fn open(settings: Settings) -> Result<Self, StoreError> {
        let Settings { path, key_file, create_key } = settings;
        let there = path.exists();
        let mut key = SealingKey::read(&key_file)?;
        if key.is_none() && create_key && !there {
            SealingKey::create(&key_file)?;
            key = SealingKey::read(&key_file)?;
        }
        let Some(key) = key else {
            let hint = if there {
                "Put the key back: without it nobody can open what is stored."
            } else {
                "For a new store, run `grantkeeper app set --client-id … --create-key`; for an old one, put its key back."
            };
            let what = format!("there is no key file {}", key_file.display());
            return Err(StoreError::new(StoreErrorKind::Misconfigured, what, hint));
        };
        let inner = Inner { path, key, turn: Mutex::new(()) };
        if !there && create_key {
            database::create(&inner.path, &inner.key).map_err(|fault| inner.explain(fault))?;
        } else if !there {
            return Err(inner.explain(Fault::Io(io::ErrorKind::NotFound.into())));
        }
        Ok(Self(Arc::new(inner)))
    }

    /// Whether the key opens the file; false where that can't be said just now: somebody writes, or a crash is not mended
    /// yet. Changes nothing; blocks for a few file operations.
    ///
    /// # Errors
    /// As with [`FileStore::open`]; it does not open it, or the file can't be read.
    pub fn opens(settings: Settings) -> Result<bool, StoreError> {
        let Self(inner) = Self::open(Settings { create_key: false, ..settings })?;
        // A damaged file can make the database library panic.
        let opens = panic::AssertUnwindSafe(|| database::opens(&inner.path, &inner.key));
        let opened = panic::catch_unwind(opens);
        opened.unwrap_or(Err(Fault::Damaged)).map_err(|fault| inner.explain(fault))
    }

    /// Runs `work` on the file, off the runtime's own threads, until no other process has it open.
    async fn on_file<T, F>(&self, work: F) -> Result<T, NotMade>
    where
        T: Send + 'static,
        F: Fn(&Inner) -> Result<T, NotMade> + Send + Sync + 'static,
    {
        let work = Arc::new(work);
        let _turn = self.0.turn.lock().await;
        for _ in 1..TRIES {
            match self.run(&work).await {
                Err(NotMade::Fault(Fault::Busy)) => tokio::time::sleep(BETWEEN_TRIES).await,
                outcome => return outcome,
            }
        }
        self.run(&work).await
    }

    async fn run<T, F>(&self, work: &Arc<F>) -> Result<T, NotMade>
    where
        T: Send + 'static,
        F: Fn(&Inner) -> Result<T, NotMade> + Send + Sync + 'static,
    {
        let (inner, work) = (Arc::clone(&self.0), Arc::clone(work));
        // A damaged file can make the database library panic; that ends this one call.
        let outcome = task::spawn_blocking(move || work(&inner)).await;
        outcome.unwrap_or(Err(NotMade::Fault(Fault::Damaged)))
    }

    async fn read_some(
        &self,
        keys: Vec<Key>,
    ) -> Result<Vec<Result<Stored, StoreError>>, StoreError> {
        let names: Vec<String> = keys.iter().map(Key::to_string).collect();
        let found = self.on_file(move |inner| Ok(database::read(&inner.path, &inner.key, &names)?));
        let found = found.await.map_err(|error| self.0.not_made(None, error))?;
        Ok(keys.into_iter().zip(found).map(|(key, found)| stored(key, found)).collect())
    }
}

impl From<KeyFault> for StoreError {
    fn from(fault: KeyFault) -> Self {
        let kind =
            if fault.is_refusal() { StoreErrorKind::Denied } else { StoreErrorKind::Misconfigured };
        let error = Self::new(kind, fault.to_string(), fault.hint());
        match fault {
            KeyFault::Unreadable { source, .. } | KeyFault::NotMade { source, .. } => {
                error.because(source)
            }
            _ => error,
        }
    }
}

fn stored(key: Key, found: Option<Found>) -> Result<Stored, StoreError> {
    match found {
        None => Err(missing(key)),
        Some(Found::Damaged) => Err(StoreError::new(
            StoreErrorKind::Corrupt,
            format!("the record `{key}` can't be used: its sealed value is damaged"),
            "Remove it and enrol again, or bring the file back from a backup.",
        )),
        Some(Found::Whole { version, text }) => {
            let record = Record::parse(&text).map_err(|fault| corrupt(key, &fault))?;
            Ok(Stored { record, version: Version(version.to_string()) })
        }
    }
}

fn missing(key: Key) -> StoreError {
    let what = format!("there is no record `{key}` in the store file");
    StoreError::new(StoreErrorKind::Missing, what, enrol(key))
}

impl Inner {
    fn not_made(&self, key: Option<Key>, error: NotMade) -> StoreError {
        match (error, key) {
            (NotMade::Missing, Some(key)) => missing(key),
            (NotMade::Conflict, Some(key)) => conflict(key),
            (NotMade::Fault(fault), _) => self.explain(fault),
            (NotMade::Missing | NotMade::Conflict, None) => self.explain(Fault::Damaged),
        }
    }

    fn explain(&self, fault: Fault) -> StoreError {
        use StoreErrorKind::{Corrupt, Denied, Misconfigured, Unreachable};
        let file = self.path.display();
        let error = |kind, what: &str, hint: &str| {
            StoreError::new(kind, format!("the store file {file} {what}"), hint)
        };
        match fault {
            Fault::Busy => error(
                Unreachable,
                "is held open by another process",
                "Wait until that is done; see who it is with `fuser`.",
            ),
            Fault::WrongKey => error(
                Misconfigured,
                "is not opened by this key",
                "Let `store.file.key_file` name the key it was made with.",
            ),
            Fault::Foreign => error(
                Misconfigured,
                "is not a store of this program",
                "Let `store.file.path` name another file.",
            ),
            Fault::Damaged => error(Corrupt, "is damaged", "Bring it back from a backup."),
            Fault::NoRandomness => error(
                Unreachable,
                "can't be written: the system gives no random numbers",
                "Try again.",
            ),
            Fault::Io(cause) => {
                let (kind, what, hint) = match cause.kind() {
                    io::ErrorKind::NotFound => (
                        Misconfigured,
                        "is not there",
                        "Correct `store.file.path`; for a new store, run `grantkeeper app set --client-id … --create-key`.",
                    ),
                    io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => (
                        Denied,
                        "can't be opened for reading and writing",
                        "See that the service's user owns it and that its file system is writable.",
                    ),
                    io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => (
                        Unreachable,
                        "can't be written: the disk is full",
                        "Make room; nothing stored is lost.",
                    ),
                    _ => (Unreachable, "can't be used", "See the cause, and the system's log."),
                };
                error(kind, what, hint).because(cause)
            }
        }
    }
}

#[async_trait]
impl CredentialStore for FileStore {
    fn kind(&self) -> &'static str {
        "file"
    }

    async fn check(&self) -> Result<(), StoreError> {
        self.list().await.map(drop)
    }

    async fn list(&self) -> Result<Listing, StoreError> {
        let names = self.on_file(|inner| Ok(database::names(&inner.path, &inner.key)?)).await;
        let names = names.map_err(|error| self.0.not_made(None, error))?;
        let below = names.iter().filter_map(|name| name.strip_prefix("portals/"));
        Ok(sort_names(below.map(str::to_owned)))
    }

    async fn read(&self, key: Key) -> Result<Stored, StoreError> {
        let mut found = self.read_some(vec![key]).await?;
        found.pop().unwrap_or_else(|| Err(missing(key)))
    }

    async fn read_all(&self, keys: &[Key]) -> Outcomes {
        match self.read_some(keys.to_vec()).await {
            Ok(found) => keys.iter().copied().zip(found).collect(),
            Err(error) => {
                let same = |_: &Key| StoreError::new(error.kind, &error.what, &error.hint);
                keys.iter().map(|key| (*key, Err(same(key)))).collect()
            }
        }
    }

    async fn write(
        &self,
        key: Key,
        record: &Record,
        expected: &Expected,
    ) -> Result<Version, StoreError> {
        let wanted = match expected {
            Expected::Absent => Wanted::Absent,
            Expected::At(Version(text)) => Wanted::At(text.parse().map_err(|_| conflict(key))?),
        };
        let (name, text) = (key.to_string(), record.to_json());
        let written = self.on_file(move |inner| {
            database::write(&inner.path, &inner.key, &name, text.as_bytes(), wanted)
        });
        let version = written.await.map_err(|error| self.0.not_made(Some(key), error))?;
        Ok(Version(version.to_string()))
    }

    async fn remove(&self, key: Key, expected: &Version) -> Result<(), StoreError> {
        let wanted = expected.0.parse().map_err(|_| conflict(key))?;
        let name = key.to_string();
        let removed =
            self.on_file(move |inner| database::remove(&inner.path, &inner.key, &name, wanted));
        removed.await.map_err(|error| self.0.not_made(Some(key), error))
    }
}
