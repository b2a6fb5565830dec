//! The embedded store: one redb file whose values are sealed with an AEAD. For a first try, a
//! single machine, and tests. Knows nothing of networks.

use std::path::PathBuf;

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
