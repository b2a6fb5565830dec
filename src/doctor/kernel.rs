//! What the kernel gives and takes: clocks, limits, swap, core dumps, Landlock; and which of HubSpot's API versions are
//! over.

use std::{fs, path::Path};

use jiff::{Timestamp, civil::Date, tz::TimeZone};

use super::{
    Scene,
    check::{Check, Trouble, What},
};
use crate::{
    config::Config,
    hardening::{self, Landlock},
    hubspot::ApiVersion,
    socket::Limits,
    time::{Clock, SystemClock},
};

/// HubSpot ends its first OAuth API on this day (study `hubspot.md` 1.1).
const V1_ENDS: Date = jiff::civil::date(2027, 2, 16);
/// Programs that keep the clock right.
const KEEPERS: [&str; 7] =
    ["systemd-timesyn", "chronyd", "ntpd", "openntpd", "ntpsec", "ptp4l", "phc2sys"];

pub(super) fn look(scene: &Scene) -> Vec<Check> {
    let mut checks = vec![boot_clock(), time_sync(scene), core_dumps(scene), swap(scene)];
    if let Some(config) = &scene.config {
        let edit = scene.edit("hubspot.api_version = \"2026-03\"");
        checks.push(api_version(config.hubspot.api_version, SystemClock.wall(), edit));
        checks.push(open_files(scene, config.socket.limits));
        checks.push(landlock(scene, config));
    }
    checks
}

fn api_version(version: ApiVersion, now: Timestamp, fix: String) -> Check {
    let what = What::ApiVersion;
    if version != ApiVersion::V1 {
        return what.ok(version.to_string());
    }
    let today = TimeZone::UTC.to_datetime(now).date();
    let days = today.until(V1_ENDS).map(|span| span.get_days()).unwrap_or_default();
    if days <= 0 {
        let saw =
            format!("HubSpot's v1 ended on {V1_ENDS}; stored refresh tokens work with 2026-03");
        return what.fail(Trouble::Configuration, saw, fix);
    }
    let saw = format!(
        "HubSpot's v1 ends on {V1_ENDS}, in {days} days; stored refresh tokens work with 2026-03"
    );
    what.warn(saw, fix)
}

fn boot_clock() -> Check {
    let clock = SystemClock;
    let (since, run) = (clock.boot().since_boot(), clock.boot_id());
    if !run.is_same_as(&run) {
        let saw = "the kernel does not name this run of the machine: after a restart of the service, token life is judged by the wall clock";
        return What::BootClock
            .warn(saw, "cat /proc/sys/kernel/random/boot_id   # let the service's /proc show it");
    }
    What::BootClock.ok(format!("it counts {} s since the machine started", since.as_secs()))
}

fn time_sync(scene: &Scene) -> Check {
    let what = What::TimeSync;
    if Path::new("/run/systemd/timesync/synchronized").exists() {
        return what.ok("systemd-timesyncd says that the clock is right");
    }
    if let Some(keeper) = processes().find(|name| KEEPERS.contains(&name.as_str())) {
        return what.ok(format!("{keeper} runs"));
    }
    let contained = ["/.dockerenv", "/run/.containerenv", "/run/systemd/container"];
    if contained.iter().any(|sign| Path::new(sign).exists()) {
        return what.skipped("a container has its host's clock");
    }
    let saw =
        "no program that keeps the clock right is seen to run (systemd-timesyncd, chronyd, ntpd)";
    what.warn(saw, scene.root("timedatectl set-ntp true"))
}

/// The names of the programs that run.
fn processes() -> impl Iterator<Item = String> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| {
        entry.file_name().to_str()?.parse::<u32>().ok()?;
        Some(fs::read_to_string(entry.path().join("comm")).ok()?.trim().to_owned())
    })
}

/// The hard limit of the service, if it runs, else of a process like this one.
fn open_files(scene: &Scene, limits: Limits) -> Check {
    let own = || fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let told = scene.running.limits.clone();
    let whose = if told.is_some() { "the service" } else { "a process started from here" };
    let text = told.unwrap_or_else(own);
    judge_files(
        hard_limit(&text, "Max open files"),
        limits,
        whose,
        &scene.root("systemctl edit grantkeeper.service"),
    )
}

