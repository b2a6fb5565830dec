//! The names this product is about: a portal, an app, a set of scopes. Parsing is the only way in.
//! Knows nothing of tokens, stores or HubSpot's wire format.

use std::{collections::BTreeSet, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// One customer account at HubSpot, which HubSpot also calls a hub (`hub_id`).
///
/// Digits only: a portal id becomes part of a store path and of a file name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct PortalId(u64);

/// The text is not a portal id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a portal id is a whole number from 1 up, written without a sign or leading zeros")]
pub struct NotAPortalId;

impl PortalId {
    /// The first there can be.
    pub const FIRST: Self = Self(1);

    /// # Errors
    /// Zero is not a portal.
    pub const fn new(number: u64) -> Result<Self, NotAPortalId> {
        if number == 0 { Err(NotAPortalId) } else { Ok(Self(number)) }
    }

    /// The number HubSpot knows the portal by.
    #[must_use]
    pub const fn number(self) -> u64 {
        self.0
    }
}

impl fmt::Display for PortalId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for PortalId {
    type Err = NotAPortalId;

    fn from_str(text: &str) -> Result<Self, NotAPortalId> {
        let canonical = text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0');
        if !canonical {
            return Err(NotAPortalId);
        }
        text.parse().map_err(|_| NotAPortalId).and_then(Self::new)
    }
}

impl<'de> Deserialize<'de> for PortalId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(u64::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// The app's public identifier. Not a secret, but still nobody's business in an error text.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct ClientId(String);

/// The text is not a client id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a client id is printable text without blanks")]
pub struct NotAClientId;

impl ClientId {
    /// # Errors
    /// Empty, blank or unprintable text. The usual UUID shape is not demanded.
    pub fn parse(text: impl Into<String>) -> Result<Self, NotAClientId> {
        let text = text.into();
        let plain = !text.is_empty() && text.chars().all(|c| c.is_ascii_graphic());
        if plain { Ok(Self(text)) } else { Err(NotAClientId) }
    }

    /// The text as HubSpot gave it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What the company calls its app: part of the store prefix, of alerts and of metrics.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AppName(String);

impl TryFrom<String> for AppName {
    type Error = NotAnAppName;

    fn try_from(text: String) -> Result<Self, NotAnAppName> {
        Self::parse(text)
    }
}

impl From<AppName> for String {
    fn from(name: AppName) -> Self {
        name.0
    }
}

/// The text is not an app name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an app name is 1 to 64 letters, digits, '-', '_' or '.', starting with a letter or digit")]
pub struct NotAnAppName;

impl AppName {
    /// # Errors
    /// Anything that would need escaping in a store path.
    pub fn parse(text: impl Into<String>) -> Result<Self, NotAnAppName> {
        let text = text.into();
        let plain = text.len() <= 64
            && text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
        if plain { Ok(Self(text)) } else { Err(NotAnAppName) }
    }

    /// The text as configured.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for AppName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A set of OAuth scopes, in alphabetical order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Scopes(BTreeSet<String>);

impl Scopes {
    /// Those of `required` that are not in `self`.
    #[must_use]
    pub fn missing(&self, required: &Self) -> Self {
        Self(required.0.difference(&self.0).cloned().collect())
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Each scope, in alphabetical order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }
}

impl<S: Into<String>> FromIterator<S> for Scopes {
    fn from_iter<I: IntoIterator<Item = S>>(scopes: I) -> Self {
        Self(scopes.into_iter().map(Into::into).collect())
    }
}

impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, scope) in self.iter().enumerate() {
            let separator = if position == 0 { "" } else { " " };
            write!(f, "{separator}{scope}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_portal_id_is_digits_only_so_it_can_stand_in_a_path() {
        assert_eq!("4711".parse::<PortalId>().unwrap().number(), 4711);
        for bad in ["", "0", "007", "-1", "+1", "1.0", "../1", "1 ", "٣", "99999999999999999999"] {
            assert!(bad.parse::<PortalId>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_app_name_can_stand_in_a_path() {
        assert!(AppName::parse("acme-sync").is_ok());
        for bad in ["", ".", "..", "a/b", "a b", "-a", "é"] {
            assert!(AppName::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn missing_scopes_are_those_required_and_not_granted() {
        let granted = Scopes::from_iter(["oauth", "crm.read"]);
        let required = Scopes::from_iter(["oauth", "crm.write"]);
        assert_eq!(granted.missing(&required), Scopes::from_iter(["crm.write"]));
        assert!(granted.missing(&Scopes::default()).is_empty());
    }
}
