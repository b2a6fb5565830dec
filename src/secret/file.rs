//! Files that hold secrets: read, once it is clear who beside the service could have read or written them.

use std::{
    fs::{File, Metadata},
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use zeroize::Zeroizing;

/// More is no secret.
const LARGEST: u64 = 1 << 20;

/// What is wrong with a file that holds a secret.
#[derive(Debug, thiserror::Error)]
pub enum SecretFileError {
    /// Everybody could read it, or others change it.
    #[error(transparent)]
    Open(#[from] OpenToOthers),
    /// The operating system says no.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Others than the service's user could read or change it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenToOthers {
    /// By its mode.
    #[error("{} can be read by every user of this machine, or changed by others (mode {mode:04o})", file.display())]
    ByMode {
        /// Which.
        file: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// By its owner.
    #[error("{} belongs to another user (uid {owner})", file.display())]
    ByOwner {
        /// Which.
        file: PathBuf,
        /// Whose.
        owner: u32,
    },
}

impl OpenToOthers {
    /// What to do about it, a sentence.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::ByMode { file, .. } => format!(
                "Close it: `chmod g-w,o= {}`; and think about who could have read it.",
                file.display()
            ),
            Self::ByOwner { file, .. } => format!(
                "Let it belong to root or to the service's user: `chown root {}`.",
                file.display()
            ),
        }
    }
}

/// What stands in a file that holds a secret. What is looked at is the file that is read: nobody can exchange it in
/// between.
///
/// # Errors
/// See [`SecretFileError`].
pub fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, SecretFileError> {
    let mut file = File::open(path)?;
    let metadata = file.metadata()?;
    closed_to_others(path, &metadata, rustix::process::geteuid().as_raw())?;
    if metadata.len() > LARGEST {
        return Err(io::Error::from(io::ErrorKind::FileTooLarge).into());
    }
    // Room for all of it at once: a vector that grows leaves copies behind.
    let room = usize::try_from(metadata.len()).unwrap_or_default() + 1;
    let mut text = Zeroizing::new(Vec::with_capacity(room));
    Read::by_ref(&mut file).take(LARGEST).read_to_end(&mut text)?;
    Ok(text)
}

/// The same, where other things go on meanwhile.
///
/// # Errors
/// See [`SecretFileError`].
pub async fn read_beside(path: &Path) -> Result<Zeroizing<Vec<u8>>, SecretFileError> {
    let path = path.to_owned();
    let read = tokio::task::spawn_blocking(move || read(&path)).await;
    read.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::Interrupted).into()))
}

/// Whether nobody else could have written a file, or every user read it. Who may read it beside the service's user,
/// `own`, is the choice of whoever runs the machine: its group. Root reads everybody's.
///
/// # Errors
/// See [`OpenToOthers`].
pub fn closed_to_others(file: &Path, metadata: &Metadata, own: u32) -> Result<(), OpenToOthers> {
    let (mode, owner) = (metadata.mode() & 0o777, metadata.uid());
    if metadata.is_file() && mode & 0o026 != 0 {
        return Err(OpenToOthers::ByMode { file: file.to_owned(), mode });
    }
    if metadata.is_file() && own != 0 && owner != own && owner != 0 {
        return Err(OpenToOthers::ByOwner { file: file.to_owned(), owner });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    #[test]
    fn a_file_is_refused_if_every_user_could_read_it_or_others_could_change_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("secret");
        fs::write(&file, "x").unwrap();
        for (mode, closed) in [
            (0o600, true),
            (0o400, true),
            (0o440, true),
            (0o640, true),
            (0o660, false),
            (0o620, false),
            (0o644, false),
            (0o604, false),
            (0o602, false),
            (0o666, false),
        ] {
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            let told = read(&file);
            assert_eq!(told.is_ok(), closed, "{mode:o}: {told:?}");
        }
    }

    #[test]
    fn a_file_is_its_reader_s_or_root_s_unless_the_reader_is_root() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("secret");
        fs::write(&file, "x").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        let metadata = fs::metadata(&file).unwrap();
        let owner = metadata.uid();
        assert!(closed_to_others(&file, &metadata, owner).is_ok());
        assert!(closed_to_others(&file, &metadata, 0).is_ok());
        assert_eq!(closed_to_others(&file, &metadata, owner + 1).is_ok(), owner == 0);
        if owner == 0 {
            std::os::unix::fs::chown(&file, Some(64_001), None).unwrap();
            let metadata = fs::metadata(&file).unwrap();
            let refused = closed_to_others(&file, &metadata, 64_002).unwrap_err();
            assert!(matches!(refused, OpenToOthers::ByOwner { owner: 64_001, .. }));
        }
    }
}
