//! Arbitrary audit logs: no panic, and none is whole that no chain made.
#![no_main]

use grantkeeper::audit::verify;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut lines = 0;
    if let Ok(whole) = verify(bytes, |_| lines += 1) {
        assert_eq!(whole.lines, lines);
        assert!(whole.tip.seq >= whole.lines);
    }
});
