//! Takes notices to their receivers. What there is to tell is made durable first (I12); then each receiver has a lane
//! of its own, so that a slow one delays nobody but itself. What each is owed is `incident::outbox`'s rule.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use jiff::Timestamp;
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

mod lane;

use lane::{Lane, News};

use super::metrics::Metrics;
use crate::{
    incident::{Change, Manner, Moment, Notice, Outbox},
    journal::{Entry, Journal, Standing},
    portal::AppName,
    sink::{AlertSink, DeliveryError},
    time::Clock,
};

/// Notices that may wait to be made durable, or for a lane to look at them: a lane looks even while it delivers.
const WAITING: usize = 10_000;
/// A disk that takes longer is not waited for: somebody has to hear of it.
const DISK_PATIENCE: Duration = Duration::from_secs(5);

/// A sink and how it wants to be told.
#[derive(Debug)]
pub struct Route {
    /// What the operator calls the receiver that it belongs to.
    pub receiver: String,
    /// Where to.
    pub sink: Arc<dyn AlertSink>,
    /// How.
    pub manner: Manner,
}

/// How a receiver does, for `status`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Receiver {
    /// What the operator calls it.
    pub name: String,
    /// Incidents of which it has not taken everything.
    pub waiting: usize,
    /// Failures in a row.
    pub failures: u32,
    /// What the last one was.
    pub trouble: Option<String>,
    /// When it last took something.
    pub last_taken: Option<Timestamp>,
}

type Shown = Arc<Mutex<Receiver>>;

/// Every receiver, for `status`.
#[derive(Debug, Clone, Default)]
pub struct Receivers(Arc<ArcSwap<Vec<Shown>>>);

impl Receivers {
    /// How each does now.
    #[must_use]
    pub fn now(&self) -> Vec<Receiver> {
        let seen = |shown: &Shown| shown.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.0.load().iter().map(seen).collect()
    }
}

/// What came of a test.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Untested {
    /// There is no such receiver.
    #[error("no receiver of alerts has this name")]
    NoSuch,
    /// It did not take it.
    #[error("the test was not taken")]
    NotTaken(#[source] DeliveryError),
}

/// What the dispatcher is told.
#[derive(Debug)]
enum Order {
    Tell(Box<Notice>),
    Resume(Vec<Standing>),
    Reroute(Vec<Route>, Vec<Notice>),
    Test(String, AppName, oneshot::Sender<Result<(), Untested>>),
}

/// The way to every receiver.
#[derive(Debug, Default)]
pub struct Alerting {
    orders: Option<mpsc::Sender<Order>>,
    tasks: TaskTracker,
    receivers: Receivers,
}

impl Alerting {
    /// Starts one lane a route. `stop` ends waiting between attempts: once the engine has ended, each lane
    /// tries what it still holds once more and ends; what is left the next process finds in `journal`.
    #[must_use]
    pub fn start(
        routes: Vec<Route>,
        journal: Journal,
        clock: Arc<dyn Clock>,
        metrics: &Arc<Metrics>,
        stop: &CancellationToken,
    ) -> Self {
        let (tasks, receivers) = (TaskTracker::new(), Receivers::default());
        let (sender, orders) = mpsc::channel(WAITING);
        let around = Around {
            journal,
            clock,
            metrics: Arc::clone(metrics),
            stop: stop.clone(),
            kept: Arc::new(AtomicBool::new(true)),
        };
        let shown = receivers.clone();
        let mut dispatcher =
            Dispatcher { around, lanes: BTreeMap::new(), tasks: tasks.clone(), shown };
        dispatcher.reroute(routes, &[]);
        tasks.spawn(dispatcher.run(orders));
        Self { orders: Some(sender), tasks, receivers }
    }

    /// How each receiver does.
    #[must_use]
    pub const fn receivers(&self) -> &Receivers {
        &self.receivers
    }

    /// Hands a notice to every receiver that wants it. Never waits.
    pub fn tell(&self, notice: &Notice) {
        self.order(Order::Tell(Box::new(notice.clone())));
    }

    /// Takes up what an earlier process has left.
    pub(super) fn resume(&self, standing: Vec<Standing>) {
        if !standing.is_empty() {
            self.order(Order::Resume(standing));
        }
    }

    /// Tells other receivers from now on. One that keeps its name keeps what it is owed; each learns what is open, if
    /// it has not heard of it.
    pub(super) fn reroute(&self, routes: Vec<Route>, open: Vec<Notice>) {
        self.order(Order::Reroute(routes, open));
    }

    /// Sends a test to the receiver of this name.
    pub(super) fn test(
        &self,
        receiver: String,
        app: &AppName,
        done: oneshot::Sender<Result<(), Untested>>,
    ) {
        self.order(Order::Test(receiver, app.clone(), done));
    }

    fn order(&self, order: Order) {
        let Some(orders) = &self.orders else { return };
        if orders.try_send(order).is_err() {
            tracing::error!("alert dropped: {WAITING} wait to be written down");
        }
    }

    /// Takes no more notices; what is given back is empty when every lane has ended.
    #[must_use]
    pub fn retire(self) -> TaskTracker {
        self.tasks.close();
        self.tasks
    }
}

/// What every lane needs.
#[derive(Debug, Clone)]
struct Around {
    journal: Journal,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
    /// The journal took what it was last given.
    kept: Arc<AtomicBool>,
}

