//! What the process gives up, seen from outside: dumps, privileges, paths and ports; and what is left of a secret in its
//! memory once it is no longer in use.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::{
        fs::{MetadataExt, PermissionsExt},
        net::UnixListener,
    },
    path::PathBuf,
    process::Stdio,
    time::Duration,
};

use grantkeeper::secret::RefreshToken;
use serde_json::Value;
use tokio::process::Command;

use crate::support::{
    portal,
    service::{Alerts, Place, Service, eventually, secret_file},
};

fn pid(service: &Service) -> u32 {
    service.child.id().unwrap()
}

/// A line of `/proc/<pid>/status` or `limits`.
fn told(service: &Service, file: &str, name: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{}/{file}", pid(service))).unwrap();
    let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default().to_owned();
    line.strip_prefix(name).unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ")
}

#[tokio::test]
async fn i10_the_service_leaves_no_core_dump_and_gains_no_privileges() {
    let place = Place::new(1, "").await;
    let service = place.serve().await;
    assert_eq!(told(&service, "limits", "Max core file size"), "0 0 bytes");
    assert_eq!(told(&service, "status", "NoNewPrivs:"), "1");
    let status = service.get("/v1/status").await.unwrap();
    assert_eq!(status["hardening"]["no_dumps"], true);
    assert_eq!(status["hardening"]["no_new_privileges"], true);
}

/// What can't be dumped belongs to root below `/proc`, whoever it runs as.
#[tokio::test]
async fn i10_no_other_process_of_its_user_can_look_into_the_service_or_a_command() {
    let place = crate::access::place("").await;
    let service = crate::access::serve(&place).await;
    let owner = |pid: u32| fs::metadata(format!("/proc/{pid}/environ")).unwrap().uid();
    assert_eq!(told(&service, "status", "Uid:"), "64000 64000 64000 64000");
    assert_eq!(owner(pid(&service)), 0);
    let mut command =
        place.command(&["app", "set", "--client-id", "x", "--client-secret-file", "-"]);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let child = command.spawn().unwrap();
    eventually("a command that waits for a secret is closed", async || {
        owner(child.id().unwrap()) == 0
    })
    .await;
}

#[tokio::test]
async fn root_is_refused_unless_it_is_said_and_before_anything_is_opened() {
    let place = Place::new(1, "").await;
    assert!(rustix::process::geteuid().is_root(), "this test is about root: run it as root");
    let mut command = place.command(&["status"]);
    let program = command.as_std().get_program().to_owned();
    command = Command::new(program);
    command.arg("--config").arg(place.config()).arg("run");
    let ended = crate::support::service::finish(command, "").await;
    assert_eq!(ended.code, 77, "{ended:?}");
    assert!(ended.err.contains("--allow-root"), "{ended:?}");
    assert!(!place.socket().exists());
}

/// A receiver of alerts, as a reload adds one.
fn receiver(name: &str, url: &str, secret: &std::path::Path) -> String {
    format!(
        "[[alert]]\nname = \"{name}\"\nkind = \"webhook\"\nurl = \"{url}\"\nsigning_secret_file = \"{}\"\n",
        secret.display()
    )
}

