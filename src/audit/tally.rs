//! Which decisions have a line of their own, and how often each was repeated since. Pure.

use std::collections::HashMap;

use super::line::Seen;

/// As many different refusals of one user's questions are told apart in a period; further ones are
/// counted together, so that asking for portal after portal fills no disk.
const TOLD_APART: u32 = 100;

/// What was decided since it was last told.
#[derive(Debug, Default)]
pub(super) struct Tally {
    repeats: HashMap<Seen, u64>,
    refusals: HashMap<u32, u32>,
}

impl Tally {
    /// What `seen` counts as: itself, or one of many refusals of its caller's.
    pub(super) fn widen(&self, seen: Seen) -> Seen {
        let many = self.refusals.get(&seen.uid).is_some_and(|told| *told >= TOLD_APART);
        if seen.outcome != "ok" && many && !self.repeats.contains_key(&seen) {
            Seen { portal: None, token: None, ..seen }
        } else {
            seen
        }
    }

    /// Counts `seen` if there is a line of it; says whether there is.
    pub(super) fn repeats(&mut self, seen: &Seen) -> bool {
        self.repeats.get_mut(seen).is_some_and(|count| {
            *count += 1;
            true
        })
    }

    /// There is a line of it from now on.
    pub(super) fn written(&mut self, seen: Seen) {
        let (uid, refused) = (seen.uid, seen.outcome != "ok");
        if self.repeats.insert(seen, 0).is_none() && refused {
            *self.refusals.entry(uid).or_default() += 1;
        }
    }

    /// What was repeated, and how often. What was not since the last time is forgotten.
    pub(super) fn take(&mut self) -> Vec<(Seen, u64)> {
        self.refusals.clear();
        self.repeats.retain(|_, count| *count > 0);
        let mut told: Vec<_> = self
            .repeats
            .iter_mut()
            .map(|(seen, count)| (seen.clone(), std::mem::take(count)))
            .collect();
        told.sort();
        told
    }

    /// They could not be told after all.
    pub(super) fn put_back(&mut self, told: Vec<(Seen, u64)>) {
        for (seen, count) in told {
            *self.repeats.entry(seen).or_default() += count;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::portal::PortalId;

    fn seen(uid: u32, portal: u64, outcome: &'static str) -> Seen {
        let portal = PortalId::new(portal).ok();
        Seen { uid, gid: uid, action: "token", portal, outcome, token: None }
    }

    #[test]
    fn i11_the_first_is_a_line_and_repeats_are_counted_until_they_are_told() {
        let mut tally = Tally::default();
        let a = seen(1, 7, "ok");
        assert!(!tally.repeats(&a), "no line yet");
        tally.written(a.clone());
        assert!(tally.repeats(&a) && tally.repeats(&a));
        assert!(!tally.repeats(&seen(2, 7, "ok")), "another caller");
        assert!(!tally.repeats(&seen(1, 7, "forbidden")), "another outcome");
        assert_eq!(tally.take(), [(a.clone(), 2)]);
        assert!(tally.repeats(&a), "still known");
        assert_eq!(tally.take(), [(a.clone(), 1)]);
        assert_eq!(tally.take(), []);
        assert!(!tally.repeats(&a), "forgotten after a quiet minute");
    }

    #[test]
    fn a_count_that_could_not_be_told_is_told_later() {
        let mut tally = Tally::default();
        let a = seen(1, 7, "ok");
        tally.written(a.clone());
        tally.repeats(&a);
        let told = tally.take();
        tally.repeats(&a);
        tally.put_back(told);
        assert_eq!(tally.take(), [(a, 2)]);
    }

    #[test]
    fn i11_a_flood_of_different_refusals_is_bounded_for_each_user() {
        let mut tally = Tally::default();
        for portal in 1..=100_000 {
            let one = tally.widen(seen(1, portal, "forbidden"));
            if !tally.repeats(&one) {
                tally.written(one);
            }
        }
        let lines = tally.repeats.len();
        assert_eq!(lines, 101, "a hundred and the rest");
        let rest = Seen { portal: None, ..seen(1, 1, "forbidden") };
        assert_eq!(tally.repeats[&rest], 100_000 - 101);
        assert_eq!(tally.widen(seen(2, 5, "forbidden")), seen(2, 5, "forbidden"), "another user's");
        assert_eq!(tally.widen(seen(1, 5, "ok")), seen(1, 5, "ok"), "what was given");
    }
}
