//! Arbitrary records: no panic; what is read is written back with everything that was there.
#![no_main]

use grantkeeper::{secret::RefreshToken, store::Record};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(record) = Record::parse(bytes) else { return };
    let again = Record::parse(record.to_json().as_bytes()).unwrap();
    assert_eq!(again.members(), record.members());
    let _ = record.app();
    let token = RefreshToken::parse("newer").unwrap();
    let newer = record.with_refresh_token(&token);
    assert!(newer.portal().is_ok() || record.members().contains_key("scopes"));
    for (name, value) in record.members() {
        if !["refresh_token", "refreshToken"].contains(&name.as_str()) {
            assert_eq!(newer.members().get(&name), Some(&value), "{name} is lost");
        }
    }
    if let Ok(merged) = record.with_grant_of(&newer) {
        assert!(merged.portal().unwrap().refresh_token.same_as(&token));
    }
});
