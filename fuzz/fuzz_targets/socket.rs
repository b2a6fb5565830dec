//! Arbitrary bytes on a connection of the socket: no panic, nothing but HTTP comes back, and never a secret.
#![no_main]

use grantkeeper::{access::Caller, socket::serve_stream};
use grantkeeper_fuzz::{CANARY, service};
use libfuzzer_sys::fuzz_target;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

fuzz_target!(|bytes: &[u8]| {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.unwrap().block_on(async {
        let (handle, _engine) = service().await;
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
        assert!(!text.contains(CANARY) || bytes.windows(CANARY.len()).any(|w| w == CANARY.as_bytes()));
    });
});
