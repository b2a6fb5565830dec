//! Orders about portals as people give them: foretold, confirmed, carried out, told; at a terminal and without one.

use grantkeeper::{
    sim::{Effect, Endpoint, Fault, HttpFault},
    store::{CredentialStore, Key, StoreErrorKind},
};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::support::{
    portal,
    service::{Ended, Place, Service, finish, secret_file},
};

const URI: &str = "https://app.example.com/hubspot/callback";

async fn place(portals: u64) -> (Place, Service) {
    let mut place = Place::new(portals, "[settings]\nrotating = true\nexpires_in = 1800").await;
    place.head = format!("state_dir = \"{}\"\n", place.path("state").display());
    let service = place.serve().await;
    service.ready().await;
    (place, service)
}

/// The same command at a terminal of its own, where this is typed.
async fn at_a_terminal(place: &Place, args: &[&str], typed: &str) -> Ended {
    let plain = place.command(args);
    let mut command = Command::new("python3");
    let script = "import pty, sys; sys.exit(pty.spawn(sys.argv[1:]) >> 8)";
    command.args(["-c", script, env!("CARGO_BIN_EXE_grantkeeper")]);
    command.args(plain.as_std().get_args()).kill_on_drop(true);
    finish(command, typed).await
}

/// A dry run's or an order's document.
async fn document(place: &Place, args: &[&str]) -> Value {
    let ended = place.run(&[args, &["-o", "json"]].concat()).await;
    assert_eq!((ended.code, ended.err.as_str()), (0, ""), "{args:?}: {ended:?}");
    serde_json::from_str(&ended.out).unwrap()
}

fn is_stored(error: Option<StoreErrorKind>) -> bool {
    assert!(error.is_none_or(|kind| kind == StoreErrorKind::Missing), "{error:?}");
    error.is_none()
}

async fn stored(place: &Place, number: u64) -> bool {
    is_stored(place.file_store().read(Key::Portal(portal(number))).await.err().map(|e| e.kind))
}

#[tokio::test]
async fn a_dry_run_of_an_order_says_what_would_happen_and_changes_nothing() {
    let (place, service) = place(2).await;
    let ledger = || place.standin.sim.ledger(0, None).len();
    let before = ledger();
    for (order, says) in [
        ("pause", "give out no token"),
        ("resume", "change nothing"),
        ("revoke", "for up to 30 minutes"),
        ("remove", "HubSpot is not told"),
    ] {
        let ended = place.run(&["portal", order, "1", "2", "--dry-run"]).await;
        assert_eq!((ended.code, ended.err.as_str()), (0, ""), "{order}: {ended:?}");
        assert!(ended.out.contains("portal 2 is live; this would"), "{order}: {ended:?}");
        assert!(ended.out.contains(says), "{order}: {ended:?}");
        assert!(ended.out.ends_with("Nothing was done.\n"), "{order}: {ended:?}");
        let told = document(&place, &["portal", order, "1", "--dry-run"]).await;
        let changes = order != "resume";
        let one = json!([{"portal_id": 1, "state": "live", "changes": changes}]);
        assert_eq!(told, json!({"order": order, "dry_run": true, "portals": one}));
    }
    // With --yes as well: who adds --dry-run to a line of yesterday's means it.
    let both = place.run(&["portal", "revoke", "1", "--yes", "--dry-run"]).await;
    assert_eq!(both.code, 0, "{both:?}");
    assert_eq!(ledger(), before, "nothing was asked of HubSpot");
    for number in [1, 2] {
        assert_eq!(service.state(number).await, "live");
        assert!(stored(&place, number).await);
    }
}

#[tokio::test]
async fn an_order_and_its_dry_run_give_documents_of_one_form() {
    let (place, service) = place(4).await;
    let one =
        |state: &str, changes: bool| json!({"portal_id": 1, "state": state, "changes": changes});
    let told = document(&place, &["portal", "pause", "1"]).await;
    let mut paused = one("live", true);
    paused["outlives_restart"] = true.into();
    assert_eq!(told, json!({"order": "pause", "dry_run": false, "portals": [paused]}));
    let told = document(&place, &["portal", "pause", "1", "--dry-run"]).await;
    assert_eq!(told["portals"], json!([one("paused", false)]));
    let told = document(&place, &["portal", "resume", "1"]).await;
    assert_eq!(told["portals"], json!([one("paused", true)]));
    let told = document(&place, &["portal", "revoke", "1", "2", "1", "--yes"]).await;
    assert_eq!(told["portals"].as_array().unwrap().len(), 2, "one named twice is one: {told}");
    let told = document(&place, &["portal", "remove", "3", "--yes"]).await;
    assert_eq!(told["portals"][0]["portal_id"], 3);
    for number in [1, 2, 3] {
        assert_eq!(service.refusal(number).await, "unknown_portal");
        assert!(!stored(&place, number).await);
    }
    let sim = &place.standin.sim;
    assert!(sim.refresh_token(portal(3)).is_some_and(|token| sim.is_good(&token)), "removed only");
    service.token(4).await.unwrap();
}

