//! Takes notices to their sinks: one lane a sink, in order, tried again with back-off until it is
//! taken, refused for good, or the service stops. A slow receiver delays nobody but itself.

use std::{sync::Arc, time::Duration};

use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::metrics::{BySink, Metrics};
use crate::{
    incident::{Notice, Severity},
    sink::{AlertSink, DeliveryError},
    time::Backoff,
};

/// Notices that may wait for one sink. Incidents are few by design (one a cause); beyond this the
/// oldest are still in `status` and in the log.
const WAITING: usize = 10_000;
/// Attempts at one notice before it is given up: with the back-off below, over a day.
const ATTEMPTS: u32 = 300;

/// A sink and what it wants to hear of.
#[derive(Debug)]
pub struct Route {
    /// Where to.
    pub sink: Arc<dyn AlertSink>,
    /// From which severity on.
    pub min_severity: Severity,
}

/// The way to every sink.
#[derive(Debug, Default)]
pub struct Alerting {
    lanes: Vec<Lane>,
    tasks: TaskTracker,
}

#[derive(Debug)]
struct Lane {
    sender: mpsc::Sender<Notice>,
    min_severity: Severity,
    name: String,
}

impl Alerting {
    /// Starts one lane a route. `stop` ends waiting between attempts: each lane then tries what it
    /// still holds once more and ends.
    #[must_use]
    pub fn start(routes: Vec<Route>, metrics: &Arc<Metrics>, stop: &CancellationToken) -> Self {
        let tasks = TaskTracker::new();
        let lane = |route: Route| {
            let (sender, receiver) = mpsc::channel(WAITING);
            let name = route.sink.name().to_owned();
            tasks.spawn(deliver(route.sink, receiver, Arc::clone(metrics), stop.clone()));
            Lane { sender, min_severity: route.min_severity, name }
        };
        let lanes = routes.into_iter().map(lane).collect();
        Self { lanes, tasks }
    }

    /// Hands a notice to every sink that wants it. Never waits.
    pub fn tell(&self, notice: &Notice) {
        for lane in &self.lanes {
            let wanted = notice.incident.severity >= lane.min_severity;
            if wanted && lane.sender.try_send(notice.clone()).is_err() {
                tracing::error!(sink = %lane.name, incident = %notice.key(), "alert dropped: the sink has not taken {WAITING} alerts");
            }
        }
    }

    /// Takes no more notices; what is given back is empty when every lane has delivered what it held.
    #[must_use]
    pub fn retire(self) -> TaskTracker {
        self.tasks.close();
        self.tasks
    }
}

async fn deliver(
    sink: Arc<dyn AlertSink>,
    mut notices: mpsc::Receiver<Notice>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) {
    let count = |outcome| {
        let labels = BySink { sink: sink.name().to_owned(), outcome };
        metrics.alerts.get_or_create(&labels).inc();
    };
    while let Some(notice) = notices.recv().await {
        let mut failures = 0;
        loop {
            match sink.deliver(&notice).await {
                Ok(()) => {
                    count("delivered");
                    break;
                }
                Err(error) => {
                    count("failed");
                    failures += 1;
                    let last = !error.retryable || failures >= ATTEMPTS || stop.is_cancelled();
                    complain(sink.name(), &notice, &error, last);
                    if last {
                        break;
                    }
                }
            }
            tokio::select! {
                () = tokio::time::sleep(wait(failures)) => {}
                () = stop.cancelled() => {}
            }
        }
    }
}

fn complain(sink: &str, notice: &Notice, error: &DeliveryError, last: bool) {
    let incident = notice.key();
    if last {
        tracing::error!(sink, %incident, %error, "alert not delivered, giving up");
    } else {
        tracing::warn!(sink, %incident, %error, "alert not delivered, will try again");
    }
}

fn wait(failures: u32) -> Duration {
    const CEILING: Duration = Duration::from_secs(300);
    Backoff::new(Duration::from_secs(1), CEILING, 0.0)
        .map_or(CEILING, |backoff| backoff.after(failures, 0.0))
}
