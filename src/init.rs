//! `grantkeeper init`: load, validate, fetch once, write, end. Runs the same engine as the service,
//! so there is one implementation of refreshing and of storing what it brings. Knows no socket.

use std::{
    collections::BTreeSet,
    fs,
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde::Serialize;
use tempfile::NamedTempFile;
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use crate::{
    access::{Caller, Rules},
    config::Config,
    daemon::{self, StartError, signals::Signals},
    engine::{self, Alerting, Answer, Denial, Engine, Handle, Loaded, Metrics, World},
    hubspot::prove,
    lifecycle::{Refusal, RefusalClass},
    portal::PortalId,
    store::StoreError,
    time::{Backoff, BootTime},
};

/// What to fetch and where to put it.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// Which portals; all if none is named.
    pub portals: BTreeSet<PortalId>,
    /// A folder for one file a portal, `<portal>.token`.
    pub output_dir: Option<PathBuf>,
    /// A file of `NAME=value` lines.
    pub env_file: Option<PathBuf>,
    /// A JSON file.
    pub json_file: Option<PathBuf>,
    /// How long to keep trying what may pass; not at all if none.
    pub wait: Option<Duration>,
}

/// Why nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// Store, TLS or the like.
    #[error(transparent)]
    Start(#[from] StartError),
    /// HubSpot refuses, or can't be asked about, the client pair.
    #[error("the app's client pair could not be proven")]
    App(Refusal),
    /// A portal that was named has no record.
    #[error("no grant is stored for portal {0}")]
    NoSuchPortal(PortalId),
    /// The store holds no portal at all.
    #[error("no grant is stored for any portal")]
    NoPortals,
    /// A portal's record can't be used.
    #[error("the record of portal {0} can't be used")]
    Unusable(PortalId, #[source] StoreError),
    /// A portal's token is not to be had.
    #[error("no token for portal {0}")]
    NoToken(PortalId, #[source] Denial),
    /// `--wait` ran out; this is what stood in the way last.
    #[error("--wait ran out")]
    WaitRanOut(#[source] Option<Box<InitError>>),
    /// It was told to stop.
    #[error("it was told to stop before it had everything")]
    Interrupted,
    /// Two outputs have one path, or an output is a folder.
    #[error("{path} can't be an output: {why}")]
    Target {
        /// Which.
        path: PathBuf,
        /// Why.
        why: &'static str,
    },
    /// A file could not be written.
    #[error("{path} could not be written")]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl InitError {
    /// Whether the same may go through later by itself.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Start(StartError::Store(error)) => error.is_transient(),
            Self::App(refusal) => refusal.class != RefusalClass::AppRefused,
            Self::NoToken(_, denial) => {
                denial.retry_after().is_some() && !matches!(denial, Denial::AppRejected(_))
            }
            _ => false,
        }
    }
}

/// What was done.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// For which portals.
    pub portals: Vec<PortalId>,
    /// Which files were written.
    pub files: Vec<PathBuf>,
}

/// Carries the plan out, telling each failed try in one line.
///
/// # Errors
/// See [`InitError`]. Nothing has been written then.
pub async fn init(
    config: &Config,
    plan: &Plan,
    mut tell: impl FnMut(&InitError, Duration),
) -> Result<Report, InitError> {
    let targets = targets(plan)?;
    let mut signals = Signals::listen().map_err(StartError::System)?;
    let world = daemon::open_world(config).await?;
    let deadline = plan.wait.map(|wait| world.clock.boot() + wait);
    let mut retry = Retry { world: &world, deadline, failures: 0, tell: &mut tell };
    let loaded = tokio::select! {
        loaded = retry.until_done(async || load(&world, plan).await) => loaded?,
        () = signals.stop() => return Err(InitError::Interrupted),
    };
    let wanted: Vec<PortalId> = loaded.portals.iter().map(|(id, _)| *id).collect();
    let running = Fetcher::start(config, world.clone(), loaded);
    let fetched = tokio::select! {
        fetched = retry.until_done(async || running.fetch(&wanted).await) => fetched,
        () = signals.stop() => Err(InitError::Interrupted),
    };
    // However it went: what is in flight is finished, and a new refresh token stored, before the end.
    running.stop().await?;
    let files = write(targets, &fetched?)?;
    Ok(Report { portals: wanted, files })
}

