//! `grantkeeper reshard`.

use std::{collections::BTreeMap, process::ExitCode};

use clap::Args;
use serde::Serialize;

use super::{
    Global,
    exit::{Exit, Failure},
    output::Output,
    progress::Progress,
    setting,
};
use crate::{daemon, portal::PortalId, store::layout::reshard::reshard};

/// As many portals are named for one reason.
const NAMED: usize = 5;

/// Move every portal's record to where the configured layout keeps it: after `layout` or `shards` was changed.
///
/// The service goes on meanwhile: restart it with the new configuration first. Records are served wherever they
/// stand, each is moved by a copy and a check, and a run that was cut off is finished by the next one.
#[derive(Debug, Args)]
pub(super) struct Reshard {}

#[derive(Serialize)]
struct Resharded {
    moved: usize,
    in_place: usize,
    left: Vec<Left>,
}

#[derive(Serialize)]
struct Left {
    portal_id: PortalId,
    reason: String,
}

impl Reshard {
    pub(super) async fn run(self, global: &Global, output: Output) -> Result<ExitCode, Failure> {
        let config = setting::config(global)?;
        let Some(store) = daemon::open_laid_out(&config.store).await? else {
            return Err(Failure::new(
                Exit::Invalid,
                "no_layout",
                "the embedded store keeps its records in one way only",
                "Only a store of kind \"vault\" or \"aws\" has a layout.",
            ));
        };
        let progress = Progress::new(output, "records");
        let moved = reshard(&store, |done, of| progress.show(done, of)).await?;
        progress.done();
        let left = moved.left.into_iter().map(|(portal_id, error)| Left {
            portal_id,
            reason: format!("{error}; {}", error.hint),
        });
        let told = Resharded { moved: moved.moved, in_place: moved.in_place, left: left.collect() };
        output.answer(&told, |told| {
            let mut text = format!("{} moved, {} were in place", told.moved, told.in_place);
            let mut reasons: BTreeMap<&str, Vec<String>> = BTreeMap::new();
            for left in &told.left {
                reasons.entry(&left.reason).or_default().push(left.portal_id.to_string());
            }
            for (reason, portals) in reasons {
                let named = portals.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
                let rest = portals.len().saturating_sub(NAMED);
                let rest = if rest > 0 { format!(" and {rest} more") } else { String::new() };
                text += &format!("\nleft where they are: portals {named}{rest}: {reason}");
            }
            text
        })?;
        if told.moved > 0 {
            setting::followed(global, output).await?;
        }
        Ok(if told.left.is_empty() { ExitCode::SUCCESS } else { Exit::TryAgain.into() })
    }
}
