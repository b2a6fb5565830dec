//! HubSpot's side of the wire: paths, forms, bearer tokens, in and out of HTTP. Decides nothing;
//! the rules are `oauth.rs`'s and the way there `traffic.rs`'s.

use std::{collections::BTreeMap, time::Duration};

use axum::{
    Extension, Form as FormBody, Router,
    body::{Body, to_bytes},
    extract::{DefaultBodyLimit, FromRequest as _, Path, Query, Request, State},
    http::{HeaderMap, HeaderValue, Response, header},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse as _, Redirect},
    routing::{get, post},
};
use jiff::{SignedDuration, fmt::rfc2822};
use serde_json::json;

use super::{
    Sim,
    answer::Answer,
    api::{Endpoint, Version},
    control,
    deliver::{Line, deliver, respond},
    oauth::{self, Form},
    settings::Settings,
    state::{self, Now},
    traffic::{Call, Subject},
};
use crate::{
    hubspot::wire::{category, grant_type, policy, token_use},
    portal::{PortalId, Scopes},
};

/// The longest body.
pub(super) const LONGEST_BODY: usize = 64 * 1024;
/// Calls that a portal has in any ten seconds (study `hubspot.md` 4.1).
const CALLS: usize = 110;
/// The stretch of time that [`CALLS`] counts.
const CALLS_WITHIN: Duration = Duration::from_secs(10);

pub(super) fn router(sim: Sim) -> Router {
    Router::new()
        .route("/oauth/authorize", get(authorize))
        .route("/oauth/{version}/token", post(token))
        .route("/oauth/{version}/token/introspect", post(introspect))
        .route("/oauth/{version}/token/revoke", post(revoke))
        .route("/oauth/v1/access-tokens/{token}", get(access_metadata))
        .route("/oauth/v1/refresh-tokens/{token}", get(refresh_metadata).delete(delete_refresh))
        .route("/account-info/{version}/details", get(details))
        .route("/api/v2/status.json", get(status_page))
        .merge(control::router())
        .fallback(nothing_here)
        .layer(DefaultBodyLimit::max(LONGEST_BODY))
        .layer(from_fn_with_state(sim.clone(), date))
        .with_state(sim)
}

/// The `Date` header, off by as much as is set.
async fn date(State(sim): State<Sim>, request: Request, next: Next) -> Response<Body> {
    let mut response = next.run(request).await;
    let offset = SignedDuration::from_secs(sim.settings().date_offset.into());
    let shown =
        sim.now().wall.checked_add(offset).ok().and_then(|time| {
            rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&time).ok()
        });
    if let Some(value) = shown.and_then(|text| HeaderValue::from_str(&text).ok()) {
        response.headers_mut().insert(header::DATE, value);
    }
    response
}

async fn nothing_here(State(sim): State<Sim>) -> Response<Body> {
    not_found(&sim)
}

fn not_found(sim: &Sim) -> Response<Body> {
    plain(&Answer::gone(404, &mut sim.world().state.mint))
}

/// An answer that no fault touches and no ledger notes.
pub(super) fn plain(answer: &Answer) -> Response<Body> {
    respond(answer, None, None)
}

/// The form in `request`. v1 alone also takes members from the query.
async fn form(sim: &Sim, version: Version, request: Request) -> Result<Form, Response<Body>> {
    let rules = sim.settings();
    let query = match version {
        Version::V1 => Query::<Form>::try_from_uri(request.uri()).map(|Query(form)| form),
        _ => Ok(Form::new()),
    };
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let is_json = kind.is_some_and(|kind| kind.starts_with("application/json"));
    let is_form = kind.is_none_or(|kind| kind.starts_with("application/x-www-form-urlencoded"));
    let refused = || plain(&Answer::wants_a_form(&mut sim.world().state.mint));
    let body = if is_json && rules.lenient_json {
        let bytes = to_bytes(request.into_body(), LONGEST_BODY).await.map_err(|_| refused())?;
        let members: BTreeMap<String, Option<String>> =
            serde_json::from_slice(&bytes).map_err(|_| refused())?;
        members.into_iter().filter_map(|(name, text)| Some((name, text?))).collect()
    } else if kind.is_none() {
        Form::new()
    } else if is_form {
        let FormBody(body) =
            FormBody::<Form>::from_request(request, &()).await.map_err(|error| {
                // Too large, or not UTF-8.
                error.into_response()
            })?;
        body
    } else {
        return Err(refused());
    };
    let mut all = query.unwrap_or_default();
    all.extend(body);
    Ok(all)
}

