//! HubSpot without a network: what the real client would send and read, through the stand-in's own
//! rules. A request that is on its way arrives whether or not its sender still lives.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use axum::{
    body::{Body, to_bytes},
    http::Request,
};
use grantkeeper::{
    hubspot::{Reply, TokenEndpoint},
    lifecycle::{ClientPair, Code, Granted, Introspection, Refusal, RefusalClass},
    secret::{Fingerprint, RefreshToken},
    sim::InProcess,
    time::{BootTime, Clock},
};
use jiff::Timestamp;
use tokio::{sync::oneshot, time::timeout};
use tokio_util::task::TaskTracker;

use crate::machine::{Crash, Dice, TrueTime};

/// The real client's deadline.
const DEADLINE: Duration = Duration::from_secs(10);
/// The longest that a request is worked on behind an edge that has answered for it, in milliseconds.
const BEHIND_EDGE: u64 = 14_000;
const TOKEN: &str = "/oauth/2026-03/token";

#[derive(Debug, Clone)]
pub(crate) struct HubSpot {
    hub: InProcess,
    crash: Crash,
    world: TaskTracker,
    truth: TrueTime,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    dice: Dice,
    /// So many more requests for tokens meet an edge that answers for them, and arrive behind it.
    behind_edge: u64,
    /// When each of them was given up.
    given_up: Vec<Timestamp>,
    /// The longest way there, in milliseconds.
    slow: u64,
    /// The name of each access token, with that of the refresh token to use after it.
    granted: BTreeMap<Fingerprint, Fingerprint>,
    /// The names of the refresh tokens among them.
    handed_over: BTreeSet<String>,
    /// When the present process sent its last requests for tokens, within a second of the last.
    refreshes: WithinASecond,
    /// The same with questions about grants.
    requests: WithinASecond,
    /// The same access tokens, oldest first.
    in_order: VecDeque<Fingerprint>,
}

/// What was sent within a second of the last.
#[derive(Debug, Default)]
struct WithinASecond {
    last: VecDeque<BootTime>,
    worst: usize,
}

impl WithinASecond {
    fn another(&mut self, now: BootTime) {
        self.last.push_back(now);
        while self.last.front().is_some_and(|at| now.since(*at) >= Duration::from_secs(1)) {
            self.last.pop_front();
        }
        self.worst = self.worst.max(self.last.len());
    }
}

/// As many answers are remembered.
const REMEMBERED: usize = 100_000;

impl HubSpot {
    pub(crate) fn new(
        hub: InProcess,
        crash: Crash,
        world: TaskTracker,
        truth: TrueTime,
        seed: u64,
    ) -> Self {
        let state = State {
            dice: Dice::new(seed ^ 0x4B),
            behind_edge: 0,
            given_up: Vec::new(),
            slow: 200,
            granted: BTreeMap::new(),
            in_order: VecDeque::new(),
            handed_over: BTreeSet::new(),
            refreshes: WithinASecond::default(),
            requests: WithinASecond::default(),
        };
        Self { hub, crash, world, truth, state: Arc::new(Mutex::new(state)) }
    }

    /// The next `requests` for tokens are given up by an edge, and are carried out all the same.
    pub(crate) fn hide_behind_an_edge(&self, requests: u64) {
        self.state.lock().unwrap().behind_edge = requests;
    }

    /// Whether an edge had given up a request within 30 seconds before.
    pub(crate) fn gave_up_within(&self, at: Timestamp) -> bool {
        self.state.lock().unwrap().given_up.iter().any(|then| is_shortly_after(at, *then))
    }

    /// The edge's answer to a request for a token, if it is one to give up; it arrives later.
    fn given_up(&self, form: &str) -> Option<Reply> {
        let mut state = self.state.lock().unwrap();
        state.behind_edge = state.behind_edge.checked_sub(1)?;
        state.given_up.push(self.truth.wall());
        let way = state.dice.millis(BEHIND_EDGE);
        let (hub, truth, form) = (self.hub.clone(), self.truth.clone(), form.to_owned());
        self.world.spawn(async move {
            truth.pass(way).await;
            ask(&hub, TOKEN, form, &truth, DEADLINE).await;
        });
        let body = b"<html>upstream timed out</html>".to_vec().into();
        Some(Reply { http: 504, retry_after: None, dated: None, body })
    }

    pub(crate) fn set_slow(&self, millis: u64) {
        self.state.lock().unwrap().slow = millis;
    }

    /// The refresh token that came with an access token.
    pub(crate) fn came_with(&self, access_token: Fingerprint) -> Option<Fingerprint> {
        self.state.lock().unwrap().granted.get(&access_token).copied()
    }

    /// Whether a process was ever handed the refresh token of this name.
    pub(crate) fn handed_over(&self, name: &str) -> bool {
        self.state.lock().unwrap().handed_over.contains(name)
    }

    /// Another process sends from now on.
    pub(crate) fn born(&self) {
        let mut state = self.state.lock().unwrap();
        state.refreshes.last.clear();
        state.requests.last.clear();
    }

