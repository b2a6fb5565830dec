//! The claims, as tests: what holds on every day, that a seed is a history, and that the judge finds out
//! rules that are wrong. `GRANTKEEPER_HISTORY=1` prints the history of a seed that fails, and
//! `GRANTKEEPER_LOG=1` what the program logs.

use std::time::Duration;

use grantkeeper::{
    access::Caller,
    incident::Kind,
    lifecycle::{RefreshMode, Step},
    portal::PortalId,
    sim::{Endpoint, Fault, RateLimit},
    store::Key,
    time::Clock,
};

use crate::{
    machine::TrueTime,
    outage::outage,
    process::Process,
    rules,
    story::{Setting, Story, http, tell, world},
};

/// Runs it in a runtime of its own whose time stands still.
fn in_simulated_time<T>(what: impl Future<Output = T>) -> T {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_time().start_paused(true).build().unwrap();
    let running = || runtime.block_on(what);
    if asked("GRANTKEEPER_LOG").is_none() {
        return running();
    }
    let log = tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE);
    tracing::subscriber::with_default(log.without_time().with_ansi(false).finish(), running)
}

fn told(setting: Setting) -> (Story, Result<(), String>) {
    in_simulated_time(tell(setting))
}

#[expect(clippy::disallowed_methods, reason = "a test's own switch")]
fn asked(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// `GRANTKEEPER_SEEDS`, or these.
fn seeds(usual: std::ops::RangeInclusive<u64>) -> std::ops::RangeInclusive<u64> {
    let Some(asked) = asked("GRANTKEEPER_SEEDS") else { return usual };
    let (first, last) = asked.split_once('-').unwrap_or((&asked, &asked));
    first.parse().unwrap()..=last.parse().unwrap()
}

/// A number that was asked for, or the usual one.
fn number(name: &str, usual: u64) -> u64 {
    asked(name).map_or(usual, |asked| asked.parse().unwrap())
}

#[derive(Default)]
struct Totals {
    served: u64,
    lost: usize,
    crashes: usize,
    worst: (usize, usize),
}

/// Every seed's day on two threads; what is found against one is told with its number.
fn run(seeds: std::ops::RangeInclusive<u64>, of: impl Fn(u64) -> Setting + Sync) -> Totals {
    let next = std::sync::Mutex::new(seeds);
    let totals = std::sync::Mutex::new((Totals::default(), Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(seed) = { next.lock().unwrap().next() } {
                    let (story, verdict) = told(of(seed));
                    let (totals, found) = &mut *totals.lock().unwrap();
                    totals.served += story.served;
                    totals.lost += story.lost.len();
                    totals.crashes += story.crashes();
                    let (refreshes, requests) = story.place.hubspot.worst_second();
                    totals.worst.0 = totals.worst.0.max(refreshes);
                    totals.worst.1 = totals.worst.1.max(requests);
                    if let Err(what) = verdict {
                        if asked("GRANTKEEPER_HISTORY").is_some() {
                            println!("history of seed {seed}:\n{}", story.told().join("\n"));
                        }
                        found.push(format!("seed {seed}: {what}"));
                    }
                }
            });
        }
    });
    let (totals, found) = totals.into_inner().unwrap();
    assert!(found.is_empty(), "{} seeds failed:\n{}", found.len(), found.join("\n"));
    totals
}

fn tell_totals(what: &str, totals: &Totals) {
    let Totals { served, lost, crashes, worst: (refreshes, requests) } = totals;
    println!(
        "{what}: {served} tokens served and taken, {crashes} crashes, {lost} grants lost with an answer on the wire or unsynced, none otherwise; {refreshes} refreshes sent in the worst second, {requests} with questions and probes"
    );
}

