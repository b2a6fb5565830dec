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
    /// After a failure of its own: a share of the rate, and no more (I7).
    Retries,
    /// Questions, which nobody waits for.
    Questions,
}

/// What is sent next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Next {
    pub(super) portal: PortalId,
    pub(super) request: Request,
    /// When it was queued.
    pub(super) since: BootTime,
    pub(super) lane: Lane,
}

type Place = (Lane, BootTime, PortalId);

#[derive(Debug, Clone, Default)]
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

    /// Moves what is queued for `portal` to the front lane: somebody waits for it now. A retry stays where
    /// it is (I7).
    pub(super) fn hurry(&mut self, portal: PortalId) {
        if let Some((place, _, _)) = self.requests.get_mut(&portal)
            && place.0 != Lane::Retries
        {
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

    /// What failed for HubSpot's sake is one of the healthy again.
    pub(super) fn excuse(&mut self, portal: PortalId) {
        if let Some((place, _, _)) = self.requests.get_mut(&portal)
            && place.0 == Lane::Retries
        {
            self.order.remove(place);
            place.0 = Lane::Scheduled;
            self.order.insert(*place);
        }
    }

    /// Takes the next one, if there is one that may be sent. `retry` says whether the retries' share has
    /// room: then one of theirs goes before what is planned, else none of theirs goes at all (I7).
    pub(super) fn pop(&mut self, retry: bool) -> Option<Next> {
        let place = *self.next(retry)?;
        self.order.remove(&place);
        let (lane, _, portal) = place;
        let (_, request, since) = self.requests.remove(&portal)?;
        Some(Next { portal, request, since, lane })
    }

    /// Whether nothing waits but retries.
    pub(super) fn holds_only_retries(&self) -> bool {
        self.next(false).is_none()
    }

    fn next(&self, retry: bool) -> Option<&Place> {
        let first_of = |lane| {
            let from = (lane, BootTime::default(), PortalId::FIRST);
            self.order.range(from..).next().filter(|place| place.0 == lane)
        };
        first_of(Lane::Interactive)
            .or_else(|| first_of(Lane::Retries).filter(|_| retry))
            .or_else(|| first_of(Lane::Scheduled))
            .or_else(|| first_of(Lane::Questions))
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
    fn i7_i8_callers_come_first_then_the_retries_share_then_the_soonest_expiry_then_questions() {
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
        let mut rest = queue.clone();
        let order = |queue: &mut Queue, retry| -> Vec<u64> {
            std::iter::from_fn(|| queue.pop(retry)).map(|next| next.portal.number()).collect()
        };
        assert_eq!(order(&mut queue, true), [4, 5, 3, 2, 1]);
        assert!(queue.is_empty());
        assert_eq!(order(&mut rest, false), [4, 3, 2, 1], "no share is left for retries");
        assert!(rest.holds_only_retries() && !rest.is_empty());
        rest.excuse(id(5));
        assert_eq!(order(&mut rest, false), [5], "it was HubSpot's fault");
    }

    #[test]
    fn i2_a_portal_has_one_place_in_the_queue() {
        let id = PortalId::new(1).unwrap();
        let now = BootTime::default();
        let mut queue = Queue::default();
        queue.push(id, Request::Introspect, Lane::Questions, now, now);
        queue.push(id, Request::Refresh, Lane::Scheduled, now, now);
        assert_eq!(queue.pop(true).map(|next| next.request), Some(Request::Refresh));
        assert_eq!(queue.pop(true), None);
    }
}
