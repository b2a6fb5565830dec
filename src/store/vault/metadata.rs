//! Which records have changed, found without reading any: by their metadata, all with a few calls where the server
//! can (OpenBao), else one by one. Reads no secret.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde_json::Value;
use tokio::{sync::Semaphore, task::JoinSet};

use super::{Inner, READS_IN_FLIGHT, fault::Fault, version};
use crate::store::{Key, Listing, StoreError, Version, sort_names};

/// As many records' metadata with one call: more would take a busy server longer than a call may.
const PAGE: usize = 4000;

/// What metadata says of one record.
enum State {
    At(Version),
    Gone,
    /// The policy lets nobody see it.
    Hidden,
}

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

    /// All with few calls, as OpenBao gives it: [`PAGE`] of them with each.
    async fn detailed(&self) -> Result<Result<Listing, Fault>, StoreError> {
        let (mut names, mut versions) = (Vec::new(), BTreeMap::new());
        loop {
            let after = names.last().map(|name: &String| format!("&after={name}"));
            let after = after.unwrap_or_default();
            let told = match self.page(&after).await? {
                Ok(told) => told,
                // Behind the last name there is nothing.
                Err(fault) if fault.is_missing() && !names.is_empty() => break,
                Err(fault) => return Ok(Err(fault)),
            };
            let (Some(keys), Some(records)) =
                (told["data"]["keys"].as_array(), told["data"]["key_info"].as_object())
            else {
                return Ok(Err(Fault::Unreadable));
            };
            versions.extend(
                records
                    .iter()
                    .filter_map(|(name, metadata)| Some((name.clone(), current(metadata)?))),
            );
            let before = names.len();
            let known: BTreeSet<String> = names.iter().cloned().collect();
            let keys = keys.iter().filter_map(|key| key.as_str().map(str::to_owned));
            names.extend(keys.filter(|name| !known.contains(name)));
            // A server that does not page gives the same once more.
            if names.len() - before < PAGE {
                break;
            }
        }
        Ok(Ok(sort_names(names).with_versions(versions)))
    }

    async fn page(&self, after: &str) -> Result<Result<Value, Fault>, StoreError> {
        let (mount, prefix) = (&self.mount, &self.prefix);
        let path =
            format!("{mount}/detailed-metadata/{prefix}/portals?list=true&limit={PAGE}{after}");
        self.call(&self.listing(), |speaker| {
            let path = path.clone();
            async move { self.login.connection.ask(&speaker, &path, None).await }
        })
        .await
    }

    async fn one_by_one(self: &Arc<Self>, mut listing: Listing) -> Result<Listing, StoreError> {
        let keys = listing.portals.iter().copied().map(Key::Portal);
        let mut keys = keys.chain(listing.shards.iter().copied().map(Key::Shard));
        // Who may not see one's state may see nobody's: then the records are read, and nothing else is asked.
        let Some(first) = keys.next() else { return Ok(listing) };
        match self.state(first).await? {
            State::Hidden => return Ok(listing),
            State::At(version) => drop(listing.versions.insert(first, version)),
            State::Gone => {}
        }
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
                Ok((key, Ok(State::At(version)))) => drop(listing.versions.insert(key, version)),
                // The record is read, which shows what is the matter.
                Ok((_, Ok(State::Hidden | State::Gone))) | Err(_) => {}
                Ok((_, Err(error))) => return Err(error),
            }
        }
        Ok(listing)
    }

    async fn state(&self, key: Key) -> Result<State, StoreError> {
        let asked = self.asked_for("looking at", "metadata", key, r#""read""#);
        let path = format!("{}/metadata/{}", self.mount, self.path(key));
        let told = self.call(&asked, |speaker| {
            let path = path.clone();
            async move { self.login.connection.ask(&speaker, &path, None).await }
        });
        match told.await? {
            Ok(told) => Ok(current(&told["data"]).map_or(State::Gone, State::At)),
            Err(fault) if fault.is_missing() => Ok(State::Gone),
            Err(fault) if fault.is_forbidden() => Ok(State::Hidden),
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
