//! The command line as typed: what goes to which stream, and how it ends.

use grantkeeper::store::{CredentialStore, Expected, Key};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::support::{
    answerer::{Act, Answerer},
    openbao,
    service::{Ended, Place, finish, portal},
};

const ROTATING: &str = "[settings]\nrotating = true";

async fn plain(args: &[&str]) -> Ended {
    let mut command = Command::new(env!("CARGO_BIN_EXE_grantkeeper"));
    command.args(args).env_clear();
    finish(command, "").await
}

#[tokio::test]
async fn every_command_explains_itself() {
    for args in [
        &["--help"][..],
        &["demo", "--help"],
        &["run", "--help"],
        &["init", "--help"],
        &["check", "--help"],
        &["doctor", "--help"],
        &["sim", "--help"],
        &["status", "--help"],
        &["token", "--help"],
        &["exec", "--help"],
        &["man", "--help"],
        &["portal", "--help"],
        &["portal", "list", "--help"],
        &["portal", "show", "--help"],
        &["portal", "revoke", "--help"],
        &["enroll", "--help"],
        &["app", "set", "--help"],
        &["rotate", "client-secret", "--help"],
        &["rotate", "status", "--help"],
        &["rotate", "rollback", "--help"],
        &["completions", "--help"],
        &["version", "--help"],
    ] {
        let ended = plain(args).await;
        assert_eq!(ended.code, 0, "{args:?}: {}", ended.err);
        assert!(ended.out.contains("Usage: grantkeeper"), "{args:?}: {}", ended.out);
        assert!(!ended.out.contains('\x1b'), "{args:?}: colour in a pipe");
    }
    assert_eq!(plain(&["nonsense"]).await.code, 2);
    assert_eq!(plain(&["token"]).await.code, 2);
    assert_eq!(plain(&[]).await.code, 2);
}

/// As whoever runs the tests, root in many containers.
#[tokio::test]
async fn the_demo_holds_whoever_runs_it() {
    let demo = plain(&["demo"]).await;
    assert_eq!(demo.code, 0, "{}{}", demo.out, demo.err);
    assert!(demo.out.contains("Every step held."), "{}", demo.out);
}

#[tokio::test]
async fn version_and_completions_answer_on_standard_output() {
    let version = plain(&["version", "--output", "json"]).await;
    let version: Value = serde_json::from_str(&version.out).unwrap();
    assert_eq!(version["version"], env!("CARGO_PKG_VERSION"));
    for shell in ["bash", "zsh", "fish"] {
        let script = plain(&["completions", shell]).await;
        assert_eq!(script.code, 0);
        assert!(script.out.contains("grantkeeper") && script.out.contains("rotate"), "{shell}");
    }
}

#[tokio::test]
async fn exec_gives_a_program_the_token_and_takes_its_exit_code() {
    let place = Place::new(1, ROTATING).await;
    let service = place.serve().await;
    service.ready().await;
    let token = service.token(1).await.unwrap()["access_token"].as_str().unwrap().to_owned();
    let script = "printf %s:%s \"$HUBSPOT_ACCESS_TOKEN\" \"$1\"; exit 7";
    let args = ["exec", "--portal", "1", "--", "/bin/sh", "-c", script, "sh", "--portal"];
    let ended = place.run(&args).await;
    assert_eq!((ended.code, ended.out), (7, format!("{token}:--portal")), "{}", ended.err);
    for (program, code) in [("/no/such/program", 127), ("/etc/passwd", 126)] {
        let ended = place.run(&["exec", "--portal", "1", "--", program]).await;
        assert_eq!(ended.code, code, "{}", ended.err);
        assert_eq!(ended.err.lines().count(), 3, "{}", ended.err);
    }
    assert_eq!(place.run(&["exec", "--portal", "9", "--", "/bin/true"]).await.code, 3);
    assert_eq!(place.run(&["exec", "--portal", "1"]).await.code, 2);
    assert_eq!(service.stop().await, 0);
    assert_eq!(place.run(&["exec", "--portal", "1", "--", "/bin/true"]).await.code, 69);
}

#[tokio::test]
async fn every_command_has_a_manual_page() {
    let folder = tempfile::tempdir().unwrap();
    let pages = folder.path().join("man1");
    assert_eq!(plain(&["man", pages.to_str().unwrap()]).await.code, 0);
    for name in ["grantkeeper", "grantkeeper-exec", "grantkeeper-portal-revoke"] {
        let page = std::fs::read_to_string(pages.join(format!("{name}.1"))).unwrap();
        assert!(page.contains(".SH SYNOPSIS"), "{name}: {page}");
    }
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    assert_eq!(plain(&["man", file.to_str().unwrap()]).await.code, 1);
}

