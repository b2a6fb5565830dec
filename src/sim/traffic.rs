//! The way of one request through the stand-in: retired version, limit, fault, rule, and what the
//! ledger notes of it. Knows no HTTP; the rule itself is the caller's.

use std::time::Duration;

use super::{
    Sim, World,
    answer::{Answer, Body},
    api::{Endpoint, Version},
    fault::Effect,
    ledger::{Delivery, Presentation},
    settings::Settings,
    state::{Now, State},
};
use crate::{hubspot::wire::policy, portal::PortalId, secret::RefreshToken};

const SECOND: Duration = Duration::from_secs(1);

/// Whose affair a request is.
#[derive(Debug, Clone, Copy)]
pub(super) enum Subject<'c> {
    /// A refresh token.
    Refresh(&'c str),
    /// An authorization code.
    Code(&'c str),
    /// An access token.
    Access(&'c str),
    /// The app's alone.
    App,
}

/// A request, as far as it matters before the rule is asked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call<'c> {
    pub(super) endpoint: Endpoint,
    pub(super) version: Version,
    pub(super) subject: Subject<'c>,
}

impl Call<'_> {
    fn portal(&self, state: &State, rules: &Settings) -> Option<PortalId> {
        match self.subject {
            Subject::Refresh(token) => Some(state.issued(token)?.portal),
            Subject::Code(code) => Some(state.code(code)?.portal),
            Subject::Access(token) => state.access(token, rules)?.portal,
            Subject::App => None,
        }
    }

    const fn is_oauth(&self) -> bool {
        use Endpoint::{Introspect, Metadata, Revoke, Token};
        matches!(self.endpoint, Token | Introspect | Revoke | Metadata)
    }
}

/// What is to be done about a request: an answer to deliver under an effect, or none at all.
pub(super) struct Outcome {
    pub(super) answer: Option<Answer>,
    pub(super) effect: Option<Effect>,
    pub(super) ticket: Ticket,
}

impl Sim {
    /// Takes `call` through everything, asking `rule` if it gets that far.
    pub(super) fn handle(
        &self,
        call: Call<'_>,
        rule: impl FnOnce(&mut State, &Settings, Now) -> Answer,
    ) -> Outcome {
        let now = self.now();
        let mut world = self.world();
        let World { state, settings, .. } = &*world;
        let portal = call.portal(state, settings);
        let ticket = self.open(&mut world, call, portal, now);
        let World { state, settings, faults, admitted, arrived, .. } = &mut *world;
        if call.endpoint == Endpoint::Token {
            arrived.note(SECOND, now.boot);
        }
        let mut effect = None;
        let mut carried_out = false;
        let answer = if let Some(gone) = settings.retired.get(&call.version)
            && call.is_oauth()
        {
            Some(Answer::gone((*gone).into(), &mut state.mint))
        } else if let Some(limit) = settings.rate_limit
            && call.endpoint == Endpoint::Token
            && !admitted.admit(limit.per_second as usize, SECOND, now.boot)
        {
            Some(Answer::rate_limited(policy::SECONDLY, limit.retry_after, &mut state.mint))
        } else {
            effect = faults.draw(call.endpoint, portal);
            match effect {
                Some(Effect::ResetBefore | Effect::HangBefore) => None,
                Some(Effect::Refuse(refusal)) => {
                    Some(Answer::refusal(refusal, settings, &mut state.mint))
                }
                Some(Effect::Http(fault)) => {
                    let (http, wait) = (fault.status, fault.retry_after);
                    Some(Answer::fault(http, wait, call.endpoint, &mut state.mint))
                }
                _ => {
                    carried_out = true;
                    let answer = rule(state, settings, now);
                    Some(if effect == Some(Effect::Bare) { answer.bare() } else { answer })
                }
            }
        };
        world.settle(&ticket, answer.as_ref(), carried_out);
        drop(world);
        Outcome { answer, effect, ticket }
    }

    /// The answer where nothing is.
    pub(super) fn nothing_here(&self) -> Answer {
        Answer::gone(404, &mut self.world().state.mint)
    }

    fn open(
        &self,
        world: &mut World,
        call: Call<'_>,
        portal: Option<PortalId>,
        now: Now,
    ) -> Ticket {
        let epoch = world.epoch;
        let mut ticket = Ticket { sim: self.clone(), epoch, seq: None, portal: None, open: true };
        let Subject::Refresh(token) = call.subject else { return ticket };
        let mut concurrent = 0;
        if call.endpoint == Endpoint::Token
            && let Some(id) = portal
            && let Some(portal) = world.state.portals.get_mut(&id)
        {
            portal.in_flight += 1;
            portal.in_flight_max = portal.in_flight_max.max(portal.in_flight);
            concurrent = portal.in_flight;
            ticket.portal = Some(id);
        }
        let token_name = RefreshToken::parse(token).ok().map(|t| t.fingerprint().to_string());
        ticket.seq = Some(world.ledger.note(Presentation {
            seq: 0,
            at: now.wall,
            endpoint: call.endpoint,
            version: call.version,
            portal,
            token: token_name,
            generation: world.state.issued(token).map(|issued| issued.generation),
            http: None,
            refusal: None,
            carried_out: false,
            issued: None,
            delivery: Delivery::Pending,
            concurrent,
        }));
        ticket
    }
}

impl World {
    /// Notes what was decided.
    fn settle(&mut self, ticket: &Ticket, answer: Option<&Answer>, carried_out: bool) {
        let Some(seq) = ticket.seq else { return };
        let granted = answer.is_some_and(|answer| answer.http == 200);
        if let Some(portal) = ticket.portal.and_then(|id| self.state.portals.get_mut(&id)) {
            if carried_out && granted {
                portal.refreshes += 1;
            } else {
                portal.refused += 1;
            }
        }
        let issued = answer.and_then(|answer| match &answer.body {
            Body::Json(body) => self.state.issued(body.get("refresh_token")?.as_str()?),
            Body::None | Body::Html(_) => None,
        });
        if let Some(entry) = self.ledger.entry(seq) {
            entry.http = answer.map(|answer| answer.http);
            entry.refusal = answer.and_then(|answer| answer.word);
            entry.carried_out = carried_out;
            entry.issued = issued.map(|issued| issued.generation);
        }
    }
}

/// A request under way. Closed when its answer has been delivered, or dropped when that failed.
pub(super) struct Ticket {
    sim: Sim,
    epoch: u64,
    seq: Option<u64>,
    /// The portal whose refresh is in flight.
    portal: Option<PortalId>,
    open: bool,
}

impl Ticket {
    pub(super) fn close(mut self, delivery: Delivery) {
        self.settle(delivery);
    }

    fn settle(&mut self, delivery: Delivery) {
        if !std::mem::take(&mut self.open) {
            return;
        }
        let mut world = self.sim.world();
        if world.epoch != self.epoch {
            return;
        }
        if let Some(portal) = self.portal.and_then(|id| world.state.portals.get_mut(&id)) {
            portal.in_flight = portal.in_flight.saturating_sub(1);
        }
        if let Some(entry) = self.seq.and_then(|seq| world.ledger.entry(seq)) {
            entry.delivery = delivery;
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.settle(Delivery::Cut);
    }
}
