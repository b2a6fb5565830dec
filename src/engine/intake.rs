//! What has to be asked of HubSpot and the store to take a grant in or to end one. Decides nothing of the portal's
//! state.

use std::time::Duration;

use serde_json::json;
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

use super::{
    Denial, World,
    load::StoredGrant,
    orders::{Arrival, Fresh, News, Offered, tell},
    work::Report,
};
use crate::{
    access::Portals,
    journal::{Access, Answer, Entry as Line},
    lifecycle::{ClientPair, Code, Generation, Introspection, Refusal, RefusalClass},
    portal::PortalId,
    secret::RefreshToken,
    store::{Expected, Key, Record, StoreErrorKind},
    time::Stamp,
};

/// A disk that takes longer has taken nothing.
const DISK_PATIENCE: Duration = Duration::from_secs(5);
/// A record that others write meanwhile is read again, so often.
const TRIES: u32 = 4;
/// When a grant came into the store.
const ENROLLED_AT: &str = "enrolled_at";

impl From<&Refusal> for Denial {
    fn from(refusal: &Refusal) -> Self {
        let again = refusal.retry_after.unwrap_or(Duration::from_secs(5));
        match refusal.class {
            RefusalClass::AppRefused => Self::AppRejected(again),
            RefusalClass::GrantRefused
            | RefusalClass::GrantMismatched
            | RefusalClass::PortalUnavailable
            | RefusalClass::NotUnderstood => Self::NotGood(refusal.word),
            _ => Self::HubspotUnreachable(again),
        }
    }
}

impl World {
    async fn receive(
        &self,
        pair: &ClientPair,
        offered: Offered,
        reach: &Portals,
    ) -> Result<Fresh, Denial> {
        // A code is good once: what it brings must have somewhere to go.
        let there = self.store.read(Key::App).await;
        there.map_err(|_| Denial::StoreUnreachable(Duration::from_secs(5)))?;
        let mut fresh = match offered {
            Offered::RefreshToken(token) => self.recognise(pair, token).await?,
            Offered::Code(code) => self.exchange(pair, &code).await?,
        };
        if !reach.contain(fresh.portal) {
            return Err(Denial::Forbidden);
        }
        if let Ok(stored) = self.store.read(Key::Portal(fresh.portal)).await {
            let grant = stored.record.portal().map(|grant| grant.refresh_token);
            // A record without a usable grant is one to put this grant into.
            let refresh_token = grant.unwrap_or_else(|_| fresh.token.clone());
            let (record, version) = (stored.record, stored.version);
            fresh.stored = Some(StoredGrant { refresh_token, record, version });
        }
        Ok(fresh)
    }

    async fn recognise(&self, pair: &ClientPair, token: RefreshToken) -> Result<Fresh, Denial> {
        let told = self.endpoint.introspect(pair, &token).await.map_err(|r| Denial::from(&r))?;
        match told {
            Introspection::Active { portal: Some(portal), client_id, scopes }
                if client_id.as_ref().is_none_or(|id| *id == pair.client_id) =>
            {
                Ok(Fresh { portal, token, scopes, access: None, stored: None })
            }
            _ => Err(Denial::NotGood(None)),
        }
    }

    async fn exchange(&self, pair: &ClientPair, code: &Code) -> Result<Fresh, Denial> {
        let started = self.clock.boot();
        let granted = self.endpoint.exchange(pair, code).await.map_err(|r| Denial::from(&r))?;
        let token = granted.refresh_token.ok_or(Denial::NotGood(None))?;
        let portal = match granted.portal {
            Some(portal) => portal,
            // Older versions of the API do not say whose it is.
            None => self.recognise(pair, token.clone()).await?.portal,
        };
        let access = Access {
            token: granted.access_token,
            issued: Stamp::of(started, &*self.clock),
            expires_in: granted.expires_in,
            dated: granted.dated,
            scopes: granted.scopes.clone(),
        };
        let access = Some((started, access));
        Ok(Fresh { portal, token, scopes: granted.scopes, access, stored: None })
    }

    pub(super) async fn take_in(
        self,
        pair: ClientPair,
        offered: Offered,
        reach: Portals,
        news: mpsc::Sender<News>,
    ) -> Report {
        let fresh = match self.receive(&pair, offered, &reach).await {
            Ok(fresh) => fresh,
            Err(denial) => {
                tell(&news, News::Refused(denial));
                return Report::NothingCame;
            }
        };
        let mut durable = false;
        if let Some((_, access)) = &fresh.access {
            let own = fresh.token.fingerprint();
            let before = fresh.stored.as_ref().map(|stored| stored.refresh_token.fingerprint());
            let answer = Answer {
                spent: before.unwrap_or(own),
                refresh_token: Some(fresh.token.clone()),
                access: Some(access.clone()),
                enrolled: fresh.stored.is_none(),
            };
            let line = Line::Answered { portal: fresh.portal, answer };
            // A disk that hangs keeps the grant from the store no longer than this.
            let kept = timeout(DISK_PATIENCE, self.journal.keep(line)).await;
            durable = self.journal.is_there() && matches!(kept, Ok(Ok(())));
            tracing::trace!(portal = %fresh.portal, durable, point = "enrolment_kept", "enrolment");
        }
        Report::Came(Box::new(Arrival { fresh, news, durable }))
    }

    /// The first record of a portal.
    pub(super) async fn save_new(
        self,
        portal: PortalId,
        generation: Generation,
        token: RefreshToken,
    ) -> Report {
        let record = self.dated(&Record::default().with_refresh_token(&token));
        let written = self.store.write(Key::Portal(portal), &record, &Expected::Absent).await;
        Report::Saved { portal, generation, record, token, result: written }
    }

    /// The record as that of a grant that comes in now.
    pub(super) fn dated(&self, record: &Record) -> Record {
        record.with_member(ENROLLED_AT, json!(self.clock.wall().to_string()))
    }

    pub(super) async fn take_away(
        self,
        portal: PortalId,
        grant: Option<(ClientPair, RefreshToken)>,
        done: oneshot::Sender<Result<(), Denial>>,
    ) -> Report {
        let outcome = self.end_and_forget(portal, grant).await;
        let gone = outcome.is_ok();
        done.send(outcome).ok();
        Report::Left { portal, gone }
    }

    async fn end_and_forget(
        &self,
        portal: PortalId,
        grant: Option<(ClientPair, RefreshToken)>,
    ) -> Result<(), Denial> {
        if let Some((pair, token)) = grant {
            self.endpoint.revoke(&pair, &token).await.map_err(|r| Denial::from(&r))?;
        }
        let key = Key::Portal(portal);
        for _ in 0..TRIES {
            let removed = match self.store.read(key).await {
                Ok(stored) => self.store.remove(key, &stored.version).await,
                Err(error) => Err(error),
            };
            match removed.map_err(|error| error.kind) {
                Ok(()) | Err(StoreErrorKind::Missing) => return Ok(()),
                Err(StoreErrorKind::Conflict) => {}
                Err(_) => break,
            }
        }
        Err(Denial::StoreUnreachable(Duration::from_secs(5)))
    }
}
