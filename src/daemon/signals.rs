//! What the service is told by signals (contract section 7).

use std::{future::pending, io};

use tokio::signal::unix::{Signal, SignalKind, signal};

pub(super) enum Received {
    Reload,
    Stop,
}

pub(crate) struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    pub(crate) fn listen() -> io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    pub(super) async fn next(&mut self) -> Received {
        tokio::select! {
            Some(()) = self.hangup.recv() => Received::Reload,
            Some(()) = self.terminate.recv() => Received::Stop,
            Some(()) = self.interrupt.recv() => Received::Stop,
            else => pending().await,
        }
    }

    /// Waits until it is told to stop; a wish to reload is not heard.
    pub(crate) async fn stop(&mut self) {
        tokio::select! {
            Some(()) = self.terminate.recv() => {}
            Some(()) = self.interrupt.recv() => {}
            else => pending().await,
        }
    }
}
