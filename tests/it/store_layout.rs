//! Many portals in one record: neighbours, other hands, and moving from one layout to another while a service
//! writes and the move is cut off again and again.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use grantkeeper::store::{
    CredentialStore, Expected, Key, Known, LaidOut, Layout, Record, Shard, StoreErrorKind,
    layout::reshard::reshard,
};
use serde_json::json;
use tokio::{task::JoinSet, time::timeout};

use crate::{
    store_beds::{VaultBed, vault},
    store_contract::Beneath,
    support::{portal, record},
};

fn grant(token: &str) -> Record {
    record(&json!({ "refresh_token": token, "note": "stays" }))
}

fn over(bed: &VaultBed, layout: Layout) -> Arc<LaidOut> {
    Arc::new(LaidOut::new(bed.store(), layout))
}

async fn token(store: &LaidOut, number: u64) -> String {
    let found = store.read(Key::Portal(portal(number))).await.unwrap();
    found.record.portal().unwrap().refresh_token.expose().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_processes_that_write_to_one_shard_lose_none_of_each_other_s_changes() {
    let bed = vault().await;
    let mut writers = JoinSet::new();
    for process in 0..3_u64 {
        let store = over(&bed, Layout::Packed(1));
        for number in 1..=5 {
            let store = Arc::clone(&store);
            writers.spawn(async move {
                let key = Key::Portal(portal(process * 100 + number));
                let mut at = store.write(key, &grant("0"), &Expected::Absent).await.unwrap();
                for round in 1..=4 {
                    let next = grant(&round.to_string());
                    at = store.write(key, &next, &Expected::At(at)).await.unwrap();
                }
            });
        }
    }
    while let Some(done) = writers.join_next().await {
        done.unwrap();
    }
    let contents = over(&bed, Layout::Packed(1)).load(&Known::new()).await.unwrap();
    assert_eq!(contents.records.len(), 15);
    for (id, stored) in contents.records {
        let found = stored.unwrap().record.portal().unwrap();
        assert_eq!(found.refresh_token.expose(), "4", "{id}");
    }
}

#[tokio::test]
async fn what_comes_together_is_written_together() {
    let bed = vault().await;
    let store = over(&bed, Layout::Packed(1));
    let mut writers = JoinSet::new();
    for number in 1..=100 {
        let store = Arc::clone(&store);
        writers.spawn(async move {
            let key = Key::Portal(portal(number));
            store.write(key, &grant("t"), &Expected::Absent).await.unwrap();
        });
    }
    while let Some(done) = writers.join_next().await {
        done.unwrap();
    }
    let shard = bed.store().read(Key::Shard(Shard(0))).await.unwrap();
    let version = shard.version.to_string();
    let writes: u32 = version.split('@').next().unwrap().parse().unwrap();
    assert!(writes < 20, "{writes} writes for a hundred members");
}

#[tokio::test]
async fn a_member_written_by_another_tool_is_served_wherever_it_stands_and_stays_as_it_was_written()
{
    let bed = vault().await;
    let shard = record(&json!({
        "7": "{\"refreshToken\":\"as-text\"}",
        "8": {"refresh_token": "as-object", "owner": "somebody"},
        "notes": "theirs",
    }));
    // Of four shards, neither belongs here.
    let wrong = (0..4).map(Shard).find(|shard| {
        [7, 8].iter().all(|number| Layout::Packed(4).home(portal(*number)) != Key::Shard(*shard))
    });
    let place = Key::Shard(wrong.unwrap());
    bed.store().write(place, &shard, &Expected::Absent).await.unwrap();
    let store = over(&bed, Layout::Packed(4));
    assert_eq!(token(&store, 7).await, "as-text");
    let listing = store.list().await.unwrap();
    assert_eq!(listing.portals, [portal(7), portal(8)]);
    assert_eq!(listing.strays, [format!("{}/notes", wrong.unwrap())]);
    for number in [7, 8] {
        let key = Key::Portal(portal(number));
        let found = store.read(key).await.unwrap();
        let token = grantkeeper::secret::RefreshToken::parse("newer").unwrap();
        let next = found.record.with_refresh_token(&token);
        store.write(key, &next, &Expected::At(found.version)).await.unwrap();
    }
    let after = bed.store().read(place).await.unwrap().record.to_json().to_string();
    let after: serde_json::Value = serde_json::from_str(&after).unwrap();
    assert_eq!(after["7"], "{\"refreshToken\":\"newer\"}");
    assert_eq!(after["8"], json!({"refresh_token": "newer", "owner": "somebody"}));
    assert_eq!(after["notes"], "theirs");
}

#[tokio::test]
async fn a_shard_that_would_grow_too_large_refuses_the_write_and_says_what_helps() {
    let bed = vault().await;
    let store = over(&bed, Layout::Packed(1));
    let large = record(&json!({"refresh_token": "t", "note": "x".repeat(40_000)}));
    store.write(Key::Portal(portal(1)), &large, &Expected::Absent).await.unwrap();
    let second = store.write(Key::Portal(portal(2)), &large, &Expected::Absent).await;
    let error = second.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Misconfigured, "{error:?}");
    assert!(error.hint.contains("grantkeeper reshard"), "{error:?}");
    assert_eq!(token(&store, 1).await, "t");
    let small = store.write(Key::Portal(portal(3)), &grant("t"), &Expected::Absent).await;
    small.unwrap();
}

