//! What goes to HubSpot, and when: taken from the queue a little ahead, so that its intent is durable by
//! the time it may go (I4), and sent one by one at the pace that HubSpot bears (I8). Whose turn it is, the
//! queue says; what is sent, the rules.

use std::{collections::VecDeque, time::Duration};

use super::{
    Engine,
    queue::{Lane, Request},
};
use crate::{
    lifecycle::{Event, schedule::Pace},
    portal::PortalId,
    time::BootTime,
};

/// As many requests as may be under way at HubSpot at once: a hung edge must not pile up more.
const AT_HUBSPOT: usize = 64;
/// As many orders, which take longer than a request does.
const ERRANDS_OUT: usize = 16;
/// An answer is waited for so long (design section 3), and longer where it may bring a refresh token that nobody
/// else will ever see: whoever wants the token may be let go, the answer may not (I3).
const PATIENCE: Duration = Duration::from_secs(10);
const AT_STAKE: Duration = Duration::from_secs(30);
/// The share of the rate that portals failing on their own account may take (I7).
const RETRY_SHARE: f64 = 0.2;
/// The share that orders may take: whoever enrols a thousand customers holds up nobody's renewal.
const ERRAND_SHARE: f64 = 0.4;
/// What is taken from the queue so long before it may be sent finds the journal's disk in time. Longer
/// ahead, and who comes first would be decided too early.
const AHEAD: Duration = Duration::from_millis(250);

/// What is on its way from the queue to HubSpot.
#[derive(Debug)]
pub(super) struct Sending {
    pace: Pace,
    retries: Pace,
    errands: Pace,
    /// Refreshes whose intent is on its way into the journal.
    pub(super) intending: usize,
    /// What may be sent as soon as the pace lets it.
    pub(super) ready: VecDeque<(PortalId, Request)>,
    pub(super) at_hubspot: usize,
    /// Orders that are carried out at present.
    pub(super) errands_out: usize,
}

impl Sending {
    pub(super) fn at(rate: f64) -> Self {
        Self {
            pace: Pace::per_second(rate),
            retries: Pace::per_second(rate * RETRY_SHARE),
            errands: Pace::per_second(rate * ERRAND_SHARE),
            intending: 0,
            ready: VecDeque::new(),
            at_hubspot: 0,
            errands_out: 0,
        }
    }

    fn change_rate(&mut self, rate: f64) {
        self.pace.change_rate(rate);
        self.retries.change_rate(rate * RETRY_SHARE);
        self.errands.change_rate(rate * ERRAND_SHARE);
    }

    /// HubSpot asked for quiet.
    pub(super) fn hold_until(&mut self, until: BootTime) {
        self.pace.hold_until(until);
    }

    /// When the next request may be sent.
    pub(super) const fn free_at(&self) -> BootTime {
        self.pace.free_at()
    }

    /// Whether another may be taken from the queue, at `rate`.
    fn has_room(&self, rate: f64) -> bool {
        #[expect(clippy::cast_precision_loss, reason = "a few at most")]
        let taken = (self.intending + self.ready.len()) as f64;
        let full = self.at_hubspot + self.intending + self.ready.len() >= AT_HUBSPOT;
        taken < (rate * AHEAD.as_secs_f64()).max(1.0) && !full
    }
}

impl Engine {
    /// When something can be taken from the queue or sent, if nothing happens before.
    pub(super) fn sending_due(&self, now: BootTime) -> Option<BootTime> {
        let free = self.sending.free_at();
        if !self.sending.ready.is_empty() {
            return Some(free);
        }
        let errand = free.max(self.sending.errands.free_at());
        let errand = (self.may_send_errands()).then_some(errand);
        let early = free - AHEAD;
        let turn = if self.queue.holds_only_retries() {
            early.max(self.sending.retries.free_at())
        } else {
            early
        };
        let turn = self.may_take(now).then_some(turn);
        [errand, turn].into_iter().flatten().min()
    }

    fn may_send_errands(&self) -> bool {
        !self.errands.is_empty() && self.sending.errands_out < ERRANDS_OUT
    }

    fn may_take(&self, now: BootTime) -> bool {
        let open = self.app.is_open() && self.pair.is_some() && !self.draining;
        open && !self.queue.is_empty() && self.sending.has_room(self.rate.at(now))
    }

    /// Gives those their turn whose turn it is, and sends what is ready.
    pub(super) fn send_what_may_go(&mut self) {
        let now = self.world.clock.boot();
        self.sending.change_rate(self.rate.at(now));
        while self.may_take(now) && self.sending.free_at() <= now + AHEAD {
            let retry = self.sending.retries.free_at() <= now;
            let Some(next) = self.queue.pop(retry) else { break };
            if next.lane == Lane::Retries {
                // Free, as was just seen.
                self.sending.retries.take(now).ok();
            }
            self.metrics.refresh_lag.observe(now.since(next.since).as_secs_f64());
            self.step(next.portal, Event::Turn);
        }
        self.drop_unwanted_errands();
        while self.may_send_errands()
            && self.sending.errands.free_at() <= now
            && self.sending.pace.take(now).is_ok()
        {
            // Free, as was just seen.
            self.sending.errands.take(now).ok();
            self.send_errand();
        }
        // What can't be sent takes no slot, and hears of it.
        while !self.sending.ready.is_empty()
            && (self.draining || !self.app.is_open() || self.sending.pace.take(now).is_ok())
        {
            if let Some((portal, request)) = self.sending.ready.pop_front() {
                self.send(portal, request);
            }
        }
    }

    /// What was ready waits in the queue again: until it may be sent, more than its turn may have changed.
    pub(super) fn take_back_ready(&mut self) {
        for (portal, _) in std::mem::take(&mut self.sending.ready) {
            self.step(portal, Event::NotSent);
        }
    }

    /// Sends what has its turn, unless the end has come or there is nothing to send it with.
    fn send(&mut self, portal: PortalId, request: Request) {
        let Some(entry) = self.portals.get(portal) else { return };
        let (generation, world) = (entry.portal.generation, self.world.clone());
        // Since its turn the portal may have been paused, or the client pair refused.
        let may = !entry.portal.paused && !self.draining && self.app.is_open();
        let token = entry.refresh_token().cloned().filter(|_| may);
        let (Some(token), Some(pair)) = (token, self.pair.clone()) else {
            return self.step(portal, Event::NotSent);
        };
        self.sending.at_hubspot += 1;
        let patience = if self.rotation.is_possible() { AT_STAKE } else { PATIENCE };
        match request {
            Request::Refresh => {
                let pair = self.canary_pair(portal).unwrap_or(pair);
                self.tasks.spawn(world.refresh(pair, portal, generation, token, patience))
            }
            Request::Introspect => {
                self.tasks.spawn(world.introspect(pair, portal, generation, token))
            }
        };
    }
}
