//! HubSpot's webhooks journal, as far as it tells of installations (study `hubspot.md` 5.4): what was
//! subscribed to is kept for three days, an entry at a time, in files behind links that expire. Reading it
//! takes a token of the app itself.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use axum::{
    Extension, Router,
    body::{Body, Bytes},
    extract::{Path, Query, State},
    http::{HeaderMap, Response, header},
    routing::{get, post},
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    Sim,
    account::{authenticated, bearer, scope_missing},
    answer::Answer,
    api::{Endpoint, Version},
    deliver::{Line, deliver, plain},
    settings::Settings,
    state::{self, Now},
    traffic::{Call, Subject},
};
use crate::{
    hubspot::wire::{app_scope, installation},
    portal::PortalId,
    time::BootTime,
};

/// How long an event is kept.
const KEPT: Duration = Duration::from_secs(3 * 24 * 3600);
/// The most events kept, whatever their age.
const REMEMBERED: usize = 100_000;

/// Something that happened to an installation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Event {
    /// Its place in the journal, from 1.
    pub offset: u64,
    /// What happened.
    pub action: Action,
    /// Where.
    pub portal: PortalId,
    /// When.
    pub occurred_at: Timestamp,
    /// Whether the journal tells of it: only of what was subscribed to by then.
    pub journaled: bool,
}

/// What happened to an installation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Action {
    /// The app was installed.
    AppInstall,
    /// The app was taken out, or the portal went away.
    AppUninstall,
}

impl Action {
    const ALL: [Self; 2] = [Self::AppInstall, Self::AppUninstall];

    const fn event_type(self) -> &'static str {
        match self {
            Self::AppInstall => installation::INSTALLED,
            Self::AppUninstall => installation::UNINSTALLED,
        }
    }
}

/// The events, oldest first, and who is told of them.
#[derive(Debug, Default)]
pub(super) struct Journal {
    events: VecDeque<Event>,
    last: u64,
    subscribed: Vec<Action>,
    /// The links to files that are out, by what they are signed with.
    links: HashMap<String, Link>,
}

/// A link to a file with the events from `first` to `last`.
#[derive(Debug, Clone, Copy)]
struct Link {
    first: u64,
    last: u64,
    expires: BootTime,
}

/// Where reading begins.
enum From {
    Earliest,
    Latest,
    After(u64),
}

impl Journal {
    pub(super) fn tell(&mut self, action: Action, portal: PortalId, occurred_at: Timestamp) {
        self.last += 1;
        if self.events.len() == REMEMBERED {
            self.events.pop_front();
        }
        let journaled = self.subscribed.contains(&action);
        self.events.push_back(Event { offset: self.last, action, portal, occurred_at, journaled });
    }

    /// The events after `offset` that are not too old.
    pub(super) fn after(&self, offset: u64, now: Timestamp) -> impl Iterator<Item = &Event> {
        let start = self.events.partition_point(|event| event.offset <= offset);
        self.events.range(start..).filter(move |event| !is_lost(event, now))
    }

    /// Whether the place after `offset` can't be found any more: something that stood there is gone.
    fn has_lost(&self, offset: u64, now: Timestamp) -> bool {
        let start = self.events.partition_point(|event| event.offset <= offset);
        let forgotten = self.events.front().is_some_and(|first| first.offset > offset + 1);
        let mut later = self.events.range(start..).filter(|event| event.journaled);
        offset > self.last || forgotten || later.next().is_some_and(|event| is_lost(event, now))
    }

    /// The events of the next file, `batch` of them at most; none where that place is unknown.
    fn read(&self, from: &From, batch: usize, now: Timestamp) -> Option<Vec<Event>> {
        let told = |offset| self.after(offset, now).filter(|event| event.journaled).copied();
        match *from {
            From::Earliest => Some(told(0).take(batch).collect()),
            From::Latest => Some(told(0).last().into_iter().collect()),
            From::After(offset) if self.has_lost(offset, now) => None,
            From::After(offset) => Some(told(offset).take(batch).collect()),
        }
    }

    /// What a link that is signed with `signature` leads to, if it has not expired.
    fn linked(&self, signature: &str, now: BootTime) -> Option<Vec<Event>> {
        let link = self.links.get(signature).filter(|link| link.expires > now)?;
        let within = |event: &&Event| (link.first..=link.last).contains(&event.offset);
        Some(self.events.iter().filter(within).filter(|event| event.journaled).copied().collect())
    }
}

