//! `grantkeeper init`: load, validate, fetch once, write, end. Runs the same engine as the service,
//! so there is one implementation of refreshing and of storing what it brings. Knows no socket.

use std::{collections::BTreeSet, io, path::PathBuf, sync::Arc, time::Duration};

use serde::Serialize;
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

mod files;
mod template;

use crate::{
    access::{Caller, Rules},
    audit::Audit,
    config::Config,
    daemon::{self, StartError, signals::Signals},
    engine::{self, Alerting, Answer, Denial, Engine, Handle, Loaded, Metrics, Start, World},
    hubspot::prove,
    journal::Keeper,
    lifecycle::{End, Refusal, RefusalClass},
    portal::PortalId,
    store::StoreError,
    time::{Backoff, BootTime, Clock},
};

/// As often, and at such intervals, a token is asked for that is not there yet.
const LOOKS: u32 = 20;
const LOOK_AGAIN: Duration = Duration::from_millis(500);

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
    /// Templates, and the files they become.
    pub templates: Vec<(PathBuf, PathBuf)>,
    /// Who may do what with the files.
    pub manner: Manner,
    /// Whether what is fetched must be in `state_dir` for the service that follows.
    pub handover: bool,
    /// How long to keep trying what may pass; not at all if none.
    pub wait: Option<Duration>,
}

/// Who may do what with the files that are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Manner {
    /// Permission bits.
    pub mode: u32,
    /// Whose they are: user and group; this process's without.
    pub owner: Option<Owner>,
}

/// A user, and a group if it is to be another than before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: Option<u32>,
}

impl Default for Manner {
    fn default() -> Self {
        Self { mode: 0o600, owner: None }
    }
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
    /// HubSpot gives no token at present, and what is left of the one in hand is too short to leave for others.
    #[error("the token of portal {0} is about to expire, and HubSpot gives no new one at present")]
    AboutToExpire(PortalId),
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
    /// A template can't be used.
    #[error("the template {path} can't be used")]
    Template {
        /// Which.
        path: PathBuf,
        /// Why, without a value that was to be filled in.
        why: String,
    },
    /// HubSpot replaced refresh tokens, and what it gave is nowhere; and what else stood in the way, if anything did.
    #[error("new refresh tokens could not be stored: {}", list(.0))]
    Unsaved(Vec<PortalId>, #[source] Option<Box<InitError>>),
    /// Nothing can be left for the service.
    #[error("nothing can be handed over to the service")]
    NoHandover(&'static str),
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

/// Some portals, named.
#[must_use]
pub fn list(portals: &[PortalId]) -> String {
    let portals: Vec<_> = portals.iter().map(PortalId::to_string).collect();
    format!("portal {}", portals.join(", "))
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
            Self::AboutToExpire(_) => true,
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
    /// For how many portals the service that follows spends nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handed_over: Option<usize>,
    /// Of which portals only the journal in `state_dir` has the new refresh token: the store did not take it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unsaved: Vec<PortalId>,
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
    let targets = files::targets(plan)?;
    if plan.handover && config.state.is_none() {
        return Err(InitError::NoHandover("no state_dir is configured"));
    }
    let mut signals = Signals::listen().map_err(StartError::System)?;
    let mut world = daemon::open_world(config).await?;
    let (mut recovered, keeper) =
        daemon::open_journal(config, &mut world).await.map_err(StartError::from)?;
    let deadline = plan.wait.map(|wait| world.clock.boot() + wait);
    let clock = Arc::clone(&world.clock);
    let mut retry = Retry { clock: &*clock, deadline, failures: 0, tell: &mut tell };
    let loaded = tokio::select! {
        loaded = retry.until_done(async || load(&world, plan).await) => loaded?,
        () = signals.stop() => return Err(InitError::Interrupted),
    };
    let wanted: Vec<PortalId> = loaded.portals.iter().map(|(id, _)| *id).collect();
    // Of portals that were not asked for nothing is known here, not even whether they are gone.
    recovered.trails.retain(|portal, _| wanted.contains(portal));
    let start = Start::new(&world, loaded, recovered).await;
    let running = Fetcher::start(config, world, start, keeper);
    let fetched = tokio::select! {
        fetched = retry.until_done(async || running.fetch(&wanted).await) => fetched,
        () = signals.stop() => Err(InitError::Interrupted),
    };
    // However it went: what is in flight is finished, and a new refresh token stored, before the end.
    let unwritten = running.handle.journal_fails();
    let running_view = running.handle.clone();
    running.stop().await?;
    let unsaved = running_view.unsaved();
    if !unsaved.is_empty() && (unwritten || config.state.is_none()) {
        // Whatever else went wrong: this is what can't be had again.
        return Err(InitError::Unsaved(unsaved, fetched.err().map(Box::new)));
    }
    let fetched = fetched?;
    if plan.handover && unwritten {
        return Err(InitError::NoHandover("the journal in state_dir can't be written"));
    }
    let files = files::write(targets, plan.manner, &fetched)?;
    let handed_over = plan.handover.then_some(fetched.len());
    Ok(Report { portals: wanted, files, handed_over, unsaved })
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
    clock: &'a dyn Clock,
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
            let left = deadline.until(self.clock.boot());
            let error = match timeout(left, attempt()).await {
                Ok(Ok(done)) => return Ok(done),
                Ok(Err(error)) if !error.is_transient() => return Err(error),
                Ok(Err(error)) => error,
                Err(_) => return Err(InitError::WaitRanOut(last.map(Box::new))),
            };
            self.failures += 1;
            let backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(10), 0.0);
            let wait = backoff.map_or(Duration::from_secs(10), |b| b.after(self.failures, 0.0));
            let left = deadline.until(self.clock.boot());
            if left.is_zero() {
                return Err(InitError::WaitRanOut(Some(Box::new(error))));
            }
            (self.tell)(&error, wait.min(left));
            last = Some(error);
            sleep(wait.min(left)).await;
        }
    }
}

