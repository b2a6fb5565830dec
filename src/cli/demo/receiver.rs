//! The demo's pager: a webhook receiver that checks signatures and remembers what it was told.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use aws_lc_rs::{constant_time, hmac};
use axum::{
    Router,
    extract::State,
    http::{HeaderMap, StatusCode},
    routing::post,
};
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::sink::webhook::signature;

/// An alert as received.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Alert {
    #[serde(rename = "type")]
    pub(super) event: String,
    pub(super) data: Data,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Data {
    pub(super) kind: String,
    pub(super) severity: String,
    pub(super) portal_count: usize,
    pub(super) portals: Vec<u64>,
}

/// Everything received so far.
#[derive(Debug, Clone)]
pub(super) struct Receiver {
    alerts: Arc<Mutex<Vec<Alert>>>,
    key: hmac::Key,
}

impl Receiver {
    pub(super) async fn start(
        key: hmac::Key,
        stop: CancellationToken,
        tasks: &TaskTracker,
    ) -> io::Result<(Self, SocketAddr)> {
        let receiver = Self { alerts: Arc::default(), key };
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let router = Router::new().route("/", post(take)).with_state(receiver.clone());
        tasks.spawn(async move {
            tokio::select! {
                // It ends with the demo; what it could say at its end interests nobody.
                ended = axum::serve(listener, router) => drop(ended),
                () = stop.cancelled() => {}
            }
        });
        Ok((receiver, address))
    }

    pub(super) fn alerts(&self) -> Vec<Alert> {
        self.alerts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn take(State(receiver): State<Receiver>, headers: HeaderMap, body: String) -> StatusCode {
    let header = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let second = header("webhook-timestamp").parse().unwrap_or_default();
    let expected = signature(&receiver.key, header("webhook-id"), second, &body);
    let given = header("webhook-signature");
    if constant_time::verify_slices_are_equal(given.as_bytes(), expected.as_bytes()).is_err() {
        return StatusCode::UNAUTHORIZED;
    }
    match serde_json::from_str(&body) {
        Ok(alert) => {
            receiver.alerts.lock().unwrap_or_else(PoisonError::into_inner).push(alert);
            StatusCode::NO_CONTENT
        }
        Err(_) => StatusCode::BAD_REQUEST,
    }
}
