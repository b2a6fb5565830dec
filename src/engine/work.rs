//! Work towards HubSpot and the store, done outside the engine's turn and reported back to it. Each
//! piece runs to its end, whoever hangs up. Decides nothing.

use std::sync::Arc;

use super::{
    World,
    load::{self, Portals, StoredGrant},
    portals::Stamps,
};
use crate::{
    hubspot::prove,
    lifecycle::{ClientPair, Generation, Granted, Introspection, Refusal, RefusalClass},
    portal::PortalId,
    secret::RefreshToken,
    store::{Expected, Key, Record, StoreError, Version},
    time::BootTime,
};

/// What came back.
#[derive(Debug)]
pub(super) enum Report {
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
        verdict: Result<(), Refusal>,
    },
    Reloaded {
        pair: Result<ClientPair, StoreError>,
        portals: Result<(Portals, Vec<String>), StoreError>,
        stamps: Stamps,
    },
}

impl World {
    pub(super) async fn refresh(
        self,
        pair: ClientPair,
        portal: PortalId,
        generation: Generation,
        spent: RefreshToken,
    ) -> Report {
        let started = self.clock.boot();
        let result = self.endpoint.refresh(&pair, &spent).await;
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
    ) -> Report {
        let record = base.record.with_refresh_token(&token);
        let expected = Expected::At(base.version);
        let result = self.store.write(Key::Portal(portal), &record, &expected).await;
        Report::Saved { portal, generation, record, token, result }
    }

    /// Reads the app's record again and asks HubSpot whether the pair that stands there is good;
    /// where it differs from `current` and is refused, `current` is asked about as well, so that a
    /// wrong edit does not take a good pair's place.
    pub(super) async fn probe(self, current: ClientPair, sample: Option<RefreshToken>) -> Report {
        let stored = load::load_app(&*self.store).await;
        let candidate = stored.as_ref().unwrap_or(&current).clone();
        let mut verdict = prove(&*self.endpoint, &candidate, sample.clone()).await;
        let mut pair = stored.map(|_| candidate.clone());
        let refused = verdict.as_ref().is_err_and(|r| r.class == RefusalClass::AppRefused);
        if refused && !candidate.same_as(&current) {
            let second = prove(&*self.endpoint, &current, sample).await;
            if second.is_ok() {
                tracing::warn!(
                    "the app's record holds a client pair that HubSpot refuses; the one that works stays in use"
                );
                (pair, verdict) = (Ok(current), second);
            }
        }
        Report::Probed { pair, verdict }
    }

    pub(super) async fn reload(self, stamps: Stamps) -> Report {
        let pair = load::load_app(&*self.store).await;
        let portals = load::load_portals(&*self.store).await;
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
