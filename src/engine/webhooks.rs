//! Whether a webhook is HubSpot's, by the client secrets that are known. One that fits none of them may be signed with a
//! younger one: then the app's record is looked at.

use std::time::Duration;

use super::{Asking, Command, Denial, Handle};
use crate::{
    access::Caller,
    hubspot::signature::{self, Signed, Unsigned, Webhook},
};

impl Handle {
    /// Whether a webhook is HubSpot's.
    ///
    /// # Errors
    /// Not allowed, or no client secret is known yet.
    pub async fn verify_webhook(
        &self,
        caller: &Caller,
        webhook: &Webhook<'_>,
    ) -> Result<Result<Signed, Unsigned>, Denial> {
        let asking = Asking::VerifyWebhook;
        let answer = self.may(caller, asking).and_then(|()| {
            let signers = self.view.signers.load();
            if signers.is_empty() {
                return Err(Denial::StoreUnreachable(Duration::from_secs(5)));
            }
            Ok(signature::verify(webhook, &signers, self.clock.wall()))
        });
        if matches!(answer, Ok(Err(Unsigned::Mismatch))) {
            // Full of commands, the engine need not hear of this one: HubSpot sends a webhook again.
            self.commands.try_send(Command::Unsigned).ok();
        }
        self.told(&asking.by(caller), None, answer).await
    }
}
