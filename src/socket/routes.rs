//! One function a request: ask the engine, put the answer into words. No rule lives here.

use std::{sync::Arc, time::Duration};

use axum::{
    Extension, Router,
    extract::{
        Path, Query, State,
        rejection::{PathRejection, QueryRejection},
    },
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::Deserialize;

use super::{
    alerts,
    answer::{bad, json, named, problem},
    events,
    openapi::{self, PortalWord, Refusals},
    orders, page,
    protocol::{self, PortalBody, PortalsBody, Problem, TokenBody},
    rotation, state, webhooks,
};
use crate::{
    access::Caller,
    engine::{Answer, Asking, Handle, view::PortalView},
    lifecycle::PortalState,
    portal::{NotAPortalId, PortalId},
};

/// A page of portals, unless asked for less.
const PAGE: usize = 1000;
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
        .route("/v1/webhooks/verify", post(webhooks::verify))
        .route("/v1/events", get(events::events))
        .route("/v1/status", get(state::status))
        .route("/v1/incidents/{id}/acknowledge", post(alerts::acknowledge))
        .route("/v1/receivers/{name}/test", post(alerts::test))
        .route("/v1/rotation/try", post(rotation::try_staged))
        .route("/v1/reload", post(state::reload))
        .route("/livez", get(state::livez_known))
        .route("/readyz", get(state::readyz_known))
        .route("/metrics", get(state::metrics_allowed))
        .route("/openapi.json", get(openapi::document))
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .with_state(handle)
}

/// What the optional TCP listener tells anybody: health, metrics and a status page, never a token.
pub(super) fn health(handle: Handle) -> Router {
    Router::new()
        .route("/", get(page::status_page))
        .route("/livez", get(state::livez))
        .route("/readyz", get(state::readyz))
        .route("/metrics", get(state::metrics))
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .with_state(handle)
}

/// The part of the path that names a portal.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "described, and taken from the path as text")]
pub(super) struct Named {
    /// The portal's id: digits, without leading zeros.
    #[param(minimum = 1)]
    id: u64,
}

/// The same as it came.
pub(super) type NamedPortal = Result<Path<String>, PathRejection>;

#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct TokenQuery {
    /// The least life that the token is to have, in seconds; the configuration's `refresh.min_ttl` if it is not said.
    #[param(minimum = 0, maximum = 86_400)]
    min_ttl: Option<u64>,
}

/// One access token. Needs `token` on the portal.
#[utoipa::path(get, path = "/v1/portals/{id}/token", tag = "tokens",
    params(Named, TokenQuery, ("If-None-Match" = Option<String>, Header, description = "ETags that the caller has")),
    responses(
        (status = 200, body = TokenBody, headers(("ETag" = String, description = "the token's name"))),
        (status = 304, description = "the caller has it"),
        Refusals,
    ))]
pub(super) async fn token(
    State(handle): State<Handle>,
    Extension(caller): Extension<Caller>,
    id: NamedPortal,
    query: Result<Query<TokenQuery>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let portal = portal_id(id)?;
    let min_ttl = match least_life(query) {
        Ok(min_ttl) => min_ttl,
        Err(wrong) => return Err(senseless(&handle, &caller, Asking::Token(portal), wrong).await),
    };
    let answer = handle.token(&caller, portal, min_ttl).await.map_err(|d| problem(&d))?;
    let etag = format!("\"{}\"", answer.fingerprint);
    let same = matches(&headers, &etag);
    Ok(token_response(
        portal,
        &answer,
        if same { StatusCode::NOT_MODIFIED } else { StatusCode::OK },
    ))
}

fn least_life(
    query: Result<Query<TokenQuery>, QueryRejection>,
) -> Result<Option<Duration>, Problem> {
    let Query(TokenQuery { min_ttl }) =
        query.map_err(|_| bad("the query takes min_ttl, a whole number of seconds"))?;
    if min_ttl.is_some_and(|seconds| seconds > LONGEST_TTL) {
        return Err(bad("min_ttl is at most a day"));
    }
    Ok(min_ttl.map(Duration::from_secs))
}

/// What is wrong with a question, for who may ask it.
pub(super) async fn senseless(
    handle: &Handle,
    caller: &Caller,
    asking: Asking,
    wrong: Problem,
) -> Problem {
    handle.admit(caller, asking).await.map_or_else(|denial| problem(&denial), |()| wrong)
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

/// One portal's state. Needs `status` on it.
#[utoipa::path(get, path = "/v1/portals/{id}", tag = "portals", params(Named),
    responses((status = 200, body = PortalBody), Refusals))]
pub(super) async fn portal(
    State(handle): State<Handle>,
    Extension(caller): Extension<Caller>,
    id: NamedPortal,
) -> Result<Response, Problem> {
    let portal = portal_id(id)?;
    let view = handle.portal(&caller, portal).await.map_err(|d| problem(&d))?;
    Ok(json(StatusCode::OK, "application/json", &portal_body(&handle, portal, &view)))
}

#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct PortalsQuery {
    /// Only portals in this state.
    #[param(value_type = Option<PortalWord>, inline)]
    state: Option<String>,
    /// Only portals after this one: `next` of the page before.
    #[param(minimum = 0)]
    after: Option<u64>,
    /// As many at most.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
}

/// The portals that the caller may see, ascending. Needs `status` on some.
#[utoipa::path(get, path = "/v1/portals", tag = "portals", params(PortalsQuery),
    responses((status = 200, body = PortalsBody), Refusals))]
pub(super) async fn portals(
    State(handle): State<Handle>,
    Extension(caller): Extension<Caller>,
    query: Result<Query<PortalsQuery>, QueryRejection>,
) -> Result<Response, Problem> {
    let (state, after, limit) = match page(query) {
        Ok(page) => page,
        Err(wrong) => return Err(senseless(&handle, &caller, Asking::Portals, wrong).await),
    };
    let page = handle.portals(&caller, state, after, limit).await.map_err(|d| problem(&d))?;
    let portals = page.portals.iter().map(|(id, view)| portal_body(&handle, *id, view)).collect();
    Ok(json(StatusCode::OK, "application/json", &PortalsBody { portals, next: page.next }))
}

fn page(
    query: Result<Query<PortalsQuery>, QueryRejection>,
) -> Result<(Option<PortalState>, Option<PortalId>, usize), Problem> {
    let Query(query) = query.map_err(|_| bad("the query takes state, after and limit"))?;
    let state = query
        .state
        .map(|word| protocol::state(&word).ok_or_else(|| bad("there is no such state")))
        .transpose()?;
    let after = query
        .after
        .filter(|after| *after > 0)
        .map(|number| {
            // As large as the description says.
            i64::try_from(number).map_err(|_| bad("there is no portal of so high a number"))?;
            PortalId::new(number).map_err(|e| bad(e.to_string()))
        })
        .transpose()?;
    let limit = query.limit.unwrap_or(PAGE);
    if !(1..=PAGE).contains(&limit) {
        return Err(bad(format!("limit is from 1 to {PAGE}")));
    }
    Ok((state, after, limit))
}

fn portal_body(handle: &Handle, portal: PortalId, view: &Arc<PortalView>) -> PortalBody {
    let clock = handle.clock();
    let wall = |at| Some(clock.wall_at(at));
    let (now, ended) = (clock.boot(), view.portal.ended().is_some());
    PortalBody {
        portal_id: portal,
        state: handle.state(view).as_str().to_owned(),
        paused: view.portal.paused,
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
