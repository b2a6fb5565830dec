//! The machine beneath the service: numbered checks for an operator where something does not work. Each says what it
//! saw, and where that is not as it should be, a line to type. Changes nothing, spends nothing, sends no credential and
//! shows none. What `check` looks at (configuration, store, client pair, grants) is not looked at again.

use std::{path::PathBuf, sync::Arc, time::Duration};

use tokio::task::{JoinSet, spawn_blocking};

use crate::config::{self, Config};

mod account;
mod blocked;
mod check;
mod disk;
mod door;
mod files;
mod kernel;
mod network;
mod running;
mod secrets;

pub use check::{Check, State, Trouble, What};

use account::{Account, Evidence};
use running::Running;

/// Looking at files ends within this time, or is given up: a network file system may hang.
const FILES: Duration = Duration::from_secs(5);
/// The same for what all else waits for.
const FIRST: Duration = Duration::from_secs(2);

/// What is to be looked at.
#[derive(Debug, Clone)]
pub struct Asked {
    /// The configuration file.
    pub config: PathBuf,
    /// Who named it: a flag, a variable, or nobody.
    pub named_by: &'static str,
    /// The socket, where it is not the configuration's.
    pub socket: Option<PathBuf>,
    /// The user whom the service runs as, where the machine is not to be asked.
    pub user: Option<String>,
}

/// What was found.
#[derive(Debug)]
pub struct Examined {
    /// Whom the service runs as.
    pub user: String,
    /// How that was found out.
    pub user_by: &'static str,
    /// Ascending by number.
    pub checks: Vec<Check>,
}

/// Where everybody looks.
#[derive(Debug)]
struct Scene {
    asked: Asked,
    /// None: it can't be used.
    config: Option<Config>,
    socket: PathBuf,
    running: Running,
    /// Whom the service runs as.
    service: Account,
    /// How that was found out.
    service_by: &'static str,
    /// Who looks.
    me: Account,
}

/// Nobody can be looked for by this name.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not a user of this machine")]
pub struct NoSuchUser(String);

/// Looks at everything, side by side.
///
/// # Errors
/// The user who was named is not one.
pub async fn examine(asked: Asked) -> Result<Examined, NoSuchUser> {
    let (path, named_by) = (asked.config.clone(), asked.named_by);
    let loaded = timed(FIRST, move || {
        files::configuration(&path, named_by, Config::load(&path, &config::environment))
    });
    let (config, mut checks) = match loaded.await {
        Some((config, check)) => (config, vec![check]),
        None => (None, vec![What::Configuration.skipped(HANGS)]),
    };
    let usual = || PathBuf::from(config::DEFAULT_SOCKET);
    let configured = config.as_ref().map(|config| config.socket.path.clone());
    let socket = asked.socket.clone().or(configured).unwrap_or_else(usual);
    let running = Running::ask(&socket).await;
    let evidence = Evidence {
        named: asked.user.clone(),
        running: running.own_user(),
        paths: config.as_ref().map(files::own_paths).unwrap_or_default(),
    };
    let found = timed(FIRST, move || evidence.find()).await;
    let (service, service_by) = match found {
        Some(found) => found.map_err(NoSuchUser)?,
        None => (Account::me(), "this user: the user database hangs"),
    };
    let me = Account::me();
    let scene = Arc::new(Scene { asked, config, socket, running, service, service_by, me });

    let mut looking = JoinSet::new();
    for (look, whats) in LOOKS {
        let scene = Arc::clone(&scene);
        looking.spawn(async move {
            let seen = timed(FILES, move || look(&scene)).await;
            seen.unwrap_or_else(|| whats.iter().map(|what| what.skipped(HANGS)).collect())
        });
    }
    let outside = Arc::clone(&scene);
    looking.spawn(async move { network::look(&outside).await });
    let service = Arc::clone(&scene);
    looking.spawn(async move { running::look(&service).await });
    while let Some(seen) = looking.join_next().await {
        checks.extend(seen.unwrap_or_default());
    }
    for what in What::ALL {
        if !checks.iter().any(|check| check.what == what) {
            checks.push(what.skipped("it needs a configuration that can be used (D01)"));
        }
    }
    checks.sort_by(|one, other| (one.what, &one.subject).cmp(&(other.what, &other.subject)));
    Ok(Examined { user: scene.service.name.clone(), user_by: scene.service_by, checks })
}

const HANGS: &str =
    "it did not end in time: a file system or the user database hangs (`mount`, `getent passwd`)";

type Look = fn(&Scene) -> Vec<Check>;

/// What is looked at without waiting for anybody but the kernel.
const LOOKS: [(Look, &[What]); 5] = [
    (files::look, &[What::Owner, What::ServiceUser, What::AuditLog, What::StoreFile]),
    (disk::look, &[What::StateDir, What::FileSystem, What::Room, What::Sync]),
    (secrets::look, &[What::Secrets]),
    (door::look, &[What::SocketFolder, What::Socket, What::SocketGroup, What::Access]),
    (
        kernel::look,
        &[
            What::ApiVersion,
            What::BootClock,
            What::TimeSync,
            What::OpenFiles,
            What::CoreDumps,
            What::Swap,
            What::Landlock,
        ],
    ),
];

/// Runs `look` off the runtime's threads; nothing if it does not end in time.
async fn timed<T: Send + 'static>(
    patience: Duration,
    look: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    tokio::time::timeout(patience, spawn_blocking(look)).await.ok()?.ok()
}

impl Scene {
    /// Whether what the service's user sees can be seen from here.
    fn sees(&self) -> bool {
        self.me.uid == self.service.uid || self.me.is_root()
    }

    /// Whether a process can be the service.
    fn is_service(&self, pid: i32) -> bool {
        let is_other = self.running.pid().is_some_and(|own| own != pid);
        !is_other && files::program(pid).starts_with("grantkeeper")
    }

    /// The line by which the service's user sees what this one can't.
    fn as_service(&self) -> String {
        let config = check::quoted(&self.asked.config);
        format!("sudo -u {} grantkeeper --config {config} doctor", self.service.for_sudo())
    }

    /// Why something was not looked at.
    fn not_for_me(&self) -> String {
        format!("this user may not look; `{}` can", self.as_service())
    }

    /// `line` with the right to do it.
    fn root(&self, line: &str) -> String {
        if self.me.is_root() { line.to_owned() } else { format!("sudo {line}") }
    }

    /// The line that opens the configuration for a change.
    fn edit(&self, change: &str) -> String {
        let line = format!("\"${{EDITOR:-vi}}\" {}", check::quoted(&self.asked.config));
        format!("{}   # {change}", self.root(&line))
    }
}
