//! What a process runs on, and what kills it: clocks that jump, chance that repeats itself, and a crash
//! at whatever crossing of a seam is chosen.

use std::{
    future::pending,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use grantkeeper::time::{BootId, BootTime, Clock, RuntimeClock};
use jiff::Timestamp;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Chance that a seed repeats (splitmix64).
#[derive(Debug, Clone)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) const fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % sides
    }

    pub(crate) fn millis(&mut self, most: u64) -> Duration {
        Duration::from_millis(self.roll(most + 1))
    }
}

/// True time: it goes on while the machine sleeps, and nobody can set it.
#[derive(Debug, Clone)]
pub(crate) struct TrueTime {
    runtime: Arc<RuntimeClock>,
    slept: Arc<watch::Sender<Duration>>,
}

impl TrueTime {
    pub(crate) fn new() -> Self {
        let runtime = RuntimeClock::starting_at("2026-11-24T00:00:00Z".parse().unwrap());
        Self { runtime: Arc::new(runtime), slept: Arc::new(watch::Sender::default()) }
    }

    /// The machine is suspended for `span`: no timer runs meanwhile, and time passes all the same.
    pub(crate) fn suspend(&self, span: Duration) {
        self.slept.send_modify(|slept| *slept += span);
    }

    fn slept(&self) -> Duration {
        *self.slept.borrow()
    }

    /// Lets time pass for what is not on the machine: a suspend holds nothing of it up.
    pub(crate) async fn pass(&self, span: Duration) {
        let (until, mut suspended) = (self.boot() + span, self.slept.subscribe());
        while self.boot() < until {
            tokio::select! {
                () = tokio::time::sleep(until.until(self.boot())) => {}
                _ = suspended.changed() => {}
            }
        }
    }
}

impl Clock for TrueTime {
    fn boot(&self) -> BootTime {
        self.runtime.boot() + self.slept()
    }

    fn wall(&self) -> Timestamp {
        self.runtime.wall().checked_add(self.slept()).unwrap()
    }

    fn boot_id(&self) -> BootId {
        self.runtime.boot_id()
    }
}

/// What the machine's clocks say: the boot clock from its last start, the wall clock as it was set.
#[derive(Debug, Clone)]
pub(crate) struct MachineClock {
    truth: TrueTime,
    set: Arc<Mutex<Set>>,
}

#[derive(Debug)]
struct Set {
    started: BootTime,
    starts: u64,
    wall_ahead: i64,
    /// When the clock was last looked at, and how often at that very moment.
    looked: (BootTime, u32),
}

/// Nobody looks so often without time passing, but a program that spins.
const SPINNING: u32 = 1_000_000;

impl MachineClock {
    pub(crate) fn new(truth: TrueTime) -> Self {
        let set = Set {
            started: BootTime::default(),
            starts: 1,
            wall_ahead: 0,
            looked: Default::default(),
        };
        Self { truth, set: Arc::new(Mutex::new(set)) }
    }

    fn set(&self) -> MutexGuard<'_, Set> {
        self.set.lock().unwrap()
    }

    pub(crate) fn reboot(&self) {
        let mut set = self.set();
        set.starts += 1;
        set.started = self.truth.boot();
    }

    /// Somebody sets the wall clock, `seconds` off the truth.
    pub(crate) fn set_wall(&self, seconds: i64) {
        self.set().wall_ahead = seconds;
    }
}

impl Clock for MachineClock {
    fn boot(&self) -> BootTime {
        let (now, mut set) = (self.truth.boot(), self.set());
        set.looked = (now, if set.looked.0 == now { set.looked.1 + 1 } else { 0 });
        assert!(set.looked.1 < SPINNING, "the program spins at {}", self.truth.wall());
        BootTime::new(now.since(set.started))
    }

    fn wall(&self) -> Timestamp {
        let ahead = jiff::SignedDuration::from_secs(self.set().wall_ahead);
        self.truth.wall().checked_add(ahead).unwrap()
    }

    fn boot_id(&self) -> BootId {
        BootId::new(format!("start {}", self.set().starts))
    }
}

/// Kills the process at a crossing of a seam: each call to the store, to HubSpot and to the disk has
/// several, before and after it has its effect.
#[derive(Debug, Clone, Default)]
pub(crate) struct Crash(Arc<Mutex<Fate>>);

#[derive(Debug, Default)]
struct Fate {
    /// Crossings that are left.
    left: Option<u64>,
    process: CancellationToken,
}

impl Crash {
    /// A new process lives.
    pub(crate) fn born(&self) -> CancellationToken {
        let process = CancellationToken::new();
        *self.0.lock().unwrap() = Fate { left: None, process: process.clone() };
        process
    }

    /// It is to die at the crossing of this number from now.
    pub(crate) fn arm(&self, crossing: u64) {
        self.0.lock().unwrap().left = Some(crossing);
    }

    /// A crossing. A dead process never gets past one.
    pub(crate) async fn point(&self) {
        let dead = {
            let mut fate = self.0.lock().unwrap();
            if let Some(left) = &mut fate.left {
                *left = left.saturating_sub(1);
                if *left == 0 {
                    fate.process.cancel();
                }
            }
            fate.process.is_cancelled()
        };
        if dead {
            pending::<()>().await;
        }
    }
}
