//! What the service goes on to need of the machine, as its configuration says: everything else is given up before it
//! begins. Opens nothing.

use std::{
    fs,
    path::{Path, PathBuf},
};

use reqwest::Url;

use crate::{
    config::{Config, Environment, StoreSettings},
    hardening::Needs,
    sink::{Settings as Receiver, post::Target},
    store::vault::Settings as Vault,
};

/// What libraries read: certificates, names of hosts, users and groups, time zones.
const SYSTEM: [&str; 10] = [
    "/etc",
    "/usr",
    "/lib",
    "/lib64",
    "/nix/store",
    "/var/lib/ca-certificates",
    "/proc",
    "/sys",
    "/dev",
    "/run/systemd/resolve",
];
/// Where programs are that an AWS profile may name (`credential_process`).
const PROGRAMS: [&str; 6] = ["/usr", "/bin", "/lib", "/lib64", "/opt", "/usr/local"];
const DNS: u16 = 53;
const HTTP: u16 = 80;
const HTTPS: u16 = 443;
/// Variables that name a proxy, and files or folders, that libraries look at.
const PROXIES: [&str; 6] =
    ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"];
const FILES: [&str; 7] = [
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "CREDENTIALS_DIRECTORY",
    "AWS_CONFIG_FILE",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
];

/// Variables that name addresses of AWS.
const AWS_ENDPOINTS: [&str; 4] = [
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_SECRETS_MANAGER",
    "AWS_ENDPOINT_URL_STS",
    "AWS_EC2_METADATA_SERVICE_ENDPOINT",
];

/// What `config`, which stands at `origin`, makes the service need.
pub(super) fn needs(config: &Config, origin: &Path, env: Environment<'_>) -> Needs {
    let mut needs = Needs {
        read: SYSTEM.map(PathBuf::from).to_vec(),
        connect: vec![DNS],
        listen: config.http.iter().map(std::net::SocketAddr::port).collect(),
        abstract_sockets: env("NOTIFY_SOCKET").is_some_and(|name| name.starts_with('@')),
        ..Needs::default()
    };
    // Files are replaced by renaming others over them: their folders are needed.
    let mut files: Vec<PathBuf> = vec![origin.to_owned()];
    files.extend(FILES.iter().filter_map(|name| env(name)).map(PathBuf::from));
    files.extend(fs::canonicalize("/etc/resolv.conf"));
    needs.connect.extend(port(&config.hubspot.base_url));
    // Files of the webhooks journal may be elsewhere.
    needs.connect.extend(config.hubspot.poll_uninstalls.map(|_| HTTPS));
    needs.connect.extend(PROXIES.iter().filter_map(|name| port(&env(name)?)));
    for alert in &config.alerts {
        of_receiver(&alert.receiver, &mut needs, &mut files, env);
    }
    match &config.store {
        StoreSettings::Vault(vault, _) => of_vault(vault, &mut needs, &mut files),
        StoreSettings::Aws(aws, _) => {
            needs.connect.extend(aws.endpoint_url.as_deref().and_then(port));
            of_aws(&mut needs, env);
        }
        StoreSettings::File(file) => {
            files.push(file.key_file.clone());
            needs.write.extend(folder(&file.path));
        }
    }
    if let Some(state) = &config.state {
        needs.write.extend(folder(&state.dir.join("journal")));
        files.extend(state.key_file.clone());
    }
    let log = config.audit.as_ref().and_then(|audit| audit.file.as_deref());
    needs.write.extend(log.and_then(folder));
    needs.write.extend(folder(&config.socket.path));
    // A link may lead into another folder.
    let targets: Vec<PathBuf> =
        files.iter().filter_map(|file| fs::canonicalize(file).ok()).collect();
    needs.read.extend(files.iter().chain(&targets).filter_map(|file| folder(file)));
    needs
}

/// What the SDK's chain of credentials may look at.
fn of_aws(needs: &mut Needs, env: Environment<'_>) {
    needs.connect.extend([HTTP, HTTPS]);
    let full = env("AWS_CONTAINER_CREDENTIALS_FULL_URI");
    needs.connect.extend(full.as_deref().and_then(port));
    for name in AWS_ENDPOINTS {
        needs.connect.extend(env(name).as_deref().and_then(port));
    }
    let home = env("HOME").map(|home| Path::new(&home).join(".aws"));
    needs.read.extend(home);
    needs.run.extend(PROGRAMS.map(PathBuf::from));
}

fn of_receiver(
    receiver: &Receiver,
    needs: &mut Needs,
    files: &mut Vec<PathBuf>,
    env: Environment<'_>,
) {
    files.extend(receiver.secret_files().into_iter().map(|(_, file)| file));
    if let Some(target) = receiver.target() {
        let url = match target {
            Target::Url(url) => Some(url.to_string()),
            Target::File(file) => fs::read_to_string(file).ok(),
        };
        needs.connect.push(url.and_then(|url| port(url.trim())).unwrap_or(HTTPS));
    }
    match receiver {
        Receiver::Sns(_) => of_aws(needs, env),
        Receiver::Email(email) => {
            files.extend(email.ca_file.clone());
            needs.connect.push(email.port);
        }
        Receiver::Exec(exec) => {
            // What it runs in turn, and what those need.
            needs.run.extend(PROGRAMS.map(PathBuf::from));
            needs.run.extend(folder(&exec.program));
            needs.write.push(PathBuf::from("/dev/null"));
        }
        _ => {}
    }
}

fn of_vault(vault: &Vault, needs: &mut Needs, files: &mut Vec<PathBuf>) {
    needs.connect.extend(port(&vault.address));
    files.extend(vault.ca_file.clone());
    if let Some(identity) = &vault.identity {
        files.extend([identity.cert_file.clone(), identity.key_file.clone()]);
    }
    files.extend(vault.auth.file().map(Path::to_owned));
}

/// The port that a URL leads to.
fn port(url: &str) -> Option<u16> {
    let url = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
    Url::parse(&url).ok()?.port_or_known_default()
}

/// The folder that a file is in, as far as there is one by now.
fn folder(file: &Path) -> Option<PathBuf> {
    let folder = if file.is_dir() { Some(file) } else { file.parent() }?;
    let folder = there(if folder.as_os_str().is_empty() { Path::new(".") } else { folder });
    // Never everything there is: where it stands at the root, the file alone.
    if folder == Path::new("/") { file.exists().then(|| file.to_owned()) } else { Some(folder) }
}

/// The path, or what of it is there: the rest will be made in it.
fn there(path: &Path) -> PathBuf {
    path.ancestors().find(|part| part.exists()).unwrap_or(path).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_those_that_addresses_lead_to() {
        for (url, expected) in [
            ("https://api.hubapi.com", Some(443)),
            ("http://127.0.0.1:8484", Some(8484)),
            ("proxy.internal:3128", Some(3128)),
            ("socks5://proxy:1080", Some(1080)),
            ("", None),
        ] {
            assert_eq!(port(url), expected, "{url}");
        }
    }

    #[test]
    fn what_is_not_there_yet_is_made_in_what_is() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(there(&dir.path().join("a/b")), dir.path());
        assert_eq!(folder(&dir.path().join("x.toml")), Some(dir.path().to_owned()));
        assert_eq!(folder(Path::new("x.toml")), Some(PathBuf::from(".")));
        // Nothing at the root opens everything below it.
        assert_eq!(folder(Path::new("/no-such-file")), None);
        assert_eq!(folder(Path::new("/no/such/folder/file")), None);
    }
}
