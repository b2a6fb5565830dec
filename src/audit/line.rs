//! What a line says, and how it is chained to the one before it. Pure.
//!
//! A line is one JSON object whose last member is `hash`: SHA-256, in hexadecimal, of the hash of the line
//! before (64 zeros before the first) followed by everything of this line that stands before `,"hash"`.

use std::fmt;

use aws_lc_rs::digest;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Decision;
use crate::{portal::PortalId, secret::Fingerprint};

const SEAM: &str = ",\"hash\":\"";
const END: &str = "\"}";
const DIGITS: usize = 64;

/// A line's hash.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Hash(String);

impl Hash {
    /// What the first line of all is chained to.
    #[must_use]
    pub fn none() -> Self {
        Self("0".repeat(DIGITS))
    }

    fn after(&self, body: &str) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(self.0.as_bytes());
        context.update(body.as_bytes());
        let bytes = context.finish();
        Self(bytes.as_ref().iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}")))
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hash({self})")
    }
}

/// A place in the chain: the last line so far.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tip {
    /// Its number; the first line of all is 1.
    pub seq: u64,
    /// Its hash.
    pub hash: Hash,
}

impl Tip {
    /// Before the first line.
    #[must_use]
    pub fn none() -> Self {
        Self { seq: 0, hash: Hash::none() }
    }
}

/// By what decisions are told to be the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Seen {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) action: &'static str,
    pub(super) portal: Option<PortalId>,
    pub(super) outcome: &'static str,
    pub(super) token: Option<Fingerprint>,
}

impl Seen {
    pub(super) const fn of(decision: &Decision) -> Self {
        let Decision { caller, action, portal, outcome, token } = decision;
        Self {
            uid: caller.uid(),
            gid: caller.gid(),
            action,
            portal: *portal,
            outcome,
            token: *token,
        }
    }
}

/// What a line is about.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(super) enum Event<'a> {
    /// A process begins to write, or goes on in a new file.
    Opened {
        /// The last line before, here or in the file before this one.
        previous: Option<&'a Tip>,
        /// So many bytes of a line that was cut off were taken away.
        #[serde(skip_serializing_if = "Option::is_none")]
        torn: Option<u64>,
        version: &'a str,
    },
    /// A decision, the first of its kind for a while.
    Decision {
        #[serde(flatten)]
        seen: Seen,
        pid: Option<i32>,
    },
    /// The same was decided so many times more.
    Repeats {
        #[serde(flatten)]
        seen: Seen,
        count: u64,
    },
    /// Lines can be written again; so many decisions were refused because they could not.
    Resumed { refused: u64 },
    /// The process stops writing, or goes on in another file.
    Closed,
}

#[derive(Serialize)]
struct Body<'a> {
    seq: u64,
    time: Timestamp,
    #[serde(flatten)]
    event: &'a Event<'a>,
}

/// The line that follows `tip`, and the tip it makes.
pub(super) fn write(tip: &Tip, time: Timestamp, event: &Event<'_>) -> (String, Tip) {
    let seq = tip.seq + 1;
    let mut body = serde_json::to_string(&Body { seq, time, event }).unwrap_or_default();
    body.pop();
    let hash = tip.hash.after(&body);
    (format!("{body}{SEAM}{hash}{END}\n"), Tip { seq, hash })
}

/// What is read back of a line; the rest is for people.
#[derive(Debug, Clone, Deserialize)]
pub struct Read {
    /// Its number.
    pub seq: u64,
    /// When it was written.
    pub time: Timestamp,
    /// What it is about.
    pub event: String,
    /// What it was chained to, where a file begins.
    #[serde(default)]
    pub previous: Option<Tip>,
    /// Its hash.
    pub hash: Hash,
}

impl Read {
    /// A line without its end.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let read: Self = serde_json::from_str(line).ok()?;
        (read.hash.0.len() == DIGITS).then_some(read)
    }

    /// The place it makes.
    #[must_use]
    pub fn tip(&self) -> Tip {
        Tip { seq: self.seq, hash: self.hash.clone() }
    }

    /// Whether this, read from `line`, was written after `before`.
    #[must_use]
    pub fn follows(&self, before: &Tip, line: &str) -> bool {
        let tail = format!("{SEAM}{}{END}", self.hash);
        let body = line.strip_suffix(&tail);
        body.is_some_and(|body| before.hash.after(body) == self.hash)
    }
}
