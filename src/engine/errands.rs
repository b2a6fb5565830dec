//! Orders that wait for their turn: at HubSpot, where they have a share of the rate (I8), and at a portal, where one
//! thing happens at a time: what is under way ends first, then the portal leaves, then another grant arrives.

use std::{collections::VecDeque, time::Duration};

use tokio::sync::{mpsc, oneshot};

use super::{
    Denial, Engine,
    denial::AGAIN,
    leaving::{Leaving, Turn},
    orders::{News, Offered, Order, tell},
    upkeep::{Probing, Question},
};
use crate::{
    access::Portals,
    lifecycle::{App, ClientPair, Event, Refusal, RefusalClass},
    portal::PortalId,
};

/// As many orders of a kind wait for their turn; more would wait longer than anybody listens.
const MOST_WAITING: usize = 64;

/// What waits for its turn at HubSpot. Grants that are to end come first, and wait by themselves: no flood of enrolments
/// keeps anybody from ending one.
#[derive(Debug, Default)]
pub(super) struct Errands {
    ending: VecDeque<PortalId>,
    coming: VecDeque<Coming>,
    /// Whoever needs the client pair for a request of their own.
    lending: Option<oneshot::Sender<ClientPair>>,
}

/// A grant that is to be taken in.
#[derive(Debug)]
struct Coming {
    offered: Offered,
    reach: Portals,
    news: mpsc::Sender<News>,
}

enum Errand {
    TakeIn(Coming),
    /// End the grant of a portal that leaves.
    End(PortalId),
    Lend(oneshot::Sender<ClientPair>),
}

impl Errands {
    pub(super) fn is_empty(&self) -> bool {
        self.ending.is_empty() && self.coming.is_empty() && self.lending.is_none()
    }

    pub(super) fn may_end(&self) -> bool {
        self.ending.len() < MOST_WAITING
    }

    fn may_come(&self) -> bool {
        self.coming.len() < MOST_WAITING
    }

    /// Whoever asked before is told no.
    pub(super) fn lend(&mut self, to: oneshot::Sender<ClientPair>) {
        self.lending = Some(to);
    }

    fn end(&mut self, portal: PortalId) {
        if !self.ending.contains(&portal) {
            self.ending.push_back(portal);
        }
    }

    fn next(&mut self) -> Option<Errand> {
        let ending = self.ending.pop_front().map(Errand::End);
        let lending = || self.lending.take().map(Errand::Lend);
        ending.or_else(lending).or_else(|| self.coming.pop_front().map(Errand::TakeIn))
    }
}

/// Why an order came to nothing.
#[derive(Debug)]
pub(super) enum Failed {
    /// By what HubSpot said, which tells something of HubSpot and the app as well.
    AtHubSpot(Refusal),
    Otherwise(Denial),
}

impl Engine {
    /// Takes note of an order. What has to be asked of HubSpot waits for its turn.
    pub(super) fn take_order(&mut self, order: Order) {
        match order {
            Order::Enrol(offered, reach, news) => {
                if let Err(denial) = self.may_ask(self.errands.may_come()) {
                    return tell(&news, News::Refused(denial));
                }
                self.errands.coming.push_back(Coming { offered, reach, news });
            }
            Order::Remove(portal, revoke, wanting) => self.begin_leaving(portal, revoke, wanting),
            // Its portal is served on at once.
            Order::Withdrawn => self.drop_unwanted_errands(),
        }
    }

    /// Whether another order may wait for its turn, where there is `room` for it.
    pub(super) fn may_ask(&self, room: bool) -> Result<(), Denial> {
        // A grant that comes in is what shows that the app is not at fault.
        if matches!(self.app, App::Refused(_)) {
            let now = self.world.clock.boot();
            let again = self.app.next_probe().map_or(Duration::ZERO, |at| at.until(now));
            return Err(Denial::AppRejected(again.max(Duration::from_secs(1))));
        }
        if self.pair.is_none() {
            return Err(Denial::StoreUnreachable(AGAIN));
        }
        if !room || self.draining {
            return Err(Denial::TooMany(AGAIN));
        }
        Ok(())
    }

