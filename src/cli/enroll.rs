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
    lifecycle::{Code, Refusal},
    portal::{PortalId, Scopes},
    secret::{AuthorizationCode, CodeVerifier, RefreshToken},
    socket::{
        client::AskError,
        protocol::{EnrolledBody, PortalBody},
    },
    store::{Expected, Key, Record, StoreErrorKind},
};

/// A write that others came in between of, or that the store did not take, is tried again so often.
const TRIES: u32 = 5;

/// Add a portal: by the code that HubSpot's consent page gave, or by a refresh token
///
/// The running service does it, if there is one that lets you; else it is done here, with the store's credentials. A
/// refresh token is introspected first and not spent. A portal that is stored already gets the new grant, and the other
/// members of its record are kept. Nothing is asked before; --dry-run tells whose grant it is and whether it would
/// replace another one.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("brought").required(true).args(["refresh_token_file", "code"]))]
#[command(after_help = "\
Examples:
  grantkeeper enroll --code \"$CODE\" --redirect-uri https://app.example.com/hubspot/callback
  pass show hubspot/4711 | grantkeeper enroll --refresh-token-file -
  grantkeeper enroll --refresh-token-file token.txt --dry-run

Exit codes: 4 HubSpot refuses the grant or the code, or a code is used up and its grant could not be
stored, 75 try again, 77 refused, 78 configuration or client pair invalid.")]
pub(super) struct Enroll {
    /// Read the refresh token from this file, or from standard input with `-`
    #[arg(long, value_name = "FILE")]
    refresh_token_file: Option<PathBuf>,
    /// The code from the callback's `code=`, with --redirect-uri; it can be used once, and only for some minutes
    #[arg(long, value_name = "CODE", requires = "redirect_uri")]
    code: Option<String>,
    /// The redirect URI that the customer was sent to HubSpot with, letter for letter
    #[arg(long, value_name = "URI", requires = "code")]
    redirect_uri: Option<String>,
    /// Read the PKCE verifier from this file, where a challenge was sent along
    #[arg(long, value_name = "FILE", requires = "code")]
    code_verifier_file: Option<PathBuf>,
    /// Say what would happen, and do nothing; a code is not used up
    #[arg(long)]
    dry_run: bool,
}

/// Who does it.
#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum By {
    Service,
    Command,
}

#[derive(Serialize)]
struct Enrolled {
    dry_run: bool,
    /// None: a dry run can't know it.
    portal_id: Option<PortalId>,
    /// Whether another grant was, or would be, replaced. None: a dry run can't know it.
    replaced: Option<bool>,
    by: By,
}

/// What is brought, as the service is told of it.
enum Brought {
    Code(Code),
    Token(RefreshToken),
}

impl Enroll {
    pub(super) async fn run(self, global: &Global, output: Output) -> Result<(), Failure> {
        let brought = self.brought(output)?;
        if self.dry_run {
            let foretold = foretell(global, &brought, output).await?;
            return output.answer(&foretold, |told| would(told, &brought));
        }
        let enrolled = match by_service(global, &brought).await {
            Ok(EnrolledBody { portal_id, replaced, .. }) => {
                Enrolled::now(portal_id, replaced, By::Service)
            }
            Err(AskError::Unreachable { .. }) => here(global, brought).await?,
            // By then a code may be used up: where the grant turns out to be one that this user may not enrol.
            Err(AskError::Refused(problem))
                if problem.code == "forbidden" && matches!(brought, Brought::Token(_)) =>
            {
                here(global, brought).await?
            }
            Err(error) => return Err(error.into()),
        };
        output.answer(&enrolled, |done| {
            let how =
                if done.replaced == Some(true) { "; another grant was there before" } else { "" };
            format!("{} is stored{how}", named(done.portal_id))
        })?;
        if enrolled.by == By::Command {
            setting::followed(global, output).await?;
        }
        if let Some(portal) = enrolled.portal_id {
            remark_if_paused(global, portal, output).await;
        }
        Ok(())
    }

    fn brought(&self, output: Output) -> Result<Brought, Failure> {
        if let Some(code) = &self.code {
            let code = AuthorizationCode::parse(code.trim())
                .map_err(|why| super::malformed("code", why))?;
            let verifier = match &self.code_verifier_file {
                Some(file) => {
                    let text = super::secret_text(Some(file), "--code-verifier-file", "", output)?;
                    let verifier = CodeVerifier::parse(text.trim());
                    Some(verifier.map_err(|why| super::malformed("code verifier", why))?)
                }
                None => None,
            };
            let redirect_uri = self.redirect_uri.clone().unwrap_or_default();
            return Ok(Brought::Code(Code { code, redirect_uri, verifier }));
        }
        let (file, option) = (self.refresh_token_file.as_deref(), "--refresh-token-file");
        let text = super::secret_text(file, option, "", output)?;
        let token = RefreshToken::parse(text.trim());
        Ok(Brought::Token(token.map_err(|why| super::malformed("refresh token", why))?))
    }
}

impl Enrolled {
    const fn now(portal: PortalId, replaced: bool, by: By) -> Self {
        Self { dry_run: false, portal_id: Some(portal), replaced: Some(replaced), by }
    }
}