async fn token(
    State(sim): State<Sim>,
    Extension(line): Extension<Line>,
    Path(version): Path<String>,
    request: Request,
) -> Response<Body> {
    let endpoint = Endpoint::Token;
    let Some(version) = Version::of(endpoint, &version) else { return not_found(&sim) };
    let form = match form(&sim, version, request).await {
        Ok(form) => form,
        Err(refused) => return refused,
    };
    let subject = match form.get("grant_type").map(String::as_str) {
        Some(grant_type::REFRESH_TOKEN) => form.get("refresh_token").map(|t| Subject::Refresh(t)),
        Some(grant_type::AUTHORIZATION_CODE) => form.get("code").map(|code| Subject::Code(code)),
        _ => None,
    };
    let call = Call { endpoint, version, subject: subject.unwrap_or(Subject::App) };
    let outcome =
        sim.handle(call, |state, rules, now| match oauth::token(state, rules, &form, now) {
            Ok(tokens) => Answer::json(200, &tokens),
            Err(refusal) => Answer::refusal(refusal, rules, &mut state.mint),
        });
    deliver(outcome, &line).await
}

/// What a token in a form is: an access token if it is known as one or said to be.
fn subject_of<'f>(sim: &Sim, form: &'f Form) -> Subject<'f> {
    let Some(token) = form.get("token") else { return Subject::App };
    let world = sim.world();
    let said = form.get("token_type_hint").map(String::as_str);
    let known = world.state.access(token, &world.settings).is_some();
    if known || said == Some(token_use::ACCESS_TOKEN) {
        Subject::Access(token)
    } else {
        Subject::Refresh(token)
    }
}

async fn introspect(
    State(sim): State<Sim>,
    Extension(line): Extension<Line>,
    Path(version): Path<String>,
    request: Request,
) -> Response<Body> {
    let endpoint = Endpoint::Introspect;
    let Some(version) = Version::of(endpoint, &version) else { return not_found(&sim) };
    let form = match form(&sim, version, request).await {
        Ok(form) => form,
        Err(refused) => return refused,
    };
    let call = Call { endpoint, version, subject: subject_of(&sim, &form) };
    let outcome = sim.handle(call, |state, rules, now| {
        if let Err(refusal) = oauth::check_client(state, &form, now) {
            return Answer::refusal(refusal, rules, &mut state.mint);
        }
        let token = form.get("token").map(String::as_str).unwrap_or_default();
        Answer::json(200, &oauth::introspection(state, rules, token, now))
    });
    deliver(outcome, &line).await
}

async fn revoke(
    State(sim): State<Sim>,
    Extension(line): Extension<Line>,
    Path(version): Path<String>,
    request: Request,
) -> Response<Body> {
    let endpoint = Endpoint::Revoke;
    let Some(version) = Version::of(endpoint, &version) else { return not_found(&sim) };
    let form = match form(&sim, version, request).await {
        Ok(form) => form,
        Err(refused) => return refused,
    };
    let call = Call { endpoint, version, subject: subject_of(&sim, &form) };
    let outcome = sim.handle(call, |state, rules, now| {
        if let Err(refusal) = oauth::check_client(state, &form, now) {
            return Answer::refusal(refusal, rules, &mut state.mint);
        }
        // Unknown tokens and access tokens are no matter (study `hubspot.md` 2.2).
        if let Some(token) = form.get("token") {
            state.revoke(token);
        }
        Answer::empty(200)
    });
    deliver(outcome, &line).await
}

