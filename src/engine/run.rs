//! The engine's turn: `next` waits for whatever comes first, `apply` decides, without waiting, what
//! follows. One owner, so there are no locks and one thing happens at a time.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    task::{JoinError, JoinSet},
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use super::{
    AT_HUBSPOT, AT_STORE, Alerting, LONGEST_SLEEP, Metrics, Settings, World,
    load::Loaded,
    metrics::{ByOutcome, ByStoreCall},
    portals::Portals,
    queue::Queue,
    view::{Health, Overall, View},
    work::Report,
};
use crate::{
    incident::{Book, Kind},
    lifecycle::{
        App, Change, ClientPair, Effect, Event, Phase, Probe, RefreshMode, Refusal, RefusalClass,
        schedule::Pace,
    },
    portal::PortalId,
    store::{StoreError, StoreErrorKind},
    time::{Backoff, BootTime},
};

/// Questions and wishes from outside the engine.
#[derive(Debug)]
pub enum Command {
    /// Somebody waits for a better token.
    Want(PortalId),
    /// Read every record again; the sender hears when it has been applied.
    Reload(oneshot::Sender<Result<(), StoreErrorKind>>),
    /// Go on with other settings.
    Configure(Box<Settings>),
    /// Tell other sinks from now on.
    Reroute(Alerting),
}

/// Commands that may wait; more than any socket has connections.
const WAITING: usize = 4096;
/// HubSpot counts as unreachable after this long without an answer, and this many failures.
const HUBSPOT_GONE: (Duration, u32) = (Duration::from_secs(10), 3);

/// The running machine.
#[derive(Debug)]
pub struct Engine {
    pub(super) world: World,
    pub(super) settings: Settings,
    pub(super) view: Arc<View>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) alerting: Alerting,
    /// Sinks of earlier configurations, which may still hold something to deliver.
    former_alerting: Vec<Alerting>,
    pub(super) book: Book,
    pub(super) pair: ClientPair,
    pub(super) app: App,
    pub(super) portals: Portals,
    pub(super) queue: Queue,
    pub(super) tasks: JoinSet<Report>,
    pub(super) store_permits: Arc<Semaphore>,
    pub(super) overall: Overall,
    pub(super) overall_changed: bool,
    pace: Pace,
    at_hubspot: usize,
    commands: mpsc::Receiver<Command>,
    reload: Reload,
    probing: bool,
    hubspot_failing_since: Option<BootTime>,
    draining: bool,
    chance: Chance,
}

