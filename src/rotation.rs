//! Rotating the app's client secret: stage the new one beside the old, prove it, promote it by
//! check-and-set, keep the old one for a while. Every step leaves a store that works.

use std::sync::Arc;

use crate::{
    hubspot::{TokenEndpoint, prove},
    lifecycle::{ClientPair, FurtherSecrets, Refusal, RefusalClass},
    portal::ClientId,
    secret::{ClientSecret, Fingerprint, RefreshToken},
    store::{
        AppRecord, CredentialStore, Expected, Key, Record, StoreError, StoreErrorKind, Stored,
        Version, record::corrupt,
    },
};

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
    /// There is no staged, or no earlier, secret to go on with.
    #[error("{0}")]
    NothingThere(&'static str),
    /// Somebody else wrote the app's record in between.
    #[error("somebody else changed the app's record meanwhile")]
    ChangedMeanwhile,
}

/// A step that was taken, for the person who watches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The new secret stands beside the old one.
    Staged,
    /// HubSpot accepts it.
    Proven,
    /// It is the one in use; the old one is kept beside it.
    Promoted,
    /// It was not proven, and stands there no more.
    TakenBack,
    /// The one before it is in use again.
    RolledBack,
}

/// How a rotation ended well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rotated {
    /// The new secret is in use from now on.
    Now,
    /// It was in use already.
    Already,
}

/// Rotates to `new`, telling each step.
///
/// Safe to run again after a crash at any point: a secret that is staged already is proven and
/// promoted, one that is promoted already is [`Rotated::Already`].
///
/// # Errors
/// See [`RotationError`]; the staged secret has been taken away again, and the old one is in use.
pub async fn rotate(
    store: &Arc<dyn CredentialStore>,
    endpoint: &Arc<dyn TokenEndpoint>,
    new: &ClientSecret,
    mut tell: impl FnMut(Step),
) -> Result<Rotated, RotationError> {
    let (stored, app) = read(store).await?;
    if app.client_secret.same_as(new) {
        return Ok(Rotated::Already);
    }
    let staged = stored.record.with_next_secret(Some(new));
    let version = write(store, &staged, stored.version).await?;
    tell(Step::Staged);

    let grant = any_grant(store).await;
    if let Err(refusal) = accepted(endpoint, &app.client_id, new, grant).await {
        // What is not proven is not left lying about; whether that works does not change the answer.
        let unstaged = write(store, &staged.with_next_secret(None), version).await;
        match unstaged {
            Ok(_) => tell(Step::TakenBack),
            Err(error) => {
                tracing::warn!(%error, "the staged secret could not be taken away again; it is not in use");
            }
        }
        return Err(refusal.into());
    }
    tell(Step::Proven);
    write(store, &promoted(&staged, &app, new), version).await?;
    tell(Step::Promoted);
    Ok(Rotated::Now)
}

/// The record with `new` in use and the one before it kept.
fn promoted(record: &Record, app: &AppRecord, new: &ClientSecret) -> Record {
    record
        .with_client(&app.client_id, new)
        .with_next_secret(None)
        .with_previous_secret(Some(&app.client_secret))
}

/// Goes on with a secret that stands staged in the store: for whoever does not have it at hand, after a crash or on
/// another machine. It stays staged if it is not proven: nobody may have another copy.
///
/// # Errors
/// See [`RotationError`].
pub async fn promote(
    store: &Arc<dyn CredentialStore>,
    endpoint: &Arc<dyn TokenEndpoint>,
    mut tell: impl FnMut(Step),
) -> Result<(), RotationError> {
    let (stored, app) = read(store).await?;
    let Some(next) = &app.next_client_secret else {
        return Err(RotationError::NothingThere("no new client secret is staged"));
    };
    accepted(endpoint, &app.client_id, next, any_grant(store).await).await?;
    tell(Step::Proven);
    write(store, &promoted(&stored.record, &app, next), stored.version).await?;
    tell(Step::Promoted);
    Ok(())
}

