//! Which secrets there are, and which version of each is in force: no secret is read for it. Knows no writes.

use std::collections::BTreeMap;

use aws_sdk_secretsmanager::types::{Filter, FilterNameStringType};

use super::{CURRENT, Inner, fault::Fault};
use crate::store::{Listing, StoreError, Version, sort_names};

impl Inner {
    /// Every portal's secret with the version in force, a hundred with each call.
    pub(super) async fn list(&self) -> Result<Listing, StoreError> {
        let start = format!("{}/portals/", self.prefix);
        let filter = Filter::builder().key(FilterNameStringType::Name).values(&start).build();
        let request = self.client.list_secrets().filters(filter).max_results(100);
        let mut pages = request.into_paginator().send();
        let (mut names, mut versions) = (Vec::new(), BTreeMap::new());
        while let Some(page) = pages.next().await {
            let page = page.map_err(|error| {
                Fault::of(&error).explain("listing the portals", "ListSecrets", "*")
            })?;
            for secret in page.secret_list() {
                // The filter is looser than a prefix.
                let Some(name) = secret.name().and_then(|name| name.strip_prefix(&start)) else {
                    continue;
                };
                let stages = secret.secret_versions_to_stages();
                let current = stages
                    .into_iter()
                    .flatten()
                    .find(|(_, stages)| stages.iter().any(|stage| stage == CURRENT));
                if let Some((version, _)) = current {
                    versions.insert(name.to_owned(), Version(version.clone()));
                }
                names.push(name.to_owned());
            }
        }
        Ok(sort_names(names).with_versions(versions))
    }
}