const fn metadata(subject: Subject<'_>) -> Call<'_> {
    Call { endpoint: Endpoint::Metadata, version: Version::V1, subject }
}

async fn access_metadata(
    State(sim): State<Sim>,
    Extension(line): Extension<Line>,
    Path(token): Path<String>,
) -> Response<Body> {
    let outcome = sim.handle(metadata(Subject::Access(&token)), |state, rules, now| {
        match oauth::access_metadata(state, rules, &token, now) {
            Some(found) => Answer::json(200, &found),
            None => Answer::gone(404, &mut state.mint),
        }
    });
    deliver(outcome, &line).await
}

async fn refresh_metadata(
    State(sim): State<Sim>,
    Extension(line): Extension<Line>,
    Path(token): Path<String>,
) -> Response<Body> {
    let outcome = sim.handle(metadata(Subject::Refresh(&token)), |state, rules, now| {
        match oauth::refresh_metadata(state, rules, &token, now) {
            Some(found) => Answer::json(200, &found),
            None => Answer::gone(404, &mut state.mint),
        }
    });
    deliver(outcome, &line).await
}

async fn delete_refresh(
    State(sim): State<Sim>,
    Extension(line): Extension<Line>,
    Path(token): Path<String>,
) -> Response<Body> {
    let outcome = sim.handle(metadata(Subject::Refresh(&token)), |state, _, _| {
        if state.issued(&token).is_none() {
            return Answer::gone(404, &mut state.mint);
        }
        state.revoke(&token);
        Answer::empty(204)
    });
    deliver(outcome, &line).await
}

async fn details(
    State(sim): State<Sim>,
    Extension(line): Extension<Line>,
    Path(version): Path<String>,
    headers: HeaderMap,
) -> Response<Body> {
    let endpoint = Endpoint::AccountInfo;
    let Some(version) = Version::of(endpoint, &version) else { return not_found(&sim) };
    let bearer = bearer(&headers).unwrap_or_default();
    let call = Call { endpoint, version, subject: Subject::Access(bearer) };
    let outcome = sim.handle(call, |state, rules, now| account(state, rules, bearer, now));
    deliver(outcome, &line).await
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token)
}

/// The account information of the portal that `bearer` is for.
fn account(state: &mut state::State, rules: &Settings, bearer: &str, now: Now) -> Answer {
    let access = state.access(bearer, rules).map(|access| (access.portal, access.expires));
    let Some((Some(id), expires)) = access else {
        let category = Some(category::INVALID_AUTHENTICATION);
        let message = "The access token is missing, malformed or unknown.";
        return Answer::api_error(401, category, message, json!({}), &mut state.mint);
    };
    if expires <= now.boot {
        let ago = now.boot.since(expires);
        let message = format!("The access token expired {} second(s) ago.", ago.as_secs());
        let then = now.wall.checked_sub(ago).unwrap_or(now.wall);
        let more = json!({"context": {"expire time": [then]}});
        let category = Some(category::EXPIRED_AUTHENTICATION);
        return Answer::api_error(401, category, &message, more, &mut state.mint);
    }
    let state::State { portals, mint, .. } = state;
    let Some(portal) = portals.get_mut(&id) else { return Answer::gone(404, mint) };
    if !portal.scopes.iter().any(|scope| scope == "oauth") {
        let message = "The app has not been granted the scopes that this call needs.";
        let more = json!({"errors": [{
            "message": "One of these scopes is needed.",
            "context": {"requiredGranularScopes": ["oauth"]},
        }]});
        return Answer::api_error(403, Some(category::MISSING_SCOPES), message, more, mint);
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

/// The customer's consent screen: this customer consents at once, unless `deny` is in the query.
async fn authorize(State(sim): State<Sim>, Query(query): Query<Form>) -> Response<Body> {
    match consent(&sim, &query) {
        Ok(location) => Redirect::to(&location).into_response(),
        Err(why) => plain(&Answer::json(400, &json!({"status": "error", "message": why}))),
    }
}

/// Where the browser goes next.
fn consent(sim: &Sim, query: &Form) -> Result<String, &'static str> {
    let member = |name: &str| query.get(name).map(String::as_str);
    if member("client_id") != Some(sim.client_id().as_str()) {
        return Err("no app has this client_id");
    }
    let back = member("redirect_uri").ok_or("redirect_uri is missing")?;
    let mut location: reqwest::Url = back.parse().map_err(|_| "redirect_uri is not a URL")?;
    let known = sim.world().state.redirect_uris.clone();
    if !known.is_empty() && !known.iter().any(|known| known == back) {
        return Err("redirect_uri is not one of the app's");
    }
    if member("code_challenge").is_some() && member("code_challenge_method") != Some("S256") {
        return Err("code_challenge_method is not S256");
    }
    let portal: Option<PortalId> =
        member("portal").map(str::parse).transpose().map_err(|_| "portal is not a portal id")?;
    let scopes: Scopes = ["scope", "optional_scope"]
        .into_iter()
        .filter_map(member)
        .flat_map(str::split_whitespace)
        .collect();
    if scopes.is_empty() {
        return Err("scope is missing");
    }
    if member("deny").is_some() {
        location.query_pairs_mut().append_pair("error", "access_denied");
    } else {
        let challenge = member("code_challenge").map(str::to_owned);
        let (_, code) = sim.consent(portal, Some(scopes), Some(back.to_owned()), challenge);
        location.query_pairs_mut().append_pair("code", &code);
    }
    if let Some(state) = member("state") {
        location.query_pairs_mut().append_pair("state", state);
    }
    Ok(location.into())
}
