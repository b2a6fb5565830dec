//! What one receiver of alerts is still owed: of each incident whatever it has not taken yet, in order; when it is
//! reminded; when it wants to be left alone. Pure: who delivers, and how, is not known here.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Change, Moment, Notice, QuietHours, Severity};
use crate::time::{Backoff, BootTime};

/// Between two tries at a receiver that does not take what it is given.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));

/// How a receiver wants to be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manner {
    /// From which severity on.
    pub min_severity: Severity,
    /// How often it is reminded of something critical that nobody has acknowledged.
    pub remind_critical: Option<Duration>,
    /// And of anything else.
    pub remind: Option<Duration>,
    /// When it is told of nothing but what is critical.
    pub quiet: Option<QuietHours>,
    /// It forgets what is not repeated so often, whoever has acknowledged it and whatever the hour.
    pub repeat: Option<Duration>,
}

impl Manner {
    /// Everything, once.
    pub const PLAIN: Self = Self {
        min_severity: Severity::Info,
        remind_critical: None,
        remind: None,
        quiet: None,
        repeat: None,
    };

    /// Whether the receiver wants to hear of this.
    #[must_use]
    pub fn wants(&self, notice: &Notice) -> bool {
        notice.incident.severity >= self.min_severity
    }

    fn remind_after(&self, notice: &Notice) -> Option<Duration> {
        let by_severity = match notice.incident.severity {
            Severity::Critical => self.remind_critical,
            Severity::Info | Severity::Warning => self.remind,
        };
        let unclaimed = notice.incident.acknowledged.is_none();
        self.repeat.or_else(|| by_severity.filter(|_| unclaimed))
    }
}

/// What a receiver has taken of an incident.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Told {
    /// The number of the latest notice it has taken.
    pub number: u32,
    /// When.
    pub at: Timestamp,
}

/// What is to be done now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Deliver this; then say how it went.
    Send(Box<Notice>),
    /// Nothing, until then or until there is more to tell.
    Wait(Option<BootTime>),
}

/// Whether the process goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closing {
    /// It does.
    No,
    /// It ends, and the next one knows what was not delivered.
    Kept,
    /// It ends, and what is not delivered now is lost.
    Lost,
}

/// As many incidents wait for a receiver that never takes any; of more, those that are over are given up.
const WAITING: usize = 10_000;

/// One receiver's.
#[derive(Debug, Clone)]
pub struct Outbox {
    manner: Manner,
    cases: BTreeMap<String, Case>,
    /// Cases are served in the order in which they came, and one that fails waits behind the others.
    turn: u64,
    failures: u32,
    not_before: BootTime,
}

#[derive(Debug, Clone)]
struct Case {
    latest: Notice,
    told: Option<Told>,
    /// What is being delivered, as it was when that was begun: one key, one text. And what it covers.
    attempt: Option<(Notice, u32)>,
    remind_at: Option<BootTime>,
    turn: u64,
    /// Its last delivery failed: it takes turns with those that are only to be reminded of.
    failed: bool,
}

impl Case {
    /// When the receiver is reminded next, if it is.
    fn remind(&mut self, manner: &Manner, now: Moment) {
        let after = manner.remind_after(&self.latest).filter(|_| manner.wants(&self.latest));
        self.remind_at = self.told.zip(after).map(|(told, after)| {
            let ago = Duration::try_from(now.wall.duration_since(told.at)).unwrap_or_default();
            now.boot + after.saturating_sub(ago)
        });
    }

    fn is_owed(&self) -> bool {
        self.attempt.is_some() || self.told.is_none_or(|told| told.number < self.latest.number)
    }

    /// What is to be delivered next, and up to which notice it tells everything.
    fn owed(&self, now: Moment) -> Option<(Notice, u32)> {
        let latest = &self.latest;
        match self.told {
            // One that is new to the receiver is opened as it stands; what came after is told apart.
            None if matches!(latest.change, Change::Resolved | Change::Acknowledged) => {
                Some((latest.as_opened(), latest.number.saturating_sub(1)))
            }
            None => Some((latest.as_opened(), latest.number)),
            Some(told) if told.number < latest.number => Some((latest.clone(), latest.number)),
            Some(_) if self.remind_at.is_some_and(|at| at <= now.boot) => {
                let reminder = Notice { change: Change::Reminded, at: now.wall, ..latest.clone() };
                Some((reminder, latest.number))
            }
            Some(_) => None,
        }
    }
}

impl Outbox {
    /// Nothing owed yet.
    #[must_use]
    pub const fn new(manner: Manner) -> Self {
        let not_before = BootTime::new(Duration::ZERO);
        Self { manner, cases: BTreeMap::new(), turn: 0, failures: 0, not_before }
    }

    /// The receiver wants to be told in another manner, perhaps at another address.
    pub fn change(&mut self, manner: Manner, now: Moment) {
        self.manner = manner;
        self.not_before = now.boot;
        for case in self.cases.values_mut() {
            case.remind(&self.manner, now);
        }
    }

