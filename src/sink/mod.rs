//! Where alerts go, behind the [`AlertSink`] seam: one file a kind of receiver. A sink delivers one
//! notice or says why not; trying again is the engine's business.

use std::fmt;

use async_trait::async_trait;

use crate::incident::Notice;

pub mod log;
pub mod webhook;

pub use log::Log;
pub use webhook::Webhook;

/// Somewhere an alert can go.
#[async_trait]
pub trait AlertSink: fmt::Debug + Send + Sync + 'static {
    /// What the operator calls it.
    fn name(&self) -> &str;

    /// Hands over one notice. A success means that the receiver has taken it.
    async fn deliver(&self, notice: &Notice) -> Result<(), DeliveryError>;
}

/// An alert was not taken. Holds neither the URL, which may be a secret, nor the receiver's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct DeliveryError {
    /// What happened.
    pub what: String,
    /// Whether the same may go through later.
    pub retryable: bool,
}

impl DeliveryError {
    fn retryable(what: impl Into<String>) -> Self {
        Self { what: what.into(), retryable: true }
    }

    fn permanent(what: impl Into<String>) -> Self {
        Self { what: what.into(), retryable: false }
    }
}
