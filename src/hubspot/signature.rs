//! Does a webhook come from HubSpot? Its signatures in all three versions, held against each client secret that may
//! have made them (study `hubspot.md` 5.5). Pure: the time is a parameter, and comparisons take the same time
//! whatever is wrong.

use std::time::Duration;

use aws_lc_rs::{constant_time, digest, hmac};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::{SignedDuration, Timestamp};

use crate::{lifecycle::ClientPair, secret::ClientSecret};

/// A signature of version 3 is good for as long, in both directions.
const WINDOW: Duration = Duration::from_secs(5 * 60);
/// Escapes that are taken out of the URI before it is signed; all others stay (HubSpot's list for version 3).
const UNESCAPED: [(&str, char); 13] = [
    ("%3A", ':'),
    ("%2F", '/'),
    ("%3F", '?'),
    ("%40", '@'),
    ("%21", '!'),
    ("%24", '$'),
    ("%27", '\''),
    ("%28", '('),
    ("%29", ')'),
    ("%2A", '*'),
    ("%2C", ','),
    ("%3B", ';'),
    ("%7E", '~'),
];

/// A request as it came in, as far as it is signed.
#[derive(Debug, Clone, Copy)]
pub struct Webhook<'a> {
    /// `POST`, most of the time.
    pub method: &'a str,
    /// The whole URI as HubSpot called it, scheme and query included.
    pub uri: &'a str,
    /// The body, byte for byte.
    pub body: &'a [u8],
    /// `X-HubSpot-Signature-v3`.
    pub signature_v3: Option<&'a str>,
    /// `X-HubSpot-Request-Timestamp`, milliseconds.
    pub timestamp: Option<&'a str>,
    /// `X-HubSpot-Signature`.
    pub signature: Option<&'a str>,
    /// `X-HubSpot-Signature-Version`; version 1 if it is not there.
    pub version: Option<&'a str>,
}

/// The secrets that HubSpot may sign with: the one in use, and those before and after it during a rotation.
#[derive(Debug, Clone, Default)]
pub struct Signers {
    secrets: Vec<(&'static str, ClientSecret)>,
}

impl Signers {
    /// Those of a client pair.
    #[must_use]
    pub fn of(pair: &ClientPair) -> Self {
        let further = &pair.further;
        let current = Some(("current", pair.client_secret.clone()));
        let next = further.next.clone().map(|secret| ("next", secret));
        let previous = further.previous.clone().map(|secret| ("previous", secret));
        Self { secrets: [current, next, previous].into_iter().flatten().collect() }
    }

    /// Whether there are any.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.secrets.is_empty()
    }
}

/// A signature that fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signed {
    /// `current`, `next` or `previous`.
    pub with: &'static str,
    /// `v1`, `v2` or `v3`.
    pub version: &'static str,
}

/// Why it is not from HubSpot, or not known to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unsigned {
    /// No signature header is there.
    NoSignature,
    /// A version that is not known.
    UnknownVersion,
    /// The timestamp is missing or no number.
    NoTimestamp,
    /// It was signed more than five minutes ago, or will be.
    TooOld,
    /// No secret of ours made it.
    Mismatch,
}

impl Unsigned {
    /// The stable word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoSignature => "no_signature",
            Self::UnknownVersion => "unknown_version",
            Self::NoTimestamp => "no_timestamp",
            Self::TooOld => "too_old",
            Self::Mismatch => "mismatch",
        }
    }
}

/// Which of `signers` signed `webhook`. Where a signature of version 3 is there it alone decides: the others do not say
/// when they were made.
///
/// # Errors
/// None did.
pub fn verify(
    webhook: &Webhook<'_>,
    signers: &Signers,
    now: Timestamp,
) -> Result<Signed, Unsigned> {
    if let Some(signature) = webhook.signature_v3 {
        return verify_v3(webhook, signature, signers, now);
    }
    let signature = webhook.signature.ok_or(Unsigned::NoSignature)?;
    let version = match webhook.version {
        None | Some("v1") => "v1",
        Some("v2") => "v2",
        Some(_) => return Err(Unsigned::UnknownVersion),
    };
    let signature = from_hex(signature).ok_or(Unsigned::Mismatch)?;
    let made = |secret: &ClientSecret| {
        let mut context = digest::Context::new(&digest::SHA256);
        // exposed: into the hash that HubSpot made in the same way
        context.update(secret.expose().as_bytes());
        if version == "v2" {
            context.update(webhook.method.as_bytes());
            context.update(webhook.uri.as_bytes());
        }
        context.update(webhook.body);
        let expected = context.finish();
        constant_time::verify_slices_are_equal(expected.as_ref(), &signature).is_ok()
    };
    by(signers, made).map(|with| Signed { with, version }).ok_or(Unsigned::Mismatch)
}

