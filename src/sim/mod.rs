//! A stand-in for HubSpot's OAuth and account endpoints, for demonstrations and for anybody's
//! integration tests. It behaves as HubSpot is known to, goes wrong on order, and keeps the ground
//! truth of what was presented to it. Of the rest of this crate it knows only HubSpot's words.
//!
//! [`Sim`] is the handle; what it does for programs in the same process, its control API under
//! `/_sim/` does for others (`docs/simulator.md`).

use std::{
    fmt, io,
    net::SocketAddr,
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::net::{TcpListener, ToSocketAddrs};
use tokio_util::sync::CancellationToken;

pub use self::{
    api::{Endpoint, Version},
    fault::{Effect, Fault, FaultId, HttpFault, SetFault},
    journal::{Action, Event},
    ledger::{Delivery, Presentation},
    refusal::Refusal,
    report::{PortalReport, Report, TokenReport},
    scenario::{AppScenario, FleetScenario, Mistake, PortalScenario, Scenario, ScenarioError},
    serve::InProcess,
    settings::{BadHubHttp, Gone, Indicator, RateLimit, Settings, Uninstalled},
    state::Standing,
};
use self::{
    fault::Faults,
    ledger::Ledger,
    state::{Code, Now, State},
    window::Window,
};
use crate::{
    portal::{ClientId, PortalId, Scopes},
    secret::{ClientSecret, RefreshToken},
    time::Clock,
};

mod account;
mod answer;
mod api;
mod consent;
mod control;
mod deliver;
mod fault;
mod http;
mod journal;
mod ledger;
mod mint;
mod oauth;
mod refusal;
mod report;
mod scenario;
mod serve;
mod settings;
mod state;
mod traffic;
mod window;

/// Where it listens unless told otherwise: on loopback, because it shows its made-up secrets to
/// whoever asks.
pub const DEFAULT_LISTEN: &str = "127.0.0.1:8484";

/// A running stand-in. Cheap to clone: all clones are the same one.
#[derive(Clone)]
pub struct Sim {
    world: Arc<Mutex<World>>,
    clock: Arc<dyn Clock>,
}

/// Everything that changes, under one lock.
#[derive(Debug)]
struct World {
    /// How often everything was set back; what began before is not noted after.
    epoch: u64,
    /// The pair it started with.
    first_pair: (ClientId, ClientSecret),
    scenario: Scenario,
    state: State,
    settings: Settings,
    faults: Faults,
    ledger: Ledger,
    /// What the token endpoint's limit counts.
    admitted: Window,
    /// Every request to the token endpoint.
    arrived: Window,
}

impl World {
    fn new(scenario: Scenario, epoch: u64, now: Now) -> Self {
        let mut faults = Faults::new(scenario.seed);
        for fault in &scenario.faults {
            faults.set(fault.clone());
        }
        let state = State::new(&scenario, now);
        Self {
            epoch,
            first_pair: (state.client_id.clone(), state.client_secret.clone()),
            state,
            settings: scenario.settings.clone(),
            scenario,
            faults,
            ledger: Ledger::default(),
            admitted: Window::default(),
            arrived: Window::default(),
        }
    }
}

impl fmt::Debug for Sim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sim").field("client_id", &self.client_id()).finish_non_exhaustive()
    }
}

impl Sim {
    /// A stand-in as `scenario` says. Token lives count on `clock`.
    #[must_use]
    pub fn new(scenario: Scenario, clock: Arc<dyn Clock>) -> Self {
        let now = Now { boot: clock.boot(), wall: clock.wall() };
        Self { world: Arc::new(Mutex::new(World::new(scenario, 0, now))), clock }
    }

    /// Opens a port for it; port 0 lets the system choose.
    ///
    /// # Errors
    /// The address can't be had.
    pub async fn bind(listen: impl ToSocketAddrs) -> io::Result<(TcpListener, SocketAddr)> {
        let listener = TcpListener::bind(listen).await?;
        let address = listener.local_addr()?;
        Ok((listener, address))
    }

