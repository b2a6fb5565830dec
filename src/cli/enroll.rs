//! `grantkeeper enroll`.

use std::path::PathBuf;

use clap::{ArgGroup, Args};
use serde::Serialize;
use serde_json::json;

use super::{
    Global,
    exit::{Exit, Failure},
    output::Output,
    setting,
};
use crate::{
    config::Config,
    daemon, engine,
    lifecycle::{ClientPair, Code, Introspection},
    portal::PortalId,
    secret::{AuthorizationCode, CodeVerifier, RefreshToken},
    socket::{client::AskError, protocol::EnrolledBody},
    store::{Expected, Key, Record, StoreErrorKind},
};

/// A write that others came in between of, or that the store did not take, is tried again so often.
const TRIES: u32 = 5;

/// Take in a portal's grant, by the code that HubSpot's consent page gave or by a refresh token.
///
/// The running service does it, if there is one that lets you; else it is done here, with the store's credentials. A
/// refresh token is introspected first and not spent. A portal that is stored already gets the new grant, and the other
/// members of its record are kept.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("brought").required(true).args(["refresh_token_file", "code"]))]
#[command(after_help = "\
  grantkeeper enroll --code \"$CODE\" --redirect-uri https://app.example.com/hubspot/callback
  pass show hubspot/4711 | grantkeeper enroll --refresh-token-file -")]
pub(super) struct Enroll {
    /// Read the refresh token from this file, or from standard input with `-`
    #[arg(long, value_name = "FILE")]
    refresh_token_file: Option<PathBuf>,
    /// The code; it is good once, and for minutes
    #[arg(long, value_name = "CODE", requires = "redirect_uri")]
    code: Option<String>,
    /// Where the code was sent to, exactly as it was asked for
    #[arg(long, value_name = "URI", requires = "code")]
    redirect_uri: Option<String>,
    /// Read the PKCE verifier from this file, where a challenge was sent along
    #[arg(long, value_name = "FILE", requires = "code")]
    code_verifier_file: Option<PathBuf>,
}

#[derive(Serialize)]
struct Enrolled {
    portal_id: PortalId,
    replaced: bool,
}

/// What is brought, as the service is told of it.
enum Brought {
    Code(Code),
    Token(RefreshToken),
}

impl Enroll {
    pub(super) async fn run(self, global: &Global, output: Output) -> Result<(), Failure> {
        let brought = self.brought()?;
        let (enrolled, by_service) = match by_service(global, &brought).await {
            Ok(body) => {
                let EnrolledBody { portal_id, replaced, .. } = body;
                (Enrolled { portal_id, replaced }, true)
            }
            Err(AskError::Unreachable { .. }) => (here(global, brought).await?, false),
            // By then a code may be used up: where the grant turns out to be one that this user may not enrol.
            Err(AskError::Refused(problem))
                if problem.code == "forbidden" && matches!(brought, Brought::Token(_)) =>
            {
                (here(global, brought).await?, false)
            }
            Err(error) => return Err(error.into()),
        };
        output.answer(&enrolled, |done| {
            let how = if done.replaced { "; another grant was there before" } else { "" };
            format!("portal {} is stored{how}", done.portal_id)
        })?;
        if !by_service {
            setting::followed(global, output).await?;
        }
        Ok(())
    }

    fn brought(&self) -> Result<Brought, Failure> {
        if let Some(code) = &self.code {
            let code = AuthorizationCode::parse(code.trim())
                .map_err(|why| super::malformed("code", why))?;
            let verifier = match &self.code_verifier_file {
                Some(file) => {
                    let text = super::secret_text(Some(file), "")?;
                    let verifier = CodeVerifier::parse(text.trim());
                    Some(verifier.map_err(|why| super::malformed("code verifier", why))?)
                }
                None => None,
            };
            let redirect_uri = self.redirect_uri.clone().unwrap_or_default();
            return Ok(Brought::Code(Code { code, redirect_uri, verifier }));
        }
        let text = super::secret_text(self.refresh_token_file.as_deref(), "")?;
        let token = RefreshToken::parse(text.trim());
        Ok(Brought::Token(token.map_err(|why| super::malformed("refresh token", why))?))
    }
}

async fn by_service(global: &Global, brought: &Brought) -> Result<EnrolledBody, AskError> {
    let service = setting::service(global).map_err(|_| AskError::Unreachable {
        // What is wrong with the configuration is told where it is needed.
        path: PathBuf::new(),
        source: std::io::ErrorKind::NotFound.into(),
    })?;
    // exposed: into the body of the order to the local service
    let body = match brought {
        Brought::Token(token) => json!({ "refresh_token": token.expose() }),
        Brought::Code(code) => json!({
            // exposed: into the same
            "code": code.code.expose(),
            "redirect_uri": code.redirect_uri,
            "code_verifier": code.verifier.as_ref().map(CodeVerifier::expose),
        }),
    };
    service.post_json("/v1/portals", &body).await
}

/// Without a service, by this process's own hands.
async fn here(global: &Global, brought: Brought) -> Result<Enrolled, Failure> {
    let config: Config = setting::config(global)?;
    let world = daemon::open_world(&config).await?;
    // The store must be there before a code is spent.
    let pair = engine::load_app(&*world.store).await?;
    let (portal, token) = match brought {
        Brought::Token(token) => (whose(&world, &pair, &token).await?, token),
        Brought::Code(code) => {
            let granted =
                world.endpoint.exchange(&pair, &code).await.map_err(|r| Failure::from(&r))?;
            let token = granted.refresh_token.ok_or_else(not_good)?;
            match granted.portal {
                Some(portal) => (portal, token),
                None => (whose(&world, &pair, &token).await?, token),
            }
        }
    };
    let key = Key::Portal(portal);
    let mut attempt = 0;
    loop {
        attempt += 1;
        match store(&world, key, &token).await {
            Ok(replaced) => return Ok(Enrolled { portal_id: portal, replaced }),
            Err(error) if attempt < TRIES && error.is_transient() => {
                tokio::time::sleep(std::time::Duration::from_secs(u64::from(attempt))).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

async fn store(
    world: &engine::World,
    key: Key,
    token: &RefreshToken,
) -> Result<bool, crate::store::StoreError> {
    let (record, expected) = match world.store.read(key).await {
        Ok(stored) => (stored.record, Expected::At(stored.version)),
        Err(error) if error.kind == StoreErrorKind::Missing => {
            (Record::default(), Expected::Absent)
        }
        Err(error) => return Err(error),
    };
    let before = record.portal().map(|before| before.refresh_token);
    let replaced = before.is_ok_and(|before| !before.same_as(token));
    let record = record
        .with_refresh_token(token)
        .with_member("enrolled_at", json!(world.clock.wall().to_string()));
    world.store.write(key, &record, &expected).await?;
    Ok(replaced)
}

async fn whose(
    world: &engine::World,
    pair: &ClientPair,
    token: &RefreshToken,
) -> Result<PortalId, Failure> {
    let told = world.endpoint.introspect(pair, token).await.map_err(|r| Failure::from(&r))?;
    match told {
        Introspection::Active { portal: Some(portal), .. } => Ok(portal),
        _ => Err(not_good()),
    }
}

fn not_good() -> Failure {
    Failure::new(
        Exit::NeedsPerson,
        "grant_refused",
        "HubSpot says that this grant is not good for this app",
        "Nothing was stored. Have the customer connect the app again and take the new code or token.",
    )
}
