//! Answers and refusals as HTTP: which denial is which status, and what a body looks like. Decides nothing.

use std::time::Duration;

use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use zeroize::Zeroizing;

use super::protocol::Problem;
use crate::engine::Denial;

pub(super) fn bad(detail: impl Into<String>) -> Problem {
    problem(&Denial::BadRequest(detail.into()))
}

pub(super) fn named(status: StatusCode, code: &str, detail: impl Into<String>) -> Problem {
    Problem {
        kind: format!("urn:grantkeeper:problem:{code}"),
        title: status.canonical_reason().unwrap_or("problem").to_owned(),
        status: status.as_u16(),
        detail: detail.into(),
        code: code.to_owned(),
        retry_after: None,
    }
}

pub(super) fn problem(denial: &Denial) -> Problem {
    let status = match denial {
        Denial::Forbidden | Denial::NotYours(_) => StatusCode::FORBIDDEN,
        Denial::UnknownPortal | Denial::UnknownIncident | Denial::UnknownReceiver => {
            StatusCode::NOT_FOUND
        }
        Denial::BadRequest(_) | Denial::NotGood(_) => StatusCode::BAD_REQUEST,
        Denial::TooSoon(_) | Denial::TooMany(_) => StatusCode::TOO_MANY_REQUESTS,
        Denial::Ended(_) => StatusCode::GONE,
        Denial::Paused | Denial::Leaving | Denial::Replaced => StatusCode::CONFLICT,
        Denial::AppRejected(_)
        | Denial::NoTokenYet(_)
        | Denial::HubspotUnreachable(_)
        | Denial::StoreUnreachable(_)
        | Denial::Unsaved { .. }
        | Denial::NotRemoved { .. }
        | Denial::AuditFailing => StatusCode::SERVICE_UNAVAILABLE,
    };
    let seconds = |after: Duration| after.as_secs() + u64::from(after.subsec_nanos() > 0);
    Problem {
        retry_after: denial.retry_after().map(seconds),
        ..named(status, denial.code(), denial.to_string())
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = json(status, "application/problem+json", &self);
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        response
    }
}

pub(super) fn json(status: StatusCode, kind: &'static str, body: &impl Serialize) -> Response {
    // The text may hold a token: the copy made here is wiped, hyper's own is not ours to wipe.
    let text = Zeroizing::new(serde_json::to_vec(body).unwrap_or_default());
    let mut response = Response::new(Body::from(text.to_vec()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
