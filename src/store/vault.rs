//! HashiCorp Vault and OpenBao, KV version 2, and the logins to them. Nobody else knows a Vault path.

use std::path::PathBuf;

use crate::secret::StoreCredential;

/// Where the Vault is and how to get in: plain, already valid values.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `http://` or `https://`, host and port, no path.
    pub address: String,
    /// The KV version 2 mount.
    pub mount: String,
    /// Path below the mount under which our records live.
    pub prefix: String,
    /// Vault namespace, if any.
    pub namespace: Option<String>,
    /// Trust this CA only, instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// How to log in.
    pub auth: Auth,
}

/// How to log in to Vault.
#[derive(Debug, Clone)]
pub enum Auth {
    /// A token from the environment, used as it is.
    Token(StoreCredential),
    /// A token in a file, read again whenever the old one is refused.
    TokenFile(PathBuf),
    /// AppRole: a role id, and a secret id in a file that is read again at each login.
    AppRole {
        /// Where the auth method is mounted.
        mount: String,
        /// The role id.
        role_id: String,
        /// The file with the secret id.
        secret_id_file: PathBuf,
    },
}
