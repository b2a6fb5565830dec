//! `grantkeeper portal`.

use clap::{Args, Subcommand, builder::PossibleValuesParser};
use serde::Deserialize;

use super::{
    Global,
    exit::Failure,
    output::{Output, table, tone_of, toned},
    setting,
};
use crate::{
    lifecycle::PortalState,
    portal::PortalId,
    secret::AccessToken,
    socket::{
        Client,
        protocol::{PortalBody, PortalsBody, RefreshBody},
    },
    time::{Clock, SystemClock},
};

mod orders;

use orders::{Ending, Order, Which};

/// Look at customer accounts; renew, pause, revoke or remove some
///
/// It is the running service that is asked; nothing is done without it.
#[derive(Debug, Subcommand)]
#[command(after_help = "\
`pause`, `resume`, `revoke` and `remove` take several portals and --dry-run. `revoke` and `remove` ask first; without a
terminal they need --yes. The others are done without a question.
Exit codes: 2 not confirmable, 3 no such portal, 69 no service, 75 try again, 77 refused.")]
pub(super) enum Portal {
    /// List all portals with their states
    List(List),
    /// Show one portal with its scopes
    Show(Show),
    /// Give out no token and ask HubSpot nothing, until `resume`
    ///
    /// Nothing is asked before: `grantkeeper portal resume` takes it back. It outlives a restart where the service
    /// keeps a journal. What was given out before works until it expires.
    #[command(after_help = "Example:\n  grantkeeper portal pause 4711 4712")]
    Pause(Which),
    /// Let paused portals go on
    ///
    /// Nothing is asked before. One that is not paused stays as it is.
    Resume(Which),
    /// Renew a portal's token now, ahead of its time
    ///
    /// The token in use is replaced. One that is younger than 30 s is not: exit code 75.
    Refresh(Show),
    /// End grants at HubSpot, then forget the portals
    ///
    /// The grant is ended at HubSpot first, then the record is taken out of the store. If HubSpot can't be reached,
    /// nothing is changed. Access tokens that were given out before work for up to 30 minutes: HubSpot has no way to
    /// end them. To have the portal back, its customer connects the app again.
    #[command(
        after_help = "Examples:\n  grantkeeper portal revoke 4711 --dry-run\n  grantkeeper portal revoke 4711 4712 --yes -o json"
    )]
    Revoke(Ending),
    /// Forget portals; their grants stay good at HubSpot
    ///
    /// The record is taken out of the store, and nothing is told to HubSpot: for a portal that somebody else goes on
    /// serving. Whoever has the refresh token can go on using it; `revoke` ends it.
    #[command(
        after_help = "Examples:\n  grantkeeper portal remove 4711 --dry-run\n  grantkeeper portal remove 4711 --yes"
    )]
    Remove(Ending),
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
            Self::Refresh(show) => refresh(&service, show.portal, output).await,
            Self::Pause(which) => which.have(Order::Pause, &service, output).await,
            Self::Resume(which) => which.have(Order::Resume, &service, output).await,
            Self::Revoke(ending) => ending.have(Order::Revoke, &service, output).await,
            Self::Remove(ending) => ending.have(Order::Remove, &service, output).await,
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

/// Its state; and that it is paused, where that is not the same.
fn state_of(portal: &PortalBody) -> String {
    let state = &portal.state;
    if portal.paused && state != "paused" { format!("{state}, paused") } else { state.clone() }
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
                toned(&state_of(portal), tone_of(&portal.state)),
                portal.reason.clone().unwrap_or_else(|| "-".to_owned()),
                expiry(&portal.expires_at),
                time(&portal.last_refresh),
                time(&portal.next_refresh),
            ]
        }),
    )
}
