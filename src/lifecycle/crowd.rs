//! One refused grant, or most of them? A customer who leaves takes one grant along. When grants are
//! refused one after another and none is accepted in between, the cause is the app, the store or
//! HubSpot, and no portal may be blamed (I6; study `hubspot.md` 3.3). Pure, and bounded.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque, btree_map::Entry},
    time::Duration,
};

use crate::{portal::PortalId, time::BootTime};

/// So many refused in a row, and none accepted in between, are no coincidence.
const IN_A_ROW: usize = 3;
/// In a fleet of fewer portals than this nobody can be asked for a second opinion.
const SMALLEST_CROWD: usize = 3;
/// A storm: more refused than accepted, and this many at least, within [`WINDOW`].
const STORM: usize = 20;
const WINDOW: Duration = Duration::from_secs(60);
/// After a suspicion has been cleared, refusals are each believed on their own for so long: that some
/// grants are dead is known by then, and that not all are.
const CALM: Duration = Duration::from_secs(600);

/// What may be made of a grant's confirmed refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Belief {
    /// It is this portal's own: others are accepted.
    Own,
    /// It may be everybody's: another portal is to be asked about first.
    Unclear,
    /// It is everybody's.
    Common,
}

/// Whose grants were refused and accepted lately.
#[derive(Debug, Clone, Default)]
pub struct Crowd {
    /// Those that are refused at present, and since when.
    refused: BTreeMap<PortalId, BootTime>,
    /// When any grant was last accepted.
    accepted: Option<BootTime>,
    /// What was heard within the window; true is accepted.
    heard: VecDeque<(BootTime, bool)>,
    refusals_heard: usize,
    calm_until: BootTime,
    /// Those whose grants had ended before this process began: that they are refused is nothing new.
    known: BTreeSet<PortalId>,
}

impl Crowd {
    /// The grants of these are known to have ended before.
    pub fn knew(&mut self, portals: impl IntoIterator<Item = PortalId>) {
        self.known.extend(portals);
    }

    /// HubSpot accepted a grant of `portal`.
    pub fn accepted(&mut self, portal: PortalId, now: BootTime) {
        self.refused.remove(&portal);
        self.known.remove(&portal);
        self.accepted = Some(now);
        self.hear(now, true);
    }

    /// HubSpot refused the grant of `portal`.
    pub fn refused(&mut self, portal: PortalId, now: BootTime) {
        if self.known.contains(&portal) {
            return;
        }
        // Its first refusal counts, not the last: who was accepted since contradicts it.
        if let Entry::Vacant(vacant) = self.refused.entry(portal) {
            vacant.insert(now);
            self.hear(now, false);
        }
    }

    /// Whether `portal` is refused at present.
    #[must_use]
    pub fn has_refused(&self, portal: PortalId) -> bool {
        self.refused.contains_key(&portal)
    }

    /// What becomes of `portal` is known, or it is gone: it says no more about the others.
    pub fn settled(&mut self, portal: PortalId) {
        self.refused.remove(&portal);
    }

    /// A suspicion turned out to be unfounded, or its cause is gone.
    pub fn cleared(&mut self, now: BootTime) {
        let known = std::mem::take(&mut self.known);
        *self = Self { accepted: Some(now), calm_until: now + CALM, known, ..Self::default() };
    }

    /// What may be made of the refusal of `portal`, in a fleet of `portals` that can be asked about.
    #[must_use]
    pub fn judge(&self, portal: PortalId, portals: usize, now: BootTime) -> Belief {
        if portals < SMALLEST_CROWD || now < self.calm_until {
            return Belief::Own;
        }
        let since = |since: &BootTime| self.accepted.is_none_or(|accepted| *since > accepted);
        let in_a_row = self.refused.values().filter(|at| since(at)).take(IN_A_ROW).count();
        let accepted = self.heard.len() - self.refusals_heard;
        let storm = self.refusals_heard >= STORM && self.refusals_heard > accepted;
        if in_a_row >= IN_A_ROW || storm {
            return Belief::Common;
        }
        let alone = self.refused.get(&portal).is_none_or(|at| !since(at));
        if alone { Belief::Own } else { Belief::Unclear }
    }

