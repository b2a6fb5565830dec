//! Sorts every reply that is not a success: by `status`, then `error`, then HTTP code; never by the
//! message text, which HubSpot has changed before (study `hubspot.md` 3.1 to 3.3).

use std::time::Duration;

use serde::Deserialize;

use super::wire::{self, error, status};
use crate::lifecycle::{Refusal, RefusalClass};

/// The members of an error body that decide anything. Every one may be missing.
#[derive(Debug, Default, Deserialize)]
struct ErrorBody {
    #[serde(default)]
    status: Option<serde_json::Value>,
    #[serde(default)]
    error: Option<serde_json::Value>,
}

/// HubSpot's words that we may repeat in logs and states: a closed list, so that nothing a network
/// sends can end up there.
const WORDS: [(&str, RefusalClass); 17] = [
    (status::BAD_REFRESH_TOKEN, RefusalClass::GrantRefused),
    (status::MISMATCH_REFRESH_TOKEN_CLIENT, RefusalClass::GrantMismatched),
    (status::BAD_HUB, RefusalClass::PortalUnavailable),
    (status::BAD_CLIENT_ID, RefusalClass::AppRefused),
    (status::BAD_CLIENT_SECRET, RefusalClass::AppRefused),
    (status::BAD_GRANT_TYPE, RefusalClass::NotUnderstood),
    // Of codes, never of a refresh token: no grant ends by these.
    (status::BAD_AUTH_CODE, RefusalClass::NotUnderstood),
    (status::EXPIRED_AUTH_CODE, RefusalClass::NotUnderstood),
    (status::BAD_REDIRECT_URI, RefusalClass::NotUnderstood),
    (status::BAD_CODE_VERIFIER, RefusalClass::NotUnderstood),
    (status::BAD_SCOPES, RefusalClass::NotUnderstood),
    (error::INVALID_GRANT, RefusalClass::GrantRefused),
    (error::INVALID_CLIENT, RefusalClass::AppRefused),
    (error::UNAUTHORIZED_CLIENT, RefusalClass::AppRefused),
    (error::ACCESS_DENIED, RefusalClass::PortalUnavailable),
    (error::UNSUPPORTED_GRANT_TYPE, RefusalClass::NotUnderstood),
    (error::INVALID_REQUEST, RefusalClass::NotUnderstood),
];

/// The longest wait taken from a header: a day, as a migration may ask for.
const LONGEST_WAIT: u64 = 24 * 3600;

/// What a reply with this HTTP status, body and `Retry-After` means.
#[must_use]
pub fn classify(http: u16, body: &[u8], retry_after: Option<&str>) -> Refusal {
    let (class, word) = match (by_code(http), by_words(http, body)) {
        (Some(class), _) => (class, None),
        (None, Some((class, word))) => (class, Some(word)),
        (None, None) => (without_words(http), None),
    };
    Refusal { class, http: Some(http), word, retry_after: retry_after.and_then(seconds) }
}

/// Codes that mean the same whatever the body says: an overloaded edge may answer with anything.
const fn by_code(http: u16) -> Option<RefusalClass> {
    match http {
        429 => Some(RefusalClass::RateLimited),
        wire::STATUS_MIGRATING => Some(RefusalClass::Migrating),
        423 | 500.. => Some(RefusalClass::Outage),
        415 => Some(RefusalClass::NotUnderstood),
        _ => None,
    }
}

fn by_words(http: u16, body: &[u8]) -> Option<(RefusalClass, &'static str)> {
    if !(400..500).contains(&http) {
        return None;
    }
    let body: ErrorBody = serde_json::from_slice(body).unwrap_or_default();
    let known = |said: &Option<serde_json::Value>| {
        let said = said.as_ref()?.as_str()?;
        WORDS.iter().find(|(word, _)| *word == said).map(|(word, class)| (*class, *word))
    };
    known(&body.status).or_else(|| known(&body.error))
}

const fn without_words(http: u16) -> RefusalClass {
    match http {
        404 | 410 => RefusalClass::ApiRetired,
        // A 200 that isn't what a token endpoint says: a proxy's page, or an answer cut short.
        200..300 => RefusalClass::AnswerLost,
        _ => RefusalClass::Unknown,
    }
}

