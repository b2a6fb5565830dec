//! `grantkeeper status`.

use std::{process::ExitCode, time::Duration};

use clap::Args;
use hyper::Method;

use super::{
    Global,
    exit::{Exit, Failure},
    output::{Output, Tone, is_watched, table, tone_of, toned},
    setting,
};
use crate::incident::Kind;
use crate::socket::{Client, protocol::StatusBody};

/// As many portals are named on the terminal; `--output json` names more.
const NAMED: usize = 10;
const GRANT_LOST: &str = Kind::GrantLost.as_str();

/// Ask the running service how it is.
#[derive(Debug, Args)]
pub(super) struct Status {
    /// For probes: exit 0 if the service does its job, else 75 and the reasons on standard error
    #[arg(long, conflicts_with = "watch")]
    ready: bool,
    /// Ask again every two seconds, until interrupted
    #[arg(long)]
    watch: bool,
}

impl Status {
    pub(super) async fn run(self, global: &Global, output: Output) -> Result<ExitCode, Failure> {
        let service = setting::service(global)?;
        if self.ready {
            return Ok(ready(&service, output).await);
        }
        loop {
            let status: StatusBody = service.get("/v1/status").await?;
            if self.watch && is_watched() {
                // Clears the screen and goes to its top left.
                output.line("\x1b[2J\x1b[H")?;
            }
            output.answer(&status, show)?;
            if !self.watch {
                return Ok(ExitCode::SUCCESS);
            }
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
    }
}

async fn ready(service: &Client, output: Output) -> ExitCode {
    match service.ask(Method::GET, "/readyz?verbose").await {
        Ok(reply) if reply.status == 200 => ExitCode::SUCCESS,
        Ok(reply) => {
            output.remark(String::from_utf8_lossy(&reply.body).trim_end());
            Exit::TryAgain.into()
        }
        Err(error) => {
            output.remark(&error.to_string());
            Exit::TryAgain.into()
        }
    }
}

/// Which portals it is about, where the summary does not say it.
fn affected(incident: &serde_json::Value) -> String {
    let count = incident["portal_count"].as_u64().unwrap_or_default();
    let named: Vec<_> = incident["portals"].as_array().into_iter().flatten().collect();
    if count < 2 && word_of(incident, "kind") != GRANT_LOST {
        return String::new();
    }
    let few: Vec<_> = named.iter().take(NAMED).map(ToString::to_string).collect();
    let rest = count.saturating_sub(few.len() as u64);
    let rest = if rest > 0 { format!(" and {rest} more") } else { String::new() };
    format!("\n  portals: {}{rest}", few.join(", "))
}

fn word_of(incident: &serde_json::Value, member: &str) -> String {
    incident[member].as_str().unwrap_or_default().to_owned()
}

fn show(status: &StatusBody) -> String {
    let told = |word: &str| toned(word, tone_of(word));
    let system = |ok: bool, trouble: &Option<String>| {
        let good = if ok { "ok" } else { "trouble" };
        told(trouble.as_deref().unwrap_or(good))
    };
    let counts: Vec<_> =
        status.portals.iter().map(|(state, count)| format!("{count} {}", told(state))).collect();
    let ready = if status.ready {
        toned("ready", Tone::Good)
    } else {
        format!("{}: {}", toned("not ready", Tone::Bad), status.reasons.join(", "))
    };
    let journal = match status.journal.as_str() {
        "none" => "none (state_dir)".to_owned(),
        word => told(word),
    };
    let audit = match status.audit.state.as_str() {
        "none" => "none ([audit])".to_owned(),
        word => told(word),
    };
    let last = status.audit.last_seq.map(|seq| format!("line {seq}")).unwrap_or_default();
    let mut text = format!(
        "{ready}\n\n{}",
        table(
            &["", "", ""],
            [
                vec!["app".into(), status.app.name.clone(), told(&status.app.state)],
                vec![
                    "store".into(),
                    status.store.kind.clone(),
                    system(status.store.ok, &status.store.trouble)
                ],
                vec![
                    "HubSpot".into(),
                    status.hubspot.kind.clone(),
                    system(status.hubspot.ok, &status.hubspot.trouble)
                ],
                vec!["portals".into(), status.portals_total.to_string(), counts.join(", ")],
                vec!["mode".into(), status.mode.clone(), status.budget.summary.clone()],
                vec!["journal".into(), journal, String::new()],
                vec!["audit log".into(), audit, last],
                vec!["Landlock".into(), told(&status.hardening.landlock), String::new()],
            ],
        )
        .trim_start_matches('\n'),
    );
    for remark in &status.remarks {
        text += &format!("\n{} {remark}", toned("note:", Tone::Fair));
    }
    for receiver in status.receivers.iter().filter(|receiver| receiver.failures > 0) {
        let trouble = receiver.trouble.as_deref().unwrap_or_default();
        let head = toned(&format!("alerts to {} don't arrive:", receiver.name), Tone::Bad);
        text += &format!("\n{head} {trouble} ({} waiting)", receiver.waiting);
    }
    for incident in &status.incidents {
        let word = |member: &str| word_of(incident, member);
        text += &format!(
            "\n{} since {}\n  {}{}\n  {} {}\n",
            toned(&format!("{} {}", word("severity"), word("kind")), Tone::Bad),
            word("since"),
            word("summary"),
            affected(incident),
            toned("to do:", Tone::Good),
            word("action"),
        );
    }
    text
}
