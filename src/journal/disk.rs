//! Where segments lie: the [`Disk`] seam, and the folder that is behind it in production. A simulated
//! one loses what was not synced. Knows bytes; nothing of entries or keys.

use std::{
    fmt,
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use tokio::task;

use crate::sealing::{draft_beside, keep, remove_drafts_in, sync_folder_of};

/// Numbered segments that can be made whole, added to, read and removed.
#[async_trait]
pub trait Disk: fmt::Debug + Send + Sync + 'static {
    /// The segments there are, ascending.
    async fn list(&self) -> io::Result<Vec<u64>>;

    /// All of a segment.
    async fn read(&self, segment: u64) -> io::Result<Vec<u8>>;

    /// Makes a segment that was not there: whole and durable when this returns, or not there at all.
    async fn create(&self, segment: u64, content: Vec<u8>) -> io::Result<()>;

    /// Adds to a segment's end; durable when this returns. After an error nobody knows how much of it
    /// is there.
    async fn append(&self, segment: u64, content: Vec<u8>) -> io::Result<()>;

    /// Removes a segment.
    async fn remove(&self, segment: u64) -> io::Result<()>;
}

/// A folder of segment files, this process's alone.
#[derive(Debug, Clone)]
pub struct Folder(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    /// The segment that grows, kept open.
    growing: Mutex<Option<(u64, File)>>,
    /// Held locked for as long as the process lives.
    _lock: File,
}

/// The folder can't be used.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// The operating system says no.
    #[error("state_dir {} can't be used", path.display())]
    Unusable {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others could put a journal of theirs in place of ours.
    #[error("state_dir {} can be written by others than its owner (mode {mode:04o})", path.display())]
    Open {
        /// Which.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// It belongs to somebody else.
    #[error("state_dir {} belongs to another user", .0.display())]
    Foreign(PathBuf),
    /// Another process has it.
    #[error("state_dir {} is in use by another grantkeeper", .0.display())]
    InUse(PathBuf),
}

impl FolderError {
    /// What to do about it, a sentence.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::Unusable { .. } => {
                "See that the folder is there (or can be made), and that the service's user owns it."
                    .to_owned()
            }
            Self::Open { path, .. } => {
                format!("Close it: `chmod 700 {}`; and think about who could have written there.", path.display())
            }
            Self::Foreign(path) => {
                format!("Run as its owner, or hand it over: `chown <service user> {}`.", path.display())
            }
            Self::InUse(_) => {
                "One service refreshes for one app: stop the other one, or give each a state_dir, a store prefix and an app of its own.".to_owned()
            }
        }
    }
}

const PREFIX: &str = "journal-";
const SUFFIX: &str = ".log";

impl Folder {
    /// Sees to it that there is a folder at `path`, where nobody else can look into it if it is new.
    ///
    /// # Errors
    /// The operating system says no.
    pub fn make(path: &Path) -> io::Result<()> {
        match DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(()),
        }
    }

    /// The folder at `path`, made if it is not there, locked against other processes.
    ///
    /// # Errors
    /// See [`FolderError`].
    pub fn open(path: &Path) -> Result<Self, FolderError> {
        let unusable = |source| FolderError::Unusable { path: path.to_owned(), source };
        Self::make(path).map_err(unusable)?;
        let metadata = fs::metadata(path).map_err(unusable)?;
        if !metadata.is_dir() {
            return Err(unusable(io::ErrorKind::NotADirectory.into()));
        }
        let own = rustix::process::geteuid();
        if metadata.uid() != own.as_raw() && !own.is_root() {
            return Err(FolderError::Foreign(path.to_owned()));
        }
        if metadata.mode() & 0o022 != 0 {
            return Err(FolderError::Open { path: path.to_owned(), mode: metadata.mode() & 0o777 });
        }
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(path.join("lock"))
            .map_err(unusable)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(FolderError::InUse(path.to_owned())),
            Err(TryLockError::Error(error)) => return Err(unusable(error)),
        }
        remove_drafts_in(path).map_err(unusable)?;
        let inner = Inner { path: path.to_owned(), growing: Mutex::new(None), _lock: lock };
        Ok(Self(Arc::new(inner)))
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let inner = Arc::clone(&self.0);
        let done = task::spawn_blocking(move || work(&inner)).await;
        done.unwrap_or_else(|error| Err(io::Error::other(error)))
    }
}

