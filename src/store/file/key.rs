//! The key file of the embedded store: read with suspicion, made once. Knows no records.

use std::{
    fmt,
    fs::{File, Metadata, Permissions},
    io::{self, Read, Write},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
};

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey},
    rand,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use zeroize::Zeroizing;

use crate::store::{StoreError, StoreErrorKind};

const KEY_LEN: usize = 32;

/// Seals and opens values with AES-256-GCM, each under a random nonce of its own.
pub(super) struct SealingKey(RandomizedNonceKey);

impl fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealingKey")
    }
}

impl SealingKey {
    /// Nonce, ciphertext and tag of `plain`, bound to `context`. None if the system has no randomness.
    pub(super) fn seal(&self, context: &[u8], plain: &[u8]) -> Option<Vec<u8>> {
        let mut text = Zeroizing::new(Vec::with_capacity(plain.len() + AES_256_GCM.tag_len()));
        text.extend_from_slice(plain);
        let nonce = self.0.seal_in_place_append_tag(Aad::from(context), &mut *text).ok()?;
        let mut sealed = Vec::with_capacity(NONCE_LEN + text.len());
        sealed.extend_from_slice(nonce.as_ref());
        sealed.extend_from_slice(&text);
        Some(sealed)
    }

    /// What `sealed` holds. None if it was not sealed so, with this key and `context`.
    pub(super) fn open(&self, context: &[u8], sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let (nonce, text) = sealed.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut text = Zeroizing::new(text.to_vec());
        let length = self.0.open_in_place(nonce, Aad::from(context), &mut text).ok()?.len();
        text.truncate(length);
        Some(text)
    }

    /// Reads the key, if there is one.
    pub(super) fn read(file: &Path) -> Result<Option<Self>, StoreError> {
        let shown = file.display();
        let mut opened = match File::open(file) {
            Ok(opened) => opened,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(unreadable(file, error)),
        };
        // Asked of the open file, which nobody can exchange any more.
        let metadata = opened.metadata().map_err(|error| unreadable(file, error))?;
        check_access(file, &metadata)?;
        let mut text = Zeroizing::new(Vec::with_capacity(128));
        let read = Read::by_ref(&mut opened).take(128).read_to_end(&mut text);
        read.map_err(|error| unreadable(file, error))?;
        let mut key = Zeroizing::new([0; KEY_LEN + 2]);
        let decoded = STANDARD.decode_slice(text.trim_ascii(), &mut *key);
        let sealing = match decoded {
            Ok(KEY_LEN) => RandomizedNonceKey::new(&AES_256_GCM, &key[..KEY_LEN]).ok(),
            _ => None,
        };
        sealing.map(|key| Some(Self(key))).ok_or_else(|| {
            StoreError::new(
                StoreErrorKind::Misconfigured,
                format!("the key file {shown} does not hold 32 bytes in base64"),
                "Put the right key back; a new one would not open what is stored.",
            )
        })
    }

    /// Makes the key file, readable by its owner alone from its first instant and whole or not there
    /// at all. A key that somebody else made in the meantime is left alone.
    pub(super) fn create(file: &Path) -> Result<(), StoreError> {
        let unwritable = |error: io::Error| {
            let what = format!("the key file {} can't be made", file.display());
            let hint =
                "See that its folder is there, writable for the service's user, and not full.";
            StoreError::new(StoreErrorKind::Misconfigured, what, hint).because(error)
        };
        let mut key = Zeroizing::new([0; KEY_LEN]);
        rand::fill(&mut *key).map_err(|_| unwritable(io::Error::other("no randomness")))?;
        let text = Zeroizing::new(STANDARD.encode(*key));
        let mut draft = draft_beside(file).map_err(unwritable)?;
        draft.write_all(text.as_bytes()).map_err(unwritable)?;
        draft.write_all(b"\n").map_err(unwritable)?;
        keep(draft, file).map_err(unwritable)
    }
}

/// A file of mode 0600 in the folder of `file`, gone unless it is kept.
pub(super) fn draft_beside(file: &Path) -> io::Result<tempfile::NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".grantkeeper-").permissions(Permissions::from_mode(0o600));
    builder.tempfile_in(folder_of(file))
}

/// Gives the finished draft its name, durably, unless there is such a file by now.
pub(super) fn keep(draft: tempfile::NamedTempFile, file: &Path) -> io::Result<()> {
    draft.as_file().sync_all()?;
    match draft.persist_noclobber(file) {
        Ok(_) => File::open(folder_of(file))?.sync_all(),
        Err(refused) if refused.error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(refused) => Err(refused.error),
    }
}

fn folder_of(file: &Path) -> &Path {
    match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

fn unreadable(file: &Path, error: io::Error) -> StoreError {
    let kind = match error.kind() {
        io::ErrorKind::PermissionDenied => StoreErrorKind::Denied,
        _ => StoreErrorKind::Misconfigured,
    };
    let what = format!("the key file {} can't be read", file.display());
    let hint = "See that it is a file and that the service's user owns it.";
    StoreError::new(kind, what, hint).because(error)
}

fn check_access(file: &Path, metadata: &Metadata) -> Result<(), StoreError> {
    let shown = file.display();
    let refuse = |what, hint| Err(StoreError::new(StoreErrorKind::Denied, what, hint));
    if !metadata.is_file() {
        return Err(unreadable(file, io::ErrorKind::InvalidInput.into()));
    }
    // Root could read it anyway, and repairs things at night for a service that has a user of its own.
    let own = rustix::process::geteuid();
    if metadata.uid() != own.as_raw() && !own.is_root() {
        return refuse(
            format!("the key file {shown} belongs to another user"),
            format!("Run as its owner, or hand it over: `chown <service user> {shown}`."),
        );
    }
    let mode = metadata.mode() & 0o777;
    if mode & 0o077 != 0 {
        return refuse(
            format!("the key file {shown} is open to others than its owner (mode {mode:04o})"),
            format!("Close it: `chmod 600 {shown}`; and think about who could have read it."),
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> SealingKey {
        SealingKey(RandomizedNonceKey::new(&AES_256_GCM, &[7; KEY_LEN]).unwrap())
    }

    #[test]
    fn a_value_opens_in_its_own_context_only_and_never_looks_the_same_twice() {
        let (one, two) =
            (key().seal(b"a", b"CANARY").unwrap(), key().seal(b"a", b"CANARY").unwrap());
        assert_ne!(one, two);
        assert_eq!(**key().open(b"a", &one).unwrap(), *b"CANARY");
        assert!(key().open(b"b", &one).is_none());
        assert!(!one.windows(6).any(|window| window == b"CANARY"));
    }

    #[test]
    fn a_value_cut_short_or_changed_anywhere_does_not_open() {
        let sealed = key().seal(b"a", b"text").unwrap();
        for length in 0..sealed.len() {
            assert!(key().open(b"a", &sealed[..length]).is_none());
        }
        for position in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[position] ^= 1;
            assert!(key().open(b"a", &changed).is_none());
        }
    }
}
