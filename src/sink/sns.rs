//! A topic of Amazon SNS: a short subject, a text for people, and attributes to filter by. Credentials come by the
//! SDK's own chain.

use std::{fmt, time::Duration};

use async_trait::async_trait;
use aws_config::{BehaviorVersion, Region, timeout::TimeoutConfig};
use aws_sdk_sns::{
    Client,
    config::Builder,
    error::{ProvideErrorMetadata, SdkError},
    types::MessageAttributeValue,
};
use reqwest::Url;
use tokio::sync::OnceCell;

use super::{AlertSink, DeliveryError, post};
use crate::incident::Notice;

/// What SNS takes at most in a subject, which must be ASCII.
const SUBJECT: usize = 99;

/// One topic.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What the operator calls it.
    pub name: String,
    /// `arn:aws:sns:<region>:<account>:<topic>`
    pub topic_arn: String,
    /// Another region than the topic's own.
    pub region: Option<String>,
    /// Another address than AWS's.
    pub endpoint_url: Option<String>,
}

impl Settings {
    /// The region, as configured or as the topic says.
    #[must_use]
    pub fn region(&self) -> Option<&str> {
        self.region.as_deref().or_else(|| self.topic_arn.split(':').nth(3))
    }

    /// Where the topic is asked for.
    #[must_use]
    pub fn address(&self) -> Option<Url> {
        let usual = || Some(format!("https://sns.{}.amazonaws.com", self.region()?));
        Url::parse(&self.endpoint_url.clone().or_else(usual)?).ok()
    }

    /// Whether messages of a group are kept in order, and repeats dropped by their key.
    fn is_fifo(&self) -> bool {
        self.topic_arn.rsplit('.').next() == Some("fifo")
    }
}

/// A topic, ready to be told.
pub struct Sns {
    settings: Settings,
    /// Made with the first alert: the chain may ask the machine for credentials.
    client: OnceCell<Client>,
}

impl fmt::Debug for Sns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sns").field("topic", &self.settings.topic_arn).finish_non_exhaustive()
    }
}

impl Sns {
    /// Asks nobody yet.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self { settings, client: OnceCell::new() }
    }

    async fn connect(&self) -> Client {
        let mut loader = aws_config::defaults(BehaviorVersion::latest());
        if let Some(region) = self.settings.region() {
            loader = loader.region(Region::new(region.to_owned()));
        }
        let sdk = loader.load().await;
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(Duration::from_secs(3))
            .operation_attempt_timeout(post::DEADLINE / 2)
            .operation_timeout(post::DEADLINE)
            .build();
        let mut builder = Builder::from(&sdk).timeout_config(timeouts);
        if let Some(endpoint) = &self.settings.endpoint_url {
            builder = builder.endpoint_url(endpoint);
        }
        Client::from_conf(builder.build())
    }
}

fn subject(notice: &Notice) -> String {
    let ascii = notice.headline().replace(|c: char| !c.is_ascii_graphic() && c != ' ', "?");
    ascii.chars().take(SUBJECT).collect()
}

#[async_trait]
impl AlertSink for Sns {
    fn name(&self) -> &str {
        &self.settings.name
    }

    async fn deliver(&self, notice: &Notice) -> Result<(), DeliveryError> {
        let client = self.client.get_or_init(|| self.connect()).await;
        let incident = &notice.incident;
        let attributes = [
            ("kind", incident.kind.as_str()),
            ("severity", incident.severity.as_str()),
            ("change", notice.change.as_str()),
            ("app", incident.app.as_str()),
        ];
        let attributes = attributes.into_iter().filter_map(|(name, value)| {
            let value =
                MessageAttributeValue::builder().data_type("String").string_value(value).build();
            Some((name.to_owned(), value.ok()?))
        });
        let mut request = client
            .publish()
            .topic_arn(&self.settings.topic_arn)
            .subject(subject(notice))
            .message(notice.text())
            .set_message_attributes(Some(attributes.collect()));
        if self.settings.is_fifo() {
            request = request
                .message_group_id(&incident.incident_id)
                .message_deduplication_id(notice.key());
        }
        match request.send().await {
            Ok(_) => Ok(()),
            Err(error) => Err(classed(&error)),
        }
    }
}

fn classed<E: ProvideErrorMetadata + std::error::Error + 'static>(
    error: &SdkError<E>,
) -> DeliveryError {
    if let Some(code) = error.code() {
        // A code is a word of Amazon's, with nothing of ours in it.
        let word: String = code.chars().filter(char::is_ascii_alphanumeric).take(60).collect();
        return DeliveryError::retryable(format!("SNS answered {word}"));
    }
    // The SDK's own words may hold what a provider of credentials answered.
    let credentials = matches!(error, SdkError::ConstructionFailure(_));
    DeliveryError::retryable(if credentials {
        "no AWS credentials were found for SNS"
    } else {
        "SNS can't be reached, or no AWS credentials were found"
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{portal::AppName, time::Clock, time::SystemClock};

    #[test]
    fn a_subject_is_short_and_plain() {
        let app = AppName::parse("a".repeat(64)).unwrap();
        let subject = subject(&Notice::test(&app, SystemClock.wall()));
        assert!(subject.len() <= SUBJECT && subject.is_ascii(), "{subject}");
    }

    #[test]
    fn a_topic_says_in_which_region_it_is() {
        let topic_arn = "arn:aws:sns:eu-west-1:123456789012:ops.fifo".to_owned();
        let settings =
            Settings { name: "ops".to_owned(), topic_arn, region: None, endpoint_url: None };
        assert_eq!(settings.region(), Some("eu-west-1"));
        assert!(settings.is_fifo());
    }
}