#[tokio::test]
async fn what_ends_a_grant_is_confirmed_at_the_terminal_and_nothing_but_yes_will_do() {
    let (place, service) = place(2).await;
    for typed in ["no\n", "\n", "y\n"] {
        let ended = at_a_terminal(&place, &["portal", "revoke", "1"], typed).await;
        assert_eq!(ended.code, 1, "{typed:?}: {ended:?}");
        for says in ["portal 1 (live)", "end its grant", "30 minutes", "Do it?", "not confirmed"] {
            assert!(ended.out.contains(says), "{says}: {ended:?}");
        }
        service.token(1).await.unwrap();
    }
    let ended = at_a_terminal(&place, &["portal", "revoke", "1"], "yes\n").await;
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(ended.out.contains("its grant is ended"), "{ended:?}");
    assert_eq!(service.refusal(1).await, "unknown_portal");
    let ended = at_a_terminal(&place, &["portal", "remove", "2"], "yes\n").await;
    assert_eq!(ended.code, 0, "{ended:?}");
    assert_eq!(service.refusal(2).await, "unknown_portal");
}

#[tokio::test]
async fn what_can_be_taken_back_is_done_without_a_question() {
    let (place, service) = place(1).await;
    for (order, says) in [("pause", "is paused"), ("resume", "goes on")] {
        let ended = at_a_terminal(&place, &["portal", order, "1"], "").await;
        assert_eq!(ended.code, 0, "{ended:?}");
        assert!(ended.out.contains(says) && !ended.out.contains("Do it?"), "{ended:?}");
    }
    let (_, code) = place.standin.sim.issue_code(Some(portal(77)), None, Some(URI.to_owned()));
    let enrol = ["enroll", "--code", &code, "--redirect-uri", URI];
    let ended = at_a_terminal(&place, &enrol, "").await;
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(ended.out.contains("portal 77 is stored") && !ended.out.contains("Do it?"));
    let again = place.run(&["portal", "resume", "1"]).await;
    assert_eq!((again.code, again.out.as_str()), (0, "portal 1 was not paused\n"), "{again:?}");
    assert_eq!(service.state(1).await, "live");
}

#[tokio::test]
async fn without_a_terminal_and_without_yes_it_refuses_with_2_and_says_to_add_yes() {
    let (place, service) = place(1).await;
    for order in ["revoke", "remove"] {
        let ended = place.run_with(&["portal", order, "1"], "yes\n").await;
        assert_eq!((ended.code, ended.out.as_str()), (2, ""), "{ended:?}");
        assert_eq!(ended.err.lines().count(), 3, "what, why, fix: {ended:?}");
        assert!(ended.err.contains("Add --yes"), "{ended:?}");
        let ended = place.run(&["portal", order, "1", "-o", "json"]).await;
        let error: Value = serde_json::from_str(&ended.err).unwrap();
        assert_eq!((&error["code"], &error["retryable"]), (&"not_confirmed".into(), &false.into()));
    }
    service.token(1).await.unwrap();
}

#[tokio::test]
async fn one_portal_that_is_not_there_keeps_the_others_as_they_are() {
    let (place, service) = place(1).await;
    for order in [
        &["pause"][..],
        &["resume"],
        &["revoke", "--yes"],
        &["remove", "--yes"],
        &["revoke", "--dry-run"],
    ] {
        let args = [&["portal"], order, &["1", "9"]].concat();
        let ended = place.run(&args).await;
        assert_eq!((ended.code, ended.out.as_str()), (3, ""), "{args:?}: {ended:?}");
        assert!(ended.err.contains("portal 9"), "{args:?}: {ended:?}");
        assert_eq!(ended.err.lines().count(), 3, "{args:?}: {ended:?}");
        assert_eq!(service.state(1).await, "live", "{args:?}");
    }
    assert_eq!(service.stop().await, 0);
    let nobody = place.run(&["portal", "pause", "1", "--dry-run"]).await;
    assert_eq!(nobody.code, 69, "{nobody:?}");
}

