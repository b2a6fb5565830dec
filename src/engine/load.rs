//! Reading the store into typed credentials, once: at start, by `init`, by `check`. A record that
//! can't be used is a finding, not an end. Knows no state and no schedule.

use std::collections::BTreeSet;

use super::{
    World,
    recovery::{self, HubSpotTime},
};
use crate::{
    journal::{Recovered, Trail},
    lifecycle::{ClientPair, FurtherSecrets},
    portal::PortalId,
    secret::RefreshToken,
    store::{
        CredentialStore, Key, Known, Record, StoreError, StoreErrorKind, Stored, Version,
        record::{Taken, corrupt},
    },
    time::Clock,
};

/// Everything the store holds for this app.
#[derive(Debug)]
pub struct Loaded {
    /// The client pair in use.
    pub pair: ClientPair,
    /// Every portal with a record, usable or not, ascending.
    pub portals: Vec<(PortalId, Result<StoredGrant, StoreError>)>,
    /// Names among the portals that are not portal ids.
    pub strays: Vec<String>,
}

/// One portal's grant with the record it stands in, so that a write keeps the rest.
#[derive(Debug, Clone)]
pub struct StoredGrant {
    /// What tokens are made from.
    pub refresh_token: RefreshToken,
    /// Everything in the record.
    pub record: Record,
    /// The state it was read in.
    pub version: Version,
}

impl StoredGrant {
    /// The grant in a record as read.
    ///
    /// # Errors
    /// The record can't be used.
    pub fn parse(portal: PortalId, stored: Stored) -> Result<Self, StoreError> {
        let grant = stored.record.portal().map_err(|fault| corrupt(Key::Portal(portal), &fault))?;
        let Stored { record, version } = stored;
        Ok(Self { refresh_token: grant.refresh_token, record, version })
    }
}

/// What an engine begins with.
#[derive(Debug)]
pub struct Start {
    /// What the store holds, or why it could not be read: then what the journal knows has to do.
    pub loaded: Result<Loaded, StoreErrorKind>,
    /// What the journal knows.
    pub recovered: Recovered,
    /// HubSpot's clock, where the age of what the journal knows depends on it.
    pub hubspot_time: Option<HubSpotTime>,
}

impl Start {
    /// How many portals can be served at once, with tokens that an earlier process was given.
    #[must_use]
    pub fn served(&self, clock: &dyn Clock) -> usize {
        let lives = |trail: &&Trail| lives(trail, clock, self.hubspot_time);
        self.recovered.trails.values().filter(lives).count()
    }

    /// With what was loaded.
    pub async fn new(world: &World, loaded: Loaded, recovered: Recovered) -> Self {
        let hubspot_time = HubSpotTime::ask_for(&recovered, world).await;
        Self { loaded: Ok(loaded), recovered, hubspot_time }
    }
}

impl From<Loaded> for Start {
    fn from(loaded: Loaded) -> Self {
        Self { loaded: Ok(loaded), recovered: Recovered::default(), hubspot_time: None }
    }
}

/// Reads the store for a start. Where it can't be read, and the journal knows of tokens that live, the
/// start goes on with those: apps are served, and the store is asked again.
///
/// # Errors
/// The store's, if there is nothing to go on with, or if what is wrong is not for the store to mend.
pub async fn start(world: &World, recovered: Recovered) -> Result<Start, StoreError> {
    match load(&*world.store).await {
        Ok(loaded) => Ok(Start::new(world, loaded, recovered).await),
        Err(error) => {
            let hubspot_time = HubSpotTime::ask_for(&recovered, world).await;
            let passing =
                matches!(error.kind, StoreErrorKind::Unreachable | StoreErrorKind::Denied);
            let start = Start { loaded: Err(error.kind), recovered, hubspot_time };
            if passing && start.served(&*world.clock) > 0 {
                tracing::error!(%error, hint = %error.hint, "the store can't be read; starting with the tokens that the journal knows");
                return Ok(start);
            }
            Err(error)
        }
    }
}

/// Whether an earlier process left a token that can still be served.
fn lives(trail: &Trail, clock: &dyn Clock, hubspot: Option<HubSpotTime>) -> bool {
    let access = trail.access.as_ref().filter(|_| trail.gone.is_none() && !trail.paused);
    access.is_some_and(|access| recovery::life(access, clock, hubspot).is_some())
}

/// The app's client pair.
///
/// # Errors
/// The store's, or an unusable record.
pub async fn load_app(store: &dyn CredentialStore) -> Result<ClientPair, StoreError> {
    let stored = store.read(Key::App).await?;
    let app = stored.record.app().map_err(|fault| corrupt(Key::App, &fault))?;
    let at = |what| app.steps.iter().rev().find(|step| step.what == what).map(|step| step.at);
    // What is staged now may be another hand's, and not that step's.
    let ended = at(Taken::Promoted).max(at(Taken::Discarded));
    let further = FurtherSecrets {
        staged_at: at(Taken::Staged).filter(|staged| ended.is_none_or(|ended| *staged >= ended)),
        promoted_at: at(Taken::Promoted).max(at(Taken::RolledBack)),
        next: app.next_client_secret,
        previous: app.previous_client_secret,
    };
    Ok(ClientPair { client_id: app.client_id, client_secret: app.client_secret, further })
}

/// The app's pair and every portal's grant.
///
/// # Errors
/// The app's record or the list of portals can't be had; one portal's trouble is in its own place.
pub async fn load(store: &dyn CredentialStore) -> Result<Loaded, StoreError> {
    let pair = load_app(store).await?;
    let Records { portals, strays, .. } = load_portals(store, &Known::new()).await?;
    Ok(Loaded { pair, portals, strays })
}

pub(super) type Portals = Vec<(PortalId, Result<StoredGrant, StoreError>)>;

/// What a reading of every portal's record brought.
#[derive(Debug)]
pub(super) struct Records {
    /// Those that were read.
    pub(super) portals: Portals,
    /// Those that are in the state in which they are known.
    pub(super) unchanged: BTreeSet<PortalId>,
    pub(super) strays: Vec<String>,
}

pub(super) async fn load_portals(
    store: &dyn CredentialStore,
    known: &Known,
) -> Result<Records, StoreError> {
    let contents = store.load(known).await?;
    let mut portals: Vec<_> = contents
        .records
        .into_iter()
        .map(|(id, stored)| (id, stored.and_then(|stored| StoredGrant::parse(id, stored))))
        .collect();
    portals.sort_unstable_by_key(|(id, _)| *id);
    let unchanged = contents.unchanged.into_iter().collect();
    Ok(Records { portals, unchanged, strays: contents.strays })
}
