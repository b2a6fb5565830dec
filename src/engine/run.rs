//! The engine's turn: `next` waits for whatever comes first, `apply` decides, without waiting, what
//! follows. One owner, so there are no locks and one thing happens at a time.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    task::{JoinError, JoinSet},
    time::sleep,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    AT_HUBSPOT, AT_STORE, Alerting, LONGEST_SLEEP, Metrics, Settings, World,
    chance::Chance,
    load::Loaded,
    metrics::ByOutcome,
    portals::Portals,
    queue::Queue,
    upkeep::{Probing, Reload},
    view::{Health, Overall, View},
    work::Report,
};
use crate::{
    incident::Book,
    lifecycle::{App, ClientPair, Effect, Event, PortalState, TokenLife, schedule::Pace},
    portal::PortalId,
    store::StoreErrorKind,
    time::BootTime,
};

/// Questions and wishes from outside the engine.
#[derive(Debug)]
pub enum Command {
    /// Somebody waits for a better token of this portal's than the one they saw.
    Want(PortalId, Option<TokenLife>),
    /// Read every record again; the sender hears when it has been applied.
    Reload(oneshot::Sender<Result<(), StoreErrorKind>>),
    /// Go on with other settings.
    Configure(Box<Settings>),
    /// Tell other sinks from now on.
    Reroute(Alerting),
}

/// After a stop, what the store has not taken is tried again for this long.
const FAREWELL: Duration = Duration::from_secs(10);
/// Commands that may wait; more than any socket has connections.
const WAITING: usize = 4096;
/// The running machine.
#[derive(Debug)]
pub struct Engine {
    pub(super) world: World,
    pub(super) settings: Settings,
    pub(super) view: Arc<View>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) alerting: Alerting,
    /// Sinks of earlier configurations, which may still hold something to deliver.
    former_alerting: Vec<TaskTracker>,
    pub(super) book: Book,
    pub(super) pair: ClientPair,
    pub(super) app: App,
    pub(super) portals: Portals,
    pub(super) queue: Queue,
    pub(super) tasks: JoinSet<Report>,
    pub(super) store_permits: Arc<Semaphore>,
    pub(super) overall: Overall,
    pub(super) overall_changed: bool,
    portals_changed: bool,
    pace: Pace,
    at_hubspot: usize,
    commands: mpsc::Receiver<Command>,
    pub(super) reload: Reload,
    pub(super) probing: Probing,
    /// When the end comes, whatever is left.
    end: Option<BootTime>,
    pub(super) hubspot_failing_since: Option<BootTime>,
    pub(super) draining: bool,
    pub(super) chance: Chance,
}

/// What others need to talk to an engine.
#[derive(Debug, Clone)]
pub struct Running {
    /// Where it publishes.
    pub view: Arc<View>,
    /// Where it listens.
    pub commands: mpsc::Sender<Command>,
}

