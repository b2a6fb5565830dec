//! The sections about the service itself: app, HubSpot, refreshing, validating, listening.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use super::{
    App, DEFAULT_SOCKET, Rotation, access,
    findings::{Findings, Found},
    place,
    reader::Section,
};
use crate::{
    audit::{self, Repeats},
    hardening::Landlock,
    hubspot::{self, ApiVersion},
    incident::InstallUrl,
    journal,
    lifecycle::{OnStart, RefreshMode, RefreshPolicy, ValidatePolicy},
    portal::{AppName, Scopes},
    socket::{self, Limits},
};

const SECOND: Duration = Duration::from_secs(1);
/// The kernel's limit on a socket's path (unix(7), `sun_path`).
const LONGEST_SOCKET: usize = 107;
const DAY: Duration = Duration::from_secs(24 * 3600);

/// `state_dir` and `state_key_file`, which stand above all sections.
pub(super) fn state(
    root: &mut Section<'_, '_>,
    findings: &mut Findings<'_>,
) -> Option<journal::Settings> {
    let dir = root.path("state_dir", findings);
    let key_file = root.path("state_key_file", findings);
    if let (None, Some(key), false) = (&dir, &key_file, root.has("state_dir")) {
        let hint = "name the folder it is the key of: state_dir = \"/var/lib/grantkeeper\"";
        key.wrong(findings, "is the key of a state_dir that is not named", hint);
    }
    Some(journal::Settings { dir: dir?.value, key_file: key_file.map(|found| found.value) })
}

pub(super) fn app(mut section: Section<'_, '_>, findings: &mut Findings<'_>) -> Option<App> {
    let name = section.text("name", findings);
    if name.is_none() {
        section.missing(findings, "name", "call the app something, such as \"acme-sync\"");
    }
    let name = name.and_then(|found| match AppName::parse(found.value.clone()) {
        Ok(name) => Some(name),
        Err(error) => {
            found.wrong(findings, "is not an app name", error.to_string());
            None
        }
    });
    let scopes = section.texts("required_scopes", false, findings).unwrap_or_default();
    let install_url = section.text("install_url", findings).and_then(|found| {
        InstallUrl::parse(&found.value)
            .map_err(|error| {
                let hint = "write the https address at which customers install the app; {portal} in it stands for the portal's id";
                found.wrong(findings, error.to_string(), hint);
            })
            .ok()
    });
    section.finish(findings);
    let required_scopes: Scopes = scopes.into_iter().map(|found| found.value).collect();
    Some(App { name: name?, required_scopes, install_url })
}

pub(super) fn rotation(mut section: Section<'_, '_>, findings: &mut Findings<'_>) -> Rotation {
    // HubSpot sends a webhook again for a day; some leave it to the next working day to look.
    const USUAL: Duration = Duration::from_secs(72 * 3600);
    let (least, most) = (Duration::from_secs(1), Duration::from_secs(90 * 24 * 3600));
    let kept = section.duration("keep_previous", least, most, findings);
    section.finish(findings);
    Rotation { keep_previous: kept.unwrap_or(USUAL) }
}

pub(super) fn hubspot(
    mut section: Section<'_, '_>,
    findings: &mut Findings<'_>,
) -> Option<hubspot::Settings> {
    let usual = hubspot::Settings::default();
    let base_url = match section.text("base_url", findings) {
        Some(found) => place::base(&found, findings),
        None => Some(usual.base_url.clone()),
    };
    if base_url.as_ref().is_some_and(|url| *url != usual.base_url) {
        findings
            .warn("hubspot.base_url is not HubSpot's own address: the client secret is sent there");
    }
    let versions = ApiVersion::ALL.map(|version| (version.as_str(), version));
    let api_version = section.one_of("api_version", &versions, findings);
    let api_version = api_version.map_or(usual.api_version, |found| found.value);
    if api_version == ApiVersion::V1 {
        findings.warn("hubspot.api_version = \"v1\" stops working on 2027-02-16; stored refresh tokens work with \"2026-03\" as they are");
    }
    let rate = section.number("max_refreshes_per_second", 0.01, 10_000.0, findings);
    // HubSpot keeps the journal for three days: whoever reads it once a day misses nothing.
    let poll_uninstalls = section.duration("poll_uninstalls", SECOND, DAY, findings);
    section.finish(findings);
    Some(hubspot::Settings {
        base_url: base_url?,
        api_version,
        max_refreshes_per_second: rate.unwrap_or(usual.max_refreshes_per_second),
        poll_uninstalls,
    })
}

pub(super) fn refresh(mut section: Section<'_, '_>, findings: &mut Findings<'_>) -> RefreshPolicy {
    let usual = RefreshPolicy::default();
    let modes = [
        ("auto", RefreshMode::Auto),
        ("eager", RefreshMode::Eager),
        ("recent", RefreshMode::Recent),
        ("on_demand", RefreshMode::OnDemand),
    ];
    let mode = section.one_of("mode", &modes, findings);
    let policy = RefreshPolicy {
        mode: mode.map_or(usual.mode, |found| found.value),
        recent_window: section
            .duration("recent_window", SECOND, 366 * DAY, findings)
            .unwrap_or(usual.recent_window),
        at: section.number("at", 0.1, 0.95, findings).unwrap_or(usual.at),
        min_ttl: section
            .duration("min_ttl", Duration::ZERO, DAY, findings)
            .unwrap_or(usual.min_ttl),
    };
    section.finish(findings);
    policy
}

