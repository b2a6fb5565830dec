//! What others hold of the engine. Every question takes a [`Caller`]; a good token in memory is
//! answered without waiting for anybody (I9), anything else waits within a limit and never cancels
//! the work it waits for (I2).

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use arc_swap::ArcSwap;
use jiff::Timestamp;
use tokio::{sync::mpsc, time::timeout};
use tokio_util::task::TaskTracker;

use super::{
    Denial, Metrics, Running, Settings,
    asked::{self, Asked},
    command::Command,
    metrics::{ByReason, ByResult},
    renew::Wish,
    view::{PortalView, View},
};
use crate::{
    access::{Caller, Right, Rules, allowance::Allowances},
    audit::Audit,
    hardening::Hardened,
    lifecycle::{App, OnStart, PortalState, RefreshPolicy},
    portal::{AppName, PortalId, Scopes},
    secret::{AccessToken, Fingerprint},
    time::{BootTime, Clock},
};

/// The longest a caller waits for a token that is on its way.
const PATIENCE: Duration = Duration::from_secs(15);

/// An access token, as answered.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Whose.
    pub portal: PortalId,
    /// The token.
    pub access_token: Arc<AccessToken>,
    /// Its name.
    pub fingerprint: Fingerprint,
    /// What is left of it, safety margin taken off.
    pub expires_in: Duration,
    /// When that ends.
    pub expires_at: Timestamp,
    /// Its scopes, if HubSpot told them.
    pub scopes: Option<Scopes>,
    /// It has less life than was asked for: HubSpot gives no better one at present.
    pub short_lived: bool,
}

/// What does not change but by a reload.
#[derive(Debug, Clone)]
pub(super) struct Terms {
    pub(super) app: AppName,
    pub(super) policy: RefreshPolicy,
    pub(super) on_start: OnStart,
}

/// A way to ask the engine. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle {
    pub(super) view: Arc<View>,
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) rules: Arc<ArcSwap<Rules>>,
    pub(super) terms: Arc<ArcSwap<Terms>>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) refused_reload: Arc<ArcSwap<Option<String>>>,
    pub(super) audit: Audit,
    pub(super) hardened: Hardened,
    /// What each user has ordered.
    pub(super) given: Arc<Mutex<Allowances>>,
    /// Orders that have begun.
    pub(super) begun: TaskTracker,
}

impl Handle {
    /// A handle for callers judged by `rules`.
    #[must_use]
    pub fn new(
        running: &Running,
        rules: Rules,
        settings: &Settings,
        metrics: Arc<Metrics>,
        clock: Arc<dyn Clock>,
        audit: Audit,
    ) -> Self {
        Self {
            view: Arc::clone(&running.view),
            commands: running.commands.clone(),
            rules: Arc::new(ArcSwap::from_pointee(rules)),
            terms: Arc::new(ArcSwap::from_pointee(Terms::of(settings))),
            metrics,
            clock,
            refused_reload: Arc::default(),
            audit,
            hardened: Hardened::default(),
            given: Arc::new(Mutex::new(asked::orders())),
            begun: TaskTracker::new(),
        }
    }

    /// The same, saying in `status` what the process has given up.
    #[must_use]
    pub fn hardened(self, hardened: Hardened) -> Self {
        Self { hardened, ..self }
    }

    /// What the process has given up.
    #[must_use]
    pub const fn hardening(&self) -> &Hardened {
        &self.hardened
    }

    /// An access token with at least `min_ttl` of life (the configured floor if none is named).
    ///
    /// # Errors
    /// See [`Denial`].
    pub async fn token(
        &self,
        caller: &Caller,
        portal: PortalId,
        min_ttl: Option<Duration>,
    ) -> Result<Answer, Denial> {
        let began = self.clock.boot();
        let allowed = permit(self.rules.load().allow(caller, Right::Token, portal));
        let answer = match allowed {
            Ok(()) => self.fulfil(portal, Wish { min_ttl, rejected: None }, began).await,
            Err(denial) => Err(denial),
        };
        let asked = Asked { caller, action: "token", portal: Some(portal) };
        let name = answer.as_ref().ok().map(|answer| answer.fingerprint);
        let answer = self.told(&asked, name, answer).await;
        let result = answer.as_ref().map_or_else(Denial::code, |_| "ok");
        self.metrics.token_requests.get_or_create(&ByResult { result }).inc();
        let took = self.clock.boot().since(began).as_secs_f64();
        self.metrics.token_request_duration.observe(took);
        answer
    }

