//! A server that answers with exactly the bytes it was told to, over TCP or TLS, and remembers what it
//! was asked: for answers that no real server would give on demand.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
};

use rcgen::{CertificateParams, KeyPair};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::JoinSet,
};
use tokio_rustls::{TlsAcceptor, rustls};

/// What it does after it has read a whole request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Act {
    /// Says this and reads on.
    Say(Vec<u8>),
    /// Says this and hangs up.
    SayAndClose(Vec<u8>),
    /// Says this and resets the connection.
    SayAndReset(Vec<u8>),
    /// Says this and then nothing, with the connection open.
    SayAndHang(Vec<u8>),
}

/// What it does with a connection before any request.
#[derive(Clone)]
pub(crate) enum Greeting {
    /// Speaks HTTP at once.
    Plain,
    /// Speaks TLS.
    Tls(TlsAcceptor),
    /// Takes it and says nothing.
    Silence,
    /// Hangs up.
    HangUp,
}

impl Greeting {
    /// TLS with this certificate, signed by itself.
    pub(crate) fn tls(params: &CertificateParams) -> Self {
        Self::tls_and_pem(params).0
    }

    /// The same, and the certificate as a bundle for who is to trust it.
    pub(crate) fn tls_and_pem(params: &CertificateParams) -> (Self, String) {
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let chain = vec![certificate.der().clone()];
        let key = key.serialize_der().try_into().unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        (Self::Tls(TlsAcceptor::from(Arc::new(config))), certificate.pem())
    }
}

#[derive(Debug, Default)]
struct Asked {
    requests: Mutex<Vec<String>>,
    more: Notify,
}

/// A running one; stops when dropped.
#[derive(Debug)]
pub(crate) struct Answerer {
    pub(crate) authority: String,
    asked: Arc<Asked>,
    _serving: JoinSet<()>,
}

impl Answerer {
    pub(crate) async fn start(greeting: Greeting, acts: Vec<Act>) -> Self {
        Self::start_knowing(greeting, |_| acts).await
    }

    /// The same for answers that name it: they are told its authority.
    pub(crate) async fn start_knowing(
        greeting: Greeting,
        acts: impl FnOnce(&str) -> Vec<Act>,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let authority = listener.local_addr().unwrap().to_string();
        let asked = Arc::new(Asked::default());
        let mut serving = JoinSet::new();
        serving.spawn(serve(listener, greeting, acts(&authority).into(), Arc::clone(&asked)));
        Self { authority, asked, _serving: serving }
    }

    /// It speaks HTTP without TLS.
    pub(crate) async fn plain(acts: Vec<Act>) -> Self {
        Self::start(Greeting::Plain, acts).await
    }

    /// Every request it has read, whole.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.asked.requests.lock().unwrap().clone()
    }

    /// Waits until it has read one more request.
    pub(crate) async fn was_asked(&self) {
        self.asked.more.notified().await;
    }
}

async fn serve(
    listener: TcpListener,
    greeting: Greeting,
    mut acts: VecDeque<Act>,
    asked: Arc<Asked>,
) {
    let mut silent = Vec::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        match &greeting {
            Greeting::Plain => talk(stream, &mut acts, &asked).await,
            Greeting::Tls(acceptor) => {
                // A client that refuses the certificate hangs up.
                if let Ok(stream) = acceptor.accept(stream).await {
                    talk(stream, &mut acts, &asked).await;
                }
            }
            Greeting::Silence => silent.push(stream),
            Greeting::HangUp => drop(stream),
        }
    }
}

/// What is under a connection, to reset it.
trait Resets {
    fn reset_when_closed(&self);
}

impl Resets for TcpStream {
    fn reset_when_closed(&self) {
        self.set_zero_linger().unwrap();
    }
}

impl Resets for tokio_rustls::server::TlsStream<TcpStream> {
    fn reset_when_closed(&self) {
        self.get_ref().0.reset_when_closed();
    }
}

async fn talk<S>(mut stream: S, acts: &mut VecDeque<Act>, asked: &Asked)
where
    S: AsyncRead + AsyncWrite + Resets + Unpin,
{
    while let Some(request) = request(&mut stream).await {
        asked.requests.lock().unwrap().push(request);
        asked.more.notify_one();
        let act = acts.pop_front().expect("more was asked than this server has answers for");
        let (Act::Say(said)
        | Act::SayAndClose(said)
        | Act::SayAndReset(said)
        | Act::SayAndHang(said)) = &act;
        stream.write_all(said).await.unwrap();
        stream.flush().await.unwrap();
        match act {
            Act::Say(_) => {}
            Act::SayAndClose(_) => return stream.shutdown().await.unwrap_or(()),
            Act::SayAndReset(_) => return stream.reset_when_closed(),
            Act::SayAndHang(_) => std::future::pending().await,
        }
    }
}

/// One whole request; none if the client has hung up.
async fn request(stream: &mut (impl AsyncRead + Unpin)) -> Option<String> {
    let mut read = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&read).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length =
                head.to_lowercase().split_once("content-length: ").map_or(0, |(_, rest)| {
                    rest.lines().next().unwrap().trim().parse::<usize>().unwrap()
                });
            if body.len() >= length {
                return Some(text);
            }
        }
        if stream.read_buf(&mut read).await.ok()? == 0 {
            return None;
        }
    }
}
