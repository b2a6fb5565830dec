//! Users and what they may: who the service runs as, and whether a user gets to a file, by owner, group and mode.

use std::{
    ffi::CString,
    fs::{self, Metadata},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use nix::unistd::{Gid, Uid, User, getgrouplist};
use rustix::fs::{Access, AtFlags, CWD, accessat, getxattr};

/// A user with all groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) groups: Vec<u32>,
    /// Its name; its number, where it has none.
    pub(super) name: String,
}

/// Bits of one who reads, writes or passes.
pub(super) const READ: u32 = 4;
pub(super) const WRITE: u32 = 2;
pub(super) const PASS: u32 = 1;

/// Why a user does not get to a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Obstacle {
    /// It is not there.
    Missing(PathBuf),
    /// By its owner and mode.
    Closed { path: PathBuf, mode: u32, owner: u32, last: bool },
    /// An access list stands over owner and mode.
    Listed(PathBuf),
    /// It can't even be looked at from here.
    Unseen(PathBuf, io::ErrorKind),
}

impl Account {
    /// The user of this process, with the groups that it is in.
    pub(super) fn me() -> Self {
        let uid = rustix::process::geteuid().as_raw();
        let gid = rustix::process::getegid().as_raw();
        let groups = rustix::process::getgroups().unwrap_or_default();
        let groups = groups.into_iter().map(rustix::process::Gid::as_raw).collect();
        let known = User::from_uid(Uid::from_raw(uid)).ok().flatten();
        Self { uid, gid, groups, name: known.map_or_else(|| uid.to_string(), |user| user.name) }
    }

    /// The user by number, with the groups that the machine puts it in. A number without a name is in none.
    pub(super) fn of(uid: u32) -> Self {
        let Ok(Some(user)) = User::from_uid(Uid::from_raw(uid)) else {
            return Self { uid, gid: uid, groups: Vec::new(), name: uid.to_string() };
        };
        let listed = CString::new(user.name.clone()).ok();
        let groups = listed.and_then(|name| getgrouplist(&name, user.gid).ok()).unwrap_or_default();
        let groups = groups.into_iter().map(Gid::as_raw).collect();
        Self { uid, gid: user.gid.as_raw(), groups, name: user.name }
    }

    pub(super) const fn is_root(&self) -> bool {
        self.uid == 0
    }

    /// Who it is, as `sudo -u` wants to hear it.
    pub(super) fn for_sudo(&self) -> String {
        let number = self.name.bytes().all(|byte| byte.is_ascii_digit());
        if number { format!("'#{}'", self.name) } else { self.name.clone() }
    }

    pub(super) fn is_in(&self, gid: u32) -> bool {
        self.gid == gid || self.groups.contains(&gid)
    }

    /// Whether owner, group and `mode` let this user do all of `wanted`.
    pub(super) fn may(&self, wanted: u32, mode: u32, owner: u32, group: u32) -> bool {
        let bits = if self.is_root() {
            7
        } else if self.uid == owner {
            mode >> 6
        } else if self.is_in(group) {
            mode >> 3
        } else {
            mode
        };
        bits & wanted == wanted
    }

    /// Whether this user gets to `path` and may do `wanted` there.
    pub(super) fn reach(&self, path: &Path, wanted: u32) -> Result<Metadata, Obstacle> {
        let real = fs::canonicalize(path);
        let real = real.as_deref().unwrap_or(path);
        let mut parts: Vec<&Path> =
            real.ancestors().filter(|p| !p.as_os_str().is_empty()).collect();
        parts.reverse();
        let mut found = None;
        for part in parts {
            let metadata = match fs::metadata(part) {
                Ok(metadata) => metadata,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Err(Obstacle::Missing(part.to_owned()));
                }
                Err(error) => return Err(Obstacle::Unseen(part.to_owned(), error.kind())),
            };
            let last = part == real;
            let wanted = if last { wanted } else { PASS };
            let (mode, owner) = (metadata.mode() & 0o777, metadata.uid());
            let closed = !self.may(wanted, mode, owner, metadata.gid());
            if closed && !self.kernel_lets(part, wanted) {
                let path = part.to_owned();
                return Err(if has_list(part) {
                    Obstacle::Listed(path)
                } else {
                    Obstacle::Closed { path, mode, owner, last }
                });
            }
            found = Some(metadata);
        }
        found.ok_or_else(|| Obstacle::Missing(path.to_owned()))
    }

    /// The kernel's word, for this process's own user: it knows of access lists and capabilities.
    fn kernel_lets(&self, path: &Path, wanted: u32) -> bool {
        if self.uid != rustix::process::geteuid().as_raw() {
            return false;
        }
        let mut access = Access::empty();
        for (bit, right) in
            [(READ, Access::READ_OK), (WRITE, Access::WRITE_OK), (PASS, Access::EXEC_OK)]
        {
            if wanted & bit != 0 {
                access |= right;
            }
        }
        accessat(CWD, path, access, AtFlags::EACCESS).is_ok()
    }
}

