//! Rules that are wrong, each in the way of a design that others have shipped (study `scale.md` 1.1 and
//! 3.3). The judge must find each of them out, or it proves nothing.

use std::time::Duration;

use grantkeeper::lifecycle::{Context, Effect, Event, Outcome, Phase, Portal, step};

/// Spends without writing down that it will.
pub(crate) fn no_intent(
    portal: &Portal,
    event: &Event,
    context: &Context<'_>,
) -> (Portal, Vec<Effect>) {
    let (portal, effects) = step(portal, event, context);
    if !effects.contains(&Effect::Intend) {
        return (portal, effects);
    }
    let event = Event::Done { generation: portal.generation, outcome: Outcome::Intended(true) };
    step(&portal, &event, context)
}

/// Holds a lock on the grant for three seconds, whatever becomes of the request.
pub(crate) fn ttl_lock_only(
    portal: &Portal,
    event: &Event,
    context: &Context<'_>,
) -> (Portal, Vec<Effect>) {
    const TTL: Duration = Duration::from_secs(3);
    let mut portal = portal.clone();
    let answer = matches!(
        event,
        Event::Done { outcome: Outcome::Refreshed { .. } | Outcome::RefreshRefused { .. }, .. }
    );
    if answer && matches!(portal.phase, Phase::Resting | Phase::Queued) {
        portal.phase = Phase::Refreshing;
    }
    // A lock says nothing of what an earlier holder did with the token.
    portal.in_doubt = false;
    let (mut portal, mut effects) = no_intent(&portal, event, context);
    if effects.contains(&Effect::Spend) {
        portal.phase = Phase::Resting;
        portal.renew_at = Some(context.now + TTL);
        portal.not_before = context.now + TTL;
    }
    effects.retain(|effect| *effect != Effect::CloseIntent);
    (portal, effects)
}

/// Hands the access token out before the refresh token that came with it is safe.
pub(crate) fn publish_before_persist(
    portal: &Portal,
    event: &Event,
    context: &Context<'_>,
) -> (Portal, Vec<Effect>) {
    let (mut portal, mut effects) = step(portal, event, context);
    if let Some(token) = portal.held
        && let Some(keep) = effects.iter().position(|effect| *effect == Effect::Keep)
    {
        portal.held = None;
        portal.token = Some(token);
        portal.renew_at = Some(token.issued + token.life().mul_f64(0.66));
        effects.insert(keep, Effect::Publish);
    }
    (portal, effects)
}