    /// The most refreshes, and the most requests of both kinds, that one process ever sent within a second
    /// (I8): what the way there makes of them is not its doing.
    pub(crate) fn worst_second(&self) -> (usize, usize) {
        let state = self.state.lock().unwrap();
        (state.refreshes.worst, state.requests.worst)
    }

    async fn post(
        &self,
        path: &'static str,
        form: String,
        patience: Duration,
    ) -> Result<Reply, Refusal> {
        self.crash.point().await;
        let way = {
            let mut state = self.state.lock().unwrap();
            let slow = state.slow;
            state.dice.millis(slow)
        };
        let (answered, answer) = oneshot::channel();
        let (hub, truth) = (self.hub.clone(), self.truth.clone());
        let asking = self.world.spawn(async move {
            truth.pass(way).await;
            // Whoever asked may be dead by now.
            answered.send(ask(&hub, path, form, &truth, patience).await).ok();
        });
        let lost = || Refusal {
            class: RefusalClass::AnswerLost,
            http: None,
            word: None,
            retry_after: None,
        };
        let answer = timeout(patience, answer).await;
        if answer.is_err() {
            // The connection is closed, and the other end notices.
            asking.abort();
        }
        self.crash.point().await;
        answer.map_err(|_| lost())?.map_err(|_| lost())?.ok_or_else(lost)
    }
}

/// Within the time for which what was on its way then may still arrive.
pub(crate) fn is_shortly_after(at: Timestamp, then: Timestamp) -> bool {
    (0..60).contains(&at.duration_since(then).as_secs())
}

/// None if the connection broke.
async fn ask(
    hub: &InProcess,
    path: &str,
    form: String,
    truth: &TrueTime,
    patience: Duration,
) -> Option<Reply> {
    let request = Request::post(path)
        .header("content-type", "application/x-www-form-urlencoded")
        .body(Body::from(form))
        .unwrap();
    // A server that hangs is hung up on after the client's own patience.
    let answer = timeout(patience, hub.ask(request)).await.ok()??;
    // A date has no parts of a second.
    let dated = Timestamp::from_second(truth.wall().as_second()).ok();
    let http = answer.status().as_u16();
    let retry_after = answer.headers().get("retry-after").map(|v| v.to_str().unwrap().to_owned());
    let body = timeout(DEADLINE, to_bytes(answer.into_body(), 100_000)).await.ok()?.ok()?;
    Some(Reply { http, retry_after, dated, body: body.to_vec().into() })
}

fn pair_form(pair: &ClientPair) -> String {
    format!("client_id={}&client_secret={}", pair.client_id, pair.client_secret.expose())
}

#[async_trait]
impl TokenEndpoint for HubSpot {
    async fn refresh(
        &self,
        pair: &ClientPair,
        token: &RefreshToken,
        patience: Duration,
    ) -> Result<Granted, Refusal> {
        let form = format!(
            "grant_type=refresh_token&{}&refresh_token={}",
            pair_form(pair),
            token.expose()
        );
        {
            let (now, mut state) = (self.truth.boot(), self.state.lock().unwrap());
            state.refreshes.another(now);
            state.requests.another(now);
        }
        let reply = match self.given_up(&form) {
            Some(reply) => reply,
            None => self.post(TOKEN, form, patience).await?,
        };
        let granted = reply.granted()?;
        let next = granted.refresh_token.as_ref().unwrap_or(token).fingerprint();
        let mut state = self.state.lock().unwrap();
        state.granted.insert(granted.access_token.fingerprint(), next);
        state.handed_over.insert(next.to_string());
        state.in_order.push_back(granted.access_token.fingerprint());
        if state.in_order.len() > REMEMBERED
            && let Some(oldest) = state.in_order.pop_front()
            && let Some(name) = state.granted.remove(&oldest)
        {
            state.handed_over.remove(&name.to_string());
        }
        Ok(granted)
    }

    async fn exchange(&self, pair: &ClientPair, code: &Code) -> Result<Granted, Refusal> {
        let form = format!(
            "grant_type=authorization_code&{}&code={}&redirect_uri={}",
            pair_form(pair),
            code.code.expose(),
            code.redirect_uri
        );
        self.post(TOKEN, form, DEADLINE).await?.granted()
    }

    async fn revoke(&self, pair: &ClientPair, token: &RefreshToken) -> Result<(), Refusal> {
        let form = format!("{}&token={}", pair_form(pair), token.expose());
        self.post("/oauth/2026-03/token/revoke", form, DEADLINE).await?.done()
    }

    async fn introspect(
        &self,
        pair: &ClientPair,
        token: &RefreshToken,
    ) -> Result<Introspection, Refusal> {
        let form = format!("{}&token={}", pair_form(pair), token.expose());
        self.state.lock().unwrap().requests.another(self.truth.boot());
        self.post("/oauth/2026-03/token/introspect", form, DEADLINE).await?.introspection()
    }

    async fn time(&self) -> Option<Timestamp> {
        // There is nothing there, and the answer that says so is dated all the same.
        self.post("/", String::new(), DEADLINE).await.ok()?.dated
    }

    fn kind(&self) -> &'static str {
        "2026-03"
    }

    fn clock_skew(&self) -> Option<jiff::SignedDuration> {
        None
    }
}
