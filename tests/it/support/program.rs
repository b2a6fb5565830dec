//! A server process that can't outlive the test binary. Knows processes and ports, no protocol.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::TcpListener,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::atomic::{AtomicU16, Ordering},
    time::Duration,
};

/// Starts the program, tells its id, and when the pipe to the test process closes (on drop, and also
/// when the test process is killed) ends it and clears its folder away.
const WATCHER: &str = r#""$@" </dev/null >"$LOG" 2>&1 &
pid=$!; echo $pid; read -r _; kill -9 $pid; wait $pid; rm -rf -- "$DIR""#;

/// A running server.
pub(crate) struct Program {
    watcher: Child,
    pipe: Option<ChildStdin>,
    pid: u32,
    log: PathBuf,
}

impl Program {
    /// Starts `program` with `args` and nothing in its environment but PATH, HOME (`dir`) and `env`.
    pub(crate) fn start(program: &Path, args: &[&str], env: &[(&str, &str)], dir: &Path) -> Self {
        let log = dir.join("log");
        let mut watcher = Command::new("sh")
            .args(["-c", WATCHER, "watcher"])
            .arg(program)
            .args(args)
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("HOME", dir)
            .env("DIR", dir)
            .env("LOG", &log)
            .envs(env.iter().copied())
            .current_dir(dir)
            // An interrupt at the terminal is for the test process; the pipe tells the rest.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(watcher.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let pid = line.trim().parse().unwrap();
        Self { pipe: watcher.stdin.take(), watcher, pid, log }
    }

    /// Waits, at most 30 s, until the program itself listens on `port`, whoever else may.
    pub(crate) async fn listening(&self, port: u16) {
        for _ in 0..600 {
            assert!(self.is_alive(), "the server ended: {}", self.last_words());
            if self.owns(port) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the server does not listen: {}", self.last_words());
    }

    /// Whether it has not ended yet.
    pub(crate) fn is_alive(&self) -> bool {
        let process = PathBuf::from(format!("/proc/{}", self.pid));
        state_of(&process).is_some_and(|state| state != 'Z')
    }

    /// Stops it in its tracks, sockets open: what a hang looks like from outside. Returns once each
    /// of its threads stands still.
    pub(crate) async fn freeze(&self) {
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.pid).unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
        for _ in 0..200 {
            let mut threads = fs::read_dir(format!("/proc/{}/task", self.pid)).unwrap().flatten();
            if threads.all(|thread| state_of(&thread.path()) == Some('T')) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the server does not stand still");
    }

    /// Lets it go on after a freeze.
    pub(crate) fn thaw(&self) {
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.pid).unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::CONT).unwrap();
    }

    fn owns(&self, port: u16) -> bool {
        let table = fs::read_to_string("/proc/net/tcp").unwrap_or_default();
        let address = format!("0100007F:{port:04X}");
        let sockets = table.lines().filter_map(|line| {
            let columns: Vec<&str> = line.split_whitespace().collect();
            let listens = columns.get(1) == Some(&&*address) && columns.get(3) == Some(&"0A");
            listens.then(|| format!("socket:[{}]", columns[9]))
        });
        let sockets: Vec<String> = sockets.collect();
        let Ok(open) = fs::read_dir(format!("/proc/{}/fd", self.pid)) else { return false };
        open.flatten()
            .filter_map(|entry| fs::read_link(entry.path()).ok())
            .any(|target| sockets.iter().any(|socket| target.as_os_str() == socket.as_str()))
    }

    /// What it has said so far.
    pub(crate) fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn last_words(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().rev().take(20).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        drop(self.pipe.take());
        drop(self.watcher.wait());
    }
}

/// The letter by which the kernel names the state of a process or thread.
fn state_of(process: &Path) -> Option<char> {
    let stat = fs::read_to_string(process.join("stat")).ok()?;
    stat.rsplit(')').next()?.trim_start().chars().next()
}

/// A free port on loopback whose neighbour is free as well: OpenBao takes both.
pub(crate) fn free_port_pair() -> u16 {
    // Below the range from which the kernel takes ports by itself.
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let mut seed = [0; 2];
    aws_lc_rs::rand::fill(&mut seed).unwrap();
    let seed = 12_000 + u16::from_be_bytes(seed) % 8_000 * 2;
    // Only the first caller's seed counts.
    NEXT.compare_exchange(0, seed, Ordering::SeqCst, Ordering::SeqCst).ok();
    for _ in 0..1_000 {
        let port = NEXT.fetch_add(2, Ordering::SeqCst);
        let free = |port| TcpListener::bind(("127.0.0.1", port)).is_ok();
        if free(port) && free(port + 1) {
            return port;
        }
    }
    panic!("no two free ports side by side on loopback");
}

/// The file `name` below the test environment that `tests/run` makes.
pub(crate) fn installed(name: &str) -> PathBuf {
    #[expect(clippy::disallowed_methods, reason = "how tests/run tells where the servers are")]
    let root = std::env::var_os("GRANTKEEPER_TEST_ENV");
    let root = root.map(PathBuf::from).expect("GRANTKEEPER_TEST_ENV is not set: run tests/run");
    let python = root.join("venv/lib");
    let versions = fs::read_dir(&python).into_iter().flatten().flatten();
    versions
        .map(|version| version.path().join("site-packages").join(name))
        .chain([root.join("venv").join(name)])
        .find(|file| file.is_file())
        .unwrap_or_else(|| panic!("{name} is not in the test environment: run tests/run"))
}