#[test]
fn i1_i2_i3_i4_i5_i6_i8_i12_hold_on_days_full_of_faults_and_crashes() {
    // Without optimisation a day takes ten times as long: there, a handful has to do.
    let usual = if cfg!(debug_assertions) { 1..=4 } else { 1..=200 };
    // In a small fleet the same few portals meet one fault after the other.
    let portals = |seed| number("GRANTKEEPER_PORTALS", if seed % 5 == 0 { 20 } else { 100 });
    let day = |seed| Setting { portals: portals(seed), ..Setting::day(seed) };
    let totals = run(seeds(usual), day);
    tell_totals("days of a fleet", &totals);
    assert!(totals.served > 0 && totals.crashes > 0);
}

#[test]
#[ignore = "minutes: cargo test --profile simulation --test simulation -- --include-ignored"]
fn i1_i2_i3_i4_i5_i6_i8_i12_hold_for_a_thousand_portals_over_thirty_days() {
    let month = |seed| Setting {
        portals: 1000,
        lasting: Duration::from_secs(number("GRANTKEEPER_DAYS", 30) * 24 * 3600),
        ..Setting::day(seed)
    };
    let what = format!("{} days of a thousand portals", number("GRANTKEEPER_DAYS", 30));
    tell_totals(&what, &run(seeds(1..=1), month));
}

#[test]
fn i7_i8_i9_an_outage_of_hubspot_of_ten_minutes_leaves_nobody_without_a_token() {
    for (minutes, portals) in [(10, 1000), (20, 1000)] {
        let cost = in_simulated_time(outage(portals, Duration::from_secs(minutes * 60)));
        println!(
            "an outage of {minutes} minutes, {portals} portals: {:.1} portal-minutes without a token ({:.1} of them after its end), {} portals at worst, the last healed {} s after its end; {} refreshes sent in the worst second, {} are budgeted",
            cost.without_token.as_secs_f64() / 60.0,
            cost.afterwards.as_secs_f64() / 60.0,
            cost.worst,
            cost.healed_after.as_secs(),
            cost.worst_second,
            cost.per_second,
        );
        assert!(cost.without_token.is_zero() || minutes > 10);
    }
}

#[test]
fn i8_auto_keeps_warm_who_is_used_while_hubspot_bears_less_and_everybody_again_afterwards() {
    in_simulated_time(async {
        let minutes = |minutes: u64| Duration::from_secs(minutes * 60);
        let setting = Setting { portals: 2000, ..Setting::day(1) };
        let (place, sim) = world(&setting, &TrueTime::new());
        let process = place.start(1).await;
        let mode = || process.view.overall.load().mode;
        let told = |kind| process.view.overall.load().incidents.iter().any(|i| i.kind == kind);
        tokio::time::sleep(minutes(30)).await;
        assert_eq!((mode(), told(Kind::RateLimited)), (RefreshMode::Eager, false));

        let bears = RateLimit { per_second: 1, retry_after: None };
        sim.configure(|settings| settings.rate_limit = Some(bears));
        tokio::time::sleep(minutes(30)).await;
        assert_eq!((mode(), told(Kind::RateLimited)), (RefreshMode::Recent, true));
        // Nobody has asked for a token yet; from now on somebody wants hundreds, every ten minutes.
        for round in 0..18 {
            for number in 1..=300 {
                let portal = PortalId::new(number).unwrap();
                let answer = process.handle.token(&Caller::this_process(), portal, None).await;
                // At first their tokens are fetched one by one, and HubSpot refuses some.
                assert!(round < 2 || answer.is_ok(), "round {round}: {answer:?}");
            }
            tokio::time::sleep(minutes(10)).await;
        }
        assert_eq!(mode(), RefreshMode::Recent);
        let now = place.clock.boot();
        let warm = |portals: std::ops::RangeInclusive<u64>| {
            let slots = portals.filter_map(|n| process.view.slot(PortalId::new(n).unwrap()));
            slots.filter(|slot| slot.now().portal.serves(now, Duration::ZERO)).count()
        };
        assert_eq!(warm(1..=300), 300, "those in use");
        assert!(warm(301..=2000) < 100, "{} of those that nobody asks for", warm(301..=2000));

        sim.configure(|settings| settings.rate_limit = None);
        tokio::time::sleep(minutes(90)).await;
        assert_eq!((mode(), told(Kind::RateLimited)), (RefreshMode::Eager, false));
        process.stop().await;
    });
}

