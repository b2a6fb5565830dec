//! HubSpot's OAuth endpoints behind the [`TokenEndpoint`] seam. The rest of the crate sees what was
//! granted, or a refusal that has been sorted. Knows nothing of stores or of scheduling.

use std::fmt;

use async_trait::async_trait;
use jiff::SignedDuration;

use crate::{
    lifecycle::{ClientPair, Granted, Introspection, Refusal},
    secret::RefreshToken,
};

pub mod client;
pub mod error;
pub mod settings;
pub mod wire;

pub use client::{HubSpot, NoTls};
pub use settings::{ApiVersion, Settings};

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

    /// By how much this machine's wall clock is ahead of HubSpot's, if that is worth a word.
    fn clock_skew(&self) -> Option<SignedDuration>;
}
