//! Everybody whom the service speaks to: found by name, reached, who they say they are; and what time it is at
//! HubSpot's. A target is asked for its front page at most: no credential goes out, and no path that could be one.

use std::{
    error::Error,
    net::{IpAddr, SocketAddr},
    path::Path,
    time::Duration,
};

use hyper::Uri;
use hyper_util::client::proxy::matcher::Matcher;
use jiff::{SignedDuration, Timestamp};
use reqwest::{Client, Url, header, redirect};
use tokio::{
    net::{TcpStream, lookup_host},
    task::JoinSet,
    time::timeout,
};

use super::{
    Scene,
    check::{Check, Of, State, Trouble, What},
};
use crate::{
    config::{self, Config, StoreSettings},
    secret::file::{self, SecretFileError},
    sink::post::{self, Target as Place},
    store::vault,
    time::{Clock, SystemClock},
};

/// What it is called is asked for this long: libraries try a second server after some.
const NAMES: Duration = Duration::from_secs(3);
/// Each further question about a target is given up after this.
const STEP: Duration = Duration::from_secs(2);
/// A difference of clocks that is worth a word, and one with which signatures are refused.
const NOTABLE: SignedDuration = SignedDuration::from_secs(30);
const HARMFUL: SignedDuration = SignedDuration::from_secs(300);

/// What time it was here and there.
type Times = (Timestamp, Timestamp);

/// Somebody whom the service speaks to.
struct Target {
    name: String,
    /// Scheme, host and port, and nothing else.
    origin: Url,
    /// As the service would ask.
    client: Result<Client, String>,
    /// Whom the service would ask in its place.
    proxy: Option<(String, u16)>,
    /// What settles which certificates are believed.
    ca: Ca,
}

/// What settles which certificates are believed, and how that is changed.
#[derive(Clone, Copy)]
struct Ca {
    by: &'static str,
    change: &'static str,
}

const OF_THE_MACHINE: &str = "the CA certificates of the machine";
const MACHINE: Ca =
    Ca { by: OF_THE_MACHINE, change: "install the CA that signed it, or set the address right" };

pub(super) async fn look(scene: &Scene) -> Vec<Check> {
    let Some(config) = &scene.config else { return vec![ca_roots(scene)] };
    let matcher = Matcher::from_system();
    let (targets, mut checks) = targets(scene, config, &matcher);
    checks.push(ca_roots(scene));
    checks.extend(targets.iter().map(|target| proxies(scene, target)));
    let mut asking = JoinSet::new();
    for target in targets {
        asking.spawn(async move { ask(target).await });
    }
    let mut date = None;
    while let Some(asked) = asking.join_next().await {
        let Ok((about, dated)) = asked else { continue };
        date = date.or(dated);
        checks.extend(about);
    }
    checks.push(match date {
        Some((ours, theirs)) => wall_clock(ours, theirs, &scene.root("timedatectl set-ntp true")),
        None => What::WallClock.skipped("HubSpot could not be asked what time it is"),
    });
    checks
}

fn wall_clock(ours: Timestamp, theirs: Timestamp, fix: &str) -> Check {
    let ahead = ours.duration_since(theirs);
    let off = ahead.abs();
    let which = if ahead.is_negative() { "behind" } else { "ahead of" };
    let saw = format!("this machine's clock is {} s {which} HubSpot's", off.as_secs());
    if off < NOTABLE {
        return What::WallClock.ok(saw);
    }
    let fix = format!("{fix}   # or set it by hand: date -u -s '{theirs}'");
    if off < HARMFUL {
        let saw = format!("{saw}: times in logs, alerts and answers are off; token life is not");
        return What::WallClock.warn(saw, fix);
    }
    let saw = format!(
        "{saw}: signatures of webhooks are taken for too old or too new; token life is not harmed"
    );
    What::WallClock.fail(Trouble::Machine, saw, fix)
}

