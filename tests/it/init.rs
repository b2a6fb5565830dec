//! `grantkeeper init`: files whole or not at all, and exit codes a pod can go by.

use std::{fs, os::unix::fs::PermissionsExt, process::Stdio, time::Duration};

use grantkeeper::{
    sim::Fault,
    store::{CredentialStore, Key},
    time::Clock,
};
use serde_json::{Value, json};

use crate::support::{
    openbao,
    service::{Ended, Place, eventually, portal},
    sim::http,
};

const ROTATING: &str = "[settings]\nrotating = true";

/// Whether HubSpot takes this access token, and for which portal.
async fn taken(place: &Place, token: &str) -> Option<u64> {
    let http = reqwest::Client::builder().build().unwrap();
    let url = format!("{}/account-info/2026-03/details", place.standin.url);
    let answer = http.get(url).bearer_auth(token).send().await.unwrap();
    let details: Value = answer.json().await.unwrap();
    details["portalId"].as_u64()
}

fn files(place: &Place) -> Vec<String> {
    let Ok(entries) = fs::read_dir(place.path("out")) else { return Vec::new() };
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn token_files_are_whole_private_and_good() {
    let place = Place::new(3, ROTATING).await;
    let ended = place.run(&["init", "--output-dir", place.path("out").to_str().unwrap()]).await;
    assert_eq!(ended.code, 0, "{}", ended.err);
    assert_eq!(files(&place), ["1.token", "2.token", "3.token"]);
    for number in 1..=3 {
        let path = place.path(&format!("out/{number}.token"));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let token = fs::read_to_string(&path).unwrap();
        assert_eq!(taken(&place, &token).await, Some(number));
        let stored = place.file_store().read(Key::Portal(portal(number))).await.unwrap();
        let refresh = stored.record.portal().unwrap().refresh_token;
        assert!(place.standin.sim.is_good(&refresh), "the rotated grant is in the store");
    }
    assert!(!ended.out.contains(&fs::read_to_string(place.path("out/1.token")).unwrap()));
}

#[tokio::test]
async fn env_and_json_files_hold_what_was_asked_for_and_no_more() {
    let place = Place::new(3, ROTATING).await;
    let (env, file) = (place.path("tokens.env"), place.path("tokens.json"));
    let args = [
        "init",
        "--portal",
        "2",
        "--portal",
        "2",
        "--env-file",
        env.to_str().unwrap(),
        "--json",
        file.to_str().unwrap(),
    ];
    let ended = place.run(&args).await;
    assert_eq!(ended.code, 0, "{}", ended.err);
    let env = fs::read_to_string(env).unwrap();
    let lines: Vec<&str> = env.lines().collect();
    assert_eq!(lines.len(), 2, "{env}");
    let token = lines[0].strip_prefix("HUBSPOT_ACCESS_TOKEN=").unwrap();
    assert_eq!(lines[1].strip_prefix("HUBSPOT_ACCESS_TOKEN_2=").unwrap(), token);
    let json: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    assert_eq!(json["portals"].as_array().unwrap().len(), 1);
    assert_eq!(json["portals"][0]["access_token"], token);
    assert_eq!(taken(&place, token).await, Some(2));
    let spent = |number| place.standin.sim.portal(portal(number)).unwrap().refreshes;
    assert_eq!((spent(1), spent(2), spent(3)), (0, 1, 0), "others are not touched");
}

/// A template of this text, and the file that it becomes.
fn template(place: &Place, text: &str) -> (String, std::path::PathBuf) {
    let (from, to) = (place.path("app.conf.in"), place.path("app.conf"));
    fs::write(&from, text).unwrap();
    (format!("{}:{}", from.display(), to.display()), to)
}

#[tokio::test]
async fn a_template_is_filled_with_tokens_and_the_rest_of_it_stays_as_it_is() {
    let place = Place::new(2, ROTATING).await;
    let text = "# <a & b>\n{% for portal in portals %}{{ portal.portal_id }}={{ portal.access_token }}\n{% endfor %}two={{ tokens['2'] }}\n";
    let (arg, file) = template(&place, text);
    let json = place.path("tokens.json");
    let args = ["init", "--template", &arg, "--json", json.to_str().unwrap(), "--mode", "0440"];
    let ended = place.run(&args).await;
    assert_eq!(ended.code, 0, "{}", ended.err);
    let told: Value = serde_json::from_str(&fs::read_to_string(&json).unwrap()).unwrap();
    let token = |at: usize| told["portals"][at]["access_token"].as_str().unwrap().to_owned();
    let (one, two) = (token(0), token(1));
    let filled = fs::read_to_string(&file).unwrap();
    assert_eq!(filled, format!("# <a & b>\n1={one}\n2={two}\ntwo={two}\n"));
    for file in [&file, &json] {
        assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o440);
    }
}

