//! Getting a Vault token and keeping it: logs in, renews at two thirds of a lease, logs in again when
//! renewing no longer helps. One login is under way at a time. Knows no records.

use std::{fmt, sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use tokio::sync::{Mutex, Notify};
use tokio_util::sync::CancellationToken;
use vaultrs::token;

use super::{
    auth::{self, Auth, Obtained, Unwrapped},
    connection::{Connection, Speaker, read_secret, take_token},
    fault::{Asked, Fault},
};
use crate::{
    secret::{Fingerprint, StoreCredential},
    store::{StoreError, StoreErrorKind},
    time::{BootTime, Clock},
};

/// Floor under every wait between two renewals, however short the lease.
const SHORTEST_WAIT: Duration = Duration::from_secs(1);
/// Ceiling over every wait: the runtime's timers stand still while the machine is suspended, leases don't.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// A token in use, and how long it is good for.
pub(super) struct Session {
    pub(super) speaker: Arc<Speaker>,
    fingerprint: Fingerprint,
    lease: Option<Lease>,
}

#[derive(Debug, Clone, Copy)]
struct Lease {
    granted: Duration,
    due: BootTime,
    ends: BootTime,
    renewable: bool,
}

impl Lease {
    /// None for a token that never runs out, which Vault writes as zero.
    fn new(seconds: u64, renewable: bool, since: BootTime) -> Option<Self> {
        let granted = Duration::from_secs(seconds);
        let due = since + (granted * 2 / 3).max(SHORTEST_WAIT);
        (seconds > 0).then(|| Self { granted, due, ends: since + granted, renewable })
    }

    /// After a renewal that brought `seconds`. Less than the lease began with means that the token's
    /// maximum life is near: the next step is a login.
    fn renewed(self, seconds: u64, renewable: bool, since: BootTime) -> Option<Self> {
        let capped = Duration::from_secs(seconds) < self.granted;
        Self::new(seconds, renewable && !capped, since)
            .map(|new| Self { granted: self.granted, ..new })
    }

    /// The same lease, to be looked at again a third of the way to its end.
    fn postponed(self, now: BootTime) -> Self {
        Self { due: now + (self.ends.until(now) / 3).max(SHORTEST_WAIT), ..self }
    }
}

impl Session {
    fn is_due(&self, now: BootTime) -> bool {
        self.lease.is_some_and(|lease| now >= lease.due)
    }

    fn is_over(&self, now: BootTime) -> bool {
        self.lease.is_some_and(|lease| now >= lease.ends)
    }

    fn with_lease(&self, lease: Option<Lease>) -> Self {
        Self { speaker: Arc::clone(&self.speaker), fingerprint: self.fingerprint, lease }
    }
}

/// The one place where this process gets Vault tokens.
pub(super) struct Login {
    pub(super) connection: Connection,
    auth: Auth,
    mount: String,
    clock: Arc<dyn Clock>,
    current: ArcSwapOption<Session>,
    under_way: Mutex<()>,
    unwrapped: Mutex<Unwrapped>,
    changed: Notify,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = self.connection.address.as_str();
        f.debug_struct("Login").field("address", &at).finish_non_exhaustive()
    }
}

