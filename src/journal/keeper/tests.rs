//! The journal on real files: torn, full, foreign, and after any number of starts.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::{
    journal::{Access, Answer, Entry, Folder},
    secret::{AccessToken, RefreshToken},
    time::{Stamp, SystemClock},
};

struct Place {
    dir: tempfile::TempDir,
    key: [u8; 32],
    app: &'static str,
}

impl Place {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), key: [7; 32], app: "acme" }
    }

    async fn open(&self) -> Result<(Journal, Recovered, Keeper), OpenError> {
        let folder = Folder::open(&self.dir.path().join("state")).unwrap();
        let key = SealingKey::from_bytes(&self.key).unwrap();
        let app = AppName::parse(self.app).unwrap();
        open(Arc::new(folder), key, &app, Arc::new(SystemClock)).await
    }

    /// Opens it, has `entries` kept, and ends without a farewell.
    async fn keep(&self, entries: Vec<Entry>) -> Recovered {
        let (journal, found, keeper) = self.open().await.unwrap();
        let writing = async {
            for entry in entries {
                journal.keep(entry).await.unwrap();
            }
            drop(journal);
        };
        tokio::join!(keeper.run(), writing);
        found
    }

    fn segments(&self) -> Vec<std::path::PathBuf> {
        let entries = std::fs::read_dir(self.dir.path().join("state")).unwrap();
        let paths = entries.map(|entry| entry.unwrap().path());
        paths.filter(|path| path.extension().is_some_and(|ext| ext == "log")).collect()
    }
}

fn answered(number: u64, new: &str) -> Entry {
    let clock = SystemClock;
    let answer = Answer {
        spent: RefreshToken::parse("spent").unwrap().fingerprint(),
        refresh_token: RefreshToken::parse(new).ok(),
        access: Some(Access {
            token: AccessToken::parse("CANARY-access").unwrap(),
            issued: Stamp::of(clock.boot(), &clock),
            expires_in: Duration::from_secs(1800),
            dated: None,
            scopes: None,
        }),
        enrolled: false,
    };
    Entry::Answered { portal: PortalId::new(number).unwrap(), answer }
}

#[tokio::test]
async fn how_far_the_webhooks_journal_was_read_is_known_after_any_number_of_starts() {
    let place = Place::new();
    let read = |offset: &str| {
        let at = Stamp::of(SystemClock.boot(), &SystemClock);
        Entry::WebhooksRead(WebhooksRead { offset: offset.to_owned(), at })
    };
    assert!(place.keep(vec![answered(1, "a"), read("7"), read("8")]).await.webhooks.is_none());
    for _ in 0..2 {
        let found = place.keep(Vec::new()).await;
        assert_eq!(found.webhooks.as_ref().map(|read| read.offset.as_str()), Some("8"));
        assert!(newest(&found, 1).is_some(), "and nothing is lost beside it");
    }
}

fn newest(found: &Recovered, number: u64) -> Option<&RefreshToken> {
    found.trails.get(&PortalId::new(number).unwrap())?.newest.as_ref()
}

#[tokio::test]
async fn i3_what_was_kept_is_found_after_every_further_start() {
    let place = Place::new();
    place.keep(vec![answered(1, "one"), answered(2, "two")]).await;
    place.keep(vec![answered(2, "three")]).await;
    for _ in 0..2 {
        let found = place.keep(Vec::new()).await;
        assert!(newest(&found, 1).unwrap().same_as(&RefreshToken::parse("one").unwrap()));
        assert!(newest(&found, 2).unwrap().same_as(&RefreshToken::parse("three").unwrap()));
        assert_eq!((found.damaged, found.torn), (0, false));
    }
    assert_eq!(place.segments().len(), 1, "older segments go");
}

