//! Numbers drawn for jitter.

/// Jitter: nothing secret depends on it.
#[derive(Debug)]
pub(super) struct Chance(u64);

impl Chance {
    /// Repeats itself: for simulations.
    pub(super) const fn of(seed: u64) -> Self {
        Self(seed | 1)
    }

    pub(super) fn seeded() -> Self {
        let mut seed = [0; 8];
        // Without a seed the jitter is the same for every process, which is all that is lost.
        aws_lc_rs::rand::fill(&mut seed).ok();
        Self(u64::from_le_bytes(seed) | 1)
    }

    /// A number from 0 to 1 (xorshift64*).
    pub(super) fn draw(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let top = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 40;
        #[expect(clippy::cast_precision_loss, reason = "24 bits fit a double exactly")]
        let share = top as f64 / 16_777_216.0;
        share
    }
}