#[tokio::test]
async fn without_a_service_commands_that_need_one_say_so_with_69() {
    let place = Place::new(1, ROTATING).await;
    for args in [&["status"][..], &["token", "1"], &["portal", "list"]] {
        let ended = place.run(args).await;
        assert_eq!(ended.code, 69, "{args:?}: {}", ended.err);
        let lines: Vec<&str> = ended.err.lines().collect();
        assert_eq!(lines.len(), 3, "what, why, fix: {}", ended.err);
        assert!(ended.err.contains("GRANTKEEPER_SOCKET"), "{}", ended.err);
    }
    assert_eq!(place.run(&["status", "--ready"]).await.code, 75);
    let ended = place.run(&["--output", "json", "token", "1"]).await;
    let error: Value = serde_json::from_str(&ended.err).unwrap();
    for member in ["code", "message", "cause", "hint", "retryable"] {
        assert!(error.get(member).is_some(), "{member}: {error}");
    }
    assert_eq!(error["code"], "service_unreachable");
}

#[tokio::test]
async fn token_prints_the_token_and_nothing_else() {
    let mut place = Place::new(3, ROTATING).await;
    place.extra += "[validate]\nevery = \"2s\"\n";
    let service = place.serve().await;
    service.ready().await;
    place.standin.sim.revoke(portal(3));
    place.alerts.wait_for("grant_revoked", "opened").await;
    let expected = service.token(1).await.unwrap();
    let ended = place.run(&["--output", "json", "token", "1"]).await;
    let document: Value = serde_json::from_str(&ended.out).unwrap();
    let told = service.token(1).await.unwrap();
    for member in ["portal_id", "access_token", "token_type", "expires_at", "scopes"] {
        assert_eq!(document[member], told[member], "{member}");
    }
    let ended = place.run(&["token", "1", "--min-ttl", "5m"]).await;
    assert_eq!(ended.code, 0, "{}", ended.err);
    assert_eq!(ended.out, format!("{}\n", expected["access_token"].as_str().unwrap()));
    assert_eq!(ended.err, "");
    assert_eq!(place.run(&["token", "99"]).await.code, 3);
    assert_eq!(place.run(&["token", "3"]).await.code, 4);
    assert_eq!(place.run(&["token", "x"]).await.code, 2);
    assert_eq!(place.run(&["token", "1", "--min-ttl", "soon"]).await.code, 2);
}

#[tokio::test]
async fn on_a_terminal_a_token_has_to_be_asked_for_twice() {
    let place = Place::new(1, ROTATING).await;
    let service = place.serve().await;
    let token = service.token(1).await.unwrap()["access_token"].as_str().unwrap().to_owned();
    let typed = |reveal: &'static str| {
        let mut command = Command::new("python3");
        let program = "import pty, sys; sys.exit(pty.spawn(sys.argv[1:]) >> 8)";
        command.args(["-c", program, env!("CARGO_BIN_EXE_grantkeeper"), "--config"]);
        command
            .arg(place.config())
            .args(["token", "1"])
            .args((!reveal.is_empty()).then_some(reveal));
        command
    };
    let ended = finish(typed(""), "").await;
    assert_eq!(ended.code, 2, "{}", ended.out);
    assert!(ended.out.contains("--reveal") && !ended.out.contains(&token), "{}", ended.out);
    let ended = finish(typed("--reveal"), "").await;
    assert_eq!(ended.code, 0, "{}", ended.out);
    assert!(ended.out.contains(&token));
}

#[tokio::test]
async fn portals_and_status_are_told_as_tables_and_as_json() {
    let mut place = Place::new(3, ROTATING).await;
    place.extra += "[validate]\nevery = \"2s\"\n";
    let service = place.serve().await;
    service.ready().await;
    place.standin.sim.revoke(portal(2));
    place.alerts.wait_for("grant_revoked", "opened").await;
    let list = place.run(&["portal", "list"]).await;
    assert!(list.out.contains("PORTAL") && list.out.contains("revoked"), "{}", list.out);
    assert!(!list.out.contains('\x1b'), "{}", list.out);
    let list = place.run(&["portal", "list", "--state", "revoked", "-o", "json"]).await;
    let list: Value = serde_json::from_str(&list.out).unwrap();
    assert_eq!(list["portals"][0]["portal_id"], 2);
    assert_eq!(list["portals"].as_array().unwrap().len(), 1);
    assert_eq!(place.run(&["portal", "list", "--state", "nope"]).await.code, 2);
    let show = place.run(&["portal", "show", "1"]).await;
    assert!(show.out.contains("live") && show.out.contains("scopes:"), "{}", show.out);
    assert_eq!(place.run(&["portal", "show", "9"]).await.code, 3);
    let status = place.run(&["status"]).await;
    assert!(
        status.out.contains("grant_revoked") && status.out.contains("to do:"),
        "{}",
        status.out
    );
    let status = place.run(&["status", "-o", "json"]).await;
    let status: Value = serde_json::from_str(&status.out).unwrap();
    assert_eq!(status["portals"], json!({"live": 2, "revoked": 1}));
    assert_eq!(place.run(&["status", "--ready"]).await.code, 0);
}

