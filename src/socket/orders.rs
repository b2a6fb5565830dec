//! What changes a grant: renewing a rejected token, enrolling, forgetting, revoking, pausing. Bodies are JSON, of a
//! bounded size, and never echoed. No rule lives here.

use axum::{
    Extension,
    extract::{Query, State, rejection::QueryRejection},
    http::StatusCode,
    response::Response,
};
use serde::{Deserialize, de::DeserializeOwned};

use super::{
    answer::{bad, json, problem},
    limits::Whole,
    openapi::Refusals,
    protocol::{EnrolBody, EnrolledBody, PausedBody, Problem, RefreshBody, RemovedBody, TokenBody},
    routes::{Named, NamedPortal, portal_id, senseless, token_response},
};
use crate::{
    access::Caller,
    engine::{Asking, Denial, Handle, Offered},
    lifecycle::Code,
    secret::{AuthorizationCode, CodeVerifier, Fingerprint, RefreshToken},
};

/// The longest redirect URI that anybody registers.
const LONGEST_URI: usize = 2048;

/// No body is larger, but a webhook's.
const LARGEST: usize = 64 * 1024;

/// The body of an order.
pub(super) type Body = Whole<LARGEST>;

/// The body as `T`, if its sender is `admitted`. What is wrong with it is told by its place, never by its text.
pub(super) async fn read<T: DeserializeOwned, const LARGEST: usize>(
    body: Whole<LARGEST>,
    admitted: Result<(), Denial>,
) -> Result<T, Problem> {
    let bytes = body.read(admitted).await?;
    serde_json::from_slice(&bytes).map_err(|error| {
        let what = match error.classify() {
            serde_json::error::Category::Data => mistake(&error.to_string()),
            _ => "is not JSON".to_owned(),
        };
        bad(format!("the body {what} (line {}, column {})", error.line(), error.column()))
    })
}

/// What is wrong with a body, by the names of our own members alone: the rest of what is said may be the body's.
fn mistake(said: &str) -> String {
    let lacking = said.strip_prefix("missing field ").and_then(|rest| rest.split(" at ").next());
    let known =
        said.split_once("unknown field ").and_then(|(_, rest)| rest.rsplit_once("expected "));
    match (lacking, known.and_then(|(_, known)| known.split(" at line").next())) {
        (Some(lacking), _) => format!("lacks {lacking}"),
        (_, Some(known)) => {
            format!("has a member other than {}", known.trim_start_matches("one of "))
        }
        _ => "has a member of the wrong type".to_owned(),
    }
}

/// For an app that met a 401 with a token: another token, new if that one is still the current one. Needs `refresh` and
/// `token` on the portal.
#[utoipa::path(post, path = "/v1/portals/{id}/refresh", tag = "tokens", params(Named),
    request_body = RefreshBody,
    responses(
        (status = 200, body = TokenBody, headers(("ETag" = String, description = "the token's name"))),
        Refusals,
    ))]
pub(super) async fn refresh(
    State(handle): State<Handle>,
    Extension(caller): Extension<Caller>,
    id: NamedPortal,
    body: Body,
) -> Result<Response, Problem> {
    let portal = portal_id(id)?;
    let admitted = handle.admit(&caller, Asking::Refresh(portal)).await;
    let RefreshBody { rejected } = read(body, admitted).await?;
    let name = rejected.trim().trim_start_matches("W/").trim_matches('"').to_owned();
    let name: Fingerprint = serde_json::from_value(name.into())
        .map_err(|_| bad("`rejected` is the ETag that the rejected token came with"))?;
    let answer = handle.refresh(&caller, portal, name).await.map_err(|d| problem(&d))?;
    Ok(token_response(portal, &answer, StatusCode::OK))
}

/// Takes a grant in: exchanges the code, or recognises the refresh token, and stores it. Needs `enroll` on the grant's
/// portal.
#[utoipa::path(post, path = "/v1/portals", tag = "portals", request_body = EnrolBody,
    responses((status = 201, body = EnrolledBody), Refusals))]
pub(super) async fn enrol(
    State(handle): State<Handle>,
    Extension(caller): Extension<Caller>,
    body: Body,
) -> Result<Response, Problem> {
    let admitted = handle.admit(&caller, Asking::Enroll).await;
    let offered = offered(read(body, admitted).await?)?;
    let enrolled = handle.enrol(&caller, offered).await.map_err(|d| problem(&d))?;
    let body = EnrolledBody {
        portal_id: enrolled.portal,
        replaced: enrolled.replaced,
        scopes: enrolled.scopes,
    };
    Ok(json(StatusCode::CREATED, "application/json", &body))
}

