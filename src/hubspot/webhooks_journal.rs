//! HubSpot's webhooks journal, read for installations (study `hubspot.md` 5.3 and 5.4): a token of the app itself,
//! a subscription, the next entry, the file it leads to. Decides nothing of a grant, and remembers no place.

use std::time::Duration;

use reqwest::{RequestBuilder, header};
use serde_json::json;
use zeroize::Zeroizing;

use super::{
    HubSpot,
    client::{DEADLINE, body, retry_after},
    wire::{app_scope, grant_type, installation},
};
use crate::{
    lifecycle::{ClientPair, Refusal},
    secret::AccessToken,
    time::BootTime,
};

mod reading;

pub use reading::{Change, Entry, Happened, Link, Offset, Place, Trouble};

/// The events that are subscribed to.
pub const EVENT_TYPES: [&str; 2] = [installation::UNINSTALLED, installation::INSTALLED];
/// An entry is a few hundred bytes.
const LARGEST_ENTRY: usize = 64 * 1024;
/// A file with thousands of events.
const LARGEST_FILE: usize = 4 * 1024 * 1024;
/// A token is replaced so long before its end.
const MARGIN: Duration = Duration::from_secs(60);

/// A token of the app itself.
#[derive(Debug)]
pub struct AppToken {
    bearer: AccessToken,
    expires: BootTime,
}

impl AppToken {
    /// Whether it can still be used.
    #[must_use]
    pub const fn is_good(&self, now: BootTime) -> bool {
        !self.expires.until(now).is_zero()
    }
}

impl HubSpot {
    /// A token of the app itself, for nothing but the journal. A request to the token endpoint.
    ///
    /// # Errors
    /// The app can't have one, or HubSpot can't be asked.
    pub async fn app_token(&self, pair: &ClientPair) -> Result<AppToken, Refusal> {
        let url = self.url(self.settings.api_version, "token");
        let scope = format!("{} {}", app_scope::JOURNAL_READ, app_scope::JOURNAL_SUBSCRIBE);
        // exposed: into the form body of the one request for the app's own token
        let form = [
            ("grant_type", grant_type::CLIENT_CREDENTIALS),
            ("client_id", pair.client_id.as_str()),
            ("client_secret", pair.client_secret.expose()),
            ("scope", &scope),
        ];
        let asked = self.clock.boot();
        let granted = self.post(&url, &form, DEADLINE).await?.granted()?;
        let margin = MARGIN.min(granted.expires_in / 4);
        let expires = asked + granted.expires_in.saturating_sub(margin);
        Ok(AppToken { bearer: granted.access_token, expires })
    }

    /// Has the journal tell of `event_type` from now on, if it does not yet.
    ///
    /// # Errors
    /// See [`Trouble`].
    pub async fn subscribe(&self, token: &AppToken, event_type: &str) -> Result<(), Trouble> {
        let url = self.journal_url("subscriptions", "");
        let wanted = json!({
            "subscriptionType": installation::SUBSCRIPTION,
            "eventTypeId": event_type,
            "properties": [],
        });
        let asked = signed(self.http.post(url).json(&wanted), token)?;
        reading::subscribed(&said(asked, LARGEST_ENTRY).await?)
    }

    /// The entry at `place`; none where the journal has nothing there yet.
    ///
    /// # Errors
    /// See [`Trouble`].
    pub async fn journal_entry(
        &self,
        token: &AppToken,
        place: &Place,
    ) -> Result<Option<Entry>, Trouble> {
        let asked = self.http.get(self.journal_url("journal", &place.path()));
        let said = said(signed(asked, token)?, LARGEST_ENTRY).await?;
        reading::entry(&said, place, &self.settings.base_url)
    }

    /// What stands in the file behind `link`. The link is all that is shown there: no token of ours goes along.
    ///
    /// # Errors
    /// See [`Trouble`].
    pub async fn journal_file(&self, link: &Link) -> Result<Vec<Happened>, Trouble> {
        reading::file(&said(self.http.get(link.url().clone()), LARGEST_FILE).await?)
    }

    fn journal_url(&self, what: &str, path: &str) -> String {
        let version = self.settings.api_version.webhooks_journal();
        format!("{}/webhooks-journal/{what}/{version}{path}", self.settings.base_url)
    }
}

/// The same request with the app's token, marked so that no library shows it.
fn signed(request: RequestBuilder, token: &AppToken) -> Result<RequestBuilder, Trouble> {
    // exposed: into the header of a request to HubSpot's own address
    let value = Zeroizing::new(format!("Bearer {}", token.bearer.expose()));
    let mut value = header::HeaderValue::from_str(&value).map_err(|_| Trouble::NotUnderstood)?;
    value.set_sensitive(true);
    Ok(request.header(header::AUTHORIZATION, value))
}

/// Sends `request` once. What went wrong on the way is told without its address, which may be signed.
async fn said(request: RequestBuilder, largest: usize) -> Result<reading::Said, Trouble> {
    let mut response = request.send().await.map_err(|_| Trouble::Unanswered)?;
    let http = response.status().as_u16();
    let retry_after = retry_after(response.headers());
    let too_large = response.content_length().is_some_and(|length| length > largest as u64);
    if http == 200 && too_large {
        return Err(Trouble::NotUnderstood);
    }
    let (body, whole) = body(&mut response, largest).await;
    if http == 200 && !whole {
        // At the limit it was cut off by us.
        let filled = body.len() > largest / 2;
        return Err(if filled { Trouble::NotUnderstood } else { Trouble::Unanswered });
    }
    Ok(reading::Said { http, retry_after, body })
}