#[tokio::test]
async fn check_tells_every_grant_and_its_exit_code_is_the_worst_of_them() {
    let place = Place::new(3, ROTATING).await;
    assert_eq!(place.run(&["check", "--offline"]).await.code, 0);
    let good = place.run(&["check"]).await;
    assert_eq!(good.code, 0, "{}", good.out);
    assert_eq!(place.standin.sim.report().refreshes, 0, "nothing is spent");
    place.standin.sim.revoke(portal(2));
    let revoked = place.run(&["check", "-o", "json"]).await;
    assert_eq!(revoked.code, 4);
    let report: Value = serde_json::from_str(&revoked.out).unwrap();
    assert_eq!(report["good"], false);
    let bad: Vec<_> =
        report["findings"].as_array().unwrap().iter().filter(|f| f["result"] == "bad").collect();
    assert_eq!(bad.len(), 1);
    assert_eq!(bad[0]["subject"], "portal 2");
    assert!(bad[0]["hint"].as_str().unwrap().contains("enroll"));
}

#[tokio::test]
async fn i11_check_tells_who_may_do_what_at_the_socket() {
    let mut place = Place::new(1, ROTATING).await;
    let alone = place.run(&["check", "--offline"]).await;
    assert!(alone.out.contains("nobody but the service's own user"), "{}", alone.out);
    place.extra += "[[access]]\nuser = \"root\"\nportals = [\"1\", \"7\"]\nallow = [\"token\", \"refresh\"]\n\
                    [[access]]\ngid = 64050\nportals = [\"*\"]\nallow = [\"status\"]\n";
    let told = place.run(&["check", "--offline"]).await;
    assert_eq!(told.code, 0, "{}", told.err);
    for rule in ["uid 0: token, refresh on portals 1, 7", "gid 64050: status on all portals"] {
        assert!(told.out.contains(rule), "{rule}: {}", told.out);
    }
}

#[tokio::test]
async fn check_tells_missing_scopes_and_a_store_that_denies() {
    let mut place = Place::new(1, ROTATING).await;
    let config = place.config_text().replacen(
        "name = \"acme-sync\"",
        "name = \"acme-sync\"\nrequired_scopes = [\"oauth\", \"tickets\"]",
        1,
    );
    std::fs::write(place.path("scopes.toml"), config).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_grantkeeper"));
    command.arg("check").arg("--config").arg(place.path("scopes.toml")).env_clear();
    let ended = finish(command, "").await;
    assert_eq!(ended.code, 4);
    assert!(ended.out.contains("scopes missing: tickets"), "{}", ended.out);

    let bao = openbao().await;
    let mount = bao.mount().await;
    let policy = bao.policy("path \"secret/none\" { capabilities = [\"read\"] }").await;
    let token = bao.token(&policy, json!({})).await;
    place.use_openbao(bao, &mount, &token);
    let ended = place.run(&["check"]).await;
    assert_eq!(ended.code, 77, "{}", ended.out);
    assert!(ended.out.contains("fix:"), "{}", ended.out);
}

#[tokio::test]
async fn enroll_stores_a_good_grant_keeps_other_members_and_refuses_a_dead_one() {
    let place = Place::new(1, ROTATING).await;
    let service = place.serve().await;
    service.ready().await;
    let (_, token) = place.standin.sim.install(Some(portal(77)), None);
    let enroll = ["enroll", "--refresh-token-file", "-"];
    let ended = place.run_with(&enroll, &format!("{}\n", token.expose())).await;
    assert_eq!(ended.code, 0, "{}", ended.err);
    assert_eq!(ended.out, "portal 77 is stored\n", "{}", ended.err);
    service.token(77).await.unwrap();
    let current = place.standin.sim.refresh_token(portal(77)).unwrap();
    let ended = place.run_with(&enroll, current.expose()).await;
    assert_eq!(ended.out, "portal 77 is stored\n", "{}", ended.err);

    let store = place.file_store();
    // The service refreshes what was enrolled, and writes as well.
    loop {
        let stored = store.read(Key::Portal(portal(77))).await.unwrap();
        let noted = stored.record.with_member("note", json!("call Ann"));
        let at = Expected::At(stored.version);
        if store.write(Key::Portal(portal(77)), &noted, &at).await.is_ok() {
            break;
        }
    }
    let (_, newer) = place.standin.sim.install(Some(portal(77)), None);
    let ended = place.run_with(&enroll, newer.expose()).await;
    assert!(ended.out.contains("another grant was there before"), "{}{}", ended.out, ended.err);
    let stored = store.read(Key::Portal(portal(77))).await.unwrap();
    let json: Value = serde_json::from_str(&stored.record.to_json()).unwrap();
    assert_eq!(json["note"], "call Ann");
    assert!(json["enrolled_at"].is_string());

    let ended = place.run_with(&enroll, "na1-never-given").await;
    assert_eq!(ended.code, 4, "{}", ended.err);
    assert!(!ended.err.contains("never-given"), "{}", ended.err);
    assert_eq!(store.list().await.unwrap().portals.len(), 2);
}

