//! The engine's turn: `next` waits for whatever comes first, `apply` decides, without waiting, what
//! follows. One owner, so there are no locks and one thing happens at a time.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{Semaphore, mpsc},
    task::{JoinError, JoinSet},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    Alerting, LONGEST_SLEEP, Metrics, Settings, World,
    arrivals::Arrivals,
    chance::Chance,
    command::Command,
    errands::Errands,
    feed::Happening,
    metrics::ByOutcome,
    portals::{Portals, Surroundings},
    queue::Queue,
    recovery::HubSpotTime,
    reload::Reload,
    rotating::Watched,
    sending::Sending,
    throttling::Throttling,
    upkeep::{Failing, Probing, Question},
    view::{Overall, View},
    work::Report,
};
use crate::{
    incident::Book,
    journal::Trail,
    lifecycle::{
        App, ClientPair, Crowd, Event, Introspection, PortalState, Rate, RefreshMode, Rotation,
        Step,
    },
    portal::PortalId,
    time::BootTime,
};

/// After a stop, receivers of alerts have so long to take what there is.
const LAST_WORDS: Duration = Duration::from_secs(8);
/// After a stop, what the store has not taken is tried again for this long.
const FAREWELL: Duration = Duration::from_secs(10);

/// The running machine.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts, each with its own name")]
pub struct Engine {
    pub(super) world: World,
    pub(super) settings: Settings,
    pub(super) view: Arc<View>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) alerting: Alerting,
    pub(super) book: Book,
    /// None after a start without the store: nothing is refreshed until it is back.
    pub(super) pair: Option<ClientPair>,
    pub(super) app: App,
    pub(super) crowd: Crowd,
    pub(super) rotation: Rotation,
    /// Life of an access token, as HubSpot last said.
    pub(super) life: Duration,
    pub(super) rules: Step,
    /// What the journal knows of portals whose records have not been seen since the start.
    pub(super) trails: BTreeMap<PortalId, Trail>,
    pub(super) hubspot_time: Option<HubSpotTime>,
    pub(super) portals: Portals,
    pub(super) queue: Queue,
    /// Orders that wait for their turn at HubSpot.
    pub(super) errands: Errands,
    /// Grants that come by orders.
    pub(super) arrivals: Arrivals,
    /// Events that follow from what is being carried out, in order.
    pub(super) soon: VecDeque<(PortalId, Event)>,
    pub(super) tasks: JoinSet<Report>,
    pub(super) store_permits: Arc<Semaphore>,
    pub(super) overall: Overall,
    pub(super) overall_changed: bool,
    /// The book's revision that was last published.
    pub(super) incidents_shown: Option<u64>,
    pub(super) portals_changed: bool,
    pub(super) rate: Rate,
    pub(super) sending: Sending,
    pub(super) throttling: Throttling,
    pub(super) mode: RefreshMode,
    pub(super) budget_due: BootTime,
    pub(super) outage_probe: BootTime,
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) reload: Reload,
    pub(super) probing: Probing,
    /// When the end comes, whatever is left.
    pub(super) end: Option<BootTime>,
    /// What the store has refused to do, how often, and not done since.
    pub(super) denied: BTreeMap<&'static str, u32>,
    /// Refreshes in a row that were answered as if there were no such thing.
    pub(super) not_understood: u32,
    /// The pair in the store is refused, and the one from before is not.
    pub(super) record_refused: bool,
    pub(super) hubspot_failing: Option<Failing>,
    pub(super) draining: bool,
    pub(super) stepping: bool,
    pub(super) chance: Chance,
    pub(super) watched: Watched,
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
    /// Runs until `stop`, then finishes what is in flight and the storing of what it brings.
    ///
    /// # Errors
    /// Some work panicked.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), Panicked> {
        if self.pair.is_some() {
            self.probe();
        }
        self.try_journal();
        loop {
            self.start_due();
            self.send_what_may_go();
            self.publish();
            if self.has_ended() {
                break;
            }
            match self.next(&stop).await? {
                Next::Command(command) => self.obey(command),
                Next::Report(report) => self.apply(report),
                Next::Woke if self.draining && !self.is_over() => self.store_the_rest(),
                Next::Woke => {}
                Next::Stop => self.drain(),
            }
        }
        for portal in self.portals.unsaved() {
            tracing::error!(%portal, "a new refresh token could not be stored before the end; if HubSpot has retired the one in the store, the customer has to connect again");
        }
        self.tell_the_rest();
        if timeout(LAST_WORDS, self.alerting.retire().wait()).await.is_err() {
            tracing::warn!("a receiver of alerts takes too long: the end does not wait for it");
        }
        Ok(())
    }

    /// Begins nothing new, and goes on trying to store what the store has not taken.
    fn drain(&mut self) {
        self.draining = true;
        self.end = Some(self.world.clock.boot() + FAREWELL);
        self.refuse_errands();
        self.store_the_rest();
    }

    fn store_the_rest(&mut self) {
        for portal in self.portals.unsaved() {
            self.step(portal, Event::LastCall);
        }
    }

    /// Whether the end has come for what could not be stored: nothing more is tried then.
    fn is_over(&self) -> bool {
        self.end.is_some_and(|end| end <= self.world.clock.boot())
    }

    fn has_ended(&self) -> bool {
        let done = || self.is_over() || self.portals.unsaved().is_empty();
        self.draining && self.tasks.is_empty() && done()
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
        let queued = self.sending_due(self.world.clock.boot());
        let probe = self.app.next_probe().filter(|_| self.probing == Probing::No);
        let reload = self.reload.wakes();
        let budget = Some(self.budget_due);
        let outage = self.outage_probe_due();
        let told = self.book.wakes();
        let timers = [self.portals.first_due(), queued, probe, reload, budget, outage, told];
        timers.into_iter().flatten().fold(far, BootTime::min)
    }

    fn start_due(&mut self) {
        let now = self.world.clock.boot();
        if self.draining {
            return;
        }
        if self.budget_due <= now {
            self.follow_budget();
        }
        while let Some(portal) = self.portals.pop_due(now) {
            self.step(portal, Event::Woke);
        }
        self.tell_due();
        self.end_canary(now);
        let due = [self.app.next_probe(), self.outage_probe_due()];
        let free = self.probing == Probing::No;
        if free && due.into_iter().flatten().any(|at| at <= now) {
            self.probe();
        }
        if self.reload.due <= now {
            self.reload();
        }
    }

    fn apply(&mut self, report: Report) {
        match report {
            Report::Intended { portal, generation, durable } => {
                self.sending.intending -= 1;
                self.intended(portal, generation, durable);
            }
            Report::Kept { portal, generation, durable } => self.kept(portal, generation, durable),
            Report::Refreshed { portal, generation, spent, started, result } => {
                self.sending.at_hubspot -= 1;
                self.note_canary(portal, result.as_ref().err());
                self.note_hubspot(result.as_ref().err(), Question::Of(portal));
                self.note_version(result.as_ref().err());
                let took = self.world.clock.boot().since(started).as_secs_f64();
                self.metrics.refresh_duration.observe(took);
                let outcome = result.as_ref().map_or_else(|r| r.class.as_str(), |_| "ok");
                self.metrics.refreshes.get_or_create(&ByOutcome { outcome }).inc();
                self.refreshed(portal, generation, &spent, started, result);
            }
            Report::Introspected { portal, generation, result } => {
                self.sending.at_hubspot -= 1;
                self.note_hubspot(result.as_ref().err(), Question::Of(portal));
                let outcome = match &result {
                    Ok(Introspection::Active { .. }) => "active",
                    Ok(Introspection::Inactive) => "inactive",
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
            Report::Noted => {}
            Report::Staged { pair, wish } => self.staged(pair, wish),
            Report::PairRead(pair) => self.pair_read(pair),
            Report::Came { outcome, news } => self.came(outcome, news),
            Report::Arrived(arrival) => self.arrived(arrival),
            Report::Left { portal, asked, outcome, waiting } => {
                self.left(portal, asked, outcome, waiting);
            }
            Report::JournalTried { durable } => self.note_journal(durable),
            Report::Looked { portal, stamp, result } => {
                self.note_store("read", result.as_ref().err());
                // One that has gone meanwhile is not begun by what was read before.
                if self.portals.get(portal).is_some() {
                    self.consider(portal, stamp, result);
                }
            }
            Report::Probed { pair, verdict, record_refused } => {
                self.probed(pair, &verdict, record_refused);
            }
            Report::Reloaded { pair, portals, stamps } => self.reloaded(&pair, portals, &stamps),
        }
    }

    /// One portal's event through the rules, and all that follows at once.
    pub(super) fn step(&mut self, portal: PortalId, event: Event) {
        self.soon.push_back((portal, event));
        // What is carried out may add to it, and only the outermost call works it off.
        if std::mem::replace(&mut self.stepping, true) {
            return;
        }
        let mut met = BTreeSet::new();
        while let Some((portal, event)) = self.soon.pop_front() {
            self.step_once(portal, event);
            met.insert(portal);
        }
        self.stepping = false;
        // Only now: what follows from an event must not come between another one and its effects.
        for portal in met {
            if !self.follow_orders(portal) {
                self.look_again(portal);
            }
            self.ask_if_reported(portal);
        }
    }

    fn step_once(&mut self, portal: PortalId, event: Event) {
        let now = self.world.clock.boot();
        let around = Surroundings {
            step: self.rules,
            now,
            chance: self.chance.draw(),
            settings: &self.settings,
            mode: self.mode,
            may_rotate: self.rotation.is_possible(),
            crowd: &self.crowd,
        };
        let before = self.portals.get(portal).map(|e| e.portal.state(now, self.app.is_open()));
        for effect in self.portals.step(portal, &event, &around) {
            self.carry_out(portal, effect, now);
        }
        self.portals.settle(portal);
        self.tell_state(portal, before, now);
    }

    /// Publishes what this turn changed beside single portals.
    pub(super) fn publish(&mut self) {
        if std::mem::take(&mut self.portals_changed) {
            self.view.portals.store(Arc::new(self.portals.slots()));
        }
        if self.incidents_shown != Some(self.book.revision()) {
            self.incidents_shown = Some(self.book.revision());
            // In a storm there are thousands: they are gathered when one came or went, and shared.
            self.overall.incidents = self.book.incidents().map(Arc::clone).collect();
            self.overall_changed = true;
        }
        if std::mem::take(&mut self.overall_changed) {
            if self.overall.app.as_str() != self.app.as_str() {
                self.view.feed.tell(Happening::App { state: self.app.as_str() });
            }
            self.overall.app = self.app;
            self.overall.mode = self.mode;
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
        self.view.feed.tell(Happening::Portal {
            portal_id: portal,
            state: is,
            reason: entry.portal.reason(),
        });
        let reason = entry.portal.reason().unwrap_or("none");
        match state {
            // What was told of is told to be over.
            PortalState::Live if before.is_some_and(PortalState::is_trouble) => {
                tracing::info!(%portal, was, is, "state");
            }
            // One that was just taken in is on its way to the store.
            PortalState::Unsaved if entry.enrolling.is_some() => {
                tracing::debug!(%portal, was, is, "state");
            }
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
