//! What each kind of receiver needs to be told, as written → [`Settings`].

use std::{collections::BTreeSet, path::PathBuf};

use lettre::message::Mailbox;
use reqwest::Url;

use super::{
    alert::Kind,
    findings::{Findings, Found},
    place,
    reader::Section,
};
use crate::sink::{
    Settings, alertmanager,
    email::{self, Encryption},
    exec, pagerduty,
    post::{self, Target},
    slack, sns, webhook,
};

/// Every key that some kind takes.
pub(super) const KEYS: [&str; 16] = [
    "url",
    "url_file",
    "signing_secret_file",
    "routing_key_file",
    "topic_arn",
    "region",
    "endpoint_url",
    "from",
    "to",
    "host",
    "port",
    "encryption",
    "username",
    "password_file",
    "ca_file",
    "command",
];

pub(super) fn read(
    kind: Kind,
    name: String,
    section: &mut Section<'_, '_>,
    findings: &mut Findings<'_>,
) -> Option<Settings> {
    Some(match kind {
        Kind::Webhook => {
            let target = target(section, findings);
            let signing_secret_file = path("signing_secret_file", section, findings);
            Settings::Webhook(webhook::Settings { name, target: target?, signing_secret_file })
        }
        Kind::Slack => {
            Settings::Slack(slack::Settings { name, target: target(section, findings)? })
        }
        Kind::Alertmanager => {
            let target = target(section, findings)?;
            Settings::Alertmanager(alertmanager::Settings { name, target })
        }
        Kind::PagerDuty => Settings::PagerDuty(pager(name, section, findings)?),
        Kind::Sns => Settings::Sns(topic(name, section, findings)?),
        Kind::Email => Settings::Email(mail(name, section, findings)?),
        Kind::Exec => Settings::Exec(program(name, section, findings)?),
    })
}

fn path(
    key: &'static str,
    section: &mut Section<'_, '_>,
    findings: &mut Findings<'_>,
) -> Option<PathBuf> {
    section.path(key, findings).map(|found| found.value)
}

fn url(found: &Found<String>, findings: &mut Findings<'_>) -> Option<Url> {
    post::target(&found.value)
        .map_err(|error| found.wrong(findings, "can't be used", error.to_string()))
        .ok()
}

fn target(section: &mut Section<'_, '_>, findings: &mut Findings<'_>) -> Option<Target> {
    let written = section.text("url", findings);
    let file = section.path("url_file", findings);
    match (written, file) {
        (Some(found), None) => url(&found, findings).map(Target::Url),
        (None, Some(file)) => Some(Target::File(file.value)),
        // One that is there and wrong has been told.
        _ if section.has("url") != section.has("url_file") => None,
        _ => {
            let hint = "write url_file = \"/…\", or url = \"https://…\" where the URL is no secret";
            section.wrong(findings, "", "does not say once where to send", hint);
            None
        }
    }
}

fn pager(
    name: String,
    section: &mut Section<'_, '_>,
    findings: &mut Findings<'_>,
) -> Option<pagerduty::Settings> {
    let key = path("routing_key_file", section, findings);
    if key.is_none() {
        let hint = "let it name a file with the integration key of an Events API v2 integration";
        section.missing(findings, "routing_key_file", hint);
    }
    let address = match section.text("url", findings) {
        Some(found) => url(&found, findings),
        None => Url::parse(pagerduty::ADDRESS).ok(),
    };
    Some(pagerduty::Settings { name, address: address?, routing_key_file: key? })
}

fn topic(
    name: String,
    section: &mut Section<'_, '_>,
    findings: &mut Findings<'_>,
) -> Option<sns::Settings> {
    let hint = "write topic_arn = \"arn:aws:sns:<region>:<account>:<topic>\"";
    let arn = section.text("topic_arn", findings);
    match &arn {
        None => section.missing(findings, "topic_arn", hint),
        Some(found) => {
            let parts: Vec<_> = found.value.split(':').collect();
            let good = matches!(parts[..], ["arn", _, "sns", region, _, topic] if !region.is_empty() && !topic.is_empty());
            if !good {
                found.wrong(findings, "is not the ARN of a topic", hint);
            }
        }
    }
    let region = section.text("region", findings).map(|found| found.value);
    let endpoint = section.text("endpoint_url", findings);
    let endpoint_url = endpoint.map(|found| place::base(&found, findings));
    let endpoint_url = match endpoint_url {
        None => None,
        Some(good) => Some(good?),
    };
    Some(sns::Settings { name, topic_arn: arn?.value, region, endpoint_url })
}

