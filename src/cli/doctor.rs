//! `grantkeeper doctor`.

use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use super::{
    Global,
    exit::{Exit, Failure},
    output::{Output, Tone, table, toned},
    setting,
};
use crate::{
    config,
    doctor::{self, Asked, Check, NoSuchUser, State},
};

/// Look at the machine beneath: numbered checks, each with a line to type
///
/// Where something does not work: looks at files, disks, the socket, users, clocks, the network and the running service,
/// with or without one. Changes nothing, spends nothing, shows no secret; no credential goes out. `grantkeeper check` looks at what the
/// configuration leads to: store, client pair, every grant.
#[derive(Debug, Args)]
#[command(after_help = "\
What only the service's own user can see is skipped, with the `sudo -u` line that can. With -q only what
is wrong is printed. docs/commands.md explains each number.

Exit codes: 0 nothing fails (there may be warnings), else the gravest that does: 78 configuration,
77 owners and modes, 75 network, 69 the running service, 1 the machine itself.")]
pub(super) struct Doctor {
    /// The user whom the service runs as [default: who runs it, or owns its files]
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
}

#[derive(Serialize)]
struct Report {
    /// Whether nothing fails.
    good: bool,
    version: &'static str,
    service_user: String,
    service_user_by: &'static str,
    counts: Counts,
    checks: Vec<Check>,
}

#[derive(Serialize)]
struct Counts {
    ok: usize,
    warn: usize,
    fail: usize,
    skipped: usize,
}

impl Doctor {
    pub(super) async fn run(self, global: &Global, output: Output) -> Result<ExitCode, Failure> {
        let config = setting::config_path(global);
        let named_by = match (&global.config, config::environment("GRANTKEEPER_CONFIG")) {
            (None, _) => "where it is unless named",
            (Some(path), Some(set)) if path.as_os_str() == set.as_str() => "by GRANTKEEPER_CONFIG",
            _ => "by --config",
        };
        let asked = Asked { config, named_by, socket: global.socket.clone(), user: self.user };
        let examined = doctor::examine(asked).await?;
        let all = examined.checks;
        let worst = all.iter().filter_map(|check| Some(Exit::from(check.trouble?)));
        let worst = worst.max_by_key(|exit| exit.gravity());
        let count = |state| all.iter().filter(|check| check.state == state).count();
        let counts = Counts {
            ok: count(State::Ok),
            warn: count(State::Warn),
            fail: count(State::Fail),
            skipped: count(State::Skipped),
        };
        let is_wrong = |check: &Check| matches!(check.state, State::Warn | State::Fail);
        let shown = all.into_iter().filter(|check| !output.quiet || is_wrong(check));
        let report = Report {
            good: worst.is_none(),
            version: env!("CARGO_PKG_VERSION"),
            service_user: examined.user,
            service_user_by: examined.user_by,
            counts,
            checks: shown.collect(),
        };
        output.answer(&report, |report| show(report, output.quiet))?;
        Ok(worst.map_or(ExitCode::SUCCESS, Into::into))
    }
}

impl From<NoSuchUser> for Failure {
    fn from(error: NoSuchUser) -> Self {
        let hint = "Name one, by name or number: `getent passwd` lists them.";
        Self::new(Exit::Usage, "no_such_user", error.to_string(), hint)
            .because("--user names the user whom the service runs as")
    }
}

const fn tone(state: State) -> Tone {
    match state {
        State::Ok => Tone::Good,
        State::Warn => Tone::Fair,
        State::Fail => Tone::Bad,
        State::Skipped => Tone::Faint,
    }
}

fn show(report: &Report, quiet: bool) -> String {
    let rows = report.checks.iter().map(|check| {
        let about = check.subject.as_ref().map(|subject| format!("{subject}: "));
        vec![
            check.what.to_string(),
            toned(check.state.as_str(), tone(check.state)),
            check.name.to_owned(),
            about.unwrap_or_default() + &check.saw,
        ]
    });
    let mut text = table(&["", "", "", ""], rows);
    for check in &report.checks {
        if let Some(fix) = &check.fix {
            let about = check.subject.as_ref().map(|subject| format!(" {subject}"));
            let about = about.unwrap_or_default();
            text += &format!("{} {}{about}:\n    {fix}\n", toned("fix", Tone::Good), check.what);
        }
    }
    if !quiet {
        let Counts { ok, warn, fail, skipped } = report.counts;
        text += &format!("\n{ok} ok, {warn} to look at, {fail} failed, {skipped} skipped\n");
    }
    text.trim_matches('\n').to_owned()
}
