//! Work towards HubSpot and the store, done outside the engine's turn and reported back to it. Each
//! piece runs to its end, whoever hangs up. Decides nothing.

use std::{sync::Arc, time::Duration};

use tokio::{sync::mpsc, time::timeout};

use super::{
    Denial, World,
    arrivals::{Arrival, Fresh},
    canary::Wish,
    errands::Failed,
    load::{self, Records, StoredGrant},
    orders::{News, Removed, Waiting},
    portals::Stamps,
};
use crate::{
    hubspot::introspect,
    journal::Entry,
    lifecycle::{ClientPair, Generation, Granted, Introspection, Refusal, RefusalClass},
    portal::PortalId,
    secret::{Fingerprint, RefreshToken},
    store::{Expected, Key, Known, Record, StoreError, Version},
    time::{BootTime, Stamp},
};

/// What came back.
#[derive(Debug)]
pub(super) enum Report {
    Intended {
        portal: PortalId,
        generation: Generation,
        durable: bool,
    },
    Kept {
        portal: PortalId,
        generation: Generation,
        durable: bool,
    },
    Noted,
    /// What stands in the app's record, for who wants the staged secret tried.
    Staged {
        pair: Result<ClientPair, StoreError>,
        wish: Wish,
    },
    /// What stands in the app's record now.
    PairRead(Result<ClientPair, StoreError>),
    /// A grant came by an order, or did not.
    Came {
        outcome: Result<Box<Fresh>, Failed>,
        news: mpsc::Sender<News>,
    },
    /// The journal has it, or will not.
    Arrived(Box<Arrival>),
    /// A removal has ended.
    Left {
        portal: PortalId,
        /// What HubSpot said, if it was asked to end the grant.
        asked: Option<Result<(), Refusal>>,
        outcome: Result<Removed, Denial>,
        waiting: Waiting,
    },
    /// Whether a journal that failed takes something again.
    JournalTried {
        durable: bool,
    },
    Refreshed {
        portal: PortalId,
        generation: Generation,
        spent: RefreshToken,
        started: BootTime,
        result: Result<Granted, Refusal>,
    },
    Introspected {
        portal: PortalId,
        generation: Generation,
        result: Result<Introspection, Refusal>,
    },
    Reread {
        portal: PortalId,
        generation: Generation,
        result: Result<StoredGrant, StoreError>,
    },
    Saved {
        portal: PortalId,
        generation: Generation,
        record: Record,
        token: RefreshToken,
        result: Result<Version, StoreError>,
    },
    Looked {
        portal: PortalId,
        stamp: u64,
        result: Result<StoredGrant, StoreError>,
    },
    Probed {
        pair: Result<ClientPair, StoreError>,
        verdict: Result<Introspection, Refusal>,
        /// The pair in the store is refused, and `pair`, the one from before, is not.
        record_refused: bool,
    },
    Reloaded {
        pair: Result<ClientPair, StoreError>,
        portals: Result<Records, StoreError>,
        stamps: Stamps,
    },
}

/// A grant to ask about when the app is in question.
#[derive(Debug)]
pub(super) struct Sample {
    pub(super) portal: PortalId,
    pub(super) token: RefreshToken,
    /// The store does not have it yet.
    pub(super) is_unsaved: bool,
}

impl World {
    pub(super) async fn intend(
        self,
        portal: PortalId,
        generation: Generation,
        spent: Fingerprint,
        patience: Duration,
    ) -> Report {
        let at = Stamp::of(self.clock.boot(), &*self.clock);
        let kept = timeout(patience, self.journal.keep(Entry::Intent { portal, spent, at })).await;
        let durable = matches!(kept, Ok(Ok(())));
        Report::Intended { portal, generation, durable }
    }

    pub(super) async fn keep(
        self,
        portal: PortalId,
        generation: Generation,
        entry: Entry,
        patience: Duration,
    ) -> Report {
        let durable = matches!(timeout(patience, self.journal.keep(entry)).await, Ok(Ok(())));
        Report::Kept { portal, generation, durable }
    }

