//! The other end of the socket, for the command line.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use http_body_util::{BodyExt, Full};
use hyper::{
    Method, Request,
    body::Bytes,
    client::conn::http1::{SendRequest, handshake},
};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use tokio::{net::UnixStream, time::timeout};
use zeroize::Zeroizing;

use super::protocol::Problem;

/// The service answers a question within 15 s, a reload, an enrolment or a removal within a minute.
const QUESTION: Duration = Duration::from_secs(20);
const ORDER: Duration = Duration::from_secs(75);

/// A running service, by its socket.
#[derive(Debug, Clone)]
pub struct Client {
    path: PathBuf,
}

/// The service could not be asked, or said no.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody is there, or not for us.
    #[error("the service does not answer on {path}")]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The conversation broke off.
    #[error("the service broke off the conversation")]
    BrokeOff(#[source] hyper::Error),
    /// It took too long.
    #[error("the service did not answer in time")]
    TooSlow,
    /// It said no.
    #[error("{}", .0.detail)]
    Refused(Problem),
    /// It answered something else than expected.
    #[error("the service's answer was not understood (HTTP {0})")]
    NotUnderstood(u16),
}

/// An answer as it came.
#[derive(Debug)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// The body; it may hold a token.
    pub body: Zeroizing<Vec<u8>>,
}

impl Client {
    /// A client for the socket at `path`.
    #[must_use]
    pub fn new(path: impl AsRef<Path>) -> Self {
        Self { path: path.as_ref().to_owned() }
    }

    /// `GET`, parsed.
    ///
    /// # Errors
    /// See [`AskError`].
    pub async fn get<T: DeserializeOwned>(&self, target: &str) -> Result<T, AskError> {
        parse(&self.ask(Method::GET, target).await?)
    }

    /// `POST` without a body, parsed.
    ///
    /// # Errors
    /// See [`AskError`].
    pub async fn post<T: DeserializeOwned>(&self, target: &str) -> Result<T, AskError> {
        parse(&self.ask(Method::POST, target).await?)
    }

    /// `POST` with a JSON body, parsed. The body may hold a secret: it is wiped after use.
    ///
    /// # Errors
    /// See [`AskError`].
    pub async fn post_json<T: DeserializeOwned>(
        &self,
        target: &str,
        body: &impl Serialize,
    ) -> Result<T, AskError> {
        let text = Zeroizing::new(serde_json::to_vec(body).unwrap_or_default());
        parse(&self.send(Method::POST, target, &text).await?)
    }

    /// `DELETE`, parsed.
    ///
    /// # Errors
    /// See [`AskError`].
    pub async fn delete<T: DeserializeOwned>(&self, target: &str) -> Result<T, AskError> {
        parse(&self.ask(Method::DELETE, target).await?)
    }

    /// One request, whatever comes back.
    ///
    /// # Errors
    /// No answer.
    pub async fn ask(&self, method: Method, target: &str) -> Result<Reply, AskError> {
        self.send(method, target, &[]).await
    }

    async fn send(&self, method: Method, target: &str, body: &[u8]) -> Result<Reply, AskError> {
        let patience = if method == Method::GET { QUESTION } else { ORDER };
        let talk = self.exchange(method, target, Bytes::copy_from_slice(body));
        timeout(patience, talk).await.map_err(|_| AskError::TooSlow)?
    }

    async fn exchange(&self, method: Method, target: &str, body: Bytes) -> Result<Reply, AskError> {
        let unreachable = |source| AskError::Unreachable { path: self.path.clone(), source };
        let stream = UnixStream::connect(&self.path).await.map_err(unreachable)?;
        let (sender, connection) =
            handshake(TokioIo::new(stream)).await.map_err(AskError::BrokeOff)?;
        let talk = request(sender, method, target, body);
        // The connection does the work; it ends when the answer has been read.
        tokio::pin!(talk);
        tokio::select! {
            reply = &mut talk => reply,
            ended = connection => match ended {
                Err(error) => Err(AskError::BrokeOff(error)),
                Ok(()) => talk.await,
            },
        }
    }
}

async fn request(
    mut sender: SendRequest<Full<Bytes>>,
    method: Method,
    target: &str,
    body: Bytes,
) -> Result<Reply, AskError> {
    let request = Request::builder()
        .method(method)
        .uri(target)
        .header("host", "grantkeeper")
        .header("content-type", "application/json")
        .body(Full::new(body))
        .map_err(|_| AskError::NotUnderstood(0))?;
    let response = sender.send_request(request).await.map_err(AskError::BrokeOff)?;
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.map_err(AskError::BrokeOff)?;
    Ok(Reply { status, body: Zeroizing::new(body.to_bytes().to_vec()) })
}

fn parse<T: DeserializeOwned>(reply: &Reply) -> Result<T, AskError> {
    if (200..300).contains(&reply.status) {
        serde_json::from_slice(&reply.body).map_err(|_| AskError::NotUnderstood(reply.status))
    } else {
        Err(reply.refusal())
    }
}

impl Reply {
    /// The refusal in this reply.
    #[must_use]
    pub fn refusal(&self) -> AskError {
        serde_json::from_slice(&self.body)
            .map_or(AskError::NotUnderstood(self.status), AskError::Refused)
    }
}