#[derive(Debug)]
struct Reload {
    due: BootTime,
    running: bool,
    again: bool,
    waiting: Vec<oneshot::Sender<Result<(), StoreErrorKind>>>,
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
            hubspot: Health::new("oauth"),
            mode: settings.refresh.mode,
            strays: loaded.strays,
            records_read: Some(world.clock.wall()),
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
            pace: Pace::per_second(settings.max_requests_per_second),
            at_hubspot: 0,
            commands,
            reload: Reload {
                due: now + settings.validate.every,
                running: false,
                again: false,
                waiting: Vec::new(),
            },
            probing: false,
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
        engine.publish_overall();
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
            self.publish_overall();
            if self.draining && self.tasks.is_empty() {
                break;
            }
            match self.next(&stop).await? {
                Next::Command(command) => self.obey(command),
                Next::Report(report) => self.apply(report),
                Next::Woke => {}
                Next::Stop => self.draining = true,
            }
        }
        for alerting in self.former_alerting {
            alerting.finish().await;
        }
        self.alerting.finish().await;
        Ok(())
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
        let queued = self.may_send().then_some(self.pace.free_at());
        let timers =
            [self.portals.first_due(), queued, self.app.next_probe(), Some(self.reload.due)];
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
            Command::Want(portal) => {
                self.step(portal, Event::Wanted);
                self.queue.hurry(portal);
            }
            Command::Reload(done) => {
                self.reload.waiting.push(done);
                self.reload.again = self.reload.running;
                self.reload();
            }
            Command::Reroute(alerting) => {
                let former = std::mem::replace(&mut self.alerting, alerting);
                self.former_alerting.push(former);
            }
            Command::Configure(settings) => {
                let now = self.world.clock.boot();
                self.pace = Pace::per_second(settings.max_requests_per_second);
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
        self.portals.settle(portal, now);
        self.look_again(portal);
    }

    fn app_accepted(&mut self) {
        let before = self.app;
        self.app = self.app.accepted();
        self.overall_changed |= before != self.app;
    }

    fn app_refused(&mut self) {
        let (app, change) = self.app.refused();
        self.app = app;
        self.overall_changed = true;
        if change == Change::ProbeNow {
            self.probe();
        }
    }

    fn probe(&mut self) {
        if !self.probing {
            self.probing = true;
            let token = self.portals.any_token();
            self.tasks.spawn(self.world.clone().probe(self.pair.clone(), token));
        }
    }

    fn probed(&mut self, pair: Result<ClientPair, StoreError>, verdict: &Result<(), Refusal>) {
        self.probing = false;
        self.note_store("read", pair.as_ref().err());
        self.note_hubspot(verdict.as_ref().err());
        let probe = match verdict {
            Ok(()) => Probe::Accepted,
            Err(refusal) if refusal.class == RefusalClass::AppRefused => Probe::Refused,
            Err(_) => Probe::NotTold,
        };
        if let (Ok(pair), Probe::Accepted) = (pair, probe) {
            if !pair.client_secret.same_as(&self.pair.client_secret) {
                tracing::info!(secret = ?pair.client_secret, "the app's new client secret is proven and in use");
            }
            self.pair = pair;
        }
        let now = self.world.clock.boot();
        let (app, change) = self.app.probed(probe, now, self.chance.draw());
        self.app = app;
        self.overall_changed = true;
        match change {
            Change::Open => {
                let word = verdict.as_ref().err().and_then(|refusal| refusal.word);
                self.tell_open(Kind::AppRejected, None, word);
            }
            Change::Close => self.tell_close(Kind::AppRejected, None),
            Change::ProbeNow | Change::None => {}
        }
    }

    fn reload(&mut self) {
        if self.reload.running || self.draining {
            return;
        }
        self.reload.running = true;
        self.reload.due = self.world.clock.boot() + self.settings.validate.every;
        let stamps = self.portals.stamps();
        self.tasks.spawn(self.world.clone().reload(stamps));
    }

    fn reloaded(
        &mut self,
        pair: &Result<ClientPair, StoreError>,
        portals: Result<(super::load::Portals, Vec<String>), StoreError>,
        stamps: &super::portals::Stamps,
    ) {
        self.reload.running = false;
        let trouble = pair.as_ref().err().or_else(|| portals.as_ref().err());
        let outcome = trouble.map_or(Ok(()), |error| Err(error.kind));
        if let Some(error) = trouble {
            tracing::warn!(%error, hint = %error.hint, "records could not be read again; going on with those in memory");
            let again = Backoff::new(Duration::from_secs(5), Duration::from_secs(300), 0.2);
            let wait = again.map_or(self.settings.validate.every, |backoff| {
                backoff.after(self.overall.store.failures + 1, self.chance.draw())
            });
            self.reload.due = self.world.clock.boot() + wait.min(self.settings.validate.every);
        }
        self.note_store("list", trouble);
        if let Ok((records, strays)) = portals {
            self.overall.strays = strays;
            self.overall.records_read = Some(self.world.clock.wall());
            self.overall_changed = true;
            self.take_records(records, Some(stamps));
        }
        if pair.is_ok() {
            self.probe();
        }
        for waiting in self.reload.waiting.drain(..) {
            // Whoever asked may have gone.
            waiting.send(outcome).ok();
        }
        if std::mem::take(&mut self.reload.again) {
            self.reload();
        }
    }

    fn note_hubspot(&mut self, refusal: Option<&Refusal>) {
        let now = self.world.clock.boot();
        let silent = refusal.filter(|refusal| {
            use RefusalClass::{AnswerLost, Outage, Unreachable};
            matches!(refusal.class, Outage | Unreachable | AnswerLost)
        });
        let Some(refusal) = silent else {
            let was_silent = self.hubspot_failing_since.take().is_some();
            self.overall_changed |= was_silent;
            self.overall.hubspot.good();
            if was_silent {
                self.tell_close(Kind::HubspotUnreachable, None);
                for portal in self.portals.ids() {
                    self.step(portal, Event::HubSpotBack);
                }
            }
            return;
        };
        let since = *self.hubspot_failing_since.get_or_insert(now);
        self.overall.hubspot.bad(refusal.class.as_str());
        self.overall_changed = true;
        let (long, often) = HUBSPOT_GONE;
        if now.since(since) >= long && self.overall.hubspot.failures >= often {
            self.tell_open(Kind::HubspotUnreachable, None, Some(refusal.class.as_str()));
        }
    }

    fn note_store(&mut self, op: &'static str, error: Option<&StoreError>) {
        let outcome = error.map_or("ok", |error| error.kind.as_str());
        let store = self.world.store.kind();
        self.metrics.store_requests.get_or_create(&ByStoreCall { store, op, outcome }).inc();
        let silent = error.filter(|error| error.kind == StoreErrorKind::Unreachable);
        let was_ok = self.overall.store.ok;
        if let Some(error) = silent {
            self.overall.store.bad(error.kind.as_str());
            if self.overall.store.failures == 2 {
                self.tell_open(Kind::StoreUnreachable, None, None);
            }
        } else {
            self.overall.store.good();
            self.tell_close(Kind::StoreUnreachable, None);
        }
        self.overall_changed |= was_ok != self.overall.store.ok || silent.is_some();
    }

    pub(super) fn tell_open(&mut self, kind: Kind, portal: Option<PortalId>, detail: Option<&str>) {
        let affected = if portal.is_none() { self.portals.ids() } else { Vec::new() };
        let at = self.world.clock.wall();
        if let Some(notice) = self.book.open(kind, portal, detail, &affected, at) {
            self.alerting.tell(&notice);
            self.overall_changed = true;
        }
    }

    pub(super) fn tell_close(&mut self, kind: Kind, portal: Option<PortalId>) {
        let at = self.world.clock.wall();
        if let Some(notice) = self.book.close(kind, portal, at) {
            self.alerting.tell(&notice);
            self.overall_changed = true;
        }
    }

    fn publish_overall(&mut self) {
        if std::mem::take(&mut self.overall_changed) {
            self.overall.app = self.app;
            self.overall.mode = self.mode();
            self.overall.incidents = self.book.incidents().cloned().collect();
            self.view.overall.store(Arc::new(self.overall.clone()));
        }
    }

    /// The mode in force: `auto` is eager while half the rate carries every portal.
    pub(super) fn mode(&self) -> RefreshMode {
        self.portals.mode(&self.settings)
    }

    /// Publishes which portals there are, after one came or went.
    pub(super) fn publish_portals(&mut self) {
        self.view.portals.store(Arc::new(self.portals.slots()));
        self.overall_changed = true;
    }

    pub(super) fn busy(phase: Phase) -> bool {
        !matches!(phase, Phase::Resting | Phase::Ended(_))
    }
}

/// Jitter: nothing secret depends on it.
#[derive(Debug)]
struct Chance(u64);

impl Chance {
    fn seeded() -> Self {
        let mut seed = [0; 8];
        // Without a seed the jitter is the same for every process, which is all that is lost.
        aws_lc_rs::rand::fill(&mut seed).ok();
        Self(u64::from_le_bytes(seed) | 1)
    }

    /// A number from 0 to 1 (xorshift64*).
    fn draw(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let top = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 40;
        #[expect(clippy::cast_precision_loss, reason = "24 bits fit a double exactly")]
        let share = top as f64 / 16_777_216.0;
        share
    }
}

/// Portals met during a reload, to tell which are gone.
pub(super) type Met = BTreeSet<PortalId>;
