//! HashiCorp Vault and OpenBao, KV version 2, and the logins to them. Nobody else knows a Vault path.

use std::{fmt, future::Future, path::PathBuf, sync::Arc};

use async_trait::async_trait;
use serde_json::Value;
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;
use vaultrs::api::{
    self,
    kv2::requests::{
        DeleteSecretMetadataRequest, ListSecretsRequest, ReadSecretRequest, SetSecretRequest,
        SetSecretRequestOptions,
    },
};

pub use self::{
    auth::{Auth, Method, POD_TOKEN},
    connection::Identity,
};
use self::{
    connection::{Connection, Speaker, misconfigured},
    fault::{Asked, Fault},
    login::Login,
};
use super::{
    CredentialStore, Expected, Key, Listing, Outcomes, Record, StoreError, StoreErrorKind, Stored,
    Version, conflict, read_each, sort_names,
};
use crate::time::Clock;

mod auth;
mod connection;
mod fault;
mod login;
mod metadata;
mod preflight;

/// More in flight only makes each wait longer (study `backends.md` 1.9).
const READS_IN_FLIGHT: usize = 16;

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
    /// How to prove ourselves to the server on the connection itself.
    pub identity: Option<Identity>,
    /// How to log in.
    pub auth: Auth,
}

/// Records as KV version 2 secrets. Cheap to clone: all clones share one login.
#[derive(Clone)]
pub struct VaultStore(Arc<Inner>);

struct Inner {
    login: Login,
    mount: String,
    prefix: String,
    /// Filled once the mount was seen to be KV version 2.
    mount_fits: OnceCell<()>,
}

impl fmt::Debug for VaultStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { login, mount, prefix, .. } = &*self.0;
        f.debug_struct("VaultStore")
            .field("login", login)
            .field("mount", mount)
            .field("prefix", prefix)
            .finish_non_exhaustive()
    }
}

impl VaultStore {
    /// Prepares everything that needs no network: the first call logs in.
    ///
    /// # Errors
    /// `Misconfigured`: an address, path, namespace, CA file or client certificate that can't work.
    pub fn connect(settings: Settings, clock: Arc<dyn Clock>) -> Result<Self, StoreError> {
        let connection = Connection::new(&settings)?;
        let Settings { mount, prefix, auth, .. } = settings;
        check_path("mount", &mount)?;
        check_path("prefix", &prefix)?;
        if let Auth::Method { mount, .. } = &auth {
            check_path("auth.mount", mount)?;
        }
        let login = Login::new(connection, auth, mount.clone(), clock);
        Ok(Self(Arc::new(Inner { login, mount, prefix, mount_fits: OnceCell::new() })))
    }
}

/// The HTTP client by which the server is spoken to, for who wants to know whether it gets through. It has no token.
///
/// # Errors
/// `Misconfigured`: an address, CA file or client certificate that can't work.
pub fn client(settings: &Settings) -> Result<reqwest::Client, StoreError> {
    connection::client(settings)
}

