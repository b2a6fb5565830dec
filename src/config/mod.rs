//! The configuration: as written → as meant, every mistake at once. The only room that knows TOML,
//! and, with the command line, the only one that reads the environment.

use std::{
    fs,
    io::{self, Read},
    net::SocketAddr,
    path::Path,
    time::Duration,
};

use toml::de::DeTable;

mod access;
mod alert;
mod aws;
mod error;
mod file;
mod findings;
mod layout;
mod place;
mod reader;
mod receiver;
mod service;
mod suggest;
#[cfg(test)]
mod tests;
mod vault;

pub use alert::Alert;
pub use error::ConfigError;
pub use findings::Mistake;

use findings::Findings;
use reader::Section;

use crate::{
    access::Rule,
    audit,
    hardening::Landlock,
    hubspot,
    incident::InstallUrl,
    journal,
    lifecycle::{RefreshPolicy, ValidatePolicy},
    portal::{AppName, Scopes},
    socket,
    store::{Layout, aws as store_aws, file as store_file, vault as store_vault},
};

/// Where the configuration is unless named.
pub const DEFAULT_PATH: &str = "/etc/grantkeeper/grantkeeper.toml";
/// Where the socket is unless configured.
pub const DEFAULT_SOCKET: &str = "/run/grantkeeper/grantkeeper.sock";
/// No configuration is longer.
const LARGEST: u64 = 1024 * 1024;

/// How environment variables are looked up.
pub type Environment<'e> = &'e dyn Fn(&str) -> Option<String>;

/// The process's own environment.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
pub fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Everything an operator said, as plain valid values.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where the journal is, if there is to be one.
    pub state: Option<journal::Settings>,
    /// Whose grants.
    pub app: App,
    /// Where credentials are kept.
    pub store: StoreSettings,
    /// Where HubSpot is.
    pub hubspot: hubspot::Settings,
    /// When to renew.
    pub refresh: RefreshPolicy,
    /// When to validate.
    pub validate: ValidatePolicy,
    /// Where local callers come in.
    pub socket: socket::Settings,
    /// Who may do what.
    pub access: Vec<Rule>,
    /// Who is told.
    pub alerts: Vec<Alert>,
    /// Where health and metrics are told over TCP, if anywhere.
    pub http: Option<SocketAddr>,
    /// Where decisions are written down, if anywhere.
    pub audit: Option<audit::Settings>,
    /// How rotations go.
    pub rotation: Rotation,
    /// How much of Landlock there must be.
    pub landlock: Landlock,
    /// What is allowed and worth a word.
    pub warnings: Vec<String>,
}

/// `[app]`.
#[derive(Debug, Clone)]
pub struct App {
    /// What the app is called.
    pub name: AppName,
    /// Scopes every grant must have.
    pub required_scopes: Scopes,
    /// Where a customer begins to install the app, for alerts.
    pub install_url: Option<InstallUrl>,
}

/// `[rotation]`.
#[derive(Debug, Clone, Copy)]
pub struct Rotation {
    /// For how long the client secret before the one in use still counts.
    pub keep_previous: Duration,
}

/// `[store]`.
#[derive(Debug, Clone)]
pub enum StoreSettings {
    /// HashiCorp Vault or OpenBao.
    Vault(store_vault::Settings, Layout),
    /// AWS Secrets Manager.
    Aws(store_aws::Settings, Layout),
    /// The embedded store.
    File(store_file::Settings),
}

impl Config {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// It can't be read, or has mistakes: all of them are named.
    pub fn load(path: &Path, env: Environment<'_>) -> Result<Self, ConfigError> {
        Self::parse(&text_of(path)?, path, env)
    }

    /// Reads the file at `path` for somebody who tells nobody anything: mistakes in who is told of incidents, and
    /// nowhere else, are a warning. At night nobody should have to mend an address before a secret can be rotated.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn load_but_alerts(path: &Path, env: Environment<'_>) -> Result<Self, ConfigError> {
        let of_alerts = |mistake: &Mistake| mistake.key.starts_with("alert[");
        match Self::load(path, env) {
            Err(ConfigError::Mistakes { mistakes, .. }) if mistakes.iter().all(of_alerts) => {
                let text = text_of(path)?;
                let config = Self::parse_all(&text, path, env, false)?;
                let warning = "its [[alert]] sections have mistakes: `grantkeeper check --offline` names them";
                Ok(Self { warnings: vec![warning.to_owned()], ..config })
            }
            other => other,
        }
    }

    /// Reads `text`, which stands at `origin`.
    ///
    /// # Errors
    /// It has mistakes: all of them are named.
    pub fn parse(text: &str, origin: &Path, env: Environment<'_>) -> Result<Self, ConfigError> {
        Self::parse_all(text, origin, env, true)
    }

    fn parse_all(
        text: &str,
        origin: &Path,
        env: Environment<'_>,
        with_alerts: bool,
    ) -> Result<Self, ConfigError> {
        let mut findings = Findings::new(text);
        let (tree, errors) = DeTable::parse_recoverable(text);
        for error in &errors {
            let at = error.span().unwrap_or(0..0);
            findings.mistake(&at, "", error.message().replace('\n', ", "), "this is not TOML yet");
        }
        let config = errors.is_empty().then(|| {
            let root = Section::root(tree.get_ref(), tree.span());
            read(root, env, with_alerts, &mut findings)
        });
        match config.flatten() {
            Some(config) if findings.mistakes.is_empty() => {
                Ok(Self { warnings: findings.warnings, ..config })
            }
            _ => {
                findings.mistakes.sort();
                findings.mistakes.dedup();
                Err(ConfigError::Mistakes { path: origin.to_owned(), mistakes: findings.mistakes })
            }
        }
    }

    /// The sections that differ in `next` and are only read at start.
    #[must_use]
    pub fn needs_restart(&self, next: &Self) -> Vec<&'static str> {
        let differ =
            |a: &dyn std::fmt::Debug, b: &dyn std::fmt::Debug| format!("{a:?}") != format!("{b:?}");
        let same_hubspot = |c: &Self| (c.hubspot.base_url.clone(), c.hubspot.api_version);
        let sections = [
            ("state_dir, state_key_file", self.state != next.state),
            ("[app] name", self.app.name != next.app.name),
            ("[store]", differ(&self.store, &next.store)),
            ("[hubspot] base_url, api_version", same_hubspot(self) != same_hubspot(next)),
            (
                "[hubspot] poll_uninstalls",
                self.hubspot.poll_uninstalls != next.hubspot.poll_uninstalls,
            ),
            ("[socket]", self.socket != next.socket),
            ("[http]", self.http != next.http),
            ("[audit]", self.audit != next.audit),
            ("[hardening]", self.landlock != next.landlock),
        ];
        sections.into_iter().filter(|(_, changed)| *changed).map(|(name, _)| name).collect()
    }
}

