//! Who may ask at all, judged before the body of a request is read: nobody without the right makes the service hold
//! one (I11). What the body asks for is judged again by whoever does it.

use super::{Denial, Handle, asked::Asked, handle::permit};
use crate::{
    access::{Caller, Right},
    portal::PortalId,
};

/// What a request with a body is about to ask.
#[derive(Debug, Clone, Copy)]
pub enum Asking {
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
            Asking::Refresh(portal) => {
                rules.allow(caller, Right::Refresh, portal)
                    && rules.allow(caller, Right::Token, portal)
            }
            Asking::Enroll => rules.allow_any(caller, Right::Enroll),
            Asking::VerifyWebhook => rules.allow_any(caller, Right::VerifyWebhook),
        })
    }
}