/// A piece of work panicked: what it was about is unknown, so nobody may go on.
#[derive(Debug, thiserror::Error)]
#[error("a task of the engine panicked")]
pub struct Panicked(#[source] pub JoinError);

enum Next {
    Command(Command),
    Report(Report),
    Woke,
    Stop,
}

impl Engine {
    /// An engine over what was loaded; it does nothing until [`Engine::run`].
    #[must_use]
    pub fn new(
        world: World,
        settings: Settings,
        loaded: Loaded,
        alerting: Alerting,
        metrics: Arc<Metrics>,
    ) -> (Self, Running) {
        let (sender, commands) = mpsc::channel(WAITING);
        let now = world.clock.boot();
        let overall = Overall {
            app: App::Unproven,
            incidents: Vec::new(),
            store: Health::new(world.store.kind()),
            hubspot: Health::new(world.endpoint.kind()),
            mode: settings.refresh.mode,
            strays: loaded.strays,
            records_read: Some(world.clock.wall_at(now)),
            reload_refused: None,
        };
        let view = Arc::new(View::new(overall.clone()));
        let mut engine = Self {
            book: Book::new(settings.app.clone()),
            pair: loaded.pair,
            app: App::Unproven,
            portals: Portals::default(),
            queue: Queue::default(),
            tasks: JoinSet::new(),
            store_permits: Arc::new(Semaphore::new(AT_STORE)),
            overall_changed: true,
            portals_changed: true,
            pace: Pace::per_second(settings.max_requests_per_second),
            at_hubspot: 0,
            commands,
            reload: Reload {
                due: now + settings.validate.every,
                running: false,
                again: false,
                waiting: Vec::new(),
            },
            probing: Probing::No,
            end: None,
            hubspot_failing_since: None,
            draining: false,
            chance: Chance::seeded(),
            view: Arc::clone(&view),
            overall,
            world,
            settings,
            metrics,
            alerting,
            former_alerting: Vec::new(),
        };
        engine.take_records(loaded.portals, None);
        engine.publish();
        (engine, Running { view, commands: sender })
    }

    /// Runs until `stop`, then finishes what is in flight and the storing of what it brings.
    ///
    /// # Errors
    /// Some work panicked.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), Panicked> {
        self.probe();
        loop {
            self.start_due();
            self.send_queued();
            self.publish();
            if self.has_ended() {
                break;
            }
            match self.next(&stop).await? {
                Next::Command(command) => self.obey(command),
                Next::Report(report) => self.apply(report),
                Next::Woke if self.draining => self.store_the_rest(),
                Next::Woke => {}
                Next::Stop => self.drain(),
            }
        }
        for portal in self.portals.unsaved() {
            tracing::error!(%portal, "a new refresh token could not be stored before the end; if HubSpot has retired the one in the store, the customer has to connect again");
        }
        self.former_alerting.push(self.alerting.retire());
        for lanes in self.former_alerting {
            lanes.wait().await;
        }
        Ok(())
    }

    /// Begins nothing new, and goes on trying to store what the store has not taken.
    fn drain(&mut self) {
        self.draining = true;
        self.end = Some(self.world.clock.boot() + FAREWELL);
        self.store_the_rest();
    }

    fn store_the_rest(&mut self) {
        for portal in self.portals.unsaved() {
            self.step(portal, Event::LastCall);
        }
    }

    fn has_ended(&self) -> bool {
        let over = self.end.is_some_and(|end| end <= self.world.clock.boot());
        self.draining && self.tasks.is_empty() && (over || self.portals.unsaved().is_empty())
    }

    async fn next(&mut self, stop: &CancellationToken) -> Result<Next, Panicked> {
        let nap = self.wakes().until(self.world.clock.boot()).min(LONGEST_SLEEP);
        tokio::select! {
            biased;
            () = stop.cancelled(), if !self.draining => Ok(Next::Stop),
            Some(done) = self.tasks.join_next() => done.map(Next::Report).map_err(Panicked),
            Some(command) = self.commands.recv(), if !self.draining => Ok(Next::Command(command)),
            () = sleep(nap) => Ok(Next::Woke),
        }
    }

    fn wakes(&self) -> BootTime {
        let far = self.world.clock.boot() + LONGEST_SLEEP;
        if self.draining {
            // Nothing is begun any more; what the store has not taken is tried again each second.
            return self.world.clock.boot() + Duration::from_secs(1);
        }
        let queued = self.may_send().then_some(self.pace.free_at());
        let probe = self.app.next_probe().filter(|_| self.probing == Probing::No);
        let reload = Some(self.reload.due).filter(|_| !self.reload.running);
        let timers = [self.portals.first_due(), queued, probe, reload];
        timers.into_iter().flatten().fold(far, BootTime::min)
    }

    fn start_due(&mut self) {
        let now = self.world.clock.boot();
        if self.draining {
            return;
        }
        while let Some(portal) = self.portals.pop_due(now) {
            self.step(portal, Event::Woke);
        }
        if self.app.next_probe().is_some_and(|at| at <= now) {
            self.probe();
        }
        if self.reload.due <= now {
            self.reload();
        }
    }

    fn may_send(&self) -> bool {
        let open = self.app.is_open() && !self.draining;
        open && !self.queue.is_empty() && self.at_hubspot < AT_HUBSPOT
    }

    fn send_queued(&mut self) {
        let now = self.world.clock.boot();
        while self.may_send() && self.pace.take(now).is_ok() {
            if let Some((portal, request, since)) = self.queue.pop() {
                self.metrics.refresh_lag.observe(now.since(since).as_secs_f64());
                self.at_hubspot += usize::from(self.send(portal, request));
            }
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Want(portal, seen) => {
                // What was wished for may have come while the wish waited: it is not fetched twice.
                if self.portals.get(portal).is_some_and(|entry| entry.portal.token == seen) {
                    self.portals.wanted(portal);
                    self.step(portal, Event::Wanted);
                    self.queue.hurry(portal);
                }
            }
            Command::Reload(done) => {
                self.reload.waiting.push(done);
                self.reload.again = self.reload.running;
                self.reload();
            }
            Command::Reroute(alerting) => {
                let former = std::mem::replace(&mut self.alerting, alerting);
                self.former_alerting.retain(|lanes| !lanes.is_empty());
                self.former_alerting.push(former.retire());
            }
            Command::Configure(settings) => {
                let now = self.world.clock.boot();
                self.pace.change_rate(settings.max_requests_per_second);
                self.reload.due = self.reload.due.min(now + settings.validate.every);
                self.settings = *settings;
            }
        }
    }

    fn apply(&mut self, report: Report) {
        match report {
            Report::Refreshed { portal, generation, spent, started, result } => {
                self.at_hubspot -= 1;
                self.note_hubspot(result.as_ref().err());
                let took = self.world.clock.boot().since(started).as_secs_f64();
                self.metrics.refresh_duration.observe(took);
                let outcome = result.as_ref().map_or_else(|r| r.class.as_str(), |_| "ok");
                self.metrics.refreshes.get_or_create(&ByOutcome { outcome }).inc();
                self.refreshed(portal, generation, &spent, started, result);
            }
            Report::Introspected { portal, generation, result } => {
                self.at_hubspot -= 1;
                self.note_hubspot(result.as_ref().err());
                let outcome = match &result {
                    Ok(crate::lifecycle::Introspection::Active { .. }) => "active",
                    Ok(crate::lifecycle::Introspection::Inactive) => "inactive",
                    Err(refusal) => refusal.class.as_str(),
                };
                self.metrics.introspections.get_or_create(&ByOutcome { outcome }).inc();
                self.introspected(portal, generation, result);
            }
            Report::Reread { portal, generation, result } => {
                self.note_store("read", result.as_ref().err());
                self.reread(portal, generation, result);
            }
            Report::Saved { portal, generation, record, token, result } => {
                self.note_store("write", result.as_ref().err());
                self.saved(portal, generation, record, token, result);
            }
            Report::Looked { portal, stamp, result } => {
                self.note_store("read", result.as_ref().err());
                self.consider(portal, stamp, result);
            }
            Report::Probed { pair, verdict } => self.probed(pair, &verdict),
            Report::Reloaded { pair, portals, stamps } => self.reloaded(&pair, portals, &stamps),
        }
    }

    /// One portal's event through the rules, and what follows.
    pub(super) fn step(&mut self, portal: PortalId, event: Event) {
        let now = self.world.clock.boot();
        let chance = self.chance.draw();
        let before = self.portals.get(portal).map(|e| e.portal.state(now, self.app.is_open()));
        for effect in self.portals.step(portal, &event, now, chance, &self.settings) {
            match effect {
                Effect::AppRefused => self.app_refused(),
                Effect::AppAccepted => self.app_accepted(),
                Effect::Throttled(wait) => {
                    self.metrics.rate_limited.inc();
                    self.pace.hold_until(now + wait.unwrap_or(Duration::from_secs(1)));
                }
                other => self.carry_out(portal, other, now),
            }
        }
        self.portals.settle(portal);
        self.tell_state(portal, before, now);
        self.look_again(portal);
    }

    /// Publishes what this turn changed beside single portals.
    fn publish(&mut self) {
        if std::mem::take(&mut self.portals_changed) {
            self.view.portals.store(Arc::new(self.portals.slots()));
        }
        if std::mem::take(&mut self.overall_changed) {
            self.overall.app = self.app;
            self.overall.mode = self.portals.mode(&self.settings);
            self.overall.incidents = self.book.incidents().cloned().collect();
            self.view.overall.store(Arc::new(self.overall.clone()));
        }
    }

    fn tell_state(&self, portal: PortalId, before: Option<PortalState>, now: BootTime) {
        let Some(entry) = self.portals.get(portal) else { return };
        let state = entry.portal.state(now, self.app.is_open());
        if before == Some(state) {
            return;
        }
        let (was, is) = (before.map_or("new", PortalState::as_str), state.as_str());
        let reason = entry.portal.reason().unwrap_or("none");
        match state {
            PortalState::Live | PortalState::Pending => {
                tracing::debug!(%portal, was, is, "state");
            }
            _ => tracing::warn!(%portal, was, is, reason, "state"),
        }
    }

    /// One came or went: which there are is published once, at the end of the turn. Doing it for
    /// each of ten thousand that are loaded would copy the whole list ten thousand times.
    pub(super) const fn publish_portals(&mut self) {
        self.portals_changed = true;
        self.overall_changed = true;
    }
}
