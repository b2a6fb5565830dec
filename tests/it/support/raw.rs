//! HTTP/1.1 over a Unix socket, byte by byte: for requests that no client library would send, and
//! for headers that the program's own client does not look at.

use std::path::Path;

use rustix::process::{Gid, Uid};
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
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

    /// All of it but the hour.
    pub(crate) fn undated(&self) -> String {
        let lines = self.head.lines().filter(|line| !line.starts_with("date:"));
        lines.chain(["", &self.body]).collect::<Vec<_>>().join("\n")
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

/// A connection by a process of this user and this primary group; `groups` are its others. Only root
/// can make one.
pub(crate) fn connect_as(socket: &Path, uid: u32, gid: u32, groups: &[u32]) -> UnixStream {
    use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};
    let connect = || {
        // Of this thread alone, which ends with it; the kernel notes who it is when it connects.
        let groups: Vec<_> = groups.iter().map(|id| Gid::from_raw(*id)).collect();
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        set_thread_groups(&groups).and_then(|()| set_thread_res_gid(gid, gid, gid))?;
        set_thread_res_uid(uid, uid, uid)?;
        std::os::unix::net::UnixStream::connect(socket)
    };
    assert!(rustix::process::geteuid().is_root(), "this test plays other users: run it as root");
    let stream = std::thread::scope(|threads| threads.spawn(connect).join().unwrap()).unwrap();
    stream.set_nonblocking(true).unwrap();
    UnixStream::from_std(stream).unwrap()
}

/// One request on a connection, which is not kept.
pub(crate) async fn ask_on(stream: UnixStream, method: &str, target: &str) -> RawReply {
    ask_with(stream, method, target, "").await
}

/// The same with further header lines, each with its line end.
pub(crate) async fn ask_with(
    mut stream: UnixStream,
    method: &str,
    target: &str,
    headers: &str,
) -> RawReply {
    stream.write_all(request(method, target, headers).as_bytes()).await.unwrap();
    let text = heard(&mut stream).await;
    RawReply::parse(&text).unwrap_or_else(|| panic!("{method} {target}: {text:?}"))
}

/// One request with a body, on a connection which is not kept.
pub(crate) async fn send_on(
    mut stream: UnixStream,
    method: &str,
    target: &str,
    body: &str,
) -> RawReply {
    let headers = format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
    let text = request(method, target, &headers) + body;
    // It may answer before it has read all.
    stream.write_all(text.as_bytes()).await.ok();
    let text = heard(&mut stream).await;
    RawReply::parse(&text).unwrap_or_else(|| panic!("{method} {target}: {text:?}"))
}

/// What a connection is told that has not asked anything; none if nothing soon. Whoever comes again at once waits for
/// a second.
pub(crate) async fn turned_away(mut stream: UnixStream) -> Option<RawReply> {
    let said = tokio::time::timeout(std::time::Duration::from_secs(4), heard(&mut stream)).await;
    RawReply::parse(&said.ok()?)
}

/// A stream of events as text.
pub(crate) struct Events {
    stream: UnixStream,
    heard: String,
}

/// Listens to events; returns once the stream stands.
pub(crate) async fn listen(mut stream: UnixStream) -> Events {
    let request = "GET /v1/events HTTP/1.1\r\nHost: grantkeeper\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut events = Events { stream, heard: String::new() };
    events.until(": listening").await;
    events
}

impl Events {
    /// Reads on until this was said; everything that was said since the last call.
    pub(crate) async fn until(&mut self, text: &str) -> String {
        while !self.heard.contains(text) {
            let mut bytes = [0; 4096];
            let read = tokio::time::timeout(PATIENCE, self.stream.read(&mut bytes)).await;
            let read =
                read.unwrap_or_else(|_| panic!("not heard: {text}; {}", self.heard)).unwrap();
            assert!(read > 0, "the stream has ended: {}", self.heard);
            self.heard += &String::from_utf8_lossy(&bytes[..read]);
        }
        std::mem::take(&mut self.heard)
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
pub(crate) async fn heard(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut answer = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
    // A reset counts as hanging up.
    read.expect("the service does not hang up").ok();
    String::from_utf8(answer).unwrap()
}

/// One request with further header lines, each with its line end.
pub(crate) async fn ask(socket: &Path, method: &str, target: &str, headers: &str) -> RawReply {
    ask_with(UnixStream::connect(socket).await.unwrap(), method, target, headers).await
}

/// The request's bytes; the connection is not kept.
pub(crate) fn request(method: &str, target: &str, headers: &str) -> String {
    format!("{method} {target} HTTP/1.1\r\nHost: grantkeeper\r\nConnection: close\r\n{headers}\r\n")
}
