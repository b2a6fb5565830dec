//! A Slack channel, by an incoming webhook: one message a notice, in blocks, with a plain text for notifications.
//! What is quoted in it can't become markup.

use async_trait::async_trait;
use serde_json::{Value, json};

use super::{
    AlertSink, DeliveryError,
    post::{self, Target},
};
use crate::incident::{Change, Notice, Severity};

/// What Slack takes at most in a header and in a section, in characters.
const HEADER: usize = 150;
const SECTION: usize = 3000;

/// One channel.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What the operator calls it.
    pub name: String,
    /// The incoming webhook's URL, which is a secret.
    pub target: Target,
}

/// A channel, ready to be told.
#[derive(Debug)]
pub struct Slack {
    settings: Settings,
    http: reqwest::Client,
}

impl Slack {
    /// # Errors
    /// The machine has no CA certificates.
    pub fn new(settings: Settings) -> Result<Self, reqwest::Error> {
        Ok(Self { settings, http: post::client()? })
    }
}

/// The text with what Slack takes for markup escaped, no longer than it may be.
fn plain(text: &str, longest: usize) -> String {
    let mut out = String::with_capacity(text.len());
    let mut length = 0;
    for c in text.chars() {
        let escaped = match c {
            '&' => "&amp;",
            '<' => "&lt;",
            '>' => "&gt;",
            _ => "",
        };
        let more = escaped.len().max(1);
        if length + more >= longest {
            out.push('…');
            break;
        }
        length += more;
        if escaped.is_empty() {
            out.push(c);
        } else {
            out.push_str(escaped);
        }
    }
    out
}

/// A notice as Slack takes it.
#[must_use]
pub fn message(notice: &Notice) -> Value {
    let incident = &notice.incident;
    let sign = match (notice.change, incident.severity) {
        (Change::Resolved, _) => "\u{2705}",
        (_, Severity::Critical) => "\u{1f534}",
        (_, Severity::Warning) => "\u{1f7e0}",
        (_, Severity::Info) => "\u{1f535}",
    };
    let head = format!("{sign} {}", notice.headline());
    let section =
        |text: String| json!({ "type": "section", "text": { "type": "mrkdwn", "text": text } });
    let mut blocks = vec![json!({
        "type": "header",
        "text": { "type": "plain_text", "text": head.chars().take(HEADER).collect::<String>() }
    })];
    // Of what is over, or in somebody's hands, the whole story is not told again.
    if !matches!(notice.change, Change::Resolved | Change::Acknowledged) {
        blocks.push(section(plain(&incident.summary, SECTION)));
        let todo = plain(&incident.action, SECTION - 20);
        blocks.push(section(format!("*What to do:* {todo}")));
    }
    let mut facts = format!("since {} · `{}`", incident.since, incident.incident_id);
    if let Some(by) = &incident.acknowledged {
        facts = format!("{facts} · acknowledged by uid {}", by.uid);
    }
    blocks.push(json!({ "type": "context", "elements": [{ "type": "mrkdwn", "text": facts }] }));
    json!({ "text": plain(&head, SECTION), "blocks": blocks, "unfurl_links": false })
}

#[async_trait]
impl AlertSink for Slack {
    fn name(&self) -> &str {
        &self.settings.name
    }

    async fn deliver(&self, notice: &Notice) -> Result<(), DeliveryError> {
        let url = self.settings.target.url().await?;
        post::send(self.http.post(url).json(&message(notice))).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_quoted_becomes_no_markup_and_is_cut_where_slack_would_refuse_it() {
        assert_eq!(plain("<!channel> & more", 100), "&lt;!channel&gt; &amp; more");
        assert_eq!(plain(&"&".repeat(100), 50).chars().count(), 46);
        assert_eq!(plain(&"ä".repeat(10_000), SECTION).chars().count(), SECTION);
    }
}
