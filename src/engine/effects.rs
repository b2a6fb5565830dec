//! Carries out what the rules decided for one portal, and turns what comes back into events. The
//! secrets move here; the rules never see them.

use std::{collections::BTreeSet, sync::Arc};

use super::{
    Engine,
    load::{Portals as Records, StoredGrant},
    portals::Stamps,
    queue::{Lane, Request},
    view::Issued,
    work::limited,
};
use crate::{
    incident::Kind,
    lifecycle::{
        Cause, Doubt, Effect, End, Event, Facts, Generation, Granted, Introspection, Outcome,
        Phase, Refusal, Reread, TokenLife,
    },
    portal::{PortalId, Scopes},
    secret::RefreshToken,
    store::{Record, StoreError, StoreErrorKind, Version},
    time::BootTime,
};

impl Engine {
    pub(super) fn carry_out(&mut self, portal: PortalId, effect: Effect, now: BootTime) {
        let wall = self.world.clock.wall_at(now);
        let Some(entry) = self.portals.get_mut(portal) else { return };
        let generation = entry.portal.generation;
        match effect {
            Effect::Refresh => {
                let urgency = entry.portal.token.map_or(BootTime::default(), |token| token.expires);
                let lane = match (entry.wanted, entry.portal.failures) {
                    (true, _) => Lane::Interactive,
                    (false, 0) => Lane::Scheduled,
                    (false, _) => Lane::Retries,
                };
                self.queue.push(portal, Request::Refresh, lane, urgency, now);
            }
            Effect::Introspect => {
                let in_doubt =
                    matches!(entry.portal.phase, Phase::Introspecting(Doubt::Refused(_)));
                let lane = match (entry.wanted, in_doubt) {
                    (true, _) => Lane::Interactive,
                    (false, true) => Lane::Scheduled,
                    (false, false) => Lane::Questions,
                };
                self.queue.push(portal, Request::Introspect, lane, now, now);
            }
            Effect::Reread => {
                let work = self.world.clone().reread(portal, generation);
                self.tasks.spawn(limited(Arc::clone(&self.store_permits), work));
            }
            Effect::Save => {
                if let (Some(base), Some(token)) = (entry.stored.clone(), entry.unsaved.clone()) {
                    let work = self.world.clone().save(portal, generation, base, token);
                    self.tasks.spawn(limited(Arc::clone(&self.store_permits), work));
                }
            }
            Effect::Publish => {
                entry.issued = entry.held.take();
                entry.wanted = false;
                entry.last_refresh = Some(wall);
            }
            Effect::Withdraw => {
                entry.issued = None;
                entry.held = None;
            }
            Effect::DropHeld => {
                entry.held = None;
                entry.unsaved = None;
            }
            Effect::Open(cause) => self.open(portal, cause),
            Effect::Close(cause) => {
                // What is said of the record stays true until the record is mended.
                if !(entry.unusable && kind(cause) == Kind::GrantMismatched) {
                    self.tell_close(kind(cause), Some(portal));
                }
            }
            Effect::AppRefused | Effect::AppAccepted | Effect::Throttled(_) => {}
        }
    }

    fn open(&mut self, portal: PortalId, cause: Cause) {
        let entry = self.portals.get(portal);
        let missing = || {
            let scopes = entry?.scopes.as_ref()?;
            Some(scopes.missing(&self.settings.required_scopes).to_string())
        };
        let detail = match cause {
            Cause::ScopeMissing => missing(),
            Cause::Ended(end) => Some(end.reason().to_owned()),
            Cause::Unsaved => None,
        };
        self.tell_open(kind(cause), Some(portal), detail.as_deref());
    }

    /// Sends what was queued; false if there is nothing to send it with.
    pub(super) fn send(&mut self, portal: PortalId, request: Request) -> bool {
        let Some(entry) = self.portals.get(portal) else { return false };
        let Some(token) = entry.refresh_token().cloned() else { return false };
        let (generation, pair) = (entry.portal.generation, self.pair.clone());
        let world = self.world.clone();
        match request {
            Request::Refresh => self.tasks.spawn(world.refresh(pair, portal, generation, token)),
            Request::Introspect => {
                self.tasks.spawn(world.introspect(pair, portal, generation, token))
            }
        };
        true
    }

