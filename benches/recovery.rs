//! How long after a `kill -9` a service with ten thousand portals serves all of them again, beside what it
//! takes the same service to start without a journal, when every token has to be fetched anew.
//!
//! `cargo bench --bench recovery`. The stand-in runs in this process, on the same machine.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a measurement that can't go on stops, and figures are told"
)]

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use grantkeeper::{
    sim::{Scenario, Sim},
    socket::Client,
    store::{
        CredentialStore, Expected, Key, Record,
        file::{FileStore, Settings},
    },
    time::{BootTime, Clock, SystemClock},
};
use serde_json::Value;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

const PORTALS: usize = 10_000;
const KILLS: usize = 5;
/// What the stand-in bears; HubSpot bears less, and then a start without a journal takes longer.
const PER_SECOND: usize = 1000;

struct Bed {
    dir: tempfile::TempDir,
    sim: Sim,
    client: Client,
}

/// From starting the process.
struct Took {
    first_answer: Duration,
    all_served: Duration,
    /// Refresh tokens that were spent meanwhile.
    spent: u64,
}

impl Bed {
    async fn new(stop: &CancellationToken, tasks: &TaskTracker) -> Self {
        let fleet = format!(
            "[settings]\nrotating = true\nexpires_in = 1800\n[fleet]\nfirst = 1\ncount = {PORTALS}\n"
        );
        let sim = Sim::new(Scenario::parse(&fleet).unwrap(), Arc::new(SystemClock));
        let (listener, address) = Sim::bind("127.0.0.1:0").await.unwrap();
        tasks.spawn(sim.clone().serve(listener, stop.clone()));
        let dir = tempfile::Builder::new().prefix("grantkeeper-bench-").tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let store = FileStore::open(Settings {
            path: at("store.redb"),
            key_file: at("store.key"),
            create_key: true,
        });
        fill(&store.unwrap(), &sim).await;
        let config = format!(
            "state_dir = \"{0}/state\"\n[app]\nname = \"bench\"\n[store]\nkind = \"file\"\n\
             [store.file]\npath = \"{0}/store.redb\"\nkey_file = \"{0}/store.key\"\n\
             [hubspot]\nbase_url = \"http://{address}\"\nmax_refreshes_per_second = {PER_SECOND}\n\
             [socket]\npath = \"{0}/gk.sock\"\n",
            dir.path().display()
        );
        fs::write(at("grantkeeper.toml"), config).unwrap();
        let client = Client::new(at("gk.sock"));
        Self { dir, sim, client }
    }

    fn spawn(&self) -> Child {
        let mut command = Command::new(env!("CARGO_BIN_EXE_grantkeeper"));
        command.arg("--config").arg(self.dir.path().join("grantkeeper.toml")).arg("run");
        let log = fs::File::create(self.dir.path().join("service.log")).unwrap();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap()
    }

    /// Starts the service and waits until it has a token for every portal.
    async fn start(&self) -> (Child, Took) {
        let (clock, spent) = (SystemClock, self.sim.report().refreshes);
        let began = clock.boot();
        let child = self.spawn();
        let first_answer = self.until(began, async || {
            let answer = self.client.get::<Value>("/v1/portals/5000/token").await;
            answer.is_ok()
        });
        let first_answer = first_answer.await;
        let all_served = self.until(began, async || {
            let status = self.client.get::<Value>("/v1/status").await.unwrap();
            let served = ["live", "unsaved"].map(|s| status["portals"][s].as_u64().unwrap_or(0));
            served.iter().sum::<u64>() == PORTALS as u64
        });
        let all_served = all_served.await;
        let spent = self.sim.report().refreshes - spent;
        (child, Took { first_answer, all_served, spent })
    }

    async fn until(&self, began: BootTime, holds: impl AsyncFn() -> bool) -> Duration {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(2)).await;
            assert!(
                SystemClock.boot().since(began) < Duration::from_secs(300),
                "{}",
                fs::read_to_string(self.dir.path().join("service.log")).unwrap()
            );
        }
        SystemClock.boot().since(began)
    }
}

async fn fill(store: &dyn CredentialStore, sim: &Sim) {
    let app = Record::default().with_client(&sim.client_id(), &sim.client_secret());
    store.write(Key::App, &app, &Expected::Absent).await.unwrap();
    for portal in sim.portals(None, usize::MAX) {
        let record =
            Record::default().with_refresh_token(&sim.refresh_token(portal.portal).unwrap());
        store.write(Key::Portal(portal.portal), &record, &Expected::Absent).await.unwrap();
    }
}

fn size(folder: &Path) -> u64 {
    let files = fs::read_dir(folder).unwrap().flatten();
    files.map(|file| file.metadata().unwrap().len()).sum()
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(measure());
}

async fn measure() {
    let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
    let bed = Bed::new(&stop, &tasks).await;
    let (mut service, cold) = bed.start().await;
    println!(
        "{PORTALS} portals on the embedded store, the stand-in bears {PER_SECOND} requests a second"
    );
    let tell = |what: &str, took: &Took| {
        println!(
            "{what}: first answer after {:.0} ms, all served after {:.0} ms, {} refreshes",
            took.first_answer.as_secs_f64() * 1e3,
            took.all_served.as_secs_f64() * 1e3,
            took.spent
        );
    };
    tell("with an empty journal (baseline)", &cold);
    let mut warm = Vec::new();
    for _ in 0..KILLS {
        service.kill().unwrap();
        service.wait().unwrap();
        let (again, took) = bed.start().await;
        service = again;
        tell("after kill -9", &took);
        warm.push(took);
    }
    service.kill().unwrap();
    service.wait().unwrap();
    warm.sort_by_key(|took| took.all_served);
    let median = &warm[KILLS / 2];
    println!(
        "median: first answer {:.2}, all served {:.2} of the baseline; the journal holds {} kB",
        median.first_answer.as_secs_f64() / cold.first_answer.as_secs_f64(),
        median.all_served.as_secs_f64() / cold.all_served.as_secs_f64(),
        size(&bed.dir.path().join("state")) / 1000
    );
    stop.cancel();
    tasks.close();
    tasks.wait().await;
}
