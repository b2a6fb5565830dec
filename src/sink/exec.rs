//! A program of the operator's: run once a notice, with the event as JSON on its standard input. Zero is "taken", 65
//! "never will be", anything else "try again". It runs within what the service itself may do.

use std::{path::PathBuf, process::Stdio, time::Duration};

use async_trait::async_trait;
use tokio::{io::AsyncWriteExt, process::Command, time::timeout};

use super::{AlertSink, DeliveryError, webhook};
use crate::incident::Notice;

/// A program that takes longer is killed.
const DEADLINE: Duration = Duration::from_secs(30);
/// `EX_DATAERR`: it is not to be offered this again.
const NEVER: i32 = 65;

/// One program.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What the operator calls it.
    pub name: String,
    /// Where it is.
    pub program: PathBuf,
    /// What it is given.
    pub arguments: Vec<String>,
}

/// A program, ready to be run.
#[derive(Debug)]
pub struct Exec(Settings);

impl Exec {
    /// Runs nothing yet.
    #[must_use]
    pub const fn new(settings: Settings) -> Self {
        Self(settings)
    }
}

#[async_trait]
impl AlertSink for Exec {
    fn name(&self) -> &str {
        &self.0.name
    }

    async fn deliver(&self, notice: &Notice) -> Result<(), DeliveryError> {
        let incident = &notice.incident;
        let mut child = Command::new(&self.0.program)
            .args(&self.0.arguments)
            // Where the service's own credentials may be named is none of its business.
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("GRANTKEEPER_CHANGE", notice.change.as_str())
            .env("GRANTKEEPER_KIND", incident.kind.as_str())
            .env("GRANTKEEPER_SEVERITY", incident.severity.as_str())
            .env("GRANTKEEPER_INCIDENT", &incident.incident_id)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| {
                let program = self.0.program.display();
                DeliveryError::retryable(format!("{program} can't be run: {}", error.kind()))
            })?;
        // A line, for programs that read one.
        let body = webhook::body(notice) + "\n";
        let run = async {
            if let Some(mut input) = child.stdin.take() {
                // One that does not read what it is told may still do its work.
                input.write_all(body.as_bytes()).await.ok();
            }
            child.wait().await
        };
        let status = match timeout(DEADLINE, run).await {
            Ok(Ok(status)) => status,
            Ok(Err(error)) => {
                return Err(DeliveryError::retryable(format!(
                    "the program can't be waited for: {}",
                    error.kind()
                )));
            }
            Err(_) => {
                let seconds = DEADLINE.as_secs();
                let what = format!("the program had not ended after {seconds} s and was killed");
                return Err(DeliveryError::retryable(what));
            }
        };
        match status.code() {
            Some(0) => Ok(()),
            Some(NEVER) => Err(DeliveryError::permanent("the program ended with 65")),
            Some(code) => Err(DeliveryError::retryable(format!("the program ended with {code}"))),
            None => Err(DeliveryError::retryable("the program was killed")),
        }
    }
}
