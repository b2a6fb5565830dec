//! What a layout costs at AWS's list prices, so that people can choose one. Pure.

use std::fmt;

use super::super::Layout;

/// Dollars a month for a secret, and for ten thousand calls (study `scale.md` 3.6, list prices of 2026).
const SECRET: f64 = 0.40;
const TEN_THOUSAND_CALLS: f64 = 0.05;
/// Secrets that one `BatchGetSecretValue` reads, and that one `ListSecrets` tells of.
const BATCH: usize = 20;
const PAGE: usize = 100;
/// Hours in a month.
const HOURS: f64 = 730.0;

/// A layout's price.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cost {
    layout: Layout,
    /// Secrets, the app's own among them.
    pub secrets: usize,
    /// Calls to read everything once.
    pub calls_to_load: usize,
    /// Dollars a month for the secrets.
    pub for_secrets: f64,
    /// Dollars a month for looking whether anything has changed, once an hour.
    pub for_looking: f64,
}

impl Cost {
    /// What `portals` cost in `layout`.
    #[must_use]
    pub fn of(portals: usize, layout: Layout) -> Self {
        let records = match layout {
            Layout::Single => portals,
            Layout::Packed(shards) => usize::from(shards).min(portals),
        };
        let secrets = records + 1;
        #[expect(clippy::cast_precision_loss, reason = "an estimate, in dollars")]
        let (count, looks) = (secrets as f64, records.div_ceil(PAGE).max(1) as f64 + 1.0);
        Self {
            layout,
            secrets,
            calls_to_load: records.div_ceil(BATCH) + records.div_ceil(PAGE).max(1) + 1,
            for_secrets: count * SECRET,
            for_looking: looks * HOURS / 10_000.0 * TEN_THOUSAND_CALLS,
        }
    }
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { layout, secrets, calls_to_load, for_secrets, for_looking } = self;
        match layout {
            Layout::Single => f.write_str("single")?,
            Layout::Packed(shards) => write!(f, "packed, {shards} shards")?,
        }
        write!(
            f,
            ": {secrets} secrets, ${for_secrets:.2} a month and ${for_looking:.2} for an hourly look; a start reads them with {calls_to_load} calls"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_thousand_portals_cost_four_thousand_dollars_a_month_or_twenty_six() {
        let single = Cost::of(10_000, Layout::Single);
        assert_eq!((single.secrets, single.calls_to_load), (10_001, 601));
        assert!((single.for_secrets - 4000.4).abs() < 0.01, "{single}");
        let packed = Cost::of(10_000, Layout::Packed(64));
        assert_eq!((packed.secrets, packed.calls_to_load), (65, 6));
        assert!((packed.for_secrets - 26.0).abs() < 0.01, "{packed}");
        assert!(packed.to_string().starts_with("packed, 64 shards: 65 secrets, $26.00 a month"));
        assert_eq!(Cost::of(3, Layout::Packed(64)).secrets, 4);
        assert_eq!(Cost::of(0, Layout::Single).calls_to_load, 2);
    }
}
