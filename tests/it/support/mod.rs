//! What tests need to start the real thing: one file a program. A server is started on loopback with
//! random credentials, and stopped by its own process id, however the test ends.

pub(crate) mod answerer;
pub(crate) mod canary;
pub(crate) mod cluster;
pub(crate) mod container;
pub(crate) mod iam;
pub(crate) mod moto;
pub(crate) mod openbao;
pub(crate) mod pod;
pub(crate) mod program;
pub(crate) mod raw;
pub(crate) mod receivers;
pub(crate) mod service;
pub(crate) mod sim;
pub(crate) mod sim_client;
pub(crate) mod source;
pub(crate) mod yaml;

pub(crate) use moto::moto;
pub(crate) use openbao::openbao;

/// A folder of the test's own, gone when dropped.
pub(crate) fn temp_dir() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("grantkeeper-test-").tempdir().unwrap()
}

/// `bytes` random bytes, at most 16, as hexadecimal digits.
pub(crate) fn random_hex(bytes: usize) -> String {
    let mut random = [0; 16];
    aws_lc_rs::rand::fill(&mut random).unwrap();
    let digits = format!("{:032x}", u128::from_be_bytes(random));
    digits[..bytes * 2].to_owned()
}

/// A record from JSON text.
pub(crate) fn record(json: &serde_json::Value) -> grantkeeper::store::Record {
    grantkeeper::store::Record::parse(json.to_string().as_bytes()).unwrap()
}

/// The portal with this number.
pub(crate) fn portal(number: u64) -> grantkeeper::portal::PortalId {
    grantkeeper::portal::PortalId::new(number).unwrap()
}
