//! One function a request: ask the engine, put the answer into words. No rule lives here.

use std::{sync::Arc, time::Duration};

use axum::{
    Extension, Router,
    extract::{
        DefaultBodyLimit, Path, Query, State,
        rejection::{PathRejection, QueryRejection},
    },
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::Deserialize;

use super::{
    answer::{bad, json, named, problem},
    events, orders,
    protocol::{
        self, AppBody, AuditBody, BudgetBody, HealthBody, PortalBody, PortalsBody, Problem,
        StatusBody, TokenBody,
    },
    webhooks,
};
use crate::{
    access::Caller,
    engine::{
        Answer, Handle,
        view::{Health, PortalView},
    },
    portal::{NotAPortalId, PortalId},
};

/// A page of portals, unless asked for less.
const PAGE: usize = 1000;
/// HubSpot sends a hundred events at once at most; with room for those of large objects, in base64.
const LARGEST_WEBHOOK: usize = 2 * 1024 * 1024;
/// No other request's body is larger.
const LARGEST_BODY: usize = 64 * 1024;
/// The longest `min_ttl` that makes sense, in seconds: a day.
const LONGEST_TTL: u64 = 24 * 3600;

/// Everything a local caller can ask.
pub(super) fn socket(handle: Handle) -> Router {
    Router::new()
        .route("/v1/portals/{id}/token", get(token))
        .route("/v1/portals/{id}/refresh", post(orders::refresh))
        .route("/v1/portals/{id}", get(portal).delete(orders::remove))
        .route("/v1/portals/{id}/pause", post(orders::pause))
        .route("/v1/portals/{id}/resume", post(orders::resume))
        .route("/v1/portals", get(portals).post(orders::enrol))
        .route(
            "/v1/webhooks/verify",
            post(webhooks::verify).layer(DefaultBodyLimit::max(LARGEST_WEBHOOK)),
        )
        .route("/v1/events", get(events::events))
        .route("/v1/status", get(status))
        .route("/v1/reload", post(reload))
        .route("/livez", get(livez_known))
        .route("/readyz", get(readyz_known))
        .route("/metrics", get(metrics_allowed))
        .layer(DefaultBodyLimit::max(LARGEST_BODY))
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .with_state(handle)
}

/// What the optional TCP listener tells anybody: health and metrics, never a token.
pub(super) fn health(handle: Handle) -> Router {
    Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .with_state(handle)
}

/// The part of the path that names a portal, as it came.
pub(super) type NamedPortal = Result<Path<String>, PathRejection>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenQuery {
    min_ttl: Option<u64>,
}

async fn token(
    State(handle): State<Handle>,
    Extension(caller): Extension<Caller>,
    id: NamedPortal,
    query: Result<Query<TokenQuery>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let portal = portal_id(id)?;
    let Query(query) =
        query.map_err(|_| bad("the query takes min_ttl, a whole number of seconds"))?;
    if query.min_ttl.is_some_and(|seconds| seconds > LONGEST_TTL) {
        return Err(bad("min_ttl is at most a day"));
    }
    let min_ttl = query.min_ttl.map(Duration::from_secs);
    let answer = handle.token(&caller, portal, min_ttl).await.map_err(|d| problem(&d))?;
    let etag = format!("\"{}\"", answer.fingerprint);
    let same = matches(&headers, &etag);
    Ok(token_response(
        portal,
        &answer,
        if same { StatusCode::NOT_MODIFIED } else { StatusCode::OK },
    ))
}

/// A token as it is handed out; with 304, its name alone.
pub(super) fn token_response(portal: PortalId, answer: &Answer, status: StatusCode) -> Response {
    let mut response = if status == StatusCode::NOT_MODIFIED {
        status.into_response()
    } else {
        let body = TokenBody {
            portal_id: portal,
            // exposed: into the answer to a caller who may have it
            access_token: answer.access_token.expose(),
            token_type: "bearer",
            expires_at: answer.expires_at,
            expires_in: answer.expires_in.as_secs(),
            scopes: answer.scopes.as_ref(),
            short_lived: answer.short_lived,
        };
        json(status, "application/json", &body)
    };
    let headers = response.headers_mut();
    if let Ok(etag) = HeaderValue::from_str(&format!("\"{}\"", answer.fingerprint)) {
        headers.insert(header::ETAG, etag);
    }
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn matches(headers: &HeaderMap, etag: &str) -> bool {
    let given = headers.get_all(header::IF_NONE_MATCH).into_iter();
    given.filter_map(|value| value.to_str().ok()).flat_map(|list| list.split(',')).any(|one| {
        let one = one.trim();
        // `*` is whatever there is now (RFC 9110, 13.1.2).
        one == "*" || one.strip_prefix("W/").unwrap_or(one) == etag
    })
}

async fn portal(
    State(handle): State<Handle>,
    Extension(caller): Extension<Caller>,
    id: NamedPortal,
) -> Result<Response, Problem> {
    let portal = portal_id(id)?;
    let view = handle.portal(&caller, portal).await.map_err(|d| problem(&d))?;
    Ok(json(StatusCode::OK, "application/json", &portal_body(&handle, portal, &view)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PortalsQuery {
    state: Option<String>,
    after: Option<u64>,
    limit: Option<usize>,
}

async fn portals(
    State(handle): State<Handle>,
    Extension(caller): Extension<Caller>,
    query: Result<Query<PortalsQuery>, QueryRejection>,
) -> Result<Response, Problem> {
    let Query(query) = query.map_err(|_| bad("the query takes state, after and limit"))?;
    let state = query
        .state
        .map(|word| protocol::state(&word).ok_or_else(|| bad("there is no such state")))
        .transpose()?;
    let after = query
        .after
        .filter(|after| *after > 0)
        .map(|number| PortalId::new(number).map_err(|e| bad(e.to_string())))
        .transpose()?;
    let limit = query.limit.unwrap_or(PAGE);
    if !(1..=PAGE).contains(&limit) {
        return Err(bad(format!("limit is from 1 to {PAGE}")));
    }
    let page = handle.portals(&caller, state, after, limit).await.map_err(|d| problem(&d))?;
    let portals = page.portals.iter().map(|(id, view)| portal_body(&handle, *id, view)).collect();
    Ok(json(StatusCode::OK, "application/json", &PortalsBody { portals, next: page.next }))
}

fn portal_body(handle: &Handle, portal: PortalId, view: &Arc<PortalView>) -> PortalBody {
    let clock = handle.clock();
    let wall = |at| Some(clock.wall_at(at));
    let (now, ended) = (clock.boot(), view.portal.ended().is_some());
    PortalBody {
        portal_id: portal,
        state: handle.state(view).as_str().to_owned(),
        reason: handle.reason(view).map(str::to_owned),
        expires_at: view.portal.token.and_then(|token| wall(token.expires)),
        last_refresh: view.last_refresh,
        next_refresh: view
            .portal
            .renew_at
            .filter(|at| !ended && !view.portal.paused && *at > now)
            .and_then(wall),
        scopes: view.scopes.clone(),
    }
}

async fn status(
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
    let mut remarks = readiness.remarks;
    remarks.extend(overall.strays.iter().map(|name| {
        format!(
            "the store has a record named {name:?} among the portals; a portal id is digits only"
        )
    }));
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
        records_read: overall.records_read,
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    Ok(json(StatusCode::OK, "application/json", &body))
}

fn audit_body(handle: &Handle) -> AuditBody {
    let tip = handle.audit().tip();
    AuditBody {
        state: if tip.is_some() { "kept" } else { "none" }.to_owned(),
        last_seq: tip.as_ref().map(|tip| tip.seq),
        last_hash: tip.map(|tip| tip.hash.to_string()),
    }
}

async fn reload(
    State(handle): State<Handle>,
    Extension(caller): Extension<Caller>,
) -> Result<Response, Problem> {
    handle.reload(&caller).await.map_err(|d| problem(&d))?;
    Ok(json(StatusCode::OK, "application/json", &serde_json::json!({ "reloaded": true })))
}

async fn livez_known(
    handle: State<Handle>,
    caller: Extension<Caller>,
) -> Result<Response, Problem> {
    handle.see_health(&caller).await.map_err(|d| problem(&d))?;
    Ok(livez(handle).await)
}

async fn readyz_known(
    handle: State<Handle>,
    caller: Extension<Caller>,
    query: VerboseQuery,
) -> Result<Response, Problem> {
    handle.see_health(&caller).await.map_err(|d| problem(&d))?;
    Ok(readyz(handle, query).await)
}

async fn metrics_allowed(
    handle: State<Handle>,
    caller: Extension<Caller>,
) -> Result<Response, Problem> {
    handle.see_metrics(&caller).await.map_err(|d| problem(&d))?;
    Ok(metrics(handle).await)
}

async fn livez(State(handle): State<Handle>) -> Response {
    if handle.is_alive() {
        (StatusCode::OK, "ok\n").into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the engine has stopped\n").into_response()
    }
}

#[derive(Deserialize)]
struct Verbose {
    verbose: Option<String>,
}

type VerboseQuery = Result<Query<Verbose>, QueryRejection>;

async fn readyz(State(handle): State<Handle>, query: VerboseQuery) -> Response {
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
        for remark in &readiness.remarks {
            text.push_str("note: ");
            text.push_str(remark);
            text.push('\n');
        }
    }
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, text).into_response()
}

async fn metrics(State(handle): State<Handle>) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], handle.metrics()).into_response()
}

async fn no_such_path() -> Problem {
    named(StatusCode::NOT_FOUND, "not_found", "there is no such path; see GET /v1/status")
}

async fn no_such_method() -> Problem {
    named(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "this path takes another method")
}

pub(super) fn portal_id(named: NamedPortal) -> Result<PortalId, Problem> {
    // What is not UTF-8 is not a portal id either.
    let text = named.map_or_else(|_| String::new(), |Path(text)| text);
    text.parse().map_err(|error: NotAPortalId| bad(error.to_string()))
}
