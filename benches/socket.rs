//! How long well-behaved callers wait while another floods, another trickles and a third comes and goes, beside what they
//! wait without them, in the same run: 10,000 requests a second from three users, each request counted from when it was due. Whether any is
//! denied, and whether memory stays flat. Then what a single caller gets at most.
//!
//! Those are a process of their own, and a nice one (nice 19): on few cores their own work would be measured else, and
//! not what they do to the service.
//!
//! As root, to be other users: `tests/run --profile simulation --bench socket`. A number after `--` is the seconds of each
//! part (60).
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    reason = "a measurement that can't go on stops, and figures are told"
)]

use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown},
    path::Path,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use grantkeeper::time::{Clock, SystemClock};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
    process::Command,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::task::TaskTracker;

use support::{
    raw::connect_as,
    service::{Place, Service},
};

#[path = "../tests/it/support/mod.rs"]
#[expect(dead_code, unused_imports, reason = "made for the tests, which use the rest")]
mod support;

const SERVICE: u32 = 64_000;
const GOOD: [u32; 3] = [64_001, 64_002, 64_003];
const FLOODER: u32 = 64_004;
const TRICKLER: u32 = 64_005;
const STRANGER: u32 = 64_006;
/// Of all three together.
const PER_SECOND: u64 = 10_000;
const CONNECTIONS: u64 = 16;
const PORTALS: u64 = 50;
/// Requests on each of four connections, to see how fast it goes.
const EACH: u32 = 20_000;
/// What the process is called with that floods.
const FLOOD: &str = "--flood";
/// And what tells it to come and go as well.
const CHURN: &str = "--churn";

/// What the well-behaved met.
#[derive(Default)]
struct Met {
    waits: Vec<Duration>,
    denied: u64,
}

impl Met {
    fn quantile(&self, share: f64) -> Duration {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index")]
        let at = ((self.waits.len() - 1) as f64 * share) as usize;
        self.waits[at]
    }

    fn told(&self, what: &str, seconds: f64) {
        println!(
            "{what}: {} answers, {:.0} a second, {} denied; p50 {:.3} ms, p99 {:.3} ms, p99.9 {:.3} ms, longest {:.1} ms",
            self.waits.len(),
            self.waits.len() as f64 / seconds,
            self.denied,
            ms(self.quantile(0.5)),
            ms(self.quantile(0.99)),
            ms(self.quantile(0.999)),
            ms(self.quantile(1.0)),
        );
    }
}

fn ms(span: Duration) -> f64 {
    span.as_secs_f64() * 1000.0
}

