//! `grantkeeper alert`.

use std::sync::Arc;

use clap::{Args, Subcommand};
use serde::Serialize;

use super::{
    Global,
    exit::{Exit, Failure},
    output::{Output, Tone, table, toned},
    setting,
};
use crate::{
    engine::alerting::probe,
    incident::Notice,
    sink::{AlertSink, Log},
    socket::{
        client::AskError,
        protocol::{AcknowledgedBody, ReceiverBody, StatusBody, TestedBody},
    },
    time::{Clock, SystemClock},
};

/// Look at incidents, say that one is taken care of, and try who is told of them.
#[derive(Debug, Subcommand)]
pub(super) enum Alert {
    /// What is open, and how those do who are told
    List,
    /// Say that you have taken an incident on: nobody is reminded of it any more
    Ack(Ack),
    /// Send a test to a receiver, and say what is wrong if it does not arrive
    Test(Test),
}

/// Say that you have taken an incident on.
///
/// It stays open until its cause is gone, and its end is told. Reminders end at once, and receivers are told who has it.
#[derive(Debug, Args)]
pub(super) struct Ack {
    /// The incident's id, as `alert list` and each alert show it
    #[arg(required_unless_present = "all")]
    incident: Vec<String>,
    /// Everything that is open
    #[arg(long, conflicts_with = "incident")]
    all: bool,
}

/// Send a test to a receiver of alerts.
///
/// The running service sends it, as it would send an alert; without one, this command does, by the configuration. The test
/// is of severity `info`, kind `test`, and resolved at once.
#[derive(Debug, Args)]
#[command(after_help = "\
Exit codes: 0 it was taken, 1 it was not (and what is wrong), 3 there is no such receiver.")]
pub(super) struct Test {
    /// The receiver's name in the configuration
    #[arg(value_name = "SINK")]
    receiver: String,
}

#[derive(Serialize)]
struct Listed {
    incidents: Vec<serde_json::Value>,
    receivers: Vec<ReceiverBody>,
}

impl Alert {
    pub(super) async fn run(self, global: &Global, output: Output) -> Result<(), Failure> {
        match self {
            Self::List => list(global, output).await,
            Self::Ack(ack) => ack.run(global, output).await,
            Self::Test(test) => test.run(global, output).await,
        }
    }
}

async fn list(global: &Global, output: Output) -> Result<(), Failure> {
    let StatusBody { incidents, receivers, .. } =
        setting::service(global)?.get("/v1/status").await?;
    output.answer(&Listed { incidents, receivers }, |listed| {
        let mut text = if listed.incidents.is_empty() {
            format!("{}\n", toned("nothing is open", Tone::Good))
        } else {
            let text: Vec<_> = listed.incidents.iter().map(incident).collect();
            text.join("\n")
        };
        let rows = listed.receivers.iter().map(|receiver| {
            let state = match (&receiver.trouble, receiver.waiting) {
                (Some(trouble), _) => toned(trouble, Tone::Bad),
                (None, 0) => toned("ok", Tone::Good),
                (None, _) => toned("waiting", Tone::Fair),
            };
            let last = receiver.last_taken.map_or_else(|| "never".to_owned(), |at| at.to_string());
            vec![receiver.name.clone(), receiver.waiting.to_string(), last, state]
        });
        text += "\n";
        text += &table(&["receiver", "waiting", "last taken", "state"], rows);
        text
    })
}

fn incident(incident: &serde_json::Value) -> String {
    let word = |member: &str| incident[member].as_str().unwrap_or_default().to_owned();
    let severity = word("severity");
    let tone = if severity == "critical" { Tone::Bad } else { Tone::Fair };
    let count = incident["portal_count"].as_u64().unwrap_or_default();
    let who = if count > 0 { format!(", portals concerned: {count}") } else { String::new() };
    let by = incident["acknowledged"]["uid"].as_u64();
    let by = by.map_or_else(String::new, |uid| format!(", acknowledged by uid {uid}"));
    format!(
        "{} since {}{who}{by}\n  {}\n  {} {}\n  {} {}\n",
        toned(&format!("{severity} {}", word("kind")), tone),
        word("since"),
        word("summary"),
        toned("to do:", Tone::Good),
        word("action"),
        toned("id:", Tone::Fair),
        word("incident_id"),
    )
}