    pub(super) async fn fulfil(
        &self,
        portal: PortalId,
        wish: Wish,
        began: BootTime,
    ) -> Result<Answer, Denial> {
        let slot = self.view.slot(portal).ok_or_else(|| self.unknown())?;
        slot.used(began);
        let mut news = slot.subscribe();
        // A portal that is removed is told by its slot's end, so no waiting caller may hold it.
        drop(slot);
        loop {
            let view = Arc::clone(&news.borrow_and_update());
            let now = self.clock.boot();
            match self.judge(&view, now, wish)? {
                Verdict::Serve { short_lived } => {
                    return self.answer(portal, &view, now, short_lived);
                }
                Verdict::Wait => {}
            }
            // A full queue means that thousands wait already; this one's wish is among them or its
            // time runs out below.
            self.commands.try_send(Command::Want(portal, view.portal.token)).ok();
            // Nothing is sent before `not_before`: a wish that came too early is repeated then.
            let (end, early) = (began + PATIENCE, view.portal.not_before);
            let pause = if early > now { early.min(end) } else { end };
            match timeout(pause.until(now), news.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(Denial::UnknownPortal),
                Err(_) if self.clock.boot() < end => {}
                Err(_) => {
                    let now = self.clock.boot();
                    // Less life than was asked for is better than none.
                    if wish.fits(&view, now, Duration::ZERO) {
                        return self.answer(portal, &view, now, true);
                    }
                    return Err(self.none(&view, now));
                }
            }
        }
    }

    /// Whether there is no such portal is not known before the records have been read.
    pub(super) fn unknown(&self) -> Denial {
        if self.view.overall.load().without_store {
            return Denial::StoreUnreachable(Duration::from_secs(5));
        }
        Denial::UnknownPortal
    }

    fn judge(&self, view: &PortalView, now: BootTime, wish: Wish) -> Result<Verdict, Denial> {
        if let Some(end) = view.portal.ended() {
            // The grant is lost, not its last token.
            if !view.portal.paused && wish.fits(view, now, Duration::ZERO) {
                return Ok(Verdict::Serve { short_lived: true });
            }
            return Err(Denial::Ended(end));
        }
        if view.portal.paused {
            return Err(Denial::Paused);
        }
        let least =
            wish.min_ttl.unwrap_or_else(|| view.portal.least_life(&self.terms.load().policy));
        if wish.fits(view, now, least) {
            return Ok(Verdict::Serve { short_lived: false });
        }
        if let Some(young) = wish.too_soon(view, now) {
            return Err(Denial::TooSoon(young));
        }
        if let Some(token) = view.portal.token
            && least > token.life().mul_f64(0.9)
        {
            let most = token.life().mul_f64(0.9).as_secs();
            let what = format!("min_ttl is at most {most} s here: nine tenths of a token's life");
            return Err(Denial::BadRequest(what));
        }
        let overall = self.view.overall.load();
        let held_up = !overall.app.is_open()
            || overall.without_store
            || overall.journal_fails()
            || overall.throttled.is_some_and(|until| until > now + PATIENCE)
            || (view.portal.failures > 0 && view.portal.not_before > now);
        if !held_up {
            return Ok(Verdict::Wait);
        }
        if wish.fits(view, now, Duration::ZERO) {
            return Ok(Verdict::Serve { short_lived: true });
        }
        Err(self.none(view, now))
    }

    /// Why there is no token, and when to ask again.
    fn none(&self, view: &PortalView, now: BootTime) -> Denial {
        let overall = self.view.overall.load();
        let soon = |at: Option<BootTime>| {
            at.map_or(Duration::ZERO, |at| at.until(now)).max(Duration::from_secs(1))
        };
        match overall.app {
            App::Suspect(_) => return Denial::NoTokenYet(soon(overall.app.next_probe())),
            app if !app.is_open() => return Denial::AppRejected(soon(app.next_probe())),
            _ => {}
        }
        if overall.without_store {
            return Denial::StoreUnreachable(Duration::from_secs(5));
        }
        let again = soon(Some(view.portal.not_before));
        if let Some(until) = overall.throttled {
            return Denial::NoTokenYet(again.max(soon(Some(until))));
        }
        match view.portal.trouble {
            Some(class) if class.is_transient() => Denial::HubspotUnreachable(again),
            _ if !overall.hubspot.ok => Denial::HubspotUnreachable(again),
            _ => Denial::NoTokenYet(again),
        }
    }

