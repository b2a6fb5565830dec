//! What the stand-in knows: the app and its secrets, portals, grants, access tokens, codes.
//! Keeps them consistent; knows neither HTTP nor who asks. Every method is told the time.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use aws_lc_rs::digest;
use serde::Serialize;

use super::{
    journal::{Action, Journal},
    mint::Mint,
    refusal::Refusal,
    scenario::{PortalScenario, Scenario},
    settings::Settings,
    window::Window,
};
use crate::{
    portal::{ClientId, PortalId, Scopes},
    secret::{ClientSecret, RefreshToken},
    time::BootTime,
};

/// Where ids of portals begin that nobody named.
const FIRST_PORTAL: u64 = 1001;
/// How many refresh tokens of one portal are remembered.
const REMEMBERED: usize = 16;
/// How long an access token is remembered after its end, to be told from one that never was.
const AFTERLIFE: Duration = Duration::from_secs(3600);

/// Whether an app is installed in a portal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// It is.
    Installed,
    /// The customer took it out.
    Uninstalled,
    /// The portal itself is gone.
    Deleted,
}

/// One customer account.
#[derive(Debug)]
pub(super) struct Portal {
    pub(super) standing: Standing,
    pub(super) scopes: Arc<Scopes>,
    pub(super) foreign: bool,
    pub(super) user_id: u32,
    pub(super) generation: u32,
    /// Refresh tokens, the newest last.
    pub(super) tokens: VecDeque<RefreshToken>,
    pub(super) refreshes: u64,
    pub(super) refused: u64,
    pub(super) in_flight: u32,
    pub(super) in_flight_max: u32,
    pub(super) calls: Window,
}

/// What became of a refresh token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Grant {
    Good,
    /// By a rotation; taken until then.
    Replaced(BootTime),
    Dead,
}

/// What is known of a refresh token.
#[derive(Debug, Clone, Copy)]
pub(super) struct Issued {
    pub(super) portal: PortalId,
    pub(super) generation: u32,
    pub(super) grant: Grant,
}

/// What is known of an access token.
#[derive(Debug, Clone)]
pub(super) struct Access {
    /// None for a token of the app itself.
    pub(super) portal: Option<PortalId>,
    pub(super) scopes: Arc<Scopes>,
    pub(super) expires: BootTime,
}

/// An authorization code that is out.
#[derive(Debug, Clone)]
pub(super) struct Code {
    pub(super) portal: PortalId,
    pub(super) scopes: Scopes,
    pub(super) redirect_uri: Option<String>,
    /// PKCE, method S256.
    pub(super) challenge: Option<String>,
    pub(super) expires: BootTime,
}

/// What time it is, on both clocks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Now {
    pub(super) boot: BootTime,
    pub(super) wall: jiff::Timestamp,
}

/// A token as a key: what is presented is never kept.
type Key = [u8; 32];

fn key(token: &str) -> Key {
    let mut key = [0; 32];
    key.copy_from_slice(digest::digest(&digest::SHA256, token.as_bytes()).as_ref());
    key
}

/// The app, its portals and every token.
#[derive(Debug)]
pub(super) struct State {
    pub(super) client_id: ClientId,
    /// The one in force.
    pub(super) client_secret: ClientSecret,
    /// Those before it, each taken until its moment.
    old_secrets: Vec<(ClientSecret, BootTime)>,
    pub(super) app_id: u32,
    pub(super) redirect_uris: Vec<String>,
    pub(super) portals: BTreeMap<PortalId, Portal>,
    refresh: HashMap<Key, Issued>,
    access: HashMap<Key, Access>,
    sweep_at: usize,
    codes: HashMap<Key, Code>,
    pub(super) journal: Journal,
    next_portal: u64,
    pub(super) mint: Mint,
}

