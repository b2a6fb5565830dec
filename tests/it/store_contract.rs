//! What every store promises, claim by claim, against each real store. A claim knows only the seam;
//! what lies beneath it is reached through [`Beneath`].

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
};

use async_trait::async_trait;
use grantkeeper::{
    portal::PortalId,
    store::{CredentialStore, Expected, Key, Known, Record, StoreErrorKind, Version},
};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::support::{portal, record};

/// A store and the way around it, as any other tool would go.
#[async_trait]
pub(crate) trait Beneath: Send + Sync {
    /// The store under test, alone in its mount, prefix or file.
    fn store(&self) -> Arc<dyn CredentialStore>;

    /// Makes a record called `name` beside the portals' records.
    async fn stray(&self, name: &str);

    /// Replaces a portal's record with something that is not a JSON object.
    async fn damage(&self, portal: PortalId);
}

macro_rules! claims {
    ($store:ident: $($claim:ident),+ $(,)?) => {
        mod $store {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $claim() {
                    super::$claim(&crate::store_beds::$store().await).await;
                }
            )+
        }
    };
}

macro_rules! every_store {
    ($($claim:ident),+ $(,)?) => {
        claims!(vault: $($claim),+, a_version_is_never_used_again_after_removal,
            names_that_are_no_portals_are_listed_as_strays);
        claims!(aws: $($claim),+, a_version_is_never_used_again_after_removal,
            names_that_are_no_portals_are_listed_as_strays,
            a_damaged_record_is_corrupt_names_its_key_and_spoils_no_other);
        claims!(file: $($claim),+, a_version_is_never_used_again_after_removal,
            names_that_are_no_portals_are_listed_as_strays,
            a_damaged_record_is_corrupt_names_its_key_and_spoils_no_other);
        // A member's version is its content's, and comes again with it.
        claims!(vault_packed: $($claim),+, a_damaged_record_is_corrupt_names_its_key_and_spoils_no_other);
        claims!(aws_packed: $($claim),+, a_damaged_record_is_corrupt_names_its_key_and_spoils_no_other);
    };
}

every_store!(
    an_empty_store_passes_its_check_and_lists_nothing,
    what_was_written_is_read_back_with_its_version,
    a_write_names_the_state_it_was_based_on,
    a_write_against_an_older_state_conflicts_and_changes_nothing,
    a_record_expected_to_be_absent_conflicts_if_it_is_there,
    a_write_to_a_record_that_is_gone_conflicts,
    a_missing_record_is_missing_and_names_its_key,
    members_unknown_to_us_are_kept,
    a_removed_record_is_missing_and_no_longer_listed,
    a_removal_that_names_an_older_state_conflicts,
    the_version_of_another_record_conflicts,
    writers_to_different_portals_never_touch_each_other,
    of_many_writers_with_one_expectation_exactly_one_succeeds,
    of_many_creators_exactly_one_succeeds,
    read_all_gives_each_portal_its_own_outcome,
    a_loading_passes_over_what_is_known_and_misses_nothing,
    a_record_of_some_size_survives,
);

fn grant(token: &str) -> Record {
    record(&json!({ "refresh_token": token }))
}

const PORTAL: fn() -> Key = || Key::Portal(portal(4711));

async fn create(store: &dyn CredentialStore, key: Key, record: &Record) -> Version {
    store.write(key, record, &Expected::Absent).await.unwrap()
}

async fn an_empty_store_passes_its_check_and_lists_nothing(bed: &dyn Beneath) {
    let store = bed.store();
    store.check().await.unwrap();
    let listing = store.list().await.unwrap();
    assert!(listing.portals.is_empty() && listing.strays.is_empty(), "{listing:?}");
}

async fn what_was_written_is_read_back_with_its_version(bed: &dyn Beneath) {
    let store = bed.store();
    let app = record(&json!({"client_id": "id", "client_secret": "pass \u{2713} \"x\""}));
    for (key, written) in [(Key::App, app), (PORTAL(), grant("na1-abc"))] {
        let version = create(&*store, key, &written).await;
        let found = store.read(key).await.unwrap();
        assert_eq!(*found.record.to_json(), *written.to_json());
        assert_eq!(found.version, version);
    }
    assert_eq!(store.list().await.unwrap().portals, [portal(4711)], "the app is not a portal");
}

async fn a_write_names_the_state_it_was_based_on(bed: &dyn Beneath) {
    let store = bed.store();
    let mut version = create(&*store, PORTAL(), &grant("t0")).await;
    for round in 1..4 {
        let next = grant(&format!("t{round}"));
        let newer = store.write(PORTAL(), &next, &Expected::At(version.clone())).await.unwrap();
        assert_ne!(newer, version);
        let found = store.read(PORTAL()).await.unwrap();
        assert_eq!((found.version, found.record.to_json()), (newer.clone(), next.to_json()));
        version = newer;
    }
}

