//! The command line: parse, call, print. One command a file; no rule lives here.

use std::{
    fs,
    io::{self, IsTerminal, Read, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use clap::{Args, Parser, Subcommand};
use zeroize::Zeroizing;

use crate::{
    hardening,
    secret::{MalformedSecret, file::closed_to_others},
    telemetry,
};

mod alert;
mod app;
mod audit;
mod check;
mod completions;
mod demo;
mod doctor;
mod enroll;
mod exec;
pub mod exit;
mod import;
mod init;
mod man;
pub mod output;
mod portal;
mod progress;
mod reshard;
mod rotate;
mod run;
mod setting;
mod sim;
mod status;
mod token;
mod version;

use exit::{Exit, Failure};
use output::{Format, Output};

/// Keeps a HubSpot app's OAuth credentials alive.
#[derive(Debug, Parser)]
#[command(name = "grantkeeper", version, arg_required_else_help = true, max_term_width = 100)]
#[command(after_help = "\
Exit codes: 0 done, 1 failed, 2 wrong usage, 3 no such thing, 4 a grant needs a person,
69 service not reachable, 75 try again, 77 refused, 78 configuration or credential invalid,
124 --wait ran out; of `exec`, the program's own.

First time here: `grantkeeper demo` shows it all with nothing installed.")]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// What every command takes.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Options of every command")]
struct Global {
    /// The configuration file [default: /etc/grantkeeper/grantkeeper.toml]
    #[arg(long, global = true, env = "GRANTKEEPER_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// The running service's socket [default: the configuration's, else
    /// /run/grantkeeper/grantkeeper.sock]
    #[arg(long, global = true, env = "GRANTKEEPER_SOCKET", value_name = "PATH")]
    socket: Option<PathBuf>,
    /// What answers look like
    #[arg(short, long, global = true, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
    /// Leave out remarks; answers and errors remain
    #[arg(short, long, global = true)]
    quiet: bool,
    /// Log more (twice: everything)
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    /// What to log, such as `info` or `grantkeeper=trace`
    #[arg(long, global = true, env = "GRANTKEEPER_LOG", value_name = "FILTER", hide = true)]
    log: Option<String>,
    /// What log lines look like, always on standard error
    #[arg(long, global = true, value_enum, default_value_t, value_name = "FORMAT")]
    log_format: LogFormat,
}

#[derive(Debug, Clone, Copy, Default, clap::ValueEnum)]
enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show the whole job with nothing installed, in under a minute
    Demo(demo::Demo),
    /// Run the service, in the foreground
    Run(run::Run),
    /// Fetch tokens once, write them to files and end: for an init container
    Init(init::Init),
    /// Check configuration, store, client pair and every grant; spends nothing
    Check(check::Check),
    Doctor(doctor::Doctor),
    /// Run the HubSpot stand-in, for anybody's integration tests
    Sim(sim::Sim),
    /// Ask the running service how it is
    Status(status::Status),
    /// Print one access token
    Token(token::Token),
    /// Run a program with a portal's access token in its environment
    Exec(exec::Exec),
    #[command(subcommand)]
    Portal(portal::Portal),
    Enroll(enroll::Enroll),
    /// Store many portals' grants: from JSON lines, CSV or another store
    Import(import::Import),
    /// Store the app's client id and secret, the first time
    #[command(subcommand)]
    App(app::App),
    /// Replace a credential without an unserved request
    #[command(subcommand)]
    Rotate(rotate::Rotate),
    /// Move records to where the configured layout keeps them
    Reshard(reshard::Reshard),
    /// Look at incidents, take one on, try who is told of them
    #[command(subcommand)]
    Alert(alert::Alert),
    /// Look at the audit log
    #[command(subcommand)]
    Audit(audit::Audit),
    /// Print a completion script for a shell
    Completions(completions::Completions),
    /// Write manual pages into a folder
    Man(man::Man),
    /// Print the version
    Version,
}

/// Parses the command line, carries it out, and says how it ended.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let code = u8::try_from(error.exit_code()).unwrap_or(2);
            // Nobody is left to be told that the terminal is gone.
            error.print().ok();
            return ExitCode::from(code);
        }
    };
    let output = Output { format: cli.global.output, quiet: cli.global.quiet };
    match carry_out(cli, output) {
        Ok(code) => code,
        Err(failure) => {
            output.failure(&failure);
            failure.exit.into()
        }
    }
}

fn carry_out(cli: Cli, output: Output) -> Result<ExitCode, Failure> {
    let Cli { global, command } = cli;
    start_log(&global, &command)?;
    // Every command may hold a secret.
    hardening::no_dumps()?;
    let before = match &command {
        Command::Run(run) => Some(run.before_threads(&global)?),
        _ => None,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| {
        Failure::new(
            Exit::Failed,
            "system",
            "the operating system gives no threads",
            "Raise the limit on processes for this user.",
        )
        .because(error.to_string())
    })?;
    let done = |()| ExitCode::SUCCESS;
    let ended = runtime.block_on(async {
        match command {
            Command::Demo(demo) => demo.run(output).await,
            Command::Run(run) => {
                let ready = match before {
                    Some(ready) => ready,
                    None => run.before_threads(&global)?,
                };
                run::Run::run(&global, ready).await.map(done)
            }
            Command::Init(init) => init.run(&global, output).await.map(done),
            Command::Check(check) => check.run(&global, output).await,
            Command::Doctor(doctor) => doctor.run(&global, output).await,
            Command::Sim(sim) => sim.run(output).await.map(done),
            Command::Status(status) => status.run(&global, output).await,
            Command::Token(token) => token.run(&global, output).await.map(done),
            Command::Exec(exec) => exec.run(&global, output).await,
            Command::Portal(portal) => portal.run(&global, output).await.map(done),
            Command::Enroll(enroll) => enroll.run(&global, output).await.map(done),
            Command::Import(import) => import.run(&global, output).await,
            Command::Reshard(reshard) => reshard.run(&global, output).await,
            Command::App(app) => app.run(&global, output).await.map(done),
            Command::Rotate(rotate) => rotate.run(&global, output).await.map(done),
            Command::Alert(alert) => alert.run(&global, output).await.map(done),
            Command::Audit(audit) => audit.run(output).map(done),
            Command::Completions(completions) => completions.run(output).map(done),
            Command::Man(man) => man.run(output).map(done),
            Command::Version => version::run(output).map(done),
        }
    });
    // Blocking work of a command that failed need not be waited for.
    runtime.shutdown_background();
    ended
}

