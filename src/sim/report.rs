//! What the stand-in tells of itself, to programs in its process and under `/_sim/`. Holds no
//! token and no secret.

use serde::Serialize;

use super::{
    World,
    fault::SetFault,
    settings::Settings,
    state::{Now, Standing},
};
use crate::portal::{ClientId, PortalId, Scopes};

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
        // exposed: into a lookup in our own table
        let good = portal
            .tokens
            .back()
            .is_some_and(|token| world.state.good(token.expose(), &world.settings, now).is_ok());
        Some(Self {
            portal: id,
            standing: portal.standing,
            scopes: portal.scopes.clone(),
            foreign: portal.foreign,
            generation: portal.generation,
            good,
            refreshes: portal.refreshes,
            refused: portal.refused,
            in_flight: portal.in_flight,
            in_flight_max: portal.in_flight_max,
        })
    }
}
