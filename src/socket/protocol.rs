//! The words on the wire, shared by both ends so that they can't drift (contract section 4).

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    incident::Incident,
    lifecycle::{PortalState, RefreshMode},
    portal::{PortalId, Scopes},
};

/// `GET /v1/portals/{id}/token`.
#[derive(Serialize, ToSchema)]
pub struct TokenBody<'a> {
    /// Whose.
    #[schema(value_type = u64, minimum = 1)]
    pub portal_id: PortalId,
    /// The token.
    pub access_token: &'a str,
    /// Always `bearer`.
    pub token_type: &'a str,
    /// When it is used up.
    #[schema(value_type = String, format = DateTime)]
    pub expires_at: Timestamp,
    /// Seconds until then, rounded down.
    pub expires_in: u64,
    /// Its scopes, if HubSpot told them.
    #[schema(value_type = Option<Vec<String>>)]
    pub scopes: Option<&'a Scopes>,
    /// It has less life than asked for: HubSpot gives no better one at present.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub short_lived: bool,
}

/// One portal in `GET /v1/portals`.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct PortalBody {
    /// Whose.
    #[schema(value_type = u64, minimum = 1)]
    pub portal_id: PortalId,
    /// See [`PortalState`].
    pub state: String,
    /// An operator paused it, whatever its state is beside that.
    #[serde(default)]
    pub paused: bool,
    /// Why, if there is anything to say.
    pub reason: Option<String>,
    /// When the token in hand is used up.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Timestamp>,
    /// When HubSpot last gave one.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_refresh: Option<Timestamp>,
    /// When the next will be asked for.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub next_refresh: Option<Timestamp>,
    /// The scopes of the grant.
    #[schema(value_type = Option<Vec<String>>)]
    pub scopes: Option<Scopes>,
}

/// What `POST /v1/portals/{id}/refresh` is asked with.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RefreshBody {
    /// The `ETag` that the rejected token came with.
    pub rejected: String,
}

/// What `POST /v1/portals` is asked with: either `code` and `redirect_uri`, or `refresh_token`.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EnrolBody {
    /// What HubSpot's consent page sent to `redirect_uri`.
    pub code: Option<String>,
    /// Where it was sent to, as it was asked for.
    pub redirect_uri: Option<String>,
    /// The PKCE verifier, if a challenge was sent along.
    pub code_verifier: Option<String>,
    /// A refresh token that somebody has.
    pub refresh_token: Option<String>,
}

/// `POST /v1/portals`, once the grant is stored.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct EnrolledBody {
    /// Whose grant it is, as HubSpot says.
    #[schema(value_type = u64, minimum = 1)]
    pub portal_id: PortalId,
    /// Another grant was stored for this portal before.
    pub replaced: bool,
    /// The scopes of the grant, if told.
    #[schema(value_type = Option<Vec<String>>)]
    pub scopes: Option<Scopes>,
}

/// `DELETE /v1/portals/{id}`.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct RemovedBody {
    /// Whose.
    #[schema(value_type = u64, minimum = 1)]
    pub portal_id: PortalId,
    /// Its grant was ended at HubSpot. Access tokens that were given out work until they expire.
    pub revoked: bool,
}

/// `POST /v1/portals/{id}/pause` and `…/resume`.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct PausedBody {
    /// Whose.
    #[schema(value_type = u64, minimum = 1)]
    pub portal_id: PortalId,
    /// Whether it is paused now.
    pub paused: bool,
    /// Whether the service still knows of it after a restart: it does where it keeps a journal.
    pub outlives_restart: bool,
}

/// `GET /v1/portals`.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct PortalsBody {
    /// A page of portals, ascending.
    pub portals: Vec<PortalBody>,
    /// What to pass as `after` for the next page.
    #[schema(value_type = Option<u64>)]
    pub next: Option<PortalId>,
}

/// A problem (RFC 9457).
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// A name for the kind of problem.
    #[serde(rename = "type")]
    pub kind: String,
    /// The kind in words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// This case in words.
    pub detail: String,
    /// The stable word programs go by.
    pub code: String,
    /// Seconds after which asking again can help; also the `Retry-After` header.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub retry_after: Option<u64>,
}

