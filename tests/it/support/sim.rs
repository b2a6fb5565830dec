//! A stand-in for HubSpot on a free port, for one test.

use std::sync::Arc;

use grantkeeper::{
    sim::{Effect, HttpFault, Scenario, Sim},
    time::SystemClock,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// An answer with this status and nothing useful in it.
pub(crate) const fn http(status: u16) -> Effect {
    Effect::Http(HttpFault { status, retry_after: None })
}

/// A running stand-in; stops when dropped.
pub(crate) struct Standin {
    pub(crate) sim: Sim,
    pub(crate) url: String,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Standin {
    pub(crate) async fn start(scenario: &str) -> Self {
        let scenario = Scenario::parse(scenario).unwrap();
        let sim = Sim::new(scenario, Arc::new(SystemClock));
        let (listener, address) = Sim::bind("127.0.0.1:0").await.unwrap();
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        tasks.spawn(sim.clone().serve(listener, stop.clone()));
        Self { sim, url: format!("http://{address}"), stop, tasks }
    }

    /// Ends it in order.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl Drop for Standin {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
