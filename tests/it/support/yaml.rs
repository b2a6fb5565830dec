//! YAML, read by the Python of the test environment: no crate of ours needs it.

use serde_json::Value;
use tokio::process::Command;

use super::{program::installed, service::finish};

/// The documents of this text.
pub(crate) async fn documents(text: &str) -> Vec<Value> {
    let script =
        "import json, sys, yaml; json.dump(list(yaml.safe_load_all(sys.stdin)), sys.stdout)";
    let mut python = Command::new(installed("bin/python"));
    python.args(["-c", script]);
    let ended = finish(python, text).await;
    assert_eq!(ended.code, 0, "{}", ended.err);
    serde_json::from_str(&ended.out).unwrap()
}
