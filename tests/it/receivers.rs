//! Each kind of receiver of alerts against the real thing: an Alertmanager, a mail server, SNS as moto plays it, a
//! program; and against Slack's own models and PagerDuty's description. All of them at once, told by one service.

use std::{collections::BTreeMap, fs, os::unix::fs::PermissionsExt, path::PathBuf};

use grantkeeper::{
    incident::{Book, Kind, Moment},
    portal::AppName,
    sink::slack,
    time::{BootTime, Clock, SystemClock},
};
use rcgen::CertificateParams;
use serde_json::Value;

use crate::support::{
    answerer::{Act, Answerer, Greeting},
    moto::{Moto, moto},
    program::free_port_pair,
    random_hex,
    receivers::{Mail, Manager, holds},
    service::{Alerts, Ended, Place, Service, eventually, portal, secret_file},
};

/// A topic, and the messages that a queue which listens to it got.
struct Topic {
    arn: String,
    queue: String,
    moto: &'static Moto,
}

impl Topic {
    async fn create(name: &str) -> Self {
        let moto = moto().await;
        let call = |form: Vec<(&'static str, String)>| async move {
            let service =
                if form.iter().any(|(name, _)| name.starts_with("Queue")) { "sqs" } else { "sns" };
            let scope = format!(
                "AWS4-HMAC-SHA256 Credential=test/20260101/eu-west-1/{service}/aws4_request, SignedHeaders=host, Signature=0"
            );
            let request = reqwest::Client::builder().build().unwrap().post(&moto.endpoint);
            let answer = request.header("Authorization", scope).form(&form).send().await.unwrap();
            assert!(answer.status().is_success(), "{answer:?}");
            answer.text().await.unwrap()
        };
        let topic = call(vec![("Action", "CreateTopic".into()), ("Name", name.into())]).await;
        let arn = between(&topic, "<TopicArn>", "</TopicArn>");
        let queue = call(vec![("Action", "CreateQueue".into()), ("QueueName", name.into())]).await;
        let queue = between(&queue, "<QueueUrl>", "</QueueUrl>");
        let endpoint = arn.replace(":sns:", ":sqs:");
        let subscribed = vec![
            ("Action", "Subscribe".to_owned()),
            ("TopicArn", arn.clone()),
            ("Protocol", "sqs".to_owned()),
            ("Endpoint", endpoint),
        ];
        call(subscribed).await;
        Self { arn, queue, moto }
    }

    async fn taken(&self) -> Vec<Value> {
        let scope = "AWS4-HMAC-SHA256 Credential=test/20260101/eu-west-1/sqs/aws4_request, SignedHeaders=host, Signature=0";
        let form = [
            ("Action", "ReceiveMessage"),
            ("QueueUrl", &self.queue),
            ("MaxNumberOfMessages", "10"),
            ("VisibilityTimeout", "0"),
        ];
        let request = reqwest::Client::builder().build().unwrap().post(&self.moto.endpoint);
        let answer = request.header("Authorization", scope).form(&form).send().await.unwrap();
        let text = answer.text().await.unwrap().replace("&quot;", "\"").replace("&amp;", "&");
        let bodies = text.split("<Body>").skip(1).filter_map(|rest| rest.split("</Body>").next());
        bodies.map(|body| serde_json::from_str(body).unwrap()).collect()
    }
}

fn between(text: &str, before: &str, after: &str) -> String {
    let rest = text.split_once(before).unwrap_or_else(|| panic!("{before} in {text}")).1;
    rest.split_once(after).unwrap().0.to_owned()
}

/// A program that writes what it is told into a folder, a file a notice.
fn program(place: &Place) -> PathBuf {
    let (file, out) = (place.path("tell"), place.path("told"));
    fs::create_dir(&out).unwrap();
    let text = format!(
        "#!/bin/sh\nset -eu\ncat > {0}/.$$\nenv > {0}/env\nmv {0}/.$$ {0}/$GRANTKEEPER_CHANGE.json\n",
        out.display()
    );
    fs::write(&file, text).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o700)).unwrap();
    file
}

/// Two mails for each address but the one whose mailbox is full, which keeps nothing from the others.
async fn each_address_has_its_own(mail: &Mail, service: &Service) -> Vec<Value> {
    let mails = mail.taken();
    assert!(mails.iter().all(|mail| mail["tls"] == true), "{mails:?}");
    let of = |address: &str| {
        let mails = mails.iter().filter(|mail| mail["to"] == serde_json::json!([address]));
        mails.map(|mail| mail["text"].as_str().unwrap()).collect::<Vec<_>>()
    };
    let (text, night) = (of("ops@acme.example"), of("night@acme.example"));
    assert_eq!((text.len(), night.len(), mails.len()), (2, 2, 4));
    let status = service.get("/v1/status").await.unwrap();
    let receivers = status["receivers"].as_array().unwrap();
    let full = receivers.iter().find(|one| one["name"] == "mail to full@acme.example").unwrap();
    assert_eq!(full["trouble"], "the mail server answered 452", "{full}");
    let head = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_once(": ").map(|(_, value)| value.to_owned()).unwrap_or_default()
    };
    assert!(text[0].contains("What to do"), "{}", text[0]);
    assert_eq!(head(text[1], "In-Reply-To"), head(text[0], "Message-ID"), "one thread");
    mails
}

