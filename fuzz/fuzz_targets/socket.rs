//! Arbitrary bytes on a connection of the socket, by the service's own user and by a stranger: no panic, nothing but HTTP
//! comes back, and never a secret; and to the stranger nothing but refusals.
#![no_main]

use grantkeeper::{access::Caller, socket::serve_stream};
use grantkeeper_fuzz::{CANARY, service};
use libfuzzer_sys::fuzz_target;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

fuzz_target!(|bytes: &[u8]| {
    let own = Caller::this_process().uid();
    said(bytes, own);
    // To a service of another user this process is a stranger.
    let answer = said(bytes, own + 1);
    assert!(answer.split("HTTP/1.").skip(1).all(|one| !one[1..].starts_with(" 2")), "{answer}");
});

/// What comes back from a service of this user's.
fn said(bytes: &[u8], own_uid: u32) -> String {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.unwrap().block_on(async {
        let (handle, _engine) = service(own_uid).await;
        let (near, far) = duplex(1 << 20);
        let serving = serve_stream(far, Caller::this_process(), handle.clone());
        let talking = async {
            let (mut heard, mut said) = tokio::io::split(near);
            said.write_all(bytes).await.ok();
            said.shutdown().await.ok();
            // A stream of events has no end of its own.
            handle.hang_up();
            let mut answer = Vec::new();
            heard.read_to_end(&mut answer).await.ok();
            answer
        };
        let ((), answer) = tokio::join!(serving, talking);
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1."));
        let text = String::from_utf8_lossy(&answer);
        // What was sent in may come back nowhere either.
        assert!(
            !text.contains(CANARY) || bytes.windows(CANARY.len()).any(|w| w == CANARY.as_bytes())
        );
        text.into_owned()
    })
}
