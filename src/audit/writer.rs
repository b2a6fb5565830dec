//! The one who writes: takes what has come together, chains it, writes it at once, syncs what must be
//! synced, tells those who wait. A thread of its own, since files block.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
    time::Duration,
};

use tokio::sync::{oneshot, watch};

use super::{
    Decision, OpenError,
    file::LogFile,
    line::{self, Event, Seen, Tip},
    tally::Tally,
};
use crate::time::{BootTime, Clock};

/// What was written is on the disk within this time, if it need not be at once; and a log that failed is
/// tried again as often.
const SYNC_EVERY: Duration = Duration::from_secs(1);
/// How often repeats are told.
const TELL_EVERY: Duration = Duration::from_secs(60);
/// As many lines are written at once.
const BATCH: usize = 512;

#[derive(Debug)]
pub(super) enum Job {
    Write { decision: Box<Decision>, durable: bool, done: oneshot::Sender<bool> },
    Reopen(oneshot::Sender<Result<(), OpenError>>),
    Close(oneshot::Sender<()>),
}

/// The ways to and from a writer.
pub(super) struct Started {
    pub(super) jobs: mpsc::Sender<Job>,
    /// Whether the last line could be written.
    pub(super) health: watch::Receiver<bool>,
    /// The last line.
    pub(super) tip: watch::Receiver<Tip>,
}

enum Place {
    File(PathBuf, LogFile),
    Stderr,
}

pub(super) struct Writer {
    place: Place,
    tip: Tip,
    shown: watch::Sender<Tip>,
    clock: Arc<dyn Clock>,
    tally: Arc<Mutex<Tally>>,
    health: watch::Sender<bool>,
    unsynced: bool,
    /// Decisions refused since the last line that could be written.
    refused: u64,
    told: BootTime,
    /// When the file was last looked for.
    looked: BootTime,
    /// It was removed, and can't be made anew.
    missing: bool,
}

impl Writer {
    pub(super) fn start(
        path: Option<&Path>,
        tally: Arc<Mutex<Tally>>,
        clock: Arc<dyn Clock>,
    ) -> Result<Started, OpenError> {
        let (place, found) = match path {
            Some(path) => {
                let (file, found) = LogFile::open(path)?;
                (Place::File(path.to_owned(), file), Some(found))
            }
            None => (Place::Stderr, None),
        };
        let (previous, torn) = found.map_or((None, None), |found| (found.tip, found.torn));
        let (health, watched) = watch::channel(true);
        let told = clock.boot();
        let tip = previous.clone().unwrap_or_else(Tip::none);
        let (shown, watched_tip) = watch::channel(tip.clone());
        let mut writer = Self {
            place,
            tip,
            shown,
            clock,
            tally,
            health,
            unsynced: false,
            refused: 0,
            told,
            looked: told,
            missing: false,
        };
        let opened = writer.opened(previous.as_ref(), torn);
        if let (Err(source), Some(path)) = (opened, path) {
            return Err(OpenError::Io { file: path.to_owned(), source });
        }
        let (sender, jobs) = mpsc::channel();
        let named = thread::Builder::new().name("audit".to_owned());
        let started = named.spawn(move || writer.run(&jobs));
        started.map_err(|source| OpenError::Io {
            file: path.unwrap_or(Path::new("-")).to_owned(),
            source,
        })?;
        Ok(Started { jobs: sender, health: watched, tip: watched_tip })
    }

    fn opened(&mut self, previous: Option<&Tip>, torn: Option<u64>) -> io::Result<()> {
        let version = env!("CARGO_PKG_VERSION");
        self.write(&[Event::Opened { previous, torn, version }], true)
    }

    fn run(mut self, jobs: &mpsc::Receiver<Job>) {
        loop {
            let job = match jobs.recv_timeout(SYNC_EVERY) {
                Ok(job) => Some(job),
                Err(mpsc::RecvTimeoutError::Timeout) => None,
                Err(mpsc::RecvTimeoutError::Disconnected) => return,
            };
            if let Some(done) = job.and_then(|job| self.work(job, jobs)) {
                self.tell_repeats();
                self.write(&[Event::Closed], true).ok();
                // Whoever waits for the end may open the file at once.
                drop(self);
                done.send(()).ok();
                return;
            }
            self.keep_house();
        }
    }

