//! One portal as the engine holds it: what the rules know, the secrets beside it, and which of its refresh tokens
//! is which. Talks to nobody.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;

use super::{
    arrivals::{Arrival, Enrolling},
    leaving::Leaving,
    load::StoredGrant,
    view::{Issued, Slot},
};
use crate::{
    journal::Answer,
    lifecycle::Portal,
    portal::Scopes,
    secret::{Fingerprint, RefreshToken},
    time::BootTime,
};

/// As many of a grant's earlier refresh tokens are remembered by name.
const ANCESTORS: usize = 96;

/// One portal: what the rules know, and the secrets beside it.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts, each with its own name")]
pub(super) struct Entry {
    pub(super) portal: Portal,
    /// What the store has.
    pub(super) stored: Option<StoredGrant>,
    /// A newer refresh token that the store does not have yet.
    pub(super) unsaved: Option<RefreshToken>,
    /// The names of the grant's refresh tokens, oldest first, the one in use among them or not.
    pub(super) lineage: Vec<Fingerprint>,
    /// A refresh token that an earlier process was about to spend, and that is not the one in use: the store
    /// may show yet that it is (I4).
    pub(super) intended: Option<Fingerprint>,
    /// What HubSpot answered, on its way into the journal.
    pub(super) answer: Option<Answer>,
    /// What callers get.
    pub(super) issued: Option<Issued>,
    /// What callers will get once its refresh token is stored (I3).
    pub(super) held: Option<Issued>,
    pub(super) last_refresh: Option<Timestamp>,
    pub(super) scopes: Option<Scopes>,
    /// Grows with every change of `stored`.
    pub(super) stamp: u64,
    /// A reading came while something was in flight; read again when it is done.
    pub(super) look_again: bool,
    /// Somebody waits for a token: what is asked of HubSpot goes to the front.
    pub(super) wanted: bool,
    /// The record can't be used as it stands; the grant in memory goes on.
    pub(super) unusable: bool,
    /// The grant came by an order, and the store has never had a record of this portal.
    pub(super) is_new: bool,
    /// Whoever waits for the newest grant to be stored: until then it wins over what stands in the store.
    pub(super) enrolling: Option<Enrolling>,
    /// A grant that is taken over as soon as nothing is under way.
    pub(super) arriving: Option<Box<Arrival>>,
    /// The number of the last one that came.
    pub(super) newest_arrival: u64,
    /// The portal goes as soon as nothing is under way.
    pub(super) leaving: Option<Leaving>,
    pub(super) slot: Arc<Slot>,
    pub(super) timer: Option<BootTime>,
}

impl Entry {
    pub(super) fn is_recent(&self, now: BootTime, window: Duration) -> bool {
        self.slot.last_used().is_some_and(|used| now.since(used) < window)
    }

    /// When the token in hand is used up: what is needed for the next one goes in that order.
    pub(super) fn urgency(&self) -> BootTime {
        self.portal.token.map_or(BootTime::default(), |token| token.expires)
    }

    /// The refresh token in use.
    pub(super) fn refresh_token(&self) -> Option<&RefreshToken> {
        self.unsaved.as_ref().or(self.stored.as_ref().map(|stored| &stored.refresh_token))
    }

    /// What a refresh token that stands in the store is to the grant in use.
    pub(super) fn relation(&self, token: &RefreshToken) -> Relation {
        let name = token.fingerprint();
        let newest = || self.lineage.last() == Some(&name);
        match self.refresh_token() {
            Some(used) if used.same_as(token) => Relation::InUse,
            // Nothing is known of the store yet, and of the grant no more than its name.
            None if newest() => Relation::InUse,
            _ if self.lineage.contains(&name) || self.enrolling.is_some() => Relation::Behind,
            _ => Relation::Other,
        }
    }

    /// Takes over what stands in the store, and says whether it is another grant.
    pub(super) fn take_over(&mut self, stored: StoredGrant) -> Relation {
        let relation = self.relation(&stored.refresh_token);
        match relation {
            Relation::InUse => self.unsaved = None,
            Relation::Behind => {
                // The store has come back without what it had, or has not taken it yet.
                let newer = self.refresh_token().cloned();
                self.unsaved = newer;
                let name = stored.refresh_token.fingerprint();
                if let Some(enrolling) = &mut self.enrolling
                    && !self.lineage.contains(&name)
                {
                    enrolling.replaces();
                }
            }
            Relation::Other => {
                if self.portal.in_doubt {
                    self.intended = self.refresh_token().map(RefreshToken::fingerprint);
                }
                self.unsaved = None;
                self.lineage.clear();
            }
        }
        self.store_has(Some(stored));
        relation
    }

    /// A spend replaced `spent` by `newer`.
    pub(super) fn replaced(&mut self, spent: Fingerprint, newer: RefreshToken) {
        if self.lineage.last() != Some(&spent) {
            self.lineage.push(spent);
        }
        self.lineage.push(newer.fingerprint());
        let surplus = self.lineage.len().saturating_sub(ANCESTORS);
        self.lineage.drain(..surplus);
        self.unsaved = Some(newer);
    }

    /// What is in memory came by an order and is owed to the store, which has no record of the portal (any more):
    /// there will be one. Says whether that is so.
    pub(super) fn is_owed(&mut self) -> bool {
        if self.enrolling.is_some() && !self.is_new {
            self.is_new = true;
            self.store_has(None);
        }
        self.is_new
    }

    pub(super) fn store_has(&mut self, stored: Option<StoredGrant>) {
        self.stored = stored;
        self.stamp += 1;
    }
}

/// What a refresh token that stands in the store is to the grant in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Relation {
    /// The very one.
    InUse,
    /// One that the one in use came from.
    Behind,
    /// Another grant: somebody stored it, and it wins (I13).
    Other,
}
