//! `grantkeeper init`.

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use clap::Args;
use nix::unistd::{Group, User};

use super::{
    Global,
    exit::{Exit, Failure, causes},
    output::Output,
    setting,
};
use crate::{
    engine::Denial,
    init::{self, InitError, Manner, Owner, Plan},
    portal::PortalId,
};

/// Fetch tokens once, write them to files and end.
///
/// Everything is written, or nothing is: files are complete, of the right mode and owner, and on disk when they appear.
#[derive(Debug, Args)]
#[command(after_help = "\
Example, for a pod's init container:
  grantkeeper init --config /etc/grantkeeper/grantkeeper.toml --output-dir /tokens --wait 60s

A template (Jinja) names `portals` (each with portal_id, access_token, token_type, expires_at, expires_in),
`tokens['4711']`, and where there is one portal `portal_id` and `access_token`; any other name is an error:
  {% for portal in portals %}{{ portal.portal_id }}={{ portal.access_token }}
  {% endfor %}

HubSpot's tokens live about 30 minutes: this suits jobs. For servers, run the service beside them.
Exit codes: 3 no such portal, 4 a grant needs a person, 75 try again, 78 configuration or client
pair invalid, 124 --wait ran out.")]
pub(super) struct Init {
    /// A folder for one file a portal, `<portal>.token`
    #[arg(long, value_name = "DIR")]
    output_dir: Option<PathBuf>,
    /// A file of NAME=value lines: HUBSPOT_ACCESS_TOKEN_<portal>
    #[arg(long, value_name = "FILE")]
    env_file: Option<PathBuf>,
    /// A JSON file with every token and when it expires
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// A file made from a template: `/etc/app/app.conf.in:/run/app/app.conf`; may be repeated
    #[arg(long = "template", value_name = "IN:OUT", value_parser = template)]
    templates: Vec<(PathBuf, PathBuf)>,
    /// The mode of the files; a new --output-dir is open to the group where they are
    #[arg(long, value_name = "MODE", default_value = "0600", value_parser = mode)]
    mode: u32,
    /// Whose the files are, such as `1000:1000` or `app`; to give them away takes root
    #[arg(long, value_name = "USER[:GROUP]", value_parser = owner)]
    owner: Option<Owner>,
    /// Only this portal; may be repeated [default: all]
    #[arg(long = "portal", value_name = "ID")]
    portals: Vec<PortalId>,
    /// Leave what is fetched in state_dir, sealed: the service that follows in the same pod serves it at once, and
    /// spends no second refresh
    #[arg(long)]
    handover: bool,
    /// Keep trying for this long what may pass by itself, such as `60s`
    #[arg(long, value_name = "TIME", value_parser = super::duration)]
    wait: Option<Duration>,
}

impl Init {
    pub(super) async fn run(self, global: &Global, output: Output) -> Result<(), Failure> {
        if self.output_dir.is_none()
            && self.env_file.is_none()
            && self.json.is_none()
            && self.templates.is_empty()
            && !self.handover
        {
            return Err(Failure::new(
                Exit::Usage,
                "no_output",
                "nowhere to write to",
                "Name at least one of --output-dir, --env-file, --json, --template and --handover.",
            ));
        }
        let config = setting::config(global)?;
        let plan = Plan {
            portals: self.portals.into_iter().collect::<BTreeSet<_>>(),
            output_dir: self.output_dir,
            env_file: self.env_file,
            json_file: self.json,
            templates: self.templates,
            manner: Manner { mode: self.mode, owner: self.owner },
            handover: self.handover,
            wait: self.wait,
        };
        let tell = |error: &InitError, wait: Duration| {
            let why = causes(error).map(|why| format!(": {why}")).unwrap_or_default();
            output.remark(&format!(
                "not yet: {error}{why}; trying again in {} s",
                wait.as_secs_f32()
            ));
        };
        let report = init::init(&config, &plan, tell).await?;
        output.answer(&report, |report| {
            let mut lines = vec![format!("portals: {}", report.portals.len())];
            lines.extend(report.files.iter().map(|file| file.display().to_string()));
            if let Some(portals) = report.handed_over {
                lines.push(format!("handed over to the service in state_dir: {portals}"));
            }
            if !report.unsaved.is_empty() {
                let portals = init::list(&report.unsaved);
                lines.push(format!(
                    "new refresh tokens are in state_dir alone, since the store did not take them: {portals}"
                ));
            }
            lines.join("\n")
        })
    }
}

