//! A real moto server, which plays AWS Secrets Manager, one for the whole test binary; each test
//! takes a prefix of its own. Where it differs from AWS: study `backends.md` 2.

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_secretsmanager::{
    Client,
    config::{Credentials, SharedCredentialsProvider},
};
use grantkeeper::store::aws::Settings;
use tempfile::TempDir;
use tokio::sync::OnceCell;

use super::{
    program::{Program, free_port_pair, installed},
    random_hex, temp_dir,
};

static SHARED: OnceCell<Moto> = OnceCell::const_new();

/// The shared server, started by the first test that asks.
pub(crate) async fn moto() -> &'static Moto {
    SHARED.get_or_init(Moto::start).await
}

/// A running moto server.
pub(crate) struct Moto {
    /// `http://127.0.0.1:<port>`
    pub(crate) endpoint: String,
    _program: Program,
    _dir: TempDir,
}

impl Moto {
    /// A server of a test's own.
    pub(crate) async fn start() -> Self {
        let (dir, port) = (temp_dir(), free_port_pair());
        let args = ["-H", "127.0.0.1", "-p", &port.to_string()];
        let program = Program::start(&installed("bin/moto_server"), &args, &[], dir.path());
        program.listening(port).await;
        Self { endpoint: format!("http://127.0.0.1:{port}"), _program: program, _dir: dir }
    }

    /// Settings of a store with a prefix of its own.
    pub(crate) fn settings(&self) -> Settings {
        Settings {
            region: Some("eu-west-1".to_owned()),
            prefix: format!("gk/{}", random_hex(6)),
            endpoint_url: Some(self.endpoint.clone()),
            assume_role: None,
        }
    }

    /// The SDK itself, for looking and tampering beneath a store.
    pub(crate) fn client(&self) -> Client {
        let config = aws_sdk_secretsmanager::config::Builder::from(&sdk_config());
        Client::from_conf(config.endpoint_url(&self.endpoint).build())
    }
}

/// What the SDK needs to know, without the environment of whoever runs the tests.
pub(crate) fn sdk_config() -> SdkConfig {
    let credentials = Credentials::new("test", random_hex(8), None, None, "tests");
    SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("eu-west-1"))
        .credentials_provider(SharedCredentialsProvider::new(credentials))
        .build()
}
