//! One look into, or one change to, the redb file: opened, used and closed again, so that the service
//! and the command line can share it. Knows bytes under names and versions; nothing of JSON.

use std::{fmt, io, path::Path};

use redb::{
    CommitError, Database, DatabaseError, ReadOnlyDatabase, ReadTransaction, ReadableDatabase,
    ReadableTable, StorageError, TableDefinition, TableError, TransactionError,
};
use zeroize::Zeroizing;

use crate::sealing::{SealingKey, draft_beside, keep_unless_there};

/// Record name to version and sealed value.
const RECORDS: TableDefinition<'_, &str, (u64, &[u8])> = TableDefinition::new("records");
/// The version given out last. One for the whole file: it never comes back, not even for a record
/// that was removed and made again.
const LAST_VERSION: TableDefinition<'_, (), u64> = TableDefinition::new("last_version");
/// A known text, sealed: tells a wrong key from a damaged value.
const KEY_CHECK: TableDefinition<'_, (), &[u8]> = TableDefinition::new("key_check");

/// Bound into every sealed value; changes with the format.
const FORMAT: &str = "grantkeeper store 1";
const CHECK_TEXT: &[u8] = b"this key fits";

/// What went wrong with the file.
#[derive(Debug)]
pub(super) enum Fault {
    /// Another process has it open.
    Busy,
    /// The key does not open it.
    WrongKey,
    /// Not a redb file, or not one of ours.
    Foreign,
    /// Ours once, and damaged.
    Damaged,
    /// No random numbers from the system.
    NoRandomness,
    /// The operating system says no.
    Io(io::Error),
}

/// A value as found.
pub(super) enum Found {
    Whole {
        version: u64,
        text: Zeroizing<Vec<u8>>,
    },
    /// It does not open, though the key is right.
    Damaged,
}

impl fmt::Debug for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole { version, .. } => write!(f, "Whole({version})"),
            Self::Damaged => f.write_str("Damaged"),
        }
    }
}

/// What a change expects to find.
#[derive(Debug, Clone, Copy)]
pub(super) enum Wanted {
    Absent,
    At(u64),
}

/// Why a change was not made.
#[derive(Debug)]
pub(super) enum NotMade {
    Missing,
    Conflict,
    Fault(Fault),
}

impl<F: Into<Fault>> From<F> for NotMade {
    fn from(fault: F) -> Self {
        Self::Fault(fault.into())
    }
}

/// Makes an empty database that `key` opens; whole or not at all. One that is there is left alone.
pub(super) fn create(path: &Path, key: &SealingKey) -> Result<(), Fault> {
    let draft = draft_beside(path).map_err(Fault::Io)?;
    let database = Database::create(draft.path())?;
    let change = database.begin_write()?;
    change.open_table(RECORDS)?;
    change.open_table(LAST_VERSION)?.insert((), 0)?;
    let check = key.seal(FORMAT.as_bytes(), CHECK_TEXT).ok_or(Fault::NoRandomness)?;
    change.open_table(KEY_CHECK)?.insert((), check.as_slice())?;
    change.commit()?;
    drop(database);
    keep_unless_there(draft, path).map_err(Fault::Io)
}

/// The names of all records.
pub(super) fn names(path: &Path, key: &SealingKey) -> Result<Vec<String>, Fault> {
    look(path, key, |view| {
        let records = view.open_table(RECORDS)?;
        let entries = records.iter()?;
        entries.map(|entry| Ok(entry?.0.value().to_owned())).collect()
    })
}

/// Each of `names`, in that order, out of one state of the file; none where there is no record.
pub(super) fn read(
    path: &Path,
    key: &SealingKey,
    names: &[String],
) -> Result<Vec<Option<Found>>, Fault> {
    look(path, key, |view| {
        let records = view.open_table(RECORDS)?;
        let one = |name: &String| {
            let entry = records.get(name.as_str())?;
            Ok(entry.map(|entry| {
                let (version, sealed) = entry.value();
                let text = key.open(&context(name, version), sealed);
                text.map_or(Found::Damaged, |text| Found::Whole { version, text })
            }))
        };
        names.iter().map(one).collect()
    })
}

