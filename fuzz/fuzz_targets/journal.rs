//! A journal that was cut off and changed anywhere: it opens or says why not, and what it gives was written to it.
#![no_main]

use std::sync::Arc;

use grantkeeper::{
    journal::{Answer, Entry, open},
    portal::{AppName, PortalId},
    sealing::SealingKey,
    secret::RefreshToken,
    time::Clock,
};
use grantkeeper_fuzz::{MemoryDisk, TokioClock};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, Vec<(u16, u8)>, u16, Vec<u8>)| {
    let (entries, flips, cut, behind) = input;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.unwrap().block_on(async {
        let (disk, app) = (MemoryDisk::default(), AppName::parse("fuzz").unwrap());
        let key = || SealingKey::from_bytes(&[7; 32]).unwrap();
        let clock: Arc<dyn Clock> = Arc::new(TokioClock::default());
        let token = |number: u64| RefreshToken::parse(format!("token-{number}")).unwrap();
        let (journal, _, keeper) =
            open(Arc::new(disk.clone()), key(), &app, Arc::clone(&clock)).await.unwrap();
        let writing = async {
            for number in 1..=u64::from(entries % 16) {
                let answer = Answer {
                    spent: token(0).fingerprint(),
                    refresh_token: Some(token(number)),
                    access: None,
                    enrolled: false,
                };
                let portal = PortalId::new(number).unwrap();
                journal.keep(Entry::Answered { portal, answer }).await.unwrap();
            }
            drop(journal);
        };
        tokio::join!(keeper.run(), writing);
        for segment in disk.0.lock().unwrap().values_mut() {
            for (at, with) in &flips {
                let at = usize::from(*at);
                if let Some(byte) = segment.get_mut(at) {
                    *byte ^= with;
                }
            }
            segment.truncate(segment.len().saturating_sub(usize::from(cut)));
            segment.extend(&behind);
        }
        let Ok((_, found, _)) = open(Arc::new(disk), key(), &app, clock).await else { return };
        for (portal, trail) in found.trails {
            let newest = trail.newest.expect("each was written with one");
            assert!(newest.same_as(&token(portal.number())), "{portal} has another's token");
        }
    });
});
