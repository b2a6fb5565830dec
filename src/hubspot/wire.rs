//! HubSpot's own words: status names, paths, field names. Shared with the stand-in in `sim/`, so
//! that both ends spell them alike. Source: study `hubspot.md` sections 1 to 4.

/// Values of `status` in an error body of the token endpoint (study `hubspot.md` 3.1).
pub mod status {
    /// The refresh token is revoked, its app uninstalled, or it was mangled on the way.
    pub const BAD_REFRESH_TOKEN: &str = "BAD_REFRESH_TOKEN";
    /// The refresh token belongs to another app.
    pub const MISMATCH_REFRESH_TOKEN_CLIENT: &str = "MISMATCH_REFRESH_TOKEN_CLIENT";
    /// The portal is deleted, deactivated or unknown.
    pub const BAD_HUB: &str = "BAD_HUB";
    /// No app has this client id.
    pub const BAD_CLIENT_ID: &str = "BAD_CLIENT_ID";
    /// The client secret is wrong or was rotated.
    pub const BAD_CLIENT_SECRET: &str = "BAD_CLIENT_SECRET";
    /// The body was not a form, or the grant type is not one.
    pub const BAD_GRANT_TYPE: &str = "BAD_GRANT_TYPE";
    /// The authorization code is wrong or used.
    pub const BAD_AUTH_CODE: &str = "BAD_AUTH_CODE";
    /// The authorization code is too old.
    pub const EXPIRED_AUTH_CODE: &str = "EXPIRED_AUTH_CODE";
    /// The redirect URI is not the one the code was given for.
    pub const BAD_REDIRECT_URI: &str = "BAD_REDIRECT_URI";
    /// The PKCE verifier does not fit.
    pub const BAD_CODE_VERIFIER: &str = "BAD_CODE_VERIFIER";
    /// A scope is missing or not allowed.
    pub const BAD_SCOPES: &str = "BAD_SCOPES";
    /// The word beside most errors that have no name of their own.
    pub const ERROR: &str = "error";
}

/// Values of `error`: RFC 6749 section 5.2, as HubSpot uses them.
pub mod error {
    /// The grant (refresh token or code) is refused.
    pub const INVALID_GRANT: &str = "invalid_grant";
    /// The client pair is refused.
    pub const INVALID_CLIENT: &str = "invalid_client";
    /// The client may not do this.
    pub const UNAUTHORIZED_CLIENT: &str = "unauthorized_client";
    /// The request is malformed.
    pub const INVALID_REQUEST: &str = "invalid_request";
    /// The portal is not to be had.
    pub const ACCESS_DENIED: &str = "access_denied";
    /// The grant type is not known.
    pub const UNSUPPORTED_GRANT_TYPE: &str = "unsupported_grant_type";
    /// A scope is missing or can't be had.
    pub const INVALID_SCOPE: &str = "invalid_scope";
}

/// Values of `token_type_hint` and `token_use`.
pub mod token_use {
    /// An access token.
    pub const ACCESS_TOKEN: &str = "access_token";
    /// A refresh token.
    pub const REFRESH_TOKEN: &str = "refresh_token";
    /// A token of the app itself.
    pub const CLIENT_CREDENTIALS: &str = "client_credentials";
}

/// Values of `category` in an error body of an API call (study `hubspot.md` 3.2).
pub mod category {
    /// The access token is past its expiry.
    pub const EXPIRED_AUTHENTICATION: &str = "EXPIRED_AUTHENTICATION";
    /// The access token is missing, malformed or unknown.
    pub const INVALID_AUTHENTICATION: &str = "INVALID_AUTHENTICATION";
    /// The grant lacks a scope that the call needs.
    pub const MISSING_SCOPES: &str = "MISSING_SCOPES";
}

/// Values of `policyName` in the body of a 429 (study `hubspot.md` 4.3).
pub mod policy {
    /// So many a second; the token endpoint's.
    pub const SECONDLY: &str = "SECONDLY";
    /// So many in any ten seconds, for each portal.
    pub const TEN_SECONDLY_ROLLING: &str = "TEN_SECONDLY_ROLLING";
}

/// Values of `grant_type` (study `hubspot.md` 1.2).
pub mod grant_type {
    /// A code for tokens, once.
    pub const AUTHORIZATION_CODE: &str = "authorization_code";
    /// A refresh token for an access token.
    pub const REFRESH_TOKEN: &str = "refresh_token";
    /// The client pair for an app-level token.
    pub const CLIENT_CREDENTIALS: &str = "client_credentials";
}

/// HubSpot's answer while an account moves between data centres (study `hubspot.md` 3.2).
pub const STATUS_MIGRATING: u16 = 477;

/// Scopes of a token of the app itself (study `hubspot.md` 5.3).
pub mod app_scope {
    /// Reading the webhooks journal.
    pub const JOURNAL_READ: &str = "developer.webhooks_journal.read";
    /// Saying what the journal is to tell.
    pub const JOURNAL_SUBSCRIBE: &str = "developer.webhooks_journal.subscriptions.write";
}

/// Words of the webhooks journal about installations (study `hubspot.md` 5.4).
pub mod installation {
    /// The value of `subscriptionType`, and of an event's `type`.
    pub const SUBSCRIPTION: &str = "APP_LIFECYCLE_EVENT";
    /// The `eventTypeId` of an installation.
    pub const INSTALLED: &str = "4-1909196";
    /// The `eventTypeId` of an uninstallation.
    pub const UNINSTALLED: &str = "4-1916193";
    /// An event's `action`: the app was installed.
    pub const INSTALL: &str = "APP_INSTALL";
    /// An event's `action`: the app was taken out.
    pub const UNINSTALL: &str = "APP_UNINSTALL";
}
