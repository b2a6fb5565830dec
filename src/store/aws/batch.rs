//! Twenty secrets with one call, for loading. What a batch does not give as it stands now is read by itself.
//! Knows no writes.

use std::collections::BTreeMap;

use aws_sdk_secretsmanager::types::SecretValueEntry;

use super::{CURRENT, Inner, stored, text_of};
use crate::store::{Key, Outcomes};

/// As many secrets as AWS gives with one call.
pub(super) const AT_ONCE: usize = 20;

impl Inner {
    /// All of `keys`, which are [`AT_ONCE`] at most.
    pub(super) async fn read_batch(&self, keys: Vec<Key>) -> Outcomes {
        let mut given = self.ask_for(&keys).await;
        let mut outcomes = Vec::with_capacity(keys.len());
        for key in keys {
            let outcome = match given.remove(&self.name(key)) {
                Some(entry) => {
                    let SecretValueEntry { secret_string, secret_binary, version_id, .. } = entry;
                    stored(key, &text_of(secret_string, secret_binary), version_id)
                }
                // Refused, not there, or not the current one: by itself it is told why.
                None => self.read(key).await,
            };
            outcomes.push((key, outcome));
        }
        outcomes
    }

    /// What one call gives, by name: those alone that bear the current stage's label. An emulator gives the
    /// value before the last move of it (study `backends.md` 2).
    async fn ask_for(&self, keys: &[Key]) -> BTreeMap<String, SecretValueEntry> {
        let names = keys.iter().map(|key| self.name(*key)).collect();
        let request = self.client.batch_get_secret_value().set_secret_id_list(Some(names));
        let mut given = BTreeMap::new();
        let mut pages = request.into_paginator().send();
        while let Some(page) = pages.next().await {
            // Whatever it is, the single reads meet it too, and tell it.
            let Ok(page) = page else { break };
            for entry in page.secret_values.unwrap_or_default() {
                let current = entry.version_stages().iter().any(|stage| stage == CURRENT);
                if let Some(name) = entry.name().filter(|_| current) {
                    given.insert(name.to_owned(), entry);
                }
            }
        }
        given
    }
}
