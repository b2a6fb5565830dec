//! The ways to prove to Vault who we are, one a method, each reading its files anew. Knows no leases and no
//! records.

use std::path::{Path, PathBuf};

use vaultrs::{
    api::AuthInfo,
    auth::{approle, cert, kubernetes, oidc},
    error::ClientError,
    sys::wrapping,
};

use super::{
    connection::{Connection, Speaker, misconfigured, read_credential, read_secret, take_token},
    fault::{Asked, Fault},
};
use crate::{
    secret::{Fingerprint, StoreCredential},
    store::{StoreError, StoreErrorKind},
};

/// Where Kubernetes puts a pod's token.
pub const POD_TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

/// How to log in to Vault.
#[derive(Debug, Clone)]
pub enum Auth {
    /// A token from the environment, used as it is.
    Token(StoreCredential),
    /// A token in a file, read again whenever the old one is refused.
    TokenFile(PathBuf),
    /// One of Vault's auth methods.
    Method {
        /// Where it is mounted.
        mount: String,
        /// Which one.
        method: Method,
    },
}

impl Auth {
    /// The file that is read at each login, if there is one.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::TokenFile(file) => Some(file),
            Self::Method { method, .. } => match method {
                Method::AppRole { secret_id_file: file, .. }
                | Method::Kubernetes { jwt_file: file, .. }
                | Method::Jwt { jwt_file: file, .. } => Some(file),
                Method::Cert { .. } => None,
            },
            Self::Token(_) => None,
        }
    }
}

/// An auth method and what it wants to see.
#[derive(Debug, Clone)]
pub enum Method {
    /// A role id, and a secret id in a file.
    AppRole {
        /// The role id.
        role_id: String,
        /// The file with the secret id, or with the token that wraps it.
        secret_id_file: PathBuf,
        /// Whether the file holds a wrapping token.
        wrapped: bool,
    },
    /// A pod's service account token.
    Kubernetes {
        /// The role to log in as.
        role: String,
        /// The file with the token.
        jwt_file: PathBuf,
    },
    /// A JWT from elsewhere.
    Jwt {
        /// The role to log in as; the method's default role if none is named.
        role: Option<String>,
        /// The file with the JWT.
        jwt_file: PathBuf,
    },
    /// The client certificate of the connection.
    Cert {
        /// The role to log in as; any that fits if none is named.
        role: Option<String>,
    },
}

impl Method {
    /// The method's name, as Vault mounts it where nobody says otherwise.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::AppRole { .. } => "approle",
            Self::Kubernetes { .. } => "kubernetes",
            Self::Jwt { .. } => "jwt",
            Self::Cert { .. } => "cert",
        }
    }
}

/// A secret id that was wrapped: its wrapping token opens once, and the secret id is good for more logins.
#[derive(Debug, Default)]
pub(super) struct Unwrapped(Option<(Fingerprint, StoreCredential)>);

/// A token as a login brings it.
pub(super) struct Obtained {
    pub(super) token: StoreCredential,
    /// Seconds; zero for ever.
    pub(super) lease: u64,
    pub(super) renewable: bool,
}

/// Logs in by `method`, mounted at `mount`, through `speaker`, which has no token yet.
pub(super) async fn log_in(
    connection: &Connection,
    speaker: &Speaker,
    (mount, method): (&str, &Method),
    unwrapped: &mut Unwrapped,
) -> Result<Obtained, StoreError> {
    let answer = match method {
        Method::AppRole { role_id, secret_id_file, wrapped } => {
            let mut secret_id = read_secret(secret_id_file, "AppRole secret id").await?;
            if *wrapped {
                secret_id = unwrap(connection, mount, secret_id_file, secret_id, unwrapped).await?;
            }
            // exposed: into the body of the login request to the Vault server
            approle::login(&speaker.0, mount, role_id, secret_id.expose()).await
        }
        Method::Kubernetes { role, jwt_file } => {
            let jwt = read_credential(jwt_file, "service account token").await?;
            // exposed: into the body of the login request to the Vault server
            kubernetes::login(&speaker.0, mount, role, jwt.expose()).await
        }
        Method::Jwt { role, jwt_file } => {
            let jwt = read_credential(jwt_file, "JWT").await?;
            // exposed: into the body of the login request to the Vault server
            oidc::login(&speaker.0, mount, jwt.expose(), role.clone()).await
        }
        Method::Cert { role } => {
            cert::login(&speaker.0, mount, role.as_deref().unwrap_or_default()).await
        }
    };
    obtained(answer).map_err(|fault| match fault {
        Refused::Answer(fault) => refused(mount, method, fault),
        Refused::Token(error) => error,
    })
}

enum Refused {
    Answer(Fault),
    Token(StoreError),
}

