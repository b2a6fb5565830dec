//! Who is calling: the kernel's word, taken when the connection was made. The only place that makes
//! a caller from a connection.

use tokio::net::UnixStream;

use crate::access::Caller;

/// The caller at the other end.
///
/// # Errors
/// The kernel does not say; such a connection is not served.
pub fn caller(stream: &UnixStream) -> std::io::Result<Caller> {
    let credentials = stream.peer_cred()?;
    Ok(Caller::from_kernel(credentials.uid(), credentials.gid(), credentials.pid()))
}
