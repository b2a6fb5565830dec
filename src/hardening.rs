//! What the process gives up before it begins, so that whoever breaks into it finds as little as the operating system
//! allows: core dumps, being looked into, new privileges, and every path and port it does not need (Landlock). Before
//! there are threads: a restriction binds the thread that takes it and those that thread makes. Decides no path.

use std::{
    io,
    path::{Path, PathBuf},
};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, NetPort, PathBeneath,
    PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};
use rustix::process::{
    DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit,
};

/// The newest features asked for; an older kernel gives what it has.
const ASKED: ABI = ABI::V6;

/// The version of Landlock that has all of them.
pub const LANDLOCK_WANTED: u32 = ASKED as u32;

/// The version of Landlock that this kernel has, as far as it is known here; none is 0. Gives up nothing.
#[must_use]
pub fn landlock_version() -> u32 {
    use landlock::ABI::{V1, V2, V3, V4, V5, V6};
    let has = |abi: ABI| {
        let mut ruleset = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
        ruleset = ruleset.handle_access(AccessFs::from_all(abi))?;
        if abi as u32 >= V4 as u32 {
            ruleset = ruleset.handle_access(AccessNet::from_all(abi))?;
        }
        if abi as u32 >= V6 as u32 {
            ruleset = ruleset.scope::<BitFlags<Scope>>(Scope::Signal.into())?;
        }
        ruleset.create()
    };
    // A set of rules that is made and dropped binds nobody.
    [V1, V2, V3, V4, V5, V6]
        .into_iter()
        .filter(|abi| has(*abi).is_ok())
        .map(|abi| abi as u32)
        .max()
        .unwrap_or(0)
}

/// How much of Landlock there must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Landlock {
    /// As much as the kernel has.
    #[default]
    BestEffort,
    /// All of it, or no start.
    Required,
    /// None.
    Off,
}

/// Everything the process goes on to need.
#[derive(Debug, Clone, Default)]
pub struct Needs {
    /// Folders and files to read.
    pub read: Vec<PathBuf>,
    /// Folders to write in.
    pub write: Vec<PathBuf>,
    /// Folders with programs to run.
    pub run: Vec<PathBuf>,
    /// TCP ports to connect to.
    pub connect: Vec<u16>,
    /// TCP ports to listen on.
    pub listen: Vec<u16>,
    /// Whether a socket without a name in the file system has to be reached (an old systemd's).
    pub abstract_sockets: bool,
}

impl Needs {
    /// What this needs that `had` does not have: ports to connect to, and what is to be read or run.
    #[must_use]
    pub fn beyond(&self, had: &Self) -> Vec<String> {
        let ports = self.connect.iter().filter(|port| !had.connect.contains(port));
        let ports = ports.map(|port| format!("TCP port {port}"));
        let below = |path: &Path, all: &[PathBuf]| all.iter().any(|one| path.starts_with(one));
        let read = self.read.iter().filter(|path| !below(path, &had.read));
        let run = self.run.iter().filter(|path| !below(path, &had.run));
        let mut lacking: Vec<_> =
            ports.chain(read.chain(run).map(|path| path.display().to_string())).collect();
        lacking.dedup();
        lacking
    }
}

/// What was given up, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hardened {
    /// `enforced`, `partly` (an older kernel), `unsupported` or `off`.
    pub landlock: String,
    /// Neither this process nor what it starts can gain privileges.
    pub no_new_privileges: bool,
    /// It leaves no core dump, and no other process of its user can look into it.
    pub no_dumps: bool,
}

impl Default for Hardened {
    fn default() -> Self {
        Self { landlock: "off".to_owned(), no_new_privileges: false, no_dumps: false }
    }
}

