//! Orders about portals: looked at first, confirmed where something ends for good, carried out one by one. Knows the
//! service by its socket alone.

use clap::Args;
use serde::Serialize;

use super::super::{confirm, exit::Failure, output::Output};
use crate::{
    portal::PortalId,
    socket::{
        Client,
        client::AskError,
        protocol::{PausedBody, PortalBody, RemovedBody},
    },
};

/// What is ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Order {
    Pause,
    Resume,
    Revoke,
    Remove,
}

/// An order that can be taken back: nobody is asked.
#[derive(Debug, Args)]
pub(in super::super) struct Which {
    /// The portal's id; several may be named
    #[arg(required = true, value_name = "PORTAL")]
    portals: Vec<PortalId>,
    /// Say what would happen, and do nothing
    #[arg(long)]
    dry_run: bool,
}

/// An order that ends something: it is confirmed first.
#[derive(Debug, Args)]
pub(in super::super) struct Ending {
    #[command(flatten)]
    which: Which,
    /// Do it without being asked; needed where there is no terminal
    #[arg(short, long)]
    yes: bool,
}

/// The answer, of a dry run as well.
#[derive(Serialize)]
struct Ordered {
    order: Order,
    dry_run: bool,
    portals: Vec<Looked>,
}

/// A portal as it was found.
#[derive(Serialize)]
struct Looked {
    portal_id: PortalId,
    /// Before the order. None: this caller may not see it.
    state: Option<String>,
    /// Whether the order changes anything.
    changes: bool,
    /// Of a pause, once it is there: whether the service still knows of it after a restart.
    #[serde(skip_serializing_if = "Option::is_none")]
    outlives_restart: Option<bool>,
}

impl Which {
    /// Has `order` carried out without a question.
    pub(super) async fn have(
        self,
        order: Order,
        service: &Client,
        output: Output,
    ) -> Result<(), Failure> {
        self.carry_out(order, true, service, output).await
    }

    async fn carry_out(
        self,
        order: Order,
        confirmed: bool,
        service: &Client,
        output: Output,
    ) -> Result<(), Failure> {
        let mut asked = Vec::new();
        // All are looked at before anything is done: one that is not there stops the others as well.
        for portal in self.portals {
            if !asked.iter().any(|seen: &Looked| seen.portal_id == portal) {
                asked.push(order.look(service, portal, self.dry_run).await?);
            }
        }
        let dry_run = self.dry_run;
        if !dry_run {
            confirm(&order.question(&asked), confirmed, "--dry-run to see what it would do")?;
        }
        let mut portals = Vec::new();
        let mut failed = None;
        let mut asked = asked.into_iter();
        for portal in asked.by_ref() {
            let told = if dry_run { Ok(portal) } else { order.give(service, portal).await };
            match told {
                Ok(portal) => portals.push(portal),
                Err(failure) => {
                    failed = Some(failure);
                    break;
                }
            }
        }
        let ordered = Ordered { order, dry_run, portals };
        if failed.is_none() || !ordered.portals.is_empty() {
            output.answer(&ordered, show)?;
        }
        if ordered.portals.iter().any(|portal| portal.outlives_restart == Some(false)) {
            output.remark(
                "this ends when the service restarts: it keeps no journal (see state_dir), or could not write it",
            );
        }
        let left: Vec<PortalId> = asked.map(|portal| portal.portal_id).collect();
        failed.map_or(Ok(()), |failure| Err(stopped(failure, &left)))
    }
}

impl Ending {
    /// Has `order` carried out once it is confirmed.
    pub(super) async fn have(
        self,
        order: Order,
        service: &Client,
        output: Output,
    ) -> Result<(), Failure> {
        self.which.carry_out(order, self.yes, service, output).await
    }
}

impl Order {
    /// What there is before the order. Only reads.
    async fn look(
        self,
        service: &Client,
        portal: PortalId,
        dry_run: bool,
    ) -> Result<Looked, Failure> {
        let found = match service.get::<PortalBody>(&format!("/v1/portals/{portal}")).await {
            Ok(found) => Some(found),
            // Who may give the order need not be one who may look.
            Err(AskError::Refused(problem)) if problem.code == "forbidden" && !dry_run => None,
            Err(error) => return Err(Failure::from(error).about(portal)),
        };
        let is_paused = found.as_ref().map(|found| found.paused);
        let changes = match self {
            Self::Pause => is_paused != Some(true),
            Self::Resume => is_paused != Some(false),
            Self::Revoke | Self::Remove => true,
        };
        let state = found.map(|found| found.state);
        Ok(Looked { portal_id: portal, state, changes, outlives_restart: None })
    }

