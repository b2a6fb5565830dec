//! What tests need to start the real thing: one file a program. A server is started on loopback with
//! random credentials, and stopped by its own process id, however the test ends.

pub(crate) mod moto;
pub(crate) mod openbao;
pub(crate) mod program;
pub(crate) mod sim;
pub(crate) mod sim_client;

pub(crate) use moto::moto;
pub(crate) use openbao::openbao;

/// A folder of the test's own, gone when dropped.
pub(crate) fn temp_dir() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("grantkeeper-test-").tempdir().unwrap()
}

/// `bytes` random bytes as hexadecimal digits.
pub(crate) fn random_hex(bytes: usize) -> String {
    let mut random = vec![0; bytes];
    aws_lc_rs::rand::fill(&mut random).unwrap();
    random.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A record from JSON text.
pub(crate) fn record(json: &serde_json::Value) -> grantkeeper::store::Record {
    grantkeeper::store::Record::parse(json.to_string().as_bytes()).unwrap()
}

/// The portal with this number.
pub(crate) fn portal(number: u64) -> grantkeeper::portal::PortalId {
    grantkeeper::portal::PortalId::new(number).unwrap()
}