#[tokio::test]
async fn an_order_that_fails_on_the_way_tells_what_was_done_and_what_was_not() {
    let (place, service) = place(3).await;
    let down = Effect::Http(HttpFault { status: 503, retry_after: None });
    place.standin.sim.set_fault(Fault::new(down).on(Endpoint::Revoke).of(portal(2)));
    let ended = place.run(&["portal", "revoke", "1", "2", "3", "--yes", "-o", "json"]).await;
    assert_eq!(ended.code, 75, "{ended:?}");
    let told: Value = serde_json::from_str(&ended.out).unwrap();
    assert_eq!(told["portals"].as_array().unwrap().len(), 1, "{told}");
    let error: Value = serde_json::from_str(&ended.err).unwrap();
    assert!(error["message"].as_str().unwrap().starts_with("portal 2: "), "{error}");
    assert!(error["hint"].as_str().unwrap().contains("Nothing was done about 3"), "{error}");
    assert_eq!(service.refusal(1).await, "unknown_portal");
    service.token(2).await.unwrap();
    service.token(3).await.unwrap();
}

#[tokio::test]
async fn a_dry_run_of_enrolling_a_token_says_whose_it_is_and_whether_it_would_replace_another() {
    let (place, service) = place(1).await;
    let enroll = async |number: u64, more: &[&str]| {
        let (_, token) = place.standin.sim.install(Some(portal(number)), None);
        secret_file(&place.path("token"), token.expose());
        let file = place.path("token").display().to_string();
        let args = ["enroll", "--refresh-token-file", &file, "--dry-run"];
        place.run(&[&args, more].concat()).await
    };
    let told = enroll(77, &["-o", "json"]).await;
    assert_eq!((told.code, told.err.as_str()), (0, ""), "{told:?}");
    let told: Value = serde_json::from_str(&told.out).unwrap();
    let new = json!({"dry_run": true, "portal_id": 77, "replaced": false, "by": "service"});
    assert_eq!(told, new);
    let told = enroll(1, &[]).await;
    assert!(told.out.contains("portal 1") && told.out.contains("in place of"), "{told:?}");
    assert!(told.out.ends_with("Nothing was done.\n"), "{told:?}");
    assert!(!stored(&place, 77).await);
    secret_file(&place.path("token"), "na1-never-given");
    let file = place.path("token").display().to_string();
    let args = ["enroll", "--refresh-token-file", &file, "--dry-run"];
    let bad = place.run(&args).await;
    assert_eq!(bad.code, 4, "{bad:?}");
    assert!(!bad.err.contains("never-given"), "{bad:?}");

    assert_eq!(service.stop().await, 0);
    let told = enroll(78, &["-o", "json"]).await;
    let told: Value = serde_json::from_str(&told.out).unwrap();
    assert_eq!((&told["portal_id"], &told["by"]), (&78.into(), &"command".into()));
}

#[tokio::test]
async fn a_dry_run_of_enrolling_a_code_leaves_the_code_good() {
    let (place, _service) = place(0).await;
    let (_, code) = place.standin.sim.issue_code(Some(portal(77)), None, Some(URI.to_owned()));
    let args = ["enroll", "--code", &code, "--redirect-uri", URI];
    let dry = place.run(&[&args[..], &["--dry-run"]].concat()).await;
    assert_eq!((dry.code, dry.err.as_str()), (0, ""), "{dry:?}");
    assert!(dry.out.contains("exchange the code") && !dry.out.contains(&*code), "{dry:?}");
    let told = document(&place, &args).await;
    let done = json!({"dry_run": false, "portal_id": 77, "replaced": false, "by": "service"});
    assert_eq!(told, done);
}

#[tokio::test]
async fn who_has_only_the_socket_is_told_what_the_service_would_do_with_a_token() {
    let (place, _service) = place(0).await;
    let (_, token) = place.standin.sim.install(Some(portal(77)), None);
    let mut command = Command::new(env!("CARGO_BIN_EXE_grantkeeper"));
    command.env_clear().arg("--socket").arg(place.socket());
    command.args(["enroll", "--refresh-token-file", "-", "--dry-run", "-o", "json"]);
    let ended = finish(command, token.expose()).await;
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(ended.err.contains("can't be told from here"), "{ended:?}");
    let told: Value = serde_json::from_str(&ended.out).unwrap();
    assert_eq!((&told["portal_id"], &told["by"]), (&Value::Null, &"service".into()));
}