fn text_of(path: &Path) -> Result<String, ConfigError> {
    let unreadable = |source| ConfigError::Unreadable { path: path.to_owned(), source };
    let mut text = String::new();
    let file = fs::File::open(path).map_err(unreadable)?;
    file.take(LARGEST + 1).read_to_string(&mut text).map_err(unreadable)?;
    if text.len() as u64 > LARGEST {
        let what = "it is larger than a mebibyte";
        return Err(unreadable(io::Error::new(io::ErrorKind::InvalidData, what)));
    }
    Ok(text)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum StoreKind {
    Vault,
    Aws,
    File,
}

fn read(
    mut root: Section<'_, '_>,
    env: Environment<'_>,
    with_alerts: bool,
    findings: &mut Findings<'_>,
) -> Option<Config> {
    let state = service::state(&mut root, findings);
    let app = service::app(root.section("app", findings), findings);
    let prefix = format!("grantkeeper/{}", app.as_ref().map_or("app", |app| app.name.as_str()));
    let store = store(root.section("store", findings), &prefix, env, findings);
    let hubspot = service::hubspot(root.section("hubspot", findings), findings);
    let refresh = service::refresh(root.section("refresh", findings), findings);
    let validate = service::validate(root.section("validate", findings), findings);
    let socket = service::socket(root.section("socket", findings), findings);
    let access = access::read(root.sections("access", findings), findings);
    let alerts = root.sections("alert", findings);
    let alerts = if with_alerts { alert::read(alerts, findings) } else { Vec::new() };
    let http = service::http(root.section("http", findings), findings);
    let audit = service::audit(root.section("audit", findings), findings);
    let rotation = service::rotation(root.section("rotation", findings), findings);
    let landlock = service::hardening(root.section("hardening", findings), findings);
    root.finish(findings);
    Some(Config {
        state,
        app: app?,
        store: store?,
        hubspot: hubspot?,
        refresh,
        validate,
        socket: socket?,
        access,
        alerts,
        http,
        audit,
        rotation,
        landlock,
        warnings: Vec::new(),
    })
}

fn store(
    mut section: Section<'_, '_>,
    prefix: &str,
    env: Environment<'_>,
    findings: &mut Findings<'_>,
) -> Option<StoreSettings> {
    let kinds = [("vault", StoreKind::Vault), ("aws", StoreKind::Aws), ("file", StoreKind::File)];
    let kind = section.one_of("kind", &kinds, findings);
    if kind.is_none() {
        section.missing(findings, "kind", "write kind = \"vault\", \"aws\" or \"file\"");
    }
    let kind = kind.map(|found| found.value);
    let vault = section.section("vault", findings);
    let aws = section.section("aws", findings);
    let file = section.section("file", findings);
    for (own, name, there) in [
        (StoreKind::Vault, "vault", vault.is_there()),
        (StoreKind::Aws, "aws", aws.is_there()),
        (StoreKind::File, "file", file.is_there()),
    ] {
        if there && kind.is_some_and(|kind| kind != own) {
            findings.warn(format!("[store.{name}] is not used: store.kind says otherwise"));
        }
    }
    section.finish(findings);
    let Some(kind) = kind else {
        // Which one is meant is not known; what is wrong in any of them is.
        if vault.is_there() {
            vault::read(vault, prefix, env, findings);
        }
        if aws.is_there() {
            aws::read(aws, prefix, findings);
        }
        if file.is_there() {
            file::read(file, findings);
        }
        return None;
    };
    Some(match kind {
        StoreKind::Vault => vault::read(vault, prefix, env, findings)
            .map(|(settings, layout)| StoreSettings::Vault(settings, layout))?,
        StoreKind::Aws => aws::read(aws, prefix, findings)
            .map(|(settings, layout)| StoreSettings::Aws(settings, layout))?,
        StoreKind::File => StoreSettings::File(file::read(file, findings)?),
    })
}
