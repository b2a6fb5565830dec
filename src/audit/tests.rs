//! The log as a whole: written through the door, read back as text.

use std::{fs, io::Write as _, os::unix::fs::PermissionsExt, sync::Arc};

use proptest::prelude::*;

use super::*;
use crate::time::{BootId, BootTime, SystemClock};

fn settings(file: &std::path::Path, repeats: Repeats) -> Settings {
    Settings { file: Some(file.to_owned()), repeats }
}

fn open(file: &std::path::Path) -> Audit {
    Audit::open(&settings(file, Repeats::Count), Arc::new(SystemClock)).unwrap()
}

fn decision(uid: u32, portal: u64, outcome: &'static str) -> Decision {
    Decision {
        caller: Caller::from_kernel(uid, uid, &[], Some(77)),
        action: "token",
        portal: PortalId::new(portal).ok(),
        outcome,
        token: (outcome == "ok").then(|| Fingerprint::of("token")),
    }
}

fn lines(text: &str) -> Vec<serde_json::Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn whole(text: &str) -> Result<verify::Whole, verify::Broken> {
    verify(text.as_bytes(), |_| {})
}

/// A closed log of a few lines.
async fn sample(file: &std::path::Path) -> String {
    let audit = open(file);
    for portal in 1..=4 {
        audit.note(decision(7, portal, "ok")).await.unwrap();
        audit.note(decision(7, portal, "ok")).await.unwrap();
    }
    audit.note_durably(decision(8, 9, "begun")).await.unwrap();
    audit.close().await;
    fs::read_to_string(file).unwrap()
}

#[tokio::test]
async fn i11_a_line_is_in_the_file_when_the_decision_is_noted_and_repeats_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("audit.jsonl");
    let audit = open(&file);
    audit.note(decision(7, 1, "ok")).await.unwrap();
    let now = lines(&fs::read_to_string(&file).unwrap());
    assert_eq!(now.len(), 2, "{now:?}");
    let told = &now[1];
    assert_eq!((&told["uid"], &told["portal"], &told["pid"]), (&7.into(), &1.into(), &77.into()));
    assert_eq!((&told["action"], &told["outcome"]), (&"token".into(), &"ok".into()));
    assert_eq!(told["token"], Fingerprint::of("token").to_string());
    for _ in 0..1000 {
        audit.note(decision(7, 1, "ok")).await.unwrap();
    }
    audit.note(decision(7, 1, "forbidden")).await.unwrap();
    assert_eq!(lines(&fs::read_to_string(&file).unwrap()).len(), 3);
    audit.close().await;
    let all = lines(&fs::read_to_string(&file).unwrap());
    let repeats: Vec<_> = all.iter().filter(|line| line["event"] == "repeats").collect();
    assert_eq!((repeats.len(), &repeats[0]["count"]), (1, &1000.into()));
    assert_eq!(all.last().unwrap()["event"], "closed");
    let mode = fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

/// The machine's clock, set forward.
#[derive(Debug, Default)]
struct Ahead(std::sync::atomic::AtomicU64);

impl Clock for Ahead {
    fn boot(&self) -> BootTime {
        let seconds = self.0.load(std::sync::atomic::Ordering::Relaxed);
        SystemClock.boot() + Duration::from_secs(seconds)
    }

    fn wall(&self) -> jiff::Timestamp {
        SystemClock.wall()
    }

    fn boot_id(&self) -> BootId {
        SystemClock.boot_id()
    }
}

#[tokio::test]
async fn repeats_are_told_within_the_minute_though_nobody_asks_any_more() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("audit.jsonl");
    let clock = Arc::new(Ahead::default());
    let audit = Audit::open(&settings(&file, Repeats::Count), Arc::clone(&clock) as _).unwrap();
    for _ in 0..5 {
        audit.note(decision(7, 1, "ok")).await.unwrap();
    }
    let mut tip = audit.log.as_ref().unwrap().tip.clone();
    let before = tip.borrow_and_update().seq;
    clock.0.store(61, std::sync::atomic::Ordering::Relaxed);
    timeout(PATIENCE, tip.changed()).await.expect("a line more").unwrap();
    let lines = lines(&fs::read_to_string(&file).unwrap());
    let told = lines.last().unwrap();
    assert_eq!((&told["event"], &told["count"]), (&"repeats".into(), &4.into()), "{told}");
    assert_eq!(tip.borrow().seq, before + 1);
}

#[tokio::test]
async fn i11_each_one_is_a_line_if_that_is_wanted() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("audit.jsonl");
    let audit = Audit::open(&settings(&file, Repeats::Each), Arc::new(SystemClock)).unwrap();
    for _ in 0..20 {
        audit.note(decision(7, 1, "ok")).await.unwrap();
    }
    assert_eq!(lines(&fs::read_to_string(&file).unwrap()).len(), 21);
}

