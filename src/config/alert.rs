//! `[[alert]]` as written → where alerts go, and in which manner.

use std::{collections::BTreeSet, time::Duration};

use jiff::tz::TimeZone;

use super::{
    findings::{Findings, Found},
    reader::Section,
    receiver,
};
use crate::{
    incident::{Manner, QuietHours, Severity},
    sink::{Settings, alertmanager},
};

/// One receiver of alerts.
#[derive(Debug, Clone)]
pub struct Alert {
    /// Who.
    pub receiver: Settings,
    /// In which manner.
    pub manner: Manner,
}

/// The kinds of receivers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Webhook,
    Slack,
    PagerDuty,
    Alertmanager,
    Sns,
    Email,
    Exec,
}

const KINDS: [(&str, Kind); 7] = [
    ("webhook", Kind::Webhook),
    ("slack", Kind::Slack),
    ("pagerduty", Kind::PagerDuty),
    ("alertmanager", Kind::Alertmanager),
    ("sns", Kind::Sns),
    ("email", Kind::Email),
    ("exec", Kind::Exec),
];
const HOUR: Duration = Duration::from_secs(3600);
const SOONEST_REMINDER: Duration = Duration::from_secs(60);
const LATEST_REMINDER: Duration = Duration::from_secs(30 * 24 * 3600);

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
    let kind = section.one_of("kind", &KINDS, findings).map(|found| found.value);
    if kind.is_none() {
        section.missing(findings, "kind", "write kind = \"webhook\", or another of the seven");
    }
    let manner = manner(&mut section, kind, findings);
    let Some(kind) = kind else {
        // Which keys belong there is not known; what belongs to no kind is wrong whichever is meant.
        section.pass_over(&receiver::KEYS);
        section.finish(findings);
        return None;
    };
    // One that has no name is read all the same: every mistake is to be told at once.
    let called = name.as_ref().map_or_else(String::new, |found| found.value.clone());
    let receiver = receiver::read(kind, called, &mut section, findings);
    section.finish(findings);
    name.and(Some(Alert { receiver: receiver?, manner }))
}

fn manner(
    section: &mut Section<'_, '_>,
    kind: Option<Kind>,
    findings: &mut Findings<'_>,
) -> Manner {
    let severities = [
        ("info", Severity::Info),
        ("warning", Severity::Warning),
        ("critical", Severity::Critical),
    ];
    let min_severity = section.one_of("min_severity", &severities, findings);
    // Those two remind people themselves.
    let reminds = !matches!(kind, Some(Kind::PagerDuty | Kind::Alertmanager));
    let usual = |hours: u32| reminds.then_some(HOUR * hours);
    let remind_critical = reminder("remind_critical", usual(4), section, findings);
    let remind = reminder("remind", usual(24), section, findings);
    if kind == Some(Kind::Alertmanager) {
        for key in ["quiet_hours", "remind", "remind_critical"] {
            if section.has(key) {
                let hint = "Alertmanager does that by itself: its routes and silences say when";
                section.wrong(findings, key, "is not used for this kind", hint);
            }
        }
    }
    let hours = section.text("quiet_hours", findings);
    let zone = section.text("time_zone", findings);
    let zone = zone.map(|found| (zone_of(&found, findings), found));
    let quiet = hours.and_then(|hours| match hours.value.parse::<QuietHours>() {
        Ok(quiet) => {
            let zone = zone.as_ref().and_then(|(zone, _)| zone.clone());
            Some(quiet.within(zone.unwrap_or(TimeZone::UTC)))
        }
        Err(error) => {
            hours.wrong(findings, "are no hours", error.to_string());
            None
        }
    });
    if let Some((_, found)) = zone.filter(|_| quiet.is_none() && !section.has("quiet_hours")) {
        found.wrong(findings, "is not used", "it is the zone of quiet_hours");
    }
    Manner {
        min_severity: min_severity.map_or(Severity::Info, |found| found.value),
        remind_critical,
        remind,
        quiet,
        repeat: (kind == Some(Kind::Alertmanager)).then_some(alertmanager::REPEAT),
    }
}

/// A duration, or `"never"`.
fn reminder(
    key: &'static str,
    usual: Option<Duration>,
    section: &mut Section<'_, '_>,
    findings: &mut Findings<'_>,
) -> Option<Duration> {
    if !section.has(key) {
        return usual;
    }
    if section.word(key) == Some("never") {
        return None;
    }
    section.duration(key, SOONEST_REMINDER, LATEST_REMINDER, findings)
}

fn zone_of(found: &Found<String>, findings: &mut Findings<'_>) -> Option<TimeZone> {
    let zone = TimeZone::get(&found.value).ok();
    if zone.is_none() {
        found.wrong(
            findings,
            "is not a time zone",
            "write one such as \"Europe/Berlin\" or \"UTC\"",
        );
    }
    zone
}
