//! What an incident says: what happened, what Grantkeeper is doing, what a person must do.

use super::{KEPT_ON, Kind, SERVED_ON};
use crate::portal::PortalId;

/// Where a customer begins to install the app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstallUrl(String);

/// The text is no address to send customers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is not an https URL")]
pub struct NotAnInstallUrl;

impl InstallUrl {
    const PORTAL: &str = "{portal}";

    /// An `https` URL; `{portal}` in it stands for the portal's id.
    ///
    /// # Errors
    /// Anything else: people are to follow it.
    pub fn parse(text: &str) -> Result<Self, NotAnInstallUrl> {
        let rest = text.strip_prefix("https://").ok_or(NotAnInstallUrl)?;
        let plain = !rest.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
        let quoted = rest.contains(['"', '<', '>', '|', '`', '\\']);
        if plain && !quoted { Ok(Self(text.to_owned())) } else { Err(NotAnInstallUrl) }
    }

    /// The address for `portal`; for anybody, where none is named and the URL needs none.
    #[must_use]
    pub fn of(&self, portal: Option<PortalId>) -> String {
        match portal {
            Some(id) => self.0.replace(Self::PORTAL, &id.to_string()),
            None if self.0.contains(Self::PORTAL) => {
                format!("{} (with the portal's id for {})", self.0, Self::PORTAL)
            }
            None => self.0.clone(),
        }
    }
}

/// Whether it is over once the customer installs the app again.
fn is_mended_by_install(kind: Kind, detail: Option<&str>) -> bool {
    use Kind::{GrantLost, GrantMismatched, GrantRevoked, ScopeMissing, TokenExpired};
    matches!(kind, GrantRevoked | GrantLost | ScopeMissing | TokenExpired)
        || (kind == GrantMismatched && detail == Some("never_worked"))
}

/// Summary and action for `kind`: about `portal`, about `many` that were hit together, or about the app.
/// `detail` is one of our own words for the reason, never text from the network; `link` is where to install
/// the app again.
pub(super) fn of(
    kind: Kind,
    portal: Option<PortalId>,
    detail: Option<&str>,
    many: bool,
    link: Option<&str>,
) -> (String, String) {
    let (summary, mut action) = table(kind, portal, detail, many);
    if many && kind.is_single() {
        action = format!(
            "Many within minutes are seldom so many customers' own doing: see first whether the app was \
             changed, suspended or unlisted at HubSpot, and what stands in the store. `grantkeeper portal \
             list` names them all. For each that stays so: {action}"
        );
    }
    if let Some(link) = link.filter(|_| is_mended_by_install(kind, detail)) {
        action = format!("{action} To connect again: {link}");
    }
    (summary, action)
}

