//! The running service, if there is one: whether it answers, which version it is, who made its socket, and whether it
//! runs by the configuration as it stands. Asks only what changes nothing.

use std::{fs, io, net::SocketAddr, path::Path, time::Duration};

use hyper::Method;
use jiff::Timestamp;
use rustix::net::{AddressFamily, SocketType, bind, socket, sockopt::set_socket_reuseaddr};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UnixStream},
    time::timeout,
};

use super::{
    Scene,
    account::name_of,
    check::{Check, Trouble, What, quoted},
    files::program,
};
use crate::{
    socket::{Client, client::AskError, protocol::StatusBody},
    time::{BootTime, Clock, SystemClock},
};

/// Each question is given up after this.
const STEP: Duration = Duration::from_secs(2);
/// The kernel counts a process's start in hundredths of a second, on every machine there is (proc(5), sysconf(3)).
const TICKS: u64 = 100;
/// Where units are.
const UNITS: [&str; 3] = ["/etc/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"];

/// What came of knocking.
#[derive(Debug)]
pub(super) enum Answer {
    /// There is no socket.
    Nobody,
    /// There is one, and nobody listens.
    Stale,
    /// This user may not open it.
    NotForMe,
    /// It takes no connection, or gives no answer.
    Silent(String),
    /// It answers.
    Answers,
}

/// A service at its socket.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) answer: Answer,
    /// Who listens, by the kernel's word: user and process.
    listener: Option<(u32, Option<i32>)>,
    /// Whether systemd made the socket.
    by_systemd: bool,
    /// `/proc/<pid>/limits` of the service.
    pub(super) limits: Option<String>,
}

impl Running {
    /// Knocks at the socket.
    pub(super) async fn ask(path: &Path) -> Self {
        let none = |answer| Self { answer, listener: None, by_systemd: false, limits: None };
        let stream = match timeout(STEP, UnixStream::connect(path)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                return none(match error.kind() {
                    io::ErrorKind::NotFound => Answer::Nobody,
                    io::ErrorKind::ConnectionRefused => Answer::Stale,
                    io::ErrorKind::PermissionDenied => Answer::NotForMe,
                    _ => Answer::Silent(error.to_string()),
                });
            }
            Err(_) => return none(Answer::Silent("it takes no connection".to_owned())),
        };
        let listener = stream.peer_cred().ok().map(|peer| {
            // One of another container has no number here.
            (peer.uid(), peer.pid().filter(|pid| *pid > 0))
        });
        drop(stream);
        let client = Client::new(path);
        let answer = match timeout(STEP, client.ask(Method::GET, "/livez")).await {
            Ok(Ok(_)) => Answer::Answers,
            Ok(Err(error)) => Answer::Silent(error.to_string()),
            Err(_) => Answer::Silent("it gives no answer in time".to_owned()),
        };
        let by_systemd =
            listener.and_then(|(_, pid)| pid).is_some_and(|pid| program(pid) == "systemd");
        let running = Self { answer, listener, by_systemd, limits: None };
        let limits = running.pid().map(|pid| format!("/proc/{pid}/limits"));
        Self { limits: limits.and_then(|file| fs::read_to_string(file).ok()), ..running }
    }

    /// Whether systemd made the socket.
    pub(super) const fn by_systemd(&self) -> bool {
        self.by_systemd
    }

    /// The service's process, where it made the socket itself.
    pub(super) fn pid(&self) -> Option<i32> {
        self.listener.filter(|_| !self.by_systemd()).and_then(|(_, pid)| pid)
    }

    /// The service's user, where it made the socket itself.
    pub(super) fn own_user(&self) -> Option<u32> {
        self.listener.filter(|_| !self.by_systemd()).map(|(uid, _)| uid)
    }
}

pub(super) async fn look(scene: &Scene) -> Vec<Check> {
    let status = match scene.running.answer {
        Answer::Answers => {
            let client = Client::new(&scene.socket);
            Some(timeout(STEP, client.get::<StatusBody>("/v1/status")).await)
        }
        _ => None,
    };
    let status = status.and_then(Result::ok);
    vec![
        service(scene),
        version(scene, status.as_ref()),
        activation(scene),
        loaded(scene, status.as_ref()),
        http(scene).await,
    ]
}

