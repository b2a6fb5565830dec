//! The files that `init` writes: checked before anything is spent, whole or not at all.

use std::{
    collections::BTreeSet,
    fs,
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, PermissionsExt, chown, fchown},
    path::{Path, PathBuf},
};

use serde::Serialize;
use tempfile::NamedTempFile;
use zeroize::Zeroizing;

use super::{InitError, Manner, Plan, template::Template};
use crate::{engine::Answer, portal::PortalId};

#[derive(Serialize)]
struct Written<'a> {
    portals: Vec<WrittenToken<'a>>,
}

/// A token as it is written where there is room for more than itself.
#[derive(Serialize)]
pub(super) struct WrittenToken<'a> {
    portal_id: PortalId,
    access_token: &'a str,
    token_type: &'static str,
    expires_at: jiff::Timestamp,
    expires_in: u64,
}

impl<'a> WrittenToken<'a> {
    pub(super) fn of(answer: &'a Answer) -> Self {
        Self {
            portal_id: answer.portal,
            // exposed: into the file the operator asked for
            access_token: answer.access_token.expose(),
            token_type: "bearer",
            expires_at: answer.expires_at,
            expires_in: answer.expires_in.as_secs(),
        }
    }
}

/// An output, checked before anything is spent for it.
pub(super) enum Target {
    Folder(PathBuf),
    Env(PathBuf),
    Json(PathBuf),
    Filled(Box<Template>, PathBuf),
}

impl Target {
    fn path(&self) -> &Path {
        match self {
            Self::Folder(path) | Self::Env(path) | Self::Json(path) | Self::Filled(_, path) => path,
        }
    }
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
    let mut files: Vec<Target> = Vec::new();
    files.extend(plan.env_file.clone().map(Target::Env));
    files.extend(plan.json_file.clone().map(Target::Json));
    for (template, path) in &plan.templates {
        files.push(Target::Filled(Box::new(Template::read(template)?), path.clone()));
    }
    let mut taken = BTreeSet::new();
    for target in files {
        let path = target.path();
        if path.is_dir() {
            return refuse(path, "it is a folder");
        }
        if !taken.insert(path.to_owned()) {
            return refuse(path, "two outputs would be written to it");
        }
        if !folder_of(path).is_dir() {
            return refuse(path, "its folder does not exist");
        }
        targets.push(target);
    }
    Ok(targets)
}

/// Every file in full beside its place, then all put into place: a crash before that leaves what
/// was there, and no file is ever seen half-written. If putting one into place fails, those that
/// are new are taken away again.
pub(super) fn write(
    targets: Vec<Target>,
    manner: Manner,
    answers: &[Answer],
) -> Result<Vec<PathBuf>, InitError> {
    let mut staged = Vec::new();
    let stage = |path, content: &[u8]| stage(path, manner, content);
    for target in targets {
        match target {
            Target::Folder(folder) => {
                make_folder(&folder, manner)?;
                for answer in answers {
                    let path = folder.join(format!("{}.token", answer.portal));
                    // exposed: into the file the operator asked for
                    staged.push(stage(path, answer.access_token.expose().as_bytes())?);
                }
            }
            Target::Env(path) => staged.push(stage(path, env_text(answers).as_bytes())?),
            Target::Json(path) => staged.push(stage(path, json_text(answers).as_bytes())?),
            Target::Filled(template, path) => {
                staged.push(stage(path, template.fill(answers)?.as_bytes())?);
            }
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
        // exposed: into the file the operator asked for
        text.push_str(only.access_token.expose());
        text.push('\n');
    }
    for answer in answers {
        *text += &format!("HUBSPOT_ACCESS_TOKEN_{}=", answer.portal);
        // exposed: into the file the operator asked for
        text.push_str(answer.access_token.expose());
        text.push('\n');
    }
    text
}

fn json_text(answers: &[Answer]) -> Zeroizing<String> {
    let written = Written { portals: answers.iter().map(WrittenToken::of).collect() };
    Zeroizing::new(serde_json::to_string(&written).unwrap_or_default() + "\n")
}

fn make_folder(folder: &Path, manner: Manner) -> Result<(), InitError> {
    if folder.is_dir() {
        return Ok(());
    }
    let made = fs::DirBuilder::new().mode(0o700).create(folder).and_then(|()| {
        // Who may read the files must be able to reach them, whatever the umask is.
        if manner.mode & 0o040 != 0 {
            fs::set_permissions(folder, fs::Permissions::from_mode(0o750))?;
        }
        manner.owner.map_or(Ok(()), |owner| chown(folder, Some(owner.uid), owner.gid))
    });
    made.map_err(|source| InitError::Write { path: folder.to_owned(), source })
}

fn stage(
    path: PathBuf,
    manner: Manner,
    content: &[u8],
) -> Result<(NamedTempFile, PathBuf), InitError> {
    let staged = (|| {
        let mut file =
            tempfile::Builder::new().prefix(".grantkeeper-").tempfile_in(folder_of(&path))?;
        file.write_all(content)?;
        if let Some(owner) = manner.owner {
            fchown(file.as_file(), Some(owner.uid), owner.gid)?;
        }
        // Last, and whatever the umask is: until here it was 0600.
        file.as_file().set_permissions(fs::Permissions::from_mode(manner.mode))?;
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
