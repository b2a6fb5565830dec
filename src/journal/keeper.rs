//! The one who writes: takes what has come together, writes it with one sync, tells those who wait.
//! And the one who reads, at start. Knows frames and the disk seam; decides nothing.

use std::{collections::BTreeMap, io, sync::Arc, time::Duration};

use tokio::sync::mpsc;

use super::{
    Disk, Job, Journal, NotKept, Provider, Standing, Trail, WAITING, WebhooksRead, complain,
    frame::{NotSealed, Reading, Writer, read},
    trail::Trails,
};
use crate::{
    portal::{AppName, PortalId},
    sealing::SealingKey,
    time::{Backoff, BootTime, Clock},
};

/// A segment is replaced when it has grown by this much since it was made, or to twice its size.
const GROWTH: u64 = 1024 * 1024;
/// A segment is replaced when it is older, so that what is over a day old leaves the disk.
const OLDEST: Duration = Duration::from_secs(6 * 3600);
/// A new segment is everything that is known: on a disk that refuses it, it is not made up anew for each
/// entry, but after this long, and then ever more rarely: once a minute if it is large.
const TRY_AGAIN: Duration = Duration::from_secs(2);
const OFTEN: Duration = Duration::from_secs(4);
const SELDOM: Duration = Duration::from_secs(60);
/// A segment of so many bytes is large.
const LARGE: u64 = 1024 * 1024;
/// As many entries share one sync.
const BATCH: usize = 256;

/// What a start finds.
#[derive(Debug, Default)]
pub struct Recovered {
    /// What is known of each portal.
    pub trails: BTreeMap<PortalId, Trail>,
    /// What was learned of the provider.
    pub provider: Provider,
    /// What was open, or is not told yet.
    pub alerts: Vec<Standing>,
    /// How far the webhooks journal had been read.
    pub webhooks: Option<WebhooksRead>,
    /// Frames that the disk has changed since they were written.
    pub damaged: u32,
    /// A write was cut off: the process or the machine died in the middle of it.
    pub torn: bool,
}

impl Recovered {
    /// The life that HubSpot gave the newest access token.
    #[must_use]
    pub fn token_life(&self) -> Option<Duration> {
        let given = self.trails.values().filter_map(|trail| trail.access.as_ref());
        given.max_by_key(|access| access.issued.wall()).map(|access| access.expires_in)
    }
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
    /// The highest number that any segment was given.
    numbered: u64,
    /// How long the segment is, and was when it was made.
    length: u64,
    begun_with: u64,
    begun: BootTime,
    /// The segment's end can't be trusted: the next write begins a new one, from then on.
    broken: Option<BootTime>,
    /// How often the disk has refused a new segment, in a row.
    refusals: u32,
    /// When it is tried again to begin a new one, while the old one still takes what is new.
    again: Option<BootTime>,
}

/// What all segments add up to.
pub(super) async fn recover(
    disk: &dyn Disk,
    key: &SealingKey,
    app: &AppName,
) -> Result<(Trails, Recovered, Vec<u64>), OpenError> {
    let segments = disk.list().await?;
    let (mut trails, mut found) = (Trails::default(), Recovered::default());
    let mut readable = segments.is_empty();
    for segment in &segments {
        let Reading { app: owner, entries, torn, damaged } =
            read(key, *segment, &disk.read(*segment).await?);
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
    Ok((trails, found, segments))
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
    let (trails, mut found, segments) = recover(&*disk, &key, app).await?;
    let (sender, jobs) = mpsc::channel(WAITING);
    let mut keeper = Keeper {
        disk,
        key,
        app: app.clone(),
        begun: clock.boot(),
        clock,
        jobs,
        trails,
        segment: 0,
        numbered: segments.last().copied().unwrap_or_default(),
        length: 0,
        begun_with: 0,
        broken: None,
        refusals: 0,
        again: None,
    };
    match keeper.begin_segment(true).await {
        Ok(()) => {}
        // What there is has been read: a full disk is no reason not to serve. It is tried again.
        Err(error) if !segments.is_empty() => complain("the journal could not be written", &error),
        Err(error) => return Err(error.into()),
    }
    found.trails = keeper.trails.portals.clone();
    found.provider = keeper.trails.provider;
    found.alerts = keeper.trails.alerts.all().cloned().collect();
    found.webhooks.clone_from(&keeper.trails.webhooks);
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
            if batch.iter().any(|job| job.at_once) {
                self.broken = self.broken.map(|again| again.min(self.clock.boot()));
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
            return self.begin_segment(false).await;
        }
        let may_be_renewed = self.again.is_none_or(|again| again <= self.clock.boot());
        if (grown || old) && may_be_renewed {
            match self.begin_segment(false).await {
                // There is no room for everything once more; for what is new there may be.
                Err(_) if self.is_gone(self.numbered).await => self.again = self.broken.take(),
                begun => return begun,
            }
        }
        self.append(batch).await
    }

    /// Whether a segment that could not be made is not there after all: it would count for more than what is
    /// written to the one before it.
    async fn is_gone(&self, segment: u64) -> bool {
        self.disk.remove(segment).await.is_ok()
            || self.disk.list().await.is_ok_and(|all| !all.contains(&segment))
    }

    async fn append(&mut self, batch: &[Job]) -> io::Result<()> {
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
    async fn begin_segment(&mut self, starting: bool) -> io::Result<()> {
        self.trails.prune(&*self.clock, starting);
        // A number is never used twice, not even after a failure: what it left behind is not known.
        self.numbered += 1;
        let segment = self.numbered;
        let mut writer = Writer::begin(&self.key, segment, &self.app)?;
        for entry in self.trails.entries() {
            writer.push(entry)?;
        }
        let bytes = writer.finish();
        let length = bytes.len() as u64;
        if let Err(error) = self.disk.create(segment, bytes).await {
            self.refusals += 1;
            let longest = if length < LARGE { OFTEN } else { SELDOM };
            let wait = Backoff::new(TRY_AGAIN, longest, 0.0);
            let wait = wait.map_or(longest, |wait| wait.after(self.refusals, 0.0));
            self.broken = Some(self.clock.boot() + wait);
            return Err(error);
        }
        self.segment = segment;
        (self.length, self.begun_with, self.begun) = (length, length, self.clock.boot());
        (self.broken, self.again, self.refusals) = (None, None, 0);
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
mod tests;
