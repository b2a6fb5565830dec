//! What readers see: one published view a portal, replaced whole, read without a lock on anything
//! that waits. Nothing here is decided; the engine writes, everybody else reads.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use arc_swap::ArcSwap;
use jiff::Timestamp;
use serde::Serialize;
use tokio::sync::watch;

use super::{alerting::Receivers, feed::Feed};
use crate::{
    hubspot::signature::Signers,
    incident::{Incident, Kind},
    lifecycle::{App, Budget, Portal, RefreshMode},
    portal::{PortalId, Scopes},
    secret::{AccessToken, Fingerprint},
    time::{BootTime, Clock},
};

/// One portal as last published.
#[derive(Debug, Clone)]
pub struct PortalView {
    /// What the rules know.
    pub portal: Portal,
    /// What callers get; its span is in `portal.token`.
    pub token: Option<Issued>,
    /// When HubSpot last gave a token.
    pub last_refresh: Option<Timestamp>,
    /// The scopes of the grant, as last told.
    pub scopes: Option<Scopes>,
}

impl PortalView {
    fn name(&self) -> Option<Fingerprint> {
        self.token.as_ref().map(|issued| issued.fingerprint)
    }
}

/// An access token with its name.
#[derive(Debug, Clone)]
pub struct Issued {
    /// The token.
    pub access_token: Arc<AccessToken>,
    /// What it is called in an `ETag`.
    pub fingerprint: Fingerprint,
}

/// The place where one portal's view is published.
#[derive(Debug)]
pub struct Slot {
    view: watch::Sender<Arc<PortalView>>,
    /// In seconds on the boot clock; never, if it is as late as can be.
    last_used: AtomicU64,
}

const NEVER: u64 = u64::MAX;

impl Slot {
    pub(super) fn new(view: PortalView) -> Self {
        let last_used = AtomicU64::new(NEVER);
        Self { view: watch::Sender::new(Arc::new(view)), last_used }
    }

    /// Publishes `view` if it says anything new: a notice without news would have every waiting
    /// caller ask again, and the engine publish again, without end.
    pub(super) fn publish(&self, view: PortalView) {
        self.view.send_if_modified(|old| {
            let news = old.portal != view.portal || old.name() != view.name();
            *old = Arc::new(view);
            news
        });
    }

    /// The view as it is now.
    #[must_use]
    pub fn now(&self) -> Arc<PortalView> {
        Arc::clone(&self.view.borrow())
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Arc<PortalView>> {
        self.view.subscribe()
    }

    pub(super) fn used(&self, now: BootTime) {
        self.last_used.store(now.since_boot().as_secs(), Ordering::Relaxed);
    }

    pub(super) fn last_used(&self) -> Option<BootTime> {
        let seconds = self.last_used.load(Ordering::Relaxed);
        (seconds != NEVER).then(|| BootTime::new(std::time::Duration::from_secs(seconds)))
    }
}

/// Everything that is published.
#[derive(Debug)]
pub struct View {
    /// The portals, by id. Replaced whole when one comes or goes.
    pub portals: ArcSwap<BTreeMap<PortalId, Arc<Slot>>>,
    /// Everything else.
    pub overall: ArcSwap<Overall>,
    /// What has happened.
    pub feed: Feed,
    /// By what HubSpot's signatures are known.
    pub signers: ArcSwap<Signers>,
    /// How those do who are told of incidents.
    pub receivers: Receivers,
    /// What is wrong with reading the webhooks journal, if anything is.
    pub webhooks_remark: ArcSwap<Option<String>>,
}

impl View {
    pub(super) fn new(overall: Overall, receivers: Receivers, clock: &dyn Clock) -> Self {
        // Two processes of one machine never begin at the same nanosecond of its run; what it says is nobody's secret.
        let run = format!("{:x}", clock.boot().since_boot().as_nanos());
        Self {
            portals: ArcSwap::default(),
            overall: ArcSwap::from_pointee(overall),
            feed: Feed::of_run(run),
            signers: ArcSwap::default(),
            receivers,
            webhooks_remark: ArcSwap::default(),
        }
    }

    /// The slot of one portal.
    #[must_use]
    pub fn slot(&self, portal: PortalId) -> Option<Arc<Slot>> {
        self.portals.load().get(&portal).map(Arc::clone)
    }
}

/// What is not about one portal.
#[derive(Debug, Clone)]
pub struct Overall {
    /// How HubSpot takes the client pair.
    pub app: App,
    /// Open incidents.
    pub incidents: Arc<[Arc<Incident>]>,
    /// The store's kind and how it last answered.
    pub store: Health,
    /// How HubSpot last answered.
    pub hubspot: Health,
    /// HubSpot says that it is asked too much, and nothing else since: until then nothing is sent.
    pub throttled: Option<BootTime>,
    /// The mode that is in force.
    pub mode: RefreshMode,
    /// What the rate carries.
    pub budget: Budget,
    /// Whether a journal is kept.
    pub journal: bool,
    /// The records have not been read since the start: the store could not be reached.
    pub without_store: bool,
    /// Names in the store that are not portal ids.
    pub strays: Vec<String>,
    /// What the store says of how it is used.
    pub store_remarks: Vec<String>,
    /// When the records were last read.
    pub records_read: Option<Timestamp>,
    /// Why the last reload was refused, if it was.
    pub reload_refused: Option<String>,
}

impl Overall {
    /// Whether the journal does not take what it is given.
    #[must_use]
    pub fn journal_fails(&self) -> bool {
        self.has_open(Kind::JournalFailing)
    }

    /// Whether HubSpot is known to be out, for more than one portal.
    #[must_use]
    pub fn hubspot_is_out(&self) -> bool {
        self.has_open(Kind::HubspotUnreachable)
    }

    fn has_open(&self, kind: Kind) -> bool {
        self.incidents.iter().any(|open| open.kind == kind)
    }
}

/// How a system outside last answered.
#[derive(Debug, Clone, Serialize)]
pub struct Health {
    /// What it is: `vault`, `aws`, `file`, or HubSpot's API version.
    pub kind: &'static str,
    /// Whether its last answer was of use.
    pub ok: bool,
    /// The word for what is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trouble: Option<&'static str>,
    /// Failures in a row.
    pub failures: u32,
}

impl Health {
    pub(super) const fn new(kind: &'static str) -> Self {
        Self { kind, ok: true, trouble: None, failures: 0 }
    }

    pub(super) const fn good(&mut self) {
        self.ok = true;
        self.trouble = None;
        self.failures = 0;
    }

    pub(super) const fn bad(&mut self, trouble: &'static str) {
        self.ok = false;
        self.trouble = Some(trouble);
        self.failures = self.failures.saturating_add(1);
    }
}
