//! `grantkeeper exec`.

use std::{
    ffi::OsString,
    io,
    os::unix::process::CommandExt,
    process::{Command, ExitCode},
    time::Duration,
};

use clap::Args;

use super::{
    Global,
    exit::{Exit, Failure},
    output::Output,
    token,
};
use crate::portal::PortalId;

/// The variable that holds the token.
const VARIABLE: &str = "HUBSPOT_ACCESS_TOKEN";
/// What a shell says of a program that is not there, and of one that can't be run.
const NOT_THERE: u8 = 127;
const NOT_A_PROGRAM: u8 = 126;

/// Run a program with a portal's access token in its environment.
///
/// The program takes this one's place: it gets the signals, and its exit code is this command's. The token is not
/// renewed for it: one that runs longer than that lives (half an hour at most) asks the socket.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  grantkeeper exec --portal 4711 --min-ttl 10m -- python3 sync.py --all

The program finds the token in HUBSPOT_ACCESS_TOKEN. Exit code 127: there is no such program; 126: it can't be run.")]
pub(super) struct Exec {
    /// Whose token
    #[arg(long, value_name = "ID")]
    portal: PortalId,
    /// With at least this much life, such as `5m`
    #[arg(long, value_name = "TIME", value_parser = super::duration)]
    min_ttl: Option<Duration>,
    /// The program and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<OsString>,
}

impl Exec {
    pub(super) async fn run(self, global: &Global, output: Output) -> Result<ExitCode, Failure> {
        let Some((program, arguments)) = self.command.split_first() else {
            let hint = "Write the program after `--`.";
            return Err(Failure::new(Exit::Usage, "usage", "there is nothing to run", hint));
        };
        let answer = token::ask(global, self.portal, self.min_ttl).await?;
        let mut command = Command::new(program);
        // exposed: into the environment of the program that is to have it
        command.args(arguments).env(VARIABLE, answer.access_token.expose());
        // Comes back only where there was nothing to take this one's place.
        let error = command.exec();
        let (code, hint) = match error.kind() {
            io::ErrorKind::NotFound => (NOT_THERE, "See that it is installed, and in PATH."),
            _ => (NOT_A_PROGRAM, "See that the file is a program that this user may run."),
        };
        let what = format!("{} could not be run", program.display());
        output.failure(&Failure::new(Exit::Failed, "exec", what, hint).because(error.to_string()));
        Ok(ExitCode::from(code))
    }
}