/// One look at the store and at the client pair.
async fn load(world: &World, plan: &Plan) -> Result<Loaded, InitError> {
    let mut loaded = engine::load(&*world.store).await.map_err(StartError::Store)?;
    if let Some(missing) =
        plan.portals.iter().find(|wanted| !loaded.portals.iter().any(|(id, _)| id == *wanted))
    {
        return Err(InitError::NoSuchPortal(*missing));
    }
    if !plan.portals.is_empty() {
        loaded.portals.retain(|(id, _)| plan.portals.contains(id));
    }
    if loaded.portals.is_empty() {
        return Err(InitError::NoPortals);
    }
    let mut sample = None;
    let mut portals = Vec::with_capacity(loaded.portals.len());
    for (id, grant) in loaded.portals {
        let grant = match grant {
            Ok(grant) => grant,
            Err(error) if error.is_transient() => return Err(StartError::Store(error).into()),
            Err(error) => return Err(InitError::Unusable(id, error)),
        };
        sample.get_or_insert_with(|| grant.refresh_token.clone());
        portals.push((id, Ok(grant)));
    }
    let loaded = Loaded { portals, ..loaded };
    prove(&*world.endpoint, &loaded.pair, sample).await.map_err(InitError::App)?;
    Ok(loaded)
}

struct Retry<'a, T> {
    world: &'a World,
    deadline: Option<BootTime>,
    failures: u32,
    tell: &'a mut T,
}

impl<T: FnMut(&InitError, Duration)> Retry<'_, T> {
    /// Tries until it works, fails for good, or time runs out.
    async fn until_done<R>(
        &mut self,
        attempt: impl AsyncFn() -> Result<R, InitError>,
    ) -> Result<R, InitError> {
        let mut last = None;
        loop {
            let Some(deadline) = self.deadline else { return attempt().await };
            let left = deadline.until(self.world.clock.boot());
            let error = match timeout(left, attempt()).await {
                Ok(Ok(done)) => return Ok(done),
                Ok(Err(error)) if !error.is_transient() => return Err(error),
                Ok(Err(error)) => error,
                Err(_) => return Err(InitError::WaitRanOut(last.map(Box::new))),
            };
            self.failures += 1;
            let backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(10), 0.0);
            let wait = backoff.map_or(Duration::from_secs(10), |b| b.after(self.failures, 0.0));
            let left = deadline.until(self.world.clock.boot());
            if left.is_zero() {
                return Err(InitError::WaitRanOut(Some(Box::new(error))));
            }
            (self.tell)(&error, wait.min(left));
            last = Some(error);
            sleep(wait.min(left)).await;
        }
    }
}

/// The engine, running for as long as it takes to fetch.
struct Fetcher {
    handle: Handle,
    stop: CancellationToken,
    engine: JoinSet<Result<(), engine::Panicked>>,
}

impl Fetcher {
    fn start(config: &Config, world: World, loaded: Loaded) -> Self {
        let settings = daemon::engine_settings(config);
        let metrics = Arc::new(Metrics::default());
        let rules = Rules::new(rustix::process::geteuid().as_raw(), Vec::new());
        let clock = Arc::clone(&world.clock);
        let (engine, running) =
            Engine::new(world, settings.clone(), loaded, Alerting::default(), Arc::clone(&metrics));
        let handle = Handle::new(&running, rules, &settings, metrics, clock);
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(engine.run(stop.clone()));
        Self { handle, stop, engine: tasks }
    }

    /// A token for each of `wanted`; those that are in memory already cost nothing.
    async fn fetch(&self, wanted: &[PortalId]) -> Result<Vec<Answer>, InitError> {
        let caller = Caller::this_process();
        let mut answers = Vec::with_capacity(wanted.len());
        for portal in wanted {
            let answer = self.handle.token(&caller, *portal, None).await;
            answers.push(answer.map_err(|denial| InitError::NoToken(*portal, denial))?);
        }
        Ok(answers)
    }

    async fn stop(mut self) -> Result<(), InitError> {
        self.stop.cancel();
        match self.engine.join_next().await {
            None | Some(Ok(Ok(()))) => Ok(()),
            Some(Ok(Err(panicked))) => Err(StartError::Panicked(panicked).into()),
            Some(Err(error)) => Err(StartError::Panicked(engine::Panicked(error)).into()),
        }
    }
}

#[derive(Serialize)]
struct Written<'a> {
    portals: Vec<WrittenToken<'a>>,
}

#[derive(Serialize)]
struct WrittenToken<'a> {
    portal_id: PortalId,
    access_token: &'a str,
    token_type: &'static str,
    expires_at: jiff::Timestamp,
    expires_in: u64,
}

