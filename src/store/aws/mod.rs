//! AWS Secrets Manager: one secret a record. Nobody else imports the AWS SDK.
//! Check-and-set is made of version stages: the new value is put aside, then `AWSCURRENT` is moved to
//! it from the version that the writer had read, and from no other.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use aws_config::{
    BehaviorVersion, Region, SdkConfig, sts::AssumeRoleProvider, timeout::TimeoutConfig,
};
use aws_lc_rs::rand;
use aws_sdk_secretsmanager::{
    Client,
    config::{Builder, SharedCredentialsProvider},
    operation::get_secret_value::GetSecretValueOutput,
    primitives::Blob,
};
use zeroize::Zeroizing;

use self::{
    fault::{Cause, Fault},
    pace::Pace,
};
use super::{
    CredentialStore, Expected, Key, Listing, Outcomes, Record, RecordFault, StoreError,
    StoreErrorKind, Stored, Version, conflict, read_each, record::corrupt,
};
use crate::time::Clock;

mod batch;
pub mod cost;
mod fault;
mod listing;
mod pace;
mod preflight;

const CURRENT: &str = "AWSCURRENT";
/// Where rotation schemes put a value that is not in force yet.
const PENDING: &str = "AWSPENDING";
/// A removed grant can be restored for as long as AWS allows at least.
const RECOVERY_DAYS: i64 = 7;
/// `BatchGetSecretValue` is allowed 100 times a second.
const BATCHES_IN_FLIGHT: usize = 8;

/// `ListSecrets` may be behind for as long, by its own documentation.
const LISTING_LAG: Duration = Duration::from_secs(5 * 60);

/// What AWS's own logs call our sessions under an assumed role.
const SESSION: &str = "grantkeeper";

/// Which secrets, where: plain, already valid values. Credentials come from the SDK's own chain.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Region; the SDK's own chain decides if there is none.
    pub region: Option<String>,
    /// Name prefix of our secrets, without a trailing slash.
    pub prefix: String,
    /// Another endpoint than AWS's own: an emulator or a VPC endpoint.
    pub endpoint_url: Option<String>,
    /// A role to act as, with the credentials that the chain gives.
    pub assume_role: Option<AssumeRole>,
}

/// A role of this or another account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AssumeRole {
    /// `arn:aws:iam::…:role/…`
    pub arn: String,
    /// What its trust policy asks for, where it belongs to somebody else.
    pub external_id: Option<String>,
}

/// Records as secrets. Cheap to clone.
#[derive(Clone)]
pub struct AwsStore(Arc<Inner>);

struct Inner {
    client: Client,
    prefix: String,
    pace: Pace,
}

impl fmt::Debug for AwsStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AwsStore").field("prefix", &self.0.prefix).finish_non_exhaustive()
    }
}

impl AwsStore {
    /// Takes region and credentials from the SDK's own chain: environment, profile, web identity,
    /// container, instance. Credentials are first asked for by the first call.
    ///
    /// # Errors
    /// `Misconfigured`: no region, no CA certificates on this machine, or a prefix that can't be a name.
    pub async fn connect(settings: Settings, clock: Arc<dyn Clock>) -> Result<Self, StoreError> {
        check_roots()?;
        let mut loader = aws_config::defaults(BehaviorVersion::latest());
        if let Some(region) = &settings.region {
            loader = loader.region(Region::new(region.clone()));
        }
        if let Some(role) = &settings.assume_role {
            let base = loader.load().await;
            let mut sts = AssumeRoleProvider::builder(&role.arn).session_name(SESSION);
            if let Some(id) = &role.external_id {
                sts = sts.external_id(id);
            }
            let provider = sts.configure(&base).build().await;
            let sdk = base
                .into_builder()
                .credentials_provider(SharedCredentialsProvider::new(provider))
                .build();
            return Self::with_sdk_config(settings, &sdk, clock);
        }
        Self::with_sdk_config(settings, &loader.load().await, clock)
    }

    /// The same from an SDK configuration that the caller has made.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub fn with_sdk_config(
        settings: Settings,
        sdk: &SdkConfig,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, StoreError> {
        check_roots()?;
        check_prefix(&settings.prefix)?;
        if settings.region.is_none() && sdk.region().is_none() {
            return Err(misconfigured(
                "no AWS region is known",
                "Set `store.aws.region`, or AWS_REGION.",
            ));
        }
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(Duration::from_secs(3))
            .operation_attempt_timeout(Duration::from_secs(4))
            .operation_timeout(Duration::from_secs(9))
            .build();
        let mut builder = Builder::from(sdk).timeout_config(timeouts);
        if let Some(region) = settings.region {
            builder = builder.region(Region::new(region));
        }
        if let Some(endpoint) = settings.endpoint_url {
            builder = builder.endpoint_url(endpoint);
        }
        let client = Client::from_conf(builder.build());
        Ok(Self(Arc::new(Inner { client, prefix: settings.prefix, pace: Pace::new(clock) })))
    }
}