/// Dots would be dropped and doubled slashes folded on the way, and so name another path.
fn check_path(setting: &str, path: &str) -> Result<(), StoreError> {
    let plain = |part: &str| {
        !matches!(part, "" | "." | "..")
            && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    if path.split('/').all(plain) {
        return Ok(());
    }
    Err(misconfigured(
        format!("`store.vault.{setting}` is not a path of plain names"),
        "Use letters, digits, '-', '_' and '.', with single slashes between and none around.",
    ))
}

impl Inner {
    fn path(&self, key: Key) -> String {
        format!("{}/{key}", self.prefix)
    }

    fn asked(&self, doing: &str, tree: &str, below: &str, capabilities: &str) -> Asked<'_> {
        let Self { mount, prefix, .. } = self;
        let rule = format!(
            "path \"{mount}/{tree}/{prefix}/{below}\" {{ capabilities = [{capabilities}] }}"
        );
        Asked { doing: doing.to_owned(), rule, mount }
    }

    fn asked_for(&self, doing: &str, tree: &str, key: Key, capabilities: &str) -> Asked<'_> {
        let below = match key {
            Key::App => "client",
            Key::Portal(_) | Key::Shard(_) => "portals/*",
        };
        self.asked(&format!("{doing} `{key}`"), tree, below, capabilities)
    }

    /// Runs one call. A 403 is asked about: a dead token is replaced and the call made once more, a
    /// living one means that a policy says no.
    async fn call<T, F, R>(&self, asked: &Asked<'_>, run: F) -> Result<Result<T, Fault>, StoreError>
    where
        F: Fn(Arc<Speaker>) -> R + Sync,
        R: Future<Output = Result<T, Fault>> + Send,
        T: Send,
    {
        let session = self.login.session().await?;
        let outcome = run(Arc::clone(&session.speaker)).await;
        if !matches!(&outcome, Err(fault) if fault.is_forbidden()) {
            return Ok(outcome);
        }
        match self.login.is_alive(&session).await {
            Ok(true) => return Ok(outcome),
            Ok(false) => {}
            Err(fault) => return Err(asked.explain(fault)),
        }
        tracing::info!("the Vault token is no longer taken; logging in again");
        let session = self.login.instead_of(&session).await?;
        Ok(run(Arc::clone(&session.speaker)).await)
    }

    async fn read(&self, key: Key) -> Result<Stored, StoreError> {
        self.mount_fits().await?;
        let asked = self.asked_for("reading", "data", key, r#""read""#);
        self.get(&asked, key).await?.map_err(|fault| asked.explain(fault))
    }

    async fn get(&self, asked: &Asked<'_>, key: Key) -> Result<Result<Stored, Fault>, StoreError> {
        self.call(asked, |speaker| async move {
            let (mount, path) = (self.mount.clone(), self.path(key));
            let request = ReadSecretRequest { mount, path, version: None };
            let found = api::exec_with_result(&speaker.0, request).await?;
            // KV version 2 keeps nothing but objects.
            let Value::Object(members) = found.data else { return Err(Fault::Unreadable) };
            let version = version(found.metadata.version, &found.metadata.created_time);
            Ok(Stored { record: Record::from_members(members), version })
        })
        .await
    }

    /// The check-and-set number that stands for `expected`, if that holds.
    async fn expectation(&self, key: Key, expected: &Expected) -> Result<u64, StoreError> {
        let asked = self.asked_for("reading", "data", key, r#""read""#);
        let found = self.get(&asked, key).await?;
        match (expected, found) {
            // A deleted version still counts for check-and-set.
            (Expected::Absent, Err(Fault::Answer { deleted: Some(number), .. })) => Ok(number),
            (Expected::Absent, Err(fault)) if fault.is_missing() => Ok(0),
            (Expected::At(wanted), Ok(found)) if found.version == *wanted => {
                number(wanted).ok_or_else(|| conflict(key))
            }
            (Expected::Absent | Expected::At(_), Ok(_)) => Err(conflict(key)),
            (Expected::At(_), Err(fault)) if fault.is_missing() => Err(conflict(key)),
            (_, Err(fault)) => Err(asked.explain(fault)),
        }
    }

    async fn write(
        &self,
        key: Key,
        record: &Record,
        expected: &Expected,
    ) -> Result<Version, StoreError> {
        self.mount_fits().await?;
        // A deleted and re-made record counts its versions from one again: a number alone could be
        // that of another life, so the state is compared before, and the number guards the rest.
        let cas = self.expectation(key, expected).await?;
        let cas = u32::try_from(cas).map_err(|_| conflict(key))?;
        let asked = self.asked_for("writing", "data", key, r#""create", "update""#);
        let written = self.call(&asked, |speaker| async move {
            let request = SetSecretRequest {
                mount: self.mount.clone(),
                path: self.path(key),
                data: Value::Object(record.members()),
                options: Some(SetSecretRequestOptions { cas }),
            };
            Ok(api::exec_with_result(&speaker.0, request).await?)
        });
        match written.await? {
            Ok(new) => Ok(version(new.version, &new.created_time)),
            Err(fault) if fault.is_conflict() => Err(conflict(key)),
            Err(fault) => Err(asked.explain(fault)),
        }
    }

    async fn remove(&self, key: Key, expected: &Version) -> Result<(), StoreError> {
        // KV has no conditional delete: between this look and the deletion another writer may come.
        if self.read(key).await?.version != *expected {
            return Err(conflict(key));
        }
        let asked = self.asked_for("removing", "metadata", key, r#""delete""#);
        let removed = self.call(&asked, |speaker| async move {
            // Every version goes: a grant that is no longer wanted should not linger in old ones.
            let (mount, path) = (self.mount.clone(), self.path(key));
            let request = DeleteSecretMetadataRequest { mount, path };
            Ok(api::exec_with_empty(&speaker.0, request).await?)
        });
        removed.await?.map_err(|fault| asked.explain(fault))
    }

    fn listing(&self) -> Asked<'_> {
        self.asked("listing the portals", "metadata", "portals/", r#""list""#)
    }

    async fn list(&self) -> Result<Listing, StoreError> {
        self.mount_fits().await?;
        let asked = self.listing();
        let listed = self.call(&asked, |speaker| async move {
            let (mount, path) = (self.mount.clone(), format!("{}/portals", self.prefix));
            let found = api::exec_with_result(&speaker.0, ListSecretsRequest { mount, path });
            Ok(found.await?.keys)
        });
        match listed.await? {
            Ok(names) => Ok(sort_names(names)),
            Err(fault) if fault.is_missing() => Ok(Listing::default()),
            Err(fault) => Err(asked.explain(fault)),
        }
    }
}

/// A KV version with the time it was made: two lives of one record never share it.
fn version(number: u64, created: &str) -> Version {
    Version(format!("{number}@{created}"))
}

fn number(version: &Version) -> Option<u64> {
    version.0.split('@').next()?.parse().ok()
}

#[async_trait]
impl CredentialStore for VaultStore {
    /// Keeps the Vault token alive between calls, until `stop`. Calls renew it as well; this is for
    /// the quiet hours, and so that no caller has to wait for a renewal.
    async fn maintain(&self, stop: CancellationToken) {
        self.0.login.maintain(stop).await;
    }

    fn kind(&self) -> &'static str {
        "vault"
    }

    async fn check(&self) -> Result<(), StoreError> {
        self.0.list().await?;
        match self.0.read(Key::App).await {
            Err(error) if error.kind != StoreErrorKind::Missing => Err(error),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    async fn lacks(&self) -> Result<Vec<String>, StoreError> {
        self.0.lacks().await
    }

    async fn list(&self) -> Result<Listing, StoreError> {
        self.0.list().await
    }

    async fn read(&self, key: Key) -> Result<Stored, StoreError> {
        self.0.read(key).await
    }

    async fn look(&self) -> Result<Listing, StoreError> {
        self.0.look().await
    }

    async fn read_all(&self, keys: &[Key]) -> Outcomes {
        read_each(keys, 1, READS_IN_FLIGHT, |keys| {
            let inner = Arc::clone(&self.0);
            async move {
                let mut outcomes = Vec::with_capacity(keys.len());
                for key in keys {
                    outcomes.push((key, inner.read(key).await));
                }
                outcomes
            }
        })
        .await
    }

    async fn write(
        &self,
        key: Key,
        record: &Record,
        expected: &Expected,
    ) -> Result<Version, StoreError> {
        self.0.write(key, record, expected).await
    }

    async fn remove(&self, key: Key, expected: &Version) -> Result<(), StoreError> {
        self.0.remove(key, expected).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_names_become_part_of_a_path() {
        for good in ["secret", "team/kv", "grantkeeper/acme-sync", "a.b_c"] {
            assert!(check_path("prefix", good).is_ok(), "{good}");
        }
        for bad in ["", "/a", "a/", "a//b", "..", "a/../b", "a/./b", "a b", "a?b", "a%2fb", "é"] {
            assert!(check_path("prefix", bad).is_err(), "{bad}");
        }
    }
}
