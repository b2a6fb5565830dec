//! What the configuration promises: every mistake, at its place, in words that help, and never a
//! secret in them.

use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::{
    access::{Portals, Right, Who},
    hubspot::ApiVersion,
    lifecycle::{OnStart, RefreshMode},
    store::vault::{Auth, Method, POD_TOKEN},
};

const MINIMAL: &str = r#"
[app]
name = "acme-sync"
[store]
kind = "file"
[store.file]
path = "/var/lib/gk/store.redb"
key_file = "/etc/gk/store.key"
"#;

fn nothing(_: &str) -> Option<String> {
    None
}

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, Path::new("gk.toml"), &nothing)
}

fn mistakes(text: &str) -> Vec<Mistake> {
    match parse(text).unwrap_err() {
        ConfigError::Mistakes { mistakes, .. } => mistakes,
        error @ ConfigError::Unreadable { .. } => panic!("{error}"),
    }
}

#[test]
fn the_least_one_must_say_gives_the_defaults_of_the_contract() {
    let config = parse(MINIMAL).unwrap();
    assert_eq!(config.hubspot.base_url, "https://api.hubapi.com");
    assert_eq!(config.hubspot.api_version, ApiVersion::V2026_03);
    assert!((config.hubspot.max_refreshes_per_second - 5.0).abs() < f64::EPSILON);
    assert_eq!(config.hubspot.poll_uninstalls, None);
    assert_eq!(config.refresh, RefreshPolicy::default());
    assert_eq!(config.refresh.min_ttl.as_secs(), 120);
    assert_eq!(config.validate.every.as_secs(), 3600);
    assert_eq!(config.validate.on_start, OnStart::RequireApp);
    assert_eq!(config.socket.path, Path::new(DEFAULT_SOCKET));
    assert_eq!((config.socket.mode, config.socket.group), (0o660, None));
    assert!(config.access.is_empty() && config.alerts.is_empty() && config.http.is_none());
}

