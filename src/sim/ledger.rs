//! The ground truth: every presentation of every refresh token, in order, and what became of the
//! answer. Knows no HTTP; holds fingerprints, never tokens.

use std::collections::VecDeque;

use jiff::Timestamp;
use serde::Serialize;

use super::api::{Endpoint, Version};
use crate::portal::PortalId;

/// How many presentations are remembered.
const REMEMBERED: usize = 100_000;

/// One presentation of a refresh token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Presentation {
    /// Its place in the order of arrival, from 1.
    pub seq: u64,
    /// When it arrived.
    pub at: Timestamp,
    /// Where.
    pub endpoint: Endpoint,
    /// By which API version.
    pub version: Version,
    /// Whose token it is; none if the token is unknown.
    pub portal: Option<PortalId>,
    /// The token's fingerprint, as [`RefreshToken::fingerprint`](crate::secret::RefreshToken) gives it.
    pub token: Option<String>,
    /// How many tokens the portal had been given when this one was issued, itself included.
    pub generation: Option<u32>,
    /// HTTP status of the answer, whether or not it was delivered.
    pub http: Option<u16>,
    /// The word of the refusal.
    pub refusal: Option<&'static str>,
    /// Whether the request had its effect.
    pub carried_out: bool,
    /// The generation of the refresh token in the answer.
    pub issued: Option<u32>,
    /// What became of the answer.
    pub delivery: Delivery,
    /// Refreshes of the portal in flight when it arrived, this one included.
    pub concurrent: u32,
}

/// What became of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Delivery {
    /// It is on its way.
    Pending,
    /// It was handed to the connection whole.
    Delivered,
    /// A fault or the client cut it off.
    Cut,
}

/// The presentations, oldest first.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    entries: VecDeque<Presentation>,
    last: u64,
}

impl Ledger {
    /// Takes note of `entry` under the next number, which it returns.
    pub(super) fn note(&mut self, entry: Presentation) -> u64 {
        self.last += 1;
        if self.entries.len() == REMEMBERED {
            self.entries.pop_front();
        }
        self.entries.push_back(Presentation { seq: self.last, ..entry });
        self.last
    }

    /// The entry of this number, if it is remembered.
    pub(super) fn entry(&mut self, seq: u64) -> Option<&mut Presentation> {
        let first = self.entries.front()?.seq;
        let place = usize::try_from(seq.checked_sub(first)?).ok()?;
        self.entries.get_mut(place)
    }

    /// The entries after number `after`, of one portal or of all.
    pub(super) fn after(
        &self,
        after: u64,
        portal: Option<PortalId>,
    ) -> impl Iterator<Item = &Presentation> {
        let start = self.entries.partition_point(|entry| entry.seq <= after);
        self.entries.range(start..).filter(move |entry| portal.is_none() || entry.portal == portal)
    }

    /// How many there ever were.
    pub(super) const fn len(&self) -> u64 {
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(portal: u64) -> Presentation {
        Presentation {
            seq: 0,
            at: Timestamp::UNIX_EPOCH,
            endpoint: Endpoint::Token,
            version: Version::V3,
            portal: PortalId::new(portal).ok(),
            token: None,
            generation: None,
            http: None,
            refusal: None,
            carried_out: false,
            issued: None,
            delivery: Delivery::Pending,
            concurrent: 1,
        }
    }

    #[test]
    fn entries_are_numbered_and_found_after_the_oldest_are_forgotten() {
        let mut ledger = Ledger::default();
        for number in 0..REMEMBERED as u64 + 10 {
            assert_eq!(ledger.note(entry(1 + number % 2)), number + 1);
        }
        assert!(ledger.entry(10).is_none());
        assert_eq!(ledger.entry(11).unwrap().seq, 11);
        assert_eq!(ledger.len(), REMEMBERED as u64 + 10);
        let last: Vec<u64> =
            ledger.after(REMEMBERED as u64 + 7, PortalId::new(1).ok()).map(|e| e.seq).collect();
        assert_eq!(last, [REMEMBERED as u64 + 9]);
    }
}
