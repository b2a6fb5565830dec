//! Making the socket file: right mode from its first instant, a stale one replaced only if it is a
//! socket and nobody answers on it, and a lock so that two services never fight over one path.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::{
        fs::{FileTypeExt, OpenOptionsExt, PermissionsExt},
        net::{UnixListener as StdListener, UnixStream},
    },
    path::{Path, PathBuf},
};

use super::Limits;
use listenfd::ListenFd;
use rustix::{
    fs::{FlockOperation, Mode, fchmod, flock},
    net::{
        AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with,
        sockopt::socket_acceptconn,
    },
};
use tokio::net::UnixListener;

/// Where the socket is and who may open it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The path.
    pub path: PathBuf,
    /// Permission bits.
    pub mode: u32,
    /// The group it is given to.
    pub group: Option<u32>,
    /// What there is for each user.
    pub limits: Limits,
}

/// A bound socket. Its file goes when this is dropped.
#[derive(Debug)]
pub struct Socket {
    /// Where connections come in.
    pub listener: UnixListener,
    /// The file to take away, and the lock beside it; neither is ours where somebody else made the socket.
    own: Option<(PathBuf, File)>,
}

/// A socket that was made before this process was, by systemd.
#[derive(Debug)]
pub struct Inherited(StdListener);

impl Inherited {
    /// The first one that was passed on (sd_listen_fds(3)), if there is any. To be asked before there are threads.
    ///
    /// # Errors
    /// What was passed on is no listening Unix socket, or one that every user may open.
    pub fn take() -> Result<Option<Self>, ListenError> {
        let mut passed = ListenFd::from_env();
        if passed.len() == 0 {
            return Ok(None);
        }
        let taken = passed.take_unix_listener(0).map_err(ListenError::Passed)?;
        taken.map(Self::checked).transpose()
    }

    fn checked(listener: StdListener) -> Result<Self, ListenError> {
        let listens = socket_acceptconn(&listener).map_err(io::Error::from);
        if !listens.map_err(ListenError::Passed)? {
            return Err(ListenError::Passed(io::ErrorKind::NotConnected.into()));
        }
        let address = listener.local_addr().map_err(ListenError::Passed)?;
        // One without a path has no mode, either: everybody may open it.
        let open_to_all = |path: &Path| {
            fs::symlink_metadata(path).is_ok_and(|found| found.permissions().mode() & 0o002 != 0)
        };
        match address.as_pathname() {
            Some(path) if !open_to_all(path) => Ok(Self(listener)),
            path => Err(ListenError::OpenToAll(path.unwrap_or(Path::new("@")).to_owned())),
        }
    }
}

/// The socket could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Something that is not a socket has the path.
    #[error("{0} exists and is not a socket")]
    NotASocket(PathBuf),
    /// Another process has the path.
    #[error("another service is listening on {0}")]
    InUse(PathBuf),
    /// What systemd passed on is something else.
    #[error("the socket that was passed on is no listening Unix socket")]
    Passed(#[source] io::Error),
    /// The socket that systemd made is open to everybody, as it is unless the unit says otherwise.
    #[error("every user of this machine may open the socket {0}")]
    OpenToAll(PathBuf),
    /// The folder is not there.
    #[error("the folder {0} does not exist")]
    NoFolder(PathBuf),
    /// The operating system said no.
    #[error("the socket {path} could not be made while trying to {doing}")]
    Io {
        /// Which.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// What it said.
        #[source]
        source: io::Error,
    },
}

impl ListenError {
    /// What to do about it.
    #[must_use]
    pub const fn hint(&self) -> &'static str {
        match self {
            Self::NotASocket(_) => {
                "Nothing was touched. Choose another path in [socket], or move that file away."
            }
            Self::InUse(_) => {
                "Stop the other service first, or give this one another path in [socket]."
            }
            Self::Passed(_) => {
                "Let the socket unit have one ListenStream= with a path, and no other."
            }
            Self::OpenToAll(_) => {
                "Let the socket unit have SocketMode=0660, and SocketGroup= the group of the callers."
            }
            Self::NoFolder(_) => {
                "Create it, owned by the service's user, or let systemd do so with RuntimeDirectory=."
            }
            Self::Io { .. } => {
                "See that the service's user may write in that folder and belongs to the configured group."
            }
        }
    }
}

impl Socket {
    /// Takes over a socket that somebody else made, with the mode and owner they gave it. Must be called inside a
    /// runtime.
    ///
    /// # Errors
    /// The operating system says no.
    pub fn inherit(inherited: Inherited) -> Result<Self, ListenError> {
        inherited.0.set_nonblocking(true).map_err(ListenError::Passed)?;
        let listener = UnixListener::from_std(inherited.0).map_err(ListenError::Passed)?;
        Ok(Self { listener, own: None })
    }

