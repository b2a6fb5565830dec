//! How the stand-in behaves where HubSpot's behaviour can change, is disputed or is unknown.
//! Words only: each rule stands with the endpoint it governs.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{api::Version, refusal::Refusal};
use crate::portal::Scopes;

/// Everything that can be changed while it runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "independent switches, each with its own name")]
pub struct Settings {
    /// Life of a new access token, in seconds.
    pub expires_in: u32,
    /// Whether each refresh replaces the refresh token.
    pub rotating: bool,
    /// How long a replaced refresh token is still taken, in seconds.
    pub rotation_grace: u32,
    /// Life of an authorization code, in seconds.
    pub code_expires_in: u32,
    /// Limit of the token endpoint; none by default.
    pub rate_limit: Option<RateLimit>,
    /// HTTP status of `BAD_HUB`: 400, or 403 as seen in earlier years.
    pub bad_hub_http: BadHubHttp,
    /// What the refresh token of an uninstalled portal is refused with.
    pub uninstalled: Uninstalled,
    /// Whether uninstalling ends the access tokens that are out.
    pub uninstall_ends_access: bool,
    /// Whether the app may ask for tokens of its own.
    pub client_credentials: bool,
    /// The scopes that such a token can have; any `developer.` scope by default.
    pub app_scopes: Option<Scopes>,
    /// How many events stand in one file of the journal.
    pub journal_batch: u32,
    /// How long the link to such a file is good, in seconds.
    pub journal_url_expires_in: u32,
    /// Whether a JSON body is taken where HubSpot wants a form.
    pub lenient_json: bool,
    /// Error bodies as before January 2026: `status`, `message`, `correlationId`.
    pub old_error_shape: bool,
    /// How far the `Date` header is off, in seconds.
    pub date_offset: i32,
    /// OAuth versions that are gone, and the HTTP status that says so.
    pub retired: BTreeMap<Version, Gone>,
    /// What the status page says.
    pub indicator: Indicator,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            expires_in: 1800,
            rotating: false,
            rotation_grace: 0,
            code_expires_in: 600,
            rate_limit: None,
            bad_hub_http: BadHubHttp::default(),
            uninstalled: Uninstalled::default(),
            uninstall_ends_access: false,
            client_credentials: true,
            app_scopes: None,
            journal_batch: 1,
            journal_url_expires_in: 300,
            lenient_json: false,
            old_error_shape: false,
            date_offset: 0,
            retired: BTreeMap::new(),
            indicator: Indicator::default(),
        }
    }
}

impl Settings {
    /// These settings, with the members of `changes` instead; the others stay.
    ///
    /// # Errors
    /// A member that is unknown or can't have that value.
    pub fn with(&self, changes: &Value) -> Result<Self, serde_json::Error> {
        let (Value::Object(mut members), Value::Object(changes)) =
            (serde_json::to_value(self)?, changes)
        else {
            return Err(serde::de::Error::custom("settings are changed by a JSON object"));
        };
        members.extend(changes.clone());
        serde_json::from_value(Value::Object(members))
    }

    pub(super) fn access_life(&self) -> Duration {
        Duration::from_secs(self.expires_in.into())
    }

    pub(super) fn grace(&self) -> Duration {
        Duration::from_secs(self.rotation_grace.into())
    }

    pub(super) fn code_life(&self) -> Duration {
        Duration::from_secs(self.code_expires_in.into())
    }

    /// HTTP status of a refusal under these settings.
    pub(super) fn http_of(&self, refusal: Refusal) -> u16 {
        if refusal == Refusal::BadHub { self.bad_hub_http.into() } else { 400 }
    }
}

/// A limit over any one second, and what a refusal says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateLimit {
    /// Requests taken in any one second.
    pub per_second: u32,
    /// `Retry-After` of the 429, in seconds; left out by default.
    #[serde(default)]
    pub retry_after: Option<u32>,
}

macro_rules! http_status {
    ($(#[$doc:meta])* $name:ident: default $default:ident = $default_status:literal, $other:ident = $other_status:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
        #[serde(try_from = "u16", into = "u16")]
        pub enum $name {
            #[doc = stringify!($default_status)]
            #[default]
            $default,
            #[doc = stringify!($other_status)]
            $other,
        }

        impl From<$name> for u16 {
            fn from(status: $name) -> Self {
                match status {
                    $name::$default => $default_status,
                    $name::$other => $other_status,
                }
            }
        }

        impl TryFrom<u16> for $name {
            type Error = &'static str;

            fn try_from(status: u16) -> Result<Self, Self::Error> {
                match status {
                    $default_status => Ok(Self::$default),
                    $other_status => Ok(Self::$other),
                    _ => Err(concat!(
                        "this HTTP status is ",
                        stringify!($default_status),
                        " or ",
                        stringify!($other_status)
                    )),
                }
            }
        }
    };
}

http_status! {
    /// HTTP status of `BAD_HUB`; sources disagree (study `hubspot.md` 11).
    BadHubHttp: default BadRequest = 400, Forbidden = 403
}

http_status! {
    /// What a retired version answers; unknown for HubSpot (study `hubspot.md` 12).
    Gone: default NotFound = 404, Gone = 410
}

/// What the refresh token of an uninstalled portal is refused with; unknown for HubSpot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Uninstalled {
    /// As if it were revoked.
    #[default]
    BadRefreshToken,
    /// As if the portal were gone.
    BadHub,
}

impl From<Uninstalled> for Refusal {
    fn from(uninstalled: Uninstalled) -> Self {
        match uninstalled {
            Uninstalled::BadRefreshToken => Self::BadRefreshToken,
            Uninstalled::BadHub => Self::BadHub,
        }
    }
}

/// The status page's word for how things are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Indicator {
    /// All is well.
    #[default]
    None,
    /// Some trouble.
    Minor,
    /// Much trouble.
    Major,
    /// An outage.
    Critical,
}

impl Indicator {
    /// The sentence beside the word.
    pub(super) const fn description(self) -> &'static str {
        match self {
            Self::None => "All systems operational",
            Self::Minor => "Some systems have trouble",
            Self::Major => "Many systems have trouble",
            Self::Critical => "Service is out",
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_change_leaves_the_other_settings_alone() {
        let before = Settings { rotating: true, ..Settings::default() };
        let after = before.with(&json!({"expires_in": 2, "retired": {"v1": 410}})).unwrap();
        assert_eq!(after.expires_in, 2);
        assert!(after.rotating);
        assert_eq!(after.retired[&Version::V1], Gone::Gone);
    }

    #[test]
    fn a_change_that_is_not_understood_is_refused() {
        for bad in [
            json!({"expire_in": 2}),
            json!({"expires_in": -1}),
            json!({"bad_hub_http": 500}),
            json!({"retired": {"v2": 404}}),
            json!({"rate_limit": {"per_second": 1, "burst": 2}}),
            json!([]),
            json!("rotating"),
        ] {
            assert!(Settings::default().with(&bad).is_err(), "{bad}");
        }
    }
}