impl State {
    pub(super) fn new(scenario: &Scenario, now: Now) -> Self {
        let mut mint = Mint::new(scenario.seed, "tokens");
        let app = scenario.app.clone();
        let client_id = app.client_id.unwrap_or_else(|| mint.credential("", ClientId::parse));
        let client_secret =
            app.client_secret.unwrap_or_else(|| mint.credential("", ClientSecret::parse));
        let mut state = Self {
            client_id,
            client_secret,
            old_secrets: Vec::new(),
            app_id: app.app_id.unwrap_or(1_234_567),
            redirect_uris: app.redirect_uris,
            portals: BTreeMap::new(),
            refresh: HashMap::new(),
            access: HashMap::new(),
            sweep_at: 1024,
            codes: HashMap::new(),
            journal: Journal::default(),
            next_portal: FIRST_PORTAL,
            mint,
        };
        let usual = Arc::new(default_scopes());
        for portal in scenario.all_portals() {
            let PortalScenario { id, scopes, refresh_token, foreign } = portal;
            state.install(id, scopes.map_or_else(|| Arc::clone(&usual), Arc::new), now);
            state.set_foreign(id, foreign);
            state.issue_refresh(id, refresh_token);
        }
        state
    }

    // The app.

    /// Replaces the client secret; the old one is taken for `grace` more. Without any, every earlier one ends.
    pub(super) fn set_secret(&mut self, new: ClientSecret, grace: Duration, now: Now) {
        let old = std::mem::replace(&mut self.client_secret, new);
        self.old_secrets.retain(|(_, until)| *until > now.boot);
        if grace.is_zero() {
            self.old_secrets.clear();
        } else {
            self.old_secrets.push((old, now.boot + grace));
        }
    }

    /// Whether the app may use `secret` now.
    pub(super) fn takes_secret(&self, secret: &str, now: Now) -> bool {
        ClientSecret::parse(secret).is_ok_and(|secret| {
            let old = self.old_secrets.iter().filter(|(_, until)| *until > now.boot);
            self.client_secret.same_as(&secret)
                || old.into_iter().any(|(old, _)| old.same_as(&secret))
        })
    }

    // Portals.

    /// An id that no portal has.
    pub(super) fn free_portal(&mut self) -> PortalId {
        loop {
            let number = self.next_portal;
            self.next_portal = self.next_portal.wrapping_add(1).max(FIRST_PORTAL);
            if let Ok(id) = PortalId::new(number)
                && !self.portals.contains_key(&id)
            {
                return id;
            }
        }
    }

    /// The customer consents: the portal exists and has the app. Grants from before an
    /// uninstallation stay dead.
    pub(super) fn install(&mut self, id: PortalId, scopes: Arc<Scopes>, now: Now) {
        let user_id = u32::try_from(id.number() % 1_000_000).unwrap_or_default() + 1;
        let portal = self.portals.entry(id).or_insert_with(|| Portal {
            standing: Standing::Uninstalled,
            scopes: Arc::default(),
            foreign: false,
            user_id,
            generation: 0,
            tokens: VecDeque::new(),
            refreshes: 0,
            refused: 0,
            in_flight: 0,
            in_flight_max: 0,
            calls: Window::default(),
        });
        portal.scopes = scopes;
        if portal.standing != Standing::Installed {
            portal.standing = Standing::Installed;
            self.journal.tell(Action::AppInstall, id, now.wall);
        }
    }

    /// Whether the portal's grants belong to another app.
    pub(super) fn set_foreign(&mut self, id: PortalId, foreign: bool) {
        if let Some(portal) = self.portals.get_mut(&id) {
            portal.foreign = foreign;
        }
    }

    /// The app leaves the portal, or the portal leaves HubSpot; its grants die.
    pub(super) fn remove(&mut self, id: PortalId, standing: Standing, now: Now) {
        let Some(portal) = self.portals.get_mut(&id) else { return };
        let was_installed = portal.standing == Standing::Installed;
        portal.standing = standing;
        self.revoke_all(id);
        if was_installed {
            self.journal.tell(Action::AppUninstall, id, now.wall);
        }
    }

    /// Ends every refresh token of the portal.
    pub(super) fn revoke_all(&mut self, id: PortalId) {
        let Some(portal) = self.portals.get(&id) else { return };
        for token in &portal.tokens {
            // exposed: into a digest, the key of our own table
            if let Some(issued) = self.refresh.get_mut(&key(token.expose())) {
                issued.grant = Grant::Dead;
            }
        }
    }

    // Refresh tokens.