fn start_log(global: &Global, command: &Command) -> Result<(), Failure> {
    // The service tells what it does; a command only what goes wrong.
    let usual = match (global.verbose, command) {
        (0, Command::Run(_)) => "info",
        // What libraries complain of is what it looks for, and it tells it in its own words.
        (0, Command::Doctor(_)) => "off",
        (0, _) => "error",
        (1, _) => "info,grantkeeper=debug",
        (_, _) => "debug,grantkeeper=trace",
    };
    let filter = global.log.as_deref().unwrap_or(usual);
    let format = match global.log_format {
        LogFormat::Text => telemetry::Format::Text,
        LogFormat::Json => telemetry::Format::Json,
    };
    telemetry::start(filter, format).map_err(|error| {
        let cause = exit::causes(&error);
        let hint = "Use a level such as `info`, or `grantkeeper=trace`, in GRANTKEEPER_LOG.";
        Failure { cause, ..Failure::new(Exit::Usage, "log", error.to_string(), hint) }
    })
}

/// A friendly duration such as `5m` or `1h 30m`.
fn duration(text: &str) -> Result<Duration, String> {
    let span: jiff::SignedDuration =
        text.parse().map_err(|_| "a duration is written like 90s, 5m or 1h".to_owned())?;
    Duration::try_from(span).map_err(|_| "a duration can't be negative".to_owned())
}

/// Asks on the terminal whether something is to be done, unless that was `said` already. Where there is none, `look` is
/// what can be done to see more first.
///
/// # Errors
/// It is not to be done, or there is no terminal to ask at.
fn confirm(question: &str, said: bool, look: &str) -> Result<(), Failure> {
    if said {
        return Ok(());
    }
    if !(io::stdin().is_terminal() && io::stderr().is_terminal()) {
        return Err(Failure::new(
            Exit::Usage,
            "not_confirmed",
            "nothing was done: it has to be confirmed",
            format!("Add --yes to do it without being asked, or {look}."),
        )
        .because("there is no terminal to ask at"));
    }
    let mut asked = anstream::stderr();
    let mut answer = String::new();
    let read = write!(asked, "{question}\nDo it? Type `yes`: ")
        .and_then(|()| asked.flush())
        .and_then(|()| io::stdin().read_line(&mut answer));
    let (code, hint) = ("not_confirmed", "Answer `yes`, or add --yes.");
    match read {
        Ok(_) if answer.trim() == "yes" => Ok(()),
        Ok(_) => {
            Err(Failure::new(Exit::Failed, code, "nothing was done: it was not confirmed", hint)
                .because("the answer was not `yes`"))
        }
        Err(error) => {
            Err(Failure::new(Exit::Failed, code, "the terminal could not be asked", hint)
                .because(error.to_string()))
        }
    }
}

/// A secret from a file that `option` names, from standard input (`-`), or from a hidden prompt.
fn secret_text(
    file: Option<&Path>,
    option: &str,
    prompt: &str,
    output: Output,
) -> Result<Zeroizing<String>, Failure> {
    let read = match file {
        Some(path) if path == Path::new("-") => {
            let mut text = Zeroizing::new(String::new());
            io::stdin().read_to_string(&mut text).map(|_| text)
        }
        Some(path) => {
            // It is used all the same: it is at most as open as it was, and who types this is in a hurry.
            if let Ok(metadata) = fs::metadata(path)
                && let Err(open) = closed_to_others(path, &metadata, 0)
            {
                output.remark(&format!("{open}. {}", open.hint()));
            }
            fs::read_to_string(path).map(Zeroizing::new)
        }
        None if io::stdin().is_terminal() => rpassword::prompt_password(prompt).map(Zeroizing::new),
        None => {
            return Err(Failure::new(
                Exit::Usage,
                "no_secret",
                "there is no terminal to ask for the secret at",
                format!("Name a file with {option} (or `-` for standard input)."),
            ));
        }
    };
    read.map_err(|error| {
        let place = file.map_or("the terminal".into(), Path::to_string_lossy);
        Failure::new(
            Exit::Usage,
            "no_secret",
            format!("the secret could not be read from {place}"),
            "Name a readable text file, or `-` for standard input.",
        )
        .because(error.to_string())
    })
}

fn malformed(what: &str, why: MalformedSecret) -> Failure {
    Failure::new(
        Exit::Usage,
        "malformed_secret",
        format!("the {what} can't be used: {why}"),
        "Nothing was changed. Copy it whole, without quotes or line breaks.",
    )
}
