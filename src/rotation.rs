//! Rotating the app's client secret: prove the new one by introspection, stage it beside the old, have one portal
//! refreshed with it, promote it by check-and-set, keep the old one for a while. Every step leaves a store that works,
//! and is remembered in the record.

use std::sync::Arc;

use crate::{
    hubspot::TokenEndpoint,
    lifecycle::{Refusal, RefusalClass},
    portal::{ClientId, PortalId},
    secret::{ClientSecret, Fingerprint},
    store::{
        AppRecord, CredentialStore, Expected, Key, Record, StoreError, StoreErrorKind, Stored,
        Version,
        record::{self, Taken, corrupt},
    },
    time::Clock,
};

mod proof;

pub use proof::{Kept, look};
use proof::{accepted, some_grants};

/// Why a rotation did not happen. The secret in use is still in use.
#[derive(Debug, thiserror::Error)]
pub enum RotationError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// HubSpot could not be asked, so nothing is proven.
    #[error("HubSpot could not be asked about the new client secret")]
    NotAsked(Refusal),
    /// HubSpot refuses the new secret.
    #[error("HubSpot refuses the new client secret")]
    Refused(Option<&'static str>),
    /// HubSpot refuses the secret before this one: it is dead.
    #[error("HubSpot refuses the earlier client secret")]
    EarlierRefused(Option<&'static str>),
    /// HubSpot answers questions for the new secret, and refreshes nothing for it.
    #[error("HubSpot refuses to refresh a portal with the new client secret")]
    CanaryRefused(String),
    /// Another secret than this one stands staged.
    #[error("another new client secret stands staged already{}", staged_by(.0.as_ref()))]
    AnotherStaged(Option<record::Step>),
    /// What is offered as new is the secret before the one in use.
    #[error("this is the client secret before the one in use")]
    Earlier,
    /// The one portal that was to be refreshed with it was not, for another reason.
    #[error("one portal could not be refreshed with the new client secret")]
    NotTried(String),
    /// There is no staged, or no earlier, secret to go on with.
    #[error("{0}")]
    NothingThere(&'static str),
    /// Somebody else wrote the app's record in between.
    #[error("somebody else changed the app's record meanwhile")]
    ChangedMeanwhile,
}

fn staged_by(step: Option<&record::Step>) -> String {
    step.map(|step| format!(", since {}, by {}", step.at, step.by)).unwrap_or_default()
}

/// A step that was taken, for the person who watches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// The new secret stands beside the old one.
    Staged,
    /// HubSpot accepts it.
    Proven,
    /// HubSpot gave this portal a token for it.
    Tried(PortalId),
    /// No portal was refreshed with it, and why.
    Untried(String),
    /// It is the one in use; the old one is kept beside it.
    Promoted,
    /// It was not proven, and stands there no more.
    TakenBack,
    /// It was not proven, and could not be taken away again; and why.
    StillStaged(String),
    /// The one before it is in use again.
    RolledBack,
}

/// How a rotation ended well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rotated {
    /// The new secret is in use from now on; and which portal was tried with it before, if one was.
    Now(Option<PortalId>),
    /// It was in use already.
    Already,
}

/// What came of refreshing one portal with the staged secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Canary {
    /// It has a token.
    Well(PortalId),
    /// HubSpot refuses the secret, in these words.
    Refused(String),
    /// Whether it does it is not known, for a reason that may pass.
    NotTold(String),
    /// There is nobody to try, and why: what introspection says has to do.
    Nobody(String),
}

/// Where a rotation is done, by whom, and who watches.
pub struct Rotating<'a> {
    /// The records.
    pub store: &'a Arc<dyn CredentialStore>,
    /// HubSpot.
    pub endpoint: &'a Arc<dyn TokenEndpoint>,
    /// What time it is.
    pub clock: &'a dyn Clock,
    /// Which user of which machine this is.
    pub by: String,
    /// Told each step.
    pub tell: &'a mut (dyn FnMut(Step) + Send),
}

