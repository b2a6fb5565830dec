//! Driving connections: a bounded number, each with a caller the kernel named, none able to hold the
//! service up by being slow, all finished before the service ends.

use std::{
    convert::Infallible,
    io,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use hyper::{
    Request,
    body::Incoming,
    server::conn::http1,
    service::{Service, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::yield_now,
    time::{sleep, timeout},
};
use tokio_io_timeout::TimeoutStream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt;

use super::{
    limits::{Connected, Limits, PENALTY, Spent, Use},
    listen::Socket,
    peer, routes,
};
use crate::{
    access::{Caller, allowance::Payer},
    engine::Handle,
};

/// Connections open at once to the health listener; more wait in the kernel's queue.
const HEALTH_CONNECTIONS: usize = 256;
/// A connection to the health listener takes one request and ends within this time: who does not read the answer is
/// no local user whom a number of connections could be set for.
const HEALTH_LIFE: Duration = Duration::from_secs(30);
/// A request's head has to be there within this time.
const HEAD: Duration = Duration::from_secs(10);
/// An answer or an event of which nothing is read for this long ends the connection.
const UNREAD: Duration = Duration::from_secs(30);
/// After a stop, answers in flight have this long.
const FAREWELL: Duration = Duration::from_secs(5);
/// No request of ours has a longer head.
const LARGEST_HEAD: usize = 16 * 1024;

/// Serves local callers until `stop`, then finishes the answers in flight.
pub async fn serve_socket(socket: Socket, limits: Limits, handle: Handle, stop: CancellationToken) {
    let connections = Connections::new(routes::socket(handle.clone()), handle, limits);
    connections.take_from(&socket, &stop).await;
    // The file goes first: nobody new can come while the rest is served.
    drop(socket);
    connections.finish().await;
}

/// Serves one connection of `caller`'s to its end, whatever it is made of.
pub async fn serve_stream<S>(stream: S, caller: Caller, handle: Handle)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let router = routes::socket(handle.clone());
    let connections = Connections::new(router, handle, Limits::default());
    let payer = Some(caller.uid());
    connections.drive(stream, Some(Account { caller, payer }), (None, None));
    connections.tasks.close();
    connections.tasks.wait().await;
}

/// Serves health and metrics on TCP until `stop`.
pub async fn serve_health(listener: TcpListener, handle: Handle, stop: CancellationToken) {
    let limits = Limits { connections: HEALTH_CONNECTIONS, ..Limits::default() };
    let mut connections = Connections::new(routes::health(handle.clone()), handle, limits);
    connections.life = Some(HEALTH_LIFE);
    connections.take_from(&listener, &stop).await;
    connections.finish().await;
}

/// What a connection is told that is one too many. It is not read first.
static TURNED_AWAY: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let body = serde_json::to_string(&Spent::Connections.refusal()).unwrap_or_default();
    format!(
        "HTTP/1.1 429 Too Many Requests\r\ncontent-type: application/problem+json\r\nretry-after: 1\r\n\
         connection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
});

/// Whose a connection is.
#[derive(Debug, Clone)]
struct Account {
    caller: Caller,
    payer: Payer,
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
    handle: Handle,
    used: Arc<Use>,
    permits: Arc<Semaphore>,
    held_up: Arc<Semaphore>,
    /// A connection takes one request and lives no longer; without it, as long as its caller likes.
    life: Option<Duration>,
    graceful: GracefulShutdown,
    tasks: TaskTracker,
}

impl Connections {
    fn new(router: Router, handle: Handle, limits: Limits) -> Self {
        Self {
            router,
            handle,
            used: Use::new(limits),
            permits: Arc::new(Semaphore::new(limits.connections)),
            held_up: Arc::new(Semaphore::new(limits.connections_per_user)),
            life: None,
            graceful: GracefulShutdown::new(),
            tasks: TaskTracker::new(),
        }
    }

    /// Takes what comes in by `door` until `stop`; never more at once than there are permits.
    async fn take_from(&self, door: &impl Door, stop: &CancellationToken) {
        let one = async || {
            let permit = self.permit().await;
            match door.next().await {
                Ok((caller, stream)) => self.admit(stream, caller, permit),
                Err(error) => catch_breath(&error).await,
            }
            // Where somebody is always at the door, those who are inside would wait: the runtime looks for what they have
            // said only now and then while a task goes on by itself.
            yield_now().await;
        };
        while stop.run_until_cancelled(one()).await.is_some() {}
    }

