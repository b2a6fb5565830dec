//! The machine beneath, put out of order for real: each check's failing state is provoked, and its line, typed as it
//! stands, heals it where that is cheap.

use std::{
    collections::BTreeSet,
    fs::{self, Permissions},
    os::unix::{
        fs::{PermissionsExt, chown},
        net::UnixListener,
    },
    path::Path,
    process::Stdio,
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use grantkeeper::time::{Clock, SystemClock};
use rcgen::CertificateParams;
use serde_json::Value;
use tokio::process::Command;

use crate::{
    access,
    support::{
        answerer::{Act, Answerer, Greeting},
        canary::{Canaries, Exits},
        portal,
        service::{Ended, Place, eventually, finish, secret_file},
    },
};

const SERVICE: u32 = 64_000;
const STRANGER: u32 = 64_099;

/// A service's place in order: a user of its own, a journal, an audit log, a health listener.
async fn place() -> Place {
    let mut place = access::place("").await;
    place.head = format!("state_dir = \"{}\"\n", place.path("state").display());
    let log = place.path("audit.jsonl").display().to_string();
    place.extra += &format!("[audit]\nfile = \"{log}\"\n");
    place.config();
    own(&place);
    place
}

/// Everything in the place belongs to the service.
fn own(place: &Place) {
    for entry in fs::read_dir(place.dir.path()).unwrap().flatten() {
        chown(entry.path(), Some(SERVICE), Some(SERVICE)).unwrap();
    }
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// What was told: the exit code and the document.
#[derive(Debug)]
struct Told(i32, Value);

impl Told {
    fn all(&self, id: &str) -> Vec<&Value> {
        let checks = self.1["checks"].as_array().unwrap();
        checks.iter().filter(|check| check["id"] == id).collect()
    }

    /// The check of this number, or that of its subject that comes out worst.
    fn of(&self, id: &str) -> &Value {
        let order = ["fail", "warn", "skipped", "ok"];
        let rank = |check: &&&Value| order.iter().position(|state| check["state"] == **state);
        let all = self.all(id);
        all.iter().min_by_key(rank).unwrap_or_else(|| panic!("{id}: {self:?}"))
    }

    fn state(&self, id: &str) -> &str {
        self.of(id)["state"].as_str().unwrap()
    }

    fn saw(&self, id: &str) -> &str {
        self.of(id)["saw"].as_str().unwrap()
    }

    fn fix(&self, id: &str) -> &str {
        self.of(id)["fix"].as_str().unwrap_or_else(|| panic!("{id} has no fix: {}", self.of(id)))
    }

    #[track_caller]
    fn is(&self, id: &str, state: &str, says: &str) {
        assert_eq!(self.state(id), state, "{id}: {}", self.of(id));
        assert!(self.saw(id).contains(says), "{id}: {says}: {}", self.of(id));
        let wrong = ["warn", "fail"].contains(&state);
        assert_eq!(self.of(id)["fix"].is_string(), wrong, "{id}: {}", self.of(id));
    }
}

fn told(ended: &Ended) -> Told {
    assert_eq!(ended.err, "", "{ended:?}");
    Told(ended.code, serde_json::from_str(&ended.out).unwrap_or_else(|_| panic!("{ended:?}")))
}

/// As the service's own user.
async fn look(place: &Place) -> Told {
    told(&place.run(&["doctor", "-o", "json"]).await)
}

/// As another user, root or anybody; the configuration is left as it is.
async fn look_as(place: &Place, uid: u32) -> Told {
    let mut command = Command::new(env!("CARGO_BIN_EXE_grantkeeper"));
    command.arg("--config").arg(place.path("grantkeeper.toml")).args(["doctor", "-o", "json"]);
    command.env_clear().uid(uid).gid(uid);
    told(&finish(command, "").await)
}

/// Types a line as it stands, as root.
async fn typed(line: &str, input: &str) {
    let mut command = Command::new("sh");
    let bin = Path::new(env!("CARGO_BIN_EXE_grantkeeper")).parent().unwrap();
    command.env("PATH", format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", bin.display()));
    command.args(["-c", line]);
    let ended = finish(command, input).await;
    assert_eq!(ended.code, 0, "{line}: {ended:?}");
}

/// It fails with this exit code and says this; its line, typed as it stands, heals it.
#[track_caller]
fn fails(told: &Told, id: &str, code: i32, says: &str) -> String {
    told.is(id, "fail", says);
    assert_eq!(told.0, code, "{told:?}");
    told.fix(id).to_owned()
}

async fn heals(place: &Place, id: &str, line: &str) {
    typed(line, "").await;
    let after = look_as(place, 0).await;
    assert_ne!(after.state(id), "fail", "{line}: {}", after.of(id));
}

/// What can be seen from outside of a place.
fn seen(place: &Place) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    let mut folders = vec![place.dir.path().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            let metadata = entry.metadata().unwrap();
            if metadata.is_dir() {
                folders.push(entry.path());
            }
            let changed = metadata.modified().unwrap();
            seen.insert(format!("{} {changed:?}", entry.path().display()));
        }
    }
    seen
}

#[tokio::test]
async fn a_machine_in_order_fails_nothing_and_nothing_is_changed_or_spent() {
    let mut place = place().await;
    let port = crate::support::program::free_port_pair();
    place.extra += &format!("[http]\nlisten = \"127.0.0.1:{port}\"\n");
    let asleep = look(&place).await;
    assert_eq!(asleep.0, 0, "{asleep:?}");
    assert!(asleep.1["good"].as_bool().unwrap());
    for number in 1..=32 {
        let id = format!("D{number:02}");
        assert!(!asleep.all(&id).is_empty(), "{id}");
    }
    asleep.is("D28", "warn", "no service runs");
    asleep.is("D32", "ok", "is free");
    let before = seen(&place);
    assert_eq!(look_as(&place, SERVICE).await.0, 0);
    assert_eq!(look_as(&place, 0).await.0, 0);
    assert_eq!(seen(&place), before, "without a service");

    let service = access::serve(&place).await;
    let ledger = place.standin.sim.ledger(0, None).len();
    let before = seen(&place);
    for uid in [SERVICE, 0] {
        let awake = look_as(&place, uid).await;
        assert_eq!(awake.0, 0, "{awake:?}");
        assert_eq!(awake.1["counts"]["fail"], 0, "{awake:?}");
        awake.is("D05", "ok", "alone to write");
        awake.is("D28", "ok", "it answers");
        awake.is("D32", "ok", "the service listens");
        assert_eq!(awake.1["service_user"], "64000", "{awake:?}");
        if uid == SERVICE {
            awake.is("D29", "ok", env!("CARGO_PKG_VERSION"));
            awake.is("D31", "ok", "running since");
            awake.is("D25", "ok", "can leave none");
        }
    }
    let (after, log) = (seen(&place), place.path("audit.jsonl"));
    let others = |seen: &BTreeSet<String>| -> Vec<String> {
        let kept = seen.iter().filter(|line| {
            // The service writes down who asked, and its log.
            !line.contains(log.to_str().unwrap()) && !line.contains("service.log")
        });
        kept.cloned().collect()
    };
    assert_eq!(others(&after), others(&before), "beside a service");
    assert_eq!(place.standin.sim.ledger(0, None).len(), ledger);
    drop(service);
}

#[tokio::test]
async fn a_configuration_is_missed_where_it_was_looked_for_and_by_whom() {
    let place = place().await;
    let mut command = Command::new(env!("CARGO_BIN_EXE_grantkeeper"));
    command.args(["doctor", "-o", "json"]).env_clear().env("GRANTKEEPER_CONFIG", "/no/such.toml");
    let missing = told(&finish(command, "").await);
    fails(&missing, "D01", 78, "/no/such.toml (by GRANTKEEPER_CONFIG)");
    missing.is("D05", "skipped", "D01");
    missing.is("D27", "skipped", "D01");

    let file = place.path("grantkeeper.toml");
    mode(&file, 0o600);
    let denied = look_as(&place, STRANGER).await;
    let fix = fails(&denied, "D01", 77, "Permission denied");
    assert!(fix.starts_with("sudo grantkeeper --config"), "{fix}");

    let text = format!("nonsense = 1\n{}mode = 7\n", place.config_text());
    fs::write(&file, text).unwrap();
    let mistaken = look_as(&place, 0).await;
    fails(&mistaken, "D01", 78, "1:1: nonsense");
    assert!(mistaken.saw("D01").contains(" | "), "all at once: {mistaken:?}");
}

#[tokio::test]
async fn a_configuration_that_others_can_change_or_the_service_can_t_read_fails() {
    let place = place().await;
    let file = place.path("grantkeeper.toml");
    for wrong in [0o666, 0o646] {
        mode(&file, wrong);
        let fix =
            fails(&look_as(&place, 0).await, "D02", 77, "every user of this machine may change");
        heals(&place, "D02", &fix).await;
    }
    chown(&file, Some(STRANGER), None).unwrap();
    let fix = fails(&look_as(&place, 0).await, "D02", 77, "belongs to uid 64099");
    heals(&place, "D02", &fix).await;
    mode(&file, 0o664);
    chown(&file, Some(0), Some(STRANGER)).unwrap();
    let fix = fails(&look_as(&place, 0).await, "D02", 77, "the group 64099 may change");
    heals(&place, "D02", &fix).await;
    chown(&file, Some(0), Some(0)).unwrap();
    mode(&file, 0o600);
    let fix = fails(&look_as(&place, 0).await, "D02", 77, "64000 may not read");
    heals(&place, "D02", &fix).await;
    assert_ne!(look_as(&place, SERVICE).await.state("D01"), "fail");
}

#[tokio::test]
async fn a_state_dir_that_can_t_be_had_or_is_not_the_service_s_alone_fails() {
    let mut place = place().await;
    let dir = place.path("deep/er/state");
    place.head = format!("state_dir = \"{}\"\n", dir.display());
    let gone = look(&place).await;
    fails(&gone, "D05", 78, "can't make it");
    let line = look_as(&place, 0).await.fix("D05").to_owned();
    heals(&place, "D05", &line).await;
    mode(&dir, 0o770);
    let line = fails(&look_as(&place, 0).await, "D05", 77, "can be written by others");
    heals(&place, "D05", &line).await;
    chown(&dir, Some(STRANGER), None).unwrap();
    // Whose files they are is how the service's user is known; here the store says it.
    let mut command = Command::new(env!("CARGO_BIN_EXE_grantkeeper"));
    command.arg("--config").arg(place.path("grantkeeper.toml"));
    command.args(["doctor", "-o", "json", "--user", "64000"]).env_clear();
    let line = fails(&told(&finish(command, "").await), "D05", 77, "belongs to another user");
    heals(&place, "D05", &line).await;
    // What root leaves behind who runs a command there.
    secret_file(&dir.join("lock"), "");
    let line = fails(&look_as(&place, 0).await, "D05", 77, "can't open it");
    heals(&place, "D05", &line).await;
    fs::remove_file(dir.join("lock")).unwrap();
    fs::remove_dir(&dir).unwrap();
    fs::write(&dir, "").unwrap();
    let line = fails(&look_as(&place, 0).await, "D05", 78, "is no folder");
    heals(&place, "D05", &line).await;
}

#[tokio::test]
async fn a_disk_that_is_full_or_in_memory_is_told() {
    let place = place().await;
    let state = place.path("state");
    fs::create_dir(&state).unwrap();
    own(&place);
    // In a mount space of its own, which goes with the process.
    let script =
        "mount -t tmpfs -o size=32k,mode=0700,uid=64000 none \"$1\" && shift && exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", script, "sh"]).arg(&state);
    command
        .arg(env!("CARGO_BIN_EXE_grantkeeper"))
        .arg("--config")
        .arg(place.path("grantkeeper.toml"));
    command.args(["doctor", "-o", "json", "--user", "64000"]);
    let ended = finish(command, "").await;
    if ended.out.is_empty() {
        println!("nothing can be mounted here ({}): a full disk is NOT tested", ended.err);
        return;
    }
    let full = told(&ended);
    assert_eq!(full.0, 1, "{full:?}");
    full.is("D06", "warn", "in memory");
    full.is("D07", "fail", "is full");
    full.is("D08", "fail", "does not take what is written");
}

