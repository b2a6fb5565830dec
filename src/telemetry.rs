//! Logs, set up once: to standard error, as text or JSON, with a fence around libraries that handle
//! secrets. Rooms use `tracing` and never import this.

use std::io::{self, IsTerminal};

use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt, util::SubscriberInitExt};

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// The log could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter is not one.
    #[error("the log filter is not understood")]
    Filter(#[source] tracing_subscriber::filter::ParseError),
    /// Somebody else set a log up before.
    #[error("the log is set up already")]
    Twice(#[source] tracing_subscriber::util::TryInitError),
}

/// Libraries through whose hands secrets go: whatever the filter says of everything, they are not
/// heard below this level (study `backends.md` 3, trap 14).
const FENCE: [&str; 14] = [
    "vaultrs=off",
    "rustify=off",
    "hyper=warn",
    "hyper_util=warn",
    "h2=warn",
    "reqwest=warn",
    "rustls=warn",
    "tower=warn",
    "axum=warn",
    // It shows answers as they came, and an answer may be a credential.
    "aws_config=off",
    "aws_runtime=warn",
    "aws_sdk_secretsmanager=warn",
    "aws_smithy_runtime=warn",
    "aws_smithy_http_client=warn",
];

/// Sets the log up for the whole process. `filter` is what `GRANTKEEPER_LOG` says, such as `info` or
/// `grantkeeper=trace`.
///
/// # Errors
/// See [`TelemetryError`].
pub fn start(filter: &str, format: Format) -> Result<(), TelemetryError> {
    let filter = fenced(filter).map_err(TelemetryError::Filter)?;
    let registry = tracing_subscriber::registry().with(filter);
    let started = match format {
        Format::Text => {
            let colour = io::stderr().is_terminal();
            let layer = fmt::layer().with_writer(io::stderr).with_ansi(colour).with_target(false);
            registry.with(layer).try_init()
        }
        Format::Json => {
            let layer = fmt::layer().json().flatten_event(true).with_writer(io::stderr);
            registry.with(layer).try_init()
        }
    };
    started.map_err(TelemetryError::Twice)
}

fn fenced(filter: &str) -> Result<EnvFilter, tracing_subscriber::filter::ParseError> {
    let mut all = EnvFilter::builder().parse(filter)?;
    // The fence lets warnings through, and where nothing is to be heard they would be.
    if filter.trim() == "off" {
        return Ok(all);
    }
    for directive in FENCE {
        all = all.add_directive(directive.parse()?);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn i10_no_filter_opens_the_fence_around_libraries_that_hold_secrets() {
        for asked in ["trace", "vaultrs=trace,rustify=trace", "info,hyper=trace"] {
            let filter = fenced(asked).unwrap().to_string();
            assert!(filter.contains("vaultrs=off") && filter.contains("hyper=warn"), "{filter}");
            assert!(
                !filter.contains("vaultrs=trace") && !filter.contains("hyper=trace"),
                "{filter}"
            );
        }
    }

    #[test]
    fn off_is_off_for_what_is_behind_the_fence_as_well() {
        assert_eq!(fenced("off").unwrap().to_string(), "off");
    }

    #[test]
    fn a_filter_that_is_none_is_refused() {
        assert!(fenced("grantkeeper=loud").is_err());
    }
}
