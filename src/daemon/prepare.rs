//! Everything that has to be right before anybody is served: the store, the journal, the app's client pair, and
//! every grant where that is wanted. Serves nobody.

use super::{StartError, open_journal, open_world};
use crate::{
    config::Config,
    engine::{self, Loaded, Start, World},
    hubspot::prove,
    journal::{Keeper, Recovered},
    lifecycle::{OnStart, RefusalClass},
    portal::PortalId,
    validate::{Expected, Verdict},
};

/// Everything that has to be right before anybody is served.
pub(super) async fn prepare(config: &Config) -> Result<(World, Start, Option<Keeper>), StartError> {
    let mut world = open_world(config).await?;
    let (recovered, keeper) = open_journal(config, &mut world).await?;
    let start = engine::start(&world, recovered).await?;
    greet(config, &world, &start);
    for line in world.store.lacks().await.unwrap_or_default() {
        tracing::warn!(add = %line, "the policy of this login does not allow all that the service does");
    }
    let served = start.served(&*world.clock);
    if served > 0 {
        // Whoever has a token in hand is not kept waiting for HubSpot, nor turned away for what the
        // engine finds out in its first second.
        tracing::info!(
            portals = served,
            "the journal has tokens that still live: serving those, and asking HubSpot about the client pair meanwhile"
        );
    } else if let Ok(loaded) = &start.loaded {
        validate(config, &world, loaded, &start.recovered).await?;
        require_all(config, &world, loaded, &start.recovered).await?;
    }
    Ok((world, start, keeper))
}

fn greet(config: &Config, world: &World, start: &Start) {
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    if !world.journal.is_there() {
        tracing::warn!(
            "no state_dir is configured: what HubSpot answers is safe once the store has it, and not before. If this process is killed in between and HubSpot replaces refresh tokens, that one is lost; and a restart refreshes every portal anew"
        );
    }
    let Ok(loaded) = &start.loaded else { return };
    for stray in &loaded.strays {
        tracing::warn!(name = %stray, "a record among the portals is not named by a portal id and is ignored");
    }
    tracing::info!(
        app = %config.app.name,
        store = world.store.kind(),
        hubspot = %config.hubspot.api_version,
        portals = loaded.portals.len(),
        in_journal = start.recovered.trails.len(),
        "records loaded"
    );
}

/// What must be proven before anybody is served (contract section 2, `validate.on_start`).
async fn validate(
    config: &Config,
    world: &World,
    loaded: &Loaded,
    recovered: &Recovered,
) -> Result<(), StartError> {
    let good = |(id, grant): &(PortalId, Result<_, _>)| {
        let grant: &engine::load::StoredGrant = grant.as_ref().ok()?;
        // About a paused portal nothing is asked.
        recovered.trails.get(id).is_none_or(|trail| !trail.paused).then_some(())?;
        Some((*id, grant.refresh_token.clone()))
    };
    let sample = loaded.portals.iter().find_map(good).map(|(_, token)| token);
    tracing::info!("asking HubSpot whether it accepts the app's client id and secret");
    match prove(&*world.endpoint, &loaded.pair, sample).await {
        Ok(()) => tracing::info!("HubSpot accepts the app's client id and secret"),
        Err(refusal) if refusal.class == RefusalClass::AppRefused => {
            if config.validate.on_start != OnStart::Warn {
                return Err(StartError::AppRefused(refusal));
            }
            tracing::error!(
                "HubSpot refuses the app's client id and secret; starting all the same"
            );
        }
        Err(refusal) => tracing::warn!(
            trouble = refusal.class.as_str(),
            "HubSpot could not be asked about the app's client id and secret; starting all the same, it is asked again"
        ),
    }
    if let Some(skew) = world.endpoint.clock_skew() {
        tracing::warn!(
            seconds = skew.as_secs(),
            "this machine's clock and HubSpot's differ; token life is counted on another clock and is not harmed, but times in logs, alerts and answers are off"
        );
    }
    Ok(())
}

/// The grants that are not good, where all are required to be.
async fn require_all(
    config: &Config,
    world: &World,
    loaded: &Loaded,
    recovered: &Recovered,
) -> Result<(), StartError> {
    if config.validate.on_start != OnStart::RequireAll {
        return Ok(());
    }
    let rate = config.hubspot.max_refreshes_per_second;
    let unusable = loaded.portals.iter().filter(|(_, grant)| grant.is_err());
    let mut bad: Vec<PortalId> = unusable.map(|(portal, _)| *portal).collect();
    let told = engine::survey(world, loaded, recovered, true, rate).await;
    let required = &config.app.required_scopes;
    bad.extend(told.iter().filter_map(|(portal, told)| {
        let expected = Expected { portal: *portal, client_id: &loaded.pair.client_id, required };
        let told = told.as_ref().ok()?;
        (expected.judge(told) != Verdict::Good).then_some(*portal)
    }));
    if bad.is_empty() { Ok(()) } else { Err(StartError::GrantsRefused(bad)) }
}
