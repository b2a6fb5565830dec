//! The HTTP towards HubSpot: deadlines, limits, one request a call. Never follows a redirect with a
//! secret in hand, and never repeats a spend by itself.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use jiff::Timestamp;
use reqwest::{header, redirect};
use zeroize::Zeroizing;

use super::{
    Reply, Settings, TokenEndpoint,
    wire::{grant_type, token_use},
};
use crate::{
    lifecycle::{ClientPair, Code, Granted, Introspection, Refusal, RefusalClass},
    secret::RefreshToken,
    time::Clock,
};

/// A whole call, from connecting to the last byte (design section 3), where nothing is at stake.
pub(super) const DEADLINE: Duration = Duration::from_secs(10);
/// A code is good once, and its answer is the only place where the grant is.
const EXCHANGE: Duration = Duration::from_secs(30);
const CONNECT: Duration = Duration::from_secs(4);
/// An answer of the token endpoint is about a kilobyte.
const LARGEST_ANSWER: usize = 64 * 1024;
/// A difference of clocks that is worth a word, in seconds.
const NOTABLE_SKEW: i64 = 30;
const NO_SKEW: i64 = i64::MIN;

/// HubSpot's OAuth API.
#[derive(Debug)]
pub struct HubSpot {
    pub(super) http: reqwest::Client,
    pub(super) settings: Settings,
    pub(super) clock: Arc<dyn Clock>,
    skew: AtomicI64,
}

/// The HTTP client could not be built.
#[derive(Debug, thiserror::Error)]
#[error("failed to set up TLS towards HubSpot: no usable CA certificates")]
pub struct NoTls(#[source] reqwest::Error);

impl HubSpot {
    /// # Errors
    /// The machine has no CA certificates.
    pub fn new(settings: Settings, clock: Arc<dyn Clock>) -> Result<Self, NoTls> {
        let http = reqwest::Client::builder()
            .user_agent(concat!("grantkeeper/", env!("CARGO_PKG_VERSION")))
            .redirect(redirect::Policy::none())
            .retry(reqwest::retry::never())
            .connect_timeout(CONNECT)
            .timeout(DEADLINE)
            .build()
            .map_err(NoTls)?;
        Ok(Self { http, settings, clock, skew: AtomicI64::new(NO_SKEW) })
    }

    pub(super) async fn post(
        &self,
        url: &str,
        form: &[(&str, &str)],
        patience: Duration,
    ) -> Result<Reply, Refusal> {
        let sent = self.http.post(url).form(form).timeout(patience).send().await;
        let mut response = sent.map_err(|error| not_answered(&error))?;
        let dated = self.note_date(response.headers());
        let http = response.status().as_u16();
        let retry_after = retry_after(response.headers());
        let (body, whole) = body(&mut response, LARGEST_ANSWER).await;
        if !whole && http == 200 {
            return Err(lost(Some(http)));
        }
        // An error page too long or cut off decides nothing more.
        Ok(Reply { http, retry_after, dated, body })
    }

    fn note_date(&self, headers: &header::HeaderMap) -> Option<Timestamp> {
        let date = headers.get(header::DATE).and_then(|value| value.to_str().ok())?;
        let theirs = jiff::fmt::rfc2822::parse(date).ok()?.timestamp();
        let ours = self.clock.wall().as_second();
        self.skew.store(ours - theirs.as_second(), Ordering::Relaxed);
        Some(theirs)
    }

    pub(super) fn url(&self, version: super::ApiVersion, call: &str) -> String {
        format!("{}/oauth/{version}/{call}", self.settings.base_url)
    }
}

/// `Retry-After`, as it stands there.
pub(super) fn retry_after(headers: &header::HeaderMap) -> Option<String> {
    let value = headers.get(header::RETRY_AFTER)?;
    value.to_str().ok().map(str::to_owned)
}

/// What comes of a body, no more than `largest` bytes of it, and whether that is all.
pub(super) async fn body(
    response: &mut reqwest::Response,
    largest: usize,
) -> (Zeroizing<Vec<u8>>, bool) {
    let mut body = Zeroizing::new(Vec::with_capacity(2048));
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) if body.len() + chunk.len() <= largest => {
                body.extend_from_slice(&chunk);
            }
            Ok(Some(_)) | Err(_) => return (body, false),
            Ok(None) => return (body, true),
        }
    }
}

