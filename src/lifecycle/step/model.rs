//! A bounded search of the whole protocol over [`step`]: one grant, a provider that replaces refresh
//! tokens and takes none twice, a store, a journal; every order in which crashes, lost answers and an
//! operator's edit can come between. What no test thought of is in here too.

use std::collections::{HashSet, VecDeque};

use super::*;
use crate::lifecycle::state::TokenLife;
use crate::lifecycle::{Facts, Rotation};

/// Refresh tokens by number: the provider's newest is `newest`, all older ones are dead. A re-install
/// gives a new number and a new grant.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct World {
    portal: Portal,
    /// Which token the process uses.
    used: u8,
    /// One that it holds and the store does not have.
    unsaved: Option<u8>,
    /// What HubSpot answered, on its way into the journal.
    answer: Option<u8>,
    /// A request on its way: the token presented, and whether the process still waits for it.
    sent: Option<u8>,
    /// An answer on its way back: the token it names, or a refusal.
    reply: Option<Result<u8, ()>>,
    store: u8,
    journal_intent: Option<u8>,
    journal_newest: Option<u8>,
    newest: u8,
    /// The first token of the customer's present grant.
    grant: u8,
    /// The answer that named `newest` was lost, or died with the process before it was kept.
    excused: bool,
    crashes: u8,
    losses: u8,
    edits: u8,
    wakes: u8,
}

struct Budget {
    crashes: u8,
    losses: u8,
    edits: u8,
    wakes: u8,
}

fn at(seconds: u64) -> BootTime {
    BootTime::new(Duration::from_secs(100_000 + seconds))
}

fn begin() -> World {
    World {
        portal: Portal { validation_due: at(1_000_000), ..Portal::loaded(at(0), at(1_000_000)) },
        used: 0,
        unsaved: None,
        answer: None,
        sent: None,
        reply: None,
        store: 0,
        journal_intent: None,
        journal_newest: None,
        newest: 0,
        grant: 0,
        excused: false,
        crashes: 0,
        losses: 0,
        edits: 0,
        wakes: 0,
    }
}

impl World {
    /// Steps, and carries out what needs nobody else.
    fn take(&mut self, event: Event, rules: Step) -> Vec<Effect> {
        let policy = RefreshPolicy::default();
        let context = Context {
            // Far enough on that every wait is over.
            now: at(u64::from(self.wakes) * 10_000),
            portal: PortalId::FIRST,
            policy: &policy,
            validate_every: Duration::from_secs(10_000_000),
            warm: true,
            introspect_first: false,
            may_rotate: Rotation::default().is_possible(),
            belief: Belief::Own,
            chance: 0.0,
        };
        let (portal, effects) = rules(&self.portal, &event, &context);
        self.portal = portal;
        // The wait until validation is of no interest here, and would tell equal worlds apart.
        self.portal.validation_due = at(1_000_000);
        for effect in &effects {
            match effect {
                Effect::Spend => self.sent = Some(self.used),
                Effect::CloseIntent => self.journal_intent = None,
                Effect::DropHeld => self.unsaved = None,
                _ => {}
            }
        }
        effects
    }

    fn done(&mut self, outcome: Outcome, rules: Step) {
        let generation = self.portal.generation;
        self.take(Event::Done { generation, outcome }, rules);
    }

    /// A new process, with what is on disk (I3, I4).
    fn restart(&mut self, rules: Step) {
        let survives = self
            .journal_newest
            .filter(|newest| *newest > self.store && self.store >= self.grant.min(*newest));
        let of_this_grant =
            survives.filter(|newest| !(self.store >= self.grant && *newest < self.grant));
        self.excused |= self.newest_is_on_its_way();
        (self.answer, self.reply) = (None, None);
        self.unsaved = of_this_grant;
        self.used = of_this_grant.unwrap_or(self.store);
        let in_doubt = self.journal_intent == Some(self.used);
        self.portal = begin().portal;
        self.portal.renew_at = Some(at(u64::from(self.wakes) * 10_000));
        self.portal.not_before = at(0);
        let found = Found {
            in_doubt: in_doubt.then_some(STRAY),
            proven: true,
            unsaved: self.unsaved.is_some(),
            ..Found::default()
        };
        self.take(Event::Found(found), rules);
        // What was on its way has arrived: the search is over what comes after, not over seconds.
        self.portal.arrives_by = at(0);
        self.portal.not_before = at(0);
        self.portal.validation_due = at(1_000_000);
    }

