//! `grantkeeper rotate`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde::Serialize;

use super::{Global, exit::Failure, output::Output, setting};
use crate::{
    daemon,
    rotation::{self, Rotated, Step},
    secret::ClientSecret,
};

/// Replace a credential without an unserved request.
#[derive(Debug, Subcommand)]
pub(super) enum Rotate {
    /// The app's client secret, after it was changed on its Auth page at HubSpot
    ClientSecret(Secret),
}

/// Stage the new client secret beside the old one, prove it at HubSpot, promote it.
///
/// A secret that HubSpot refuses changes nothing. A running service follows at once, without a
/// restart. The old secret is kept as `previous_client_secret`, since it signs webhooks for a while.
#[derive(Debug, Args)]
#[command(after_help = "\
The new secret is asked for at a hidden prompt, or read from --from-file; never taken as an argument.
Exit codes: 75 HubSpot or the store can't be reached, 77 the store refuses, 78 HubSpot refuses the secret.")]
pub(super) struct Secret {
    /// Read the new secret from this file, or from standard input with `-`
    #[arg(long, value_name = "FILE")]
    from_file: Option<PathBuf>,
}

#[derive(Serialize)]
struct Done {
    rotated: bool,
    service_follows: bool,
}

impl Rotate {
    pub(super) async fn run(self, global: &Global, output: Output) -> Result<(), Failure> {
        let Self::ClientSecret(secret) = self;
        let config = setting::config(global)?;
        let text = super::secret_text(secret.from_file.as_deref(), "New client secret: ")?;
        let new = ClientSecret::parse(text.trim())
            .map_err(|why| super::malformed("client secret", why))?;
        let world = daemon::open_world(&config).await?;
        let tell = |step| {
            output.remark(match step {
                Step::Staged => "staged: the new secret stands beside the old one",
                Step::Proven => "proven: HubSpot accepts it",
                Step::TakenBack => "not proven: the new secret is taken out of the store again",
                Step::Promoted => "promoted: it is the one in use; the old one is kept beside it",
            });
        };
        let rotated = rotation::rotate(&world.store, &world.endpoint, &new, tell).await?;
        let done = Done {
            rotated: rotated == Rotated::Now,
            service_follows: setting::followed(global, output).await?,
        };
        output.answer(&done, |done| {
            let how = if done.rotated { "is rotated" } else { "is the one in use already" };
            format!("the client secret {how}")
        })
    }
}