#[tokio::test]
async fn secret_files_that_are_missing_open_empty_or_no_key_fail() {
    let place = place().await;
    look(&place).await;
    let (key, whsec) = (place.path("store.key"), place.path("whsec"));
    let of = |told: &Told, file: &Path| -> Value {
        let shown = file.display().to_string();
        let mut found = told.all("D09").into_iter();
        found.rfind(|check| check["saw"].as_str().unwrap().contains(&shown)).unwrap().clone()
    };
    let check = async |file: &Path, code: i32, says: &str, input: &str| {
        let told = look_as(&place, 0).await;
        let one = of(&told, file);
        assert_eq!((told.0, &one["state"]), (code, &"fail".into()), "{one}");
        assert!(one["saw"].as_str().unwrap().contains(says), "{says}: {one}");
        typed(one["fix"].as_str().unwrap(), input).await;
        let healed = of(&look_as(&place, 0).await, file);
        assert_eq!(healed["state"], "ok", "{healed}");
    };
    for wrong in [0o644, 0o660] {
        mode(&whsec, wrong);
        check(&whsec, 77, "can be read by every user", "").await;
    }
    mode(&key, 0o640);
    check(&key, 77, "open to others", "").await;
    for file in [&key, &whsec] {
        chown(file, Some(STRANGER), None).unwrap();
        check(file, 77, "another user", "").await;
    }
    fs::write(&whsec, "\n").unwrap();
    check(&whsec, 78, "is empty", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n").await;
    fs::remove_file(&whsec).unwrap();
    check(&whsec, 78, "is not there", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n").await;
    let right = fs::read_to_string(&key).unwrap();
    fs::write(&key, "c2hvcnQ=\n").unwrap();
    check(&key, 78, "32 bytes", &right).await;
    fs::remove_file(&key).unwrap();
    check(&key, 78, "only it opens", &right).await;
    // With nothing sealed yet a new one is made.
    fs::remove_file(&key).unwrap();
    fs::remove_file(place.path("store.redb")).unwrap();
    check(&key, 78, "is not there", "").await;
}

#[tokio::test]
async fn a_socket_that_is_stale_silent_or_no_socket_is_told() {
    let place = place().await;
    let socket = place.socket();
    drop(UnixListener::bind(&socket).unwrap());
    mode(&socket, 0o660);
    own(&place);
    let stale = look_as(&place, 0).await;
    stale.is("D11", "warn", "stale");
    fails(&stale, "D28", 69, "nobody listens");
    typed(stale.fix("D11"), "").await;
    let after = look_as(&place, 0).await;
    assert_eq!((after.0, after.state("D11"), after.state("D28")), (0, "ok", "warn"), "{after:?}");

    let silent = UnixListener::bind(&socket).unwrap();
    mode(&socket, 0o666);
    let told = look_as(&place, 0).await;
    told.is("D28", "fail", "no answer in time");
    let line = fails(&told, "D11", 77, "every user of this machine may open");
    heals(&place, "D11", &line).await;
    drop(silent);
    fs::remove_file(&socket).unwrap();

    fs::write(&socket, "").unwrap();
    let line = fails(&look_as(&place, 0).await, "D11", 78, "is not a socket");
    heals(&place, "D11", &line).await;
}

#[tokio::test]
async fn a_socket_whose_mode_or_group_was_changed_is_told_and_set_right() {
    let mut place = place().await;
    place.extra += "[socket]\ngroup = \"64000\"\n";
    let service = access::serve(&place).await;
    let socket = place.socket();
    look_as(&place, 0).await.is("D11", "ok", "mode 0660");
    mode(&socket, 0o600);
    let told = look_as(&place, 0).await;
    told.is("D11", "warn", "socket.mode says 0660");
    typed(told.fix("D11"), "").await;
    chown(&socket, None, Some(STRANGER)).unwrap();
    let told = look_as(&place, 0).await;
    told.is("D11", "warn", "socket.group says 64000");
    typed(told.fix("D11"), "").await;
    look_as(&place, 0).await.is("D11", "ok", "mode 0660");
    drop(service);
}

#[tokio::test]
async fn a_state_dir_that_another_program_holds_is_told() {
    let place = place().await;
    let state = place.path("state");
    fs::create_dir(&state).unwrap();
    mode(&state, 0o700);
    secret_file(&state.join("lock"), "");
    for path in [&state, &state.join("lock")] {
        chown(path, Some(SERVICE), Some(SERVICE)).unwrap();
    }
    let mut holder = Command::new("flock");
    holder.arg("-x").arg(state.join("lock")).args(["-c", "read _"]).kill_on_drop(true);
    let mut holder = holder.stdin(Stdio::piped()).spawn().unwrap();
    eventually("it is held", async || look_as(&place, 0).await.state("D05") == "warn").await;
    let told = look_as(&place, 0).await;
    told.is("D05", "warn", "(flock), which is not the service");
    assert!(told.fix("D05").starts_with("ps -fp "), "{told:?}");
    drop(holder.stdin.take());
    holder.wait().await.unwrap();
    look_as(&place, 0).await.is("D05", "ok", "alone to write");
}

#[tokio::test]
async fn a_socket_folder_that_is_missing_or_another_s_fails() {
    let place = place().await;
    let text = place.config_text().replace("/gk.sock", "/run/gk.sock");
    fs::write(place.path("grantkeeper.toml"), text).unwrap();
    let run = place.path("run");
    let line = fails(&look_as(&place, 0).await, "D10", 78, "does not exist");
    heals(&place, "D10", &line).await;
    chown(&run, Some(0), Some(0)).unwrap();
    let line = fails(&look_as(&place, 0).await, "D10", 77, "64000 may not write in");
    heals(&place, "D10", &line).await;
    secret_file(&run.join("gk.sock.lock"), "");
    let line = fails(&look_as(&place, 0).await, "D10", 77, "can't open it");
    heals(&place, "D10", &line).await;
    mode(place.dir.path(), 0o700);
    chown(place.dir.path(), Some(0), Some(0)).unwrap();
    let closed = look_as(&place, 0).await;
    // state_dir can't be made there either.
    let line = fails(&closed, "D10", 78, "may not pass");
    heals(&place, "D10", &line).await;
}

#[tokio::test]
async fn who_is_named_and_can_t_open_the_socket_is_told() {
    let mut place = place().await;
    place.extra += "[[access]]\nuid = 64001\nportals = [\"*\"]\nallow = [\"token\"]\n[[access]]\ngid = 1\nportals = [\"*\"]\nallow = [\"token\"]\n[socket]\ngroup = \"daemon\"\n";
    let named = look(&place).await;
    // The service is not in the group, and can't give its socket to it.
    named.is("D12", "fail", "is not in the group daemon");
    assert!(named.fix("D12").contains("usermod -aG daemon 64000"), "{named:?}");
    assert_eq!(named.0, 77);
    named.is("D13", "warn", "is not in the socket's group daemon");
    assert!(named.fix("D13").contains("usermod -aG daemon 64001"), "{named:?}");
    let states: Vec<_> = named.all("D13").iter().map(|check| check["state"].clone()).collect();
    assert_eq!(states, ["ok", "warn"], "{named:?}");
    place.extra = place.extra.replace("[socket]\ngroup = \"daemon\"\n", "");
    let alone = look(&place).await;
    alone.is("D13", "warn", "the socket is in no group");
}

#[tokio::test]
async fn an_audit_log_that_every_user_reads_or_that_can_t_be_made_fails() {
    let mut place = place().await;
    let log = place.path("audit.jsonl");
    fs::write(&log, "").unwrap();
    mode(&log, 0o644);
    own(&place);
    let line = fails(&look_as(&place, 0).await, "D14", 77, "read by every user");
    heals(&place, "D14", &line).await;
    place.extra = place.extra.replace("/audit.jsonl", "/log/audit.jsonl");
    let line = {
        look(&place).await;
        fails(&look_as(&place, 0).await, "D14", 78, "is not there")
    };
    heals(&place, "D14", &line).await;
}

#[tokio::test]
async fn a_store_file_that_is_missing_or_held_by_another_program_is_told() {
    let place = place().await;
    let store = place.path("store.redb");
    let mut holder = Command::new("flock");
    holder.arg("-x").arg(&store).args(["-c", "read _"]).kill_on_drop(true);
    let mut holder = holder.stdin(Stdio::piped()).spawn().unwrap();
    eventually("it is held", async || look_as(&place, 0).await.state("D15") == "warn").await;
    look_as(&place, 0).await.is("D15", "warn", "(flock)");
    drop(holder.stdin.take());
    holder.wait().await.unwrap();
    eventually("it is free", async || look_as(&place, 0).await.state("D15") == "ok").await;
    look_as(&place, 0).await.is("D15", "ok", "its key opens it");
    let whole = fs::read(&store).unwrap();
    for damaged in [b"".as_slice(), b"no store at all"] {
        fs::write(&store, damaged).unwrap();
        assert_eq!(look_as(&place, 0).await.state("D15"), "fail", "{} bytes", damaged.len());
    }
    fs::write(&store, &whole).unwrap();
    let key = place.path("store.key");
    let own = fs::read(&key).unwrap();
    fs::write(&key, STANDARD.encode([7; 32])).unwrap();
    assert_eq!(look_as(&place, 0).await.state("D15"), "fail", "another key");
    fs::write(&key, own).unwrap();
    look_as(&place, 0).await.is("D15", "ok", "its key opens it");
    fs::remove_file(&store).unwrap();
    let line = fails(&look_as(&place, 0).await, "D15", 78, "is not there");
    assert!(
        line.contains("sudo -u '#64000' grantkeeper") && line.contains("--create-key"),
        "{line}"
    );
}

#[tokio::test]
async fn a_clock_that_is_off_is_told_by_hubspot_s() {
    let place = place().await;
    look(&place).await.is("D16", "ok", "HubSpot's");
    place.standin.sim.configure(|settings| settings.date_offset = 100);
    let off = look(&place).await;
    off.is("D16", "warn", "behind HubSpot's");
    assert_eq!(off.0, 0);
    place.standin.sim.configure(|settings| settings.date_offset = -1000);
    let off = look(&place).await;
    let line = fails(&off, "D16", 1, "ahead of HubSpot's");
    assert!(line.contains("timedatectl set-ntp true"), "{line}");
}

/// A place whose HubSpot is elsewhere.
fn hubspot(place: &Place, url: &str) -> String {
    place.config_text().replace(&place.standin.url, url)
}

#[tokio::test]
async fn a_name_that_is_not_found_and_a_port_that_is_closed_are_told_with_75() {
    let place = place().await;
    let file = place.path("grantkeeper.toml");
    fs::write(&file, hubspot(&place, "https://hubspot.invalid")).unwrap();
    let unnamed = look_as(&place, SERVICE).await;
    let line = fails(&unnamed, "D19", 75, "hubspot.invalid is not found");
    assert!(line.starts_with("getent ahosts hubspot.invalid"), "{line}");
    unnamed.is("D16", "skipped", "HubSpot");
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    fs::write(&file, hubspot(&place, &format!("http://{closed}"))).unwrap();
    let line = fails(&look_as(&place, SERVICE).await, "D20", 75, "Connection refused");
    assert!(line.starts_with(&format!("ss -ltn 'sport = :{}'", closed.port())), "{line}");
}

/// No credential goes out, and no path: a receiver's can be one.
#[tokio::test]
async fn i10_a_certificate_of_nobody_s_is_told_and_the_right_ca_believes_it() {
    let mut place = place().await;
    let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let page = || Act::SayAndClose(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n".to_vec());
    let (greeting, pem) = Greeting::tls_and_pem(&params);
    let server = Answerer::start(greeting, vec![page(), page()]).await;
    let ca = place.path("ca.pem");
    fs::write(&ca, pem).unwrap();
    secret_file(&place.path("token"), "hvs.CANARY-token");
    let vault = |more: &str| {
        format!(
            "[store]\nkind = \"vault\"\n[store.vault]\naddress = \"https://{}\"\n{more}auth = {{ method = \"token\", token_file = \"{}\" }}\n",
            server.authority,
            place.path("token").display()
        )
    };
    let (without, with) = (vault(""), vault(&format!("ca_file = \"{}\"\n", ca.display())));
    place.store = without;
    own(&place);
    let foreign = look(&place).await;
    let line = fails(&foreign, "D21", 75, "certificate");
    assert!(line.contains("openssl s_client") && line.contains("store.vault.ca_file"), "{line}");
    assert!(server.requests().is_empty());
    place.store = with;
    let believed = look(&place).await;
    assert_ne!(believed.state("D21"), "fail", "{believed:?}");
    let requests = server.requests();
    assert_eq!(requests.len(), 1, "{requests:?}");
    assert!(requests[0].starts_with("HEAD / HTTP/1.1\r\n"), "{requests:?}");
    assert!(!requests[0].contains("CANARY") && !requests[0].to_lowercase().contains("token"));
}

#[tokio::test]
async fn when_everybody_hangs_it_ends_all_the_same() {
    let mut place = place().await;
    let mut silent = Vec::new();
    for number in 0..3 {
        let server = Answerer::start(Greeting::Silence, vec![]).await;
        place.extra += &format!(
            "[[alert]]\nname = \"a{number}\"\nkind = \"webhook\"\nurl = \"https://{}/x\"\n",
            server.authority
        );
        silent.push(server);
    }
    let hubspot_is = Answerer::start(Greeting::Silence, vec![]).await;
    let listener = UnixListener::bind(place.socket()).unwrap();
    fs::write(
        place.path("silent.toml"),
        hubspot(&place, &format!("https://{}", hubspot_is.authority)),
    )
    .unwrap();
    let began = SystemClock.boot();
    let mut command = Command::new(env!("CARGO_BIN_EXE_grantkeeper"));
    command
        .arg("--config")
        .arg(place.path("silent.toml"))
        .args(["doctor", "-o", "json"])
        .env_clear();
    let hung = told(&finish(command, "").await);
    let took = SystemClock.boot().since(began);
    assert!(took < Duration::from_secs(11), "{took:?}");
    assert_eq!(
        hung.all("D21").iter().filter(|check| check["state"] == "fail").count(),
        4,
        "{hung:?}"
    );
    hung.is("D28", "fail", "no answer in time");
    drop(listener);
}

#[tokio::test]
async fn a_proxy_that_would_catch_this_machine_fails_and_its_line_heals() {
    let place = place().await;
    let script = |first: &str| {
        let mut command = Command::new("sh");
        command.args([
            "-c",
            &format!("{first}\nexec \"$@\""),
            "sh",
            env!("CARGO_BIN_EXE_grantkeeper"),
        ]);
        command.arg("--config").arg(place.path("grantkeeper.toml")).args(["doctor", "-o", "json"]);
        command.env_clear().env("HTTP_PROXY", "http://user:CANARY@127.0.0.1:9").uid(SERVICE);
        command
    };
    let caught = finish(script(":"), "").await;
    assert!(!caught.out.contains("CANARY"), "{caught:?}");
    let line = fails(&told(&caught), "D23", 78, "the proxy 127.0.0.1:9");
    let healed = told(&finish(script(&line), "").await);
    assert_eq!((healed.0, healed.state("D23")), (0, "ok"), "{healed:?}");
}

#[tokio::test]
async fn no_ca_certificates_few_open_files_and_an_old_api_are_told() {
    let mut place = place().await;
    let empty = place.path("empty.pem");
    fs::write(&empty, "").unwrap();
    mode(&empty, 0o644);
    place.env = vec![("SSL_CERT_FILE".to_owned(), empty.display().to_string())];
    let line = fails(&look(&place).await, "D22", 78, "SSL_CERT_FILE");
    assert!(line.contains("unset SSL_CERT_FILE"), "{line}");
    place.env.clear();

    place.extra = place.extra.replace("[hubspot]\n", "[hubspot]\napi_version = \"v1\"\n");
    let old = look(&place).await;
    // Until the day that HubSpot ends it, it warns.
    assert!(["warn", "fail"].contains(&old.state("D04")), "{old:?}");
    assert!(old.saw("D04").contains("2027-02-16") && old.fix("D04").contains("2026-03"), "{old:?}");

    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n 1000; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_grantkeeper")]);
    command.arg("--config").arg(place.path("grantkeeper.toml")).args(["doctor", "-o", "json"]);
    let few = told(&finish(command, "").await);
    few.is("D24", "warn", "1000 open");
    assert!(few.fix("D24").contains("LimitNOFILE"), "{few:?}");
}

#[tokio::test]
async fn a_service_that_runs_by_an_older_file_or_refused_a_newer_one_is_told() {
    let place = place().await;
    let service = access::serve(&place).await;
    let file = fs::File::options().append(true).open(place.path("grantkeeper.toml")).unwrap();
    let seconds = u64::try_from(SystemClock.wall().as_second() + 60).unwrap();
    let later = std::time::UNIX_EPOCH + Duration::from_secs(seconds);
    file.set_modified(later).unwrap();
    look_as(&place, SERVICE).await.is("D31", "warn", "the file was changed at");
    let good = place.config_text();
    fs::write(place.path("grantkeeper.toml"), format!("nonsense = 1\n{good}")).unwrap();
    service.signal(rustix::process::Signal::HUP);
    eventually("it is refused", async || service.log().contains("is refused")).await;
    fs::write(place.path("grantkeeper.toml"), good).unwrap();
    let refused = look_as(&place, SERVICE).await;
    let line = fails(&refused, "D31", 78, "the last reload was refused");
    assert!(line.contains("check --offline"), "{line}");
}

/// Makes a socket and starts a service on it, as systemd does (sd_listen_fds(3)), and stays.
const ACTIVATION: &str = "
import os, socket, sys
path, program, uid = sys.argv[1], sys.argv[2:], 64000
made = socket.socket(socket.AF_UNIX)
made.bind(path); os.chmod(path, 0o660); os.chown(path, 0, uid); made.listen()
child = os.fork()
if child == 0:
    os.dup2(made.fileno(), 3); os.set_inheritable(3, True)
    os.setgid(uid); os.setuid(uid)
    os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1')
    os.execv(program[0], program)
os.waitpid(child, 0)
";

#[tokio::test]
async fn a_socket_that_systemd_made_is_known_as_such() {
    let place = place().await;
    let python = finish(
        {
            let mut command = Command::new("python3");
            command.args(["-c", "import sys; print(sys.executable)"]);
            command
        },
        "",
    );
    // The kernel calls a process by the name of the file that it runs.
    let systemd = place.path("systemd");
    std::os::unix::fs::symlink(python.await.out.trim(), &systemd).unwrap();
    let mut command = Command::new(&systemd);
    command.args(["-c", ACTIVATION]).arg(place.socket());
    command.arg(env!("CARGO_BIN_EXE_grantkeeper"));
    command.arg("--config").arg(place.path("grantkeeper.toml")).arg("run");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    let mut group = command.kill_on_drop(true).spawn().unwrap();
    eventually("it answers", async || look_as(&place, SERVICE).await.state("D28") == "ok").await;
    let told = look_as(&place, SERVICE).await;
    told.is("D30", "ok", "systemd made the socket");
    told.is("D31", "skipped", "systemctl status");
    told.is("D11", "ok", "of root and the group");
    assert_eq!(told.0, 0, "{told:?}");
    let id = rustix::process::Pid::from_raw(i32::try_from(group.id().unwrap()).unwrap()).unwrap();
    rustix::process::kill_process_group(id, rustix::process::Signal::KILL).unwrap();
    group.wait().await.unwrap();
}

#[tokio::test]
async fn an_address_of_another_program_s_fails() {
    let mut place = place().await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    place.extra += &format!("[http]\nlisten = \"{address}\"\n");
    let line = fails(&look(&place).await, "D32", 1, "another program listens");
    assert!(line.contains(&format!("sport = :{}", address.port())), "{line}");
}

#[tokio::test]
async fn another_user_is_told_what_was_not_looked_at_and_who_can() {
    let place = place().await;
    let service = access::serve(&place).await;
    let told = look_as(&place, STRANGER).await;
    let config = place.path("grantkeeper.toml").display().to_string();
    let line = format!("sudo -u '#64000' grantkeeper --config {config} doctor");
    for id in ["D08", "D09", "D28", "D29"] {
        told.is(id, "skipped", &line);
    }
    assert_eq!(told.0, 0, "what can't be seen is no failure: {told:?}");
    // What can be seen is judged as for the service, and the line to type says that it needs root.
    mode(&place.path("whsec"), 0o644);
    let open = look_as(&place, STRANGER).await;
    let line = fails(&open, "D09", 77, "can be read by every user");
    assert!(line.starts_with("sudo chmod"), "{line}");
    drop(service);
}

#[tokio::test]
async fn people_read_a_table_programs_a_document_and_quiet_is_only_what_is_wrong() {
    let place = place().await;
    let whole = place.run(&["doctor"]).await;
    assert_eq!(whole.code, 0, "{whole:?}");
    assert!(whole.out.starts_with("D01  "), "{whole:?}");
    assert!(
        whole.out.contains("fix D28:\n    systemctl start")
            || whole.out.contains("fix D28:\n    sudo"),
        "{whole:?}"
    );
    assert!(whole.out.lines().last().unwrap().contains(" ok, "), "{whole:?}");
    assert!(!whole.out.contains('\x1b'), "{whole:?}");
    let quiet = place.run(&["doctor", "--quiet"]).await;
    for line in quiet.out.lines().filter(|line| line.starts_with('D')) {
        assert!(line.contains("warn") || line.contains("fail"), "{line}");
    }
    let quiet = place.run(&["doctor", "-q", "-o", "json"]).await;
    let quiet: Value = serde_json::from_str(&quiet.out).unwrap();
    for check in quiet["checks"].as_array().unwrap() {
        assert!(["warn", "fail"].contains(&check["state"].as_str().unwrap()), "{check}");
        assert!(check["fix"].is_string(), "{check}");
    }
    let nobody = place.run(&["doctor", "--user", "no such user"]).await;
    assert_eq!((nobody.code, nobody.out.as_str()), (2, ""), "{nobody:?}");
    assert_eq!(nobody.err.lines().count(), 3, "{nobody:?}");
}

/// Everything that is a secret is put where it looks, in order and out of order.
#[tokio::test]
async fn i10_no_secret_shows_whatever_is_wrong_with_the_files_it_is_in() {
    let mut canaries = Canaries::default();
    let mut exits = Exits::default();
    let mut place = place().await;
    canaries.put("client secret", place.standin.sim.client_secret().expose());
    for number in 1..=3 {
        let token = place.standin.sim.refresh_token(portal(number)).unwrap();
        canaries.put("refresh token", token.expose());
    }
    let key = fs::read_to_string(place.path("store.key")).unwrap();
    canaries.put("store key", key.trim());
    canaries.put("signing secret", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
    let url = format!("{}/{}", place.alerts.url, canaries.fresh("webhook address"));
    secret_file(&place.path("url"), &url);
    let proxy = format!("http://user:{}@127.0.0.1:9", canaries.fresh("proxy's password"));
    place.env = vec![
        ("HTTPS_PROXY".to_owned(), proxy),
        ("VAULT_TOKEN".to_owned(), canaries.fresh("Vault token")),
    ];
    place.extra += &format!(
        "[[alert]]\nname = \"ops\"\nkind = \"webhook\"\nurl_file = \"{}\"\n",
        place.path("url").display()
    );
    place.config();
    own(&place);
    let service = access::serve(&place).await;
    let malformed = canaries.fresh("malformed");
    let password = canaries.fresh("password in an address");
    for disorder in 0..6 {
        match disorder {
            1 => mode(&place.path("url"), 0o666),
            2 => secret_file(&place.path("url"), &format!("gopher://{malformed}")),
            3 => secret_file(&place.path("store.key"), &canaries.fresh("not a key")),
            4 => secret_file(&place.path("whsec"), &canaries.fresh("not a signing secret")),
            5 => {
                let named = format!("https://user:{password}@hubspot.invalid/{malformed}");
                secret_file(&place.path("url"), &named);
                chown(place.path("url"), Some(SERVICE), None).unwrap();
            }
            _ => {}
        }
        for uid in [0, SERVICE, STRANGER] {
            for args in [&["doctor"][..], &["doctor", "-o", "json"], &["-vv", "doctor"]] {
                let mut command = Command::new(env!("CARGO_BIN_EXE_grantkeeper"));
                command.arg("--config").arg(place.path("grantkeeper.toml")).args(args);
                command.env_clear().envs(place.env.iter().cloned()).env("GRANTKEEPER_LOG", "trace");
                command.uid(uid).gid(uid);
                let ended = finish(command, "").await;
                assert!([0, 75, 77, 78].contains(&ended.code), "{ended:?}");
                exits.saw(format!("out, disorder {disorder}, uid {uid}"), &ended.out);
                exits.saw(format!("err, disorder {disorder}, uid {uid}"), &ended.err);
            }
        }
    }
    drop(service);
    assert!(place.alerts.raw().is_empty(), "no receiver was told anything");
    assert!(exits.text("out").contains("D09"), "the search looks at what was told");
    canaries.stayed_in(&exits);
}

#[test]
fn every_number_is_explained() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("docs/commands.md")).unwrap();
    for what in grantkeeper::doctor::What::ALL {
        let row = format!("| {what} | {} |", what.name());
        assert!(text.contains(&row), "docs/commands.md has no row that begins with: {row}");
    }
}
