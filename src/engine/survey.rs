//! Every grant looked at once by introspection, spending nothing, as fast as the rate allows: for
//! `check`, and for a start that requires all grants to be good.

use std::time::Duration;

use tokio::{task::JoinSet, time::sleep};

use super::{World, load::Loaded};
use crate::{
    journal::Recovered,
    lifecycle::{Introspection, Refusal, schedule::Pace},
    portal::PortalId,
};

/// What HubSpot says of every grant in `loaded` whose record can be used, asked at most
/// `per_second` times a second; of the newer one, where the journal has what the store doesn't. About a
/// paused portal nothing is asked where `skip_paused`. Ascending.
pub async fn survey(
    world: &World,
    loaded: &Loaded,
    recovered: &Recovered,
    skip_paused: bool,
    per_second: f64,
) -> Vec<(PortalId, Result<Introspection, Refusal>)> {
    let mut pace = Pace::per_second(per_second);
    let mut asking = JoinSet::new();
    for (portal, grant) in &loaded.portals {
        let Ok(grant) = grant else { continue };
        let trail = recovered.trails.get(portal);
        if skip_paused && trail.is_some_and(|trail| trail.paused) {
            continue;
        }
        while let Err(free) = pace.take(world.clock.boot()) {
            sleep(free.until(world.clock.boot()).max(Duration::from_millis(1))).await;
        }
        let (world, pair, portal) = (world.clone(), loaded.pair.clone(), *portal);
        let newer = trail.and_then(|trail| trail.newer_than(&grant.refresh_token));
        let token = newer.unwrap_or(&grant.refresh_token).clone();
        asking.spawn(async move { (portal, world.endpoint.introspect(&pair, &token).await) });
    }
    let mut told = asking.join_all().await;
    told.sort_by_key(|(portal, _)| *portal);
    told
}
