//! Grantkeeper keeps a HubSpot app's OAuth credentials alive.
//!
//! Four floors and a roof; imports only go down, and `tests/it/architecture.rs` holds that.
//!
//! - Ground, words: [`secret`], [`portal`], [`time`].
//! - First, rules, pure: [`lifecycle`].
//! - Second, the outside world, one system a file: [`store`], [`hubspot`].
//! - Roof, putting it together: [`sim`].

pub mod portal;
pub mod secret;
pub mod time;

pub mod lifecycle;

pub mod hubspot;
pub mod store;

pub mod sim;
