//! Is a webhook HubSpot's? The app that received it asks, and needs no client secret to know.

use std::collections::BTreeMap;

use axum::{Extension, extract::State, http::StatusCode, response::Response};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    answer::{bad, json, problem},
    limits::Whole,
    openapi::Refusals,
    orders::read,
    protocol::Problem,
};
use crate::{
    access::Caller,
    engine::{Asking, Handle},
    hubspot::signature::Webhook,
};

/// HubSpot sends a hundred events at once at most; with room for those of large objects, in base64.
const LARGEST: usize = 2 * 1024 * 1024;

/// What `POST /v1/webhooks/verify` is asked with: the request as it came.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct WebhookBody {
    /// Its method.
    method: String,
    /// Its whole URI, as HubSpot called it.
    uri: String,
    /// Its body, base64.
    #[serde(default)]
    #[schema(content_encoding = "base64")]
    body: String,
    /// Its headers; others than HubSpot's signatures may be left out.
    headers: BTreeMap<String, String>,
}

/// `POST /v1/webhooks/verify`.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct VerifiedBody {
    /// Whether it is HubSpot's, and was signed within five minutes where that is told.
    valid: bool,
    /// `current`, `previous` or `next`: during a rotation HubSpot may sign with another secret than the one in use.
    signed_with: Option<&'static str>,
    /// `v1`, `v2` or `v3`.
    version: Option<&'static str>,
    /// Why it is not valid.
    reason: Option<&'static str>,
}

/// Whether a webhook is HubSpot's, by its signature of version 1, 2 or 3. Needs `verify_webhook`.
#[utoipa::path(post, path = "/v1/webhooks/verify", tag = "webhooks", request_body = WebhookBody,
    responses((status = 200, body = VerifiedBody), Refusals))]
pub(super) async fn verify(
    State(handle): State<Handle>,
    Extension(caller): Extension<Caller>,
    body: Whole<LARGEST>,
) -> Result<Response, Problem> {
    let admitted = handle.admit(&caller, Asking::VerifyWebhook).await;
    let WebhookBody { method, uri, body, headers } = read(body, admitted).await?;
    let body = STANDARD.decode(body).map_err(|_| bad("`body` is not base64"))?;
    let header = |name: &str| {
        let mut found = headers.iter().filter(|(key, _)| key.eq_ignore_ascii_case(name));
        found.next().map(|(_, value)| value.as_str())
    };
    let webhook = Webhook {
        method: &method,
        uri: &uri,
        body: &body,
        signature_v3: header("x-hubspot-signature-v3"),
        timestamp: header("x-hubspot-request-timestamp"),
        signature: header("x-hubspot-signature"),
        version: header("x-hubspot-signature-version"),
    };
    let told = handle.verify_webhook(&caller, &webhook).await.map_err(|d| problem(&d))?;
    let body = match told {
        Ok(signed) => VerifiedBody {
            valid: true,
            signed_with: Some(signed.with),
            version: Some(signed.version),
            reason: None,
        },
        Err(unsigned) => VerifiedBody {
            valid: false,
            signed_with: None,
            version: None,
            reason: Some(unsigned.as_str()),
        },
    };
    Ok(json(StatusCode::OK, "application/json", &body))
}
