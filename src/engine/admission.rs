//! Who may ask at all, judged before the rest of a request is looked at: nobody without the right makes the service hold
//! a body, or hears what is wrong with a question instead of that it may not ask (I11). What is asked for is judged again
//! by whoever does it.

use super::{Denial, Handle, asked::Asked, handle::permit};
use crate::{
    access::{Caller, Right},
    portal::PortalId,
};

/// What a request is about to ask, as far as its path says.
#[derive(Debug, Clone, Copy)]
pub enum Asking {
    /// This portal's token.
    Token(PortalId),
    /// To see portals.
    Portals,
    /// To have this portal removed.
    Remove(PortalId),
    /// Another token for this portal.
    Refresh(PortalId),
    /// To take a grant in.
    Enroll,
    /// Whether a webhook is HubSpot's.
    VerifyWebhook,
}

impl Asking {
    pub(super) const fn by(self, caller: &Caller) -> Asked<'_> {
        let (action, portal) = match self {
            Self::Token(portal) => ("token", Some(portal)),
            Self::Portals => ("portals", None),
            Self::Remove(portal) => ("remove", Some(portal)),
            Self::Refresh(portal) => ("refresh", Some(portal)),
            Self::Enroll => ("enroll", None),
            Self::VerifyWebhook => ("verify_webhook", None),
        };
        Asked { caller, action, portal }
    }
}

impl Handle {
    /// Refuses, and writes down, who may not ask that.
    ///
    /// # Errors
    /// Not allowed.
    pub async fn admit(&self, caller: &Caller, asking: Asking) -> Result<(), Denial> {
        match self.may(caller, asking) {
            Ok(()) => Ok(()),
            refused => self.told(&asking.by(caller), None, refused).await,
        }
    }

    pub(super) fn may(&self, caller: &Caller, asking: Asking) -> Result<(), Denial> {
        let rules = self.rules.load();
        permit(match asking {
            Asking::Token(portal) => rules.allow(caller, Right::Token, portal),
            Asking::Portals => rules.allow_any(caller, Right::Status),
            Asking::Remove(portal) => rules.allow(caller, Right::Revoke, portal),
            Asking::Refresh(portal) => {
                rules.allow(caller, Right::Refresh, portal)
                    && rules.allow(caller, Right::Token, portal)
            }
            Asking::Enroll => rules.allow_any(caller, Right::Enroll),
            Asking::VerifyWebhook => rules.allow_any(caller, Right::VerifyWebhook),
        })
    }
}
