//! The disks beneath: the journal's folder, what kind of file system files are on, how much room there is, and whether
//! what is written can be made durable.

use std::{
    fs::{self, Metadata},
    io::Write,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::fs::{StatVfsMountFlags, statfs, statvfs};

use super::{
    Scene,
    account::{Obstacle, PASS, READ, WRITE, name_of},
    check::{Check, Of, Trouble, What, quoted, typed},
    files::{holder, program},
};
use crate::{
    config::{Config, StoreSettings},
    journal::FolderError,
    time::{Clock, SystemClock},
};

/// Less room than this is none: a batch of answers and the next segment.
const LEAST_ROOM: u64 = 1024 * 1024;
/// With less than this it is soon over.
const LITTLE_ROOM: u64 = 64 * 1024 * 1024;
const FEW_FILES: u64 = 1000;
/// What is written to see whether it can be.
const SAMPLE: usize = 64 * 1024;
/// Each refresh waits for the disk twice.
const SLOW: Duration = Duration::from_millis(500);

pub(super) fn look(scene: &Scene) -> Vec<Check> {
    let Some(config) = &scene.config else { return Vec::new() };
    let mut checks = vec![state_dir(scene, config), sync(scene, config)];
    let places = places(config);
    if places.is_empty() {
        let why = "nothing is kept on this machine";
        checks.extend([What::FileSystem.skipped(why), What::Room.skipped(why)]);
    }
    for (name, place) in places {
        checks.push(file_system(scene, name, &place));
        checks.push(room(scene, name, &place));
    }
    checks
}

/// The folders in which something is kept, as far as there is one by now.
fn places(config: &Config) -> Vec<(&'static str, PathBuf)> {
    let mut places = Vec::new();
    places.extend(config.state.as_ref().map(|state| ("state_dir", state.dir.clone())));
    if let StoreSettings::File(file) = &config.store {
        places.extend(file.path.parent().map(|folder| ("store", folder.to_owned())));
    }
    let log = config.audit.as_ref().and_then(|audit| audit.file.as_deref());
    places.extend(log.and_then(Path::parent).map(|folder| ("audit log", folder.to_owned())));
    let there = |path: PathBuf| path.ancestors().find(|part| part.exists()).map(Path::to_owned);
    places.into_iter().filter_map(|(name, path)| Some((name, there(path)?))).collect()
}

fn state_dir(scene: &Scene, config: &Config) -> Check {
    let what = What::StateDir;
    let service = &scene.service;
    let Some(state) = &config.state else {
        let saw = "none is configured: a kill in mid-refresh can lose a grant, and a restart refreshes every portal anew";
        let make = format!("install -d -m 0700 -o {} /var/lib/grantkeeper", service.name);
        let edit = scene.edit("state_dir = \"/var/lib/grantkeeper\" above all sections");
        return what.warn(saw, format!("{} && {edit}", scene.root(&make)));
    };
    let dir = &state.dir;
    let (shown, word) = (dir.display(), quoted(dir));
    match fs::metadata(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let parent = dir.parent().unwrap_or(Path::new("/"));
            match service.reach(parent, WRITE | PASS) {
                Ok(_) => what.ok(format!("{shown} is made at the first start")),
                Err(Obstacle::Unseen(..)) => {
                    what.skipped(format!("{shown}: {}", scene.not_for_me()))
                }
                Err(_) => {
                    let make = format!("install -d -m 0700 -o {} {word}", service.name);
                    let saw = format!("{shown} is not there, and {} can't make it", service.name);
                    what.fail(Trouble::Configuration, saw, scene.root(&make))
                }
            }
        }
        Err(_) => what.skipped(format!("{shown}: {}", scene.not_for_me())),
        Ok(metadata) if !metadata.is_dir() => {
            let away = scene.root(&format!("mv {word} {word}.away"));
            let make = scene.root(&format!("install -d -m 0700 -o {} {word}", service.name));
            let saw = format!("{shown} is no folder");
            what.fail(Trouble::Configuration, saw, format!("{away} && {make}"))
        }
        Ok(metadata) => kept_closed(scene, dir, &metadata),
    }
}

