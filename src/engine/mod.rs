//! The running machine: owns every portal's state, carries out what the rules decide, and answers
//! callers from memory. `run` waits and applies, `work` talks to the outside world, `handle` is what
//! others hold. Knows the seams, not who stands behind them, and no socket.

use std::{sync::Arc, time::Duration};

use crate::{
    hubspot::TokenEndpoint,
    incident::InstallUrl,
    journal::Journal,
    lifecycle::{RefreshPolicy, ValidatePolicy},
    portal::{AppName, Scopes},
    store::CredentialStore,
    time::Clock,
};

pub mod admission;
pub mod alerting;
mod answers;
mod arrivals;
mod asked;
mod begin;
mod canary;
mod chance;
pub mod command;
pub mod denial;
mod effects;
mod entry;
mod errands;
pub mod feed;
pub mod handle;
mod incidents;
mod intake;
mod leaving;
pub mod load;
pub mod metrics;
pub mod orders;
pub mod overview;
mod portals;
mod queue;
mod records;
mod recovery;
mod reload;
mod renew;
mod rotating;
pub mod run;
mod sending;
pub mod survey;
mod throttling;
pub mod uninstalls;
mod upkeep;
pub mod view;
mod webhooks;
mod work;

pub use admission::Asking;
pub use alerting::{Alerting, Receiver, Route, Untested};
pub use canary::Tried;
pub use command::Command;
pub use denial::Denial;
pub use handle::{Answer, Handle};
pub use load::{Loaded, Start, load, load_app, start};
pub use metrics::Metrics;
pub use orders::{Enrolled, Offered, Removed};
pub use run::{Engine, Panicked, Running};
pub use survey::survey;
pub use uninstalls::Poller;
pub use view::View;

/// What the engine is told: plain valid values.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Whose grants these are.
    pub app: AppName,
    /// Scopes every grant must have.
    pub required_scopes: Scopes,
    /// When to renew.
    pub refresh: RefreshPolicy,
    /// How often to validate.
    pub validate: ValidatePolicy,
    /// Ceiling towards HubSpot's OAuth endpoints, requests a second.
    pub max_requests_per_second: f64,
    /// Where a customer begins to install the app, for alerts.
    pub install_url: Option<InstallUrl>,
    /// For how long the client secret before the one in use still counts, after a rotation.
    pub keep_previous: Duration,
}

/// The outside world, behind its seams.
#[derive(Debug, Clone)]
pub struct World {
    /// Where credentials are kept.
    pub store: Arc<dyn CredentialStore>,
    /// Who turns them into tokens.
    pub endpoint: Arc<dyn TokenEndpoint>,
    /// What outlives this process; none where there is no `state_dir`.
    pub journal: Journal,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
}

/// As many calls as may be under way at the store at once; more only adds waiting (study
/// `backends.md` 1.9).
const AT_STORE: usize = 16;
/// The longest the engine sleeps: a suspended machine is noticed within this time, since timers
/// stand still during suspend and the boot clock does not.
const LONGEST_SLEEP: Duration = Duration::from_secs(5);
