//! The house stands: what `src/lib.rs` and `clippy.toml` say of floors and rooms, read from the
//! source itself. Each rule is also shown to catch what it forbids.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use crate::support::source::{Source, rust_files};

/// The floors of `src/lib.rs`, from the ground up.
const FLOORS: [&[&str]; 5] = [
    &["secret", "portal", "time"],
    &["access", "incident", "lifecycle", "validate"],
    &["audit", "hardening", "hubspot", "journal", "sealing", "sink", "store"],
    &["engine", "socket", "telemetry"],
    &["config", "daemon", "doctor", "import", "init", "rotation", "sim", "cli", "main"],
];

/// Which room may name which other on its own floor, and why it needs to.
const BESIDE: [(&str, &str, &str); 15] = [
    ("validate", "lifecycle", "judges what introspection told, in its words"),
    ("store", "sealing", "seals what it keeps on this machine's disk"),
    ("journal", "sealing", "seals what it keeps on this machine's disk"),
    ("socket", "engine", "asks it, with the caller in hand"),
    ("daemon", "config", "puts together what it says"),
    ("doctor", "config", "looks at what it leads to"),
    ("init", "config", "opens what it names"),
    ("init", "daemon", "opens the same world"),
    ("cli", "config", "loads it"),
    ("cli", "daemon", "runs it"),
    ("cli", "doctor", "runs it"),
    ("cli", "import", "runs it"),
    ("cli", "init", "runs it"),
    ("cli", "rotation", "runs it"),
    ("cli", "sim", "runs it"),
];

/// What the stand-in may know of this crate: words. What it were to share with the code under test
/// could be wrong on both sides at once.
const SIM_KNOWS: [&[&str]; 4] = [&["secret"], &["portal"], &["time"], &["hubspot", "wire"]];

/// Libraries that only one place may name, by the start of their name.
const BEHIND_SEAMS: [(&str, &[&str]); 16] = [
    ("vaultrs", &["store/vault/"]),
    ("rustify", &["store/vault/"]),
    ("aws_config", &["store/aws/", "sink/sns.rs"]),
    ("aws_sdk_sns", &["sink/sns.rs"]),
    ("aws_sdk_secrets", &["store/aws/"]),
    ("aws_smithy", &["store/aws/"]),
    ("lettre", &["sink/email.rs", "config/receiver.rs"]),
    ("redb", &["store/file/"]),
    ("clap", &["cli/"]),
    ("rpassword", &["cli/"]),
    ("comfy_table", &["cli/"]),
    ("indicatif", &["cli/"]),
    ("tracing_subscriber", &["telemetry.rs"]),
    ("prometheus_client", &["engine/metrics.rs"]),
    ("from_kernel", &["socket/peer.rs", "access/caller.rs"]),
    ("unsafe", &["socket/peer.rs"]),
];

/// Files of more than 400 lines, tests left out, and why they are not split.
const LONG: [(&str, &str); 0] = [];

/// Names that say nothing.
const EMPTY_NAMES: [&str; 7] = ["utils", "util", "common", "helpers", "types", "manager", "misc"];

fn floor(room: &str) -> Option<usize> {
    FLOORS.iter().position(|floor| floor.contains(&room))
}

/// What is wrong with the imports of `source`.
fn wrong_imports(source: &Source) -> Vec<String> {
    let room = source.room();
    let mut wrong = Vec::new();
    for named in source.names() {
        let Some(target) = named.path.first() else { continue };
        let at = format!("{}:{}", source.name, named.line);
        // A name of the crate's own root that is no room: a glob or a re-export of one.
        let Some(below) = floor(target) else {
            let inside_root = source.module().is_empty() || source.module().len() == 1;
            if !inside_root || target != "*" {
                wrong.push(format!("{at}: `{target}` is not a room"));
            }
            continue;
        };
        let Some(own) = floor(&room) else {
            wrong.push(format!("{at}: {room} stands on no floor"));
            continue;
        };
        if room == *target {
            continue;
        }
        if room == "sim" && !SIM_KNOWS.iter().any(|known| named.path.starts_with_words(known)) {
            wrong.push(format!("{at}: the stand-in names {}", named.path.join("::")));
        }
        let beside = BESIDE.iter().any(|(from, to, _)| (*from, *to) == (&*room, &**target));
        if below > own || (below == own && !beside && room != "main") {
            wrong.push(format!("{at}: {room} names {}", named.path.join("::")));
        }
    }
    wrong
}

trait StartsWithWords {
    fn starts_with_words(&self, words: &[&str]) -> bool;
}

impl StartsWithWords for Vec<String> {
    fn starts_with_words(&self, words: &[&str]) -> bool {
        self.len() >= words.len() && self.iter().zip(words).all(|(own, word)| own == word)
    }
}

