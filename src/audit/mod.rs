//! The audit log: who was given or denied what. A line is in the file before the answer leaves (I11),
//! each chained to the one before it by hash, so that an edited or removed line shows. Knows no rules and
//! no engine: it is told decisions.
//!
//! The first of its kind is a line at once; repeats of the same caller, action, portal, token and outcome
//! are counted, and told once a minute. What changes something is synced before it is done.

use std::{
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, mpsc},
    time::Duration,
};

use tokio::{
    sync::{oneshot, watch},
    time::timeout,
};

use crate::{access::Caller, portal::PortalId, secret::Fingerprint, time::Clock};

mod file;
pub mod line;
mod tally;
pub mod verify;
mod writer;

pub use file::{OpenError, closed_to_others};
pub use verify::verify;

use line::{Seen, Tip};
use tally::Tally;
use writer::{Job, Started, Writer};

/// A disk that takes longer has taken nothing.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where the log goes, and what is in it (contract section 2, `[audit]`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The file; none is standard error.
    pub file: Option<PathBuf>,
    /// Whether repeats are counted or written one by one.
    pub repeats: Repeats,
}

/// What becomes of a decision that was taken before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Repeats {
    /// It is counted, and told once a minute.
    #[default]
    Count,
    /// It is a line like the first.
    Each,
}

/// A decision on what somebody asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Who asked.
    pub caller: Caller,
    /// What for.
    pub action: &'static str,
    /// About which portal, if about one.
    pub portal: Option<PortalId>,
    /// What was answered: `ok`, or the stable word of the refusal.
    pub outcome: &'static str,
    /// The token that was handed out.
    pub token: Option<Fingerprint>,
}

/// The line could not be written, so nothing may be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the audit log could not be written")]
pub struct NotWritten;

/// The way to the log. Cheap to clone; without a log everything counts as written.
#[derive(Clone, Default)]
pub struct Audit {
    log: Option<Log>,
}

#[derive(Clone)]
struct Log {
    jobs: mpsc::Sender<Job>,
    /// None: repeats are not counted.
    tally: Option<Arc<Mutex<Tally>>>,
    health: watch::Receiver<bool>,
    tip: watch::Receiver<Tip>,
}

impl Audit {
    /// No log.
    #[must_use]
    pub const fn none() -> Self {
        Self { log: None }
    }

    /// Opens the log, goes on where it ended, and begins to write.
    ///
    /// # Errors
    /// The file can't be opened, is somebody else's, or is no audit log.
    pub fn open(settings: &Settings, clock: Arc<dyn Clock>) -> Result<Self, OpenError> {
        let tally = Arc::new(Mutex::new(Tally::default()));
        let counted = settings.repeats == Repeats::Count;
        let started = Writer::start(settings.file.as_deref(), Arc::clone(&tally), clock)?;
        let Started { jobs, health, tip } = started;
        Ok(Self { log: Some(Log { jobs, tally: counted.then_some(tally), health, tip }) })
    }

    /// Whether there is one.
    #[must_use]
    pub const fn is_there(&self) -> bool {
        self.log.is_some()
    }

    /// Whether the last line could be written; changes as it changes. None where there is no log.
    #[must_use]
    pub fn health(&self) -> Option<watch::Receiver<bool>> {
        self.log.as_ref().map(|log| log.health.clone())
    }

    /// The last line, to compare a copy of the log with. None where there is no log.
    #[must_use]
    pub fn tip(&self) -> Option<Tip> {
        self.log.as_ref().map(|log| log.tip.borrow().clone())
    }

    /// Writes down a decision that changes nothing; returns once it is in the file, or counted as a
    /// repeat of one that is.
    ///
    /// # Errors
    /// It could not be written.
    pub async fn note(&self, decision: Decision) -> Result<(), NotWritten> {
        let Some(log) = &self.log else { return Ok(()) };
        // While nothing can be written there is no line that a repeat could be counted at.
        let Some(tally) = log.tally.as_ref().filter(|_| *log.health.borrow()) else {
            return log.write(decision, false).await;
        };
        let decision = {
            let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
            let seen = tally.widen(Seen::of(&decision));
            if tally.repeats(&seen) {
                return Ok(());
            }
            Decision { portal: seen.portal, token: seen.token, ..decision }
        };
        let seen = Seen::of(&decision);
        log.write(decision, false).await?;
        tally.lock().unwrap_or_else(PoisonError::into_inner).written(seen);
        Ok(())
    }

    /// Writes down a decision that changes something; returns once it is durable.
    ///
    /// # Errors
    /// It could not be written or synced.
    pub async fn note_durably(&self, decision: Decision) -> Result<(), NotWritten> {
        let Some(log) = &self.log else { return Ok(()) };
        log.write(decision, true).await
    }

    /// Goes on in a new file if the one in use was moved away.
    ///
    /// # Errors
    /// The new one can't be opened; the old one is written on.
    pub async fn reopen(&self) -> Result<(), OpenError> {
        let Some(log) = &self.log else { return Ok(()) };
        let (done, heard) = oneshot::channel();
        log.jobs.send(Job::Reopen(done)).ok();
        // A disk that hangs is not waited for, and is told of by what can't be written meanwhile.
        timeout(PATIENCE, heard).await.map_or(Ok(()), |heard| heard.unwrap_or(Ok(())))
    }

    /// Writes what was counted, says that the log ends here, and syncs.
    pub async fn close(&self) {
        let Some(log) = &self.log else { return };
        let (done, heard) = oneshot::channel();
        log.jobs.send(Job::Close(done)).ok();
        // A disk that hangs is not waited for.
        timeout(PATIENCE, heard).await.ok();
    }
}

impl Log {
    async fn write(&self, decision: Decision, durable: bool) -> Result<(), NotWritten> {
        let (done, heard) = oneshot::channel();
        let job = Job::Write { decision: Box::new(decision), durable, done };
        self.jobs.send(job).map_err(|_| NotWritten)?;
        match timeout(PATIENCE, heard).await {
            Ok(Ok(true)) => Ok(()),
            _ => Err(NotWritten),
        }
    }
}

impl fmt::Debug for Audit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Audit({})", if self.is_there() { "kept" } else { "none" })
    }
}

#[cfg(test)]
mod tests;