#[tokio::test]
async fn where_there_is_one_portal_a_template_need_not_name_it() {
    let place = Place::new(1, ROTATING).await;
    let (arg, file) = template(&place, "{{ portal_id }} {{ access_token }}");
    assert_eq!(place.run(&["init", "--template", &arg]).await.code, 0);
    let filled = fs::read_to_string(&file).unwrap();
    let (portal, token) = filled.split_once(' ').unwrap();
    assert_eq!((portal, taken(&place, token).await), ("1", Some(1)));
}

#[tokio::test]
async fn a_template_that_names_what_is_not_there_is_refused_and_nothing_is_written() {
    let place = Place::new(2, ROTATING).await;
    for (text, why) in [
        ("{{ acess_token }}", "acess_token"),
        ("{{ portals", "syntax error"),
        ("{% include '/etc/passwd' %}", "template"),
    ] {
        let (arg, file) = template(&place, text);
        let ended = place.run(&["init", "--template", &arg]).await;
        assert_eq!(ended.code, 78, "{text}: {}", ended.err);
        assert!(ended.err.contains(why), "{text}: {}", ended.err);
        assert!(!file.exists());
        if text.starts_with("{{") {
            assert_eq!(place.standin.sim.report().refreshes, 0, "nothing is spent for {text}");
        }
    }
    // Which of two portals' only shows when they are known.
    for text in ["{{ access_token }}", "{{ tokens['3'] }}", "{{ portals[0].secret }}"] {
        let (arg, file) = template(&place, text);
        let json = place.path("tokens.json");
        let args = ["init", "--template", &arg, "--json", json.to_str().unwrap()];
        let ended = place.run(&args).await;
        assert_eq!(ended.code, 78, "{text}: {}", ended.err);
        assert!(ended.err.contains("(line 1)"), "{text}: {}", ended.err);
        assert!(!file.exists() && !json.exists(), "all or nothing");
    }
    let missing = format!("{}:{}", place.path("none").display(), place.path("x").display());
    assert_eq!(place.run(&["init", "--template", &missing]).await.code, 78);
}

#[tokio::test]
async fn files_are_of_the_mode_and_owner_that_were_asked_for_and_no_other() {
    use std::os::unix::fs::MetadataExt;
    let place = Place::new(1, ROTATING).await;
    let out = place.path("out");
    let args = ["init", "--output-dir", out.to_str().unwrap(), "--mode", "0400"];
    for wrong in ["0644", "0777", "0200", "rw", "1400"] {
        let ended = place.run(&[&args[..4], &[wrong]].concat()).await;
        assert_eq!(ended.code, 2, "{wrong}: {}", ended.err);
    }
    let owner = if rustix::process::geteuid().is_root() { "64001:64002" } else { "" };
    let ended = match owner {
        "" => place.run(&args).await,
        owner => place.run(&[&args[..], &["--owner", owner]].concat()).await,
    };
    assert_eq!(ended.code, 0, "{}", ended.err);
    let file = fs::metadata(out.join("1.token")).unwrap();
    assert_eq!(file.mode() & 0o777, 0o400);
    if !owner.is_empty() {
        assert_eq!((file.uid(), file.gid()), (64_001, 64_002));
        assert_eq!(fs::metadata(&out).unwrap().uid(), 64_001, "it can be reached");
    }
    assert_eq!(fs::metadata(&out).unwrap().mode() & 0o777, 0o700);
    let shared = place.path("shared");
    let group = ["init", "--output-dir", shared.to_str().unwrap(), "--mode", "0440"];
    assert_eq!(place.run(&group).await.code, 0);
    assert_eq!(fs::metadata(&shared).unwrap().mode() & 0o777, 0o750, "the group can reach them");
    let ended = place.run(&[&args[..], &["--owner", "no-such-user-here"]].concat()).await;
    assert_eq!(ended.code, 2, "{}", ended.err);
}

