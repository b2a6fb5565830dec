//! Alerting rules, their runbooks, and the dashboard: held by promtool, by a real Prometheus that scrapes the real
//! service, and against the kinds of incidents there are.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use grantkeeper::incident::Kind;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::support::{
    program::{Program, free_port_pair},
    service::{Ended, Place, Service, eventually, finish, portal},
    temp_dir,
    yaml::documents,
};

fn shipped(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn text(path: &str) -> String {
    fs::read_to_string(shipped(path)).unwrap()
}

/// The whole file of rules.
async fn file_of_rules() -> Value {
    documents(&text("deploy/prometheus/rules.yml")).await.remove(0)
}

/// Each rule.
async fn rules() -> Vec<Value> {
    let file = file_of_rules().await;
    let groups = file["groups"].as_array().unwrap();
    groups.iter().flat_map(|group| group["rules"].as_array().unwrap().clone()).collect()
}

async fn promtool(args: &[&str], folder: &Path) -> Ended {
    let mut command = Command::new("promtool");
    command.args(args).current_dir(folder).kill_on_drop(true);
    finish(command, "").await
}

/// The panels' queries, with what Grafana would put in the place of its variables.
fn queries() -> Vec<String> {
    let dashboard: Value = serde_json::from_str(&text("deploy/grafana/grantkeeper.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().flat_map(|panel| {
        let targets = panel["targets"].as_array().unwrap();
        assert!(!targets.is_empty(), "{} asks nothing", panel["title"]);
        targets
    });
    let filled = |query: &str| query.replace("$__rate_interval", "5m").replace("$instance", ".*");
    targets.map(|target| filled(target["expr"].as_str().unwrap())).collect()
}

/// The words in `text` that can only be names of our metrics.
fn names(text: &str) -> BTreeSet<String> {
    let words = text.split(|letter: char| !(letter.is_ascii_alphanumeric() || letter == '_'));
    words.filter(|word| word.starts_with("grantkeeper_")).map(str::to_owned).collect()
}

/// A service of three portals, the second of which left before the start; its health listener.
async fn watched() -> (Place, Service, String) {
    let mut place = Place::new(3, "").await;
    let address = format!("127.0.0.1:{}", free_port_pair());
    place.extra += &format!("[http]\nlisten = \"{address}\"\n");
    place.standin.sim.uninstall(portal(2));
    let service = place.serve().await;
    service.token(1).await.unwrap();
    (place, service, address)
}

async fn get(url: &str) -> Value {
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let Ok(answer) = http.get(url).send().await else { return Value::Null };
    let text = answer.text().await.unwrap();
    serde_json::from_str(&text).unwrap_or(Value::String(text))
}

#[tokio::test]
async fn the_rules_are_sound_and_each_is_shown_both_silent_and_firing() {
    let folder = shipped("deploy/prometheus");
    for args in [["check", "rules", "rules.yml"], ["test", "rules", "rules_test.yml"]] {
        let ended = promtool(&args, &folder).await;
        assert_eq!(ended.code, 0, "{args:?}: {}{}", ended.out, ended.err);
    }
    // What comes of rules that never fire, and of rules that always do, is found out for each of them.
    let dir = temp_dir();
    fs::copy(folder.join("rules_test.yml"), dir.path().join("rules_test.yml")).unwrap();
    for (expr, complaint) in [("vector(0) > 1", "got: nil"), ("vector(1)", "exp: nil")] {
        let mut wrong = file_of_rules().await;
        for rule in wrong["groups"][0]["rules"].as_array_mut().unwrap() {
            rule["expr"] = expr.into();
            rule["for"] = "0s".into();
        }
        fs::write(dir.path().join("rules.yml"), wrong.to_string()).unwrap();
        let ended = promtool(&["test", "rules", "rules_test.yml"], dir.path()).await;
        assert_eq!(ended.code, 1, "{}{}", ended.out, ended.err);
        for rule in rules().await {
            let name = rule["alert"].as_str().unwrap();
            let about = format!("alertname=\\\"{name}\\\"");
            let mut complaints = ended.err.split("\n\n").filter(|part| part.contains(&about));
            let found = complaints.any(|part| part.contains(complaint));
            assert!(found, "{name} could be {expr}: {}", ended.err);
        }
    }
}

#[tokio::test]
async fn every_kind_of_incident_has_one_rule_of_its_own_severity() {
    let rules = rules().await;
    let kinds_of = |rule: &Value| -> Vec<String> {
        let expr = rule["expr"].as_str().unwrap();
        let quoted = expr.split_once("kind=").map_or("", |(_, rest)| rest);
        let words = quoted.split('"').nth(1).unwrap_or_default();
        words.split('|').filter(|word| !word.is_empty()).map(str::to_owned).collect()
    };
    for kind in Kind::ALL {
        let mut about = rules.iter().filter(|rule| kinds_of(rule).contains(&kind.to_string()));
        let rule = about.next().unwrap_or_else(|| panic!("no rule tells of {kind}"));
        assert_eq!(rule["labels"]["severity"], kind.severity().as_str(), "{kind}");
        assert_eq!(about.next(), None, "{kind}");
    }
    let known: Vec<String> = Kind::ALL.iter().map(ToString::to_string).collect();
    let named: Vec<String> = rules.iter().flat_map(kinds_of).collect();
    assert!(named.iter().all(|kind| known.contains(kind)), "{named:?}");
}

#[tokio::test]
async fn every_rule_says_what_is_wrong_and_what_to_do_and_has_a_runbook() {
    let mut linked = BTreeSet::new();
    for rule in rules().await {
        let name = rule["alert"].as_str().unwrap().to_owned();
        let said = |what: &str| rule["annotations"][what].as_str().unwrap_or_default().to_owned();
        assert!(said("summary").len() > 20 && said("description").len() > 60, "{name}");
        let url = said("runbook_url");
        let (file, anchor) = url.split_once('#').unwrap();
        assert_eq!(anchor, name.to_lowercase());
        assert!(text(file).lines().any(|line| line == format!("### {name}")), "{name} in {file}");
        linked.insert(name);
    }
    let runbooks = text("docs/runbooks.md");
    let headings = runbooks.lines().filter_map(|line| line.strip_prefix("### "));
    assert_eq!(headings.map(str::to_owned).collect::<BTreeSet<_>>(), linked);
}

#[tokio::test]
async fn rules_and_dashboard_name_only_metrics_that_the_service_tells() {
    let (_place, _service, address) = watched().await;
    let Value::String(told) = get(&format!("http://{address}/metrics")).await else { panic!() };
    let samples = told.lines().filter(|line| !line.starts_with('#'));
    let known: BTreeSet<String> =
        samples.filter_map(|line| line.split(['{', ' ']).next()).map(str::to_owned).collect();
    let mut used = names(&text("deploy/prometheus/rules.yml"));
    used.extend(names(&text("deploy/prometheus/rules_test.yml")));
    used.extend(names(&text("deploy/grafana/grantkeeper.json")));
    used.extend(names(&text("docs/runbooks.md")));
    assert!(used.len() > 10, "{used:?}");
    let unknown: Vec<_> = used.difference(&known).collect();
    assert!(unknown.is_empty(), "{unknown:?} are not in:\n{told}");
    // And each family is looked at by a panel; a histogram by its buckets.
    let families = told.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let shown: Vec<String> = queries().iter().flat_map(|query| names(query)).collect();
    for family in families.filter_map(|line| line.split(' ').next()) {
        assert!(shown.iter().any(|name| name.starts_with(family)), "no panel shows {family}");
    }
}

#[tokio::test]
async fn a_real_prometheus_scrapes_the_service_and_evaluates_each_rule_and_each_panel() {
    let (_place, _service, address) = watched().await;
    let (dir, port) = (temp_dir(), free_port_pair());
    let config = json!({
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [shipped("deploy/prometheus/rules.yml")],
        "scrape_configs": [{"job_name": "grantkeeper", "static_configs": [{"targets": [address]}]}],
    });
    let file = dir.path().join("prometheus.yml");
    fs::write(&file, config.to_string()).unwrap();
    let checked = promtool(&["check", "config", file.to_str().unwrap()], dir.path()).await;
    assert_eq!(checked.code, 0, "{}{}", checked.out, checked.err);
    let args = [
        format!("--config.file={}", file.display()),
        format!("--storage.tsdb.path={}", dir.path().join("data").display()),
        format!("--web.listen-address=127.0.0.1:{port}"),
    ];
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let prometheus = Program::start(Path::new("prometheus"), &args, &[], dir.path());
    prometheus.listening(port).await;
    let api = format!("http://127.0.0.1:{port}/api/v1");
    let query = async |expr: &str| {
        let url = reqwest::Url::parse_with_params(&format!("{api}/query"), [("query", expr)]);
        get(url.unwrap().as_str()).await
    };

    eventually("a customer's broken grant fires, told in words", || async {
        let told = get(&format!("{api}/alerts")).await;
        let alerts = told["data"]["alerts"].as_array().cloned().unwrap_or_default();
        alerts.iter().any(|alert| {
            alert["labels"]["alertname"] == "GrantkeeperGrantBroken"
                && alert["state"] == "firing"
                && alert["annotations"]["summary"]
                    == "Customers' grants need a person (grant_mismatched)"
        })
    })
    .await;
    let live = query("grantkeeper_portals{state=\"live\"}").await;
    assert_eq!(live["data"]["result"][0]["value"][1], "2", "{live}");

    let expected = rules().await.len();
    eventually("every rule has been evaluated", || async {
        let told = get(&format!("{api}/rules")).await;
        let group = &told["data"]["groups"][0];
        let rules = group["rules"].as_array().unwrap();
        assert_eq!(rules.len(), expected);
        rules.iter().all(|rule| rule["health"] == "ok" && rule["lastError"].is_null())
    })
    .await;

    let refused = query("sum(grantkeeper_portals").await;
    assert_eq!(refused["status"], "error", "what can't be parsed is refused");
    let queries = queries();
    assert!(queries.len() > 12);
    for expr in queries {
        let answer = query(&expr).await;
        assert_eq!(answer["status"], "success", "{expr}: {answer}");
    }
}
