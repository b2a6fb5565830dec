//! Where the stand-in's random values come from: a counter hashed under a key, the key drawn at
//! start or derived from a scenario's seed, so that a run can be repeated token by token.
//! Knows nothing of what the values are used for. Not for real credentials.

use std::{
    fmt,
    hash::{BuildHasher, RandomState},
};

use aws_lc_rs::digest;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

/// Length of an access token's random part: 220 characters once encoded, as long as HubSpot's.
const OPAQUE_BYTES: usize = 165;

/// A source of tokens and of chance.
pub(super) struct Mint {
    key: [u8; 32],
    counter: u64,
}

impl Mint {
    /// The same `seed` and `purpose` give the same values in the same order; no seed gives new ones.
    pub(super) fn new(seed: Option<u64>, purpose: &str) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(purpose.as_bytes());
        if let Some(seed) = seed {
            context.update(&seed.to_be_bytes());
        } else {
            for _ in 0..4 {
                // A map's hash keys are drawn from the operating system: enough for a stand-in, and
                // it can't fail.
                context.update(&RandomState::new().hash_one(purpose).to_be_bytes());
            }
        }
        let mut key = [0; 32];
        key.copy_from_slice(context.finish().as_ref());
        Self { key, counter: 0 }
    }

    fn block(&mut self) -> [u8; 32] {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(&self.key);
        context.update(&self.counter.to_be_bytes());
        self.counter = self.counter.wrapping_add(1);
        let mut block = [0; 32];
        block.copy_from_slice(context.finish().as_ref());
        block
    }

    /// A version 4 UUID in lower case.
    pub(super) fn uuid(&mut self) -> String {
        let mut bytes = [0_u8; 16];
        bytes.copy_from_slice(&self.block()[..16]);
        bytes[6] = (bytes[6] & 0x0f) | 0x40;
        bytes[8] = (bytes[8] & 0x3f) | 0x80;
        let hex = format!("{:032x}", u128::from_be_bytes(bytes));
        let parts = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]];
        parts.join("-")
    }

    /// A credential made of `prefix` and a UUID.
    pub(super) fn credential<T, E>(
        &mut self,
        prefix: &str,
        parse: impl Fn(String) -> Result<T, E>,
    ) -> T {
        loop {
            // Succeeds at the first try: a UUID is printable.
            if let Ok(credential) = parse(format!("{prefix}{}", self.uuid())) {
                return credential;
            }
        }
    }

    /// Text as long and as meaningless as an access token.
    pub(super) fn opaque(&mut self) -> String {
        let mut bytes = Vec::with_capacity(OPAQUE_BYTES + 32);
        while bytes.len() < OPAQUE_BYTES {
            bytes.extend_from_slice(&self.block());
        }
        URL_SAFE_NO_PAD.encode(&bytes[..OPAQUE_BYTES])
    }

    /// A number from 0 up to, not including, 1.
    pub(super) fn chance(&mut self) -> f64 {
        let block = self.block();
        let number = u32::from_be_bytes([block[0], block[1], block[2], block[3]]);
        f64::from(number) / (f64::from(u32::MAX) + 1.0)
    }
}

impl fmt::Debug for Mint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mint").field("counter", &self.counter).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_seed_gives_one_sequence_and_no_seed_gives_another_each_time() {
        let draw = |seed| {
            let mut mint = Mint::new(seed, "test");
            (mint.uuid(), mint.opaque())
        };
        assert_eq!(draw(Some(7)), draw(Some(7)));
        assert_ne!(draw(Some(7)), draw(Some(8)));
        assert_ne!(draw(None), draw(None));
    }

    #[test]
    fn shapes_are_those_of_hubspot() {
        let mut mint = Mint::new(Some(1), "test");
        let uuid = mint.uuid();
        assert_eq!(uuid.len(), 36);
        assert_eq!(uuid.as_bytes()[14], b'4');
        assert_eq!(mint.opaque().len(), 220);
    }

    #[test]
    fn chance_stays_within_its_bounds_and_spreads() {
        let mut mint = Mint::new(Some(1), "test");
        let draws: Vec<f64> = (0..1000).map(|_| mint.chance()).collect();
        assert!(draws.iter().all(|draw| (0.0..1.0).contains(draw)));
        let low = draws.iter().filter(|draw| **draw < 0.5).count();
        assert!((400..600).contains(&low), "{low}");
    }
}