/// A pause outlives the grant that it was given for.
async fn remark_if_paused(global: &Global, portal: PortalId, output: Output) {
    let Ok(service) = setting::service(global) else { return };
    // Who may enrol need not be one who may look.
    let found = service.get::<PortalBody>(&format!("/v1/portals/{portal}")).await;
    if found.is_ok_and(|found| found.paused) {
        output.remark(&format!(
            "portal {portal} is paused: no token of it is given out until `grantkeeper portal resume {portal}`"
        ));
    }
}

fn named(portal: Option<PortalId>) -> String {
    portal.map_or_else(|| "its portal".to_owned(), |portal| format!("portal {portal}"))
}

/// What an enrolment would do, found out by reading alone: nothing is spent or stored.
async fn foretell(global: &Global, brought: &Brought, output: Output) -> Result<Enrolled, Failure> {
    let served = match setting::service(global) {
        Ok(service) => service.ask(hyper::Method::GET, "/livez").await.is_ok(),
        Err(_) => false,
    };
    let by = if served { By::Service } else { By::Command };
    let unknown = Enrolled { dry_run: true, portal_id: None, replaced: None, by };
    match looked(global, brought).await {
        Ok(Some((portal, replaced))) => {
            Ok(Enrolled { portal_id: Some(portal), replaced: Some(replaced), ..unknown })
        }
        Ok(None) => Ok(unknown),
        // A grant that is no good is none, whoever enrols it.
        Err(failure) if !served || failure.exit == Exit::NeedsPerson => Err(failure),
        Err(failure) => {
            output.remark(&format!(
                "whose grant it is can't be told from here ({}); the service finds out by itself",
                failure.message
            ));
            Ok(unknown)
        }
    }
}

/// Whose the grant is and whether it would replace another one; nothing of a code, which can be used only once.
async fn looked(global: &Global, brought: &Brought) -> Result<Option<(PortalId, bool)>, Failure> {
    let world = daemon::open_world(&setting::config(global)?).await?;
    let pair = engine::load_app(&*world.store).await?;
    let Brought::Token(token) = brought else { return Ok(None) };
    let portal = owner(world.whose(&pair, token).await)?;
    let replaced = match world.store.read(Key::Portal(portal)).await {
        Ok(stored) => replaces(&stored.record, token),
        Err(error) if error.kind == StoreErrorKind::Missing => false,
        Err(error) => return Err(error.into()),
    };
    Ok(Some((portal, replaced)))
}

fn would(told: &Enrolled, brought: &Brought) -> String {
    let who = match told.by {
        By::Service => "the running service would",
        By::Command => "no service runs here; this command would",
    };
    let what = match (brought, told.portal_id) {
        (Brought::Code(_), _) => {
            "exchange the code at HubSpot, which uses it up, and store the grant of the portal that it turns out to be for".to_owned()
        }
        (Brought::Token(_), None) => {
            "ask HubSpot whose grant it is, without spending it, and store it".to_owned()
        }
        (Brought::Token(_), Some(portal)) => {
            format!("store the grant of portal {portal}, which HubSpot says is good")
        }
    };
    let how = match told.replaced {
        Some(true) => " in place of the one that is stored",
        Some(false) => "; no other one is stored for it",
        None => "",
    };
    format!("{who} {what}{how}\nNothing was done.")
}

fn replaces(record: &Record, token: &RefreshToken) -> bool {
    record.portal().is_ok_and(|before| !before.refresh_token.same_as(token))
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
    let by_code = matches!(brought, Brought::Code(_));
    let (portal, token) = match brought {
        Brought::Token(token) => (owner(world.whose(&pair, &token).await)?, token),
        Brought::Code(code) => {
            let granted =
                world.endpoint.exchange(&pair, &code).await.map_err(|r| Failure::from(&r))?;
            let token = granted.refresh_token.ok_or_else(not_good)?;
            let portal = match granted.portal {
                Some(portal) => portal,
                None => owner(world.whose_at_last(&pair, &token).await).map_err(used_up)?,
            };
            (portal, token)
        }
    };
    let key = Key::Portal(portal);
    let mut attempt = 0;
    loop {
        attempt += 1;
        match store(&world, key, &token).await {
            Ok(replaced) => return Ok(Enrolled::now(portal, replaced, By::Command)),
            Err(error) if attempt < TRIES && error.is_transient() => {
                tokio::time::sleep(std::time::Duration::from_secs(u64::from(attempt))).await;
            }
            Err(error) if by_code => return Err(used_up(error.into())),
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
    let replaced = replaces(&record, token);
    let record = record
        .with_refresh_token(token)
        .with_member("enrolled_at", json!(world.clock.wall().to_string()));
    world.store.write(key, &record, &expected).await?;
    Ok(replaced)
}

fn owner(told: Result<Option<(PortalId, Option<Scopes>)>, Refusal>) -> Result<PortalId, Failure> {
    let told = told.map_err(|refusal| Failure::from(&refusal))?;
    told.map(|(portal, _)| portal).ok_or_else(not_good)
}

/// What a code brought is lost with this failure, so that trying again is no way out.
fn used_up(failure: Failure) -> Failure {
    let lost =
        "The code is used up, and the grant is not stored: the customer has to connect again.";
    match failure.exit {
        Exit::TryAgain => {
            Failure { hint: lost.to_owned(), exit: Exit::NeedsPerson, retryable: false, ..failure }
        }
        Exit::NeedsPerson => failure,
        _ => Failure { hint: format!("{} {lost}", failure.hint), ..failure },
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
