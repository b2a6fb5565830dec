//! What `step` promises, claim by claim.

use proptest::prelude::*;

use super::*;
use crate::lifecycle::state::TokenLife;
use crate::lifecycle::{Generation, PortalState, event::Facts, step::spend::CONFLICTS_BORNE};

const LIFE: Duration = Duration::from_secs(1800);

fn at(seconds: u64) -> BootTime {
    BootTime::new(Duration::from_secs(100_000 + seconds))
}

/// What it takes to send a refresh, and a question.
const SENT: [Effect; 3] = [Effect::QueueRefresh, Effect::Intend, Effect::Spend];
const ASKED: [Effect; 2] = [Effect::QueueQuestion, Effect::Introspect];

struct Story {
    portal: Portal,
    now: BootTime,
    policy: RefreshPolicy,
    may_rotate: bool,
    belief: Belief,
    warm: bool,
    introspect_first: bool,
    /// What followed from the last event, with what followed from that.
    effects: Vec<Effect>,
}

impl Story {
    fn begin() -> Self {
        Self {
            portal: Portal::loaded(at(0), at(3600)),
            now: at(0),
            policy: RefreshPolicy::default(),
            may_rotate: true,
            belief: Belief::Own,
            warm: true,
            introspect_first: false,
            effects: Vec::new(),
        }
    }

    /// One step and no more.
    fn one(&mut self, event: Event) -> Vec<Effect> {
        let context = Context {
            now: self.now,
            portal: PortalId::new(4711).unwrap(),
            policy: &self.policy,
            validate_every: Duration::from_secs(3600),
            warm: self.warm,
            introspect_first: self.introspect_first,
            may_rotate: self.may_rotate,
            belief: self.belief,
            chance: 0.0,
        };
        let (portal, effects) = step(&self.portal, &event, &context);
        self.portal = portal;
        effects
    }

    /// A step, and those that follow at once where queue and journal are free.
    fn event(&mut self, event: Event) -> &mut Self {
        self.effects = self.one(event);
        let mut seen = 0;
        while seen < self.effects.len() {
            let generation = self.portal.generation;
            let next = match self.effects[seen] {
                Effect::QueueRefresh | Effect::QueueQuestion => Some(Event::Turn),
                Effect::Intend => {
                    Some(Event::Done { generation, outcome: Outcome::Intended(true) })
                }
                Effect::Keep => Some(Event::Done { generation, outcome: Outcome::Kept(true) }),
                _ => None,
            };
            seen += 1;
            if let Some(next) = next {
                let more = self.one(next);
                self.effects.extend(more);
            }
        }
        self
    }

    fn done(&mut self, outcome: Outcome) -> &mut Self {
        self.event(Event::Done { generation: self.portal.generation, outcome })
    }

    fn refreshed(&mut self, rotated: bool) -> &mut Self {
        let token = TokenLife::new(self.now, LIFE);
        self.done(Outcome::Refreshed { token, rotated, facts: Facts::default() })
    }

    fn refused(&mut self, class: RefusalClass) -> &mut Self {
        self.done(Outcome::RefreshRefused { class, retry_after: None })
    }

    fn live() -> Self {
        let mut story = Self::begin();
        story.event(Event::Woke).refreshed(false);
        story
    }

    fn wake(&mut self) -> &mut Self {
        self.now = self.portal.wakes().unwrap();
        self.event(Event::Woke)
    }

    fn state(&self) -> PortalState {
        self.portal.state(self.now, true)
    }
}

#[test]
fn a_loaded_portal_is_refreshed_published_and_renewed_before_expiry() {
    let mut story = Story::begin();
    assert_eq!(story.state(), PortalState::Pending);
    assert_eq!(story.event(Event::Woke).effects, SENT);
    story.refreshed(false);
    assert!(story.effects.contains(&Effect::Publish));
    assert!(!story.effects.contains(&Effect::Save), "an unchanged refresh token is not written");
    assert_eq!(story.state(), PortalState::Live);
    story.wake();
    assert_eq!(story.effects, SENT);
    assert!(story.portal.serves(story.now, Duration::from_secs(120)));
}

#[test]
fn i2_nothing_is_sent_while_a_refresh_is_in_flight() {
    let mut story = Story::begin();
    story.event(Event::Woke);
    for event in [Event::Woke, Event::Wanted, Event::RecordChanged, Event::Wanted, Event::Woke] {
        assert_eq!(story.event(event).effects, [], "{event:?}");
    }
}

#[test]
fn i3_a_rotated_token_is_saved_before_its_access_token_is_published() {
    let mut story = Story::begin();
    story.event(Event::Woke).refreshed(true);
    assert!(story.effects.contains(&Effect::Save));
    assert!(!story.effects.contains(&Effect::Publish));
    assert_eq!(story.state(), PortalState::Pending);
    assert!(story.done(Outcome::Saved).effects.contains(&Effect::Publish));
    assert_eq!(story.state(), PortalState::Live);
}

#[test]
fn a_store_that_is_down_makes_a_state_and_an_incident_and_is_tried_again() {
    let mut story = Story::begin();
    story.event(Event::Woke).refreshed(true).done(Outcome::SaveFailed);
    assert!(story.effects.contains(&Effect::Open(Cause::Unsaved)));
    assert!(story.effects.contains(&Effect::Publish));
    assert_eq!(story.state(), PortalState::Unsaved);
    assert_eq!(story.wake().effects, [Effect::Save]);
    assert!(story.done(Outcome::Saved).effects.contains(&Effect::Close(Cause::Unsaved)));
    assert_eq!(story.state(), PortalState::Live);
}