/// Where `source` names a library or a door that is kept behind a seam elsewhere.
fn breached_seams(source: &Source) -> Vec<String> {
    let mut wrong = Vec::new();
    for (what, places) in BEHIND_SEAMS {
        if places.iter().any(|place| source.name.starts_with(place)) {
            continue;
        }
        for line in source.lines_with(|word| word.starts_with(what)) {
            wrong.push(format!("{}:{line}: {what} belongs into {}", source.name, places[0]));
        }
    }
    wrong
}

/// Production lines; tests at the end of a file are not counted.
fn production_lines(source: &Source) -> usize {
    let lines = source.text.lines();
    lines.take_while(|line| !line.starts_with("#[cfg(test)]")).count()
}

/// The numbers of invariants (`I1`) that comments in `source` claim to hold.
fn claims(source: &Source) -> BTreeSet<u32> {
    let comments = source.text.lines().filter_map(|line| line.split_once("//"));
    let words = comments.flat_map(|(_, comment)| {
        comment.split(|c: char| !c.is_ascii_alphanumeric()).collect::<Vec<_>>()
    });
    words.filter_map(|word| word.strip_prefix('I')?.parse().ok()).collect()
}

/// The number of the invariant that the test of this name holds.
fn held(test: &str) -> Option<u32> {
    test.strip_prefix('i')?.split_once('_')?.0.parse().ok()
}

