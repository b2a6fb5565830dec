//! A portal's state in the words that users see. Which one it is, `state` says.

/// A portal's state as users see it (contract section 4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PortalState {
    /// Loaded, no token yet.
    Pending,
    /// Served, and renewed in time.
    Live,
    /// The last refresh failed; the token may still be good.
    Retrying,
    /// HubSpot says wait, or the app's own credential is refused.
    Suspended,
    /// A new refresh token is not in the store yet.
    Unsaved,
    /// The customer ended the grant.
    Revoked,
    /// The portal is gone.
    Unavailable,
    /// The grant belongs to another app or portal, or never worked.
    Mismatched,
    /// An operator paused it.
    Paused,
}

impl PortalState {
    /// Every state, in the order of the contract.
    pub const ALL: [Self; 9] = [
        Self::Pending,
        Self::Live,
        Self::Retrying,
        Self::Suspended,
        Self::Unsaved,
        Self::Revoked,
        Self::Unavailable,
        Self::Mismatched,
        Self::Paused,
    ];

    /// Whether it is neither as it should be nor on its way there.
    #[must_use]
    pub const fn is_trouble(self) -> bool {
        !matches!(self, Self::Pending | Self::Live)
    }

    /// The word in JSON, metrics and tables.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Live => "live",
            Self::Retrying => "retrying",
            Self::Suspended => "suspended",
            Self::Unsaved => "unsaved",
            Self::Revoked => "revoked",
            Self::Unavailable => "unavailable",
            Self::Mismatched => "mismatched",
            Self::Paused => "paused",
        }
    }
}
