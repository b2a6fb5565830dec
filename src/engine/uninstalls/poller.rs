//! Reads the webhooks journal beside the engine, and tells the engine what it says. Whatever goes wrong here disturbs
//! nothing else; what follows for a grant is the engine's business.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, oneshot},
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use super::{
    Read, Watching,
    walk::{Brought, News, Walk},
};
use crate::{
    engine::{Command, Metrics, Running, chance::Chance, metrics::ByOutcome, view::View},
    hubspot::{
        HubSpot,
        webhooks_journal::{AppToken, EVENT_TYPES, Offset, Place, Trouble},
    },
    journal::{Entry, Journal, WebhooksRead},
    time::{BootTime, Clock, Stamp},
};

/// A place that stays the same is noted again so often, so that a restart knows that it was read.
const NOTED_EVERY: Duration = Duration::from_secs(3600);
/// While the client pair is refused, it is looked again so often whether it still is.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// What people can do where the app may not read the journal.
const ENTITLE: &str = "give the app the scopes developer.webhooks_journal.read and developer.webhooks_journal.subscriptions.write, or leave hubspot.poll_uninstalls out";

/// Reads the journal, until it is told to stop.
#[derive(Debug)]
pub struct Poller {
    hubspot: HubSpot,
    view: Arc<View>,
    commands: mpsc::Sender<Command>,
    metrics: Arc<Metrics>,
    journal: Journal,
    clock: Arc<dyn Clock>,
    every: Duration,
    token: Option<AppToken>,
    subscribed: bool,
    walk: Walk,
    noted: Option<(Offset, BootTime)>,
    chance: Chance,
}

/// The engine has ended, or does not lend the pair at present.
struct NotNow;

impl Poller {
    /// One that reads each `every`, from where `left` says it was left, and remembers its place in `journal`.
    #[must_use]
    pub fn new(
        hubspot: HubSpot,
        running: &Running,
        metrics: Arc<Metrics>,
        journal: Journal,
        clock: Arc<dyn Clock>,
        every: Duration,
        left: Option<Read>,
    ) -> Self {
        let walk = Walk::from(left, every, clock.boot());
        Self {
            hubspot,
            view: Arc::clone(&running.view),
            commands: running.commands.clone(),
            metrics,
            journal,
            clock,
            every,
            token: None,
            subscribed: false,
            walk,
            noted: None,
            chance: Chance::seeded(),
        }
    }

    /// Runs until `stop`. Nothing is lost by being cut off: what was not told is read again.
    pub async fn run(mut self, stop: CancellationToken) {
        while let Some(wait) = stop.run_until_cancelled(self.turn()).await {
            if stop.run_until_cancelled(sleep(wait)).await.is_none() {
                return;
            }
        }
    }

    /// One step, and how long to wait after it.
    async fn turn(&mut self) -> Duration {
        // Nothing is asked with a pair that is refused, but by the probe (I6).
        if !self.view.overall.load().app.is_open() {
            self.token = None;
            return self.every.min(LOOK_AGAIN);
        }
        let Ok(brought) = self.step().await else { return self.every.min(LOOK_AGAIN) };
        let outcome = match &brought {
            Brought::Nothing => "nothing",
            Brought::End(_) | Brought::Entry(..) => "ok",
            Brought::Lost => "lost",
            Brought::Unreadable(_, trouble) | Brought::Failed(trouble) => trouble.as_str(),
        };
        self.metrics.webhooks_journal_reads.get_or_create(&ByOutcome { outcome }).inc();
        let next = self.walk.after(brought, self.clock.boot(), self.chance.draw());
        if let Some(news) = next.news {
            self.announce(news);
        }
        if next.tell {
            let changes = self.walk.take();
            // The engine only stops listening when the process ends.
            self.commands.send(Command::Watching(Watching::Changes(changes))).await.ok();
        }
        self.note_place();
        next.wait
    }

    async fn step(&mut self) -> Result<Brought, NotNow> {
        let now = self.clock.boot();
        if !self.token.as_ref().is_some_and(|token| token.is_good(now))
            && let Some(trouble) = self.take_token().await?
        {
            return Ok(Brought::Failed(trouble));
        }
        let Some(token) = &self.token else { return Err(NotNow) };
        let place = self.walk.place(now).clone();
        let read = read(&self.hubspot, token, &place, &mut self.subscribed).await;
        if matches!(read, Brought::Failed(Trouble::TokenRefused)) {
            self.token = None;
        }
        if matches!(read, Brought::Lost | Brought::Failed(Trouble::NotEntitled)) {
            // Somebody may have taken the subscription back.
            self.subscribed = false;
        }
        Ok(read)
    }