/// Whether the folder and what the service has made in it is its own.
fn kept_closed(scene: &Scene, dir: &Path, metadata: &Metadata) -> Check {
    let (what, service) = (What::StateDir, &scene.service);
    let mode = metadata.mode() & 0o777;
    let refused = if metadata.uid() != service.uid && !service.is_root() {
        Some(FolderError::Foreign(dir.to_owned()))
    } else if mode & 0o022 != 0 {
        Some(FolderError::Open { path: dir.to_owned(), mode })
    } else {
        None
    };
    if let Some(error) = refused {
        let fix = scene.root(&typed(&error.hint(), dir, &service.name));
        return what.fail(Trouble::Refused, error.to_string(), fix);
    }
    if let Err(obstacle) = service.reach(dir, READ | WRITE | PASS) {
        return scene.blocked(&what.into(), "state_dir", &obstacle, READ | WRITE | PASS);
    }
    // A command that root ran leaves files that only root can open.
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let foreign = entries.filter_map(|entry| Some((entry.path(), entry.metadata().ok()?)));
    let mut foreign = foreign.filter(|(_, found)| {
        found.is_file() && !service.may(READ | WRITE, found.mode(), found.uid(), found.gid())
    });
    if let Some((file, found)) = foreign.next() {
        let saw = format!(
            "{} belongs to {}, and {} can't open it",
            file.display(),
            name_of(found.uid()),
            service.name
        );
        let fix = format!("chown -R {} {}", service.name, quoted(dir));
        return what.fail(Trouble::Refused, saw, scene.root(&fix));
    }
    let saw = format!("{} is {}'s alone to write (mode {mode:04o})", dir.display(), service.name);
    let lock = fs::metadata(dir.join("lock")).ok();
    let Some(holder) = lock.and_then(|lock| holder(&lock)) else { return what.ok(saw) };
    let name = program(holder);
    let saw = format!("{saw}, and in use by process {holder} ({name})");
    if scene.is_service(holder) {
        return what.ok(saw);
    }
    what.warn(
        format!("{saw}, which is not the service: it can't start"),
        format!("ps -fp {holder}"),
    )
}

/// What kind of file system something is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Disk,
    Memory,
    Network(&'static str),
    Layer,
}

/// By the numbers of statfs(2).
fn kind(magic: u64) -> Kind {
    match magic & 0xffff_ffff {
        0x0102_1994 | 0x8584_58f6 => Kind::Memory,
        0x6969 => Kind::Network("NFS"),
        0x517b | 0xff53_4d42 | 0xfe53_4d42 => Kind::Network("SMB"),
        0x00c3_6400 => Kind::Network("Ceph"),
        0x0102_1997 => Kind::Network("9p"),
        0x6573_5546 => Kind::Network("FUSE"),
        0x794c_7630 => Kind::Layer,
        _ => Kind::Disk,
    }
}

fn file_system(scene: &Scene, name: &str, place: &Path) -> Check {
    let check = What::FileSystem.of(name);
    let shown = place.display();
    let (Ok(found), Ok(mounted)) = (statfs(place), statvfs(place)) else {
        return check.skipped(format!("{shown}: {}", scene.not_for_me()));
    };
    let remount = scene.root(&format!(
        "mount -o remount,rw \"$(df --output=target {} | tail -n 1)\"",
        quoted(place)
    ));
    if mounted.f_flag.contains(StatVfsMountFlags::RDONLY) {
        return check.fail(Trouble::Machine, format!("{shown} is mounted read-only"), remount);
    }
    let find = format!("findmnt -T {}", quoted(place));
    #[expect(clippy::cast_sign_loss, reason = "a magic number, whatever its sign")]
    match kind(found.f_type as u64) {
        Kind::Disk => check.ok(format!("{shown} is on a disk of this machine")),
        Kind::Memory => check.warn(
            format!("{shown} is in memory: a restart of the machine loses it"),
            scene.edit(&format!("keep it on a disk ({find} shows where it is)")),
        ),
        Kind::Network(kind) => check.warn(
            format!("{shown} is on {kind}: locks and durable writes may not hold there"),
            scene.edit(&format!("keep it on a disk of this machine ({find})")),
        ),
        Kind::Layer => check.warn(
            format!("{shown} is in the container's own layer: it goes with the container"),
            format!("{find}   # mount a volume there"),
        ),
    }
}

