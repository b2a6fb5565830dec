//! The service, put together: load, prove, bind, run, follow signals, stop in order. Knows every
//! room and decides nothing that a rule could decide.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use sd_notify::NotifyState;
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

mod reload;
pub(crate) mod signals;
mod world;

pub use world::{open_laid_out, open_store, open_world};

use reload::Renew;
use signals::{Received, Signals};

use crate::{
    access::Rules,
    audit::{self, Audit},
    config::Config,
    engine::{
        self, Alerting, Command, Engine, Handle, Loaded, Metrics, Panicked, Route, Start, World,
    },
    hubspot::{NoTls, prove},
    incident::Severity,
    journal::{Keeper, Recovered, StateError, open_state},
    lifecycle::{OnStart, Refusal, RefusalClass},
    portal::PortalId,
    sink::{Log, Webhook},
    socket::{ListenError, Socket, serve_health, serve_socket},
    store::StoreError,
    time::Clock,
    validate::{Expected, Verdict},
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
    let (journal, recovered, keeper) =
        open_state(settings, &config.app.name, Arc::clone(&world.clock)).await?;
    world.journal = journal;
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
    }
}

/// Runs the service until it is told to stop. `reread` reads the configuration again at SIGHUP.
///
/// # Errors
/// See [`StartError`].
pub async fn run(
    config: Config,
    reread: impl Fn() -> Result<Config, String>,
) -> Result<(), StartError> {
    let mut signals = Signals::listen()?;
    let (world, start, keeper) = tokio::select! {
        prepared = prepare(&config) => prepared?,
        // Nothing is in flight yet that could be lost.
        () = signals.stop() => return Ok(()),
    };
    let audit = open_audit(&config, &world.clock)?;
    let socket = Socket::bind(&config.socket)?;
    let health = bind_health(&config).await?;
    let metrics = Arc::new(Metrics::default());
    let stop_alerts = CancellationToken::new();
    let alerting = alerting(&config, &world.clock, &metrics, &stop_alerts)?;
    let settings = engine_settings(&config);
    let clock = Arc::clone(&world.clock);
    let store = Arc::clone(&world.store);
    let (engine, running) =
        Engine::new(world, settings.clone(), start, alerting, Arc::clone(&metrics));
    let rules = rules(&config);
    let handle =
        Handle::new(&running, rules, &settings, Arc::clone(&metrics), clock, audit.clone());

    let (stop_serving, stop_engine) = (CancellationToken::new(), CancellationToken::new());
    let mut serving = JoinSet::new();
    serving.spawn(serve_socket(socket, handle.clone(), stop_serving.clone()));
    if let Some(listener) = health {
        serving.spawn(serve_health(listener, handle.clone(), stop_serving.clone()));
    }
    if let Some(health) = audit.health() {
        serving.spawn(follow_audit(health, running.commands.clone(), stop_serving.clone()));
    }
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
                    let renew = Renew { handle: &handle, commands: &running.commands, metrics: &metrics, stop_alerts: &stop_alerts };
                    current = renew.configuration(current, &reread).await;
                    reload::audit(&audit).await;
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
    let farewell = async {
        while serving.join_next().await.is_some() {}
        stop_alerts.cancel();
        stop_engine.cancel();
        let ended = engine_task.join_next().await;
        // With the engine gone nobody holds the journal any more: it writes what it has and ends.
        while keeping.join_next().await.is_some() {}
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

/// Everything that has to be right before anybody is served.
async fn prepare(config: &Config) -> Result<(World, Start, Option<Keeper>), StartError> {
    let mut world = open_world(config).await?;
    let (recovered, keeper) = open_journal(config, &mut world).await?;
    let start = engine::start(&world, recovered).await?;
    greet(config, &world, &start);
    for line in world.store.lacks().await.unwrap_or_default() {
        tracing::warn!(add = %line, "the policy of this login does not allow all that the service does");
    }
    let served = start.served(&*world.clock);
    if served > 0 {
        // Whoever has a token in hand is not kept waiting for HubSpot, nor turned away for what the
        // engine finds out in its first second.
        tracing::info!(
            portals = served,
            "the journal has tokens that still live: serving those, and asking HubSpot about the client pair meanwhile"
        );
    } else if let Ok(loaded) = &start.loaded {
        validate(config, &world, loaded, &start.recovered).await?;
        require_all(config, &world, loaded, &start.recovered).await?;
    }
    Ok((world, start, keeper))
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

fn greet(config: &Config, world: &World, start: &Start) {
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    if !world.journal.is_there() {
        tracing::warn!(
            "no state_dir is configured: what HubSpot answers is safe once the store has it, and not before. If this process is killed in between and HubSpot replaces refresh tokens, that one is lost; and a restart refreshes every portal anew"
        );
    }
    let Ok(loaded) = &start.loaded else { return };
    for stray in &loaded.strays {
        tracing::warn!(name = %stray, "a record among the portals is not named by a portal id and is ignored");
    }
    tracing::info!(
        app = %config.app.name,
        store = world.store.kind(),
        hubspot = %config.hubspot.api_version,
        portals = loaded.portals.len(),
        in_journal = start.recovered.trails.len(),
        "records loaded"
    );
}

/// What must be proven before anybody is served (contract section 2, `validate.on_start`).
async fn validate(
    config: &Config,
    world: &World,
    loaded: &Loaded,
    recovered: &Recovered,
) -> Result<(), StartError> {
    let good = |(id, grant): &(PortalId, Result<_, _>)| {
        let grant: &engine::load::StoredGrant = grant.as_ref().ok()?;
        // About a paused portal nothing is asked.
        recovered.trails.get(id).is_none_or(|trail| !trail.paused).then_some(())?;
        Some((*id, grant.refresh_token.clone()))
    };
    let sample = loaded.portals.iter().find_map(good).map(|(_, token)| token);
    tracing::info!("asking HubSpot whether it accepts the app's client id and secret");
    match prove(&*world.endpoint, &loaded.pair, sample).await {
        Ok(()) => tracing::info!("HubSpot accepts the app's client id and secret"),
        Err(refusal) if refusal.class == RefusalClass::AppRefused => {
            if config.validate.on_start != OnStart::Warn {
                return Err(StartError::AppRefused(refusal));
            }
            tracing::error!(
                "HubSpot refuses the app's client id and secret; starting all the same"
            );
        }
        Err(refusal) => tracing::warn!(
            trouble = refusal.class.as_str(),
            "HubSpot could not be asked about the app's client id and secret; starting all the same, it is asked again"
        ),
    }
    if let Some(skew) = world.endpoint.clock_skew() {
        tracing::warn!(
            seconds = skew.as_secs(),
            "this machine's clock and HubSpot's differ; token life is counted on another clock and is not harmed, but times in logs, alerts and answers are off"
        );
    }
    Ok(())
}

/// The grants that are not good, where all are required to be.
async fn require_all(
    config: &Config,
    world: &World,
    loaded: &Loaded,
    recovered: &Recovered,
) -> Result<(), StartError> {
    if config.validate.on_start != OnStart::RequireAll {
        return Ok(());
    }
    let rate = config.hubspot.max_refreshes_per_second;
    let unusable = loaded.portals.iter().filter(|(_, grant)| grant.is_err());
    let mut bad: Vec<PortalId> = unusable.map(|(portal, _)| *portal).collect();
    let told = engine::survey(world, loaded, recovered, true, rate).await;
    let required = &config.app.required_scopes;
    bad.extend(told.iter().filter_map(|(portal, told)| {
        let expected = Expected { portal: *portal, client_id: &loaded.pair.client_id, required };
        let told = told.as_ref().ok()?;
        (expected.judge(told) != Verdict::Good).then_some(*portal)
    }));
    if bad.is_empty() { Ok(()) } else { Err(StartError::GrantsRefused(bad)) }
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

fn alerting(
    config: &Config,
    clock: &Arc<dyn Clock>,
    metrics: &Arc<Metrics>,
    stop: &CancellationToken,
) -> Result<Alerting, StartError> {
    let log = Route { sink: Arc::new(Log), min_severity: Severity::Info };
    let mut routes = vec![log];
    for alert in &config.alerts {
        let webhook = Webhook::new(alert.webhook.clone(), Arc::clone(clock))
            .map_err(|source| StartError::Alert { name: alert.webhook.name.clone(), source })?;
        routes.push(Route { sink: Arc::new(webhook), min_severity: alert.min_severity });
    }
    Ok(Alerting::start(routes, metrics, stop))
}

/// Tells systemd, where there is one.
fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "systemd could not be told");
    }
}
