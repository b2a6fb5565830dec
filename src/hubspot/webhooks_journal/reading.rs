//! What the webhooks journal says, sorted: entries, files, and everything that is neither. Pure; knows no connection.

use std::{fmt, time::Duration};

use reqwest::Url;
use serde::Deserialize;
use serde_json::Value;
use zeroize::Zeroizing;

use crate::{
    hubspot::{
        error::classify,
        wire::{error, installation},
    },
    lifecycle::{Refusal, RefusalClass},
    portal::PortalId,
};

/// No offset is longer.
const LONGEST_OFFSET: usize = 128;

/// A whole answer.
pub(super) struct Said {
    pub(super) http: u16,
    pub(super) retry_after: Option<String>,
    pub(super) body: Zeroizing<Vec<u8>>,
}

/// A place in the journal, in HubSpot's own words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offset(String);

impl Offset {
    /// Takes `text` if it can stand in a path: letters, digits, `-`, `_`, `.`.
    #[must_use]
    pub fn parse(text: impl Into<String>) -> Option<Self> {
        let text = text.into();
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let named = text.contains(|c: char| c.is_ascii_alphanumeric());
        let good = named && text.len() <= LONGEST_OFFSET && text.chars().all(plain);
        good.then_some(Self(text))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Where to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// The newest entry.
    Latest,
    /// The oldest one there is.
    Earliest,
    /// The one after this.
    After(Offset),
}

impl Place {
    pub(super) fn path(&self) -> String {
        match self {
            Self::Latest => "/latest".to_owned(),
            Self::Earliest => "/earliest".to_owned(),
            Self::After(offset) => format!("/offset/{}/next", offset.0),
        }
    }
}

/// One entry.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Where it stands.
    pub offset: Offset,
    /// Where what it tells can be fetched; none if that is no place to fetch anything from.
    pub link: Option<Link>,
}

/// The address of a file, which may be signed: it is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Link(Url);

impl Link {
    /// Over TLS, or at HubSpot's own address as configured, which may be on this machine.
    fn parse(text: &str, base_url: &str) -> Option<Self> {
        let url = Url::parse(text).ok()?;
        let own = Url::parse(base_url).is_ok_and(|base| base.origin() == url.origin());
        let bare = url.username().is_empty() && url.password().is_none();
        (bare && url.has_host() && (url.scheme() == "https" || own)).then_some(Self(url))
    }

    pub(super) const fn url(&self) -> &Url {
        &self.0
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Link")
    }
}

/// What is said to have happened to an installation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// The app was installed.
    Installed,
    /// The app was taken out.
    Uninstalled,
}

/// One event of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Happened {
    /// Where.
    pub portal: PortalId,
    /// What.
    pub change: Change,
}

/// Why the journal could not be read, sorted by what follows from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// The client pair is refused.
    AppRefused,
    /// The app may not read the journal, or there is none for it.
    NotEntitled,
    /// The app's token is refused: another one may be taken.
    TokenRefused,
    /// There is nothing at that place, or not any more.
    NotThere,
    /// HubSpot asks to slow down.
    RateLimited(Option<Duration>),
    /// HubSpot or the network has trouble.
    Unanswered,
    /// The answer is none that is known.
    NotUnderstood,
}

impl Trouble {
    /// A word for logs, metrics and remarks.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AppRefused => "app_refused",
            Self::NotEntitled => "not_entitled",
            Self::TokenRefused => "token_refused",
            Self::NotThere => "not_there",
            Self::RateLimited(_) => "rate_limited",
            Self::Unanswered => "unanswered",
            Self::NotUnderstood => "not_understood",
        }
    }

    fn of(said: &Said) -> Self {
        match said.http {
            401 => Self::TokenRefused,
            403 => Self::NotEntitled,
            404 | 410 => Self::NotThere,
            // A success that is none of those expected.
            200..300 => Self::NotUnderstood,
            _ => Self::passing(&classify(said.http, &said.body, said.retry_after.as_deref())),
        }
    }

    fn passing(refusal: &Refusal) -> Self {
        use RefusalClass::{AnswerLost, Migrating, Outage, RateLimited, Unreachable};
        match refusal.class {
            RateLimited => Self::RateLimited(refusal.retry_after),
            Outage | Migrating | Unreachable | AnswerLost => Self::Unanswered,
            _ => Self::NotUnderstood,
        }
    }
}

