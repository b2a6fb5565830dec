//! What has happened, for whoever listens: the last few thousand events, numbered, so that a listener who was away goes
//! on where it was, or is told that it has missed some. Holds no secret and waits for nobody.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use jiff::Timestamp;
use serde::Serialize;
use tokio::sync::watch;

use super::{Denial, Handle, asked::Asked, handle::permit};
use crate::{
    access::{Caller, Right},
    incident::{Kind, Notice, Severity},
    portal::PortalId,
    secret::Fingerprint,
};

/// As many events are kept for those who were away.
const KEPT: usize = 4096;

/// Something that happened. Never a token: its name.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Happening {
    /// A portal has a new access token.
    Token {
        /// Whose.
        portal_id: PortalId,
        /// The token's `ETag`.
        etag: Fingerprint,
        /// When it is used up.
        expires_at: Timestamp,
    },
    /// A portal's state has changed.
    Portal {
        /// Whose.
        portal_id: PortalId,
        /// Its state now, or `removed`.
        state: &'static str,
        /// Why, if there is anything to say.
        reason: Option<&'static str>,
    },
    /// HubSpot takes the client pair in another way than before.
    App {
        /// `ok`, `unproven`, `doubted` or `rejected`.
        state: &'static str,
    },
    /// An incident was opened, updated or resolved.
    Alert {
        /// Which.
        incident_id: String,
        /// What became of it.
        change: &'static str,
        /// What kind.
        kind: Kind,
        /// How loudly to tell.
        severity: Severity,
        /// Which portals, at most fifty.
        portals: Vec<PortalId>,
        /// How many portals.
        portal_count: usize,
        /// What happened.
        summary: String,
    },
}

impl Happening {
    /// A portal's record is gone, and it is served no longer.
    #[must_use]
    pub const fn removed(portal_id: PortalId) -> Self {
        Self::Portal { portal_id, state: "removed", reason: None }
    }

    /// The event's name.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Token { .. } => "token",
            Self::Portal { .. } => "portal",
            Self::App { .. } => "app",
            Self::Alert { .. } => "alert",
        }
    }
}

impl From<&Notice> for Happening {
    fn from(notice: &Notice) -> Self {
        let incident = &notice.incident;
        Self::Alert {
            incident_id: incident.incident_id.clone(),
            change: notice.change.as_str(),
            kind: incident.kind,
            severity: incident.severity,
            portals: incident.portals.clone(),
            portal_count: incident.portal_count,
            summary: incident.summary.clone(),
        }
    }
}

/// The events, in order.
#[derive(Debug)]
pub struct Feed {
    /// Sets this process's numbers apart from an earlier one's.
    run: String,
    kept: Mutex<Kept>,
    newest: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Kept {
    events: VecDeque<Arc<Happening>>,
    /// The number of the next one.
    next: u64,
    closed: bool,
}

/// What a listener hears next.
#[derive(Debug, Clone, PartialEq)]
pub enum Heard {
    /// An event, with what to say to go on after it.
    Event(String, Arc<Happening>),
    /// Some were missed: whatever is known from events must be looked at anew.
    Reset(String),
}

/// What there is for who has heard everything up to a number.
#[derive(Debug, Clone, PartialEq)]
enum Next {
    Event(Arc<Happening>),
    Nothing,
    /// Who is too slow, or was away for too long, goes on here.
    Missed(u64),
    /// No more is told.
    End,
}

impl Kept {
    fn push(&mut self, what: Happening) {
        self.events.push_back(Arc::new(what));
        if self.events.len() > KEPT {
            self.events.pop_front();
        }
        self.next += 1;
    }