    /// Every world that can follow at once.
    #[expect(clippy::too_many_lines, reason = "all that can happen, side by side")]
    fn next(&self, budget: &Budget, rules: Step) -> Vec<Self> {
        let mut worlds = Vec::new();
        let mut follow = |change: &dyn Fn(&mut Self)| {
            let mut world = self.clone();
            change(&mut world);
            worlds.push(world);
        };
        let rested = matches!(self.portal.phase, Phase::Resting);
        if rested && self.wakes < budget.wakes {
            follow(&|w| {
                w.wakes += 1;
                w.take(Event::Woke, rules);
            });
        }
        match self.portal.phase {
            Phase::Queued | Phase::Asking(_) => follow(&|w| drop(w.take(Event::Turn, rules))),
            Phase::Intending => follow(&|w| {
                w.journal_intent = Some(w.used);
                w.done(Outcome::Intended(true), rules);
            }),
            Phase::Keeping { rotated, .. } => follow(&|w| {
                if rotated {
                    w.journal_newest = w.answer;
                    w.unsaved = w.answer;
                    w.used = w.answer.unwrap_or(w.used);
                }
                (w.answer, w.journal_intent) = (None, None);
                w.done(Outcome::Kept(true), rules);
            }),
            Phase::Saving => {
                follow(&|w| {
                    let (Some(unsaved), true) = (w.unsaved, w.base_is_ours()) else {
                        return w.done(Outcome::SaveConflict, rules);
                    };
                    (w.store, w.unsaved) = (unsaved, None);
                    w.done(Outcome::Saved, rules);
                });
                follow(&|w| w.done(Outcome::SaveFailed, rules));
            }
            Phase::Rereading(_) => follow(&|w| {
                let ours = w.base_is_ours();
                if !ours {
                    (w.used, w.unsaved) = (w.store, None);
                }
                w.done(Outcome::Reread(if ours { Reread::Same } else { Reread::Newer }), rules);
            }),
            Phase::Introspecting(_) => follow(&|w| {
                let good = w.used == w.newest;
                let outcome = if good {
                    Outcome::IntrospectedActive(Facts::default())
                } else {
                    Outcome::IntrospectedInactive
                };
                w.done(outcome, rules);
            }),
            _ => {}
        }
        if let Some(sent) = self.sent {
            // It arrives, and is carried out if the token is the newest one.
            follow(&|w| {
                w.sent = None;
                if sent == w.newest {
                    w.newest += 1;
                    w.excused = false;
                    w.reply = Some(Ok(w.newest));
                } else {
                    w.reply = Some(Err(()));
                }
            });
        }
        if let Some(reply) = self.reply {
            follow(&|w| {
                w.reply = None;
                let facts = Facts::default();
                match reply {
                    Ok(token) => {
                        w.answer = Some(token);
                        let life = TokenLife::new(
                            at(u64::from(w.wakes) * 10_000),
                            Duration::from_secs(1800),
                        );
                        w.done(Outcome::Refreshed { token: life, rotated: true, facts }, rules);
                    }
                    Err(()) => w.done(
                        Outcome::RefreshRefused {
                            class: RefusalClass::GrantRefused,
                            retry_after: None,
                        },
                        rules,
                    ),
                }
            });
            if self.losses < budget.losses {
                follow(&|w| {
                    w.losses += 1;
                    w.excused |= w.reply == Some(Ok(w.newest));
                    w.reply = None;
                    w.done(
                        Outcome::RefreshRefused {
                            class: RefusalClass::AnswerLost,
                            retry_after: None,
                        },
                        rules,
                    );
                });
            }
        }
        if self.crashes < budget.crashes {
            follow(&|w| {
                w.crashes += 1;
                // Whatever was on its way arrives before anybody asks (the guard of STRAY).
                if w.sent.take() == Some(w.newest) {
                    w.newest += 1;
                    w.excused = true;
                }
                w.restart(rules);
            });
        }
        if self.edits < budget.edits {
            // The customer connects again, and an operator stores the new grant, whatever is under way.
            follow(&|w| {
                w.edits += 1;
                w.newest += 1;
                (w.grant, w.store, w.excused) = (w.newest, w.newest, false);
            });
        }
        if matches!(self.portal.phase, Phase::Resting | Phase::Ended(_)) && !self.base_is_ours() {
            // The store is read again, now or later.
            follow(&|w| {
                (w.used, w.unsaved) = (w.store, None);
                w.take(Event::RecordChanged, rules);
            });
        }
        worlds
    }

