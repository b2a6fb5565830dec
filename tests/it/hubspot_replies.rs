//! Every reply of HubSpot's that is known, as it comes over the wire, through the real client: what it
//! is taken for. The replies are files in `tests/fixtures/hubspot`; bodies are those of the study
//! (`hubspot.md` 3.1 to 3.3), with tokens and ids made up.

use std::{collections::BTreeSet, fs, path::PathBuf, sync::Arc, time::Duration};

use grantkeeper::{
    hubspot::{HubSpot, Settings, TokenEndpoint},
    lifecycle::{ClientPair, FurtherSecrets, Granted, Refusal, RefusalClass as Class},
    portal::ClientId,
    secret::{ClientSecret, RefreshToken},
    time::SystemClock,
};

use crate::support::{
    answerer::{Act, Answerer},
    portal,
};

/// More than any answer here takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// File, class, seconds to wait if the reply asks for that.
const REFUSALS: [(&str, Class, Option<u64>); 41] = [
    ("bad-request-cut-off", Class::Unknown, None),
    ("bad-request-empty", Class::Unknown, None),
    ("bad-request-of-tomorrow", Class::Unknown, None),
    ("broken-500", Class::Outage, None),
    ("client-id-refused-as-recorded", Class::AppRefused, None),
    ("client-id-refused-live", Class::AppRefused, None),
    ("client-refused-by-the-standard", Class::AppRefused, None),
    ("client-secret-refused", Class::AppRefused, None),
    ("edge-521", Class::Outage, None),
    ("edge-522", Class::Outage, None),
    ("edge-523", Class::Outage, None),
    ("edge-524", Class::Outage, None),
    ("edge-525", Class::Outage, None),
    ("edge-526", Class::Outage, None),
    ("gateway-502", Class::Outage, None),
    ("gone-404", Class::ApiRetired, None),
    ("gone-410-empty", Class::ApiRetired, None),
    ("grant-mismatched", Class::GrantMismatched, None),
    ("grant-refused-2023", Class::GrantRefused, None),
    ("grant-refused-2026", Class::GrantRefused, None),
    ("grant-refused-by-the-standard", Class::GrantRefused, None),
    ("grant-type-refused", Class::NotUnderstood, None),
    ("limited-429", Class::RateLimited, None),
    ("limited-429-in-words-of-a-grant", Class::RateLimited, None),
    ("limited-429-with-a-wait", Class::RateLimited, Some(10)),
    ("locked-423", Class::Outage, None),
    ("moving-477-for-a-day", Class::Migrating, Some(86_400)),
    ("not-a-form-415", Class::NotUnderstood, None),
    ("portal-gone-2023", Class::PortalUnavailable, None),
    ("portal-gone-2026", Class::PortalUnavailable, None),
    ("proxy-403", Class::Unknown, None),
    ("proxy-407", Class::Unknown, None),
    ("redirect-302", Class::Unknown, None),
    ("success-cut-off", Class::AnswerLost, None),
    ("success-empty", Class::AnswerLost, None),
    ("success-half-the-json", Class::AnswerLost, None),
    ("success-of-a-proxy", Class::AnswerLost, None),
    ("success-without-a-token", Class::AnswerLost, None),
    ("timeout-504", Class::Outage, None),
    ("unavailable-503-cut-off", Class::Outage, None),
    ("unavailable-503-empty", Class::Outage, None),
];

const GRANTED: [&str; 2] = ["granted-2026", "granted-v1"];

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/hubspot")
}

/// The reply as it goes over the wire: lines of the head end as HTTP has it, and its length is what
/// stands there, unless it names another.
fn bytes(name: &str) -> Vec<u8> {
    let text = fs::read_to_string(folder().join(format!("{name}.http"))).unwrap();
    let (head, body) = text.split_once("\n\n").unwrap();
    let body = body.strip_suffix('\n').unwrap_or(body);
    let mut head = head.to_owned();
    if !head.contains("Content-Length") {
        head = format!("{head}\nContent-Length: {}", body.len());
    }
    format!("{}\r\n\r\n{body}", head.replace('\n', "\r\n")).into_bytes()
}

pub(crate) fn pair() -> ClientPair {
    ClientPair {
        client_id: ClientId::parse("fixture-client-id").unwrap(),
        client_secret: ClientSecret::parse("fixture-client-secret").unwrap(),
        further: FurtherSecrets::default(),
    }
}

pub(crate) fn spent() -> RefreshToken {
    RefreshToken::parse("fixture-spent-token").unwrap()
}

/// The real client, talking to whoever listens there.
pub(crate) fn client(base_url: String) -> HubSpot {
    let settings = Settings { base_url, ..Settings::default() };
    HubSpot::new(settings, Arc::new(SystemClock)).unwrap()
}

/// What a refresh comes to when this is the answer.
async fn refreshed(name: &str) -> Result<Granted, Refusal> {
    let answerer = Answerer::plain(vec![Act::SayAndClose(bytes(name))]).await;
    let result =
        client(format!("http://{}", answerer.authority)).refresh(&pair(), &spent(), PATIENCE).await;
    let requests = answerer.requests();
    assert_eq!(requests.len(), 1, "{name}: {requests:?}");
    assert!(requests[0].contains("refresh_token=fixture-spent-token"), "{name}: {requests:?}");
    result
}

#[tokio::test]
async fn every_reply_on_file_is_taken_for_what_it_is() {
    for (name, class, wait) in REFUSALS {
        let refusal = refreshed(name).await.expect_err(name);
        assert_eq!(refusal.class, class, "{name}: {refusal:?}");
        assert_eq!(refusal.retry_after, wait.map(Duration::from_secs), "{name}: {refusal:?}");
    }
    for name in GRANTED {
        let granted = refreshed(name).await.expect(name);
        assert_eq!(granted.expires_in, Duration::from_secs(1800), "{name}");
        assert_eq!(granted.refresh_token.unwrap().expose(), "fixture-refresh-token", "{name}");
        assert!(granted.portal.is_none_or(|id| id == portal(62_515)), "{name}");
        assert_eq!(granted.portal.is_some(), name == "granted-2026");
    }
}

#[tokio::test]
async fn a_question_about_a_grant_is_refused_for_the_same_reasons_as_its_use() {
    for (name, class, wait) in REFUSALS.iter().filter(|(name, ..)| !name.starts_with("success")) {
        let answerer = Answerer::plain(vec![Act::SayAndClose(bytes(name))]).await;
        let client = client(format!("http://{}", answerer.authority));
        let refusal = client.introspect(&pair(), &spent()).await.expect_err(name);
        assert_eq!(refusal.class, *class, "{name}: {refusal:?}");
        assert_eq!(refusal.retry_after, wait.map(Duration::from_secs), "{name}: {refusal:?}");
    }
}

#[test]
fn every_file_is_a_claim_and_every_claim_has_its_file() {
    let files = fs::read_dir(folder()).unwrap().map(|entry| {
        let name = entry.unwrap().file_name().into_string().unwrap();
        name.strip_suffix(".http").unwrap_or_else(|| panic!("{name} is no reply")).to_owned()
    });
    let claimed = REFUSALS.iter().map(|(name, ..)| *name).chain(GRANTED).map(str::to_owned);
    assert_eq!(files.collect::<BTreeSet<_>>(), claimed.collect::<BTreeSet<_>>());
}
