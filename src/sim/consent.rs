//! The customer's consent screen, as a redirect: this customer consents at once. Checks what
//! HubSpot would check before it shows the screen; what the code is good for is `oauth.rs`'s.

use axum::{
    Router,
    body::Body,
    extract::{Query, State},
    http::{Response, StatusCode, header},
    response::IntoResponse as _,
    routing::get,
};
use serde_json::json;

use super::{Sim, answer::Answer, deliver::plain, oauth::Form};
use crate::portal::{PortalId, Scopes};

pub(super) fn router() -> Router<Sim> {
    Router::new().route("/oauth/authorize", get(authorize))
}

/// Consents, unless `deny` is in the query.
async fn authorize(State(sim): State<Sim>, Query(query): Query<Form>) -> Response<Body> {
    match consent(&sim, &query) {
        Ok(location) => (StatusCode::FOUND, [(header::LOCATION, location)]).into_response(),
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
