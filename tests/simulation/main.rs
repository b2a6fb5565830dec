//! Days in seconds: the real engine, its rules, its journal and its schedule, on clocks that jump,
//! towards the stand-in without a network, with seeded faults and crashes. The stand-in's ground truth
//! is the judge. A seed is a history: the same one, whenever it is asked for.
//!
//! `GRANTKEEPER_SEEDS=7` runs that seed alone, `GRANTKEEPER_SEEDS=1-10000` as many as that, with
//! `GRANTKEEPER_PORTALS=20` in a fleet of that size; `GRANTKEEPER_DAYS=2` makes a shorter month.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that can't go on fails, loudly, and figures are told"
)]

mod claims;
mod disk;
mod hubspot;
mod judge;
mod machine;
mod outage;
mod process;
mod rules;
mod store;
mod story;