pub(super) fn validate(
    mut section: Section<'_, '_>,
    findings: &mut Findings<'_>,
) -> ValidatePolicy {
    let usual = ValidatePolicy::default();
    let choices = [
        ("require_app", OnStart::RequireApp),
        ("require_all", OnStart::RequireAll),
        ("warn", OnStart::Warn),
    ];
    let on_start = section.one_of("on_start", &choices, findings);
    let policy = ValidatePolicy {
        every: section.duration("every", SECOND, 31 * DAY, findings).unwrap_or(usual.every),
        on_start: on_start.map_or(usual.on_start, |found| found.value),
    };
    section.finish(findings);
    policy
}

pub(super) fn socket(
    mut section: Section<'_, '_>,
    findings: &mut Findings<'_>,
) -> Option<socket::Settings> {
    let path = section.path("path", findings).map(|found| {
        if found.value.as_os_str().len() > LONGEST_SOCKET {
            let hint = format!("choose a path of at most {LONGEST_SOCKET} bytes");
            found.wrong(findings, "is longer than a socket's path can be", hint);
        }
        found.value
    });
    let mode = section.text("mode", findings);
    let mode = match mode {
        None => Some(0o660),
        Some(found) => match u32::from_str_radix(&found.value, 8) {
            Ok(mode) if mode & !0o777 == 0 && mode & 0o600 == 0o600 && mode & 0o117 == 0 => {
                Some(mode)
            }
            Ok(mode) if mode & 0o007 != 0 => {
                let hint = "write \"0660\" and give the socket a group, or \"0600\"";
                found.wrong(findings, "would let everybody on this machine open the socket", hint);
                None
            }
            _ => {
                found.wrong(findings, "is not a mode for a socket", "write \"0660\" or \"0600\"");
                None
            }
        },
    };
    let group = section.text("group", findings);
    let group = match group {
        None => Some(None),
        Some(found) => access::group_id(&found, findings).map(Some),
    };
    let usual = Limits::default();
    let connections = section.whole("connections", 16, 65_536, findings);
    let per_user = section.whole("connections_per_user", 1, 65_536, findings);
    let requests = section.whole("requests_per_second", 1, 1_000_000, findings);
    let count = |found: Option<Found<u64>>, usual: usize| {
        found.and_then(|found| usize::try_from(found.value).ok()).unwrap_or(usual)
    };
    let limits = Limits {
        connections: count(connections, usual.connections),
        connections_per_user: count(per_user, usual.connections_per_user),
        requests_per_second: requests
            .and_then(|found| u32::try_from(found.value).ok())
            .unwrap_or(usual.requests_per_second),
    };
    section.finish(findings);
    Some(socket::Settings {
        path: path.unwrap_or_else(|| PathBuf::from(DEFAULT_SOCKET)),
        mode: mode?,
        group: group?,
        limits,
    })
}

pub(super) fn http(
    mut section: Section<'_, '_>,
    findings: &mut Findings<'_>,
) -> Option<SocketAddr> {
    if !section.is_there() {
        return None;
    }
    let listen = section.address("listen", findings);
    if listen.is_none() {
        section.missing(findings, "listen", "write listen = \"127.0.0.1:9464\"");
    }
    if listen.is_some_and(|address| !address.ip().is_loopback()) {
        findings.warn("http.listen is not a loopback address: health and metrics are open to the network (never a token)");
    }
    section.finish(findings);
    listen
}

pub(super) fn audit(
    mut section: Section<'_, '_>,
    findings: &mut Findings<'_>,
) -> Option<audit::Settings> {
    if !section.is_there() {
        return None;
    }
    let file = section.text("file", findings);
    if file.is_none() {
        let hint = "write file = \"/var/log/grantkeeper/audit.jsonl\", or \"-\" for standard error";
        section.missing(findings, "file", hint);
    }
    let kinds = [("count", Repeats::Count), ("each", Repeats::Each)];
    let repeats = section.one_of("repeats", &kinds, findings);
    section.finish(findings);
    let file = file?.value;
    Some(audit::Settings {
        file: (file != "-").then(|| PathBuf::from(file)),
        repeats: repeats.map_or(Repeats::default(), |found| found.value),
    })
}

pub(super) fn hardening(mut section: Section<'_, '_>, findings: &mut Findings<'_>) -> Landlock {
    let kinds = [
        ("best_effort", Landlock::BestEffort),
        ("required", Landlock::Required),
        ("off", Landlock::Off),
    ];
    let landlock = section.one_of("landlock", &kinds, findings);
    section.finish(findings);
    landlock.map_or(Landlock::default(), |found| found.value)
}