/// Puts `text` under `name` if `wanted` holds. Durable when it returns.
pub(super) fn write(
    path: &Path,
    key: &SealingKey,
    name: &str,
    text: &[u8],
    wanted: Wanted,
) -> Result<u64, NotMade> {
    let database = open(path)?;
    check_key(&database.begin_read()?, key)?;
    let change = database.begin_write()?;
    let version = {
        let mut records = change.open_table(RECORDS)?;
        let found = records.get(name)?.map(|entry| entry.value().0);
        match (wanted, found) {
            (Wanted::Absent, None) => {}
            (Wanted::At(wanted), Some(found)) if wanted == found => {}
            _ => return Err(NotMade::Conflict),
        }
        let mut last = change.open_table(LAST_VERSION)?;
        let version = last.get(())?.map_or(0, |entry| entry.value()).saturating_add(1);
        last.insert((), version)?;
        let sealed = key.seal(&context(name, version), text).ok_or(Fault::NoRandomness)?;
        records.insert(name, (version, sealed.as_slice()))?;
        version
    };
    change.commit()?;
    Ok(version)
}

/// Deletes the record if it is still in this state. Durable when it returns.
pub(super) fn remove(
    path: &Path,
    key: &SealingKey,
    name: &str,
    wanted: u64,
) -> Result<(), NotMade> {
    let database = open(path)?;
    check_key(&database.begin_read()?, key)?;
    let change = database.begin_write()?;
    {
        let mut records = change.open_table(RECORDS)?;
        let found = records.get(name)?.map(|entry| entry.value().0);
        match found {
            Some(found) if found == wanted => records.remove(name).map(drop)?,
            Some(_) => return Err(NotMade::Conflict),
            None => return Err(NotMade::Missing),
        }
    }
    Ok(change.commit()?)
}

/// A value sealed for one name and version opens under no other.
fn context(name: &str, version: u64) -> Vec<u8> {
    format!("{FORMAT}\n{name}\n{version}").into_bytes()
}

fn look<T>(
    path: &Path,
    key: &SealingKey,
    see: impl FnOnce(&ReadTransaction) -> Result<T, Fault>,
) -> Result<T, Fault> {
    // Readers share the file with one another. After a crash only a writer may mend it.
    match ReadOnlyDatabase::open(path) {
        Ok(database) => checked(&database, key, see),
        Err(DatabaseError::RepairAborted) => checked(&open(path)?, key, see),
        Err(error) => Err(error.into()),
    }
}

/// Whether the file opens with this key; false where that can't be said before a crash is mended, or while somebody
/// writes. Mends nothing, and waits for nobody.
pub(super) fn opens(path: &Path, key: &SealingKey) -> Result<bool, Fault> {
    let opened = match ReadOnlyDatabase::open(path) {
        Ok(database) => checked(&database, key, |_| Ok(true)),
        Err(DatabaseError::RepairAborted) => Ok(false),
        Err(error) => Err(error.into()),
    };
    match opened {
        Err(Fault::Busy) => Ok(false),
        opened => opened,
    }
}

fn checked<T>(
    database: &impl ReadableDatabase,
    key: &SealingKey,
    see: impl FnOnce(&ReadTransaction) -> Result<T, Fault>,
) -> Result<T, Fault> {
    let view = database.begin_read()?;
    check_key(&view, key)?;
    see(&view)
}

fn open(path: &Path) -> Result<Database, Fault> {
    Ok(Database::open(path)?)
}

fn check_key(view: &ReadTransaction, key: &SealingKey) -> Result<(), Fault> {
    let table = view.open_table(KEY_CHECK)?;
    let entry = table.get(())?.ok_or(Fault::Foreign)?;
    match key.open(FORMAT.as_bytes(), entry.value()) {
        Some(text) if text.as_slice() == CHECK_TEXT => Ok(()),
        _ => Err(Fault::WrongKey),
    }
}

impl From<StorageError> for Fault {
    fn from(error: StorageError) -> Self {
        match error {
            StorageError::Io(error) if error.kind() == io::ErrorKind::InvalidData => Self::Foreign,
            StorageError::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Self::Damaged
            }
            StorageError::Io(error) => Self::Io(error),
            _ => Self::Damaged,
        }
    }
}

impl From<DatabaseError> for Fault {
    fn from(error: DatabaseError) -> Self {
        match error {
            DatabaseError::DatabaseAlreadyOpen => Self::Busy,
            DatabaseError::UpgradeRequired(_) => Self::Foreign,
            DatabaseError::Storage(error) => error.into(),
            _ => Self::Damaged,
        }
    }
}

impl From<TableError> for Fault {
    fn from(error: TableError) -> Self {
        match error {
            TableError::Storage(error) => error.into(),
            _ => Self::Foreign,
        }
    }
}

impl From<TransactionError> for Fault {
    fn from(error: TransactionError) -> Self {
        match error {
            TransactionError::Storage(error) => error.into(),
            _ => Self::Damaged,
        }
    }
}

impl From<CommitError> for Fault {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::Storage(error) => error.into(),
            _ => Self::Damaged,
        }
    }
}
