//! The files that `init` writes: checked before anything is spent, whole or not at all.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
};

use serde::Serialize;
use tempfile::NamedTempFile;
use zeroize::Zeroizing;

use super::{InitError, Plan};
use crate::{engine::Answer, portal::PortalId};

#[derive(Serialize)]
struct Written<'a> {
    portals: Vec<WrittenToken<'a>>,
}

#[derive(Serialize)]
struct WrittenToken<'a> {
    portal_id: PortalId,
    access_token: &'a str,
    token_type: &'static str,
    expires_at: jiff::Timestamp,
    expires_in: u64,
}

/// An output, checked before anything is spent for it.
pub(super) enum Target {
    Folder(PathBuf),
    Env(PathBuf),
    Json(PathBuf),
}

/// The outputs of a plan, each one that can be written to.
pub(super) fn targets(plan: &Plan) -> Result<Vec<Target>, InitError> {
    let refuse = |path: &Path, why| Err(InitError::Target { path: path.to_owned(), why });
    let mut targets = Vec::new();
    if let Some(folder) = &plan.output_dir {
        if folder.exists() && !folder.is_dir() {
            return refuse(folder, "it is not a folder");
        }
        // One that is missing higher up is a mount that was forgotten.
        if !folder.exists() && !folder_of(folder).is_dir() {
            return refuse(folder, "the folder it would be in does not exist");
        }
        targets.push(Target::Folder(folder.clone()));
    }
    let files =
        [plan.env_file.as_ref().map(|p| (p, true)), plan.json_file.as_ref().map(|p| (p, false))];
    for (path, env) in files.into_iter().flatten() {
        if path.is_dir() {
            return refuse(path, "it is a folder");
        }
        if env && plan.json_file.as_ref() == Some(path) {
            return refuse(path, "two outputs would be written to it");
        }
        if !folder_of(path).is_dir() {
            return refuse(path, "its folder does not exist");
        }
        targets.push(if env { Target::Env(path.clone()) } else { Target::Json(path.clone()) });
    }
    Ok(targets)
}

/// Every file in full beside its place, then all put into place: a crash before that leaves what
/// was there, and no file is ever seen half-written. If putting one into place fails, those that
/// are new are taken away again.
pub(super) fn write(targets: Vec<Target>, answers: &[Answer]) -> Result<Vec<PathBuf>, InitError> {
    let mut staged = Vec::new();
    for target in targets {
        match target {
            Target::Folder(folder) => {
                make_folder(&folder)?;
                for answer in answers {
                    let path = folder.join(format!("{}.token", answer.portal));
                    // exposed: into the file the operator asked for, 0600
                    staged.push(stage(path, answer.access_token.expose().as_bytes())?);
                }
            }
            Target::Env(path) => staged.push(stage(path, env_text(answers).as_bytes())?),
            Target::Json(path) => staged.push(stage(path, json_text(answers).as_bytes())?),
        }
    }
    let mut files: Vec<(PathBuf, bool)> = Vec::new();
    for (file, path) in staged {
        let is_new = !path.exists();
        let placed = file.persist(&path).map(drop).map_err(|error| error.error);
        if let Err(source) = placed.and_then(|()| sync_folder(&path)) {
            for (made, _) in files.into_iter().filter(|(_, is_new)| *is_new) {
                // The error that is told is the one that led here.
                fs::remove_file(made).ok();
            }
            return Err(InitError::Write { path, source });
        }
        files.push((path, is_new));
    }
    Ok(files.into_iter().map(|(path, _)| path).collect())
}

fn env_text(answers: &[Answer]) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::new());
    if let [only] = answers {
        text.push_str("HUBSPOT_ACCESS_TOKEN=");
        // exposed: into the file the operator asked for, 0600
        text.push_str(only.access_token.expose());
        text.push('\n');
    }
    for answer in answers {
        *text += &format!("HUBSPOT_ACCESS_TOKEN_{}=", answer.portal);
        // exposed: into the file the operator asked for, 0600
        text.push_str(answer.access_token.expose());
        text.push('\n');
    }
    text
}

fn json_text(answers: &[Answer]) -> Zeroizing<String> {
    let portals = answers.iter().map(|answer| WrittenToken {
        portal_id: answer.portal,
        // exposed: into the file the operator asked for, 0600
        access_token: answer.access_token.expose(),
        token_type: "bearer",
        expires_at: answer.expires_at,
        expires_in: answer.expires_in.as_secs(),
    });
    let written = Written { portals: portals.collect() };
    Zeroizing::new(serde_json::to_string(&written).unwrap_or_default() + "\n")
}

fn make_folder(folder: &Path) -> Result<(), InitError> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(|source| InitError::Write { path: folder.to_owned(), source })
}

fn stage(path: PathBuf, content: &[u8]) -> Result<(NamedTempFile, PathBuf), InitError> {
    let staged = (|| {
        let mut file = tempfile::Builder::new()
            .prefix(".grantkeeper-")
            .permissions(fs::Permissions::from_mode(0o600))
            .tempfile_in(folder_of(&path))?;
        file.write_all(content)?;
        file.as_file().sync_all()?;
        Ok(file)
    })();
    match staged {
        Ok(file) => Ok((file, path)),
        Err(source) => Err(InitError::Write { path, source }),
    }
}

fn sync_folder(path: &Path) -> io::Result<()> {
    fs::File::open(folder_of(path))?.sync_all()
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