fn mailbox(found: &Found<String>, findings: &mut Findings<'_>) -> Option<Mailbox> {
    let mailbox = found.value.parse().ok();
    if mailbox.is_none() {
        let hint = "write \"ops@example.com\", or \"Ops <ops@example.com>\"";
        found.wrong(findings, "is not a mail address", hint);
    }
    mailbox
}

fn mail(
    name: String,
    section: &mut Section<'_, '_>,
    findings: &mut Findings<'_>,
) -> Option<email::Settings> {
    let from = section.text("from", findings);
    if from.is_none() {
        section.missing(findings, "from", "say who writes: from = \"grantkeeper@example.com\"");
    }
    let to = section.texts("to", false, findings).unwrap_or_default();
    if to.is_empty() {
        section.missing(findings, "to", "say who is written to: to = [\"ops@example.com\"]");
    }
    let host = section.text("host", findings);
    if host.is_none() {
        section.missing(findings, "host", "name the mail server: host = \"smtp.example.com\"");
    }
    let words =
        [("starttls", Encryption::StartTls), ("tls", Encryption::Tls), ("none", Encryption::None)];
    let written = section.one_of("encryption", &words, findings);
    let encryption = written.as_ref().map_or(Encryption::StartTls, |found| found.value);
    let local = host.as_ref().is_some_and(|host| is_this_machine(&host.value));
    if let Some(found) = written.filter(|_| encryption == Encryption::None && !local) {
        let hint = "mail may go in the clear to this machine only; write \"starttls\" or \"tls\"";
        found.wrong(findings, "is not for a server elsewhere", hint);
    }
    let port = section.whole("port", 1, u16::MAX.into(), findings);
    let port =
        port.and_then(|port| port.value.try_into().ok()).unwrap_or_else(|| encryption.port());
    let user = section.text("username", findings).map(|found| found.value);
    let password = path("password_file", section, findings);
    let login = match (user, password) {
        (Some(user), Some(file)) => Some((user, file)),
        (None, None) => None,
        (Some(_), None) => {
            section.missing(findings, "password_file", "a username goes with a password_file");
            None
        }
        (None, Some(_)) => {
            section.missing(findings, "username", "a password_file goes with a username");
            None
        }
    };
    let ca_file = path("ca_file", section, findings);
    let from = from.and_then(|found| mailbox(&found, findings));
    let count = to.len();
    let mut to: Vec<_> = to.iter().filter_map(|found| mailbox(found, findings)).collect();
    let complete = !to.is_empty() && to.len() == count;
    let mut known = BTreeSet::new();
    // Who is named twice is told once.
    to.retain(|mailbox| known.insert(mailbox.email.to_string()));
    let host = host?.value;
    let from = from.filter(|_| complete)?;
    Some(email::Settings { name, from, to, host, port, encryption, login, ca_file })
}

fn is_this_machine(host: &str) -> bool {
    let address = host.parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

fn program(
    name: String,
    section: &mut Section<'_, '_>,
    findings: &mut Findings<'_>,
) -> Option<exec::Settings> {
    let hint = "write command = [\"/usr/local/bin/page\", \"--urgent\"]";
    let command = section.texts("command", false, findings);
    if command.is_none() {
        section.missing(findings, "command", hint);
    }
    let mut words = command?.into_iter();
    let Some(program) = words.next() else {
        section.wrong(findings, "command", "is empty", hint);
        return None;
    };
    let path = PathBuf::from(&program.value);
    if !path.is_absolute() {
        program.wrong(findings, "does not begin with an absolute path", hint);
        return None;
    }
    let arguments = words.map(|word| word.value).collect();
    Some(exec::Settings { name, program: path, arguments })
}
