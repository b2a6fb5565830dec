//! Who is next at HubSpot: callers who wait, then renewals by the expiry of the token in hand, then
//! questions. One place a portal; pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::{portal::PortalId, time::BootTime};

/// What is to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Request {
    Refresh,
    Introspect,
}

/// Lanes in the order they are served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Lane {
    /// Somebody waits for the answer.
    Interactive,
    /// On schedule.
    Scheduled,
    /// After a failure: only what the healthy leave over (I7).
    Retries,
    /// Questions, which nobody waits for.
    Questions,
}

type Place = (Lane, BootTime, PortalId);

#[derive(Debug, Default)]
pub(super) struct Queue {
    order: BTreeSet<Place>,
    requests: BTreeMap<PortalId, (Place, Request, BootTime)>,
}

impl Queue {
    /// Queues `request`; a portal has at most one. `urgency` is when the token in hand expires.
    pub(super) fn push(
        &mut self,
        portal: PortalId,
        request: Request,
        lane: Lane,
        urgency: BootTime,
        now: BootTime,
    ) {
        self.remove(portal);
        let place = (lane, urgency, portal);
        self.order.insert(place);
        self.requests.insert(portal, (place, request, now));
    }

    /// Moves what is queued for `portal` to the front lane: somebody waits for it now.
    pub(super) fn hurry(&mut self, portal: PortalId) {
        if let Some((place, _, _)) = self.requests.get_mut(&portal) {
            self.order.remove(place);
            place.0 = Lane::Interactive;
            self.order.insert(*place);
        }
    }

    /// Takes a request back; says whether there was one.
    pub(super) fn remove(&mut self, portal: PortalId) -> bool {
        let removed = self.requests.remove(&portal);
        removed.is_some_and(|(place, _, _)| self.order.remove(&place))
    }

    /// The next one, with the instant it was queued at.
    pub(super) fn pop(&mut self) -> Option<(PortalId, Request, BootTime)> {
        let (_, _, portal) = self.order.pop_first()?;
        let (_, request, since) = self.requests.remove(&portal)?;
        Some((portal, request, since))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn i7_i8_callers_come_first_then_the_soonest_expiry_then_retries_then_questions() {
        let at = |s| BootTime::new(Duration::from_secs(s));
        let id = |n| PortalId::new(n).unwrap();
        let mut queue = Queue::default();
        queue.push(id(1), Request::Introspect, Lane::Questions, at(1), at(0));
        queue.push(id(5), Request::Refresh, Lane::Retries, at(0), at(0));
        queue.push(id(2), Request::Refresh, Lane::Scheduled, at(50), at(0));
        queue.push(id(3), Request::Refresh, Lane::Scheduled, at(20), at(0));
        queue.push(id(4), Request::Refresh, Lane::Scheduled, at(90), at(0));
        queue.hurry(id(4));
        queue.hurry(id(99));
        let order: Vec<u64> =
            std::iter::from_fn(|| queue.pop()).map(|(p, _, _)| p.number()).collect();
        assert_eq!(order, [4, 3, 2, 5, 1]);
        assert!(queue.is_empty());
    }

    #[test]
    fn i2_a_portal_has_one_place_in_the_queue() {
        let id = PortalId::new(1).unwrap();
        let now = BootTime::default();
        let mut queue = Queue::default();
        queue.push(id, Request::Introspect, Lane::Questions, now, now);
        queue.push(id, Request::Refresh, Lane::Scheduled, now, now);
        assert_eq!(queue.pop().map(|(_, request, _)| request), Some(Request::Refresh));
        assert_eq!(queue.pop(), None);
    }
}
