//! What an outage of HubSpot costs: how long portals stay without a token that can be served, second by
//! second, from a fleet that has settled until it has settled again.

use std::time::Duration;

use grantkeeper::{
    sim::Fault,
    time::{BootTime, Clock},
};

use crate::{
    machine::TrueTime,
    process::Process,
    story::{Setting, http, world},
};

/// What an outage cost.
#[derive(Debug)]
pub(crate) struct Cost {
    /// Added up over all portals.
    pub(crate) without_token: Duration,
    /// The part of it that fell after the outage's end.
    pub(crate) afterwards: Duration,
    /// The most portals that were without a token at once.
    pub(crate) worst: usize,
    /// How long after its end the last portal had a token again.
    pub(crate) healed_after: Duration,
    /// The most refreshes that were sent within a second.
    pub(crate) worst_second: usize,
    /// The budget for them.
    pub(crate) per_second: f64,
}

const SECOND: Duration = Duration::from_secs(1);

fn without_token(process: &Process, now: BootTime) -> usize {
    let portals = process.view.portals.load();
    portals.values().filter(|slot| !slot.now().portal.serves(now, Duration::ZERO)).count()
}

/// HubSpot answers everything with 503 for so long.
pub(crate) async fn outage(portals: u64, lasting: Duration) -> Cost {
    let truth = TrueTime::new();
    let setting = Setting { portals, rotating: true, ..Setting::day(1) };
    let (place, sim) = world(&setting, &truth);
    let process = place.start(1).await;
    // Three cycles: the herd of the start has spread over the period.
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(without_token(&process, place.clock.boot()), 0);
    let (began, fault) = (truth.boot(), sim.set_fault(Fault::new(http(503, None))));
    let mut cost = Cost {
        without_token: Duration::ZERO,
        afterwards: Duration::ZERO,
        worst: 0,
        healed_after: Duration::ZERO,
        worst_second: 0,
        per_second: place.per_second,
    };
    while truth.boot().since(began) < lasting + Duration::from_secs(3600) {
        tokio::time::sleep(SECOND).await;
        let since = truth.boot().since(began);
        if since >= lasting {
            sim.clear_fault(fault);
        }
        let lacking = without_token(&process, place.clock.boot());
        cost.worst = cost.worst.max(lacking);
        let lacked = SECOND * u32::try_from(lacking).unwrap();
        cost.without_token += lacked;
        if since > lasting {
            cost.afterwards += lacked;
        }
        if lacking > 0 {
            cost.healed_after = since.saturating_sub(lasting);
        }
    }
    (cost.worst_second, _) = place.hubspot.worst_second();
    process.stop().await;
    cost
}