impl Rotating<'_> {
    /// Rotates to `new`. `canary` has one portal refreshed with what is staged. Another one that stands staged is
    /// put aside only if `replace` says so: it may be its only copy.
    ///
    /// Safe to run again after a crash at any point: a secret that is staged already is proven and
    /// promoted, one that is promoted already is [`Rotated::Already`].
    ///
    /// # Errors
    /// See [`RotationError`]; the new secret is not in the store, and the old one is in use.
    pub async fn rotate(
        &mut self,
        new: &ClientSecret,
        replace: bool,
        canary: impl Future<Output = Canary>,
    ) -> Result<Rotated, RotationError> {
        let (stored, app) = read(self.store).await?;
        if app.client_secret.same_as(new) {
            return Ok(Rotated::Already);
        }
        // Whoever wants it back says so: more likely it was in the clipboard still.
        if app.previous_client_secret.as_ref().is_some_and(|earlier| earlier.same_as(new)) {
            return Err(RotationError::Earlier);
        }
        let former = other_staged(&app, &[new], replace)?;
        self.prove(&app.client_id, new).await?;
        let staged = self.remembered(&stored.record.with_next_secret(Some(new)), Taken::Staged);
        let version = write(self.store, &staged, stored.version).await?;
        (self.tell)(Step::Staged);

        let tried = match self.try_out(canary.await) {
            Ok(tried) => tried,
            Err(error) => {
                // What failed is not left lying about; whether that works does not change the answer.
                let back = self.remembered(&staged.with_next_secret(former), Taken::Discarded);
                (self.tell)(match write(self.store, &back, version).await {
                    Ok(_) => Step::TakenBack,
                    Err(error) => Step::StillStaged(error.to_string()),
                });
                return Err(error);
            }
        };
        self.put_in_use(&staged, &app, new, version).await?;
        Ok(Rotated::Now(tried))
    }

    /// Goes on with a secret that stands staged in the store: for whoever does not have it at hand, after a crash or on
    /// another machine. It stays staged if it is not proven: nobody may have another copy. Says which portal was tried
    /// with it before, if one was.
    ///
    /// # Errors
    /// See [`RotationError`].
    pub async fn promote(
        &mut self,
        canary: impl Future<Output = Canary>,
    ) -> Result<Option<PortalId>, RotationError> {
        let (stored, app) = read(self.store).await?;
        let Some(next) = &app.next_client_secret else {
            return Err(RotationError::NothingThere("no new client secret is staged"));
        };
        self.prove(&app.client_id, next).await?;
        let tried = self.try_out(canary.await)?;
        self.put_in_use(&stored.record, &app, next, stored.version).await?;
        Ok(tried)
    }

    /// Takes the secret before this one into use again, once HubSpot accepts it. The one that was in use stands staged
    /// then; another one that stands staged would be put aside for it, and that only happens if `replace` says so.
    ///
    /// # Errors
    /// See [`RotationError`]; what was in use is in use.
    pub async fn roll_back(&mut self, replace: bool) -> Result<(), RotationError> {
        let (stored, app) = read(self.store).await?;
        let Some(previous) = &app.previous_client_secret else {
            return Err(RotationError::NothingThere("no earlier client secret is kept"));
        };
        other_staged(&app, &[&app.client_secret, previous], replace)?;
        self.prove(&app.client_id, previous).await.map_err(|refusal| match refusal {
            RotationError::Refused(word) => RotationError::EarlierRefused(word),
            other => other,
        })?;
        let back = stored
            .record
            .with_client(&app.client_id, previous)
            .with_previous_secret(None)
            .with_next_secret(Some(&app.client_secret));
        let back = self.remembered(&self.remembered(&back, Taken::Staged), Taken::RolledBack);
        write(self.store, &back, stored.version).await?;
        (self.tell)(Step::RolledBack);
        Ok(())
    }

    /// Forgets the secret before this one, if it is the one that was `seen`: nothing is signed with it, or rolled back to
    /// it, any more. Says whether there was one.
    ///
    /// # Errors
    /// The store's; it is another one by now.
    pub async fn retire(&mut self, seen: Option<Fingerprint>) -> Result<bool, RotationError> {
        let (stored, app) = read(self.store).await?;
        let Some(previous) = &app.previous_client_secret else { return Ok(false) };
        // Of another one nobody has said whether it may go.
        if seen != Some(previous.fingerprint()) {
            return Err(RotationError::ChangedMeanwhile);
        }
        let retired = self.remembered(&stored.record.with_previous_secret(None), Taken::Retired);
        write(self.store, &retired, stored.version).await?;
        Ok(true)
    }

    /// Takes a staged secret out of the store: the one in use stays in use. Says whether there was one.
    ///
    /// # Errors
    /// The store's.
    pub async fn discard(&mut self) -> Result<bool, RotationError> {
        let (stored, app) = read(self.store).await?;
        if app.next_client_secret.is_none() {
            return Ok(false);
        }
        let without = self.remembered(&stored.record.with_next_secret(None), Taken::Discarded);
        write(self.store, &without, stored.version).await?;
        Ok(true)
    }

    async fn prove(
        &mut self,
        client_id: &ClientId,
        secret: &ClientSecret,
    ) -> Result<(), RotationError> {
        accepted(self.endpoint, client_id, secret, &some_grants(self.store).await).await?;
        (self.tell)(Step::Proven);
        Ok(())
    }

    fn try_out(&mut self, canary: Canary) -> Result<Option<PortalId>, RotationError> {
        match canary {
            Canary::Well(portal) => {
                (self.tell)(Step::Tried(portal));
                Ok(Some(portal))
            }
            Canary::Nobody(why) => {
                (self.tell)(Step::Untried(why));
                Ok(None)
            }
            Canary::Refused(word) => Err(RotationError::CanaryRefused(word)),
            Canary::NotTold(why) => Err(RotationError::NotTried(why)),
        }
    }

    /// `new` in use, and the one before it kept.
    async fn put_in_use(
        &mut self,
        record: &Record,
        app: &AppRecord,
        new: &ClientSecret,
        version: Version,
    ) -> Result<(), RotationError> {
        let promoted = record
            .with_client(&app.client_id, new)
            .with_next_secret(None)
            .with_previous_secret(Some(&app.client_secret));
        write(self.store, &self.remembered(&promoted, Taken::Promoted), version).await?;
        (self.tell)(Step::Promoted);
        Ok(())
    }

    fn remembered(&self, record: &Record, what: Taken) -> Record {
        record.with_step(record::Step { what, at: self.clock.wall(), by: self.by.clone() })
    }
}