#[test]
fn i14_before_the_end_what_is_unsaved_is_tried_once_more() {
    let mut story = Story::begin();
    story.event(Event::Woke).refreshed(true).done(Outcome::SaveFailed);
    assert_eq!(story.event(Event::LastCall).effects, [Effect::Save]);
    assert_eq!(story.event(Event::LastCall).effects, []);
    assert_eq!(Story::live().event(Event::LastCall).effects, []);
}

#[test]
fn i5_a_refusal_is_believed_only_after_a_second_look_and_introspection() {
    let mut story = Story::live();
    story.wake().refused(RefusalClass::GrantRefused);
    assert_eq!(story.effects, [Effect::CloseIntent, Effect::GrantRefused, Effect::Reread]);
    assert_eq!(story.state(), PortalState::Live);
    assert_eq!(story.done(Outcome::Reread(Reread::Same)).effects, ASKED);
    assert_eq!(story.state(), PortalState::Live);
    story.done(Outcome::IntrospectedInactive);
    assert_eq!(story.state(), PortalState::Revoked);
    assert!(story.effects.contains(&Effect::Open(Cause::Ended(End::Revoked))));
    assert!(story.effects.contains(&Effect::Withdraw));
}

#[test]
fn i5_a_stale_record_is_not_a_revocation_the_newer_token_is_tried() {
    let mut story = Story::live();
    story.wake().refused(RefusalClass::GrantRefused).done(Outcome::Reread(Reread::Newer));
    assert_eq!(story.effects, [Effect::Settled]);
    assert_eq!(story.event(Event::Woke).effects, SENT);
    story.refreshed(false);
    assert_eq!(story.state(), PortalState::Live);
}

#[test]
fn i5_a_grant_that_introspects_as_good_is_tried_again_not_given_up() {
    let mut story = Story::live();
    for _ in 0..20 {
        story.wake().refused(RefusalClass::GrantRefused).done(Outcome::Reread(Reread::Same));
        story.done(Outcome::IntrospectedActive(Facts::default()));
        assert_eq!(story.state(), PortalState::Retrying);
    }
}

#[test]
fn i5_where_nobody_can_be_asked_only_repeated_refusals_are_believed() {
    let mut story = Story::live();
    let (mut refusals, mut first) = (0, None);
    while story.state() != PortalState::Revoked {
        story.wake();
        first.get_or_insert(story.now);
        story.refused(RefusalClass::GrantRefused).done(Outcome::Reread(Reread::Same));
        story
            .done(Outcome::IntrospectionRefused { class: RefusalClass::Outage, retry_after: None });
        refusals += 1;
    }
    assert!(refusals >= doubt::REFUSALS_BELIEVED, "{refusals}");
    assert!(story.now.since(first.unwrap()) >= doubt::OVER);
}

#[test]
fn i6_a_refused_client_pair_is_not_counted_against_the_portal() {
    let mut story = Story::live();
    story.wake().refused(RefusalClass::AppRefused);
    assert_eq!(story.effects, [Effect::CloseIntent, Effect::AppRefused]);
    assert_eq!((story.portal.failures, story.state()), (0, PortalState::Live));
    assert_eq!(story.portal.renew_at, Some(story.now));
}

#[test]
fn i4_one_that_was_spent_of_late_is_no_second_opinion() {
    let mut story = Story::begin();
    story.event(Event::Woke).refused(RefusalClass::Outage);
    let before = story.portal.clone();
    assert_eq!(story.event(Event::Ask).effects, []);
    assert_eq!(
        story.portal, before,
        "what was spent may still arrive, and nothing heard before that counts"
    );
}

#[test]
fn i2_i13_a_record_that_changes_in_mid_refresh_waits_for_the_answer_and_wins() {
    let mut story = Story::begin();
    story.event(Event::Woke);
    let before = story.portal.clone();
    assert_eq!(story.event(Event::RecordChanged).effects, []);
    assert_eq!(story.portal, before, "nothing is sent beside what is in flight");
    // The older grant's answer is safe in the journal; the store has moved on and takes it no more.
    story.refreshed(true).done(Outcome::SaveConflict).done(Outcome::Reread(Reread::Newer));
    assert_eq!(story.effects, [Effect::DropHeld, Effect::Settled]);
    assert_eq!((story.portal.token, story.portal.held), (None, None));
    assert_eq!(story.event(Event::Woke).effects, SENT);
}

#[test]
fn i13_what_was_under_way_for_an_older_grant_changes_nothing() {
    let mut story = Story::begin();
    story.event(Event::Woke).refreshed(true).done(Outcome::SaveFailed);
    story.portal.phase = Phase::Ended(End::Revoked);
    story.now = story.now + Duration::from_secs(60);
    assert_eq!(story.event(Event::Woke).effects, [Effect::Save]);
    let old = story.portal.generation;
    story.event(Event::RecordChanged);
    let before = story.portal.clone();
    story.event(Event::Done { generation: old, outcome: Outcome::Saved });
    assert_eq!((&story.portal, &story.effects[..]), (&before, &[][..]));
}

#[test]
fn i13_a_conflict_with_a_newer_grant_drops_ours() {
    let mut story = Story::begin();
    story.event(Event::Woke).refreshed(true).done(Outcome::SaveConflict);
    assert_eq!(story.effects, [Effect::Reread]);
    story.done(Outcome::Reread(Reread::Newer));
    assert_eq!(story.effects, [Effect::DropHeld, Effect::Settled]);
    assert_eq!(story.event(Event::Woke).effects, SENT);
}

#[test]
fn a_conflict_with_an_edit_beside_the_token_writes_again() {
    let mut story = Story::begin();
    story.event(Event::Woke).refreshed(true).done(Outcome::SaveConflict);
    assert_eq!(story.done(Outcome::Reread(Reread::Same)).effects, [Effect::Save]);
}

