//! The real program as a real service: this crate's binary as a child process, on a store of the
//! test's choice, towards a stand-in, with a receiver for its alerts.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{Router, extract::State, http::HeaderMap, routing::post};
use grantkeeper::{
    portal::PortalId,
    socket::{Client, client::AskError},
    store::{
        CredentialStore, Expected, Key, Record,
        aws::AwsStore,
        file::{FileStore, Settings},
        vault::VaultStore,
    },
    time::SystemClock,
};
use serde_json::Value;
use tokio::{
    io::AsyncWriteExt,
    process::{Child, Command},
};

use super::{
    moto::{Moto, sdk_config},
    openbao::OpenBao,
    sim::Standin,
    temp_dir,
};

/// The longest anything in these tests may take before it counts as not happening.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A folder with a configuration, a stand-in, a receiver, and a filled embedded store.
pub(crate) struct Place {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) standin: Standin,
    pub(crate) alerts: Alerts,
    /// Parts of the configuration that tests change; `head` stands above all sections.
    pub(crate) head: String,
    pub(crate) store: String,
    pub(crate) extra: String,
    /// The uid the program runs as, if not the test's own.
    pub(crate) uid: Option<u32>,
    /// Further environment of the program.
    pub(crate) env: Vec<(String, String)>,
}

