//! What is answered, as data: status, headers and the bodies that HubSpot and its edge are known to
//! send (study `hubspot.md` 3 and 4.3). Does not decide what is answered, nor how it is delivered.

use serde::Serialize;
use serde_json::{Value, json};

use super::{api::Endpoint, mint::Mint, oauth::BARE_LACKS, refusal::Refusal, settings::Settings};
use crate::hubspot::wire::{STATUS_MIGRATING, policy, status};

/// An answer, whole and before any fault.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) http: u16,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: Body,
    /// The refusal's word, for the ledger.
    pub(super) word: Option<&'static str>,
}

/// A body by its content type.
#[derive(Debug)]
pub(super) enum Body {
    None,
    Json(Value),
    Html(String),
}

impl Answer {
    pub(super) fn empty(http: u16) -> Self {
        Self { http, headers: Vec::new(), body: Body::None, word: None }
    }

    /// JSON of `value`.
    pub(super) fn json(http: u16, value: &impl Serialize) -> Self {
        let body = Body::Json(serde_json::to_value(value).unwrap_or_default());
        Self { http, headers: Vec::new(), body, word: None }
    }

    pub(super) fn refusal(refusal: Refusal, rules: &Settings, mint: &mut Mint) -> Self {
        let (word, message) = (refusal.word(), refusal.message());
        let body = if rules.old_error_shape {
            json!({"status": word, "message": message, "correlationId": mint.uuid()})
        } else {
            json!({
                "status": word,
                "message": message,
                "error": refusal.error(),
                "error_description": message,
            })
        };
        Self { word: Some(word), ..Self::json(rules.http_of(refusal), &body) }
    }

    /// A refusal of an API call; `more` are members beside the usual ones.
    pub(super) fn api_error(
        http: u16,
        category: Option<&'static str>,
        message: &str,
        more: Value,
        mint: &mut Mint,
    ) -> Self {
        let mut body = json!({
            "status": status::ERROR,
            "message": message,
            "correlationId": mint.uuid(),
        });
        if let (Some(body), Value::Object(more)) = (body.as_object_mut(), more) {
            body.extend(more);
            if let Some(category) = category {
                body.insert("category".to_owned(), category.into());
            }
        }
        Self { word: category, ..Self::json(http, &body) }
    }

    pub(super) fn rate_limited(
        policy: &'static str,
        retry_after: Option<u32>,
        mint: &mut Mint,
    ) -> Self {
        let more = json!({
            "errorType": "RATE_LIMIT",
            "policyName": policy,
            "groupName": "publicapi:oauth",
            "requestId": mint.uuid(),
        });
        let answer = Self::api_error(429, None, "You have reached your rate limit.", more, mint);
        Self { word: Some("RATE_LIMIT"), ..answer }.waiting(retry_after)
    }

    /// An answer by its HTTP status alone: that of the edge for 5xx, of HubSpot for the rest.
    pub(super) fn fault(
        http: u16,
        retry_after: Option<u32>,
        endpoint: Endpoint,
        mint: &mut Mint,
    ) -> Self {
        match http {
            429 if endpoint == Endpoint::AccountInfo => {
                Self::rate_limited(policy::TEN_SECONDLY_ROLLING, retry_after, mint)
            }
            429 => Self::rate_limited(policy::SECONDLY, retry_after, mint),
            STATUS_MIGRATING => {
                let message = "This account is being moved to another data centre.";
                Self::api_error(http, None, message, json!({}), mint).waiting(retry_after)
            }
            500.. => Self {
                body: Body::Html(format!(
                    "<!DOCTYPE html>\n<html><head><title>{http}</title></head>\n\
                     <body><center><h1>{http}</h1></center><hr><center>edge</center></body></html>\n"
                )),
                ..Self::empty(http)
            }
            .waiting(retry_after),
            _ => Self::api_error(http, None, "The request was refused.", json!({}), mint)
                .waiting(retry_after),
        }
    }

    pub(super) fn gone(http: u16, mint: &mut Mint) -> Self {
        Self::api_error(http, None, "There is no such resource.", json!({}), mint)
    }

    pub(super) fn wants_a_form(mint: &mut Mint) -> Self {
        Self::api_error(415, None, "The body must be a form.", json!({}), mint)
    }

    fn waiting(mut self, retry_after: Option<u32>) -> Self {
        self.headers.extend(retry_after.map(|seconds| ("retry-after", seconds.to_string())));
        self
    }

    /// The same without the members that v1 lacked in its early years.
    pub(super) fn bare(mut self) -> Self {
        if let Body::Json(Value::Object(members)) = &mut self.body {
            members.retain(|name, _| !BARE_LACKS.contains(&name.as_str()));
        }
        self
    }

    /// The body's bytes and content type.
    pub(super) fn body(&self) -> Option<(Vec<u8>, &'static str)> {
        match &self.body {
            Body::None => None,
            Body::Json(value) => {
                Some((value.to_string().into_bytes(), "application/json;charset=utf-8"))
            }
            Body::Html(text) => Some((text.clone().into_bytes(), "text/html;charset=utf-8")),
        }
    }
}