fn not_answered(error: &reqwest::Error) -> Refusal {
    if error.is_connect() {
        Refusal { class: RefusalClass::Unreachable, http: None, word: None, retry_after: None }
    } else {
        lost(None)
    }
}

const fn lost(http: Option<u16>) -> Refusal {
    Refusal { class: RefusalClass::AnswerLost, http, word: None, retry_after: None }
}

#[async_trait]
impl TokenEndpoint for HubSpot {
    async fn refresh(
        &self,
        pair: &ClientPair,
        token: &RefreshToken,
        patience: Duration,
    ) -> Result<Granted, Refusal> {
        let url = self.url(self.settings.api_version, "token");
        // exposed: into the form body of the one request that spends the token
        let form = [
            ("grant_type", grant_type::REFRESH_TOKEN),
            ("client_id", pair.client_id.as_str()),
            ("client_secret", pair.client_secret.expose()),
            ("refresh_token", token.expose()),
        ];
        self.post(&url, &form, patience).await?.granted()
    }

    async fn exchange(&self, pair: &ClientPair, code: &Code) -> Result<Granted, Refusal> {
        let url = self.url(self.settings.api_version, "token");
        // exposed: into the form body of the one request that exchanges the code
        let mut form = vec![
            ("grant_type", grant_type::AUTHORIZATION_CODE),
            ("client_id", pair.client_id.as_str()),
            ("client_secret", pair.client_secret.expose()),
            ("code", code.code.expose()),
            ("redirect_uri", &code.redirect_uri),
        ];
        // exposed: into the same
        form.extend(code.verifier.as_ref().map(|verifier| ("code_verifier", verifier.expose())));
        self.post(&url, &form, EXCHANGE).await?.granted()
    }

    async fn revoke(&self, pair: &ClientPair, token: &RefreshToken) -> Result<(), Refusal> {
        let url = self.url(self.settings.api_version.introspection(), "token/revoke");
        // exposed: into the form body of the order about this token
        let form = [
            ("client_id", pair.client_id.as_str()),
            ("client_secret", pair.client_secret.expose()),
            ("token", token.expose()),
            ("token_type_hint", token_use::REFRESH_TOKEN),
        ];
        self.post(&url, &form, DEADLINE).await?.done()
    }

    async fn introspect(
        &self,
        pair: &ClientPair,
        token: &RefreshToken,
    ) -> Result<Introspection, Refusal> {
        let url = self.url(self.settings.api_version.introspection(), "token/introspect");
        // exposed: into the form body of the question about this token
        let form = [
            ("client_id", pair.client_id.as_str()),
            ("client_secret", pair.client_secret.expose()),
            ("token", token.expose()),
            ("token_type_hint", token_use::REFRESH_TOKEN),
        ];
        self.post(&url, &form, DEADLINE).await?.introspection()
    }

    async fn time(&self) -> Option<Timestamp> {
        let url = self.url(self.settings.api_version, "token");
        let answer = self.http.head(url).send().await.ok()?;
        self.note_date(answer.headers())
    }

    fn kind(&self) -> &'static str {
        self.settings.api_version.as_str()
    }

    fn clock_skew(&self) -> Option<jiff::SignedDuration> {
        let skew = self.skew.load(Ordering::Relaxed);
        (skew != NO_SKEW && skew.abs() >= NOTABLE_SKEW)
            .then(|| jiff::SignedDuration::from_secs(skew))
    }
}
