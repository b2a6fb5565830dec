//! Driving connections: a bounded number, each with a caller the kernel named, none able to hold the
//! service up by being slow, all finished before the service ends.

use std::{io, sync::Arc, time::Duration};

use axum::{Router, body::Body};
use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt;

use super::{listen::Socket, peer, routes};
use crate::{access::Caller, engine::Handle};

/// Connections open at once; more wait in the kernel's queue.
const CONNECTIONS: usize = 1024;
/// A request's head has to be there within this time.
const HEAD: Duration = Duration::from_secs(10);
/// After a stop, answers in flight have this long.
const FAREWELL: Duration = Duration::from_secs(5);
/// No request of ours has a longer head.
const LARGEST_HEAD: usize = 16 * 1024;

/// Serves local callers until `stop`, then finishes the answers in flight.
pub async fn serve_socket(socket: Socket, handle: Handle, stop: CancellationToken) {
    let connections = Connections::new(routes::socket(handle));
    connections.take_from(&socket, &stop).await;
    // The file goes first: nobody new can come while the rest is served.
    drop(socket);
    connections.finish().await;
}

/// Serves health and metrics on TCP until `stop`.
pub async fn serve_health(listener: TcpListener, handle: Handle, stop: CancellationToken) {
    let connections = Connections::new(routes::health(handle));
    connections.take_from(&listener, &stop).await;
    connections.finish().await;
}

/// Where connections come in, with what is known of who is at the other end.
trait Door: Sync {
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    fn next(&self) -> impl Future<Output = io::Result<(Option<Caller>, Self::Stream)>> + Send;
}

impl Door for Socket {
    type Stream = UnixStream;

    async fn next(&self) -> io::Result<(Option<Caller>, UnixStream)> {
        let (stream, _) = self.listener.accept().await?;
        Ok((Some(peer::caller(&stream)?), stream))
    }
}

impl Door for TcpListener {
    type Stream = TcpStream;

    async fn next(&self) -> io::Result<(Option<Caller>, TcpStream)> {
        Ok((None, self.accept().await?.0))
    }
}

/// Out of file descriptors, most likely: accepting on at once would spin.
async fn catch_breath(error: &io::Error) {
    tracing::warn!(%error, "a connection could not be accepted");
    sleep(Duration::from_millis(100)).await;
}

struct Connections {
    router: Router,
    permits: Arc<Semaphore>,
    graceful: GracefulShutdown,
    tasks: TaskTracker,
}

impl Connections {
    fn new(router: Router) -> Self {
        Self {
            router,
            permits: Arc::new(Semaphore::new(CONNECTIONS)),
            graceful: GracefulShutdown::new(),
            tasks: TaskTracker::new(),
        }
    }

    /// Takes what comes in by `door` until `stop`; never more at once than there are permits.
    async fn take_from(&self, door: &impl Door, stop: &CancellationToken) {
        let one = async || {
            let permit = self.permit().await;
            match door.next().await {
                Ok((caller, stream)) => self.drive(stream, caller, permit),
                Err(error) => catch_breath(&error).await,
            }
        };
        while stop.run_until_cancelled(one()).await.is_some() {}
    }

    async fn permit(&self) -> Option<OwnedSemaphorePermit> {
        // The pool is never closed.
        Arc::clone(&self.permits).acquire_owned().await.ok()
    }

    fn drive<S>(&self, stream: S, caller: Option<Caller>, permit: Option<OwnedSemaphorePermit>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let router = self.router.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            let mut request = request.map(Body::new);
            if let Some(caller) = &caller {
                request.extensions_mut().insert(caller.clone());
            }
            router.clone().oneshot(request)
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD)
            .max_buf_size(LARGEST_HEAD)
            .serve_connection(TokioIo::new(stream), service);
        let watched = self.graceful.watch(connection);
        self.tasks.spawn(async move {
            // A client that hangs up or talks nonsense is its own affair.
            watched.await.ok();
            drop(permit);
        });
    }

    async fn finish(self) {
        if timeout(FAREWELL, self.graceful.shutdown()).await.is_err() {
            tracing::warn!("some connections were still open at the end and were cut");
        }
        self.tasks.close();
    }
}
