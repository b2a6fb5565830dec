//! What happens in the world while the program runs: faults, crashes, clocks, customers, operators. Drawn
//! from a seed, written down as it goes, and at the end everything is well again.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    sync::Arc,
    time::Duration,
};

use axum::{body::Body, http::Request};
use grantkeeper::{
    access::Caller,
    engine::Denial,
    incident::{Change, Kind},
    lifecycle::{End, Phase, Step, step},
    portal::PortalId,
    secret::{ClientSecret, Fingerprint},
    sim::{Effect, Endpoint, Fault, InProcess, RateLimit, Refusal, Scenario, Sim},
    store::{Key, Record as Stored},
    time::Clock,
};
use jiff::Timestamp;
use tokio_util::task::TaskTracker;

use crate::{
    disk::MemoryDisk,
    hubspot::{HubSpot, is_shortly_after},
    judge::{self, Lost, Record, Verdict},
    machine::{Crash, Dice, MachineClock, TrueTime},
    process::{Place, Process, Told},
    store::MemoryStore,
};

/// As many refresh tokens of one portal are known by name.
const REMEMBERED: usize = 64;

/// A world to tell a story in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setting {
    pub(crate) seed: u64,
    pub(crate) portals: u64,
    pub(crate) lasting: Duration,
    pub(crate) rotating: bool,
    pub(crate) journal: bool,
    pub(crate) rules: Step,
}

impl Setting {
    /// A day of a hundred portals; every other seed with a provider that rotates.
    pub(crate) fn day(seed: u64) -> Self {
        Self {
            seed,
            portals: 100,
            lasting: Duration::from_secs(24 * 3600),
            rotating: seed % 2 == 1,
            journal: true,
            rules: step,
        }
    }
}

pub(crate) struct Story {
    pub(crate) setting: Setting,
    dice: Dice,
    truth: TrueTime,
    pub(crate) sim: Sim,
    hub: InProcess,
    pub(crate) place: Place,
    pub(crate) process: Option<Process>,
    pub(crate) record: Record,
    /// Portals whose customers have left and not come back.
    pub(crate) gone: Vec<PortalId>,
    /// Of each portal whose customer left: as many notices had been told then, and when the grant of the
    /// customer who came back was seen to be served. In between a refusal is right.
    left: BTreeMap<PortalId, Vec<Range<usize>>>,
    pub(crate) lost: Vec<Lost>,
    /// The generation that each portal got when its customer connected again.
    connected: BTreeMap<PortalId, u32>,
    crashes: Vec<Timestamp>,
    /// The last refresh tokens of each portal, by generation.
    generations: BTreeMap<PortalId, BTreeMap<u32, String>>,
    /// Whom an operator has paused, or means to have.
    paused: BTreeSet<PortalId>,
    ever_paused: BTreeSet<PortalId>,
    pub(crate) served: u64,
    pub(crate) history: Vec<String>,
    verdict: Verdict,
}

/// The place and the stand-in, with a grant for every portal.
pub(crate) fn world(setting: &Setting, truth: &TrueTime) -> (Place, Sim) {
    let Setting { seed, portals, rotating, journal, rules, .. } = *setting;
    let scenario = format!(
        "seed = {seed}\n[settings]\nrotating = {rotating}\n[fleet]\nfirst = 1\ncount = {portals}\n"
    );
    let sim = Sim::new(Scenario::parse(&scenario).unwrap(), Arc::new(truth.clone()));
    let (crash, world) = (Crash::default(), TaskTracker::new());
    let store = MemoryStore::new(crash.clone(), world.clone());
    store.put(Key::App, Stored::default().with_client(&sim.client_id(), &sim.client_secret()));
    for portal in sim.portals(None, usize::MAX) {
        let token = sim.refresh_token(portal.portal).unwrap();
        store.put(Key::Portal(portal.portal), Stored::default().with_refresh_token(&token));
    }
    let hubspot = HubSpot::new(sim.in_process(), crash.clone(), world, truth.clone(), seed);
    let place = Place {
        clock: MachineClock::new(truth.clone()),
        crash: crash.clone(),
        store,
        disk: MemoryDisk::new(crash, truth.clone(), seed),
        hubspot,
        told: Told::default(),
        rules,
        journal,
        #[expect(clippy::cast_precision_loss, reason = "a few thousand portals")]
        per_second: 5.0_f64.max(portals as f64 / 100.0),
    };
    (place, sim)
}