fn room(scene: &Scene, name: &str, place: &Path) -> Check {
    let check = What::Room.of(name);
    let shown = place.display();
    let Ok(found) = statvfs(place) else {
        return check.skipped(format!("{shown}: {}", scene.not_for_me()));
    };
    let bytes = found.f_bavail.saturating_mul(found.f_frsize);
    let files = (found.f_files > 0).then_some(found.f_favail);
    let fix = scene.root(&format!("du -xh --max-depth=2 {} | sort -h | tail", quoted(place)));
    judge_room(&check, &shown.to_string(), bytes, files, &fix)
}

/// Files that can yet be made are none where the file system does not count them.
fn judge_room(check: &Of, place: &str, bytes: u64, files: Option<u64>, fix: &str) -> Check {
    let mib = bytes / (1024 * 1024);
    let fix = format!("{fix}   # what takes the room; then make some");
    if bytes < LEAST_ROOM {
        return check.fail(Trouble::Machine, format!("{place} is full ({bytes} bytes free)"), fix);
    }
    if files == Some(0) {
        return check.fail(
            Trouble::Machine,
            format!("{place} can hold no further file (no inode is free)"),
            fix,
        );
    }
    if bytes < LITTLE_ROOM {
        return check.warn(format!("{place} has {mib} MiB free"), fix);
    }
    if let Some(files) = files.filter(|files| *files < FEW_FILES) {
        return check.warn(format!("{place} can hold {files} further files (inodes)"), fix);
    }
    check.ok(format!("{place} has {mib} MiB free"))
}

fn sync(scene: &Scene, config: &Config) -> Check {
    let what = What::Sync;
    let Some(state) = &config.state else { return what.skipped("there is no state_dir (D05)") };
    let dir = &state.dir;
    if !dir.is_dir() {
        return what.skipped("state_dir is not there yet");
    }
    if !scene.sees() {
        return what.skipped(scene.not_for_me());
    }
    let began = SystemClock.boot();
    // A file without a name, that nobody sees and that is gone with this process.
    let tried = tempfile::tempfile_in(dir).and_then(|mut file| {
        file.write_all(&vec![0; SAMPLE])?;
        file.sync_all()
    });
    let took = SystemClock.boot().since(began);
    match tried {
        Ok(()) => judge_sync(took),
        Err(error) => {
            let saw = format!("{} does not take what is written: {error}", dir.display());
            let fix = format!("df -h {0}; df -i {0}; findmnt -T {0}", quoted(dir));
            what.fail(Trouble::Machine, saw, fix)
        }
    }
}

fn judge_sync(took: Duration) -> Check {
    let saw = format!("{} KiB were durable after {} ms", SAMPLE / 1024, took.as_millis());
    if took < SLOW {
        return What::Sync.ok(saw);
    }
    let saw = format!("{saw}: each refresh waits for that twice");
    What::Sync.warn(saw, "cat /proc/pressure/io   # who keeps the disk busy: iotop, iostat -x 1")
}

#[cfg(test)]
mod tests {
    use super::{super::check::State, *};

    #[test]
    fn file_systems_are_told_by_their_numbers() {
        for (magic, expected) in [
            (0xef53, Kind::Disk),
            (0x0102_1994, Kind::Memory),
            (0x6969, Kind::Network("NFS")),
            (0xffff_ffff_ff53_4d42, Kind::Network("SMB")),
            (0x6573_5546, Kind::Network("FUSE")),
            (0x794c_7630, Kind::Layer),
        ] {
            assert_eq!(kind(magic), expected, "{magic:x}");
        }
    }

    #[test]
    fn room_is_bytes_and_files() {
        let mib = 1024 * 1024;
        for (bytes, files, state) in [
            (0, Some(9999), State::Fail),
            (mib - 1, None, State::Fail),
            (mib, Some(9999), State::Warn),
            (64 * mib, Some(0), State::Fail),
            (64 * mib, Some(999), State::Warn),
            (64 * mib, Some(1000), State::Ok),
            (64 * mib, None, State::Ok),
        ] {
            let check = judge_room(&What::Room.of("x"), "/x", bytes, files, "du");
            assert_eq!(check.state, state, "{bytes} {files:?}: {check:?}");
            assert_eq!(check.fix.is_some(), state != State::Ok);
        }
    }

    #[test]
    fn a_disk_that_takes_half_a_second_is_worth_a_word() {
        assert_eq!(judge_sync(Duration::from_millis(499)).state, State::Ok);
        assert_eq!(judge_sync(Duration::from_millis(500)).state, State::Warn);
    }
}
