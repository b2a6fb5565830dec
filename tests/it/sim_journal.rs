//! The stand-in's webhooks journal: who may read it, what it tells of, and how its links end.

use std::sync::Arc;

use axum::{
    body::{Body, to_bytes},
    http::{Request, request::Builder},
};
use grantkeeper::{
    sim::{Action, Effect, Endpoint, Fault, InProcess, Scenario, Sim},
    time::RuntimeClock,
};
use serde_json::{Value, json};

use crate::support::{
    sim::Standin,
    sim_client::{App, portal, read, text},
};

const READ: &str = "developer.webhooks_journal.read";
const SUBSCRIBE: &str = "developer.webhooks_journal.subscriptions.write";
const INSTALLED: &str = "4-1909196";
const UNINSTALLED: &str = "4-1916193";

/// An app with a token of its own.
struct Reader {
    app: App,
    token: String,
}

impl Reader {
    async fn with(standin: &Standin, scope: &str) -> Self {
        let app = App::of(standin);
        let form = [("grant_type", "client_credentials"), ("scope", scope)];
        let (_, granted) = read(app.post("/oauth/2026-03/token", &form).await.unwrap()).await;
        Self { app, token: text(&granted, "access_token").to_owned() }
    }

    async fn get(&self, which: &str) -> (u16, Value) {
        let url = format!("{}/webhooks-journal/journal/2026-03/{which}", self.app.url);
        read(self.app.http.get(url).bearer_auth(&self.token).send().await.unwrap()).await
    }

    async fn subscribe(&self, event_type: &str) -> u16 {
        let url = format!("{}/webhooks-journal/subscriptions/2026-03", self.app.url);
        let body = json!({"subscriptionType": "APP_LIFECYCLE_EVENT", "eventTypeId": event_type, "properties": []});
        let request = self.app.http.post(url).bearer_auth(&self.token).json(&body);
        request.send().await.unwrap().status().as_u16()
    }

    async fn file(&self, entry: &Value) -> (u16, Value) {
        read(self.app.http.get(text(entry, "url")).send().await.unwrap()).await
    }
}

async fn subscribed(standin: &Standin) -> Reader {
    let reader = Reader::with(standin, &format!("{READ} {SUBSCRIBE}")).await;
    for event_type in [INSTALLED, UNINSTALLED] {
        assert_eq!(reader.subscribe(event_type).await, 201);
    }
    reader
}

#[tokio::test]
async fn the_journal_tells_installations_to_the_app_s_own_token_only() {
    let standin = Standin::start("").await;
    let reader = subscribed(&standin).await;
    assert_eq!(reader.get("earliest").await.0, 204);

    let (id, _) = standin.sim.install(None, None);
    standin.sim.uninstall(id);
    let (_, first) = reader.get("earliest").await;
    let (_, last) = reader.get("latest").await;
    let (_, next) = reader.get(&format!("offset/{}/next", text(&first, "currentOffset"))).await;
    assert_eq!(text(&next, "currentOffset"), text(&last, "currentOffset"));
    assert_eq!(reader.get("offset/2/next").await.0, 204);

    let (_, file) = reader.file(&last).await;
    assert_eq!(file["offset"], last["currentOffset"]);
    assert_eq!(file["journalEvents"][0]["action"], "APP_UNINSTALL");
    assert_eq!(file["journalEvents"][0]["eventTypeId"], UNINSTALLED);
    assert_eq!(file["journalEvents"][0]["portalId"], id.number());

    let (_, token) = standin.sim.install(Some(id), None);
    let (_, granted) = reader.app.refresh(&token).await;
    let of_portal =
        Reader { app: App::of(&standin), token: text(&granted, "access_token").to_owned() };
    assert_eq!(of_portal.get("latest").await.0, 403);
    let nobody = Reader { app: App::of(&standin), token: "nonsense".to_owned() };
    assert_eq!(nobody.get("latest").await.0, 401);
    assert_eq!(reader.get("middle").await.0, 404);
    assert_eq!(reader.get("offset/99/next").await.0, 404, "no such place");
}

#[tokio::test]
async fn nothing_is_told_before_it_was_subscribed_to_and_once_is_enough() {
    let standin = Standin::start("").await;
    let reader = Reader::with(&standin, &format!("{READ} {SUBSCRIBE}")).await;
    standin.sim.install(Some(portal(1)), None);
    assert_eq!(reader.get("earliest").await.0, 404, "nothing is subscribed to");
    assert_eq!(reader.subscribe(UNINSTALLED).await, 201);
    assert_eq!(reader.subscribe(UNINSTALLED).await, 409);
    assert_eq!(reader.subscribe("4-1").await, 400);
    assert_eq!(reader.get("earliest").await.0, 204);
    standin.sim.install(Some(portal(2)), None);
    standin.sim.uninstall(portal(2));
    let (_, entry) = reader.get("earliest").await;
    let (_, file) = reader.file(&entry).await;
    assert_eq!(file["journalEvents"].as_array().unwrap().len(), 1);
    assert_eq!(file["journalEvents"][0]["portalId"], 2);
    assert_eq!(standin.sim.events(0).len(), 3, "the ground truth has them all");
    let only_reads = Reader::with(&standin, READ).await;
    assert_eq!(only_reads.subscribe(INSTALLED).await, 403);
}