/// Tells the whole story and judges it.
pub(crate) async fn tell(setting: Setting) -> (Story, Verdict) {
    let truth = TrueTime::new();
    let (place, sim) = world(&setting, &truth);
    let mut story = Story {
        setting,
        dice: Dice::new(setting.seed),
        truth,
        hub: sim.in_process(),
        sim,
        place,
        process: None,
        record: Record::default(),
        gone: Vec::new(),
        left: BTreeMap::new(),
        lost: Vec::new(),
        connected: BTreeMap::new(),
        crashes: Vec::new(),
        generations: BTreeMap::new(),
        paused: BTreeSet::new(),
        ever_paused: BTreeSet::new(),
        served: 0,
        history: Vec::new(),
        verdict: Ok(()),
    };
    story.live().await;
    let verdict = story.verdict.clone().and_then(|()| judge::judge(&story));
    if let Some(process) = story.process.take() {
        let died = process.died.clone();
        tokio::select! {
            biased;
            // Nothing of it comes to an end any more.
            () = died.cancelled() => {}
            () = process.stop() => {}
        }
    }
    (story, verdict)
}

impl Story {
    async fn live(&mut self) {
        self.process = Some(self.place.start(self.setting.seed).await);
        let end = self.truth.boot() + self.setting.lasting;
        while self.truth.boot() < end && self.verdict.is_ok() {
            let pause = Duration::from_secs(30 + self.dice.roll(300));
            self.wait(pause).await;
            self.something_happens().await;
            for _ in 0..4 {
                self.somebody_asks().await;
            }
            self.the_lost_connect_again().await;
            self.those_who_came_back_are_seen();
        }
        if self.verdict.is_err() {
            return;
        }
        self.all_is_well().await;
    }

    /// Everything is well again, and two hours are enough for whatever waits.
    async fn all_is_well(&mut self) {
        self.note("all is well");
        self.sim.clear_faults();
        self.sim.configure(|settings| settings.rate_limit = None);
        self.place.store.set_down(false);
        self.place.store.set_latency(Duration::ZERO);
        self.place.disk.set_full(false);
        self.place.hubspot.set_slow(200);
        for _ in 0..8 {
            // A pause outlives its process; who was told of one by a process that died asks again.
            for number in 1..=self.setting.portals {
                self.an_operator_pauses(PortalId::new(number).unwrap(), false).await;
            }
            self.wait(Duration::from_secs(900)).await;
            self.reload().await;
            self.the_lost_connect_again().await;
        }
        self.wait(Duration::from_secs(120)).await;
        // A grant whose answer is just on its way is nobody's yet.
        for _ in 0..60 {
            if !self.something_is_in_flight() {
                break;
            }
            self.wait(Duration::from_secs(1)).await;
        }
        self.look().await;
    }

    fn something_is_in_flight(&self) -> bool {
        let Some(process) = &self.process else { return true };
        let portals = process.view.portals.load();
        let rests = |phase| matches!(phase, Phase::Resting | Phase::Ended(_));
        !portals.values().all(|slot| rests(slot.now().portal.phase))
    }

    /// Lets time pass; if the process dies meanwhile, another one takes its place.
    async fn wait(&mut self, span: Duration) {
        let until = self.truth.boot() + span;
        while self.truth.boot() < until {
            let left = until.until(self.truth.boot()).max(Duration::from_millis(1));
            let Some(process) = &self.process else { return };
            let died = process.died.clone();
            tokio::select! {
                biased;
                () = died.cancelled() => self.restart().await,
                () = tokio::time::sleep(left) => return,
            }
        }
    }