fn service(scene: &Scene) -> Check {
    let what = What::Service;
    let shown = scene.socket.display();
    let start = scene.root("systemctl start grantkeeper");
    let log = "journalctl -u grantkeeper -n 50 --no-pager";
    match &scene.running.answer {
        Answer::Answers => {
            let who = scene.running.listener.map(|(uid, pid)| {
                let process = pid.map(|pid| format!(", process {pid}")).unwrap_or_default();
                format!(" ({}{process})", name_of(uid))
            });
            what.ok(format!("it answers on {shown}{}", who.unwrap_or_default()))
        }
        // Where it listens stands in the configuration.
        Answer::Nobody if scene.config.is_none() && scene.asked.socket.is_none() => {
            what.skipped("where it listens is not known: the configuration can't be used (D01); --socket says it")
        }
        Answer::Nobody => what.warn(
            format!("no service runs: {shown} is not there"),
            format!("{start}   # or: grantkeeper run"),
        ),
        Answer::Stale => {
            let saw = format!("nobody listens on {shown}: a service ended without a farewell");
            what.fail(Trouble::Service, saw, format!("{}; {start}", scene.root(log)))
        }
        Answer::NotForMe => what.skipped(format!("{shown}: {}", scene.not_for_me())),
        Answer::Silent(why) => {
            let saw = format!("{shown} is there, and: {why}");
            let restart = scene.root("systemctl restart grantkeeper");
            what.fail(Trouble::Service, saw, format!("{}; {restart}", scene.root(log)))
        }
    }
}

type Told<'a> = Option<&'a Result<StatusBody, AskError>>;

fn not_told(scene: &Scene, told: Told<'_>) -> String {
    match told {
        Some(Err(AskError::Refused(problem))) if problem.code == "forbidden" => scene.not_for_me(),
        Some(Err(error)) => error.to_string(),
        _ if matches!(scene.running.answer, Answer::NotForMe) => scene.not_for_me(),
        _ => "no service answers (D28)".to_owned(),
    }
}

fn version(scene: &Scene, told: Told<'_>) -> Check {
    match told {
        Some(Ok(status)) => {
            judge_version(&status.version, &scene.root("systemctl restart grantkeeper"))
        }
        _ => What::Version.skipped(not_told(scene, told)),
    }
}

fn judge_version(service: &str, restart: &str) -> Check {
    let (what, own) = (What::Version, env!("CARGO_PKG_VERSION"));
    if service == own {
        return what.ok(format!("service and command are {own}"));
    }
    what.warn(format!("the service is {service}, and this command {own}"), restart)
}

fn activation(scene: &Scene) -> Check {
    let what = What::Activation;
    let unit = UNITS.iter().map(|folder| Path::new(folder).join("grantkeeper.socket"));
    let unit = unit.into_iter().find(|unit| unit.exists());
    if scene.running.by_systemd() {
        return what.ok("systemd made the socket: socket.path, mode and group do not count");
    }
    match (unit, scene.running.pid()) {
        (Some(unit), Some(_)) => {
            let saw = format!(
                "{} is there, and the service has made a socket of its own: a restart refuses callers for a moment",
                unit.display()
            );
            let fix = "sh -c 'systemctl stop grantkeeper && systemctl enable --now grantkeeper.socket && systemctl start grantkeeper'";
            what.warn(saw, scene.root(fix))
        }
        (Some(unit), None) => what.ok(format!("{} makes the socket", unit.display())),
        (None, _) => what.ok("the service makes its own socket"),
    }
}

/// When the process `pid` began, since the machine did.
fn began(pid: i32) -> Option<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    start_of(&stat)
}

/// The twenty-second member; the second may hold anything, in parentheses (proc(5)).
fn start_of(stat: &str) -> Option<Duration> {
    let ticks: u64 = stat.rsplit(')').next()?.split_whitespace().nth(19)?.parse().ok()?;
    Some(Duration::from_millis(ticks * 1000 / TICKS))
}

fn loaded(scene: &Scene, told: Told<'_>) -> Check {
    if !matches!(scene.running.answer, Answer::Answers) {
        return What::Loaded.skipped(not_told(scene, told));
    }
    let start = scene.running.pid().and_then(began).map(BootTime::new);
    let start = start.map(|since| SystemClock.wall_at(since));
    let modified = fs::metadata(&scene.asked.config).and_then(|metadata| metadata.modified());
    let modified = modified.ok().and_then(|time| Timestamp::try_from(time).ok());
    let remarks = told.and_then(|told| told.as_ref().ok()).map(|status| status.remarks.clone());
    let refused =
        remarks.into_iter().flatten().find(|remark| remark.contains("reload was refused"));
    let reload = scene.root("systemctl reload grantkeeper");
    let config = quoted(&scene.asked.config);
    let fix = format!("grantkeeper --config {config} check --offline && {reload}");
    judge_loaded(start, modified, refused, &fix)
}

