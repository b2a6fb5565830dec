//! Key files and files with secrets: there, nobody else's, within reach of the service's user, and with something in
//! them. What stands in them is looked at where this user may, and never told.

use std::{fs, io, path::Path};

use super::{
    Scene,
    account::READ,
    check::{Check, Of, Trouble, What, quoted, typed},
};
use crate::{
    config::{Config, StoreSettings},
    sealing::{KeyFault, SealingKey},
    secret::file::{self, SecretFileError},
    store::vault::{Auth, Method},
};

/// What a file is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// 32 bytes in base64, with which nothing is sealed yet.
    NewKey,
    /// The same, with something that only it opens.
    Key,
    /// The key that the service makes itself.
    OwnKey,
    /// A text that somebody else gave.
    Secret,
    /// A token whose mode the platform chooses.
    Token,
    /// No secret: a certificate.
    Public,
}

/// All of them, each with its name in the configuration.
fn named(config: &Config) -> Vec<(String, std::path::PathBuf, Kind)> {
    let mut files = Vec::new();
    let key = |in_use: bool| if in_use { Kind::Key } else { Kind::NewKey };
    if let Some(state) = &config.state {
        files.push(match &state.key_file {
            Some(file) => ("state_key_file".to_owned(), file.clone(), key(has_journal(&state.dir))),
            None => ("state_dir's key".to_owned(), state.dir.join("state.key"), Kind::OwnKey),
        });
    }
    match &config.store {
        StoreSettings::File(store) => {
            let kind = key(store.path.exists());
            files.push(("store.file.key_file".to_owned(), store.key_file.clone(), kind));
        }
        StoreSettings::Vault(vault, _) => {
            let platform = matches!(
                &vault.auth,
                Auth::Method { method: Method::Kubernetes { .. } | Method::Jwt { .. }, .. }
            );
            let kind = if platform { Kind::Token } else { Kind::Secret };
            let auth =
                vault.auth.file().map(|file| ("store.vault.auth".to_owned(), file.into(), kind));
            files.extend(auth);
            if let Some(identity) = &vault.identity {
                files.push(("cert_file".to_owned(), identity.cert_file.clone(), Kind::Public));
                files.push(("key_file".to_owned(), identity.key_file.clone(), Kind::Secret));
            }
            files.extend(
                vault.ca_file.clone().map(|file| ("ca_file".to_owned(), file, Kind::Public)),
            );
        }
        StoreSettings::Aws(..) => {}
    }
    for alert in &config.alerts {
        let name = alert.receiver.name();
        let secrets = alert.receiver.secret_files().into_iter();
        files.extend(
            secrets.map(|(key, file)| (format!("alert {name}: {key}"), file, Kind::Secret)),
        );
    }
    files
}

pub(super) fn look(scene: &Scene) -> Vec<Check> {
    let Some(config) = &scene.config else { return Vec::new() };
    let files = named(config);
    if files.is_empty() {
        return vec![What::Secrets.skipped("the configuration names none")];
    }
    files.iter().map(|(name, file, kind)| one(scene, name, file, *kind)).collect()
}

fn one(scene: &Scene, name: &str, path: &Path, kind: Kind) -> Check {
    let check = What::Secrets.of(name);
    let shown = path.display();
    let service = &scene.service;
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return missing(scene, &check, path, kind);
        }
        Err(_) => return check.skipped(format!("{shown}: {}", scene.not_for_me())),
    };
    let refused = match kind {
        Kind::NewKey | Kind::Key | Kind::OwnKey => {
            SealingKey::check_access(path, &metadata, service.uid)
                .map_err(|fault| (fault.to_string(), fault.hint()))
        }
        Kind::Secret => file::closed_to_others(path, &metadata, service.uid)
            .map_err(|open| (open.to_string(), open.hint())),
        Kind::Token | Kind::Public => Ok(()),
    };
    if let Err((saw, hint)) = refused {
        let fix = scene.root(&typed(&hint, path, &service.name));
        return check.fail(Trouble::Refused, saw, fix);
    }
    if let Err(obstacle) = service.reach(path, READ) {
        return scene.blocked(&check, name, &obstacle, READ);
    }
    if !scene.sees() {
        let saw =
            format!("{shown}: owner and mode are right; for what is in it: {}", scene.not_for_me());
        return check.skipped(saw);
    }
    content(scene, &check, path, kind)
}

/// Whether something of the right form is in it.
fn content(scene: &Scene, check: &Of, path: &Path, kind: Kind) -> Check {
    let shown = path.display();
    let put = scene.put(path);
    let trouble = Trouble::Configuration;
    match kind {
        Kind::NewKey | Kind::Key | Kind::OwnKey => {
            match SealingKey::read_for(path, scene.service.uid) {
                Ok(_) => check.ok(format!("{shown}: a key of 32 bytes, and nobody else's")),
                Err(KeyFault::NotAKey(_)) => {
                    let saw = format!("{shown} does not hold 32 bytes in base64");
                    check.fail(trouble, saw, format!("{put}   # the right key again, from where you keep a copy; a new one opens nothing that is stored"))
                }
                Err(fault) => {
                    check.fail(trouble, fault.to_string(), format!("ls -lL {}", quoted(path)))
                }
            }
        }
        Kind::Secret | Kind::Token | Kind::Public => {
            let is_empty = match kind {
                Kind::Secret => file::read(path).map(|text| text.trim_ascii().is_empty()),
                _ => fs::metadata(path).map(|found| found.len() == 0).map_err(SecretFileError::Io),
            };
            match is_empty {
                Ok(false) => check.ok(format!("{shown} can be read, and has something in it")),
                Ok(true) => check.fail(trouble, format!("{shown} is empty"), put),
                Err(error) => check.fail(
                    trouble,
                    format!("{shown}: {error}"),
                    format!("ls -lL {}", quoted(path)),
                ),
            }
        }
    }
}

fn has_journal(dir: &Path) -> bool {
    let mut entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.any(|entry| entry.file_name().to_string_lossy().starts_with("journal-"))
}

fn missing(scene: &Scene, check: &Of, path: &Path, kind: Kind) -> Check {
    let shown = path.display();
    let saw = format!("{shown} is not there");
    let put = scene.put(path);
    let trouble = Trouble::Configuration;
    match kind {
        Kind::OwnKey if !path.parent().is_some_and(has_journal) => {
            check.ok(format!("{shown} is made at the first start"))
        }
        // A new one in its place would open nothing.
        Kind::OwnKey | Kind::Key => {
            let saw = format!("{saw}, and there is something sealed that only it opens");
            check.fail(trouble, saw, format!("{put}: the one that was there, from a backup"))
        }
        Kind::NewKey => {
            let line =
                format!("install -m 0600 -o {} /dev/stdin {}", scene.service.name, quoted(path));
            check.fail(trouble, saw, format!("openssl rand -base64 32 | {}", scene.root(&line)))
        }
        Kind::Secret | Kind::Token | Kind::Public => check.fail(trouble, saw, put),
    }
}
