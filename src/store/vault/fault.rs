//! What vaultrs says went wrong, sorted, with everything that could hold a secret left behind and
//! wiped. Knows status codes and Vault's own words; nothing of records or logins.

use std::error::Error;

use rustify::errors::ClientError as EndpointError;
use serde::Deserialize;
use vaultrs::error::ClientError;
use zeroize::Zeroize;

use crate::store::{StoreError, StoreErrorKind};

/// A call that failed, in the terms a decision needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// The server answered with this status.
    Answer {
        status: u16,
        reason: Reason,
        /// The number of a version that was deleted or destroyed, in a 404 of KV version 2.
        deleted: Option<u64>,
    },
    /// No connection.
    Refused,
    /// No host of that name.
    NoHost,
    /// The other end does not speak TLS.
    NoTls,
    /// The server's certificate is not trusted.
    Untrusted,
    /// The server's certificate has expired.
    Expired,
    /// No answer in time.
    TimedOut,
    /// The connection broke.
    Broken,
    /// An answer that is not Vault's.
    Unreadable,
}

/// What the words of an error answer mean, where the status alone does not tell (study
/// `backends.md` 1.5). The words themselves stay behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    CheckAndSet,
    NoRoute,
    NoNamespace,
    Upgrading,
    Other,
}

impl Reason {
    fn of(texts: &[String]) -> Self {
        let said = |words: &str| texts.iter().any(|text| text.contains(words));
        if said("check-and-set parameter did not match") {
            Self::CheckAndSet
        } else if said("no handler for route") || said("unsupported path") {
            Self::NoRoute
        } else if said("namespace not found") {
            Self::NoNamespace
        } else if said("from non-versioned") {
            Self::Upgrading
        } else {
            Self::Other
        }
    }
}

impl Fault {
    pub(super) const fn status(self) -> Option<u16> {
        match self {
            Self::Answer { status, .. } => Some(status),
            _ => None,
        }
    }

    pub(super) const fn is_forbidden(self) -> bool {
        matches!(self.status(), Some(403))
    }

    /// Whether the server has no such call.
    pub(super) const fn is_unsupported(self) -> bool {
        matches!(self.status(), Some(405 | 501))
            || matches!(self, Self::Answer { reason: Reason::NoRoute, .. })
    }

    pub(super) const fn is_conflict(self) -> bool {
        matches!(self, Self::Answer { status: 400, reason: Reason::CheckAndSet, .. })
    }

    /// Whether it says that there is no such record: never written, deleted or destroyed.
    pub(super) const fn is_missing(self) -> bool {
        matches!(self, Self::Answer { status: 404, reason: Reason::Other, .. })
    }

    /// From the failure of a request that was sent without vaultrs.
    pub(super) fn of_request(error: &reqwest::Error) -> Self {
        if error.is_timeout() {
            return Self::TimedOut;
        }
        // The TLS library's error type is not ours to name; its words decide, and are not shown.
        let mut cause = error.source();
        let (mut untrusted, mut expired, mut no_host, mut no_tls) = (false, false, false, false);
        while let Some(inner) = cause {
            let words = inner.to_string();
            untrusted |= words.contains("certificate");
            expired |= words.contains("certificate expired");
            no_host |= words.contains("dns error") || words.contains("lookup address");
            no_tls |= words.contains("InvalidContentType") || words.contains("corrupt message");
            cause = inner.source();
        }
        if expired {
            return Self::Expired;
        }
        if no_host {
            return Self::NoHost;
        }
        if no_tls {
            return Self::NoTls;
        }
        match (untrusted, error.is_connect()) {
            (true, _) => Self::Untrusted,
            (false, true) => Self::Refused,
            (false, false) => Self::Broken,
        }
    }

    /// From an answer with an error status to a request that was sent without vaultrs.
    pub(super) fn of_answer(status: u16, body: &[u8]) -> Self {
        let texts = serde_json::from_slice(body).map(|Errors { errors }| errors);
        let reason = texts.map_or(Reason::Other, |texts| Reason::of(&texts));
        Self::Answer { status, reason, deleted: None }
    }
}

#[derive(Deserialize)]
struct Errors {
    errors: Vec<String>,
}

/// The body of a 404 for a deleted version: it has the shape of a success.
#[derive(Deserialize)]
struct Deleted {
    data: DeletedData,
}

#[derive(Deserialize)]
struct DeletedData {
    metadata: DeletedVersion,
}

#[derive(Deserialize)]
struct DeletedVersion {
    version: u64,
}

impl From<ClientError> for Fault {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::APIError { code, errors } => {
                Self::Answer { status: code, reason: Reason::of(&errors), deleted: None }
            }
            ClientError::RestClientError { source } => source.into(),
            // Of these, `JsonParseError` quotes the value that did not fit: dropped unread.
            _ => Self::Unreadable,
        }
    }
}

