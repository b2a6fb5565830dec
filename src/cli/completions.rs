//! `grantkeeper completions`.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::{Cli, exit::Failure, output::Output};

/// Print a completion script for a shell.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  grantkeeper completions bash > /etc/bash_completion.d/grantkeeper"
)]
pub(super) struct Completions {
    /// Which shell
    shell: Shell,
}

impl Completions {
    pub(super) fn run(&self, output: Output) -> Result<(), Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "grantkeeper", &mut script);
        output.line(String::from_utf8_lossy(&script).trim_end())
    }
}
