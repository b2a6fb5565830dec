//! `grantkeeper portal`.

use clap::{Args, Subcommand, builder::PossibleValuesParser};

use super::{
    Global,
    exit::Failure,
    output::{Output, table, tone_of, toned},
    setting,
};
use crate::{
    lifecycle::PortalState,
    portal::PortalId,
    socket::{
        Client,
        protocol::{PausedBody, PortalBody, PortalsBody},
    },
    time::{Clock, SystemClock},
};

/// Look at customer accounts, as the running service sees them, and pause one.
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
            Self::Pause(show) => order(&service, show.portal, "pause", output).await,
            Self::Resume(show) => order(&service, show.portal, "resume", output).await,
        }
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
