//! What an operator orders about alerts: that an incident is theirs, that a receiver be tried. No rule lives here.

use axum::{
    Extension,
    extract::{Path, State, rejection::PathRejection},
    http::StatusCode,
    response::Response,
};

use super::{
    answer::{bad, json, problem},
    openapi::Refusals,
    protocol::{AcknowledgedBody, Problem, TestedBody},
};
use crate::{access::Caller, engine::Handle};

/// The part of the path that names an incident.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "described, and taken from the path as text")]
pub(super) struct NamedIncident {
    /// Its `incident_id`.
    id: String,
}

/// The part of the path that names a receiver of alerts.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "described, and taken from the path as text")]
pub(super) struct NamedReceiver {
    /// Its name in the configuration; `log` is there always.
    name: String,
}

fn name(named: Result<Path<String>, PathRejection>) -> Result<String, Problem> {
    named.map(|Path(name)| name).map_err(|_| bad("the path is not UTF-8"))
}

/// Notes that the caller has taken an incident on: nobody is reminded of it any more. Needs `admin` on all portals.
#[utoipa::path(post, path = "/v1/incidents/{id}/acknowledge", tag = "alerts", params(NamedIncident),
    responses((status = 200, body = AcknowledgedBody), Refusals))]
pub(super) async fn acknowledge(
    State(handle): State<Handle>,
    Extension(caller): Extension<Caller>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, Problem> {
    let incident_id = name(id)?;
    handle.acknowledge(&caller, incident_id.clone()).await.map_err(|d| problem(&d))?;
    let body = AcknowledgedBody { incident_id, acknowledged: true };
    Ok(json(StatusCode::OK, "application/json", &body))
}

/// Sends a test to a receiver of alerts, and says what came of it. Needs `admin` on all portals.
#[utoipa::path(post, path = "/v1/receivers/{name}/test", tag = "alerts", params(NamedReceiver),
    responses((status = 200, body = TestedBody), Refusals))]
pub(super) async fn test(
    State(handle): State<Handle>,
    Extension(caller): Extension<Caller>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, Problem> {
    let receiver = name(id)?;
    let tested = handle.test_alert(&caller, receiver.clone()).await.map_err(|d| problem(&d))?;
    let trouble = tested.as_ref().err().map(|error| error.what.clone());
    let body = TestedBody { receiver, taken: tested.is_ok(), trouble };
    Ok(json(StatusCode::OK, "application/json", &body))
}