#[tokio::test]
async fn a_pause_of_a_grant_that_has_ended_is_seen_lifted_and_told_to_who_enrols_another() {
    let mut place = Place::new(2, "[settings]\nrotating = true\nexpires_in = 1800").await;
    place.extra += "[validate]\nevery = \"2s\"\n";
    let service = place.serve().await;
    service.ready().await;
    place.standin.sim.revoke(portal(1));
    place.alerts.wait_for("grant_revoked", "opened").await;
    assert_eq!(place.run(&["portal", "pause", "1"]).await.code, 0);
    let listed = place.run(&["portal", "list"]).await;
    assert!(listed.out.contains("revoked, paused"), "{}", listed.out);
    let foretold = document(&place, &["portal", "resume", "1", "--dry-run"]).await;
    let one = json!({"portal_id": 1, "state": "revoked", "changes": true});
    assert_eq!(foretold["portals"][0], one, "{foretold}");

    let (_, code) = place.standin.sim.issue_code(Some(portal(1)), None, Some(URI.to_owned()));
    let wrong = ["enroll", "--code", &code, "--redirect-uri", "https://app.example.com/other"];
    let refused = place.run(&wrong).await;
    assert_eq!(refused.code, 2, "{refused:?}");
    assert!(refused.err.contains("--redirect-uri"), "{refused:?}");
    let right = ["enroll", "--code", &code, "--redirect-uri", URI];
    let enrolled = place.run(&right).await;
    assert_eq!(enrolled.code, 0, "{enrolled:?}");
    assert!(enrolled.err.contains("grantkeeper portal resume 1"), "{enrolled:?}");
    let resumed = place.run(&["portal", "resume", "1"]).await;
    assert!(resumed.out.contains("portal 1 goes on"), "{resumed:?}");
    service.token(1).await.unwrap();
}

#[tokio::test]
async fn a_code_with_another_redirect_uri_is_told_to_be_good_still_without_a_service_too() {
    let place = Place::new(1, "").await;
    let (_, code) = place.standin.sim.issue_code(Some(portal(77)), None, Some(URI.to_owned()));
    let wrong = ["enroll", "--code", &code, "--redirect-uri", "https://app.example.com/other"];
    let refused = place.run(&wrong).await;
    assert_eq!(refused.code, 2, "{refused:?}");
    assert!(refused.err.contains("exactly as the app had it"), "{refused:?}");
    let enrolled = place.run(&["enroll", "--code", &code, "--redirect-uri", URI]).await;
    assert_eq!(enrolled.code, 0, "{enrolled:?}");
}

#[tokio::test]
async fn a_grant_that_was_ended_though_hubspot_s_answer_got_lost_is_found_out_at_once() {
    let (place, service) = place(2).await;
    let cut = Fault::new(Effect::ResetAfter).on(Endpoint::Revoke).times(1);
    place.standin.sim.set_fault(cut);
    let ended = place.run(&["portal", "revoke", "1", "--yes"]).await;
    assert_eq!(ended.code, 75, "{ended:?}");
    assert!(ended.err.contains("gives no useful answer"), "{ended:?}");
    place.alerts.wait_for("grant_revoked", "opened").await;
    assert_eq!(service.refusal(1).await, "grant_revoked");
    // Ordered again, it goes.
    assert_eq!(place.run(&["portal", "revoke", "1", "--yes"]).await.code, 0);
    assert!(!stored(&place, 1).await);
}

#[tokio::test]
async fn the_help_of_orders_has_the_options_that_every_command_has_apart() {
    for order in ["pause", "resume", "revoke", "remove"] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_grantkeeper"));
        command.args(["portal", order, "--help"]).env_clear();
        let help = finish(command, "").await;
        let (own, everywhere) = help.out.split_once("Options of every command:").unwrap();
        assert!(own.contains("--dry-run") && own.contains("<PORTAL>..."), "{own}");
        assert_eq!(own.contains("--yes"), ["revoke", "remove"].contains(&order), "{own}");
        assert!(everywhere.contains("--config") && !own.contains("--config"), "{own}");
    }
}
