//! What only a file can do to us: wrong keys, open modes, other processes, cut-off writes, damage.

use std::{
    fs::{self, OpenOptions, Permissions},
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::Arc,
};

use grantkeeper::store::{
    CredentialStore, Expected, Key, StoreError, StoreErrorKind,
    file::{FileStore, Settings},
};
use redb::{Database, TableDefinition};
use serde_json::json;
use tempfile::TempDir;

use crate::{
    store_beds::{RECORDS, file_settings},
    support::{portal, record, temp_dir},
};

const SEVEN: fn() -> Key = || Key::Portal(portal(7));

async fn furnished(dir: &TempDir) -> FileStore {
    let store = FileStore::open(file_settings(dir)).unwrap();
    let grant = record(&json!({"refresh_token": "CANARY-grant"}));
    store.write(SEVEN(), &grant, &Expected::Absent).await.unwrap();
    store
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn assert_told(error: &StoreError, kind: StoreErrorKind, what: &str, hint: &str) {
    assert_eq!(error.kind, kind, "{error:?}");
    assert!(error.what.contains(what), "{error:?}");
    assert!(error.hint.contains(hint), "{error:?}");
    assert!(!format!("{error:?}").contains("CANARY"), "{error:?}");
}

#[tokio::test]
async fn key_and_file_are_made_once_and_for_their_owner_only() {
    let dir = temp_dir();
    let settings = file_settings(&dir);
    furnished(&dir).await;
    assert_eq!((mode(&settings.path), mode(&settings.key_file)), (0o600, 0o600));
    let key = fs::read(&settings.key_file).unwrap();
    let again = FileStore::open(settings.clone()).unwrap();
    assert_eq!(fs::read(&settings.key_file).unwrap(), key);
    again.read(SEVEN()).await.unwrap();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "nothing else is left behind");
}