#[tokio::test]
async fn a_grant_that_ends_and_is_renewed_opens_and_resolves_one_alert_at_every_receiver() {
    let mut place = Place::new(2, "").await;
    let (manager, mail) = (Manager::start().await, Mail::start("s3cret").await);
    let topic = Topic::create(&format!("ops-{}", random_hex(4))).await;
    let (channel, pager) = (Alerts::start().await, Alerts::start().await);
    let routing_key = random_hex(16);
    secret_file(&place.path("routing-key"), &format!("{routing_key}\n"));
    secret_file(&place.path("slack-url"), &format!("{}/T0-B0-secret\n", channel.url));
    let program = program(&place);
    place.extra += &format!(
        "[[alert]]\nname = \"channel\"\nkind = \"slack\"\nurl_file = \"{}\"\n\
         [[alert]]\nname = \"pager-duty\"\nkind = \"pagerduty\"\nurl = \"{}\"\nrouting_key_file = \"{}\"\n\
         [[alert]]\nname = \"manager\"\nkind = \"alertmanager\"\nurl = \"{}\"\n\
         [[alert]]\nname = \"topic\"\nkind = \"sns\"\ntopic_arn = \"{}\"\nendpoint_url = \"{}\"\n\
         [[alert]]\nname = \"program\"\nkind = \"exec\"\ncommand = [\"{}\"]\n{}",
        place.path("slack-url").display(),
        pager.url,
        place.path("routing-key").display(),
        manager.url,
        topic.arn,
        topic.moto.endpoint,
        program.display(),
        mail.section("s3cret").replace(", \"night@", ", \"full@acme.example\", \"night@"),
    );
    place.extra += "[validate]\nevery = \"2s\"\n";
    for (name, value) in [
        ("AWS_ACCESS_KEY_ID", "test"),
        ("AWS_SECRET_ACCESS_KEY", "test"),
        ("AWS_EC2_METADATA_DISABLED", "true"),
    ] {
        place.env.push((name.to_owned(), value.to_owned()));
    }
    let service = place.serve().await;
    service.token(1).await.unwrap();

    place.standin.sim.revoke(portal(1));
    let opened = place.alerts.wait_for("grant_revoked", "opened").await;
    let id = opened["data"]["incident_id"].as_str().unwrap().to_owned();

    let told = async |each: usize, change: &str| {
        (
            channel.raw().len(),
            pager.raw().len(),
            manager.firing().await.len(),
            mail.taken().len() / 2,
            topic.taken().await.len(),
            place.path(&format!("told/{change}.json")).exists(),
        ) == (each, each, usize::from(change == "opened"), each, each, true)
    };
    eventually("everybody is told", || told(1, "opened")).await;
    let firing = manager.firing().await.remove(0);
    assert_eq!(firing["labels"]["kind"], "grant_revoked");
    assert_eq!(firing["labels"]["incident"], *id);
    assert_eq!(firing["annotations"]["portals"], "portal 1");
    let heard: Value =
        serde_json::from_str(&fs::read_to_string(place.path("told/opened.json")).unwrap()).unwrap();
    assert_eq!(heard["data"]["incident_id"], *id);
    let env = fs::read_to_string(place.path("told/env")).unwrap();
    assert!(!env.contains("AWS_") && env.contains("GRANTKEEPER_KIND=grant_revoked"), "{env}");

    // The customer connects again.
    let (_, token) = place.standin.sim.install(Some(portal(1)), None);
    let ended = place.run_with(&["enroll", "--refresh-token-file", "-"], token.expose()).await;
    assert_eq!(ended.code, 0, "{}", ended.err);
    place.alerts.wait_for("grant_revoked", "resolved").await;
    eventually("everybody is told that it is over", || told(2, "resolved")).await;

    for (_, body) in channel.raw() {
        holds("slack", &serde_json::from_str(&body).unwrap()).await;
    }
    let events: Vec<Value> =
        pager.raw().iter().map(|(_, body)| serde_json::from_str(body).unwrap()).collect();
    for event in &events {
        holds("pagerduty", event).await;
        assert_eq!(event["dedup_key"], *id);
        assert_eq!(event["routing_key"], *routing_key);
    }
    assert_eq!([&events[0]["event_action"], &events[1]["event_action"]], ["trigger", "resolve"]);
    let mails = each_address_has_its_own(&mail, &service).await;
    let published = topic.taken().await;
    let kinds: Vec<_> =
        published.iter().map(|m| &m["MessageAttributes"]["change"]["Value"]).collect();
    assert!(kinds.contains(&&"opened".into()) && kinds.contains(&&"resolved".into()), "{kinds:?}");
    assert!(published.iter().all(|m| m["Subject"].as_str().unwrap().len() < 100));

    // None of them has been told anything else, and none of the secrets is anywhere.
    let all = [
        format!("{:?}", channel.raw()),
        format!("{mails:?}{published:?}{firing}{heard}"),
        service.log(),
        place.run(&["alert", "list", "--output", "json"]).await.out,
    ]
    .concat();
    for secret in ["s3cret", &*routing_key, "T0-B0-secret", token.expose()] {
        assert!(!all.contains(secret), "{secret} shows");
    }
    assert_eq!(service.stop().await, 0);
}