/// What follows from the token endpoint's refusal to give the app a token of its own.
impl From<&Refusal> for Trouble {
    fn from(refusal: &Refusal) -> Self {
        match refusal.class {
            // RFC 6749 section 5.2: the client is who it says, and may not use this grant.
            RefusalClass::AppRefused if refusal.word == Some(error::UNAUTHORIZED_CLIENT) => {
                Self::NotEntitled
            }
            RefusalClass::AppRefused => Self::AppRefused,
            class if class.is_transient() && class != RefusalClass::Unknown => {
                Self::passing(refusal)
            }
            // A scope it can't have, a grant type it can't use: HubSpot has many words for it.
            _ if refusal.http.is_some_and(|http| (400..500).contains(&http)) => Self::NotEntitled,
            _ => Self::NotUnderstood,
        }
    }
}

pub(super) fn subscribed(said: &Said) -> Result<(), Trouble> {
    match said.http {
        // It was there.
        200 | 201 | 204 | 409 => Ok(()),
        _ => Err(Trouble::of(said)),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct EntryBody {
    url: String,
    current_offset: Value,
}

pub(super) fn entry(said: &Said, place: &Place, base_url: &str) -> Result<Option<Entry>, Trouble> {
    match said.http {
        204 => return Ok(None),
        200 => {}
        _ => return Err(Trouble::of(said)),
    }
    let body: EntryBody = serde_json::from_slice(&said.body).map_err(|_| Trouble::NotUnderstood)?;
    let offset = match body.current_offset {
        Value::String(text) => Offset::parse(text),
        Value::Number(number) => Offset::parse(number.to_string()),
        _ => None,
    };
    // Of one that leads nowhere there would be no end.
    let offset = offset.filter(|offset| *place != Place::After(offset.clone()));
    let offset = offset.ok_or(Trouble::NotUnderstood)?;
    Ok(Some(Entry { offset, link: Link::parse(&body.url, base_url) }))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct FileBody {
    journal_events: Vec<EventBody>,
}

/// An event; every kind that was ever subscribed to stands in the same file.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct EventBody {
    action: Option<Value>,
    event_type_id: Option<Value>,
    portal_id: Option<Value>,
}

impl EventBody {
    fn change(&self) -> Option<Change> {
        let said =
            |member: &Option<Value>, word| member.as_ref().and_then(Value::as_str) == Some(word);
        let is = |action, kind| said(&self.action, action) || said(&self.event_type_id, kind);
        if is(installation::UNINSTALL, installation::UNINSTALLED) {
            return Some(Change::Uninstalled);
        }
        is(installation::INSTALL, installation::INSTALLED).then_some(Change::Installed)
    }

    fn portal(&self) -> Option<PortalId> {
        match self.portal_id.as_ref()? {
            Value::Number(number) => PortalId::new(number.as_u64()?).ok(),
            Value::String(text) => text.parse().ok(),
            _ => None,
        }
    }
}

pub(super) fn file(said: &Said) -> Result<Vec<Happened>, Trouble> {
    match said.http {
        200 => {}
        // The link is all that is shown: it has expired.
        401 | 403 => return Err(Trouble::NotThere),
        _ => return Err(Trouble::of(said)),
    }
    let body: FileBody = serde_json::from_slice(&said.body).map_err(|_| Trouble::NotUnderstood)?;
    let ours = body.journal_events.iter().filter_map(|event| Some((event, event.change()?)));
    ours.map(|(event, change)| {
        let portal = event.portal().ok_or(Trouble::NotUnderstood)?;
        Ok(Happened { portal, change })
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HERE: &str = "http://127.0.0.1:8484";

    fn said(http: u16, body: &str) -> Said {
        let body = Zeroizing::new(body.as_bytes().to_vec());
        Said { http, retry_after: Some("7".to_owned()), body }
    }

    fn id(number: u64) -> PortalId {
        PortalId::new(number).unwrap()
    }

    #[test]
    fn an_entry_names_its_place_and_its_file() {
        let body = r#"{"url":"https://files.example/a?X-Signature=s","expiresAt":"2026-11-24T00:00:00Z","currentOffset":"0199-ab"}"#;
        let entry = entry(&said(200, body), &Place::Earliest, HERE).unwrap().unwrap();
        assert_eq!(entry.offset.as_str(), "0199-ab");
        assert!(entry.link.is_some());
        assert!(!format!("{entry:?}").contains("Signature"), "it may be signed: {entry:?}");
        assert_eq!(Place::After(entry.offset).path(), "/offset/0199-ab/next");
    }

    #[test]
    fn everything_else_at_an_entry_s_place_is_sorted() {
        let rows = [
            (200, "", Trouble::NotUnderstood),
            (200, "[]", Trouble::NotUnderstood),
            (200, r#"{"url":"https://a","currentOffset":""}"#, Trouble::NotUnderstood),
            (200, r#"{"url":"https://a","currentOffset":".."}"#, Trouble::NotUnderstood),
            (200, r#"{"url":"https://a","currentOffset":"a/b"}"#, Trouble::NotUnderstood),
            (200, r#"{"url":"https://a","currentOffset":"5"}"#, Trouble::NotUnderstood),
            (202, "", Trouble::NotUnderstood),
            (302, "", Trouble::NotUnderstood),
            (400, "", Trouble::NotUnderstood),
            (400, r#"{"status":"BAD_REFRESH_TOKEN"}"#, Trouble::NotUnderstood),
            (401, r#"{"category":"EXPIRED_AUTHENTICATION"}"#, Trouble::TokenRefused),
            (403, r#"{"category":"MISSING_SCOPES"}"#, Trouble::NotEntitled),
            (404, "", Trouble::NotThere),
            (410, "<html>", Trouble::NotThere),
            (429, "", Trouble::RateLimited(Some(Duration::from_secs(7)))),
            (477, "", Trouble::Unanswered),
            (500, "", Trouble::Unanswered),
            (503, "<html>", Trouble::Unanswered),
        ];
        let place = Place::After(Offset::parse("5").unwrap());
        for (http, body, trouble) in rows {
            let read = entry(&said(http, body), &place, HERE);
            assert_eq!(read.map(|_| ()).unwrap_err(), trouble, "{http} {body}");
        }
        assert!(entry(&said(204, ""), &place, HERE).unwrap().is_none());
    }

    #[test]
    fn files_are_fetched_over_tls_or_from_where_hubspot_is_configured_to_be() {
        for (url, base, good) in [
            ("https://files.example/a?s=1", "https://api.hubapi.com", true),
            ("http://files.example/a", "https://api.hubapi.com", false),
            ("http://127.0.0.1:8484/a", "https://api.hubapi.com", false),
            ("http://127.0.0.1:8484/a?s=1", HERE, true),
            ("http://127.0.0.1:8485/a", HERE, false),
            ("http://[::1]:8484/a", HERE, false),
            ("https://user:word@files.example/a", HERE, false),
            ("file:///etc/passwd", HERE, false),
            ("data:,a", HERE, false),
            ("/a", HERE, false),
            ("", HERE, false),
        ] {
            assert_eq!(Link::parse(url, base).is_some(), good, "{url} from {base}");
        }
    }

    #[test]
    fn a_file_tells_of_installations_among_whatever_else_there_is() {
        let body = r#"{"offset":"9","publishedAt":"x","journalEvents":[
            {"type":"APP_LIFECYCLE_EVENT","action":"APP_UNINSTALL","portalId":1,"eventTypeId":"4-1916193","properties":{}},
            {"action":"APP_INSTALL","portalId":"2"},
            {"eventTypeId":"4-1916193","portalId":3},
            {"type":"OBJECT","action":"CREATE","portalId":"none","objectId":4},
            {}]}"#;
        let expected = [
            Happened { portal: id(1), change: Change::Uninstalled },
            Happened { portal: id(2), change: Change::Installed },
            Happened { portal: id(3), change: Change::Uninstalled },
        ];
        assert_eq!(file(&said(200, body)).unwrap(), expected);
        assert_eq!(file(&said(200, r#"{"journalEvents":[]}"#)).unwrap(), []);
    }

    #[test]
    fn what_is_no_file_is_sorted_and_never_half_believed() {
        for (http, body, trouble) in [
            (200, "", Trouble::NotUnderstood),
            (200, "{}", Trouble::NotUnderstood),
            (200, r#"{"journalEvents":[{"action":"APP_UNINSTALL"}]}"#, Trouble::NotUnderstood),
            (
                200,
                r#"{"journalEvents":[{"action":"APP_UNINSTALL","portalId":0}]}"#,
                Trouble::NotUnderstood,
            ),
            (200, r#"{"journalEvents":[{"action":"APP_UNINST"#, Trouble::NotUnderstood),
            (302, "", Trouble::NotUnderstood),
            (401, "", Trouble::NotThere),
            (403, "<Error/>", Trouble::NotThere),
            (404, "", Trouble::NotThere),
            (503, "", Trouble::Unanswered),
        ] {
            assert_eq!(file(&said(http, body)).unwrap_err(), trouble, "{http} {body}");
        }
    }

    proptest! {
        #[test]
        fn whatever_bytes_come_nobody_is_named_and_no_place_taken_but_by_words_that_stand_there(
            http in 100_u16..600,
            noise in prop::collection::vec(any::<u8>(), 0..200),
            part in 0_usize..200,
        ) {
            let whole = r#"{"url":"https://a","currentOffset":"7","journalEvents":[{"action":"APP_UNINSTALL","portalId":1}]}"#;
            let cut = whole.as_bytes()[..part.min(whole.len() - 1)].to_vec();
            for body in [noise, cut] {
                let said = Said { http, retry_after: None, body: Zeroizing::new(body) };
                prop_assert!(file(&said).is_err());
                prop_assert!(!matches!(entry(&said, &Place::Latest, HERE), Ok(Some(_))));
            }
        }
    }

    #[test]
    fn a_token_that_the_app_can_t_have_is_told_from_a_pair_that_is_refused() {
        let rows = [
            (
                400,
                r#"{"status":"BAD_CLIENT_SECRET","error":"invalid_client"}"#,
                Trouble::AppRefused,
            ),
            (400, r#"{"error":"unauthorized_client"}"#, Trouble::NotEntitled),
            (400, r#"{"status":"BAD_SCOPES","error":"invalid_scope"}"#, Trouble::NotEntitled),
            (400, r#"{"status":"BAD_GRANT_TYPE"}"#, Trouble::NotEntitled),
            (400, r#"{"error":"invalid_scope"}"#, Trouble::NotEntitled),
            (403, "", Trouble::NotEntitled),
            (404, "", Trouble::NotEntitled),
            (429, "", Trouble::RateLimited(Some(Duration::from_secs(7)))),
            (503, "", Trouble::Unanswered),
            (302, "", Trouble::NotUnderstood),
        ];
        for (http, body, trouble) in rows {
            let refusal = classify(http, body.as_bytes(), Some("7"));
            assert_eq!(Trouble::from(&refusal), trouble, "{http} {body}");
        }
    }
}
