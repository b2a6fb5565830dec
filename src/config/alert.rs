//! `[[alert]]` as written → where alerts go.

use std::collections::BTreeSet;

use super::{findings::Findings, reader::Section};
use crate::{
    incident::Severity,
    sink::webhook::{self, Target},
};

/// One receiver of alerts.
#[derive(Debug, Clone)]
pub struct Alert {
    /// How to tell it.
    pub webhook: webhook::Settings,
    /// From which severity on.
    pub min_severity: Severity,
}

pub(super) fn read(sections: Vec<Section<'_, '_>>, findings: &mut Findings<'_>) -> Vec<Alert> {
    let mut names = BTreeSet::new();
    sections.into_iter().filter_map(|section| alert(section, &mut names, findings)).collect()
}

fn alert(
    mut section: Section<'_, '_>,
    names: &mut BTreeSet<String>,
    findings: &mut Findings<'_>,
) -> Option<Alert> {
    let name = section.text("name", findings);
    match &name {
        None => section.missing(findings, "name", "call the receiver something, such as \"ops\""),
        Some(found) if found.value == "log" || !names.insert(found.value.clone()) => {
            found.wrong(findings, "is the name of another receiver", "choose another one");
        }
        Some(_) => {}
    }
    let kinds = [
        ("webhook", true),
        ("slack", false),
        ("pagerduty", false),
        ("alertmanager", false),
        ("sns", false),
        ("email", false),
        ("exec", false),
    ];
    match section.one_of("kind", &kinds, findings) {
        Some(kind) if !kind.value => {
            kind.wrong(findings, "is not to be had in this version", "use kind = \"webhook\"");
        }
        Some(_) => {}
        None => {
            section.missing(findings, "kind", "write kind = \"webhook\"");
        }
    }
    let url = section.text("url", findings);
    let url_file = section.path("url_file", findings);
    let target = match (url, url_file) {
        (Some(url), None) => match webhook::target(&url.value) {
            Ok(target) => Some(Target::Url(target)),
            Err(error) => {
                url.wrong(findings, "can't be used", error.to_string());
                None
            }
        },
        (None, Some(file)) => Some(Target::File(file.value)),
        // One that is there and wrong has been told.
        _ if section.has("url") != section.has("url_file") => None,
        _ => {
            let hint = "write url_file = \"/…\", or url = \"https://…\" where the URL is no secret";
            section.wrong(findings, "", "does not say once where to send", hint);
            None
        }
    };
    let signing_secret_file = section.path("signing_secret_file", findings).map(|f| f.value);
    let severities = [
        ("info", Severity::Info),
        ("warning", Severity::Warning),
        ("critical", Severity::Critical),
    ];
    let min_severity = section.one_of("min_severity", &severities, findings);
    section.finish(findings);
    let webhook = webhook::Settings { name: name?.value, target: target?, signing_secret_file };
    Some(Alert { webhook, min_severity: min_severity.map_or(Severity::Info, |found| found.value) })
}
