//! Secrets that are looked for. A canary is put in by a door, and every exit is searched for it in
//! each form that careless code would give it. Knows nothing of what the doors and exits are.

use std::{collections::BTreeMap, path::Path};

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};

/// A part this long is a leak as well: half a token is a smaller secret.
const PART: usize = 16;

/// The secrets that went in, by the name of their door.
#[derive(Default)]
pub(crate) struct Canaries {
    put: Vec<(String, String)>,
}

/// What came out, by the name of the exit.
#[derive(Default)]
pub(crate) struct Exits {
    seen: BTreeMap<String, Vec<u8>>,
}

impl Canaries {
    /// A new secret for this door.
    pub(crate) fn fresh(&mut self, door: &str) -> String {
        let secret = format!("{}CANARY{}", super::random_hex(12), super::random_hex(12));
        self.put(door, &secret);
        secret
    }

    /// A secret that came from elsewhere.
    pub(crate) fn put(&mut self, door: &str, secret: &str) {
        assert!(secret.len() >= PART, "{door}: too short to be looked for");
        self.put.push((door.to_owned(), secret.to_owned()));
    }

    /// The doors whose secrets show in `bytes`, and in which form.
    pub(crate) fn found_in(&self, bytes: &[u8]) -> Vec<String> {
        let mut found = Vec::new();
        for (door, secret) in &self.put {
            for (form, text) in forms(secret) {
                if contains(bytes, text.as_bytes()) {
                    found.push(format!("{door} ({form})"));
                }
            }
        }
        found.extend(shapes_in(bytes));
        found
    }

    /// Fails if any exit shows any canary.
    pub(crate) fn stayed_in(&self, exits: &Exits) {
        let leak = |(exit, bytes): (&String, &Vec<u8>)| {
            let found = self.found_in(bytes);
            (!found.is_empty()).then(|| format!("{exit}: {}", found.join(", ")))
        };
        let leaks: Vec<_> = exits.seen.iter().filter_map(leak).collect();
        assert!(leaks.is_empty(), "{leaks:#?}");
    }
}

impl Exits {
    /// Something that came out at `exit`.
    pub(crate) fn saw(&mut self, exit: impl Into<String>, bytes: impl AsRef<[u8]>) {
        let seen = self.seen.entry(exit.into()).or_default();
        seen.extend_from_slice(bytes.as_ref());
        seen.push(b'\n');
    }

    /// Every file below `folder` but those that are `meant` to hold secrets.
    pub(crate) fn saw_folder(&mut self, folder: &Path, meant: &[&str]) {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            let (path, name) = (entry.path(), entry.file_name().into_string().unwrap());
            if meant.contains(&name.as_str()) {
                continue;
            }
            self.saw(format!("name of file {name}"), name.as_bytes());
            if path.is_dir() {
                self.saw_folder(&path, meant);
            } else if path.is_file() {
                self.saw(format!("file {name}"), std::fs::read(&path).unwrap());
            }
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.seen.len()
    }

    /// All that came out at the exits whose names begin so, as text.
    pub(crate) fn text(&self, exit: &str) -> String {
        let seen = self.seen.iter().filter(|(name, _)| name.starts_with(exit));
        seen.map(|(_, bytes)| String::from_utf8_lossy(bytes)).collect()
    }
}

/// The forms in which `secret` would show if somebody were careless.
fn forms(secret: &str) -> Vec<(&'static str, String)> {
    let (head, tail) = (&secret[..PART], &secret[secret.len() - PART..]);
    let list: Vec<_> = head.bytes().map(|byte| byte.to_string()).collect();
    // What base64 makes of a secret depends on how many bytes stand before it.
    let mut forms = vec![
        ("its head", head.to_owned()),
        ("its tail", tail.to_owned()),
        ("in hexadecimal", hex(head)),
        ("in upper case", head.to_uppercase()),
        ("as a list of bytes", list.join(", ")),
    ];
    for before in 0..3 {
        let padded = format!("{}{head}", "x".repeat(before));
        let from = (before * 8).div_ceil(6);
        for engine in [STANDARD.encode(&padded), URL_SAFE_NO_PAD.encode(&padded)] {
            forms.push(("in base64", engine[from..from + 18].to_owned()));
        }
    }
    // A short text that is all digits and capitals would be found anywhere.
    forms.retain(|(_, form)| form.len() >= PART);
    forms.dedup_by(|a, b| a.1 == b.1);
    forms
}

/// Anything shaped like a secret that no test knows beforehand: tokens of the stand-in, and those
/// that OpenBao gives at a login.
fn shapes_in(bytes: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(bytes);
    let mut found = Vec::new();
    let part = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_' || c == '.';
    for word in text.split(|c| !part(c)) {
        if word.len() >= 120 && !word.contains('.') {
            found.push(format!("something like an access token, {} characters", word.len()));
        }
        if word.find("na1-").is_some_and(|at| word[at..].len() >= 30) {
            found.push("something like a refresh token".to_owned());
        }
        let login = ["s.", "hvs.", "hvb."].iter().find_map(|start| word.strip_prefix(start));
        if login.is_some_and(|rest| rest.len() >= 20 && !rest.contains(['.', '_', '-'])) {
            found.push("something like a Vault token".to_owned());
        }
    }
    found
}

/// Each byte of `text` as two hexadecimal digits.
pub(crate) fn hex(text: &str) -> String {
    text.bytes().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
}

fn contains(bytes: &[u8], text: &[u8]) -> bool {
    // memchr of the first byte keeps this fast enough for logs of megabytes.
    let mut rest = bytes;
    while let Some(at) = rest.iter().position(|byte| *byte == text[0]) {
        rest = &rest[at..];
        if rest.starts_with(text) {
            return true;
        }
        rest = &rest[1..];
    }
    false
}
