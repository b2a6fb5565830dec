//! The one who writes: takes what has come together, writes it with one sync, tells those who wait.
//! And the one who reads, at start. Knows frames and the disk seam; decides nothing.

use std::{collections::BTreeMap, io, sync::Arc, time::Duration};

use tokio::sync::mpsc;

use super::{
    Disk, Job, Journal, NotKept, Provider, Trail, WAITING, complain,
    frame::{NotSealed, Reading, Writer, read},
    trail::Trails,
};
use crate::{
    portal::{AppName, PortalId},
    sealing::SealingKey,
    time::{BootTime, Clock},
};

/// A segment is replaced when it has grown by this much since it was made, or to twice its size.
const GROWTH: u64 = 1024 * 1024;
/// A segment is replaced when it is older, so that what is over a day old leaves the disk.
const OLDEST: Duration = Duration::from_secs(6 * 3600);
/// A new segment is everything that is known: on a disk that refuses it, it is not made up anew for each
/// entry.
const TRY_AGAIN: Duration = Duration::from_secs(10);
/// As many entries share one sync.
const BATCH: usize = 256;

/// What a start finds.
#[derive(Debug, Default)]
pub struct Recovered {
    /// What is known of each portal.
    pub trails: BTreeMap<PortalId, Trail>,
    /// What was learned of the provider.
    pub provider: Provider,
    /// Frames that the disk has changed since they were written.
    pub damaged: u32,
    /// A write was cut off: the process or the machine died in the middle of it.
    pub torn: bool,
}

/// The journal can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The disk says no.
    #[error("the journal in state_dir can't be read or written")]
    Disk(#[from] io::Error),
    /// The key opens none of it.
    #[error("the journal in state_dir is not opened by its key")]
    WrongKey,
    /// It is another app's.
    #[error("the journal in state_dir is that of the app \"{0}\"")]
    OtherApp(String),
}

impl OpenError {
    /// What to do about it, a sentence.
    #[must_use]
    pub const fn hint(&self) -> &'static str {
        match self {
            Self::Disk(_) => {
                "See that state_dir is writable for the service's user and that its disk is not full."
            }
            Self::WrongKey => {
                "Put the right key back. Without it, what the journal holds and the store does not is lost: move the folder away only if you accept that."
            }
            Self::OtherApp(_) => {
                "Give each app a state_dir of its own; if this app was renamed, name it as before or move the folder away."
            }
        }
    }
}

/// Writes what comes. Runs beside everything else, until nobody holds the [`Journal`] any more.
#[derive(Debug)]
pub struct Keeper {
    disk: Arc<dyn Disk>,
    key: SealingKey,
    app: AppName,
    clock: Arc<dyn Clock>,
    jobs: mpsc::Receiver<Job>,
    trails: Trails,
    segment: u64,
    /// How long the segment is, and was when it was made.
    length: u64,
    begun_with: u64,
    begun: BootTime,
    /// The segment's end can't be trusted: the next write begins a new one, from then on.
    broken: Option<BootTime>,
}

/// Reads the journal on `disk`, and begins a new segment.
///
/// # Errors
/// See [`OpenError`]. A torn end is no error, it is what a crash leaves behind.
pub async fn open(
    disk: Arc<dyn Disk>,
    key: SealingKey,
    app: &AppName,
    clock: Arc<dyn Clock>,
) -> Result<(Journal, Recovered, Keeper), OpenError> {
    let segments = disk.list().await?;
    let (mut trails, mut found) = (Trails::default(), Recovered::default());
    let mut readable = segments.is_empty();
    for segment in &segments {
        let Reading { app: owner, entries, torn, damaged } =
            read(&key, *segment, &disk.read(*segment).await?);
        found.damaged += damaged;
        found.torn |= torn;
        let Some(owner) = owner else { continue };
        if owner != app.as_str() {
            return Err(OpenError::OtherApp(owner));
        }
        readable = true;
        // A segment begins with all that was known; one that was left over before it adds nothing.
        trails = Trails::default();
        for entry in entries {
            trails.apply(entry);
        }
    }
    if !readable {
        return Err(OpenError::WrongKey);
    }
    let (sender, jobs) = mpsc::channel(WAITING);
    let mut keeper = Keeper {
        disk,
        key,
        app: app.clone(),
        begun: clock.boot(),
        clock,
        jobs,
        trails,
        segment: segments.last().copied().unwrap_or_default(),
        length: 0,
        begun_with: 0,
        broken: None,
    };
    match keeper.begin_segment().await {
        Ok(()) => {}
        // What there is has been read: a full disk is no reason not to serve. It is tried again.
        Err(error) if !segments.is_empty() => complain("the journal could not be written", &error),
        Err(error) => return Err(error.into()),
    }
    found.trails = keeper.trails.portals.clone();
    found.provider = keeper.trails.provider;
    Ok((Journal { sender: Some(sender) }, found, keeper))
}

impl From<NotSealed> for io::Error {
    fn from(_: NotSealed) -> Self {
        Self::other("an entry could not be sealed")
    }
}