    async fn restart(&mut self) {
        self.note("the process dies");
        self.crashes.push(self.truth.wall());
        let Some(process) = self.process.take() else { return };
        self.place.disk.settle();
        self.process = Some(process);
        self.look().await;
        if let Some(process) = self.process.take() {
            process.kill().await;
        }
        if self.dice.roll(4) == 0 {
            self.note("and the machine with it");
            self.place.clock.reboot();
        }
        // Nothing of the dead process holds up the new one's seams.
        let pause = self.dice.millis(3000);
        tokio::time::sleep(pause).await;
        let seed = self.setting.seed ^ self.crashes.len() as u64;
        self.process = Some(self.place.start(seed).await);
    }

    async fn look(&mut self) {
        self.follow();
        // Behind an answer that is still on its way there may be others.
        for number in 1..=self.setting.portals {
            self.learn_generations(PortalId::new(number).unwrap());
        }
        let mut record = std::mem::take(&mut self.record);
        let verdict = record.look(self).await;
        self.record = record;
        self.judged(verdict);
    }

    /// Looks at what has come to the stand-in since.
    fn follow(&mut self) {
        let mut record = std::mem::take(&mut self.record);
        let given = record.follow(self);
        self.record = record;
        let given = given.unwrap_or_else(|found| {
            self.judged(Err(found));
            BTreeSet::new()
        });
        for portal in given {
            self.learn_generations(portal);
        }
    }

    fn judged(&mut self, verdict: Verdict) {
        if self.verdict.is_ok() {
            self.verdict = verdict;
        }
    }

    async fn something_happens(&mut self) {
        let what = self.dice.roll(31);
        self.note(&format!("event {what}"));
        match what {
            0 => self.fault(Effect::ResetBefore, 20),
            1 => self.fault(http(503, None), 200),
            2 => self.fault(http(429, None), 10),
            3 => self.fault(Effect::HangBefore, 5),
            4 => {
                let late = u32::try_from(self.dice.roll(12_000)).unwrap();
                self.fault(Effect::Late(late), 10);
            }
            5..=7 => {
                self.sim.clear_faults();
                self.sim.configure(|settings| settings.rate_limit = None);
                self.place.hubspot.set_slow(200);
                self.place.disk.set_full(false);
            }
            8 => self.place.store.set_down(true),
            9 | 10 => self.place.store.set_down(false),
            11 => self.place.store.set_latency(self.dice.clone().millis(5_000)),
            12 => self.a_customer_leaves(),
            13 => self.a_customer_connects_again().await,
            14 => self.an_operator_edits_a_note(),
            15 => self.the_secret_is_wrong_for_a_while().await,
            16 => self.fault(Effect::ResetAfter, 1),
            17 => self.hubspot_is_down_for_ten_minutes().await,
            18 => {
                let seconds = i64::try_from(self.dice.roll(200_000)).unwrap() - 100_000;
                self.place.clock.set_wall(seconds);
            }
            // The stand-in works with timers, which a suspend holds up: not while strays are on their way.
            19 if !self.had_strays(self.truth.wall()) => {
                self.truth.suspend(Duration::from_secs(self.dice.clone().roll(5_000)));
            }
            19 => {}
            20 => self.place.hubspot.set_slow(9_000),
            21 => {
                let per_second = 1 + u32::try_from(self.dice.roll(3)).unwrap();
                let limit = RateLimit { per_second, retry_after: None };
                self.sim.configure(|settings| settings.rate_limit = Some(limit));
            }
            22 => self.place.disk.set_full(true),
            23 => self.place.disk.set_full(false),
            24 => {
                // HubSpot is wrong about some grants for a moment; asked, it knows better.
                let times = 1 + u32::try_from(self.dice.roll(8)).unwrap();
                self.fault(Effect::Refuse(Refusal::BadRefreshToken), times);
            }
            25 => {
                self.fault(Effect::Refuse(Refusal::MismatchRefreshTokenClient), 1);
                self.fault(Effect::Refuse(Refusal::BadHub), 1);
            }
            26 => self.place.hubspot.hide_behind_an_edge(1 + self.dice.roll(10)),
            27 => {
                let span = Duration::from_secs(self.dice.roll(120));
                self.place.disk.hang_for(span);
            }
            28 => {
                let portal = self.some_portal();
                self.an_operator_pauses(portal, !self.paused.contains(&portal)).await;
            }
            _ => self.place.crash.arm(1 + self.dice.clone().roll(400)),
        }
        // The copies of the dice above leave the dice as they were.
        self.dice.roll(2);
    }

