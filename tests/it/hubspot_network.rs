//! A network that fails, towards the real client: at each step of a call, from the name to the last
//! byte. What matters is which side of the line it falls on: nothing was sent, so the grant is as it
//! was (`unreachable`); or it was sent, and whether it was spent is unknown (`answer_lost`).

use grantkeeper::{
    hubspot::TokenEndpoint,
    lifecycle::{Refusal, RefusalClass as Class},
    time::{Clock, RuntimeClock, SystemClock},
};
use jiff::Timestamp;
use rcgen::CertificateParams;

use crate::{
    hubspot_replies::{PATIENCE, client, pair, spent},
    support::{
        answerer::{Act, Answerer, Greeting},
        service::Place,
        sim::Standin,
    },
};

async fn refused(base_url: String) -> Refusal {
    client(base_url)
        .refresh(&pair(), &spent(), PATIENCE)
        .await
        .expect_err("there is nothing to be had here")
}

fn granted(promised_length: usize) -> Vec<u8> {
    let body = r#"{"access_token":"a","refresh_token":"r","expires_in":1800,"hub_id":1}"#;
    format!("HTTP/1.1 200 OK\r\nContent-Length: {promised_length}\r\n\r\n{body}").into_bytes()
}

/// A certificate for the address that the client asks for, so that nothing else is wrong with it.
fn certificate(change: impl FnOnce(&mut CertificateParams)) -> Greeting {
    let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    change(&mut params);
    Greeting::tls(&params)
}

#[tokio::test]
async fn i4_where_nobody_listens_nothing_is_spent() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    // RFC 6761: a name that never resolves.
    for base_url in [nobody, "https://hubspot.invalid".to_owned()] {
        let refusal = refused(base_url.clone()).await;
        assert_eq!((refusal.class, refusal.http), (Class::Unreachable, None), "{base_url}");
    }
}

#[tokio::test]
async fn i4_i10_without_a_trusted_connection_nothing_is_sent() {
    let expired = |params: &mut CertificateParams| {
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2020, 2, 1);
    };
    let named_otherwise = |params: &mut CertificateParams| {
        let other = CertificateParams::new(vec!["other.example".to_owned()]).unwrap();
        params.subject_alt_names = other.subject_alt_names;
    };
    let greetings = [
        ("a certificate of nobody's", certificate(|_| ())),
        ("an expired certificate", certificate(expired)),
        ("a certificate for another", certificate(named_otherwise)),
        ("no TLS at all", Greeting::Plain),
        ("hangs up in the handshake", Greeting::HangUp),
        ("silent in the handshake", Greeting::Silence),
    ];
    for (what, greeting) in greetings {
        let answerer = Answerer::start(greeting, vec![Act::SayAndClose(granted(69))]).await;
        let refusal = refused(format!("https://{}", answerer.authority)).await;
        assert_eq!((refusal.class, refusal.http), (Class::Unreachable, None), "{what}");
        assert!(answerer.requests().is_empty(), "{what}: {:?}", answerer.requests());
    }
}

/// What the tests above and below would not notice: that a good certificate is taken.
#[tokio::test]
async fn a_certificate_that_the_machine_trusts_is_taken() {
    let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let (greeting, pem) = Greeting::tls_and_pem(&params);
    let acts = vec![Act::SayAndClose(granted(69)); 3];
    let answerer = Answerer::start(greeting, acts).await;
    let mut place = Place::new(1, "").await;
    place.standin.url = format!("https://{}", answerer.authority);
    std::fs::write(place.path("ca.pem"), pem).unwrap();
    let ended = place.run(&["check"]).await;
    assert!(answerer.requests().is_empty(), "{ended:?}");
    let bundle = place.path("ca.pem").display().to_string();
    place.env.push(("SSL_CERT_FILE".to_owned(), bundle));
    let ended = place.run(&["check"]).await;
    assert!(!answerer.requests().is_empty(), "{ended:?}");
}

