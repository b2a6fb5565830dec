//! How an engine begins: with what the store holds, what the journal knows, or what is left of both.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinSet,
};

use super::{
    AT_STORE, Alerting, Engine, Metrics, Running, Settings, World,
    arrivals::Arrivals,
    chance::Chance,
    command::WAITING,
    errands::Errands,
    load::{Loaded, Start},
    portals::Portals,
    queue::Queue,
    reload::Reload,
    rotating::Watched,
    sending::Sending,
    throttling::Throttling,
    upkeep::Probing,
    view::{Health, Overall, View},
};
use crate::{
    incident::{Book, Moment},
    journal::Recovered,
    lifecycle::{App, Budget, Crowd, Rate, RefreshMode, Step, budget::USUAL_LIFE, step},
    portal::PortalId,
    time::BootTime,
};

impl Engine {
    /// An engine over what was found; it does nothing until [`Engine::run`].
    #[must_use]
    pub fn new(
        world: World,
        settings: Settings,
        start: impl Into<Start>,
        alerting: Alerting,
        metrics: Arc<Metrics>,
    ) -> (Self, Running) {
        let Start { loaded, recovered, hubspot_time } = start.into();
        let life = recovered.token_life().unwrap_or(USUAL_LIFE);
        let Recovered { mut trails, provider, alerts, .. } = recovered;
        let mut store = Health::new(world.store.kind());
        if let Err(error) = &loaded {
            store.bad(error.as_str());
            // Their records were gone when the store could still be read.
            trails.retain(|_, trail| trail.gone.is_none());
        }
        let (sender, commands) = mpsc::channel(WAITING);
        let now = world.clock.boot();
        let without_store = loaded.is_err();
        let (pair, records, strays) = match loaded {
            Ok(Loaded { pair, portals, strays }) => (Some(pair), portals, strays),
            Err(_) => (None, Vec::new(), Vec::new()),
        };
        let rate = Rate::new(settings.max_requests_per_second, provider.rate, now);
        let overall = Overall {
            app: App::Unproven,
            incidents: Arc::default(),
            store,
            hubspot: Health::new(world.endpoint.kind()),
            throttled: None,
            mode: settings.refresh.mode,
            budget: no_budget(&settings, &rate, life, now),
            journal: world.journal.is_there(),
            without_store,
            strays,
            store_remarks: Vec::new(),
            records_read: (!without_store).then(|| world.clock.wall_at(now)),
            reload_refused: None,
        };
        let receivers = alerting.receivers().clone();
        let view = Arc::new(View::new(overall.clone(), receivers, world.clock.as_ref()));
        let wall = world.clock.wall_at(now);
        let mut engine = Self {
            book: Book::new(settings.app.clone(), now)
                .restored(alerts.iter().map(|a| &a.notice), Moment { boot: now, wall }),
            pair,
            app: App::Unproven,
            crowd: Crowd::default(),
            rotation: provider.rotation,
            life,
            rules: step,
            trails,
            hubspot_time,
            portals: Portals::default(),
            queue: Queue::default(),
            errands: Errands::default(),
            arrivals: Arrivals::default(),
            soon: VecDeque::new(),
            tasks: JoinSet::new(),
            store_permits: Arc::new(Semaphore::new(AT_STORE)),
            overall_changed: true,
            incidents_shown: None,
            portals_changed: true,
            sending: Sending::at(rate.at(now)),
            rate,
            throttling: Throttling::default(),
            mode: RefreshMode::Auto,
            budget_due: now,
            outage_probe: now,
            commands,
            reload: Reload::due_at(if without_store { now } else { now + settings.validate.every }),
            probing: Probing::No,
            end: None,
            denied: BTreeMap::new(),
            not_understood: 0,
            record_refused: false,
            hubspot_failing: None,
            draining: false,
            stepping: false,
            chance: Chance::seeded(),
            watched: Watched::default(),
            view: Arc::clone(&view),
            overall,
            world,
            settings,
            metrics,
            alerting,
        };
        // Before anything is found to be over, or anew: whoever is told of that has been told of what was before.
        engine.go_on_telling(alerts);
        if let Some(pair) = engine.pair.take() {
            engine.use_pair(pair);
        }
        if without_store {
            let known: Vec<PortalId> = engine.trails.keys().copied().collect();
            for portal in known {
                engine.begin_with(portal, None);
            }
        } else {
            engine.take_records(records, &BTreeSet::new(), None);
        }
        engine.tell_what_is_over();
        engine.publish_portals();
        engine.publish();
        (engine, Running { view, commands: sender })
    }

    /// The same under other rules and with jitter that repeats itself: for simulations, which must give
    /// the same history twice, and whose judge is tried with rules that are wrong.
    #[must_use]
    pub fn simulated(mut self, rules: Step, seed: u64) -> Self {
        self.rules = rules;
        self.chance = Chance::of(seed);
        self
    }
}

/// What the rate carries, of nobody yet.
fn no_budget(settings: &Settings, rate: &Rate, life: Duration, now: BootTime) -> Budget {
    Budget {
        per_second: rate.sustained(now),
        calm: rate.is_calm(now),
        ceiling: settings.max_requests_per_second,
        portals: 0,
        recent: 0,
        life,
        at: settings.refresh.at,
    }
}
