//! `grantkeeper rotate`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde::Serialize;

use super::{
    Global,
    exit::{Exit, Failure},
    output::{Output, table, tone_of, toned},
    setting,
};
use crate::{
    daemon,
    engine::World,
    portal::PortalId,
    rotation::{self, Canary, Rotated, Rotating, RotationError, Step},
    secret::{ClientSecret, Fingerprint},
    socket::{Client, client::AskError, protocol::TriedBody},
    store::{
        Key,
        record::{self, Taken},
    },
};

/// Replace a credential without an unserved request.
#[derive(Debug, Subcommand)]
pub(super) enum Rotate {
    /// The app's client secret, after it was changed on its Auth page at HubSpot
    ClientSecret(Secret),
    /// Which client secrets are in the store, and which of them HubSpot accepts now; changes nothing
    Status,
    /// Take the staged secret into use, once HubSpot accepts it: after a crash, or from another machine
    Promote(Promote),
    /// Take the secret before this one into use again, if HubSpot still accepts it
    Rollback(Rollback),
    /// Forget the secret before this one; webhooks signed with it are no longer accepted
    Retire(Retire),
    /// Forget the staged secret; the one in use stays in use
    Discard,
    /// Have the running service read the app's record now, after a rotation elsewhere
    #[command(
        after_help = "Exit codes: 69 no service, 75 the service does not use what is stored, or can't read it, 77 refused."
    )]
    Follow,
}

/// Forget the secret before this one.
///
/// Webhooks signed with it are no longer accepted, and there is no way back to it. Unless HubSpot refuses it by now, it asks
/// first.
#[derive(Debug, Args)]
pub(super) struct Retire {
    /// Do it without being asked
    #[arg(short, long)]
    yes: bool,
}

/// Take the secret before this one into use again, if HubSpot still accepts it.
///
/// The one that was in use stands staged then. Where another one stands staged, nothing is done without --replace.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 2 another one is staged, 3 no earlier one is kept, 75 try again, 77 the store refuses, 78 HubSpot refuses it."
)]
pub(super) struct Rollback {
    /// Put the one in use now in the place of another one that stands staged
    #[arg(long)]
    replace: bool,
}

/// Take the staged secret into use, once HubSpot accepts it.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 3 nothing is staged (any more), 75 try again, 77 the store refuses, 78 HubSpot refuses it."
)]
pub(super) struct Promote {
    /// Don't have the running service refresh one portal with it first
    #[arg(long)]
    no_canary: bool,
}

/// Prove the new client secret at HubSpot, stage it beside the old one, try it on one portal, promote it.
///
/// A secret that HubSpot refuses changes nothing. The running service refreshes one portal with it before it counts,
/// and follows at once, without a restart. The old secret is kept as `previous_client_secret`: webhooks signed with it
/// are accepted for `rotation.keep_previous` (72 h), and `rotate rollback` goes back to it.
#[derive(Debug, Args)]
#[command(after_help = "\
The new secret is asked for at a hidden prompt, or read from --from-file; never taken as an argument.
Exit codes: 2 no secret, the client id in its place, or another one is staged, 75 HubSpot or the store can't be reached, or
the portal could not be tried, 77 the store refuses, 78 HubSpot refuses the secret.")]
pub(super) struct Secret {
    /// Read the new secret from this file, or from standard input with `-`
    #[arg(long, value_name = "FILE")]
    from_file: Option<PathBuf>,
    /// Don't have the running service refresh one portal with it first
    #[arg(long)]
    no_canary: bool,
    /// Put it in the place of another one that stands staged
    #[arg(long)]
    replace: bool,
}