    pub(super) async fn refresh(
        self,
        pair: ClientPair,
        portal: PortalId,
        generation: Generation,
        spent: RefreshToken,
        patience: Duration,
    ) -> Report {
        let started = self.clock.boot();
        tracing::trace!(%portal, point = "sending", "refresh");
        let result = self.endpoint.refresh(&pair, &spent, patience).await;
        tracing::trace!(%portal, point = "answered", "refresh");
        Report::Refreshed { portal, generation, spent, started, result }
    }

    pub(super) async fn introspect(
        self,
        pair: ClientPair,
        portal: PortalId,
        generation: Generation,
        token: RefreshToken,
    ) -> Report {
        let result = self.endpoint.introspect(&pair, &token).await;
        Report::Introspected { portal, generation, result }
    }

    pub(super) async fn reread(self, portal: PortalId, generation: Generation) -> Report {
        let stored = self.store.read(Key::Portal(portal)).await;
        let result = stored.and_then(|stored| StoredGrant::parse(portal, stored));
        Report::Reread { portal, generation, result }
    }

    pub(super) async fn look(self, portal: PortalId, stamp: u64) -> Report {
        let stored = self.store.read(Key::Portal(portal)).await;
        let result = stored.and_then(|stored| StoredGrant::parse(portal, stored));
        Report::Looked { portal, stamp, result }
    }

    pub(super) async fn save(
        self,
        portal: PortalId,
        generation: Generation,
        base: StoredGrant,
        token: RefreshToken,
        enrolled: bool,
    ) -> Report {
        let mut record = base.record.with_refresh_token(&token);
        if enrolled {
            record = self.dated(&record);
        }
        let expected = Expected::At(base.version);
        let result = self.store.write(Key::Portal(portal), &record, &expected).await;
        Report::Saved { portal, generation, record, token, result }
    }

    /// Reads the app's record and one portal's again, and asks HubSpot about both. Where the pair differs
    /// from `current` and is refused, `current` is asked about as well, so that a wrong edit does not
    /// take a good pair's place.
    pub(super) async fn probe(self, current: Option<ClientPair>, sample: Option<Sample>) -> Report {
        let stored = load::load_app(&*self.store).await;
        let token = self.newest(sample).await;
        let candidate = match (&stored, &current) {
            (Ok(stored), _) => stored.clone(),
            (Err(_), Some(current)) => current.clone(),
            (Err(_), None) => {
                let (class, http, word, retry_after) = (RefusalClass::Unknown, None, None, None);
                let verdict = Err(Refusal { class, http, word, retry_after });
                return Report::Probed { pair: stored, verdict, record_refused: false };
            }
        };
        let mut verdict = introspect(&*self.endpoint, &candidate, token.clone()).await;
        let mut pair = stored.map(|_| candidate.clone());
        let mut record_refused = false;
        let refused = verdict.as_ref().is_err_and(|r| r.class == RefusalClass::AppRefused);
        if let Some(current) = current
            && refused
            && !candidate.same_as(&current)
        {
            let second = introspect(&*self.endpoint, &current, token).await;
            if second.is_ok() {
                (pair, verdict, record_refused) = (Ok(current), second, true);
            }
        }
        Report::Probed { pair, verdict, record_refused }
    }

    /// The refresh token of a sample as the store has it now; as it was, if the store can't say.
    async fn newest(&self, sample: Option<Sample>) -> Option<RefreshToken> {
        let Sample { portal, token, is_unsaved } = sample?;
        if is_unsaved {
            return Some(token);
        }
        let stored = self.store.read(Key::Portal(portal)).await;
        let stored = stored.and_then(|stored| StoredGrant::parse(portal, stored));
        Some(stored.map_or(token, |stored| stored.refresh_token))
    }

    pub(super) async fn reload(self, stamps: Stamps, known: Known) -> Report {
        let pair = load::load_app(&*self.store).await;
        let portals = load::load_portals(&*self.store, &known).await;
        Report::Reloaded { pair, portals, stamps }
    }
}

/// Shares a permit pool among tasks of one kind.
pub(super) async fn limited<T>(
    permits: Arc<tokio::sync::Semaphore>,
    work: impl Future<Output = T>,
) -> T {
    // The pool is never closed; without a permit the work would still be right, only less polite.
    let _permit = permits.acquire().await.ok();
    work.await
}
