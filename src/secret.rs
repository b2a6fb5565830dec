//! How secret text is held, wiped, compared and fingerprinted, and refused to be shown.
//! Knows nothing of where secrets come from or go to.
//!
//! There is one door out of each type, [`expose`](RefreshToken::expose): every use of that word is
//! a place where secret bytes leave. None of the types can be displayed, serialised or compared
//! with `==`.

pub mod file;

use std::fmt;

use aws_lc_rs::{constant_time, digest};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Why a piece of text can't be the secret it is said to be. Never holds the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MalformedSecret {
    /// Nothing there.
    #[error("it is empty")]
    Empty,
    /// A line break, as an editor or `echo` leaves behind.
    #[error("it contains a line break")]
    LineBreak,
    /// A blank, a control character, or anything outside printable ASCII.
    #[error("it contains a blank or a character that can't be part of a credential")]
    Unprintable,
    /// Quotation marks that came along from a JSON or shell source.
    #[error("it is wrapped in quotation marks")]
    Quoted,
}

fn check(text: &str) -> Result<(), MalformedSecret> {
    if text.is_empty() {
        return Err(MalformedSecret::Empty);
    }
    if text.contains(['\n', '\r']) {
        return Err(MalformedSecret::LineBreak);
    }
    if text.chars().any(|c| !c.is_ascii_graphic()) {
        return Err(MalformedSecret::Unprintable);
    }
    let quoted = |q: char| text.len() > 1 && text.starts_with(q) && text.ends_with(q);
    if quoted('"') || quoted('\'') {
        return Err(MalformedSecret::Quoted);
    }
    Ok(())
}

/// Twelve hexadecimal digits that name a secret without telling it: the start of its SHA-256.
///
/// Credentials here are random values of over 100 bits, so a digest can't be searched.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fingerprint([u8; 6]);

impl Fingerprint {
    pub(crate) fn of(text: &str) -> Self {
        let full = digest::digest(&digest::SHA256, text.as_bytes());
        let mut short = [0; 6];
        short.copy_from_slice(&full.as_ref()[..6]);
        Self(short)
    }
}

impl Fingerprint {
    /// The first four bytes, as a number: enough to spread things evenly.
    pub(crate) const fn leading(self) -> u32 {
        let [a, b, c, d, ..] = self.0;
        u32::from_be_bytes([a, b, c, d])
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = self.0.iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
        write!(f, "{number:012x}")
    }
}

impl Serialize for Fingerprint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Fingerprint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let digits = text.len() == 12 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        match u64::from_str_radix(&text, 16) {
            Ok(number) if digits => {
                let [_, _, bytes @ ..] = number.to_be_bytes();
                Ok(Self(bytes))
            }
            _ => Err(de::Error::custom("a fingerprint is twelve hexadecimal digits")),
        }
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{self}")
    }
}

macro_rules! secret {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone)]
        pub struct $name(SecretString);

        impl $name {
            /// Takes ownership of `text` if it can be such a secret: not empty, printable ASCII
            /// without blanks, not wrapped in quotation marks. No pattern beyond that: HubSpot has
            /// changed its token shapes before (study `hubspot.md` 1.9).
            ///
            /// # Errors
            /// Says what is wrong with the text, never the text.
            pub fn parse(text: impl Into<String>) -> Result<Self, MalformedSecret> {
                let text = SecretString::from(text.into());
                check(text.expose_secret())?;
                Ok(Self(text))
            }

            /// The text itself. Each caller says where the bytes go.
            #[must_use]
            pub fn expose(&self) -> &str {
                self.0.expose_secret()
            }

            /// A name for this value that is safe in logs and in an `ETag`.
            #[must_use]
            pub fn fingerprint(&self) -> Fingerprint {
                Fingerprint::of(self.expose())
            }

            /// Whether both hold the same text, in time that does not depend on where they differ.
            #[must_use]
            pub fn same_as(&self, other: &Self) -> bool {
                constant_time::verify_slices_are_equal(
                    self.expose().as_bytes(),
                    other.expose().as_bytes(),
                )
                .is_ok()
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:?})"), self.fingerprint())
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = SecretString::deserialize(deserializer)?;
                check(text.expose_secret()).map_err(de::Error::custom)?;
                Ok(Self(text))
            }
        }
    };
}

secret! {
    /// The app's client secret: proves the app to HubSpot and signs its webhooks.
    ClientSecret
}
secret! {
    /// What a customer's consent gave the app: access tokens are made from it.
    RefreshToken
}
secret! {
    /// A bearer token for one portal's API, good for about half an hour.
    AccessToken
}
secret! {
    /// What HubSpot's consent page gives for a grant, once, within minutes.
    AuthorizationCode
}
secret! {
    /// What proves that whoever exchanges a code also asked for it (RFC 7636).
    CodeVerifier
}
secret! {
    /// The key that signs alert webhooks (Standard Webhooks, `whsec_…`).
    SigningSecret
}
secret! {
    /// A credential towards the secret store: a Vault token or an AppRole secret id.
    StoreCredential
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_that_editors_and_shells_mangle_is_refused_with_the_reason() {
        for (text, why) in [
            ("", MalformedSecret::Empty),
            ("abc\n", MalformedSecret::LineBreak),
            ("abc\r\n", MalformedSecret::LineBreak),
            ("a b", MalformedSecret::Unprintable),
            ("a\tb", MalformedSecret::Unprintable),
            ("schlüssel", MalformedSecret::Unprintable),
            ("\"abc\"", MalformedSecret::Quoted),
            ("'abc'", MalformedSecret::Quoted),
        ] {
            assert_eq!(RefreshToken::parse(text).unwrap_err(), why, "{text:?}");
        }
        assert!(RefreshToken::parse("na1-3f2e-77").is_ok());
    }

    #[test]
    fn i10_debug_tells_a_fingerprint_and_nothing_else() {
        let token = AccessToken::parse("CANARY-access").unwrap();
        let shown = format!("{token:?}");
        assert!(shown.starts_with("AccessToken(#"), "{shown}");
        assert!(!shown.contains("CANARY"), "{shown}");
    }

    #[test]
    fn equality_is_asked_for_by_name_and_is_about_the_text() {
        let a = ClientSecret::parse("one").unwrap();
        assert!(a.same_as(&ClientSecret::parse("one").unwrap()));
        assert!(!a.same_as(&ClientSecret::parse("two").unwrap()));
        assert!(!a.same_as(&ClientSecret::parse("one-longer").unwrap()));
    }

    #[test]
    fn i10_a_malformed_secret_in_json_is_refused_without_being_echoed() {
        let error = serde_json::from_str::<RefreshToken>("\"CANARY token\"").unwrap_err();
        assert!(!error.to_string().contains("CANARY"), "{error}");
    }
}
