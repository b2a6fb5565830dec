//! `grantkeeper man`.

use std::{fs, path::PathBuf};

use clap::{Args, CommandFactory};

use super::{
    Cli,
    exit::{Exit, Failure},
    output::Output,
};

/// Write a manual page for each command into a folder.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  grantkeeper man /usr/local/share/man/man1")]
pub(super) struct Man {
    /// The folder; made if it is not there
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

impl Man {
    pub(super) fn run(&self, output: Output) -> Result<(), Failure> {
        let written = fs::create_dir_all(&self.folder)
            .and_then(|()| clap_mangen::generate_to(Cli::command(), &self.folder));
        written.map_err(|error| {
            let what = format!("no manual pages could be written into {}", self.folder.display());
            let hint = "See that this user may write there.";
            Failure::new(Exit::Failed, "man", what, hint).because(error.to_string())
        })?;
        output.remark(&format!("manual pages are in {}", self.folder.display()));
        Ok(())
    }
}
