//! The health listener on TCP: what anybody may know, and what one who does not go away can take of it.

use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::support::{
    program::free_port_pair,
    raw::{RawReply, heard},
    service::{Place, Service, eventually, portal},
};

/// A service of so many portals, the second of which left before the start.
async fn listening(portals: u64) -> (Place, Service, String) {
    let mut place = Place::new(portals, "[settings]\nrotating = true").await;
    let address = format!("127.0.0.1:{}", free_port_pair());
    place.extra += &format!("[http]\nlisten = \"{address}\"\n");
    place.standin.sim.uninstall(portal(2));
    let service = place.serve().await;
    (place, service, address)
}

/// What comes until the service hangs up.
async fn ask(address: &str, target: &str) -> RawReply {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {target} HTTP/1.1\r\nHost: grantkeeper\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let text = heard(&mut stream).await;
    RawReply::parse(&text).unwrap_or_else(|| panic!("{target}: {text:?}"))
}

#[tokio::test]
async fn anybody_is_told_words_and_counts_over_tcp_and_never_a_token() {
    let (_place, service, address) = listening(3).await;
    let token = service.token(1).await.unwrap()["access_token"].as_str().unwrap().to_owned();
    let told = || async {
        let page = ask(&address, "/").await.body;
        page.contains("warning grant_mismatched since") && page.contains("\nready\n")
    };
    eventually("the status page tells of a grant that does not work", told).await;

    let page = ask(&address, "/").await;
    assert_eq!(page.header("content-type"), Some("text/plain; charset=utf-8"));
    let words: Vec<&str> = page.body.split_whitespace().collect();
    for said in ["ready app acme-sync ok", "store file ok", "portals 3 2 live, 1 mismatched"] {
        assert!(words.join(" ").contains(said), "{said}: {}", page.body);
    }
    assert!(page.body.contains(": 1 portal\n"), "{}", page.body);
    for (target, status) in [
        ("/", 200),
        ("/livez", 200),
        ("/readyz?verbose", 200),
        ("/metrics", 200),
        ("/v1/portals/1/token", 404),
        ("/v1/portals/1", 404),
        ("/v1/status", 404),
        ("/v1/events", 404),
        ("/openapi.json", 404),
    ] {
        let reply = ask(&address, target).await;
        assert_eq!(reply.status, status, "{target}: {reply:?}");
        assert!(!reply.body.contains(&token), "{target}");
        assert_eq!(reply.header("connection"), Some("close"), "one request each: {target}");
    }
}

#[tokio::test]
async fn connections_that_say_nothing_are_cut_and_more_than_there_is_room_for_take_it_from_nobody_for_long()
 {
    let (_place, service, address) = listening(2).await;
    let mut silent = Vec::new();
    for _ in 0..300 {
        silent.push(TcpStream::connect(&address).await.unwrap());
    }
    // Waits in the kernel's queue until the first of them are cut.
    assert_eq!(ask(&address, "/livez").await.status, 200);
    assert_eq!(heard(&mut silent[0]).await, "", "cut without a word");
    service.token(1).await.unwrap();
}