/// The process could not be restricted as it was told to be.
#[derive(Debug, thiserror::Error)]
pub enum HardeningError {
    /// The kernel does not do what must be done.
    #[error("this kernel does not enforce all of Landlock, and hardening.landlock is \"required\"")]
    NotEnforced,
    /// Landlock said no.
    #[error("the process could not be restricted to what it needs")]
    Landlock(#[from] RulesetError),
    /// The operating system said no.
    #[error("the process could not give up {what}")]
    System {
        /// What.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
}

/// No core dump, and no other process of the same user can look into this one.
///
/// # Errors
/// The operating system says no.
pub fn no_dumps() -> Result<(), HardeningError> {
    let failed = |what| {
        move |error: rustix::io::Errno| HardeningError::System { what, source: error.into() }
    };
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })
        .map_err(failed("core dumps"))?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(failed("being looked into"))
}

/// As many open files as this process may have: what it may have at most is taken, since every caller is one.
///
/// # Errors
/// The operating system says no.
pub fn open_files() -> Result<usize, HardeningError> {
    let limit = getrlimit(Resource::Nofile);
    let all = Rlimit { current: limit.maximum, maximum: limit.maximum };
    setrlimit(Resource::Nofile, all).map_err(|error| HardeningError::System {
        what: "its usual limit of open files for the highest it may have",
        source: error.into(),
    })?;
    let files = limit.maximum.and_then(|files| usize::try_from(files).ok());
    Ok(files.unwrap_or(usize::MAX))
}

/// Gives up all but `needs`.
///
/// # Errors
/// See [`HardeningError`].
pub fn restrict(landlock: Landlock, needs: &Needs) -> Result<Hardened, HardeningError> {
    no_dumps()?;
    rustix::thread::set_no_new_privs(true)
        .map_err(|error| HardeningError::System { what: "new privileges", source: error.into() })?;
    let landlock = match landlock {
        Landlock::Off => "off",
        wanted => {
            let status = confine(needs)?;
            if wanted == Landlock::Required && status != RulesetStatus::FullyEnforced {
                return Err(HardeningError::NotEnforced);
            }
            match status {
                RulesetStatus::FullyEnforced => "enforced",
                RulesetStatus::PartiallyEnforced => "partly",
                RulesetStatus::NotEnforced => "unsupported",
            }
        }
    };
    Ok(Hardened { landlock: landlock.to_owned(), no_new_privileges: true, no_dumps: true })
}

fn confine(needs: &Needs) -> Result<RulesetStatus, HardeningError> {
    let mut scope = Scope::Signal.into();
    if !needs.abstract_sockets {
        scope |= Scope::AbstractUnixSocket;
    }
    let ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(ASKED))?
        .handle_access(AccessNet::from_all(ASKED))?
        .scope::<BitFlags<Scope>>(scope)?
        .create()?;
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let write = AccessFs::from_all(ASKED) & !AccessFs::Execute;
    // What is not there can't be named, and need not be.
    let there = |paths: &[PathBuf], access: BitFlags<AccessFs>| -> Vec<PathBeneath<PathFd>> {
        let open = paths.iter().filter_map(|path| Some((path.is_dir(), PathFd::new(path).ok()?)));
        // A file can't be listed or have files made in it.
        let of = |is_dir| if is_dir { access } else { access & AccessFs::from_file(ASKED) };
        open.map(|(is_dir, open)| PathBeneath::new(open, of(is_dir))).collect()
    };
    let ruleset = ruleset
        .add_rules(there(&needs.read, read).into_iter().map(Ok::<_, RulesetError>))?
        .add_rules(there(&needs.write, write).into_iter().map(Ok::<_, RulesetError>))?
        .add_rules(
            there(&needs.run, read | AccessFs::Execute).into_iter().map(Ok::<_, RulesetError>),
        )?;
    let connect = needs.connect.iter().map(|port| NetPort::new(*port, AccessNet::ConnectTcp));
    let listen = needs.listen.iter().map(|port| NetPort::new(*port, AccessNet::BindTcp));
    let ruleset = ruleset.add_rules(connect.chain(listen).map(Ok::<_, RulesetError>))?;
    Ok(ruleset.restrict_self()?.ruleset)
}
