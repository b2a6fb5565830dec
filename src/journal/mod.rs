//! The journal: what must outlive this process and is not in the store yet. Intents before a refresh
//! token is spent (I4), answers before anything else is done with them (I3), incidents before anybody is told of
//! them (I12), and what a restart needs to go on without spending. Local, sealed, appended, synced. Knows no store and no HubSpot.
//!
//! A segment is a file that only grows. Its first frame says whose it is, the frames after it repeat
//! everything that was known when it was made, and then comes what has happened since. Each start, and
//! each failure to write, begins a new segment; the older ones go once the new one is durable. So
//! nothing is ever written behind a torn end, and the size is bounded by the number of portals.

use std::{fmt, io};

use tokio::sync::{mpsc, oneshot};

pub mod alerts;
pub mod disk;
pub mod entry;
mod frame;
mod keeper;
mod state;
pub mod trail;

pub use alerts::Standing;
pub use disk::{Disk, Folder, FolderError};
pub use entry::{Answer, Entry, Provider, WebhooksRead};
pub use keeper::{Keeper, OpenError, Recovered, open};
pub use state::{Settings, StateError, look_at_state, open_state};
pub use trail::{Access, Intent, Trail};

/// Entries that may wait to be written. At most one a portal waits, and at most as many portals as
/// may be at HubSpot at once; the rest are marks that nobody waits for.
const WAITING: usize = 4096;

/// An entry could not be made durable.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the journal could not be written")]
pub struct NotKept;

/// The way to the journal. Cheap to clone.
#[derive(Clone, Default)]
pub struct Journal {
    sender: Option<mpsc::Sender<Job>>,
}

#[derive(Debug)]
struct Job {
    entry: Entry,
    kept: Option<oneshot::Sender<Result<(), NotKept>>>,
    /// Whatever the disk said a moment ago.
    at_once: bool,
}

impl Journal {
    /// No journal: everything counts as kept, and nothing is.
    #[must_use]
    pub const fn none() -> Self {
        Self { sender: None }
    }

    /// Whether there is one.
    #[must_use]
    pub const fn is_there(&self) -> bool {
        self.sender.is_some()
    }

    /// Writes `entry`; it is durable when this returns well.
    ///
    /// # Errors
    /// The disk refused. The entry is tried again with the next one.
    pub async fn keep(&self, entry: Entry) -> Result<(), NotKept> {
        let Some(sender) = &self.sender else { return Ok(()) };
        let (kept, heard) = oneshot::channel();
        let job = Job { entry, kept: Some(kept), at_once: false };
        sender.send(job).await.map_err(|_| NotKept)?;
        heard.await.unwrap_or(Err(NotKept))
    }

    /// Writes `entry` after everything that was handed over before this call, whenever the answer is
    /// waited for: whether it is durable. A disk that refused a moment ago is asked again.
    pub fn keep_in_order(&self, entry: Entry) -> impl Future<Output = bool> + Send + use<> {
        let (kept, heard) = oneshot::channel();
        if let Some(sender) = &self.sender {
            // With thousands waiting it is dropped, and `heard` with it.
            sender.try_send(Job { entry, kept: Some(kept), at_once: true }).ok();
        }
        async move { matches!(heard.await, Ok(Ok(()))) }
    }

    /// Writes `entry` some time soon. For marks that only save work after a restart.
    pub fn note(&self, entry: Entry) {
        if let Some(sender) = &self.sender {
            // With thousands waiting, the mark is lost, and a restart looks once more than it must.
            sender.try_send(Job { entry, kept: None, at_once: false }).ok();
        }
    }
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Journal({})", if self.is_there() { "kept" } else { "none" })
    }
}

/// Says `error` once in the log's own words.
fn complain(what: &'static str, error: &io::Error) {
    tracing::error!(
        %error,
        hint = "See that state_dir is there, writable for the service's user, and not full.",
        "{what}"
    );
}
