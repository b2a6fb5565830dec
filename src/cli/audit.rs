//! `grantkeeper audit`.

use std::{
    fs::File,
    io::BufReader,
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand};
use jiff::Timestamp;
use serde::Serialize;

use super::{
    exit::{Exit, Failure},
    output::Output,
};
use crate::audit::{
    verify,
    verify::{Broken, Whole},
};

/// Look at the audit log.
#[derive(Debug, Subcommand)]
pub(super) enum Audit {
    /// Is the audit log whole? Exit code 0 if it is, 1 if it is not
    Verify(Verify),
}

/// Is the audit log whole: no line edited, removed or added?
///
/// Each line is chained to the one before it by hash. Of lines that are missing at the end nothing can be seen in the
/// file alone: compare the last number and hash with those that `grantkeeper status` shows, with the next file's first
/// line, or with what you noted before (--tip).
#[derive(Debug, Args)]
#[command(after_help = "\
Several files are checked as one log that goes on from file to file: name the oldest first.

  grantkeeper audit verify /var/log/grantkeeper/audit.jsonl
  grantkeeper audit verify audit.jsonl.2 audit.jsonl.1 audit.jsonl")]
pub(super) struct Verify {
    /// The files, the oldest first
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// The hash that the log must hold: of its last line, or of a line that was its last once
    #[arg(long, value_name = "HASH")]
    tip: Option<String>,
}

#[derive(Serialize)]
struct Verified {
    whole: bool,
    files: Vec<One>,
}

#[derive(Serialize)]
struct One {
    file: PathBuf,
    lines: u64,
    from: Timestamp,
    until: Timestamp,
    first_seq: u64,
    last_seq: u64,
    last_hash: String,
    closed: bool,
}

impl Audit {
    pub(super) fn run(self, output: Output) -> Result<(), Failure> {
        let Self::Verify(Verify { files, tip }) = self;
        let mut checked: Vec<One> = Vec::new();
        let mut found = false;
        for file in files {
            let mut seen = |hash: &str| found |= tip.as_deref() == Some(hash);
            let whole = read(&file, &mut seen)?;
            let follows = whole.follows.as_ref().map(|tip| tip.hash.to_string());
            if let Some(before) = checked.last()
                && follows.as_ref() != Some(&before.last_hash)
            {
                let what = format!(
                    "{} does not go on where {} ends",
                    file.display(),
                    before.file.display()
                );
                return Err(broken(
                    what,
                    "Lines at the end of the one, or a whole file between them, are missing; or the order is another.",
                ));
            }
            checked.push(One::of(file, &whole));
        }
        if tip.is_some() && !found {
            return Err(broken(
                "the hash you named is not in the log".to_owned(),
                "Lines that were there when it was noted have been removed or changed.",
            ));
        }
        output.answer(&Verified { whole: true, files: checked }, |verified| {
            let one = |one: &One| {
                let end = if one.closed { "closed" } else { "not closed: it is in use, or its process was killed" };
                format!(
                    "{}: whole\n  {} lines, number {} to {}\n  from {} to {}, {end}\n  last hash {}",
                    one.file.display(),
                    one.lines,
                    one.first_seq,
                    one.last_seq,
                    one.from,
                    one.until,
                    one.last_hash,
                )
            };
            verified.files.iter().map(one).collect::<Vec<_>>().join("\n")
        })
    }
}

fn read(file: &Path, seen: &mut dyn FnMut(&str)) -> Result<Whole, Failure> {
    let opened = File::open(file).map_err(|error| {
        let denied = error.kind() == std::io::ErrorKind::PermissionDenied;
        let exit = if denied { Exit::Refused } else { Exit::NotFound };
        let hint = if denied {
            "Run it as the service's own user, or as one who may read its log."
        } else {
            "Name a readable file."
        };
        let what = format!("{} can't be read", file.display());
        Failure::new(exit, "no_file", what, hint).because(error.to_string())
    })?;
    verify(BufReader::new(opened), |tip| seen(&tip.hash.to_string())).map_err(|why| {
        let hint = match why {
            Broken::CutOff(_) => "Look again once the service runs; at its next start it takes the half line away and says so.",
            Broken::Unreadable(_) | Broken::Empty => "Name a file that the service has written.",
            Broken::NoBeginning | Broken::NotALine(_) | Broken::OutOfChain(_) => {
                "Keep this file as it is, and find out who could write to it. What stands before that line is as it was written."
            }
        };
        broken(format!("{}: {why}", file.display()), hint)
    })
}

fn broken(what: String, hint: &'static str) -> Failure {
    Failure::new(Exit::Failed, "audit_broken", what, hint)
}

impl One {
    fn of(file: PathBuf, whole: &Whole) -> Self {
        Self {
            file,
            lines: whole.lines,
            from: whole.from,
            until: whole.until,
            first_seq: whole.tip.seq + 1 - whole.lines,
            last_seq: whole.tip.seq,
            last_hash: whole.tip.hash.to_string(),
            closed: whole.closed,
        }
    }
}