    async fn an_operator_pauses(&mut self, portal: PortalId, paused: bool) {
        if paused {
            self.paused.insert(portal);
            self.ever_paused.insert(portal);
        } else {
            self.paused.remove(&portal);
        }
        let Some(process) = &self.process else { return };
        let (died, caller) = (process.died.clone(), Caller::this_process());
        tokio::select! {
            biased;
            () = died.cancelled() => {}
            // Where nobody answers, they look again one day.
            _ = process.handle.pause(&caller, portal, paused) => {}
        }
    }

    fn fault(&self, effect: Effect, count: u32) {
        self.sim.set_fault(Fault::new(effect).on(Endpoint::Token).times(count));
    }

    fn some_portal(&mut self) -> PortalId {
        PortalId::new(1 + self.dice.roll(self.setting.portals)).unwrap()
    }

    fn a_customer_leaves(&mut self) {
        let portal = self.some_portal();
        self.sim.uninstall(portal);
        self.gone.push(portal);
        let told = self.notices_told();
        let away = self.left.entry(portal).or_default();
        if away.last().is_none_or(|last| last.end != usize::MAX) {
            away.push(told..usize::MAX);
        }
    }

    fn notices_told(&self) -> usize {
        self.place.told.0.lock().unwrap().len()
    }

    /// Whether the portal's customer had left, and not been seen to be back, when a notice of this place was
    /// told.
    pub(crate) fn was_away(&self, portal: PortalId, notice: usize) -> bool {
        self.left.get(&portal).is_some_and(|away| away.iter().any(|span| span.contains(&notice)))
    }

    fn is_away(&self, portal: PortalId) -> bool {
        self.left
            .get(&portal)
            .and_then(|away| away.last())
            .is_some_and(|span| span.end == usize::MAX)
    }

    fn those_who_came_back_are_seen(&mut self) {
        let (told, Some(process)) = (self.notices_told(), &self.process) else { return };
        let back: Vec<PortalId> = self
            .left
            .keys()
            .copied()
            .filter(|portal| {
                let served = process.view.slot(*portal).and_then(|slot| slot.now().token.clone());
                let name = served.and_then(|token| self.place.hubspot.came_with(token.fingerprint));
                let generation = name.and_then(|name| self.generation(*portal, name));
                let connected = self.connected.get(portal).copied();
                !self.gone.contains(portal) && connected.is_some_and(|new| generation >= Some(new))
            })
            .collect();
        for portal in back {
            if let Some(span) = self.left.get_mut(&portal).and_then(|away| away.last_mut()) {
                span.end = span.end.min(told);
            }
        }
    }

    async fn a_customer_connects_again(&mut self) {
        let Some(portal) = self.gone.pop() else { return };
        if self.gone.contains(&portal) {
            return;
        }
        self.connect_again(portal);
        if self.dice.roll(2) == 0 {
            self.reload().await;
        }
    }

    fn connect_again(&mut self, portal: PortalId) {
        let (_, token) = self.sim.install(Some(portal), None);
        self.learn_generations(portal);
        let key = Key::Portal(portal);
        let record = self.place.store.get(key).unwrap().with_refresh_token(&token);
        self.place.store.put(key, record);
        self.connected.insert(portal, self.generation_of_newest(portal));
    }