#[test]
fn trouble_that_passes_never_ends_a_grant_and_keeps_the_token() {
    use RefusalClass::{
        AnswerLost, ApiRetired, Migrating, Outage, RateLimited, Unknown, Unreachable,
    };
    for class in [RateLimited, Migrating, ApiRetired, Outage, Unreachable, AnswerLost, Unknown] {
        let mut story = Story { may_rotate: false, ..Story::live() };
        for _ in 0..40 {
            story.wake().refused(class);
            assert_eq!(story.portal.ended(), None, "{class:?}");
            assert!(story.portal.token.is_some());
            assert!(story.portal.wakes().unwrap() >= story.now + Duration::from_secs(2));
        }
    }
}

#[test]
fn a_grant_that_fails_on_is_told_of_before_its_token_ends_and_again_once_it_has() {
    let mut story = Story::live();
    let expires = story.portal.token.unwrap().expires;
    let told = |story: &Story| -> Vec<_> {
        let told = |effect: &Effect| match effect {
            Effect::Open(cause) => Some(*cause),
            _ => None,
        };
        story.effects.iter().filter_map(told).collect()
    };
    let mut heard = Vec::new();
    while story.now < expires + Duration::from_secs(600) {
        story.wake().refused(RefusalClass::Unknown);
        let early = story.portal.renew_at.unwrap() < expires;
        assert_eq!(told(&story).is_empty(), early, "nobody is woken as long as the token lasts");
        heard.extend(told(&story));
    }
    heard.dedup();
    assert_eq!(heard, [Cause::Failing, Cause::Expired]);
    story.wake().refreshed(false);
    for cause in [Cause::Failing, Cause::Expired] {
        assert!(story.effects.contains(&Effect::Close(cause)));
    }
    let mut idle = Story::live();
    idle.now = expires + Duration::from_secs(3600);
    idle.wake().refused(RefusalClass::Unreachable);
    assert!(told(&idle).is_empty(), "a token that nobody used had run out before anything failed");
}

#[test]
fn a_migrating_account_waits_as_long_as_told_but_no_longer_than_a_day() {
    let mut story = Story::live();
    let hours = |n: u64| Some(Duration::from_secs(n * 3600));
    story.wake();
    let asked = story.now;
    story.done(Outcome::RefreshRefused { class: RefusalClass::Migrating, retry_after: hours(6) });
    assert_eq!(story.state(), PortalState::Suspended);
    assert_eq!(story.portal.not_before, asked + hours(6).unwrap());
    story.now = story.portal.not_before;
    story.event(Event::Woke);
    story.done(Outcome::RefreshRefused { class: RefusalClass::Migrating, retry_after: hours(999) });
    assert_eq!(story.portal.not_before, story.now + LONGEST_WAIT);
}

#[test]
fn i5_a_missing_portal_is_believed_when_it_is_said_over_minutes() {
    let mut story = Story::live();
    story.wake();
    let first = story.now;
    while story.portal.ended().is_none() {
        story.refused(RefusalClass::PortalUnavailable).done(Outcome::Reread(Reread::Same));
        if story.portal.ended().is_none() {
            story.wake();
        }
    }
    assert_eq!(story.state(), PortalState::Unavailable);
    assert!(story.now.since(first) >= doubt::OVER);
}

#[test]
fn i5_a_mismatch_is_believed_only_if_introspection_bears_it_out() {
    let again = |story: &mut Story| {
        for _ in 0..doubt::REFUSALS_BELIEVED {
            assert_eq!(story.portal.ended(), None);
            story.wake().refused(RefusalClass::GrantMismatched);
            story.done(Outcome::Reread(Reread::Same));
        }
        assert_eq!(story.effects, ASKED);
    };
    let mut story = Story::live();
    again(&mut story);
    story.done(Outcome::IntrospectedActive(Facts::default()));
    assert_eq!(story.state(), PortalState::Retrying, "HubSpot says that it is ours");
    again(&mut story);
    assert_eq!(story.done(Outcome::IntrospectedInactive).state(), PortalState::Mismatched);
}

#[test]
fn a_grant_that_answers_for_another_portal_is_shut_away() {
    let mut story = Story::begin();
    story.event(Event::Woke);
    let facts = Facts { wrong_portal: true, ..Facts::default() };
    let token = TokenLife::new(story.now, LIFE);
    story.done(Outcome::Refreshed { token, rotated: true, facts });
    assert_eq!(story.state(), PortalState::Mismatched);
    assert!(story.effects.contains(&Effect::Save), "its refresh token is not lost");
    assert!(!story.effects.contains(&Effect::Publish));
}

#[test]
fn a_portal_that_is_not_kept_warm_is_refreshed_only_when_somebody_asks() {
    let mut story = Story { warm: false, ..Story::begin() };
    assert_eq!((story.event(Event::Woke).effects.len(), story.portal.renew_at), (0, None));
    let cold = story.portal.clone();
    assert_eq!(story.event(Event::Wanted).effects, SENT);
    (story.portal, story.warm) = (cold, true);
    assert_eq!(story.event(Event::Woke).effects, SENT, "warm again");
}

#[test]
fn i5_somebody_s_word_that_a_grant_has_ended_is_a_question_and_nothing_more() {
    let told = Event::AskWithin(Duration::ZERO);
    let mut story = Story::live();
    let before = story.portal.clone();
    assert_eq!(story.one(told), []);
    assert_eq!(story.wake().effects, ASKED);
    story.done(Outcome::IntrospectedActive(Facts::default()));
    let after = Portal { validation_due: before.validation_due, ..story.portal.clone() };
    assert_eq!(after, before, "a good grant goes on as it was");

    assert_eq!(story.one(told), []);
    story.wake().done(Outcome::IntrospectedInactive).done(Outcome::Reread(Reread::Same));
    assert_eq!(story.state(), PortalState::Revoked);
    assert_eq!(story.one(told), [], "what has ended is asked about in its own time");
}