fn offered(body: EnrolBody) -> Result<Offered, Problem> {
    let malformed = |what: &str, why: crate::secret::MalformedSecret| {
        bad(format!("`{what}` can't be used: {why}"))
    };
    let EnrolBody { code, redirect_uri, code_verifier, refresh_token } = body;
    match (code, redirect_uri, refresh_token) {
        (Some(code), Some(redirect_uri), None) => {
            let code = AuthorizationCode::parse(code).map_err(|why| malformed("code", why))?;
            let verifier = code_verifier.map(CodeVerifier::parse).transpose();
            let verifier = verifier.map_err(|why| malformed("code_verifier", why))?;
            if redirect_uri.len() > LONGEST_URI {
                return Err(bad("`redirect_uri` is too long"));
            }
            Ok(Offered::Code(Code { code, redirect_uri, verifier }))
        }
        (None, None, Some(token)) if code_verifier.is_none() => {
            let token =
                RefreshToken::parse(token).map_err(|why| malformed("refresh_token", why))?;
            Ok(Offered::RefreshToken(token))
        }
        _ => Err(bad("the body holds either `code` and `redirect_uri`, or `refresh_token`")),
    }
}

#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct RemoveQuery {
    /// End the grant at HubSpot first.
    #[serde(default)]
    #[param(required = false)]
    revoke: bool,
}

/// Forgets a portal; with `revoke=true`, ends its grant at HubSpot first. Needs `revoke` on it.
#[utoipa::path(delete, path = "/v1/portals/{id}", tag = "portals", params(Named, RemoveQuery),
    responses((status = 200, body = RemovedBody), Refusals))]
pub(super) async fn remove(
    State(handle): State<Handle>,
    Extension(caller): Extension<Caller>,
    id: NamedPortal,
    query: Result<Query<RemoveQuery>, QueryRejection>,
) -> Result<Response, Problem> {
    let portal_id = portal_id(id)?;
    let Ok(Query(RemoveQuery { revoke })) = query else {
        let wrong = bad("the query takes revoke, true or false");
        return Err(senseless(&handle, &caller, Asking::Remove(portal_id), wrong).await);
    };
    let removed = handle.remove(&caller, portal_id, revoke).await.map_err(|d| problem(&d))?;
    let body = RemovedBody { portal_id, revoked: removed.revoked };
    Ok(json(StatusCode::OK, "application/json", &body))
}

/// Gives out no token and asks HubSpot nothing about a portal, until it is resumed. Needs `admin` on it.
#[utoipa::path(post, path = "/v1/portals/{id}/pause", tag = "portals", params(Named),
    responses((status = 200, body = PausedBody), Refusals))]
pub(super) async fn pause(
    State(handle): State<Handle>,
    Extension(caller): Extension<Caller>,
    id: NamedPortal,
) -> Result<Response, Problem> {
    order(&handle, &caller, id, true).await
}

/// Lets a paused portal go on. Needs `admin` on it.
#[utoipa::path(post, path = "/v1/portals/{id}/resume", tag = "portals", params(Named),
    responses((status = 200, body = PausedBody), Refusals))]
pub(super) async fn resume(
    State(handle): State<Handle>,
    Extension(caller): Extension<Caller>,
    id: NamedPortal,
) -> Result<Response, Problem> {
    order(&handle, &caller, id, false).await
}

async fn order(
    handle: &Handle,
    caller: &Caller,
    id: NamedPortal,
    paused: bool,
) -> Result<Response, Problem> {
    let portal_id = portal_id(id)?;
    let outlives_restart =
        handle.pause(caller, portal_id, paused).await.map_err(|d| problem(&d))?;
    let body = PausedBody { portal_id, paused, outlives_restart };
    Ok(json(StatusCode::OK, "application/json", &body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_a_body_is_told_by_our_own_words_alone() {
        let wrong = |text: &str| {
            mistake(&serde_json::from_str::<EnrolBody>(text).err().unwrap().to_string())
        };
        let known =
            "has a member other than `code`, `redirect_uri`, `code_verifier`, `refresh_token`";
        for text in [r#"{"s3cret":1}"#, r#"{"s3cret, expected `b`":1}"#] {
            assert_eq!(wrong(text), known);
        }
        assert_eq!(wrong(r#"{"code":{"s3cret":1}}"#), "has a member of the wrong type");
        let lacking = serde_json::from_str::<RefreshBody>("{}").err().unwrap().to_string();
        assert_eq!(mistake(&lacking), "lacks `rejected`");
        let one = serde_json::from_str::<RefreshBody>(r#"{"s3cret":1}"#).err().unwrap().to_string();
        assert_eq!(mistake(&one), "has a member other than `rejected`");
    }
}
