//! The socket towards apps: what it refuses and how, and that no client, slow, rude or gone, harms
//! another or the work it asked for.

use std::time::Duration;

use grantkeeper::{
    sim::{Delivery, Effect, Endpoint, Fault},
    time::{Clock, SystemClock},
};
use tokio::{io::AsyncWriteExt, net::UnixStream, task::JoinSet, time::timeout};

use crate::support::{
    raw::{self, RawReply},
    service::{Place, Service, eventually, portal, until},
    sim::http,
};

const ROTATING: &str = "[settings]\nrotating = true\nexpires_in = 1800";

/// A place whose service asks HubSpot for nothing until a caller does.
async fn on_demand(portals: u64) -> Place {
    let mut place = Place::new(portals, ROTATING).await;
    place.extra += "[refresh]\nmode = \"on_demand\"\n";
    place
}

async fn get(place: &Place, target: &str) -> RawReply {
    raw::ask(&place.socket(), "GET", target, "").await
}

/// A service that is ready, and its place.
async fn ready(portals: u64) -> (Place, Service) {
    let place = Place::new(portals, ROTATING).await;
    let service = place.serve().await;
    service.ready().await;
    (place, service)
}

fn refreshes(place: &Place, number: u64) -> usize {
    let ledger = place.standin.sim.ledger(0, Some(portal(number)));
    ledger.iter().filter(|presented| presented.endpoint == Endpoint::Token).count()
}