/// One answer on a kept connection: its status, or nothing if the other end hung up.
async fn ask(stream: &mut UnixStream, portal: u64, buffer: &mut Vec<u8>) -> Option<u16> {
    let request = format!("GET /v1/portals/{portal}/token HTTP/1.1\r\nHost: g\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    buffer.clear();
    loop {
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
        let text = std::str::from_utf8(buffer).ok()?;
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let length: usize = length.and_then(|length| length.parse().ok()).unwrap_or(0);
        if body.len() >= length {
            return head.get(9..12)?.parse().ok();
        }
    }
}

/// The three, for so long.
async fn behave(socket: &Path, span: Duration) -> Met {
    let clock = SystemClock;
    let mut callers = JoinSet::new();
    let began = clock.boot() + Duration::from_millis(100);
    let each = GOOD.len() as u64 * CONNECTIONS;
    let interval = Duration::from_nanos(1_000_000_000 * each / PER_SECOND);
    for (number, uid) in (0..each).zip(GOOD.into_iter().cycle()) {
        let mut stream = connect_as(socket, uid, uid, &[SERVICE]);
        callers.spawn(async move {
            let clock = SystemClock;
            let (mut met, mut buffer) = (Met::default(), Vec::with_capacity(4096));
            let mut due = began + interval.mul_f64(number as f64 / each as f64);
            while due < began + span {
                let now = clock.boot();
                if due > now {
                    sleep(due.until(now)).await;
                }
                let portal = 1 + (number * 7 + met.waits.len() as u64) % PORTALS;
                let status = ask(&mut stream, portal, &mut buffer).await;
                // From when it was due: who is kept waiting keeps those after it waiting too.
                met.waits.push(clock.boot().since(due));
                met.denied += u64::from(status != Some(200));
                due = due + interval;
            }
            met
        });
    }
    let mut all = Met::default();
    while let Some(met) = callers.join_next().await {
        let met = met.unwrap();
        all.waits.extend(met.waits);
        all.denied += met.denied;
    }
    all.waits.sort_unstable();
    all
}

/// As fast as it can, on more connections than it may have, and again when it is cut off.
async fn flood(socket: &Path) {
    let (good, refused) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    for number in 0..300 {
        let socket = socket.to_owned();
        let (good, refused) = (Arc::clone(&good), Arc::clone(&refused));
        let flooding = async move {
            let mut buffer = Vec::with_capacity(4096);
            loop {
                let mut stream = connect_as(&socket, FLOODER, FLOODER, &[SERVICE]);
                loop {
                    let answer = ask(&mut stream, 1 + number % PORTALS, &mut buffer);
                    let counted = match timeout(Duration::from_secs(5), answer).await {
                        Ok(Some(200)) => &good,
                        Ok(Some(_)) => &refused,
                        Ok(None) | Err(_) => break,
                    };
                    counted.fetch_add(1, Ordering::Relaxed);
                }
            }
        };
        TaskTracker::new().spawn(flooding);
    }
    loop {
        sleep(Duration::from_millis(500)).await;
        println!("{} {}", good.load(Ordering::Relaxed), refused.load(Ordering::Relaxed));
    }
}

/// Comes, says nonsense and goes, as fast as one thread can, as a user whom no rule names.
fn churn(socket: &Path) {
    use std::io::Write;
    let socket = socket.to_owned();
    let churning = move || {
        let stranger = rustix::process::Uid::from_raw(STRANGER);
        rustix::thread::set_thread_res_gid(
            rustix::process::Gid::from_raw(SERVICE),
            rustix::process::Gid::from_raw(SERVICE),
            rustix::process::Gid::from_raw(SERVICE),
        )
        .unwrap();
        rustix::thread::set_thread_res_uid(stranger, stranger, stranger).unwrap();
        loop {
            // Whether it is heard does not matter.
            if let Ok(mut stream) = std::os::unix::net::UnixStream::connect(&socket) {
                stream.write_all(b"\x16\x03\x01\r\n\r\n").ok();
            }
        }
    };
    std::thread::spawn(churning);
}

/// A byte now and then, on more connections than it may have.
fn trickle(socket: &Path) {
    for _ in 0..300 {
        let socket = socket.to_owned();
        let trickling = async move {
            loop {
                let mut stream = connect_as(&socket, TRICKLER, TRICKLER, &[SERVICE]);
                for byte in b"GET /v1/portals/1/token HTTP/1.1\r\nX: ".iter().cycle() {
                    sleep(Duration::from_millis(500)).await;
                    if stream.write_all(&[*byte]).await.is_err() {
                        break;
                    }
                }
            }
        };
        TaskTracker::new().spawn(trickling);
    }
}

/// What the service has in memory, in MiB.
fn resident(pid: u32) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
}

/// As many as one user gets at most, on four connections.
async fn most(socket: &Path) -> f64 {
    let began = SystemClock.boot();
    let mut callers = JoinSet::new();
    for number in 0..4 {
        let mut stream = connect_as(socket, SERVICE, SERVICE, &[]);
        callers.spawn(async move {
            let mut buffer = Vec::with_capacity(4096);
            for _ in 0..EACH {
                assert_eq!(ask(&mut stream, 1 + number, &mut buffer).await, Some(200));
            }
        });
    }
    callers.join_all().await;
    4.0 * f64::from(EACH) / SystemClock.boot().since(began).as_secs_f64()
}

/// The service, once every portal has a token.
async fn serving(place: &Place) -> Service {
    let service = place.spawn_logging("warn", "text");
    let socket = place.socket();
    loop {
        sleep(Duration::from_millis(100)).await;
        if !socket.exists() {
            continue;
        }
        let mut stream = connect_as(&socket, SERVICE, SERVICE, &[]);
        let mut buffer = Vec::new();
        let mut live = 0;
        for portal in 1..=PORTALS {
            live += u64::from(ask(&mut stream, portal, &mut buffer).await == Some(200));
        }
        if live == PORTALS {
            return service;
        }
    }
}