    /// Who is told of a lost grant asks the customer, who connects the app again.
    async fn the_lost_connect_again(&mut self) {
        self.follow();
        let open = self.told_losses();
        let mut any = false;
        for portal in open {
            let newest = self.generation_of_newest(portal);
            // Connected again already, and the program has not seen it yet.
            let known = self.connected.get(&portal) == Some(&newest);
            let waits = self.gone.contains(&portal);
            // One that is good again stands in the incident until its token is safe.
            let ended = self.process.as_ref().and_then(|process| process.view.slot(portal));
            let ended = ended.is_some_and(|slot| slot.now().portal.ended() == Some(End::Lost));
            if known || waits || !ended {
                continue;
            }
            // A customer who left and came back may be told of as a loss: their old grant was in doubt.
            if !self.is_away(portal) {
                self.lost.push(self.record.lost(self, portal, newest));
            }
            self.note(&format!("portal {portal} is connected again"));
            self.connect_again(portal);
            any = true;
        }
        if any {
            self.reload().await;
        }
    }

    /// Of whose losses people have been told, by whichever process.
    fn told_losses(&self) -> BTreeSet<PortalId> {
        let told = self.place.told.0.lock().unwrap();
        let mut of_losses = told.iter().filter(|notice| notice.incident.kind == Kind::GrantLost);
        match of_losses.next_back() {
            Some(last) if last.change != Change::Resolved => {
                last.incident.portals.iter().copied().collect()
            }
            _ => BTreeSet::new(),
        }
    }

    /// Whose grants are said to be lost at present.
    fn open_losses(&self) -> BTreeSet<PortalId> {
        let Some(process) = &self.process else { return BTreeSet::new() };
        let overall = process.view.overall.load();
        let losses = overall.incidents.iter().filter(|open| open.kind == Kind::GrantLost);
        losses.flat_map(|open| open.portals.iter().copied()).collect()
    }

    /// A write beside the token, by a hand that knows nothing of us: as read, so it may meet ours.
    fn an_operator_edits_a_note(&mut self) {
        let key = Key::Portal(self.some_portal());
        let record = self.place.store.get(key).unwrap();
        self.place.store.put(key, record.with_member("note", self.dice.roll(9).into()));
    }

    async fn the_secret_is_wrong_for_a_while(&mut self) {
        let right = self.sim.client_secret();
        let wrong = ClientSecret::parse("wrong-for-a-while").unwrap();
        self.sim.set_client_secret(wrong, Duration::ZERO);
        let pause = Duration::from_secs(self.dice.roll(1_800));
        self.wait(pause).await;
        self.sim.set_client_secret(right, Duration::ZERO);
    }

    async fn hubspot_is_down_for_ten_minutes(&mut self) {
        let id = self.sim.set_fault(Fault::new(http(503, None)));
        self.wait(Duration::from_secs(600)).await;
        self.sim.clear_fault(id);
    }

    async fn reload(&mut self) {
        let Some(process) = &self.process else { return };
        let died = process.died.clone();
        tokio::select! {
            biased;
            () = died.cancelled() => {}
            () = process.reload() => {}
        }
    }

