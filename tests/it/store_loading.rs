//! Reading everything while others move, delete or spoil records, and where lists are behind: no portal counts as
//! gone that is there.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use grantkeeper::{
    portal::PortalId,
    store::{
        Contents, CredentialStore, Expected, Key, Known, LaidOut, Layout, Listing, Outcomes,
        Record, Shard, StoreError, StoreErrorKind, Stored, Version, layout::reshard::reshard,
    },
};
use serde_json::json;
use tokio::task::JoinSet;

use crate::{
    store_beds::{aws, vault},
    store_contract::Beneath,
    support::{portal, record},
};

fn grant(token: &str) -> Record {
    record(&json!({ "refresh_token": token }))
}

fn over(store: Arc<dyn CredentialStore>, layout: Layout) -> Arc<LaidOut> {
    Arc::new(LaidOut::new(store, layout))
}

async fn fill(store: &LaidOut, portals: u64) {
    for number in 1..=portals {
        let key = Key::Portal(portal(number));
        store.write(key, &grant("first"), &Expected::Absent).await.unwrap();
    }
}

/// What is known after a reading: everything in it can be used.
fn known(before: &Known, contents: Contents) -> Known {
    let unchanged = contents.unchanged.into_iter().map(|id| (id, before[&id].clone()));
    let read = contents.records.into_iter().map(|(id, stored)| (id, stored.unwrap().version));
    unchanged.chain(read).collect()
}

