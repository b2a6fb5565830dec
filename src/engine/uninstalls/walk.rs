//! How the webhooks journal is walked: where to read next, what has come together, how long to wait, what people are
//! told. Pure: what was read comes in, and what follows comes out.

use std::time::Duration;

use crate::{
    hubspot::webhooks_journal::{Change, Happened, Offset, Place, Trouble},
    time::{Backoff, BootTime},
};

use super::Changes;

/// HubSpot keeps the journal for three days; what was not read for longer than this counts as lost.
pub(super) const KEPT: Duration = Duration::from_secs(60 * 3600);
/// Between two entries: HubSpot takes a hundred requests a second (study `hubspot.md` 5.4), and an entry costs two.
const STEP: Duration = Duration::from_millis(50);
/// What comes together in so long is told at once, each portal once.
const TOGETHER: Duration = Duration::from_secs(10);
/// And no more of it than this.
const MOST: usize = 10_000;
/// A file that can't be read is tried so often before it is passed over.
const TRIES: u32 = 3;
/// Failures in a row before people are told of trouble that may pass by itself.
const NOTABLE: u32 = 3;
/// The longest wait after failures; for what only people can mend; and what HubSpot can ask for.
const LONGEST: Duration = Duration::from_secs(15 * 60);
const LONGEST_REFUSED: Duration = Duration::from_secs(3600);
const JITTER: f64 = 0.3;

/// Up to where the journal had been read, and how long ago that was, if it is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    /// The place.
    pub offset: Offset,
    /// How long ago nothing stood beyond it.
    pub ago: Option<Duration>,
}

/// What one step brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Brought {
    /// Nothing is beyond the place.
    Nothing,
    /// The journal's end, where reading is to begin.
    End(Offset),
    /// An entry with what it tells.
    Entry(Offset, Vec<Happened>),
    /// An entry whose file can't be had or read.
    Unreadable(Offset, Trouble),
    /// The place is not there any more.
    Lost,
    /// The journal can't be read.
    Failed(Trouble),
}

/// What follows.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Next {
    /// After this, the next step.
    pub(super) wait: Duration,
    /// The engine is to be told of what has come together, and then the place to be remembered.
    pub(super) tell: bool,
    /// What people are told, if it is news.
    pub(super) news: Option<News>,
}

/// What people are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum News {
    /// Reading begins.
    Begun,
    /// What was told before is lost.
    Missed,
    /// An entry was passed over.
    PassedOver(Trouble),
    /// The journal can't be read.
    Trouble(Trouble),
    /// It can be read again.
    Well,
}

/// Where the reading is.
#[derive(Debug)]
pub(super) struct Walk {
    every: Duration,
    pub(super) place: Place,
    /// When there was last nothing beyond it.
    read: Option<BootTime>,
    /// It is begun again because the place was lost.
    lost: bool,
    /// The place that HubSpot says is not there.
    former: Option<Offset>,
    changes: Changes,
    since: Option<BootTime>,
    failures: u32,
    spoilt: u32,
    /// What people were told of.
    told: Option<Trouble>,
}

impl Walk {
    /// One that reads each `every`, from where it was left.
    pub(super) fn from(left: Option<Read>, every: Duration, now: BootTime) -> Self {
        let lost = left.as_ref().is_some_and(|read| read.ago.is_none_or(|ago| ago > KEPT));
        let (place, read) = match left.filter(|_| !lost) {
            Some(Read { offset, ago }) => {
                (Place::After(offset), Some(now - ago.unwrap_or_default()))
            }
            None => (Place::Latest, None),
        };
        let (changes, since) = (Changes::default(), None);
        let (former, told) = (None, None);
        Self { every, place, read, lost, former, changes, since, failures: 0, spoilt: 0, told }
    }

    /// Where to read now: what was not read for too long is lost, whatever HubSpot says of it.
    pub(super) fn place(&mut self, now: BootTime) -> &Place {
        if self.read.is_some_and(|read| now.since(read) > KEPT) {
            self.begin_again();
        }
        &self.place
    }

    fn begin_again(&mut self) {
        (self.place, self.read, self.lost) = (Place::Latest, None, true);
    }

    /// What has come together.
    pub(super) fn take(&mut self) -> Changes {
        self.since = None;
        std::mem::take(&mut self.changes)
    }