#[tokio::test]
async fn one_revoked_grant_means_that_nothing_is_written() {
    let place = Place::new(3, ROTATING).await;
    place.standin.sim.revoke(portal(2));
    fs::create_dir(place.path("out")).unwrap();
    fs::write(place.path("out/1.token"), "from before").unwrap();
    let ended = place.run(&["init", "--output-dir", place.path("out").to_str().unwrap()]).await;
    assert_eq!(ended.code, 4, "{}", ended.err);
    assert!(ended.err.contains("portal 2"), "{}", ended.err);
    assert_eq!(files(&place), ["1.token"]);
    assert_eq!(fs::read_to_string(place.path("out/1.token")).unwrap(), "from before");
}

#[tokio::test]
async fn a_place_that_can_not_be_written_to_means_that_no_file_appears() {
    let place = Place::new(2, ROTATING).await;
    fs::write(place.path("file"), "").unwrap();
    let (out, below) = (place.path("out"), place.path("file/out.json"));
    let args = ["init", "--output-dir", out.to_str().unwrap(), "--json", below.to_str().unwrap()];
    let ended = place.run(&args).await;
    assert_eq!(ended.code, 2, "{}", ended.err);
    assert_eq!(place.standin.sim.report().refreshes, 0, "nothing was spent for it");
    assert!(ended.err.contains("file/out.json") && ended.err.contains("fix:"), "{}", ended.err);
    assert!(files(&place).is_empty(), "{:?}", files(&place));
}

#[tokio::test]
async fn unknown_portals_and_missing_outputs_are_refused_before_anything_is_spent() {
    let place = Place::new(1, ROTATING).await;
    let ended = place.run(&["init", "--portal", "99", "--json", "x.json"]).await;
    assert_eq!(ended.code, 3, "{}", ended.err);
    assert_eq!(place.run(&["init"]).await.code, 2);
    assert_eq!(place.run(&["init", "--portal", "01", "--json", "/x"]).await.code, 2);
    assert_eq!(place.standin.sim.report().refreshes, 0);
}

#[tokio::test]
async fn wait_tries_on_with_one_line_a_try_until_hubspot_is_back() {
    let place = Place::new(2, ROTATING).await;
    let down = http(503);
    place.standin.sim.set_fault(Fault::new(down).times(2));
    let out = place.path("out.json");
    let ended = place.run(&["init", "--wait", "30s", "--json", out.to_str().unwrap()]).await;
    assert_eq!(ended.code, 0, "{}", ended.err);
    assert_eq!(
        ended.err.lines().filter(|line| line.starts_with("not yet:")).count(),
        2,
        "{}",
        ended.err
    );
    assert!(out.exists());
}

#[tokio::test]
async fn wait_runs_out_with_its_own_exit_code_and_says_what_stood_in_the_way() {
    let place = Place::new(1, ROTATING).await;
    let down = http(503);
    place.standin.sim.set_fault(Fault::new(down));
    let out = place.path("out.json");
    let ended = place.run(&["init", "--wait", "2s", "--json", out.to_str().unwrap()]).await;
    assert_eq!(ended.code, 124, "{}", ended.err);
    assert!(
        ended.err.contains("--wait ran out") && ended.err.contains("HTTP 503"),
        "{}",
        ended.err
    );
    assert!(!out.exists());
}

#[tokio::test]
async fn wait_does_not_wait_for_what_only_a_person_can_mend() {
    let place = Place::new(1, ROTATING).await;
    let other = grantkeeper::secret::ClientSecret::parse("changed-at-hubspot").unwrap();
    place.standin.sim.set_client_secret(other, Duration::ZERO);
    let ended = place.run(&["init", "--wait", "60s", "--json", "x.json"]).await;
    assert_eq!(ended.code, 78, "{}", ended.err);
}

