//! A key file: read with suspicion, made once. Knows no use of the key.

use std::{
    fs::{File, Metadata},
    io::{self, Read, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use aws_lc_rs::rand;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use zeroize::Zeroizing;

use super::{KEY_LEN, SealingKey, draft_beside, keep_unless_there};

/// Why a key file can't be used or made. Never holds a key.
#[derive(Debug, thiserror::Error)]
pub enum KeyFault {
    /// The operating system says no, or it is no file.
    #[error("the key file {} can't be read", file.display())]
    Unreadable {
        /// Which.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Somebody else could exchange it.
    #[error("the key file {} belongs to another user", .0.display())]
    Foreign(PathBuf),
    /// Others than its owner can read it.
    #[error("the key file {} is open to others than its owner (mode {mode:04o})", file.display())]
    Open {
        /// Which.
        file: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// What stands there is no key.
    #[error("the key file {} does not hold 32 bytes in base64", .0.display())]
    NotAKey(PathBuf),
    /// It could not be made.
    #[error("the key file {} can't be made", file.display())]
    NotMade {
        /// Which.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl KeyFault {
    /// Whether somebody refuses, rather than something being wrong.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Foreign(_) | Self::Open { .. } => true,
            Self::Unreadable { source, .. } => source.kind() == io::ErrorKind::PermissionDenied,
            Self::NotAKey(_) | Self::NotMade { .. } => false,
        }
    }

    /// What to do about it, a sentence.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::Unreadable { .. } => {
                "See that it is a file and that the service's user owns it.".to_owned()
            }
            Self::Foreign(file) => format!(
                "Run as its owner, or hand it over: `chown <service user> {}`.",
                file.display()
            ),
            Self::Open { file, .. } => format!(
                "Close it: `chmod 600 {}`; and think about who could have read it.",
                file.display()
            ),
            Self::NotAKey(_) => {
                "Put the right key back; a new one would not open what is stored.".to_owned()
            }
            Self::NotMade { .. } => {
                "See that its folder is there, writable for the service's user, and not full."
                    .to_owned()
            }
        }
    }
}

pub(super) fn read(file: &Path, own: u32) -> Result<Option<SealingKey>, KeyFault> {
    let unreadable = |source| KeyFault::Unreadable { file: file.to_owned(), source };
    let mut opened = match File::open(file) {
        Ok(opened) => opened,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unreadable(error)),
    };
    // Asked of the open file, which nobody can exchange any more.
    let metadata = opened.metadata().map_err(unreadable)?;
    check_access(file, &metadata, own)?;
    let mut text = Zeroizing::new(Vec::with_capacity(128));
    let read = Read::by_ref(&mut opened).take(128).read_to_end(&mut text);
    read.map_err(unreadable)?;
    let mut key = Zeroizing::new([0; KEY_LEN + 2]);
    let decoded = STANDARD.decode_slice(text.trim_ascii(), &mut *key);
    let sealing = match (decoded, key.first_chunk::<KEY_LEN>()) {
        (Ok(KEY_LEN), Some(key)) => SealingKey::from_bytes(key),
        _ => None,
    };
    sealing.map(Some).ok_or_else(|| KeyFault::NotAKey(file.to_owned()))
}

pub(super) fn create(file: &Path) -> Result<(), KeyFault> {
    let not_made = |source| KeyFault::NotMade { file: file.to_owned(), source };
    let mut key = Zeroizing::new([0; KEY_LEN]);
    rand::fill(&mut *key).map_err(|_| not_made(io::Error::other("no randomness")))?;
    let text = Zeroizing::new(STANDARD.encode(*key));
    let mut draft = draft_beside(file).map_err(not_made)?;
    draft.write_all(text.as_bytes()).map_err(not_made)?;
    draft.write_all(b"\n").map_err(not_made)?;
    keep_unless_there(draft, file).map_err(not_made)
}

pub(super) fn check_access(file: &Path, metadata: &Metadata, own: u32) -> Result<(), KeyFault> {
    if !metadata.is_file() {
        let source = io::ErrorKind::InvalidInput.into();
        return Err(KeyFault::Unreadable { file: file.to_owned(), source });
    }
    // Root could read it anyway, and repairs things at night for a service that has a user of its own.
    let of_root = metadata.uid() == 0 && own != 0;
    if metadata.uid() != own && own != 0 && !of_root {
        return Err(KeyFault::Foreign(file.to_owned()));
    }
    let mode = metadata.mode() & 0o777;
    // systemd's credentials are root's, with a list of who else may read: its mask stands where the group's rights do.
    // Kubernetes' are root's too, and of the pod's group: whoever root lets read it, may.
    let forbidden = if of_root { 0o037 } else { 0o077 };
    if mode & forbidden != 0 {
        return Err(KeyFault::Open { file: file.to_owned(), mode });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    #[test]
    fn a_key_that_kubernetes_mounts_for_the_pod_s_group_is_the_service_s() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("state.key");
        fs::write(&file, "x").unwrap();
        if fs::metadata(&file).unwrap().uid() != 0 {
            return; // Only root can give files away.
        }
        std::os::unix::fs::chown(&file, None, Some(64_002)).unwrap();
        for (mode, good) in [(0o440, true), (0o400, true), (0o444, false), (0o460, false)] {
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            let told = check_access(&file, &fs::metadata(&file).unwrap(), 64_002);
            assert_eq!(told.is_ok(), good, "{mode:o}: {told:?}");
        }
    }
}