/// Writes newer and newer tokens, as a service does whose provider replaces them, and remembers the last that
/// the store has taken.
async fn serve(store: Arc<LaidOut>, stop: Arc<AtomicBool>) -> BTreeMap<u64, String> {
    let mut stored = BTreeMap::new();
    for round in 0.. {
        let number = 1 + round % 40;
        let key = Key::Portal(portal(number));
        let found = store.read(key).await.expect("every portal is there, always");
        let before = found.record.portal().unwrap().refresh_token.expose().to_owned();
        if let Some(expected) = stored.get(&number) {
            assert_eq!(&before, expected, "portal {number} went back");
        }
        let next = format!("served-{round}");
        let token = grantkeeper::secret::RefreshToken::parse(&next).unwrap();
        let record = found.record.with_refresh_token(&token);
        match store.write(key, &record, &Expected::At(found.version)).await {
            Ok(_) => drop(stored.insert(number, next)),
            // It is being moved: read again, written again.
            Err(error) if error.kind == StoreErrorKind::Conflict => {}
            Err(error) => panic!("{error:?}"),
        }
        if stop.load(Ordering::Relaxed) {
            break;
        }
    }
    stored
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resharding_cut_off_again_and_again_beside_a_service_loses_nothing() {
    let bed = vault().await;
    let filled = over(&bed, Layout::Single);
    for number in 1..=40 {
        let key = Key::Portal(portal(number));
        filled.write(key, &grant("first"), &Expected::Absent).await.unwrap();
    }
    // The service was started with the layout that is to be.
    for layout in [Layout::Packed(3), Layout::Packed(5), Layout::Single] {
        let stop = Arc::new(AtomicBool::new(false));
        let mut service = JoinSet::new();
        service.spawn(serve(over(&bed, layout), Arc::clone(&stop)));
        let mut cuts = 0;
        for patience in 1.. {
            // Each run is one process: it knows nothing of the one before, which was killed.
            let store = over(&bed, layout);
            let patience = Duration::from_millis(10 + 15 * patience);
            match timeout(patience, reshard(&store, |_, _| {})).await {
                Err(_) => cuts += 1,
                Ok(moved) => {
                    let moved = moved.unwrap();
                    if moved.left.is_empty() {
                        break;
                    }
                }
            }
        }
        stop.store(true, Ordering::Relaxed);
        let stored = service.join_next().await.unwrap().unwrap();
        assert!(cuts > 0, "it was never cut off");

        let after = over(&bed, layout).load(&Known::new()).await.unwrap();
        assert_eq!(after.records.len(), 40, "{layout:?}");
        for (id, found) in after.records {
            let record = found.unwrap().record;
            let text = record.to_json().to_string();
            assert!(text.contains("stays"), "{layout:?}: {id}");
            let token = record.portal().unwrap().refresh_token;
            if let Some(last) = stored.get(&id.number()) {
                assert_eq!(token.expose(), last, "{layout:?}: {id}");
            }
        }
        let below = bed.store().list().await.unwrap();
        match layout {
            Layout::Single => assert_eq!(below.portals.len(), 40),
            Layout::Packed(shards) => {
                assert_eq!(below.portals, []);
                let most = usize::from(shards);
                // Shards that lost their last member stay as empty records.
                assert!(below.shards.len() >= most.min(3), "{below:?}");
            }
        }
        let again = reshard(&over(&bed, layout), |_, _| {}).await.unwrap();
        assert_eq!((again.moved, again.in_place, again.left.len()), (0, 40, 0), "{layout:?}");
    }
}
