//! Connections: accepts them, reads requests within limits, resets a connection when a fault says
//! so, and ends in order. Knows nothing of what is asked.

use std::{io, os::fd::AsFd, sync::Arc, time::Duration};

use axum::{Router, body::Body, extract::Request, response::Response};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
};
use rustix::net::sockopt::set_socket_linger;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt as _;

use super::deliver::Line;

/// Connections open at once; further ones wait to be accepted.
const MOST_CONNECTIONS: usize = 1024;
/// How long a client may take for the head of a request.
const HEAD_WITHIN: Duration = Duration::from_secs(10);
/// The longest request head, with a token in the path or query.
const LONGEST_HEAD: usize = 32 * 1024;
/// How long answers may take once it is time to stop; faults that hang never end.
const DRAIN_WITHIN: Duration = Duration::from_secs(1);

/// Serves `router` on `listener` until `stop`, then finishes the answers under way.
pub(super) async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) {
    let tasks = TaskTracker::new();
    let graceful = GracefulShutdown::new();
    let hang_up = CancellationToken::new();
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    while let Some(stream) = next(&listener, &places, &stop).await {
        let Ok((stream, place)) = stream else {
            // Out of file descriptors, or the client went away: the next one may do better.
            sleep(Duration::from_millis(20)).await;
            continue;
        };
        let line = Line::default();
        // A second handle, because hyper owns the first one when the connection is to be reset.
        let Ok(handle) = stream.as_fd().try_clone_to_owned() else { continue };
        let service = {
            let (router, line) = (router.clone(), line.clone());
            service_fn(move |request: Request<Incoming>| {
                let mut request = request.map(Body::new);
                request.extensions_mut().insert(line.clone());
                router.clone().oneshot(request)
            })
        };
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_WITHIN)
            .max_buf_size(LONGEST_HEAD)
            .serve_connection(TokioIo::new(stream), service);
        let connection = graceful.watch(connection);
        let hang_up = hang_up.clone();
        tasks.spawn(async move {
            let _place = place;
            tokio::select! {
                // How a connection ends is the client's affair.
                _ended = connection => {}
                () = line.reset.cancelled() => {
                    // Closing a socket that lingers for no time sends RST.
                    let _refused = set_socket_linger(&handle, Some(Duration::ZERO));
                }
                () = hang_up.cancelled() => {}
            }
            drop(handle);
        });
    }
    drop(listener);
    let _late = timeout(DRAIN_WITHIN, graceful.shutdown()).await;
    hang_up.cancel();
    tasks.close();
    tasks.wait().await;
}

/// The stand-in without a connection, for tests in simulated time, where a real socket would have to
/// wait in real time.
#[derive(Debug, Clone)]
pub struct InProcess(Router);

impl InProcess {
    pub(super) const fn new(router: Router) -> Self {
        Self(router)
    }

    /// The answer to `request`, or none where a fault resets the connection.
    pub async fn ask(&self, mut request: Request) -> Option<Response> {
        let line = Line::default();
        request.extensions_mut().insert(line.clone());
        tokio::select! {
            answer = self.0.clone().oneshot(request) => answer.ok(),
            () = line.reset.cancelled() => None,
        }
    }
}

type Accepted = io::Result<(TcpStream, tokio::sync::OwnedSemaphorePermit)>;

/// The next connection; none when it is time to stop.
async fn next(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
    stop: &CancellationToken,
) -> Option<Accepted> {
    let accept = async {
        let place = Arc::clone(places).acquire_owned().await.map_err(io::Error::other)?;
        let (stream, _peer) = listener.accept().await?;
        // Answers are small and somebody waits for each.
        stream.set_nodelay(true)?;
        Ok((stream, place))
    };
    tokio::select! {
        accepted = accept => Some(accepted),
        () = stop.cancelled() => None,
    }
}