#[tokio::test]
async fn i3_a_torn_end_costs_what_was_being_written_and_nothing_else() {
    let place = Place::new();
    place.keep(vec![answered(1, "one"), answered(2, "two")]).await;
    let segment = place.segments().pop().unwrap();
    let bytes = std::fs::read(&segment).unwrap();
    std::fs::write(&segment, &bytes[..bytes.len() - 5]).unwrap();
    let found = place.keep(vec![answered(3, "three")]).await;
    assert!(found.torn && newest(&found, 1).is_some() && newest(&found, 2).is_none());
    let found = place.keep(Vec::new()).await;
    assert!(!found.torn && newest(&found, 1).is_some() && newest(&found, 3).is_some());
}

#[tokio::test]
async fn the_journal_stays_small_however_much_is_written() {
    let place = Place::new();
    let entries = (0..4000).map(|n| answered(1 + n % 3, &format!("token-{n}-{}", "x".repeat(400))));
    place.keep(entries.collect()).await;
    let size: u64 =
        place.segments().iter().map(|path| std::fs::metadata(path).unwrap().len()).sum();
    assert!(size < 2 * GROWTH, "{size} bytes");
    assert!(newest(&place.keep(Vec::new()).await, 1).is_some());
}

#[tokio::test]
async fn a_wrong_key_and_another_app_s_journal_are_refused_and_left_alone() {
    let mut place = Place::new();
    place.keep(vec![answered(1, "one")]).await;
    place.key = [8; 32];
    assert!(matches!(place.open().await, Err(OpenError::WrongKey)));
    (place.key, place.app) = ([7; 32], "other");
    assert!(matches!(place.open().await, Err(OpenError::OtherApp(name)) if name == "acme"));
    place.app = "acme";
    assert!(newest(&place.keep(Vec::new()).await, 1).is_some());
}

#[tokio::test]
async fn an_older_segment_that_was_left_over_adds_nothing() {
    let place = Place::new();
    place.keep(vec![answered(1, "one")]).await;
    let old = place.segments().pop().unwrap();
    let bytes = std::fs::read(&old).unwrap();
    place.keep(vec![answered(1, "two")]).await;
    std::fs::write(&old, bytes).unwrap();
    let found = place.keep(Vec::new()).await;
    assert!(newest(&found, 1).unwrap().same_as(&RefreshToken::parse("two").unwrap()));
}

#[tokio::test]
async fn what_a_killed_process_left_half_made_is_gone_after_the_next_start() {
    let place = Place::new();
    place.keep(vec![answered(1, "one")]).await;
    let draft = place.dir.path().join("state/.grantkeeper-abc123");
    std::fs::write(&draft, "half a segment").unwrap();
    assert!(newest(&place.keep(Vec::new()).await, 1).is_some());
    assert!(!draft.exists());
}

/// Fails while it is told to; a segment that could not be made may be there all the same.
#[derive(Debug, Clone)]
struct Full(Folder, Arc<AtomicBool>, Arc<AtomicBool>);

impl Full {
    fn check(&self) -> io::Result<()> {
        let full = self.1.load(Ordering::SeqCst);
        if full { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }
}

#[async_trait::async_trait]
impl Disk for Full {
    async fn list(&self) -> io::Result<Vec<u64>> {
        self.0.list().await
    }

    async fn read(&self, segment: u64) -> io::Result<Vec<u8>> {
        self.0.read(segment).await
    }

