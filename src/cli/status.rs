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
use crate::socket::{Client, protocol::StatusBody};

/// Ask the running service how it is.
#[derive(Debug, Args)]
pub(super) struct Status {
    /// Say nothing; exit 0 if the service does its job, else 75: for probes
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

fn show(status: &StatusBody) -> String {
    let told = |word: &str| toned(word, tone_of(word));
    let system = |ok: bool, trouble: &Option<String>| {
        if ok { told("ok") } else { told(trouble.as_deref().unwrap_or("trouble")) }
    };
    let counts: Vec<_> =
        status.portals.iter().map(|(state, count)| format!("{count} {}", told(state))).collect();
    let ready = if status.ready {
        toned("ready", Tone::Good)
    } else {
        format!("{}: {}", toned("not ready", Tone::Bad), status.reasons.join(", "))
    };
    let journal = match status.journal.as_str() {
        "none" => "none: see state_dir".to_owned(),
        word => told(word),
    };
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
            ],
        )
        .trim_start_matches('\n'),
    );
    for remark in &status.remarks {
        text += &format!("\n{} {remark}", toned("note:", Tone::Fair));
    }
    for incident in &status.incidents {
        let word = |member: &str| incident[member].as_str().unwrap_or_default().to_owned();
        text += &format!(
            "\n{} since {}\n  {}\n  {} {}\n",
            toned(&format!("{} {}", word("severity"), word("kind")), Tone::Bad),
            word("since"),
            word("summary"),
            toned("to do:", Tone::Good),
            word("action"),
        );
    }
    text
}