#[tokio::test]
async fn an_app_that_holds_the_current_token_is_told_so_without_a_body() {
    let (place, service) = ready(1).await;
    let path = "/v1/portals/1/token";
    let first = get(&place, path).await;
    assert_eq!(first.status, 200);
    assert_eq!(first.header("cache-control"), Some("no-store"));
    assert_eq!(first.header("content-type"), Some("application/json"));
    let etag = first.header("etag").unwrap().to_owned();
    let token = first.json()["access_token"].as_str().unwrap().to_owned();
    assert!(
        etag.starts_with('"') && etag.ends_with('"') && !token.contains(etag.trim_matches('"'))
    );
    let rows = [
        (etag.clone(), true),
        (format!("W/{etag}"), true),
        (format!("\"other\", {etag}"), true),
        (format!("\"a\",W/\"b\" ,  W/{etag},\"c\""), true),
        ("*".to_owned(), true),
        ("\"other\"".to_owned(), false),
        (etag.trim_matches('"').to_owned(), false),
        (String::new(), false),
    ];
    for (given, held) in rows {
        let header = format!("If-None-Match: {given}\r\n");
        let reply = raw::ask(&place.socket(), "GET", path, &header).await;
        assert_eq!(reply.status, if held { 304 } else { 200 }, "{given}");
        assert_eq!(reply.header("etag"), Some(&*etag), "{given}");
        assert_eq!(reply.header("cache-control"), Some("no-store"), "{given}");
        assert_eq!(reply.body.contains(&token), !held, "{given}");
    }
    let header = format!("If-None-Match: \"a\"\r\nIf-None-Match: {etag}\r\n");
    assert_eq!(raw::ask(&place.socket(), "GET", path, &header).await.status, 304);
    drop(service);
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_with_a_problem_that_says_so() {
    let (place, service) = ready(1).await;
    let token = "/v1/portals/1/token";
    assert_eq!(get(&place, &format!("{token}?min_ttl=0")).await.status, 200);
    assert_eq!(get(&place, &format!("{token}?min_ttl=300")).await.status, 200);
    assert_eq!(get(&place, "/v1/portals/%31/token").await.status, 200);
    let min_ttls = [
        "",
        "soon",
        "-1",
        "+",
        "1.5",
        "5m",
        "0x10",
        "86401",
        "1799",
        "99999999999999999999999",
        "1&min_ttl=2",
        "1;",
        "%ff",
        "\u{661}",
    ];
    let mut targets: Vec<String> =
        min_ttls.iter().map(|ttl| format!("{token}?min_ttl={ttl}")).collect();
    let ids = [
        "",
        "0",
        "01",
        "+1",
        "-1",
        "x",
        "1x",
        "1.0",
        "%2e%2e%2fx",
        "%ff",
        "%00",
        "99999999999999999999",
        "184467440737095516160",
    ];
    for id in ids {
        targets.push(format!("/v1/portals/{id}/token"));
        // Without an id it is another path.
        targets.extend((!id.is_empty()).then(|| format!("/v1/portals/{id}")));
    }
    let queries = [
        "limit=0",
        "limit=1001",
        "limit=-1",
        "limit=x",
        "limit=",
        "after=x",
        "after=-1",
        "after=99999999999999999999",
        "state=nope",
        "state=",
        "state=live&state=live",
        "page=2",
        "limit=1&Limit=1",
        "after=%ff",
    ];
    targets.extend(queries.iter().map(|query| format!("/v1/portals?{query}")));
    targets.push(format!("{token}?minttl=3"));
    targets.push(format!("{token}?min_ttl=3&x=1"));
    targets.push("/readyz?verbose&verbose".to_owned());
    for target in targets {
        let reply = get(&place, &target).await;
        assert_eq!(reply.status, 400, "{target}: {reply:?}");
        assert_eq!(reply.problem(), "bad_request", "{target}");
    }
    drop(service);
}

#[tokio::test]
async fn paths_and_methods_that_are_not_there_are_told_apart() {
    let (place, service) = ready(1).await;
    let paths = [
        "/",
        "/v1",
        "/v1/",
        "/v2/status",
        "/v1/portals/",
        "/v1/portals/1/",
        "/v1/portals/1/token/",
        "/v1/portals/1/refresh_token",
        "/v1/portals/../x/token",
        "/v1/portals/x/../1/token",
        "/v1/client",
        "/V1/status",
        "/etc/passwd",
        "/../../etc/passwd",
        "//v1/status",
    ];
    for path in paths {
        for method in ["GET", "POST", "DELETE"] {
            let reply = raw::ask(&place.socket(), method, path, "").await;
            assert_eq!(reply.status, 404, "{method} {path}: {reply:?}");
            assert_eq!(reply.problem(), "not_found", "{method} {path}");
        }
    }
    let rows = [
        ("POST", "/v1/portals/1/token", "GET"),
        ("DELETE", "/v1/portals/1/token", "GET"),
        ("BREW", "/v1/status", "GET"),
        ("PUT", "/metrics", "GET"),
        ("POST", "/livez", "GET"),
        ("GET", "/v1/reload", "POST"),
    ];
    for (method, path, allowed) in rows {
        let reply = raw::ask(&place.socket(), method, path, "").await;
        assert_eq!(reply.status, 405, "{method} {path}: {reply:?}");
        assert_eq!(reply.problem(), "method_not_allowed", "{method} {path}");
        assert!(reply.header("allow").is_some_and(|allow| allow.contains(allowed)), "{reply:?}");
    }
    assert_eq!(get(&place, "/v1/portals/2/token").await.problem(), "unknown_portal");
    assert_eq!(get(&place, "/v1/portals/2").await.status, 404);
    drop(service);
}

#[tokio::test]
async fn what_may_pass_by_itself_says_when_to_ask_again_and_what_will_not_does_not() {
    let place = Place::new(2, ROTATING).await;
    let effect = http(503);
    place.standin.sim.set_fault(Fault::new(effect));
    let service = place.serve().await;
    let reply = get(&place, "/v1/portals/1/token").await;
    assert_eq!((reply.status, &*reply.problem()), (503, "hubspot_unreachable"));
    place.standin.sim.clear_faults();
    service.ready().await;
    place.standin.sim.revoke(portal(2));
    service.signal(rustix::process::Signal::HUP);
    let ledger = || place.standin.sim.ledger(0, Some(portal(2))).len();
    assert!(ledger() > 0);
    place.standin.sim.configure(|settings| settings.expires_in = 2);
    drop(service);
    let service = place.serve().await;
    eventually("the end of the grant is known", || async {
        get(&place, "/v1/portals/2/token").await.status == 410
    })
    .await;
    assert_eq!(get(&place, "/v1/portals/2/token").await.problem(), "grant_revoked");
    drop(service);
}

#[tokio::test]
async fn portals_come_in_pages_that_join_without_a_gap() {
    let (place, service) = ready(5).await;
    let mut seen = Vec::new();
    let mut target = "/v1/portals?limit=2".to_owned();
    let mut pages = 0;
    loop {
        let page = get(&place, &target).await.json();
        let ids = page["portals"].as_array().unwrap().iter();
        seen.extend(ids.map(|one| one["portal_id"].as_u64().unwrap()));
        pages += 1;
        let Some(next) = page["next"].as_u64() else { break };
        target = format!("/v1/portals?limit=2&after={next}");
    }
    assert_eq!((seen, pages), (vec![1, 2, 3, 4, 5], 3));
    let count = async |query: &str| {
        let page = get(&place, &format!("/v1/portals?{query}")).await.json();
        (page["portals"].as_array().unwrap().len(), page["next"].as_u64())
    };
    assert_eq!(count("limit=5").await, (5, None));
    assert_eq!(count("limit=4").await, (4, Some(4)));
    assert_eq!(count("after=0").await, (5, None));
    assert_eq!(count("after=5").await, (0, None));
    assert_eq!(count("after=3&limit=1000").await, (2, None));
    assert_eq!(count("state=live").await, (5, None));
    assert_eq!(count("state=live&limit=1&after=3").await, (1, Some(4)));
    assert_eq!(count("state=revoked").await, (0, None));
    drop(service);
}

#[tokio::test]
async fn i2_fifty_callers_without_a_token_cause_one_refresh() {
    let place = on_demand(2).await;
    place.standin.sim.set_fault(Fault::new(Effect::Late(500)).on(Endpoint::Token));
    let service = place.serve().await;
    assert_eq!(refreshes(&place, 1), 0, "nothing is refreshed before it is asked for");
    let mut callers = JoinSet::new();
    for _ in 0..50 {
        let socket = place.socket();
        callers.spawn(async move { raw::ask(&socket, "GET", "/v1/portals/1/token", "").await });
    }
    let replies = callers.join_all().await;
    let tokens: std::collections::BTreeSet<_> = replies
        .iter()
        .map(|reply| {
            assert_eq!(reply.status, 200, "{reply:?}");
            reply.json()["access_token"].as_str().unwrap().to_owned()
        })
        .collect();
    assert_eq!((replies.len(), tokens.len()), (50, 1));
    assert_eq!(refreshes(&place, 1), 1);
    assert_eq!(refreshes(&place, 2), 0);
    drop(service);
}

#[tokio::test]
async fn i2_a_caller_that_hangs_up_cancels_nothing() {
    let place = on_demand(1).await;
    place.standin.sim.set_fault(Fault::new(Effect::Late(1000)).on(Endpoint::Token));
    let service = place.serve().await;
    let mut caller = UnixStream::connect(place.socket()).await.unwrap();
    let request = raw::request("GET", "/v1/portals/1/token", "");
    caller.write_all(request.as_bytes()).await.unwrap();
    let in_flight = || place.standin.sim.portal(portal(1)).unwrap().in_flight;
    eventually("the refresh is in flight", || async { in_flight() == 1 }).await;
    drop(caller);
    eventually("the refresh is over", || async { in_flight() == 0 }).await;
    let reply = get(&place, "/v1/portals/1/token").await;
    assert_eq!(reply.status, 200, "{reply:?}");
    let ledger = place.standin.sim.ledger(0, Some(portal(1)));
    let mut tokens = ledger.iter().filter(|presented| presented.endpoint == Endpoint::Token);
    assert_eq!(tokens.next().unwrap().delivery, Delivery::Delivered);
    assert_eq!(tokens.next(), None, "no second refresh was needed");
    drop(service);
}

#[tokio::test]
async fn two_hundred_connections_at_once_are_all_answered() {
    let (place, service) = ready(3).await;
    let mut open = Vec::new();
    for _ in 0..200 {
        open.push(UnixStream::connect(place.socket()).await.unwrap());
    }
    let mut callers = JoinSet::new();
    for (number, mut stream) in open.into_iter().enumerate() {
        callers.spawn(async move {
            let target = format!("/v1/portals/{}/token", number % 3 + 1);
            let request = raw::request("GET", &target, "");
            stream.write_all(request.as_bytes()).await.unwrap();
            RawReply::parse(&raw::heard(&mut stream).await).unwrap().status
        });
    }
    let replies = callers.join_all().await;
    assert_eq!(replies.len(), 200);
    assert!(replies.iter().all(|status| *status == 200), "{replies:?}");
    drop(service);
}

#[tokio::test]
async fn a_client_that_never_finishes_its_request_is_cut_and_disturbs_nobody() {
    let (place, service) = ready(1).await;
    let began = SystemClock.boot();
    let mut slow = JoinSet::new();
    for half in ["GET /v1/por", "GET /v1/status HTTP/1.1\r\nHost: x\r\nX-Lo", ""] {
        let mut stream = UnixStream::connect(place.socket()).await.unwrap();
        stream.write_all(half.as_bytes()).await.unwrap();
        slow.spawn(async move { (half, raw::heard(&mut stream).await) });
    }
    let mut answered = 0;
    while timeout(Duration::from_millis(50), slow.join_next()).await.is_err() {
        assert_eq!(get(&place, "/v1/portals/1/token").await.status, 200);
        answered += 1;
    }
    assert!(answered > 20, "the others were served meanwhile: {answered}");
    for (half, said) in slow.join_all().await {
        assert!(!said.contains("access_token"), "{half:?}: {said}");
    }
    let took = SystemClock.boot().since(began);
    assert!(took > Duration::from_secs(8) && took < Duration::from_secs(20), "{took:?}");
    drop(service);
}

#[tokio::test]
async fn a_client_that_reads_nothing_of_its_answers_is_cut_and_disturbs_nobody() {
    let (place, service) = ready(1).await;
    let mut deaf = UnixStream::connect(place.socket()).await.unwrap();
    // Far more answers than any buffer takes.
    let requests = "GET /openapi.json HTTP/1.1\r\nHost: grantkeeper\r\n\r\n".repeat(200);
    deaf.write_all(requests.as_bytes()).await.unwrap();
    let began = SystemClock.boot();
    let is_cut = async || {
        let broken = |error: std::io::Error| error.kind() == std::io::ErrorKind::BrokenPipe;
        deaf.try_write(b" ").is_err_and(broken)
    };
    timeout(Duration::from_secs(60), until(is_cut)).await.expect("it is waited for on and on");
    let took = SystemClock.boot().since(began);
    assert!(took > Duration::from_secs(25), "{took:?}");
    service.token(1).await.unwrap();
}

#[tokio::test]
async fn what_is_no_request_is_cut_off_without_a_word_about_the_service() {
    let (place, service) = ready(1).await;
    let long = format!("X-Long: {}\r\n", "a".repeat(64 * 1024));
    let many = "X-Many: a\r\n".repeat(2000);
    let lengthy = format!("/v1/portals?after={}", "1".repeat(70 * 1024));
    let rows = [
        (raw::request("GET", "/v1/status", &long), &[431][..]),
        (raw::request("GET", "/v1/status", &many), &[431]),
        (raw::request("GET", &lengthy, ""), &[414, 431]),
        ("\x16\x03\x01\x02\x00\x01\x00\x01\u{fc}\x03\x03".to_owned(), &[400]),
        ("GET /v1/status\r\n\r\n".to_owned(), &[400]),
        ("GET /v1/status HTTP/9.9\r\n\r\n".to_owned(), &[400]),
        // The beginning of HTTP/2 is told nothing in HTTP/1.
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(), &[]),
        ("GET /v1/status HTTP/1.1\r\nHost x\r\n\r\n".to_owned(), &[400]),
        ("POST /v1/reload HTTP/1.1\r\nContent-Length: -1\r\n\r\n".to_owned(), &[400]),
        ("\0\0\0\0\r\n\r\n".to_owned(), &[400]),
    ];
    for (bytes, expected) in rows {
        let said = raw::say(&place.socket(), bytes.as_bytes()).await;
        let shown = &bytes[..bytes.len().min(60)];
        // It may hang up so early that its answer is lost with the rest of a long request.
        if said.is_empty() && (bytes.len() > 16 * 1024 || expected.is_empty()) {
            continue;
        }
        let reply = RawReply::parse(&said).unwrap_or_else(|| panic!("{shown:?}: {said}"));
        assert!(expected.contains(&reply.status), "{shown:?}: {reply:?}");
        assert!(!said.contains("grantkeeper") && !said.contains('/') || reply.body.is_empty());
        assert_eq!(get(&place, "/livez").await.status, 200, "after {shown:?}");
    }
    drop(service);
}