    pub(super) fn refreshed(
        &mut self,
        portal: PortalId,
        generation: Generation,
        spent: &RefreshToken,
        started: BootTime,
        result: Result<Granted, Refusal>,
    ) {
        let outcome = match result {
            Err(Refusal { class, retry_after, .. }) => {
                Outcome::RefreshRefused { class, retry_after }
            }
            Ok(granted) => {
                let token = TokenLife::new(started, granted.expires_in);
                let facts = self.facts(portal, granted.portal, false, granted.scopes.as_ref());
                let newer = granted.refresh_token.filter(|token| !token.same_as(spent));
                let rotated = newer.is_some();
                if let Some(entry) = self.in_use(portal, generation) {
                    let fingerprint = granted.access_token.fingerprint();
                    let access_token = granted.access_token.into();
                    entry.held = Some(Issued { access_token, fingerprint });
                    if newer.is_some() {
                        entry.unsaved = newer;
                    }
                    if granted.scopes.is_some() {
                        entry.scopes = granted.scopes;
                    }
                }
                Outcome::Refreshed { token, rotated, facts }
            }
        };
        self.step(portal, Event::Done { generation, outcome });
    }

    pub(super) fn introspected(
        &mut self,
        portal: PortalId,
        generation: Generation,
        result: Result<Introspection, Refusal>,
    ) {
        let outcome = match result {
            Err(Refusal { class, retry_after, .. }) => {
                Outcome::IntrospectionRefused { class, retry_after }
            }
            Ok(Introspection::Inactive) => Outcome::IntrospectedInactive,
            Ok(Introspection::Active { portal: told, client_id, scopes }) => {
                let wrong_app = client_id.is_some_and(|id| id != self.pair.client_id);
                let facts = self.facts(portal, told, wrong_app, scopes.as_ref());
                if let (Some(entry), Some(scopes)) = (self.in_use(portal, generation), scopes) {
                    entry.scopes = Some(scopes);
                }
                Outcome::IntrospectedActive(facts)
            }
        };
        self.step(portal, Event::Done { generation, outcome });
    }

    pub(super) fn reread(
        &mut self,
        portal: PortalId,
        generation: Generation,
        result: Result<StoredGrant, StoreError>,
    ) {
        let reread = match result {
            Ok(stored) => match self.in_use(portal, generation) {
                Some(entry) => {
                    let same = entry.knows(&stored.refresh_token);
                    entry.store_has(Some(stored));
                    if !same {
                        entry.unsaved = None;
                    }
                    self.mended(portal);
                    if same { Reread::Same } else { Reread::Newer }
                }
                None => Reread::Failed,
            },
            Err(error) if error.kind == StoreErrorKind::Missing => return self.forget(portal),
            Err(error) if error.kind == StoreErrorKind::Corrupt => {
                self.unusable(portal, &error);
                Reread::Failed
            }
            Err(_) => Reread::Failed,
        };
        self.step(portal, Event::Done { generation, outcome: Outcome::Reread(reread) });
    }

    pub(super) fn saved(
        &mut self,
        portal: PortalId,
        generation: Generation,
        record: Record,
        token: RefreshToken,
        result: Result<Version, StoreError>,
    ) {
        let outcome = match result {
            Ok(version) => {
                if let Some(entry) = self.in_use(portal, generation) {
                    entry.store_has(Some(StoredGrant { refresh_token: token, record, version }));
                    entry.unsaved = None;
                }
                Outcome::Saved
            }
            Err(error)
                if matches!(error.kind, StoreErrorKind::Conflict | StoreErrorKind::Missing) =>
            {
                Outcome::SaveConflict
            }
            Err(error) => {
                tracing::error!(%portal, %error, hint = %error.hint, "a new refresh token could not be stored");
                Outcome::SaveFailed
            }
        };
        self.step(portal, Event::Done { generation, outcome });
    }

    /// A whole reading of the store. Without `stamps` it is the first.
    pub(super) fn take_records(&mut self, records: Records, stamps: Option<&Stamps>) {
        let before = self.portals.ids();
        let met: BTreeSet<PortalId> = records.iter().map(|(id, _)| *id).collect();
        for (portal, result) in records {
            let stamp = stamps.and_then(|stamps| stamps.get(&portal)).copied().unwrap_or_default();
            self.consider(portal, stamp, result);
        }
        for gone in before.into_iter().filter(|id| !met.contains(id)) {
            if self.portals.rests(gone) {
                self.forget(gone);
            } else if let Some(entry) = self.portals.get_mut(gone) {
                entry.look_again = true;
            }
        }
        self.publish_portals();
    }