#[test]
fn whoever_is_to_be_asked_about_within_a_time_is_and_never_later_than_before() {
    let mut story = Story::live();
    let within = Duration::from_secs(100);
    story.one(Event::AskWithin(within));
    assert!(story.portal.validation_due <= story.now + within);
    let due = story.portal.validation_due;
    story.one(Event::AskWithin(Duration::from_secs(100_000)));
    assert!(story.portal.validation_due <= due);
    for paused in [true, false] {
        story.one(Event::Pause(paused));
        story.one(Event::AskWithin(Duration::ZERO));
        let asked = story.portal.wakes().is_some_and(|at| at <= story.portal.not_before);
        assert_eq!(asked, !paused, "nobody asks about a paused portal");
    }
}

#[test]
fn a_validation_that_finds_a_dead_grant_looks_at_the_record_first() {
    let mut story = Story::live();
    story.portal.renew_at = Some(story.portal.validation_due + Duration::from_secs(1));
    story.wake();
    assert_eq!(story.effects, ASKED);
    story.done(Outcome::IntrospectedInactive);
    assert_eq!(story.effects.last(), Some(&Effect::Reread));
    story.done(Outcome::Reread(Reread::Same));
    assert_eq!(story.state(), PortalState::Revoked);
}

#[test]
fn an_ended_grant_comes_back_when_its_record_changes_or_hubspot_says_so() {
    for by_record in [true, false] {
        let mut story = Story::live();
        story.wake().refused(RefusalClass::GrantRefused).done(Outcome::Reread(Reread::Same));
        story.done(Outcome::IntrospectedInactive);
        if by_record {
            story.event(Event::RecordChanged);
        } else {
            assert_eq!(story.wake().effects, ASKED);
            assert_eq!(story.state(), PortalState::Revoked);
            story.done(Outcome::IntrospectedActive(Facts::default()));
        }
        assert_eq!(story.event(Event::Woke).effects, SENT);
        story.refreshed(false);
        assert!(story.effects.contains(&Effect::Close(Cause::Ended(End::Revoked))));
        assert_eq!(story.state(), PortalState::Live);
    }
}

#[test]
fn missing_scopes_are_told_and_do_not_stop_the_portal() {
    let mut story = Story::begin();
    story.event(Event::Woke);
    let facts = Facts { scopes_missing: Some(true), ..Facts::default() };
    let token = TokenLife::new(story.now, LIFE);
    story.done(Outcome::Refreshed { token, rotated: false, facts });
    assert!(story.effects.contains(&Effect::Open(Cause::ScopeMissing)));
    assert_eq!(story.state(), PortalState::Live);
}

/// Anything that can happen, told by a number.
fn any_event(kind: u8, portal: &Portal, now: BootTime) -> Event {
    let token = TokenLife::new(now, LIFE);
    let facts = Facts::default();
    let refused = |class| Outcome::RefreshRefused { class, retry_after: None };
    let not_told = |class| Outcome::IntrospectionRefused { class, retry_after: None };
    let outcome = match kind {
        0 | 1 => return Event::Woke,
        2 => return Event::Wanted,
        3 => return Event::RecordChanged,
        4 => return Event::RecordUnusable,
        5 | 6 => return Event::Turn,
        7 => return Event::NotSent,
        8 => return Event::Ask,
        9 => return Event::HubSpotBack,
        10 => return Event::LastCall,
        11 => return Event::Pause(true),
        12 => return Event::Pause(false),
        13 => {
            // A start finds a portal at rest; later on it is only told that the store is behind.
            let in_doubt = (portal.phase == Phase::Resting).then_some(STRAY);
            return Event::Found(Found { unsaved: true, in_doubt, ..Found::default() });
        }
        14 => Outcome::Intended(true),
        15 => Outcome::Intended(false),
        16 => Outcome::Refreshed { token, rotated: false, facts },
        17 => Outcome::Refreshed { token, rotated: true, facts },
        18 => Outcome::Refreshed {
            token,
            rotated: true,
            facts: Facts { wrong_portal: true, ..facts },
        },
        19 => Outcome::Kept(true),
        20 => Outcome::Kept(false),
        21 => refused(RefusalClass::GrantRefused),
        22 => refused(RefusalClass::AppRefused),
        23 => refused(RefusalClass::Outage),
        24 => refused(RefusalClass::PortalUnavailable),
        25 => Outcome::Saved,
        26 => Outcome::SaveConflict,
        27 => Outcome::SaveFailed,
        28 => Outcome::Reread(Reread::Same),
        29 => Outcome::Reread(Reread::Newer),
        30 => Outcome::Reread(Reread::Failed),
        31 => Outcome::IntrospectedActive(facts),
        32 => Outcome::IntrospectedInactive,
        33 => not_told(RefusalClass::Outage),
        34 => not_told(RefusalClass::ApiRetired),
        35 => refused(RefusalClass::GrantMismatched),
        36 => refused(RefusalClass::RateLimited),
        37 => refused(RefusalClass::AnswerLost),
        38 => return Event::AskWithin(Duration::ZERO),
        39 => return Event::AskWithin(Duration::from_secs(600)),
        _ => not_told(RefusalClass::AppRefused),
    };
    Event::Done { generation: portal.generation, outcome }
}

const EVENTS: u8 = 41;

/// Whether something is under way whose end will be reported.
fn is_under_way(phase: Phase) -> bool {
    !matches!(phase, Phase::Resting | Phase::Ended(_) | Phase::Queued | Phase::Asking(_))
}

fn begins(effect: &Effect) -> bool {
    use Effect::{Intend, Introspect, Keep, Reread, Save, Spend};
    matches!(effect, Intend | Spend | Keep | Introspect | Reread | Save)
}

