//! The status page of the health listener: text for a browser or a terminal, for anybody. It knows words and counts, and
//! no portal by its number.

use std::fmt::Write;

use axum::{
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};

use super::protocol;
use crate::{
    engine::{Handle, overview::Outline, overview::Readiness, view::Health},
    lifecycle::PortalState,
    portal::AppName,
};

/// A browser asks again after so many seconds.
const AGAIN: &str = "10";

pub(super) async fn status_page(State(handle): State<Handle>) -> Response {
    let text = page(&handle.app(), &handle.readiness(), &handle.outline(), &handle.census());
    let headers = [
        (header::CONTENT_TYPE, "text/plain; charset=utf-8"),
        (header::CACHE_CONTROL, "no-store"),
        (header::REFRESH, AGAIN),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (headers, text).into_response()
}

fn page(
    app: &AppName,
    readiness: &Readiness,
    outline: &Outline,
    census: &[(PortalState, usize)],
) -> String {
    let mut text = format!("Grantkeeper {}\n\n", env!("CARGO_PKG_VERSION"));
    if readiness.reasons.is_empty() {
        text += "ready\n\n";
    } else {
        text += &format!("not ready: {}\n\n", readiness.reasons.join(", "));
    }
    let counts: Vec<_> = census
        .iter()
        .filter(|(_, count)| *count > 0)
        .map(|(state, count)| format!("{count} {}", state.as_str()))
        .collect();
    let total: usize = census.iter().map(|(_, count)| count).sum();
    for (what, how) in [
        ("app", format!("{app}  {}", outline.app.as_str())),
        ("store", system(&outline.store)),
        ("HubSpot", system(&outline.hubspot)),
        ("portals", format!("{total}  {}", counts.join(", ")).trim_end().to_owned()),
        ("mode", protocol::mode(outline.mode).to_owned()),
    ] {
        // Into memory, which takes it.
        writeln!(text, "{what:<8} {how}").ok();
    }
    for trouble in &outline.open {
        let portals = if trouble.portals == 1 { "portal" } else { "portals" };
        writeln!(
            text,
            "\n{} {} since {:.0}: {} {portals}",
            trouble.severity.as_str(),
            trouble.kind.as_str(),
            trouble.since,
            trouble.portals
        )
        .ok();
    }
    if !outline.open.is_empty() {
        text += "\nWhich portals, and what to do: grantkeeper status\n";
    }
    text
}

fn system(health: &Health) -> String {
    let word = if health.ok { "ok" } else { health.trouble.unwrap_or("trouble") };
    format!("{}  {word}", health.kind)
}