/// Those whom the configuration names, and what is to be said of those that can't be asked.
fn targets(scene: &Scene, config: &Config, matcher: &Matcher) -> (Vec<Target>, Vec<Check>) {
    let mut found: Vec<Result<Target, Check>> = Vec::new();
    let mut add =
        |name: &str, url: &str, client, ca| found.push(target(matcher, name, url, client, ca));
    add("HubSpot", &config.hubspot.base_url, plain(), MACHINE);
    match &config.store {
        StoreSettings::Vault(settings, _) => {
            let own = settings.ca_file.is_some();
            let by = if own { "store.vault.ca_file" } else { OF_THE_MACHINE };
            let ca = Ca { by, change: "let store.vault.ca_file name the CA that signed it" };
            let client = vault::client(settings).map_err(|error| error.to_string());
            add("store", &settings.address, client, ca);
        }
        StoreSettings::Aws(settings, _) => {
            let env = config::environment;
            let region = settings.region.clone();
            let region = region.or_else(|| env("AWS_REGION")).or_else(|| env("AWS_DEFAULT_REGION"));
            let own = region.map(|region| format!("https://secretsmanager.{region}.amazonaws.com"));
            // Else it is only known to AWS's own files and services: no URL.
            let url = settings.endpoint_url.clone().or(own).unwrap_or_default();
            add("store", &url, plain(), MACHINE);
        }
        StoreSettings::File(_) => {}
    }
    for alert in &config.alerts {
        let name = format!("alert {}", alert.receiver.name());
        let url = match alert.receiver.target() {
            Some(Place::Url(url)) => Ok(url),
            Some(Place::File(file)) => address_in(scene, &name, &file),
            // Mail and programs are tried by `alert test`.
            None => continue,
        };
        found.push(url.and_then(|url| target(matcher, &name, url.as_str(), plain(), MACHINE)));
    }
    let (mut targets, mut checks) = (Vec::new(), Vec::new());
    for one in found {
        match one {
            Ok(target) => targets.push(target),
            Err(check) => checks.push(check),
        }
    }
    (targets, checks)
}

fn target(
    matcher: &Matcher,
    name: &str,
    url: &str,
    client: Result<Client, String>,
    ca: Ca,
) -> Result<Target, Check> {
    let Some(origin) = Url::parse(url).ok().and_then(origin) else {
        return Err(What::Names.of(name).skipped("its address is not known here"));
    };
    let proxy = origin.as_str().parse::<Uri>().ok().and_then(|uri| matcher.intercept(&uri));
    let proxy = proxy.and_then(|proxy| {
        let port = proxy.uri().port_u16().unwrap_or(80);
        Some((proxy.uri().host()?.to_owned(), port))
    });
    Ok(Target { name: name.to_owned(), origin, client, proxy, ca })
}

/// The address in a file of its own: a secret but for its host.
fn address_in(scene: &Scene, name: &str, file: &Path) -> Result<Url, Check> {
    let check = What::Names.of(name);
    let text = file::read(file).map_err(|error| match error {
        SecretFileError::Io(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            check.skipped(scene.not_for_me())
        }
        _ => check.skipped("its url_file can't be used (D09)"),
    })?;
    let url = std::str::from_utf8(&text).ok().and_then(|text| post::target(text).ok());
    url.ok_or_else(|| {
        let saw = format!("{} holds no https address", file.display());
        check.fail(Trouble::Configuration, saw, scene.put(file))
    })
}

/// The address without anything that could be a secret.
fn origin(mut url: Url) -> Option<Url> {
    url.host_str()?;
    url.set_path("/");
    url.set_query(None);
    url.set_fragment(None);
    url.set_username("").ok()?;
    url.set_password(None).ok()?;
    Some(url)
}

/// A client that believes the machine's CA certificates, as that towards HubSpot does.
fn plain() -> Result<Client, String> {
    let built = Client::builder()
        .redirect(redirect::Policy::none())
        .retry(reqwest::retry::never())
        .connect_timeout(STEP)
        .build();
    built.map_err(|error| told(&error))
}

