//! `state_dir` as configured: the folder, its key, and the journal in it, opened together.

use std::{
    fs::File,
    io::{self, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::{
    fs::{CWD, Mode, OFlags, openat},
    io::Errno,
};

use super::{
    Disk, Folder, FolderError, Journal, Keeper, OpenError, Recovered, keeper::recover, open,
};
use crate::{
    portal::AppName,
    sealing::{KeyFault, SealingKey},
    time::Clock,
};

/// Less room than this is none.
const ROOM: usize = 64 * 1024;
/// The key's name, where none is configured.
const OWN_KEY: &str = "state.key";

/// Where the journal is, and its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The folder.
    pub dir: PathBuf,
    /// The key file; one is made in the folder if none is named.
    pub key_file: Option<PathBuf>,
}

/// The journal can't be had.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The folder.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The key file.
    #[error(transparent)]
    Key(#[from] KeyFault),
    /// There is no key file where there should be one.
    #[error("there is no key file {}", file.display())]
    NoKey {
        /// Where.
        file: PathBuf,
        /// Whether it is the one we make ourselves.
        own: bool,
    },
    /// The journal.
    #[error(transparent)]
    Open(#[from] OpenError),
}

impl StateError {
    /// What to do about it, a sentence.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::Folder(error) => error.hint(),
            Self::Key(fault) => fault.hint(),
            Self::NoKey { own: true, .. } => {
                "Put it back: without it nobody can open the journal beside it. Move both away only if you accept that what the journal holds and the store does not is lost.".to_owned()
            }
            Self::NoKey { own: false, .. } => {
                "Let `state_key_file` name a file with 32 random bytes in base64, mode 0600 (`openssl rand -base64 32`), or leave it out.".to_owned()
            }
            Self::Open(error) => error.hint().to_owned(),
        }
    }
}

/// Whether the folder's disk takes something: a file without a name, that nobody sees.
fn try_disk(dir: &Path) -> io::Result<()> {
    let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
    let mut file = match openat(CWD, dir, flags, Mode::RUSR | Mode::WUSR) {
        Ok(file) => File::from(file),
        // Not every file system has such files; then only a start finds out.
        Err(Errno::OPNOTSUPP | Errno::ISDIR) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    file.write_all(&vec![0; ROOM])?;
    file.sync_all()
}

/// Looks at what a start would open, and makes nothing: what it would find, in words and as it is. Holds the folder's lock meanwhile, as a start does.
///
/// # Errors
/// See [`StateError`]: those with which a start would fail.
pub async fn look_at_state(
    settings: &Settings,
    app: &AppName,
) -> Result<(&'static str, Recovered), StateError> {
    let nothing = |what| Ok((what, Recovered::default()));
    if !settings.dir.exists() {
        let parent = settings.dir.parent().is_some_and(Path::is_dir);
        let source = io::ErrorKind::NotFound.into();
        let gone = FolderError::Unusable { path: settings.dir.clone(), source };
        return if parent { nothing("is made at the first start") } else { Err(gone.into()) };
    }
    let key = SealingKey::read(&settings.key_file())?;
    try_disk(&settings.dir).map_err(OpenError::from)?;
    let folder = match Folder::open(&settings.dir) {
        Ok(folder) => folder,
        Err(FolderError::InUse(_)) => {
            return nothing("in use by the running service, and its disk takes what is written");
        }
        Err(error) => return Err(error.into()),
    };
    let own = settings.key_file.is_none();
    let is_new = folder.list().await.map_err(OpenError::from)?.is_empty();
    let Some(key) = key else {
        if own && is_new {
            return nothing("is begun at the first start");
        }
        return Err(StateError::NoKey { file: settings.key_file(), own });
    };
    let (trails, found, _) = recover(&folder, &key, app).await?;
    Ok((
        "readable, and its disk takes what is written",
        Recovered { trails: trails.portals, ..found },
    ))
}

impl Settings {
    fn key_file(&self) -> PathBuf {
        self.key_file.clone().unwrap_or_else(|| self.dir.join(OWN_KEY))
    }
}

/// Opens the journal, making folder and key if there are none. Says so once where the key lies beside
/// what it opens.
///
/// # Errors
/// See [`StateError`].
pub async fn open_state(
    settings: &Settings,
    app: &AppName,
    clock: Arc<dyn Clock>,
) -> Result<(Journal, Recovered, Keeper), StateError> {
    let folder = Folder::open(&settings.dir)?;
    let is_new = folder.list().await.map_err(OpenError::from)?.is_empty();
    let file = settings.key_file();
    let own = settings.key_file.is_none();
    let mut key = SealingKey::read(&file)?;
    if key.is_none() && own && is_new {
        SealingKey::create(&file)?;
        tracing::warn!(
            file = %file.display(),
            "made a key for state_dir in state_dir: whoever steals the disk has both; let state_key_file name one that is kept elsewhere"
        );
        key = SealingKey::read(&file)?;
    }
    let key = key.ok_or(StateError::NoKey { file, own })?;
    Ok(open(Arc::new(folder), key, app, clock).await?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::SystemClock;

    async fn opened(settings: &Settings) -> Result<(), StateError> {
        let app = AppName::parse("acme").unwrap();
        open_state(settings, &app, Arc::new(SystemClock)).await.map(drop)
    }

    #[tokio::test]
    async fn a_key_is_made_once_and_missed_when_it_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let settings = Settings { dir: dir.path().join("state"), key_file: None };
        opened(&settings).await.unwrap();
        opened(&settings).await.unwrap();
        std::fs::remove_file(settings.dir.join(OWN_KEY)).unwrap();
        let error = opened(&settings).await.unwrap_err();
        assert!(matches!(error, StateError::NoKey { own: true, .. }), "{error:?}");
        assert!(error.hint().contains("Put it back"), "{}", error.hint());
    }

    #[tokio::test]
    async fn a_key_file_that_is_named_is_never_made() {
        let dir = tempfile::tempdir().unwrap();
        let key_file = dir.path().join("elsewhere.key");
        let settings = Settings { dir: dir.path().join("state"), key_file: Some(key_file.clone()) };
        let error = opened(&settings).await.unwrap_err();
        assert!(matches!(error, StateError::NoKey { own: false, .. }), "{error:?}");
        SealingKey::create(&key_file).unwrap();
        opened(&settings).await.unwrap();
    }
}