/// An output, checked before anything is spent for it.
enum Target {
    Folder(PathBuf),
    Env(PathBuf),
    Json(PathBuf),
}

fn targets(plan: &Plan) -> Result<Vec<Target>, InitError> {
    let refuse = |path: &Path, why| Err(InitError::Target { path: path.to_owned(), why });
    let mut targets = Vec::new();
    if let Some(folder) = &plan.output_dir {
        if folder.exists() && !folder.is_dir() {
            return refuse(folder, "it is not a folder");
        }
        targets.push(Target::Folder(folder.clone()));
    }
    let files =
        [plan.env_file.as_ref().map(|p| (p, true)), plan.json_file.as_ref().map(|p| (p, false))];
    for (path, env) in files.into_iter().flatten() {
        if path.is_dir() {
            return refuse(path, "it is a folder");
        }
        if env && plan.json_file.as_ref() == Some(path) {
            return refuse(path, "two outputs would be written to it");
        }
        if !folder_of(path).is_dir() {
            return refuse(path, "its folder does not exist");
        }
        targets.push(if env { Target::Env(path.clone()) } else { Target::Json(path.clone()) });
    }
    Ok(targets)
}

/// Every file in full beside its place, then all put into place: a crash before that leaves what
/// was there, and no file is ever seen half-written. If putting one into place fails, those that
/// are new are taken away again.
fn write(targets: Vec<Target>, answers: &[Answer]) -> Result<Vec<PathBuf>, InitError> {
    let mut staged = Vec::new();
    for target in targets {
        match target {
            Target::Folder(folder) => {
                make_folder(&folder)?;
                for answer in answers {
                    let path = folder.join(format!("{}.token", answer.portal));
                    // exposed: into the file the operator asked for, 0600
                    staged.push(stage(path, answer.access_token.expose().as_bytes())?);
                }
            }
            Target::Env(path) => staged.push(stage(path, env_text(answers).as_bytes())?),
            Target::Json(path) => staged.push(stage(path, json_text(answers).as_bytes())?),
        }
    }
    let mut files: Vec<(PathBuf, bool)> = Vec::new();
    for (file, path) in staged {
        let is_new = !path.exists();
        let placed = file.persist(&path).map(drop).map_err(|error| error.error);
        if let Err(source) = placed.and_then(|()| sync_folder(&path)) {
            for (made, _) in files.into_iter().filter(|(_, is_new)| *is_new) {
                // The error that is told is the one that led here.
                fs::remove_file(made).ok();
            }
            return Err(InitError::Write { path, source });
        }
        files.push((path, is_new));
    }
    Ok(files.into_iter().map(|(path, _)| path).collect())
}

fn env_text(answers: &[Answer]) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::new());
    if let [only] = answers {
        text.push_str("HUBSPOT_ACCESS_TOKEN=");
        // exposed: into the file the operator asked for, 0600
        text.push_str(only.access_token.expose());
        text.push('\n');
    }
    for answer in answers {
        *text += &format!("HUBSPOT_ACCESS_TOKEN_{}=", answer.portal);
        // exposed: into the file the operator asked for, 0600
        text.push_str(answer.access_token.expose());
        text.push('\n');
    }
    text
}

fn json_text(answers: &[Answer]) -> Zeroizing<String> {
    let portals = answers.iter().map(|answer| WrittenToken {
        portal_id: answer.portal,
        // exposed: into the file the operator asked for, 0600
        access_token: answer.access_token.expose(),
        token_type: "bearer",
        expires_at: answer.expires_at,
        expires_in: answer.expires_in.as_secs(),
    });
    let written = Written { portals: portals.collect() };
    Zeroizing::new(serde_json::to_string(&written).unwrap_or_default() + "\n")
}

fn make_folder(folder: &Path) -> Result<(), InitError> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(|source| InitError::Write { path: folder.to_owned(), source })
}

fn stage(path: PathBuf, content: &[u8]) -> Result<(NamedTempFile, PathBuf), InitError> {
    let staged = (|| {
        let mut file = tempfile::Builder::new()
            .prefix(".grantkeeper-")
            .permissions(fs::Permissions::from_mode(0o600))
            .tempfile_in(folder_of(&path))?;
        file.write_all(content)?;
        file.as_file().sync_all()?;
        Ok(file)
    })();
    match staged {
        Ok(file) => Ok((file, path)),
        Err(source) => Err(InitError::Write { path, source }),
    }
}

fn sync_folder(path: &Path) -> io::Result<()> {
    fs::File::open(folder_of(path))?.sync_all()
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
