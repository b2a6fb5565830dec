//! A stored record: one JSON object, of which some members are ours and the rest is somebody
//! else's and stays. Turns it into typed credentials and back. Knows no store.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use zeroize::{Zeroize, Zeroizing};

use super::Key;
use crate::{
    portal::{ClientId, Scopes},
    secret::{ClientSecret, MalformedSecret, RefreshToken},
};

/// The members of one stored JSON object. Wiped when dropped; shows only its members' names.
#[derive(Clone, Default)]
pub struct Record(Map<String, Value>);

/// Why a record can't be used. Never holds a value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordFault {
    /// The text is not JSON.
    #[error("it is not JSON (line {line}, column {column})")]
    NotJson {
        /// Counted from 1.
        line: usize,
        /// Counted from 1.
        column: usize,
    },
    /// JSON, but not an object.
    #[error("it is JSON, but not an object with members")]
    NotAnObject,
    /// A member that must be there is not.
    #[error("it has no member `{0}`")]
    Absent(&'static str),
    /// A member is not a string, or a list that should be one isn't.
    #[error("its member `{0}` has the wrong type")]
    WrongType(&'static str),
    /// A member's text can't be such a secret.
    #[error("its member `{member}` can't be used: {why}")]
    Malformed {
        /// The member's name.
        member: &'static str,
        /// What is wrong with the text.
        why: MalformedSecret,
    },
    /// The client id isn't one.
    #[error("its member `client_id` can't be used: a client id is printable text without blanks")]
    ClientId,
}

const CLIENT_ID: [&str; 2] = ["client_id", "clientId"];
const CLIENT_SECRET: [&str; 2] = ["client_secret", "clientSecret"];
const REFRESH_TOKEN: [&str; 2] = ["refresh_token", "refreshToken"];
const NEXT_SECRET: &str = "next_client_secret";
const PREVIOUS_SECRET: &str = "previous_client_secret";
const STEPS: &str = "rotation";
/// As many steps of rotations are remembered.
const STEPS_KEPT: usize = 12;

/// What was done about a client secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Taken {
    /// The new one stands beside the one in use.
    Staged,
    /// The staged one is in use.
    Promoted,
    /// The one before is in use again.
    RolledBack,
    /// The staged one is gone again.
    Discarded,
    /// The one before is gone.
    Retired,
}

/// One step of a rotation, as the app's record remembers it: for whoever goes on with it, wherever that is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// What was done.
    pub what: Taken,
    /// When.
    pub at: Timestamp,
    /// By which user of which machine.
    pub by: String,
}

impl Record {
    /// # Errors
    /// Not JSON, or not an object. The error does not echo the text.
    pub fn parse(text: &[u8]) -> Result<Self, RecordFault> {
        match serde_json::from_slice(text) {
            Ok(Value::Object(members)) => Ok(Self(members)),
            Ok(mut other) => {
                wipe(&mut other);
                Err(RecordFault::NotAnObject)
            }
            Err(error) => Err(RecordFault::NotJson { line: error.line(), column: error.column() }),
        }
    }

    /// A record of these members.
    #[must_use]
    pub const fn from_members(members: Map<String, Value>) -> Self {
        Self(members)
    }

    /// The record as JSON text, wiped after use.
    #[must_use]
    pub fn to_json(&self) -> Zeroizing<String> {
        Zeroizing::new(serde_json::to_string(&self.0).unwrap_or_else(|_| String::from("{}")))
    }

    /// A copy of the members, for a client library that insists on owning them.
    #[must_use]
    pub fn members(&self) -> Map<String, Value> {
        self.0.clone()
    }

    /// The record as the app's credentials.
    ///
    /// # Errors
    /// What is missing or malformed, by member name.
    pub fn app(&self) -> Result<AppRecord, RecordFault> {
        let client_id = self.text(&CLIENT_ID)?.ok_or(RecordFault::Absent("client_id"))?;
        Ok(AppRecord {
            client_id: ClientId::parse(client_id).map_err(|_| RecordFault::ClientId)?,
            client_secret: self
                .secret(&CLIENT_SECRET)?
                .ok_or(RecordFault::Absent("client_secret"))?,
            next_client_secret: self.secret(&[NEXT_SECRET])?,
            previous_client_secret: self.secret(&[PREVIOUS_SECRET])?,
            steps: self.steps(),
        })
    }

    /// The record as one portal's grant.
    ///
    /// # Errors
    /// What is missing or malformed, by member name.
    pub fn portal(&self) -> Result<PortalRecord, RecordFault> {
        let text = self.text(&REFRESH_TOKEN)?.ok_or(RecordFault::Absent("refresh_token"))?;
        let refresh_token = RefreshToken::parse(text)
            .map_err(|why| RecordFault::Malformed { member: "refresh_token", why })?;
        let scopes = match self.0.get("scopes") {
            None | Some(Value::Null) => None,
            Some(value) => Some(
                serde_json::from_value(value.clone())
                    .map_err(|_| RecordFault::WrongType("scopes"))?,
            ),
        };
        Ok(PortalRecord { refresh_token, scopes })
    }

