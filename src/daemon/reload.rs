//! A reload: the configuration and every record again. Whatever is wrong with the new one, the old
//! one goes on (I14).

use std::{path::Path, sync::Arc};

use sd_notify::NotifyState;
use tokio::sync::{mpsc, oneshot};

use super::{engine_settings, needs::needs, notify, routes, rules};
use crate::{
    config::{Config, DEFAULT_PATH, environment},
    engine::{Command, Handle},
    hardening::Needs,
    time::{Clock, SystemClock},
};

/// What a reload renews.
pub(super) struct Renew<'a> {
    pub(super) handle: &'a Handle,
    pub(super) commands: &'a mpsc::Sender<Command>,
    /// What the process kept at its start; none where it gave up nothing.
    pub(super) kept: Option<&'a Needs>,
}

impl Renew<'_> {
    /// Reads the configuration again. A bad file keeps the old one running (I14).
    pub(super) async fn configuration(
        &self,
        current: Config,
        reread: &impl Fn() -> Result<Config, String>,
    ) -> Config {
        let since = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        notify(&[
            NotifyState::Reloading,
            NotifyState::MonotonicUsec(
                i128::from(since.tv_sec) * 1_000_000 + i128::from(since.tv_nsec) / 1_000,
            ),
        ]);
        match reread() {
            Ok(next) => self.adopt(&current, next).await.unwrap_or(current),
            Err(mistakes) => {
                tracing::error!(
                    "the new configuration is refused and the old one goes on:\n{mistakes}"
                );
                self.handle.note_refused_reload(
                    "the last reload was refused: the configuration has mistakes, see the log"
                        .to_owned(),
                );
                current
            }
        }
    }

    async fn adopt(&self, current: &Config, next: Config) -> Option<Config> {
        for part in current.needs_restart(&next) {
            tracing::warn!(section = part, "changed; this takes effect at the next start");
        }
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        match routes(&next, &clock) {
            Ok(routes) => {
                // The engine only stops listening when the process ends.
                self.commands.send(Command::Reroute(routes)).await.ok();
            }
            Err(error) => {
                tracing::error!(%error, "the new configuration is refused and the old one goes on");
                self.handle.note_refused_reload(
                    "the last reload was refused: a receiver of alerts can't be had, see the log"
                        .to_owned(),
                );
                return None;
            }
        }
        self.handle.configure(rules(&next), engine_settings(&next)).await;
        self.tell_of_lacks(&next);
        tracing::info!("configuration read again");
        Some(next)
    }
}

impl Renew<'_> {
    /// Says what the new configuration needs of the machine that was given up at the start.
    fn tell_of_lacks(&self, next: &Config) {
        let wanted = needs(next, Path::new(DEFAULT_PATH), &environment);
        let lacking = self.kept.map(|kept| wanted.beyond(kept)).unwrap_or_default();
        if !lacking.is_empty() {
            let lacking = lacking.join(", ");
            tracing::warn!(
                lacking,
                "the new configuration needs what this process gave up at its start: restart it"
            );
            self.handle.note_refused_reload(format!(
                "the configuration needs what the service gave up at its start ({lacking}): restart it"
            ));
        }
    }
}

/// Goes on in a new audit log where the one in use was moved away.
pub(super) async fn audit(handle: &Handle) {
    if let Err(error) = handle.audit().reopen().await {
        handle.note_refused_reload(
            "the audit log could not be reopened and goes on in its old file, see the log"
                .to_owned(),
        );
        tracing::error!(%error, hint = %error.hint(), "the audit log is not reopened; the one in use goes on");
    }
}

/// Has every record read again, and tells how that went. Runs beside the service: a store that
/// hangs must not keep it from hearing that it is to stop.
pub(super) async fn records(commands: mpsc::Sender<Command>) {
    let (done, heard) = oneshot::channel();
    if commands.send(Command::Reload(done)).await.is_ok() {
        match heard.await {
            Ok(Ok(_)) => tracing::info!("records read again"),
            Ok(Err(kind)) => {
                tracing::warn!(trouble = kind.as_str(), "records could not be read again");
            }
            // The engine has ended meanwhile.
            Err(_) => return,
        }
    }
    notify(&[NotifyState::Ready]);
}
