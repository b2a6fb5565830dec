//! The file a log is in: opened with suspicion, gone on with where it ended, never with half a line in
//! it. Knows bytes and lines, no decisions.

use std::{
    fs::{File, Metadata, OpenOptions},
    io::{self, Read as _, Seek, SeekFrom, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};

use super::line::{Read, Tip};

/// More than the longest line.
const TAIL: u64 = 64 * 1024;

/// The log can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The operating system says no.
    #[error("the audit log {} can't be opened", file.display())]
    Io {
        /// Which.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others could write to it, or everybody read it.
    #[error("the audit log {} can be written by others than its owner or read by every user, or is another user's", .0.display())]
    Open(PathBuf),
    /// Another process writes to it.
    #[error("the audit log {} is in use by another service", .0.display())]
    InUse(PathBuf),
    /// What is in it is not ours.
    #[error("the file {} does not end like an audit log", .0.display())]
    NotALog(PathBuf),
}

impl OpenError {
    /// What to do about it, a sentence.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::Io { .. } => {
                "See that its folder is there, and that the service's user may write in it.".to_owned()
            }
            Self::Open(file) => {
                format!("Close it: `chown <service user> {0}; chmod g-w,o= {0}`.", file.display())
            }
            Self::InUse(_) => "Give each service an audit log of its own.".to_owned(),
            Self::NotALog(_) => {
                "Name another file in [audit], or move that one away; `grantkeeper audit verify` says what is wrong with it.".to_owned()
            }
        }
    }
}

/// Whether a log is one of the user `own`'s that nobody else may write to. Who reads what is for those to know whom the
/// machine's owner lets: the group, at most.
///
/// # Errors
/// [`OpenError::Open`]
pub fn closed_to_others(path: &Path, metadata: &Metadata, own: u32) -> Result<(), OpenError> {
    if metadata.mode() & 0o026 != 0 || metadata.uid() != own {
        return Err(OpenError::Open(path.to_owned()));
    }
    Ok(())
}

/// An open log.
#[derive(Debug)]
pub(super) struct LogFile {
    file: File,
    length: u64,
}

/// What stood in it.
#[derive(Debug)]
pub(super) struct Found {
    /// Its last line, if it has any.
    pub(super) tip: Option<Tip>,
    /// So many bytes of a line that was cut off have been taken away.
    pub(super) torn: Option<u64>,
}

impl LogFile {
    pub(super) fn open(path: &Path) -> Result<(Self, Found), OpenError> {
        let io = |source| OpenError::Io { file: path.to_owned(), source };
        let mut options = OpenOptions::new();
        options.read(true).append(true).create(true).mode(0o600);
        let mut file = options.open(path).map_err(io)?;
        let metadata = file.metadata().map_err(io)?;
        if !metadata.is_file() {
            return Err(io(io::Error::from(io::ErrorKind::InvalidInput)));
        }
        let own = rustix::process::geteuid().as_raw();
        closed_to_others(path, &metadata, own)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(OpenError::InUse(path.to_owned())),
            Err(error) => return Err(io(error.into())),
        }
        let (length, found) = look(&mut file, metadata.len())
            .map_err(io)?
            .ok_or_else(|| OpenError::NotALog(path.to_owned()))?;
        if found.torn.is_some() {
            file.set_len(length).map_err(io)?;
        }
        if length == 0 {
            // A file is only there for good once its folder says so.
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
            let folder = File::open(folder.unwrap_or(Path::new("."))).map_err(io)?;
            folder.sync_all().map_err(io)?;
        }
        Ok((Self { file, length }, found))
    }

    /// Appends whole lines: all of them, or none.
    pub(super) fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        match self.file.write_all(lines) {
            Ok(()) => {
                self.length += lines.len() as u64;
                Ok(())
            }
            Err(error) => {
                // Half a line would break the chain for who comes after.
                self.file.set_len(self.length)?;
                Err(error)
            }
        }
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Whether it has no name any more, anywhere.
    pub(super) fn is_nowhere(&self) -> bool {
        self.file.metadata().is_ok_and(|metadata| metadata.nlink() == 0)
    }

    /// Whether `path` still names this file.
    pub(super) fn is_at(&self, path: &Path) -> bool {
        let name = |metadata: io::Result<Metadata>| {
            metadata.map(|metadata| (metadata.dev(), metadata.ino())).ok()
        };
        name(self.file.metadata()) == name(std::fs::metadata(path))
    }
}

/// Where its whole lines end, and what the last of them is. None if it is no log.
fn look(file: &mut File, length: u64) -> io::Result<Option<(u64, Found)>> {
    let start = length.saturating_sub(TAIL);
    file.seek(SeekFrom::Start(start))?;
    let mut tail = Vec::new();
    file.take(TAIL).read_to_end(&mut tail)?;
    let end = tail.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let torn = Some((tail.len() - end) as u64).filter(|torn| *torn > 0);
    let Some(lines) = tail.get(..end).filter(|lines| !lines.is_empty()) else {
        // A first line that was cut off, and nothing else; or something else altogether.
        let ours = start == 0 && (tail.is_empty() || tail.starts_with(b"{\"seq\":"));
        return Ok(ours.then_some((0, Found { tip: None, torn })));
    };
    let last = lines[..end - 1].rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
    let read = std::str::from_utf8(last).ok().and_then(Read::parse);
    Ok(read.map(|read| (start + end as u64, Found { tip: Some(read.tip()), torn })))
}