    /// The same record with this refresh token, under the name it had.
    #[must_use]
    pub fn with_refresh_token(&self, token: &RefreshToken) -> Self {
        // exposed: into the record that is written to the store
        self.with(&REFRESH_TOKEN, token.expose())
    }

    /// The same record with this client pair, under the names they had.
    #[must_use]
    pub fn with_client(&self, id: &ClientId, secret: &ClientSecret) -> Self {
        // exposed: into the record that is written to the store
        self.with(&CLIENT_ID, id.as_str()).with(&CLIENT_SECRET, secret.expose())
    }

    /// The same record with `next` staged beside the current client secret; `None` takes a staged one away.
    #[must_use]
    pub fn with_next_secret(&self, next: Option<&ClientSecret>) -> Self {
        self.with_optional(NEXT_SECRET, next)
    }

    /// The same record with `previous` kept beside the current client secret; `None` takes it away.
    #[must_use]
    pub fn with_previous_secret(&self, previous: Option<&ClientSecret>) -> Self {
        self.with_optional(PREVIOUS_SECRET, previous)
    }

    /// The same record, remembering one step more.
    #[must_use]
    pub fn with_step(&self, step: Step) -> Self {
        let mut steps = self.steps();
        steps.push(step);
        while steps.len() > STEPS_KEPT {
            // Of each kind the last is kept: since when a secret is staged, or in use, hangs on it.
            let later = |at: usize| steps[at + 1..].iter().any(|step| step.what == steps[at].what);
            let oldest = (0..steps.len()).find(|at| later(*at)).unwrap_or_default();
            steps.remove(oldest);
        }
        // Plain words and times: there is nothing in it that can't be JSON.
        self.with_or_without(STEPS, serde_json::to_value(steps).ok())
    }

    /// What others may have written there is not taken for an error.
    fn steps(&self) -> Vec<Step> {
        let steps = self.0.get(STEPS).and_then(Value::as_array).into_iter().flatten();
        steps.filter_map(|step| serde_json::from_value(step.clone()).ok()).collect()
    }

    /// The same record with a plain, not secret, member set.
    #[must_use]
    pub fn with_member(&self, name: &str, value: Value) -> Self {
        self.with_or_without(name, Some(value))
    }

    /// The same record with a member set, or without it.
    pub(super) fn with_or_without(&self, name: &str, value: Option<Value>) -> Self {
        let mut copy = self.clone();
        let old = match value {
            Some(value) => copy.0.insert(name.to_owned(), value),
            None => copy.0.remove(name),
        };
        if let Some(mut old) = old {
            wipe(&mut old);
        }
        copy
    }

    /// This record with `newer`'s grant and all that is said with it; what else stands here stays.
    ///
    /// # Errors
    /// There is no usable grant in `newer`.
    pub fn with_grant_of(&self, newer: &Self) -> Result<Self, RecordFault> {
        let token = newer.portal()?.refresh_token;
        let beside = newer.0.iter().filter(|(name, _)| !REFRESH_TOKEN.contains(&name.as_str()));
        let base = beside
            .fold(self.clone(), |record, (name, value)| record.with_member(name, value.clone()));
        Ok(base.with_refresh_token(&token))
    }

    /// Whether there is such a member.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// The members themselves, for the layout that keeps records within records.
    pub(super) const fn map(&self) -> &Map<String, Value> {
        &self.0
    }

    fn with_optional(&self, name: &'static str, secret: Option<&ClientSecret>) -> Self {
        if let Some(secret) = secret {
            // exposed: into the record that is written to the store
            return self.with(&[name], secret.expose());
        }
        self.with_or_without(name, None)
    }

