//! A token that its caller met a 401 with: renewed if it is still the one that is handed out, and not over and over.
//! Decides nothing of how it is renewed.

use super::{
    Denial, Handle,
    asked::Asked,
    handle::{Answer, Wish},
};
use crate::{
    access::{Caller, Right},
    portal::PortalId,
    secret::Fingerprint,
};

impl Handle {
    /// A token other than `rejected`: the one that is there by now, or a new one.
    ///
    /// Needs `refresh`, and `token`, since the answer is one.
    ///
    /// # Errors
    /// See [`Denial`]; [`Denial::TooSoon`] where `rejected` was had from HubSpot a moment ago: another one would fare no
    /// better.
    pub async fn refresh(
        &self,
        caller: &Caller,
        portal: PortalId,
        rejected: Fingerprint,
    ) -> Result<Answer, Denial> {
        let allowed = {
            let rules = self.rules.load();
            rules.allow(caller, Right::Refresh, portal) && rules.allow(caller, Right::Token, portal)
        };
        let wish = Wish { min_ttl: None, rejected: Some(rejected) };
        let answer = if allowed {
            self.fulfil(portal, wish, self.clock.boot()).await
        } else {
            Err(Denial::Forbidden)
        };
        let name = answer.as_ref().ok().map(|answer| answer.fingerprint);
        self.told(&Asked { caller, action: "refresh", portal: Some(portal) }, name, answer).await
    }
}