#[test]
fn i3_i9_a_disk_that_hangs_is_told_of_and_keeps_no_new_token_from_the_store() {
    in_simulated_time(async {
        let minutes = |minutes: u64| Duration::from_secs(minutes * 60);
        let setting = Setting { portals: 200, ..Setting::day(1) };
        let (place, sim) = world(&setting, &TrueTime::new());
        let process = place.start(1).await;
        tokio::time::sleep(minutes(30)).await;
        place.disk.hang_for(minutes(120));
        // Answers that were on their way are stored; nothing is spent that could not be written down first.
        tokio::time::sleep(minutes(15)).await;
        let stored_is_good = |number: u64| {
            let portal = PortalId::new(number).unwrap();
            let record = place.store.get(Key::Portal(portal)).unwrap();
            sim.is_good(&record.portal().unwrap().refresh_token)
        };
        assert!((1..=200).all(stored_is_good));
        let told = || {
            let open = &process.view.overall.load().incidents;
            open.iter().any(|incident| incident.kind == Kind::JournalFailing)
        };
        assert!(told());
        let readiness = process.handle.readiness();
        tokio::time::sleep(minutes(30)).await;
        assert!(process.handle.readiness().reasons != readiness.reasons, "tokens have run out");

        tokio::time::sleep(minutes(90)).await;
        let now = place.clock.boot();
        let slots = process.view.portals.load();
        assert!(slots.values().all(|slot| slot.now().portal.serves(now, Duration::ZERO)));
        assert!(!told() && (1..=200).all(stored_is_good));
        process.stop().await;
    });
}

/// A process that has just begun knows nothing of the token that ran out, and meets the portal as one that fails.
#[test]
fn i12_a_portal_that_goes_on_failing_after_a_restart_is_no_second_incident() {
    in_simulated_time(async {
        let hours = |hours: u64| Duration::from_secs(hours * 3600);
        let (place, sim) = world(&Setting { portals: 20, ..Setting::day(1) }, &TrueTime::new());
        let open = |process: &Process| -> Vec<Kind> {
            process.view.overall.load().incidents.iter().map(|incident| incident.kind).collect()
        };
        let process = place.start(1).await;
        tokio::time::sleep(hours(1)).await;
        let portal = PortalId::new(1).unwrap();
        sim.set_fault(Fault::new(http(500, None)).on(Endpoint::Token).of(portal));
        tokio::time::sleep(hours(2)).await;
        assert_eq!(open(&process), [Kind::TokenExpired]);
        process.kill().await;
        let process = place.start(2).await;
        tokio::time::sleep(hours(2)).await;
        assert_eq!(open(&process), [Kind::TokenExpired]);
        sim.clear_faults();
        tokio::time::sleep(hours(2)).await;
        assert_eq!(open(&process), []);
        process.stop().await;
    });
}

/// At a start nobody else is refreshed for half an hour, and every refresh that is made fails.
#[test]
fn i7_one_portal_that_fails_is_no_outage_of_hubspot_however_few_are_asked_about_meanwhile() {
    in_simulated_time(async {
        let setting = Setting { portals: 4, ..Setting::day(1) };
        let (place, sim) = world(&setting, &TrueTime::new());
        let process = place.start(1).await;
        tokio::time::sleep(Duration::from_secs(120)).await;
        process.stop().await;
        let portal = PortalId::new(2).unwrap();
        sim.configure(|settings| settings.expires_in = 1800);
        for endpoint in [Endpoint::Token, Endpoint::Introspect] {
            sim.set_fault(Fault::new(http(503, None)).on(endpoint).of(portal));
        }
        for seed in 2..6 {
            let process = place.start(seed).await;
            tokio::time::sleep(Duration::from_secs(4 * 3600)).await;
            process.stop().await;
        }
        let told = place.told.0.lock().unwrap();
        assert!(told.iter().any(|notice| notice.incident.kind == Kind::TokenExpired));
        let outages = told.iter().filter(|n| n.incident.kind == Kind::HubspotUnreachable);
        assert_eq!(outages.count(), 0, "{told:#?}");
    });
}

