//! Addresses and paths as people write them: what may be spoken to in the clear, and what can stand
//! in a store's path.

use super::findings::{Findings, Found};

pub(super) const HINT: &str =
    "write https://host:port, or http:// towards this machine (127.0.0.1, [::1], localhost) only";

/// The address without a trailing slash, or what is wrong with it.
pub(super) fn url(text: &str) -> Result<String, &'static str> {
    use crate::sink::post::{BadTarget, target};
    let url = target(text).map_err(|bad| match bad {
        BadTarget::NotAUrl => "is not an http or https address",
        BadTarget::PlainHttp => "would send secrets in the clear",
    })?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err("holds a user name or a password");
    }
    let bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
    if bare {
        Ok(text.trim().trim_end_matches('/').to_owned())
    } else {
        Err("has a path; only scheme, host and port belong here")
    }
}

/// The same for a found text.
pub(super) fn base(found: &Found<String>, findings: &mut Findings<'_>) -> Option<String> {
    match url(&found.value) {
        Ok(base) => Some(base),
        Err(what) => {
            found.wrong(findings, what, HINT);
            None
        }
    }
}

/// A path below something: segments of plain characters, without slashes at its ends.
pub(super) fn path_below(found: &Found<String>, findings: &mut Findings<'_>) -> Option<String> {
    let text = found.value.trim_matches('/');
    let plain = |segment: &str| {
        !segment.is_empty()
            && segment != "."
            && segment != ".."
            && segment.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    if text.split('/').all(plain) {
        return Some(text.to_owned());
    }
    let hint = "write segments of letters, digits and -_., separated by single slashes";
    found.wrong(findings, "can't be a path in the store", hint);
    None
}