async fn a_write_against_an_older_state_conflicts_and_changes_nothing(bed: &dyn Beneath) {
    let store = bed.store();
    let first = create(&*store, PORTAL(), &grant("t0")).await;
    let second = store.write(PORTAL(), &grant("t1"), &Expected::At(first.clone())).await.unwrap();
    let refused = store.write(PORTAL(), &grant("late"), &Expected::At(first)).await.unwrap_err();
    assert_eq!(refused.kind, StoreErrorKind::Conflict, "{refused}");
    let found = store.read(PORTAL()).await.unwrap();
    assert_eq!(found.record.portal().unwrap().refresh_token.expose(), "t1");
    assert_eq!(found.version, second);
    store.write(PORTAL(), &grant("t2"), &Expected::At(second)).await.unwrap();
}

async fn a_record_expected_to_be_absent_conflicts_if_it_is_there(bed: &dyn Beneath) {
    let store = bed.store();
    create(&*store, PORTAL(), &grant("t0")).await;
    let refused = store.write(PORTAL(), &grant("t1"), &Expected::Absent).await.unwrap_err();
    assert_eq!(refused.kind, StoreErrorKind::Conflict, "{refused}");
    let found = store.read(PORTAL()).await.unwrap();
    assert_eq!(found.record.portal().unwrap().refresh_token.expose(), "t0");
}

async fn a_write_to_a_record_that_is_gone_conflicts(bed: &dyn Beneath) {
    let store = bed.store();
    let version = create(&*store, PORTAL(), &grant("t0")).await;
    store.remove(PORTAL(), &version).await.unwrap();
    let refused = store.write(PORTAL(), &grant("t1"), &Expected::At(version)).await.unwrap_err();
    assert_eq!(refused.kind, StoreErrorKind::Conflict, "{refused}");
    assert_eq!(store.read(PORTAL()).await.unwrap_err().kind, StoreErrorKind::Missing);
}

async fn a_missing_record_is_missing_and_names_its_key(bed: &dyn Beneath) {
    let store = bed.store();
    for key in [Key::App, PORTAL()] {
        let error = store.read(key).await.unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Missing, "{error}");
        assert!(error.what.contains(&format!("`{key}`")), "{error}");
        assert!(!error.hint.is_empty());
    }
}

async fn members_unknown_to_us_are_kept(bed: &dyn Beneath) {
    let store = bed.store();
    let foreign = json!({"refreshToken": "old", "crm": {"tier": 3, "tags": ["a", null]}, "n": 1.5});
    let version = create(&*store, PORTAL(), &record(&foreign)).await;
    let read = store.read(PORTAL()).await.unwrap().record;
    let token = grantkeeper::secret::RefreshToken::parse("new").unwrap();
    let changed = read.with_refresh_token(&token);
    store.write(PORTAL(), &changed, &Expected::At(version)).await.unwrap();
    let found: Value =
        serde_json::from_str(&store.read(PORTAL()).await.unwrap().record.to_json()).unwrap();
    let mut expected = foreign;
    expected["refreshToken"] = json!("new");
    assert_eq!(found, expected);
}

async fn a_removed_record_is_missing_and_no_longer_listed(bed: &dyn Beneath) {
    let store = bed.store();
    let version = create(&*store, PORTAL(), &grant("t0")).await;
    create(&*store, Key::Portal(portal(7)), &grant("stays")).await;
    store.remove(PORTAL(), &version).await.unwrap();
    assert_eq!(store.read(PORTAL()).await.unwrap_err().kind, StoreErrorKind::Missing);
    assert_eq!(store.list().await.unwrap().portals, [portal(7)]);
    let again = store.remove(PORTAL(), &version).await.unwrap_err();
    assert_eq!(again.kind, StoreErrorKind::Missing, "{again}");
}

async fn a_removal_that_names_an_older_state_conflicts(bed: &dyn Beneath) {
    let store = bed.store();
    let first = create(&*store, PORTAL(), &grant("t0")).await;
    store.write(PORTAL(), &grant("t1"), &Expected::At(first.clone())).await.unwrap();
    let refused = store.remove(PORTAL(), &first).await.unwrap_err();
    assert_eq!(refused.kind, StoreErrorKind::Conflict, "{refused}");
    let found = store.read(PORTAL()).await.unwrap();
    assert_eq!(found.record.portal().unwrap().refresh_token.expose(), "t1");
}