    /// I1: whatever is answered is good at HubSpot at that moment, and lives as long as was asked.
    async fn somebody_asks(&mut self) {
        let portal = self.some_portal();
        let Some(process) = &self.process else { return };
        let (died, caller) = (process.died.clone(), Caller::this_process());
        let answer = tokio::select! {
            biased;
            () = died.cancelled() => return,
            answer = process.handle.token(&caller, portal, None) => answer,
        };
        let answer = match answer {
            Ok(answer) => answer,
            Err(Denial::Ended(end)) => {
                let told = self.is_away(portal) || self.open_losses().contains(&portal);
                return self.must(told, || format!("I5: portal {portal}: {end:?}"));
            }
            Err(Denial::Paused) => {
                let meant = self.ever_paused.contains(&portal);
                return self
                    .must(meant, || format!("portal {portal} is paused, and nobody did it"));
            }
            Err(_) => return,
        };
        let long = answer.short_lived || answer.expires_in >= Duration::from_secs(120);
        self.must(long && !answer.expires_in.is_zero(), || format!("I1: {answer:?}"));
        let request = Request::get("/account-info/2026-03/details")
            .header("authorization", format!("Bearer {}", answer.access_token.expose()))
            .body(Body::empty())
            .unwrap();
        let taken = self.hub.ask(request).await.map(|answer| answer.status().as_u16());
        // A fault on every endpoint says nothing of the token.
        let fine = taken.is_none_or(|status| status == 200 || status >= 500);
        self.must(fine, || {
            format!("I1: portal {portal} was given a token that is no good: {taken:?}")
        });
        self.served += 1;
    }

    fn must(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.judged(Err(format!("{} at {}", what(), self.truth.wall())));
        }
    }

    fn note(&mut self, what: &str) {
        let wall = self.truth.wall();
        tracing::info!("{wall} {what}");
        self.history.push(format!("{wall} {what}"));
    }

    /// Remembers the places of a portal's refresh tokens: the stand-in forgets all but the last.
    fn learn_generations(&mut self, portal: PortalId) {
        let Some(report) = self.sim.portal(portal) else { return };
        let known = self.generations.entry(portal).or_default();
        known.extend(report.tokens.into_iter().map(|token| (token.generation, token.token)));
        while known.len() > REMEMBERED {
            known.pop_first();
        }
    }

    pub(crate) fn generation(&self, portal: PortalId, name: Fingerprint) -> Option<u32> {
        let (known, name) = (self.generations.get(&portal)?, name.to_string());
        known.iter().find(|(_, known)| **known == name).map(|(generation, _)| *generation)
    }

    pub(crate) fn generation_of_newest(&self, portal: PortalId) -> u32 {
        self.sim.portal(portal).map_or(0, |report| report.generation)
    }

    /// Whether a process was ever handed this generation.
    pub(crate) fn received(&self, portal: PortalId, generation: u32) -> bool {
        let name = self.generations.get(&portal).and_then(|known| known.get(&generation));
        name.is_some_and(|name| self.place.hubspot.handed_over(name))
    }

    pub(crate) fn crashed_since(&self, at: Timestamp) -> bool {
        self.crashes.iter().any(|crash| *crash >= at)
    }

    /// Whether what a process had sent that was killed, or that an edge had answered for, may still have been
    /// on its way at that time.
    pub(crate) fn had_strays(&self, at: Timestamp) -> bool {
        let crashed = self.crashes.iter().any(|crash| is_shortly_after(at, *crash));
        crashed || self.place.hubspot.gave_up_within(at)
    }

    /// As many refreshes as a process may send in one second: those of the budget, and one more where
    /// the second begins and ends with one.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small number")]
    pub(crate) fn budget_per_second(&self) -> usize {
        self.place.per_second.ceil() as usize + 1
    }

    /// The history, for comparing.
    pub(crate) fn told(&self) -> Vec<String> {
        let mut all = self.history.clone();
        all.extend(self.sim.ledger(0, None).iter().map(|entry| format!("{entry:?}")));
        all.extend(
            self.place.told.0.lock().unwrap().iter().map(|n| format!("{} {}", n.at, n.key())),
        );
        all
    }

    pub(crate) fn crashes(&self) -> usize {
        self.crashes.len()
    }
}

pub(crate) fn http(status: u16, retry_after: Option<u32>) -> Effect {
    let mut effect = serde_json::json!({ "http": status });
    if let Some(seconds) = retry_after {
        effect["retry_after"] = seconds.into();
    }
    serde_json::from_value(effect).unwrap()
}