#[test]
fn imports_only_go_down() {
    let sources = Source::all();
    assert!(sources.len() > 60, "the source was not found");
    let wrong: Vec<_> = sources.iter().flat_map(wrong_imports).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn an_import_that_goes_up_or_sideways_is_caught_however_it_is_written() {
    let rows = [
        ("lifecycle/x.rs", "use crate::store::Record;", true),
        ("lifecycle/x.rs", "use crate::{portal::PortalId, store::{Key, Record}};", true),
        ("lifecycle/x.rs", "use crate::{\n    portal::PortalId,\n    time::{A, B},\n};", false),
        ("lifecycle/x.rs", "fn f() { crate::engine::load() }", true),
        ("lifecycle/x.rs", "use super::super::engine;", true),
        ("lifecycle/mod.rs", "use super::engine::Handle;", true),
        ("lifecycle/mod.rs", "mod inner { use super::super::engine; }", true),
        ("lifecycle/mod.rs", "mod tests { use super::*; }", false),
        ("lifecycle/x.rs", "use self::y::Z; use super::y::{self, Z as W};", false),
        ("lifecycle/x.rs", "use super::{y::Z, super::sink::Log};", true),
        ("lifecycle/x.rs", "use crate::access::Caller;", true),
        ("sink/x.rs", "use crate::incident::Notice;", false),
        ("store/vault/x.rs", "use super::super::super::hubspot;", true),
        ("store/vault/x.rs", "use super::super::Key;", false),
        ("socket/x.rs", "use crate::engine::Handle;", false),
        ("engine/x.rs", "use crate::socket::Client;", true),
        ("engine/x.rs", "use crate::telemetry;", true),
        ("engine/x.rs", "// use crate::socket::Client;", false),
        ("engine/x.rs", "/// [`crate::socket::Client`]", false),
        ("engine/x.rs", "let a = \"crate::socket::Client\";", false),
        ("engine/x.rs", "let a = '\"'; use crate::socket::Client; let b = '\"';", true),
        ("engine/x.rs", "let a = r#\"\"\"#; use crate::socket::Client;", true),
        ("engine/x.rs", "let a = \"http://a\"; use crate::socket::Client;", true),
        ("engine/x.rs", "fn f<'a>(a: &'a str) { use crate::socket::Client; }", true),
        ("engine/x.rs", "use crate::config as c;", true),
        ("rotation.rs", "use crate::cli::Output;", true),
        ("sim/x.rs", "use crate::{portal::PortalId, hubspot::wire::policy};", false),
        ("sim/x.rs", "use crate::hubspot::HubSpot;", true),
        ("sim/x.rs", "use crate::{hubspot::{wire, client}};", true),
        ("sim/x.rs", "use crate::engine::Handle;", true),
        ("main.rs", "fn main() { grantkeeper::cli::main() }", false),
        ("nowhere.rs", "use crate::portal::PortalId;", true),
        ("engine/x.rs", "use crate::nowhere::X;", true),
    ];
    for (name, text, wrong) in rows {
        let found = wrong_imports(&Source::new(name, text));
        assert_eq!(!found.is_empty(), wrong, "{name}: {text}: {found:?}");
    }
}

#[test]
fn a_neighbour_that_is_allowed_is_one_that_is_needed() {
    let mut used = BTreeMap::new();
    for source in Source::all() {
        for named in source.names() {
            let target = named.path.first().cloned().unwrap_or_default();
            used.entry((source.room(), target)).or_insert(named.line);
        }
    }
    for (from, to, why) in BESIDE {
        assert!(used.contains_key(&(from.to_owned(), to.to_owned())), "{from} → {to}: {why}");
    }
}

#[test]
fn libraries_stay_behind_their_seams_and_one_room_makes_callers() {
    let wrong: Vec<_> = Source::all().iter().flat_map(breached_seams).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_library_in_the_wrong_room_is_caught() {
    let rows = [
        ("engine/x.rs", "use vaultrs::client::VaultClient;", true),
        ("store/aws/x.rs", "fn f(e: vaultrs::error::ClientError) {}", true),
        ("store/vault/x.rs", "use vaultrs::client::VaultClient;", false),
        ("secret.rs", "use aws_lc_rs::digest;", false),
        ("secret.rs", "use aws_sdk_secretsmanager::Client;", true),
        ("engine/x.rs", "use redb::Database;", true),
        ("engine/x.rs", "let a = \"store.redb\";", false),
        ("socket/routes.rs", "let c = Caller::from_kernel(0, 0, None);", true),
        ("socket/peer.rs", "let c = Caller::from_kernel(0, 0, None);", false),
        ("access/rules.rs", "mod tests { fn c() { Caller::from_kernel(0, 0, None) } }", false),
        ("access/rules.rs", "fn c() { Caller::from_kernel(0, 0, None) }", true),
        ("engine/x.rs", "mod a { mod tests {} fn c() { from_kernel() } }", true),
        ("engine/x.rs", "fn f() { unsafe { g() } }", true),
        ("engine/x.rs", "#[expect(unsafe_code)]", true),
    ];
    for (name, text, wrong) in rows {
        let found = breached_seams(&Source::new(name, text));
        assert_eq!(!found.is_empty(), wrong, "{name}: {text}: {found:?}");
    }
}

#[test]
fn every_file_says_what_it_is_for_and_none_is_too_long() {
    for source in Source::all() {
        let name = &source.name;
        assert!(source.text.starts_with("//! "), "{name} does not say what it is for");
        let long = LONG.iter().any(|(long, _)| long == name);
        let lines = production_lines(&source);
        if source.is_tests() {
            continue;
        }
        assert_eq!(lines > 400, long, "{name} has {lines} lines: split it, or correct the list");
        let parts = source.module();
        let empty = parts.iter().find(|part| EMPTY_NAMES.contains(&part.as_str()));
        assert_eq!(empty, None, "{name} is named by a word that says nothing");
    }
}

#[test]
fn no_lint_is_silenced_for_good_and_nothing_is_swapped_under_test() {
    for source in Source::all() {
        for (number, line) in source.text.lines().enumerate() {
            let line = line.trim();
            let at = format!("{}:{}", source.name, number + 1);
            assert!(
                !line.starts_with("#[allow(") && !line.starts_with("#![allow("),
                "{at}: {line}"
            );
            assert!(!line.contains("cfg(not(test))"), "{at}: {line}");
        }
    }
}

#[test]
fn each_exposed_secret_says_where_its_bytes_go() {
    let mut silent = Vec::new();
    for source in Source::all().iter().filter(|source| source.name != "secret.rs") {
        let lines: Vec<&str> = source.text.lines().collect();
        for number in source.lines_with(|word| word == "expose") {
            let above = &lines[number.saturating_sub(6)..number];
            if !above.iter().any(|line| line.contains("// exposed")) {
                silent.push(format!("{}:{number}", source.name));
            }
        }
    }
    assert!(silent.is_empty(), "{silent:#?}");
}

#[test]
fn every_invariant_that_the_code_claims_has_a_test_that_bears_its_number() {
    let sources = Source::all();
    let mut files = Vec::new();
    rust_files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests"), &mut files);
    let tests =
        files.iter().map(|file| Source::new("t.rs", std::fs::read_to_string(file).unwrap()));
    let tests: Vec<_> = tests.collect();
    let tested: BTreeSet<u32> = sources
        .iter()
        .chain(&tests)
        .flat_map(|source| source.functions().filter_map(held).collect::<Vec<_>>())
        .collect();
    let claimed: BTreeSet<u32> = sources.iter().flat_map(claims).collect();
    assert!(claimed.contains(&9), "claims are not read: {claimed:?}");
    let untested: Vec<_> = claimed.difference(&tested).collect();
    assert!(untested.is_empty(), "claimed and not tested: {untested:?}");
    let floor = BTreeSet::from([2, 3, 5, 6, 8, 9, 10, 11, 12, 13, 14]);
    assert!(tested.is_superset(&floor), "{:?} lost", floor.difference(&tested));
    assert!(tested.iter().all(|number| (1..=14).contains(number)), "{tested:?}");
}

#[test]
fn claims_and_test_names_are_read_as_they_are_written() {
    let text = "//! Holds I4.\n/// without waiting (I9), and I12, not AI7\nlet I3 = 1; fn i6_x() {} fn i_y() {} fn in2_z() {}";
    let source = Source::new("x.rs", text);
    assert_eq!(claims(&source), BTreeSet::from([4, 9, 12]));
    assert_eq!(source.functions().filter_map(held).collect::<Vec<_>>(), [6]);
}