#[tokio::test]
async fn a_log_is_gone_on_with_after_a_stop_and_in_a_new_file_after_a_move() {
    let dir = tempfile::tempdir().unwrap();
    let (file, old) = (dir.path().join("audit.jsonl"), dir.path().join("audit.jsonl.1"));
    sample(&file).await;
    let audit = open(&file);
    audit.note(decision(7, 5, "ok")).await.unwrap();
    let first = whole(&fs::read_to_string(&file).unwrap()).unwrap();
    assert_eq!(Some(first.tip), audit.tip());

    audit.reopen().await.unwrap();
    assert!(!old.exists(), "nothing was moved, nothing is begun anew");
    fs::rename(&file, &old).unwrap();
    audit.note(decision(7, 6, "ok")).await.unwrap();
    audit.reopen().await.unwrap();
    audit.note(decision(7, 7, "ok")).await.unwrap();
    audit.close().await;
    let (before, after) = (fs::read_to_string(&old).unwrap(), fs::read_to_string(&file).unwrap());
    let (before, after) = (whole(&before).unwrap(), whole(&after).unwrap());
    assert!(before.closed && after.closed);
    assert_eq!(after.follows, Some(before.tip));
    assert_eq!(after.lines, 3);
}

#[tokio::test]
async fn half_a_line_left_by_a_crash_is_taken_away_and_told() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("audit.jsonl");
    let text = sample(&file).await;
    fs::OpenOptions::new().append(true).open(&file).unwrap().write_all(b"{\"seq\":9,\"ti").unwrap();
    let cut = fs::read_to_string(&file).unwrap();
    assert!(matches!(whole(&cut), Err(verify::Broken::CutOff(_))));
    open(&file).close().await;
    let after = fs::read_to_string(&file).unwrap();
    assert!(after.starts_with(&text));
    let opened = lines(&after)[text.lines().count()].clone();
    assert_eq!((&opened["event"], &opened["torn"]), (&"opened".into(), &12.into()));
    whole(&after).unwrap();
}

#[tokio::test]
async fn a_file_that_is_no_audit_log_or_somebody_else_s_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("audit.jsonl");
    for foreign in ["precious\n", "precious", "{\"a\":1}\n"] {
        fs::write(&file, foreign).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        let error =
            Audit::open(&settings(&file, Repeats::Count), Arc::new(SystemClock)).unwrap_err();
        assert!(matches!(error, OpenError::NotALog(_)), "{error}");
        assert_eq!(fs::read_to_string(&file).unwrap(), foreign);
    }
    fs::remove_file(&file).unwrap();
    let first = open(&file);
    let second = Audit::open(&settings(&file, Repeats::Count), Arc::new(SystemClock));
    assert!(matches!(second.unwrap_err(), OpenError::InUse(_)));
    first.close().await;
    drop(first);
    let shared = dir.path().join("shared.jsonl");
    fs::write(&shared, "").unwrap();
    for (mode, fine) in [(0o666, false), (0o644, false), (0o660, false), (0o640, true)] {
        fs::set_permissions(&shared, fs::Permissions::from_mode(mode)).unwrap();
        match Audit::open(&settings(&shared, Repeats::Count), Arc::new(SystemClock)) {
            Ok(audit) => audit.close().await,
            Err(error) => assert!(!fine && matches!(error, OpenError::Open(_)), "{error}"),
        }
        assert_eq!(fs::metadata(&shared).unwrap().len() > 0, fine, "{mode:o}");
    }
}

#[tokio::test]
async fn i11_any_edit_of_any_line_but_the_last_ones_removal_shows() {
    let dir = tempfile::tempdir().unwrap();
    let text = sample(&dir.path().join("audit.jsonl")).await;
    whole(&text).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let join = |lines: &[&str]| lines.join("\n") + "\n";
    for at in 0..lines.len() - 1 {
        let mut removed = lines.clone();
        removed.remove(at);
        assert!(whole(&join(&removed)).is_err(), "line {at} removed");
        let mut swapped = lines.clone();
        swapped.swap(at, at + 1);
        assert!(whole(&join(&swapped)).is_err(), "lines {at} and the next swapped");
        let mut doubled = lines.clone();
        doubled.insert(at, lines[at]);
        assert!(whole(&join(&doubled)).is_err(), "line {at} doubled");
    }
    let head = |count: usize| whole(&join(&lines[..count]));
    assert!(head(lines.len() - 1).is_ok_and(|whole| !whole.closed), "only the tip tells");
    assert!(matches!(whole(""), Err(verify::Broken::Empty)));
}

proptest! {
    #[test]
    fn i11_a_changed_byte_anywhere_shows(at in 0usize..4096, to in 32u8..127) {
        let text = {
            use std::sync::OnceLock;
            static TEXT: OnceLock<String> = OnceLock::new();
            TEXT.get_or_init(|| {
                let dir = tempfile::tempdir().unwrap();
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                runtime.unwrap().block_on(sample(&dir.path().join("audit.jsonl")))
            })
        };
        let mut bytes = text.clone().into_bytes();
        let at = at % bytes.len();
        prop_assume!(bytes[at] != to);
        bytes[at] = to;
        prop_assert!(verify(bytes.as_slice(), |_| {}).is_err(), "byte {at}");
    }
}
