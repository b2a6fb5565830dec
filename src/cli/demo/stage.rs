//! What the demo plays on: a temporary folder with a store, a stand-in for HubSpot, a pager, and
//! this binary running as the service.

use std::{
    fs::{self, Permissions},
    io,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{ExitStatus, Stdio},
    sync::Arc,
};

use aws_lc_rs::rand;
use base64::{Engine, prelude::BASE64_STANDARD};
use rustix::process::{Pid, Signal, geteuid, kill_process};
use tempfile::TempDir;
use tokio::{process::Command, sync::watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::super::exit::{Exit, Failure};
use super::receiver::Receiver;
use crate::{
    portal::PortalId,
    secret::SigningSecret,
    sim::{Scenario, Sim},
    sink::webhook::signing_key,
    socket::Client,
    store::{
        CredentialStore, Expected, Key, Record, StoreError,
        file::{FileStore, Settings},
    },
    time::SystemClock,
};

/// Portals that have connected the app.
pub(super) const PORTALS: u64 = 12;
const FIRST_PORTAL: u64 = 4711;
/// Life of an access token on this stage, in seconds; HubSpot's is 1800.
pub(super) const TOKEN_LIFE: u32 = 8;

pub(super) struct Stage {
    folder: TempDir,
    pub(super) sim: Sim,
    pub(super) sim_url: String,
    pub(super) pager: Receiver,
    pub(super) portals: Vec<PortalId>,
    pub(super) service: Client,
    running: Option<Running>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// The service; a task waits for its end.
struct Running {
    process: Option<Pid>,
    ended: watch::Receiver<Option<ExitStatus>>,
}

impl Running {
    async fn ended(&self) -> Option<ExitStatus> {
        *self.ended.clone().wait_for(Option::is_some).await.ok()?
    }
}

fn failed(doing: &str, error: &dyn std::error::Error) -> Failure {
    Failure::new(
        Exit::Failed,
        "demo",
        format!("the demo can't {doing}"),
        "It needs a writable temporary folder and free loopback ports; set TMPDIR if /tmp is full.",
    )
    .because(error.to_string())
}

impl Stage {
    pub(super) async fn set() -> Result<Self, Failure> {
        let io = |doing| move |error: io::Error| failed(doing, &error);
        let folder = tempfile::Builder::new()
            .prefix("grantkeeper-demo-")
            .tempdir()
            .map_err(io("make a temporary folder"))?;
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());

        let sim = Sim::new(Scenario::default(), Arc::new(SystemClock));
        sim.configure(|settings| {
            settings.expires_in = TOKEN_LIFE;
            settings.rotating = true;
        });
        let (listener, address) =
            Sim::bind("127.0.0.1:0").await.map_err(io("start the stand-in"))?;
        tasks.spawn(sim.clone().serve(listener, stop.clone()));

        let (secret_file, key) = signing_secret(&folder)?;
        let (pager, pager_address) =
            Receiver::start(key, stop.clone(), &tasks).await.map_err(io("start a pager"))?;

        let sim_url = format!("http://{address}");
        let socket = folder.path().join("grantkeeper.sock");
        let config = format!(
            r#"[app]
name = "acme-sync"
required_scopes = ["oauth"]

[store]
kind = "file"
[store.file]
path = "{folder}/store.redb"
key_file = "{folder}/store.key"

[hubspot]
base_url = "{sim_url}"
max_refreshes_per_second = 50

[socket]
path = "{socket}"

[[alert]]
name = "pager"
kind = "webhook"
url = "http://{pager_address}/"
signing_secret_file = "{secret_file}"
"#,
            folder = folder.path().display(),
            socket = socket.display(),
            secret_file = secret_file.display(),
        );
        fs::write(folder.path().join("grantkeeper.toml"), config)
            .map_err(io("write a configuration"))?;

        let portals = enrol(&folder, &sim).await.map_err(|error| failed("fill a store", &error))?;
        Ok(Self {
            folder,
            sim,
            sim_url,
            pager,
            portals,
            service: Client::new(socket),
            running: None,
            stop,
            tasks,
        })
    }

    pub(super) fn config(&self) -> PathBuf {
        self.folder.path().join("grantkeeper.toml")
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.folder.path().join("grantkeeper.sock")
    }

    pub(super) fn log(&self) -> PathBuf {
        self.folder.path().join("service.log")
    }

    /// This binary with these arguments, on this stage.
    pub(super) fn grantkeeper(&self, arguments: &[&str]) -> io::Result<Command> {
        let mut command = Command::new(std::env::current_exe()?);
        command
            .arg("--config")
            .arg(self.config())
            .args(arguments)
            .env_remove("GRANTKEEPER_SOCKET")
            .env_remove("GRANTKEEPER_LOG")
            .kill_on_drop(true);
        Ok(command)
    }

    /// Starts the service; it logs to a file.
    pub(super) fn start_service(&mut self) -> io::Result<()> {
        let log = fs::File::create(self.log())?;
        let mut command = self.grantkeeper(&["run"])?;
        if geteuid().is_root() {
            // Nothing here is worth protecting, and a container's only user may see the demo, too.
            command.arg("--allow-root");
        }
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn()?;
        let process = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        let (tell, ended) = watch::channel(None);
        self.tasks.spawn(async move {
            let status = child.wait().await;
            tell.send_replace(status.ok());
        });
        self.running = Some(Running { process, ended });
        Ok(())
    }

    /// Returns when the service has ended without having been asked to.
    pub(super) async fn service_ended(&self) {
        match &self.running {
            Some(running) => drop(running.ended().await),
            None => std::future::pending().await,
        }
    }

    /// Asks the service to stop and says whether it ended well.
    pub(super) async fn stop_service(&mut self) -> bool {
        let Some(running) = self.running.take() else { return false };
        let send = |signal| {
            if let Some(process) = running.process.filter(|_| running.ended.borrow().is_none()) {
                // It may have ended by itself, which the wait shows.
                kill_process(process, signal).ok();
            }
        };
        send(Signal::TERM);
        let ended = tokio::time::timeout(super::PATIENCE, running.ended()).await;
        send(Signal::KILL);
        matches!(ended, Ok(Some(status)) if status.success())
    }

    pub(super) async fn clear(mut self) {
        self.stop_service().await;
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

fn signing_secret(folder: &TempDir) -> Result<(PathBuf, aws_lc_rs::hmac::Key), Failure> {
    let mut bytes = [0; 24];
    rand::fill(&mut bytes).map_err(|error| failed("draw a random key", &error))?;
    let secret = SigningSecret::parse(format!("whsec_{}", BASE64_STANDARD.encode(bytes)))
        .map_err(|error| failed("make a signing secret", &error))?;
    let path = folder.path().join("whsec");
    // exposed: into the file the service reads its signing secret from
    let written = fs::write(&path, secret.expose())
        .and_then(|()| fs::set_permissions(&path, Permissions::from_mode(0o600)));
    written.map_err(|error| failed("write a signing secret", &error))?;
    let key = signing_key(&secret).ok_or_else(|| {
        failed("make a signing secret", &crate::secret::MalformedSecret::Unprintable)
    })?;
    Ok((path, key))
}

/// Twelve customers connect the app, and their grants are stored as an operator would store them.
async fn enrol(folder: &TempDir, sim: &Sim) -> Result<Vec<PortalId>, StoreError> {
    let store = FileStore::open(Settings {
        path: folder.path().join("store.redb"),
        key_file: folder.path().join("store.key"),
        create_key: true,
    })?;
    let app = Record::default().with_client(&sim.client_id(), &sim.client_secret());
    store.write(Key::App, &app, &Expected::Absent).await?;
    let mut portals = Vec::new();
    for number in FIRST_PORTAL..FIRST_PORTAL + PORTALS {
        let Ok(portal) = PortalId::new(number) else { continue };
        let (portal, token) = sim.install(Some(portal), None);
        let record = Record::default().with_refresh_token(&token);
        store.write(Key::Portal(portal), &record, &Expected::Absent).await?;
        portals.push(portal);
    }
    Ok(portals)
}
