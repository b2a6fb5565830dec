//! What must fit before records can be had: the mount, and what the policy of this login allows. Changes
//! nothing.

use serde_json::json;

use super::{Inner, connection::misconfigured, fault::Asked};
use crate::store::StoreError;

impl Inner {
    /// KV version 1 answers a version 2 read with "no such record": the mount is asked first, once.
    pub(super) async fn mount_fits(&self) -> Result<(), StoreError> {
        self.mount_fits.get_or_try_init(|| self.look_at_mount()).await.copied()
    }

    async fn look_at_mount(&self) -> Result<(), StoreError> {
        let mount = &self.mount;
        let asked = Asked {
            doing: format!("looking at the mount `{mount}`"),
            rule: format!(
                "path \"{mount}/data/{}/*\" {{ capabilities = [\"read\"] }}",
                self.prefix
            ),
            mount,
        };
        let looked = self.call(&asked, |speaker| async move {
            let path = format!("sys/internal/ui/mounts/{mount}");
            self.login.connection.ask(&speaker, &path, None).await
        });
        let answer = match looked.await? {
            Ok(answer) => answer,
            Err(fault) if fault.is_missing() => return Err(asked.no_mount()),
            Err(fault) if fault.is_forbidden() => return Err(asked.no_mount_or_no_right()),
            Err(fault) => return Err(asked.explain(fault)),
        };
        let data = &answer["data"];
        match (data["type"].as_str(), data["options"]["version"].as_str()) {
            (Some("kv"), Some("2")) => Ok(()),
            (Some("kv" | "generic"), _) => Err(misconfigured(
                format!("the mount `{mount}` is a KV version 1 engine, which can't check-and-set"),
                &format!(
                    "Upgrade it: `vault kv enable-versioning {mount}/`; or name a version 2 mount."
                ),
            )),
            _ => Err(misconfigured(
                format!("the mount `{mount}` is not a KV engine"),
                "Let `store.vault.mount` name a KV version 2 mount.",
            )),
        }
    }

    /// What the service does, held against what the server says that this login may do.
    pub(super) async fn lacks(&self) -> Result<Vec<String>, StoreError> {
        let Self { mount, prefix, .. } = self;
        let needs: [(String, String, &[&str]); 4] = [
            // (what is asked about, what stands in a policy, what has to be allowed)
            (format!("{mount}/data/{prefix}/client"), "client".to_owned(), &["read"]),
            (
                format!("{mount}/data/{prefix}/portals/1"),
                "portals/*".to_owned(),
                &["create", "read", "update"],
            ),
            (format!("{mount}/metadata/{prefix}/portals/"), "portals/".to_owned(), &["list"]),
            // Without it every reload reads every record.
            (format!("{mount}/metadata/{prefix}/portals/1"), "portals/*".to_owned(), &["read"]),
        ];
        let paths: Vec<&str> = needs.iter().map(|(path, ..)| path.as_str()).collect();
        let body = json!({ "paths": paths });
        let asked = Asked {
            doing: "asking what this login may do".to_owned(),
            rule: r#"path "sys/capabilities-self" { capabilities = ["update"] }"#.to_owned(),
            mount,
        };
        let told =
            self.call(&asked, |speaker| {
                let body = body.clone();
                async move {
                    self.login.connection.ask(&speaker, "sys/capabilities-self", Some(body)).await
                }
            });
        let told = match told.await? {
            Ok(told) => told,
            // Whoever may not even ask is told by the calls themselves.
            Err(fault) if fault.is_forbidden() => return Ok(Vec::new()),
            Err(fault) => return Err(asked.explain(fault)),
        };
        let lacking = needs.iter().filter_map(|(path, below, needed)| {
            let allowed = told["data"][path].as_array().or(told[path].as_array())?;
            let may =
                |word: &&str| allowed.iter().any(|allowed| allowed == *word || allowed == "root");
            let lacks: Vec<&str> = needed.iter().filter(|word| !may(word)).copied().collect();
            let (tree, _) = path.strip_prefix(mount)?.trim_start_matches('/').split_once('/')?;
            (!lacks.is_empty()).then(|| {
                format!("path \"{mount}/{tree}/{prefix}/{below}\" {{ capabilities = {needed:?} }}")
            })
        });
        Ok(lacking.collect())
    }
}