    async fn permit(&self) -> Option<OwnedSemaphorePermit> {
        // The pool is never closed.
        Arc::clone(&self.permits).acquire_owned().await.ok()
    }

    /// Serves a connection, unless its user has too many. That one is told, as far as it listens, and no more is
    /// spent on it.
    fn admit<S>(&self, stream: S, caller: Option<Caller>, permit: Option<OwnedSemaphorePermit>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let account = caller.map(|caller| {
            let payer = self.handle.knows(&caller).then_some(caller.uid());
            Account { caller, payer }
        });
        let connected = account.as_ref().map(|account| self.used.connect(account.payer));
        if matches!(connected, Some(None)) {
            self.handle.count_refused(Spent::Connections.as_str());
            return self.turn_away(stream);
        }
        self.drive(stream, account, (permit, connected.flatten()));
    }

    fn turn_away<S>(&self, mut stream: S)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        // Whoever would come again at once is told and held up, as long as it does not take more of us than that; then
        // it is dropped, for which nothing is spent.
        let Ok(held) = Arc::clone(&self.held_up).try_acquire_owned() else { return };
        self.tasks.spawn(async move {
            // A buffer takes it at once; who does not read it gets nothing.
            timeout(PENALTY, stream.write_all(&TURNED_AWAY)).await.ok();
            sleep(PENALTY).await;
            drop(held);
        });
    }

    fn drive<S>(
        &self,
        stream: S,
        account: Option<Account>,
        held: (Option<OwnedSemaphorePermit>, Option<Connected>),
    ) where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (used, handle) = (Arc::clone(&self.used), self.handle.clone());
        let payer = account.as_ref().map(|account| account.payer);
        let asked = Arc::new(AtomicBool::new(false));
        let service = self.answering(account, Arc::clone(&asked));
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(UNREAD));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD)
            .max_buf_size(LARGEST_HEAD)
            .keep_alive(self.life.is_none())
            .serve_connection(TokioIo::new(Box::pin(stream)), service);
        let watched = self.graceful.watch(connection);
        let life = self.life;
        self.tasks.spawn(async move {
            // A client that hangs up, is slow or talks nonsense is its own affair.
            match life {
                Some(life) => drop(timeout(life, watched).await),
                None => drop(watched.await),
            }
            // Who asks nothing, or nothing that can be understood, pays as well; and one who does so over and over keeps
            // the connection's place for a while.
            if let Some(payer) = payer
                && !asked.load(Relaxed)
                && used.charge(payer, handle.clock().boot())
            {
                handle.count_refused(Spent::Requests.as_str());
                sleep(PENALTY).await;
            }
            drop(held);
        });
    }

    /// What answers the requests of a connection, and notes that there was one.
    fn answering(
        &self,
        account: Option<Account>,
        asked: Arc<AtomicBool>,
    ) -> impl Service<Request<Incoming>, Response = Response, Error = Infallible, Future: Send>
    + Send
    + use<> {
        let (router, used, handle) =
            (self.router.clone(), Arc::clone(&self.used), self.handle.clone());
        service_fn(move |request: Request<Incoming>| {
            asked.store(true, Relaxed);
            let mut request = request.map(Body::new);
            let (router, handle) = (router.clone(), handle.clone());
            let may = account.as_ref().map_or(Ok(Duration::ZERO), |account| {
                request.extensions_mut().insert(account.caller.clone());
                used.ask(account.payer, handle.clock().boot())
            });
            async move {
                let spent = match may {
                    Ok(Duration::ZERO) => return router.oneshot(request).await,
                    Ok(wait) => {
                        sleep(wait).await;
                        return router.oneshot(request).await;
                    }
                    Err(spent) => spent,
                };
                handle.count_refused(spent.as_str());
                // Whoever asks at once again is held up by it.
                sleep(PENALTY).await;
                let mut response = spent.refusal().into_response();
                let close = HeaderValue::from_static("close");
                response.headers_mut().insert(header::CONNECTION, close);
                Ok(response)
            }
        })
    }

    async fn finish(self) {
        if timeout(FAREWELL, self.graceful.shutdown()).await.is_err() {
            tracing::warn!("some connections were still open at the end and were cut");
        }
        self.tasks.close();
    }
}
