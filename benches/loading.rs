//! How long it takes to load a fleet from each store and layout, beside bare parallel readers that ask the same
//! server for the same records in the same run; and what a service at rest asks of its store in an hour.
//!
//! `tests/run --profile simulation --bench loading` (it makes the servers first). A number after `--` measures that many portals alone.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a measurement that can't go on stops, and figures are told"
)]

use std::{fs, sync::Arc, time::Duration};

use aws_sdk_secretsmanager::types::SecretValueEntry;
use grantkeeper::{
    portal::PortalId,
    store::{
        CredentialStore, Key, Known, LaidOut, Layout, Record, aws::AwsStore, vault::VaultStore,
    },
    time::{Clock, SystemClock},
};
use serde_json::json;
use tokio::task::JoinSet;

use support::{
    moto::{Moto, sdk_config},
    openbao::OpenBao,
    service::Place,
    temp_dir,
};

#[path = "../tests/it/support/mod.rs"]
#[expect(dead_code, unused_imports, reason = "made for the tests, which use the rest")]
mod support;

/// As many readers as the store itself has.
const READERS: usize = 16;
const BATCHES: usize = 8;
const ROUNDS: usize = 3;
const SHARDS: u16 = 64;

fn record(number: usize) -> Record {
    let token = format!("na1-{number:08}-0000-0000-0000-000000000000");
    support::record(&json!({ "refresh_token": token }))
}

/// The median of a few.
async fn median<F: Future<Output = ()>>(work: impl Fn() -> F) -> Duration {
    let clock = SystemClock;
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let began = clock.boot();
        work().await;
        times.push(clock.boot().since(began));
    }
    times.sort_unstable();
    times[ROUNDS / 2]
}

/// Names that are to be read, shared among `readers`, each with `read`.
async fn in_parallel<F, R>(names: &[String], readers: usize, read: F)
where
    F: Fn(Vec<String>) -> R,
    R: Future<Output = ()> + Send + 'static,
{
    let share = names.len().div_ceil(readers).max(1);
    let mut running = JoinSet::new();
    for names in names.chunks(share) {
        running.spawn(read(names.to_vec()));
    }
    while let Some(done) = running.join_next().await {
        done.unwrap();
    }
}

async fn fill(store: &Arc<LaidOut>, portals: usize) {
    store.load(&Known::new()).await.unwrap();
    let mut writing = JoinSet::new();
    for number in 1..=portals {
        let store = Arc::clone(store);
        writing.spawn(async move {
            let key = Key::Portal(PortalId::new(number as u64).unwrap());
            store.write(key, &record(number), &grantkeeper::store::Expected::Absent).await.unwrap();
        });
        if writing.len() >= 1024 {
            writing.join_next().await.unwrap().unwrap();
        }
    }
    while let Some(done) = writing.join_next().await {
        done.unwrap();
    }
}

/// Loads everything as a start does, and once more as a service does that knows it all.
async fn loads(name: &str, portals: usize, bare: Duration, open: impl Fn() -> Arc<LaidOut>) {
    let loaded = median(|| async {
        let contents = open().load(&Known::new()).await.unwrap();
        assert_eq!(contents.records.len(), portals);
        assert!(contents.records.iter().all(|(_, stored)| stored.is_ok()));
    })
    .await;
    let store = open();
    let contents = store.load(&Known::new()).await.unwrap();
    let versions = contents.records.into_iter();
    let known: Known = versions.map(|(id, stored)| (id, stored.unwrap().version)).collect();
    let again = median(|| async {
        let contents = store.load(&known).await.unwrap();
        assert_eq!((contents.records.len(), contents.unchanged.len()), (0, portals));
    })
    .await;
    println!(
        "{name}, {portals} portals: {:.2} s, bare readers {:.2} s: {:.2} times; looked at again, nothing changed: {:.3} s",
        loaded.as_secs_f64(),
        bare.as_secs_f64(),
        loaded.as_secs_f64() / bare.as_secs_f64(),
        again.as_secs_f64(),
    );
}

async fn vault(bao: &OpenBao, portals: usize, layout: Layout) {
    let mount = bao.mount().await;
    let open = || {
        let store = VaultStore::connect(bao.settings(&mount), Arc::new(SystemClock)).unwrap();
        Arc::new(LaidOut::new(Arc::new(store), layout))
    };
    fill(&open(), portals).await;
    let names = bao.list(&mount, "gk/app/portals").await;
    let http = reqwest::Client::builder().build().unwrap();
    let bare = median(|| async {
        let prefix = format!("{}/v1/{mount}/data/gk/app/portals", bao.addr);
        in_parallel(&names, READERS, |names| {
            let (http, prefix) = (http.clone(), prefix.clone());
            let token = bao.root_token.clone();
            async move {
                for name in names {
                    let request = http.get(format!("{prefix}/{name}"));
                    let answer = request.header("X-Vault-Token", &token).send().await.unwrap();
                    assert!(answer.status().is_success());
                    answer.bytes().await.unwrap();
                }
            }
        })
        .await;
    })
    .await;
    loads(&format!("OpenBao, {}", word(layout)), portals, bare, open).await;
}