#[derive(Serialize)]
struct Done {
    /// Whether another secret is in use, or stands there, than before.
    changed: bool,
    /// The portal that was refreshed with it first. None: none was, for want of one or by --no-canary.
    tried: Option<PortalId>,
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

#[derive(Serialize)]
struct Looked {
    secrets: Vec<Kept>,
    /// What was done about them of late, the oldest first.
    steps: Vec<record::Step>,
}

fn told(output: Output) -> impl FnMut(Step) + Send {
    move |step| {
        output.remark(&match step {
            Step::Proven => "proven: HubSpot accepts it".to_owned(),
            Step::Staged => "staged: it stands beside the one in use".to_owned(),
            Step::Tried(portal) => format!("tried: portal {portal} has a new token by it"),
            Step::Untried(why) => format!("not tried on a portal: {why}"),
            Step::TakenBack => "taken out of the store again: it is not in use".to_owned(),
            Step::StillStaged(why) => format!(
                "not taken out of the store again ({why}): it is not in use; if it stands staged (`grantkeeper rotate status`), `rotate discard` takes it out"
            ),
            Step::Promoted => {
                "promoted: it is the one in use; the old one is kept beside it".to_owned()
            }
            Step::RolledBack => {
                "rolled back: it is in use again; the newer one stands staged".to_owned()
            }
        });
    }
}

/// Has the running service refresh one portal with what is staged.
async fn canary(service: Result<Client, Failure>, wanted: bool) -> Canary {
    if !wanted {
        return Canary::Nobody("--no-canary".to_owned());
    }
    let Ok(service) = service else { return Canary::Nobody("no service is known".to_owned()) };
    let tried: Result<TriedBody, AskError> = service.post("/v1/rotation/try").await;
    match tried {
        Ok(TriedBody { portal_id, outcome, reason }) => {
            let why = reason.unwrap_or_default();
            match (&*outcome, portal_id) {
                ("accepted", Some(portal)) => Canary::Well(portal),
                ("refused", _) => Canary::Refused(why),
                ("skipped", _) => Canary::Nobody(why),
                (_, Some(portal)) => Canary::NotTold(format!("portal {portal}: {why}")),
                (_, None) => Canary::NotTold(why),
            }
        }
        Err(AskError::Unreachable { .. }) => {
            Canary::Nobody("no service runs on this machine".to_owned())
        }
        Err(AskError::Refused(problem)) if problem.code == "forbidden" => {
            Canary::Nobody("the running service does not let this user".to_owned())
        }
        Err(error) => Canary::NotTold(error.to_string()),
    }
}

/// Whatever went wrong after it was staged: the service knows what stands there.
async fn followed_anyway<T>(
    done: Result<T, RotationError>,
    global: &Global,
    output: Output,
) -> Result<T, Failure> {
    use RotationError::{CanaryRefused, ChangedMeanwhile, NotTried};
    if matches!(done, Err(CanaryRefused(_) | ChangedMeanwhile | NotTried(_))) {
        setting::followed(global, output).await?;
    }
    Ok(done?)
}

/// Which user of which machine this is.
fn who() -> String {
    let (uid, machine) = (rustix::process::getuid().as_raw(), rustix::system::uname());
    format!("uid {uid} on {}", machine.nodename().to_string_lossy())
}

impl Rotate {
    pub(super) async fn run(self, global: &Global, output: Output) -> Result<(), Failure> {
        if matches!(self, Self::Follow) {
            return follow(global, output).await;
        }
        let config = setting::config_but_alerts(global, output)?;
        // Asked for before anything is opened: whoever types it sees no error of another kind afterwards.
        let new = match &self {
            Self::ClientSecret(secret) => Some(secret.read(output)?),
            _ => None,
        };
        let world = daemon::open_world(&config).await?;
        let mut tell = told(output);
        let mut rotating = Rotating {
            store: &world.store,
            endpoint: &world.endpoint,
            clock: &*world.clock,
            by: who(),
            tell: &mut tell,
        };
        let service = || setting::service(global);
        let (changed, tried, what) = match self {
            Self::ClientSecret(secret) => {
                let Some(new) = new else { return Ok(()) };
                secret.is_not_the_id(&world, &new).await?;
                let canary = canary(service(), !secret.no_canary);
                let done = rotating.rotate(&new, secret.replace, canary).await;
                let done = followed_anyway(done, global, output).await?;
                let (changed, tried) = match done {
                    Rotated::Now(tried) => (true, tried),
                    Rotated::Already => (false, None),
                };
                (changed, tried, "the client secret is rotated")
            }
            Self::Promote(promote) => {
                let done = rotating.promote(canary(service(), !promote.no_canary)).await;
                let tried = followed_anyway(done, global, output).await?;
                (true, tried, "the client secret is rotated")
            }
            Self::Rollback(how) => {
                rotating.roll_back(how.replace).await?;
                (true, None, "the client secret is rolled back")
            }
            Self::Discard if rotating.discard().await? => {
                (true, None, "the staged client secret is forgotten")
            }
            Self::Discard => {
                let why = "no new client secret is staged";
                return Err(RotationError::NothingThere(why).into());
            }
            Self::Follow => return Ok(()),
            Self::Retire(how) => return retire(&mut rotating, how.yes, global, output).await,
            Self::Status => return status(&world, output).await,
        };
        let service_follows = setting::followed(global, output).await?;
        let done = Done { changed, tried, service_follows };
        output.answer(&done, |done| {
            if done.changed { what } else { "the client secret is the one in use already" }
                .to_owned()
        })
    }
}

async fn follow(global: &Global, output: Output) -> Result<(), Failure> {
    if !setting::tell(global).await?? {
        return Err(Failure::new(
            Exit::TryAgain,
            "not_followed",
            "the running service was told, and does not use the client secret that is stored",
            "It follows once HubSpot accepts that one: `grantkeeper rotate status` says whether it does. Then run this again.",
        ));
    }
    let done = Done { changed: false, tried: None, service_follows: true };
    output.answer(&done, |_| "followed: the service uses what is stored".to_owned())
}

impl Secret {
    /// The two stand side by side on the page where they are copied.
    async fn is_not_the_id(&self, world: &World, new: &ClientSecret) -> Result<(), Failure> {
        let stored = world.store.read(Key::App).await?;
        let id = stored.record.app().ok().map(|app| app.client_id);
        let id = id.and_then(|id| ClientSecret::parse(id.as_str()).ok());
        if id.is_some_and(|id| id.same_as(new)) {
            return Err(Failure::new(
                Exit::Usage,
                "client_id_as_secret",
                "this is the app's client id, not its client secret",
                "Nothing was changed. The secret stands beside the id on the app's Auth page at HubSpot.",
            ));
        }
        Ok(())
    }

