//! No secret shows (I10): canaries go in by every door and are looked for at every exit, while all
//! is well and while everything fails. The one exit they may leave by is the answer that grants a
//! token, and there they must be found: else the search would prove nothing.

use std::{fs, path::Path};

use grantkeeper::{
    config::Config,
    secret::ClientSecret,
    sim::{Action, Effect, Endpoint, Fault, Refusal},
    store::{CredentialStore, Expected, Key, vault::VaultStore},
};
use reqwest::Method;
use serde_json::json;

use crate::{
    store_vault::connect,
    support::{
        canary::{Canaries, Exits, hex},
        openbao::OpenBao,
        portal, raw, record,
        service::{Ended, Place, Service, eventually, finish, secret_file},
    },
};

/// Portals enough that each fault has one of its own that was never asked for.
const PORTALS: u64 = 14;
/// Paths of the socket that grant nothing.
const PATHS: [&str; 11] = [
    "/v1/status",
    "/v1/portals",
    "/v1/portals?state=revoked",
    "/v1/portals/1",
    "/v1/portals/2",
    "/metrics",
    "/livez",
    "/readyz?verbose",
    "/v1/portals/999/token",
    "/v1/portals/x/token",
    "/nothing",
];
/// Files that hold secrets because that is their purpose.
const MEANT: [&str; 9] =
    ["store.key", "whsec", "url", "secret-id", "new", "wrong", "enrol", "malformed", "granted"];

/// A place with a canary behind every door, and all that was seen at its exits.
struct Watch {
    place: Place,
    canaries: Canaries,
    exits: Exits,
}