/// A finished command.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Place {
    /// Portals 1 to `portals`, on the embedded store; nothing runs yet but the stand-in.
    pub(crate) async fn new(portals: u64, scenario: &str) -> Self {
        let fleet = format!("{scenario}\n[fleet]\nfirst = 1\ncount = {portals}\n");
        let standin = Standin::start(if portals == 0 { scenario } else { &fleet }).await;
        let dir = temp_dir();
        let store = format!(
            "[store]\nkind = \"file\"\n[store.file]\npath = \"{0}/store.redb\"\nkey_file = \"{0}/store.key\"\n",
            dir.path().display()
        );
        let extra = "[hubspot]\nmax_refreshes_per_second = 200\n".to_owned();
        let place = Self {
            dir,
            standin,
            alerts: Alerts::start().await,
            head: String::new(),
            store,
            extra,
            uid: None,
            env: vec![],
        };
        place.fill(&place.file_store()).await;
        place
    }

    /// The embedded store, opened for the test's own hands.
    pub(crate) fn file_store(&self) -> FileStore {
        let settings = Settings {
            path: self.path("store.redb"),
            key_file: self.path("store.key"),
            create_key: true,
        };
        FileStore::open(settings).unwrap()
    }

    /// Puts the stand-in's app and every portal's grant into `store`.
    pub(crate) async fn fill(&self, store: &dyn CredentialStore) {
        let sim = &self.standin.sim;
        let app = Record::default().with_client(&sim.client_id(), &sim.client_secret());
        store.write(Key::App, &app, &Expected::Absent).await.unwrap();
        for portal in sim.portals(None, usize::MAX) {
            let id = portal.portal;
            let token = sim.refresh_token(id).unwrap();
            let record = Record::default().with_refresh_token(&token);
            store.write(Key::Portal(id), &record, &Expected::Absent).await.unwrap();
        }
    }

    /// Lets the configuration name a mount of OpenBao, logged in to with `token`.
    pub(crate) fn use_openbao(&mut self, bao: &OpenBao, mount: &str, token: &str) {
        let file = self.path("vault-token");
        secret_file(&file, token);
        self.store = format!(
            "[store]\nkind = \"vault\"\n[store.vault]\naddress = \"{}\"\nmount = \"{mount}\"\n\
             auth = {{ method = \"token\", token_file = \"{}\" }}\n",
            bao.addr,
            file.display()
        );
    }

    /// Moves the place to a mount of its own on `bao`, filled; gives the mount and its store.
    pub(crate) async fn move_to_openbao(&mut self, bao: &OpenBao) -> (String, VaultStore) {
        let mount = bao.mount().await;
        self.use_openbao(bao, &mount, &bao.root_token);
        let mut settings = bao.settings(&mount);
        "grantkeeper/acme-sync".clone_into(&mut settings.prefix);
        let store = VaultStore::connect(settings, Arc::new(SystemClock)).unwrap();
        self.fill(&store).await;
        (mount, store)
    }

    /// Moves the place to a prefix of its own in `moto`, filled; gives the store.
    pub(crate) async fn move_to_aws(&mut self, moto: &Moto) -> AwsStore {
        let settings = moto.settings();
        self.store = format!(
            "[store]\nkind = \"aws\"\n[store.aws]\nregion = \"eu-west-1\"\nprefix = \"{}\"\nendpoint_url = \"{}\"\n",
            settings.prefix, moto.endpoint
        );
        for (name, value) in [
            ("AWS_ACCESS_KEY_ID", "test"),
            ("AWS_SECRET_ACCESS_KEY", "test"),
            ("AWS_EC2_METADATA_DISABLED", "true"),
        ] {
            self.env.push((name.to_owned(), value.to_owned()));
        }
        let clock = Arc::new(SystemClock);
        let store = AwsStore::with_sdk_config(settings, &sdk_config(), clock).unwrap();
        self.fill(&store).await;
        store
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.path("gk.sock")
    }

    /// The configuration as it stands now; `extra` may hold a `[hubspot]` section without base_url.
    pub(crate) fn config_text(&self) -> String {
        let hubspot = format!("[hubspot]\nbase_url = \"{}\"\n", self.standin.url);
        let extra = if self.extra.contains("[hubspot]") {
            self.extra.replace("[hubspot]\n", &hubspot)
        } else {
            format!("{hubspot}{}", self.extra)
        };
        // A test may say more of the socket.
        let (extra, socket) = match extra.split_once("[socket]\n") {
            Some((before, more)) => (before.to_owned(), more.to_owned()),
            None => (extra, String::new()),
        };
        format!(
            "{}[app]\nname = \"acme-sync\"\n{}\n{extra}\n[socket]\npath = \"{}\"\n{socket}\n\
             [[alert]]\nname = \"pager\"\nkind = \"webhook\"\nurl = \"{}\"\nsigning_secret_file = \"{}\"\n",
            self.head,
            self.store,
            self.socket().display(),
            self.alerts.url,
            self.whsec().display(),
        )
    }

    fn whsec(&self) -> PathBuf {
        let path = self.path("whsec");
        secret_file(&path, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n");
        path
    }

    pub(crate) fn config(&self) -> PathBuf {
        let path = self.path("grantkeeper.toml");
        fs::write(&path, self.config_text()).unwrap();
        path
    }

    /// The program with these arguments and this place's configuration, in an empty environment.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_grantkeeper"));
        command.arg("--config").arg(self.config()).args(args);
        if args.first() == Some(&"run") && self.uid.is_none() {
            // The tests run as whoever they run as.
            command.arg("--allow-root");
        }
        command.env_clear().env("PATH", "/usr/bin:/bin").env("HOME", self.dir.path());
        command.envs(self.env.iter().cloned());
        command.kill_on_drop(true).current_dir(self.dir.path());
        if let Some(uid) = self.uid {
            command.uid(uid).gid(uid);
        }
        command
    }

    /// Runs the program to its end with `input` on standard input.
    pub(crate) async fn run_with(&self, args: &[&str], input: &str) -> Ended {
        finish(self.command(args), input).await
    }

    /// Runs the program to its end.
    pub(crate) async fn run(&self, args: &[&str]) -> Ended {
        self.run_with(args, "").await
    }

    /// Starts the service and waits until its socket answers.
    pub(crate) async fn serve(&self) -> Service {
        let service = self.spawn();
        service.answers().await;
        service
    }

    /// Starts the service, whatever becomes of it.
    pub(crate) fn spawn(&self) -> Service {
        self.spawn_logging("grantkeeper=trace,info", "text")
    }

    /// Starts the service with this log filter and format, whatever becomes of it.
    pub(crate) fn spawn_logging(&self, filter: &str, format: &str) -> Service {
        self.spawn_as(self.command(&["run"]), filter, format)
    }

    /// Starts the service by `command`, whatever becomes of it.
    pub(crate) fn spawn_as(&self, mut command: Command, filter: &str, format: &str) -> Service {
        let log = self.path("service.log");
        command.args(["--log-format", format]);
        command.env("GRANTKEEPER_LOG", filter);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(fs::File::create(&log).unwrap());
        Service { child: command.spawn().unwrap(), client: Client::new(self.socket()), log }
    }
}

/// Runs `command` to its end with `input` on standard input.
pub(crate) async fn finish(mut command: Command, input: &str) -> Ended {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // A command that refuses at once may not read it.
    stdin.write_all(input.as_bytes()).await.ok();
    drop(stdin);
    let ended = tokio::time::timeout(PATIENCE, child.wait_with_output()).await;
    let ended = ended.expect("the command does not end").unwrap();
    Ended {
        code: ended.status.code().unwrap_or(-1),
        out: String::from_utf8(ended.stdout).unwrap(),
        err: String::from_utf8(ended.stderr).unwrap(),
    }
}

/// A running service; killed when dropped.
pub(crate) struct Service {
    pub(crate) child: Child,
    pub(crate) client: Client,
    log: PathBuf,
}

