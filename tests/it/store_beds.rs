//! Each store made ready for the claims of `store_contract.rs`, with a way around it.

use std::sync::Arc;

use async_trait::async_trait;
use grantkeeper::{
    portal::PortalId,
    store::{CredentialStore, vault::VaultStore},
    time::SystemClock,
};
use serde_json::json;

use crate::{
    store_contract::Beneath,
    support::{openbao, openbao::OpenBao},
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