    /// Answers requests on `listener` until `stop`, then ends within a second or so.
    pub async fn serve(self, listener: TcpListener, stop: CancellationToken) {
        serve::serve(listener, http::router(self), stop).await;
    }

    /// A way to ask it without a connection, for tests in simulated time.
    #[must_use]
    pub fn in_process(&self) -> InProcess {
        InProcess::new(http::router(self.clone()))
    }

    fn world(&self) -> MutexGuard<'_, World> {
        // A panic elsewhere leaves nothing half done that a stand-in would have to be afraid of.
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Now {
        Now { boot: self.clock.boot(), wall: self.clock.wall() }
    }

    // The app.

    /// The public half of the app's pair.
    #[must_use]
    pub fn client_id(&self) -> ClientId {
        self.world().state.client_id.clone()
    }

    /// The client secret in force.
    #[must_use]
    pub fn client_secret(&self) -> ClientSecret {
        self.world().state.client_secret.clone()
    }

    /// Replaces the client secret; the old one is taken for `grace` more. Without any, every earlier one ends, one that
    /// is in its grace too.
    pub fn set_client_secret(&self, new: ClientSecret, grace: Duration) {
        let now = self.now();
        self.world().state.set_secret(new, grace, now);
    }

    /// Replaces the client secret by a random one, which it returns.
    #[must_use]
    pub fn rotate_client_secret(&self, grace: Duration) -> ClientSecret {
        let now = self.now();
        let mut world = self.world();
        let new = world.state.mint.credential("", ClientSecret::parse);
        world.state.set_secret(new.clone(), grace, now);
        new
    }

    // Portals.

    /// A grant, as if the customer of `portal` (or of a new portal) had just consented. Grants from
    /// before an uninstallation stay dead.
    pub fn install(
        &self,
        portal: Option<PortalId>,
        scopes: Option<Scopes>,
    ) -> (PortalId, RefreshToken) {
        let now = self.now();
        let mut world = self.world();
        let id = portal.unwrap_or_else(|| world.state.free_portal());
        let scopes = Arc::new(scopes.unwrap_or_else(state::default_scopes));
        world.state.install(id, scopes, now);
        (id, world.state.issue_refresh(id, None))
    }

    /// Makes the portal's grants those of another app, or this app's again.
    pub fn set_foreign(&self, portal: PortalId, foreign: bool) {
        self.world().state.set_foreign(portal, foreign);
    }

    /// Ends the portal's refresh tokens; access tokens that are out live on.
    pub fn revoke(&self, portal: PortalId) {
        self.world().state.revoke_all(portal);
    }

    /// The customer takes the app out.
    pub fn uninstall(&self, portal: PortalId) {
        let now = self.now();
        self.world().state.remove(portal, Standing::Uninstalled, now);
    }

    /// The journal tells of something, whether or not it happened.
    pub fn tell(&self, action: Action, portal: PortalId) {
        let now = self.now();
        self.world().state.journal.tell(action, portal, now.wall);
    }

    /// The portal goes away altogether.
    pub fn delete(&self, portal: PortalId) {
        let now = self.now();
        self.world().state.remove(portal, Standing::Deleted, now);
    }

    /// Replaces the portal's newest refresh token, as a refresh with rotation would. None if that
    /// one is not good.
    pub fn rotate(&self, portal: PortalId) -> Option<RefreshToken> {
        let now = self.now();
        let mut world = self.world();
        let grace = world.settings.grace();
        let newest = world.state.portals.get(&portal)?.tokens.back()?.clone();
        // exposed: into the table of our own tokens
        world.state.good(newest.expose(), &world.settings, now).ok()?;
        world.state.rotate(newest.expose(), grace, now)
    }

    /// The portal's newest refresh token, good or not.
    #[must_use]
    pub fn refresh_token(&self, portal: PortalId) -> Option<RefreshToken> {
        self.world().state.portals.get(&portal)?.tokens.back().cloned()
    }

