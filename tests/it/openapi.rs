//! The API's description: the same as the one in `docs/`, whole, and true of the running service, which schemathesis
//! holds against it.

use std::{collections::BTreeSet, fs, path::Path, process::Stdio};

use grantkeeper::socket::openapi;
use serde_json::Value;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, UnixStream},
    process::Command,
    task::JoinSet,
};

use crate::support::{program::installed, service::Place};

/// Long enough for a few hundred requests in a debug build.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(240);

#[test]
fn the_description_in_docs_is_the_one_that_is_served() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/openapi.json");
    let now = openapi::text();
    #[expect(clippy::disallowed_methods, reason = "how the document is written anew")]
    let write = std::env::var_os("GRANTKEEPER_WRITE_DOCS").is_some();
    if write {
        fs::write(&file, &now).unwrap();
    }
    let there = fs::read_to_string(&file).unwrap_or_default();
    assert!(
        there == now,
        "docs/openapi.json is out of date: run this test with GRANTKEEPER_WRITE_DOCS=1"
    );
}

#[test]
fn every_route_of_the_socket_is_described() {
    let routes =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/socket/routes.rs"));
    let routes = routes.unwrap();
    let routed: BTreeSet<&str> = routes
        .split(".route(")
        .skip(1)
        .filter_map(|text| text.trim_start().strip_prefix('"')?.split('"').next())
        // The description does not describe itself; the status page is the health listener's.
        .filter(|path| !["/openapi.json", "/"].contains(path))
        .collect();
    assert!(routed.len() > 8, "{routed:?}");
    let document: Value = serde_json::from_str(&openapi::text()).unwrap();
    let described: BTreeSet<&str> =
        document["paths"].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(routed, described);
    assert_eq!(document["openapi"], "3.1.0");
}

/// Passes TCP connections on to the service's socket, for tools that know no other.
async fn passage(socket: std::path::PathBuf) -> (String, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let mut passing = JoinSet::new();
    passing.spawn(async move {
        let mut open = JoinSet::new();
        while let Ok((mut near, _)) = listener.accept().await {
            let socket = socket.clone();
            open.spawn(async move {
                let mut far = UnixStream::connect(socket).await.unwrap();
                // Either may hang up as it likes.
                copy_bidirectional(&mut near, &mut far).await.ok();
            });
        }
    });
    (url, passing)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn schemathesis_finds_the_service_as_it_is_described() {
    let mut place = Place::new(20, "[settings]\nrotating = true").await;
    place.extra += &format!("[audit]\nfile = \"{}\"\n", place.path("audit.jsonl").display());
    let service = place.serve().await;
    service.ready().await;
    let (url, passing) = passage(place.socket()).await;
    let served = service.client.ask(hyper::Method::GET, "/openapi.json").await.unwrap();
    let served = String::from_utf8(served.body.to_vec()).unwrap();
    assert_eq!(served, openapi::text());
    let mut command = Command::new(installed("bin/st"));
    command.args(["run", &format!("{url}/openapi.json"), "--url", &url, "--seed", "1"]);
    // Streams have no end; what is not described is not asked for; examples enough for a few minutes.
    command.args(["--exclude-path", "/v1/events", "--max-examples", "25", "--no-color"]);
    command.args(["--request-timeout", "20", "--suppress-health-check", "all"]);
    // A well-formed code, token or signature need not be a good one.
    command.args(["--exclude-checks", "positive_data_acceptance"]);
    command.current_dir(place.dir.path()).stdin(Stdio::null()).kill_on_drop(true);
    command.env("NO_PROXY", "127.0.0.1").env("PYTHONDONTWRITEBYTECODE", "1");
    let ended = tokio::time::timeout(PATIENCE, command.output()).await.expect("it takes too long");
    let ended = ended.unwrap();
    let said = String::from_utf8_lossy(&ended.stdout).into_owned();
    assert!(ended.status.success(), "{said}\n{}", String::from_utf8_lossy(&ended.stderr));
    assert!(service.client.ask(hyper::Method::GET, "/livez").await.unwrap().status == 200);
    drop(passing);
}