/// The SDK panics at its first call where the machine has no CA certificates; another HTTP client,
/// which looks in the same places, tells so.
fn check_roots() -> Result<(), StoreError> {
    match reqwest::Client::builder().build() {
        Ok(_) => Ok(()),
        Err(_) => Err(misconfigured(
            "this machine has no usable CA certificates",
            "Install the package `ca-certificates`, or let SSL_CERT_FILE name a bundle.",
        )),
    }
}

fn check_prefix(prefix: &str) -> Result<(), StoreError> {
    let plain = |part: &str| {
        !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || "_+=.@-".contains(c))
    };
    if prefix.len() <= 400 && prefix.split('/').all(plain) {
        return Ok(());
    }
    Err(misconfigured(
        "`store.aws.prefix` can't be the start of a secret's name",
        "Use letters, digits and `_+=.@-`, with single slashes between and none around.",
    ))
}

fn misconfigured(what: &str, hint: &str) -> StoreError {
    StoreError::new(StoreErrorKind::Misconfigured, what, hint)
}

/// A version id of our own making: 32 characters, as AWS asks of it at least.
fn new_version(doing: &str) -> Result<String, StoreError> {
    let mut random = [0; 16];
    rand::fill(&mut random).map_err(|_| {
        let what = format!("{doing} failed: the system gives no random numbers");
        StoreError::new(StoreErrorKind::Unreachable, what, "Try again.")
    })?;
    Ok(format!("{:032x}", u128::from_be_bytes(random)))
}

impl Inner {
    fn name(&self, key: Key) -> String {
        format!("{}/{key}", self.prefix)
    }

    async fn read(&self, key: Key) -> Result<Stored, StoreError> {
        let name = self.name(key);
        let request = self.client.get_secret_value().secret_id(&name);
        // By name: an emulator's default lags behind a moved stage, and IAM conditions may ask for it.
        let answer = request.version_stage(CURRENT).send().await.map_err(|error| {
            Fault::of(&error).explain(&format!("reading `{key}`"), "GetSecretValue", &name)
        })?;
        let (text, version) = take(answer);
        stored(key, &text, version)
    }

    async fn create(&self, key: Key, record: &Record) -> Result<Version, StoreError> {
        let (doing, name) = (format!("writing `{key}`"), self.name(key));
        let version = new_version(&doing)?;
        self.pace.turn(1).await;
        let request = self.client.create_secret().name(&name).client_request_token(&version);
        // The SDK takes a `String` of its own, and does not wipe it.
        match request.secret_string(record.to_json().as_str()).send().await {
            Ok(_) => Ok(Version(version)),
            Err(error) => match Fault::of(&error) {
                // An emulator says this of a removed secret as well.
                Fault(Cause::Exists) => match self.read(key).await {
                    Err(error) if error.kind == StoreErrorKind::Missing => {
                        self.revive(key, record).await
                    }
                    _ => Err(conflict(key)),
                },
                Fault(Cause::ScheduledForDeletion) => self.revive(key, record).await,
                fault => Err(fault.explain(&doing, "CreateSecret", &name)),
            },
        }
    }

    /// A removed secret keeps its name until its recovery window is over: it is restored and its old
    /// value replaced. Of two that try, one replaces it and the other meets a conflict.
    async fn revive(&self, key: Key, record: &Record) -> Result<Version, StoreError> {
        let (doing, name) = (format!("writing `{key}`, which was removed before,"), self.name(key));
        let restored = self.client.restore_secret().secret_id(&name).send().await;
        restored.map_err(|error| Fault::of(&error).explain(&doing, "RestoreSecret", &name))?;
        let request = self.client.get_secret_value().secret_id(&name).version_stage(CURRENT);
        let old = request
            .send()
            .await
            .map_err(|error| Fault::of(&error).explain(&doing, "GetSecretValue", &name))?;
        let (_, version) = take(old);
        self.replace(key, record, &version.ok_or_else(|| conflict(key))?).await
    }

    async fn replace(
        &self,
        key: Key,
        record: &Record,
        expected: &str,
    ) -> Result<Version, StoreError> {
        let (doing, name) = (format!("writing `{key}`"), self.name(key));
        let version = new_version(&doing)?;
        self.pace.turn(2).await;
        self.pace.note(&name);
        let put = self.client.put_secret_value().secret_id(&name).version_stages(PENDING);
        let put = put.client_request_token(&version).secret_string(record.to_json().as_str());
        if let Err(error) = put.send().await {
            return Err(match Fault::of(&error) {
                Fault(Cause::Missing | Cause::ScheduledForDeletion) => conflict(key),
                fault => fault.explain(&doing, "PutSecretValue", &name),
            });
        }
        let moved = self
            .client
            .update_secret_version_stage()
            .secret_id(&name)
            .version_stage(CURRENT)
            .move_to_version_id(&version)
            .remove_from_version_id(expected)
            .send()
            .await;
        let Err(error) = moved else { return Ok(Version(version)) };
        self.put_away(&name, &version).await;
        Err(match Fault::of(&error) {
            Fault(Cause::BadParameter | Cause::Missing | Cause::ScheduledForDeletion) => {
                conflict(key)
            }
            fault => fault.explain(&doing, "UpdateSecretVersionStage", &name),
        })
    }

