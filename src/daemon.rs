//! The service, put together: load, prove, bind, run, follow signals, stop in order. Knows every
//! room and decides nothing that a rule could decide.

use std::{io, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use sd_notify::NotifyState;
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

mod needs;
mod prepare;
mod reload;
pub(crate) mod signals;
mod uninstalls;
mod world;

pub use world::{open_laid_out, open_store, open_world};

use prepare::prepare;
use reload::Renew;
use signals::{Received, Signals};

use crate::{
    access::Rules,
    audit::{self, Audit},
    config::{Alert, Config, Environment},
    engine::{self, Alerting, Command, Engine, Handle, Metrics, Panicked, Route, World},
    hardening::{self, Hardened, HardeningError, Landlock, Needs},
    hubspot::NoTls,
    incident::Manner,
    journal::{self, Keeper, Recovered, StateError, open_state},
    lifecycle::Refusal,
    portal::PortalId,
    sink::Log,
    socket::{Inherited, Limits, ListenError, Socket, serve_health, serve_socket},
    store::StoreError,
    time::Clock,
};

/// From the signal to the end (contract section 7).
const FAREWELL: Duration = Duration::from_secs(20);

/// Why the service could not start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The journal.
    #[error(transparent)]
    State(#[from] StateError),
    /// No CA certificates.
    #[error(transparent)]
    NoTls(#[from] NoTls),
    /// HubSpot refuses the client pair.
    #[error("HubSpot refuses the app's client id and secret")]
    AppRefused(Refusal),
    /// Grants are not good, and all were required to be.
    #[error("{} grants are not good", .0.len())]
    GrantsRefused(Vec<PortalId>),
    /// The socket.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The process could not be restricted.
    #[error(transparent)]
    Hardening(#[from] HardeningError),
    /// The audit log.
    #[error(transparent)]
    Audit(#[from] audit::OpenError),
    /// The health listener.
    #[error("the [http] listener could not be bound to {address}")]
    Health {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// An alert sink.
    #[error("the alert sink {name} could not be set up")]
    Alert {
        /// Which.
        name: String,
        /// Why.
        source: reqwest::Error,
    },
    /// Signals or the runtime.
    #[error("the operating system refused what the service needs")]
    System(#[from] io::Error),
    /// A defect.
    #[error(transparent)]
    Panicked(#[from] Panicked),
}

/// What an earlier process left in `state_dir`, and the one who goes on writing there.
pub(crate) type State = (Recovered, Option<Keeper>);

/// Opens the journal in `state_dir`, if there is one, as `world`'s own.
///
/// # Errors
/// See [`StateError`].
pub(crate) async fn open_journal(config: &Config, world: &mut World) -> Result<State, StateError> {
    let Some(settings) = &config.state else { return Ok((Recovered::default(), None)) };
    let (opened, recovered, keeper) =
        open_state(settings, &config.app.name, Arc::clone(&world.clock)).await?;
    world.journal = opened;
    if recovered.damaged > 0 {
        tracing::error!(
            frames = recovered.damaged,
            "the journal holds entries that the disk has changed; they are left out"
        );
    }
    if recovered.torn {
        tracing::warn!(
            "the journal's last entry was cut off: an earlier process died while writing it"
        );
    }
    Ok((recovered, Some(keeper)))
}

/// The engine's settings as configured.
#[must_use]
pub fn engine_settings(config: &Config) -> engine::Settings {
    engine::Settings {
        app: config.app.name.clone(),
        required_scopes: config.app.required_scopes.clone(),
        refresh: config.refresh,
        validate: config.validate,
        max_requests_per_second: config.hubspot.max_refreshes_per_second,
        install_url: config.app.install_url.clone(),
        keep_previous: config.rotation.keep_previous,
    }
}

/// What is done before there are threads.
#[derive(Debug, Default)]
pub struct Before {
    /// What the process has given up.
    pub hardened: Hardened,
    /// The socket that systemd made, if it did.
    pub inherited: Option<Inherited>,
    /// As many files may be open.
    pub files: usize,
    /// What was kept; none where nothing was given up.
    pub kept: Option<Needs>,
}

impl Before {
    /// Gives up what `config`, which stands at `origin`, does not need, and takes over what was passed on. Must be
    /// called before there are threads.
    ///
    /// # Errors
    /// The operating system says no.
    pub fn threads(
        config: &Config,
        origin: &Path,
        env: Environment<'_>,
    ) -> Result<Self, StartError> {
        let inherited = Inherited::take()?;
        if let Some(state) = &config.state {
            // Or the folder above it would have to be open for the sake of this one. What is wrong is told by who opens it.
            journal::Folder::make(&state.dir).ok();
        }
        let kept = needs::needs(config, origin, env);
        let hardened = hardening::restrict(config.landlock, &kept)?;
        let kept = Some(kept).filter(|_| config.landlock != Landlock::Off);
        let files = hardening::open_files()?;
        Ok(Self { hardened, inherited, files, kept })
    }
}

/// Runs the service until it is told to stop. `reread` reads the configuration again at SIGHUP.
///
/// # Errors
/// See [`StartError`].
pub async fn run(
    config: Config,
    before: Before,
    reread: impl Fn() -> Result<Config, String>,
) -> Result<(), StartError> {
    let mut signals = Signals::listen()?;
    let (world, start, keeper) = tokio::select! {
        prepared = prepare(&config) => prepared?,
        // Nothing is in flight yet that could be lost.
        () = signals.stop() => return Ok(()),
    };
    let audit = open_audit(&config, &world.clock)?;
    let socket = match before.inherited {
        Some(inherited) => Socket::inherit(inherited)?,
        None => Socket::bind(&config.socket)?,
    };
    let health = bind_health(&config).await?;
    let metrics = Arc::new(Metrics::default());
    let stop_alerts = CancellationToken::new();
    let routes = routes(&config, &world.clock)?;
    let (journal, clock) = (world.journal.clone(), Arc::clone(&world.clock));
    let alerting = Alerting::start(routes, journal, Arc::clone(&clock), &metrics, &stop_alerts);
    let settings = engine_settings(&config);
    let store = Arc::clone(&world.store);
    let watch = uninstalls::plan(&config, &world, start.recovered.webhooks.as_ref())?;
    let (engine, running) =
        Engine::new(world, settings.clone(), start, alerting, Arc::clone(&metrics));
    let rules = rules(&config);
    let handle =
        Handle::new(&running, rules, &settings, Arc::clone(&metrics), clock, audit.clone())
            .hardened(before.hardened);

    let (stop_serving, stop_engine) = (CancellationToken::new(), CancellationToken::new());
    let mut serving = JoinSet::new();
    let limits = limits(&config, before.files);
    serving.spawn(serve_socket(socket, limits, handle.clone(), stop_serving.clone()));
    if let Some(listener) = health {
        serving.spawn(serve_health(listener, handle.clone(), stop_serving.clone()));
    }
    match audit.health() {
        Some(health) => {
            serving.spawn(follow_audit(health, running.commands.clone(), stop_serving.clone()));
        }
        // An earlier process may have told that one failed which is no longer configured.
        None => drop(running.commands.try_send(Command::Audit(true))),
    }
    serving.spawn(uninstalls::watch(watch, &running, &metrics, stop_serving.clone()));
    let upkeep = stop_serving.clone();
    serving.spawn(async move { store.maintain(upkeep).await });
    let mut engine_task = JoinSet::new();
    engine_task.spawn(engine.run(stop_engine.clone()));
    let mut keeping = JoinSet::new();
    if let Some(keeper) = keeper {
        keeping.spawn(keeper.run());
    }
    tracing::info!(socket = %config.socket.path.display(), "serving");
    notify(&[NotifyState::Ready]);

    let mut current = config;
    let mut reloads = JoinSet::new();
    loop {
        tokio::select! {
            ended = engine_task.join_next() => return ended_early(ended),
            signal = signals.next() => match signal {
                Received::Reload => {
                    let renew = Renew { handle: &handle, commands: &running.commands, kept: before.kept.as_ref() };
                    current = renew.configuration(current, &reread).await;
                    reload::audit(&handle).await;
                    while reloads.try_join_next().is_some() {}
                    reloads.spawn(reload::records(running.commands.clone()));
                }
                Received::Stop => break,
            }
        }
    }

    notify(&[NotifyState::Stopping]);
    tracing::info!("stopping: finishing answers, refreshes in flight and what they bring");
    stop_serving.cancel();
    handle.hang_up();
    let farewell = async {
        while serving.join_next().await.is_some() {}
        stop_alerts.cancel();
        stop_engine.cancel();
        let ended = engine_task.join_next().await;
        // With the engine gone nobody holds the journal any more: it writes what it has and ends.
        while keeping.join_next().await.is_some() {}
        handle.settled().await;
        audit.close().await;
        ended
    };
    let ended = tokio::select! {
        ended = timeout(FAREWELL, farewell) => ended.map_or_else(
            |_| {
                tracing::error!("not everything was finished within {} s", FAREWELL.as_secs());
                Ok(())
            },
            ended_early,
        ),
        () = signals.stop() => {
            tracing::warn!("told twice to stop: stopping at once");
            Ok(())
        }
    };
    tracing::info!("stopped");
    ended
}

/// What the socket bears, as far as this process may have files open.
fn limits(config: &Config, open_files: usize) -> Limits {
    let limits = config.socket.limits.within(open_files);
    if limits != config.socket.limits {
        tracing::warn!(
            connections = limits.connections,
            open_files,
            "there are fewer connections than socket.connections: this process may not have more files open"
        );
    }
    limits
}

fn ended_early(
    ended: Option<Result<Result<(), Panicked>, tokio::task::JoinError>>,
) -> Result<(), StartError> {
    match ended {
        None | Some(Ok(Ok(()))) => Ok(()),
        Some(Ok(Err(panicked))) => Err(panicked.into()),
        Some(Err(error)) => Err(StartError::Panicked(Panicked(error))),
    }
}

fn open_audit(config: &Config, clock: &Arc<dyn Clock>) -> Result<Audit, audit::OpenError> {
    if let Some(settings) = &config.audit {
        return Audit::open(settings, Arc::clone(clock));
    }
    tracing::warn!("no [audit] is configured: who was given which token is not written down");
    Ok(Audit::none())
}

/// Tells the engine whether decisions can be written down.
async fn follow_audit(
    mut health: watch::Receiver<bool>,
    commands: mpsc::Sender<Command>,
    stop: CancellationToken,
) {
    // An earlier process may have told that it fails.
    health.mark_changed();
    while let Some(Ok(())) = stop.run_until_cancelled(health.changed()).await {
        let well = *health.borrow_and_update();
        if commands.send(Command::Audit(well)).await.is_err() {
            return;
        }
    }
}

async fn bind_health(config: &Config) -> Result<Option<TcpListener>, StartError> {
    let Some(address) = config.http else { return Ok(None) };
    let bound = TcpListener::bind(address).await;
    bound.map(Some).map_err(|source| StartError::Health { address, source })
}

fn rules(config: &Config) -> Rules {
    Rules::new(rustix::process::geteuid().as_raw(), config.access.clone())
}

/// Everybody who is told of incidents, the log among them.
fn routes(config: &Config, clock: &Arc<dyn Clock>) -> Result<Vec<Route>, StartError> {
    let mut routes =
        vec![Route { receiver: "log".to_owned(), sink: Arc::new(Log), manner: Manner::PLAIN }];
    for Alert { receiver, manner } in &config.alerts {
        let called = || receiver.name().to_owned();
        let sinks = receiver.open(clock);
        let sinks = sinks.map_err(|source| StartError::Alert { name: called(), source })?;
        let route = |sink| Route { receiver: called(), sink, manner: manner.clone() };
        routes.extend(sinks.into_iter().map(route));
    }
    Ok(routes)
}

/// Tells systemd, where there is one.
fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "systemd could not be told");
    }
}
