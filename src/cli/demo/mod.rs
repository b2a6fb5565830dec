//! `grantkeeper demo`: the whole story with nothing installed. Real parts throughout: this binary as
//! the service, its own stand-in for HubSpot, the embedded store, a real socket, a real webhook.

use std::{process::ExitCode, time::Duration};

use clap::Args;

use super::{exit::Failure, output::Output};

mod receiver;
mod stage;
mod story;

use stage::Stage;

/// Show the whole job with nothing installed, in under a minute.
///
/// Starts the built-in HubSpot stand-in and an embedded store in a temporary folder, connects twelve
/// portals, runs the real service on a real socket, lets tokens expire and be renewed, revokes a
/// portal, breaks the app's secret and rotates it, shows the alerts, and cleans up.
#[derive(Debug, Args)]
pub(super) struct Demo {
    /// Leave everything running at the end, and print what to try
    #[arg(long)]
    keep: bool,
}

/// A step that takes longer than this did not hold.
const PATIENCE: Duration = Duration::from_secs(20);

impl Demo {
    pub(super) async fn run(self, output: Output) -> Result<ExitCode, Failure> {
        let mut stage = Stage::set().await?;
        let held = tokio::select! {
            held = story::tell(&mut stage, self.keep, output) => held,
            // Whoever has seen enough leaves nothing behind.
            () = super::sim::interrupted() => false,
        };
        if held && self.keep {
            story::keep(&stage, output)?;
            super::sim::interrupted().await;
        }
        stage.clear().await;
        Ok(if held { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}