#[test]
fn i14_a_reload_is_answered_though_reading_the_store_takes_longer_than_the_period() {
    in_simulated_time(async {
        let hours = |hours: u64| Duration::from_secs(hours * 3600);
        let setting = Setting { portals: 200, ..Setting::day(1) };
        let (place, _sim) = world(&setting, &TrueTime::new());
        let process = place.start(1).await;
        place.store.set_latency(hours(1) / 12);
        tokio::time::sleep(hours(2)).await;
        let answered = tokio::time::timeout(hours(4), process.reload()).await;
        assert!(answered.is_ok(), "one reading follows the other, and nobody is told");
        process.stop().await;
    });
}

#[test]
fn a_removal_whose_turn_does_not_come_in_time_is_withdrawn_and_its_portal_served_on() {
    in_simulated_time(async {
        let seconds = Duration::from_secs;
        let setting = Setting { portals: 20, ..Setting::day(1) };
        let (place, sim) = world(&setting, &TrueTime::new());
        let process = place.start(1).await;
        let (caller, portal) = (Caller::this_process(), PortalId::new(1).unwrap());
        tokio::time::sleep(seconds(60)).await;
        // Everybody has to wait for two minutes, longer than whoever gives an order does.
        sim.set_fault(Fault::new(http(429, Some(120))));
        let throttled = || process.view.overall.load().throttled.is_some();
        while !throttled() {
            tokio::time::sleep(seconds(1)).await;
        }
        sim.clear_faults();
        let ordered = place.clock.boot();
        let refused = process.handle.remove(&caller, portal, true).await.unwrap_err();
        assert_eq!(refused.code(), "too_many_requests");
        assert!(place.clock.boot().since(ordered) < seconds(60), "its sender still listens");
        tokio::time::sleep(seconds(1)).await;
        let is_paused = || process.view.slot(portal).unwrap().now().portal.paused;
        assert!(!is_paused(), "it is served on at once");
        tokio::time::sleep(seconds(600)).await;
        assert!(
            sim.is_good(&sim.refresh_token(portal).unwrap()),
            "and its grant is not ended later"
        );
        assert!(process.handle.token(&caller, portal, None).await.is_ok());
        assert!(process.handle.remove(&caller, portal, true).await.unwrap().revoked);
        process.stop().await;
    });
}

#[test]
fn a_seed_gives_the_same_history_twice() {
    for seed in [3, 4] {
        let lasting = Duration::from_secs(6 * 3600);
        let setting = Setting { portals: 20, lasting, ..Setting::day(seed) };
        let (first, second) = (told(setting).0.told(), told(setting).0.told());
        assert!(first.len() > 300, "{}", first.len());
        if let Some(at) = first.iter().zip(&second).position(|(a, b)| a != b) {
            panic!("seed {seed} differs from line {at}:\n{}\n{}", first[at], second[at]);
        }
        assert_eq!(first.len(), second.len());
    }
}

#[test]
fn the_judge_finds_out_rules_that_are_wrong() {
    let wrong: [(&str, Step, &[&str]); 3] = [
        ("no intent", rules::no_intent, &["I4"]),
        ("a lock with a time to live and nothing else", rules::ttl_lock_only, &["I2", "I4"]),
        ("published before it is safe", rules::publish_before_persist, &["I3"]),
    ];
    for (name, rules, breaks) in wrong {
        let caught = (1..=60).map(|n| 2 * n + 1).find_map(|seed| {
            let (_, verdict) = told(Setting { rules, portals: 40, ..Setting::day(seed) });
            let breaks = |what: &String| breaks.iter().any(|invariant| what.contains(invariant));
            verdict.err().filter(breaks).map(|what| (seed, what))
        });
        let (seed, what) = caught.unwrap_or_else(|| panic!("{name}: the judge finds nothing"));
        println!("{name}: found out by seed {seed}: {what}");
    }
}