/// How the well-behaved fare beside those who are not.
async fn beside(socket: &Path, span: Duration, what: &str, with_churn: bool) -> Met {
    let mut others = Command::new("nice");
    others.args(["-n", "19"]).arg(std::env::current_exe().unwrap()).arg(FLOOD).arg(socket);
    others.args(with_churn.then_some(CHURN));
    let mut others = others.stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let mut told = BufReader::new(others.stdout.take().unwrap()).lines();
    let first = told.next_line().await.unwrap();
    let part = behave(socket, span).await;
    others.start_kill().unwrap();
    let mut last = first;
    while let Ok(Some(line)) = told.next_line().await {
        last = Some(line);
    }
    part.told(&format!("beside {what}"), span.as_secs_f64());
    println!("the flooder's answers and refusals: {}", last.unwrap_or_default());
    part
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> std::process::ExitCode {
    let mut args = std::env::args().skip(1);
    if args.next().as_deref() == Some(FLOOD) {
        let socket = args.next().unwrap();
        trickle(Path::new(&socket));
        if args.next().as_deref() == Some(CHURN) {
            churn(Path::new(&socket));
        }
        flood(Path::new(&socket)).await;
        return std::process::ExitCode::SUCCESS;
    }
    let seconds = std::env::args().find_map(|text| text.parse::<u64>().ok());
    let span = Duration::from_secs(seconds.unwrap_or(60));
    let mut place = Place::new(PORTALS, "[settings]\nrotating = true\nexpires_in = 1800").await;
    for uid in GOOD.into_iter().chain([FLOODER, TRICKLER]) {
        place.extra +=
            &format!("[[access]]\nuid = {uid}\nportals = [\"*\"]\nallow = [\"token\"]\n");
    }
    place.extra += &format!("[audit]\nfile = \"{}\"\n", place.path("audit.jsonl").display());
    place.uid = Some(SERVICE);
    for entry in fs::read_dir(place.dir.path()).unwrap().flatten() {
        chown(entry.path(), Some(SERVICE), Some(SERVICE)).unwrap();
    }
    chown(place.dir.path(), Some(SERVICE), Some(SERVICE)).unwrap();
    fs::set_permissions(place.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let service = serving(&place).await;
    let socket = place.socket();
    let pid = service.child.id().unwrap();
    behave(&socket, Duration::from_secs(3)).await;
    let before = resident(pid);
    let alone = behave(&socket, span).await;
    alone.told("alone", span.as_secs_f64());
    let between = resident(pid);
    let disturbed = beside(&socket, span, "flood and trickle", false).await;
    let churned = beside(&socket, span, "flood, trickle and churn", true).await;
    let times = |part: &Met| ms(part.quantile(0.99)) / ms(alone.quantile(0.99));
    let (ratio, with_churn) = (times(&disturbed), times(&churned));
    println!(
        "p99 beside flood and trickle is {ratio:.2} times what it is alone, with churn {with_churn:.2} times"
    );
    println!(
        "memory: {before:.1} MiB before, {between:.1} MiB between, {:.1} MiB after",
        resident(pid)
    );
    // The promise: nobody's flood makes others wait more than three times as long, and none of theirs is denied. One who
    // comes and goes takes what is left of the machine as well: it is told what that does.
    let denied = alone.denied + disturbed.denied + churned.denied;
    let broken = ratio > 3.0 || denied > 0;
    assert_eq!(service.stop().await, 0);
    place.extra += "[socket]\nrequests_per_second = 1000000\n";
    let _unbound = serving(&place).await;
    for _ in 0..3 {
        let most = most(&socket).await;
        println!("one user on four connections, not held to a rate: {most:.0} tokens a second");
    }
    if broken {
        println!("MORE than 3 times, or {denied} denied: the promise is broken");
        return std::process::ExitCode::FAILURE;
    }
    std::process::ExitCode::SUCCESS
}