#[tokio::test]
async fn a_grant_that_was_given_to_another_app_is_not_enrolled_without_a_service_either() {
    let mut place = Place::new(0, ROTATING).await;
    let told = json!({"active": true, "hub_id": 77, "client_id": "another-app", "token_use": "refresh_token"});
    let told = told.to_string();
    let answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{told}",
        told.len()
    );
    let hubspot = Answerer::plain(vec![Act::Say(answer.into_bytes()); 2]).await;
    place.standin.url = format!("http://{}", hubspot.authority);
    let enroll = ["enroll", "--refresh-token-file", "-"];
    for args in [&enroll[..], &[&enroll[..], &["--dry-run"]].concat()] {
        let ended = place.run_with(args, "na1-of-another-app").await;
        assert_eq!(ended.code, 4, "{}{}", ended.out, ended.err);
        assert!(ended.err.contains("not good for this app"), "{}", ended.err);
    }
    assert_eq!(hubspot.requests().len(), 2);
    assert!(place.file_store().list().await.unwrap().portals.is_empty());
}

#[tokio::test]
async fn app_set_stores_a_proven_pair_once() {
    let place = Place::new(0, ROTATING).await;
    std::fs::remove_file(place.path("store.redb")).unwrap();
    std::fs::remove_file(place.path("store.key")).unwrap();
    let id = place.standin.sim.client_id();
    let secret = place.standin.sim.client_secret();
    let unnamed = place.run(&["app", "set", "--client-id", id.as_str()]).await;
    assert_eq!(unnamed.code, 2, "{}", unnamed.err);
    assert!(unnamed.err.contains("Name a file with --client-secret-file"), "{}", unnamed.err);
    let set = ["app", "set", "--client-id", id.as_str(), "--client-secret-file", "-"];
    let ended = place.run_with(&set, secret.expose()).await;
    assert_eq!(ended.code, 78, "there is no key yet: {}", ended.err);
    assert!(ended.err.contains("--create-key"), "{}", ended.err);
    let create: Vec<&str> = set.into_iter().chain(["--create-key"]).collect();
    let wrong = place.run_with(&create, "not-it").await;
    assert_eq!(wrong.code, 78, "{}", wrong.err);
    assert!(!place.path("store.redb").exists(), "a refused pair leaves nothing behind");
    let ended = place.run_with(&create, secret.expose()).await;
    assert_eq!(ended.code, 0, "{}", ended.err);
    let again = place.run_with(&create, secret.expose()).await;
    assert_eq!(again.code, 1, "{}", again.err);
    let stored = place.file_store().read(Key::App).await.unwrap();
    assert_eq!(stored.record.app().unwrap().client_id, id);
}

#[tokio::test]
async fn a_reader_that_goes_away_is_no_error() {
    let mut command = Command::new("sh");
    let line = format!(
        "{} completions bash | head -n 1 >/dev/null; exit ${{PIPESTATUS:-0}}",
        env!("CARGO_BIN_EXE_grantkeeper")
    );
    command.args(["-c", &line]);
    let ended = finish(command, "").await;
    assert_eq!((ended.code, ended.err.as_str()), (0, ""));
}

#[tokio::test]
async fn sim_tells_where_it_is_and_refuses_a_bad_scenario_with_its_place() {
    let place = Place::new(0, ROTATING).await;
    let scenario = place.path("scenario.toml");
    std::fs::write(&scenario, "[settings]\nexpires_in = \"long\"\n").unwrap();
    let ended = plain(&["sim", "--scenario", scenario.to_str().unwrap()]).await;
    assert_eq!(ended.code, 78, "{}", ended.err);
    assert!(ended.err.contains("line 2, column 14"), "{}", ended.err);
    let ended = plain(&["sim", "--listen", "not-an-address"]).await;
    assert_eq!(ended.code, 1, "{}", ended.err);
}
