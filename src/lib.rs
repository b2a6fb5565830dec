//! Grantkeeper keeps a HubSpot app's OAuth credentials alive.
//!
//! Four floors and a roof; imports only go down, and `tests/it/architecture.rs` holds that.
//!
//! - Ground, words: [`secret`], [`portal`], [`time`].
//! - First, rules, pure: [`lifecycle`], [`access`], [`incident`], [`validate`].
//! - Second, the outside world, one system a file: [`store`], [`hubspot`], [`sink`],
//!   [`journal`], [`sealing`], [`audit`], [`hardening`].
//! - Third, the running machine: [`engine`], [`socket`], [`telemetry`].
//! - Roof, putting it together: [`config`], [`daemon`], [`doctor`], [`init`], [`rotation`], [`sim`],
//!   [`cli`].

pub mod portal;
pub mod secret;
pub mod time;

pub mod access;
pub mod import;
pub mod incident;
pub mod lifecycle;
pub mod validate;

pub mod audit;
pub mod hardening;
pub mod hubspot;
pub mod journal;
pub mod sealing;
pub mod sink;
pub mod store;

pub mod engine;
pub mod socket;
pub mod telemetry;

pub mod cli;
pub mod config;
pub mod daemon;
pub mod doctor;
pub mod init;
pub mod rotation;

pub mod sim;
