//! What HubSpot, the journal and the store answered about one grant, turned into events. The secrets
//! move here; the rules never see them.

use super::{Engine, load::StoredGrant, recovery::believed, view::Issued};
use crate::{
    journal::{Access, Answer, Entry as Line},
    lifecycle::{Event, Facts, Generation, Granted, Introspection, Outcome, Refusal, TokenLife},
    portal::{PortalId, Scopes},
    secret::RefreshToken,
    store::{Record, StoreError, StoreErrorKind, Version},
    time::{BootTime, Stamp},
};

impl Engine {
    pub(super) fn intended(&mut self, portal: PortalId, generation: Generation, durable: bool) {
        self.note_journal(durable);
        let outcome = Outcome::Intended(durable);
        self.step(portal, Event::Done { generation, outcome });
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
            Ok(granted) => self.granted(portal, generation, spent, started, granted),
        };
        self.step(portal, Event::Done { generation, outcome });
    }

    fn granted(
        &mut self,
        portal: PortalId,
        generation: Generation,
        spent: &RefreshToken,
        started: BootTime,
        granted: Granted,
    ) -> Outcome {
        let token = TokenLife::new(started, granted.expires_in);
        let facts = self.facts(portal, granted.portal, false, granted.scopes.as_ref());
        let newer = granted.refresh_token.filter(|token| !token.same_as(spent));
        let rotated = newer.is_some();
        self.learn(rotated, granted.expires_in);
        let access = Access {
            token: granted.access_token,
            issued: Stamp::of(started, &*self.world.clock),
            expires_in: granted.expires_in,
            dated: believed(granted.dated, self.world.clock.boot().since(started)),
            scopes: granted.scopes,
        };
        if let Some(entry) = self.in_use(portal, generation) {
            if !facts.wrong_portal {
                let fingerprint = access.token.fingerprint();
                let access_token = access.token.clone().into();
                entry.held = Some(Issued { access_token, fingerprint });
                if access.scopes.is_some() {
                    entry.scopes.clone_from(&access.scopes);
                }
            }
            let spent = spent.fingerprint();
            entry.answer = Some(Answer {
                spent,
                refresh_token: newer.clone(),
                // Nobody may have a token that is another portal's, after a restart either.
                access: Some(access).filter(|_| !facts.wrong_portal),
                enrolled: false,
            });
            match newer {
                Some(newer) => entry.replaced(spent, newer),
                None if entry.lineage.is_empty() => entry.lineage.push(spent),
                None => {}
            }
        }
        Outcome::Refreshed { token, rotated, facts }
    }

    pub(super) fn kept(&mut self, portal: PortalId, generation: Generation, durable: bool) {
        self.note_journal(durable);
        tracing::trace!(%portal, durable, point = "answer_kept", "refresh");
        self.step(portal, Event::Done { generation, outcome: Outcome::Kept(durable) });
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
                let own = self.pair.as_ref().map(|pair| &pair.client_id);
                let wrong_app = client_id.is_some_and(|id| own.is_some_and(|own| id != *own));
                let facts = self.facts(portal, told, wrong_app, scopes.as_ref());
                if let (Some(entry), Some(scopes)) = (self.in_use(portal, generation), scopes) {
                    entry.scopes = Some(scopes);
                }
                Outcome::IntrospectedActive(facts)
            }
        };
        self.step(portal, Event::Done { generation, outcome });
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
                tracing::trace!(%portal, point = "stored", "refresh");
                self.world.journal.note(Line::Stored { portal, token: token.fingerprint() });
                if let Some(entry) = self.in_use(portal, generation) {
                    entry.store_has(Some(StoredGrant { refresh_token: token, record, version }));
                    entry.unsaved = None;
                    self.tell_enrolled(portal);
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
    pub(super) fn in_use(
        &mut self,
        portal: PortalId,
        generation: Generation,
    ) -> Option<&mut super::entry::Entry> {
        self.portals.get_mut(portal).filter(|entry| entry.portal.generation == generation)
    }
}
