//! The control API under `/_sim/`: what [`Sim`] does for programs in its process, for all others.
//! Adds nothing of its own but JSON in and out (`docs/simulator.md`).

use std::time::Duration;

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Path, Query, State},
    http::Response,
    routing::{delete, get, post},
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::{
    Sim, answer::Answer, deliver::plain, fault::FaultId, journal::Action, report::PortalReport,
};
use crate::{
    portal::{PortalId, Scopes},
    secret::ClientSecret,
};

/// The most list items in one answer.
const PAGE: usize = 1000;

pub(super) fn router() -> Router<Sim> {
    Router::new()
        .route("/_sim", get(state))
        .route("/_sim/", get(state))
        .route("/_sim/ledger", get(ledger))
        .route("/_sim/events", get(events).post(tell))
        .route("/_sim/portals", get(portals).post(install))
        .route("/_sim/portals/{id}", get(portal))
        .route("/_sim/portals/{id}/{act}", post(act))
        .route("/_sim/codes", post(code))
        .route("/_sim/app/secret", post(secret))
        .route("/_sim/settings", get(settings).put(configure).patch(configure))
        .route("/_sim/faults", get(faults).post(set_fault).delete(clear_faults))
        .route("/_sim/faults/{id}", delete(clear_fault))
        .route("/_sim/reset", post(reset))
}

type Reply = Result<Answer, Answer>;

fn reply(reply: Reply) -> Response<Body> {
    plain(&reply.unwrap_or_else(|refused| refused))
}

fn mistake(why: &str) -> Answer {
    Answer::json(400, &json!({"error": why}))
}

fn unknown_portal(id: PortalId) -> Answer {
    Answer::json(404, &json!({"error": format!("no portal {id}; POST /_sim/portals makes one")}))
}

/// A body as `T`, whatever its content type says: curl's `-d` calls everything a form.
fn body<T: DeserializeOwned + Default>(bytes: &Bytes) -> Result<T, Answer> {
    if bytes.is_empty() {
        return Ok(T::default());
    }
    serde_json::from_slice(bytes).map_err(|error| mistake(&error.to_string()))
}

fn portal_id(text: &str) -> Result<PortalId, Answer> {
    text.parse().map_err(|error: crate::portal::NotAPortalId| mistake(&error.to_string()))
}

#[derive(Deserialize)]
struct Show {
    #[serde(default)]
    tokens: bool,
}

async fn state(State(sim): State<Sim>, show: Query<Show>) -> Response<Body> {
    let mut shown = json!(sim.report());
    shown["portals"] = listed(&sim, None, show.tokens);
    if show.tokens {
        // exposed: to whoever asks a stand-in for its made-up secret
        shown["client_secret"] = sim.client_secret().expose().into();
    }
    plain(&Answer::json(200, &shown))
}

#[derive(Deserialize)]
struct Page {
    after: Option<PortalId>,
    #[serde(default)]
    tokens: bool,
}

async fn portals(State(sim): State<Sim>, page: Query<Page>) -> Response<Body> {
    plain(&Answer::json(200, &json!({"portals": listed(&sim, page.after, page.tokens)})))
}

fn listed(sim: &Sim, after: Option<PortalId>, tokens: bool) -> Value {
    let portals = sim.portals(after, PAGE);
    portals.iter().map(|report| shown(sim, report, tokens)).collect()
}

fn shown(sim: &Sim, report: &PortalReport, tokens: bool) -> Value {
    let mut shown = json!(report);
    if tokens && let Some(token) = sim.refresh_token(report.portal) {
        // exposed: to whoever asks a stand-in for a made-up token
        shown["refresh_token"] = token.expose().into();
    }
    shown
}

