//! The HTTP client that vaultrs is made to use, and the credential files read on the way in. Knows
//! addresses, certificates and files; nothing of records or leases.

use std::{
    io, mem,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use reqwest::{Certificate, Url, header::HeaderValue, redirect};
use rustify::clients::reqwest::Client as EndpointClient;
use serde_json::Value;
use vaultrs::{
    api::EndpointMiddleware,
    client::{VaultClient, VaultClientSettings},
};
use zeroize::{Zeroize, Zeroizing};

use super::{Settings, fault::Fault};
use crate::{
    secret::{
        self, MalformedSecret, StoreCredential,
        file::{OpenToOthers, SecretFileError},
    },
    store::{StoreError, StoreErrorKind},
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const TOTAL_TIMEOUT: Duration = Duration::from_secs(8);
/// A CA bundle of every public root is a quarter of this; a credential a thousandth.
const FILE_LIMIT: u64 = 1 << 20;

/// One connection pool to one server, and the way to speak through it with any token.
#[derive(Debug)]
pub(super) struct Connection {
    http: ArcSwap<reqwest::Client>,
    pub(super) address: Url,
    namespace: Option<String>,
    ca_file: Option<PathBuf>,
    identity: Option<Identity>,
}

impl Connection {
    pub(super) fn new(settings: &Settings) -> Result<Self, StoreError> {
        let address = parse_address(&settings.address)?;
        if let Some(namespace) = &settings.namespace
            && (namespace.is_empty() || HeaderValue::from_str(namespace).is_err())
        {
            return Err(misconfigured(
                "the Vault namespace can't be sent in a header",
                "Write the namespace as plain text, such as `team-a`.",
            ));
        }
        let Settings { ca_file, identity, namespace, .. } = settings.clone();
        let http = http(&address, ca_file.as_deref(), identity.as_ref())?;
        Ok(Self { http: ArcSwap::from_pointee(http), address, namespace, ca_file, identity })
    }

    /// Reads the client certificate and the CA again: they are renewed beside a running service.
    pub(super) fn read_files_again(&self) -> Result<(), StoreError> {
        if self.identity.is_some() || self.ca_file.is_some() {
            let new = http(&self.address, self.ca_file.as_deref(), self.identity.as_ref())?;
            self.http.store(Arc::new(new));
        }
        Ok(())
    }

    /// Asks what vaultrs has no words for: a GET, or a POST of `body`.
    pub(super) async fn ask(
        &self,
        speaker: &Speaker,
        path: &str,
        body: Option<Value>,
    ) -> Result<Value, Fault> {
        let VaultClient { http, middle, .. } = &speaker.0;
        let mut url = self.address.clone();
        let (path, query) =
            path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
        url.set_path(&format!("v1/{path}"));
        url.set_query(query);
        let request = match body {
            None => http.http.get(url),
            Some(body) => http.http.post(url).json(&body),
        };
        let mut request = request.header("X-Vault-Request", "true");
        if !middle.token.is_empty() {
            // exposed: into the header of a request to the Vault server
            request = request.header("X-Vault-Token", &middle.token);
        }
        if let Some(namespace) = &middle.namespace {
            request = request.header("X-Vault-Namespace", namespace);
        }
        let answer = request.send().await.map_err(|error| Fault::of_request(&error))?;
        let status = answer.status();
        let body = answer.bytes().await.map_err(|error| Fault::of_request(&error))?;
        if !status.is_success() {
            return Err(Fault::of_answer(status.as_u16(), &body));
        }
        serde_json::from_slice(&body).map_err(|_| Fault::Unreadable)
    }

    /// The vaultrs client that sends `token`, or none. Built by hand: vaultrs' own builder reads a
    /// dozen variables of the environment, one of which turns certificate checks off.
    pub(super) fn speak(&self, token: Option<&StoreCredential>) -> Speaker {
        // exposed: into the header of each request to the Vault server
        let token = || token.map_or_else(String::new, |token| token.expose().to_owned());
        Speaker(VaultClient {
            http: EndpointClient::new(self.address.as_str(), self.http.load().as_ref().clone()),
            middle: EndpointMiddleware {
                token: token(),
                version: String::from("v1"),
                wrap: None,
                namespace: self.namespace.clone(),
            },
            settings: VaultClientSettings {
                address: self.address.clone(),
                ca_certs: Vec::new(),
                identity: None,
                timeout: Some(TOTAL_TIMEOUT),
                token: String::new(),
                verify: true,
                version: 1,
                wrapping: false,
                namespace: self.namespace.clone(),
                proxy: None,
            },
        })
    }
}

/// A vaultrs client whose copy of the token is wiped with it.
pub(super) struct Speaker(pub(super) VaultClient);

impl Drop for Speaker {
    fn drop(&mut self) {
        self.0.middle.token.zeroize();
        self.0.settings.token.zeroize();
    }
}

/// The same client without a session.
pub(super) fn client(settings: &Settings) -> Result<reqwest::Client, StoreError> {
    let address = parse_address(&settings.address)?;
    http(&address, settings.ca_file.as_deref(), settings.identity.as_ref())
}

fn http(
    address: &Url,
    ca_file: Option<&Path>,
    identity: Option<&Identity>,
) -> Result<reqwest::Client, StoreError> {
    let mut builder = reqwest::Client::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(TOTAL_TIMEOUT)
        // A redirect to another host would carry the Vault token there.
        .redirect(redirect::Policy::none())
        .retry(reqwest::retry::never());
    if address.scheme() == "http" {
        // Without this the builder wants system roots that nobody will use.
        builder = builder.tls_certs_only(Vec::<Certificate>::new());
    } else if let Some(file) = ca_file {
        builder = builder.tls_certs_only(read_certificates(file)?);
    }
    if let Some(identity) = identity {
        builder = builder.identity(identity.read()?);
    }
    builder.build().map_err(|_| {
        misconfigured(
            "the TLS client can't be set up: this machine has no usable CA certificates, or the client certificate and key don't belong together",
            "Install the package `ca-certificates`, or set `store.vault.ca_file`; see that `cert_file` and `key_file` are a pair.",
        )
    })
}

/// The certificate and key by which the service proves itself to the server.
#[derive(Debug, Clone)]
pub struct Identity {
    /// PEM, the certificate first and its chain after it.
    pub cert_file: PathBuf,
    /// PEM, unencrypted.
    pub key_file: PathBuf,
}

impl Identity {
    fn read(&self) -> Result<reqwest::Identity, StoreError> {
        let unreadable = |file: &Path, cause: io::Error| {
            let what = format!("the client certificate's file {} can't be read", file.display());
            misconfigured(what, "See that it is there and that the service's user may read it.")
                .because(cause)
        };
        let cert = std::fs::read(&self.cert_file);
        let mut pem = cert.map_err(|cause| unreadable(&self.cert_file, cause))?;
        let key = secret::file::read(&self.key_file).map_err(|error| match error {
            SecretFileError::Open(open) => refused(open),
            SecretFileError::Io(cause) => unreadable(&self.key_file, cause),
        })?;
        // Not grown in place, which would leave a copy of the key behind.
        pem.reserve_exact(key.len() + 1);
        let mut pem = Zeroizing::new(pem);
        pem.push(b'\n');
        pem.extend_from_slice(&key);
        reqwest::Identity::from_pem(&pem).map_err(|_| {
            let (cert, key) = (self.cert_file.display(), self.key_file.display());
            misconfigured(
                format!("{cert} and {key} hold no certificate and private key in PEM"),
                "Let `cert_file` name a PEM certificate and `key_file` its unencrypted key.",
            )
        })
    }
}

fn parse_address(text: &str) -> Result<Url, StoreError> {
    let hint = "Write it like `https://vault.internal:8200`.";
    let refuse = |what: &str| Err(misconfigured(what, hint));
    let Ok(address) = Url::parse(text) else { return refuse("the Vault address is not a URL") };
    if !matches!(address.scheme(), "http" | "https") || address.host_str().is_none() {
        return refuse("the Vault address is not an http or https URL with a host");
    }
    if !address.username().is_empty() || address.password().is_some() {
        return refuse("the Vault address holds a user name or password");
    }
    if address.path() != "/" || address.query().is_some() || address.fragment().is_some() {
        return refuse("the Vault address has a path behind host and port");
    }
    Ok(address)
}

fn read_certificates(file: &Path) -> Result<Vec<Certificate>, StoreError> {
    let shown = file.display();
    let hint = "Let `store.vault.ca_file` name a PEM file with the CA of the Vault server.";
    let text = std::fs::read(file).map_err(|cause| {
        misconfigured(format!("the CA file {shown} can't be read"), hint).because(cause)
    })?;
    match Certificate::from_pem_bundle(&text) {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        Ok(_) | Err(_) => {
            Err(misconfigured(format!("the CA file {shown} holds no PEM certificate"), hint))
        }
    }
}

fn refused(open: OpenToOthers) -> StoreError {
    let hint = open.hint();
    StoreError::new(StoreErrorKind::Denied, "a secret of the Vault login is no secret", hint)
        .because(open)
}

/// What stands in a file that holds a secret: one that every user could read, or others change, is refused.
pub(super) async fn read_secret(file: &Path, what: &str) -> Result<StoreCredential, StoreError> {
    let bytes = secret::file::read_beside(file).await.map_err(|error| match error {
        SecretFileError::Open(open) => refused(open),
        SecretFileError::Io(cause) => unreadable(file, what, cause),
    })?;
    credential(&bytes, file, what)
}

/// What stands in a file that others may read: a platform that hands out short-lived tokens chooses its mode.
pub(super) async fn read_credential(
    file: &Path,
    what: &str,
) -> Result<StoreCredential, StoreError> {
    let unreadable = |cause| unreadable(file, what, cause);
    let size = tokio::fs::metadata(file).await.map_err(unreadable)?.len();
    if size > FILE_LIMIT {
        return Err(unreadable(io::ErrorKind::FileTooLarge.into()));
    }
    let bytes = Zeroizing::new(tokio::fs::read(file).await.map_err(unreadable)?);
    credential(&bytes, file, what)
}

fn unreadable(file: &Path, what: &str, cause: io::Error) -> StoreError {
    let kind = match cause.kind() {
        io::ErrorKind::PermissionDenied => StoreErrorKind::Denied,
        _ => StoreErrorKind::Misconfigured,
    };
    let what = format!("the {what} file {} can't be read", file.display());
    let hint = "See that the file is there and that the service's user may read it.";
    StoreError::new(kind, what, hint).because(cause)
}

/// The text alone, without the line break that editors leave at its end.
fn credential(bytes: &[u8], file: &Path, what: &str) -> Result<StoreCredential, StoreError> {
    let shown = file.display();
    let parsed = std::str::from_utf8(bytes)
        .map_err(|_| MalformedSecret::Unprintable)
        .and_then(|text| StoreCredential::parse(text.trim_end_matches(['\n', '\r'])));
    parsed.map_err(|why| {
        misconfigured(
            format!("the {what} file {shown} can't be used"),
            "Let the file hold the bare text alone, on one line.",
        )
        .because(why)
    })
}

/// Takes a token out of a login's answer.
pub(super) fn take_token(text: &mut String) -> Result<StoreCredential, StoreError> {
    StoreCredential::parse(mem::take(text)).map_err(|why| {
        let what = "the Vault server's answer to the login holds no usable token";
        misconfigured(what, "See that the address is that of a Vault server.").because(why)
    })
}

pub(super) fn misconfigured(what: impl Into<String>, hint: &str) -> StoreError {
    StoreError::new(StoreErrorKind::Misconfigured, what, hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_scheme_host_and_port_and_nothing_else() {
        for good in ["http://127.0.0.1:8200", "https://vault.internal:8200/", "https://[::1]:1"] {
            assert!(parse_address(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "vault.internal:8200",
            "ftp://vault",
            "https://user:pass@vault",
            "https://vault/v1",
            "https://vault/?x=1",
            "unix:///run/vault.sock",
        ] {
            let error = parse_address(bad).unwrap_err();
            assert_eq!(error.kind, StoreErrorKind::Misconfigured, "{bad}");
            assert!(!error.what.contains("pass@"), "{error}");
        }
    }
}
