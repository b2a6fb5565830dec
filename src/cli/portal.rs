//! `grantkeeper portal`.

use clap::{Args, Subcommand, builder::PossibleValuesParser};
use serde::{Deserialize, Serialize};

use super::{
    Global,
    exit::{Exit, Failure},
    output::{Output, table, tone_of, toned},
    setting,
};
use crate::{
    lifecycle::PortalState,
    portal::PortalId,
    secret::AccessToken,
    socket::{
        Client,
        protocol::{PausedBody, PortalBody, PortalsBody, RefreshBody, RemovedBody},
    },
    time::{Clock, SystemClock},
};

/// Look at customer accounts, as the running service sees them, and order something about one.
#[derive(Debug, Subcommand)]
pub(super) enum Portal {
    /// All of them, with their states
    List(List),
    /// One of them
    Show(Show),
    /// Give out no token and ask HubSpot nothing, until `resume`
    Pause(Show),
    /// Let a paused one go on
    Resume(Show),
    /// Have its token renewed now
    Refresh(Show),
    /// End its grant at HubSpot, then forget it
    Revoke(Part),
    /// Forget it; its grant stays good at HubSpot
    Remove(Part),
}

#[derive(Debug, Args)]
pub(super) struct List {
    /// Only those in this state
    #[arg(long, value_name = "STATE", value_parser = states())]
    state: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct Show {
    /// The portal's id
    portal: PortalId,
}

#[derive(Debug, Args)]
pub(super) struct Part {
    /// The portal's id
    portal: PortalId,
    /// Do it without being asked
    #[arg(short, long)]
    yes: bool,
    /// Say what would be done, and do nothing
    #[arg(long, conflicts_with = "yes")]
    dry_run: bool,
}

#[derive(Serialize)]
struct Parted {
    portal_id: PortalId,
    state: String,
    revoked: bool,
    dry_run: bool,
}

fn states() -> PossibleValuesParser {
    PossibleValuesParser::new(PortalState::ALL.map(PortalState::as_str))
}

impl Portal {
    pub(super) async fn run(self, global: &Global, output: Output) -> Result<(), Failure> {
        let service = setting::service(global)?;
        match self {
            Self::List(list) => {
                let state = list.state.map(|state| format!("&state={state}")).unwrap_or_default();
                let mut all = PortalsBody { portals: Vec::new(), next: None };
                loop {
                    let after = all.next.map_or(0, PortalId::number);
                    let page = format!("/v1/portals?after={after}{state}");
                    let page: PortalsBody = service.get(&page).await?;
                    all.portals.extend(page.portals);
                    all.next = page.next;
                    if all.next.is_none() {
                        break;
                    }
                }
                output.answer(&all, |all| rows(&all.portals))
            }
            Self::Show(show) => {
                let target = format!("/v1/portals/{}", show.portal);
                let portal = service.get::<PortalBody>(&target).await;
                let portal = portal.map_err(|error| Failure::from(error).about(show.portal))?;
                output.answer(&portal, |portal| {
                    let mut text = rows(std::slice::from_ref(portal));
                    if let Some(scopes) = &portal.scopes {
                        text += &format!("\nscopes: {scopes}\n");
                    }
                    text
                })
            }
            Self::Refresh(show) => refresh(&service, show.portal, output).await,
            Self::Revoke(part) => part.carry_out(&service, true, output).await,
            Self::Remove(part) => part.carry_out(&service, false, output).await,
            Self::Pause(show) => order(&service, show.portal, "pause", output).await,
            Self::Resume(show) => order(&service, show.portal, "resume", output).await,
        }
    }
}

/// The token of a moment ago is met by its name: nobody needs to see it for that.
async fn refresh(service: &Client, portal: PortalId, output: Output) -> Result<(), Failure> {
    let about = |error| Failure::from(error).about(portal);
    let target = format!("/v1/portals/{portal}/token?min_ttl=0");
    let before: Named = service.get(&target).await.map_err(about)?;
    let rejected = RefreshBody { rejected: before.access_token.fingerprint().to_string() };
    let target = format!("/v1/portals/{portal}/refresh");
    let after: Named = service.post_json(&target, &rejected).await.map_err(about)?;
    output
        .answer(&serde_json::json!({ "portal_id": portal, "expires_at": after.expires_at }), |_| {
            format!("portal {portal} has a new token; it expires at {}", after.expires_at)
        })
}

#[derive(Deserialize)]
struct Named {
    access_token: AccessToken,
    expires_at: jiff::Timestamp,
}

impl Part {
    async fn carry_out(
        self,
        service: &Client,
        revoke: bool,
        output: Output,
    ) -> Result<(), Failure> {
        let Self { portal, yes, dry_run } = self;
        let about = |error| Failure::from(error).about(portal);
        let now: PortalBody = service.get(&format!("/v1/portals/{portal}")).await.map_err(about)?;
        let what = if revoke {
            format!(
                "end the grant of portal {portal} at HubSpot and take its record out of the store"
            )
        } else {
            format!(
                "take the record of portal {portal} out of the store; its grant stays good at HubSpot"
            )
        };
        let parted =
            Parted { portal_id: portal, state: now.state, revoked: revoke && !dry_run, dry_run };
        if dry_run {
            return output.answer(&parted, |parted| {
                format!("portal {portal} is {}; this would {what}. Nothing was done", parted.state)
            });
        }
        if !yes && !super::confirmed(&format!("This will {what}."))? {
            return Err(Failure::new(
                Exit::Failed,
                "not_confirmed",
                "nothing was done: it was not confirmed",
                "Answer `yes`, or say --yes.",
            ));
        }
        let target = format!("/v1/portals/{portal}?revoke={revoke}");
        service.delete::<RemovedBody>(&target).await.map_err(about)?;
        output.answer(&parted, |_| {
            let done = if revoke { "its grant is ended at HubSpot, and it is" } else { "it is" };
            format!("portal {portal}: {done} no longer served; tokens that were given out work for up to 30 minutes")
        })
    }
}

async fn order(
    service: &Client,
    portal: PortalId,
    what: &str,
    output: Output,
) -> Result<(), Failure> {
    let answer = service.post::<PausedBody>(&format!("/v1/portals/{portal}/{what}")).await;
    let answer = answer.map_err(|error| Failure::from(error).about(portal))?;
    if answer.paused && !answer.outlives_restart {
        output.remark(
            "this ends when the service restarts: it keeps no journal (see state_dir), or could not write it",
        );
    }
    output.answer(&answer, |answer| {
        if answer.paused {
            format!(
                "portal {portal} is paused: no token is given out and HubSpot is asked nothing, until `grantkeeper portal resume {portal}`; what was given out before works until it expires"
            )
        } else {
            format!("portal {portal} goes on")
        }
    })
}

fn rows(portals: &[PortalBody]) -> String {
    let now = SystemClock.wall();
    let time = |at: &Option<jiff::Timestamp>| {
        // The day is said where it is another.
        let form = |at: jiff::Timestamp| {
            let far = at.duration_since(now).abs() > jiff::SignedDuration::from_hours(12);
            if far { "%Y-%m-%d %H:%M:%SZ" } else { "%H:%M:%SZ" }
        };
        at.map_or_else(|| "-".to_owned(), |at| at.strftime(form(at)).to_string())
    };
    let expiry = |at: &Option<jiff::Timestamp>| match at {
        Some(expired) if *expired <= now => format!("{} expired", time(at)),
        _ => time(at),
    };
    table(
        &["PORTAL", "STATE", "REASON", "EXPIRES", "LAST REFRESH", "NEXT REFRESH"],
        portals.iter().map(|portal| {
            vec![
                portal.portal_id.to_string(),
                toned(&portal.state, tone_of(&portal.state)),
                portal.reason.clone().unwrap_or_else(|| "-".to_owned()),
                expiry(&portal.expires_at),
                time(&portal.last_refresh),
                time(&portal.next_refresh),
            ]
        }),
    )
}
