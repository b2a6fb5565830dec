//! What HubSpot makes of a client secret: asked by introspection of a grant that is stored, which spends nothing. Changes
//! no record.

use std::sync::Arc;

use super::{RotationError, read};
use crate::{
    hubspot::{TokenEndpoint, prove},
    lifecycle::{ClientPair, FurtherSecrets, Refusal, RefusalClass},
    portal::ClientId,
    secret::{ClientSecret, Fingerprint, RefreshToken},
    store::{CredentialStore, Key, record},
};

/// About as many grants HubSpot is asked, where it has trouble with the first.
const GRANTS: usize = 3;

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

/// Every secret in the app's record, and what was done about them of late. Spends and changes nothing.
///
/// # Errors
/// The store's.
pub async fn look(
    store: &Arc<dyn CredentialStore>,
    endpoint: &Arc<dyn TokenEndpoint>,
) -> Result<(Vec<Kept>, Vec<record::Step>), RotationError> {
    let (_, app) = read(store).await?;
    let grants = some_grants(store).await;
    let secrets = [
        ("current", Some(&app.client_secret)),
        ("next", app.next_client_secret.as_ref()),
        ("previous", app.previous_client_secret.as_ref()),
    ];
    let mut kept = Vec::new();
    for (place, secret) in secrets {
        if let Some(secret) = secret {
            let told = accepted(endpoint, &app.client_id, secret, &grants).await;
            let accepted = told.map_err(RotationError::from);
            kept.push(Kept { place, name: secret.fingerprint(), accepted });
        }
    }
    Ok((kept, app.steps))
}

/// Whether HubSpot accepts a pair. Where it has trouble with one of the `grants`, it is asked about another.
pub(super) async fn accepted(
    endpoint: &Arc<dyn TokenEndpoint>,
    client_id: &ClientId,
    secret: &ClientSecret,
    grants: &[RefreshToken],
) -> Result<(), Refusal> {
    let pair = ClientPair {
        client_id: client_id.clone(),
        client_secret: secret.clone(),
        further: FurtherSecrets::default(),
    };
    let mut told = prove(&**endpoint, &pair, grants.first().cloned()).await;
    for grant in grants.iter().skip(1) {
        match &told {
            // Who does not answer at all, or asks for quiet, does not answer about another, either.
            Err(Refusal {
                class: RefusalClass::AppRefused | RefusalClass::RateLimited, ..
            }) => break,
            Err(refusal) if refusal.http.is_some() => {
                told = prove(&**endpoint, &pair, Some(grant.clone())).await;
            }
            _ => break,
        }
    }
    told
}

/// A few stored grants to introspect with the new pair: nothing is spent (study `hubspot.md` 3.5).
pub(super) async fn some_grants(store: &Arc<dyn CredentialStore>) -> Vec<RefreshToken> {
    let portals = store.list().await.map(|listing| listing.portals).unwrap_or_default();
    let mut grants = Vec::new();
    for portal in portals.into_iter().take(5) {
        let stored = store.read(Key::Portal(portal)).await;
        let grant = stored.ok().and_then(|stored| stored.record.portal().ok());
        grants.extend(grant.map(|grant| grant.refresh_token));
        if grants.len() == GRANTS {
            break;
        }
    }
    grants
}