    async fn create(&self, segment: u64, content: Vec<u8>) -> io::Result<()> {
        self.check()?;
        self.0.create(segment, content).await?;
        if self.2.load(Ordering::SeqCst) { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    async fn append(&self, segment: u64, content: Vec<u8>) -> io::Result<()> {
        if let Err(error) = self.check() {
            // Some of it got there.
            self.0.append(segment, content[..content.len() / 2].to_vec()).await?;
            return Err(error);
        }
        self.0.append(segment, content).await
    }

    async fn remove(&self, segment: u64) -> io::Result<()> {
        self.0.remove(segment).await
    }
}

/// The machine's own clock, put on by the test.
#[derive(Debug, Clone, Default)]
struct PutOn(Arc<std::sync::Mutex<Duration>>);

impl Clock for PutOn {
    fn boot(&self) -> BootTime {
        SystemClock.boot() + *self.0.lock().unwrap()
    }

    fn wall(&self) -> jiff::Timestamp {
        SystemClock.wall()
    }

    fn boot_id(&self) -> crate::time::BootId {
        SystemClock.boot_id()
    }
}

impl Place {
    /// Opens it on a disk that is full or not, and has done what `writing` does with the journal and the
    /// switch; the room is made, and the time has come to try again, when it is turned off.
    async fn on_a_disk<W: Future<Output = ()>>(
        &self,
        full_at_start: bool,
        writing: impl FnOnce(Journal, Switch) -> W,
    ) -> Recovered {
        let full = Arc::new(AtomicBool::new(full_at_start));
        let folder = Folder::open(&self.dir.path().join("state")).unwrap();
        let nearly = Arc::new(AtomicBool::new(false));
        let disk = Arc::new(Full(folder, Arc::clone(&full), Arc::clone(&nearly)));
        let key = SealingKey::from_bytes(&self.key).unwrap();
        let clock = PutOn::default();
        let app = AppName::parse(self.app).unwrap();
        let opened = open(disk, key, &app, Arc::new(clock.clone())).await;
        let (journal, found, keeper) = opened.unwrap();
        tokio::join!(keeper.run(), writing(journal, Switch { full, nearly, clock }));
        found
    }
}

/// Whether the disk is full.
struct Switch {
    full: Arc<AtomicBool>,
    nearly: Arc<AtomicBool>,
    clock: PutOn,
}

impl Switch {
    fn fills_up(&self) {
        self.full.store(true, Ordering::SeqCst);
    }

    fn has_room(&self) {
        self.full.store(false, Ordering::SeqCst);
        *self.clock.0.lock().unwrap() += TRY_AGAIN;
    }
}

#[tokio::test]
async fn i3_a_disk_without_room_for_a_new_segment_goes_on_with_the_old_one() {
    let place = Place::new();
    let writing = async |journal: Journal, disk: Switch| {
        journal.keep(answered(1, "one")).await.unwrap();
        disk.nearly.store(true, Ordering::SeqCst);
        *disk.clock.0.lock().unwrap() += OLDEST * 2;
        journal.keep(answered(2, "two")).await.unwrap();
        journal.keep(answered(3, "three")).await.unwrap();
    };
    place.on_a_disk(false, writing).await;
    let found = place.keep(Vec::new()).await;
    assert!((1..=3).all(|number| newest(&found, number).is_some()), "{found:?}");
}

#[tokio::test]
async fn i3_a_full_disk_is_told_and_what_it_refused_is_written_once_there_is_room() {
    let place = Place::new();
    let writing = async |journal: Journal, disk: Switch| {
        disk.fills_up();
        assert!(journal.keep(answered(1, "one")).await.is_err());
        assert!(journal.keep(answered(2, "two")).await.is_err());
        disk.has_room();
        journal.keep(answered(3, "three")).await.unwrap();
    };
    place.on_a_disk(false, writing).await;
    let found = place.keep(Vec::new()).await;
    assert!((1..=3).all(|number| newest(&found, number).is_some()));
}

#[tokio::test]
async fn i9_a_disk_that_is_full_at_the_start_keeps_nobody_from_what_it_holds() {
    let place = Place::new();
    place.keep(vec![answered(1, "one")]).await;
    let writing = async |journal: Journal, disk: Switch| {
        assert!(journal.keep(answered(2, "two")).await.is_err());
        disk.has_room();
        journal.keep(answered(3, "three")).await.unwrap();
    };
    let found = place.on_a_disk(true, writing).await;
    assert!(newest(&found, 1).is_some());
    let found = place.keep(Vec::new()).await;
    assert!((1..=3).all(|number| newest(&found, number).is_some()));
}

#[tokio::test]
async fn i10_no_token_stands_on_the_disk_in_clear() {
    let place = Place::new();
    place.keep(vec![answered(1, "CANARY-refresh")]).await;
    let bytes = std::fs::read(place.segments().pop().unwrap()).unwrap();
    assert!(!bytes.windows(6).any(|window| window == b"CANARY"));
}
