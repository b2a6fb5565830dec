//! The audit log of a running service (I11): what stands in it and when, a disk that takes no more, rotation,
//! kill -9, and `grantkeeper audit verify`.

use std::{fs, path::PathBuf};

use rustix::process::{Pid, Resource, Rlimit, Signal, prlimit};
use serde_json::Value;
use tokio::process::Command;

use crate::support::service::{Place, Service, eventually};

async fn place() -> Place {
    let mut place = Place::new(3, "").await;
    place.extra += &format!("[audit]\nfile = \"{}\"\n", log(&place).display());
    place
}

fn log(place: &Place) -> PathBuf {
    place.path("audit.jsonl")
}

fn lines(place: &Place) -> Vec<Value> {
    let text = fs::read_to_string(log(place)).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The lines about this action.
fn about(place: &Place, action: &str) -> Vec<Value> {
    lines(place).into_iter().filter(|line| line["action"] == action).collect()
}

fn pid(service: &Service) -> Pid {
    Pid::from_raw(i32::try_from(service.child.id().unwrap()).unwrap()).unwrap()
}

#[tokio::test]
async fn i11_what_was_given_and_denied_stands_in_the_log_when_the_answer_has_come() {
    let place = place().await;
    let service = place.serve().await;
    service.ready().await;
    let answer = service.token(2).await.unwrap();
    let told = about(&place, "token").pop().unwrap();
    let own = rustix::process::geteuid().as_raw();
    assert_eq!(
        (&told["uid"], &told["portal"], &told["outcome"]),
        (&own.into(), &2.into(), &"ok".into())
    );
    assert_eq!(told["pid"], std::process::id());
    let expected = answer["access_token"].as_str().unwrap();
    let name = grantkeeper::secret::AccessToken::parse(expected).unwrap().fingerprint();
    assert_eq!(told["token"], name.to_string());
    assert!(!fs::read_to_string(log(&place)).unwrap().contains(expected), "I10");

    assert_eq!(service.refusal(99).await, "unknown_portal");
    assert_eq!(about(&place, "token").pop().unwrap()["outcome"], "unknown_portal");
    // What changes something is written down before it is done, and after.
    let paused: Value = service.client.post("/v1/portals/3/pause").await.unwrap();
    assert_eq!(paused["paused"], true);
    let outcomes: Vec<_> =
        about(&place, "pause").iter().map(|line| line["outcome"].clone()).collect();
    assert_eq!(outcomes, ["begun", "ok"]);
    service.get("/v1/portals").await.unwrap();
    service.get("/v1/portals/1").await.unwrap();
    let status = service.get("/v1/status").await.unwrap();
    for action in ["portals", "portal", "status"] {
        assert_eq!(about(&place, action).len(), 1, "{action}");
    }
    assert_eq!(status["audit"]["last_seq"], lines(&place).len());

    // A thousand readings of one token are one line more.
    let before = lines(&place).len();
    for _ in 0..1000 {
        service.token(2).await.unwrap();
    }
    assert_eq!(lines(&place).len(), before);
    assert_eq!(service.stop().await, 0);
    let repeats: Vec<_> =
        lines(&place).into_iter().filter(|line| line["event"] == "repeats").collect();
    assert_eq!(repeats[0]["count"], 1000, "{repeats:?}");
}

/// The service with its files limited in size: where writes fail, they fail as on a full disk.
async fn limited(place: &Place) -> Service {
    let mut inner = place.command(&["run"]);
    let program = inner.as_std().get_program().to_owned();
    let args: Vec<_> = inner.as_std().get_args().map(ToOwned::to_owned).collect();
    inner.kill_on_drop(false);
    let mut command = Command::new("sh");
    // Who writes beyond a limit is ended by a signal, unless it is ignored.
    command.args(["-c", "trap '' XFSZ; exec \"$@\"", "sh"]).arg(program).args(args);
    command.env_clear().env("PATH", "/usr/bin:/bin").kill_on_drop(true);
    let service = place.spawn_as(command, "info", "text");
    service.answers().await;
    service
}

fn limit(service: &Service, bytes: Option<u64>) {
    prlimit(Some(pid(service)), Resource::Fsize, Rlimit { current: bytes, maximum: None }).unwrap();
}

#[tokio::test]
async fn i11_a_log_that_can_t_be_written_refuses_everybody_and_heals_by_itself() {
    let place = place().await;
    let service = limited(&place).await;
    service.ready().await;
    service.token(1).await.unwrap();
    let size = fs::metadata(log(&place)).unwrap().len();
    limit(&service, Some(size + 20));
    for _ in 0..3 {
        assert_eq!(service.refusal(2).await, "audit_failing");
    }
    assert_eq!(service.refusal(1).await, "audit_failing", "a repeat of what is written as well");
    let opened = place.alerts.wait_for("audit_failing", "opened").await;
    assert_eq!(opened["data"]["severity"], "critical");
    assert!(service.client.get::<Value>("/v1/status").await.is_err());
    assert!(service.client.post::<Value>("/v1/portals/3/pause").await.is_err());
    let ready = service.client.ask(hyper::Method::GET, "/readyz").await.unwrap();
    let text = String::from_utf8_lossy(&ready.body).into_owned();
    assert!(ready.status == 503 && text.contains("audit_failing"), "{text}");
    assert_eq!(fs::metadata(log(&place)).unwrap().len(), size, "no half line is left");

    limit(&service, None);
    place.alerts.wait_for("audit_failing", "resolved").await;
    service.token(2).await.unwrap();
    assert_eq!(service.state(3).await, "live", "what was refused was not done");
    let lines = lines(&place);
    let resumed = lines.iter().position(|line| line["event"] == "resumed").unwrap();
    assert!(lines[resumed]["refused"].as_u64().unwrap() >= 5, "{:?}", lines[resumed]);
    let given = |line: &Value| line["portal"] == 2 && line["outcome"] == "ok";
    assert!(resumed < lines.iter().position(given).unwrap(), "before anything else is written");
    assert_eq!(service.stop().await, 0);
    let ended = place.run(&["audit", "verify", log(&place).to_str().unwrap()]).await;
    assert_eq!(ended.code, 0, "{ended:?}");
}

#[tokio::test]
async fn i11_i14_a_log_that_is_moved_away_goes_on_in_a_new_file_at_sighup() {
    let place = place().await;
    let service = place.serve().await;
    service.ready().await;
    service.token(1).await.unwrap();
    let old = place.path("audit.jsonl.1");
    fs::rename(log(&place), &old).unwrap();
    // Until it is told, the service writes where it did.
    service.token(2).await.unwrap();
    service.signal(Signal::HUP);
    eventually("the new file is begun", async || log(&place).exists()).await;
    service.token(3).await.unwrap();
    assert_eq!(about(&place, "token").len(), 1);
    assert_eq!(service.stop().await, 0);
    let (old, new) = (old.to_str().unwrap().to_owned(), log(&place).to_str().unwrap().to_owned());
    let ended = place.run(&["-o", "json", "audit", "verify", &old, &new]).await;
    assert_eq!(ended.code, 0, "{ended:?}");
    let told: Value = serde_json::from_str(&ended.out).unwrap();
    let seq = |at: usize, name: &str| told["files"][at][name].as_u64().unwrap();
    assert_eq!(seq(0, "last_seq") + 1, seq(1, "first_seq"));
    let backwards = place.run(&["audit", "verify", &new, &old]).await;
    assert_eq!(backwards.code, 1, "{backwards:?}");
    assert!(backwards.err.contains("does not go on where"), "{backwards:?}");
}

#[tokio::test]
async fn i11_a_log_whose_file_is_removed_goes_on_in_a_new_one_and_the_gap_shows() {
    let place = place().await;
    let service = place.serve().await;
    service.ready().await;
    service.token(1).await.unwrap();
    let copy = place.path("copy.jsonl");
    fs::copy(log(&place), &copy).unwrap();
    fs::remove_file(log(&place)).unwrap();
    service.token(2).await.unwrap();
    eventually("there is a file again", async || log(&place).exists()).await;
    service.token(3).await.unwrap();
    assert_eq!(about(&place, "token").pop().unwrap()["portal"], 3);
    assert_eq!(service.stop().await, 0);
    let (copy, new) = (copy.to_str().unwrap().to_owned(), log(&place).to_str().unwrap().to_owned());
    assert_eq!(place.run(&["audit", "verify", &new]).await.code, 0);
    let ended = place.run(&["audit", "verify", &copy, &new]).await;
    assert_ne!(ended.code, 0, "what was written into the removed file is missed: {ended:?}");
}

#[tokio::test]
async fn i11_i14_a_log_that_can_t_be_reopened_goes_on_and_says_so() {
    let place = place().await;
    let service = place.serve().await;
    service.ready().await;
    let old = place.path("audit.jsonl.1");
    fs::rename(log(&place), &old).unwrap();
    fs::write(log(&place), "precious\n").unwrap();
    service.signal(Signal::HUP);
    eventually("it is told", async || {
        let status: Value = service.client.get("/v1/status").await.unwrap();
        status["remarks"].to_string().contains("the audit log could not be reopened")
    })
    .await;
    service.token(1).await.unwrap();
    assert!(fs::read_to_string(&old).unwrap().contains("\"action\":\"token\""));
    assert_eq!(fs::read_to_string(log(&place)).unwrap(), "precious\n");
}

#[tokio::test]
async fn i11_a_log_is_whole_after_each_kill_9() {
    let place = place().await;
    for round in 1..=5 {
        let mut service = place.serve().await;
        service.ready().await;
        let mut reading = tokio::task::JoinSet::new();
        for portal in 1..=3 {
            let client = service.client.clone();
            reading.spawn(async move {
                // Each question is a decision of its own, and so a line.
                while client.get::<Value>(&format!("/v1/portals/{portal}/token")).await.is_ok() {
                    client.post::<Value>(&format!("/v1/portals/{portal}/resume")).await.ok();
                }
            });
        }
        let before = lines(&place).len();
        eventually("lines are written", async || lines(&place).len() > before + 20 * round).await;
        service.child.kill().await.unwrap();
        reading.join_all().await;
    }
    let service = place.serve().await;
    assert_eq!(service.stop().await, 0);
    let ended = place.run(&["audit", "verify", log(&place).to_str().unwrap()]).await;
    assert_eq!(ended.code, 0, "{ended:?}");
    let opened = lines(&place).iter().filter(|line| line["event"] == "opened").count();
    assert_eq!(opened, 6);
}

#[tokio::test]
async fn i11_verify_names_the_line_that_was_edited_and_misses_lines_by_their_tip() {
    let place = place().await;
    let service = place.serve().await;
    service.ready().await;
    service.token(1).await.unwrap();
    service.token(2).await.unwrap();
    let tip = service.get("/v1/status").await.unwrap()["audit"]["last_hash"].clone();
    assert_eq!(service.stop().await, 0);
    let file = log(&place);
    let verify = async |more: &[&str]| {
        let args = ["audit", "verify", file.to_str().unwrap()];
        place.run(&[&args, more].concat()).await
    };
    let tip = ["--tip", tip.as_str().unwrap()];
    assert_eq!(verify(&tip).await.code, 0);
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("\"portal\":2", "\"portal\":3")).unwrap();
    let edited = verify(&[]).await;
    assert_eq!(edited.code, 1, "{edited:?}");
    let at = text.lines().position(|line| line.contains("\"portal\":2")).unwrap() + 1;
    assert!(edited.err.contains(&format!("line {at} does not follow")), "{edited:?}");
    let kept: Vec<_> = text.lines().take(3).map(|line| format!("{line}\n")).collect();
    fs::write(&file, kept.concat()).unwrap();
    assert_eq!(verify(&[]).await.code, 0, "of a shorter log nothing can be seen");
    let short = verify(&tip).await;
    assert_eq!(short.code, 1, "{short:?}");
    assert!(short.err.contains("is not in the log"), "{short:?}");
    assert_eq!(place.run(&["audit", "verify", "/nowhere"]).await.code, 3);
}

#[tokio::test]
async fn i11_a_service_does_not_start_without_the_log_it_was_told_to_keep() {
    let mut place = place().await;
    for (content, mode, code, said) in [
        ("precious\n", 0o600, 78, "does not end like an audit log"),
        ("", 0o666, 77, "can be written by others"),
    ] {
        fs::write(log(&place), content).unwrap();
        fs::set_permissions(log(&place), std::os::unix::fs::PermissionsExt::from_mode(mode))
            .unwrap();
        let ended = place.run(&["run"]).await;
        assert_eq!(ended.code, code, "{ended:?}");
        assert!(ended.err.contains(said), "{ended:?}");
    }
    place.extra = place.extra.replace("audit.jsonl", "no/such/folder/audit.jsonl");
    let ended = place.run(&["run"]).await;
    assert_eq!(ended.code, 78, "{ended:?}");
}