/// Takes the secret before this one into use again, once HubSpot accepts it. The one that was in use stands staged then.
///
/// # Errors
/// See [`RotationError`]; what was in use is in use.
pub async fn roll_back(
    store: &Arc<dyn CredentialStore>,
    endpoint: &Arc<dyn TokenEndpoint>,
    mut tell: impl FnMut(Step),
) -> Result<(), RotationError> {
    let (stored, app) = read(store).await?;
    let Some(previous) = &app.previous_client_secret else {
        return Err(RotationError::NothingThere("no earlier client secret is kept"));
    };
    let told = accepted(endpoint, &app.client_id, previous, any_grant(store).await).await;
    told.map_err(|refusal| match RotationError::from(refusal) {
        RotationError::Refused(word) => RotationError::EarlierRefused(word),
        other => other,
    })?;
    tell(Step::Proven);
    let back = stored
        .record
        .with_client(&app.client_id, previous)
        .with_previous_secret(None)
        .with_next_secret(Some(&app.client_secret));
    write(store, &back, stored.version).await?;
    tell(Step::RolledBack);
    Ok(())
}

/// Forgets the secret before this one: nothing is signed with it, or rolled back to it, any more. Says whether there
/// was one.
///
/// # Errors
/// The store's.
pub async fn retire(store: &Arc<dyn CredentialStore>) -> Result<bool, RotationError> {
    let (stored, app) = read(store).await?;
    if app.previous_client_secret.is_none() {
        return Ok(false);
    }
    write(store, &stored.record.with_previous_secret(None), stored.version).await?;
    Ok(true)
}

/// A secret in the app's record, and what HubSpot makes of it now.
#[derive(Debug)]
pub struct Kept {
    /// `current`, `next` (staged) or `previous`.
    pub place: &'static str,
    /// Its name.
    pub name: Fingerprint,
    /// Whether HubSpot accepts it.
    pub accepted: Result<(), RotationError>,
}

/// Every secret in the app's record. Spends and changes nothing.
///
/// # Errors
/// The store's.
pub async fn look(
    store: &Arc<dyn CredentialStore>,
    endpoint: &Arc<dyn TokenEndpoint>,
) -> Result<Vec<Kept>, RotationError> {
    let (_, app) = read(store).await?;
    let grant = any_grant(store).await;
    let secrets = [
        ("current", Some(&app.client_secret)),
        ("next", app.next_client_secret.as_ref()),
        ("previous", app.previous_client_secret.as_ref()),
    ];
    let mut kept = Vec::new();
    for (place, secret) in secrets {
        if let Some(secret) = secret {
            let told = accepted(endpoint, &app.client_id, secret, grant.clone()).await;
            let accepted = told.map_err(RotationError::from);
            kept.push(Kept { place, name: secret.fingerprint(), accepted });
        }
    }
    Ok(kept)
}

async fn accepted(
    endpoint: &Arc<dyn TokenEndpoint>,
    client_id: &ClientId,
    secret: &ClientSecret,
    grant: Option<RefreshToken>,
) -> Result<(), Refusal> {
    let pair = ClientPair {
        client_id: client_id.clone(),
        client_secret: secret.clone(),
        further: FurtherSecrets::default(),
    };
    prove(&**endpoint, &pair, grant).await
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

/// A stored grant to introspect with the new pair: nothing is spent (study `hubspot.md` 3.5).
async fn any_grant(store: &Arc<dyn CredentialStore>) -> Option<RefreshToken> {
    let portals = store.list().await.ok()?.portals;
    for portal in portals.into_iter().take(5) {
        let stored = store.read(Key::Portal(portal)).await;
        if let Some(grant) = stored.ok().and_then(|stored| stored.record.portal().ok()) {
            return Some(grant.refresh_token);
        }
    }
    None
}