/// Otherwise the late answer to a refresh from before a re-install would overwrite the newer grant.
async fn a_version_is_never_used_again_after_removal(bed: &dyn Beneath) {
    let store = bed.store();
    let old = create(&*store, PORTAL(), &grant("first life")).await;
    store.remove(PORTAL(), &old).await.unwrap();
    let new = create(&*store, PORTAL(), &grant("second")).await;
    assert_ne!(old, new);
    let refused = store.write(PORTAL(), &grant("late"), &Expected::At(old)).await.unwrap_err();
    assert_eq!(refused.kind, StoreErrorKind::Conflict, "{refused}");
    let found = store.read(PORTAL()).await.unwrap();
    assert_eq!(found.record.portal().unwrap().refresh_token.expose(), "second");
}

async fn the_version_of_another_record_conflicts(bed: &dyn Beneath) {
    let store = bed.store();
    create(&*store, Key::App, &record(&json!({"x": 1}))).await;
    let other = store.read(Key::App).await.unwrap().version;
    let refused = store.write(PORTAL(), &grant("t"), &Expected::At(other)).await.unwrap_err();
    assert_eq!(refused.kind, StoreErrorKind::Conflict, "{refused}");
}

async fn names_that_are_no_portals_are_listed_as_strays(bed: &dyn Beneath) {
    let store = bed.store();
    for number in [900, 7, 4711] {
        create(&*store, Key::Portal(portal(number)), &grant("t")).await;
    }
    for name in ["acme", "007"] {
        bed.stray(name).await;
    }
    let listing = store.list().await.unwrap();
    assert_eq!(listing.portals, [portal(7), portal(900), portal(4711)]);
    assert_eq!(listing.strays, ["007", "acme"]);
}

async fn writers_to_different_portals_never_touch_each_other(bed: &dyn Beneath) {
    let store = bed.store();
    let mut writers = JoinSet::new();
    for number in 1..=8 {
        let store = Arc::clone(&store);
        writers.spawn(async move {
            let key = Key::Portal(portal(number));
            let mut version = create(&*store, key, &grant("t0")).await;
            for round in 1..4 {
                let next = grant(&format!("p{number}-{round}"));
                version = store.write(key, &next, &Expected::At(version)).await.unwrap();
            }
        });
    }
    while let Some(done) = writers.join_next().await {
        done.unwrap();
    }
    for number in 1..=8 {
        let found = store.read(Key::Portal(portal(number))).await.unwrap();
        let token = found.record.portal().unwrap().refresh_token;
        assert_eq!(token.expose(), format!("p{number}-3"));
    }
    assert_eq!(store.list().await.unwrap().portals.len(), 8);
}

async fn of_many_writers_with_one_expectation_exactly_one_succeeds(bed: &dyn Beneath) {
    let store = bed.store();
    let version = create(&*store, PORTAL(), &grant("t0")).await;
    let winner = race(&store, &Expected::At(version)).await;
    let found = store.read(PORTAL()).await.unwrap();
    assert_eq!(found.record.portal().unwrap().refresh_token.expose(), winner.0);
    assert_eq!(found.version, winner.1);
    store.write(PORTAL(), &grant("after"), &Expected::At(winner.1)).await.unwrap();
}

async fn of_many_creators_exactly_one_succeeds(bed: &dyn Beneath) {
    let store = bed.store();
    let winner = race(&store, &Expected::Absent).await;
    let found = store.read(PORTAL()).await.unwrap();
    assert_eq!(found.record.portal().unwrap().refresh_token.expose(), winner.0);
}

/// Eight writers at once: the token and version of the only one that succeeded.
async fn race(store: &Arc<dyn CredentialStore>, expected: &Expected) -> (String, Version) {
    let mut writers = JoinSet::new();
    for writer in 0..8 {
        let (store, expected) = (Arc::clone(store), expected.clone());
        writers.spawn(async move {
            let token = format!("writer-{writer}");
            let outcome = store.write(PORTAL(), &grant(&token), &expected).await;
            outcome.map(|version| (token, version))
        });
    }
    let mut won = Vec::new();
    while let Some(outcome) = writers.join_next().await {
        match outcome.unwrap() {
            Ok(winner) => won.push(winner),
            Err(error) => assert_eq!(error.kind, StoreErrorKind::Conflict, "{error}"),
        }
    }
    assert_eq!(won.len(), 1, "{won:?}");
    won.remove(0)
}

