//! Which HubSpot API versions and endpoints the stand-in has, by the names used in paths, in the
//! scenario file and in the ledger. Knows neither HTTP nor what the endpoints do.

use std::fmt;

use serde::{Deserialize, Serialize};

/// An API version as it stands in a path (study `hubspot.md` 1.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Version {
    /// Deprecated; to be gone on 2027-02-16.
    #[serde(rename = "v1")]
    V1,
    /// Introduced in January 2026.
    #[serde(rename = "v3")]
    V3,
    /// Account information only.
    #[serde(rename = "2025-09")]
    D2025_09,
    /// The version the migration guide names.
    #[serde(rename = "2026-03")]
    D2026_03,
    /// The newest.
    #[serde(rename = "2026-09")]
    D2026_09,
}

impl Version {
    /// Every version, oldest first.
    pub const ALL: [Self; 5] = [Self::V1, Self::V3, Self::D2025_09, Self::D2026_03, Self::D2026_09];

    /// The version as it stands in a path.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V3 => "v3",
            Self::D2025_09 => "2025-09",
            Self::D2026_03 => "2026-03",
            Self::D2026_09 => "2026-09",
        }
    }

    /// The version of this name that has this endpoint.
    pub(super) fn of(endpoint: Endpoint, name: &str) -> Option<Self> {
        let version = Self::ALL.into_iter().find(|version| version.as_str() == name)?;
        let there = match endpoint {
            Endpoint::Token => version != Self::D2025_09,
            Endpoint::Introspect | Endpoint::Revoke => {
                !matches!(version, Self::V1 | Self::D2025_09)
            }
            Endpoint::Metadata => version == Self::V1,
            Endpoint::AccountInfo => version != Self::V1,
            Endpoint::Journal | Endpoint::JournalSubscriptions | Endpoint::JournalFile => {
                matches!(version, Self::D2026_03 | Self::D2026_09)
            }
        };
        there.then_some(version)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a request is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Endpoint {
    /// `POST /oauth/{version}/token`.
    Token,
    /// `POST /oauth/{version}/token/introspect`.
    Introspect,
    /// `POST /oauth/{version}/token/revoke`.
    Revoke,
    /// `/oauth/v1/access-tokens/{token}` and `/oauth/v1/refresh-tokens/{token}`.
    Metadata,
    /// `GET /account-info/{version}/details`.
    AccountInfo,
    /// `GET /webhooks-journal/journal/{version}/…`.
    Journal,
    /// `POST /webhooks-journal/subscriptions/{version}`.
    JournalSubscriptions,
    /// The files that the journal's entries lead to.
    JournalFile,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_version_has_the_endpoints_that_hubspot_gives_it() {
        for (endpoint, names) in [
            (Endpoint::Token, &["v1", "v3", "2026-03", "2026-09"][..]),
            (Endpoint::Introspect, &["v3", "2026-03", "2026-09"]),
            (Endpoint::Revoke, &["v3", "2026-03", "2026-09"]),
            (Endpoint::Metadata, &["v1"]),
            (Endpoint::AccountInfo, &["v3", "2025-09", "2026-03", "2026-09"]),
            (Endpoint::Journal, &["2026-03", "2026-09"]),
            (Endpoint::JournalSubscriptions, &["2026-03", "2026-09"]),
        ] {
            let there: Vec<&str> = Version::ALL
                .iter()
                .filter_map(|version| Version::of(endpoint, version.as_str()))
                .map(Version::as_str)
                .collect();
            assert_eq!(there, names, "{endpoint:?}");
            assert_eq!(Version::of(endpoint, "v2"), None);
        }
    }
}