proptest! {
    /// Whatever happens in whatever order: never two things under way (I2), nothing spent without a
    /// durable intent (I4), nothing published that is not kept, or saved where it was replaced (I3), no
    /// wake-up that could spin, and an end only by the doors of I5.
    #[test]
    fn i2_i3_i4_i5_hold_for_any_sequence_of_events(
        events in prop::collection::vec((prop_oneof![0_u64..6, 0_u64..2000], 0..EVENTS), 1..300), may_rotate: bool, belief in 0_u8..3,
    ) {
        let belief = [Belief::Own, Belief::Unclear, Belief::Common][usize::from(belief)];
        let mut story = Story { may_rotate, belief, ..Story::begin() };
        for (pass, kind) in events {
            story.now = story.now + Duration::from_secs(pass);
            let before = story.portal.clone();
            let event = any_event(kind, &before, story.now);
            // An outcome can only come back while something is under way.
            if matches!(event, Event::Done { .. }) && !is_under_way(before.phase) { continue; }
            let effects = story.one(event);
            let after = &story.portal;
            prop_assert!(effects.iter().filter(|effect| begins(effect)).count() <= 1, "{before:?} {event:?}");
            let of_this = matches!(event, Event::Done { .. });
            if effects.iter().any(begins) {
                prop_assert!(!is_under_way(before.phase) || of_this, "beside what is under way: {before:?} {event:?}");
                // A grant that is not served any more is stored all the same.
                let stores = effects.iter().filter(|effect| begins(effect)).all(|effect| *effect == Effect::Save);
                let shut_away = matches!(after.phase, Phase::Ended(_)) && stores;
                prop_assert!(is_under_way(after.phase) || shut_away, "{after:?}");
            }
            if effects.contains(&Effect::Spend) {
                prop_assert_eq!(before.phase, Phase::Intending);
                let durable = matches!(event, Event::Done { outcome: Outcome::Intended(true), .. });
                prop_assert!(durable || !may_rotate, "spent without an intent");
            }
            if effects.contains(&Effect::Intend) {
                // Where there is no such question as whether it was, it is spent again after five tries.
                let unanswerable = before.failures + 1 >= doubt::REFUSALS_BELIEVED;
                prop_assert!(!(before.in_doubt && may_rotate) || unanswerable, "spent twice: {before:?}");
                prop_assert!(!before.in_doubt || !may_rotate || before.arrives_by <= story.now, "{before:?}");
            }
            let asked = matches!(event, Event::Done { outcome: Outcome::IntrospectedActive(_), .. });
            if asked && before.in_doubt && !after.in_doubt && may_rotate {
                prop_assert!(before.arrives_by <= story.now, "believed while it may still arrive: {before:?}");
            }
            if effects.contains(&Effect::Publish) {
                let kept = matches!(before.phase, Phase::Keeping { rotated: false, .. });
                let saved = before.phase == Phase::Saving || before.phase == Phase::Rereading(Doubt::Conflict);
                prop_assert!(kept || saved, "{before:?}");
            }
            let ended = effects.iter().find_map(|effect| match effect { Effect::Open(Cause::Ended(end)) => Some(*end), _ => None });
            if let Some(end @ (End::Revoked | End::NeverWorked | End::Lost | End::Unavailable)) = ended {
                // A spend whose answer went missing explains a refusal, whatever is not yet clear.
                prop_assert!(belief == Belief::Own || (end == End::Lost && belief == Belief::Unclear));
                let spent = before.in_doubt && may_rotate;
                prop_assert_eq!(end == End::Revoked, before.proven && !spent && end != End::Unavailable);
                let Event::Done { outcome, .. } = event else { panic!("{event:?}") };
                let doors = match outcome {
                    Outcome::IntrospectedInactive => matches!(before.phase, Phase::Introspecting(Doubt::Refused(_))),
                    Outcome::Reread(Reread::Same) => matches!(before.phase, Phase::Rereading(
                        Doubt::Inactive | Doubt::Spent | Doubt::Refused(RefusalClass::PortalUnavailable)
                    )),
                    _ => false,
                };
                let often = matches!((before.phase, outcome),
                    (Phase::Introspecting(Doubt::Refused(_)), Outcome::IntrospectionRefused { .. })) && before.refusals >= doubt::REFUSALS_BELIEVED;
                prop_assert!(doors || often, "{before:?} {outcome:?}");
                prop_assert!(end != End::Unavailable || before.refusals > 2, "believed at once: {before:?}");
            }
            prop_assert!(after.phase != Phase::Resting || after.held.is_none());
            if let Some(wakes) = after.wakes().filter(|_| after.failures > 0 && event == Event::Woke) {
                prop_assert!(wakes > story.now || is_under_way(after.phase) || after.phase == Phase::Queued, "it would spin: {after:?}");
            }
            if let Some(token) = after.token {
                prop_assert!(!after.serves(token.expires, Duration::ZERO), "I1");
            }
        }
    }

    /// A wish, a timer or a change that comes at the wrong moment changes nothing that is under way.
    #[test]
    fn every_pair_of_phase_and_event_is_decided(kinds in prop::collection::vec(0..EVENTS, 0..40), last in 0..EVENTS) {
        let mut story = Story::begin();
        for kind in kinds {
            let event = any_event(kind, &story.portal, story.now);
            story.one(event);
            story.now = story.now + Duration::from_secs(7);
        }
        let before = story.portal.clone();
        let late = Event::Done { generation: Generation(before.generation.0 + 7), outcome: Outcome::Saved };
        let effects = story.one(late);
        prop_assert!(effects.is_empty() && story.portal == before, "a stray report");
        story.portal = before.clone();
        story.one(any_event(last, &before, story.now));
        prop_assert!(story.portal.generation >= before.generation);
    }
}

