//! The outside world as the configuration names it: the store with its layout, and HubSpot. Says nothing to either
//! yet.

use std::sync::Arc;

use super::StartError;
use crate::{
    config::{Config, StoreSettings},
    engine::World,
    hubspot::HubSpot,
    journal::Journal,
    store::{
        CredentialStore, LaidOut, StoreError, StoreErrorKind, aws::AwsStore, file::FileStore,
        vault::VaultStore,
    },
    time::{Clock, SystemClock},
};

/// Connects to the configured store. Says nothing to it yet.
///
/// # Errors
/// Settings that can't work: no CA bundle, no key.
pub async fn open_store(settings: &StoreSettings) -> Result<Arc<dyn CredentialStore>, StoreError> {
    if let StoreSettings::File(file) = settings {
        return Ok(Arc::new(FileStore::open(file.clone())?));
    }
    let laid_out = open_laid_out(settings).await?;
    laid_out.map(|store| store as Arc<dyn CredentialStore>).ok_or_else(no_layout)
}

fn no_layout() -> StoreError {
    let what = "this store keeps its records in one way only";
    StoreError::new(StoreErrorKind::Misconfigured, what, "See `store.kind`.")
}

/// The same of a store that has a layout; nothing of one that has none.
///
/// # Errors
/// As [`open_store`].
pub async fn open_laid_out(settings: &StoreSettings) -> Result<Option<Arc<LaidOut>>, StoreError> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    Ok(match settings {
        StoreSettings::Vault(vault, layout) => {
            let store = VaultStore::connect(vault.clone(), clock)?;
            Some(Arc::new(LaidOut::new(Arc::new(store), *layout)))
        }
        StoreSettings::Aws(aws, layout) => {
            let store = Box::pin(AwsStore::connect(aws.clone(), clock)).await?;
            Some(Arc::new(LaidOut::new(Arc::new(store), *layout)))
        }
        StoreSettings::File(_) => None,
    })
}

/// The outside world as configured.
///
/// # Errors
/// See [`open_store`]; or no CA bundle for HubSpot.
pub async fn open_world(config: &Config) -> Result<World, StartError> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let store = open_store(&config.store).await?;
    let endpoint = Arc::new(HubSpot::new(config.hubspot.clone(), Arc::clone(&clock))?);
    Ok(World { store, endpoint, journal: Journal::none(), clock })
}
