//! HubSpot's token endpoints on the wire: paths and forms, in and out of HTTP. Decides nothing; the
//! rules are `oauth.rs`'s and the way there `traffic.rs`'s.

use std::collections::BTreeMap;

use axum::{
    Extension, Form as FormBody, Router,
    body::{Body, to_bytes},
    extract::{DefaultBodyLimit, FromRequest as _, Path, Query, Request, State},
    http::{HeaderValue, Response, header},
    middleware::{Next, from_fn_with_state},
    response::IntoResponse,
    routing::{get, post},
};
use jiff::{SignedDuration, fmt::rfc2822};

use super::{
    Sim, account,
    answer::Answer,
    api::{Endpoint, Version},
    consent, control,
    deliver::{Line, deliver, plain},
    journal,
    oauth::{self, Form},
    traffic::{Call, Subject},
};
use crate::hubspot::wire::{grant_type, token_use};

/// The longest body.
const LONGEST_BODY: usize = 64 * 1024;

pub(super) fn router(sim: Sim) -> Router {
    Router::new()
        .route("/oauth/{version}/token", post(token))
        .route("/oauth/{version}/token/introspect", post(introspect))
        .route("/oauth/{version}/token/revoke", post(revoke))
        .route("/oauth/v1/access-tokens/{token}", get(access_metadata))
        .route("/oauth/v1/refresh-tokens/{token}", get(refresh_metadata).delete(delete_refresh))
        .merge(consent::router())
        .merge(account::router())
        .merge(journal::router())
        .merge(control::router())
        .fallback(nothing_here)
        .layer(DefaultBodyLimit::max(LONGEST_BODY))
        .layer(from_fn_with_state(sim.clone(), date))
        .with_state(sim)
}

/// The `Date` header, off by as much as is set.
async fn date(State(sim): State<Sim>, request: Request, next: Next) -> Response<Body> {
    let mut response = next.run(request).await;
    let offset = SignedDuration::from_secs(sim.world().settings.date_offset.into());
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
    plain(&sim.nothing_here())
}

/// The form in `request`. v1 alone also takes members from the query.
async fn form(sim: &Sim, version: Version, request: Request) -> Result<Form, Response<Body>> {
    let mut all = match version {
        Version::V1 => Query::try_from_uri(request.uri()).map_or_else(|_| Form::new(), |q| q.0),
        _ => Form::new(),
    };
    all.extend(match kind_of(&request) {
        Kind::None => Form::new(),
        Kind::Form => {
            // Too large, or not UTF-8.
            FormBody::<Form>::from_request(request, &())
                .await
                .map_err(IntoResponse::into_response)?
                .0
        }
        Kind::Json if sim.world().settings.lenient_json => {
            let body = to_bytes(request.into_body(), LONGEST_BODY).await.unwrap_or_default();
            let members: BTreeMap<String, Option<String>> =
                serde_json::from_slice(&body).map_err(|_| wants_a_form(sim))?;
            members.into_iter().filter_map(|(name, text)| Some((name, text?))).collect()
        }
        Kind::Json | Kind::Other => return Err(wants_a_form(sim)),
    });
    Ok(all)
}

fn wants_a_form(sim: &Sim) -> Response<Body> {
    plain(&Answer::wants_a_form(&mut sim.world().state.mint))
}

/// What a body is said to be.
enum Kind {
    None,
    Form,
    Json,
    Other,
}

fn kind_of(request: &Request) -> Kind {
    let Some(kind) = request.headers().get(header::CONTENT_TYPE) else { return Kind::None };
    let bare = kind.to_str().unwrap_or_default().split(';').next().unwrap_or_default();
    match bare.trim().to_ascii_lowercase().as_str() {
        "application/x-www-form-urlencoded" => Kind::Form,
        "application/json" => Kind::Json,
        _ => Kind::Other,
    }
}

async fn token(
    State(sim): State<Sim>,
    Extension(line): Extension<Line>,
    Path(version): Path<String>,
    request: Request,
) -> Response<Body> {
    let endpoint = Endpoint::Token;
    let Some(version) = Version::of(endpoint, &version) else {
        return nothing_here(State(sim)).await;
    };
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
    let Some(version) = Version::of(endpoint, &version) else {
        return nothing_here(State(sim)).await;
    };
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
    let Some(version) = Version::of(endpoint, &version) else {
        return nothing_here(State(sim)).await;
    };
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