    /// Whether what stands in the store is of the grant in use.
    fn base_is_ours(&self) -> bool {
        (self.store >= self.grant) == (self.used >= self.grant)
    }

    fn newest_is_on_its_way(&self) -> bool {
        self.answer == Some(self.newest) || self.reply == Some(Ok(self.newest))
    }

    /// What must hold in every world.
    fn judge(&self, before: &Self) -> Result<(), String> {
        let ended = self.portal.ended();
        let durable = self.store.max(self.journal_newest.unwrap_or_default()).max(self.grant);
        let good = self.store == self.newest || self.journal_newest == Some(self.newest);
        if !(good || self.newest_is_on_its_way() || self.excused || self.sent.is_some()) {
            return Err(format!(
                "I3: token {} is nowhere, {durable} is the newest that is safe",
                self.newest
            ));
        }
        if ended == Some(End::Revoked) {
            return Err("I5: called revoked, and no customer left".to_owned());
        }
        let told_now = before.portal.ended() != ended;
        if ended == Some(End::Lost) && told_now && !before.excused {
            return Err("I5: called lost, and nothing was".to_owned());
        }
        if self.store < before.store && before.store >= self.grant {
            return Err(format!("I13: {} was written over {}", self.store, before.store));
        }
        if let (Some(sent), None) = (self.sent, before.sent)
            && sent < self.newest
            && sent >= self.grant
        {
            return Err(format!("I4: {sent} was spent before, and is presented again"));
        }
        Ok(())
    }
}

/// Searches breadth first; the shortest way to what must not be, if there is one.
fn search(budget: &Budget, rules: Step) -> (usize, Option<String>) {
    let (mut seen, mut queue) = (HashSet::from([begin()]), VecDeque::from([begin()]));
    while let Some(world) = queue.pop_front() {
        for next in world.next(budget, rules) {
            if let Err(what) = next.judge(&world) {
                return (seen.len(), Some(format!("{what}\nbefore {world:#?}\nafter {next:#?}")));
            }
            if seen.insert(next.clone()) {
                queue.push_back(next);
            }
        }
    }
    (seen.len(), None)
}

#[test]
fn i3_i4_i5_i13_hold_in_every_order_of_crashes_lost_answers_and_edits() {
    let budget = Budget { crashes: 2, losses: 2, edits: 1, wakes: 6 };
    let (worlds, broken) = search(&budget, step);
    println!("{worlds} worlds");
    assert_eq!(broken, None);
    assert!(worlds > 1000, "{worlds}");
}

/// Spends again after a crash as if nothing had been.
fn blind(portal: &Portal, event: &Event, context: &Context<'_>) -> (Portal, Vec<Effect>) {
    let (mut portal, effects) = step(portal, event, context);
    portal.in_doubt = false;
    (portal, effects)
}

#[test]
fn the_search_finds_what_is_wrong_with_a_protocol_that_forgets_its_intents() {
    let budget = Budget { crashes: 1, losses: 1, edits: 0, wakes: 6 };
    let (_, broken) = search(&budget, blind);
    assert!(broken.is_some_and(|what| what.contains("I4") || what.contains("I5")));
}