impl Inner {
    fn file(&self, segment: u64) -> PathBuf {
        // As many digits as sort by name the way they count.
        self.path.join(format!("{PREFIX}{segment:020}{SUFFIX}"))
    }
}

#[async_trait]
impl Disk for Folder {
    async fn list(&self) -> io::Result<Vec<u64>> {
        self.run(|inner| {
            let mut segments = Vec::new();
            for entry in fs::read_dir(&inner.path)? {
                let name = entry?.file_name();
                let name = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
                let number = name.and_then(|name| name.strip_suffix(SUFFIX)?.parse::<u64>().ok());
                segments.extend(number);
            }
            segments.sort_unstable();
            Ok(segments)
        })
        .await
    }

    async fn read(&self, segment: u64) -> io::Result<Vec<u8>> {
        self.run(move |inner| fs::read(inner.file(segment))).await
    }

    async fn create(&self, segment: u64, content: Vec<u8>) -> io::Result<()> {
        self.run(move |inner| {
            let path = inner.file(segment);
            let mut draft = draft_beside(&path)?;
            draft.write_all(&content)?;
            keep(draft, &path)
        })
        .await
    }

    async fn append(&self, segment: u64, content: Vec<u8>) -> io::Result<()> {
        self.run(move |inner| {
            let mut growing = inner.growing.lock().unwrap_or_else(PoisonError::into_inner);
            if growing.as_ref().is_none_or(|(open, _)| *open != segment) {
                let file = OpenOptions::new().append(true).open(inner.file(segment))?;
                *growing = Some((segment, file));
            }
            let Some((_, file)) = growing.as_mut() else { return Ok(()) };
            file.write_all(&content)?;
            file.sync_data()
        })
        .await
    }

    async fn remove(&self, segment: u64) -> io::Result<()> {
        self.run(move |inner| {
            let path = inner.file(segment);
            fs::remove_file(&path)?;
            sync_folder_of(&path)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[tokio::test]
    async fn segments_are_made_added_to_read_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::open(&dir.path().join("state")).unwrap();
        folder.create(7, b"seven".to_vec()).await.unwrap();
        folder.create(12, b"twelve".to_vec()).await.unwrap();
        folder.append(12, b" and more".to_vec()).await.unwrap();
        folder.append(7, b"!".to_vec()).await.unwrap();
        assert_eq!(folder.list().await.unwrap(), [7, 12]);
        assert_eq!(folder.read(12).await.unwrap(), b"twelve and more");
        folder.remove(7).await.unwrap();
        assert_eq!(folder.list().await.unwrap(), [12]);
        let mode = fs::metadata(folder.0.file(12)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn i2_two_services_can_not_have_one_folder() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        let first = Folder::open(&path).unwrap();
        assert!(matches!(Folder::open(&path), Err(FolderError::InUse(_))));
        drop(first);
        assert!(Folder::open(&path).is_ok());
    }

    #[test]
    fn a_folder_that_others_can_write_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o770)).unwrap();
        let error = Folder::open(dir.path()).unwrap_err();
        assert!(matches!(error, FolderError::Open { mode: 0o770, .. }), "{error:?}");
        assert!(error.hint().contains("chmod 700"), "{}", error.hint());
    }

    #[test]
    fn a_file_in_the_folder_s_place_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("state"), "").unwrap();
        let error = Folder::open(&dir.path().join("state")).unwrap_err();
        assert!(matches!(error, FolderError::Unusable { .. }), "{error:?}");
    }
}