    fn after(&self, at: u64) -> Next {
        let first = self.next - self.events.len() as u64;
        match usize::try_from(at.saturating_sub(first)) {
            _ if self.closed => Next::End,
            _ if at < first => Next::Missed(self.next),
            Ok(index) => {
                self.events.get(index).map_or(Next::Nothing, |what| Next::Event(Arc::clone(what)))
            }
            Err(_) => Next::Nothing,
        }
    }
}

impl Feed {
    pub(super) fn of_run(run: String) -> Self {
        Self { run, kept: Mutex::default(), newest: watch::Sender::new(0) }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn tell(&self, what: Happening) {
        let next = {
            let mut kept = self.kept();
            kept.push(what);
            kept.next
        };
        self.newest.send_replace(next);
    }

    /// No more is told: listeners end.
    pub(super) fn close(&self) {
        self.kept().closed = true;
        self.newest.send_modify(|_| {});
    }

    /// The number to go on from after the event of this id; none if it is another process's, or no id.
    fn place_after(&self, id: &str) -> Option<u64> {
        let (run, number) = id.split_once('-')?;
        let number: u64 = number.parse().ok()?;
        (run == self.run).then_some(number)
    }
}

/// Somebody who listens.
#[derive(Debug)]
pub struct Listener {
    handle: Handle,
    caller: Caller,
    at: u64,
    reset: bool,
    news: watch::Receiver<u64>,
}

impl Handle {
    /// Lets a caller listen to what happens to what it may see, from now on or on from `last`.
    ///
    /// # Errors
    /// Not allowed.
    pub async fn listen(&self, caller: &Caller, last: Option<&str>) -> Result<Listener, Denial> {
        let allowed = {
            let rules = self.rules.load();
            rules.allow_any(caller, Right::Status) || rules.allow_any(caller, Right::Token)
        };
        let asked = Asked { caller, action: "events", portal: None };
        self.told(&asked, None, permit(allowed)).await?;
        let feed = &self.view.feed;
        let news = feed.newest.subscribe();
        let now = feed.kept().next;
        let place = last.map(|id| feed.place_after(id).filter(|place| *place <= now));
        Ok(Listener {
            handle: self.clone(),
            caller: caller.clone(),
            at: place.flatten().unwrap_or(now),
            reset: place == Some(None),
            news,
        })
    }

    /// Ends what goes on without end, so that a stop need not wait for it.
    pub fn hang_up(&self) {
        self.view.feed.close();
    }

    fn may_hear(&self, caller: &Caller, what: &Happening) -> bool {
        let rules = self.rules.load();
        match what {
            Happening::Token { portal_id, .. } => {
                rules.allow(caller, Right::Status, *portal_id)
                    || rules.allow(caller, Right::Token, *portal_id)
            }
            Happening::Portal { portal_id, .. } => rules.allow(caller, Right::Status, *portal_id),
            Happening::App { .. } | Happening::Alert { .. } => {
                rules.allow_all(caller, Right::Status)
            }
        }
    }
}

impl Listener {
    /// The next thing this listener may hear; none when there will be no more.
    pub async fn next(&mut self) -> Option<Heard> {
        loop {
            let feed = &self.handle.view.feed;
            if std::mem::take(&mut self.reset) {
                return Some(Heard::Reset(format!("{}-{}", feed.run, self.at)));
            }
            let next = feed.kept().after(self.at);
            let event = match next {
                Next::Event(event) => event,
                Next::End => return None,
                Next::Missed(now) => {
                    (self.at, self.reset) = (now, true);
                    continue;
                }
                Next::Nothing => {
                    self.news.changed().await.ok()?;
                    continue;
                }
            };
            self.at += 1;
            if self.handle.may_hear(&self.caller, &event) {
                return Some(Heard::Event(format!("{}-{}", feed.run, self.at), event));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_away_for_more_than_is_kept_is_told_to_look_anew_and_goes_on_from_there() {
        let mut kept = Kept::default();
        let event = |number: u64| Happening::removed(PortalId::new(number).unwrap());
        assert_eq!(kept.after(0), Next::Nothing);
        for number in 1..=KEPT as u64 {
            kept.push(event(number));
        }
        assert_eq!(kept.after(0), Next::Event(Arc::new(event(1))));
        kept.push(event(5000));
        let newest = KEPT as u64 + 1;
        assert_eq!(kept.after(0), Next::Missed(newest));
        assert_eq!(kept.after(1), Next::Event(Arc::new(event(2))));
        assert_eq!(kept.after(newest - 1), Next::Event(Arc::new(event(5000))));
        assert_eq!(kept.after(newest), Next::Nothing);
        assert_eq!(kept.events.len(), KEPT);
        kept.closed = true;
        assert_eq!(kept.after(1), Next::End);
    }
}