    fn hear(&mut self, now: BootTime, accepted: bool) {
        self.heard.push_back((now, accepted));
        self.refusals_heard += usize::from(!accepted);
        while let Some((at, accepted)) = self.heard.front()
            && now.since(*at) > WINDOW
        {
            self.refusals_heard -= usize::from(!accepted);
            self.heard.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(seconds: u64) -> BootTime {
        BootTime::new(Duration::from_secs(1000 + seconds))
    }

    fn id(number: u64) -> PortalId {
        PortalId::new(number).unwrap()
    }

    #[test]
    fn i6_those_whose_end_was_known_before_a_start_are_no_crowd() {
        let portal = |number| PortalId::new(number).unwrap();
        let mut crowd = Crowd::default();
        crowd.knew((1..=9).map(portal));
        for number in 1..=9 {
            crowd.refused(portal(number), BootTime::default());
        }
        assert!(!crowd.has_refused(portal(1)), "it is nothing new");
        // One that was good again in between is one like any other.
        crowd.accepted(portal(1), BootTime::default());
        crowd.refused(portal(1), BootTime::default());
        assert!(crowd.has_refused(portal(1)));
    }

    #[test]
    fn i6_one_refused_while_another_is_accepted_is_its_own_affair() {
        let mut crowd = Crowd::default();
        crowd.accepted(id(2), at(0));
        crowd.refused(id(1), at(1));
        assert_eq!(crowd.judge(id(1), 10, at(1)), Belief::Unclear, "the other's luck may be over");
        crowd.accepted(id(2), at(2));
        assert_eq!(crowd.judge(id(1), 10, at(2)), Belief::Own);
    }

    #[test]
    fn who_is_refused_again_and_again_is_contradicted_by_one_acceptance_of_another() {
        let mut crowd = Crowd::default();
        for second in 0..5 {
            crowd.refused(id(1), at(second * 4));
            crowd.accepted(id(2), at(second * 4 + 1));
            assert_eq!(crowd.judge(id(1), 10, at(second * 4 + 3)), Belief::Own);
            crowd.refused(id(1), at(second * 4 + 3));
            assert_eq!(crowd.judge(id(1), 10, at(second * 4 + 3)), Belief::Own);
        }
    }

    #[test]
    fn i6_three_in_a_row_with_none_accepted_between_are_everybody_s() {
        let mut crowd = Crowd::default();
        crowd.accepted(id(9), at(0));
        for number in 1..=3 {
            crowd.refused(id(number), at(number));
            crowd.refused(id(number), at(number + 10));
        }
        for number in 1..=3 {
            assert_eq!(crowd.judge(id(number), 10, at(20)), Belief::Common);
        }
    }

    #[test]
    fn i6_a_storm_is_everybody_s_even_if_some_are_accepted() {
        let mut crowd = Crowd::default();
        for number in 0..25 {
            crowd.refused(id(100 + number), at(number));
            if number % 2 == 0 {
                crowd.accepted(id(1), at(number));
            }
        }
        assert_eq!(crowd.judge(id(100), 1000, at(25)), Belief::Common);
        crowd.accepted(id(1), at(200));
        assert_eq!(crowd.judge(id(100), 1000, at(200)), Belief::Own, "the storm is over");
    }

    #[test]
    fn in_a_fleet_of_two_nobody_else_can_be_asked() {
        let mut crowd = Crowd::default();
        crowd.refused(id(1), at(1));
        crowd.refused(id(2), at(1));
        assert_eq!(crowd.judge(id(1), 2, at(1)), Belief::Own);
        assert_eq!(crowd.judge(id(1), 3, at(1)), Belief::Unclear);
    }

    #[test]
    fn after_a_suspicion_is_cleared_each_refusal_stands_for_itself_for_a_while() {
        let mut crowd = Crowd::default();
        crowd.cleared(at(0));
        for number in 1..=50 {
            crowd.refused(id(number), at(1));
        }
        assert_eq!(crowd.judge(id(1), 100, at(2)), Belief::Own);
        assert_eq!(crowd.judge(id(1), 100, at(700)), Belief::Common);
    }

    proptest! {
        #[test]
        fn i6_what_is_believed_of_one_was_always_contradicted_by_another(
            news in prop::collection::vec((1_u64..8, any::<bool>(), 0_u64..100), 1..200), asked in 1_u64..8,
        ) {
            let mut crowd = Crowd::default();
            let mut now = 0;
            let mut told: Vec<(u64, bool, u64)> = Vec::new();
            for (number, accepted, gap) in news {
                now += gap;
                told.push((number, accepted, now));
                if accepted { crowd.accepted(id(number), at(now)) } else { crowd.refused(id(number), at(now)) }
            }
            let own = told.iter().rposition(|(number, accepted, _)| *number == asked && *accepted);
            let since = told.iter().skip(own.map_or(0, |at| at + 1)).find(|(number, ..)| *number == asked);
            if let Some((_, _, since)) = since {
                let contradicted = told.iter().any(|(number, accepted, when)| *accepted && *number != asked && when >= since);
                let belief = crowd.judge(id(asked), 8, at(now));
                prop_assert!(belief != Belief::Own || contradicted);
                let last_accepted = told.iter().rposition(|(_, accepted, _)| *accepted);
                let tail = &told[last_accepted.map_or(0, |at| at + 1)..];
                let new = |number: u64| {
                    let own = told.iter().rposition(|(n, accepted, _)| *n == number && *accepted);
                    let first = told.iter().skip(own.map_or(0, |at| at + 1)).find(|(n, ..)| *n == number);
                    let accepted_at = last_accepted.map(|at| told[at].2);
                    first.is_some_and(|(_, _, when)| accepted_at.is_none_or(|at| *when > at))
                };
                let fresh = (1..8).filter(|number| tail.iter().any(|(n, ..)| n == number) && new(*number));
                prop_assert!(fresh.count() < 3 || belief == Belief::Common);
            }
        }
    }
}