impl Login {
    pub(super) fn new(
        connection: Connection,
        auth: Auth,
        mount: String,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            connection,
            auth,
            mount,
            clock,
            current: ArcSwapOption::empty(),
            under_way: Mutex::new(()),
            unwrapped: Mutex::default(),
            changed: Notify::new(),
        }
    }

    /// A session whose token should be good: the one in use, renewed or replaced if that is due.
    pub(super) async fn session(&self) -> Result<Arc<Session>, StoreError> {
        if let Some(session) = self.fresh() {
            return Ok(session);
        }
        let _turn = self.under_way.lock().await;
        if let Some(session) = self.fresh() {
            return Ok(session);
        }
        match self.current.load_full() {
            Some(old) if !old.is_over(self.clock.boot()) => self.prolong(&old).await,
            _ => self.log_in(None).await.map(|session| self.publish(session)),
        }
    }

    /// Another session than `refused`, whose token the server no longer takes.
    pub(super) async fn instead_of(
        &self,
        refused: &Arc<Session>,
    ) -> Result<Arc<Session>, StoreError> {
        let _turn = self.under_way.lock().await;
        match self.current.load_full() {
            Some(other) if !Arc::ptr_eq(&other, refused) => Ok(other),
            _ => self.log_in(Some(refused)).await.map(|session| self.publish(session)),
        }
    }

    /// Whether the server still takes the token of `session`.
    pub(super) async fn is_alive(&self, session: &Session) -> Result<bool, Fault> {
        match token::lookup_self(&session.speaker.0).await.map_err(Fault::from) {
            // An answer of a shape unknown to vaultrs is an answer to a living token.
            Ok(_) | Err(Fault::Unreadable) => Ok(true),
            Err(fault) if fault.is_forbidden() => Ok(false),
            Err(fault) => Err(fault),
        }
    }

    /// Keeps the token alive between calls, until `stop`.
    pub(super) async fn maintain(&self, stop: CancellationToken) {
        let mut failures = 0_u32;
        loop {
            // Made before looking, so that no change in between is missed.
            let changed = self.changed.notified();
            let due = self.current.load().as_ref().and_then(|session| session.lease).map(|l| l.due);
            let pause = match due {
                _ if failures > 0 => SHORTEST_WAIT * (1 << failures.min(5)),
                Some(due) => due.until(self.clock.boot()),
                None => LONGEST_WAIT,
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = changed => continue,
                () = tokio::time::sleep(pause.min(LONGEST_WAIT)) => {}
            }
            if due.is_none() {
                continue;
            }
            failures = match self.session().await {
                Ok(_) => 0,
                Err(error) => {
                    tracing::warn!(%error, hint = error.hint, "the Vault token was not renewed");
                    failures.saturating_add(1)
                }
            };
        }
    }

    fn fresh(&self) -> Option<Arc<Session>> {
        let now = self.clock.boot();
        self.current.load_full().filter(|session| !session.is_due(now))
    }

    fn publish(&self, session: Session) -> Arc<Session> {
        let session = Arc::new(session);
        self.current.store(Some(Arc::clone(&session)));
        self.changed.notify_waiters();
        session
    }

    /// Renews the lease of `old`, or logs in anew where that is past. While the old token is good, a
    /// failure is no reason to fail a call.
    async fn prolong(&self, old: &Session) -> Result<Arc<Session>, StoreError> {
        let next = match self.renew(old).await {
            Renewal::Done(session) => Ok(session),
            Renewal::Past => self.log_in(None).await,
            Renewal::Failed(error) => Err(error),
        };
        let now = self.clock.boot();
        match (next, old.lease) {
            (Ok(session), _) => Ok(self.publish(session)),
            (Err(error), Some(lease)) if now < lease.ends => {
                tracing::warn!(%error, hint = error.hint, "the Vault token was not renewed yet");
                Ok(self.publish(old.with_lease(Some(lease.postponed(now)))))
            }
            (Err(error), _) => Err(error),
        }
    }

    async fn renew(&self, old: &Session) -> Renewal {
        let Some(lease) = old.lease.filter(|lease| lease.renewable) else { return Renewal::Past };
        let since = self.clock.boot();
        match token::renew_self(&old.speaker.0, None).await.map_err(Fault::from) {
            Ok(mut answer) => {
                // The answer repeats the token in clear.
                drop(take_token(&mut answer.client_token));
                let lease = lease.renewed(answer.lease_duration, answer.renewable, since);
                Renewal::Done(old.with_lease(lease))
            }
            Err(fault) if matches!(fault.status(), Some(400..=404)) => Renewal::Past,
            Err(fault) => Renewal::Failed(self.asked("renewing the Vault token").explain(fault)),
        }
    }

    async fn log_in(&self, refused: Option<&Session>) -> Result<Session, StoreError> {
        let since = self.clock.boot();
        match &self.auth {
            Auth::Token(_) if refused.is_some() => Err(token_refused(
                "Put a valid token into the environment and start the service again.".to_owned(),
            )),
            Auth::Token(token) => self.adopt(token, since).await,
            Auth::TokenFile(file) => {
                let token = read_secret(file, "Vault token").await?;
                if refused.is_some_and(|old| old.fingerprint == token.fingerprint()) {
                    let file = file.display();
                    return Err(token_refused(format!("Put a valid token into {file}.")));
                }
                self.adopt(&token, since).await
            }
            Auth::Method { mount, method } => {
                self.connection.read_files_again()?;
                let speaker = self.connection.speak(None);
                let mut unwrapped = self.unwrapped.lock().await;
                let way = (mount.as_str(), method);
                let Obtained { token, lease, renewable } =
                    auth::log_in(&self.connection, &speaker, way, &mut unwrapped).await?;
                tracing::debug!(lease_s = lease, method = method.name(), "logged in to Vault");
                Ok(self.session_with(&token, Lease::new(lease, renewable, since)))
            }
        }
    }

    /// A token that came from outside: the server tells what it is good for.
    async fn adopt(&self, token: &StoreCredential, since: BootTime) -> Result<Session, StoreError> {
        let session = self.session_with(token, None);
        let lease = match token::lookup_self(&session.speaker.0).await.map_err(Fault::from) {
            Ok(found) => Lease::new(found.ttl, found.renewable.unwrap_or(false), since),
            // Its policies may hide the token from itself: whether it is good, the first call tells.
            Err(Fault::Unreadable) => None,
            Err(fault) if fault.is_forbidden() => None,
            Err(fault) => return Err(self.asked("looking up the Vault token").explain(fault)),
        };
        Ok(session.with_lease(lease))
    }

    fn session_with(&self, token: &StoreCredential, lease: Option<Lease>) -> Session {
        let speaker = Arc::new(self.connection.speak(Some(token)));
        Session { speaker, fingerprint: token.fingerprint(), lease }
    }

    fn asked(&self, doing: &str) -> Asked<'_> {
        let rule = String::from(
            r#"path "auth/token/renew-self" { capabilities = ["update"] } and path "auth/token/lookup-self" { capabilities = ["read"] }"#,
        );
        Asked { doing: doing.to_owned(), rule, mount: &self.mount }
    }
}

