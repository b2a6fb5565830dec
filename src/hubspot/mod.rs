//! HubSpot's OAuth endpoints behind the [`TokenEndpoint`] seam. The rest of the crate sees what was
//! granted, or a refusal that has been sorted. Knows nothing of stores or of scheduling.

use std::fmt;

use async_trait::async_trait;

use crate::{
    lifecycle::{ClientPair, Granted, Introspection, Refusal},
    secret::RefreshToken,
};

pub mod wire;

/// Whoever turns refresh tokens into access tokens.
#[async_trait]
pub trait TokenEndpoint: fmt::Debug + Send + Sync + 'static {
    /// Spends `token` once: one request, no hidden retry (a repeated spend is the caller's decision).
    async fn refresh(&self, pair: &ClientPair, token: &RefreshToken) -> Result<Granted, Refusal>;

    /// Asks what `token` is, spending nothing. A success proves the client pair as well.
    async fn introspect(
        &self,
        pair: &ClientPair,
        token: &RefreshToken,
    ) -> Result<Introspection, Refusal>;
}
