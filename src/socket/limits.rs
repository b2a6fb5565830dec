//! What one user can take of the socket: connections, requests, patience. Who asks too much waits and is told so;
//! nobody else notices.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{
    body::{Body, Bytes},
    extract::{FromRequest, Request},
    http::StatusCode,
};
use http_body_util::BodyExt;
use tokio::time::timeout;

use super::{
    answer::{bad, named, problem},
    protocol::Problem,
};
use crate::{
    access::allowance::{Allowances, Payer},
    engine::Denial,
    time::BootTime,
};

/// Open files that are no caller's connection: the health listener's 256, and then some.
const OTHER_FILES: usize = 256 + 128;
/// There are at least as many connections.
const FEWEST: usize = 16;
/// A body has to be there whole within this time.
const BODY: Duration = Duration::from_secs(10);
/// As much of a body that is too large is read and dropped.
const SURPLUS: usize = 16 * 1024 * 1024;
/// A connection on which nothing is asked, or nothing that can be understood, counts as so many requests: to make and
/// drop it costs more than to answer one.
const NOTHING: u32 = 20;
/// Who asks too much is answered no sooner than this.
pub(super) const PENALTY: Duration = Duration::from_secs(1);

/// How much there is for everybody, and for each user (contract section 2, `[socket]`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections open at once, of all users together.
    pub connections: usize,
    /// Connections open at once, of each user.
    pub connections_per_user: usize,
    /// Requests a second, of each user.
    pub requests_per_second: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 1024, connections_per_user: 256, requests_per_second: 5000 }
    }
}

impl Limits {
    /// The same, with no more connections than a process with so many open files can have beside what else it opens:
    /// who is held up, health, the store, HubSpot, files.
    #[must_use]
    pub fn within(self, files: usize) -> Self {
        let room = files.saturating_sub(self.connections_per_user + OTHER_FILES);
        Self { connections: self.connections.min(room.max(FEWEST)), ..self }
    }
}

/// What is in use.
#[derive(Debug)]
pub(super) struct Use {
    per_user: usize,
    open: Mutex<HashMap<Payer, usize>>,
    asked: Mutex<Allowances>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Use {
    pub(super) fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self {
            per_user: limits.connections_per_user,
            open: Mutex::default(),
            asked: Mutex::new(Allowances::per_second(limits.requests_per_second)),
        })
    }

    /// One more connection of `payer`'s, unless it has too many.
    pub(super) fn connect(self: &Arc<Self>, payer: Payer) -> Option<Connected> {
        let mut open = locked(&self.open);
        let count = open.entry(payer).or_default();
        if *count >= self.per_user {
            return None;
        }
        *count += 1;
        Some(Connected { payer, of: Arc::clone(self) })
    }

    /// One more request of `payer`'s: how long it is to wait for its turn, or that it is one too many.
    pub(super) fn ask(&self, payer: Payer, now: BootTime) -> Result<Duration, Spent> {
        locked(&self.asked).take(payer, now).map_err(|_| Spent::Requests)
    }

    /// A connection of `payer`'s came to nothing; says whether that was one too many.
    pub(super) fn charge(&self, payer: Payer, now: BootTime) -> bool {
        let mut asked = locked(&self.asked);
        asked.charge(payer, NOTHING, now);
        asked.is_spent(payer, now)
    }
}

/// What a user has none left of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spent {
    Connections,
    Requests,
}

impl Spent {
    /// The word in the metrics.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Requests => "requests",
        }
    }

    pub(super) fn refusal(self) -> Problem {
        let what = match self {
            Self::Connections => {
                "this user has too many connections; see socket.connections_per_user"
            }
            Self::Requests => "this user asks too much; see socket.requests_per_second",
        };
        let refusal = named(StatusCode::TOO_MANY_REQUESTS, "too_many_requests", what);
        Problem { retry_after: Some(1), ..refusal }
    }
}

/// A connection that counts while this lives.
#[derive(Debug)]
pub(super) struct Connected {
    payer: Payer,
    of: Arc<Use>,
}

impl Drop for Connected {
    fn drop(&mut self) {
        let mut open = locked(&self.of.open);
        if let Some(count) = open.get_mut(&self.payer) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.payer);
            }
        }
    }
}

/// A body of at most `LARGEST` bytes, not read yet.
pub(super) struct Whole<const LARGEST: usize>(Body);

impl<S: Sync, const LARGEST: usize> FromRequest<S> for Whole<LARGEST> {
    type Rejection = std::convert::Infallible;

    async fn from_request(request: Request, _: &S) -> Result<Self, Self::Rejection> {
        Ok(Self(request.into_body()))
    }
}

impl<const LARGEST: usize> Whole<LARGEST> {
    /// All of it, if its sender is `admitted`.
    pub(super) async fn read(self, admitted: Result<(), Denial>) -> Result<Bytes, Problem> {
        let largest = if admitted.is_ok() { LARGEST } else { 0 };
        let came = timeout(BODY, read(self.0, largest)).await;
        admitted.map_err(|denial| problem(&denial))?;
        came.unwrap_or_else(|_| {
            Err(named(
                StatusCode::REQUEST_TIMEOUT,
                "request_timeout",
                "the body did not come in time",
            ))
        })
    }
}

async fn read(mut body: Body, largest: usize) -> Result<Bytes, Problem> {
    let (mut bytes, mut surplus) = (Vec::new(), 0);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| bad("the body did not come whole"))?;
        let Ok(data) = frame.into_data() else { continue };
        if surplus > 0 || bytes.len() + data.len() > largest {
            // Who is still writing when the connection ends would not see the answer.
            surplus += data.len();
            if surplus > SURPLUS {
                break;
            }
        } else {
            bytes.extend_from_slice(&data);
        }
    }
    if surplus > 0 {
        let (status, code) = (StatusCode::PAYLOAD_TOO_LARGE, "payload_too_large");
        return Err(named(status, code, "the body is too large"));
    }
    Ok(bytes.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_user_has_connections_of_their_own_and_gets_them_back() {
        let limits = Limits { connections_per_user: 2, ..Limits::default() };
        let used = Use::new(limits);
        let connect = |payer| used.connect(payer);
        let first = connect(Some(7)).unwrap();
        let _second = connect(Some(7)).unwrap();
        assert!(connect(Some(7)).is_none());
        let _other = connect(Some(8)).unwrap();
        let _stranger = connect(None).unwrap();
        drop(first);
        assert!(connect(Some(7)).is_some());
        assert_eq!(locked(&used.open).len(), 3);
    }

    #[test]
    fn the_process_has_files_for_more_than_its_connections() {
        let limits = Limits::default();
        assert_eq!(limits.within(20_000), limits);
        assert_eq!(limits.within(1024).connections, 1024 - 256 - OTHER_FILES);
        assert_eq!(limits.within(100).connections, 16, "some are left in any case");
    }
}
