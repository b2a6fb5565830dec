//! Server-sent events (the HTML standard, section 9.2): what has happened, as a stream that can be taken up again.
//! Knows no rule: a listener hears what it may.

use std::time::Duration;

use axum::{
    Extension,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, HeaderValue, header},
    response::Response,
};
use futures_util::stream::unfold;
use tokio::time::timeout;

use super::{answer::problem, openapi::Refusals, protocol::Problem};
use crate::{
    access::Caller,
    engine::{
        Handle,
        feed::{Heard, Listener},
    },
};

/// A stream with nothing to say says that, so that both ends know that the other is there.
const ALIVE: Duration = Duration::from_secs(15);
const LAST_EVENT_ID: &str = "last-event-id";

/// What happens, as server-sent events: `token`, `portal`, `app`, `alert`, each with an id, and `reset` where some were
/// missed. Each caller hears of what it may see. Needs `status` or `token` on some portal.
#[utoipa::path(get, path = "/v1/events", tag = "events",
    params(("Last-Event-ID" = Option<String>, Header, description = "go on after this one")),
    responses((status = 200, content_type = "text/event-stream", body = String), Refusals))]
pub(super) async fn events(
    State(handle): State<Handle>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let last = headers.get(LAST_EVENT_ID).and_then(|value| value.to_str().ok());
    let listener = handle.listen(&caller, last).await.map_err(|d| problem(&d))?;
    // The first bytes tell that the stream stands, whatever happens and when.
    let stream = unfold((listener, Some(": listening\n\n")), |(mut listener, first)| async move {
        let text = match first {
            Some(first) => first.to_owned(),
            None => next(&mut listener).await?,
        };
        Some((Ok::<_, std::convert::Infallible>(Bytes::from(text)), (listener, None)))
    });
    let mut response = Response::new(Body::from_stream(stream));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

async fn next(listener: &mut Listener) -> Option<String> {
    let Ok(heard) = timeout(ALIVE, listener.next()).await else {
        return Some(": nothing new\n\n".to_owned());
    };
    Some(match heard? {
        Heard::Event(id, what) => {
            let data = serde_json::to_string(&*what).unwrap_or_default();
            format!("id: {id}\nevent: {}\ndata: {data}\n\n", what.name())
        }
        Heard::Reset(id) => format!("id: {id}\nevent: reset\ndata: {{}}\n\n"),
    })
}
