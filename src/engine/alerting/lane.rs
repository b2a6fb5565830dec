//! One receiver's lane: delivers what it is owed, one notice at a time, tries again with back-off until it is taken or
//! refused for good, and remembers what was taken.

use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

use tokio::{sync::mpsc, time::sleep};

use super::{Around, Receiver, Route, Shown};
use crate::{
    engine::metrics::BySink,
    incident::{
        Closing, Notice, Outbox,
        outbox::{Next, Told},
    },
    journal::Entry,
    sink::{AlertSink, DeliveryError},
};

/// The longest a lane sleeps: timers stand still while a machine is suspended.
const LONGEST_NAP: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) enum News {
    Notice(Box<Notice>, Option<Told>),
    Route(Arc<Route>),
}

/// One receiver's.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) around: Around,
    pub(super) sink: Arc<dyn AlertSink>,
    pub(super) outbox: Outbox,
    pub(super) shown: Shown,
}

impl Lane {
    pub(super) async fn run(mut self, mut news: mpsc::Receiver<News>) {
        let stop = self.around.stop.clone();
        let mut closing = Closing::No;
        loop {
            let now = self.around.now();
            for (incident, told) in self.outbox.passed_over(now) {
                self.remember(incident, told);
            }
            match self.outbox.next(now, closing) {
                Next::Send(notice) => {
                    if !self.deliver(&notice, &mut news).await && closing != Closing::No {
                        let waiting = self.outbox.waiting();
                        tracing::error!(
                            sink = self.sink.name(),
                            waiting,
                            kept = self.around.keeps(),
                            "alerts not delivered before the end"
                        );
                        return;
                    }
                }
                Next::Wait(_) if closing != Closing::No => return,
                Next::Wait(until) => {
                    let nap = until.map(|until| until.until(now.boot).min(LONGEST_NAP));
                    let nap = async {
                        match nap {
                            Some(nap) if !stop.is_cancelled() => sleep(nap).await,
                            _ => std::future::pending().await,
                        }
                    };
                    tokio::select! {
                        came = news.recv() => match came {
                            Some(news) => self.hear(news),
                            None => closing = if self.around.keeps() { Closing::Kept } else { Closing::Lost },
                        },
                        () = stop.cancelled(), if !stop.is_cancelled() => {}
                        () = nap => {}
                    }
                }
            }
        }
    }

    fn hear(&mut self, news: News) {
        let now = self.around.now();
        match news {
            News::Notice(notice, told) => self.outbox.take(*notice, told, now),
            News::Route(route) => {
                self.sink = Arc::clone(&route.sink);
                self.outbox.change(route.manner.clone(), now);
            }
        }
        self.show(|_| {});
    }

    /// Delivers one notice, looking meanwhile at what else has come. Whether it need not be tried again.
    async fn deliver(&mut self, notice: &Notice, news: &mut mpsc::Receiver<News>) -> bool {
        let sink = Arc::clone(&self.sink);
        let delivery = sink.deliver(notice);
        tokio::pin!(delivery);
        let mut open = true;
        let outcome = loop {
            tokio::select! {
                outcome = &mut delivery => break outcome,
                came = news.recv(), if open => match came {
                    Some(news) => self.hear(news),
                    None => open = false,
                },
            }
        };
        self.conclude(notice, outcome)
    }

    fn conclude(&mut self, notice: &Notice, outcome: Result<(), DeliveryError>) -> bool {
        let (now, incident) = (self.around.now(), notice.key());
        let sink = self.sink.name().to_owned();
        let word = match &outcome {
            Ok(()) => "delivered",
            Err(error) if error.retryable => "failed",
            Err(_) => "refused",
        };
        self.around
            .metrics
            .alerts
            .get_or_create(&BySink { sink: sink.clone(), outcome: word })
            .inc();
        let settled = match outcome {
            Ok(()) => {
                self.show(|shown| {
                    (shown.failures, shown.trouble) = (0, None);
                    shown.last_taken = Some(now.wall);
                });
                true
            }
            Err(error) => {
                let again = error.retryable;
                if again {
                    tracing::warn!(sink, %incident, %error, "alert not delivered, will try again");
                    self.outbox.failed(notice, error.wait, now);
                } else {
                    tracing::error!(sink, %incident, %error, "alert refused by its receiver, giving up");
                }
                self.show(|shown| {
                    shown.failures = shown.failures.saturating_add(1);
                    shown.trouble = Some(error.what);
                });
                !again
            }
        };
        if settled && let Some(told) = self.outbox.settled(notice, now) {
            self.remember(notice.incident.incident_id.clone(), told);
        }
        self.show(|_| {});
        settled
    }

    fn remember(&self, incident: String, told: Told) {
        let receiver = self.sink.name().to_owned();
        self.around.journal.note(Entry::Told { incident, receiver, told });
    }

    fn show(&self, change: impl FnOnce(&mut Receiver)) {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut shown);
        shown.waiting = self.outbox.waiting();
    }
}