    /// Takes the label off a value that did not make it: without one, AWS drops it in time. Where
    /// that fails, or another writer has the label by now, nothing is lost: the value is not in force.
    async fn put_away(&self, name: &str, version: &str) {
        let request = self.client.update_secret_version_stage().secret_id(name);
        let done = request.version_stage(PENDING).remove_from_version_id(version).send().await;
        tracing::debug!(cleared = done.is_ok(), "a value that lost its race was put away");
    }

    async fn write(
        &self,
        key: Key,
        record: &Record,
        expected: &Expected,
    ) -> Result<Version, StoreError> {
        let Expected::At(wanted) = expected else { return self.create(key, record).await };
        // Looked at first: writes are limited to 50 a second for an account, reads hardly.
        match self.read(key).await {
            Ok(found) if found.version == *wanted => {}
            Ok(_) => return Err(conflict(key)),
            Err(error) if error.kind == StoreErrorKind::Missing => return Err(conflict(key)),
            // What can't be parsed may still be replaced by whoever knows its version.
            Err(error) if error.kind == StoreErrorKind::Corrupt => {}
            Err(error) => return Err(error),
        }
        self.replace(key, record, &wanted.0).await
    }

    async fn remove(&self, key: Key, expected: &Version) -> Result<(), StoreError> {
        // There is no conditional delete; the recovery window makes the gap in between harmless.
        if self.read(key).await?.version != *expected {
            return Err(conflict(key));
        }
        let name = self.name(key);
        let request = self.client.delete_secret().secret_id(&name);
        let removed = request.recovery_window_in_days(RECOVERY_DAYS).send().await;
        removed.map(drop).map_err(|error| {
            Fault::of(&error).explain(&format!("removing `{key}`"), "DeleteSecret", &name)
        })
    }
}

/// Value and version id out of an answer, without a copy.
fn take(answer: GetSecretValueOutput) -> (Zeroizing<Vec<u8>>, Option<String>) {
    let GetSecretValueOutput { secret_string, secret_binary, version_id, .. } = answer;
    (text_of(secret_string, secret_binary), version_id)
}

fn text_of(text: Option<String>, binary: Option<Blob>) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(match text {
        Some(text) => text.into_bytes(),
        None => binary.map(Blob::into_inner).unwrap_or_default(),
    })
}

fn stored(key: Key, text: &[u8], version: Option<String>) -> Result<Stored, StoreError> {
    let record = Record::parse(text).map_err(|fault| corrupt(key, &fault))?;
    let version = version.ok_or_else(|| corrupt(key, &RecordFault::NotAnObject))?;
    Ok(Stored { record, version: Version(version) })
}

#[async_trait]
impl CredentialStore for AwsStore {
    fn kind(&self) -> &'static str {
        "aws"
    }

    async fn check(&self) -> Result<(), StoreError> {
        self.0.list().await?;
        match self.0.read(Key::App).await {
            Err(error) if error.kind != StoreErrorKind::Missing => Err(error),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    async fn list(&self) -> Result<Listing, StoreError> {
        self.0.list().await
    }

    async fn read(&self, key: Key) -> Result<Stored, StoreError> {
        self.0.read(key).await
    }

    async fn look(&self) -> Result<Listing, StoreError> {
        self.0.list().await
    }

    async fn lacks(&self) -> Result<Vec<String>, StoreError> {
        self.0.lacks().await
    }

    fn remarks(&self) -> Vec<String> {
        self.0.pace.remarks()
    }

    fn lag(&self) -> Duration {
        LISTING_LAG
    }

    async fn read_all(&self, keys: &[Key]) -> Outcomes {
        read_each(keys, batch::AT_ONCE, BATCHES_IN_FLIGHT, |keys| {
            let inner = Arc::clone(&self.0);
            async move { inner.read_batch(keys).await }
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
    fn only_what_aws_takes_in_a_name_is_a_prefix() {
        for good in ["gk", "grantkeeper/acme-sync", "a.b_c@d+e=f"] {
            assert!(check_prefix(good).is_ok(), "{good}");
        }
        for bad in ["", "/a", "a/", "a//b", "a b", "a*", "é"] {
            assert!(check_prefix(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_version_id_is_long_enough_for_aws_and_new_each_time() {
        let (one, two) = (new_version("").unwrap(), new_version("").unwrap());
        assert_eq!(one.len(), 32);
        assert_ne!(one, two);
    }
}
