//! Each store made ready for the claims of `store_contract.rs`, with a way around it.

use std::{path::PathBuf, sync::Arc};

use async_trait::async_trait;
use aws_sdk_secretsmanager::Client;
use grantkeeper::{
    portal::PortalId,
    store::{
        CredentialStore, Expected, LaidOut, Layout,
        aws::AwsStore,
        file::{FileStore, Settings},
        vault::VaultStore,
    },
    time::SystemClock,
};
use redb::{Database, ReadableTable, TableDefinition};
use serde_json::json;
use tempfile::TempDir;

use crate::{
    store_contract::Beneath,
    support::{moto, moto::sdk_config, openbao, openbao::OpenBao, temp_dir},
};

pub(crate) struct VaultBed {
    store: Arc<VaultStore>,
    bao: &'static OpenBao,
    mount: String,
}

pub(crate) async fn vault() -> VaultBed {
    let bao = openbao().await;
    let mount = bao.mount().await;
    let store = VaultStore::connect(bao.settings(&mount), Arc::new(SystemClock)).unwrap();
    VaultBed { store: Arc::new(store), bao, mount }
}

impl VaultBed {
    /// As `vault kv delete` does it: the name stays listed.
    pub(crate) async fn soft_delete(&self, name: &str) {
        let path = format!("{}/data/gk/app/portals/{name}", self.mount);
        assert_eq!(self.bao.api(reqwest::Method::DELETE, &path, None).await.0, 204);
    }
}

#[async_trait]
impl Beneath for VaultBed {
    fn store(&self) -> Arc<dyn CredentialStore> {
        Arc::<VaultStore>::clone(&self.store)
    }

    async fn stray(&self, name: &str) {
        let path = format!("gk/app/portals/{name}");
        self.bao.put(&self.mount, &path, json!({"refresh_token": "t"})).await;
    }

    async fn damage(&self, portal: PortalId) {
        unreachable!("KV version 2 keeps nothing but objects: {portal}");
    }
}

pub(crate) struct AwsBed {
    store: Arc<AwsStore>,
    pub(crate) client: Client,
    pub(crate) prefix: String,
}

pub(crate) async fn aws() -> AwsBed {
    let moto = moto().await;
    let settings = moto.settings();
    let prefix = settings.prefix.clone();
    let store = AwsStore::with_sdk_config(settings, &sdk_config(), Arc::new(SystemClock)).unwrap();
    AwsBed { store: Arc::new(store), client: moto.client(), prefix }
}

impl AwsBed {
    /// Puts `text` in force in the secret of this name. In two steps: moto takes a label off nothing but what
    /// it is told to.
    pub(crate) async fn put_in_force(&self, name: &str, text: &str) {
        let name = format!("{}/portals/{name}", self.prefix);
        let current = self.client.get_secret_value().secret_id(&name).version_stage("AWSCURRENT");
        let current = current.send().await.unwrap().version_id.unwrap();
        let put = self.client.put_secret_value().secret_id(&name).version_stages("AWSPENDING");
        let new = put.secret_string(text).send().await.unwrap().version_id.unwrap();
        let moved = self.client.update_secret_version_stage().secret_id(&name);
        let moved = moved.version_stage("AWSCURRENT").move_to_version_id(new);
        moved.remove_from_version_id(current).send().await.unwrap();
    }
}

#[async_trait]
impl Beneath for AwsBed {
    fn store(&self) -> Arc<dyn CredentialStore> {
        Arc::<AwsStore>::clone(&self.store)
    }

    async fn stray(&self, name: &str) {
        let name = format!("{}/portals/{name}", self.prefix);
        let value = r#"{"refresh_token":"t"}"#;
        self.client.create_secret().name(name).secret_string(value).send().await.unwrap();
    }

    async fn damage(&self, portal: PortalId) {
        let name = format!("{}/portals/{portal}", self.prefix);
        let put = self.client.put_secret_value().secret_id(name);
        put.secret_string("CANARY, not JSON").send().await.unwrap();
    }
}

/// Many portals in few records, over one of the beds.
pub(crate) struct PackedBed<B> {
    store: Arc<LaidOut>,
    beneath: B,
}

pub(crate) async fn vault_packed() -> PackedBed<VaultBed> {
    packed(vault().await)
}

pub(crate) async fn aws_packed() -> PackedBed<AwsBed> {
    packed(aws().await)
}

fn packed<B: Beneath>(beneath: B) -> PackedBed<B> {
    let store = LaidOut::new(beneath.store(), Layout::Packed(8));
    PackedBed { store: Arc::new(store), beneath }
}

#[async_trait]
impl<B: Beneath> Beneath for PackedBed<B> {
    fn store(&self) -> Arc<dyn CredentialStore> {
        Arc::<LaidOut>::clone(&self.store)
    }

    async fn stray(&self, name: &str) {
        self.beneath.stray(name).await;
    }

    /// The member becomes a number.
    async fn damage(&self, portal: PortalId) {
        let (below, key) = (self.beneath.store(), Layout::Packed(8).home(portal));
        let found = below.read(key).await.unwrap();
        let record = found.record.with_member(&portal.to_string(), json!(7));
        below.write(key, &record, &Expected::At(found.version)).await.unwrap();
    }
}

pub(crate) struct FileBed {
    store: Arc<FileStore>,
    pub(crate) dir: TempDir,
}

pub(crate) fn file_settings(dir: &TempDir) -> Settings {
    let below = |name| dir.path().join(name);
    Settings { path: below("store.redb"), key_file: below("store.key"), create_key: true }
}

pub(crate) async fn file() -> FileBed {
    let dir = temp_dir();
    let store = FileStore::open(file_settings(&dir)).unwrap();
    FileBed { store: Arc::new(store), dir }
}

/// The table of the file format, as written down in the store.
pub(crate) const RECORDS: TableDefinition<'_, &str, (u64, &[u8])> = TableDefinition::new("records");

impl FileBed {
    fn path(&self) -> PathBuf {
        self.dir.path().join("store.redb")
    }

    /// Changes one record's sealed bytes in place.
    fn tamper(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let database = Database::open(self.path()).unwrap();
        let work = database.begin_write().unwrap();
        {
            let mut records = work.open_table(RECORDS).unwrap();
            let found = records.get(name).unwrap();
            let found = found.map(|entry| (entry.value().0, entry.value().1.to_vec()));
            let (version, mut sealed) = found.unwrap_or_default();
            change(&mut sealed);
            records.insert(name, (version, sealed.as_slice())).unwrap();
        }
        work.commit().unwrap();
    }
}

#[async_trait]
impl Beneath for FileBed {
    fn store(&self) -> Arc<dyn CredentialStore> {
        Arc::<FileStore>::clone(&self.store)
    }

    async fn stray(&self, name: &str) {
        self.tamper(&format!("portals/{name}"), |sealed| sealed.push(0));
    }

    async fn damage(&self, portal: PortalId) {
        self.tamper(&format!("portals/{portal}"), |sealed| sealed[20] ^= 1);
    }
}
