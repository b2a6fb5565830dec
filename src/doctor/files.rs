//! The files that the configuration leads to, but for those with secrets: the configuration itself, the audit log, the
//! embedded store; and whom the service runs as.

use std::{
    fs::{self, Metadata},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use super::{
    Scene,
    account::{Account, Obstacle, PASS, READ, WRITE, name_of},
    check::{Check, Trouble, What, quoted, typed},
};
use crate::{
    audit,
    config::{Config, ConfigError, StoreSettings},
    sealing::SealingKey,
    store::file::FileStore,
};

/// What came of reading the configuration.
pub(super) fn configuration(
    path: &Path,
    named_by: &str,
    loaded: Result<Config, ConfigError>,
) -> (Option<Config>, Check) {
    let what = What::Configuration;
    let edit = format!("\"${{EDITOR:-vi}}\" {}", quoted(path));
    let named = format!("{} ({named_by})", path.display());
    let check = match &loaded {
        Ok(config) if config.warnings.is_empty() => what.ok(named),
        Ok(config) => what.warn(format!("{named}: {}", config.warnings.join("; ")), edit),
        Err(ConfigError::Unreadable { source, .. }) => {
            let saw = format!("{named} can't be read: {source}");
            let fix = match source.kind() {
                std::io::ErrorKind::NotFound => {
                    "grantkeeper --config FILE doctor   # name yours; docs/configuration.md has one to begin with".to_owned()
                }
                std::io::ErrorKind::PermissionDenied => {
                    format!("sudo grantkeeper --config {} doctor", quoted(path))
                }
                _ => edit,
            };
            let denied = source.kind() == std::io::ErrorKind::PermissionDenied;
            let trouble = if denied { Trouble::Refused } else { Trouble::Configuration };
            what.fail(trouble, saw, fix)
        }
        Err(ConfigError::Mistakes { mistakes, .. }) => {
            let lines = mistakes.iter().map(|mistake| {
                let gap = if mistake.key.is_empty() { "" } else { " " };
                let (line, column) = (mistake.line, mistake.column);
                format!("{line}:{column}: {}{gap}{}; {}", mistake.key, mistake.what, mistake.hint)
            });
            let saw = format!("{named} has mistakes: {}", lines.collect::<Vec<_>>().join(" | "));
            what.fail(Trouble::Configuration, saw, edit)
        }
    };
    (loaded.ok(), check)
}

/// What only the service makes, the surest first: their owner is its user.
pub(super) fn own_paths(config: &Config) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = config.state.iter().map(|state| state.dir.clone()).collect();
    if let StoreSettings::File(file) = &config.store {
        paths.push(file.path.clone());
    }
    paths.extend(config.audit.as_ref().and_then(|audit| audit.file.clone()));
    paths
}

pub(super) fn look(scene: &Scene) -> Vec<Check> {
    let mut checks = vec![owner(scene), service_user(scene)];
    if let Some(config) = &scene.config {
        checks.push(audit_log(scene, config));
        checks.push(store_file(scene, config));
    }
    checks
}

/// What is wrong with who could write there: the service is led by it.
fn written_by(
    service: &Account,
    path: &Path,
    metadata: &Metadata,
) -> Option<(Trouble, String, String)> {
    let (mode, owner) = (metadata.mode() & 0o777, metadata.uid());
    let (shown, word) = (path.display(), quoted(path));
    if mode & 0o002 != 0 && metadata.mode() & 0o1000 == 0 {
        let saw = format!("every user of this machine may change {shown} (mode {mode:04o})");
        return Some((Trouble::Refused, saw, format!("chmod o-w {word}")));
    }
    if owner != 0 && owner != service.uid {
        let saw = format!("{shown} belongs to {}, who can change it", name_of(owner));
        return Some((Trouble::Refused, saw, format!("chown root {word}")));
    }
    if mode & 0o020 != 0 && metadata.gid() != 0 && metadata.gid() != service.gid {
        let saw = format!("the group {} may change {shown} (mode {mode:04o})", metadata.gid());
        return Some((Trouble::Refused, saw, format!("chmod g-w {word}")));
    }
    None
}

/// Whoever may change the configuration may have the client secret sent anywhere.
fn owner(scene: &Scene) -> Check {
    let (path, what) = (&scene.asked.config, What::Owner);
    let Ok(metadata) = fs::metadata(path) else {
        return what.skipped("there is no configuration file to look at (D01)");
    };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    let above = fs::metadata(folder).ok();
    let above = above.and_then(|above| written_by(&scene.service, folder, &above));
    if let Some((trouble, saw, fix)) = written_by(&scene.service, path, &metadata).or(above) {
        return what.fail(trouble, saw, scene.root(&fix));
    }
    match scene.service.reach(path, READ) {
        Ok(_) => what.ok(format!(
            "it belongs to {}, and {} may read it",
            name_of(metadata.uid()),
            scene.service.name
        )),
        Err(obstacle) => scene.blocked(&what.into(), "the configuration", &obstacle, READ),
    }
}

