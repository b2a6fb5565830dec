//! Arbitrary answers of HubSpot's: no panic, and none that is not HubSpot's own word in a 4xx ends a grant (I5).
#![no_main]

use grantkeeper::{
    hubspot::{
        Reply,
        signature::{Signers, Webhook, verify},
    },
    lifecycle::RefusalClass,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u16, Option<String>, Vec<u8>)| {
    let (http, retry_after, body) = input;
    let text = String::from_utf8_lossy(&body).into_owned();
    let reply = Reply { http, retry_after, dated: None, body: body.clone().into() };
    for refused in [reply.granted().err(), reply.introspection().err(), reply.done().err()] {
        let Some(refusal) = refused else { continue };
        let ends = [
            RefusalClass::GrantRefused,
            RefusalClass::GrantMismatched,
            RefusalClass::PortalUnavailable,
            RefusalClass::AppRefused,
        ];
        if ends.contains(&refusal.class) {
            assert!((400..500).contains(&http), "{http}");
            assert!(refusal.word.is_some_and(|word| text.contains(word)));
        }
        assert!(refusal.retry_after.is_none_or(|wait| wait.as_secs() <= 86_400));
    }
    let hook = Webhook {
        method: "POST",
        uri: &text,
        body: &body,
        signature_v3: Some(&text),
        timestamp: Some(&text),
        signature: Some(&text),
        version: None,
    };
    let now = jiff::Timestamp::UNIX_EPOCH;
    assert!(verify(&hook, &Signers::default(), now).is_err());
    let hook = Webhook { signature_v3: None, ..hook };
    assert!(verify(&hook, &Signers::default(), now).is_err());
});