/// A reload adds a receiver on a port, and one with a file, that the configuration at the start did not lead to: without
/// Landlock both are told, with it neither, and the service does its work as before.
#[tokio::test]
async fn with_landlock_the_service_reaches_only_paths_and_ports_that_its_configuration_led_to() {
    for landlock in ["off", "best_effort"] {
        let mut place = Place::new(2, "[settings]\nrotating = true\nexpires_in = 1800").await;
        place.head = format!("state_dir = \"{}\"\n", place.path("state").display());
        place.extra += &format!(
            "[hardening]\nlandlock = \"{landlock}\"\n[validate]\nevery = \"1s\"\n[audit]\nfile = \"{}\"\n",
            place.path("audit.jsonl").display()
        );
        let service = place.serve().await;
        service.ready().await;
        let state = service.get("/v1/status").await.unwrap()["hardening"]["landlock"].clone();
        if state == "unsupported" {
            // Said, so that nobody takes it for proof.
            println!("Landlock is not to be had on this kernel: NOT tested");
            return;
        }
        let holds = landlock != "off";
        let expected: &[&str] = if holds { &["enforced", "partly"] } else { &["off"] };
        assert!(expected.contains(&state.as_str().unwrap()), "{state}");
        // Both are files that the service's user may read.
        let elsewhere = crate::support::temp_dir();
        let foreign = elsewhere.path().join("whsec");
        for file in [&foreign, &place.path("whsec-too")] {
            secret_file(file, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n");
        }
        let other = Alerts::start().await;
        place.extra += &receiver("other-port", &other.url, &place.path("whsec-too"));
        place.extra += &receiver("other-path", &place.alerts.url, &foreign);
        place.config();
        service.signal(rustix::process::Signal::HUP);
        eventually("the configuration is read", async || {
            service.log().contains("configuration read again")
        })
        .await;
        place.standin.sim.uninstall(portal(2));
        place.alerts.wait_for("grant_revoked", "opened").await;
        let outcome = async |sink: &str, outcome: &str| {
            let reply = service.client.ask(hyper::Method::GET, "/metrics").await.unwrap();
            let text = String::from_utf8_lossy(&reply.body).into_owned();
            let start =
                format!("grantkeeper_alerts_total{{sink=\"{sink}\",outcome=\"{outcome}\"}} ");
            let count =
                text.lines().find_map(|line| line.strip_prefix(&start)?.parse::<u64>().ok());
            count.unwrap_or(0) > 0
        };
        let (met, not) = if holds { ("failed", "delivered") } else { ("delivered", "failed") };
        for sink in ["other-port", "other-path"] {
            eventually("it is told, or can't be", async || outcome(sink, met).await).await;
            assert!(!outcome(sink, not).await, "{landlock}: {sink}");
        }
        assert_eq!(other.all().is_empty(), holds, "{landlock}");
        service.token(1).await.unwrap();
        assert_eq!(service.stop().await, 0);
    }
}

#[tokio::test]
async fn landlock_that_is_required_and_off_are_what_they_say() {
    let mut place = Place::new(1, "").await;
    place.extra += "[hardening]\nlandlock = \"off\"\n";
    let service = place.serve().await;
    assert_eq!(service.get("/v1/status").await.unwrap()["hardening"]["landlock"], "off");
    drop(service);
    place.extra = place.extra.replace("\"off\"", "\"required\"");
    let mut service = place.spawn();
    let up = async || service.client.ask(hyper::Method::GET, "/livez").await.is_ok();
    let came =
        tokio::time::timeout(Duration::from_secs(5), crate::support::service::until(up)).await;
    if came.is_ok() {
        let status = service.get("/v1/status").await.unwrap();
        assert_eq!(status["hardening"]["landlock"], "enforced", "all of it, or no start");
    } else {
        assert_eq!(service.ended().await, 77, "{}", service.log());
        assert!(service.log().contains("hardening.landlock"), "{}", service.log());
    }
}

/// A socket as systemd makes one: there before the service is, and there after it.
#[tokio::test]
async fn a_socket_that_systemd_made_is_served_and_left() {
    let place = Place::new(1, "").await;
    let path = place.path("systemd.sock");
    let listener = UnixListener::bind(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let inner = place.command(&["run"]);
    let args: Vec<_> = inner.as_std().get_args().map(ToOwned::to_owned).collect();
    let mut command = Command::new("sh");
    // Which descriptor and whose it is, as sd_listen_fds(3) has it.
    let script =
        "LISTEN_PID=$$ LISTEN_FDS=1; export LISTEN_PID LISTEN_FDS; exec \"$@\" 3<&0 0</dev/null";
    command.args(["-c", script, "sh"]).arg(inner.as_std().get_program()).args(args);
    command.env("PATH", "/usr/bin:/bin").kill_on_drop(true);
    command.stdin(Stdio::from(std::os::fd::OwnedFd::from(listener)));
    command.stdout(Stdio::null()).stderr(fs::File::create(place.path("service.log")).unwrap());
    let mut child = command.spawn().unwrap();
    let client = grantkeeper::socket::Client::new(&path);
    eventually("it answers", async || {
        client.ask(hyper::Method::GET, "/readyz").await.is_ok_and(|reply| reply.status == 200)
    })
    .await;
    assert!(!place.socket().exists(), "the configured path is not made beside it");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
    let id = rustix::process::Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap();
    rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
    assert!(child.wait().await.unwrap().success());
    assert!(path.exists(), "it is systemd's to take away");
}

/// Which of `secrets` are in the process's memory, in every readable and writable part of it, and how often.
fn found_in(service: &Service, place: &Place, secrets: &[&str]) -> BTreeMap<String, usize> {
    use std::io::Write;
    use std::os::unix::fs::FileExt;
    let root = PathBuf::from(format!("/proc/{}", pid(service)));
    let maps = fs::read_to_string(root.join("maps")).unwrap();
    let memory = fs::File::open(root.join("mem")).unwrap();
    let (dump, wanted) = (place.path("dump"), place.path("wanted"));
    let mut file = fs::File::create(&dump).unwrap();
    for line in maps.lines() {
        let mut words = line.split_whitespace();
        let (range, rights) = (words.next().unwrap(), words.next().unwrap());
        if !rights.starts_with("rw") {
            continue;
        }
        let (from, to) = range.split_once('-').unwrap();
        let number = |text| u64::from_str_radix(text, 16).unwrap();
        let (from, to) = (number(from), number(to));
        let mut bytes = vec![0; usize::try_from(to - from).unwrap()];
        // What went away between the two readings is not there.
        if memory.read_exact_at(&mut bytes, from).is_ok() {
            file.write_all(&bytes).unwrap();
        }
    }
    fs::write(&wanted, secrets.join("\n")).unwrap();
    let mut grep = std::process::Command::new("grep");
    grep.args(["-a", "-o", "-F", "-f"]).arg(&wanted).arg(&dump).env("LC_ALL", "C");
    let said = String::from_utf8(grep.output().unwrap().stdout).unwrap();
    fs::remove_file(dump).unwrap();
    let mut found = BTreeMap::new();
    for line in said.lines() {
        *found.entry(line.to_owned()).or_default() += 1;
    }
    found
}

#[tokio::test]
async fn i10_of_secrets_that_are_no_longer_in_use_no_copy_is_left_in_memory() {
    assert!(
        rustix::process::geteuid().is_root(),
        "this test reads another process: run it as root"
    );
    let mut place = Place::new(120, "[settings]\nrotating = true\nexpires_in = 4").await;
    place.head = format!("state_dir = \"{}\"\n", place.path("state").display());
    let service = place.serve().await;
    service.ready().await;
    let sim = &place.standin.sim;
    let mut old: BTreeMap<String, &str> = BTreeMap::new();
    let first_secret = sim.client_secret();
    let note = |old: &mut BTreeMap<String, &'static str>, token: Option<RefreshToken>| {
        old.extend(token.map(|token| (token.expose().to_owned(), "refresh token")));
    };
    for round in 0..3 {
        for number in 1..=120 {
            let answer = service.token(number).await.unwrap();
            old.insert(answer["access_token"].as_str().unwrap().to_owned(), "access token");
            note(&mut old, sim.refresh_token(portal(number)));
        }
        let done = sim.report().refreshes;
        eventually("all are refreshed", async || sim.report().refreshes > done + 240).await;
        if round == 1 {
            let new = sim.rotate_client_secret(Duration::ZERO);
            let args = ["rotate", "client-secret", "--from-file", "-"];
            let rotated = place.run_with(&args, new.expose()).await;
            assert_eq!(rotated.code, 0, "{rotated:?}");
        }
    }
    eventually("a thousand refreshes", async || sim.report().refreshes >= 1000).await;
    let newest = |number| sim.refresh_token(portal(number)).unwrap().expose().to_owned();
    let held: Vec<String> = (1..=120).map(newest).collect();
    old.retain(|token, _| !held.contains(token));
    // The one before the one in use stands in the app's record, and is known for webhooks: it is taken out.
    let store = place.file_store();
    let key = grantkeeper::store::Key::App;
    let found = grantkeeper::store::CredentialStore::read(&store, key).await.unwrap();
    let record = found.record.with_previous_secret(None);
    let at = grantkeeper::store::Expected::At(found.version);
    grantkeeper::store::CredentialStore::write(&store, key, &record, &at).await.unwrap();
    service.client.post::<Value>("/v1/reload").await.unwrap();
    old.insert(first_secret.expose().to_owned(), "client secret");
    let new_secret = sim.client_secret().expose().to_owned();
    let wanted: Vec<&str> = old.keys().map(String::as_str).chain([new_secret.as_str()]).collect();
    eventually("no copy is left", async || {
        let mut found = found_in(&service, &place, &wanted);
        // What is in use is found: the search works.
        assert!(found.remove(&new_secret).is_some(), "the search finds nothing at all");
        for (secret, count) in &found {
            println!("left: {} {count} times", old[secret]);
        }
        found.is_empty()
    })
    .await;
    println!("{} secrets no longer in use, none left in memory", old.len());
    assert!(old.len() > 100, "{}", old.len());
}

#[test]
fn the_systemd_unit_gives_up_nearly_everything() {
    let unit = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("deploy/systemd/grantkeeper.service");
    let mut command = std::process::Command::new("systemd-analyze");
    command.args(["security", "--offline=true"]).arg(&unit);
    let Ok(told) = command.output() else {
        println!("systemd-analyze is not on this machine: the unit's exposure is NOT tested");
        return;
    };
    let said = String::from_utf8_lossy(&told.stdout).into_owned();
    let level = said.rsplit("Overall exposure level for grantkeeper.service: ").next().unwrap();
    let level: f64 = level.split_whitespace().next().unwrap().parse().unwrap();
    assert!(level < 2.0, "{said}");
    let text = fs::read_to_string(unit).unwrap();
    for needed in ["PrivateUsers=yes", "ProcSubset=pid\n"] {
        let set = text.lines().any(|line| line.trim_end() == needed.trim_end());
        assert!(!set, "{needed} would take from the service what it needs");
    }
    // The socket is the other unit's, and stays while the service restarts.
    for needed in ["Requires=grantkeeper.socket", "RuntimeDirectoryPreserve=yes"] {
        assert!(text.lines().any(|line| line == needed), "{needed}");
    }
}
