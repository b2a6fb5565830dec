//! The door: the folder in which the socket is made, the socket as it is, its group, and whether those whom `[[access]]`
//! names get to it.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
};

use nix::unistd::{Gid, Group};

use super::{
    Scene,
    account::{Account, Obstacle, PASS, WRITE, name_of},
    check::{Check, Trouble, What, quoted},
    files::{holder, program},
    running::Answer,
};
use crate::{
    access::{Rule, Who},
    config::Config,
    socket::{ListenError, Settings},
};

pub(super) fn look(scene: &Scene) -> Vec<Check> {
    let Some(config) = &scene.config else { return Vec::new() };
    // As it is configured: one that was named on the command line is another's.
    let settings = &config.socket;
    let mut checks = vec![folder(scene, settings), socket(scene, settings), group(scene, settings)];
    checks.extend(access(scene, config));
    checks
}

fn group_name(gid: u32) -> String {
    let known = Group::from_gid(Gid::from_raw(gid)).ok().flatten();
    known.map_or_else(|| gid.to_string(), |group| group.name)
}

fn lock_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    name.into()
}

fn folder(scene: &Scene, settings: &Settings) -> Check {
    let (what, service) = (What::SocketFolder, &scene.service);
    let folder = settings.path.parent().unwrap_or(Path::new("/"));
    let word = quoted(folder);
    match service.reach(folder, WRITE | PASS) {
        Ok(metadata) if !metadata.is_dir() => {
            let error = ListenError::NoFolder(folder.to_owned());
            let edit = scene.edit("socket.path in another folder");
            return what.fail(Trouble::Configuration, error.to_string(), edit);
        }
        Ok(_) => {}
        Err(Obstacle::Missing(_)) => {
            let error = ListenError::NoFolder(folder.to_owned());
            let make = format!("install -d -m 0755 -o {} {word}", service.name);
            return what.fail(Trouble::Configuration, error.to_string(), scene.root(&make));
        }
        // The unit's folder is made by systemd, and its socket too.
        Err(_) if scene.running.by_systemd() => {
            return what.ok(format!("{}: systemd makes the socket", folder.display()));
        }
        Err(obstacle) => {
            return scene.blocked(&what.into(), "the socket's folder", &obstacle, WRITE | PASS);
        }
    }
    let lock = lock_of(&settings.path);
    let Ok(found) = fs::metadata(&lock) else {
        return what.ok(format!("{} can be written by {}", folder.display(), service.name));
    };
    if !service.may(WRITE, found.mode(), found.uid(), found.gid()) {
        let saw = format!(
            "{} belongs to {}, and {} can't open it",
            lock.display(),
            name_of(found.uid()),
            service.name
        );
        return what.fail(
            Trouble::Refused,
            saw,
            scene.root(&format!("chown {} {}", service.name, quoted(&lock))),
        );
    }
    let Some(pid) = holder(&found) else {
        let free = format!(
            "{} can be written by {}, and its lock is free",
            folder.display(),
            service.name
        );
        return what.ok(free);
    };
    let saw = format!("its lock is held by process {pid} ({})", program(pid));
    if scene.is_service(pid) {
        return what.ok(saw);
    }
    what.warn(format!("{saw}, which is not the service: it can't start"), format!("ps -fp {pid}"))
}

fn socket(scene: &Scene, settings: &Settings) -> Check {
    let what = What::Socket;
    let path = &settings.path;
    let (shown, word) = (path.display(), quoted(path));
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return what.ok(format!("{shown} is not there: it is made at a start"));
        }
        Err(_) => return what.skipped(format!("{shown}: {}", scene.not_for_me())),
    };
    if !found.file_type().is_socket() {
        let error = ListenError::NotASocket(path.clone());
        let fix = scene.root(&format!("mv {word} {word}.away"));
        return what.fail(Trouble::Configuration, error.to_string(), fix);
    }
    if *path == scene.socket && matches!(scene.running.answer, Answer::Stale) {
        let saw = format!("{shown} is stale: nobody listens on it, and the next start replaces it");
        return what.warn(saw, scene.root(&format!("rm {word}")));
    }
    let mode = found.mode() & 0o777;
    if mode & 0o002 != 0 {
        let error = ListenError::OpenToAll(path.clone());
        let fix = scene.root(&format!("chmod {:04o} {word}", settings.mode));
        return what.fail(Trouble::Refused, error.to_string(), fix);
    }
    let (wanted, by_systemd) = (settings.mode, scene.running.by_systemd());
    if mode != wanted && !by_systemd {
        let saw = format!("{shown} has mode {mode:04o}, and socket.mode says {wanted:04o}");
        return what.warn(saw, scene.root(&format!("chmod {wanted:04o} {word}")));
    }
    if let Some(gid) = settings.group.filter(|gid| *gid != found.gid() && !by_systemd) {
        let saw = format!(
            "{shown} is of the group {}, and socket.group says {}",
            group_name(found.gid()),
            group_name(gid)
        );
        return what.warn(saw, scene.root(&format!("chgrp {} {word}", group_name(gid))));
    }
    what.ok(format!(
        "{shown} (mode {mode:04o}, of {} and the group {})",
        name_of(found.uid()),
        group_name(found.gid())
    ))
}

