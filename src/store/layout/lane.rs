//! Changes to one shard, from one process: what comes together is written together, so that neighbours never
//! take each other's turn, and each is held against the member it was based on. Another process's write is met
//! by check-and-set. Knows no portals' places.

use std::{
    mem,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::{Mutex as Turn, Semaphore, oneshot};

use super::{
    super::{
        CredentialStore, Expected, Key, Record, StoreError, StoreErrorKind, Version, conflict,
    },
    shard::{LARGEST, Shard, member, version, with_member},
};
use crate::portal::PortalId;

/// Whole shards written by others in between, met by one change, before that is told.
const TRIES: u32 = 12;
/// Between them; each process waits for another time, or two would meet again and again.
const BETWEEN: Duration = Duration::from_millis(20);

/// What is to become of one member.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) portal: PortalId,
    /// None takes it away.
    pub(super) record: Option<Record>,
    pub(super) expected: Expected,
}

type Outcome = Result<Version, StoreError>;

#[derive(Debug)]
struct Waiting {
    change: Change,
    done: oneshot::Sender<Outcome>,
}

/// The way to one shard.
#[derive(Debug, Default)]
pub(super) struct Lane {
    waiting: Mutex<Vec<Waiting>>,
    turn: Turn<()>,
}

impl Lane {
    /// Carries `change` out, alone or with what came together with it. Gives the member's new version; for one
    /// that was taken away, the one it had.
    pub(super) async fn carry_out(
        &self,
        store: &dyn CredentialStore,
        writes: &Semaphore,
        shard: Shard,
        change: Change,
        as_text: bool,
    ) -> Outcome {
        let (done, mut heard) = oneshot::channel();
        self.waiting().push(Waiting { change, done });
        let turn = self.turn.lock().await;
        if let Ok(outcome) = heard.try_recv() {
            // Whoever had the turn before has done it.
            return outcome;
        }
        let permit = writes.acquire().await.ok();
        let batch = mem::take(&mut *self.waiting());
        write(store, shard, batch, as_text).await;
        drop(permit);
        drop(turn);
        heard.await.unwrap_or_else(|_| Err(broken_off(shard)))
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, Vec<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One reading and one write for all of `batch`, again if another process wrote in between.
async fn write(store: &dyn CredentialStore, shard: Shard, mut batch: Vec<Waiting>, as_text: bool) {
    let key = Key::Shard(shard);
    for attempt in 1..=TRIES {
        let (stored, expected) = match store.read(key).await {
            Ok(found) => (found.record, Expected::At(found.version)),
            Err(error) if error.kind == StoreErrorKind::Missing => {
                (Record::default(), Expected::Absent)
            }
            Err(error) => return fail(batch, &error),
        };
        let mut next = stored;
        let mut kept = Vec::new();
        for waiting in batch {
            match apply(&next, &waiting.change, as_text) {
                Ok((changed, version)) => {
                    next = changed;
                    kept.push((waiting, version));
                }
                Err(error) => tell(waiting, Err(error)),
            }
        }
        if kept.is_empty() {
            return;
        }
        match store.write(key, &next, &expected).await {
            Ok(_) => {
                for (waiting, version) in kept {
                    tell(waiting, Ok(version));
                }
                return;
            }
            Err(error) if error.kind == StoreErrorKind::Conflict && attempt < TRIES => {
                batch = kept.into_iter().map(|(waiting, _)| waiting).collect();
                tokio::time::sleep(BETWEEN * attempt * (1 + std::process::id() % 4)).await;
            }
            Err(error) => return fail(kept.into_iter().map(|(waiting, _)| waiting), &error),
        }
    }
}

/// `shard` after one change, and the member's version then.
fn apply(shard: &Record, change: &Change, as_text: bool) -> Result<(Record, Version), StoreError> {
    let Change { portal, record, expected } = change;
    let found = member(shard, *portal);
    let now = found.as_ref().and_then(|found| found.as_ref().ok()).map(version);
    match expected {
        Expected::Absent if found.is_some() => return Err(conflict(Key::Portal(*portal))),
        Expected::At(wanted) if now.as_ref() != Some(wanted) => {
            return Err(conflict(Key::Portal(*portal)));
        }
        Expected::Absent | Expected::At(_) => {}
    }
    let changed = with_member(shard, *portal, record.as_ref(), as_text);
    if record.is_some() && changed.to_json().len() > LARGEST {
        return Err(StoreError::new(
            StoreErrorKind::Misconfigured,
            format!(
                "`{}` was not written: its shard would be larger than 64 KB",
                Key::Portal(*portal)
            ),
            "Raise `shards` in the configuration, restart the service, and run `grantkeeper reshard`.",
        ));
    }
    let version = record.as_ref().map(version).or(now);
    Ok((changed, version.unwrap_or_else(|| Version(String::new()))))
}

fn tell(waiting: Waiting, outcome: Outcome) {
    // Whoever waited may have gone.
    waiting.done.send(outcome).ok();
}

fn fail(batch: impl IntoIterator<Item = Waiting>, error: &StoreError) {
    for waiting in batch {
        tell(waiting, Err(StoreError::new(error.kind, &error.what, &error.hint)));
    }
}

fn broken_off(shard: Shard) -> StoreError {
    let what = format!("writing `{}` was broken off", Key::Shard(shard));
    StoreError::new(StoreErrorKind::Unreachable, what, "Try again.")
}
