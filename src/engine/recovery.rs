//! What a start makes of the journal: tokens that still live are served, refresh tokens that the store
//! does not have are adopted, and grants whose spending was cut off are in doubt (I3, I4). A record that
//! the journal does not know wins over it (I13). Knows no disk.

use std::time::Duration;

use super::{portals::Entry, view::Issued};
use crate::{
    journal::{Access, Trail},
    lifecycle::{Found, TokenLife},
    secret::RefreshToken,
    time::{BootTime, Clock},
};

/// After a reboot only the wall clock tells a token's age, and it may have been set since: so much is
/// taken off.
const UNSURE: Duration = Duration::from_secs(60);

/// What is left of an access token that an earlier process was given; none if nothing is.
pub(super) fn life(access: &Access, clock: &dyn Clock) -> Option<TokenLife> {
    let age = access.issued.age(clock)?;
    let unsure = if age.sure { Duration::ZERO } else { UNSURE };
    let now = clock.boot();
    if age.span + unsure >= access.expires_in {
        return None;
    }
    // The machine may have been started after the token was: its life is then counted from there.
    let before_boot = age.span.saturating_sub(now.since_boot());
    let life = access.expires_in.saturating_sub(unsure + before_boot);
    let token = TokenLife::new(now - age.span, life).of(access.expires_in);
    (!token.left(now).is_zero()).then_some(token)
}

impl Entry {
    /// Takes over what the journal knows of this portal, and says what the rules have to know of it.
    pub(super) fn adopt(&mut self, trail: Trail, clock: &dyn Clock) -> Found {
        let Trail { intent, lineage, newest, stored, access, proven, paused, .. } = trail;
        let in_store = self.stored.as_ref().map(|stored| stored.refresh_token.fingerprint());
        self.lineage = lineage;
        // What stands in the store and is none of the grant's is a newer one (I13).
        if in_store.is_some_and(|name| !self.lineage.contains(&name)) {
            self.lineage.clear();
        }
        let ours = self.lineage.last().copied();
        if let Some(newest) = newest
            && ours.is_some()
            && ours != in_store
        {
            self.unsaved = Some(newest);
        }
        let used = self.refresh_token().map(RefreshToken::fingerprint).or(ours);
        let known = ours.is_some() && used == ours;
        let token = access.filter(|_| known).and_then(|access| {
            let token = life(&access, clock)?;
            let fingerprint = access.token.fingerprint();
            self.scopes = access.scopes;
            self.held = Some(Issued { access_token: access.token.into(), fingerprint });
            Some(token)
        });
        Found {
            token,
            proven: used.is_some() && proven == used,
            // Where the store could not be read, it is taken to have what it was known to have.
            unsaved: self.unsaved.is_some() && (in_store.is_some() || !stored),
            in_doubt: intent
                .filter(|intent| used == Some(intent.spent))
                .map(|intent| intent.at.age(clock).map_or(Duration::ZERO, |age| age.span)),
            paused,
        }
    }
}

/// When a token was asked for, for people.
pub(super) fn asked_at(token: TokenLife, clock: &dyn Clock) -> jiff::Timestamp {
    clock.wall_at(token.issued.min(clock.boot()).max(BootTime::default()))
}