impl From<EndpointError> for Fault {
    fn from(error: EndpointError) -> Self {
        match error {
            EndpointError::RequestError { source, .. }
            | EndpointError::ResponseError { source } => {
                source.downcast_ref::<reqwest::Error>().map_or(Self::Broken, Self::of_request)
            }
            EndpointError::ServerResponseError { code, content } => {
                let deleted = content
                    .as_deref()
                    .and_then(|body| serde_json::from_str::<Deleted>(body).ok())
                    .map(|body| body.data.metadata.version);
                wipe(content);
                Self::Answer { status: code, reason: Reason::Other, deleted }
            }
            // The body that could not be parsed may hold the secret.
            EndpointError::ResponseParseError { content, .. } => {
                wipe(content);
                Self::Unreadable
            }
            EndpointError::ResponseConversionError { mut content, .. } => {
                content.zeroize();
                Self::Unreadable
            }
            _ => Self::Unreadable,
        }
    }
}

fn wipe(content: Option<String>) {
    if let Some(mut content) = content {
        content.zeroize();
    }
}

/// What a caller wanted, for messages: `doing` is a phrase such as "reading `portals/7`", `rule` the
/// line of a Vault policy that would allow it.
#[derive(Debug)]
pub(super) struct Asked<'a> {
    pub(super) doing: String,
    pub(super) rule: String,
    pub(super) mount: &'a str,
}

