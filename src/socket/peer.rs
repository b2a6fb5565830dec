//! Who is calling: the kernel's word, taken when the connection was made. The only place that makes
//! a caller from a connection.

use std::{io, os::fd::AsRawFd};

use nix::libc;
use tokio::net::UnixStream;

use crate::access::Caller;

/// A process can be in no more groups (`NGROUPS_MAX`, setgroups(2)).
const MOST_GROUPS: usize = 65_536;
/// Most are in fewer.
const USUAL_GROUPS: usize = 64;

/// The caller at the other end.
///
/// # Errors
/// The kernel does not say; such a connection is not served.
pub fn caller(stream: &UnixStream) -> io::Result<Caller> {
    let credentials = stream.peer_cred()?;
    let groups = match groups(stream, USUAL_GROUPS) {
        Err(error) if error.raw_os_error() == Some(libc::ERANGE) => groups(stream, MOST_GROUPS),
        groups => groups,
    }?;
    Ok(Caller::from_kernel(credentials.uid(), credentials.gid(), &groups, credentials.pid()))
}

/// The supplementary groups of the process at the other end, as they were when it connected (unix(7),
/// `SO_PEERGROUPS`), if there are no more than `room`.
#[expect(unsafe_code, reason = "no library asks for SO_PEERGROUPS")]
fn groups(stream: &UnixStream, room: usize) -> io::Result<Vec<u32>> {
    let mut groups = vec![0_u32; room];
    let too_large = |_| io::Error::from(io::ErrorKind::InvalidInput);
    let mut length =
        libc::socklen_t::try_from(size_of_val(groups.as_slice())).map_err(too_large)?;
    // SAFETY: the descriptor is open while `stream` is borrowed; `groups` is writable for `length` bytes, of which
    // every pattern is a `u32`; the kernel writes no more than that, and puts the number of bytes into `length`.
    let outcome = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERGROUPS,
            groups.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if outcome != 0 {
        return Err(io::Error::last_os_error());
    }
    groups.truncate(usize::try_from(length).unwrap_or_default() / size_of::<u32>());
    Ok(groups)
}
