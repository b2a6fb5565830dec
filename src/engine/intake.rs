//! What has to be asked of HubSpot and the store to take a grant in or to end one. Decides nothing of the portal's
//! state.

use std::time::Duration;

use serde_json::json;
use tokio::{sync::mpsc, time::sleep};

use super::{
    Denial, World,
    arrivals::{Fresh, InStore},
    denial::AGAIN,
    errands::Failed,
    load::StoredGrant,
    orders::{News, Offered, Removed, Waiting},
    work::Report,
};
use crate::{
    access::Portals,
    journal::Access,
    lifecycle::{ClientPair, Code, Generation, Refusal, RefusalClass},
    portal::{PortalId, Scopes},
    secret::{Fingerprint, RefreshToken},
    store::{Expected, Key, Record, StoreErrorKind, Stored},
    time::Stamp,
    validate::owner,
};

/// The pause before HubSpot is asked again whose a grant is.
const PAUSE: Duration = Duration::from_secs(1);
/// Nobody is sent away for longer, whatever HubSpot asks for.
const LONGEST_WAIT: Duration = Duration::from_secs(600);
/// What others write meanwhile is read again, and what is not answered asked again, so often.
const TRIES: u32 = 4;
/// When a grant came into the store.
const ENROLLED_AT: &str = "enrolled_at";

impl From<&Refusal> for Denial {
    fn from(refusal: &Refusal) -> Self {
        let again = refusal.retry_after.map_or(AGAIN, |after| after.clamp(PAUSE, LONGEST_WAIT));
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
    ) -> Result<Fresh, Failed> {
        // A code is good once: what it brings must have somewhere to go.
        let there = self.store.read(Key::App).await;
        there.map_err(|_| Failed::Otherwise(Denial::StoreUnreachable(AGAIN)))?;
        let fresh = match offered {
            Offered::RefreshToken(token) => self.recognise(pair, token).await?,
            Offered::Code(code) => self.exchange(pair, &code).await?,
        };
        if !reach.contain(fresh.portal) {
            return Err(Failed::Otherwise(Denial::NotYours(fresh.portal)));
        }
        Ok(fresh)
    }

    /// What stands in the store for a grant's portal.
    pub(super) async fn in_store(&self, fresh: &Fresh) -> InStore {
        match self.store.read(Key::Portal(fresh.portal)).await {
            Ok(Stored { record, version }) => {
                let grant = record.portal().map(|grant| grant.refresh_token);
                // A record without a usable grant is one to put this grant into.
                let refresh_token = grant.unwrap_or_else(|_| fresh.token.clone());
                InStore::Something(Box::new(StoredGrant { refresh_token, record, version }))
            }
            Err(error) if error.kind == StoreErrorKind::Missing => InStore::Nothing,
            Err(_) => InStore::Unknown,
        }
    }

    /// Whose grant this is, and with which scopes; none if it is not good for this app.
    ///
    /// # Errors
    /// HubSpot can't be asked, or refuses the question.
    pub async fn whose(
        &self,
        pair: &ClientPair,
        token: &RefreshToken,
    ) -> Result<Option<(PortalId, Option<Scopes>)>, Refusal> {
        Ok(owner(self.endpoint.introspect(pair, token).await?, &pair.client_id))
    }

    /// The same of a grant that a code brought. The code is used up: this is asked again and again before it is given up.
    ///
    /// # Errors
    /// As above.
    pub async fn whose_at_last(
        &self,
        pair: &ClientPair,
        token: &RefreshToken,
    ) -> Result<Option<(PortalId, Option<Scopes>)>, Refusal> {
        let mut told = self.whose(pair, token).await;
        for _ in 1..TRIES {
            let Err(refusal) = &told else { break };
            if !refusal.class.is_transient() {
                break;
            }
            sleep(refusal.retry_after.unwrap_or(PAUSE).clamp(PAUSE, AGAIN)).await;
            told = self.whose(pair, token).await;
        }
        told
    }

