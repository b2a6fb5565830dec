//! Every failure as people meet it: what happened, why, what to do, and the exit code, which is
//! decided here for each kind of failure and nowhere else (contract section 1).

use std::{error::Error, process::ExitCode};

use serde::Serialize;

use crate::{
    audit,
    config::ConfigError,
    daemon::StartError,
    doctor::Trouble,
    hardening::HardeningError,
    hubspot::{NoTls, wire::status::BAD_REDIRECT_URI},
    journal::{FolderError, OpenError, StateError},
    lifecycle::{Refusal, RefusalClass},
    portal::PortalId,
    rotation::RotationError,
    store::{StoreError, StoreErrorKind},
};

mod asking;

const RESUME: &str = "`grantkeeper portal resume` lets it go on.";

/// Exit codes of the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Failed, for no better reason.
    Failed = 1,
    /// Wrong usage.
    Usage = 2,
    /// No such thing.
    NotFound = 3,
    /// A grant needs a person.
    NeedsPerson = 4,
    /// The service is not reachable.
    NoService = 69,
    /// Try again later.
    TryAgain = 75,
    /// Refused.
    Refused = 77,
    /// Configuration or credential invalid.
    Invalid = 78,
    /// `--wait` ran out.
    WaitRanOut = 124,
}

impl Exit {
    /// Which of several counts: what makes everything else moot comes first.
    #[must_use]
    pub const fn gravity(self) -> u8 {
        match self {
            Self::Invalid => 6,
            Self::Refused => 5,
            Self::NeedsPerson => 4,
            Self::TryAgain => 3,
            Self::NoService => 2,
            _ => 1,
        }
    }
}

impl From<Trouble> for Exit {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Configuration => Self::Invalid,
            Trouble::Refused => Self::Refused,
            Trouble::Network => Self::TryAgain,
            Trouble::Service => Self::NoService,
            Trouble::Machine => Self::Failed,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// A failure in the words of the terminal.
#[derive(Debug, Clone, Serialize)]
pub struct Failure {
    /// A stable word.
    pub code: &'static str,
    /// What happened.
    pub message: String,
    /// Why, if that is known.
    pub cause: Option<String>,
    /// What to do.
    pub hint: String,
    /// Whether the same may go through later by itself.
    pub retryable: bool,
    /// The exit code.
    #[serde(skip)]
    pub exit: Exit,
}

impl Failure {
    /// A failure that trying again does not help.
    pub fn new(
        exit: Exit,
        code: &'static str,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Self {
            code,
            message: message.into(),
            cause: None,
            hint: hint.into(),
            retryable: exit == Exit::TryAgain,
            exit,
        }
    }

    /// The same, saying which portal it is about, unless it is about reaching the service at all.
    #[must_use]
    pub fn about(self, portal: PortalId) -> Self {
        if self.exit == Exit::NoService {
            return self;
        }
        Self { message: format!("portal {portal}: {}", self.message), ..self }
    }

    /// The same with a reason.
    #[must_use]
    pub fn because(mut self, cause: impl Into<String>) -> Self {
        self.cause = Some(cause.into());
        self
    }
}

/// The errors beneath `error`, outermost first.
#[must_use]
pub fn causes(error: &dyn Error) -> Option<String> {
    let mut told = Vec::new();
    let mut beneath = error.source();
    while let Some(cause) = beneath {
        let words = cause.to_string();
        // Many errors repeat what lies beneath them.
        if !told.iter().any(|earlier: &String| earlier.contains(&words)) {
            told.push(words);
        }
        beneath = cause.source();
    }
    (!told.is_empty()).then(|| told.join(": "))
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        let (exit, code) = match error.kind {
            StoreErrorKind::Missing => (Exit::Invalid, "record_missing"),
            StoreErrorKind::Conflict => (Exit::TryAgain, "record_changed"),
            StoreErrorKind::Denied => (Exit::Refused, "store_denied"),
            StoreErrorKind::Compromised => (Exit::Refused, "store_compromised"),
            StoreErrorKind::Unreachable => (Exit::TryAgain, "store_unreachable"),
            StoreErrorKind::Corrupt => (Exit::Invalid, "record_unusable"),
            StoreErrorKind::Misconfigured => (Exit::Invalid, "store_misconfigured"),
        };
        let cause = causes(&error);
        Self { cause, ..Self::new(exit, code, error.what.clone(), error.hint) }
    }
}