/// What stands staged and is none of those that are `kept`: this may be its only copy, so that it is put aside only if
/// `replace` says so.
fn other_staged<'a>(
    app: &'a AppRecord,
    kept: &[&ClientSecret],
    replace: bool,
) -> Result<Option<&'a ClientSecret>, RotationError> {
    let is_kept = |next: &&ClientSecret| kept.iter().any(|kept| kept.same_as(next));
    let other = app.next_client_secret.as_ref().filter(|next| !is_kept(next));
    if other.is_some() && !replace {
        let staged = app.steps.iter().rev().find(|step| step.what == Taken::Staged);
        return Err(RotationError::AnotherStaged(staged.cloned()));
    }
    Ok(other)
}

impl From<Refusal> for RotationError {
    fn from(refusal: Refusal) -> Self {
        match refusal.class {
            RefusalClass::AppRefused => Self::Refused(refusal.word),
            _ => Self::NotAsked(refusal),
        }
    }
}

async fn read(store: &Arc<dyn CredentialStore>) -> Result<(Stored, AppRecord), StoreError> {
    let stored = store.read(Key::App).await?;
    let app = stored.record.app().map_err(|fault| corrupt(Key::App, &fault))?;
    Ok((stored, app))
}

async fn write(
    store: &Arc<dyn CredentialStore>,
    record: &Record,
    version: Version,
) -> Result<Version, RotationError> {
    let written = store.write(Key::App, record, &Expected::At(version)).await;
    written.map_err(|error| match error.kind {
        StoreErrorKind::Conflict => RotationError::ChangedMeanwhile,
        _ => RotationError::Store(error),
    })
}
