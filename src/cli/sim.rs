//! `grantkeeper sim`.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use clap::Args;
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::{
    exit::{Exit, Failure},
    output::Output,
};
use crate::{
    sim::{self, Scenario},
    time::SystemClock,
};

/// Run the HubSpot stand-in by itself, for anybody's integration tests.
///
/// It serves HubSpot's OAuth and account endpoints, misbehaves on demand, and keeps the truth of
/// every refresh token that was ever presented. GET /_sim/ tells its state; docs/simulator.md has
/// every switch.
#[derive(Debug, Args)]
#[command(after_help = "\
Try:
  grantkeeper sim &
  curl http://127.0.0.1:8484/_sim/
  curl -X POST http://127.0.0.1:8484/_sim/portals     # a customer connects the app")]
pub(super) struct Sim {
    /// Where to listen; port 0 lets the system choose
    #[arg(long, default_value = sim::DEFAULT_LISTEN, value_name = "ADDRESS")]
    listen: String,
    /// What it starts with: the app, portals, settings and faults, in TOML
    #[arg(long, value_name = "FILE")]
    scenario: Option<PathBuf>,
}

#[derive(Serialize)]
struct Started {
    base_url: String,
    control: String,
    client_id: String,
    client_secret: String,
}

impl Sim {
    pub(super) async fn run(self, output: Output) -> Result<(), Failure> {
        let scenario = self.scenario.as_deref().map(scenario).transpose()?.unwrap_or_default();
        let sim = sim::Sim::new(scenario, Arc::new(SystemClock));
        let (listener, address) = sim::Sim::bind(&self.listen).await.map_err(|error| {
            Failure::new(
                Exit::Failed,
                "address",
                format!("the stand-in can't listen on {}", self.listen),
                "Write an address and a free port, such as 127.0.0.1:8484; port 0 lets the system choose.",
            )
            .because(error.to_string())
        })?;
        let started = Started {
            base_url: format!("http://{address}"),
            control: format!("http://{address}/_sim/"),
            client_id: sim.client_id().as_str().to_owned(),
            // exposed: a secret of the stand-in's own, for whoever tests against it
            client_secret: sim.client_secret().expose().to_owned(),
        };
        output.answer(&started, |started| {
            format!(
                "HubSpot stand-in on {}\n  client id      {}\n  client secret  {}\n  control        {}\nCtrl-C ends it.",
                started.base_url, started.client_id, started.client_secret, started.control
            )
        })?;
        let stop = CancellationToken::new();
        let serving = sim.serve(listener, stop.clone());
        tokio::pin!(serving);
        tokio::select! {
            () = &mut serving => {}
            () = interrupted() => {
                stop.cancel();
                serving.await;
            }
        }
        Ok(())
    }
}

fn scenario(path: &Path) -> Result<Scenario, Failure> {
    let hint = "docs/simulator.md describes every key.";
    let text = fs::read_to_string(path).map_err(|error| {
        let what = format!("the scenario {} can't be read", path.display());
        Failure::new(Exit::Invalid, "scenario", what, hint).because(error.to_string())
    })?;
    Scenario::parse(&text).map_err(|error| {
        let what = format!("the scenario {} has mistakes", path.display());
        Failure::new(Exit::Invalid, "scenario", what, error.hint()).because(error.to_string())
    })
}

/// Waits for SIGINT or SIGTERM.
pub(super) async fn interrupted() {
    let (Ok(mut interrupt), Ok(mut terminate)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}