fn group(scene: &Scene, settings: &Settings) -> Check {
    let (what, service) = (What::SocketGroup, &scene.service);
    let Some(gid) = settings.group else {
        return what
            .ok(format!("none is configured: only {} and root can open the socket", service.name));
    };
    let name = group_name(gid);
    let known = Group::from_gid(Gid::from_raw(gid)).ok().flatten();
    if !service.is_root() && !service.is_in(gid) && !scene.running.by_systemd() {
        let saw =
            format!("{} is not in the group {name}, and can't give the socket to it", service.name);
        let fix = scene.root(&format!("usermod -aG {name} {}", service.name));
        return what.fail(Trouble::Refused, saw, format!("{fix}   # and start the service again"));
    }
    let members = known.map(|group| group.mem).unwrap_or_default();
    if members.is_empty() {
        return what.ok(format!(
            "{name}; the group database names no member, beside those whose first group it is"
        ));
    }
    what.ok(format!("{name}: {}", members.join(", ")))
}

fn access(scene: &Scene, config: &Config) -> Vec<Check> {
    if config.access.is_empty() {
        let saw = format!("no [[access]]: nobody but {} gets anything", scene.service.name);
        return vec![What::Access.ok(saw)];
    }
    config.access.iter().map(|rule| entry(scene, &config.socket, rule)).collect()
}

/// Whether those whom a rule names can open the socket at all.
fn entry(scene: &Scene, settings: &Settings, rule: &Rule) -> Check {
    let group = settings.group.filter(|_| settings.mode & 0o060 == 0o060);
    // What systemd made is as it is.
    let found = fs::metadata(&settings.path).ok().filter(|_| scene.running.by_systemd());
    let group = found.map_or(group, |found| (found.mode() & 0o060 == 0o060).then_some(found.gid()));
    let opens = |uid: u32| {
        let account = Account::of(uid);
        account.uid == scene.service.uid
            || account.is_root()
            || group.is_some_and(|gid| account.is_in(gid))
    };
    let (subject, inside) = match &rule.who {
        Who::Uid(uid) => (format!("user {}", Account::of(*uid).name), opens(*uid)),
        Who::Group { gid, members } => {
            let each = !members.is_empty() && members.iter().all(|uid| opens(*uid));
            (format!("group {}", group_name(*gid)), group == Some(*gid) || each)
        }
    };
    let check = What::Access.of(&subject);
    if inside {
        return check.ok(rule.to_string());
    }
    let Some(gid) = group else {
        let saw = format!("{rule}; but the socket is in no group, and they can't open it");
        let wanted = match &rule.who {
            Who::Group { gid, .. } => group_name(*gid),
            Who::Uid(_) => "…".to_owned(),
        };
        return check.warn(
            saw,
            scene.edit(&format!("[socket] group = \"{wanted}\", which the callers are in")),
        );
    };
    let name = group_name(gid);
    match &rule.who {
        Who::Uid(uid) => check.warn(
            format!("{rule}; but that user is not in the socket's group {name}, and can't open it"),
            scene.root(&format!("usermod -aG {name} {}", Account::of(*uid).name)),
        ),
        Who::Group { gid, .. } => {
            let each = scene.root(&format!("usermod -aG {name} \"$user\""));
            check.warn(
                format!("{rule}; but the socket's group is {name}: only those who are in both can open it"),
                format!("for user in $(getent group {gid} | cut -d: -f4 | tr , ' '); do {each}; done"),
            )
        }
    }
}