    async fn give(self, service: &Client, portal: Looked) -> Result<Looked, Failure> {
        let id = portal.portal_id;
        let about = |error| Failure::from(error).about(id);
        let outlives_restart = match self {
            Self::Pause | Self::Resume => {
                let what = if self == Self::Pause { "pause" } else { "resume" };
                let target = format!("/v1/portals/{id}/{what}");
                let answer = service.post::<PausedBody>(&target).await.map_err(about)?;
                answer.paused.then_some(answer.outlives_restart)
            }
            Self::Revoke | Self::Remove => {
                let target = format!("/v1/portals/{id}?revoke={}", self == Self::Revoke);
                service.delete::<RemovedBody>(&target).await.map_err(about)?;
                None
            }
        };
        Ok(Looked { outlives_restart, ..portal })
    }

    /// What follows from it, after `would` or `will`.
    const fn follows(self) -> &'static str {
        match self {
            Self::Pause => {
                "give out no token of it and ask HubSpot nothing about it, until it is resumed; tokens that were given out work until they expire"
            }
            Self::Resume => "renew and give out its tokens again",
            Self::Revoke => {
                "end its grant at HubSpot, then take its record out of the store; tokens that were given out work for up to 30 minutes; to have it back, the customer connects the app again"
            }
            Self::Remove => {
                "take its record out of the store; HubSpot is not told, so a grant that is good stays so; tokens that were given out work for up to 30 minutes; to have it back, enrol it again"
            }
        }
    }

    fn question(self, asked: &[Looked]) -> String {
        let lines = asked.iter().map(|portal| {
            let state = portal.state.as_ref().map(|state| format!(" ({state})"));
            format!("portal {}{}", portal.portal_id, state.unwrap_or_default())
        });
        let named = lines.collect::<Vec<_>>().join(", ");
        let each = if asked.len() > 1 { "For each, this" } else { "This" };
        format!("{named}\n{each} will {}.", self.follows())
    }

    fn done(self, portal: &Looked) -> String {
        let id = portal.portal_id;
        match self {
            Self::Pause if !portal.changes => format!("portal {id} was paused already"),
            Self::Pause => format!(
                "portal {id} is paused: no token is given out and HubSpot is asked nothing, until `grantkeeper portal resume {id}`; what was given out before works until it expires"
            ),
            Self::Resume if !portal.changes => format!("portal {id} was not paused"),
            Self::Resume => format!("portal {id} goes on"),
            Self::Revoke => format!(
                "portal {id}: its grant is ended at HubSpot, and it is no longer served; tokens that were given out work for up to 30 minutes"
            ),
            Self::Remove => format!(
                "portal {id}: it is no longer served; HubSpot was not told, so a grant that was good stays so; tokens that were given out work for up to 30 minutes"
            ),
        }
    }
}

/// Says what became of the others.
fn stopped(failure: Failure, left: &[PortalId]) -> Failure {
    if left.is_empty() {
        return failure;
    }
    let left: Vec<String> = left.iter().map(ToString::to_string).collect();
    let hint = format!("{} Nothing was done about {} any more.", failure.hint, left.join(", "));
    Failure { hint, ..failure }
}

fn show(ordered: &Ordered) -> String {
    let order = ordered.order;
    let line = |portal: &Looked| {
        if !ordered.dry_run {
            return order.done(portal);
        }
        let state = portal.state.as_deref().unwrap_or("there");
        let what = if portal.changes { order.follows() } else { "change nothing" };
        format!("portal {} is {state}; this would {what}", portal.portal_id)
    };
    let mut lines: Vec<String> = ordered.portals.iter().map(line).collect();
    if ordered.dry_run {
        lines.push("Nothing was done.".to_owned());
    }
    lines.join("\n")
}