fn obtained(answer: Result<AuthInfo, ClientError>) -> Result<Obtained, Refused> {
    let mut answer = answer.map_err(|error| Refused::Answer(error.into()))?;
    let token = take_token(&mut answer.client_token).map_err(Refused::Token)?;
    Ok(Obtained { token, lease: answer.lease_duration, renewable: answer.renewable })
}

/// The secret id that `token` wraps. Before it is opened it is looked at: one that was made elsewhere than at
/// our own role is somebody's forgery, and one that was opened before was opened by somebody else.
async fn unwrap(
    connection: &Connection,
    mount: &str,
    file: &Path,
    token: StoreCredential,
    unwrapped: &mut Unwrapped,
) -> Result<StoreCredential, StoreError> {
    let name = token.fingerprint();
    if let Some((_, secret_id)) = unwrapped.0.as_ref().filter(|(known, _)| *known == name) {
        return Ok(secret_id.clone());
    }
    let file = file.display();
    let speaker = connection.speak(Some(&token));
    // exposed: into the body of a request to the Vault server that made it
    let looked = wrapping::lookup(&speaker.0, token.expose()).await.map_err(Fault::from);
    let found = looked.map_err(|fault| not_unwrapped(fault, &file.to_string()))?;
    let path = found.creation_path.as_str();
    let own = path
        .strip_prefix(&format!("auth/{mount}/role/"))
        .and_then(|rest| rest.strip_suffix("/secret-id"))
        .is_some_and(|role| !role.is_empty() && !role.contains('/'));
    if !own {
        return Err(StoreError::new(
            StoreErrorKind::Compromised,
            format!(
                "the wrapping token in {file} was not made by a secret id of `auth/{mount}`: somebody has put another one there"
            ),
            "It was left unopened. Find out who wrote the file, and deliver a fresh wrapped secret id.",
        ));
    }
    // It is the token of the request as well: named in the body too, OpenBao answers 500.
    let opened = wrapping::unwrap::<WrappedSecretId>(&speaker.0, None).await;
    let opened = opened.map_err(|error| not_unwrapped(error.into(), &file.to_string()))?;
    let secret_id = StoreCredential::parse(opened.secret_id).map_err(|why| {
        misconfigured("what the wrapping token wraps is not a secret id", "Wrap a secret id.")
            .because(why)
    })?;
    unwrapped.0 = Some((name, secret_id.clone()));
    Ok(secret_id)
}

#[derive(serde::Deserialize)]
struct WrappedSecretId {
    secret_id: String,
}

fn not_unwrapped(fault: Fault, file: &str) -> StoreError {
    if matches!(fault.status(), Some(400 | 403 | 404)) {
        return StoreError::new(
            StoreErrorKind::Compromised,
            format!("the wrapping token in {file} has been used already, or has expired"),
            "If this service did not use it itself at an earlier start, somebody else has the secret id: revoke it. Then deliver a fresh wrapped secret id; each start needs one.",
        );
    }
    let rule = r#"path "sys/wrapping/unwrap" { capabilities = ["update"] }"#.to_owned();
    Asked { doing: "unwrapping the AppRole secret id".to_owned(), rule, mount: "sys" }
        .explain(fault)
}

/// Why a login did not go through, in words for whoever set it up.
fn refused(mount: &str, method: &Method, fault: Fault) -> StoreError {
    let name = method.name();
    let (why, hint) = match method {
        Method::AppRole { secret_id_file, .. } => (
            "role id or secret id is wrong, used up or expired",
            format!(
                "Check `role_id`, and put a fresh secret id into {}.",
                secret_id_file.display()
            ),
        ),
        Method::Kubernetes { role, jwt_file } => (
            "the pod's service account or namespace is not bound to the role, or its token has expired",
            format!(
                "Compare `vault read auth/{mount}/role/{role}` with the service account whose token is in {}.",
                jwt_file.display()
            ),
        ),
        Method::Jwt { jwt_file, .. } => (
            "the JWT has expired, is signed by somebody else, or does not fit the role's bounds",
            format!(
                "See that {} holds a fresh JWT with the audience and claims that the role at `auth/{mount}` is bound to.",
                jwt_file.display()
            ),
        ),
        Method::Cert { .. } => (
            "the client certificate has expired or is not one of those it trusts",
            format!(
                "Renew the certificate, or trust its CA: `vault write auth/{mount}/certs/… certificate=@ca.pem`."
            ),
        ),
    };
    match fault.status() {
        Some(400 | 401 | 403) => StoreError::new(
            StoreErrorKind::Denied,
            format!("the Vault server refuses the {name} login: {why}"),
            hint,
        ),
        Some(404) => StoreError::new(
            StoreErrorKind::Misconfigured,
            format!("the Vault server has no {name} login at `auth/{mount}`"),
            format!(
                "Correct `store.vault.auth.mount`, or make it: `vault auth enable -path={mount} {name}`."
            ),
        ),
        _ => Asked { doing: format!("logging in to Vault by {name}"), rule: String::new(), mount }
            .explain(fault),
    }
}
