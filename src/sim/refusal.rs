//! The token endpoint's refusals: HubSpot's word, HTTP status and text of each (study `hubspot.md`
//! 3.1). Knows no HTTP body and does not decide which one applies.

use serde::{Deserialize, Serialize};

use crate::hubspot::wire::{error, status};

/// Why the token endpoint says no. Written as HubSpot's `status` word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Refusal {
    /// No app has this client id.
    BadClientId,
    /// The client secret is wrong, or no longer honoured.
    BadClientSecret,
    /// The grant type is missing or not one.
    BadGrantType,
    /// The refresh token is unknown, replaced, revoked, or its app uninstalled.
    BadRefreshToken,
    /// The refresh token belongs to another app.
    MismatchRefreshTokenClient,
    /// The portal is deleted.
    BadHub,
    /// The code is unknown or used.
    BadAuthCode,
    /// The code is too old.
    ExpiredAuthCode,
    /// The redirect URI is not the one the code was given for.
    BadRedirectUri,
    /// The PKCE verifier does not fit the challenge.
    BadCodeVerifier,
    /// A scope is missing or can't be had.
    BadScopes,
}

impl Refusal {
    /// HubSpot's word, the member `status`.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::BadClientId => status::BAD_CLIENT_ID,
            Self::BadClientSecret => status::BAD_CLIENT_SECRET,
            Self::BadGrantType => status::BAD_GRANT_TYPE,
            Self::BadRefreshToken => status::BAD_REFRESH_TOKEN,
            Self::MismatchRefreshTokenClient => status::MISMATCH_REFRESH_TOKEN_CLIENT,
            Self::BadHub => status::BAD_HUB,
            Self::BadAuthCode => status::BAD_AUTH_CODE,
            Self::ExpiredAuthCode => status::EXPIRED_AUTH_CODE,
            Self::BadRedirectUri => status::BAD_REDIRECT_URI,
            Self::BadCodeVerifier => status::BAD_CODE_VERIFIER,
            Self::BadScopes => status::BAD_SCOPES,
        }
    }

    /// The member `error`. Where reports disagree, the newer one.
    #[must_use]
    pub const fn error(self) -> &'static str {
        match self {
            Self::BadClientId => error::INVALID_REQUEST,
            Self::BadClientSecret => error::INVALID_CLIENT,
            Self::BadGrantType => error::UNSUPPORTED_GRANT_TYPE,
            Self::BadHub => error::ACCESS_DENIED,
            Self::BadScopes => error::INVALID_SCOPE,
            Self::BadRefreshToken
            | Self::MismatchRefreshTokenClient
            | Self::BadAuthCode
            | Self::ExpiredAuthCode
            | Self::BadRedirectUri
            | Self::BadCodeVerifier => error::INVALID_GRANT,
        }
    }

    /// The members `message` and `error_description`.
    #[must_use]
    pub const fn message(self) -> &'static str {
        match self {
            Self::BadClientId => "missing or unknown client id",
            Self::BadClientSecret => "missing or invalid client secret",
            Self::BadGrantType => "missing or unknown grant type",
            Self::BadRefreshToken => "refresh token is invalid, expired or revoked",
            Self::MismatchRefreshTokenClient => "refresh token was not issued to this client",
            Self::BadHub => "missing or unknown hub id",
            Self::BadAuthCode => "missing or unknown auth code",
            Self::ExpiredAuthCode => "auth code is expired",
            Self::BadRedirectUri => "redirect uri does not match the auth code",
            Self::BadCodeVerifier => "missing or invalid code verifier",
            Self::BadScopes => "missing or unknown scopes",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_written_in_a_scenario_as_the_word_hubspot_uses() {
        for refusal in [
            Refusal::BadClientId,
            Refusal::BadClientSecret,
            Refusal::BadGrantType,
            Refusal::BadRefreshToken,
            Refusal::MismatchRefreshTokenClient,
            Refusal::BadHub,
            Refusal::BadAuthCode,
            Refusal::ExpiredAuthCode,
            Refusal::BadRedirectUri,
            Refusal::BadCodeVerifier,
            Refusal::BadScopes,
        ] {
            let written = serde_json::to_value(refusal).unwrap();
            assert_eq!(written, refusal.word(), "{refusal:?}");
        }
    }
}