    /// Binds the socket. Must be called inside a runtime.
    ///
    /// # Errors
    /// See [`ListenError`]. A file that is not a stale socket is left as it was.
    pub fn bind(settings: &Settings) -> Result<Self, ListenError> {
        let path = &settings.path;
        let failed = |doing| {
            let path = path.clone();
            move |source: io::Error| ListenError::Io { path, doing, source }
        };
        if let Some(folder) = path.parent().filter(|folder| !folder.is_dir()) {
            return Err(ListenError::NoFolder(folder.to_owned()));
        }
        let lock = lock(path)?;
        clear_stale(path)?;
        let listener = bind_closed(path).map_err(failed("bind"))?;
        if let Some(group) = settings.group {
            std::os::unix::fs::chown(path, None, Some(group))
                .map_err(failed("give it its group"))?;
        }
        let mode = fs::Permissions::from_mode(settings.mode);
        fs::set_permissions(path, mode).map_err(failed("set its mode"))?;
        listener.set_nonblocking(true).map_err(failed("make it non-blocking"))?;
        let listener = UnixListener::from_std(listener).map_err(failed("listen"))?;
        Ok(Self { listener, own: Some((path.clone(), lock)) })
    }
}

/// A socket file that nobody but its owner can open from its first instant: what its mode becomes is told the socket
/// before it has a path. The process's umask would be every thread's.
fn bind_closed(path: &Path) -> io::Result<StdListener> {
    let address = SocketAddrUnix::new(path)?;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    bind(&socket, &address)?;
    // As many may wait to be accepted as the kernel lets.
    listen(&socket, i32::MAX)?;
    Ok(socket.into())
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Some((path, _)) = &self.own {
            // A file that is gone already is as good.
            fs::remove_file(path).ok();
        }
    }
}

fn lock(path: &Path) -> Result<File, ListenError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let io = |doing| {
        let path = path.to_owned();
        move |source: io::Error| ListenError::Io { path, doing, source }
    };
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(PathBuf::from(name))
        .map_err(io("open its lock file"))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(ListenError::InUse(path.to_owned())),
        Err(error) => Err(io("lock its lock file")(error.into())),
    }
}

fn clear_stale(path: &Path) -> Result<(), ListenError> {
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => {
            return Err(ListenError::Io { path: path.to_owned(), doing: "look at it", source });
        }
    };
    if !found.file_type().is_socket() {
        return Err(ListenError::NotASocket(path.to_owned()));
    }
    // Only a refusal shows that nobody has it: another kind of socket, or another user's, answers otherwise.
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
        _ => return Err(ListenError::InUse(path.to_owned())),
    }
    fs::remove_file(path).map_err(|source| ListenError::Io {
        path: path.to_owned(),
        doing: "remove the stale socket",
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(folder: &tempfile::TempDir) -> Settings {
        Settings {
            path: folder.path().join("gk.sock"),
            mode: 0o660,
            group: None,
            limits: Limits::default(),
        }
    }

    #[tokio::test]
    async fn the_socket_has_its_mode_and_goes_with_the_service() {
        let folder = tempfile::tempdir().unwrap();
        let settings = settings(&folder);
        let socket = Socket::bind(&settings).unwrap();
        let mode = fs::metadata(&settings.path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o660);
        drop(socket);
        assert!(!settings.path.exists());
    }

    #[test]
    fn nobody_else_can_open_it_from_its_first_instant() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gk.sock");
        let _listener = bind_closed(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[tokio::test]
    async fn a_socket_of_another_kind_is_not_taken_for_a_stale_one() {
        let folder = tempfile::tempdir().unwrap();
        let settings = settings(&folder);
        let _datagrams = std::os::unix::net::UnixDatagram::bind(&settings.path).unwrap();
        assert!(matches!(Socket::bind(&settings), Err(ListenError::InUse(_))));
        assert!(settings.path.exists());
    }

    #[test]
    fn an_inherited_socket_is_refused_if_every_user_may_open_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gk.sock");
        let listener = StdListener::bind(&path).unwrap();
        for (mode, fine) in [(0o660, true), (0o600, true), (0o666, false), (0o662, false)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let inherited = Inherited::checked(listener.try_clone().unwrap());
            assert_eq!(inherited.is_ok(), fine, "{mode:o}");
        }
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let settings = settings(&folder);
        drop(StdListener::bind(&settings.path).unwrap());
        assert!(settings.path.exists());
        Socket::bind(&settings).unwrap();
    }

    #[tokio::test]
    async fn a_regular_file_in_the_way_is_refused_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let settings = settings(&folder);
        fs::write(&settings.path, "precious").unwrap();
        let error = Socket::bind(&settings).unwrap_err();
        assert!(matches!(error, ListenError::NotASocket(_)), "{error}");
        assert_eq!(fs::read_to_string(&settings.path).unwrap(), "precious");
    }

    #[tokio::test]
    async fn a_path_that_another_service_holds_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let settings = settings(&folder);
        let _first = Socket::bind(&settings).unwrap();
        assert!(matches!(Socket::bind(&settings), Err(ListenError::InUse(_))));
        let other = Settings { path: folder.path().join("other.sock"), ..settings };
        let _foreign = StdListener::bind(&other.path).unwrap();
        assert!(matches!(Socket::bind(&other), Err(ListenError::InUse(_))));
    }

    #[tokio::test]
    async fn a_missing_folder_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("no/such/gk.sock");
        let error = Socket::bind(&Settings { path, ..settings(&folder) }).unwrap_err();
        assert!(matches!(error, ListenError::NoFolder(_)), "{error}");
    }
}