    fn with(&self, names: &[&'static str], text: &str) -> Self {
        let mut copy = self.clone();
        let name = names.iter().find(|name| copy.0.contains_key(**name)).unwrap_or(&names[0]);
        if let Some(mut old) = copy.0.insert((*name).to_owned(), Value::String(text.to_owned())) {
            wipe(&mut old);
        }
        copy
    }

    fn text(&self, names: &[&'static str]) -> Result<Option<&str>, RecordFault> {
        match names.iter().find_map(|name| self.0.get(*name)) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(RecordFault::WrongType(names[0])),
        }
    }

    fn secret(&self, names: &[&'static str]) -> Result<Option<ClientSecret>, RecordFault> {
        self.text(names)?
            .map(ClientSecret::parse)
            .transpose()
            .map_err(|why| RecordFault::Malformed { member: names[0], why })
    }
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.0.values_mut().for_each(wipe);
    }
}

fn wipe(value: &mut Value) {
    match value {
        Value::String(text) => text.zeroize(),
        Value::Array(items) => items.iter_mut().for_each(wipe),
        Value::Object(members) => members.values_mut().for_each(wipe),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// The app's credentials as stored (contract section 3).
#[derive(Debug, Clone)]
pub struct AppRecord {
    /// Public half.
    pub client_id: ClientId,
    /// Secret half, in use.
    pub client_secret: ClientSecret,
    /// Staged by a rotation, not yet promoted.
    pub next_client_secret: Option<ClientSecret>,
    /// Replaced by a rotation, kept for a while.
    pub previous_client_secret: Option<ClientSecret>,
    /// What was done about them of late, the oldest first.
    pub steps: Vec<Step>,
}

/// One portal's grant as stored (contract section 3).
#[derive(Debug, Clone)]
pub struct PortalRecord {
    /// What access tokens are made from.
    pub refresh_token: RefreshToken,
    /// The scopes noted at enrolment, if any.
    pub scopes: Option<Scopes>,
}

/// A fault of the record under `key`, as a store error with the sentence that helps.
#[must_use]
pub fn corrupt(key: Key, fault: &RecordFault) -> super::StoreError {
    let members = match key {
        Key::App => "`client_id` and `client_secret`",
        Key::Portal(_) | Key::Shard(_) => "`refresh_token`",
    };
    super::StoreError::new(
        super::StoreErrorKind::Corrupt,
        format!("the record `{key}` can't be used: {fault}"),
        format!("Store a JSON object with {members} there, each exactly as HubSpot gave it."),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(text: &str) -> Record {
        Record::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn people_s_own_spelling_is_read_and_kept_when_written() {
        let stored = record(r#"{"clientId":"id","clientSecret":"old","team":"blue"}"#);
        let app = stored.app().unwrap();
        assert_eq!(app.client_id.as_str(), "id");
        assert_eq!(app.client_secret.expose(), "old");

        let written = stored.with_client(&app.client_id, &ClientSecret::parse("new").unwrap());
        assert_eq!(*written.to_json(), r#"{"clientId":"id","clientSecret":"new","team":"blue"}"#);
    }

    #[test]
    fn numbers_in_members_unknown_to_us_do_not_drift_from_one_writing_to_the_next() {
        for number in ["18446744073709551615", "-9223372036854775808", "0.1", "1e-7"] {
            let text = format!(r#"{{"team":{number}}}"#);
            assert_eq!(*record(&text).to_json(), text);
        }
        // Of more digits than a double has the rest is gone, and no more of them each time.
        let long = r#"{"team":88888888888800000000000000000000000759902413}"#;
        let once = record(long).to_json();
        assert_eq!(record(&once).to_json(), once);
    }

    #[test]
    fn members_unknown_to_us_survive_a_new_refresh_token() {
        let stored = record(r#"{"refresh_token":"old","crm":{"tier":3},"note":"x"}"#);
        let written = stored.with_refresh_token(&RefreshToken::parse("new").unwrap());
        assert_eq!(*written.to_json(), r#"{"crm":{"tier":3},"note":"x","refresh_token":"new"}"#);
    }

    #[test]
    fn a_bad_record_is_named_by_member_and_never_echoed() {
        let app = |text: &str| record(text).app().unwrap_err().to_string();
        let portal = |text: &str| record(text).portal().unwrap_err().to_string();
        let cases = [
            (app("{}"), "it has no member `client_id`"),
            (app(r#"{"client_id":"id"}"#), "it has no member `client_secret`"),
            (
                app(r#"{"client_id":"a b","client_secret":"s"}"#),
                "its member `client_id` can't be used",
            ),
            (portal("{}"), "it has no member `refresh_token`"),
            (portal(r#"{"refresh_token":7}"#), "its member `refresh_token` has the wrong type"),
            (portal(r#"{"refresh_token":"CANARY\n"}"#), "it contains a line break"),
            (
                portal(r#"{"refresh_token":"CANARY","scopes":"oauth"}"#),
                "`scopes` has the wrong type",
            ),
        ];
        for (said, expected) in cases {
            assert!(said.contains(expected), "{said}");
            assert!(!said.contains("CANARY"), "{said}");
        }
    }

    #[test]
    fn text_that_is_no_json_object_is_refused_with_its_place() {
        assert_eq!(
            Record::parse(b"nope").unwrap_err(),
            RecordFault::NotJson { line: 1, column: 2 }
        );
        assert_eq!(Record::parse(b"[1]").unwrap_err(), RecordFault::NotAnObject);
        assert!(matches!(Record::parse(b"").unwrap_err(), RecordFault::NotJson { .. }));
    }

    #[test]
    fn staging_and_promoting_a_client_secret_leaves_the_rest_alone() {
        let stored = record(r#"{"client_id":"id","client_secret":"old","team":"blue"}"#);
        let new = ClientSecret::parse("new").unwrap();
        let staged = stored.with_next_secret(Some(&new));
        assert_eq!(staged.app().unwrap().next_client_secret.unwrap().expose(), "new");
        let before = staged.app().unwrap();
        let promoted = staged
            .with_client(&before.client_id, &new)
            .with_next_secret(None)
            .with_previous_secret(Some(&before.client_secret));
        assert_eq!(
            *promoted.to_json(),
            r#"{"client_id":"id","client_secret":"new","previous_client_secret":"old","team":"blue"}"#
        );
    }

    #[test]
    fn i10_debug_shows_member_names_only() {
        let shown = format!("{:?}", record(r#"{"refresh_token":"CANARY"}"#));
        assert_eq!(shown, r#"{"refresh_token"}"#);
    }
}