/// `GET /v1/status`, for reading.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct StatusBody {
    /// The app.
    pub app: AppBody,
    /// The store.
    pub store: HealthBody,
    /// HubSpot.
    pub hubspot: HealthBody,
    /// How many portals are in each state that has any.
    pub portals: std::collections::BTreeMap<String, usize>,
    /// How many portals there are.
    pub portals_total: usize,
    /// The refresh mode in force.
    pub mode: String,
    /// How many portals the rate keeps warm.
    pub budget: BudgetBody,
    /// Where decisions are written down.
    pub audit: AuditBody,
    /// What the process has given up.
    pub hardening: HardeningBody,
    /// `kept`, `failing` or `none`: with a journal a crash loses no grant (`state_dir`).
    pub journal: String,
    /// Whether the service does its job.
    pub ready: bool,
    /// Why not.
    pub reasons: Vec<String>,
    /// What else is worth a word.
    pub remarks: Vec<String>,
    /// What is open.
    #[schema(value_type = Vec<Object>)]
    pub incidents: Vec<serde_json::Value>,
    /// Who is told of incidents, and how each does.
    #[serde(default)]
    pub receivers: Vec<ReceiverBody>,
    /// When the records were last read.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub records_read: Option<Timestamp>,
    /// The version of the service.
    pub version: String,
}

/// A receiver of alerts in [`StatusBody`].
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct ReceiverBody {
    /// What the operator calls it.
    pub name: String,
    /// Incidents of which it has not taken everything.
    pub waiting: usize,
    /// Failures in a row.
    pub failures: u32,
    /// What the last one was.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub trouble: Option<String>,
    /// When it last took something.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_taken: Option<Timestamp>,
}

/// `POST /v1/incidents/{id}/acknowledge`.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct AcknowledgedBody {
    /// Which.
    pub incident_id: String,
    /// Always true.
    pub acknowledged: bool,
}

/// `POST /v1/rotation/try`.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct TriedBody {
    /// Whose token was refreshed, if one was.
    #[schema(value_type = Option<u64>)]
    pub portal_id: Option<PortalId>,
    /// `accepted`, `refused` (the client pair), `not_told` (HubSpot had other trouble, or no portal could be tried at
    /// present), or `skipped` (there is no portal to try).
    pub outcome: String,
    /// Why, if it is not accepted.
    pub reason: Option<String>,
}

/// `POST /v1/receivers/{name}/test`.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct TestedBody {
    /// Which.
    pub receiver: String,
    /// Whether it took the test, and that it is over.
    pub taken: bool,
    /// What is wrong, if it did not.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub trouble: Option<String>,
}

/// What the process has given up, in [`StatusBody`].
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct HardeningBody {
    /// Whether Landlock keeps it to the paths and ports it needs: `enforced`, `partly`, `unsupported` or `off`.
    pub landlock: String,
    /// Neither it nor what it starts can gain privileges.
    pub no_new_privileges: bool,
    /// It leaves no core dump, and no other process of its user can look into it.
    pub no_dumps: bool,
}

/// `POST /v1/reload`.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct ReloadedBody {
    /// Always true.
    pub reloaded: bool,
    /// Whether the client pair in use is the one that is stored; another one stays in use as long as HubSpot does not
    /// accept that. A service that says nothing of it counts as one that does.
    #[serde(default = "follows")]
    pub follows: bool,
}

const fn follows() -> bool {
    true
}

/// The audit log in [`StatusBody`].
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct AuditBody {
    /// `kept` or `none`. One that fails is not told here: then nothing is.
    pub state: String,
    /// The last line's number and hash, to compare a copy of the log with.
    pub last_seq: Option<u64>,
    /// See `last_seq`.
    pub last_hash: Option<String>,
}

/// The app in [`StatusBody`].
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct AppBody {
    /// Its name.
    pub name: String,
    /// `ok`, `unproven`, `doubted` or `rejected`.
    pub state: String,
}

/// The rate towards the token endpoint in [`StatusBody`].
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct BudgetBody {
    /// Requests a second that can be counted on, as learned.
    pub per_second: f64,
    /// The most that is configured.
    pub ceiling: f64,
    /// As many portals can be kept warm with that.
    pub carries: usize,
    /// The same in a sentence.
    pub summary: String,
}

/// A system outside in [`StatusBody`].
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct HealthBody {
    /// Which.
    pub kind: String,
    /// Whether its last answer was of use.
    pub ok: bool,
    /// The word for what is wrong.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub trouble: Option<String>,
}

/// An incident in [`StatusBody`].
#[must_use]
pub fn incident(incident: &Incident) -> serde_json::Value {
    serde_json::to_value(incident).unwrap_or_default()
}

/// A refresh mode as a word.
#[must_use]
pub const fn mode(mode: RefreshMode) -> &'static str {
    match mode {
        RefreshMode::Auto => "auto",
        RefreshMode::Eager => "eager",
        RefreshMode::Recent => "recent",
        RefreshMode::OnDemand => "on_demand",
    }
}

/// A state by its word.
#[must_use]
pub fn state(word: &str) -> Option<PortalState> {
    PortalState::ALL.into_iter().find(|state| state.as_str() == word)
}