    /// Another token, or what keeps the app from having one.
    async fn take_token(&mut self) -> Result<Option<Trouble>, NotNow> {
        let (lend, lent) = oneshot::channel();
        let asked = self.commands.send(Command::Watching(Watching::Lend(lend))).await;
        asked.map_err(|_| NotNow)?;
        let pair = lent.await.map_err(|_| NotNow)?;
        let refusal = match self.hubspot.app_token(&pair).await {
            Ok(token) => {
                self.token = Some(token);
                return Ok(None);
            }
            Err(refusal) => refusal,
        };
        let trouble = Trouble::from(&refusal);
        if matches!(trouble, Trouble::AppRefused | Trouble::RateLimited(_)) {
            // The engine only stops listening when the process ends.
            self.commands.send(Command::Watching(Watching::Refused(refusal))).await.ok();
        }
        Ok(Some(trouble))
    }

    /// Remembers the place over a restart.
    fn note_place(&mut self) {
        let Some((offset, read)) = self.walk.settled() else { return };
        let fresh =
            |(noted, at): &(Offset, BootTime)| noted == offset && read.since(*at) < NOTED_EVERY;
        if self.noted.as_ref().is_some_and(fresh) {
            return;
        }
        let at = Stamp::of(read, &*self.clock);
        self.journal
            .note(Entry::WebhooksRead(WebhooksRead { offset: offset.as_str().to_owned(), at }));
        self.noted = Some((offset.clone(), read));
    }

    fn announce(&self, news: News) {
        let remark = match news {
            News::Begun => {
                tracing::info!(
                    "reading HubSpot's webhooks journal for uninstalls from now on; every grant is asked about once"
                );
                None
            }
            News::Missed => {
                tracing::warn!(
                    "HubSpot keeps its webhooks journal for three days, and it was last read too long ago, or that place is not there any more: what it told since is lost, so every grant is asked about"
                );
                None
            }
            News::PassedOver(trouble) => {
                tracing::warn!(
                    trouble = trouble.as_str(),
                    "an entry of HubSpot's webhooks journal can't be read and is passed over: every grant is asked about instead"
                );
                None
            }
            News::Well => {
                tracing::info!("HubSpot's webhooks journal can be read again");
                None
            }
            News::Trouble(trouble) => {
                let what = match trouble {
                    Trouble::NotEntitled => format!(
                        "HubSpot does not let the app read its webhooks journal (not_entitled): {ENTITLE}"
                    ),
                    Trouble::AppRefused => format!(
                        "HubSpot refuses the app's client id and secret where it would read its webhooks journal (app_refused); if they are good otherwise: {ENTITLE}"
                    ),
                    _ => format!(
                        "HubSpot's webhooks journal can't be read at present ({}); it is tried again",
                        trouble.as_str()
                    ),
                };
                let remark = format!(
                    "{what}. Until then an uninstall is noticed when the grant is next refreshed or validated"
                );
                tracing::warn!("{remark}");
                Some(remark)
            }
        };
        self.view.webhooks_remark.store(Arc::new(remark));
    }
}

async fn read(
    hubspot: &HubSpot,
    token: &AppToken,
    place: &Place,
    subscribed: &mut bool,
) -> Brought {
    match walk_on(hubspot, token, place, subscribed).await {
        Ok(brought) => brought,
        Err(Trouble::NotThere) if matches!(place, Place::After(_)) => Brought::Lost,
        // Neither an end nor a beginning: there is no journal for this app.
        Err(Trouble::NotThere) => Brought::Failed(Trouble::NotEntitled),
        Err(trouble) => Brought::Failed(trouble),
    }
}

async fn walk_on(
    hubspot: &HubSpot,
    token: &AppToken,
    place: &Place,
    subscribed: &mut bool,
) -> Result<Brought, Trouble> {
    if !*subscribed {
        for event_type in EVENT_TYPES {
            match hubspot.subscribe(token, event_type).await {
                Err(Trouble::NotThere) => return Err(Trouble::NotEntitled),
                done => done?,
            }
        }
        *subscribed = true;
    }
    let Some(entry) = hubspot.journal_entry(token, place).await? else {
        return Ok(Brought::Nothing);
    };
    if *place == Place::Latest {
        // What it tells is older than what everybody is about to be asked.
        return Ok(Brought::End(entry.offset));
    }
    let Some(link) = &entry.link else {
        return Ok(Brought::Unreadable(entry.offset, Trouble::NotUnderstood));
    };
    Ok(match hubspot.journal_file(link).await {
        Ok(happened) => Brought::Entry(entry.offset, happened),
        Err(trouble) => Brought::Unreadable(entry.offset, trouble),
    })
}
