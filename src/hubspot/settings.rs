//! Where HubSpot is and which API version to speak, as plain valid values.

use std::{fmt, time::Duration};

/// The `[hubspot]` section as meant (contract section 2).
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Scheme and host, without a trailing slash: `https://api.hubapi.com`.
    pub base_url: String,
    /// Which OAuth endpoints to call.
    pub api_version: ApiVersion,
    /// Ceiling towards the token endpoint, requests a second.
    pub max_refreshes_per_second: f64,
    /// How often the webhooks journal is read for uninstalls, if it is.
    pub poll_uninstalls: Option<Duration>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            base_url: "https://api.hubapi.com".to_owned(),
            api_version: ApiVersion::default(),
            max_refreshes_per_second: 5.0,
            poll_uninstalls: None,
        }
    }
}

/// A version of HubSpot's OAuth API (study `hubspot.md` 1.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum ApiVersion {
    /// Deprecated; gone on 2027-02-16.
    V1,
    /// Works, filed under legacy.
    V3,
    /// Current.
    #[default]
    V2026_03,
    /// Current.
    V2026_09,
}

impl ApiVersion {
    /// Every version, oldest first.
    pub const ALL: [Self; 4] = [Self::V1, Self::V3, Self::V2026_03, Self::V2026_09];

    /// The path segment: `/oauth/<segment>/token`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V3 => "v3",
            Self::V2026_03 => "2026-03",
            Self::V2026_09 => "2026-09",
        }
    }

    /// The version of the webhooks journal that goes with this one: it has dated ones only.
    #[must_use]
    pub const fn webhooks_journal(self) -> Self {
        match self {
            Self::V1 | Self::V3 => Self::V2026_03,
            same => same,
        }
    }

    /// The version whose introspection goes with this one. v1 has none that takes a client pair.
    #[must_use]
    pub const fn introspection(self) -> Self {
        match self {
            Self::V1 => Self::V2026_03,
            same => same,
        }
    }
}

impl fmt::Display for ApiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