impl From<&Refusal> for Failure {
    fn from(refusal: &Refusal) -> Self {
        let word = refusal.word.map(|word| format!("HubSpot says {word}"));
        let http = refusal.http.map(|http| format!("HTTP {http}"));
        let cause = word.or(http);
        let failure = match refusal.class {
            _ if refusal.word == Some(BAD_REDIRECT_URI) => Self::new(
                Exit::Usage,
                "grant_refused",
                "HubSpot gave this code for another redirect URI",
                asking::REDIRECT,
            ),
            RefusalClass::AppRefused => Self::new(
                Exit::Invalid,
                "app_rejected",
                "HubSpot refuses the app's client id and secret",
                "Compare both with the app's Auth page at HubSpot; run `grantkeeper rotate client-secret` if the secret was changed there.",
            ),
            RefusalClass::GrantRefused
            | RefusalClass::GrantMismatched
            | RefusalClass::PortalUnavailable => Self::new(
                Exit::NeedsPerson,
                "grant_refused",
                "HubSpot refuses this grant",
                "Ask the customer to connect the app again, then store the new refresh token.",
            ),
            RefusalClass::ApiRetired | RefusalClass::NotUnderstood => Self::new(
                Exit::Invalid,
                "hubspot_version",
                "HubSpot does not know this call",
                "Set hubspot.api_version to a version HubSpot serves, and check hubspot.base_url.",
            ),
            RefusalClass::RateLimited => Self::new(
                Exit::TryAgain,
                "rate_limited",
                "HubSpot asks to slow down",
                "Try again in a while; lower hubspot.max_refreshes_per_second if it keeps happening.",
            ),
            RefusalClass::Migrating
            | RefusalClass::Outage
            | RefusalClass::Unreachable
            | RefusalClass::AnswerLost
            | RefusalClass::Unknown => Self::new(
                Exit::TryAgain,
                "hubspot_unreachable",
                "HubSpot gave no useful answer",
                "Check the network and hubspot.base_url, and see status.hubspot.com; then try again.",
            ),
        };
        Self { cause, ..failure }
    }
}

impl From<NoTls> for Failure {
    fn from(error: NoTls) -> Self {
        let hint = "Install the ca-certificates package, or point SSL_CERT_FILE at a CA bundle.";
        let cause = causes(&error);
        Self { cause, ..Self::new(Exit::Invalid, "no_ca_bundle", error.to_string(), hint) }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::new(Exit::Invalid, "configuration", error.to_string(), error.hint())
    }
}

impl From<StateError> for Failure {
    fn from(error: StateError) -> Self {
        let exit = match &error {
            // Around a restart the former one may not have gone yet.
            StateError::Folder(FolderError::InUse(_)) => Exit::TryAgain,
            StateError::Folder(FolderError::Open { .. } | FolderError::Foreign(_)) => Exit::Refused,
            StateError::Key(fault) if fault.is_refusal() => Exit::Refused,
            StateError::Open(OpenError::Disk(_)) => Exit::Failed,
            _ => Exit::Invalid,
        };
        let cause = causes(&error);
        Self { cause, ..Self::new(exit, "state_dir", error.to_string(), error.hint()) }
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        match error {
            StartError::Store(error) => error.into(),
            StartError::State(error) => error.into(),
            StartError::NoTls(error) => error.into(),
            StartError::Listen(error) => error.into(),
            StartError::AppRefused(refusal) => Self::from(&refusal),
            StartError::GrantsRefused(portals) => {
                let names: Vec<_> = portals.iter().take(10).map(ToString::to_string).collect();
                let count = portals.len();
                Self::new(
                    Exit::NeedsPerson,
                    "grant_refused",
                    format!("{count} grants are not good: {}", names.join(", ")),
                    "See `grantkeeper check` for each, or set validate.on_start = \"require_app\".",
                )
            }
            StartError::Hardening(error) => error.into(),
            StartError::Audit(error) => {
                let exit = match error {
                    audit::OpenError::Open(_) => Exit::Refused,
                    audit::OpenError::InUse(_) => Exit::TryAgain,
                    _ => Exit::Invalid,
                };
                let cause = causes(&error);
                Self { cause, ..Self::new(exit, "audit_log", error.to_string(), error.hint()) }
            }
            StartError::Health { address, source } => Self::new(
                Exit::Failed,
                "address_in_use",
                format!("the [http] listener could not be bound to {address}"),
                "Choose another address in [http], or stop what is listening there.",
            )
            .because(source.to_string()),
            StartError::Alert { name, source } => Self::new(
                Exit::Invalid,
                "alert_sink",
                format!("the alert sink {name:?} could not be set up"),
                "Install the ca-certificates package, or point SSL_CERT_FILE at a CA bundle.",
            )
            .because(source.to_string()),
            StartError::System(source) => Self::new(
                Exit::Failed,
                "system",
                "the operating system refused what the service needs",
                "See the cause; a limit on open files or processes is the usual one.",
            )
            .because(source.to_string()),
            StartError::Panicked(source) => Self::new(
                Exit::Failed,
                "internal",
                "the service stopped over an internal error; nothing stored is lost",
                "Start it again, and report this with the log.",
            )
            .because(source.to_string()),
        }
    }
}

