//! HTTP/1.1 over a Unix socket, byte by byte: for requests that no client library would send, and
//! for headers that the program's own client does not look at.

use std::path::Path;

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};

use super::service::PATIENCE;

/// An answer, taken apart.
#[derive(Debug)]
pub(crate) struct RawReply {
    pub(crate) status: u16,
    head: String,
    pub(crate) body: String,
}

impl RawReply {
    /// None if `text` is not a whole answer's head and what follows.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (head, body) = text.split_once("\r\n\r\n")?;
        let status = head.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
        Some(Self { status, head: head.to_owned(), body: body.to_owned() })
    }

    /// The value of a header.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("not JSON: {self:?}"))
    }

    /// The stable word of a problem, after a look at the whole of it (RFC 9457, contract section 4).
    pub(crate) fn problem(&self) -> String {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let body = self.json();
        for member in ["type", "title", "detail", "code"] {
            let text = body[member].as_str().unwrap_or_else(|| panic!("no {member}: {self:?}"));
            assert!(!text.is_empty(), "{member} says nothing: {self:?}");
        }
        assert_eq!(body["status"], self.status, "{self:?}");
        let retry = self.header("retry-after").map(|value| value.parse::<u64>().unwrap());
        assert_eq!(body["retry_after"].as_u64(), retry, "{self:?}");
        assert_eq!(retry.is_some(), [429, 503].contains(&self.status), "{self:?}");
        assert!(retry.is_none_or(|seconds| seconds > 0), "{self:?}");
        body["code"].as_str().unwrap().to_owned()
    }
}

/// Everything the service says to these bytes until it hangs up.
pub(crate) async fn say(socket: &Path, bytes: &[u8]) -> String {
    let mut stream = UnixStream::connect(socket).await.unwrap();
    // It may hang up before it has heard all.
    stream.write_all(bytes).await.ok();
    heard(&mut stream).await
}

/// What comes until the other side hangs up.
pub(crate) async fn heard(stream: &mut UnixStream) -> String {
    let mut answer = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
    // A reset counts as hanging up.
    read.expect("the service does not hang up").ok();
    String::from_utf8(answer).unwrap()
}

/// One request with further header lines, each with its line end.
pub(crate) async fn ask(socket: &Path, method: &str, target: &str, headers: &str) -> RawReply {
    let text = say(socket, request(method, target, headers).as_bytes()).await;
    RawReply::parse(&text).unwrap_or_else(|| panic!("{method} {target}: {text:?}"))
}

/// The request's bytes; the connection is not kept.
pub(crate) fn request(method: &str, target: &str, headers: &str) -> String {
    format!("{method} {target} HTTP/1.1\r\nHost: grantkeeper\r\nConnection: close\r\n{headers}\r\n")
}