#[tokio::test]
async fn i4_once_it_is_sent_an_answer_that_does_not_come_whole_is_lost() {
    let half = b"HTTP/1.1 200 OK\r\nContent-Le".to_vec();
    let cases = [
        ("hung up on", Act::SayAndClose(Vec::new()), None),
        ("reset", Act::SayAndReset(Vec::new()), None),
        ("half a head", Act::SayAndClose(half), None),
        ("no HTTP", Act::SayAndClose(b"SSH-2.0-OpenSSH_9.2\r\n".to_vec()), None),
        ("cut off in the body", Act::SayAndClose(granted(70)), Some(200)),
        ("reset in the body", Act::SayAndReset(granted(70)), Some(200)),
    ];
    for (what, act, http) in cases {
        let answerer = Answerer::plain(vec![act]).await;
        let refusal = refused(format!("http://{}", answerer.authority)).await;
        assert_eq!((refusal.class, refusal.http), (Class::AnswerLost, http), "{what}");
        assert_eq!(answerer.requests().len(), 1, "{what}: it was sent once");
    }
}

#[tokio::test]
async fn i4_a_server_that_hangs_is_given_up_after_ten_seconds() {
    for (said, http) in [(Vec::new(), None), (granted(70), Some(200))] {
        let answerer = Answerer::plain(vec![Act::SayAndHang(said)]).await;
        let only_time_is_left = async {
            answerer.was_asked().await;
            tokio::time::pause();
            std::future::pending::<()>().await;
        };
        let clock = RuntimeClock::starting_at(Timestamp::UNIX_EPOCH);
        let began = clock.boot();
        let refusal = tokio::select! {
            refusal = refused(format!("http://{}", answerer.authority)) => refusal,
            () = only_time_is_left => continue,
        };
        let waited = clock.boot().since(began);
        tokio::time::resume();
        assert!((9..=11).contains(&waited.as_secs()), "{waited:?}");
        assert_eq!((refusal.class, refusal.http), (Class::AnswerLost, http));
    }
}

#[tokio::test]
async fn i4_a_connection_that_was_kept_and_dies_under_a_request_repeats_nothing() {
    for end in [Act::SayAndReset(Vec::new()), Act::SayAndClose(Vec::new())] {
        let acts = vec![Act::Say(granted(69)), end, Act::Say(granted(69))];
        let answerer = Answerer::plain(acts).await;
        let client = client(format!("http://{}", answerer.authority));
        client.refresh(&pair(), &spent(), PATIENCE).await.unwrap();
        let refusal = client.refresh(&pair(), &spent(), PATIENCE).await.unwrap_err();
        assert_eq!(refusal.class, Class::AnswerLost);
        assert_eq!(answerer.requests().len(), 2, "the second was sent once");
        client.refresh(&pair(), &spent(), PATIENCE).await.unwrap();
    }
}

#[tokio::test]
async fn i10_a_redirect_is_not_followed_with_a_secret_in_hand() {
    let elsewhere = Answerer::plain(Vec::new()).await;
    for http in [301, 302, 307, 308] {
        let head = format!(
            "HTTP/1.1 {http} Moved\r\nLocation: http://{}/\r\nContent-Length: 0\r\n\r\n",
            elsewhere.authority
        );
        let answerer = Answerer::plain(vec![Act::SayAndClose(head.into_bytes())]).await;
        let refusal = refused(format!("http://{}", answerer.authority)).await;
        assert_eq!((refusal.class, refusal.http), (Class::Unknown, Some(http)));
    }
    assert!(elsewhere.requests().is_empty());
}

#[tokio::test]
async fn i1_i10_hubspot_s_clock_is_read_without_showing_any_credential() {
    let dated = b"HTTP/1.1 405 Method Not Allowed\r\nDate: Tue, 24 Nov 2026 09:00:00 GMT\r\n\r\n";
    let answerer = Answerer::plain(vec![Act::SayAndClose(dated.to_vec())]).await;
    let time = client(format!("http://{}", answerer.authority)).time().await;
    assert_eq!(time, Some("2026-11-24T09:00:00Z".parse().unwrap()));
    let asked = answerer.requests();
    assert!(asked[0].starts_with("HEAD /oauth/2026-03/token HTTP/1.1"), "{asked:?}");
    assert!(!asked[0].contains("fixture") && asked[0].ends_with("\r\n\r\n"), "{asked:?}");

    let standin = Standin::start("").await;
    let time = client(standin.url.clone()).time().await.unwrap();
    let ours = SystemClock.wall();
    assert!(ours.duration_since(time).as_secs().abs() <= 2, "{time} {ours}");
    assert_eq!(client("http://127.0.0.1:1".to_owned()).time().await, None);
}