#[expect(clippy::too_many_lines, reason = "a table of texts, one row a kind")]
fn table(
    kind: Kind,
    portal: Option<PortalId>,
    detail: Option<&str>,
    many: bool,
) -> (String, String) {
    let id = portal.map_or_else(|| "PORTAL".to_owned(), |portal| portal.to_string());
    let shared = if many { "the portals named with this" } else { "the app" };
    let who = portal.map_or_else(|| shared.to_owned(), |id| format!("portal {id}"));
    let why = detail.map(|detail| format!(" ({detail})")).unwrap_or_default();
    let (summary, action) = match kind {
        Kind::AppRejected => (
            format!(
                "HubSpot refuses the app's client id and secret{why}. No portal is at fault and none \
                 was marked: refreshing is paused but for one probe, and tokens in hand are served \
                 until they expire."
            ),
            "Compare the client secret in the store with the one on the app's Auth page at HubSpot. \
             If it was changed there, run `grantkeeper rotate client-secret`. A restart does not help."
                .to_owned(),
        ),
        Kind::AppSuspect => (
            format!(
                "HubSpot refuses grant after grant and accepts none in between{why}, while it accepts the \
                 app's client id and secret. No portal was marked: refreshing is paused but for one probe, \
                 and tokens in hand are served until they expire."
            ),
            "See whether the store holds this app's grants (another environment's, or an old backup?), \
             whether the app was changed or suspended at HubSpot, and status.hubspot.com. Once one grant \
             is good again, everything goes on by itself."
                .to_owned(),
        ),
        Kind::GrantLost => (
            format!(
                "A refresh was sent for {who}, its answer never arrived (the connection broke, or \
                 Grantkeeper was killed at that instant), and HubSpot refuses the refresh token since{why}: \
                 it was replaced by one that nobody has. The record was read again and introspection agrees."
            ),
            "Ask each customer to connect the app again, then store the new refresh token \
             (`grantkeeper enroll`). It is not their doing, unless one uninstalled the app in that moment."
                .to_owned(),
        ),
        Kind::JournalFailing => (
            format!(
                "The journal in state_dir can't be written{why}. While HubSpot may replace refresh tokens, \
                 none is spent without it; tokens in hand are served until they expire."
            ),
            "See that the disk below state_dir is not full, and that the service's user may write there."
                .to_owned(),
        ),
        Kind::AuditFailing => (
            format!(
                "The audit log can't be written{why}. Nobody is answered until it can: what is not written \
                 down is not done. Tokens go on being renewed."
            ),
            "See that its disk is not full, that the service's user may write there, and that the file in \
             [audit] is where it should be. It goes on by itself."
                .to_owned(),
        ),
        Kind::ApiVersionRetiring => (
            format!(
                "HubSpot's token endpoint is not there, or does not understand what it is sent{why}: the API \
                 version in use may be gone. No portal was marked; tokens in hand are served until they expire, \
                 and every portal is tried again ever more rarely."
            ),
            "See that hubspot.api_version is one that HubSpot still serves (v1 ends on 2027-02-16), that \
             hubspot.base_url is right, and that no proxy answers in HubSpot's place or changes requests."
                .to_owned(),
        ),
        Kind::RateLimited => (
            format!(
                "HubSpot asks to slow down{why}, and what it bears does not keep every portal warm. Tokens in \
                 hand are served until they expire; portals in use come first, others are refreshed when \
                 somebody asks."
            ),
            "See whether something else uses this app's client id, and ask HubSpot for a higher limit. \
             `grantkeeper status` shows the rate that was learned."
                .to_owned(),
        ),
        Kind::GrantRevoked if many => (
            format!(
                "HubSpot says that the grants of many portals are revoked{why}: those named with this. Each record was \
                 read again and introspection agrees. Their tokens are no longer served."
            ),
            "The customers uninstalled the app, or their refresh tokens were revoked or replaced. Ask them to \
             connect again, then store the new refresh tokens (`grantkeeper enroll`)."
                .to_owned(),
        ),
        Kind::GrantRevoked => (
            format!(
                "HubSpot says that the grant of {who} is revoked{why}; the record was read again and \
                 introspection agrees. Its tokens are no longer served."
            ),
            "The customer uninstalled the app, or its refresh token was revoked or replaced. Ask them \
             to connect again, then store the new refresh token (`grantkeeper enroll`)."
                .to_owned(),
        ),
        Kind::GrantMismatched if detail == Some(SERVED_ON) => (
            format!(
                "The record of {who} can't be used (record_unusable). The grant that was in it before goes on being \
                 served from memory."
            ),
            "Put this portal's refresh token for this app into its record, whole and without quotes or line \
             breaks."
                .to_owned(),
        ),
        Kind::GrantMismatched => (
            format!("The stored grant of {who} can't be used{why}. Nothing is served for it."),
            match detail {
                Some("never_worked") => {
                    "HubSpot does not know this refresh token, and it has not worked since Grantkeeper \
                     first saw it. Check that the record holds this app's token for this portal, whole. \
                     If it does, the customer has uninstalled the app: ask them to connect again, or \
                     remove the record."
                }
                Some("wrong_portal") => {
                    "The token is another portal's. Put each portal's refresh token into its own record."
                }
                Some("grant_mismatched") => {
                    "The token was given to another app. Check which app's client id and secret, and \
                     which environment's refresh tokens, stand in the store."
                }
                _ => {
                    "Check that the record holds the refresh token of this portal for this app, whole \
                     and without quotes or line breaks."
                }
            }
            .to_owned(),
        ),
        Kind::PortalUnavailable => (
            format!("HubSpot says that {who} does not exist or is deactivated{why}."),
            "Ask the customer whether the account was closed or moved. If so, remove its record."
                .to_owned(),
        ),
        Kind::ScopeMissing => (
            format!("The grant of {who} lacks required scopes{why}. Its tokens are still served."),
            "Have the customer connect again with the scopes the app requires today.".to_owned(),
        ),
        Kind::GrantUnsaved => (
            format!(
                "HubSpot gave {who} a new refresh token that could not be stored{why}. Tokens are \
                 served, and storing is tried again. Don't stop the service: the token is in memory."
            ),
            "See that the store can be reached and lets Grantkeeper write this record.".to_owned(),
        ),
        Kind::HubspotUnreachable => (
            format!(
                "HubSpot's token endpoint does not answer{why}. Tokens in hand are served until they \
                 expire, and refreshing is tried again."
            ),
            "See status.hubspot.com, and that this host can reach the configured HubSpot address."
                .to_owned(),
        ),
        Kind::StoreUnreachable => (
            format!(
                "The credential store does not answer{why}. Tokens go on being renewed from memory; \
                 changed records are not seen."
            ),
            "See that the store is up, unsealed and can be reached from this host.".to_owned(),
        ),
        Kind::StoreDenied if detail == Some("compromised") => (
            "What Grantkeeper was given to log in to the credential store with was opened, or put in \
             place, by somebody else: a wrapping token that was used already, or that no secret id of \
             ours made. Tokens go on being renewed from memory."
                .to_owned(),
            "Revoke the secret id that was wrapped, find out who had it, and deliver a fresh one; \
             `grantkeeper check` names the file."
                .to_owned(),
        ),
        Kind::RefreshFailing => (
            format!(
                "Refreshing the token of {who} fails again and again{why}: it has none, or one that runs out before \
                 the next try. It is tried on, ever more rarely."
            ),
            format!(
                "`grantkeeper portal show {id}` says how it stands. If HubSpot has trouble with this one account it \
                 passes by itself; if it stays so for hours, ask HubSpot's support, with the portal's id."
            ),
        ),
        Kind::TokenExpired => (
            format!(
                "The token of {who} has run out, and refreshing it still fails{why}: whoever asks for it is told \
                 so. It is tried on."
            ),
            format!(
                "`grantkeeper portal show {id}` says how it stands; see status.hubspot.com. If it stays so, ask the \
                 customer whether the account is well, or have them connect the app again."
            ),
        ),
        Kind::RotationUnfinished if detail == Some(KEPT_ON) => (
            "The client secret before the one in use still stands in the store, though its time is over. \
             Webhooks signed with it are no longer accepted."
                .to_owned(),
            "`grantkeeper rotate status` says whether HubSpot still accepts it; `grantkeeper rotate retire` \
             takes it out of the store."
                .to_owned(),
        ),
        Kind::RotationUnfinished => (
            format!(
                "A new client secret has been staged{why} and is neither promoted nor taken back. The one before \
                 it is in use."
            ),
            "`grantkeeper rotate status` says how far it is; `grantkeeper rotate promote` goes on, \
             `grantkeeper rotate discard` takes it out again."
                .to_owned(),
        ),
        Kind::Test => (String::new(), String::new()),
        Kind::StoreDenied => (
            format!(
                "The credential store refuses what Grantkeeper must do{why}. Tokens go on being \
                 renewed from memory; changed records are not seen, and new ones may not be stored."
            ),
            "Run `grantkeeper check`: it names what is refused and the policy line to add.".to_owned(),
        ),
    };
    (summary, action)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_are_sent_to_https_addresses_only() {
        let url = "https://app.hubspot.com/oauth/authorize?client_id=a&scope=oauth%20x";
        assert_eq!(InstallUrl::parse(url).unwrap().of(PortalId::new(7).ok()), url);
        for bad in [
            "",
            "https://",
            "http://a.example/",
            "javascript:alert(1)",
            "https://a b",
            "https://a<b",
        ] {
            assert_eq!(InstallUrl::parse(bad), Err(NotAnInstallUrl), "{bad}");
        }
    }

    #[test]
    fn many_at_once_are_told_as_one_cause_and_not_as_so_many_customers() {
        let (summary, action) = of(Kind::GrantRevoked, None, None, true, None);
        assert!(summary.contains("those named with this"), "{summary}");
        assert!(action.starts_with("Many within minutes"), "{action}");
    }
}