async fn aws(moto: &Moto, portals: usize, layout: Layout) {
    let settings = moto.settings();
    let open = || {
        let clock = Arc::new(SystemClock);
        let store = AwsStore::with_sdk_config(settings.clone(), &sdk_config(), clock).unwrap();
        Arc::new(LaidOut::new(Arc::new(store), layout))
    };
    let client = moto.client();
    // Through the SDK itself: the store keeps to AWS's quota for writes.
    let mut names: Vec<String> = Vec::new();
    if layout == Layout::Single {
        for number in 1..=portals {
            names.push(format!("{}/portals/{number}", settings.prefix));
        }
        in_parallel(&names, READERS, |names| {
            let client = client.clone();
            async move {
                for name in names {
                    let number = name.rsplit('/').next().unwrap().parse().unwrap();
                    let value = record(number).to_json();
                    let request = client.create_secret().name(name).secret_string(value.as_str());
                    request.send().await.unwrap();
                }
            }
        })
        .await;
    } else {
        fill(&open(), portals).await;
        names = (0..SHARDS).map(|n| format!("{}/portals/shard-{n:03}", settings.prefix)).collect();
    }
    let bare = median(|| async {
        in_parallel(&names, BATCHES, |names| {
            let client = client.clone();
            async move {
                for twenty in names.chunks(20) {
                    let request = client.batch_get_secret_value();
                    let answer =
                        request.set_secret_id_list(Some(twenty.to_vec())).send().await.unwrap();
                    let read: Vec<SecretValueEntry> = answer.secret_values.unwrap_or_default();
                    assert_eq!(read.len(), twenty.len());
                }
            }
        })
        .await;
    })
    .await;
    loads(&format!("AWS (moto), {}", word(layout)), portals, bare, open).await;
}

fn word(layout: Layout) -> String {
    match layout {
        Layout::Single => "single".to_owned(),
        Layout::Packed(shards) => format!("packed in {shards}"),
    }
}

/// Requests that a service with a whole fleet makes to its store for each period of validation, with nothing
/// changing: from the server's own audit log.
async fn at_rest(portals: usize, layout: &str) {
    let dir = temp_dir();
    let audit = dir.path().join("audit.log");
    let config =
        format!("audit \"file\" \"f\" {{ options {{ file_path = \"{}\" }} }}\n", audit.display());
    let bao = OpenBao::start_with(&config).await;
    let mut place = Place::new(portals as u64, "[settings]\nexpires_in = 7200").await;
    let file = place.path("old.toml");
    fs::write(&file, place.config_text()).unwrap();
    let mount = bao.mount().await;
    place.use_openbao(&bao, &mount, &bao.root_token);
    place.store.push_str(layout);
    let imported = place.run(&["import", "--from-config", file.to_str().unwrap()]).await;
    assert_eq!(imported.code, 0, "{imported:?}");
    "[refresh]\nmode = \"on_demand\"\n[validate]\nevery = \"20s\"\n[hubspot]\nmax_refreshes_per_second = 50\n".clone_into(&mut place.extra);
    let service = place.serve().await;
    let read = || fs::read_to_string(&audit).unwrap();
    let requests =
        |text: &str| text.lines().filter(|line| line.contains("\"type\":\"request\"")).count();
    tokio::time::sleep(Duration::from_secs(30)).await;
    let before = requests(&read());
    tokio::time::sleep(Duration::from_secs(60)).await;
    let each = (requests(&read()) - before).div_ceil(3);
    println!(
        "at rest, {portals} portals, OpenBao {}: {each} requests for each period of validation, which is an hour by default",
        if layout.is_empty() { "single" } else { "packed" }
    );
    drop(service);
}

#[tokio::main]
async fn main() {
    // Cargo's own argument to benchmarks says nothing here.
    let only = std::env::args().find_map(|text| text.parse().ok());
    let sizes: Vec<usize> = only.map_or_else(|| vec![1_000, 10_000], |only| vec![only]);
    let (bao, moto) = (OpenBao::start().await, Moto::start().await);
    for portals in &sizes {
        for layout in [Layout::Single, Layout::Packed(SHARDS)] {
            vault(&bao, *portals, layout).await;
            aws(&moto, *portals, layout).await;
        }
    }
    for layout in ["", "layout = \"packed\"\n"] {
        at_rest(*sizes.last().unwrap(), layout).await;
    }
}