/// A token that others can go by: a file can't say that what is in it is the last, or ends in a moment (I1).
fn lasting(answer: Answer, ended: Option<End>) -> Result<Answer, InitError> {
    match ended {
        Some(end) => Err(InitError::NoToken(answer.portal, Denial::Ended(end))),
        None if answer.short_lived => Err(InitError::AboutToExpire(answer.portal)),
        None => Ok(answer),
    }
}

/// The engine, running for as long as it takes to fetch.
struct Fetcher {
    handle: Handle,
    stop: CancellationToken,
    engine: JoinSet<Result<(), engine::Panicked>>,
    keeping: JoinSet<()>,
}

impl Fetcher {
    fn start(config: &Config, world: World, start: Start, keeper: Option<Keeper>) -> Self {
        let settings = daemon::engine_settings(config);
        let metrics = Arc::new(Metrics::default());
        let rules = Rules::new(rustix::process::geteuid().as_raw(), Vec::new());
        let clock = Arc::clone(&world.clock);
        let (engine, running) =
            Engine::new(world, settings.clone(), start, Alerting::default(), Arc::clone(&metrics));
        let handle = Handle::new(&running, rules, &settings, metrics, clock, Audit::none());
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(engine.run(stop.clone()));
        let mut keeping = JoinSet::new();
        if let Some(keeper) = keeper {
            keeping.spawn(keeper.run());
        }
        Self { handle, stop, engine: tasks, keeping }
    }

    /// A token for each of `wanted`; those that are in memory already cost nothing.
    async fn fetch(&self, wanted: &[PortalId]) -> Result<Vec<Answer>, InitError> {
        let caller = Caller::this_process();
        let mut answers = Vec::with_capacity(wanted.len());
        for portal in wanted {
            let mut looks = 0;
            let answer = loop {
                let answer = self.handle.token(&caller, *portal, None).await;
                // Whether a refused grant has ended is found out within moments: that is an answer, this is none.
                looks += 1;
                if looks > LOOKS || !matches!(answer, Err(Denial::NoTokenYet(_))) {
                    break answer;
                }
                sleep(LOOK_AGAIN).await;
            };
            let answer = answer.map_err(|denial| InitError::NoToken(*portal, denial))?;
            let view = self.handle.portal(&caller, *portal).await;
            answers.push(lasting(answer, view.ok().and_then(|view| view.portal.ended()))?);
        }
        Ok(answers)
    }

    async fn stop(mut self) -> Result<(), InitError> {
        self.stop.cancel();
        let ended = self.engine.join_next().await;
        while self.keeping.join_next().await.is_some() {}
        match ended {
            None | Some(Ok(Ok(()))) => Ok(()),
            Some(Ok(Err(panicked))) => Err(StartError::Panicked(panicked).into()),
            Some(Err(error)) => Err(StartError::Panicked(engine::Panicked(error)).into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::AccessToken;

    #[test]
    fn i1_a_token_that_is_the_last_or_about_to_expire_is_none_to_leave_in_a_file() {
        let answer = |short_lived| {
            let access_token = AccessToken::parse("access").unwrap();
            Answer {
                portal: PortalId::new(7).unwrap(),
                fingerprint: access_token.fingerprint(),
                access_token: Arc::new(access_token),
                expires_in: Duration::from_secs(40),
                expires_at: jiff::Timestamp::UNIX_EPOCH,
                scopes: None,
                short_lived,
            }
        };
        assert!(lasting(answer(false), None).is_ok());
        let short = lasting(answer(true), None).unwrap_err();
        assert!(matches!(short, InitError::AboutToExpire(_)) && short.is_transient(), "{short}");
        let last = lasting(answer(true), Some(End::Lost)).unwrap_err();
        assert!(matches!(last, InitError::NoToken(_, Denial::Ended(End::Lost))), "{last}");
        assert!(!last.is_transient(), "only a person can mend it");
    }
}