#[tokio::test]
async fn several_requests_on_one_connection_are_answered_in_order() {
    let (place, service) = ready(2).await;
    let kept = |target: &str| format!("GET {target} HTTP/1.1\r\nHost: grantkeeper\r\n\r\n");
    let requests = [
        kept("/v1/portals/1/token"),
        kept("/v1/portals/x/token"),
        raw::request("GET", "/v1/portals/2/token", ""),
    ];
    let said = raw::say(&place.socket(), requests.concat().as_bytes()).await;
    let places =
        ["\"portal_id\":1,", "bad_request", "\"portal_id\":2,"].map(|part| said.find(part));
    assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{said}");
    drop(service);
}

#[tokio::test]
async fn a_body_that_does_not_come_is_waited_for_ten_seconds_and_no_longer() {
    let (place, service) = ready(1).await;
    let mut slow = UnixStream::connect(place.socket()).await.unwrap();
    let head = "POST /v1/portals HTTP/1.1\r\nHost: grantkeeper\r\nContent-Length: 100\r\n\r\n{";
    slow.write_all(head.as_bytes()).await.unwrap();
    let mut said = String::new();
    let read = tokio::io::AsyncReadExt::read_to_string(&mut slow, &mut said);
    timeout(Duration::from_secs(20), read).await.expect("it is waited for on and on").unwrap();
    let reply = RawReply::parse(&said).unwrap();
    assert_eq!((reply.status, reply.problem().as_str()), (408, "request_timeout"), "{reply:?}");
    service.token(1).await.unwrap();
}