fn verify_v3(
    webhook: &Webhook<'_>,
    signature: &str,
    signers: &Signers,
    now: Timestamp,
) -> Result<Signed, Unsigned> {
    let text = webhook.timestamp.ok_or(Unsigned::NoTimestamp)?;
    let millis: i64 = text.parse().map_err(|_| Unsigned::NoTimestamp)?;
    let at = Timestamp::from_millisecond(millis).map_err(|_| Unsigned::NoTimestamp)?;
    let window = SignedDuration::try_from(WINDOW).unwrap_or(SignedDuration::ZERO);
    if now.duration_since(at).abs() > window {
        return Err(Unsigned::TooOld);
    }
    let signature = STANDARD.decode(signature).map_err(|_| Unsigned::Mismatch)?;
    let uri = unescaped(webhook.uri);
    let message =
        [webhook.method.as_bytes(), uri.as_bytes(), webhook.body, text.as_bytes()].concat();
    let made = |secret: &ClientSecret| {
        // exposed: into the key of the hash that HubSpot made in the same way
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.expose().as_bytes());
        hmac::verify(&key, &message, &signature).is_ok()
    };
    let with = by(signers, made).ok_or(Unsigned::Mismatch)?;
    Ok(Signed { with, version: "v3" })
}

/// Whose it is. Each is tried, whichever fits.
fn by(signers: &Signers, made: impl Fn(&ClientSecret) -> bool) -> Option<&'static str> {
    let fits = |(name, secret): &(&'static str, ClientSecret)| made(secret).then_some(*name);
    let all: Vec<_> = signers.secrets.iter().map(fits).collect();
    all.into_iter().flatten().next()
}

