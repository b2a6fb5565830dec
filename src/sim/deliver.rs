//! How an answer reaches the client, or does not: whole, late, slowly, cut, or not at all because
//! the connection is reset. Knows nothing of what the answer says.

use std::{
    collections::VecDeque,
    future::pending,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{
    body::{Body, Bytes},
    http::{HeaderValue, Response, StatusCode, header},
};
use hyper::body::{Body as HttpBody, Frame};
use tokio::time::{Sleep, sleep};
use tokio_util::sync::CancellationToken;

use super::{
    answer::Answer,
    fault::Effect,
    ledger::Delivery,
    traffic::{Outcome, Ticket},
};

/// A connection, as far as a request may break it.
#[derive(Debug, Clone, Default)]
pub(super) struct Line {
    /// Once cancelled, the connection is reset.
    pub(super) reset: CancellationToken,
}

impl Line {
    /// Breaks the connection; the answer is never asked for.
    async fn reset(&self) -> Response<Body> {
        self.reset.cancel();
        pending().await
    }
}

/// Carries an outcome to the client.
pub(super) async fn deliver(outcome: Outcome, line: &Line) -> Response<Body> {
    let Outcome { answer, effect, ticket } = outcome;
    match (effect, answer) {
        (Some(Effect::HangBefore | Effect::HangAfter), _) => hang(ticket).await,
        (Some(Effect::ResetAfter), _) | (_, None) => {
            ticket.close(Delivery::Cut);
            line.reset().await
        }
        (effect, Some(answer)) => {
            if let Some(Effect::Late(millis)) = effect {
                sleep(Duration::from_millis(millis.into())).await;
            }
            respond(&answer, effect, Some(ticket))
        }
    }
}

/// Until the client has had enough; the ticket closes itself then.
async fn hang(ticket: Ticket) -> Response<Body> {
    let _open = ticket;
    pending().await
}

/// An answer that no fault touches and no ledger notes.
pub(super) fn plain(answer: &Answer) -> Response<Body> {
    respond(answer, None, None)
}

/// `answer` as a response under `effect`.
fn respond(answer: &Answer, effect: Option<Effect>, ticket: Option<Ticket>) -> Response<Body> {
    let (bytes, content_type) = match answer.body() {
        Some((bytes, content_type)) => (Bytes::from(bytes), Some(content_type)),
        None => (Bytes::new(), None),
    };
    let half = bytes.slice(..bytes.len() / 2);
    let mut length = bytes.len();
    let steps = match effect {
        Some(Effect::Empty) => {
            length = 0;
            VecDeque::new()
        }
        Some(Effect::Truncated) => {
            length = half.len();
            VecDeque::from([Step::Send(half)])
        }
        // A pause, so that the first half leaves before the connection breaks.
        Some(Effect::Cut) => {
            VecDeque::from([Step::Send(half), Step::pause(Duration::from_millis(5)), Step::Break])
        }
        Some(Effect::Slow(millis)) => {
            VecDeque::from([Step::pause(Duration::from_millis(millis.into())), Step::Send(bytes)])
        }
        _ if bytes.is_empty() => VecDeque::new(),
        _ => VecDeque::from([Step::Send(bytes)]),
    };
    let http = if effect == Some(Effect::Empty) { 200 } else { answer.http };
    let mut response = Response::new(Body::new(Paced::new(steps, ticket)));
    *response.status_mut() =
        StatusCode::from_u16(http).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    if http != 204 {
        headers.insert(header::CONTENT_LENGTH, length.into());
    }
    if let Some(content_type) = content_type {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    }
    for (name, value) in &answer.headers {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(*name, value);
        }
    }
    response
}

/// One step of sending a body.
enum Step {
    Send(Bytes),
    Pause(Pin<Box<Sleep>>),
    Break,
}

impl Step {
    fn pause(span: Duration) -> Self {
        Self::Pause(Box::pin(sleep(span)))
    }
}

/// A body that is sent step by step, and tells the ledger when the last byte has left.
struct Paced {
    steps: VecDeque<Step>,
    ticket: Option<Ticket>,
}

impl Paced {
    fn new(steps: VecDeque<Step>, ticket: Option<Ticket>) -> Self {
        let mut paced = Self { steps, ticket };
        // Nobody polls a body that is at its end from the start.
        paced.close_at_end();
        paced
    }

    fn close_at_end(&mut self) {
        if self.steps.is_empty()
            && let Some(ticket) = self.ticket.take()
        {
            ticket.close(Delivery::Delivered);
        }
    }
}

impl HttpBody for Paced {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        loop {
            match self.steps.front_mut() {
                None => return Poll::Ready(None),
                Some(Step::Pause(sleep)) => ready!(sleep.as_mut().poll(context)),
                Some(Step::Send(bytes)) => {
                    let bytes = std::mem::take(bytes);
                    self.steps.pop_front();
                    // Before the frame leaves, so that whoever has read the answer finds it noted.
                    self.close_at_end();
                    return Poll::Ready(Some(Ok(Frame::data(bytes))));
                }
                Some(Step::Break) => {
                    self.steps.clear();
                    if let Some(ticket) = self.ticket.take() {
                        ticket.close(Delivery::Cut);
                    }
                    return Poll::Ready(Some(Err(io::ErrorKind::ConnectionAborted.into())));
                }
            }
            self.steps.pop_front();
        }
    }

    fn is_end_stream(&self) -> bool {
        self.steps.is_empty()
    }
}
