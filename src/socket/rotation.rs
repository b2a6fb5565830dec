//! What a rotation asks of the running service: a try with the secret that is staged. No rule lives here.

use axum::{Extension, extract::State, http::StatusCode, response::Response};

use super::{
    answer::{json, problem},
    openapi::Refusals,
    protocol::{Problem, TriedBody},
};
use crate::{
    access::Caller,
    engine::{Handle, Tried},
    lifecycle::RefusalClass,
};

/// Refreshes one portal's token with the client secret that is staged, and says what HubSpot made of it. Needs `rotate`
/// on all portals.
#[utoipa::path(post, path = "/v1/rotation/try", tag = "service",
    responses((status = 200, body = TriedBody), Refusals))]
pub(super) async fn try_staged(
    State(handle): State<Handle>,
    Extension(caller): Extension<Caller>,
) -> Result<Response, Problem> {
    let tried = handle.try_staged(&caller).await.map_err(|d| problem(&d))?;
    let (portal_id, outcome, reason) = match tried {
        Tried::Accepted(portal) => (Some(portal), "accepted", None),
        Tried::Refused(portal, refusal) => {
            let app_refused = refusal.class == RefusalClass::AppRefused;
            let outcome = if app_refused { "refused" } else { "not_told" };
            (Some(portal), outcome, Some(refusal.word.unwrap_or_else(|| refusal.class.as_str())))
        }
        Tried::NotNow(why) => (None, "not_told", Some(why)),
        Tried::Nobody(why) => (None, "skipped", Some(why)),
    };
    let (outcome, reason) = (outcome.to_owned(), reason.map(str::to_owned));
    let body = TriedBody { portal_id, outcome, reason };
    Ok(json(StatusCode::OK, "application/json", &body))
}
