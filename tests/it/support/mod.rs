//! What tests need to start the real thing: one file a program.

pub(crate) mod sim;
pub(crate) mod sim_client;