    /// What is to be remembered over a restart, once the engine was told of everything before it: the place, and when
    /// nothing stood beyond it.
    pub(super) fn settled(&self) -> Option<(&Offset, BootTime)> {
        match &self.place {
            Place::After(offset) if self.changes.is_empty() => Some((offset, self.read?)),
            _ => None,
        }
    }

    /// What follows from a step. `chance` is a number from 0 to 1.
    pub(super) fn after(&mut self, brought: Brought, now: BootTime, chance: f64) -> Next {
        match brought {
            Brought::Nothing => {
                let begins = self.place == Place::Latest;
                if begins {
                    (self.place, self.former) = (Place::Earliest, None);
                }
                self.at_end(begins, now)
            }
            Brought::End(offset) => {
                // Of nothing new, too, it may be said that it is not there.
                let same = self.former.take().is_some_and(|former| former == offset);
                self.place = Place::After(offset);
                self.lost &= !same;
                self.at_end(!same, now)
            }
            Brought::Entry(offset, happened) => {
                self.place = Place::After(offset);
                self.spoilt = 0;
                for Happened { portal, change } in happened {
                    match change {
                        Change::Uninstalled => self.changes.uninstalled.insert(portal),
                        Change::Installed => self.changes.installed.insert(portal),
                    };
                }
                self.go_on(now)
            }
            Brought::Unreadable(_, Trouble::Unanswered | Trouble::RateLimited(_))
            | Brought::Failed(_)
            | Brought::Lost => self.failed(&brought, now, chance),
            Brought::Unreadable(offset, trouble) => {
                self.spoilt += 1;
                if self.spoilt < TRIES {
                    return self.failed(&Brought::Failed(trouble), now, chance);
                }
                self.place = Place::After(offset);
                (self.spoilt, self.changes.missed) = (0, true);
                Next { news: Some(News::PassedOver(trouble)), ..self.go_on(now) }
            }
        }
    }

    fn at_end(&mut self, begins: bool, now: BootTime) -> Next {
        self.read = Some(now);
        self.changes.missed |= begins;
        let well = self.well();
        let begun = if self.lost { News::Missed } else { News::Begun };
        self.lost &= !begins;
        let tell = !self.changes.is_empty();
        Next { wait: self.every, tell, news: if begins { Some(begun) } else { well } }
    }

    fn go_on(&mut self, now: BootTime) -> Next {
        let news = self.well();
        let since = *self.since.get_or_insert(now);
        let tell = now.since(since) >= TOGETHER || self.changes.len() >= MOST;
        Next { wait: STEP, tell, news }
    }

    fn well(&mut self) -> Option<News> {
        self.failures = 0;
        self.told.take().map(|_| News::Well)
    }

    fn failed(&mut self, brought: &Brought, now: BootTime, chance: f64) -> Next {
        let trouble = match brought {
            Brought::Lost => {
                // Where there is a journal at all, its end shows it.
                if let Place::After(offset) = &self.place {
                    self.former = Some(offset.clone());
                }
                self.begin_again();
                return Next { wait: STEP, tell: false, news: None };
            }
            Brought::Failed(trouble) | Brought::Unreadable(_, trouble) => *trouble,
            Brought::Nothing | Brought::End(_) | Brought::Entry(..) => return self.go_on(now),
        };
        self.failures = self.failures.saturating_add(1);
        let longest = if is_lasting(trouble) { LONGEST_REFUSED } else { LONGEST };
        let backoff = Backoff::new(self.every, longest.max(self.every), JITTER);
        let wait = backoff.map_or(longest, |backoff| backoff.after(self.failures, chance));
        let wait = match trouble {
            // Another token, or a link that has not expired, is all it takes.
            Trouble::TokenRefused | Trouble::NotThere if self.failures == 1 => STEP,
            Trouble::RateLimited(asked) => wait.max(asked.unwrap_or_default()),
            _ => wait,
        };
        let notable = is_lasting(trouble) || self.failures >= NOTABLE;
        // For how long HubSpot asks to wait makes no other trouble of it.
        let known = self.told.is_some_and(|told| told.as_str() == trouble.as_str());
        let news = (notable && !known).then_some(News::Trouble(trouble));
        if news.is_some() {
            self.told = Some(trouble);
        }
        // What came together before is not kept waiting.
        Next { wait, tell: !self.changes.is_empty(), news }
    }
}

/// Whether it will be so until people do something about it.
const fn is_lasting(trouble: Trouble) -> bool {
    matches!(trouble, Trouble::NotEntitled | Trouble::AppRefused)
}

#[cfg(test)]
mod tests;
