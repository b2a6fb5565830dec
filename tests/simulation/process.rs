//! One life of the program: the journal opened, the store read, the engine run, as the service does it;
//! until it is stopped, or killed at a crossing.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use grantkeeper::{
    access::{Caller, Rules},
    audit::Audit,
    engine::{self, Alerting, Command, Engine, Handle, Metrics, Route, Settings, View, World},
    incident::{Manner, Notice},
    journal,
    lifecycle::{RefreshPolicy, Step, ValidatePolicy},
    portal::{AppName, Scopes},
    sealing::SealingKey,
    sink::{AlertSink, DeliveryError},
    time::Clock,
};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::{
    disk::MemoryDisk,
    hubspot::HubSpot,
    machine::{Crash, MachineClock},
    store::MemoryStore,
};

/// Remembers what it is told, whichever process tells it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Told(pub(crate) Arc<Mutex<Vec<Notice>>>);

#[async_trait]
impl AlertSink for Told {
    fn name(&self) -> &'static str {
        "told"
    }

    async fn deliver(&self, notice: &Notice) -> Result<(), DeliveryError> {
        self.0.lock().unwrap().push(notice.clone());
        Ok(())
    }
}

/// What every process finds when it starts.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) clock: MachineClock,
    pub(crate) crash: Crash,
    pub(crate) store: MemoryStore,
    pub(crate) disk: MemoryDisk,
    pub(crate) hubspot: HubSpot,
    pub(crate) told: Told,
    pub(crate) rules: Step,
    pub(crate) journal: bool,
    pub(crate) per_second: f64,
}

pub(crate) fn app() -> AppName {
    AppName::parse("acme-sync").unwrap()
}

pub(crate) fn key() -> SealingKey {
    SealingKey::from_bytes(&[7; 32]).unwrap()
}

pub(crate) struct Process {
    pub(crate) handle: Handle,
    pub(crate) view: Arc<View>,
    pub(crate) died: CancellationToken,
    commands: mpsc::Sender<Command>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl Place {
    fn settings(&self) -> Settings {
        Settings {
            app: app(),
            required_scopes: Scopes::default(),
            refresh: RefreshPolicy::default(),
            validate: ValidatePolicy::default(),
            max_requests_per_second: self.per_second,
            install_url: None,
            keep_previous: Duration::from_secs(72 * 3600),
        }
    }

    /// Starts it; again, where the store is down and the journal has nothing to go on with.
    pub(crate) async fn start(&self, seed: u64) -> Process {
        let mut tries = 0;
        loop {
            let died = self.crash.born();
            if let Some(process) = self.try_start(seed, died).await {
                return process;
            }
            tries += 1;
            if tries > 60 {
                // Somebody has been called, and mends what is broken.
                self.store.set_down(false);
                self.disk.set_full(false);
            }
            tokio::time::sleep(Duration::from_secs(5)).await;
        }
    }

    async fn try_start(&self, seed: u64, died: CancellationToken) -> Option<Process> {
        self.hubspot.born();
        let clock: Arc<dyn Clock> = Arc::new(self.clock.clone());
        let mut world = World {
            store: Arc::new(self.store.clone()),
            endpoint: Arc::new(self.hubspot.clone()),
            journal: journal::Journal::none(),
            clock: Arc::clone(&clock),
        };
        let mut tasks = JoinSet::new();
        let mut recovered = journal::Recovered::default();
        if self.journal {
            let disk = Arc::new(self.disk.clone());
            let opened = journal::open(disk, key(), &app(), Arc::clone(&clock)).await.ok()?;
            let (way, found, keeper) = opened;
            (world.journal, recovered) = (way, found);
            tasks.spawn(keeper.run());
        }
        let start = engine::start(&world, recovered).await.ok()?;
        let settings = self.settings();
        let (metrics, stop) = (Arc::new(Metrics::default()), CancellationToken::new());
        let sink = Arc::new(self.told.clone());
        let route = Route { receiver: "all".to_owned(), sink, manner: Manner::PLAIN };
        let alerting = Alerting::start(
            vec![route],
            world.journal.clone(),
            Arc::clone(&clock),
            &metrics,
            &stop,
        );
        let (engine, running) =
            Engine::new(world, settings.clone(), start, alerting, Arc::clone(&metrics));
        let engine = engine.simulated(self.rules, seed);
        let rules = Rules::new(Caller::this_process().uid(), Vec::new());
        let handle = Handle::new(&running, rules, &settings, metrics, clock, Audit::none());
        let engine_stop = stop.clone();
        tasks.spawn(async move { engine.run(engine_stop).await.unwrap() });
        let (view, commands) = (running.view, running.commands);
        Some(Process { handle, view, died, commands, stop, tasks })
    }
}

impl Process {
    pub(crate) async fn reload(&self) {
        let (done, heard) = oneshot::channel();
        if self.commands.send(Command::Reload(done)).await.is_ok() {
            heard.await.ok();
        }
    }

    /// Killed: nothing of it runs any further.
    pub(crate) async fn kill(mut self) {
        self.died.cancel();
        self.tasks.shutdown().await;
    }

    /// Asked to stop, it finishes what it has begun.
    pub(crate) async fn stop(mut self) {
        self.stop.cancel();
        drop((self.handle, self.commands));
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap();
        }
    }
}