impl Asked<'_> {
    /// The fault in our own words.
    pub(super) fn explain(&self, fault: Fault) -> StoreError {
        let mount = self.mount;
        let (kind, why, hint) = match fault {
            Fault::Answer { status, reason, .. } => return self.explain_answer(status, reason),
            Fault::NoHost => (
                StoreErrorKind::Unreachable,
                "no connection to the Vault server: there is no host of that name".to_owned(),
                "See that `store.vault.address` is right, and that this machine can look names up.".to_owned(),
            ),
            Fault::NoTls => (
                StoreErrorKind::Unreachable,
                "no connection to the Vault server: what answers there does not speak TLS".to_owned(),
                "Let `store.vault.address` begin with http:// only on this machine; else see which port speaks TLS."
                    .to_owned(),
            ),
            Fault::Refused => (
                StoreErrorKind::Unreachable,
                "no connection to the Vault server".to_owned(),
                "See that the server runs and that `store.vault.address` names it.".to_owned(),
            ),
            Fault::Untrusted => (
                StoreErrorKind::Misconfigured,
                "the Vault server's certificate is not trusted".to_owned(),
                "Let `store.vault.ca_file` name the CA that signed it (a certificate that signs itself will do only if it is no CA's), and the address the host it is for."
                    .to_owned(),
            ),
            Fault::Expired => (
                StoreErrorKind::Unreachable,
                "the Vault server's certificate has expired".to_owned(),
                "Renew it at the server; and see that this machine's clock is right.".to_owned(),
            ),
            Fault::TimedOut => (
                StoreErrorKind::Unreachable,
                "the Vault server did not answer in time".to_owned(),
                "See whether the server is overloaded or a firewall swallows the packets.".to_owned(),
            ),
            Fault::Broken => (
                StoreErrorKind::Unreachable,
                "the connection to the Vault server broke".to_owned(),
                "See the server's log, and any proxy on the way.".to_owned(),
            ),
            Fault::Unreadable => (
                StoreErrorKind::Misconfigured,
                "the answer is not one a Vault server gives".to_owned(),
                format!("See that the address names a Vault server and `{mount}` a KV version 2 mount."),
            ),
        };
        self.error(kind, &why, hint)
    }

    fn explain_answer(&self, status: u16, reason: Reason) -> StoreError {
        let mount = self.mount;
        let (kind, why, hint) = match (status, reason) {
            (_, Reason::CheckAndSet) => (
                StoreErrorKind::Conflict,
                "somebody else changed the record".to_owned(),
                "Read it again and decide anew.".to_owned(),
            ),
            (_, Reason::NoNamespace) => (
                StoreErrorKind::Misconfigured,
                "the Vault server has no such namespace".to_owned(),
                "Correct `store.vault.namespace`, or create the namespace.".to_owned(),
            ),
            (_, Reason::NoRoute) => return self.no_mount(),
            (_, Reason::Upgrading) => (
                StoreErrorKind::Unreachable,
                format!("the mount `{mount}` is just being upgraded to KV version 2"),
                "It passes by itself in a moment.".to_owned(),
            ),
            (404, Reason::Other) => (
                StoreErrorKind::Missing,
                "there is no such record".to_owned(),
                "See that `prefix` is right; else store it: `grantkeeper app set` for the app, `grantkeeper enroll` for a portal.".to_owned(),
            ),
            (401 | 403, _) => return self.denied(),
            (429, _) => (
                StoreErrorKind::Unreachable,
                "the Vault server's rate-limit quota is used up (429)".to_owned(),
                "It passes by itself; raise the quota on this mount if it comes back.".to_owned(),
            ),
            (503, _) => (
                StoreErrorKind::Unreachable,
                "the Vault server is sealed or not ready (503)".to_owned(),
                "Unseal it: a service that runs goes on by itself; run a command again.".to_owned(),
            ),
            (300..=399, _) => (
                StoreErrorKind::Unreachable,
                format!("the Vault server redirects elsewhere ({status}), which is not followed"),
                "Let the address name the active node, or let standby nodes forward requests."
                    .to_owned(),
            ),
            (412 | 472 | 473 | 500..=599, _) => (
                StoreErrorKind::Unreachable,
                format!("the Vault server has trouble of its own ({status})"),
                "See its log; a full audit disk answers so.".to_owned(),
            ),
            _ => (
                StoreErrorKind::Misconfigured,
                format!("the Vault server does not accept the request ({status})"),
                format!("See that `{mount}` is a KV version 2 mount, and the server's log."),
            ),
        };
        self.error(kind, &why, hint)
    }

    /// The token lives and its policies say no.
    fn denied(&self) -> StoreError {
        let hint = format!("Add to the policy of this login: {}", self.rule);
        self.error(StoreErrorKind::Denied, "the Vault policy does not allow it", hint)
    }

    /// There is nothing where the KV mount should be.
    pub(super) fn no_mount(&self) -> StoreError {
        let mount = self.mount;
        self.error(
            StoreErrorKind::Misconfigured,
            &format!("the Vault server has no mount `{mount}`"),
            format!(
                "Correct `store.vault.mount`, or make it: `vault secrets enable -path={mount} -version=2 kv`."
            ),
        )
    }

    /// The server tells a missing mount and a missing right to it apart from nothing.
    pub(super) fn no_mount_or_no_right(&self) -> StoreError {
        let mount = self.mount;
        let hint = format!(
            "See that `store.vault.mount` names a KV version 2 mount, and that the policies of this login allow something below `{mount}/`, such as: {}",
            self.rule
        );
        let why = "the Vault server has no such mount, or no policy of this login reaches into it";
        self.error(StoreErrorKind::Denied, why, hint)
    }

    fn error(&self, kind: StoreErrorKind, why: &str, hint: String) -> StoreError {
        StoreError::new(kind, format!("{} failed: {why}", self.doing), hint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASKED: fn() -> Asked<'static> = || Asked {
        doing: "reading `portals/7`".to_owned(),
        rule: "path \"secret/data/p/*\" { capabilities = [\"read\"] }".to_owned(),
        mount: "secret",
    };

    #[test]
    fn answers_are_sorted_by_status_and_by_the_few_words_that_matter() {
        for (status, words, kind) in [
            (400, "check-and-set parameter did not match the current version", "conflict"),
            (404, "", "missing"),
            (404, "no handler for route \"x/data/y\". route entry not found.", "misconfigured"),
            (404, "namespace not found", "misconfigured"),
            (403, "permission denied", "denied"),
            (429, "request path \"secret/data/x\": rate limit quota exceeded", "unreachable"),
            (503, "Vault is sealed", "unreachable"),
            (500, "internal error", "unreachable"),
            (307, "", "unreachable"),
            (400, "Upgrading from non-versioned to versioned data.", "unreachable"),
            (400, "invalid request", "misconfigured"),
        ] {
            let body = serde_json::json!({ "errors": [words] }).to_string();
            let error = ASKED().explain(Fault::of_answer(status, body.as_bytes()));
            assert_eq!(error.kind.as_str(), kind, "{status} {words}: {error}");
            assert!(error.what.starts_with("reading `portals/7` failed: "), "{error}");
            assert!(error.hint.ends_with(['.', '}']), "{}", error.hint);
        }
    }

    #[test]
    fn i10_a_body_that_does_not_parse_leaves_no_trace() {
        let source = EndpointError::ServerResponseError {
            code: 404,
            content: Some(r#"{"data":{"data":"CANARY","metadata":{"version":3}}}"#.to_owned()),
        };
        let fault = Fault::from(ClientError::from(source));
        assert_eq!(fault, Fault::Answer { status: 404, reason: Reason::Other, deleted: Some(3) });
        assert!(!format!("{fault:?} {:?}", ASKED().explain(fault)).contains("CANARY"));
    }
}
