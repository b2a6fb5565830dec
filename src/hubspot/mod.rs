//! HubSpot's OAuth endpoints behind the [`TokenEndpoint`] seam, and its webhooks journal. The rest of the crate sees
//! what was granted or told, or a refusal that has been sorted. Knows nothing of stores or of scheduling.

use std::{fmt, time::Duration};

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};

use crate::{
    lifecycle::{ClientPair, Code, Granted, Introspection, Refusal, RefusalClass},
    secret::RefreshToken,
};

pub mod client;
pub mod error;
pub mod reply;
pub mod settings;
pub mod signature;
pub mod webhooks_journal;
pub mod wire;

pub use client::{HubSpot, NoTls};
pub use reply::Reply;
pub use settings::{ApiVersion, Settings};

/// Whoever turns refresh tokens into access tokens.
#[async_trait]
pub trait TokenEndpoint: fmt::Debug + Send + Sync + 'static {
    /// Spends `token` once: one request, no hidden retry (a repeated spend is the caller's decision). Its answer
    /// is waited for no longer than `patience`.
    async fn refresh(
        &self,
        pair: &ClientPair,
        token: &RefreshToken,
        patience: Duration,
    ) -> Result<Granted, Refusal>;

    /// Exchanges a code for a grant: one request, no hidden retry, since a code is good once.
    async fn exchange(&self, pair: &ClientPair, code: &Code) -> Result<Granted, Refusal>;

    /// Ends the grant behind `token`. Access tokens that were issued live on (study `hubspot.md` 2.2). Of a token it
    /// does not know HubSpot says the same.
    async fn revoke(&self, pair: &ClientPair, token: &RefreshToken) -> Result<(), Refusal>;

    /// Asks what `token` is, spending nothing. A success proves the client pair as well.
    async fn introspect(
        &self,
        pair: &ClientPair,
        token: &RefreshToken,
    ) -> Result<Introspection, Refusal>;

    /// What time it is by HubSpot's clock, asked without any credential; none if it does not say.
    async fn time(&self) -> Option<Timestamp>;

    /// What it is called in `status`: the API version.
    fn kind(&self) -> &'static str;

    /// By how much this machine's wall clock is ahead of HubSpot's, if that is worth a word.
    fn clock_skew(&self) -> Option<SignedDuration>;
}

/// Introspected where there is no grant to ask about: HubSpot looks at the client pair first, and
/// answers `active: false` for a token it does not know (study `hubspot.md` 2.1).
const UNKNOWN_TOKEN: &str = "grantkeeper-probe";

/// Asks whether HubSpot accepts `pair`, spending nothing: by introspecting `sample`, any stored
/// grant, or a token nobody was ever given.
///
/// # Errors
/// The pair is refused ([`RefusalClass::AppRefused`]), or HubSpot can't be asked.
pub async fn prove(
    endpoint: &dyn TokenEndpoint,
    pair: &ClientPair,
    sample: Option<RefreshToken>,
) -> Result<(), Refusal> {
    introspect(endpoint, pair, sample).await.map(drop)
}

/// The same, with what HubSpot says of the sample.
///
/// # Errors
/// As for [`prove`].
pub async fn introspect(
    endpoint: &dyn TokenEndpoint,
    pair: &ClientPair,
    sample: Option<RefreshToken>,
) -> Result<Introspection, Refusal> {
    match sample.or_else(|| RefreshToken::parse(UNKNOWN_TOKEN).ok()) {
        Some(token) => endpoint.introspect(pair, &token).await,
        None => {
            Err(Refusal { class: RefusalClass::Unknown, http: None, word: None, retry_after: None })
        }
    }
}