    /// Takes in what has happened, or what an earlier process has left: the latest notice of an incident, and
    /// what of it the receiver is known to have.
    pub fn take(&mut self, notice: Notice, told: Option<Told>, now: Moment) {
        let id = notice.incident.incident_id.clone();
        // Of what it was told once it hears the end, however little it wants to hear by now.
        if !self.manner.wants(&notice) && !self.cases.contains_key(&id) && told.is_none() {
            return;
        }
        if self.cases.len() >= WAITING {
            let over = |case: &Case| case.latest.change == Change::Resolved;
            self.cases.retain(|_, case| !over(case));
        }
        self.turn += 1;
        let fresh = Case {
            latest: notice,
            told,
            attempt: None,
            remind_at: None,
            turn: self.turn,
            failed: false,
        };
        match self.cases.get_mut(&id) {
            Some(case) => {
                if fresh.latest.number > case.latest.number {
                    case.latest = fresh.latest;
                }
                case.told = case.told.max(fresh.told);
            }
            None => drop(self.cases.insert(id.clone(), fresh)),
        }
        if let Some(case) = self.cases.get_mut(&id) {
            case.remind(&self.manner, now);
        }
        self.sweep(&id);
    }

    /// What is over and told is no longer ours to know.
    fn sweep(&mut self, id: &str) {
        let over = |case: &Case| case.latest.change == Change::Resolved && !case.is_owed();
        if self.cases.get(id).is_some_and(over) {
            self.cases.remove(id);
        }
    }

    /// What is to be done now. When the process is closing, nothing is put off that need not be.
    pub fn next(&mut self, now: Moment, closing: Closing) -> Next {
        let goes_on = closing == Closing::No;
        if self.not_before > now.boot && goes_on {
            return Next::Wait(Some(self.not_before));
        }
        let quiet = self.manner.quiet.as_ref().filter(|_| closing != Closing::Lost);
        let quiet = quiet.and_then(|quiet| quiet.left(now.wall));
        let held = |case: &Case| {
            let loud = case.latest.incident.severity == Severity::Critical;
            quiet.filter(|_| !loud && self.manner.repeat.is_none())
        };
        let mut wake: Option<BootTime> = None;
        let mut sooner = |at: BootTime| wake = Some(wake.map_or(at, |w| w.min(at)));
        // A reminder, or a repeat, keeps nothing waiting that has not been told yet.
        let mut chosen: Option<(&String, (bool, u64))> = None;
        for (id, case) in &self.cases {
            let reminded = case.remind_at.filter(|_| goes_on);
            let due = case.is_owed() || reminded.is_some_and(|at| at <= now.boot);
            match held(case) {
                Some(left) if due => sooner(now.boot + left),
                _ if due => {
                    let turn = (case.failed || !case.is_owed(), case.turn);
                    if chosen.is_none_or(|(_, first)| turn < first) {
                        chosen = Some((id, turn));
                    }
                }
                _ => reminded.into_iter().for_each(&mut sooner),
            }
        }
        let Some(id) = chosen.map(|(id, _)| id.clone()) else { return Next::Wait(wake) };
        let Some(case) = self.cases.get_mut(&id) else { return Next::Wait(wake) };
        let attempt = case.attempt.take().or_else(|| case.owed(now));
        case.attempt.clone_from(&attempt);
        attempt.map_or(Next::Wait(wake), |(notice, _)| Next::Send(Box::new(notice)))
    }

    /// Incidents that were over before the receiver's quiet hours were: it need never hear of them. They are taken out.
    pub fn passed_over(&mut self, now: Moment) -> Vec<(String, Told)> {
        if self.manner.quiet.as_ref().is_none_or(|quiet| quiet.left(now.wall).is_none()) {
            return Vec::new();
        }
        let passed = |case: &Case| {
            let over = case.latest.change == Change::Resolved;
            let unheard = case.told.is_none() && case.attempt.is_none();
            over && unheard && case.latest.incident.severity != Severity::Critical
        };
        let gone: Vec<_> = self.cases.extract_if(.., |_, case| passed(case)).collect();
        let told = |case: &Case| Told { number: case.latest.number, at: now.wall };
        gone.into_iter().map(|(id, case)| (id, told(&case))).collect()
    }

    /// What was to be sent has been taken, or is refused for good: it is not offered again. What the
    /// receiver now has of the incident, where that is to be remembered.
    pub fn settled(&mut self, notice: &Notice, now: Moment) -> Option<Told> {
        (self.failures, self.not_before) = (0, now.boot);
        let id = &notice.incident.incident_id;
        let case = self.cases.get_mut(id)?;
        let (_, number) = case.attempt.take()?;
        let told = Told { number, at: now.wall };
        let repeated =
            self.manner.repeat.is_some() && case.told.is_some_and(|t| t.number == number);
        case.told = Some(told);
        case.failed = false;
        self.turn += 1;
        case.turn = self.turn;
        case.remind(&self.manner, now);
        self.sweep(id);
        // A repeat is no news that a later process need know of.
        Some(told).filter(|_| !repeated)
    }

    /// It was not taken: others of what is owed go first at the next try, which is not before the receiver asked for.
    pub fn failed(&mut self, notice: &Notice, wait: Option<Duration>, now: Moment) {
        self.failures = self.failures.saturating_add(1);
        let (floor, ceiling) = RETRY;
        let own = Backoff::new(floor, ceiling, 0.0);
        let own = own.map_or(ceiling, |backoff| backoff.after(self.failures, 0.0));
        self.not_before = now.boot + own.max(wait.unwrap_or_default());
        self.turn += 1;
        if let Some(case) = self.cases.get_mut(&notice.incident.incident_id) {
            (case.turn, case.failed) = (self.turn, true);
        }
    }

    /// How many incidents there is something to tell of.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.cases.values().filter(|case| case.is_owed()).count()
    }
}

#[cfg(test)]
mod tests;
