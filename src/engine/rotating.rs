//! The engine beside a rotation of the client secret: which secrets signatures are known by, whether what is staged or was
//! in use before waits for somebody, and when the app's record is looked at by itself. Rotates nothing.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;

use super::{Engine, canary::Canary, load::load_app, work::Report};
use crate::{
    hubspot::signature::Signers,
    incident::{KEPT_ON, Kind},
    lifecycle::ClientPair,
    store::StoreError,
    time::BootTime,
};

/// The app's record is looked at for a signature's sake no more often.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// A secret that has stood staged for so long is forgotten by whoever staged it.
const STAGED_FOR_LONG: Duration = Duration::from_secs(3600);

/// What is watched of a rotation.
#[derive(Debug, Default)]
pub(super) struct Watched {
    /// A try with the staged client secret, if one is under way.
    pub(super) canary: Option<Canary>,
    /// Since when a secret has been seen staged whose record does not say since when it is.
    staged_seen: Option<BootTime>,
    /// The same of one that was in use before.
    previous_seen: Option<BootTime>,
    /// When the app's record was last looked at for a signature's sake.
    pair_looked_at: Option<BootTime>,
}

impl Engine {
    /// By what signatures are known now, and whether a rotation waits for somebody.
    pub(super) fn follow_rotation(&mut self) {
        let Some(mut pair) = self.pair.clone() else { return };
        let (boot, wall) = (self.world.clock.boot(), self.world.clock.wall());
        let age = |at: Timestamp| Duration::try_from(wall.duration_since(at)).unwrap_or_default();
        let previous = pair.further.previous.is_some();
        self.watched.previous_seen = self.watched.previous_seen.or(Some(boot)).filter(|_| previous);
        let since = pair.further.promoted_at.map(age);
        let since = since.or_else(|| self.watched.previous_seen.map(|seen| boot.since(seen)));
        let kept = previous && since.is_some_and(|since| since > self.settings.keep_previous);
        if kept {
            pair.further.previous = None;
        }
        let staged = pair.further.next.is_some();
        self.watched.staged_seen = self.watched.staged_seen.or(Some(boot)).filter(|_| staged);
        let since = pair.further.staged_at.map(age);
        let since = since.or_else(|| self.watched.staged_seen.map(|seen| boot.since(seen)));
        if staged && since.is_some_and(|since| since > STAGED_FOR_LONG) {
            self.tell_open(Kind::RotationUnfinished, None, None);
        } else if kept {
            self.tell_open(Kind::RotationUnfinished, None, Some(KEPT_ON));
        } else {
            self.tell_close(Kind::RotationUnfinished, None);
        }
        self.view.signers.store(Arc::new(Signers::of(&pair)));
    }

    /// Somebody's signature does not fit: the secret it was made with may be younger than what was read last. The
    /// record alone is looked at, and not for each.
    pub(super) fn look_at_pair(&mut self) {
        let now = self.world.clock.boot();
        if self.watched.pair_looked_at.is_some_and(|last| now.since(last) < LOOK_EVERY)
            || self.draining
        {
            return;
        }
        self.watched.pair_looked_at = Some(now);
        self.read_pair();
    }

    /// Looks at the app's record alone, whoever else is being read.
    pub(super) fn read_pair(&mut self) {
        let store = Arc::clone(&self.world.store);
        self.tasks.spawn(async move { Report::PairRead(load_app(&*store).await) });
    }

    pub(super) fn pair_read(&mut self, pair: Result<ClientPair, StoreError>) {
        match pair {
            Ok(pair) if self.take_up(&pair) => {}
            Ok(_) => self.probe(),
            Err(error) => self.note_store("read_app", Some(&error)),
        }
    }

    /// What stands beside the secret in use may be new. Whether that one still is in use.
    pub(super) fn take_up(&mut self, pair: &ClientPair) -> bool {
        let same = self.pair.as_ref().is_some_and(|known| known.same_as(pair));
        if same {
            self.use_pair(pair.clone());
        }
        same
    }
}