async fn portal(
    State(sim): State<Sim>,
    Path(id): Path<String>,
    show: Query<Show>,
) -> Response<Body> {
    reply(portal_id(&id).and_then(|id| {
        let report = sim.portal(id).ok_or_else(|| unknown_portal(id))?;
        Ok(Answer::json(200, &shown(&sim, &report, show.tokens)))
    }))
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct Install {
    id: Option<PortalId>,
    scopes: Option<Scopes>,
    foreign: bool,
}

async fn install(State(sim): State<Sim>, bytes: Bytes) -> Response<Body> {
    reply(body(&bytes).map(|wanted: Install| installed(&sim, wanted)))
}

fn installed(sim: &Sim, wanted: Install) -> Answer {
    let (id, token) = sim.install(wanted.id, wanted.scopes);
    sim.set_foreign(id, wanted.foreign);
    // exposed: to whoever asked a stand-in for a grant
    Answer::json(201, &json!({"portal": id, "refresh_token": token.expose()}))
}

async fn act(State(sim): State<Sim>, Path((id, act)): Path<(String, String)>) -> Response<Body> {
    reply(portal_id(&id).and_then(|id| {
        let before = sim.portal(id).ok_or_else(|| unknown_portal(id))?;
        match act.as_str() {
            "revoke" => sim.revoke(id),
            "uninstall" => sim.uninstall(id),
            "delete" => sim.delete(id),
            "reinstall" => {
                sim.uninstall(id);
                let foreign = before.foreign;
                return Ok(installed(
                    &sim,
                    Install { id: Some(id), scopes: Some(before.scopes), foreign },
                ));
            }
            "rotate" => {
                let token = sim.rotate(id).ok_or_else(|| {
                    let why = "its newest refresh token is not good, so there is none to replace";
                    Answer::json(409, &json!({"error": why}))
                })?;
                // exposed: to whoever asked a stand-in for a new token
                let body = json!({"portal": id, "refresh_token": token.expose()});
                return Ok(Answer::json(200, &body));
            }
            _ => {
                return Err(mistake(
                    "one of revoke, uninstall, delete, reinstall, rotate can be done to a portal",
                ));
            }
        }
        let report = sim.portal(id).ok_or_else(|| unknown_portal(id))?;
        Ok(Answer::json(200, &report))
    }))
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct CodeWanted {
    portal: Option<PortalId>,
    scopes: Option<Scopes>,
    redirect_uri: Option<String>,
    code_challenge: Option<String>,
}

async fn code(State(sim): State<Sim>, bytes: Bytes) -> Response<Body> {
    reply(body(&bytes).map(|wanted: CodeWanted| {
        let CodeWanted { portal, scopes, redirect_uri, code_challenge } = wanted;
        let (portal, code) = sim.consent(portal, scopes, redirect_uri, code_challenge);
        Answer::json(201, &json!({"portal": portal, "code": code}))
    }))
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct SecretWanted {
    client_secret: Option<ClientSecret>,
    grace_seconds: u32,
}

async fn secret(State(sim): State<Sim>, bytes: Bytes) -> Response<Body> {
    reply(body(&bytes).map(|wanted: SecretWanted| {
        let grace = Duration::from_secs(wanted.grace_seconds.into());
        let new = match wanted.client_secret {
            Some(new) => {
                sim.set_client_secret(new.clone(), grace);
                new
            }
            None => sim.rotate_client_secret(grace),
        };
        // exposed: to whoever asked a stand-in for a new secret
        Answer::json(200, &json!({"client_id": sim.client_id(), "client_secret": new.expose()}))
    }))
}

async fn settings(State(sim): State<Sim>) -> Response<Body> {
    plain(&Answer::json(200, &sim.settings()))
}

async fn configure(State(sim): State<Sim>, bytes: Bytes) -> Response<Body> {
    reply(body(&bytes).and_then(|changes: Value| {
        let changed = sim.settings().with(&changes).map_err(|error| mistake(&error.to_string()))?;
        sim.configure(|settings| settings.clone_from(&changed));
        Ok(Answer::json(200, &changed))
    }))
}

async fn faults(State(sim): State<Sim>) -> Response<Body> {
    plain(&Answer::json(200, &json!({"faults": sim.report().faults})))
}

async fn set_fault(State(sim): State<Sim>, bytes: Bytes) -> Response<Body> {
    let wanted = serde_json::from_slice(&bytes).map_err(|error| mistake(&error.to_string()));
    reply(wanted.map(|fault| Answer::json(201, &json!({"id": sim.set_fault(fault)}))))
}

async fn clear_faults(State(sim): State<Sim>) -> Response<Body> {
    sim.clear_faults();
    plain(&Answer::empty(204))
}

async fn clear_fault(State(sim): State<Sim>, Path(id): Path<String>) -> Response<Body> {
    let cleared = id.parse().is_ok_and(|id| sim.clear_fault(FaultId(id)));
    let gone = || Answer::json(404, &json!({"error": "no such fault, or it is used up"}));
    plain(&if cleared { Answer::empty(204) } else { gone() })
}

#[derive(Deserialize)]
struct LedgerWanted {
    #[serde(default)]
    after: u64,
    portal: Option<PortalId>,
}

async fn ledger(State(sim): State<Sim>, wanted: Query<LedgerWanted>) -> Response<Body> {
    let mut presentations = sim.ledger(wanted.after, wanted.portal);
    presentations.truncate(PAGE);
    plain(&Answer::json(200, &json!({"presentations": presentations})))
}

async fn events(State(sim): State<Sim>, wanted: Query<LedgerWanted>) -> Response<Body> {
    let mut events = sim.events(wanted.after);
    events.truncate(PAGE);
    plain(&Answer::json(200, &json!({"events": events})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Told {
    action: Action,
    portal: PortalId,
}

async fn tell(State(sim): State<Sim>, bytes: Bytes) -> Response<Body> {
    let wanted = serde_json::from_slice(&bytes).map_err(|error| mistake(&error.to_string()));
    reply(wanted.map(|Told { action, portal }| {
        sim.tell(action, portal);
        Answer::empty(204)
    }))
}

async fn reset(State(sim): State<Sim>) -> Response<Body> {
    sim.reset();
    plain(&Answer::empty(204))
}
