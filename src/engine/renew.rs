//! A token that its caller met a 401 with: renewed if it is still the one that is handed out, and not over and over.
//! Decides nothing of how it is renewed.

use std::time::Duration;

use super::{Answer, Denial, Handle, admission::Asking, view::PortalView};
use crate::{access::Caller, portal::PortalId, secret::Fingerprint, time::BootTime};

/// A token that was had from HubSpot so recently is not renewed because somebody met a 401 with it: where a fresh
/// one is refused, the next would be too, and each costs a request that others need.
const YOUNG: Duration = Duration::from_secs(30);

/// What a caller wants of a token.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wish {
    pub(super) min_ttl: Option<Duration>,
    /// Not this one.
    pub(super) rejected: Option<Fingerprint>,
}

impl Wish {
    fn rejects(self, view: &PortalView) -> bool {
        let name = view.token.as_ref().map(|issued| issued.fingerprint);
        self.rejected.is_some() && self.rejected == name
    }

    pub(super) fn fits(self, view: &PortalView, now: BootTime, least: Duration) -> bool {
        view.portal.serves(now, least) && !self.rejects(view)
    }

    /// How long the rejected token is still too young to be renewed.
    pub(super) fn too_soon(self, view: &PortalView, now: BootTime) -> Option<Duration> {
        let token = view.portal.token.filter(|_| self.rejects(view))?;
        let left = YOUNG.saturating_sub(now.since(token.issued));
        (!left.is_zero()).then_some(left)
    }
}

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
        let asking = Asking::Refresh(portal);
        let wish = Wish { min_ttl: None, rejected: Some(rejected) };
        let answer = match self.may(caller, asking) {
            Ok(()) => self.fulfil(portal, wish, self.clock.boot()).await,
            Err(denial) => Err(denial),
        };
        let name = answer.as_ref().ok().map(|answer| answer.fingerprint);
        self.told(&asking.by(caller), name, answer).await
    }
}
