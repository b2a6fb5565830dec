//! The clients in `clients/`, as an app would use them: against the running service, with tokens that expire under
//! their hands and tokens that HubSpot refuses before their time.

use std::{path::PathBuf, time::Duration};

use grantkeeper::{
    secret::AccessToken,
    sim::{Effect, Endpoint, Fault, HttpFault},
    socket::client::AskError,
};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::support::{
    portal,
    program::installed,
    service::{Ended, Place, finish},
};

fn client(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("clients").join(path)
}

fn python() -> Command {
    let mut command = Command::new(installed("bin/python"));
    command.env("PYTHONPATH", client("python")).env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

fn node() -> Command {
    let mut command = Command::new("node");
    // HubSpot's client stands where the test script has put it.
    let packages = installed("../node/package.json");
    command.current_dir(packages.parent().unwrap());
    command
}

/// The same in both languages: a token, its renewal, an enrolment, webhooks, refusals; what came of each as JSON.
const PYTHON: &str = r"
import json, sys
from grantkeeper import Keeper, Refused
given = json.load(sys.stdin)
keeper = Keeper(given['socket'])
token = keeper.token(1, min_ttl=60)
out = {'token': token.access_token, 'shown': repr(token)}
out['enrolled'] = keeper.enroll(given['code'], given['redirect_uri'])
hook = given['hook']
out['valid'] = keeper.is_from_hubspot('POST', hook['uri'], hook['headers'], hook['body'].encode())
out['forged'] = keeper.is_from_hubspot('POST', hook['uri'], hook['headers'], b'other')
codes = []
for wrong in (lambda: keeper.token(99), lambda: keeper.refresh(1, token)):
    try: wrong()
    except Refused as refused: codes.append([refused.code, refused.status, refused.retry_after is not None])
out['codes'] = codes
print(json.dumps(out))
";

const NODE: &str = r"
import { Keeper, Refused } from 'FILE';
import { text } from 'node:stream/consumers';
const given = JSON.parse(await text(process.stdin));
const keeper = new Keeper(given.socket);
const token = await keeper.token(1, 60);
const out = { token: token.accessToken };
out.enrolled = await keeper.enroll(given.code, given.redirect_uri);
const { uri, headers, body } = given.hook;
out.valid = await keeper.isFromHubSpot('POST', uri, headers, Buffer.from(body));
out.forged = await keeper.isFromHubSpot('POST', uri, headers, Buffer.from('other'));
out.codes = [];
for (const wrong of [() => keeper.token(99), () => keeper.refresh(1, token)]) {
  try { await wrong(); } catch (error) {
    if (!(error instanceof Refused)) throw error;
    out.codes.push([error.code, error.status, error.retryAfter !== undefined]);
  }
}
console.log(JSON.stringify(out));
";

async fn does_it_all(mut command: Command, place: &Place, number: u64) {
    let redirect_uri = "https://app.example.com/callback";
    let (_, code) =
        place.standin.sim.issue_code(Some(portal(number)), None, Some(redirect_uri.to_owned()));
    let secret = place.standin.sim.client_secret();
    let hash = aws_lc_rs::digest::digest(
        &aws_lc_rs::digest::SHA256,
        format!("{}[{{}}]", secret.expose()).as_bytes(),
    );
    let signature =
        hash.as_ref().iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
    let given = json!({
        "socket": place.socket(),
        "code": code,
        "redirect_uri": redirect_uri,
        "hook": {"uri": "https://app.example.com/hook", "body": "[{}]", "headers": {"X-HubSpot-Signature": signature}},
    });
    command.kill_on_drop(true);
    let ended = finish(command, &given.to_string()).await;
    assert_eq!(ended.code, 0, "{ended:?}");
    let told: Value = serde_json::from_str(&ended.out).unwrap();
    assert_eq!(told["enrolled"], number, "{told}");
    assert_eq!((&told["valid"], &told["forged"]), (&true.into(), &false.into()), "{told}");
    assert_eq!(
        told["codes"],
        json!([["unknown_portal", 404, false], ["too_many_requests", 429, true]]),
        "{told}"
    );
    let token = told["token"].as_str().unwrap();
    assert!(token.len() > 20 && !told["shown"].to_string().contains(token), "{told}");
}

#[tokio::test]
async fn the_small_clients_do_all_that_an_app_needs() {
    let place = Place::new(1, "[settings]\nexpires_in = 1800").await;
    let service = place.serve().await;
    service.ready().await;
    let mut command = python();
    command.args(["-c", PYTHON]);
    does_it_all(command, &place, 77).await;
    let mut command = node();
    let file = client("node/grantkeeper.mjs").display().to_string();
    command.args(["--input-type=module", "-e", &NODE.replace("FILE", &file)]);
    does_it_all(command, &place, 78).await;
}

/// HubSpot's own clients, for longer than a token lives.
async fn survives(mut command: Command, place: &Place) -> Ended {
    command.args(["1", place.socket().to_str().unwrap(), &place.standin.url, "16"]);
    command.kill_on_drop(true);
    finish(command, "").await
}

#[tokio::test]
async fn hubspot_s_own_clients_go_on_when_a_token_expires() {
    let place = Place::new(1, "[settings]\nrotating = true\nexpires_in = 4").await;
    let service = place.serve().await;
    service.ready().await;
    let refreshes = || place.standin.sim.report().refreshes;
    let before = refreshes();
    for mut command in [python(), node()] {
        let is_python = command.as_std().get_program().to_string_lossy().contains("python");
        let name = if is_python { "hubspot_client.py" } else { "hubspot_client.mjs" };
        command.arg(client(&format!("examples/{name}")));
        let ended = survives(command, &place).await;
        assert_eq!(ended.code, 0, "{ended:?}");
        assert_eq!(ended.out, "1\n".repeat(16), "{ended:?}");
    }
    assert!(refreshes() >= before + 4, "no token has expired meanwhile");
}

#[tokio::test]
async fn the_shell_client_gets_a_token_and_asks_for_another_when_hubspot_refuses_it() {
    let place = Place::new(1, "[settings]\nexpires_in = 1800").await;
    let service = place.serve().await;
    service.ready().await;
    let script = format!(
        ". {}; grantkeeper_token 1; hubspot_get 1 /account-info/v3/details; echo; grantkeeper_token 99",
        client("shell/grantkeeper.sh").display()
    );
    let shell = || {
        let mut command = Command::new("sh");
        command.env("GRANTKEEPER_SOCKET", place.socket()).env("HUBSPOT_URL", &place.standin.url);
        command.kill_on_drop(true);
        command
    };
    let mut command = shell();
    command.args(["-c", &script]);
    let ended = finish(command, "").await;
    let served = service.token(1).await.unwrap();
    assert_eq!(ended.out.lines().next(), served["access_token"].as_str(), "{ended:?}");
    assert!(ended.out.contains("\"portalId\":1"), "{ended:?}");
    assert!(ended.code != 0 && ended.err.contains("no grant is stored"), "{ended:?}");
    // A token that was given a moment ago is not renewed: it is told when to ask again.
    let refused = format!(
        ". {}; grantkeeper_refresh 1 \"$(grantkeeper_token 1)\"",
        client("shell/grantkeeper.sh").display()
    );
    let mut command = shell();
    command.args(["-c", &refused]);
    let ended = finish(command, "").await;
    assert!(ended.code != 0 && ended.err.contains("not older than a moment"), "{ended:?}");
}

/// An hour may have passed since a token was given, and HubSpot refuse it all the same: each client has it replaced, once,
/// and goes on.
#[tokio::test]
async fn every_client_goes_on_when_hubspot_refuses_a_token_before_its_time() {
    let place = Place::new(3, "[settings]\nexpires_in = 1800").await;
    let service = place.serve().await;
    service.ready().await;
    let mut longest = 0;
    for number in 1..=3 {
        let token = service.token(number).await.unwrap();
        let text = token["access_token"].as_str().unwrap().to_owned();
        let name = AccessToken::parse(text).unwrap().fingerprint();
        let target = format!("/v1/portals/{number}/refresh");
        let young = service.client.post_json::<Value>(&target, &json!({"rejected": name})).await;
        let Err(AskError::Refused(young)) = young else { panic!("{young:?}") };
        longest = longest.max(young.retry_after.unwrap());
    }
    // From then on they are old enough to be replaced, as the service says itself.
    tokio::time::sleep(Duration::from_secs(longest)).await;
    let before = place.standin.sim.report().refreshes;
    let mut shell = Command::new("sh");
    shell.env("GRANTKEEPER_SOCKET", place.socket()).env("HUBSPOT_URL", &place.standin.url);
    let script = client("shell/grantkeeper.sh");
    shell.args(["-c", ". \"$0\"; hubspot_get 3 /account-info/v3/details"]).arg(script);
    let (mut python, mut node) = (python(), node());
    python.arg(client("examples/hubspot_client.py"));
    node.arg(client("examples/hubspot_client.mjs"));
    for (number, command) in [(1, &mut python), (2, &mut node)] {
        command.arg(number.to_string()).arg(place.socket()).args([&place.standin.url, "1"]);
    }
    for (number, mut command) in [(1, python), (2, node), (3, shell)] {
        let refused = Effect::Http(HttpFault { status: 401, retry_after: None });
        let fault = Fault::new(refused).on(Endpoint::AccountInfo).of(portal(number)).times(1);
        place.standin.sim.set_fault(fault);
        command.kill_on_drop(true);
        let ended = finish(command, "").await;
        assert_eq!(ended.code, 0, "{number}: {ended:?}");
        let told = [format!("{number}\n"), format!("\"portalId\":{number}")];
        assert!(told.iter().any(|told| ended.out.contains(told)), "{number}: {ended:?}");
        assert_eq!(place.standin.sim.report().refreshes, before + number, "{number}");
    }
}