fn is_lost(event: &Event, now: Timestamp) -> bool {
    event.occurred_at < now.checked_sub(KEPT).unwrap_or(Timestamp::MIN)
}

pub(super) fn router() -> Router<Sim> {
    Router::new()
        .route("/webhooks-journal/subscriptions/{version}", post(subscribe))
        .route("/webhooks-journal/journal/{version}/{which}", get(end))
        .route("/webhooks-journal/journal/{version}/offset/{offset}/next", get(next))
        .route("/_sim/journal/{first}", get(file))
}

/// What is to be told.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wanted {
    subscription_type: String,
    event_type_id: String,
}

async fn subscribe(
    State(sim): State<Sim>,
    Extension(line): Extension<Line>,
    Path(version): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Response<Body> {
    let endpoint = Endpoint::JournalSubscriptions;
    let Some(version) = Version::of(endpoint, &version) else { return plain(&sim.nothing_here()) };
    let call = Call { endpoint, version, subject: Subject::App };
    let outcome = sim.handle(call, |state, rules, now| {
        may(state, rules, &headers, app_scope::JOURNAL_SUBSCRIBE, now)
            .err()
            .unwrap_or_else(|| subscribed(state, &body))
    });
    deliver(outcome, &line).await
}

fn subscribed(state: &mut state::State, body: &[u8]) -> Answer {
    let wanted = serde_json::from_slice::<Wanted>(body).ok();
    let wanted = wanted.filter(|wanted| wanted.subscription_type == installation::SUBSCRIPTION);
    let action = wanted.and_then(|wanted| {
        Action::ALL.into_iter().find(|action| action.event_type() == wanted.event_type_id)
    });
    let state::State { journal, mint, .. } = state;
    let Some(action) = action else {
        let message = "This stand-in has APP_LIFECYCLE_EVENT of both event types only.";
        return Answer::api_error(400, None, message, json!({}), mint);
    };
    if journal.subscribed.contains(&action) {
        return Answer::api_error(409, None, "There is such a subscription.", json!({}), mint);
    }
    journal.subscribed.push(action);
    let id = journal.subscribed.len();
    let (kind, event_type) = (installation::SUBSCRIPTION, action.event_type());
    Answer::json(201, &json!({"id": id, "subscriptionType": kind, "eventTypeId": event_type}))
}

async fn end(
    State(sim): State<Sim>,
    Extension(line): Extension<Line>,
    Path((version, which)): Path<(String, String)>,
    headers: HeaderMap,
) -> Response<Body> {
    let from = match which.as_str() {
        "earliest" => From::Earliest,
        "latest" => From::Latest,
        _ => return plain(&sim.nothing_here()),
    };
    read(&sim, &line, &version, &headers, &from).await
}

async fn next(
    State(sim): State<Sim>,
    Extension(line): Extension<Line>,
    Path((version, offset)): Path<(String, String)>,
    headers: HeaderMap,
) -> Response<Body> {
    let Ok(offset) = offset.parse::<u64>() else { return plain(&sim.nothing_here()) };
    read(&sim, &line, &version, &headers, &From::After(offset)).await
}

async fn read(
    sim: &Sim,
    line: &Line,
    version: &str,
    headers: &HeaderMap,
    from: &From,
) -> Response<Body> {
    let endpoint = Endpoint::Journal;
    let Some(version) = Version::of(endpoint, version) else { return plain(&sim.nothing_here()) };
    let call = Call { endpoint, version, subject: Subject::App };
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let outcome = sim.handle(call, |state, rules, now| {
        may(state, rules, headers, app_scope::JOURNAL_READ, now)
            .err()
            .unwrap_or_else(|| entry(state, rules, host, from, now))
    });
    deliver(outcome, line).await
}

/// Whether the app may do what takes `scope`, or how it is refused.
fn may(
    state: &mut state::State,
    rules: &Settings,
    headers: &HeaderMap,
    scope: &'static str,
    now: Now,
) -> Result<(), Answer> {
    let access = authenticated(state, rules, bearer(headers).unwrap_or_default(), now)?;
    if access.scopes.iter().any(|granted| granted == scope) {
        return Ok(());
    }
    Err(scope_missing(scope, &mut state.mint))
}

/// Where the next events can be fetched; 204 if there are none.
fn entry(state: &mut state::State, rules: &Settings, host: &str, from: &From, now: Now) -> Answer {
    let state::State { journal, mint, .. } = state;
    if journal.subscribed.is_empty() {
        return Answer::gone(404, mint);
    }
    let batch = rules.journal_batch.max(1) as usize;
    let Some(events) = journal.read(from, batch, now.wall) else { return Answer::gone(404, mint) };
    let (Some(first), Some(last)) = (events.first(), events.last()) else {
        return Answer::empty(204);
    };
    let life = Duration::from_secs(rules.journal_url_expires_in.into());
    let signature = mint.uuid();
    journal.links.retain(|_, link| link.expires > now.boot);
    let link = Link { first: first.offset, last: last.offset, expires: now.boot + life };
    journal.links.insert(signature.clone(), link);
    Answer::json(
        200,
        &json!({
            "url": format!("http://{host}/_sim/journal/{}?signature={signature}", first.offset),
            "expiresAt": now.wall.checked_add(life).unwrap_or(now.wall),
            "currentOffset": last.offset.to_string(),
        }),
    )
}

#[derive(Deserialize)]
struct Signed {
    #[serde(default)]
    signature: String,
}

async fn file(
    State(sim): State<Sim>,
    Extension(line): Extension<Line>,
    Query(signed): Query<Signed>,
    headers: HeaderMap,
) -> Response<Body> {
    let endpoint = Endpoint::JournalFile;
    let call = Call { endpoint, version: Version::D2026_03, subject: Subject::App };
    let outcome = sim.handle(call, |state, _, now| {
        let state::State { journal, mint, .. } = state;
        if headers.contains_key(header::AUTHORIZATION) {
            let message = "A request is signed in one way, not in two.";
            return Answer::api_error(400, None, message, json!({}), mint);
        }
        match journal.linked(&signed.signature, now.boot) {
            Some(events) => Answer::json(200, &shown(&events)),
            None => Answer::api_error(403, None, "The link has expired.", json!({}), mint),
        }
    });
    deliver(outcome, &line).await
}

fn shown(events: &[Event]) -> Value {
    let last = events.last();
    let event = |event: &Event| {
        json!({
            "type": installation::SUBSCRIPTION,
            "action": event.action,
            "portalId": event.portal,
            "occurredAt": event.occurred_at,
            "eventTypeId": event.action.event_type(),
            "properties": {},
        })
    };
    json!({
        "offset": last.map(|last| last.offset.to_string()),
        "publishedAt": last.map(|last| last.occurred_at),
        "journalEvents": events.iter().map(event).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_older_than_three_days_are_lost_to_whoever_was_down_longer() {
        let mut journal = Journal { subscribed: Action::ALL.to_vec(), ..Journal::default() };
        let start: Timestamp = "2026-11-01T00:00:00Z".parse().unwrap();
        let day = Duration::from_secs(24 * 3600);
        for number in 1..=5_u32 {
            let portal = PortalId::new(number.into()).unwrap();
            journal.tell(Action::AppInstall, portal, start + day * number);
        }
        let offsets = |after, now| -> Vec<u64> {
            journal.after(after, now).map(|event| event.offset).collect()
        };
        assert_eq!(offsets(0, start + day * 5), [2, 3, 4, 5]);
        assert_eq!(offsets(3, start + day * 5), [4, 5]);
        assert!(offsets(0, start + day * 9).is_empty());
        for (offset, days, lost) in [
            (0, 4, false),
            (0, 5, true),
            (1, 5, false),
            (5, 5, false),
            (6, 5, true),
            (5, 99, false),
        ] {
            assert_eq!(
                journal.has_lost(offset, start + day * days),
                lost,
                "{offset} on day {days}"
            );
        }
    }

    #[test]
    fn only_what_was_subscribed_to_by_then_is_told() {
        let mut journal = Journal::default();
        let now: Timestamp = "2026-11-01T00:00:00Z".parse().unwrap();
        let portal = PortalId::new(1).unwrap();
        journal.tell(Action::AppUninstall, portal, now);
        journal.subscribed.push(Action::AppUninstall);
        journal.tell(Action::AppInstall, portal, now);
        journal.tell(Action::AppUninstall, portal, now);
        let read = |from, batch| -> Vec<u64> {
            journal.read(&from, batch, now).unwrap().iter().map(|event| event.offset).collect()
        };
        assert_eq!(read(From::Earliest, 9), [3]);
        assert_eq!(read(From::Latest, 9), [3]);
        assert_eq!(read(From::After(3), 9), [0_u64; 0]);
        assert_eq!(journal.after(0, now).count(), 3);
    }
}