impl Keeper {
    /// Writes until nobody holds the journal any more.
    pub async fn run(mut self) {
        while let Some(first) = self.jobs.recv().await {
            let mut batch = vec![first];
            while batch.len() < BATCH
                && let Ok(next) = self.jobs.try_recv()
            {
                batch.push(next);
            }
            let was_broken = self.broken.is_some();
            let outcome = self.write(&batch).await.map_err(|error| {
                if !was_broken {
                    complain("the journal could not be written", &error);
                }
                NotKept
            });
            for kept in batch.into_iter().filter_map(|job| job.kept) {
                // Whoever waited may have gone.
                kept.send(outcome.clone()).ok();
            }
        }
    }

    async fn write(&mut self, batch: &[Job]) -> io::Result<()> {
        // Remembered even if it can't be written now: it is part of the next segment.
        for job in batch {
            self.trails.apply(job.entry.clone());
        }
        let grown = self.length > self.begun_with.saturating_mul(2).max(self.begun_with + GROWTH);
        let old = self.clock.boot().since(self.begun) > OLDEST;
        if let Some(again) = self.broken {
            if self.clock.boot() < again {
                return Err(io::Error::other("it could not be written a moment ago"));
            }
            return self.begin_segment().await;
        }
        if grown || old {
            return self.begin_segment().await;
        }
        let mut writer = Writer::resume(&self.key, self.segment, self.length);
        for job in batch {
            writer.push(job.entry.clone())?;
        }
        let bytes = writer.finish();
        let length = self.length + bytes.len() as u64;
        let appended = self.disk.append(self.segment, bytes).await;
        if appended.is_err() {
            self.broken = Some(self.clock.boot());
        }
        self.length = length;
        appended
    }

    /// Everything that is known, in a segment of its own; those before it are no longer needed.
    async fn begin_segment(&mut self) -> io::Result<()> {
        self.trails.prune(&*self.clock);
        // A number is never used twice, not even after a failure: what it left behind is not known.
        self.segment += 1;
        let mut writer = Writer::begin(&self.key, self.segment, &self.app)?;
        for entry in self.trails.entries() {
            writer.push(entry)?;
        }
        let bytes = writer.finish();
        let length = bytes.len() as u64;
        if let Err(error) = self.disk.create(self.segment, bytes).await {
            self.broken = Some(self.clock.boot() + TRY_AGAIN);
            return Err(error);
        }
        (self.length, self.begun_with, self.begun) = (length, length, self.clock.boot());
        self.broken = None;
        let former = self.disk.list().await.unwrap_or_default();
        for segment in former.into_iter().filter(|segment| *segment < self.segment) {
            if let Err(error) = self.disk.remove(segment).await {
                complain("an old segment of the journal could not be removed", &error);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
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
        };
        Entry::Answered { portal: PortalId::new(number).unwrap(), answer }
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
        let entries =
            (0..4000).map(|n| answered(1 + n % 3, &format!("token-{n}-{}", "x".repeat(400))));
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

    /// Fails while it is told to.
    #[derive(Debug, Clone)]
    struct Full(Folder, Arc<std::sync::atomic::AtomicBool>);

    impl Full {
        fn check(&self) -> io::Result<()> {
            let full = self.1.load(std::sync::atomic::Ordering::SeqCst);
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
            self.0.create(segment, content).await
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

    #[tokio::test]
    async fn i3_a_full_disk_is_told_and_what_it_refused_is_written_once_there_is_room() {
        let place = Place::new();
        let full = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let folder = Folder::open(&place.dir.path().join("state")).unwrap();
        let disk = Full(folder, Arc::clone(&full));
        let key = SealingKey::from_bytes(&place.key).unwrap();
        let app = AppName::parse("acme").unwrap();
        let clock = PutOn::default();
        let opened = open(Arc::new(disk), key, &app, Arc::new(clock.clone())).await;
        let (journal, _, keeper) = opened.unwrap();
        let writing = async {
            full.store(true, std::sync::atomic::Ordering::SeqCst);
            assert!(journal.keep(answered(1, "one")).await.is_err());
            assert!(journal.keep(answered(2, "two")).await.is_err());
            full.store(false, std::sync::atomic::Ordering::SeqCst);
            *clock.0.lock().unwrap() += TRY_AGAIN;
            journal.keep(answered(3, "three")).await.unwrap();
            drop(journal);
        };
        tokio::join!(keeper.run(), writing);
        let found = place.keep(Vec::new()).await;
        assert!((1..=3).all(|number| newest(&found, number).is_some()));
    }

    #[tokio::test]
    async fn i9_a_disk_that_is_full_at_the_start_keeps_nobody_from_what_it_holds() {
        let place = Place::new();
        place.keep(vec![answered(1, "one")]).await;
        let full = Arc::new(std::sync::atomic::AtomicBool::new(true));
        let folder = Folder::open(&place.dir.path().join("state")).unwrap();
        let disk = Arc::new(Full(folder, Arc::clone(&full)));
        let key = || SealingKey::from_bytes(&place.key).unwrap();
        let app = AppName::parse("acme").unwrap();
        let clock = PutOn::default();
        let (journal, found, keeper) =
            open(disk, key(), &app, Arc::new(clock.clone())).await.unwrap();
        assert!(newest(&found, 1).is_some());
        let writing = async {
            assert!(journal.keep(answered(2, "two")).await.is_err());
            full.store(false, std::sync::atomic::Ordering::SeqCst);
            *clock.0.lock().unwrap() += TRY_AGAIN;
            journal.keep(answered(3, "three")).await.unwrap();
            drop(journal);
        };
        tokio::join!(keeper.run(), writing);
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
}
