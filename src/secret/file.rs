//! Files that hold secrets: who beside the service could read them. Reads no content.

use std::{
    fs::Metadata,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// Everybody on the machine could read a file that holds a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} can be read or changed by every user of this machine (mode {mode:04o})", file.display())]
pub struct OpenToAll {
    file: PathBuf,
    mode: u32,
}

impl OpenToAll {
    /// What to do about it, a sentence.
    #[must_use]
    pub fn hint(&self) -> String {
        let file = self.file.display();
        format!("Close it: `chmod o= {file}`; and think about who could have read it.")
    }
}

/// Refuses a file that every user of the machine could read or change. Its group is whoever runs the machine's choice.
///
/// # Errors
/// See [`OpenToAll`].
pub fn closed_to_others(file: &Path, metadata: &Metadata) -> Result<(), OpenToAll> {
    let mode = metadata.mode() & 0o777;
    if metadata.is_file() && mode & 0o006 != 0 {
        return Err(OpenToAll { file: file.to_owned(), mode });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    #[test]
    fn a_file_is_refused_if_every_user_could_read_or_change_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("secret");
        fs::write(&file, "x").unwrap();
        for (mode, closed) in [
            (0o600, true),
            (0o400, true),
            (0o440, true),
            (0o640, true),
            (0o644, false),
            (0o604, false),
            (0o602, false),
            (0o666, false),
        ] {
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            let told = closed_to_others(&file, &fs::metadata(&file).unwrap());
            assert_eq!(told.is_ok(), closed, "{mode:o}: {told:?}");
        }
    }
}
