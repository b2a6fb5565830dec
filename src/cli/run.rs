//! `grantkeeper run`.

use clap::Args;

use super::{
    Global,
    exit::{Exit, Failure},
    setting,
};
use crate::{
    config::{self, Config},
    daemon::{self, Before},
};

/// Run the service, in the foreground.
///
/// Before it begins it gives up what it does not need: core dumps, new privileges, and all paths and ports that its
/// configuration does not lead to (Landlock; `[hardening]`). A socket that systemd made is taken over.
#[derive(Debug, Args)]
pub(super) struct Run {
    /// Run as root all the same
    #[arg(long)]
    allow_root: bool,
}

impl Run {
    /// What has to be done before there are threads.
    pub(super) fn before_threads(&self, global: &Global) -> Result<(Config, Before), Failure> {
        if rustix::process::geteuid().is_root() && !self.allow_root {
            return Err(Failure::new(
                Exit::Refused,
                "root",
                "the service is not to run as root: whoever breaks into it would have the whole machine",
                "Run it as a user of its own (the systemd unit does), or say --allow-root.",
            ));
        }
        let config = setting::config(global)?;
        let origin = setting::config_path(global);
        let before = Before::threads(&config, &origin, &config::environment)?;
        Ok((config, before))
    }

    pub(super) async fn run(
        global: &Global,
        (config, before): (Config, Before),
    ) -> Result<(), Failure> {
        let reread = || setting::config(global).map_err(|failure| failure.message);
        Ok(daemon::run(config, before, reread).await?)
    }
}