    /// A new refresh token for the portal: `known`, or one drawn at random.
    pub(super) fn issue_refresh(
        &mut self,
        id: PortalId,
        known: Option<RefreshToken>,
    ) -> RefreshToken {
        let token = known.unwrap_or_else(|| self.mint.credential("na1-", RefreshToken::parse));
        let Some(portal) = self.portals.get_mut(&id) else { return token };
        portal.generation += 1;
        portal.tokens.push_back(token.clone());
        let issued = Issued { portal: id, generation: portal.generation, grant: Grant::Good };
        if portal.tokens.len() > REMEMBERED
            && let Some(oldest) = portal.tokens.pop_front()
        {
            // exposed: into a digest, the key of our own table
            self.refresh.remove(&key(oldest.expose()));
        }
        // exposed: into a digest, the key of our own table
        self.refresh.insert(key(token.expose()), issued);
        token
    }

    /// A new refresh token in place of `old`, which is taken for `grace` more.
    pub(super) fn rotate(&mut self, old: &str, grace: Duration, now: Now) -> Option<RefreshToken> {
        let issued = self.refresh.get_mut(&key(old))?;
        if issued.grant == Grant::Good {
            issued.grant = Grant::Replaced(now.boot + grace);
        }
        let portal = issued.portal;
        Some(self.issue_refresh(portal, None))
    }

    /// Ends this refresh token. Unknown ones are no matter.
    pub(super) fn revoke(&mut self, token: &str) {
        if let Some(issued) = self.refresh.get_mut(&key(token)) {
            issued.grant = Grant::Dead;
        }
    }

    /// What is known of a refresh token, good or not.
    pub(super) fn issued(&self, token: &str) -> Option<Issued> {
        self.refresh.get(&key(token)).copied()
    }

    /// The grant behind a refresh token, if it can be used now.
    pub(super) fn good(
        &self,
        token: &str,
        rules: &Settings,
        now: Now,
    ) -> Result<(Issued, &Portal), Refusal> {
        let issued = self.issued(token).ok_or(Refusal::BadRefreshToken)?;
        let portal = self.portals.get(&issued.portal).ok_or(Refusal::BadHub)?;
        match portal.standing {
            Standing::Deleted => return Err(Refusal::BadHub),
            Standing::Uninstalled => return Err(rules.uninstalled.into()),
            Standing::Installed if portal.foreign => {
                return Err(Refusal::MismatchRefreshTokenClient);
            }
            Standing::Installed => {}
        }
        match issued.grant {
            Grant::Good => Ok((issued, portal)),
            Grant::Replaced(until) if until > now.boot => Ok((issued, portal)),
            Grant::Replaced(_) | Grant::Dead => Err(Refusal::BadRefreshToken),
        }
    }

    // Access tokens.

    /// A new access token, of a portal or of the app itself.
    pub(super) fn issue_access(
        &mut self,
        portal: Option<PortalId>,
        scopes: Arc<Scopes>,
        life: Duration,
        now: Now,
    ) -> String {
        if self.access.len() >= self.sweep_at {
            self.access.retain(|_, access| access.expires + AFTERLIFE > now.boot);
            self.sweep_at = (self.access.len() * 2).max(1024);
        }
        let token = self.mint.opaque();
        let access = Access { portal, scopes, expires: now.boot + life };
        self.access.insert(key(&token), access);
        token
    }

    /// What is known of an access token, expired or not. None if an uninstallation ended it.
    pub(super) fn access(&self, token: &str, rules: &Settings) -> Option<&Access> {
        let access = self.access.get(&key(token))?;
        let standing = access.portal.and_then(|id| Some(self.portals.get(&id)?.standing));
        let ended = match standing {
            Some(Standing::Deleted) => true,
            Some(Standing::Uninstalled) => rules.uninstall_ends_access,
            Some(Standing::Installed) | None => false,
        };
        (!ended).then_some(access)
    }

    // Codes.

    /// A new authorization code.
    pub(super) fn issue_code(&mut self, code: Code, now: Now) -> String {
        self.codes.retain(|_, code| code.expires + AFTERLIFE > now.boot);
        let text = format!("na1-{}", self.mint.uuid());
        self.codes.insert(key(&text), code);
        text
    }

    /// The code, still to be used.
    pub(super) fn code(&self, text: &str) -> Option<&Code> {
        self.codes.get(&key(text))
    }

    /// The code, used up.
    pub(super) fn take_code(&mut self, text: &str) -> Option<Code> {
        self.codes.remove(&key(text))
    }
}

/// What a customer consents to where nobody says.
pub(super) fn default_scopes() -> Scopes {
    Scopes::from_iter(["oauth", "crm.objects.contacts.read"])
}
