//! `grantkeeper rotate`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde::Serialize;

use super::{
    Global,
    exit::Failure,
    output::{Output, table, tone_of, toned},
    setting,
};
use crate::{
    daemon,
    engine::World,
    rotation::{self, Rotated, RotationError, Step},
    secret::{ClientSecret, Fingerprint},
};

/// Replace a credential without an unserved request.
#[derive(Debug, Subcommand)]
pub(super) enum Rotate {
    /// The app's client secret, after it was changed on its Auth page at HubSpot
    ClientSecret(Secret),
    /// Which client secrets are in the store, and which of them HubSpot accepts now; changes nothing
    Status,
    /// Take the staged secret into use, once HubSpot accepts it: after a crash, or from another machine
    Promote,
    /// Take the secret before this one into use again, if HubSpot still accepts it
    Rollback,
    /// Forget the secret before this one; webhooks signed with it are no longer accepted
    Retire,
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

/// A secret in the store, by its name.
#[derive(Serialize)]
struct Kept {
    secret: &'static str,
    name: Fingerprint,
    /// None: HubSpot could not be asked.
    accepted: Option<bool>,
}

fn told(output: Output) -> impl FnMut(Step) {
    move |step| {
        output.remark(match step {
            Step::Staged => "staged: the new secret stands beside the old one",
            Step::Proven => "proven: HubSpot accepts it",
            Step::TakenBack => "not proven: the new secret is taken out of the store again",
            Step::Promoted => "promoted: it is the one in use; the old one is kept beside it",
            Step::RolledBack => "rolled back: it is in use again; the newer one stands staged",
        });
    }
}

impl Rotate {
    pub(super) async fn run(self, global: &Global, output: Output) -> Result<(), Failure> {
        let config = setting::config(global)?;
        // Asked for before anything is opened: whoever types it sees no error of another kind afterwards.
        let new = match &self {
            Self::ClientSecret(secret) => Some(secret.read()?),
            _ => None,
        };
        let world = daemon::open_world(&config).await?;
        let (store, endpoint) = (&world.store, &world.endpoint);
        let (changed, what) = match (self, new) {
            (Self::ClientSecret(_), Some(new)) => {
                let done = rotation::rotate(store, endpoint, &new, told(output)).await?;
                (done == Rotated::Now, "rotated")
            }
            (Self::Promote | Self::ClientSecret(_), _) => {
                rotation::promote(store, endpoint, told(output)).await?;
                (true, "rotated")
            }
            (Self::Rollback, _) => {
                rotation::roll_back(store, endpoint, told(output)).await?;
                (true, "rolled back")
            }
            (Self::Retire, _) => return retire(&world, global, output).await,
            (Self::Status, _) => return status(&world, output).await,
        };
        let done =
            Done { rotated: changed, service_follows: setting::followed(global, output).await? };
        output.answer(&done, |done| {
            if done.rotated {
                format!("the client secret is {what}")
            } else {
                "the client secret is the one in use already".to_owned()
            }
        })
    }
}

impl Secret {
    fn read(&self) -> Result<ClientSecret, Failure> {
        let text = super::secret_text(self.from_file.as_deref(), "New client secret: ")?;
        ClientSecret::parse(text.trim()).map_err(|why| super::malformed("client secret", why))
    }
}

/// Whether HubSpot accepts it; none if it could not be asked.
const fn accepted(kept: &rotation::Kept) -> Option<bool> {
    match kept.accepted {
        Ok(()) => Some(true),
        Err(RotationError::Refused(_)) => Some(false),
        Err(_) => None,
    }
}

async fn status(world: &World, output: Output) -> Result<(), Failure> {
    let found = rotation::look(&world.store, &world.endpoint).await?;
    let kept: Vec<_> = found
        .iter()
        .map(|kept| Kept { secret: kept.place, name: kept.name, accepted: accepted(kept) })
        .collect();
    output.answer(&kept, |kept| {
        let lines = kept.iter().map(|kept| {
            let word = match kept.accepted {
                Some(true) => "ok",
                Some(false) => "refused",
                None => "not asked",
            };
            vec![kept.secret.to_owned(), kept.name.to_string(), toned(word, tone_of(word))]
        });
        table(&["secret", "name", "HubSpot"], lines)
    })
}

#[derive(Serialize)]
struct Retired {
    retired: bool,
    /// HubSpot accepts it still: whoever has it can use it. None: there was none, or HubSpot could not be asked.
    still_accepted: Option<bool>,
}

async fn retire(world: &World, global: &Global, output: Output) -> Result<(), Failure> {
    let found = rotation::look(&world.store, &world.endpoint).await?;
    let previous = found.iter().find(|kept| kept.place == "previous");
    let still_accepted = previous.and_then(accepted);
    let retired = rotation::retire(&world.store).await?;
    match still_accepted {
        Some(true) => output
            .remark("HubSpot accepts it still: whoever has it can use it until it is ended there"),
        None if retired => output.remark("HubSpot could not be asked whether it accepts it still"),
        _ => {}
    }
    if retired {
        setting::followed(global, output).await?;
    }
    output.answer(&Retired { retired, still_accepted }, |done| {
        if done.retired {
            "the earlier client secret is forgotten"
        } else {
            "there is no earlier client secret"
        }
        .to_owned()
    })
}