fn last_line(text: &str) -> Value {
    let last = text.lines().last().unwrap_or_default();
    serde_json::from_str(last).unwrap_or_else(|_| panic!("{text}"))
}

async fn tested(place: &Place, receiver: &str) -> Ended {
    place.run(&["alert", "test", receiver, "--output", "json"]).await
}

#[tokio::test]
async fn a_test_tells_what_is_wrong_with_a_receiver_with_a_service_and_without_one() {
    let mut place = Place::new(1, "").await;
    let mail = Mail::start("right").await;
    let closed = free_port_pair();
    let says = |text: &str| vec![Act::SayAndClose(text.into()); 8];
    let moved =
        says("HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n");
    let moved = Answerer::plain(moved).await;
    let gone = Answerer::plain(says("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")).await;
    let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let strange = Answerer::start(Greeting::tls(&params), says("")).await;
    secret_file(&place.path("open-to-all"), "https://hooks.example/secret");
    fs::set_permissions(place.path("open-to-all"), fs::Permissions::from_mode(0o644)).unwrap();
    let rows: Vec<(&str, String, &str)> = vec![
        (
            "nobody",
            format!("kind = \"webhook\"\nurl = \"http://127.0.0.1:{closed}/\""),
            "can't be reached",
        ),
        (
            "moved",
            format!("kind = \"slack\"\nurl = \"http://{}/\"", moved.authority),
            "not followed",
        ),
        ("gone", format!("kind = \"alertmanager\"\nurl = \"http://{}/\"", gone.authority), "404"),
        (
            "strange",
            format!("kind = \"webhook\"\nurl = \"https://{}/\"", strange.authority),
            "certificate",
        ),
        (
            "loose",
            format!("kind = \"slack\"\nurl_file = \"{}\"", place.path("open-to-all").display()),
            "chmod",
        ),
        (
            "keyless",
            format!(
                "kind = \"pagerduty\"\nrouting_key_file = \"{}\"",
                place.path("none").display()
            ),
            "none",
        ),
        (
            "program",
            "kind = \"exec\"\ncommand = [\"/bin/sh\", \"-c\", \"exit 3\"]".to_owned(),
            "ended with 3",
        ),
        (
            "missing",
            "kind = \"exec\"\ncommand = [\"/usr/bin/no-such-program\"]".to_owned(),
            "can't be run",
        ),
        (
            "unsafe-mail",
            format!(
                "kind = \"email\"\nfrom = \"a@b.example\"\nto = [\"a@b.example\"]\nhost = \"localhost\"\nport = {}",
                mail.port
            ),
            "certificate",
        ),
    ];
    for (name, section, _) in &rows {
        place.extra += &format!("[[alert]]\nname = \"{name}\"\n{section}\n");
    }
    place.extra += &mail.section("wrong");
    let words: BTreeMap<&str, &str> = rows
        .iter()
        .map(|(name, _, word)| (*name, *word))
        .chain([("mail", "does not let this user in")])
        .collect();
    for with_service in [false, true] {
        let service = if with_service { Some(place.serve().await) } else { None };
        for (name, word) in &words {
            let ended = tested(&place, name).await;
            let said: Value = last_line(&ended.err);
            assert_eq!((ended.code, &said["code"]), (1, &"alert_not_taken".into()), "{name}");
            let cause = said["cause"].as_str().unwrap();
            assert!(cause.contains(word), "{name}, service {with_service}: {cause}");
            assert!(!cause.contains("hooks.example") && !cause.contains("127.0.0.1"), "{cause}");
        }
        let ended = tested(&place, "pager").await;
        assert_eq!(ended.code, 0, "{}", ended.err);
        assert_eq!(tested(&place, "nobody-at-all").await.code, 3);
        if let Some(service) = service {
            assert_eq!(service.stop().await, 0);
        }
    }
    assert_eq!(place.alerts.of("test", "opened").len(), 2);
    assert_eq!(place.alerts.of("test", "resolved").len(), 2);
}

#[tokio::test]
async fn the_longest_texts_are_still_messages_that_slack_takes() {
    let now = Moment { boot: BootTime::default(), wall: SystemClock.wall() };
    let mut book = Book::new(AppName::parse("a".repeat(64)).unwrap(), now.boot);
    for kind in Kind::ALL {
        for number in 1..=8 {
            let detail = "d".repeat(4000);
            let notice = book.open(kind, portal(number).into(), Some(&detail), &[], now);
            if let Some(notice) = notice {
                holds("slack", &slack::message(&notice)).await;
                holds("slack", &slack::message(&notice.over())).await;
            }
        }
    }
}