impl Watch {
    async fn new() -> Self {
        let mut canaries = Canaries::default();
        let secret = canaries.fresh("client secret");
        let scenario =
            format!("[app]\nclient_secret = \"{secret}\"\n[settings]\nrotating = true\n");
        let mut place = Place::new(PORTALS, &scenario).await;
        for number in 1..=PORTALS {
            let token = place.standin.sim.refresh_token(portal(number)).unwrap();
            canaries.put("refresh token", token.expose());
        }
        let url = format!("{}/{}", place.alerts.url, canaries.fresh("webhook address"));
        secret_file(&place.path("url"), &url);
        let unused = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let down = format!("http://{unused}/{}", canaries.fresh("webhook address, nobody there"));
        fs::create_dir(place.path("granted")).unwrap();
        secret_file(&place.path("granted/url-down"), &down);
        let refusing =
            format!("{}/a/{}", place.alerts.url, canaries.fresh("webhook address, refused"));
        secret_file(&place.path("granted/url-refusing"), &refusing);
        canaries.put("webhook signing secret", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
        let folder = place.dir.path().display();
        let mut extra = "poll_uninstalls = \"1s\"\n[refresh]\nmode = \"on_demand\"\n[validate]\nevery = \"2s\"\n".to_owned();
        for (name, file) in
            [("taking", "url"), ("down", "granted/url-down"), ("refusing", "granted/url-refusing")]
        {
            extra += &format!(
                "[[alert]]\nname = \"{name}\"\nkind = \"webhook\"\nurl_file = \"{folder}/{file}\"\nsigning_secret_file = \"{folder}/whsec\"\n"
            );
        }
        place.extra += &extra;
        Self { place, canaries, exits: Exits::default() }
    }

    /// What the stand-in holds now as good becomes a canary.
    fn note_rotated(&mut self) {
        let sim = &self.place.standin.sim;
        for number in 1..=PORTALS {
            if let Some(token) = sim.refresh_token(portal(number)) {
                self.canaries.put("rotated refresh token", token.expose());
            }
        }
    }

    /// Asks for a token; one that is granted becomes a canary, and its answer is where it is found.
    async fn token(&mut self, number: u64) -> u16 {
        let target = format!("/v1/portals/{number}/token");
        let reply = raw::ask(&self.place.socket(), "GET", &target, "").await;
        if reply.status == 200 {
            let body = reply.json();
            let token = body["access_token"].as_str().unwrap().to_owned();
            self.canaries.put("access token", &token);
            let found = self.canaries.found_in(reply.undated().as_bytes());
            assert!(found.iter().any(|door| door.starts_with("access token")), "{found:?}");
            let rest = reply.undated().replace(&token, "");
            self.exits.saw("rest of a token answer", rest);
        } else {
            self.exits.saw(format!("refusal of a token, {}", reply.status), reply.undated());
        }
        self.note_rotated();
        reply.status
    }

    /// Everything that the socket tells without granting anything.
    async fn socket(&mut self) {
        for path in PATHS {
            let reply = raw::ask(&self.place.socket(), "GET", path, "").await;
            self.exits.saw(format!("socket {path}"), reply.undated());
        }
    }

    /// Runs a command, logging all it can, with both kinds of output.
    async fn command(&mut self, args: &[&str], input: &str) -> Vec<Ended> {
        let mut all = Vec::new();
        for format in ["table", "json"] {
            let more = [
                "--output",
                format,
                "--log-format",
                if format == "json" { "json" } else { "text" },
            ];
            let args = [args, &more].concat();
            let mut command = self.place.command(&args);
            command.env("GRANTKEEPER_LOG", "trace");
            let ended = finish(command, input).await;
            let name = format!("{} {}", args[0], args.get(1).unwrap_or(&""));
            self.exits.saw(format!("out of {name}"), &ended.out);
            self.exits.saw(format!("err of {name}"), &ended.err);
            all.push(ended);
        }
        all
    }

    /// The commands that change nothing.
    async fn looks(&mut self) {
        for args in [
            &["check"][..],
            &["check", "--offline"],
            &["doctor"],
            &["status"],
            &["portal", "list"],
            &["portal", "show", "1"],
            &["portal", "show", "999"],
            &["token", "999"],
            &["version"],
        ] {
            self.command(args, "").await;
        }
    }

    /// The commands that take secrets, right, wrong and malformed.
    async fn changes(&mut self) {
        let client = self.place.standin.sim.client_id().to_string();
        let wrong = self.canaries.fresh("wrong new client secret");
        secret_file(&self.place.path("wrong"), &wrong);
        let wrong = self.place.path("wrong").display().to_string();
        self.refused(&["rotate", "client-secret", "--from-file", &wrong], "").await;
        self.refused(&["enroll", "--refresh-token-file", &wrong], "").await;
        self.refused(&["app", "set", "--client-id", &client, "--client-secret-file", &wrong], "")
            .await;
        let halves = [self.canaries.fresh("malformed"), self.canaries.fresh("malformed")];
        for malformed in [
            halves.join(" "),
            format!("\"{}\"", halves[0]),
            halves.join("\n"),
            format!("{}\u{e9}", halves[1]),
        ] {
            secret_file(&self.place.path("malformed"), &malformed);
            let file = self.place.path("malformed").display().to_string();
            self.refused(&["rotate", "client-secret", "--from-file", &file], "").await;
            self.refused(&["enroll", "--refresh-token-file", "-"], &malformed).await;
        }
        // As an argument there is no door: the flag is refused, and what follows it not repeated.
        let ended =
            self.place.run(&["-vv", "rotate", "client-secret", "--secret", &halves[0]]).await;
        assert_eq!(ended.code, 2, "{ended:?}");
        self.exits.saw("a secret as an argument", ended.out + &ended.err);
        for number in [50, 51] {
            let (_, token) = self.place.standin.sim.install(Some(portal(number)), None);
            self.canaries.put("enrolled refresh token", token.expose());
            secret_file(&self.place.path("enrol"), token.expose());
            let file = self.place.path("enrol").display().to_string();
            for ended in self.command(&["enroll", "--refresh-token-file", &file], "").await {
                assert_eq!(ended.code, 0, "{ended:?}");
            }
        }
        let new = self.canaries.fresh("new client secret");
        let secret = ClientSecret::parse(new.clone()).unwrap();
        self.place.standin.sim.set_client_secret(secret, std::time::Duration::ZERO);
        let ended = self.command(&["rotate", "client-secret", "--from-file", "-"], &new).await;
        assert_eq!(ended[0].code, 0, "{ended:?}");
    }

    async fn refused(&mut self, args: &[&str], input: &str) {
        for ended in self.command(args, input).await {
            assert_ne!(ended.code, 0, "{args:?}: {ended:?}");
        }
    }

    /// An init container's turn; its files are meant to hold tokens, and do.
    async fn init(&mut self) {
        let granted = self.place.path("granted");
        let at = |name: &str| granted.join(name).display().to_string();
        let (folder, env, json) = (at("tokens"), at("env"), at("json"));
        fs::create_dir(&folder).unwrap();
        let args = [
            "init",
            "--output-dir",
            &folder,
            "--env-file",
            &env,
            "--json",
            &json,
            "--portal",
            "1",
            "--portal",
            "2",
        ];
        for ended in self.command(&args, "").await {
            assert_eq!(ended.code, 0, "{ended:?}");
        }
        for file in [at("tokens/1.token"), at("env"), at("json")] {
            let found = self.canaries.found_in(&fs::read(&file).unwrap());
            assert!(found.iter().any(|what| what.contains("access token")), "{file}: {found:?}");
        }
        self.refused(&["init", "--output-dir", &folder, "--portal", "999"], "").await;
        self.note_rotated();
    }

    /// HubSpot's ways to fail, each on a portal that has no token yet.
    async fn hubspot_faults(&mut self) {
        let http = |status: u16| serde_json::from_value(json!({ "http": status })).unwrap();
        let faults: [Effect; 11] = [
            http(500),
            http(502),
            http(403),
            http(429),
            http(477),
            Effect::Empty,
            Effect::Truncated,
            Effect::Cut,
            Effect::ResetAfter,
            Effect::Bare,
            Effect::Refuse(Refusal::BadRefreshToken),
        ];
        for (number, effect) in (4..).zip(faults) {
            let fault = Fault::new(effect).on(Endpoint::Token);
            let fault = self.place.standin.sim.set_fault(fault);
            self.token(number).await;
            self.place.standin.sim.clear_fault(fault);
        }
        let sim = &self.place.standin.sim;
        let fault = sim.set_fault(Fault::new(http(500)));
        self.looks().await;
        self.place.standin.sim.clear_fault(fault);
    }

    /// What the kernel shows of the service to whoever may look.
    fn process(&mut self, service: &Service) {
        let process = format!("/proc/{}", service.child.id().unwrap());
        let shown = |file: &str| fs::read(Path::new(&process).join(file)).unwrap();
        self.exits.saw("arguments", shown("cmdline"));
        let given: Vec<_> = self.place.env.iter().map(|(name, _)| name.as_str()).collect();
        let environment = String::from_utf8(shown("environ")).unwrap();
        for variable in environment.split('\0').filter(|variable| !variable.is_empty()) {
            let (name, value) = variable.split_once('=').unwrap();
            if !given.contains(&name) {
                assert!(["PATH", "HOME", "GRANTKEEPER_LOG"].contains(&name), "{name}");
                self.exits.saw("environment", value);
            }
        }
    }

    /// The configuration in the words of a developer's log line.
    fn configuration(&mut self) {
        let env = self.place.env.clone();
        let lookup = move |name: &str| {
            env.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
        };
        let path = self.place.path("grantkeeper.toml");
        let config = Config::parse(&self.place.config_text(), &path, &lookup).unwrap();
        self.exits.saw("configuration", format!("{config:?}\n{config:#?}"));
    }

    /// Ends the service and searches everything.
    async fn search(mut self, service: Service) {
        let at_least = ["incident opened", "app_rejected"];
        let log = service.log();
        self.exits.saw("log", &log);
        assert!(!log.contains("signature="), "the address of a file of the webhooks journal");
        for word in at_least {
            assert!(log.contains(word), "the log does not tell of {word}:\n{log}");
        }
        assert_eq!(service.stop().await, 0);
        self.note_rotated();
        let told = self.place.alerts.raw();
        assert!(told.len() >= 2, "{}", told.len());
        for (headers, body) in told {
            self.exits.saw("alert", body);
            for (name, value) in &headers {
                self.exits.saw("alert header", format!("{name}: {}", value.to_str().unwrap()));
            }
        }
        self.exits.saw_folder(self.place.dir.path(), &MEANT);
        assert!(self.exits.count() > 35, "{}", self.exits.count());
        self.canaries.stayed_in(&self.exits);
    }
}

/// The whole story on whatever store `watch` has; `store` is that store, by the test's own hands.
async fn everything_happens(
    watch: &mut Watch,
    store: &dyn CredentialStore,
    format: &str,
) -> Service {
    let service = watch.place.spawn_logging("trace", format);
    service.answers().await;
    let of_app = || service.log().contains("webhooks journal for uninstalls from now on");
    eventually("the app has a token of its own", || async { of_app() }).await;
    watch.place.standin.sim.tell(Action::AppUninstall, portal(1));
    for number in 1..=3 {
        assert_eq!(watch.token(number).await, 200);
    }
    watch.process(&service);
    watch.configuration();
    watch.socket().await;
    watch.looks().await;
    watch.init().await;
    watch.hubspot_faults().await;

    // A record that makes no sense, full of secrets.
    let garbage = watch.canaries.fresh("record that makes no sense");
    let key = Key::Portal(portal(3));
    let stored = store.read(key).await.unwrap();
    let nonsense = record(&json!({"refresh_token": {"value": garbage}, "note": garbage}));
    store.write(key, &nonsense, &Expected::At(stored.version)).await.unwrap();
    watch.place.standin.sim.revoke(portal(2));
    service.signal(rustix::process::Signal::HUP);
    watch.looks().await;
    watch.changes().await;
    // After such faults it may be told as revoked, lost or never good, and each says its words.
    eventually("the end of the grant is told", || async { service.refusal_of(2).await }).await;
    watch.place.alerts.wait_for("grant_mismatched", "opened").await;
    eventually("it is no longer served", || async { service.token(2).await.is_err() }).await;
    assert_ne!(watch.token(2).await, 200);

    let lost = watch.canaries.fresh("client secret nobody told us");
    let lost = ClientSecret::parse(lost).unwrap();
    watch.place.standin.sim.set_client_secret(lost, std::time::Duration::ZERO);
    watch.token(50).await;
    watch.place.alerts.wait_for("app_rejected", "opened").await;
    watch.socket().await;
    watch.looks().await;
    service
}

#[tokio::test]
async fn i10_no_secret_shows_with_the_embedded_store() {
    let mut watch = Watch::new().await;
    let key = fs::read_to_string(watch.place.path("store.key")).unwrap();
    watch.canaries.put("store key", key.trim());
    let store = watch.place.file_store();
    let service = everything_happens(&mut watch, &store, "text").await;
    drop(store);
    // The store goes, and something that is none takes its place.
    let junk = watch.canaries.fresh("not a store");
    secret_file(&watch.place.path("granted/junk"), &junk);
    fs::rename(watch.place.path("granted/junk"), watch.place.path("store.redb")).unwrap();
    service.signal(rustix::process::Signal::HUP);
    watch.looks().await;
    fs::remove_file(watch.place.path("store.redb")).unwrap();
    watch.looks().await;
    secret_file(&watch.place.path("store.key"), &watch.canaries.fresh("not a key"));
    watch.looks().await;
    watch.search(service).await;
}

/// A place on a server of its own, filled; the policy that opens it, and the store by the test's hands.
async fn on_openbao(bao: &OpenBao) -> (Watch, VaultStore, String) {
    let mut watch = Watch::new().await;
    watch.canaries.put("root token", &bao.root_token);
    let mount = bao.mount().await;
    let store = connect(bao.settings(&mount));
    watch.place.fill(&store).await;
    watch.place.store = format!(
        "[store]\nkind = \"vault\"\n[store.vault]\naddress = \"{}\"\nmount = \"{mount}\"\nprefix = \"gk/app\"\n",
        bao.addr
    );
    let policy = format!(
        r#"path "{mount}/data/gk/app/*" {{ capabilities = ["create", "read", "update"] }}
           path "{mount}/metadata/gk/app/*" {{ capabilities = ["list", "delete"] }}"#
    );
    (watch, store, bao.policy(&policy).await)
}

#[tokio::test]
async fn i10_no_secret_shows_with_openbao_and_an_approle() {
    let bao = OpenBao::start().await;
    let (mut watch, store, policy) = on_openbao(&bao).await;
    let (mount, role_id, secret_id) = bao.approle(&policy, json!({"token_ttl": "1h"})).await;
    watch.canaries.put("secret id", &secret_id);
    let file = watch.place.path("secret-id");
    secret_file(&file, &secret_id);
    watch.place.store += &format!(
        "auth = {{ method = \"approle\", mount = \"{mount}\", role_id = \"{role_id}\", secret_id_file = \"{}\" }}\n",
        file.display()
    );
    let service = everything_happens(&mut watch, &store, "json").await;

    // The store forgets the login, then refuses the next, then is sealed, then is gone.
    let list = Method::from_bytes(b"LIST").unwrap();
    let (_, accessors) = bao.api(list, "auth/token/accessors", None).await;
    for accessor in accessors["data"]["keys"].as_array().unwrap() {
        let (_, of) = bao
            .api(Method::POST, "auth/token/lookup-accessor", Some(json!({"accessor": accessor})))
            .await;
        if of["data"]["path"].as_str().is_some_and(|path| path.starts_with("auth/approle")) {
            bao.post("auth/token/revoke-accessor", json!({"accessor": accessor})).await;
        }
    }
    service.signal(rustix::process::Signal::HUP);
    watch.looks().await;
    secret_file(&file, &watch.canaries.fresh("wrong secret id"));
    for ended in watch.command(&["check"], "").await {
        assert_eq!(ended.code, 77, "{ended:?}");
    }
    secret_file(
        &file,
        &format!("{} {}", watch.canaries.fresh("half"), watch.canaries.fresh("half")),
    );
    watch.looks().await;
    secret_file(&file, &secret_id);
    bao.post("sys/seal", json!({})).await;
    service.signal(rustix::process::Signal::HUP);
    for ended in watch.command(&["check"], "").await {
        assert_eq!(ended.code, 75, "{ended:?}");
    }
    watch.looks().await;
    watch.socket().await;
    let errors = watch.exits.text("err of check");
    assert!(errors.is_empty() || !errors.contains("panicked"), "{errors}");
    watch.search(service).await;
}

#[tokio::test]
async fn i10_no_secret_shows_with_a_vault_token_from_the_environment() {
    let bao = OpenBao::start().await;
    let (mut watch, _store, policy) = on_openbao(&bao).await;
    let token = bao.token(&policy, json!({})).await;
    watch.canaries.put("Vault token", &token);
    watch.place.env.push(("VAULT_TOKEN".to_owned(), token.clone()));
    let service = watch
        .place
        .spawn_logging("trace,vaultrs=trace,rustify=trace,hyper=trace,reqwest=trace", "text");
    service.answers().await;
    assert_eq!(watch.token(1).await, 200);
    watch.process(&service);
    watch.configuration();
    watch.looks().await;
    watch.place.standin.sim.revoke(portal(1));
    watch.place.alerts.wait_for("grant_revoked", "opened").await;
    // A policy that is taken away, and a token that is none.
    bao.post(
        &format!("sys/policies/acl/{policy}"),
        json!({"policy": r#"path "none" { capabilities = ["deny"] }"#}),
    )
    .await;
    service.signal(rustix::process::Signal::HUP);
    watch.token(2).await;
    for ended in watch.command(&["check"], "").await {
        assert_eq!(ended.code, 77, "{ended:?}");
    }
    bao.post("auth/token/revoke", json!({"token": token})).await;
    service.signal(rustix::process::Signal::HUP);
    watch.token(3).await;
    watch.looks().await;
    for wrong in ["wrong", "mal formed"] {
        let wrong = format!("{} {wrong}", watch.canaries.fresh("wrong Vault token"));
        watch.place.env = vec![("VAULT_TOKEN".to_owned(), wrong)];
        watch.looks().await;
    }
    watch.place.env = vec![("VAULT_TOKEN".to_owned(), watch.canaries.fresh("unknown Vault token"))];
    watch.looks().await;
    watch.place.env = vec![("VAULT_TOKEN".to_owned(), token)];
    // Through an address that carries a password, which is refused without being repeated.
    let password = watch.canaries.fresh("password in an address");
    let address = bao.addr.replace("http://", &format!("http://user:{password}@"));
    let good = watch.place.store.clone();
    watch.place.store = good.replace(&bao.addr, &address);
    for ended in watch.command(&["check"], "").await {
        assert_eq!(ended.code, 78, "{ended:?}");
    }
    watch.place.store = good;
    watch.place.config();
    let lost = ClientSecret::parse(watch.canaries.fresh("client secret nobody told us")).unwrap();
    watch.place.standin.sim.set_client_secret(lost, std::time::Duration::ZERO);
    watch.place.alerts.wait_for("app_rejected", "opened").await;
    watch.socket().await;
    watch.search(service).await;
}

#[test]
fn the_search_finds_each_form_of_a_leak_and_nothing_else() {
    let mut canaries = Canaries::default();
    let secret = canaries.fresh("door");
    let leaks = [
        format!("level=trace token={secret}"),
        format!("the token starts with {}…", &secret[..16]),
        format!("…{}", &secret[secret.len() - 16..]),
        format!("{:?}", secret.as_bytes()),
        hex(&secret),
        {
            use base64::{Engine as _, engine::general_purpose::STANDARD};
            STANDARD.encode(format!("{{\"a\":\"{secret}\"}}"))
        },
        format!("token {}", "aB3_-".repeat(44)),
        "error: na1-0a1b2c3d-0a1b-4c3d-8a1b-0a1b2c3d4e5f is bad".to_owned(),
        "X-Vault-Token: s.AbCdEfGhIjKlMnOpQrStUvWx".to_owned(),
    ];
    for leak in &leaks {
        assert!(!canaries.found_in(leak.as_bytes()).is_empty(), "{leak}");
        let mut exits = Exits::default();
        exits.saw("log", leak);
        let searched = std::panic::catch_unwind(|| canaries.stayed_in(&exits));
        assert!(searched.is_err(), "{leak}");
    }
    let fine = format!("token #{} of portal 1, etag \"0a1b2c3d4e5f\"", &secret[..6]);
    assert!(canaries.found_in(fine.as_bytes()).is_empty());
}
