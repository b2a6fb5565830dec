//! Calls with a portal's access token: account information, within a portal's rate limit; beside
//! them the status page. Knows nothing of how tokens come about.

use std::time::Duration;

use axum::{
    Extension, Router,
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, Response, header},
    routing::get,
};
use serde_json::json;

use super::{
    Sim,
    answer::Answer,
    api::{Endpoint, Version},
    deliver::{Line, deliver, plain},
    mint::Mint,
    settings::Settings,
    state::{self, Access, Now},
    traffic::{Call, Subject},
};
use crate::hubspot::wire::{category, policy};

/// Calls that a portal has in any ten seconds (study `hubspot.md` 4.1).
const CALLS: usize = 110;
/// The stretch of time that [`CALLS`] counts.
const CALLS_WITHIN: Duration = Duration::from_secs(10);

pub(super) fn router() -> Router<Sim> {
    Router::new()
        .route("/account-info/{version}/details", get(details))
        .route("/api/v2/status.json", get(status_page))
}

async fn details(
    State(sim): State<Sim>,
    Extension(line): Extension<Line>,
    Path(version): Path<String>,
    headers: HeaderMap,
) -> Response<Body> {
    let endpoint = Endpoint::AccountInfo;
    let Some(version) = Version::of(endpoint, &version) else { return plain(&sim.nothing_here()) };
    let bearer = bearer(&headers).unwrap_or_default();
    let call = Call { endpoint, version, subject: Subject::Access(bearer) };
    let outcome = sim.handle(call, |state, rules, now| account(state, rules, bearer, now));
    deliver(outcome, &line).await
}

/// The access token of a call.
pub(super) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token)
}

/// What `bearer` is good for, or the 401 that it brings.
pub(super) fn authenticated(
    state: &mut state::State,
    rules: &Settings,
    bearer: &str,
    now: Now,
) -> Result<Access, Answer> {
    let Some(access) = state.access(bearer, rules).cloned() else {
        return Err(unauthenticated(&mut state.mint));
    };
    if access.expires > now.boot {
        return Ok(access);
    }
    let ago = now.boot.since(access.expires);
    let message = format!("The access token expired {} second(s) ago.", ago.as_secs());
    let then = now.wall.checked_sub(ago).unwrap_or(now.wall);
    let more = json!({"context": {"expire time": [then]}});
    let category = Some(category::EXPIRED_AUTHENTICATION);
    Err(Answer::api_error(401, category, &message, more, &mut state.mint))
}

fn unauthenticated(mint: &mut Mint) -> Answer {
    let category = Some(category::INVALID_AUTHENTICATION);
    let message = "The access token is missing, malformed or unknown.";
    Answer::api_error(401, category, message, json!({}), mint)
}

/// The 403 for a call that needs `scope`.
pub(super) fn scope_missing(scope: &str, mint: &mut Mint) -> Answer {
    let message = "The app has not been granted the scopes that this call needs.";
    let more = json!({"errors": [{
        "message": "One of these scopes is needed.",
        "context": {"requiredGranularScopes": [scope]},
    }]});
    Answer::api_error(403, Some(category::MISSING_SCOPES), message, more, mint)
}

/// The account information of the portal that `bearer` is for.
fn account(state: &mut state::State, rules: &Settings, bearer: &str, now: Now) -> Answer {
    let id = match authenticated(state, rules, bearer, now) {
        Ok(Access { portal: Some(id), .. }) => id,
        // A token of the app itself is for no portal.
        Ok(_) => return unauthenticated(&mut state.mint),
        Err(refused) => return refused,
    };
    let state::State { portals, mint, .. } = state;
    let Some(portal) = portals.get_mut(&id) else { return Answer::gone(404, mint) };
    if !portal.scopes.iter().any(|scope| scope == "oauth") {
        return scope_missing("oauth", mint);
    }
    let mut answer = if portal.calls.admit(CALLS, CALLS_WITHIN, now.boot) {
        Answer::json(
            200,
            &json!({
                "portalId": id,
                "accountType": "STANDARD",
                "timeZone": "Europe/Berlin",
                "companyCurrency": "EUR",
                "additionalCurrencies": [],
                "utcOffset": "+01:00",
                "utcOffsetMilliseconds": 3_600_000,
                "uiDomain": "app.hubspot.com",
                "dataHostingLocation": "na1",
            }),
        )
    } else {
        Answer::rate_limited(policy::TEN_SECONDLY_ROLLING, None, mint)
    };
    let left = CALLS.saturating_sub(portal.calls.count(CALLS_WITHIN, now.boot));
    answer.headers.extend([
        ("x-hubspot-ratelimit-max", CALLS.to_string()),
        ("x-hubspot-ratelimit-remaining", left.to_string()),
        ("x-hubspot-ratelimit-interval-milliseconds", CALLS_WITHIN.as_millis().to_string()),
    ]);
    answer
}

async fn status_page(State(sim): State<Sim>) -> Response<Body> {
    let indicator = sim.settings().indicator;
    plain(&Answer::json(
        200,
        &json!({
            "page": {"name": "HubSpot", "updated_at": sim.now().wall},
            "status": {"indicator": indicator, "description": indicator.description()},
        }),
    ))
}