    /// One record as read, begun when the portal's stamp was `stamp`.
    pub(super) fn consider(
        &mut self,
        portal: PortalId,
        stamp: u64,
        result: Result<StoredGrant, StoreError>,
    ) {
        let now = self.world.clock.boot();
        if self.portals.get(portal).is_none() {
            match result {
                Ok(stored) => self.portals.insert(portal, Some(stored), now),
                Err(error) if error.kind == StoreErrorKind::Corrupt => {
                    self.portals.insert(portal, None, now);
                    self.unusable(portal, &error);
                }
                // Deleted since it was listed, or not to be had: the next reading will show.
                Err(_) => return,
            }
            return self.publish_portals();
        }
        // What only waits to be sent is taken back: the record may name another grant by now.
        if self.queue.remove(portal) {
            self.step(portal, Event::NotSent);
        }
        let Some(entry) = self.portals.get(portal) else { return };
        // A reading that began before our own last write, or while something is in flight, may be
        // older than what we know.
        if entry.stamp != stamp || !self.portals.rests(portal) {
            if let Some(entry) = self.portals.get_mut(portal) {
                entry.look_again = true;
            }
            return;
        }
        match result {
            Ok(stored) => {
                let same = entry.knows(&stored.refresh_token);
                let unusable = entry.portal.ended() == Some(End::Unusable);
                if let Some(entry) = self.portals.get_mut(portal) {
                    entry.store_has(Some(stored));
                    if !same {
                        entry.unsaved = None;
                    }
                }
                self.mended(portal);
                if !same || unusable {
                    tracing::info!(%portal, "the record holds another grant; it is used from now on");
                    self.step(portal, Event::RecordChanged);
                }
            }
            Err(error) if error.kind == StoreErrorKind::Missing => self.forget(portal),
            Err(error) if error.kind == StoreErrorKind::Corrupt => self.unusable(portal, &error),
            Err(_) => {}
        }
    }

    /// The record is spoilt. A grant in memory goes on, above all one that the store does not have
    /// yet; without one there is nothing to go on with.
    fn unusable(&mut self, portal: PortalId, error: &StoreError) {
        tracing::warn!(%portal, %error, hint = %error.hint, "the record can't be used");
        if let Some(entry) = self.portals.get_mut(portal).filter(|e| e.refresh_token().is_some()) {
            entry.unusable = true;
            let reason = End::Unusable.reason();
            self.tell_open(Kind::GrantMismatched, Some(portal), Some(reason));
            return;
        }
        let ended = self.portals.get(portal).and_then(|entry| entry.portal.ended());
        if ended != Some(End::Unusable) {
            self.step(portal, Event::RecordUnusable);
        }
    }

    /// A record that could not be used can be used again.
    fn mended(&mut self, portal: PortalId) {
        let Some(entry) = self.portals.get_mut(portal) else { return };
        if std::mem::take(&mut entry.unusable) {
            self.tell_close(Kind::GrantMismatched, Some(portal));
        }
    }

    fn forget(&mut self, portal: PortalId) {
        tracing::info!(%portal, "the record is gone; the portal is no longer served");
        self.queue.remove(portal);
        self.portals.remove(portal);
        for notice in self.book.forget(portal, self.world.clock.wall()) {
            self.alerting.tell(&notice);
        }
        self.publish_portals();
    }

    /// Reads a record once more if a reading was passed over while something was in flight.
    pub(super) fn look_again(&mut self, portal: PortalId) {
        if !self.portals.rests(portal) {
            return;
        }
        let Some(entry) = self.portals.get_mut(portal) else { return };
        if std::mem::take(&mut entry.look_again) {
            let work = self.world.clone().look(portal, entry.stamp);
            self.tasks.spawn(limited(Arc::clone(&self.store_permits), work));
        }
    }

    fn facts(
        &self,
        portal: PortalId,
        told: Option<PortalId>,
        wrong_app: bool,
        scopes: Option<&Scopes>,
    ) -> Facts {
        let required = &self.settings.required_scopes;
        Facts {
            wrong_portal: told.is_some_and(|told| told != portal),
            wrong_app,
            scopes_missing: scopes.map(|scopes| !scopes.missing(required).is_empty()),
        }
    }

    /// The portal's entry, if `generation` is still the grant in use.
    fn in_use(
        &mut self,
        portal: PortalId,
        generation: Generation,
    ) -> Option<&mut super::portals::Entry> {
        self.portals.get_mut(portal).filter(|entry| {
            entry.portal.generation == generation && entry.portal.superseded.is_none()
        })
    }
}

const fn kind(cause: Cause) -> Kind {
    match cause {
        Cause::Ended(End::Revoked) => Kind::GrantRevoked,
        Cause::Ended(End::Unavailable) => Kind::PortalUnavailable,
        Cause::Ended(End::Mismatched | End::WrongPortal | End::Unusable) => Kind::GrantMismatched,
        Cause::Unsaved => Kind::GrantUnsaved,
        Cause::ScopeMissing => Kind::ScopeMissing,
    }
}
