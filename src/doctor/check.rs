//! What a check is: a number that stays, a state, what was seen, a line to type. Looks at nothing.

use std::{fmt, path::Path};

use serde::{Serialize, Serializer};

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// As it should be.
    Ok,
    /// It works, and may not for long, or not as well as it could.
    Warn,
    /// It does not work.
    Fail,
    /// It was not looked at.
    Skipped,
}

impl State {
    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
            Self::Skipped => "skipped",
        }
    }
}

/// What kind of thing does not work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// What is configured can't be.
    Configuration,
    /// Owners and modes.
    Refused,
    /// Something that is reached over the network.
    Network,
    /// The running service.
    Service,
    /// The machine itself.
    Machine,
}

macro_rules! checks {
    ($($(#[$doc:meta])* $name:ident = $words:literal),* $(,)?) => {
        /// What is looked at. The order is that of the numbers: what is new goes to the end.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum What { $($(#[$doc])* $name),* }

        impl What {
            /// All of them, by number.
            pub const ALL: [Self; [$($words),*].len()] = [$(Self::$name),*];

            /// What it is called.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $words),* }
            }
        }
    };
}

checks! {
    /// The configuration is there, can be read and has no mistake.
    Configuration = "configuration",
    /// Nobody but root and the service's user can change it, and the service can read it.
    Owner = "configuration's owner",
    /// Whom the service runs as.
    ServiceUser = "service's user",
    /// HubSpot serves the configured API version, and will.
    ApiVersion = "API version",
    /// The journal's folder.
    StateDir = "state_dir",
    /// Files are on a disk that outlives a restart, and can be locked.
    FileSystem = "file system",
    /// There is room to write.
    Room = "room",
    /// What is written can be made durable.
    Sync = "durable writes",
    /// Key files and secret files.
    Secrets = "secret files",
    /// Where the socket is made.
    SocketFolder = "socket's folder",
    /// The socket itself.
    Socket = "socket",
    /// Who may open it.
    SocketGroup = "socket's group",
    /// Whom `[[access]]` names.
    Access = "access",
    /// The audit log.
    AuditLog = "audit log",
    /// The embedded store.
    StoreFile = "store file",
    /// This machine's clock against HubSpot's.
    WallClock = "clock",
    /// The clock that token life is counted on.
    BootClock = "boot clock",
    /// Something keeps the clock right.
    TimeSync = "clock's keeper",
    /// Names of hosts are found.
    Names = "names",
    /// Hosts are reached.
    Connections = "connections",
    /// They are who they say.
    Tls = "TLS",
    /// There are CA certificates.
    CaRoots = "CA certificates",
    /// Proxies get what is meant for them, and no more.
    Proxies = "proxies",
    /// As many files may be open as there are to be connections.
    OpenFiles = "open files",
    /// No memory ends in a core dump.
    CoreDumps = "core dumps",
    /// No memory ends on a disk in clear.
    Swap = "swap",
    /// What the kernel can keep the service from.
    Landlock = "Landlock",
    /// The running service answers.
    Service = "service",
    /// It is this version.
    Version = "version",
    /// Who makes the socket.
    Activation = "socket activation",
    /// It runs by the configuration as it stands.
    Loaded = "loaded configuration",
    /// The health listener's address.
    Http = "health listener",
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "D{:02}", *self as usize + 1)
    }
}

/// One result.
#[derive(Debug, Clone, Serialize)]
pub struct Check {
    /// Its number.
    #[serde(rename = "id")]
    pub what: What,
    /// What it is called.
    pub name: &'static str,
    /// Which of several, where there are several.
    pub subject: Option<String>,
    /// How it came out.
    pub state: State,
    /// What was seen, or why it was not looked at.
    pub saw: String,
    /// A line for a shell.
    pub fix: Option<String>,
    /// What kind of thing does not work, if it fails.
    #[serde(skip)]
    pub trouble: Option<Trouble>,
}

impl Serialize for What {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A check that is yet to come out, of one of several things.
#[derive(Debug, Clone)]
pub(super) struct Of(What, Option<String>);

impl What {
    /// The same of one of several.
    pub(super) fn of(self, subject: impl Into<String>) -> Of {
        Of(self, Some(subject.into()))
    }

    pub(super) fn ok(self, saw: impl Into<String>) -> Check {
        Of(self, None).ok(saw)
    }

    pub(super) fn warn(self, saw: impl Into<String>, fix: impl Into<String>) -> Check {
        Of(self, None).warn(saw, fix)
    }

    pub(super) fn fail(
        self,
        trouble: Trouble,
        saw: impl Into<String>,
        fix: impl Into<String>,
    ) -> Check {
        Of(self, None).fail(trouble, saw, fix)
    }

    pub(super) fn skipped(self, why: impl Into<String>) -> Check {
        Of(self, None).skipped(why)
    }
}

impl From<What> for Of {
    fn from(what: What) -> Self {
        Self(what, None)
    }
}

impl Of {
    fn is(&self, state: State, saw: impl Into<String>) -> Check {
        let Self(what, subject) = self.clone();
        let saw = saw.into();
        Check { what, name: what.name(), subject, state, saw, fix: None, trouble: None }
    }

    pub(super) fn ok(&self, saw: impl Into<String>) -> Check {
        self.is(State::Ok, saw)
    }

    pub(super) fn warn(&self, saw: impl Into<String>, fix: impl Into<String>) -> Check {
        Check { fix: Some(fix.into()), ..self.is(State::Warn, saw) }
    }

    pub(super) fn fail(
        &self,
        trouble: Trouble,
        saw: impl Into<String>,
        fix: impl Into<String>,
    ) -> Check {
        let failed = self.is(State::Fail, saw);
        Check { fix: Some(fix.into()), trouble: Some(trouble), ..failed }
    }

    pub(super) fn skipped(&self, why: impl Into<String>) -> Check {
        self.is(State::Skipped, why)
    }
}

/// A path as a shell takes it for one word.
pub(super) fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:,@%=".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text;
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// The line to type that stands between backticks in `hint`, about the file `path`, with the service's user in it.
pub(super) fn typed(hint: &str, path: &Path, user: &str) -> String {
    let line = hint.split('`').nth(1).unwrap_or(hint);
    line.replace(&path.display().to_string(), &quoted(path)).replace("<service user>", user)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_that_were_given_out() {
        let told: Vec<String> = What::ALL.iter().map(What::to_string).collect();
        assert_eq!((told[0].as_str(), told[31].as_str(), told.len()), ("D01", "D32", 32));
        for (number, what) in
            [("D05", What::StateDir), ("D16", What::WallClock), ("D28", What::Service)]
        {
            assert_eq!(what.to_string(), number);
        }
    }

    #[test]
    fn a_path_is_one_word_for_a_shell() {
        for (path, word) in [
            ("/etc/a-b_c.toml", "/etc/a-b_c.toml"),
            ("/a b", "'/a b'"),
            ("/it's", r"'/it'\''s'"),
            ("/$HOME;x", "'/$HOME;x'"),
        ] {
            assert_eq!(quoted(Path::new(path)), word);
        }
    }

    #[test]
    fn what_a_hint_says_to_type_is_taken_out_of_it() {
        let path = Path::new("/my key");
        let hint = "Hand it over: `chown <service user> /my key`; soon.";
        assert_eq!(typed(hint, path, "gk"), "chown gk '/my key'");
    }
}
