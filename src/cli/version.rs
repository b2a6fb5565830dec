//! `grantkeeper version`.

use serde::Serialize;

use super::{exit::Failure, output::Output};

#[derive(Serialize)]
struct Version {
    name: &'static str,
    version: &'static str,
}

pub(super) fn run(output: Output) -> Result<(), Failure> {
    let version = Version { name: env!("CARGO_PKG_NAME"), version: env!("CARGO_PKG_VERSION") };
    output.answer(&version, |version| format!("{} {}", version.name, version.version))
}