/// Whether an access list says more than the mode does (acl(5)).
fn has_list(path: &Path) -> bool {
    let mut room = [0_u8; 1024];
    match getxattr(path, "system.posix_acl_access", &mut room[..]) {
        Ok(length) => length > 0,
        Err(error) => error == rustix::io::Errno::RANGE,
    }
}

/// The user's name, or its number.
pub(super) fn name_of(uid: u32) -> String {
    let known = User::from_uid(Uid::from_raw(uid)).ok().flatten();
    known.map_or_else(|| format!("uid {uid}"), |user| user.name)
}

/// By what the service's user can be known.
#[derive(Debug, Default)]
pub(super) struct Evidence {
    /// Said on the command line.
    pub(super) named: Option<String>,
    /// Who made the socket that answers, if that was the service.
    pub(super) running: Option<u32>,
    /// What only the service makes, the surest first.
    pub(super) paths: Vec<PathBuf>,
}

/// The name that the units in `deploy/systemd` give it.
const USUAL: &str = "grantkeeper";

impl Evidence {
    /// The user, and how it is known.
    ///
    /// # Errors
    /// The name that was given is no user's.
    pub(super) fn find(self) -> Result<(Account, &'static str), String> {
        if let Some(name) = self.named {
            let user = User::from_name(&name).ok().flatten().map(|user| user.uid.as_raw());
            let uid = user.or_else(|| name.parse().ok()).ok_or(name)?;
            return Ok((Account::of(uid), "named by --user"));
        }
        if let Some(uid) = self.running {
            return Ok((Account::of(uid), "who the running service is"));
        }
        if let Some(metadata) = self.paths.iter().find_map(|path| fs::metadata(path).ok()) {
            return Ok((Account::of(metadata.uid()), "who owns what the service has made"));
        }
        let mut folders = self.paths.iter().filter_map(|path| fs::metadata(path.parent()?).ok());
        if let Some(folder) = folders.find(|folder| folder.uid() != 0) {
            return Ok((
                Account::of(folder.uid()),
                "who owns the folder of what the service makes",
            ));
        }
        if let Ok(Some(user)) = User::from_name(USUAL) {
            return Ok((Account::of(user.uid.as_raw()), "the usual name; --user names another"));
        }
        Ok((Account::me(), "this user, for want of a sign; --user names another"))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn account(uid: u32, groups: &[u32]) -> Account {
        Account { uid, gid: uid, groups: groups.to_vec(), name: "x".to_owned() }
    }

    #[test]
    fn the_first_class_that_fits_decides_as_in_the_kernel() {
        let rows = [
            (account(1, &[]), READ, 0o400, true),
            (account(1, &[]), READ, 0o044, false),
            (account(2, &[9]), READ, 0o040, true),
            (account(2, &[9]), READ, 0o404, false),
            (account(2, &[]), READ, 0o004, true),
            (account(2, &[]), WRITE, 0o005, false),
            (account(2, &[]), WRITE | PASS, 0o003, true),
            (account(0, &[]), WRITE, 0o000, true),
        ];
        for (who, wanted, mode, expected) in rows {
            assert_eq!(who.may(wanted, mode, 1, 9), expected, "{who:?} {wanted} {mode:o}");
        }
    }

    #[test]
    fn a_folder_on_the_way_that_can_t_be_passed_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let (folder, file) = (dir.path().join("a"), dir.path().join("a/b"));
        fs::create_dir(&folder).unwrap();
        fs::write(&file, "").unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        let stranger = account(64_777, &[]);
        let met = stranger.reach(&file, READ).unwrap_err();
        let closed = |path: &Path, last| matches!(&met, Obstacle::Closed { path: at, last: of, .. } if at == path && *of == last);
        assert!(closed(&fs::canonicalize(&folder).unwrap(), false), "{met:?}");
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o711)).unwrap();
        assert!(stranger.reach(&file, READ).is_ok());
        let met = stranger.reach(&file, WRITE).unwrap_err();
        assert!(matches!(met, Obstacle::Closed { last: true, mode: 0o644, .. }), "{met:?}");
        let met = stranger.reach(&folder.join("no/such"), READ).unwrap_err();
        assert!(matches!(met, Obstacle::Missing(_)), "{met:?}");
    }

    #[test]
    fn the_service_s_user_is_known_by_the_surest_sign_there_is() {
        let dir = tempfile::tempdir().unwrap();
        let own = fs::metadata(dir.path()).unwrap().uid();
        let paths = vec![dir.path().join("none"), dir.path().to_owned()];
        let named =
            Evidence { named: Some("64001".into()), running: Some(3), paths: paths.clone() };
        assert_eq!(named.find().unwrap().0.uid, 64_001);
        let running = Evidence { named: None, running: Some(64_003), paths: paths.clone() };
        assert_eq!(running.find().unwrap().0.uid, 64_003);
        assert_eq!(Evidence { paths, ..Evidence::default() }.find().unwrap().0.uid, own);
        let nobody = Evidence { named: Some("no such user".into()), ..Evidence::default() };
        assert_eq!(nobody.find().unwrap_err(), "no such user");
    }
}
