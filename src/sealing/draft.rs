//! Files that appear whole or not at all: written beside their place, synced, then named. Knows no
//! content.

use std::{
    fs::{self, File, Permissions},
    io,
    os::unix::fs::PermissionsExt,
    path::Path,
};

const PREFIX: &str = ".grantkeeper-";

/// A file of mode 0600 in the folder of `file`, gone unless it is kept.
///
/// # Errors
/// The folder can't be written.
pub fn draft_beside(file: &Path) -> io::Result<tempfile::NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(PREFIX).permissions(Permissions::from_mode(0o600));
    builder.tempfile_in(folder_of(file))
}

/// Removes the drafts in `folder` that a process left behind when it was killed. For a folder that nobody
/// else writes to.
///
/// # Errors
/// The folder can't be read. A draft that can't be removed is in nobody's way.
pub fn remove_drafts_in(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)?.flatten() {
        if entry.file_name().to_string_lossy().starts_with(PREFIX) {
            fs::remove_file(entry.path()).ok();
        }
    }
    Ok(())
}

/// Gives the finished draft its name, durably.
///
/// # Errors
/// It can't be synced or named, or there is such a file (`AlreadyExists`).
pub fn keep(draft: tempfile::NamedTempFile, file: &Path) -> io::Result<()> {
    draft.as_file().sync_all()?;
    draft.persist_noclobber(file).map_err(|refused| refused.error)?;
    sync_folder_of(file)
}

/// The same, but a file that somebody else made in the meantime is left alone.
///
/// # Errors
/// It can't be synced or named.
pub fn keep_unless_there(draft: tempfile::NamedTempFile, file: &Path) -> io::Result<()> {
    match keep(draft, file) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        outcome => outcome,
    }
}

/// Makes durable which files the folder of `file` holds.
///
/// # Errors
/// The folder can't be synced.
pub fn sync_folder_of(file: &Path) -> io::Result<()> {
    File::open(folder_of(file))?.sync_all()
}

fn folder_of(file: &Path) -> &Path {
    match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}
