//! What `step` promises, claim by claim.

use proptest::prelude::*;

use super::*;
use crate::lifecycle::PortalState;

const LIFE: Duration = Duration::from_secs(1800);

fn at(seconds: u64) -> BootTime {
    BootTime::new(Duration::from_secs(100_000 + seconds))
}

struct Story {
    portal: Portal,
    now: BootTime,
    policy: RefreshPolicy,
    effects: Vec<Effect>,
}

impl Story {
    fn begin() -> Self {
        let portal = Portal::loaded(at(0), at(3600));
        Self { portal, now: at(0), policy: RefreshPolicy::default(), effects: Vec::new() }
    }

    fn event(&mut self, event: Event) -> &mut Self {
        let context = Context {
            now: self.now,
            portal: PortalId::new(4711).unwrap(),
            policy: &self.policy,
            validate_every: Duration::from_secs(3600),
            warm: true,
            introspect_first: false,
            chance: 0.0,
        };
        (self.portal, self.effects) = step(&self.portal, &event, &context);
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
    assert_eq!(story.event(Event::Woke).effects, [Effect::Refresh]);
    story.refreshed(false);
    assert!(story.effects.contains(&Effect::Publish));
    assert!(!story.effects.contains(&Effect::Save), "an unchanged refresh token is not written");
    assert_eq!(story.state(), PortalState::Live);
    story.wake();
    assert_eq!(story.effects, [Effect::Refresh]);
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
    assert_eq!(story.effects, [Effect::Reread]);
    assert_eq!(story.state(), PortalState::Live);
    assert_eq!(story.done(Outcome::Reread(Reread::Same)).effects, [Effect::Introspect]);
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
    assert_eq!(story.effects, []);
    assert_eq!(story.event(Event::Woke).effects, [Effect::Refresh]);
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
    let mut refusals = 0;
    while story.state() != PortalState::Revoked {
        story.wake().refused(RefusalClass::GrantRefused).done(Outcome::Reread(Reread::Same));
        story
            .done(Outcome::IntrospectionRefused { class: RefusalClass::Outage, retry_after: None });
        refusals += 1;
    }
    assert_eq!(refusals, REFUSALS_BELIEVED);
}

#[test]
fn i6_a_refused_client_pair_is_not_counted_against_the_portal() {
    let mut story = Story::live();
    story.wake().refused(RefusalClass::AppRefused);
    assert_eq!(story.effects, [Effect::AppRefused]);
    assert_eq!((story.portal.failures, story.state()), (0, PortalState::Live));
    assert_eq!(story.portal.renew_at, Some(story.now));
}

#[test]
fn i13_a_late_answer_for_an_older_grant_changes_nothing() {
    let mut story = Story::begin();
    story.event(Event::Woke);
    let old = story.portal.generation;
    story.event(Event::RecordChanged);
    let token = TokenLife::new(story.now, LIFE);
    let outcome = Outcome::Refreshed { token, rotated: true, facts: Facts::default() };
    story.event(Event::Done { generation: old, outcome });
    assert_eq!((story.effects.as_slice(), story.portal.token), (&[][..], None));
    assert_eq!(story.event(Event::Woke).effects, [Effect::Refresh]);
}

#[test]
fn i13_a_conflict_with_a_newer_grant_drops_ours() {
    let mut story = Story::begin();
    story.event(Event::Woke).refreshed(true).done(Outcome::SaveConflict);
    assert_eq!(story.effects, [Effect::Reread]);
    story.done(Outcome::Reread(Reread::Newer));
    assert_eq!(story.effects, [Effect::DropHeld]);
    assert_eq!(story.event(Event::Woke).effects, [Effect::Refresh]);
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
        let mut story = Story::live();
        for _ in 0..40 {
            story.wake().refused(class);
            assert_eq!(story.portal.ended(), None, "{class:?}");
            assert!(story.portal.token.is_some());
            assert!(story.portal.wakes().unwrap() >= story.now + Duration::from_secs(2));
        }
    }
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
fn a_mismatch_is_believed_the_third_time_a_missing_portal_the_second() {
    for (class, times, state) in [
        (RefusalClass::GrantMismatched, 3, PortalState::Mismatched),
        (RefusalClass::PortalUnavailable, 2, PortalState::Unavailable),
    ] {
        let mut story = Story::live();
        for turn in 1..=times {
            assert_ne!(story.state(), state, "{class:?} turn {turn}");
            story.wake().refused(class).done(Outcome::Reread(Reread::Same));
        }
        assert_eq!(story.state(), state);
    }
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
    let policy = RefreshPolicy::default();
    let mut context = Context {
        now: at(0),
        portal: PortalId::new(4711).unwrap(),
        policy: &policy,
        validate_every: Duration::from_secs(3600),
        warm: false,
        introspect_first: false,
        chance: 0.0,
    };
    let fresh = Portal::loaded(at(0), at(3600));
    let (cold, effects) = step(&fresh, &Event::Woke, &context);
    assert_eq!((cold.renew_at, effects), (None, vec![]));
    assert_eq!(step(&cold, &Event::Wanted, &context).1, [Effect::Refresh]);
    context.warm = true;
    assert_eq!(step(&cold, &Event::Woke, &context).1, [Effect::Refresh], "warm again");
}

#[test]
fn a_validation_that_finds_a_dead_grant_looks_at_the_record_first() {
    let mut story = Story::live();
    story.portal.renew_at = Some(story.portal.validation_due + Duration::from_secs(1));
    story.wake();
    assert_eq!(story.effects, [Effect::Introspect]);
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
            assert_eq!(story.wake().effects, [Effect::Introspect]);
            assert_eq!(story.state(), PortalState::Revoked);
            story.done(Outcome::IntrospectedActive(Facts::default()));
        }
        assert_eq!(story.event(Event::Woke).effects, [Effect::Refresh]);
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

fn any_event() -> impl Strategy<Value = (u64, u8)> {
    (0_u64..2000, 0_u8..19)
}

proptest! {
    /// Whatever happens in whatever order: never two requests in flight (I2), never a publish
    /// of a token that is held back (I3), no wake-up that could spin, and an end only by the
    /// doors of I5.
    #[test]
    fn i2_i3_i5_hold_for_any_sequence_of_events(events in prop::collection::vec(any_event(), 1..200)) {
        let mut story = Story::begin();
        let mut in_flight = 0;
        let mut asked = story.portal.generation;
        for (pass, kind) in events {
            story.now = story.now + Duration::from_secs(pass);
            let generation = asked;
            let token = TokenLife::new(story.now, LIFE);
            let facts = Facts::default();
            let outcome = match kind {
                0 | 1 => { story.event(Event::Woke); None }
                2 => { story.event(Event::Wanted); None }
                3 => { story.event(Event::RecordChanged); None }
                4 => { story.event(Event::RecordUnusable); None }
                5 => Some(Outcome::Refreshed { token, rotated: false, facts }),
                6 => Some(Outcome::Refreshed { token, rotated: true, facts }),
                7 => Some(Outcome::RefreshRefused { class: RefusalClass::GrantRefused, retry_after: None }),
                8 => Some(Outcome::RefreshRefused { class: RefusalClass::AppRefused, retry_after: None }),
                9 => Some(Outcome::RefreshRefused { class: RefusalClass::Outage, retry_after: None }),
                10 => Some(Outcome::Saved),
                11 => Some(Outcome::SaveConflict),
                12 => Some(Outcome::SaveFailed),
                13 => Some(Outcome::Reread(Reread::Same)),
                14 => Some(Outcome::Reread(Reread::Newer)),
                15 => Some(Outcome::Reread(Reread::Failed)),
                16 => Some(Outcome::IntrospectedActive(facts)),
                17 => Some(Outcome::IntrospectedInactive),
                _ => Some(Outcome::IntrospectionRefused { class: RefusalClass::AppRefused, retry_after: None }),
            };
            let before = story.portal.clone();
            if let Some(outcome) = outcome {
                // An outcome can only come back while something is in flight.
                if in_flight == 0 { continue; }
                story.event(Event::Done { generation, outcome });
                let settled = !matches!(story.portal.phase, Phase::Refreshing | Phase::Saving | Phase::Rereading(_) | Phase::Introspecting(_));
                if settled { in_flight = 0; } else if story.portal != before { in_flight = 1; }
                prop_assert!(story.portal.superseded.is_none() || in_flight == 1);
                if story.effects.contains(&Effect::Open(Cause::Ended(End::Revoked))) {
                    let doors = matches!((before.phase, outcome),
                        (Phase::Introspecting(Doubt::Refused(_)), Outcome::IntrospectedInactive)
                        | (Phase::Rereading(Doubt::Inactive), Outcome::Reread(Reread::Same)));
                    prop_assert!(doors, "{before:?} {outcome:?}");
                }
            } else {
                let sends = story.effects.iter().filter(|e| matches!(e, Effect::Refresh | Effect::Introspect | Effect::Save | Effect::Reread)).count();
                prop_assert!(sends == 0 || in_flight == 0, "two in flight: {before:?}");
                if sends > 0 { in_flight = 1; asked = story.portal.generation; }
            }
            if story.effects.contains(&Effect::Save) {
                prop_assert!(!story.effects.contains(&Effect::Publish), "published before saved");
            }
            prop_assert!(story.portal.phase != Phase::Resting || story.portal.held.is_none());
        }
    }
}

#[test]
fn a_grant_is_introspected_before_it_is_spent_for_the_first_time() {
    let policy = RefreshPolicy::default();
    let context = Context {
        now: at(0),
        portal: PortalId::new(4711).unwrap(),
        policy: &policy,
        validate_every: Duration::from_secs(3600),
        warm: true,
        introspect_first: true,
        chance: 0.0,
    };
    let loaded = Portal::loaded(at(0), at(0));
    let (asked, effects) = step(&loaded, &Event::Woke, &context);
    assert_eq!(effects, [Effect::Introspect]);
    let outcome = Outcome::IntrospectedActive(Facts::default());
    let (proven, _) =
        step(&asked, &Event::Done { generation: asked.generation, outcome }, &context);
    assert_eq!(step(&proven, &Event::Woke, &context).1, [Effect::Refresh]);
    assert_eq!(
        step(&loaded, &Event::Wanted, &context).1,
        [Effect::Refresh],
        "a caller need not wait"
    );
}

#[test]
fn hubspot_back_ends_the_wait_of_those_it_kept_waiting_and_of_nobody_else() {
    let mut story = Story::live();
    story.wake().refused(RefusalClass::Outage);
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
    story.wake();
    assert_eq!(story.event(Event::NotSent).effects, []);
    story.event(Event::RecordChanged);
    assert_eq!(story.event(Event::Woke).effects, [Effect::Refresh]);
}
