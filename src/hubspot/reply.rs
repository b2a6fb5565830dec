//! A reply of HubSpot's OAuth endpoints, as read: what was granted or told, or a refusal that has
//! been sorted. Knows no connection.

use std::{fmt, time::Duration};

use jiff::Timestamp;
use serde::Deserialize;
use zeroize::Zeroizing;

use super::error::classify;
use crate::{
    lifecycle::{Granted, Introspection, Refusal},
    portal::{ClientId, PortalId, Scopes},
    secret::{AccessToken, RefreshToken},
};

/// A whole reply.
pub struct Reply {
    /// HTTP status.
    pub http: u16,
    /// `Retry-After`, as it stood there.
    pub retry_after: Option<String>,
    /// What HubSpot's clock said (`Date`).
    pub dated: Option<Timestamp>,
    /// The body; it may hold tokens.
    pub body: Zeroizing<Vec<u8>>,
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply").field("http", &self.http).finish_non_exhaustive()
    }
}

/// A token answer; only what every version has is demanded (study `hubspot.md` 1.3).
#[derive(Deserialize)]
struct TokenBody {
    access_token: AccessToken,
    expires_in: u64,
    refresh_token: Option<RefreshToken>,
    hub_id: Option<u64>,
    scopes: Option<Scopes>,
}

#[derive(Deserialize)]
struct IntrospectionBody {
    active: bool,
    hub_id: Option<u64>,
    client_id: Option<String>,
    scopes: Option<Scopes>,
}

impl Reply {
    /// What a refresh brought.
    ///
    /// # Errors
    /// It was refused, or this is no token answer.
    pub fn granted(&self) -> Result<Granted, Refusal> {
        let body: TokenBody = self.parse()?;
        Ok(Granted {
            access_token: body.access_token,
            refresh_token: body.refresh_token,
            expires_in: Duration::from_secs(body.expires_in),
            portal: body.hub_id.and_then(|id| PortalId::new(id).ok()),
            scopes: body.scopes,
            dated: self.dated,
        })
    }

    /// What introspection told.
    ///
    /// # Errors
    /// The question was refused, or this is no answer to it.
    pub fn introspection(&self) -> Result<Introspection, Refusal> {
        let body: IntrospectionBody = self.parse()?;
        if !body.active {
            return Ok(Introspection::Inactive);
        }
        Ok(Introspection::Active {
            portal: body.hub_id.and_then(|id| PortalId::new(id).ok()),
            client_id: body.client_id.and_then(|id| ClientId::parse(id).ok()),
            scopes: body.scopes,
        })
    }

    /// Whether an order was carried out.
    ///
    /// # Errors
    /// It was not.
    pub fn done(&self) -> Result<(), Refusal> {
        if (200..300).contains(&self.http) {
            return Ok(());
        }
        Err(classify(self.http, &self.body, self.retry_after.as_deref()))
    }

    fn parse<T: for<'de> Deserialize<'de>>(&self) -> Result<T, Refusal> {
        let parsed = if self.http == 200 { serde_json::from_slice(&self.body).ok() } else { None };
        parsed.ok_or_else(|| classify(self.http, &self.body, self.retry_after.as_deref()))
    }
}
