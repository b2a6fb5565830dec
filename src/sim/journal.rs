//! HubSpot's webhooks journal, as far as it tells of installations (study `hubspot.md` 5.4): one
//! event an entry, kept for three days. Reading it takes a token of the app itself.

use std::{collections::VecDeque, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, Response, header},
    routing::get,
};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    Sim,
    account::{authenticated, bearer, scope_missing},
    answer::Answer,
    deliver::plain,
};
use crate::portal::PortalId;

/// How long an event is kept.
const KEPT: Duration = Duration::from_secs(3 * 24 * 3600);
/// The most events kept, whatever their age.
const REMEMBERED: usize = 100_000;
/// The scope for reading.
const SCOPE: &str = "developer.webhooks_journal.read";

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
}

/// What happened to an installation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Action {
    /// The app was installed.
    AppInstall,
    /// The app was taken out, or the portal went away.
    AppUninstall,
}

impl Action {
    const fn event_type(self) -> &'static str {
        match self {
            Self::AppInstall => "4-1909196",
            Self::AppUninstall => "4-1916193",
        }
    }
}

/// The events, oldest first.
#[derive(Debug, Default)]
pub(super) struct Journal {
    events: VecDeque<Event>,
    last: u64,
}

impl Journal {
    pub(super) fn tell(&mut self, action: Action, portal: PortalId, occurred_at: Timestamp) {
        self.last += 1;
        if self.events.len() == REMEMBERED {
            self.events.pop_front();
        }
        self.events.push_back(Event { offset: self.last, action, portal, occurred_at });
    }

    /// The events after `offset` that are not too old.
    pub(super) fn after(&self, offset: u64, now: Timestamp) -> impl Iterator<Item = &Event> {
        let oldest = now.checked_sub(KEPT).unwrap_or(Timestamp::MIN);
        let start = self.events.partition_point(|event| event.offset <= offset);
        self.events.range(start..).filter(move |event| event.occurred_at >= oldest)
    }
}

pub(super) fn router() -> Router<Sim> {
    Router::new()
        .route("/webhooks-journal/journal/2026-03/{which}", get(end))
        .route("/webhooks-journal/journal/2026-03/offset/{offset}/next", get(next))
        .route("/_sim/journal/{offset}", get(file))
}

async fn end(
    State(sim): State<Sim>,
    Path(which): Path<String>,
    headers: HeaderMap,
) -> Response<Body> {
    match which.as_str() {
        "earliest" => {
            plain(&entry(&sim, &headers, |journal, now| journal.after(0, now).next().copied()))
        }
        "latest" => {
            plain(&entry(&sim, &headers, |journal, now| journal.after(0, now).last().copied()))
        }
        _ => plain(&sim.nothing_here()),
    }
}

async fn next(
    State(sim): State<Sim>,
    Path(offset): Path<String>,
    headers: HeaderMap,
) -> Response<Body> {
    let Ok(offset) = offset.parse::<u64>() else { return plain(&sim.nothing_here()) };
    plain(&entry(&sim, &headers, |journal, now| journal.after(offset, now).next().copied()))
}

/// Where the chosen event can be fetched; 204 if there is none.
fn entry(
    sim: &Sim,
    headers: &HeaderMap,
    choose: impl FnOnce(&Journal, Timestamp) -> Option<Event>,
) -> Answer {
    let now = sim.now();
    let mut world = sim.world();
    let super::World { state, settings, .. } = &mut *world;
    let token = bearer(headers).unwrap_or_default();
    match authenticated(state, settings, token, now) {
        Err(refused) => return refused,
        Ok(access) if !access.scopes.iter().any(|scope| scope == SCOPE) => {
            return scope_missing(SCOPE, &mut state.mint);
        }
        Ok(_) => {}
    }
    let Some(event) = choose(&state.journal, now.wall) else {
        return Answer::empty(204);
    };
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let expires = now.wall.checked_add(Duration::from_secs(300)).unwrap_or(now.wall);
    Answer::json(
        200,
        &json!({
            "url": format!("http://{host}/_sim/journal/{}", event.offset),
            "expiresAt": expires,
            "currentOffset": event.offset.to_string(),
        }),
    )
}

async fn file(State(sim): State<Sim>, Path(offset): Path<String>) -> Response<Body> {
    let offset = offset.parse::<u64>().unwrap_or_default();
    let found = sim.events(offset.saturating_sub(1)).into_iter().next();
    let Some(event) = found.filter(|event| event.offset == offset) else {
        return plain(&sim.nothing_here());
    };
    plain(&Answer::json(200, &shown(&event)))
}

fn shown(event: &Event) -> Value {
    json!({
        "offset": event.offset.to_string(),
        "publishedAt": event.occurred_at,
        "journalEvents": [{
            "type": "APP_LIFECYCLE_EVENT",
            "action": event.action,
            "portalId": event.portal,
            "occurredAt": event.occurred_at,
            "eventTypeId": event.action.event_type(),
            "properties": {},
        }],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_older_than_three_days_are_lost_to_whoever_was_down_longer() {
        let mut journal = Journal::default();
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
    }
}