#[test]
fn a_grant_is_introspected_before_it_is_spent_for_the_first_time() {
    let mut story = Story { introspect_first: true, ..Story::begin() };
    story.portal.validation_due = at(0);
    let loaded = story.portal.clone();
    assert_eq!(story.event(Event::Woke).effects, ASKED);
    story.done(Outcome::IntrospectedActive(Facts::default()));
    assert!(story.effects.contains(&Effect::NoteProven));
    assert_eq!(story.event(Event::Woke).effects, SENT);
    story.portal = loaded;
    assert_eq!(story.event(Event::Wanted).effects, SENT, "a caller need not wait");
}

#[test]
fn i4_without_a_durable_intent_nothing_is_spent_while_a_spend_may_replace_something() {
    let mut story = Story::begin();
    assert_eq!(story.one(Event::Woke), [Effect::QueueRefresh]);
    assert_eq!(story.one(Event::Turn), [Effect::Intend]);
    let not_kept = |story: &Story| Event::Done {
        generation: story.portal.generation,
        outcome: Outcome::Intended(false),
    };
    let event = not_kept(&story);
    assert_eq!(story.one(event), [Effect::CloseIntent]);
    assert!(story.portal.wakes().unwrap() >= story.now + Duration::from_secs(4));
    story.now = story.portal.wakes().unwrap();
    story.may_rotate = false;
    story.one(Event::Woke);
    story.one(Event::Turn);
    let event = not_kept(&story);
    assert_eq!(story.one(event), [Effect::Spend], "a provider that keeps tokens loses none");
}

#[test]
fn i4_a_grant_in_doubt_is_asked_about_before_it_is_spent_again() {
    for by_crash in [true, false] {
        let mut story = Story::live();
        if by_crash {
            story = Story::begin();
            story.one(Event::Found(Found {
                in_doubt: Some(STRAY),
                proven: true,
                ..Found::default()
            }));
            assert_eq!(story.event(Event::Wanted).effects, [], "it may arrive still");
            assert_eq!(story.portal.wakes(), Some(at(15)));
            story.wake();
        } else {
            story.wake().refused(RefusalClass::AnswerLost).wake();
        }
        assert_eq!(story.effects, ASKED);
        let asked = story.portal.clone();
        story.done(Outcome::IntrospectedActive(Facts::default()));
        assert!(story.effects.ends_with(&SENT) && !story.portal.in_doubt, "{:?}", story.effects);
        story.portal = asked.clone();
        story.done(Outcome::IntrospectedInactive).done(Outcome::Reread(Reread::Same));
        assert_eq!((story.portal.ended(), story.state()), (Some(End::Lost), PortalState::Revoked));
        story.portal = asked.clone();
        story.done(Outcome::IntrospectedInactive).done(Outcome::Reread(Reread::Newer));
        assert_eq!(story.event(Event::Woke).effects, SENT, "a newer grant is not in doubt");
        story.portal = asked;
        story
            .done(Outcome::IntrospectionRefused { class: RefusalClass::Outage, retry_after: None });
        assert_eq!(story.wake().effects, ASKED, "asked again, not spent");
    }
}

#[test]
fn i4_a_provider_that_keeps_tokens_leaves_no_doubt() {
    let mut story = Story { may_rotate: false, ..Story::live() };
    story.wake().refused(RefusalClass::AnswerLost);
    assert_eq!(story.wake().effects, SENT);
}

#[test]
fn i3_what_a_start_finds_is_served_and_stored() {
    let mut story = Story::begin();
    let token = TokenLife::new(at(0), LIFE);
    let found = Found { token: Some(token), proven: true, unsaved: true, ..Found::default() };
    assert_eq!(story.one(Event::Found(found)), [Effect::Publish]);
    assert_eq!(story.state(), PortalState::Unsaved);
    assert!(story.portal.serves(story.now, Duration::from_secs(120)));
    assert_eq!(story.wake().effects, [Effect::Save]);
    story.done(Outcome::Saved);
    assert_eq!(story.state(), PortalState::Live);
    assert!(story.portal.wakes().unwrap() > at(300), "no refresh is spent on a token that lives");
}

#[test]
fn a_grant_that_never_worked_is_told_apart_from_one_that_was_revoked() {
    let mut story = Story::begin();
    story.event(Event::Woke).refused(RefusalClass::GrantRefused);
    story.done(Outcome::Reread(Reread::Same)).done(Outcome::IntrospectedInactive);
    assert_eq!(story.portal.ended(), Some(End::NeverWorked));
    assert_eq!(story.state(), PortalState::Mismatched);
    let mut story = Story::begin();
    story.one(Event::Found(Found { proven: true, ..Found::default() }));
    story.event(Event::Woke).refused(RefusalClass::GrantRefused);
    story.done(Outcome::Reread(Reread::Same)).done(Outcome::IntrospectedInactive);
    assert_eq!(story.state(), PortalState::Revoked, "it worked before the restart");
}

#[test]
fn i6_a_refusal_that_may_be_everybody_s_is_not_believed_of_one() {
    for (belief, effect) in
        [(Belief::Unclear, Effect::SecondOpinion), (Belief::Common, Effect::Suspect)]
    {
        let mut story = Story { belief, ..Story::live() };
        for _ in 0..5 {
            story.wake().refused(RefusalClass::GrantRefused).done(Outcome::Reread(Reread::Same));
            story.done(Outcome::IntrospectedInactive);
            assert_eq!(story.effects, [Effect::AppAccepted, effect]);
            assert_eq!((story.state(), story.portal.failures), (PortalState::Live, 0));
        }
        story.belief = Belief::Own;
        story.wake().refused(RefusalClass::GrantRefused).done(Outcome::Reread(Reread::Same));
        assert_eq!(story.done(Outcome::IntrospectedInactive).state(), PortalState::Revoked);
    }
}