/// An `init` that is told to stop while its refresh of portal 1 is in flight.
async fn told_to_stop(place: &Place) -> Ended {
    let out = place.path("out.json");
    let mut command = place.command(&["init", "--json", out.to_str().unwrap()]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    eventually("the refresh is in flight", || async {
        place.standin.sim.portal(portal(1)).unwrap().in_flight == 1
    })
    .await;
    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let ended = child.wait_with_output().await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let code = ended.status.code().unwrap();
    Ended { code, out: text(ended.stdout), err: text(ended.stderr) }
}

#[tokio::test]
async fn i14_told_to_stop_it_stores_what_is_in_flight_and_writes_nothing() {
    let place = Place::new(1, ROTATING).await;
    let late = grantkeeper::sim::Effect::Late(2_000);
    place.standin.sim.set_fault(Fault::new(late).on(grantkeeper::sim::Endpoint::Token));
    let ended = told_to_stop(&place).await;
    assert_eq!(ended.code, 1, "{}", ended.err);
    assert!(!place.path("out.json").exists());
    let stored = place.file_store().read(Key::Portal(portal(1))).await.unwrap();
    let refresh = stored.record.portal().unwrap().refresh_token;
    assert!(place.standin.sim.is_good(&refresh), "the rotated grant is in the store");
}

#[tokio::test]
async fn outputs_that_can_not_be_are_refused_before_anything_is_spent() {
    let place = Place::new(1, ROTATING).await;
    let (folder, one) = (place.path("folder"), place.path("one"));
    fs::create_dir(&folder).unwrap();
    fs::write(&one, "from before").unwrap();
    let (folder, one) = (folder.to_str().unwrap(), one.to_str().unwrap());
    for args in [
        &["init", "--json", folder][..],
        &["init", "--env-file", one, "--json", one],
        &["init", "--output-dir", one],
    ] {
        let ended = place.run(args).await;
        assert_eq!(ended.code, 2, "{args:?}: {}", ended.err);
    }
    assert_eq!(place.standin.sim.report().refreshes, 0);
    assert_eq!(fs::read_to_string(one).unwrap(), "from before");
}

#[tokio::test]
async fn wait_holds_its_time_even_when_hubspot_never_answers() {
    let place = Place::new(1, ROTATING).await;
    place.standin.sim.set_fault(Fault::new(grantkeeper::sim::Effect::HangBefore));
    let clock = grantkeeper::time::SystemClock;
    let began = clock.boot();
    let ended = place.run(&["init", "--wait", "2s", "--json", "x.json"]).await;
    assert_eq!(ended.code, 124, "{}", ended.err);
    let took = clock.boot().since(began);
    assert!(took < Duration::from_secs(8), "{took:?}");
}

#[tokio::test]
async fn what_is_handed_over_is_served_by_the_service_without_a_second_refresh() {
    let mut place = Place::new(3, "[settings]\nrotating = true\nexpires_in = 1800").await;
    let without = place.run(&["init", "--handover"]).await;
    assert_eq!(without.code, 78, "{}", without.err);
    assert!(without.err.contains("state_dir"), "{}", without.err);
    assert_eq!(place.standin.sim.report().refreshes, 0, "refused before anything was spent");

    place.head = format!("state_dir = \"{}\"\n", place.path("state").display());
    let json = place.path("tokens.json");
    let args = ["init", "--handover", "--json", json.to_str().unwrap(), "-o", "json"];
    let ended = place.run(&args).await;
    assert_eq!(ended.code, 0, "{}", ended.err);
    let report: Value = serde_json::from_str(&ended.out).unwrap();
    assert_eq!(report["handed_over"], 3, "{report}");
    let fetched: Value = serde_json::from_str(&fs::read_to_string(&json).unwrap()).unwrap();
    assert_eq!(place.standin.sim.report().refreshes, 3);

    let service = place.serve().await;
    service.ready().await;
    let mut sealed = Vec::new();
    for file in fs::read_dir(place.path("state")).unwrap().flatten() {
        sealed.extend(fs::read(file.path()).unwrap());
    }
    for number in 1..=3 {
        let served = service.token(number).await.unwrap();
        let token = served["access_token"].as_str().unwrap();
        assert!(fetched.to_string().contains(token), "portal {number} is served what was fetched");
        let shows = sealed.windows(token.len()).any(|window| window == token.as_bytes());
        assert!(!shows, "it lies there sealed");
    }
    assert_eq!(place.standin.sim.report().refreshes, 3, "nothing was spent twice");
    assert_eq!(service.stop().await, 0);
}

#[tokio::test]
async fn a_handover_alone_is_an_output_and_one_to_a_folder_of_others_is_refused() {
    let mut place = Place::new(1, "").await;
    place.head = format!("state_dir = \"{}\"\n", place.path("state").display());
    fs::create_dir(place.path("state")).unwrap();
    fs::set_permissions(place.path("state"), fs::Permissions::from_mode(0o777)).unwrap();
    let refused = place.run(&["init", "--handover"]).await;
    assert_eq!(refused.code, 77, "{}", refused.err);
    fs::set_permissions(place.path("state"), fs::Permissions::from_mode(0o700)).unwrap();
    let ended = place.run(&["init", "--handover"]).await;
    assert!(ended.code == 0 && ended.out.contains("handed over"), "{}{}", ended.out, ended.err);
}

/// A place whose HubSpot replaces refresh tokens, and whose login to the store may only read.
async fn read_only(portals: u64) -> Place {
    let mut place = Place::new(portals, "[settings]\nrotating = true\nexpires_in = 1800").await;
    let bao = openbao().await;
    let (mount, _) = place.move_to_openbao(bao).await;
    let shipped = include_str!("../../policies/vault/init.hcl");
    let policy = bao.policy(&shipped.replace("\"secret/", &format!("\"{mount}/"))).await;
    place.use_openbao(bao, &mount, &bao.token(&policy, json!({})).await);
    place
}

#[tokio::test]
async fn i3_a_login_that_may_only_read_and_a_hubspot_that_replaces_tokens_are_a_failure_and_not_a_success()
 {
    let place = read_only(2).await;
    let out = place.path("tokens.json");
    let ended = place.run(&["init", "--json", out.to_str().unwrap()]).await;
    assert_eq!(ended.code, 1, "{}{}", ended.out, ended.err);
    assert!(
        ended.err.contains("new refresh tokens could not be stored: portal 1, 2"),
        "{}",
        ended.err
    );
    assert!(ended.err.contains("agent's") && !out.exists(), "{}", ended.err);

    // A journal keeps them: the next run goes on with what HubSpot gave.
    let mut place = read_only(2).await;
    place.head = format!("state_dir = \"{}\"\n", place.path("state").display());
    let out = place.path("tokens.json");
    for _ in 0..2 {
        let ended = place.run(&["init", "--json", out.to_str().unwrap(), "-o", "json"]).await;
        assert_eq!(ended.code, 0, "{}", ended.err);
        let report: Value = serde_json::from_str(&ended.out).unwrap();
        assert_eq!(report["unsaved"], json!([1, 2]), "it says what the store lacks: {report}");
    }
}

#[tokio::test]
async fn i3_new_refresh_tokens_that_are_nowhere_are_named_whatever_else_went_wrong() {
    let place = read_only(2).await;
    place.standin.sim.revoke(portal(2));
    let ended = place.run(&["init", "--json", place.path("x").to_str().unwrap()]).await;
    assert_eq!(ended.code, 1, "{}", ended.err);
    assert!(ended.err.contains("could not be stored: portal 1"), "{}", ended.err);
    assert!(ended.err.contains("no token for portal 2"), "{}", ended.err);

    let place = read_only(1).await;
    let late = grantkeeper::sim::Effect::Late(2_000);
    place.standin.sim.set_fault(Fault::new(late).on(grantkeeper::sim::Endpoint::Token));
    let ended = told_to_stop(&place).await;
    assert_eq!(ended.code, 1, "{}", ended.err);
    assert!(ended.err.contains("could not be stored: portal 1"), "{}", ended.err);
    assert!(ended.err.contains("told to stop") && !ended.err.contains("is kept"), "{}", ended.err);
}

#[tokio::test]
async fn i1_a_token_that_is_about_to_expire_is_not_written_and_is_no_success() {
    let mut place = Place::new(1, "[settings]\nrotating = true\nexpires_in = 8").await;
    place.head = format!("state_dir = \"{}\"\n", place.path("state").display());
    assert_eq!(place.run(&["init", "--handover"]).await.code, 0);
    let clock = grantkeeper::time::SystemClock;
    let fetched = clock.boot();
    let down = http(503);
    place.standin.sim.set_fault(Fault::new(down).on(grantkeeper::sim::Endpoint::Token));
    // Callers are given none that has less than a quarter of its life.
    let short = Duration::from_millis(6_300);
    eventually("it is about to expire", async || clock.boot().since(fetched) > short).await;
    let out = place.path("out.json");
    let ended = place.run(&["init", "--json", out.to_str().unwrap()]).await;
    assert_eq!(ended.code, 75, "{}", ended.err);
    assert!(!out.exists());
    let args = ["init", "--wait", "2s", "--json", out.to_str().unwrap()];
    assert_eq!(place.run(&args).await.code, 124);
    assert!(!out.exists());
}
