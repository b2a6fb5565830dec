//! What was asked for, by whom, and what came of it, on its way into the audit log: before the answer leaves,
//! and, where something is changed, before it is (I11). Decides nothing.

use std::{sync::PoisonError, time::Duration};

use super::{Denial, Handle, handle::permit};
use crate::{
    access::{Caller, allowance::Allowances},
    audit::{Audit, Decision},
    portal::PortalId,
    secret::Fingerprint,
};

/// What the log says of something that is about to be changed.
const BEGUN: &str = "begun";

/// One order in so long for each user, and as many at once: more than people give, and than HubSpot would take.
const ORDER_EVERY: Duration = Duration::from_millis(200);
const ORDERS_AT_ONCE: u32 = 50;

/// What each user may order.
pub(super) fn orders() -> Allowances {
    Allowances::one_in(ORDER_EVERY, ORDERS_AT_ONCE)
}

/// One question or order.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) caller: &'a Caller,
    /// The word in the log.
    pub(super) action: &'static str,
    pub(super) portal: Option<PortalId>,
}

impl Asked<'_> {
    fn decided(&self, outcome: &'static str, token: Option<Fingerprint>) -> Decision {
        let Self { caller, action, portal } = *self;
        Decision { caller: caller.clone(), action, portal, outcome, token }
    }
}

impl Handle {
    /// The answer, once it stands in the log. Where it can't be written down, there is none.
    pub(super) async fn told<T>(
        &self,
        asked: &Asked<'_>,
        token: Option<Fingerprint>,
        answer: Result<T, Denial>,
    ) -> Result<T, Denial> {
        let outcome = answer.as_ref().map_or_else(Denial::code, |_| "ok");
        let written = self.audit.note(asked.decided(outcome, token)).await;
        written.map_err(|_| Denial::AuditFailing)?;
        answer
    }

    /// Writes down that something is about to be changed, or that it may not be. Each order costs lines that are
    /// synced and never counted together, so there is an end to how many one user may give.
    pub(super) async fn begin(&self, asked: &Asked<'_>, allowed: bool) -> Result<(), Denial> {
        let granted = permit(allowed).and_then(|()| self.spend(asked.caller));
        if granted.is_err() {
            return self.told(asked, None, granted).await;
        }
        let written = self.audit.note_durably(asked.decided(BEGUN, None)).await;
        written.map_err(|_| Denial::AuditFailing)
    }

    fn spend(&self, caller: &Caller) -> Result<(), Denial> {
        if self.rules.load().is_own(caller) {
            return Ok(());
        }
        let now = self.clock.boot();
        let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        given.take(Some(caller.uid()), now).map(drop).map_err(Denial::TooMany)
    }

    /// Carries an order out to its end, whoever hangs up.
    pub(super) async fn see_through<T: Send + 'static>(
        &self,
        order: impl Future<Output = Result<T, Denial>> + Send + 'static,
    ) -> Result<T, Denial> {
        match self.begun.spawn(order).await {
            Ok(answer) => answer,
            Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
        }
    }

    /// Waits until every order that has begun is written down.
    pub async fn settled(&self) {
        self.begun.close();
        self.begun.wait().await;
    }

    /// Writes down what came of it. It has happened by then: the answer is what it is.
    pub(super) async fn done<T>(
        &self,
        asked: &Asked<'_>,
        answer: Result<T, Denial>,
    ) -> Result<T, Denial> {
        let outcome = answer.as_ref().map_or_else(Denial::code, |_| "ok");
        if self.audit.note_durably(asked.decided(outcome, None)).await.is_err() {
            tracing::error!(
                action = asked.action,
                outcome,
                "what came of an order could not be written into the audit log"
            );
        }
        answer
    }

    /// The log that answers go through.
    #[must_use]
    pub const fn audit(&self) -> &Audit {
        &self.audit
    }
}