    fn read(&self, output: Output) -> Result<ClientSecret, Failure> {
        let (file, option) = (self.from_file.as_deref(), "--from-file");
        let text = super::secret_text(file, option, "New client secret: ", output)?;
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
    let (found, steps) = rotation::look(&world.store, &world.endpoint).await?;
    let secrets: Vec<_> = found
        .iter()
        .map(|kept| Kept { secret: kept.place, name: kept.name, accepted: accepted(kept) })
        .collect();
    let silent = found.iter().find_map(|kept| match &kept.accepted {
        Err(RotationError::NotAsked(refusal)) => Some(Failure::from(refusal)),
        _ => None,
    });
    if let Some(Failure { message, hint, .. }) = silent {
        output.remark(&format!("{message}. {hint}"));
    }
    output.answer(&Looked { secrets, steps }, |looked| {
        let lines = looked.secrets.iter().map(|kept| {
            let word = match kept.accepted {
                Some(true) => "ok",
                Some(false) => "refused",
                None => "not known",
            };
            vec![kept.secret.to_owned(), kept.name.to_string(), toned(word, tone_of(word))]
        });
        let mut text = table(&["secret", "name", "HubSpot"], lines);
        if !looked.steps.is_empty() {
            let lines = looked.steps.iter().map(|step| {
                let what = match step.what {
                    Taken::Staged => "staged",
                    Taken::Promoted => "promoted",
                    Taken::RolledBack => "rolled back",
                    Taken::Discarded => "discarded",
                    Taken::Retired => "retired",
                };
                vec![what.to_owned(), step.at.to_string(), step.by.clone()]
            });
            text += "\n\n";
            text += &table(&["step", "when", "by"], lines);
        }
        text
    })
}

#[derive(Serialize)]
struct Retired {
    retired: bool,
    /// HubSpot accepts it still: whoever has it can use it. None: there was none, or HubSpot could not be asked.
    still_accepted: Option<bool>,
}

async fn retire(
    rotating: &mut Rotating<'_>,
    yes: bool,
    global: &Global,
    output: Output,
) -> Result<(), Failure> {
    let (found, _) = rotation::look(rotating.store, rotating.endpoint).await?;
    let previous = found.iter().find(|kept| kept.place == "previous");
    let still_accepted = previous.and_then(accepted);
    if previous.is_some() && still_accepted != Some(false) {
        let (known, advice) = if still_accepted.is_some() {
            (
                "HubSpot accepts the earlier client secret still",
                "end it on the app's Auth page first",
            )
        } else {
            ("HubSpot could not be asked about the earlier client secret", "ask again in a minute")
        };
        if !yes {
            output.remark(&format!("{known}: {advice}"));
        }
        let question = format!(
            "{known}. Once it is forgotten there is no way back to it, and nobody sees any more whether it is dead."
        );
        super::confirm(&question, yes, "`grantkeeper rotate status` to look at both")?;
    }
    let retired = rotating.retire(previous.map(|kept| kept.name)).await?;
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