/// `Retry-After` in seconds. The date form is not used by HubSpot and counts as absent.
fn seconds(header: &str) -> Option<Duration> {
    let seconds: u64 = header.trim().parse().ok()?;
    Some(Duration::from_secs(seconds.min(LONGEST_WAIT)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::lifecycle::RefusalClass as C;

    #[test]
    fn every_reply_of_the_study_is_sorted() {
        let grant = r#"{"status":"BAD_REFRESH_TOKEN","message":"m","error":"invalid_grant","error_description":"d"}"#;
        let old = r#"{"status":"BAD_REFRESH_TOKEN","message":"missing or invalid refresh token","correlationId":"c"}"#;
        let limited = r#"{"status":"error","message":"You have reached your rate limit.","errorType":"RATE_LIMIT","policyName":"SECONDLY"}"#;
        let rows = [
            (400, grant, C::GrantRefused),
            (400, old, C::GrantRefused),
            (400, r#"{"error":"invalid_grant"}"#, C::GrantRefused),
            (400, r#"{"status":"error","error":"invalid_grant"}"#, C::GrantRefused),
            (400, r#"{"status":"MISMATCH_REFRESH_TOKEN_CLIENT"}"#, C::GrantMismatched),
            (403, r#"{"status":"BAD_HUB","error":"access_denied"}"#, C::PortalUnavailable),
            (400, r#"{"status":"BAD_HUB"}"#, C::PortalUnavailable),
            (400, r#"{"status":"BAD_CLIENT_ID","error":"invalid_request"}"#, C::AppRefused),
            (400, r#"{"status":"BAD_CLIENT_ID","error":"invalid_client"}"#, C::AppRefused),
            (400, r#"{"status":"BAD_CLIENT_SECRET","error":"invalid_client"}"#, C::AppRefused),
            (401, r#"{"error":"invalid_client"}"#, C::AppRefused),
            (400, r#"{"error":"unauthorized_client"}"#, C::AppRefused),
            (400, r#"{"status":"BAD_GRANT_TYPE"}"#, C::NotUnderstood),
            (415, "", C::NotUnderstood),
            (429, limited, C::RateLimited),
            (429, grant, C::RateLimited),
            (423, "", C::Outage),
            (477, "", C::Migrating),
            (500, "", C::Outage),
            (502, "<html>Bad Gateway</html>", C::Outage),
            (503, grant, C::Outage),
            (504, "", C::Outage),
            (521, "<html>", C::Outage),
            (524, "<html>", C::Outage),
            (526, "<html>", C::Outage),
            (404, "", C::ApiRetired),
            (410, "<html>", C::ApiRetired),
            (404, grant, C::GrantRefused),
            (200, "", C::AnswerLost),
            (200, r#"{"access_tok"#, C::AnswerLost),
            (204, "", C::AnswerLost),
            (301, "", C::Unknown),
            (307, grant, C::Unknown),
            (400, "", C::Unknown),
            (400, "null", C::Unknown),
            (400, "[1,2]", C::Unknown),
            (400, r#"{"status":7}"#, C::Unknown),
            (400, r#"{"status":"BAD_TUESDAY"}"#, C::Unknown),
            (400, r#"{"message":"refresh token is invalid, expired or revoked"}"#, C::Unknown),
            (403, "<html>Forbidden by proxy</html>", C::Unknown),
        ];
        for (http, body, class) in rows {
            assert_eq!(classify(http, body.as_bytes(), None).class, class, "{http} {body}");
        }
    }

    #[test]
    fn retry_after_is_taken_in_seconds_and_capped() {
        let wait = |header| classify(429, b"", Some(header)).retry_after.map(|d| d.as_secs());
        assert_eq!(wait("10"), Some(10));
        assert_eq!(wait(" 7 "), Some(7));
        assert_eq!(wait("99999999"), Some(24 * 3600));
        assert_eq!(wait("Wed, 21 Oct 2026 07:28:00 GMT"), None);
        assert_eq!(wait("-1"), None);
    }

    proptest! {
        #[test]
        fn i5_only_hubspot_s_own_words_in_a_4xx_speak_of_a_grant(http in 100_u16..600, body in prop::collection::vec(any::<u8>(), 0..200)) {
            let refusal = classify(http, &body, None);
            let of_grant = matches!(refusal.class, C::GrantRefused | C::GrantMismatched | C::PortalUnavailable | C::AppRefused);
            prop_assert!(!of_grant || refusal.word.is_some());
        }
    }
}
