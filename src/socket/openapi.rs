//! The API as OpenAPI 3.1, made from what the routes and bodies say of themselves.

use std::sync::LazyLock;

use axum::{
    Extension,
    body::Bytes,
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use utoipa::{IntoResponses, OpenApi, ToSchema};

use super::{
    alerts, answer::problem, events, orders, protocol::Problem, rotation, routes, state, webhooks,
};
use crate::{access::Caller, engine::Handle};

/// Every answer that is a refusal. Each is a problem (RFC 9457) with a stable `code`.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "a description")]
pub(super) enum Refusals {
    /// The request makes no sense, or brings a grant that HubSpot does not accept.
    #[response(status = 400, content_type = "application/problem+json")]
    BadRequest(Problem),
    /// The caller may not do this, whether what it asks about exists or not.
    #[response(status = 403, content_type = "application/problem+json")]
    Forbidden(Problem),
    /// There is no such portal, or no such path.
    #[response(status = 404, content_type = "application/problem+json")]
    NotFound(Problem),
    /// An operator paused the portal.
    #[response(status = 409, content_type = "application/problem+json")]
    Paused(Problem),
    /// The grant has ended: nothing is to be had until a person acts.
    #[response(status = 410, content_type = "application/problem+json")]
    Gone(Problem),
    /// The body did not come in time.
    #[response(status = 408, content_type = "application/problem+json")]
    TooSlow(Problem),
    /// The body is too large.
    #[response(status = 413, content_type = "application/problem+json")]
    TooLarge(Problem),
    /// Too many questions, or the same too soon; `Retry-After` says when to ask again.
    #[response(status = 429, content_type = "application/problem+json")]
    TooMany(Problem),
    /// Not now; `Retry-After` says when to ask again.
    #[response(status = 503, content_type = "application/problem+json")]
    NotNow(Problem),
}

/// What else than readiness `/readyz` can answer.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "a description")]
pub(super) enum NotReady {
    /// The query makes no sense.
    #[response(status = 400, content_type = "application/problem+json")]
    BadRequest(Problem),
    /// No rule names the caller.
    #[response(status = 403, content_type = "application/problem+json")]
    Forbidden(Problem),
    /// Too many questions.
    #[response(status = 429, content_type = "application/problem+json")]
    TooMany(Problem),
    /// Not ready: a reason a line.
    #[response(status = 503, content_type = "text/plain")]
    Not(String),
}

/// A portal's state.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
#[expect(dead_code, reason = "a description")]
pub(super) enum PortalWord {
    Pending,
    Live,
    Retrying,
    Suspended,
    Unsaved,
    Revoked,
    Unavailable,
    Mismatched,
    Paused,
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Grantkeeper",
        description = "HubSpot access tokens for local apps, over a Unix socket. The kernel says who is calling; the \
                       service's [[access]] rules say what they may do."
    ),
    servers((url = "http://grantkeeper", description = "the service's Unix socket; the host does not matter")),
    components(schemas(Problem)),
    paths(
        routes::token,
        orders::refresh,
        routes::portals,
        routes::portal,
        orders::enrol,
        orders::remove,
        orders::pause,
        orders::resume,
        webhooks::verify,
        events::events,
        state::status,
        state::reload,
        rotation::try_staged,
        alerts::acknowledge,
        alerts::test,
        state::livez_known,
        state::readyz_known,
        state::metrics_allowed,
    )
)]
struct Api;

/// The document, made once.
static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| Bytes::from(text()));

/// The API as OpenAPI 3.1, in JSON.
#[must_use]
pub fn text() -> String {
    // A description that can't be written down is none.
    Api::openapi().to_pretty_json().unwrap_or_default() + "\n"
}

pub(super) async fn document(
    State(handle): State<Handle>,
    Extension(caller): Extension<Caller>,
) -> Result<Response, Problem> {
    handle.see_health(&caller).await.map_err(|d| problem(&d))?;
    Ok(([(header::CONTENT_TYPE, "application/json")], DOCUMENT.clone()).into_response())
}
