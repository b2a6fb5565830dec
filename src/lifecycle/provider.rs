//! What was learned of the provider from its answers: whether it replaces refresh tokens. Until it has
//! shown that it does not, it is taken to (study `scale.md` 10).

use serde::{Deserialize, Serialize};

/// Answers in a row with an unchanged refresh token, after which the provider counts as one that
/// keeps them.
const BELIEVED: u32 = 20;

/// Whether a refresh replaces the refresh token, as far as seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Rotation {
    unchanged: u32,
}

impl Rotation {
    /// What is known after one more answer.
    #[must_use]
    pub const fn answered(self, rotated: bool) -> Self {
        let unchanged = self.unchanged.saturating_add(1);
        Self {
            unchanged: if rotated {
                0
            } else if unchanged < BELIEVED {
                unchanged
            } else {
                BELIEVED
            },
        }
    }

    /// Whether a refresh token may have been replaced by a spend whose answer we did not see.
    #[must_use]
    pub const fn is_possible(self) -> bool {
        self.unchanged < BELIEVED
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn i4_a_provider_counts_as_rotating_until_it_has_kept_twenty_tokens_in_a_row() {
        let mut rotation = Rotation::default();
        for _ in 0..19 {
            rotation = rotation.answered(false);
            assert!(rotation.is_possible());
        }
        assert!(!rotation.answered(false).is_possible());
        let seen = rotation.answered(false).answered(true);
        assert!(seen.is_possible(), "one replaced token is enough to be careful again");
        let long = (0..1000).fold(seen, |rotation, _| rotation.answered(false));
        assert_eq!(long, rotation.answered(false), "what is known is bounded");
    }
}
