//! What the stand-in tells of itself, to programs in its process and under `/_sim/`. Holds no
//! token and no secret.

use serde::Serialize;

use super::{
    World,
    fault::SetFault,
    settings::Settings,
    state::{Now, Standing},
};
use crate::{
    portal::{ClientId, PortalId, Scopes},
    secret::RefreshToken,
};

/// The whole of it.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The app's public identifier.
    pub client_id: ClientId,
    /// HubSpot's number for the app.
    pub app_id: u32,
    /// How it behaves.
    pub settings: Settings,
    /// What goes wrong.
    pub faults: Vec<SetFault>,
    /// How many portals it knows.
    pub portals_total: usize,
    /// Presentations of refresh tokens so far.
    pub presentations: u64,
    /// Refreshes granted so far.
    pub refreshes: u64,
    /// The most requests to the token endpoint within any one second.
    pub worst_second: usize,
    /// The most refreshes of one portal in flight at one time: 1 is what should be.
    pub in_flight_max: u32,
}

impl Report {
    pub(super) fn of(world: &World) -> Self {
        let portals = || world.state.portals.values();
        Self {
            client_id: world.state.client_id.clone(),
            app_id: world.state.app_id,
            settings: world.settings.clone(),
            faults: world.faults.list().to_vec(),
            portals_total: world.state.portals.len(),
            presentations: world.ledger.len(),
            refreshes: portals().map(|portal| portal.refreshes).sum(),
            worst_second: world.arrived.worst(),
            in_flight_max: portals().map(|portal| portal.in_flight_max).max().unwrap_or_default(),
        }
    }
}

/// One portal.
#[derive(Debug, Clone, Serialize)]
pub struct PortalReport {
    /// Its id.
    pub portal: PortalId,
    /// Whether it has the app.
    pub standing: Standing,
    /// What it has consented to.
    pub scopes: Scopes,
    /// Whether its grants belong to another app.
    pub foreign: bool,
    /// How many refresh tokens it was ever given.
    pub generation: u32,
    /// Whether the newest of them would be granted a refresh now.
    pub good: bool,
    /// The last sixteen of them, oldest first.
    pub tokens: Vec<TokenReport>,
    /// Refreshes granted.
    pub refreshes: u64,
    /// Refreshes refused.
    pub refused: u64,
    /// Refreshes in flight.
    pub in_flight: u32,
    /// The most that ever were.
    pub in_flight_max: u32,
}

impl PortalReport {
    pub(super) fn of(world: &World, id: PortalId, now: Now) -> Option<Self> {
        let portal = world.state.portals.get(&id)?;
        let tokens: Vec<TokenReport> =
            portal.tokens.iter().map(|token| TokenReport::of(world, token, now)).collect();
        Some(Self {
            portal: id,
            standing: portal.standing,
            scopes: (*portal.scopes).clone(),
            foreign: portal.foreign,
            generation: portal.generation,
            good: tokens.last().is_some_and(|token| token.good),
            tokens,
            refreshes: portal.refreshes,
            refused: portal.refused,
            in_flight: portal.in_flight,
            in_flight_max: portal.in_flight_max,
        })
    }
}

/// One refresh token, by name.
#[derive(Debug, Clone, Serialize)]
pub struct TokenReport {
    /// Its fingerprint, as the ledger has it.
    pub token: String,
    /// Its place among the portal's tokens, from 1.
    pub generation: u32,
    /// Whether a refresh with it would be granted now.
    pub good: bool,
}

impl TokenReport {
    fn of(world: &World, token: &RefreshToken, now: Now) -> Self {
        // exposed: into lookups in our own table
        let text = token.expose();
        let issued = world.state.issued(text);
        Self {
            token: token.fingerprint().to_string(),
            generation: issued.map(|issued| issued.generation).unwrap_or_default(),
            good: world.state.good(text, &world.settings, now).is_ok(),
        }
    }
}
