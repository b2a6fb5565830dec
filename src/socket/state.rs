//! How the service is: one function a request. No rule lives here.

use axum::{
    Extension,
    extract::{Query, State, rejection::QueryRejection},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Deserialize;

use super::{
    answer::{bad, json, problem},
    openapi::{NotReady, Refusals},
    protocol::{
        self, AppBody, AuditBody, BudgetBody, HardeningBody, HealthBody, Problem, ReceiverBody,
        ReloadedBody, StatusBody,
    },
};
use crate::{
    access::Caller,
    engine::{Handle, Receiver, view::Health},
};

/// How the service is: app, store, HubSpot, portals by state, open incidents. Needs `status` on all portals.
#[utoipa::path(get, path = "/v1/status", tag = "service",
    responses((status = 200, body = StatusBody), Refusals))]
pub(super) async fn status(
    State(handle): State<Handle>,
    Extension(caller): Extension<Caller>,
) -> Result<Response, Problem> {
    let overall = handle.overall(&caller).await.map_err(|d| problem(&d))?;
    let (census, readiness) = (handle.census(), handle.readiness());
    let system = |health: &Health| HealthBody {
        kind: health.kind.to_owned(),
        ok: health.ok,
        trouble: health.trouble.map(str::to_owned),
    };
    let remarks = readiness.remarks.into_iter().chain(handle.details()).collect();
    let body = StatusBody {
        app: AppBody {
            name: handle.app().as_str().to_owned(),
            state: overall.app.as_str().to_owned(),
        },
        store: system(&overall.store),
        hubspot: system(&overall.hubspot),
        portals_total: census.iter().map(|(_, count)| count).sum(),
        portals: census
            .into_iter()
            .filter(|(_, count)| *count > 0)
            .map(|(state, count)| (state.as_str().to_owned(), count))
            .collect(),
        mode: protocol::mode(overall.mode).to_owned(),
        budget: BudgetBody {
            per_second: overall.budget.per_second,
            ceiling: overall.budget.ceiling,
            carries: overall.budget.carries(),
            summary: overall.budget.to_string(),
        },
        audit: audit_body(&handle),
        hardening: HardeningBody {
            landlock: handle.hardening().landlock.clone(),
            no_new_privileges: handle.hardening().no_new_privileges,
            no_dumps: handle.hardening().no_dumps,
        },
        journal: match overall.journal_fails() {
            _ if !overall.journal => "none",
            true => "failing",
            false => "kept",
        }
        .to_owned(),
        ready: readiness.reasons.is_empty(),
        reasons: readiness.reasons.iter().map(|word| (*word).to_owned()).collect(),
        remarks,
        incidents: overall.incidents.iter().map(|incident| protocol::incident(incident)).collect(),
        receivers: handle.receivers().into_iter().map(receiver).collect(),
        records_read: overall.records_read,
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    Ok(json(StatusCode::OK, "application/json", &body))
}

fn receiver(receiver: Receiver) -> ReceiverBody {
    let Receiver { name, waiting, failures, trouble, last_taken } = receiver;
    ReceiverBody { name, waiting, failures, trouble, last_taken }
}

fn audit_body(handle: &Handle) -> AuditBody {
    let tip = handle.audit().tip();
    AuditBody {
        state: if tip.is_some() { "kept" } else { "none" }.to_owned(),
        last_seq: tip.as_ref().map(|tip| tip.seq),
        last_hash: tip.map(|tip| tip.hash.to_string()),
    }
}

/// Reads every record again, and answers once that has been applied. Needs `rotate`, `enroll` or `admin` on all portals.
#[utoipa::path(post, path = "/v1/reload", tag = "service",
    responses((status = 200, body = ReloadedBody), Refusals))]
pub(super) async fn reload(
    State(handle): State<Handle>,
    Extension(caller): Extension<Caller>,
) -> Result<Response, Problem> {
    let follows = handle.reload(&caller).await.map_err(|d| problem(&d))?;
    Ok(json(StatusCode::OK, "application/json", &ReloadedBody { reloaded: true, follows }))
}

/// Whether the service runs. For any caller that a rule names.
#[utoipa::path(get, path = "/livez", tag = "service",
    responses((status = 200, content_type = "text/plain", body = String), Refusals))]
pub(super) async fn livez_known(
    handle: State<Handle>,
    caller: Extension<Caller>,
) -> Result<Response, Problem> {
    handle.see_health(&caller).await.map_err(|d| problem(&d))?;
    Ok(livez(handle).await)
}

/// Whether the service does its job; with 503, a reason a line. For any caller that a rule names.
#[utoipa::path(get, path = "/readyz", tag = "service", params(Verbose),
    responses((status = 200, content_type = "text/plain", body = String), NotReady))]
pub(super) async fn readyz_known(
    handle: State<Handle>,
    caller: Extension<Caller>,
    query: VerboseQuery,
) -> Result<Response, Problem> {
    handle.see_health(&caller).await.map_err(|d| problem(&d))?;
    Ok(readyz(handle, query).await)
}

/// Metrics as OpenMetrics text. Needs `status` on all portals.
#[utoipa::path(get, path = "/metrics", tag = "service",
    responses((status = 200, content_type = "application/openmetrics-text", body = String), Refusals))]
pub(super) async fn metrics_allowed(
    handle: State<Handle>,
    caller: Extension<Caller>,
) -> Result<Response, Problem> {
    handle.see_metrics(&caller).await.map_err(|d| problem(&d))?;
    Ok(metrics(handle).await)
}

pub(super) async fn livez(State(handle): State<Handle>) -> Response {
    if handle.is_alive() {
        (StatusCode::OK, "ok\n").into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the engine has stopped\n").into_response()
    }
}

#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Verbose {
    /// With remarks that are no reasons; the value does not matter.
    verbose: Option<String>,
}

pub(super) type VerboseQuery = Result<Query<Verbose>, QueryRejection>;

pub(super) async fn readyz(State(handle): State<Handle>, query: VerboseQuery) -> Response {
    let Ok(Query(query)) = query else {
        return bad("the query takes verbose").into_response();
    };
    let readiness = handle.readiness();
    let ready = readiness.reasons.is_empty();
    let mut text = if ready { "ready\n".to_owned() } else { "not ready\n".to_owned() };
    for reason in &readiness.reasons {
        text.push_str("- ");
        text.push_str(reason);
        text.push('\n');
    }
    if query.verbose.is_some() {
        let records = match handle.details().len() {
            0 => None,
            count => Some(format!("remarks on the store's records, see the status: {count}")),
        };
        for remark in readiness.remarks.iter().chain(&records) {
            text.push_str("note: ");
            text.push_str(remark);
            text.push('\n');
        }
    }
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, text).into_response()
}

pub(super) async fn metrics(State(handle): State<Handle>) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], handle.metrics()).into_response()
}