impl Ack {
    async fn run(self, global: &Global, output: Output) -> Result<(), Failure> {
        let service = setting::service(global)?;
        let mut incidents = self.incident;
        if self.all {
            let status: StatusBody = service.get("/v1/status").await?;
            let id = |one: &serde_json::Value| one["incident_id"].as_str().map(str::to_owned);
            incidents = status.incidents.iter().filter_map(id).collect();
        }
        let mut done = Vec::new();
        for id in incidents {
            // An id is of our making; anything else must not become another path.
            let plain = id.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
            if !plain || id.is_empty() {
                return Err(unknown(&id));
            }
            let answer = service.post(&format!("/v1/incidents/{id}/acknowledge")).await;
            let answer: Result<AcknowledgedBody, AskError> = answer;
            match answer {
                Ok(body) => done.push(body),
                Err(AskError::Refused(problem)) if problem.code == "unknown_incident" => {
                    // One that has ended since it was listed is nobody's any more.
                    if !self.all {
                        return Err(unknown(&id));
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        output.answer(&done, |done| {
            if done.is_empty() {
                return "nothing is open\n".to_owned();
            }
            let ids: Vec<_> = done.iter().map(|one| one.incident_id.as_str()).collect();
            format!("acknowledged: {}\n", ids.join("\nacknowledged: "))
        })
    }
}

fn unknown(incident: &str) -> Failure {
    Failure::new(
        Exit::NotFound,
        "unknown_incident",
        format!("no incident {incident:?} is open"),
        "`grantkeeper alert list` shows the ids of those that are.",
    )
}

impl Test {
    async fn run(self, global: &Global, output: Output) -> Result<(), Failure> {
        let path: String = url_part(&self.receiver);
        let answer = setting::service(global)?.post(&format!("/v1/receivers/{path}/test")).await;
        let tested: TestedBody = match answer {
            Ok(tested) => tested,
            Err(AskError::Unreachable { .. }) => {
                output.remark("no service is running here: the test is sent by this command");
                self.without_service(global).await?
            }
            Err(AskError::Refused(problem)) if problem.code == "unknown_receiver" => {
                return Err(self.no_such());
            }
            Err(error) => return Err(error.into()),
        };
        if let Some(trouble) = &tested.trouble {
            return Err(Failure::new(
                Exit::Failed,
                "alert_not_taken",
                format!("the receiver {:?} did not take the test", self.receiver),
                "Mend what the line above says: the receiver's section [[alert]] in the configuration, or the file it names. The service reads such files again by itself, its configuration at SIGHUP. A port that no receiver had when it was started is out of its reach until it is restarted (hardening.landlock).",
            )
            .because(trouble.clone()));
        }
        output.answer(&tested, |tested| {
            format!("{} took the test; look whether it shows there\n", tested.receiver)
        })
    }

    async fn without_service(&self, global: &Global) -> Result<TestedBody, Failure> {
        let config = setting::config(global)?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let sinks: Vec<Arc<dyn AlertSink>> = if self.receiver == "log" {
            vec![Arc::new(Log)]
        } else {
            let named = config.alerts.iter().find(|a| a.receiver.name() == self.receiver);
            let opened = named.ok_or_else(|| self.no_such())?.receiver.open(&clock);
            opened.map_err(|error| {
                Failure::new(
                    Exit::Failed,
                    "no_tls",
                    "this machine has no CA certificates",
                    "Install the package ca-certificates.",
                )
                .because(error.to_string())
            })?
        };
        let taken = probe(&sinks, &Notice::test(&config.app.name, clock.wall())).await;
        let trouble = taken.as_ref().err().map(|error| error.what.clone());
        Ok(TestedBody { receiver: self.receiver.clone(), taken: taken.is_ok(), trouble })
    }

    fn no_such(&self) -> Failure {
        Failure::new(
            Exit::NotFound,
            "unknown_receiver",
            format!("no receiver of alerts is called {:?}", self.receiver),
            "`grantkeeper alert list` shows those of the running service; a new one is there after SIGHUP.",
        )
    }
}

/// A name as a part of a path.
fn url_part(name: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.~".contains(&b);
    let part = |b: u8| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") };
    name.bytes().map(part).collect()
}