fn token_refused(hint: String) -> StoreError {
    let what = "the Vault server refuses the token: it has expired, was revoked or is not its own";
    StoreError::new(StoreErrorKind::Denied, what, hint)
}

enum Renewal {
    Done(Session),
    /// This token has no more life to give.
    Past,
    Failed(StoreError),
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: BootTime = BootTime::new(Duration::from_secs(1000));

    fn after(seconds: u64) -> BootTime {
        START + Duration::from_secs(seconds)
    }

    #[test]
    fn a_lease_is_renewed_at_two_thirds_and_a_root_token_never() {
        assert!(Lease::new(0, true, START).is_none());
        let lease = Lease::new(60, true, START).unwrap();
        assert_eq!((lease.due, lease.ends), (after(40), after(60)));
    }

    #[test]
    fn a_renewal_cut_short_by_the_maximum_life_makes_the_next_step_a_login() {
        let lease = Lease::new(60, true, START).unwrap();
        assert!(lease.renewed(60, true, after(40)).unwrap().renewable);
        let capped = lease.renewed(59, true, after(80)).unwrap();
        assert!(!capped.renewable);
        assert_eq!(capped.ends, after(139));
    }

    #[test]
    fn a_failed_renewal_is_tried_again_well_before_the_end_but_not_in_a_spin() {
        let lease = Lease::new(60, true, START).unwrap();
        assert_eq!(lease.postponed(after(30)).due, after(40));
        assert_eq!(lease.postponed(after(59)).due, after(60));
    }
}