#[test]
fn the_example_in_the_documentation_is_a_configuration() {
    let docs = include_str!("../../docs/configuration.md");
    let mut examples = 0;
    for block in docs.split("```toml\n").skip(1) {
        let text = block.split("```").next().unwrap();
        parse(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        examples += 1;
    }
    assert!(examples >= 3, "{examples}");
}

#[test]
fn everything_that_can_be_said_arrives_as_meant() {
    let text = r#"
state_dir = "/var/lib/grantkeeper"
[app]
name = "acme-sync"
required_scopes = ["oauth", "crm.objects.contacts.read"]
[store]
kind = "vault"
[store.vault]
address = "https://vault.internal:8200/"
mount = "kv"
prefix = "/grantkeeper/acme/"
namespace = "team-a"
ca_file = "/etc/ssl/ca.pem"
auth = { method = "approle", role_id = "role", secret_id_file = "/run/secret-id", wrapped = false }
[hubspot]
base_url = "http://127.0.0.1:4010"
api_version = "v3"
max_refreshes_per_second = 2.5
poll_uninstalls = "30s"
[refresh]
mode = "recent"
recent_window = "1h 30m"
at = 0.5
min_ttl = "30s"
[validate]
every = "10m"
on_start = "require_all"
[socket]
path = "/run/gk.sock"
mode = "0600"
[[access]]
uid = 1001
portals = ["4711", 4712]
allow = ["token", "status"]
[[access]]
user = "root"
portals = ["*"]
allow = ["admin"]
[[alert]]
name = "ops"
kind = "webhook"
url_file = "/run/url"
signing_secret_file = "/run/whsec"
min_severity = "critical"
[http]
listen = "127.0.0.1:9464"
"#;
    let config = parse(text).unwrap();
    let StoreSettings::Vault(vault, _) = &config.store else { panic!("{:?}", config.store) };
    assert_eq!(vault.address, "https://vault.internal:8200");
    assert_eq!((vault.mount.as_str(), vault.prefix.as_str()), ("kv", "grantkeeper/acme"));
    assert!(
        matches!(&vault.auth, Auth::Method { mount, method: Method::AppRole { role_id, wrapped: false, .. } } if mount == "approle" && role_id == "role")
    );
    assert_eq!(config.hubspot.poll_uninstalls.unwrap().as_secs(), 30);
    assert_eq!(config.refresh.mode, RefreshMode::Recent);
    assert_eq!(config.refresh.recent_window.as_secs(), 5400);
    assert_eq!(config.access[0].who, Who::Uid(1001));
    assert!(matches!(&config.access[0].portals, Portals::These(ids) if ids.len() == 2));
    assert_eq!(config.access[1].who, Who::Uid(0));
    assert!(config.access[1].allow.contains(&Right::Admin));
    assert_eq!(config.alerts[0].manner.min_severity, crate::incident::Severity::Critical);
    assert_eq!(config.http.unwrap().port(), 9464);
}

#[test]
fn who_is_named_twice_among_the_addresses_of_a_mail_is_told_once() {
    let text = format!(
        "{MINIMAL}[[alert]]\nname=\"a\"\nkind=\"email\"\nfrom=\"a@b.example\"\nto=[\"c@b.example\", \"C <c@b.example>\", \"d@b.example\"]\nhost=\"h.example\"",
    );
    let config = parse(&text).unwrap();
    let crate::sink::Settings::Email(mail) = &config.alerts[0].receiver else {
        panic!("{:?}", config.alerts)
    };
    assert_eq!(mail.to.len(), 2, "{:?}", mail.to);
}

#[test]
fn each_way_to_log_in_to_vault_arrives_as_meant() {
    let parsed = |auth: &str| {
        let text = MINIMAL.replace("\"file\"", "\"vault\"");
        let text = text.split("[store.file]").next().unwrap().to_owned();
        let vault =
            format!("{text}[store.vault]\naddress = \"https://vault:8200\"\nauth = {{ {auth} }}\n");
        match parse(&vault).unwrap_or_else(|error| panic!("{error}\n{vault}")).store {
            StoreSettings::Vault(vault, _) => vault,
            other => panic!("{other:?}"),
        }
    };
    let method = |auth: &str| match parsed(auth).auth {
        Auth::Method { mount, method } => (mount, method),
        other => panic!("{other:?}"),
    };
    let (mount, pod) = method(r#"method = "kubernetes", role = "keeper", mount = "k8s/eu""#);
    assert_eq!(mount, "k8s/eu");
    assert!(matches!(pod, Method::Kubernetes { jwt_file, .. } if jwt_file == Path::new(POD_TOKEN)));
    let (mount, jwt) = method(r#"method = "jwt", jwt_file = "/run/jwt""#);
    assert!(mount == "jwt" && matches!(jwt, Method::Jwt { role: None, .. }));
    let (_, wrapped) =
        method(r#"method = "approle", role_id = "r", secret_id_file = "/run/w", wrapped = true"#);
    assert!(matches!(wrapped, Method::AppRole { wrapped: true, .. }));
    let cert = parsed(r#"method = "cert", cert_file = "/run/c.pem", key_file = "/run/c.key""#);
    assert_eq!(cert.identity.unwrap().key_file, Path::new("/run/c.key"));
}

#[test]
fn the_environment_fills_in_for_vault_and_nothing_else() {
    let text = MINIMAL.replace("\"file\"", "\"vault\"").replace("[store.file]", "[store.vault]");
    let text = text.split("path =").next().unwrap();
    let env = |name: &str| match name {
        "VAULT_ADDR" => Some("https://vault:8200".to_owned()),
        "VAULT_TOKEN" => Some("s.token\n".to_owned()),
        "VAULT_SKIP_VERIFY" => Some("1".to_owned()),
        "BAO_ADDR" => Some("https://other:8200".to_owned()),
        _ => None,
    };
    let config = Config::parse(text, Path::new("gk.toml"), &env).unwrap();
    let StoreSettings::Vault(vault, _) = &config.store else { panic!() };
    assert_eq!(vault.address, "https://vault:8200");
    assert_eq!(vault.prefix, "grantkeeper/acme-sync");
    assert!(matches!(vault.auth, Auth::Token(_)));
    assert!(config.warnings.iter().any(|warning| warning.contains("VAULT_SKIP_VERIFY is ignored")));
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn each_mistake_is_named_with_its_place_and_a_way_out() {
    // (what replaces MINIMAL's sections or is added to it, line, column, key, part of what is said)
    let with = |extra: &str| format!("{MINIMAL}{extra}\n");
    let rows: Vec<(String, usize, usize, &str, &str)> = vec![
        (with("[sotre]"), 9, 2, "sotre", "did you mean store?"),
        (
            with("[hubspot]\napi_version = \"2026-3\""),
            10,
            15,
            "hubspot.api_version",
            "did you mean \"2026-03\"?",
        ),
        (with("[hubspot]\napi_version = 2026"), 10, 15, "hubspot.api_version", "is not text"),
        (
            with("[hubspot]\nbase_url = \"http://api.hubapi.com\""),
            10,
            12,
            "hubspot.base_url",
            "would send secrets in the clear",
        ),
        (
            with("[hubspot]\nbase_url = \"https://api.hubapi.com/oauth\""),
            10,
            12,
            "hubspot.base_url",
            "has a path",
        ),
        (
            with("[hubspot]\nbase_url = \"hubapi\""),
            10,
            12,
            "hubspot.base_url",
            "is not an http or https address",
        ),
        (
            with("[hubspot]\nbase_url = \"https://u:p@hubapi.com\""),
            10,
            12,
            "hubspot.base_url",
            "user name or a password",
        ),
        (
            with("[hubspot]\nmax_refreshes_per_second = 0"),
            10,
            28,
            "hubspot.max_refreshes_per_second",
            "is not a number from",
        ),
        (
            with("[hubspot]\nmax_refreshes_per_second = \"5\""),
            10,
            28,
            "hubspot.max_refreshes_per_second",
            "is not a number from",
        ),
        (
            with("[hubspot]\npoll_uninstalls = \"25h\""),
            10,
            19,
            "hubspot.poll_uninstalls",
            "is not between",
        ),
        (
            with("[hubspot]\npoll_uninstalls = true"),
            10,
            19,
            "hubspot.poll_uninstalls",
            "is not a duration",
        ),
        (
            with("[hubspot]\npoll_uninstall = \"1m\""),
            10,
            1,
            "hubspot.poll_uninstall",
            "did you mean poll_uninstalls?",
        ),
        (
            with("[hubspot]\nclient_secret = \"CANARY\""),
            10,
            1,
            "hubspot.client_secret",
            "would be a secret",
        ),
        (with("[refresh]\nmode = \"lazy\""), 10, 8, "refresh.mode", "write one of"),
        (with("[refresh]\nat = 1.5"), 10, 6, "refresh.at", "is not a number from"),
        (with("[refresh]\nmin_ttl = 120"), 10, 11, "refresh.min_ttl", "say which unit: \"120s\""),
        (with("[refresh]\nmin_ttl = \"soon\""), 10, 11, "refresh.min_ttl", "is not a duration"),
        (with("[refresh]\nmin_ttl = \"-5s\""), 10, 11, "refresh.min_ttl", "is not a duration"),
        (
            with("[refresh]\nrecent_window = \"10ms\""),
            10,
            17,
            "refresh.recent_window",
            "is not between",
        ),
        (with("[validate]\nevery = \"0s\""), 10, 9, "validate.every", "is not between"),
        (with("[validate]\non_start = \"strict\""), 10, 12, "validate.on_start", "is not a value"),
        (with("[validate]\nevry = \"1h\""), 10, 1, "validate.evry", "did you mean every?"),
        (with("[socket]\npath = \"gk.sock\""), 10, 8, "socket.path", "is not an absolute path"),
        (with("[socket]\nmode = \"0666\""), 10, 8, "socket.mode", "everybody on this machine"),
        (with("[socket]\nmode = \"rw\""), 10, 8, "socket.mode", "is not a mode"),
        (with("[socket]\nmode = 660"), 10, 8, "socket.mode", "is not text"),
        (
            with("[socket]\ngroup = \"no-such-group-here\""),
            10,
            9,
            "socket.group",
            "is not a group of this machine",
        ),
        (
            with("[[access]]\nuser = \"no-such-user-here\"\nportals=[\"*\"]\nallow=[\"token\"]"),
            10,
            8,
            "access[0].user",
            "is not a user of this machine",
        ),
        (
            with("[[access]]\nuid = 1\ngid = 1\nportals=[\"*\"]\nallow=[\"token\"]"),
            9,
            1,
            "access[0]",
            "exactly one of",
        ),
        (with("[[access]]\nuid = 1\nallow=[\"token\"]"), 9, 1, "access[0].portals", "is missing"),
        (with("[[access]]\nuid = 1\nportals=[\"*\"]"), 9, 1, "access[0].allow", "is missing"),
        (
            with("[[access]]\nuid = 1\nportals=[\"*\"]\nallow=[\"read\"]"),
            12,
            8,
            "access[0].allow",
            "is not a right",
        ),
        (
            with("[[access]]\nuid = 1\nportals=[\"1\", \"1\"]\nallow=[\"token\"]"),
            11,
            15,
            "access[0].portals",
            "names a portal twice",
        ),
        (
            with("[[access]]\nuid = 1\nportals=[\"01\"]\nallow=[\"token\"]"),
            11,
            10,
            "access[0].portals",
            "is not a portal id",
        ),
        (with("[access]\nuid = 1"), 9, 1, "access", "is not a list of tables"),
        (
            with("[[alert]]\nname=\"a\"\nkind=\"pagerdutty\"\nurl=\"https://x.example\""),
            11,
            6,
            "alert[0].kind",
            "did you mean",
        ),
        (with("[[alert]]\nname=\"a\"\nkind=\"slack\""), 9, 1, "alert[0]", "where to send"),
        (
            with("[[alert]]\nname=\"a\"\nkind=\"pagerduty\""),
            9,
            1,
            "alert[0].routing_key_file",
            "integration key",
        ),
        (
            with("[[alert]]\nname=\"a\"\nkind=\"sns\"\ntopic_arn=\"arn:aws:sqs:x:1:t\""),
            12,
            11,
            "alert[0].topic_arn",
            "not the ARN of a topic",
        ),
        (
            with("[[alert]]\nname=\"a\"\nkind=\"exec\"\ncommand=[\"mail\"]"),
            12,
            10,
            "alert[0].command",
            "absolute path",
        ),
        (
            with(
                "[[alert]]\nname=\"a\"\nkind=\"email\"\nfrom=\"a@b.example\"\nto=[\"nobody\"]\nhost=\"h\"",
            ),
            13,
            5,
            "alert[0].to",
            "not a mail address",
        ),
        (
            with(
                "[[alert]]\nname=\"a\"\nkind=\"email\"\nfrom=\"a@b.example\"\nto=[\"a@b.example\"]\nhost=\"h.example\"\nencryption=\"none\"",
            ),
            15,
            12,
            "alert[0].encryption",
            "this machine only",
        ),
        (
            with("[[alert]]\nname=\"a\"\nkind=\"slack\"\nurl_file=\"/u\"\nquiet_hours=\"22-7\""),
            13,
            13,
            "alert[0].quiet_hours",
            "such as 22:00-07:00",
        ),
        (
            with(
                "[[alert]]\nname=\"a\"\nkind=\"slack\"\nurl_file=\"/u\"\nquiet_hours=\"22:00-07:00\"\ntime_zone=\"Berlin\"",
            ),
            14,
            11,
            "alert[0].time_zone",
            "not a time zone",
        ),
        (
            with("[[alert]]\nname=\"a\"\nkind=\"slack\"\nurl_file=\"/u\"\nremind=\"sometimes\""),
            13,
            8,
            "alert[0].remind",
            "not a duration",
        ),
        (with("[[alert]]\nname=\"a\"\nkind=\"webhook\""), 9, 1, "alert[0]", "where to send"),
        (
            with("[[alert]]\nname=\"a\"\nkind=\"webhook\"\nurl=\"http://x.example\""),
            12,
            5,
            "alert[0].url",
            "plain http",
        ),
        (
            with(
                "[[alert]]\nname=\"a\"\nkind=\"webhook\"\nurl_file=\"/u\"\nsigning_secret=\"CANARY\"",
            ),
            13,
            1,
            "alert[0].signing_secret",
            "name that file in signing_secret_file",
        ),
        (
            with(
                "[[alert]]\nname=\"a\"\nkind=\"webhook\"\nurl_file=\"/u\"\n[[alert]]\nname=\"a\"\nkind=\"webhook\"\nurl_file=\"/u\"",
            ),
            14,
            6,
            "alert[1].name",
            "name of another receiver",
        ),
        (
            with("[[access]]\nuid = 1\nportals=[]\nallow=[\"token\"]"),
            9,
            1,
            "access[0].portals",
            "is empty",
        ),
        (
            with(&format!("[socket]\npath = \"/{}\"", "s".repeat(120))),
            10,
            8,
            "socket.path",
            "longer than a socket's path",
        ),
        (with("[hubspot]\n\"CANARY CANARY\" = 1"), 10, 1, "hubspot", "is not a key"),
        (with("[http]\nlisten = \"9464\""), 10, 10, "http.listen", "is not an address"),
        (with("[audit]\nrepeats = \"each\""), 9, 1, "audit.file", "is missing"),
        (
            with("[audit]\nfile = \"-\"\nrepeats = \"all\""),
            11,
            11,
            "audit.repeats",
            "is not a value",
        ),
        (MINIMAL.replace("acme-sync", "a/b"), 3, 8, "app.name", "is not an app name"),
        (MINIMAL.replace("name = \"acme-sync\"", ""), 2, 1, "app.name", "is missing"),
        (MINIMAL.replace("\"file\"", "\"consul\""), 5, 8, "store.kind", "is not a value"),
        (MINIMAL.replace("path = ", "pth = "), 7, 1, "store.file.pth", "did you mean path?"),
        ("app = 3".to_owned(), 1, 7, "app", "is not a table"),
        ("[app".to_owned(), 1, 5, "", "not TOML"),
    ];
    assert!(rows.len() >= 35);
    for (text, line, column, key, said) in rows {
        let found = mistakes(&text);
        let twice = |mistake: &Mistake| found.iter().filter(|m| m.key == mistake.key).count() > 1;
        assert!(!found.iter().any(twice), "told twice: {found:#?}");
        let hit = found.iter().any(|mistake| {
            let words = format!("{}; {}", mistake.what, mistake.hint);
            (mistake.line, mistake.column, mistake.key.as_str()) == (line, column, key)
                && words.contains(said)
        });
        assert!(hit, "{line}:{column} {key} {said}\n{found:#?}\n{text}");
        assert!(!format!("{found:?}").contains("CANARY"));
    }
}

#[test]
fn all_mistakes_are_told_in_one_run_by_place() {
    let text =
        "[app]\nname = \"a b\"\n[store]\nkind = \"file\"\n[refresh]\nat = 9\nmin_ttl = 1\n[nope]\n";
    let found = mistakes(text);
    let places: Vec<usize> = found.iter().map(|mistake| mistake.line).collect();
    let mut sorted = places.clone();
    sorted.sort_unstable();
    assert_eq!(places, sorted);
    for key in [
        "app.name",
        "store.file.path",
        "store.file.key_file",
        "refresh.at",
        "refresh.min_ttl",
        "nope",
    ] {
        assert!(found.iter().any(|mistake| mistake.key == key), "{key}: {found:#?}");
    }
    let told = parse(text).unwrap_err().to_string();
    assert!(told.contains("gk.toml:6:6: refresh.at is not a number from 0.1 to 0.95"), "{told}");
}

#[test]
fn i10_a_secret_under_any_key_is_refused_and_never_echoed() {
    let keys = [
        "client_secret",
        "refresh_token",
        "token",
        "secret_id",
        "password",
        "api_key",
        "vault_token",
    ];
    let sections = ["", "[app]", "[store]", "[store.vault]", "[hubspot]", "[http]", "[[alert]]"];
    for section in sections {
        for key in keys {
            let text = format!("{section}\n{key} = \"CANARY-in-config\"\n");
            let error = parse(&text).unwrap_err();
            let told = format!("{error}\n{error:?}");
            assert!(!told.contains("CANARY"), "{told}");
            assert!(told.contains("would be a secret"), "{section} {key}: {told}");
        }
    }
}

#[test]
fn v1_is_accepted_with_the_date_of_its_end() {
    let config = parse(&format!("{MINIMAL}[hubspot]\napi_version = \"v1\"\n")).unwrap();
    assert!(config.warnings.iter().any(|warning| warning.contains("2027-02-16")));
}

#[test]
fn a_file_that_is_not_there_says_so_with_a_way_out() {
    let error = Config::load(Path::new("/nonexistent/gk.toml"), &nothing).unwrap_err();
    assert!(error.to_string().contains("/nonexistent/gk.toml"), "{error}");
    assert!(error.hint().contains("--config"));
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "\\PC{0,300}") {
        drop(parse(&text));
    }

    #[test]
    fn no_toml_makes_it_panic(lines in prop::collection::vec("(\\[{1,2}(app|store|store.vault|alert|access|refresh)\\]{1,2}|(name|kind|auth|mode|at|path|portals|every) = (\"[a-z0-9]{0,4}\"|[0-9]{1,3}|true|\\[1, \"x\"\\]|\\{ method = \"token\" \\}))", 0..12)) {
        drop(parse(&lines.join("\n")));
    }
}