#[test]
fn i6_a_client_pair_of_another_app_is_no_portal_s_fault() {
    let others = || Outcome::IntrospectedActive(Facts { wrong_app: true, ..Facts::default() });
    let mut story = Story { belief: Belief::Common, ..Story::live() };
    story.now = story.portal.not_before;
    story.event(Event::Ask).done(others());
    // Told to the crowd first, then held against how others fare: the record is read in between.
    assert_eq!(story.effects, [Effect::AppAccepted, Effect::GrantRefused, Effect::Reread]);
    assert_eq!(story.done(Outcome::Reread(Reread::Same)).effects, [Effect::Suspect]);
    assert_eq!(story.state(), PortalState::Live);
    story.belief = Belief::Own;
    story.now = story.portal.not_before;
    story.event(Event::Ask).done(others()).done(Outcome::Reread(Reread::Same));
    assert_eq!(story.state(), PortalState::Mismatched);
}

#[test]
fn i6_a_second_opinion_is_a_question_and_disturbs_nothing_that_is_under_way() {
    let mut story = Story::live();
    assert_eq!(story.event(Event::Ask).effects, [], "heard of a moment ago");
    story.now = story.portal.not_before;
    assert_eq!(story.event(Event::Ask).effects, ASKED);
    assert_eq!(story.one(Event::Ask), []);
    story.done(Outcome::IntrospectedActive(Facts::default()));
    assert!(story.effects.contains(&Effect::GrantAccepted));
    assert_eq!(story.state(), PortalState::Live);
}

#[test]
fn a_paused_portal_is_left_alone_until_it_is_let_go_on() {
    let mut story = Story::live();
    story.event(Event::Pause(true));
    assert_eq!((story.state(), story.portal.wakes()), (PortalState::Paused, None));
    for event in [Event::Woke, Event::Wanted, Event::Ask] {
        assert_eq!(story.event(event).effects, [], "{event:?}");
    }
    story.event(Event::Pause(false));
    assert_eq!(story.state(), PortalState::Live);
    assert!(story.portal.wakes().is_some());
}

#[test]
fn what_waits_for_its_turn_when_its_portal_is_paused_is_not_sent() {
    for queued in [Event::Woke, Event::Wanted, Event::Ask] {
        let mut story = Story::live();
        story.now = story.portal.renew_at.unwrap();
        assert_ne!(story.one(queued), [], "{queued:?}");
        assert_eq!(story.event(Event::Pause(true)).one(Event::Turn), [], "{queued:?}");
        assert_eq!((story.portal.phase, story.portal.wakes()), (Phase::Resting, None));
    }
}

#[test]
fn i3_a_paused_portal_s_new_refresh_token_is_stored_all_the_same() {
    let mut story = Story::begin();
    story.event(Event::Woke).event(Event::Pause(true));
    story.refreshed(true).done(Outcome::SaveFailed);
    assert_eq!(story.state(), PortalState::Paused);
    assert_eq!(story.wake().effects, [Effect::Save]);
}

#[test]
fn i5_an_outage_counts_for_nothing_when_it_comes_to_believing_a_refusal() {
    for class in [RefusalClass::PortalUnavailable, RefusalClass::GrantMismatched] {
        let mut story = Story { may_rotate: false, ..Story::live() };
        for _ in 0..6 {
            story.wake().refused(RefusalClass::Outage);
        }
        for times in 1..doubt::REFUSALS_BELIEVED {
            story.wake().refused(class).done(Outcome::Reread(Reread::Same));
            assert_eq!(story.portal.refusals, times);
            story.wake().refused(RefusalClass::RateLimited);
            assert_eq!(story.portal.ended(), None, "{class:?} was said {times} times");
        }
    }
    let mut story = Story { may_rotate: false, ..Story::live() };
    for _ in 0..6 {
        story.wake().refused(RefusalClass::Outage);
    }
    story.wake().refused(RefusalClass::GrantRefused).done(Outcome::Reread(Reread::Same));
    let class = RefusalClass::Outage;
    story.done(Outcome::IntrospectionRefused { class, retry_after: None });
    assert_eq!(story.portal.ended(), None, "refused once, and HubSpot could not be asked");
}

#[test]
fn i4_what_is_queued_when_the_provider_begins_to_replace_tokens_is_asked_about_first() {
    let mut story = Story { may_rotate: false, ..Story::live() };
    story.wake().refused(RefusalClass::AnswerLost);
    story.now = story.portal.wakes().unwrap();
    assert_eq!(story.one(Event::Woke), [Effect::QueueRefresh]);
    story.may_rotate = true;
    assert_eq!(story.one(Event::Turn), [], "it may still arrive");
    assert_eq!(story.wake().effects, ASKED);
    // And what was about to be sent.
    let mut story = Story { may_rotate: false, ..Story::live() };
    story.wake().refused(RefusalClass::AnswerLost);
    story.now = story.portal.wakes().unwrap();
    story.one(Event::Woke);
    assert_eq!(story.one(Event::Turn), [Effect::Intend]);
    story.may_rotate = true;
    assert_eq!(story.done(Outcome::Intended(true)).effects, []);
    assert_eq!(story.event(Event::Woke).effects, []);
    story.now = story.portal.wakes().unwrap();
    assert_eq!(story.event(Event::Woke).effects, ASKED);
}

#[test]
fn i4_an_earlier_doubt_outlives_a_spend_that_was_taken_back() {
    let mut story = Story { may_rotate: false, ..Story::live() };
    story.wake().refused(RefusalClass::AnswerLost);
    story.wake();
    assert_eq!(story.one(Event::NotSent), [], "the first intent stays in the journal");
    assert!(story.portal.in_doubt);
}

#[test]
fn a_paused_portal_whose_grant_has_ended_is_asked_about_when_it_goes_on() {
    let mut story = Story::live();
    story.event(Event::RecordUnusable);
    story.portal.phase = Phase::Ended(End::Revoked);
    story.event(Event::Pause(true));
    assert_eq!(story.portal.wakes(), None);
    story.now = story.portal.validation_due;
    assert_eq!(story.event(Event::Woke).effects, []);
    story.event(Event::Pause(false));
    assert_eq!(story.event(Event::Woke).effects, ASKED);
}

