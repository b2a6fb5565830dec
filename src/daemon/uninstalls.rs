//! Who reads HubSpot's webhooks journal for the engine, where that is configured, and from where.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use crate::{
    config::Config,
    engine::{Metrics, Poller, Running, World, uninstalls::Read},
    hubspot::{HubSpot, NoTls, webhooks_journal::Offset},
    journal::{Journal, WebhooksRead},
    time::Clock,
};

/// What has to be known before the engine takes the rest.
pub(super) struct Plan {
    hubspot: HubSpot,
    journal: Journal,
    clock: Arc<dyn Clock>,
    every: Duration,
    left: Option<Read>,
}

/// The plan, if `config` wants one.
///
/// # Errors
/// The machine has no CA certificates.
pub(super) fn plan(
    config: &Config,
    world: &World,
    left: Option<&WebhooksRead>,
) -> Result<Option<Plan>, NoTls> {
    let Some(every) = config.hubspot.poll_uninstalls else { return Ok(None) };
    let clock = Arc::clone(&world.clock);
    let left = left.and_then(|left| {
        let ago = left.at.age(&*clock).map(|age| age.span);
        Some(Read { offset: Offset::parse(&*left.offset)?, ago })
    });
    let hubspot = HubSpot::new(config.hubspot.clone(), Arc::clone(&clock))?;
    Ok(Some(Plan { hubspot, journal: world.journal.clone(), clock, every, left }))
}

/// Carries the plan out until `stop`; nothing, where there is none.
pub(super) fn watch(
    plan: Option<Plan>,
    running: &Running,
    metrics: &Arc<Metrics>,
    stop: CancellationToken,
) -> impl Future<Output = ()> + Send + 'static + use<> {
    let poller = plan.map(|plan| {
        let Plan { hubspot, journal, clock, every, left } = plan;
        Poller::new(hubspot, running, Arc::clone(metrics), journal, clock, every, left)
    });
    async move {
        if let Some(poller) = poller {
            poller.run(stop).await;
        }
    }
}
