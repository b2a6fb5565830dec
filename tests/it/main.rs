//! All integration tests, in one binary: each would link the whole crate again.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that can't go on fails, loudly"
)]

mod access;
mod alerts;
mod architecture;
mod audit;
mod bad_input;
mod canary;
mod cli;
mod clients;
mod crash;
mod deploy_image;
mod deploy_kubernetes;
mod deploy_monitoring;
mod doctor;
mod fleet;
mod grants;
mod hardening;
mod health;
mod hubspot_network;
mod hubspot_replies;
mod import;
mod init;
mod journal;
mod leak_drill;
mod openapi;
mod orders;
mod portal_commands;
mod receivers;
mod rotate;
mod service;
mod sim;
mod sim_clients;
mod sim_faults;
mod sim_journal;
mod sim_manual;
mod sim_time;
mod socket;
mod store_aws;
mod store_aws_chain;
mod store_aws_policies;
mod store_beds;
mod store_contract;
mod store_edits;
mod store_file;
mod store_layout;
mod store_loading;
mod store_vault;
mod store_vault_cluster;
mod store_vault_faults;
mod store_vault_login;
mod store_vault_network;
mod store_vault_policies;
mod storm;
mod support;
mod trouble;
mod uninstalls;
