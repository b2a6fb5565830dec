//! What an operator may set about refreshing and validating, as plain valid values. Knows no file format.

use std::time::Duration;

/// When access tokens are renewed (contract section 2, `[refresh]`).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RefreshPolicy {
    /// Which portals are kept warm.
    pub mode: RefreshMode,
    /// In [`RefreshMode::Recent`]: how long after its last use a portal is kept warm.
    pub recent_window: Duration,
    /// Share of a token's life after which it is renewed, 0.1 to 0.95.
    pub at: f64,
    /// No caller gets a token with less life than this while HubSpot can be reached.
    pub min_ttl: Duration,
}

/// Which portals are kept warm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RefreshMode {
    /// All of them while the rate budget carries it, else the recently used ones.
    #[default]
    Auto,
    /// All of them, always.
    Eager,
    /// Those used within the recent window.
    Recent,
    /// None: a token is fetched when somebody asks.
    OnDemand,
}

impl RefreshMode {
    /// The word in configuration, status and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Eager => "eager",
            Self::Recent => "recent",
            Self::OnDemand => "on_demand",
        }
    }
}

impl Default for RefreshPolicy {
    fn default() -> Self {
        Self {
            mode: RefreshMode::Auto,
            recent_window: Duration::from_secs(24 * 3600),
            at: 0.66,
            min_ttl: Duration::from_secs(120),
        }
    }
}

/// How often, and how strictly at start, credentials are validated (contract section 2, `[validate]`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ValidatePolicy {
    /// The period in which the client pair and each grant are validated once.
    pub every: Duration,
    /// What must be proven before the service says it is ready.
    pub on_start: OnStart,
}

/// What must be proven at start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnStart {
    /// The client pair; a refused one ends the start.
    #[default]
    RequireApp,
    /// The client pair and every grant.
    RequireAll,
    /// Nothing: trouble is reported and the service goes on.
    Warn,
}

impl Default for ValidatePolicy {
    fn default() -> Self {
        Self { every: Duration::from_secs(3600), on_start: OnStart::RequireApp }
    }
}
