//! What is said of somebody who does not get to a file, and the line that lets them.

use std::{io, path::Path};

use super::{
    Scene,
    account::{Obstacle, PASS, READ, name_of},
    check::{Check, Of, Trouble, quoted},
};

impl Scene {
    /// The line that puts into a file what is typed or pasted.
    pub(super) fn put(&self, path: &Path) -> String {
        let line = format!("install -m 0600 -o {} /dev/stdin {}", self.service.name, quoted(path));
        format!("{}   # then paste it and press Ctrl-D", self.root(&line))
    }

    /// A check of `what`, to which the service's user does not get.
    pub(super) fn blocked(
        &self,
        check: &Of,
        what: &str,
        obstacle: &Obstacle,
        wanted: u32,
    ) -> Check {
        let user = &self.service.name;
        match obstacle {
            Obstacle::Missing(path) => {
                let saw = format!("{what}: {} is not there", path.display());
                let make = format!("install -d -m 0750 -o {user} {}", quoted(path));
                check.fail(Trouble::Configuration, saw, self.root(&make))
            }
            Obstacle::Closed { path, mode, owner, last } => {
                let owner = name_of(*owner);
                let doing = if *last { doing(wanted) } else { "pass" };
                let saw = format!(
                    "{what}: {user} may not {doing} {} (of {owner}, mode {mode:04o})",
                    path.display()
                );
                let word = quoted(path);
                let line = match wanted {
                    _ if !last => format!(
                        "{}   # or keep it elsewhere",
                        self.root(&format!("chmod o+x {word}"))
                    ),
                    // Whoever owns it may go on to.
                    READ => format!(
                        "{} && {}",
                        self.root(&format!("chgrp {} {word}", self.service.gid)),
                        self.root(&format!("chmod g+r {word}"))
                    ),
                    _ => self.root(&format!("chown {user} {word}")),
                };
                check.fail(Trouble::Refused, saw, line)
            }
            Obstacle::Listed(path) => check.skipped(format!(
                "{what}: an access list decides about {}; {}",
                path.display(),
                self.not_for_me()
            )),
            Obstacle::Unseen(path, kind) => {
                let why = if *kind == io::ErrorKind::PermissionDenied {
                    self.not_for_me()
                } else {
                    kind.to_string()
                };
                check.skipped(format!("{what}: {}: {why}", path.display()))
            }
        }
    }
}

fn doing(wanted: u32) -> &'static str {
    match wanted {
        READ => "read",
        PASS => "pass",
        _ if wanted & READ != 0 => "read and write",
        _ => "write in",
    }
}
