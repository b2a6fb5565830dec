//! What is kept on this machine's disk: sealed with AES-256-GCM, by a key out of a key file that is
//! read with suspicion, in files that appear whole or not at all. Knows no records and no journal.

use std::{fmt, fs::Metadata, path::Path};

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use zeroize::Zeroizing;

mod draft;
mod key_file;

pub use draft::{draft_beside, keep, keep_unless_there, remove_drafts_in, sync_folder_of};
pub use key_file::KeyFault;

const KEY_LEN: usize = 32;

/// Seals and opens values with AES-256-GCM, each under a random nonce of its own.
pub struct SealingKey(RandomizedNonceKey);

impl fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealingKey")
    }
}

impl SealingKey {
    /// A key of these bytes.
    #[must_use]
    pub fn from_bytes(key: &[u8; KEY_LEN]) -> Option<Self> {
        RandomizedNonceKey::new(&AES_256_GCM, key).ok().map(Self)
    }

    /// Nonce, ciphertext and tag of `plain`, bound to `context`. None if the system has no randomness.
    #[must_use]
    pub fn seal(&self, context: &[u8], plain: &[u8]) -> Option<Vec<u8>> {
        let mut text = Zeroizing::new(Vec::with_capacity(plain.len() + AES_256_GCM.tag_len()));
        text.extend_from_slice(plain);
        let nonce = self.0.seal_in_place_append_tag(Aad::from(context), &mut *text).ok()?;
        let mut sealed = Vec::with_capacity(NONCE_LEN + text.len());
        sealed.extend_from_slice(nonce.as_ref());
        sealed.extend_from_slice(&text);
        Some(sealed)
    }

    /// What `sealed` holds. None if it was not sealed so, with this key and `context`.
    #[must_use]
    pub fn open(&self, context: &[u8], sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let (nonce, text) = sealed.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut text = Zeroizing::new(text.to_vec());
        let length = self.0.open_in_place(nonce, Aad::from(context), &mut text).ok()?.len();
        text.truncate(length);
        Some(text)
    }

    /// Reads the key, if there is such a file.
    ///
    /// # Errors
    /// See [`KeyFault`].
    pub fn read(file: &Path) -> Result<Option<Self>, KeyFault> {
        key_file::read(file, rustix::process::geteuid().as_raw())
    }

    /// The same as the user `own` would have it read.
    ///
    /// # Errors
    /// See [`KeyFault`].
    pub fn read_for(file: &Path, own: u32) -> Result<Option<Self>, KeyFault> {
        key_file::read(file, own)
    }

    /// Whether the user `own` would take the key file by its owner and mode; it is not opened.
    ///
    /// # Errors
    /// See [`KeyFault`].
    pub fn check_access(file: &Path, metadata: &Metadata, own: u32) -> Result<(), KeyFault> {
        key_file::check_access(file, metadata, own)
    }

    /// Makes the key file, readable by its owner alone from its first instant and whole or not there
    /// at all. A key that somebody else made in the meantime is left alone.
    ///
    /// # Errors
    /// See [`KeyFault`].
    pub fn create(file: &Path) -> Result<(), KeyFault> {
        key_file::create(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> SealingKey {
        SealingKey::from_bytes(&[7; KEY_LEN]).unwrap()
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