#[tokio::test]
async fn without_create_key_nothing_is_made() {
    let dir = temp_dir();
    let settings = Settings { create_key: false, ..file_settings(&dir) };
    let error = FileStore::open(settings.clone()).unwrap_err();
    assert_told(&error, StoreErrorKind::Misconfigured, "no key file", "--create-key");
    furnished(&dir).await;
    fs::remove_file(&settings.path).unwrap();
    let error = FileStore::open(settings).unwrap_err();
    assert_told(&error, StoreErrorKind::Misconfigured, "is not there", "--create-key");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[tokio::test]
async fn a_lost_key_is_not_replaced_by_one_that_opens_nothing() {
    let dir = temp_dir();
    furnished(&dir).await;
    let settings = file_settings(&dir);
    fs::remove_file(&settings.key_file).unwrap();
    let error = FileStore::open(settings.clone()).unwrap_err();
    assert_told(&error, StoreErrorKind::Misconfigured, "no key file", "Put the key back");
    assert!(!settings.key_file.exists());
}

#[tokio::test]
async fn a_key_file_open_to_others_is_refused_with_the_command_that_closes_it() {
    let dir = temp_dir();
    furnished(&dir).await;
    let settings = file_settings(&dir);
    for loose in [0o640, 0o604, 0o660, 0o610] {
        fs::set_permissions(&settings.key_file, Permissions::from_mode(loose)).unwrap();
        let error = FileStore::open(settings.clone()).unwrap_err();
        assert_told(&error, StoreErrorKind::Denied, "open to others", "chmod 600");
    }
    for tight in [0o600, 0o400] {
        fs::set_permissions(&settings.key_file, Permissions::from_mode(tight)).unwrap();
        FileStore::open(settings.clone()).unwrap();
    }
}

#[tokio::test]
async fn a_key_that_is_no_key_is_refused_without_being_echoed() {
    let dir = temp_dir();
    furnished(&dir).await;
    let settings = file_settings(&dir);
    for text in ["", "CANARY", "Q0FOQVJZ", &"A".repeat(200)] {
        fs::write(&settings.key_file, text).unwrap();
        let error = FileStore::open(settings.clone()).unwrap_err();
        assert_told(&error, StoreErrorKind::Misconfigured, "32 bytes in base64", "right key");
    }
}

#[tokio::test]
async fn another_key_is_told_apart_from_a_damaged_value() {
    let (dir, other) = (temp_dir(), temp_dir());
    furnished(&dir).await;
    furnished(&other).await;
    let settings = Settings { key_file: file_settings(&other).key_file, ..file_settings(&dir) };
    let store = FileStore::open(settings).unwrap();
    for error in [
        store.check().await.unwrap_err(),
        store.read(SEVEN()).await.unwrap_err(),
        store.write(Key::App, &record(&json!({})), &Expected::Absent).await.unwrap_err(),
    ] {
        assert_told(&error, StoreErrorKind::Misconfigured, "not opened by this key", "key_file");
    }
}

#[tokio::test]
async fn i10_no_secret_stands_in_the_file_in_clear() {
    let dir = temp_dir();
    furnished(&dir).await;
    let bytes = fs::read(file_settings(&dir).path).unwrap();
    assert!(!bytes.windows(6).any(|window| window == b"CANARY"));
}

#[tokio::test]
async fn a_value_moved_under_another_name_does_not_open() {
    let dir = temp_dir();
    let store = furnished(&dir).await;
    let database = Database::open(file_settings(&dir).path).unwrap();
    let work = database.begin_write().unwrap();
    {
        let mut records = work.open_table(RECORDS).unwrap();
        let moved = records.remove("portals/7").unwrap().map(|entry| {
            let (version, sealed) = entry.value();
            (version, sealed.to_vec())
        });
        let (version, sealed) = moved.unwrap();
        records.insert("portals/8", (version, sealed.as_slice())).unwrap();
    }
    work.commit().unwrap();
    drop(database);
    let error = store.read(Key::Portal(portal(8))).await.unwrap_err();
    assert_told(&error, StoreErrorKind::Corrupt, "`portals/8`", "enrol again");
}

#[tokio::test]
async fn a_file_that_is_no_store_is_left_as_it_is() {
    let dir = temp_dir();
    furnished(&dir).await;
    let settings = file_settings(&dir);
    let text = "somebody's notes\n".repeat(1000);
    fs::write(&settings.path, &text).unwrap();
    let store = FileStore::open(settings.clone()).unwrap();
    let error = store.check().await.unwrap_err();
    assert_told(&error, StoreErrorKind::Misconfigured, "not a store of this program", "path");
    let grant = record(&json!({"refresh_token": "t"}));
    let error = store.write(SEVEN(), &grant, &Expected::Absent).await.unwrap_err();
    assert_told(&error, StoreErrorKind::Misconfigured, "not a store of this program", "path");
    assert_eq!(fs::read_to_string(&settings.path).unwrap(), text);
}

#[tokio::test]
async fn another_program_s_redb_file_is_not_a_store() {
    let dir = temp_dir();
    furnished(&dir).await;
    let settings = file_settings(&dir);
    fs::remove_file(&settings.path).unwrap();
    let database = Database::create(&settings.path).unwrap();
    let work = database.begin_write().unwrap();
    let foreign: TableDefinition<'_, u64, u64> = TableDefinition::new("foreign");
    work.open_table(foreign).unwrap().insert(1, 1).unwrap();
    work.commit().unwrap();
    drop(database);
    let error = FileStore::open(settings).unwrap().check().await.unwrap_err();
    assert_told(&error, StoreErrorKind::Misconfigured, "not a store of this program", "path");
}

#[tokio::test]
async fn a_truncated_file_is_an_error_at_every_length_and_never_a_panic_or_an_empty_store() {
    let dir = temp_dir();
    furnished(&dir).await;
    let settings = file_settings(&dir);
    let whole = fs::read(&settings.path).unwrap();
    let step = whole.len() / 24;
    for length in (0..whole.len() - step).step_by(step).chain([1, 511, 4095]) {
        fs::write(&settings.path, &whole[..length]).unwrap();
        let store = FileStore::open(settings.clone()).unwrap();
        if let Ok(found) = store.read(SEVEN()).await {
            let token = found.record.portal().unwrap().refresh_token;
            assert_eq!(token.expose(), "CANARY-grant", "cut at {length}");
            continue;
        }
        let error = store.read(SEVEN()).await.unwrap_err();
        let told = matches!(error.kind, StoreErrorKind::Corrupt | StoreErrorKind::Misconfigured);
        assert!(told, "cut at {length}: {error:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_handles_on_one_file_share_it() {
    let dir = temp_dir();
    let one = Arc::new(furnished(&dir).await);
    let two = Arc::new(FileStore::open(file_settings(&dir)).unwrap());
    let mut writers = tokio::task::JoinSet::new();
    for number in 10..30 {
        let store = Arc::clone(if number % 2 == 0 { &one } else { &two });
        writers.spawn(async move {
            let grant = record(&json!({"refresh_token": format!("t{number}")}));
            store.write(Key::Portal(portal(number)), &grant, &Expected::Absent).await
        });
    }
    while let Some(outcome) = writers.join_next().await {
        outcome.unwrap().unwrap();
    }
    assert_eq!(one.list().await.unwrap().portals.len(), 21);
}

#[tokio::test(start_paused = true)]
async fn a_file_held_open_by_another_for_long_is_unreachable_and_then_free_again() {
    let dir = temp_dir();
    let store = furnished(&dir).await;
    let holder = Database::open(file_settings(&dir).path).unwrap();
    let error = store.read(SEVEN()).await.unwrap_err();
    assert_told(&error, StoreErrorKind::Unreachable, "held open by another process", "fuser");
    drop(holder);
    store.read(SEVEN()).await.unwrap();
}

#[tokio::test]
async fn a_writer_killed_before_its_commit_leaves_the_last_state() {
    let dir = temp_dir();
    let store = furnished(&dir).await;
    let path = file_settings(&dir).path;
    let killed = dir.path().join("killed.redb");
    {
        let database = Database::open(&path).unwrap();
        let work = database.begin_write().unwrap();
        work.open_table(RECORDS).unwrap().insert("portals/7", (99, &[0_u8; 9000][..])).unwrap();
        // What a kill leaves behind: the file as it is now, marked as in use.
        fs::copy(&path, &killed).unwrap();
        work.abort().unwrap();
    }
    fs::rename(&killed, &path).unwrap();
    let found = store.read(SEVEN()).await.unwrap();
    assert_eq!(found.record.portal().unwrap().refresh_token.expose(), "CANARY-grant");
    let grant = record(&json!({"refresh_token": "next"}));
    store.write(SEVEN(), &grant, &Expected::At(found.version)).await.unwrap();
}

#[tokio::test]
async fn a_vanished_or_unreadable_file_is_told_by_its_cause() {
    let dir = temp_dir();
    let store = furnished(&dir).await;
    let path = file_settings(&dir).path;
    fs::remove_file(&path).unwrap();
    let error = store.check().await.unwrap_err();
    assert_told(&error, StoreErrorKind::Misconfigured, "is not there", "store.file.path");
    fs::create_dir(&path).unwrap();
    let error = store.check().await.unwrap_err();
    assert!(error.cause.is_some() || error.kind == StoreErrorKind::Misconfigured, "{error:?}");
    drop(OpenOptions::new().read(true).open(&path));
}