#[tokio::test]
async fn a_file_is_behind_a_link_that_expires_and_takes_no_token() {
    let standin = Standin::start("[settings]\njournal_batch = 2\n").await;
    let reader = subscribed(&standin).await;
    for number in 1..=3 {
        let told = format!("{{\"action\": \"APP_UNINSTALL\", \"portal\": {number}}}");
        assert_eq!(reader.app.control("POST", "/events", &told).await.0, 204);
    }
    let (_, entry) = reader.get("earliest").await;
    assert_eq!(text(&entry, "currentOffset"), "2");
    let (_, file) = reader.file(&entry).await;
    let portals: Vec<_> = file["journalEvents"].as_array().unwrap().iter().collect();
    assert_eq!(portals.iter().map(|event| &event["portalId"]).collect::<Vec<_>>(), [1, 2]);
    let with_token = reader.app.http.get(text(&entry, "url")).bearer_auth(&reader.token);
    assert_eq!(with_token.send().await.unwrap().status(), 400);
    let forged = text(&entry, "url").replace("signature=", "signature=x");
    assert_eq!(reader.app.http.get(forged).send().await.unwrap().status(), 403);
    standin.sim.configure(|settings| settings.journal_url_expires_in = 0);
    let (_, entry) = reader.get("latest").await;
    assert_eq!(reader.file(&entry).await.0, 403, "it has expired");
}

#[tokio::test]
async fn faults_meet_the_journal_and_its_files_apart() {
    let standin = Standin::start("").await;
    let reader = subscribed(&standin).await;
    standin.sim.tell(Action::AppUninstall, portal(1));
    standin.sim.set_fault(Fault::new(Effect::Truncated).on(Endpoint::JournalFile).times(1));
    let (status, entry) = reader.get("latest").await;
    assert_eq!(status, 200);
    let file = reader.app.http.get(text(&entry, "url")).send().await.unwrap();
    assert!(serde_json::from_slice::<Value>(&file.bytes().await.unwrap()).is_err());
    assert_eq!(reader.file(&entry).await.0, 200);
    let fault = r#"{"effect": {"http": 503}, "endpoint": "journal", "count": 1}"#;
    assert_eq!(reader.app.control("POST", "/faults", fault).await.0, 201);
    let url = format!("{}/webhooks-journal/journal/2026-09/latest", reader.app.url);
    let asked = || reader.app.http.get(&url).bearer_auth(&reader.token).send();
    assert_eq!(asked().await.unwrap().status(), 503);
    assert_eq!(asked().await.unwrap().status(), 200);
}

async fn ask(asked: &InProcess, request: Request<Body>) -> (u16, Value) {
    let response = asked.ask(request).await.unwrap();
    let status = response.status().as_u16();
    let body = to_bytes(response.into_body(), 100_000).await.unwrap();
    (status, serde_json::from_slice(&body).unwrap_or_default())
}

#[tokio::test(start_paused = true)]
async fn whoever_was_away_for_more_than_three_days_does_not_find_their_place_again() {
    let clock = RuntimeClock::starting_at("2026-11-24T00:00:00Z".parse().unwrap());
    let sim = Sim::new(Scenario::parse("seed = 1").unwrap(), Arc::new(clock));
    let asked = sim.in_process();
    let (id, secret) = (sim.client_id(), sim.client_secret());
    let form = format!(
        "grant_type=client_credentials&client_id={id}&client_secret={}&scope={READ}%20{SUBSCRIBE}",
        secret.expose()
    );
    let token = async || {
        let request = Request::post("/oauth/2026-03/token")
            .header("content-type", "application/x-www-form-urlencoded")
            .body(Body::from(form.clone()))
            .unwrap();
        ask(&asked, request).await.1["access_token"].as_str().unwrap().to_owned()
    };
    let signed =
        |builder: Builder, token: &str| builder.header("authorization", format!("Bearer {token}"));
    let first = token().await;
    let body = json!({"subscriptionType": "APP_LIFECYCLE_EVENT", "eventTypeId": UNINSTALLED});
    let request = signed(Request::post("/webhooks-journal/subscriptions/2026-03"), &first);
    assert_eq!(ask(&asked, request.body(Body::from(body.to_string())).unwrap()).await.0, 201);
    let next = async |token: &str| {
        let request =
            signed(Request::get("/webhooks-journal/journal/2026-03/offset/1/next"), token);
        ask(&asked, request.body(Body::empty()).unwrap()).await.0
    };
    for number in 1..=2 {
        sim.tell(Action::AppUninstall, portal(number));
    }
    assert_eq!(next(&first).await, 200);
    tokio::time::advance(std::time::Duration::from_secs(3 * 24 * 3600 + 1)).await;
    assert_eq!(next(&first).await, 401, "its life is over");
    assert_eq!(next(&token().await).await, 404);
}