fn service_user(scene: &Scene) -> Check {
    let saw = format!("{} ({})", scene.service.name, scene.service_by);
    if !scene.service.is_root() {
        return What::ServiceUser.ok(saw);
    }
    let saw = format!("{saw}: whoever breaks into the service has the whole machine");
    let fix = "useradd --system --home-dir /nonexistent --shell /usr/sbin/nologin grantkeeper";
    let fix = format!("{}   # then give it the files, and run the service as it", scene.root(fix));
    What::ServiceUser.warn(saw, fix)
}

fn audit_log(scene: &Scene, config: &Config) -> Check {
    let what = What::AuditLog;
    let Some(settings) = &config.audit else {
        let saw = "none is configured: who was given which token is not written down";
        return what
            .warn(saw, scene.edit("add: [audit] and file = \"/var/log/grantkeeper/audit.jsonl\""));
    };
    let Some(file) = &settings.file else { return what.ok("it goes to standard error") };
    let service = &scene.service;
    let shown = file.display();
    match fs::metadata(file) {
        Ok(metadata) => {
            if let Err(error) = audit::closed_to_others(file, &metadata, service.uid) {
                let fix = typed(&error.hint(), file, &service.name);
                let fix: Vec<_> = fix.split("; ").map(|line| scene.root(line)).collect();
                return what.fail(Trouble::Refused, error.to_string(), fix.join("; "));
            }
            match service.reach(file, READ | WRITE) {
                Ok(_) => what.ok(format!("{shown} can be written by {}", service.name)),
                Err(obstacle) => {
                    scene.blocked(&what.into(), "the audit log", &obstacle, READ | WRITE)
                }
            }
        }
        Err(_) => match file.parent().map(|folder| service.reach(folder, WRITE | PASS)) {
            Some(Ok(_)) => what.ok(format!("{shown} is made at the first start")),
            Some(Err(obstacle)) => {
                scene.blocked(&what.into(), "the audit log's folder", &obstacle, WRITE | PASS)
            }
            None => what.skipped("it has no folder"),
        },
    }
}

fn store_file(scene: &Scene, config: &Config) -> Check {
    let what = What::StoreFile;
    let StoreSettings::File(settings) = &config.store else {
        return what.skipped("the store is not the embedded one");
    };
    let path = &settings.path;
    let metadata = match scene.service.reach(path, READ | WRITE) {
        Ok(metadata) => metadata,
        Err(Obstacle::Missing(missing)) if missing == *path => {
            let saw = format!("{} is not there", path.display());
            let fix = format!(
                "sudo -u {} grantkeeper --config {} app set --client-id \"$CLIENT_ID\" --create-key",
                scene.service.for_sudo(),
                quoted(&scene.asked.config)
            );
            return what.fail(Trouble::Configuration, saw, fix);
        }
        Err(obstacle) => return scene.blocked(&what.into(), "the store", &obstacle, READ | WRITE),
    };
    let Some(pid) = holder(&metadata) else {
        let saw = format!("{} can be read and written, and nobody holds it", path.display());
        // What is wrong with the key by itself is D09's.
        if !matches!(SealingKey::read(&settings.key_file), Ok(Some(_))) {
            return what.ok(saw);
        }
        return match FileStore::opens(settings.clone()) {
            Err(error) => {
                let files = format!("ls -l {} {}", quoted(path), quoted(&settings.key_file));
                what.fail(Trouble::Configuration, error.what, format!("{files}   # {}", error.hint))
            }
            Ok(true) => what.ok(format!("{saw}; its key opens it")),
            Ok(false) => {
                what.ok(format!("{saw}; whether its key opens it shows at the next start"))
            }
        };
    };
    let program = program(pid);
    let saw = format!("{} is open in process {pid} ({program})", path.display());
    if program.starts_with("grantkeeper") {
        what.ok(format!("{saw}, for a moment"))
    } else {
        what.warn(format!("{saw}: nobody else can use it meanwhile"), format!("ps -fp {pid}"))
    }
}

/// The process that holds a lock on the file, by the words of `/proc/locks`.
pub(super) fn holder(metadata: &Metadata) -> Option<i32> {
    let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
    let device = metadata.dev();
    held(&locks, rustix::fs::major(device), rustix::fs::minor(device), metadata.ino())
}

fn held(locks: &str, major: u32, minor: u32, inode: u64) -> Option<i32> {
    let wanted = format!("{major:02x}:{minor:02x}:{inode}");
    let line = locks.lines().find(|line| {
        // One that only waits is no holder.
        line.split_whitespace().any(|word| word == wanted) && !line.contains("->")
    })?;
    line.split_whitespace().nth(4)?.parse().ok()
}

/// What a process is called.
pub(super) fn program(pid: i32) -> String {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    if name.is_empty() { "another container's".to_owned() } else { name.trim().to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_of_a_lock_is_found_by_device_and_inode() {
        let locks = "1: FLOCK  ADVISORY  WRITE 1207 08:01:1312 0 EOF\n\
                     2: POSIX  ADVISORY  READ  44 00:1a:1312 128 128\n\
                     2: -> FLOCK  ADVISORY  WRITE 77 fe:00:9 0 EOF\n";
        assert_eq!(held(locks, 8, 1, 1312), Some(1207));
        assert_eq!(held(locks, 0, 0x1a, 1312), Some(44));
        assert_eq!(held(locks, 8, 1, 131), None);
        assert_eq!(held(locks, 0xfe, 0, 9), None, "who waits holds nothing");
    }
}