/// How often a shard was written.
async fn writes(store: &dyn CredentialStore, shard: u16) -> u32 {
    let version = store.read(Key::Shard(Shard(shard))).await.unwrap().version.to_string();
    version.split('@').next().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i14_a_reading_beside_a_move_meets_every_portal() {
    let bed = vault().await;
    fill(&over(bed.store(), Layout::Single), 120).await;
    for layout in [Layout::Packed(7), Layout::Packed(3), Layout::Single, Layout::Packed(5)] {
        let (service, over_now) = (over(bed.store(), layout), Arc::new(AtomicBool::new(false)));
        let mut reading = JoinSet::new();
        let ended = Arc::clone(&over_now);
        reading.spawn(async move {
            let mut before = Known::new();
            let mut readings = 0;
            loop {
                let last = ended.load(Ordering::Relaxed);
                let contents = service.load(&before).await.unwrap();
                before = known(&before, contents);
                assert_eq!(before.len(), 120, "{layout:?}, reading {readings}");
                readings += 1;
                if last {
                    return readings;
                }
            }
        });
        let moved = reshard(&over(bed.store(), layout), |_, _| {}).await.unwrap();
        assert_eq!(moved.left.len(), 0, "{moved:?}");
        over_now.store(true, Ordering::Relaxed);
        assert!(reading.join_next().await.unwrap().unwrap() > 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_writes_each_shard_a_few_times_however_many_portals_it_has() {
    let bed = vault().await;
    fill(&over(bed.store(), Layout::Single), 300).await;
    reshard(&over(bed.store(), Layout::Packed(2)), |_, _| {}).await.unwrap();
    for shard in 0..2 {
        let count = writes(&*bed.store(), shard).await;
        assert!(count <= 12, "shard {shard}: {count} writes");
    }
    let before = writes(&*bed.store(), 0).await;
    reshard(&over(bed.store(), Layout::Packed(3)), |_, _| {}).await.unwrap();
    let moved = writes(&*bed.store(), 0).await - before;
    assert!(moved <= 18, "{moved} writes");
    assert!(writes(&*bed.store(), 2).await <= 12);
}

#[tokio::test]
async fn a_deleted_shard_is_an_empty_one_and_a_spoilt_one_keeps_nobody_else_from_being_served() {
    let bed = aws().await;
    let layout = Layout::Packed(4);
    fill(&over(bed.store(), layout), 20).await;
    let of = |shard: u16| -> BTreeSet<PortalId> {
        let home = |id: &PortalId| layout.home(*id) == Key::Shard(Shard(shard));
        (1..=20).map(portal).filter(home).collect()
    };
    let service = over(bed.store(), layout);
    let before = known(&Known::new(), service.load(&Known::new()).await.unwrap());
    bed.put_in_force("shard-001", "CANARY").await;

    // Whoever has read it before keeps what it knows, and says which records are not to be had.
    let contents = service.load(&before).await.unwrap();
    for (id, stored) in contents.records {
        let told = stored.unwrap_err();
        assert!(of(1).contains(&id) && told.kind == StoreErrorKind::Corrupt, "{id}: {told:?}");
    }
    assert_eq!(contents.unchanged.len(), 20 - of(1).len());
    // A fresh process serves the others.
    let fresh = over(bed.store(), layout);
    let contents = fresh.load(&Known::new()).await.unwrap();
    let met: BTreeSet<PortalId> = contents.records.iter().map(|(id, _)| *id).collect();
    let others: BTreeSet<PortalId> =
        (1..=20).map(portal).filter(|id| !of(1).contains(id)).collect();
    assert_eq!(met, others);
    for store in [&service, &fresh] {
        let remarks = store.remarks();
        assert!(remarks.iter().any(|remark| remark.contains("shard-001")), "{remarks:?}");
        assert!(!remarks.concat().contains("CANARY"));
    }
    // What is not known to be absent is not written as if it were.
    let there = *of(1).first().unwrap();
    let error = fresh.write(Key::Portal(there), &grant("x"), &Expected::Absent).await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Conflict, "{error:?}");
}

#[tokio::test]
async fn a_shard_that_kv_goes_on_listing_after_its_deletion_holds_nobody() {
    let bed = vault().await;
    let layout = Layout::Packed(3);
    fill(&over(bed.store(), layout), 12).await;
    let service = over(bed.store(), layout);
    let before = known(&Known::new(), service.load(&Known::new()).await.unwrap());
    bed.soft_delete("shard-001").await;
    let gone = |id: &PortalId| layout.home(*id) == Key::Shard(Shard(1));
    let left = before.keys().filter(|id| !gone(id)).count();
    assert_eq!(known(&before, service.load(&before).await.unwrap()).len(), left);
    let fresh = over(bed.store(), layout);
    assert_eq!(fresh.load(&Known::new()).await.unwrap().records.len(), left);
    assert_eq!(fresh.list().await.unwrap().portals.len(), left);
    let moved = reshard(&over(bed.store(), Layout::Packed(2)), |_, _| {}).await.unwrap();
    assert_eq!((moved.moved + moved.in_place, moved.left.len()), (left, 0));
}

#[tokio::test]
async fn a_portal_with_two_records_is_remarked_on_and_the_one_at_home_counts() {
    let bed = vault().await;
    let layout = Layout::Packed(2);
    fill(&over(bed.store(), layout), 4).await;
    let own = Key::Portal(portal(3));
    bed.store().write(own, &grant("beside"), &Expected::Absent).await.unwrap();
    let service = over(bed.store(), layout);
    let contents = service.load(&Known::new()).await.unwrap();
    let found = contents.records.into_iter().find(|(id, _)| *id == portal(3)).unwrap().1.unwrap();
    assert_eq!(found.record.portal().unwrap().refresh_token.expose(), "first");
    let remarks = service.remarks();
    assert!(remarks[0].contains("portal 3 has records in"), "{remarks:?}");
    let moved = reshard(&over(bed.store(), layout), |_, _| {}).await.unwrap();
    assert_eq!(moved.left.len(), 0, "{moved:?}");
    assert!(bed.store().read(own).await.is_ok(), "nothing is taken away unasked");
}

#[tokio::test]
async fn a_fleet_of_more_than_a_page_is_looked_at_whole() {
    let bed = vault().await;
    let store = bed.store();
    let mut writing = JoinSet::new();
    for worker in 0..16_u64 {
        let store = Arc::clone(&store);
        writing.spawn(async move {
            for number in (1 + worker..=4100).step_by(16) {
                let key = Key::Portal(portal(number));
                store.write(key, &grant("t"), &Expected::Absent).await.unwrap();
            }
        });
    }
    while let Some(done) = writing.join_next().await {
        done.unwrap();
    }
    let seen = store.look().await.unwrap();
    assert_eq!((seen.portals.len(), seen.versions.len()), (4100, 4100));
}

/// A store whose lists show how it was when they were last let catch up: `ListSecrets` may be five minutes behind
/// by its own documentation, which no emulator is.
#[derive(Debug)]
struct Behind {
    store: Arc<dyn CredentialStore>,
    list: Mutex<Listing>,
}

impl Behind {
    async fn catch_up(&self) {
        let now = self.store.look().await.unwrap();
        *self.list.lock().unwrap() = now;
    }
}

#[async_trait]
impl CredentialStore for Behind {
    fn kind(&self) -> &'static str {
        self.store.kind()
    }

    async fn check(&self) -> Result<(), StoreError> {
        self.store.check().await
    }

    async fn list(&self) -> Result<Listing, StoreError> {
        let list = self.list.lock().unwrap();
        let Listing { portals, shards, versions, strays } = &*list;
        let (portals, shards) = (portals.clone(), shards.clone());
        Ok(Listing { portals, shards, versions: versions.clone(), strays: strays.clone() })
    }

    fn lag(&self) -> Duration {
        self.store.lag()
    }

    async fn read(&self, key: Key) -> Result<Stored, StoreError> {
        self.store.read(key).await
    }

    async fn read_all(&self, keys: &[Key]) -> Outcomes {
        self.store.read_all(keys).await
    }

    async fn write(
        &self,
        key: Key,
        record: &Record,
        expected: &Expected,
    ) -> Result<Version, StoreError> {
        self.store.write(key, record, expected).await
    }

    async fn remove(&self, key: Key, expected: &Version) -> Result<(), StoreError> {
        self.store.remove(key, expected).await
    }
}

#[tokio::test]
async fn a_list_that_is_behind_makes_no_portal_disappear_and_an_order_to_look_sees_every_change() {
    for layout in [Layout::Single, Layout::Packed(2)] {
        let bed = aws().await;
        let behind = Arc::new(Behind { store: bed.store(), list: Mutex::default() });
        let service = over(Arc::<Behind>::clone(&behind), layout);
        // Everything is newer than what the list shows: nothing.
        fill(&service, 6).await;
        let mut before = Known::new();
        for id in (1..=6).map(portal) {
            before.insert(id, service.read(Key::Portal(id)).await.unwrap().version);
        }
        let seen = known(&before, service.load(&before).await.unwrap());
        assert_eq!(seen.len(), 6, "{layout:?}: not listed yet");

        behind.catch_up().await;
        let seen = known(&before, service.load(&before).await.unwrap());
        assert_eq!(seen.len(), 6, "{layout:?}");
        // Another hand edits one and takes one away; the list shows neither.
        let other = over(bed.store(), layout);
        let edited = Key::Portal(portal(2));
        let found = other.read(edited).await.unwrap();
        other.write(edited, &grant("edited"), &Expected::At(found.version)).await.unwrap();
        let gone = Key::Portal(portal(5));
        let found = other.read(gone).await.unwrap();
        other.remove(gone, &found.version).await.unwrap();
        let contents = service.load(&Known::new()).await.unwrap();
        let now: Vec<_> = contents
            .records
            .into_iter()
            .map(|(id, stored)| (id, stored.unwrap().record.portal().unwrap().refresh_token))
            .collect();
        assert_eq!(now.len(), 5, "{layout:?}: {now:?}");
        let token = &now.iter().find(|(id, _)| *id == portal(2)).unwrap().1;
        assert_eq!(token.expose(), "edited", "{layout:?}");
    }
}

/// What a list showed and what is read after it lie apart: whoever looks while the portals are moved sees them in neither
/// place.
#[tokio::test]
async fn i14_a_portal_that_is_moved_between_a_list_and_a_reading_is_found_where_it_belongs() {
    for (from, to) in [(Layout::Packed(2), Layout::Single), (Layout::Single, Layout::Packed(2))] {
        let bed = vault().await;
        fill(&over(bed.store(), from), 6).await;
        let behind = Arc::new(Behind { store: bed.store(), list: Mutex::default() });
        behind.catch_up().await;
        // So that each record is read, as it is when the list tells of a change.
        behind.list.lock().unwrap().versions.clear();
        let service = || over(Arc::<Behind>::clone(&behind), to);
        let (reading, loading) = (service(), service());
        assert_eq!(reading.list().await.unwrap().portals.len(), 6, "{to:?}");
        let before = known(&Known::new(), loading.load(&Known::new()).await.unwrap());
        assert_eq!(before.len(), 6, "{to:?}");

        let mover = over(bed.store(), to);
        assert_eq!(reshard(&mover, |_, _| {}).await.unwrap().moved, 6, "{to:?}");
        for id in (1..=6).map(portal) {
            let found = reading.read(Key::Portal(id)).await;
            found.unwrap_or_else(|error| panic!("{to:?}: {id}: {error:?}"));
        }
        let after = known(&before, loading.load(&before).await.unwrap());
        assert_eq!(after.len(), 6, "{to:?}: {after:?}");
    }
}