fn judge_files(files: Option<usize>, limits: Limits, whose: &str, edit: &str) -> Check {
    let what = What::OpenFiles;
    let Some(files) = files else { return what.skipped("the kernel does not tell the limit") };
    let fitting = limits.within(files);
    if fitting == limits {
        let wanted = limits.connections;
        return what
            .ok(format!("{whose} may have {files} open, for {wanted} connections and more"));
    }
    let saw = format!(
        "{whose} may have {files} open: there will be {} connections, and not the {} of socket.connections",
        fitting.connections, limits.connections
    );
    let fix =
        format!("{edit}   # [Service] and LimitNOFILE=65536; without systemd: ulimit -Hn 65536");
    what.warn(saw, fix)
}

/// A hard limit in the words of `/proc/<pid>/limits`; unlimited is the largest number.
fn hard_limit(text: &str, name: &str) -> Option<usize> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    match line.split_whitespace().nth(1)? {
        "unlimited" => Some(usize::MAX),
        number => number.parse().ok(),
    }
}

fn core_dumps(scene: &Scene) -> Check {
    let Some(limits) = &scene.running.limits else {
        return What::CoreDumps
            .ok("the service gives them up before it begins, and no other process looks into it");
    };
    match hard_limit(limits, "Max core file size") {
        Some(0) => What::CoreDumps.ok("the running service can leave none"),
        _ => What::CoreDumps.warn(
            "the running service could leave one: it is not one that gave them up",
            scene.root("systemctl restart grantkeeper"),
        ),
    }
}

/// Where memory can be put away, and whether it is sealed there.
#[derive(Debug, PartialEq, Eq)]
struct Swap {
    name: String,
    sealed: bool,
}

fn swap(scene: &Scene) -> Check {
    let text = fs::read_to_string("/proc/swaps").unwrap_or_default();
    let swaps = swaps(&text, |device| {
        let device = fs::canonicalize(device).unwrap_or_else(|_| device.into());
        let name = device.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let uuid = fs::read_to_string(format!("/sys/block/{name}/dm/uuid"));
        name.starts_with("zram") || uuid.is_ok_and(|uuid| uuid.starts_with("CRYPT-"))
    });
    let disk = fs::read_to_string("/sys/power/disk").unwrap_or_default();
    let sleeps = fs::read_to_string("/sys/power/state").unwrap_or_default();
    let hibernates =
        sleeps.split_whitespace().any(|word| word == "disk") && !disk.contains("[disabled]");
    judge_swap(&swaps, hibernates, &scene.root("swapoff -a"))
}

fn swaps(text: &str, sealed: impl Fn(&str) -> bool) -> Vec<Swap> {
    let names = text.lines().skip(1).filter_map(|line| line.split_whitespace().next());
    names.map(|name| Swap { name: name.to_owned(), sealed: sealed(name) }).collect()
}

fn judge_swap(swaps: &[Swap], hibernates: bool, off: &str) -> Check {
    let open: Vec<&str> =
        swaps.iter().filter(|swap| !swap.sealed).map(|swap| swap.name.as_str()).collect();
    if swaps.is_empty() {
        return What::Swap.ok("there is none, and so no hibernation");
    }
    if open.is_empty() {
        return What::Swap.ok("all of it is encrypted, or in memory");
    }
    let also = if hibernates { ", and the machine can hibernate to it" } else { "" };
    let saw =
        format!("{} is not encrypted{also}: tokens in memory can end on the disk", open.join(", "));
    What::Swap.warn(
        saw,
        format!("{off}   # and take it out of /etc/fstab, or encrypt it (crypttab: swap)"),
    )
}

fn landlock(scene: &Scene, config: &Config) -> Check {
    let (what, wanted) = (What::Landlock, config.landlock);
    if wanted == Landlock::Off {
        let saw = "hardening.landlock is \"off\": who breaks into the service gets to every file of its user";
        return what.warn(saw, scene.edit("hardening.landlock = \"best_effort\""));
    }
    judge_landlock(
        hardening::landlock_version(),
        wanted == Landlock::Required,
        scene.edit("hardening.landlock = \"best_effort\""),
    )
}