/// Two paths with a colon between them.
fn template(text: &str) -> Result<(PathBuf, PathBuf), String> {
    match text.split_once(':') {
        Some((from, to)) if !from.is_empty() && !to.is_empty() && !to.contains(':') => {
            Ok((from.into(), to.into()))
        }
        _ => Err("write the template, a colon, and the file it becomes".to_owned()),
    }
}

/// A mode that keeps a token from everybody who is in no group of its.
fn mode(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode & !0o640 == 0 && mode & 0o400 != 0 => Ok(mode),
        _ => Err("a token's file is 0400, 0440, 0600 or 0640".to_owned()),
    }
}

/// A user and a group, by number or name.
fn owner(text: &str) -> Result<Owner, String> {
    let (user, group) =
        text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
    let by_name = User::from_name(user).ok().flatten().map(|user| user.uid.as_raw());
    let uid = user.parse().ok().or(by_name).ok_or("there is no such user on this machine")?;
    let gid = group.map(|group| {
        let by_name = Group::from_name(group).ok().flatten().map(|group| group.gid.as_raw());
        group.parse().ok().or(by_name).ok_or("there is no such group on this machine")
    });
    Ok(Owner { uid, gid: gid.transpose()? })
}

impl From<InitError> for Failure {
    fn from(error: InitError) -> Self {
        let (message, why) = (error.to_string(), causes(&error));
        match error {
            InitError::Start(error) => error.into(),
            InitError::App(refusal) => Self::from(&refusal),
            InitError::NoSuchPortal(_) => Self::new(
                Exit::NotFound,
                "unknown_portal",
                message,
                "Nothing was written. `grantkeeper check` lists the portals in the store.",
            ),
            InitError::NoPortals => Self::new(
                Exit::NotFound,
                "no_portals",
                message,
                "Nothing was written. Store a grant first: `grantkeeper enroll`.",
            ),
            InitError::Unusable(_, error) => Self {
                hint: error.hint,
                ..Self::new(Exit::Invalid, "record_unusable", message, "")
            }
            .because(error.what),
            InitError::NoToken(_, denial) => {
                let (why, ended) = (denial.to_string(), matches!(denial, Denial::Ended(_)));
                let failure = Self { message, ..Self::from(denial) }.because(why);
                if !ended {
                    return failure;
                }
                let hint = "Nothing was written. Mend that grant (`grantkeeper check`), or name the portals to fetch with --portal.";
                Self { hint: hint.to_owned(), ..failure }
            }
            InitError::AboutToExpire(_) => Self::new(
                Exit::TryAgain,
                "about_to_expire",
                message,
                "Nothing was written. Try again in a while, or have it keep trying with --wait; `grantkeeper check` says what is wrong.",
            ),
            InitError::WaitRanOut(None) => Self::new(
                Exit::WaitRanOut,
                "wait_ran_out",
                message,
                "Give it more time, or see `grantkeeper check`.",
            )
            .because("the store or HubSpot did not answer"),
            InitError::WaitRanOut(Some(error)) => {
                let last = Self::from(*error);
                let why = match last.cause {
                    Some(cause) => format!("{}: {cause}", last.message),
                    None => last.message,
                };
                Self::new(Exit::WaitRanOut, "wait_ran_out", message, last.hint).because(why)
            }
            InitError::Interrupted => Self::new(
                Exit::Failed,
                "interrupted",
                message,
                "Nothing was written, and what HubSpot had given is kept. Run it again.",
            ),
            InitError::Target { .. } => Self::new(
                Exit::Usage,
                "output",
                message,
                "Nothing was fetched or written. Name files in folders that exist, each once.",
            ),
            InitError::Unsaved(..) => Self {
                cause: why,
                ..Self::new(
                    Exit::Failed,
                    "grant_unsaved",
                    message,
                    "Nothing was written. HubSpot has begun to replace refresh tokens: let init's login write portals' records (policies, the agent's), or configure state_dir, which keeps them. Should HubSpot refuse the old ones, these customers have to connect again.",
                )
            },
            InitError::NoHandover(why) => Self::new(
                Exit::Invalid,
                "no_handover",
                message,
                "Let `state_dir` name a folder that this container and the service's share, such as a memory volume, and that its user may write to.",
            )
            .because(why),
            InitError::Template { why, .. } => Self::new(
                Exit::Invalid,
                "template",
                message,
                "Nothing was written. `grantkeeper init --help` says what a template may name.",
            )
            .because(why),
            InitError::Write { source, .. } => Self::new(
                Exit::Failed,
                "output",
                message,
                "See that the folder exists, may be written to and is not full.",
            )
            .because(source.to_string()),
        }
    }
}