async fn read_all_gives_each_portal_its_own_outcome(bed: &dyn Beneath) {
    let store = bed.store();
    let portals: Vec<Key> = (1..=45).map(|number| Key::Portal(portal(number))).collect();
    let number = |key: Key| match key {
        Key::Portal(portal) => portal.number(),
        Key::App | Key::Shard(_) => 0,
    };
    for key in &portals {
        if number(*key) != 20 {
            create(&*store, *key, &grant(&format!("t{}", number(*key)))).await;
        }
    }
    // One was written twice: what counts is how it stands now.
    let seven = Key::Portal(portal(7));
    let before = Expected::At(store.read(seven).await.unwrap().version);
    let version = store.write(seven, &grant("newer"), &before).await.unwrap();
    let outcomes = store.read_all(&portals).await;
    assert_eq!(outcomes.len(), portals.len());
    let told: HashSet<Key> = outcomes.iter().map(|(key, _)| *key).collect();
    assert_eq!(told.len(), portals.len());
    for (key, outcome) in outcomes {
        let number = number(key);
        if number == 20 {
            assert_eq!(outcome.unwrap_err().kind, StoreErrorKind::Missing);
        } else {
            let found = outcome.unwrap();
            let token = found.record.portal().unwrap().refresh_token;
            let (expected, is_seven) = (format!("t{number}"), number == 7);
            assert_eq!(token.expose(), if is_seven { "newer" } else { &expected });
            assert_eq!(found.version == version, is_seven, "{number}");
        }
    }
    assert!(store.read_all(&[]).await.is_empty());
}

async fn a_loading_passes_over_what_is_known_and_misses_nothing(bed: &dyn Beneath) {
    let store = bed.store();
    let key = |number| Key::Portal(portal(number));
    for number in 1..=30 {
        create(&*store, key(number), &grant(&format!("t{number}"))).await;
    }
    let first = store.load(&Known::new()).await.unwrap();
    assert_eq!((first.records.len(), first.unchanged.len()), (30, 0));
    let known: Known =
        first.records.into_iter().map(|(id, stored)| (id, stored.unwrap().version)).collect();

    let change = async |number| {
        let at = Expected::At(known[&portal(number)].clone());
        store.write(key(number), &grant("changed"), &at).await.unwrap();
    };
    change(3).await;
    change(17).await;
    store.remove(key(5), &known[&portal(5)]).await.unwrap();
    create(&*store, key(31), &grant("new")).await;

    let second = store.load(&known).await.unwrap();
    let read: BTreeSet<u64> = second.records.iter().map(|(id, _)| id.number()).collect();
    let passed: BTreeSet<u64> = second.unchanged.iter().map(|id| id.number()).collect();
    assert!(read.is_disjoint(&passed), "{read:?} {passed:?}");
    let all: BTreeSet<u64> = read.union(&passed).copied().collect();
    assert_eq!(all, (1..=31).filter(|number| *number != 5).collect());
    assert!([3, 17, 31].iter().all(|number| read.contains(number)), "{read:?}");
    if store.kind() != "file" {
        assert!(passed.len() >= 5, "hardly anything was passed over: {read:?}");
    }
    for (id, stored) in second.records {
        let token = stored.unwrap().record.portal().unwrap().refresh_token;
        let expected = match id.number() {
            3 | 17 => "changed".to_owned(),
            31 => "new".to_owned(),
            number => format!("t{number}"),
        };
        assert_eq!(token.expose(), expected);
    }
    assert_eq!(store.load(&known).await.unwrap().unchanged.len(), passed.len(), "and again");
}

async fn a_record_of_some_size_survives(bed: &dyn Beneath) {
    let store = bed.store();
    let note = "x".repeat(40_000);
    create(&*store, PORTAL(), &record(&json!({"refresh_token": "t", "note": note}))).await;
    let found = store.read(PORTAL()).await.unwrap();
    assert!(found.record.to_json().len() > 40_000);
}

/// Not of Vault, where a value that is no object can't come about.
async fn a_damaged_record_is_corrupt_names_its_key_and_spoils_no_other(bed: &dyn Beneath) {
    let store = bed.store();
    for number in [1, 2, 3] {
        create(&*store, Key::Portal(portal(number)), &grant("CANARY")).await;
    }
    bed.damage(portal(2)).await;
    let error = store.read(Key::Portal(portal(2))).await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Corrupt, "{error}");
    assert!(error.what.contains("`portals/2`"), "{error}");
    assert!(!format!("{error:?}").contains("CANARY"));
    let keys = [1, 2, 3].map(|number| Key::Portal(portal(number)));
    for (key, outcome) in store.read_all(&keys).await {
        match key {
            key if key == keys[1] => assert_eq!(outcome.unwrap_err().kind, StoreErrorKind::Corrupt),
            _ => drop(outcome.unwrap()),
        }
    }
    assert_eq!(store.list().await.unwrap().portals.len(), 3);
}