    /// Whether a refresh with `token` would be granted now, given the right client pair.
    #[must_use]
    pub fn is_good(&self, token: &RefreshToken) -> bool {
        let now = self.now();
        let world = self.world();
        // exposed: into a lookup in our own table
        world.state.good(token.expose(), &world.settings, now).is_ok()
    }

    /// An authorization code, as if the customer had consented; the portal gets the app when the
    /// code is exchanged. With a `redirect_uri`, the exchange must name the same one.
    #[must_use]
    pub fn issue_code(
        &self,
        portal: Option<PortalId>,
        scopes: Option<Scopes>,
        redirect_uri: Option<String>,
    ) -> (PortalId, String) {
        self.consent(portal, scopes, redirect_uri, None)
    }

    fn consent(
        &self,
        portal: Option<PortalId>,
        scopes: Option<Scopes>,
        redirect_uri: Option<String>,
        challenge: Option<String>,
    ) -> (PortalId, String) {
        let now = self.now();
        let mut world = self.world();
        let portal = portal.unwrap_or_else(|| world.state.free_portal());
        let scopes = scopes.unwrap_or_else(state::default_scopes);
        let expires = now.boot + world.settings.code_life();
        let code = Code { portal, scopes, redirect_uri, challenge, expires };
        (portal, world.state.issue_code(code, now))
    }

    // Behaviour.

    /// How it behaves now.
    #[must_use]
    pub fn settings(&self) -> Settings {
        self.world().settings.clone()
    }

    /// Changes how it behaves.
    pub fn configure(&self, change: impl FnOnce(&mut Settings)) {
        change(&mut self.world().settings);
    }

    /// Orders a fault.
    pub fn set_fault(&self, fault: Fault) -> FaultId {
        self.world().faults.set(fault)
    }

    /// Takes a fault back; says whether it was still there.
    pub fn clear_fault(&self, id: FaultId) -> bool {
        self.world().faults.clear(id)
    }

    /// Takes all faults back.
    pub fn clear_faults(&self) {
        self.world().faults.clear_all();
    }

    /// Everything as it was at the start: with a seed, to the last token.
    pub fn reset(&self) {
        let now = self.now();
        let mut world = self.world();
        let mut scenario = world.scenario.clone();
        // A pair that was drawn at random is the one its users have by now; with a seed it comes
        // again by itself.
        if scenario.seed.is_none() {
            scenario.app.client_id.get_or_insert_with(|| world.first_pair.0.clone());
            scenario.app.client_secret.get_or_insert_with(|| world.first_pair.1.clone());
        }
        *world = World::new(scenario, world.epoch + 1, now);
    }

    // Ground truth.

    /// Every presentation of a refresh token after number `after`, of one portal or of all. The
    /// last 100 000 are remembered.
    #[must_use]
    pub fn ledger(&self, after: u64, portal: Option<PortalId>) -> Vec<Presentation> {
        self.world().ledger.after(after, portal).cloned().collect()
    }

    /// Installations and uninstallations after journal offset `after`; those of the last three days,
    /// whether or not the journal tells of them.
    #[must_use]
    pub fn events(&self, after: u64) -> Vec<Event> {
        let now = self.now();
        self.world().state.journal.after(after, now.wall).copied().collect()
    }

    /// All that is to be told, without tokens.
    #[must_use]
    pub fn report(&self) -> Report {
        Report::of(&self.world())
    }

    /// The portals with ids above `after`, at most `limit` of them, in order.
    #[must_use]
    pub fn portals(&self, after: Option<PortalId>, limit: usize) -> Vec<PortalReport> {
        let now = self.now();
        let world = self.world();
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let ids = world.state.portals.range((start, Bound::Unbounded)).map(|(id, _)| *id);
        ids.take(limit).filter_map(|id| PortalReport::of(&world, id, now)).collect()
    }

    /// All that is to be told of one portal, without tokens.
    #[must_use]
    pub fn portal(&self, portal: PortalId) -> Option<PortalReport> {
        PortalReport::of(&self.world(), portal, self.now())
    }
}