impl Around {
    /// Whether what is not delivered outlives the process.
    fn keeps(&self) -> bool {
        self.journal.is_there() && self.kept.load(Ordering::Relaxed)
    }

    fn now(&self) -> Moment {
        let boot = self.clock.boot();
        Moment { boot, wall: self.clock.wall_at(boot) }
    }
}

/// Makes durable what there is to tell, and hands it to the lanes.
#[derive(Debug)]
struct Dispatcher {
    around: Around,
    lanes: BTreeMap<String, Post>,
    tasks: TaskTracker,
    shown: Receivers,
}

/// The way to one lane.
#[derive(Debug)]
struct Post {
    sender: mpsc::Sender<News>,
    route: Arc<Route>,
    shown: Shown,
}

impl Post {
    fn send(&self, news: News) {
        if self.sender.try_send(news).is_err() {
            let sink = self.route.sink.name();
            tracing::error!(sink, "alert dropped: the sink has not looked at {WAITING} alerts");
        }
    }
}

impl Dispatcher {
    async fn run(mut self, mut orders: mpsc::Receiver<Order>) {
        while let Some(order) = orders.recv().await {
            match order {
                Order::Tell(notice) => self.tell(notice).await,
                Order::Resume(standing) => {
                    for Standing { notice, receivers } in standing {
                        for (name, post) in &self.lanes {
                            let known = receivers.get(name);
                            // What is over before a receiver came need not be told it.
                            if notice.change == Change::Resolved && known.is_none() {
                                continue;
                            }
                            let told = known.copied().flatten();
                            post.send(News::Notice(Box::new(notice.clone()), told));
                        }
                    }
                }
                Order::Reroute(routes, open) => self.reroute(routes, &open),
                Order::Test(name, app, done) => self.test(&name, &app, done),
            }
        }
    }

    async fn tell(&self, notice: Box<Notice>) {
        let wants = |post: &&Post| post.route.manner.wants(&notice);
        let wanted = self.lanes.values().filter(wants);
        let receivers = wanted.map(|post| post.route.sink.name().to_owned()).collect();
        let entry = Entry::Alert { notice: notice.clone(), receivers };
        // That the disk does not take it is an incident of its own, and told without it.
        let kept = timeout(DISK_PATIENCE, self.around.journal.keep(entry)).await;
        self.around.kept.store(matches!(kept, Ok(Ok(()))), Ordering::Relaxed);
        // Who does not want it may have been told of it before.
        for post in self.lanes.values() {
            post.send(News::Notice(notice.clone(), None));
        }
    }

    fn reroute(&mut self, routes: Vec<Route>, open: &[Notice]) {
        let mut former = std::mem::take(&mut self.lanes);
        for route in routes {
            let (name, route) = (route.sink.name().to_owned(), Arc::new(route));
            let post = match former.remove(&name) {
                Some(post) => {
                    post.send(News::Route(Arc::clone(&route)));
                    Post { route, ..post }
                }
                None => self.begin(route),
            };
            // One that is new has heard of nothing yet, one that was there perhaps not of what is milder.
            for notice in open {
                post.send(News::Notice(Box::new(notice.clone()), None));
            }
            self.lanes.insert(name, post);
        }
        let shown = self.lanes.values().map(|post| Arc::clone(&post.shown)).collect();
        self.shown.0.store(Arc::new(shown));
    }

    fn begin(&self, route: Arc<Route>) -> Post {
        let (sender, news) = mpsc::channel(WAITING);
        let name = route.sink.name().to_owned();
        let shown = Arc::new(Mutex::new(Receiver { name, ..Receiver::default() }));
        let outbox = Outbox::new(route.manner.clone());
        let lane = Lane {
            around: self.around.clone(),
            sink: Arc::clone(&route.sink),
            outbox,
            shown: Arc::clone(&shown),
        };
        self.tasks.spawn(lane.run(news));
        Post { sender, route, shown }
    }

    fn test(&self, name: &str, app: &AppName, done: oneshot::Sender<Result<(), Untested>>) {
        let meant = |route: &Route| route.receiver == name || route.sink.name() == name;
        let posts = self.lanes.values().filter(|post| meant(&post.route));
        let sinks: Vec<_> = posts.map(|post| Arc::clone(&post.route.sink)).collect();
        if sinks.is_empty() {
            // Who asked may be gone.
            return drop(done.send(Err(Untested::NoSuch)));
        }
        let test = Notice::test(app, self.around.now().wall);
        self.tasks.spawn(async move {
            done.send(probe(&sinks, &test).await.map_err(Untested::NotTaken)).ok();
        });
    }
}

/// Has each sink of a receiver deliver a test, and that it is over.
///
/// # Errors
/// The first that did not take it; where there are several, by its name.
pub async fn probe(sinks: &[Arc<dyn AlertSink>], test: &Notice) -> Result<(), DeliveryError> {
    let over = test.over();
    let each = |sink: Arc<dyn AlertSink>| {
        let over = &over;
        async move {
            let taken = match sink.deliver(test).await {
                Ok(()) => sink.deliver(over).await,
                refused => refused,
            };
            taken.map_err(|error| match sinks.len() {
                1 => error,
                _ => DeliveryError { what: format!("{}: {}", sink.name(), error.what), ..error },
            })
        }
    };
    let taken = futures_util::future::join_all(sinks.iter().cloned().map(each)).await;
    taken.into_iter().collect()
}
