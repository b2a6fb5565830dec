//! Why a configuration can't be used: it can't be read, or it has mistakes, all of them at once.

use std::{fmt, io, path::PathBuf};

use super::findings::Mistake;

/// Why a configuration can't be used.
#[derive(Debug)]
pub enum ConfigError {
    /// The file can't be read.
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file has mistakes.
    Mistakes {
        /// Which.
        path: PathBuf,
        /// All of them, by place.
        mistakes: Vec<Mistake>,
    },
}

impl ConfigError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Unreadable { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                "Write one (docs/configuration.md has an example), or name yours with --config."
            }
            Self::Unreadable { source, .. } if source.kind() == io::ErrorKind::InvalidData => {
                "It has to be a text file in UTF-8 of at most a mebibyte."
            }
            Self::Unreadable { .. } => "See that this user may read it.",
            Self::Mistakes { .. } => {
                "Correct the lines named; docs/configuration.md explains every key."
            }
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable { path, source } => {
                write!(f, "the configuration {} can't be read ({source})", path.display())
            }
            Self::Mistakes { path, mistakes } => {
                let count = mistakes.len();
                let plural = if count == 1 { "mistake" } else { "mistakes" };
                write!(f, "the configuration has {count} {plural}")?;
                for Mistake { line, column, key, what, hint } in mistakes {
                    write!(f, "\n  {}:{line}:{column}: ", path.display())?;
                    let gap = if key.is_empty() { "" } else { " " };
                    write!(f, "{key}{gap}{what}; {hint}")?;
                }
                Ok(())
            }
        }
    }
}

impl std::error::Error for ConfigError {}
