//! Reading all records again: on schedule, at somebody's wish, after a start without the store. Reads and
//! waits; what a record means for a portal is `records`' business.

use std::time::Duration;

use tokio::sync::oneshot;

use super::{Engine, load, portals::Stamps};
use crate::{
    lifecycle::ClientPair,
    store::{Known, StoreError, StoreErrorKind},
    time::{Backoff, BootTime},
};

/// Whoever waits for records to be read again, and to hear whether the client pair in use is the one that is stored.
pub(super) type Waiting = oneshot::Sender<Result<bool, StoreErrorKind>>;

/// The reading of all records: when the next is due, and who waits for what.
#[derive(Debug)]
pub(super) struct Reload {
    pub(super) due: BootTime,
    running: bool,
    /// For the end of the reading under way.
    reading: Vec<Waiting>,
    /// For a reading that begins after the one under way: that may have passed the record by which
    /// they mean.
    next: Vec<Waiting>,
    /// For the pair that was read to be proven.
    proving: Vec<Waiting>,
}

impl Reload {
    pub(super) fn due_at(due: BootTime) -> Self {
        Self { due, running: false, reading: Vec::new(), next: Vec::new(), proving: Vec::new() }
    }

    /// The pair that was read is proven and in use, or can't be at present.
    pub(super) fn proven(&mut self, in_use: bool) {
        answer(self.proving.drain(..), Ok(in_use));
    }

    /// When the next is due, unless one is under way.
    pub(super) fn wakes(&self) -> Option<BootTime> {
        (!self.running).then_some(self.due)
    }
}

fn answer(waiting: impl IntoIterator<Item = Waiting>, outcome: Result<bool, StoreErrorKind>) {
    for waiting in waiting {
        // Whoever asked may have gone.
        waiting.send(outcome).ok();
    }
}

impl Engine {
    /// Reads every record again, for whoever wants to hear of it.
    pub(super) fn reload_for(&mut self, waiting: Waiting) {
        if self.reload.running {
            self.reload.next.push(waiting);
        } else {
            self.reload.reading.push(waiting);
            self.reload();
        }
    }

    pub(super) fn reload(&mut self) {
        if self.reload.running || self.draining {
            return;
        }
        self.reload.running = true;
        let (lag, ordered) = (self.world.store.lag(), !self.reload.reading.is_empty());
        let every = self.settings.validate.every;
        // Where lists are behind, an order to look means to look at everything, and once more when the list
        // must have caught up.
        let behind = ordered && !lag.is_zero();
        let next = if behind { every.min(lag) } else { every };
        self.reload.due = self.world.clock.boot() + next;
        let known = if behind { Known::new() } else { self.portals.known() };
        let stamps = self.portals.stamps();
        self.tasks.spawn(self.world.clone().reload(stamps, known));
    }

    pub(super) fn reloaded(
        &mut self,
        pair: &Result<ClientPair, StoreError>,
        portals: Result<load::Records, StoreError>,
        stamps: &Stamps,
    ) {
        self.reload.running = false;
        // A store that takes as long as the period to be read is left in peace for half of it.
        let (half, lag) = (self.settings.validate.every / 2, self.world.store.lag());
        let rest = if lag.is_zero() { half } else { half.min(lag) };
        self.reload.due = self.reload.due.max(self.world.clock.boot() + rest);
        let waiting = std::mem::take(&mut self.reload.reading);
        let trouble = pair.as_ref().err().or_else(|| portals.as_ref().err());
        // Where the engine stops, nobody asks HubSpot about the pair any more.
        let outcome = trouble.map_or(Ok(false), |error| Err(error.kind));
        if let Some(error) = trouble {
            tracing::warn!(%error, hint = %error.hint, "records could not be read again; going on with those in memory");
            let again = Backoff::new(Duration::from_secs(5), Duration::from_secs(300), 0.2);
            let wait = again.map_or(self.settings.validate.every, |backoff| {
                backoff.after(self.overall.store.failures + 1, self.chance.draw())
            });
            self.reload.due = self.world.clock.boot() + wait.min(self.settings.validate.every);
        }
        self.note_store("list", trouble);
        // A store that has lost the app's record has lost the others with it: nobody has taken them out.
        let all_gone = pair.as_ref().is_err_and(|error| error.kind == StoreErrorKind::Missing);
        if let (Ok(records), false) = (portals, all_gone) {
            let load::Records { portals, unchanged, strays } = records;
            self.overall.without_store = false;
            self.overall.strays = strays;
            self.overall.records_read = Some(self.world.clock.wall_at(self.world.clock.boot()));
            self.overall_changed = true;
            self.take_records(portals, &unchanged, Some(stamps));
            self.follow_budget();
        }
        if let (None, Ok(pair)) = (&self.pair, pair) {
            // After a start without the store any pair is better than none.
            self.use_pair(pair.clone());
        }
        // Who waits for the reload waits for the pair to be proven as well.
        if outcome.is_err() || self.draining {
            answer(waiting, outcome);
        } else {
            self.reload.proving.extend(waiting);
        }
        if pair.is_ok() && !self.draining {
            self.probe();
        }
        self.reload.reading = std::mem::take(&mut self.reload.next);
        if !self.reload.reading.is_empty() {
            self.reload();
        }
    }
}