fn unescaped(uri: &str) -> String {
    UNESCAPED.iter().fold(uri.to_owned(), |uri, (escape, character)| {
        let plain = character.to_string();
        uri.replace(escape, &plain).replace(&escape.to_lowercase(), &plain)
    })
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim().as_bytes();
    if digits.len() != 2 * digest::SHA256_OUTPUT_LEN {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let pair = |pair: &[u8; 2]| u8::try_from(digit(pair[0])? << 4 | digit(pair[1])?).ok();
    digits.as_chunks().0.iter().map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{lifecycle::FurtherSecrets, portal::ClientId};

    /// HubSpot's own example (study `hubspot.md` 5.5).
    const SECRET: &str = "yyyyyyyy-yyyy-yyyy-yyyy-yyyyyyyyyyyy";
    const V2: &str = "eee2dddcc73c94d699f5e395f4b9d454a069a6855fbfa152e91e88823087200e";
    const URI: &str = "https://www.example.com/webhook_uri";
    const NOW: &str = "2026-11-25T12:00:00Z";

    fn signers(current: &str, next: Option<&str>, previous: Option<&str>) -> Signers {
        let secret = |text: &str| ClientSecret::parse(text).unwrap();
        Signers::of(&ClientPair {
            client_id: ClientId::parse("id").unwrap(),
            client_secret: secret(current),
            further: FurtherSecrets {
                next: next.map(secret),
                previous: previous.map(secret),
                ..FurtherSecrets::default()
            },
        })
    }

    fn webhook(body: &[u8]) -> Webhook<'_> {
        Webhook {
            method: "POST",
            uri: URI,
            body,
            signature_v3: None,
            timestamp: None,
            signature: None,
            version: None,
        }
    }

    fn now() -> Timestamp {
        NOW.parse().unwrap()
    }

    fn hex(secret: &str, message: &[u8]) -> String {
        let hash = digest::digest(&digest::SHA256, &[secret.as_bytes(), message].concat());
        hash.as_ref().iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
    }

    fn v3(secret: &str, method: &str, uri: &str, body: &[u8], timestamp: &str) -> String {
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
        let message = [method.as_bytes(), uri.as_bytes(), body, timestamp.as_bytes()].concat();
        STANDARD.encode(hmac::sign(&key, &message))
    }

    #[test]
    fn hubspot_s_published_signature_of_version_2_is_good() {
        let example =
            Webhook { method: "GET", signature: Some(V2), version: Some("v2"), ..webhook(b"") };
        let signed = verify(&example, &signers(SECRET, None, None), now());
        assert_eq!(signed, Ok(Signed { with: "current", version: "v2" }));
        let upper = V2.to_uppercase();
        let other = Webhook { signature: Some(&upper), ..example };
        assert!(verify(&other, &signers(SECRET, None, None), now()).is_ok());
        for wrong in [
            Webhook { method: "POST", ..example },
            Webhook { uri: "https://www.example.com/webhook_uri?", ..example },
            Webhook { body: b" ", ..example },
            Webhook { version: Some("v1"), ..example },
            Webhook { signature: Some(&V2[1..]), ..example },
            Webhook { signature: Some("é"), ..example },
        ] {
            let told = verify(&wrong, &signers(SECRET, None, None), now());
            assert_eq!(told, Err(Unsigned::Mismatch), "{wrong:?}");
        }
    }

    #[test]
    fn hubspot_s_published_signatures_of_bodies_are_good() {
        let events = br#"[{"eventId":1,"subscriptionId":12345,"portalId":62515,"occurredAt":1564113600000,"subscriptionType":"contact.creation","attemptNumber":0,"objectId":123,"changeSource":"CRM","changeFlag":"NEW","appId":54321}]"#;
        for (body, version, signature) in [
            (&events[..], "v1", "232db2615f3d666fe21a8ec971ac7b5402d33b9a925784df3ca654d05f4817de"),
            (
                br#"{"example_field":"example_value"}"#,
                "v2",
                "9569219f8ba981ffa6f6f16aa0f48637d35d728c7e4d93d0d52efaa512af7900",
            ),
        ] {
            let example =
                Webhook { signature: Some(signature), version: Some(version), ..webhook(body) };
            let signed = verify(&example, &signers(SECRET, None, None), now());
            assert_eq!(signed, Ok(Signed { with: "current", version }));
            let cut = Webhook { body: &body[1..], ..example };
            let told = verify(&cut, &signers(SECRET, None, None), now());
            assert_eq!(told, Err(Unsigned::Mismatch));
        }
    }

    #[test]
    fn version_1_is_over_secret_and_body_and_the_default() {
        let body = br#"[{"eventId":1}]"#;
        let signature = hex("s", body);
        for version in [None, Some("v1")] {
            let hook = Webhook { signature: Some(&signature), version, ..webhook(body) };
            let signed = verify(&hook, &signers("s", None, None), now());
            assert_eq!(signed, Ok(Signed { with: "current", version: "v1" }));
        }
        let hook = Webhook { signature: Some(&signature), version: Some("v9"), ..webhook(body) };
        assert_eq!(verify(&hook, &signers("s", None, None), now()), Err(Unsigned::UnknownVersion));
        assert_eq!(
            verify(&webhook(body), &signers("s", None, None), now()),
            Err(Unsigned::NoSignature)
        );
    }

    #[test]
    fn version_3_is_good_for_five_minutes_and_decides_alone() {
        let at = |offset: i64| (now().as_millisecond() + offset * 1000).to_string();
        for (offset, good) in [(0, true), (-299, true), (299, true), (-301, false), (301, false)] {
            let timestamp = at(offset);
            let signature = v3("s", "POST", URI, b"{}", &timestamp);
            let hook = Webhook {
                signature_v3: Some(&signature),
                timestamp: Some(&timestamp),
                ..webhook(b"{}")
            };
            let signed = verify(&hook, &signers("s", None, None), now());
            assert_eq!(signed.is_ok(), good, "{offset}: {signed:?}");
        }
        let (timestamp, v1) = (at(0), hex("s", b"{}"));
        let hook = Webhook {
            signature_v3: Some("AAAA"),
            timestamp: Some(&timestamp),
            signature: Some(&v1),
            ..webhook(b"{}")
        };
        assert_eq!(verify(&hook, &signers("s", None, None), now()), Err(Unsigned::Mismatch));
        for timestamp in [None, Some(""), Some("soon"), Some("99999999999999999999")] {
            let hook = Webhook { timestamp, ..hook };
            assert_eq!(verify(&hook, &signers("s", None, None), now()), Err(Unsigned::NoTimestamp));
        }
    }

    #[test]
    fn version_3_takes_the_listed_escapes_out_of_the_uri_and_no_others() {
        let timestamp = now().as_millisecond().to_string();
        for (called, signed_over) in [
            ("https://a.example/x%2Fy%3fz%7E", "https://a.example/x/y?z~"),
            ("https://a.example/?q=%20%25%3D", "https://a.example/?q=%20%25%3D"),
        ] {
            let signature = v3("s", "POST", signed_over, b"", &timestamp);
            let hook = Webhook {
                uri: called,
                signature_v3: Some(&signature),
                timestamp: Some(&timestamp),
                ..webhook(b"")
            };
            assert!(verify(&hook, &signers("s", None, None), now()).is_ok(), "{called}");
        }
    }

    #[test]
    fn during_a_rotation_each_secret_is_known_by_its_name() {
        let signers = signers("current", Some("next"), Some("previous"));
        for name in ["current", "next", "previous"] {
            let signature = hex(name, b"x");
            let hook = Webhook { signature: Some(&signature), ..webhook(b"x") };
            assert_eq!(verify(&hook, &signers, now()).map(|signed| signed.with), Ok(name));
        }
        let signature = hex("retired", b"x");
        let hook = Webhook { signature: Some(&signature), ..webhook(b"x") };
        assert_eq!(verify(&hook, &signers, now()), Err(Unsigned::Mismatch));
        assert_eq!(verify(&hook, &Signers::default(), now()), Err(Unsigned::Mismatch));
    }
}
