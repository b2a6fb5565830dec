//! HubSpot's own stable clients against the stand-in: what they can't tell from HubSpot is right.
//! Needs the interpreters' packages, which `tests/run` installs.

use std::{
    path::{Path, PathBuf},
    process::{Output, Stdio},
};

use serde_json::json;
use tokio::{io::AsyncWriteExt as _, process::Command};

use crate::support::{sim::Standin, sim_client::portal};

/// Where `tests/run` has put what the clients need.
#[expect(clippy::disallowed_methods, reason = "how the test script tells its tests")]
fn installed(part: &str) -> PathBuf {
    let hint = "run tests/run, which installs HubSpot's clients and sets GRANTKEEPER_TEST_ENV";
    let path = PathBuf::from(std::env::var_os("GRANTKEEPER_TEST_ENV").expect(hint)).join(part);
    assert!(path.exists(), "{} is not there: {hint}", path.display());
    path
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(name)
}

/// Runs a client through its whole flow, with a code for portal 4711.
async fn flows(mut client: Command) {
    let standin = Standin::start("").await;
    let back = "https://app.example.com/callback";
    let id = portal(4711);
    let (_, code) = standin.sim.issue_code(Some(id), None, Some(back.to_owned()));
    let given = json!({
        "client_id": standin.sim.client_id(),
        "client_secret": standin.sim.client_secret().expose(),
        "code": code,
        "redirect_uri": back,
        "portal": id,
    });
    let mut child = client
        .arg(&standin.url)
        .env("NO_PROXY", "127.0.0.1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(given.to_string().as_bytes()).await.unwrap();
    drop(input);
    let Output { status, stdout, stderr } = child.wait_with_output().await.unwrap();
    let said = String::from_utf8_lossy(&stderr);
    assert!(status.success() && stdout == b"ok\n", "{status}: {said}");
    let report = standin.sim.portal(id).unwrap();
    assert_eq!((report.refreshes, report.refused), (1, 2));
    standin.stop().await;
}

#[tokio::test]
async fn the_python_client_can_t_tell_it_from_hubspot() {
    let mut client = Command::new(installed("venv/bin/python"));
    client.arg(script("python/flow.py"));
    flows(client).await;
}

#[tokio::test]
async fn the_node_client_can_t_tell_it_from_hubspot() {
    let packages = installed("node/node_modules/@hubspot/api-client");
    let mut client = Command::new("node");
    client.current_dir(packages).arg(script("node/flow.mjs"));
    flows(client).await;
}
