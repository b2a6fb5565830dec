//! `grantkeeper token`.

use std::time::Duration;

use clap::Args;
use jiff::Timestamp;
use serde::Deserialize;

use super::{
    Global,
    exit::{Exit, Failure},
    output::{Format, Output, is_watched},
    setting,
};
use crate::{
    portal::{PortalId, Scopes},
    secret::AccessToken,
    socket::protocol::TokenBody,
};

/// Print one access token on standard output.
///
/// Nothing else stands there, unless `--output json` asks for the service's whole answer.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  curl -H \"Authorization: Bearer $(grantkeeper token 4711)\" \\
    https://api.hubapi.com/account-info/2026-03/details")]
pub(super) struct Token {
    /// The portal's id
    portal: PortalId,
    /// With at least this much life, such as `5m`
    #[arg(long, value_name = "TIME", value_parser = super::duration)]
    min_ttl: Option<Duration>,
    /// Print it even where somebody may look at the terminal
    #[arg(long)]
    reveal: bool,
}

#[derive(Deserialize)]
pub(super) struct Answer {
    portal_id: PortalId,
    pub(super) access_token: AccessToken,
    token_type: String,
    expires_at: Timestamp,
    expires_in: u64,
    scopes: Option<Scopes>,
    #[serde(default)]
    short_lived: bool,
}

/// The running service's answer.
pub(super) async fn ask(
    global: &Global,
    portal: PortalId,
    min_ttl: Option<Duration>,
) -> Result<Answer, Failure> {
    let service = setting::service(global)?;
    let ttl = min_ttl.map(|ttl| format!("?min_ttl={}", ttl.as_secs())).unwrap_or_default();
    let answer = service.get::<Answer>(&format!("/v1/portals/{portal}/token{ttl}")).await;
    answer.map_err(|error| Failure::from(error).about(portal))
}

impl Token {
    pub(super) async fn run(self, global: &Global, output: Output) -> Result<(), Failure> {
        if is_watched() && !self.reveal {
            return Err(Failure::new(
                Exit::Usage,
                "would_reveal",
                "standard output is a terminal, and a token is a password",
                "Pipe it to where it is needed, or say --reveal.",
            ));
        }
        let answer = ask(global, self.portal, self.min_ttl).await?;
        // exposed: to standard output, which is what was asked for
        let token = answer.access_token.expose();
        if output.format == Format::Table {
            if answer.short_lived {
                let what = "it has less life than was asked for, and HubSpot gives no better one at present";
                output.remark(&format!("{what}: {} s are left", answer.expires_in));
            }
            return output.line(token);
        }
        let document = TokenBody {
            portal_id: answer.portal_id,
            access_token: token,
            token_type: &answer.token_type,
            expires_at: answer.expires_at,
            expires_in: answer.expires_in,
            scopes: answer.scopes.as_ref(),
            short_lived: answer.short_lived,
        };
        output.answer(&document, |_| String::new())
    }
}