fn judge_loaded(
    start: Option<Timestamp>,
    modified: Option<Timestamp>,
    refused: Option<String>,
    fix: &str,
) -> Check {
    let what = What::Loaded;
    let shown = |at: Timestamp| at.strftime("%Y-%m-%d %H:%M:%SZ").to_string();
    if let Some(refused) = refused {
        return what.fail(Trouble::Configuration, refused, fix);
    }
    let Some(start) = start else {
        return what.skipped(
            "when a service began whose socket systemd made is not seen here (`systemctl status grantkeeper`)",
        );
    };
    let since = format!("running since {}", shown(start));
    // The start is known to the second.
    match modified.filter(|at| at.as_second() > start.as_second() + 1) {
        Some(at) => {
            let changed = format!("the file was changed at {}", shown(at));
            what.warn(
                format!("{since}, and {changed}: whether it was read since is not known"),
                fix,
            )
        }
        None => what.ok(format!("{since}; the file has not been changed since")),
    }
}

async fn http(scene: &Scene) -> Check {
    let what = What::Http;
    let Some(address) = scene.config.as_ref().and_then(|config| config.http) else {
        return what.skipped("no [http] is configured");
    };
    let find = scene.root(&format!("ss -ltnp 'sport = :{}'", address.port()));
    match try_address(address) {
        Ok(()) if matches!(scene.running.answer, Answer::Answers) => {
            let saw = format!(
                "a service runs, and nobody listens on {address}: it was started without [http]"
            );
            what.warn(saw, scene.root("systemctl restart grantkeeper"))
        }
        Ok(()) => what.ok(format!("{address} is free")),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            let grantkeeper = is_ours(address).await;
            if grantkeeper && !matches!(scene.running.answer, Answer::Nobody | Answer::Stale) {
                return what.ok(format!("the service listens on {address}"));
            }
            let who = if grantkeeper { "another app's grantkeeper" } else { "another program" };
            let saw = format!("{who} listens on {address}");
            what.fail(Trouble::Machine, saw, format!("{find}   # stop it, or change http.listen"))
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            what.skipped(format!("{address}: {}", scene.not_for_me()))
        }
        Err(error) => {
            let saw = format!("{address} can't be listened on: {error}");
            what.fail(Trouble::Configuration, saw, scene.edit("http.listen = \"127.0.0.1:9464\""))
        }
    }
}

/// Whether the address could be taken; nobody can connect to it meanwhile.
fn try_address(address: SocketAddr) -> io::Result<()> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let tried = socket(family, SocketType::STREAM, None)?;
    set_socket_reuseaddr(&tried, true)?;
    Ok(bind(&tried, &address)?)
}

/// Whether the one who listens there tells our metrics.
async fn is_ours(address: SocketAddr) -> bool {
    let asked = async {
        let mut stream = TcpStream::connect(address).await?;
        stream
            .write_all(b"GET /metrics HTTP/1.1\r\nHost: grantkeeper\r\nConnection: close\r\n\r\n")
            .await?;
        let mut answer = Vec::new();
        stream.take(1 << 20).read_to_end(&mut answer).await?;
        io::Result::Ok(String::from_utf8_lossy(&answer).contains("grantkeeper_build_info"))
    };
    matches!(timeout(STEP, asked).await, Ok(Ok(true)))
}

#[cfg(test)]
mod tests {
    use super::{super::check::State, *};

    #[test]
    fn the_start_of_a_process_is_read_whatever_it_is_called() {
        let stat = format!("7 (a) b (c) S {} 4242 0", ["1"; 18].join(" "));
        assert_eq!(start_of(&stat), Some(Duration::from_millis(42_420)));
        assert_eq!(start_of("7 (x) S 1"), None);
    }

    #[test]
    fn a_service_of_another_version_is_to_be_started_again() {
        assert_eq!(judge_version(env!("CARGO_PKG_VERSION"), "x").state, State::Ok);
        let older = judge_version("0.0.1", "systemctl restart grantkeeper");
        assert_eq!(older.state, State::Warn);
        assert_eq!(older.fix.as_deref(), Some("systemctl restart grantkeeper"));
    }

    #[test]
    fn a_start_that_is_not_seen_hides_no_refused_reload() {
        assert_eq!(judge_loaded(None, None, None, "x").state, State::Skipped);
        let refused = Some("the last reload was refused".to_owned());
        assert_eq!(judge_loaded(None, None, refused, "x").state, State::Fail);
    }

    #[test]
    fn a_file_that_is_newer_than_the_service_is_worth_a_word_and_a_refused_reload_fails() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let start = Some(at("2026-11-26T00:00:00Z"));
        for (modified, refused, state) in [
            (None, None, State::Ok),
            (Some(at("2026-11-25T00:00:00Z")), None, State::Ok),
            (Some(at("2026-11-26T00:00:01Z")), None, State::Ok),
            (Some(at("2026-11-26T00:00:02Z")), None, State::Warn),
            (None, Some("the last reload was refused"), State::Fail),
        ] {
            let refused = refused.map(str::to_owned);
            assert_eq!(judge_loaded(start, modified, refused, "x").state, state);
        }
    }
}