    async fn recognise(&self, pair: &ClientPair, token: RefreshToken) -> Result<Fresh, Failed> {
        let told = self.whose(pair, &token).await.map_err(Failed::AtHubSpot)?;
        let (portal, scopes) = told.ok_or(Failed::Otherwise(Denial::NotGood(None)))?;
        Ok(Fresh { portal, token, scopes, access: None })
    }

    async fn exchange(&self, pair: &ClientPair, code: &Code) -> Result<Fresh, Failed> {
        let started = self.clock.boot();
        let granted = self.endpoint.exchange(pair, code).await.map_err(Failed::AtHubSpot)?;
        let token = granted.refresh_token.ok_or(Failed::Otherwise(Denial::NotGood(None)))?;
        let portal = if let Some(portal) = granted.portal {
            portal
        } else {
            // Older versions of the API do not say whose it is.
            let told = self.whose_at_last(pair, &token).await.map_err(Failed::AtHubSpot)?;
            told.ok_or(Failed::Otherwise(Denial::NotGood(None)))?.0
        };
        let access = Access {
            token: granted.access_token,
            issued: Stamp::of(started, &*self.clock),
            expires_in: granted.expires_in,
            dated: granted.dated,
            scopes: granted.scopes.clone(),
        };
        let (access, scopes) = (Some((started, access)), granted.scopes);
        Ok(Fresh { portal, token, scopes, access })
    }

    pub(super) async fn take_in(
        self,
        pair: ClientPair,
        offered: Offered,
        reach: Portals,
        news: mpsc::Sender<News>,
    ) -> Report {
        let outcome = self.receive(&pair, offered, &reach).await.map(Box::new);
        Report::Came { outcome, news }
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

    /// Ends a grant at HubSpot, and removes its record.
    pub(super) async fn end_grant(
        self,
        portal: PortalId,
        pair: ClientPair,
        token: RefreshToken,
        known: Vec<Fingerprint>,
    ) -> Ended {
        let said = self.endpoint.revoke(&pair, &token).await;
        let outcome = match &said {
            Ok(()) => self.forget_record(portal, known, true).await,
            Err(refusal) => Err(Denial::from(refusal)),
        };
        Ended { portal, said, outcome }
    }

    /// Removes a portal's record, if the grant in it is one of those `known`. `revoked` says that it was ended at
    /// HubSpot.
    pub(super) async fn forget_record(
        self,
        portal: PortalId,
        known: Vec<Fingerprint>,
        revoked: bool,
    ) -> Result<Removed, Denial> {
        let key = Key::Portal(portal);
        let mut kind = StoreErrorKind::Unreachable;
        for _ in 0..TRIES {
            let removed = match self.store.read(key).await {
                Ok(stored) if is_another(&stored.record, &known) => return Err(Denial::Replaced),
                Ok(stored) => self.store.remove(key, &stored.version).await,
                Err(error) => Err(error),
            };
            match removed.map_err(|error| error.kind) {
                Ok(()) | Err(StoreErrorKind::Missing) => return Ok(Removed { revoked }),
                Err(StoreErrorKind::Conflict) => {}
                Err(other) => {
                    kind = other;
                    break;
                }
            }
        }
        Err(Denial::NotRemoved { denied: kind == StoreErrorKind::Denied, revoked })
    }
}

/// Whether a record holds a grant that is none of those `known`. One that can't be used holds none.
fn is_another(record: &Record, known: &[Fingerprint]) -> bool {
    record.portal().is_ok_and(|grant| !known.contains(&grant.refresh_token.fingerprint()))
}

/// What came of ending a grant.
#[derive(Debug)]
pub(super) struct Ended {
    portal: PortalId,
    said: Result<(), Refusal>,
    outcome: Result<Removed, Denial>,
}

impl Ended {
    pub(super) fn told_to(self, waiting: Waiting) -> Report {
        let Self { portal, said, outcome } = self;
        Report::Left { portal, asked: Some(said), outcome, waiting }
    }
}