impl Service {
    /// Waits until the socket answers.
    pub(crate) async fn answers(&self) {
        eventually("the socket answers", || async {
            self.client.ask(hyper::Method::GET, "/livez").await.is_ok_and(|r| r.status == 200)
        })
        .await;
    }

    /// Waits until the service says that it is ready.
    pub(crate) async fn ready(&self) {
        eventually("the service is ready", || async {
            self.client.ask(hyper::Method::GET, "/readyz").await.is_ok_and(|r| r.status == 200)
        })
        .await;
    }

    pub(crate) async fn get(&self, target: &str) -> Result<Value, AskError> {
        self.client.get(target).await
    }

    /// The token answer of a portal.
    pub(crate) async fn token(&self, portal: u64) -> Result<Value, AskError> {
        self.get(&format!("/v1/portals/{portal}/token")).await
    }

    /// The stable word of the refusal to give a portal's token.
    pub(crate) async fn refusal(&self, portal: u64) -> String {
        match self.token(portal).await {
            Err(AskError::Refused(problem)) => problem.code,
            other => panic!("not refused: {other:?}"),
        }
    }

    /// Whether a portal's grant is known to have ended.
    pub(crate) async fn refusal_of(&self, portal: u64) -> bool {
        matches!(self.token(portal).await, Err(AskError::Refused(problem)) if problem.code == "grant_revoked")
    }

    /// The state of a portal.
    pub(crate) async fn state(&self, portal: u64) -> String {
        let body = self.get(&format!("/v1/portals/{portal}")).await.unwrap();
        body["state"].as_str().unwrap().to_owned()
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = i32::try_from(self.child.id().unwrap()).unwrap();
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Asks it to stop and gives its exit code.
    pub(crate) async fn stop(mut self) -> i32 {
        self.signal(rustix::process::Signal::TERM);
        self.ended().await
    }

    /// Waits for its end and gives its exit code.
    pub(crate) async fn ended(&mut self) -> i32 {
        let ended = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        ended.expect("the service does not end").unwrap().code().unwrap_or(-1)
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }
}

/// What the service's webhook receiver was told.
#[derive(Clone)]
pub(crate) struct Alerts {
    pub(crate) url: String,
    told: Arc<Mutex<Vec<(HeaderMap, String)>>>,
}

impl Alerts {
    pub(crate) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let alerts = Self { url, told: Arc::default() };
        let router = Router::new()
            .route("/hook", post(take))
            .route("/hook/{secret}", post(take))
            .with_state(alerts.clone());
        let serving = async move { axum::serve(listener, router).await };
        tokio_util::task::TaskTracker::new().spawn(serving);
        alerts
    }

    /// Everything told so far, as parsed bodies.
    pub(crate) fn all(&self) -> Vec<Value> {
        let told = self.told.lock().unwrap();
        told.iter().map(|(_, body)| serde_json::from_str(body).unwrap()).collect()
    }

    /// Headers and bodies as they came.
    pub(crate) fn raw(&self) -> Vec<(HeaderMap, String)> {
        self.told.lock().unwrap().clone()
    }

    /// The notices of this kind and change (`opened`, `resolved`).
    pub(crate) fn of(&self, kind: &str, change: &str) -> Vec<Value> {
        let wanted = format!("dev.grantkeeper.incident.{change}");
        let all = self.all().into_iter();
        all.filter(|a| a["type"] == wanted.as_str() && a["data"]["kind"] == kind).collect()
    }

    /// Waits for the first notice of this kind and change.
    pub(crate) async fn wait_for(&self, kind: &str, change: &str) -> Value {
        let told = || async { !self.of(kind, change).is_empty() };
        let came = tokio::time::timeout(PATIENCE, until(told)).await;
        assert!(came.is_ok(), "{kind} is not {change}; what was told: {:#?}", self.all());
        self.of(kind, change).remove(0)
    }
}

async fn take(State(alerts): State<Alerts>, headers: HeaderMap, body: String) {
    alerts.told.lock().unwrap().push((headers, body));
}

/// Waits, within limits, until `holds`.
pub(crate) async fn eventually<F: Future<Output = bool>>(what: &str, holds: impl Fn() -> F) {
    let held = tokio::time::timeout(PATIENCE, until(holds)).await;
    assert!(held.is_ok(), "it does not come about: {what}");
}

/// Waits until `holds`, however long that takes.
pub(crate) async fn until<F: Future<Output = bool>>(holds: impl Fn() -> F) {
    while !holds().await {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A file with this content, which only its owner may read.
pub(crate) fn secret_file(path: &Path, content: &str) {
    fs::write(path, content).unwrap();
    fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
}

/// A portal id.
pub(crate) fn portal(number: u64) -> PortalId {
    super::portal(number)
}