fn judge_landlock(version: u32, required: bool, fix: String) -> Check {
    let what = What::Landlock;
    let all = hardening::LANDLOCK_WANTED;
    let saw = match version {
        0 => "the kernel has none, or it is not switched on (boot with lsm=landlock,…)".to_owned(),
        version => {
            format!("the kernel has version {version}; all that is asked for is in version {all}")
        }
    };
    match (version >= all, required) {
        (true, _) => what.ok(saw),
        (false, true) => what.fail(
            Trouble::Refused,
            format!("{saw}, and hardening.landlock is \"required\""),
            fix,
        ),
        (false, false) => {
            what.warn(saw, "cat /sys/kernel/security/lsm; uname -r   # 6.12 or later has all of it")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::check::State, *};

    #[test]
    fn v1_warns_until_the_day_it_ends_and_fails_from_then_on() {
        for (version, now, state) in [
            (ApiVersion::V1, "2026-11-26T00:00:00Z", State::Warn),
            (ApiVersion::V1, "2027-02-15T23:59:59Z", State::Warn),
            (ApiVersion::V1, "2027-02-16T00:00:00Z", State::Fail),
            (ApiVersion::V1, "2028-01-01T00:00:00Z", State::Fail),
            (ApiVersion::V3, "2028-01-01T00:00:00Z", State::Ok),
            (ApiVersion::V2026_03, "2028-01-01T00:00:00Z", State::Ok),
        ] {
            let check = api_version(version, now.parse().unwrap(), "edit".to_owned());
            assert_eq!(check.state, state, "{version} {now}: {check:?}");
        }
        let soon =
            api_version(ApiVersion::V1, "2027-02-14T12:00:00Z".parse().unwrap(), String::new());
        assert!(soon.saw.contains("in 2 days"), "{soon:?}");
        let later =
            api_version(ApiVersion::V1, "2026-11-26T12:00:00Z".parse().unwrap(), String::new());
        assert!(later.saw.contains("in 82 days"), "{later:?}");
    }

    #[test]
    fn limits_are_read_as_the_kernel_writes_them() {
        let text = "Limit                     Soft Limit           Hard Limit           Units     \n\
                    Max core file size        0                    0                    bytes     \n\
                    Max open files            1024                 524288               files     \n\
                    Max locked memory         unlimited            unlimited            bytes     \n";
        assert_eq!(hard_limit(text, "Max open files"), Some(524_288));
        assert_eq!(hard_limit(text, "Max core file size"), Some(0));
        assert_eq!(hard_limit(text, "Max locked memory"), Some(usize::MAX));
        assert_eq!(hard_limit(text, "Max nothing"), None);
    }

    #[test]
    fn fewer_open_files_than_connections_need_are_worth_a_word() {
        for (files, state) in [
            (None, State::Skipped),
            (Some(1024), State::Warn),
            (Some(1663), State::Warn),
            (Some(1664), State::Ok),
            (Some(usize::MAX), State::Ok),
        ] {
            let check = judge_files(files, Limits::default(), "it", "systemctl edit x");
            assert_eq!(check.state, state, "{files:?}: {check:?}");
        }
    }

    #[test]
    fn swap_in_clear_is_worth_a_word() {
        let text = "Filename Type Size Used Priority\n/dev/zram0 partition 1 0 100\n/swapfile file 2 0 -2\n";
        let found = swaps(text, |name| name.contains("zram"));
        assert_eq!(found[1], Swap { name: "/swapfile".to_owned(), sealed: false });
        let check = judge_swap(&found, true, "swapoff -a");
        assert_eq!(check.state, State::Warn);
        assert!(check.saw.contains("/swapfile") && check.saw.contains("hibernate"), "{check:?}");
        assert!(!check.saw.contains("zram"), "{check:?}");
        assert_eq!(judge_swap(&found[..1], true, "").state, State::Ok);
        assert_eq!(judge_swap(&[], false, "").state, State::Ok);
    }

    #[test]
    fn landlock_that_is_required_and_not_there_fails() {
        for (version, required, state) in [
            (0, false, State::Warn),
            (0, true, State::Fail),
            (5, true, State::Fail),
            (6, true, State::Ok),
            (7, false, State::Ok),
        ] {
            assert_eq!(
                judge_landlock(version, required, String::new()).state,
                state,
                "{version} {required}"
            );
        }
    }
}
