//! Real receivers of alerts: an Alertmanager and a mail server of a test's own, and what messages are held against.

use std::{fs, path::PathBuf, process::Stdio};

use rcgen::{CertificateParams, KeyPair};
use serde_json::Value;
use tempfile::TempDir;

use super::{
    program::{Program, free_port_pair, installed},
    service::{eventually, finish, secret_file},
    temp_dir,
};

fn script() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/it/receivers.py")
}

/// Holds one message against its model.
pub(crate) async fn holds(model: &str, message: &Value) {
    let mut command = tokio::process::Command::new(installed("bin/python"));
    command.arg(script()).arg(model);
    let ended = finish(command, &message.to_string()).await;
    assert_eq!(ended.code, 0, "{message:#}\n{}", ended.err);
}

/// An Alertmanager of a test's own.
pub(crate) struct Manager {
    pub(crate) url: String,
    _program: Program,
    _dir: TempDir,
}

impl Manager {
    pub(crate) async fn start() -> Self {
        let (dir, port) = (temp_dir(), free_port_pair());
        let config = dir.path().join("am.yml");
        fs::write(&config, "route:\n  receiver: none\nreceivers:\n  - name: none\n").unwrap();
        let address = format!("127.0.0.1:{port}");
        let args = [
            &format!("--config.file={}", config.display()),
            &format!("--storage.path={}", dir.path().join("data").display()),
            &format!("--web.listen-address={address}"),
            "--cluster.listen-address=",
        ];
        let program = PathBuf::from("/usr/bin/prometheus-alertmanager");
        let program = Program::start(&program, &args, &[], dir.path());
        program.listening(port).await;
        Self { url: format!("http://{address}"), _program: program, _dir: dir }
    }

    /// What fires, as its own tool tells.
    pub(crate) async fn firing(&self) -> Vec<Value> {
        let mut command = tokio::process::Command::new("/usr/bin/amtool");
        command.args(["--alertmanager.url", &self.url, "alert", "query", "-o", "json"]);
        let output = command.stdin(Stdio::null()).output().await.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

/// A mail server of a test's own.
pub(crate) struct Mail {
    pub(crate) port: u16,
    ca: PathBuf,
    program: Program,
    dir: TempDir,
}

impl Mail {
    pub(crate) async fn start(password: &str) -> Self {
        let dir = temp_dir();
        let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let (ca, key_file) = (dir.path().join("ca.pem"), dir.path().join("key.pem"));
        fs::write(&ca, certificate.pem()).unwrap();
        secret_file(&key_file, &key.serialize_pem());
        let files = [&script(), &ca, &key_file].map(|path| path.to_str().unwrap().to_owned());
        let [script, certificate, key] = files.each_ref().map(String::as_str);
        let args = [script, "smtp", certificate, key, "keeper", password];
        let program = Program::start(&installed("bin/python"), &args, &[], dir.path());
        eventually("the mail server tells its port", async || program.said().contains('\n')).await;
        let port = program.said().lines().next().unwrap().parse().unwrap();
        program.listening(port).await;
        Self { port, ca, program, dir }
    }

    /// The mails it took.
    pub(crate) fn taken(&self) -> Vec<Value> {
        let said = self.program.said();
        said.lines().skip(1).filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    pub(crate) fn section(&self, password: &str) -> String {
        let file = self.dir.path().join("password");
        secret_file(&file, password);
        format!(
            "[[alert]]\nname = \"mail\"\nkind = \"email\"\nfrom = \"Grantkeeper <gk@acme.example>\"\n\
             to = [\"ops@acme.example\", \"night@acme.example\"]\nhost = \"localhost\"\nport = {}\n\
             username = \"keeper\"\npassword_file = \"{}\"\nca_file = \"{}\"\n",
            self.port,
            file.display(),
            self.ca.display()
        )
    }
}
