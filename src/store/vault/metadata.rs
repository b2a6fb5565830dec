//! Which records have changed, found without reading any: by their metadata, all with one call where the server
//! can (OpenBao), else one by one. Reads no secret.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::Value;
use tokio::{sync::Semaphore, task::JoinSet};

use super::{Inner, READS_IN_FLIGHT, fault::Fault, version};
use crate::store::{Key, Listing, StoreError, Version, sort_names};

impl Inner {
    /// The listing with each record's state; without states where the policy lets nobody see them.
    pub(super) async fn look(self: &Arc<Self>) -> Result<Listing, StoreError> {
        self.mount_fits().await?;
        match self.detailed().await? {
            Ok(found) => Ok(found),
            // Another server, another policy, or nothing there yet.
            Err(fault) if fault.is_missing() || fault.is_forbidden() || fault.is_unsupported() => {
                let listing = self.list().await?;
                self.one_by_one(listing).await
            }
            Err(fault) => Err(self.listing().explain(fault)),
        }
    }

    /// All with one call, as OpenBao gives it.
    async fn detailed(&self) -> Result<Result<Listing, Fault>, StoreError> {
        let asked = self.listing();
        let path = format!("{}/detailed-metadata/{}/portals?list=true", self.mount, self.prefix);
        let told = self.call(&asked, |speaker| {
            let path = path.clone();
            async move { self.login.connection.ask(&speaker, &path, None).await }
        });
        let told = match told.await? {
            Ok(told) => told,
            Err(fault) => return Ok(Err(fault)),
        };
        let Some(records) = told["data"]["key_info"].as_object() else {
            return Ok(Err(Fault::Unreadable));
        };
        let versions: BTreeMap<String, Version> = records
            .iter()
            .filter_map(|(name, metadata)| Some((name.clone(), current(metadata)?)))
            .collect();
        let names = told["data"]["keys"].as_array().map_or_else(
            || records.keys().cloned().collect::<Vec<_>>(),
            |keys| keys.iter().filter_map(|key| key.as_str().map(str::to_owned)).collect(),
        );
        Ok(Ok(sort_names(names).with_versions(versions)))
    }

    async fn one_by_one(self: &Arc<Self>, mut listing: Listing) -> Result<Listing, StoreError> {
        let keys = listing.portals.iter().copied().map(Key::Portal);
        let keys = keys.chain(listing.shards.iter().copied().map(Key::Shard));
        let permits = Arc::new(Semaphore::new(READS_IN_FLIGHT));
        let mut asking = JoinSet::new();
        for key in keys {
            let (inner, permits) = (Arc::clone(self), Arc::clone(&permits));
            asking.spawn(async move {
                let _permit = permits.acquire().await.ok();
                (key, inner.state(key).await)
            });
        }
        while let Some(told) = asking.join_next().await {
            match told {
                Ok((key, Ok(Some(version)))) => drop(listing.versions.insert(key, version)),
                // Who may not see it reads the record.
                Ok((_, Ok(None))) | Err(_) => {}
                Ok((_, Err(error))) => return Err(error),
            }
        }
        Ok(listing)
    }

    async fn state(&self, key: Key) -> Result<Option<Version>, StoreError> {
        let asked = self.asked_for("looking at", "metadata", key, r#""read""#);
        let path = format!("{}/metadata/{}", self.mount, self.path(key));
        let told = self.call(&asked, |speaker| {
            let path = path.clone();
            async move { self.login.connection.ask(&speaker, &path, None).await }
        });
        match told.await? {
            Ok(told) => Ok(current(&told["data"])),
            Err(fault) if fault.is_missing() || fault.is_forbidden() => Ok(None),
            Err(fault) => Err(asked.explain(fault)),
        }
    }
}

/// The version in force, unless it is deleted.
fn current(metadata: &Value) -> Option<Version> {
    let number = metadata["current_version"].as_u64()?;
    let entry = &metadata["versions"][number.to_string()];
    let alive = entry["deletion_time"].as_str() == Some("") && entry["destroyed"] == false;
    alive.then_some(version(number, entry["created_time"].as_str()?))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_state_is_that_of_the_version_in_force_and_none_if_that_is_deleted() {
        let metadata = |deleted: &str, destroyed: bool| {
            json!({"current_version": 2, "versions": {
                "1": {"created_time": "2026-01-01T00:00:00Z", "deletion_time": "", "destroyed": false},
                "2": {"created_time": "2026-01-02T00:00:00Z", "deletion_time": deleted, "destroyed": destroyed},
            }})
        };
        assert_eq!(current(&metadata("", false)), Some(Version("2@2026-01-02T00:00:00Z".into())));
        assert_eq!(current(&metadata("2026-01-03T00:00:00Z", false)), None);
        assert_eq!(current(&metadata("", true)), None);
        assert_eq!(current(&json!({})), None);
    }
}