impl From<HardeningError> for Failure {
    fn from(error: HardeningError) -> Self {
        let hint = match &error {
            HardeningError::NotEnforced => {
                "Say hardening.landlock = \"best_effort\", or run it on a kernel with Landlock (6.12 or later for all of it)."
            }
            HardeningError::Landlock(_) => {
                "Say hardening.landlock = \"off\" if this system can't have it, and report what it said."
            }
            HardeningError::System { .. } => "See what limits the one who starts it is under.",
        };
        let cause = causes(&error);
        Self { cause, ..Self::new(Exit::Refused, "hardening", error.to_string(), hint) }
    }
}

fn said(word: Option<&str>) -> String {
    word.map_or_else(
        || "HubSpot gave no word for it".to_owned(),
        |word| format!("HubSpot says {word}"),
    )
}

impl From<RotationError> for Failure {
    fn from(error: RotationError) -> Self {
        match error {
            RotationError::Store(error) => error.into(),
            RotationError::NotAsked(refusal) => {
                let failure = Self::from(&refusal);
                let hint = format!("Nothing was changed; the secret in use stays in use. {}", failure.hint);
                Self { hint, ..failure }
            }
            RotationError::Refused(word) => Self::new(
                Exit::Invalid,
                "new_secret_refused",
                "HubSpot refuses the new client secret; the one in use stays in use",
                "Nothing was changed. Copy the new secret from the app's Auth page at HubSpot, whole, and try again.",
            )
            .because(said(word)),
            RotationError::EarlierRefused(word) => Self::new(
                Exit::Invalid,
                "earlier_secret_refused",
                "HubSpot refuses the earlier client secret; the one in use stays in use",
                "It is dead at HubSpot, and there is no way back to it: go on with the one in use, or rotate to a new one.",
            )
            .because(said(word)),
            RotationError::CanaryRefused(word) => Self::new(
                Exit::Invalid,
                "canary_refused",
                "HubSpot refuses to refresh a portal with the new client secret; the one in use stays in use",
                "HubSpot takes it for questions and not for refreshes, so it may need some minutes to be known everywhere: try again. If it still stands staged (`grantkeeper rotate status`), `rotate promote` tries again and `rotate discard` takes it out.",
            )
            .because(word),
            RotationError::AnotherStaged(_) => Self::new(
                Exit::Usage,
                "another_staged",
                error.to_string(),
                "Nothing was changed. `grantkeeper rotate promote` goes on with that one, `rotate discard` takes it out; --replace puts the other one in its place.",
            ),
            RotationError::Earlier => Self::new(
                Exit::Usage,
                "earlier_secret",
                error.to_string(),
                "Nothing was changed. Copy the new one from the app's Auth page at HubSpot; `grantkeeper rotate rollback` goes back to this one.",
            ),
            RotationError::NotTried(why) => Self::new(
                Exit::TryAgain,
                "canary_failed",
                "one portal could not be refreshed with the new client secret; the one in use stays in use",
                "HubSpot accepts the new secret as such. See `grantkeeper status`, and run it again in a minute; --no-canary goes on without.",
            )
            .because(why),
            RotationError::NothingThere(_) => Self::new(
                Exit::NotFound,
                "no_such_secret",
                error.to_string(),
                "`grantkeeper rotate status` shows which secrets there are.",
            ),
            RotationError::ChangedMeanwhile => Self::new(
                Exit::TryAgain,
                "record_changed",
                "somebody else changed the app's record meanwhile",
                "Nothing of theirs was overwritten. Look at the record, then run this again.",
            ),
        }
    }
}
