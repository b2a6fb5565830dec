//! How alerts go out over HTTP, whatever they say: where to, within which time, and what the receiver's answer
//! means. Never tells the URL, which may be a secret, nor the receiver's words.

use std::{
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use reqwest::{RequestBuilder, Response, StatusCode, Url, header::RETRY_AFTER, redirect};
use zeroize::Zeroizing;

use super::DeliveryError;
use crate::secret::file::{self, SecretFileError};

/// A receiver that takes longer counts as one that is not there.
pub(super) const DEADLINE: Duration = Duration::from_secs(10);
/// The longest a receiver may ask to be left alone.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);

/// Where a receiver's URL stands.
#[derive(Clone)]
pub enum Target {
    /// In the configuration: it is no secret.
    Url(Url),
    /// In a file that is read for every delivery: it is a secret, and may be replaced.
    File(PathBuf),
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url(url) => write!(f, "Url({}…)", url.origin().ascii_serialization()),
            Self::File(path) => write!(f, "File({})", path.display()),
        }
    }
}

/// The URL can't be used for alerts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadTarget {
    /// Not a URL.
    #[error("it is not an http or https URL")]
    NotAUrl,
    /// Plain HTTP to another machine.
    #[error("plain http is accepted towards this machine only; use https")]
    PlainHttp,
}

/// The text as a URL an alert may go to: https, or http towards loopback.
///
/// # Errors
/// Why not. The error does not hold the text.
pub fn target(text: &str) -> Result<Url, BadTarget> {
    let url = Url::parse(text.trim()).map_err(|_| BadTarget::NotAUrl)?;
    let host = url.host_str().ok_or(BadTarget::NotAUrl)?;
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let loopback = host == "localhost"
        || bare.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    match url.scheme() {
        "https" => Ok(url),
        "http" if loopback => Ok(url),
        "http" => Err(BadTarget::PlainHttp),
        _ => Err(BadTarget::NotAUrl),
    }
}

impl Target {
    /// Where to send now.
    pub(super) async fn url(&self) -> Result<Url, DeliveryError> {
        match self {
            Self::Url(url) => Ok(url.clone()),
            Self::File(path) => {
                let text = read(path).await?;
                target(&text)
                    .map_err(|error| DeliveryError::retryable(format!("url file: {error}")))
            }
        }
    }
}

/// What a secret's file says at present, without the space around it.
pub(super) async fn read(path: &Path) -> Result<Zeroizing<String>, DeliveryError> {
    let unusable =
        |why: &dyn fmt::Display| DeliveryError::retryable(format!("{}: {why}", path.display()));
    let bytes = file::read_beside(path).await.map_err(|error| match error {
        SecretFileError::Open(open) => DeliveryError::retryable(format!("{open}; {}", open.hint())),
        SecretFileError::Io(error) => unusable(&error.kind()),
    })?;
    let text = std::str::from_utf8(&bytes).map_err(|error| unusable(&error))?;
    Ok(Zeroizing::new(text.trim().to_owned()))
}

/// A client that goes nowhere but where it is sent.
///
/// # Errors
/// The machine has no CA certificates.
pub(super) fn client() -> Result<reqwest::Client, reqwest::Error> {
    reqwest::Client::builder()
        .user_agent(concat!("grantkeeper/", env!("CARGO_PKG_VERSION")))
        .redirect(redirect::Policy::none())
        .connect_timeout(DEADLINE / 2)
        .timeout(DEADLINE)
        .build()
}

/// Sends it, and says what the answer means.
pub(super) async fn send(request: RequestBuilder) -> Result<(), DeliveryError> {
    // The library's own error would name the URL.
    let answer = request.send().await.map_err(|error| {
        let how = if error.is_timeout() {
            "did not answer in time"
        } else if is_of(&error, "certificate") {
            "can't be trusted: its certificate is not one that this machine accepts for that name"
        } else if is_of(&error, "dns") {
            "can't be reached: its name is not found"
        } else if is_of(&error, "refused") {
            "can't be reached: nobody listens at that port"
        } else {
            "can't be reached"
        };
        DeliveryError::retryable(format!("the receiver {how}"))
    })?;
    judge(answer.status(), waits(&answer))
}

/// Whether that is what it failed for: the libraries tell so in words alone.
pub(super) fn is_of(error: &dyn std::error::Error, word: &str) -> bool {
    let mut cause = error.source();
    while let Some(error) = cause {
        if error.to_string().contains(word) {
            return true;
        }
        cause = error.source();
    }
    false
}

fn waits(answer: &Response) -> Option<Duration> {
    let seconds = answer.headers().get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(LONGEST_WAIT))
}

/// What an answer means: that one's URL or key is wrong is mended by people, that what is said is wrong by nobody.
fn judge(status: StatusCode, wait: Option<Duration>) -> Result<(), DeliveryError> {
    let what = format!("the receiver answered {status}");
    match status.as_u16() {
        200..=299 => Ok(()),
        408 | 425 | 429 | 500.. => Err(DeliveryError { wait, ..DeliveryError::retryable(what) }),
        300..=399 => {
            let what = format!("{what}: it sends on to another address, which is not followed");
            Err(DeliveryError::retryable(what))
        }
        413 | 422 => Err(DeliveryError::permanent(what)),
        _ => {
            let what = format!("{what}: see whether its address and key or secret are right");
            Err(DeliveryError::retryable(what))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_goes_to_this_machine_only() {
        for good in
            ["https://a.example/x", "http://127.0.0.1:9/x", "http://[::1]/", "http://localhost:1"]
        {
            assert!(target(good).is_ok(), "{good}");
        }
        assert_eq!(target("http://a.example/x"), Err(BadTarget::PlainHttp));
        for bad in ["", "nope", "ftp://127.0.0.1/", "file:///etc/passwd"] {
            assert_eq!(target(bad), Err(BadTarget::NotAUrl), "{bad}");
        }
    }

    #[test]
    fn only_what_nobody_can_mend_is_given_up() {
        let wait = Some(Duration::from_secs(30));
        for (status, again) in [
            (400, true),
            (401, true),
            (404, true),
            (413, false),
            (422, false),
            (429, true),
            (302, true),
            (503, true),
        ] {
            let error = judge(StatusCode::from_u16(status).unwrap(), wait).unwrap_err();
            assert_eq!(error.retryable, again, "{status}");
            assert_eq!(error.wait.is_some(), matches!(status, 429 | 503), "{status}");
        }
        assert_eq!(judge(StatusCode::ACCEPTED, None), Ok(()));
    }

    #[test]
    fn a_url_is_shown_without_what_may_be_secret_in_it() {
        let url = target("https://hooks.example/services/T0/B0/secret").unwrap();
        assert_eq!(format!("{:?}", Target::Url(url)), "Url(https://hooks.example…)");
    }
}