#[test]
fn i7_a_lost_grant_whose_record_can_not_be_read_backs_off() {
    let mut story = Story::live();
    story.wake().refused(RefusalClass::AnswerLost);
    let mut last = Duration::ZERO;
    for _ in 0..4 {
        story.wake().done(Outcome::IntrospectedInactive).done(Outcome::Reread(Reread::Failed));
        let pause = story.portal.wakes().unwrap().since(story.now);
        assert!(pause > last, "{pause:?} after {last:?}");
        last = pause;
    }
}

#[test]
fn a_question_that_nobody_waits_for_gives_way_to_its_portal_s_renewal() {
    let mut story = Story::live();
    story.now = story.portal.not_before;
    assert_eq!(story.one(Event::Ask), [Effect::QueueQuestion]);
    story.now = story.portal.wakes().unwrap();
    assert_eq!(Some(story.now), story.portal.renew_at);
    assert_eq!(story.event(Event::Woke).effects, SENT);
}

#[test]
fn i3_a_grant_that_has_ended_is_stored_all_the_same() {
    let mut story = Story::live();
    story.wake().refreshed(true).done(Outcome::SaveFailed);
    story.event(Event::RecordUnusable);
    story.portal.save_at = Some(story.now);
    assert_eq!(story.wake().effects, [Effect::Save]);
    assert!(story.done(Outcome::SaveFailed).portal.wakes() > Some(story.now), "tried again");
    assert_eq!(story.event(Event::LastCall).effects, [Effect::Save]);
    assert_eq!(story.done(Outcome::Saved).effects, [Effect::Close(Cause::Unsaved)]);
}

#[test]
fn what_can_not_be_sent_leaves_the_portal_free() {
    let mut story = Story::live();
    story.now = story.portal.renew_at.unwrap();
    story.one(Event::Woke);
    story.one(Event::Turn);
    assert_eq!(story.portal.phase, Phase::Intending);
    story.one(Event::NotSent);
    assert_eq!(story.portal.phase, Phase::Resting);
    assert!(story.portal.wakes() > Some(story.now), "and it does not spin");
}

#[test]
fn hubspot_back_ends_the_wait_of_those_it_kept_waiting_and_of_nobody_else() {
    let mut story = Story::live();
    story.wake().refused(RefusalClass::Outage);
    story.event(Event::HubSpotBack);
    let arrived = Some(story.now + STRAY);
    assert_eq!(story.portal.wakes(), arrived, "what was spent may be worked on still");
    story.may_rotate = false;
    story.event(Event::HubSpotBack);
    assert_eq!(story.portal.wakes(), Some(story.now));
    story.event(Event::Woke).refused(RefusalClass::RateLimited);
    let wakes = story.portal.wakes();
    assert_eq!(story.event(Event::HubSpotBack).portal.wakes(), wakes);
}

#[test]
fn i7_a_portal_that_alone_meets_a_refused_client_pair_backs_off() {
    let mut story = Story::live();
    for _ in 0..10 {
        story.wake().refused(RefusalClass::AppRefused);
        assert!(story.effects.contains(&Effect::AppRefused));
    }
    assert_eq!(story.state(), PortalState::Retrying);
    assert!(story.portal.wakes().unwrap() > story.now + Duration::from_secs(30));
    story.wake().refreshed(false);
    assert_eq!((story.state(), story.portal.app_refusals), (PortalState::Live, 0));
}

#[test]
fn hubspot_s_wish_to_be_left_alone_does_not_keep_the_store_waiting() {
    let mut story = Story::begin();
    story.event(Event::Woke).refreshed(true).done(Outcome::SaveFailed);
    let hour = Some(Duration::from_secs(3600));
    story.portal.save_at = Some(story.now + Duration::from_secs(60));
    story.portal.renew_at = Some(story.now);
    story.now = story.now + Duration::from_secs(5);
    story.event(Event::Woke);
    story.done(Outcome::RefreshRefused { class: RefusalClass::Migrating, retry_after: hour });
    assert_eq!(story.portal.wakes(), story.portal.save_at);
    assert_eq!(story.wake().effects, [Effect::Save]);
}

#[test]
fn a_store_that_conflicts_without_end_is_left_alone_for_a_while() {
    let mut story = Story::begin();
    story.event(Event::Woke).refreshed(true);
    let mut conflicts = 0;
    while story.portal.save_at.is_none() {
        story.done(Outcome::SaveConflict);
        if story.effects == [Effect::Reread] {
            story.done(Outcome::Reread(Reread::Same));
        }
        conflicts += 1;
    }
    assert_eq!(conflicts, CONFLICTS_BORNE + 1);
    assert_eq!(story.state(), PortalState::Unsaved);
}

#[test]
fn i8_a_429_to_a_question_slows_everybody_down() {
    let mut story = Story::live();
    story.portal.renew_at = Some(story.now + Duration::from_secs(100_000));
    story.wake();
    let wait = Some(Duration::from_secs(30));
    let class = RefusalClass::RateLimited;
    story.done(Outcome::IntrospectionRefused { class, retry_after: wait });
    assert!(story.effects.contains(&Effect::Throttled(wait)));
}

#[test]
fn what_was_queued_and_not_sent_leaves_the_portal_free_for_a_newer_record() {
    let mut story = Story::live();
    story.now = story.portal.wakes().unwrap();
    assert_eq!(story.one(Event::Woke), [Effect::QueueRefresh]);
    assert_eq!(story.event(Event::NotSent).effects, []);
    story.event(Event::RecordChanged);
    assert_eq!(story.event(Event::Woke).effects, SENT);
}