    /// Gives whoever waits for the end, if it has come.
    fn work(&mut self, first: Job, jobs: &mpsc::Receiver<Job>) -> Option<oneshot::Sender<()>> {
        let (mut batch, mut other) = (Vec::new(), None);
        let mut next = Some(first);
        while let Some(job) = next {
            match job {
                Job::Write { decision, durable, done } => batch.push((decision, durable, done)),
                job => {
                    other = Some(job);
                    break;
                }
            }
            next = if batch.len() < BATCH { jobs.try_recv().ok() } else { None };
        }
        if !batch.is_empty() {
            let durable = batch.iter().any(|(_, durable, _)| *durable);
            let events: Vec<_> = batch.iter().map(|(decision, ..)| event(decision)).collect();
            let written = self.write(&events, durable).is_ok();
            if !written {
                self.refused += events.len() as u64;
            }
            for (_, _, done) in batch {
                // Whoever waited may have gone.
                done.send(written).ok();
            }
        }
        match other {
            Some(Job::Reopen(done)) => drop(done.send(self.reopen())),
            Some(Job::Close(done)) => return Some(done),
            Some(Job::Write { .. }) | None => {}
        }
        None
    }

    fn keep_house(&mut self) {
        if !*self.health.borrow() {
            self.write(&[], true).ok();
        }
        let now = self.clock.boot();
        if now.since(self.looked) >= SYNC_EVERY {
            self.looked = now;
            self.find_again();
        }
        if now.since(self.told) >= TELL_EVERY {
            self.told = now;
            self.tell_repeats();
        }
        if self.unsynced {
            let synced = self.sync();
            self.note(&synced);
        }
    }

    /// Begins a new file where the one in use was removed: what went on into that, nobody could read.
    fn find_again(&mut self) {
        let removed = matches!(&self.place, Place::File(_, file) if file.is_nowhere());
        let failed = if removed { self.reopen().err() } else { None };
        if let Some(error) = failed.as_ref().filter(|_| !self.missing) {
            tracing::error!(%error, hint = %error.hint(), "the audit log's file was removed, and no new one can be made");
        }
        self.missing = failed.is_some();
    }

    fn tell_repeats(&mut self) {
        let tally = Arc::clone(&self.tally);
        let told = tally.lock().unwrap_or_else(PoisonError::into_inner).take();
        if told.is_empty() {
            return;
        }
        let repeats =
            |(seen, count): &(Seen, u64)| Event::Repeats { seen: seen.clone(), count: *count };
        let events: Vec<_> = told.iter().map(repeats).collect();
        if self.write(&events, false).is_err() {
            tally.lock().unwrap_or_else(PoisonError::into_inner).put_back(told);
        }
    }

    /// Writes these lines, after one that says how long there were none if that is so.
    fn write(&mut self, events: &[Event<'_>], durable: bool) -> io::Result<()> {
        let time = self.clock.wall();
        let (mut text, mut tip) = (String::new(), self.tip.clone());
        let failed = !*self.health.borrow();
        let resumed = failed.then_some(Event::Resumed { refused: self.refused });
        let durable = durable || failed;
        for event in resumed.iter().chain(events) {
            let (line, next) = line::write(&tip, time, event);
            text += &line;
            tip = next;
        }
        let written = match &mut self.place {
            Place::File(_, file) => file.append(text.as_bytes()),
            Place::Stderr => io::stderr().write_all(text.as_bytes()),
        };
        if written.is_ok() {
            self.shown.send_replace(tip.clone());
            self.tip = tip;
            self.unsynced = true;
        }
        let written = if durable { written.and_then(|()| self.sync()) } else { written };
        self.note(&written);
        written
    }

    fn sync(&mut self) -> io::Result<()> {
        if let Place::File(_, file) = &self.place {
            file.sync()?;
        }
        self.unsynced = false;
        Ok(())
    }

    /// Says how it went, where that is news.
    fn note(&mut self, written: &io::Result<()>) {
        let well = written.is_ok();
        if well {
            self.refused = 0;
        }
        let news = self.health.send_if_modified(|health| std::mem::replace(health, well) != well);
        match written {
            Err(error) if news => tracing::error!(
                %error,
                hint = "See that its disk is not full and that the service's user may write there.",
                "the audit log can't be written: nothing is answered until it can"
            ),
            Ok(()) if news => tracing::info!("the audit log is written again"),
            _ => {}
        }
    }

    fn reopen(&mut self) -> Result<(), OpenError> {
        let Place::File(path, file) = &self.place else { return Ok(()) };
        if file.is_at(path) {
            return Ok(());
        }
        let path = path.clone();
        // Before anything is said in the old one: if this fails, it goes on.
        let (next, found) = LogFile::open(&path)?;
        self.tell_repeats();
        self.write(&[Event::Closed], true).ok();
        let before = std::mem::replace(&mut self.place, Place::File(path.clone(), next));
        let tip = self.tip.clone();
        let previous = found.tip.unwrap_or_else(|| tip.clone());
        self.tip = previous.clone();
        if let Err(source) = self.opened(Some(&previous), found.torn) {
            (self.place, self.tip) = (before, tip);
            return Err(OpenError::Io { file: path, source });
        }
        tracing::info!(file = %path.display(), "the audit log goes on in a new file");
        Ok(())
    }
}

fn event(decision: &Decision) -> Event<'static> {
    Event::Decision { seen: Seen::of(decision), pid: decision.caller.pid() }
}
