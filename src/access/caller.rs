//! Who is asking, and how we know. A caller is made in two places only: from the kernel's word on a
//! connection, and for this very process.

use std::{fmt, sync::Arc};

/// Somebody who asks the engine for something. Every question takes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    uid: u32,
    gid: u32,
    groups: Arc<[u32]>,
    pid: Option<i32>,
}

impl Caller {
    /// A caller as the kernel named it when the connection was made, with its supplementary groups.
    /// `pid` is for logs alone: the kernel may have given it to another process since.
    #[must_use]
    pub fn from_kernel(uid: u32, gid: u32, groups: &[u32], pid: Option<i32>) -> Self {
        Self { uid, gid, groups: groups.into(), pid }
    }

    /// This process asking itself.
    #[must_use]
    pub fn this_process() -> Self {
        let process = rustix::process::getpid().as_raw_nonzero().get();
        Self {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            groups: [].into(),
            pid: Some(process),
        }
    }

    /// The user the kernel named.
    #[must_use]
    pub const fn uid(&self) -> u32 {
        self.uid
    }

    /// The group the kernel named.
    #[must_use]
    pub const fn gid(&self) -> u32 {
        self.gid
    }

    /// The process at the other end when the connection was made. For logs alone.
    #[must_use]
    pub const fn pid(&self) -> Option<i32> {
        self.pid
    }

    /// Whether its process runs in the group, first of all or beside.
    #[must_use]
    pub fn is_in(&self, gid: u32) -> bool {
        self.gid == gid || self.groups.contains(&gid)
    }
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "uid {} gid {}", self.uid, self.gid)?;
        self.pid.map_or(Ok(()), |pid| write!(f, " pid {pid}"))
    }
}