fn ca_roots(scene: &Scene) -> Check {
    let file = ["SSL_CERT_FILE", "SSL_CERT_DIR"];
    let named: Vec<String> = file
        .iter()
        .filter_map(|name| Some(format!("{name}={}", config::environment(name)?)))
        .collect();
    let from = if named.is_empty() {
        "of the machine".to_owned()
    } else {
        format!("by {}", named.join(", "))
    };
    match plain() {
        Ok(_) => What::CaRoots.ok(format!("there are some, {from}")),
        Err(why) => {
            let fix = if named.is_empty() {
                scene.root("apt-get install ca-certificates   # or dnf, apk")
            } else {
                "unset SSL_CERT_FILE SSL_CERT_DIR".to_owned()
            };
            What::CaRoots.fail(
                Trouble::Configuration,
                format!("none can be used, {from}: {why}"),
                fix,
            )
        }
    }
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// What is meant for this machine must not go to a proxy: the client secret would.
fn proxies(scene: &Scene, target: &Target) -> Check {
    let check = What::Proxies.of(&target.name);
    let Some((host, port)) = &target.proxy else { return check.ok("none is in between") };
    if !is_loopback(&target.origin) {
        return check
            .ok(format!("through {host}:{port}, as the variables of this environment say"));
    }
    let saw = format!(
        "what is meant for this machine would go to the proxy {host}:{port}, in clear where it is http (as the variables of this environment say; the service may have others)"
    );
    let unit = scene.root("systemctl edit grantkeeper");
    let fix = format!(
        "export NO_PROXY=127.0.0.1,localhost,::1   # in the unit ({unit}): Environment=NO_PROXY=127.0.0.1,localhost,::1"
    );
    check.fail(Trouble::Configuration, saw, fix)
}

/// Who is connected to: the proxy, where there is one.
fn peer(target: &Target) -> (String, u16) {
    target.proxy.clone().unwrap_or_else(|| {
        let host = target.origin.host_str().unwrap_or_default();
        let bare = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        (bare, target.origin.port_or_known_default().unwrap_or(443))
    })
}

async fn ask(target: Target) -> (Vec<Check>, Option<Times>) {
    let (host, port) = peer(&target);
    let names = What::Names.of(&target.name);
    let connections = What::Connections.of(&target.name);
    let tls = What::Tls.of(&target.name);
    let not_yet = "it has no address (D19)";
    let addresses = match timeout(NAMES, lookup_host((host.as_str(), port))).await {
        Ok(Ok(found)) => found.collect::<Vec<_>>(),
        Ok(Err(error)) => {
            return (
                vec![
                    unnamed(&names, &host, &error.to_string()),
                    connections.skipped(not_yet),
                    tls.skipped(not_yet),
                ],
                None,
            );
        }
        Err(_) => {
            return (
                vec![
                    unnamed(&names, &host, "no answer in time"),
                    connections.skipped(not_yet),
                    tls.skipped(not_yet),
                ],
                None,
            );
        }
    };
    let named = named(&names, &host, &addresses);
    let connected = match timeout(STEP, connect(&addresses)).await {
        Ok(Ok(address)) => connections.ok(format!("{address} answers")),
        Ok(Err(error)) => unreached(&connections, &host, port, &error.to_string()),
        Err(_) => unreached(&connections, &host, port, "no answer in time"),
    };
    if connected.state != State::Ok {
        return (vec![named, connected, tls.skipped("there is no connection (D20)")], None);
    }
    let (secured, date) = front_page(&target, &tls).await;
    (vec![named, connected, secured], date.filter(|_| target.name == "HubSpot"))
}

fn named(check: &Of, host: &str, addresses: &[SocketAddr]) -> Check {
    if host.parse::<IpAddr>().is_ok() {
        return check.ok(format!("{host} is an address"));
    }
    let told: Vec<String> =
        addresses.iter().take(3).map(|address| address.ip().to_string()).collect();
    check.ok(format!("{host} is {}", told.join(", ")))
}

fn unnamed(check: &Of, host: &str, why: &str) -> Check {
    let fix = format!(
        "getent ahosts {host}; cat /etc/resolv.conf   # correct the name, or the servers that are asked"
    );
    check.fail(Trouble::Network, format!("{host} is not found: {why}"), fix)
}

async fn connect(addresses: &[SocketAddr]) -> std::io::Result<SocketAddr> {
    TcpStream::connect(addresses).await?.peer_addr()
}

fn unreached(check: &Of, host: &str, port: u16, why: &str) -> Check {
    let here =
        host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    let fix = if here {
        format!("ss -ltn 'sport = :{port}'   # start what is to listen there, or correct the port")
    } else {
        format!(
            "curl -sv --connect-timeout 5 telnet://{host}:{port} </dev/null   # let the firewall pass it, or correct host and port"
        )
    };
    check.fail(Trouble::Network, format!("{host}:{port} is not reached: {why}"), fix)
}

/// Asks for the target's front page, with nothing in hand.
async fn front_page(target: &Target, tls: &Of) -> (Check, Option<Times>) {
    let secured = target.origin.scheme() == "https";
    let client = match &target.client {
        Ok(client) => client,
        Err(why) => return (tls.skipped(format!("no client can be made: {why}")), None),
    };
    let asked = client.head(target.origin.clone()).timeout(STEP).send().await;
    match asked {
        Ok(answer) => {
            let date = answer.headers().get(header::DATE).and_then(|value| value.to_str().ok());
            let date = date.and_then(|date| jiff::fmt::rfc2822::parse(date).ok());
            let date = date.map(|date| (SystemClock.wall(), date.timestamp()));
            let check = if secured {
                tls.ok(format!("its certificate is believed, by {}", target.ca.by))
            } else {
                tls.skipped("it is spoken to in clear, on this machine")
            };
            (check, date)
        }
        Err(_) if !secured => (tls.skipped("it is spoken to in clear, on this machine"), None),
        Err(error) => (unbelieved(target, tls, &told(&error.without_url())), None),
    }
}

fn unbelieved(target: &Target, tls: &Of, why: &str) -> Check {
    let (host, port) = (
        target.origin.host_str().unwrap_or_default(),
        target.origin.port_or_known_default().unwrap_or(443),
    );
    let show =
        format!("openssl s_client -connect {host}:{port} -servername {host} -showcerts </dev/null");
    let saw = format!("no TLS with {host}:{port}, by {}: {why}", target.ca.by);
    tls.fail(Trouble::Network, saw, format!("{show}   # {}", target.ca.change))
}

/// An error and what lies beneath it, each once.
fn told(error: &dyn Error) -> String {
    let mut words = error.to_string();
    let mut beneath = error.source();
    while let Some(cause) = beneath {
        let cause_words = cause.to_string();
        if !words.contains(&cause_words) {
            words = format!("{words}: {cause_words}");
        }
        beneath = cause.source();
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_half_a_minute_off_is_worth_a_word_and_five_minutes_off_fails() {
        let ours: Timestamp = "2026-11-26T00:00:00Z".parse().unwrap();
        for (theirs, state, says) in [
            ("2026-11-25T23:59:31Z", State::Ok, "29 s ahead of"),
            ("2026-11-25T23:59:30Z", State::Warn, "30 s ahead of"),
            ("2026-11-26T00:00:31Z", State::Warn, "31 s behind"),
            ("2026-11-26T00:05:00Z", State::Fail, "300 s behind"),
        ] {
            let check = wall_clock(ours, theirs.parse().unwrap(), "x");
            assert_eq!(check.state, state, "{check:?}");
            assert!(check.saw.contains(says), "{check:?}");
        }
    }

    #[test]
    fn of_an_address_only_scheme_host_and_port_are_asked_and_shown() {
        for (text, asked) in [
            (
                "https://user:secret@hooks.example.com/services/SECRET?key=SECRET#SECRET",
                "https://hooks.example.com/",
            ),
            ("http://127.0.0.1:8080/SECRET", "http://127.0.0.1:8080/"),
        ] {
            assert_eq!(origin(Url::parse(text).unwrap()).unwrap().as_str(), asked);
        }
    }

    #[test]
    fn this_machine_is_known_by_its_addresses() {
        for (url, here) in [
            ("http://127.0.0.1:1", true),
            ("http://[::1]:1", true),
            ("http://localhost", true),
            ("https://localhost.example.com", false),
            ("https://10.0.0.1", false),
        ] {
            assert_eq!(is_loopback(&Url::parse(url).unwrap()), here, "{url}");
        }
    }
}