    /// What only waits for its turn is taken back, so that nothing is under way for it.
    pub(super) fn take_back(&mut self, portal: PortalId) {
        if self.queue.remove(portal) {
            self.step(portal, Event::NotSent);
        }
    }

    /// Sends the next errand to HubSpot. It takes a slot like any other request (I8).
    pub(super) fn send_errand(&mut self) {
        let Some(errand) = self.errands.next() else { return };
        let refused = matches!(self.app, App::Refused(_));
        let may = match (refused, self.pair.clone()) {
            (false, Some(pair)) => Ok(pair),
            _ => Err(Denial::AppRejected(AGAIN)),
        };
        match (errand, may) {
            (Errand::TakeIn(coming), Err(denial)) => tell(&coming.news, News::Refused(denial)),
            (Errand::TakeIn(Coming { offered, reach, news }), Ok(pair)) => {
                tell(&news, News::Sent);
                self.sending.errands_out += 1;
                self.tasks.spawn(self.world.clone().take_in(pair, offered, reach, news));
            }
            (Errand::End(portal), may) => self.end(portal, may),
            (Errand::Lend(to), Ok(pair)) => {
                // Whoever wanted it may have stopped.
                to.send(pair).ok();
            }
            (Errand::Lend(_), Err(_)) => {}
        }
    }

    /// Whether whoever gave the next order has gone: then it is not carried out.
    pub(super) fn drop_unwanted_errands(&mut self) {
        let mut given_up = Vec::new();
        let portals = &self.portals;
        self.errands.coming.retain(|coming| !coming.news.is_closed());
        self.errands.lending.take_if(|to| to.is_closed());
        self.errands.ending.retain(|portal| {
            let leaving = portals.get(*portal).and_then(|entry| entry.leaving.as_ref());
            let unwanted = leaving.is_none_or(Leaving::is_unwanted);
            given_up.extend(unwanted.then_some(*portal));
            !unwanted
        });
        for portal in given_up {
            self.stays(portal);
        }
    }

    /// What HubSpot refused an order with says something of HubSpot and the app too.
    pub(super) fn heed(&mut self, failed: Failed) -> Denial {
        let refusal = match failed {
            Failed::AtHubSpot(refusal) => refusal,
            Failed::Otherwise(denial) => return denial,
        };
        self.note_hubspot(Some(&refusal), Question::Order);
        match refusal.class {
            RefusalClass::RateLimited => self.throttled(refusal.retry_after),
            // Others' redirect URIs may be what is wrong: asked about a grant, HubSpot says.
            RefusalClass::AppRefused if self.probing == Probing::No => self.probe(),
            _ => {}
        }
        Denial::from(&refusal)
    }

    /// What waited for nothing to be under way for this portal; says whether there was anything.
    pub(super) fn follow_orders(&mut self, portal: PortalId) -> bool {
        if !self.portals.rests(portal) {
            return false;
        }
        let Some(entry) = self.portals.get_mut(portal) else { return false };
        let Some(leaving) = &mut entry.leaving else {
            let Some(arrival) = entry.arriving.take() else { return false };
            self.settle_in(portal, *arrival);
            return true;
        };
        match leaving.next() {
            Turn::Stay => self.stays(portal),
            Turn::End => self.errands.end(portal),
            Turn::Remove(waiting) => self.remove_record(portal, waiting),
            Turn::UnderWay => {}
        }
        true
    }

    /// The end has come for what has not been sent.
    pub(super) fn refuse_errands(&mut self) {
        let Errands { ending, coming, lending: _ } = std::mem::take(&mut self.errands);
        for coming in coming {
            tell(&coming.news, News::Refused(Denial::TooMany(AGAIN)));
        }
        for portal in ending {
            self.stays(portal);
        }
    }
}
