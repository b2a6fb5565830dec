//! A cluster that loses its leader under load.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use grantkeeper::{
    store::{CredentialStore, Key, vault::VaultStore},
    time::{Clock, SystemClock},
};
use reqwest::Method;
use serde_json::json;
use tokio::task::JoinSet;

use crate::support::{
    cluster::Cluster,
    openbao,
    service::{Place, eventually, portal, secret_file},
};

const PORTALS: u64 = 30;

/// Reads tokens one after another; counts the answers that failed.
async fn read(
    client: grantkeeper::socket::Client,
    stop: Arc<AtomicBool>,
    failed: Arc<AtomicU64>,
) -> u64 {
    let mut answers = 0;
    while !stop.load(Ordering::Relaxed) {
        let path = format!("/v1/portals/{}/token", 1 + answers % PORTALS);
        let answer = client.get::<serde_json::Value>(&path).await;
        failed.fetch_add(u64::from(answer.is_err()), Ordering::Relaxed);
        answers += 1;
    }
    answers
}

/// How long the store took nothing, as seen through the node that the service talks to.
async fn without_writes(cluster: &Cluster, node: usize, stop: &AtomicBool) -> Duration {
    let clock = SystemClock;
    let (mut last, mut longest) = (clock.boot(), Duration::ZERO);
    while !stop.load(Ordering::Relaxed) {
        let body = Some(json!({"data": {"probe": "x"}}));
        let (status, _) = cluster.api(node, Method::POST, "kv/data/probe", body).await;
        if status == 200 {
            longest = longest.max(clock.boot().since(last));
            last = clock.boot();
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    longest
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i3_i9_a_cluster_that_loses_its_leader_under_load_fails_no_answer_and_loses_no_grant() {
    let mut cluster = Cluster::start().await;
    let leader = cluster.leader().await.expect("a leader");
    let standby = (leader + 1) % 3;
    let kv = json!({"type": "kv", "options": {"version": "2"}});
    let (status, told) = cluster.api(leader, Method::POST, "sys/mounts/kv", Some(kv)).await;
    assert_eq!(status, 204, "{told}");

    eventually("the standby has the new mount", async || {
        cluster.api(standby, Method::GET, "kv/config", None).await.0 == 200
    })
    .await;

    // Each portal is refreshed every few seconds, and each refresh has to be stored.
    let mut place = Place::new(PORTALS, "[settings]\nrotating = true\nexpires_in = 9").await;
    place.head = format!("state_dir = \"{}\"\n", place.path("state").display());
    let token_file = place.path("root");
    secret_file(&token_file, &cluster.root_token);
    let address = cluster.nodes[standby].addr.clone();
    place.store = format!(
        "[store]\nkind = \"vault\"\n[store.vault]\naddress = \"{address}\"\nmount = \"kv\"\nauth = {{ method = \"token\", token_file = \"{}\" }}\n",
        token_file.display()
    );
    let mut settings = openbao().await.settings("kv");
    settings.address = address;
    settings.auth = grantkeeper::store::vault::Auth::TokenFile(token_file);
    "grantkeeper/acme-sync".clone_into(&mut settings.prefix);
    let store = VaultStore::connect(settings, Arc::new(SystemClock)).unwrap();
    place.fill(&store).await;
    eventually("the standby has every record", async || {
        store.list().await.is_ok_and(|listing| listing.portals.len() as u64 == PORTALS)
    })
    .await;
    let service = place.serve().await;
    service.ready().await;

    let (stop, failed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut readers = JoinSet::new();
    for _ in 0..2 {
        let client = grantkeeper::socket::Client::new(place.socket());
        readers.spawn(read(client, Arc::clone(&stop), Arc::clone(&failed)));
    }
    let refreshes = || place.standin.sim.report().refreshes;
    let before = refreshes();
    eventually("the service is under load", async || refreshes() > before + PORTALS).await;
    cluster.kill(leader);
    let at_loss = refreshes();
    let (watch, follow) = tokio::join!(without_writes(&cluster, standby, &stop), async {
        eventually("two more rounds of refreshes", async || refreshes() > at_loss + 3 * PORTALS)
            .await;
        eventually("everything is stored", async || {
            let status = service.get("/v1/status").await.unwrap();
            status["portals"]["live"] == PORTALS && status["store"]["ok"] == true
        })
        .await;
        stop.store(true, Ordering::Relaxed);
    });
    let () = follow;
    let answers: u64 = readers.join_all().await.into_iter().sum();
    println!(
        "leader lost: the store took no write for {} ms; {answers} answers, {} failed",
        watch.as_millis(),
        failed.load(Ordering::Relaxed)
    );
    assert_eq!(failed.load(Ordering::Relaxed), 0, "of {answers}");
    assert!(answers > 1000, "{answers}");
    assert_ne!(cluster.leader().await, Some(leader));
    for told in place.alerts.all() {
        let kind = told["data"]["kind"].as_str().unwrap();
        assert!(["store_unreachable", "grant_unsaved"].contains(&kind), "{told}");
    }
    assert_eq!(service.stop().await, 0);
    // A standby reads what it has, which is the newest a moment later.
    for number in 1..=PORTALS {
        eventually("the store has the newest grant", async || {
            let found = store.read(Key::Portal(portal(number))).await.unwrap();
            place.standin.sim.is_good(&found.record.portal().unwrap().refresh_token)
        })
        .await;
    }
}