    fn answer(
        &self,
        portal: PortalId,
        view: &PortalView,
        now: BootTime,
        short_lived: bool,
    ) -> Result<Answer, Denial> {
        let (Some(issued), Some(token)) = (&view.token, view.portal.token) else {
            return Err(Denial::NoTokenYet(Duration::from_secs(1)));
        };
        Ok(Answer {
            portal,
            access_token: Arc::clone(&issued.access_token),
            fingerprint: issued.fingerprint,
            expires_in: token.left(now),
            expires_at: self.clock.wall_at(token.expires),
            scopes: view.scopes.clone(),
            short_lived,
        })
    }

    /// Lets a caller see what concerns all portals: the metrics.
    ///
    /// # Errors
    /// Not allowed.
    pub async fn see_metrics(&self, caller: &Caller) -> Result<(), Denial> {
        let allowed = permit(self.rules.load().allow_all(caller, Right::Status));
        self.told(&Asked { caller, action: "metrics", portal: None }, None, allowed).await
    }

    /// Whether any rule names this caller.
    #[must_use]
    pub fn knows(&self, caller: &Caller) -> bool {
        self.rules.load().know(caller)
    }

    /// Lets a caller ask how the service is. Who may ask anything may ask that, as often as probes do: only a
    /// refusal is written down.
    ///
    /// # Errors
    /// Not allowed.
    pub async fn see_health(&self, caller: &Caller) -> Result<(), Denial> {
        if self.knows(caller) {
            return Ok(());
        }
        let asked = Asked { caller, action: "health", portal: None };
        self.told(&asked, None, Err(Denial::Forbidden)).await
    }

    /// Counts what a user was refused for asking too much: `connections` or `requests`.
    pub fn count_refused(&self, reason: &'static str) {
        self.metrics.socket_refused.get_or_create(&ByReason { reason }).inc();
    }

    /// Whether the engine is still running.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        !self.commands.is_closed()
    }

    /// A portal's state as users see it, now.
    #[must_use]
    pub fn state(&self, view: &PortalView) -> PortalState {
        view.portal.state(self.clock.boot(), self.view.overall.load().app.is_open())
    }

    /// Why a portal's state is what it is, if there is anything to say.
    #[must_use]
    pub fn reason(&self, view: &PortalView) -> Option<&'static str> {
        let overall = self.view.overall.load();
        let served = view.portal.serves(self.clock.boot(), Duration::ZERO);
        let of_all = match overall.app {
            App::Suspect(_) => Some("app_suspect"),
            app if !app.is_open() => Some("app_rejected"),
            // Nothing is spent that could not be written down before (I4).
            _ if served => None,
            _ if overall.journal_fails() => Some("journal_failing"),
            _ if overall.throttled.is_some() => Some("rate_limited"),
            // It is asked about when what was sent must have arrived (I4).
            _ if view.portal.in_doubt => Some("outcome_unknown"),
            _ => None,
        };
        view.portal.reason().or(of_all.filter(|_| view.portal.ended().is_none()))
    }

    /// The clock answers are counted on.
    #[must_use]
    pub fn clock(&self) -> &dyn Clock {
        &*self.clock
    }

    /// The app's name.
    #[must_use]
    pub fn app(&self) -> AppName {
        self.terms.load().app.clone()
    }
}

pub(super) fn permit(allowed: bool) -> Result<(), Denial> {
    if allowed { Ok(()) } else { Err(Denial::Forbidden) }
}

enum Verdict {
    Serve { short_lived: bool },
    Wait,
}

impl Terms {
    pub(super) fn of(settings: &Settings) -> Self {
        Self {
            app: settings.app.clone(),
            policy: settings.refresh,
            on_start: settings.validate.on_start,
        }
    }
}
