//! `grantkeeper enroll`.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use serde_json::json;

use super::{
    Global,
    exit::{Exit, Failure},
    output::Output,
    setting,
};
use crate::{
    daemon, engine,
    lifecycle::Introspection,
    portal::PortalId,
    secret::RefreshToken,
    store::{Expected, Key, Record, StoreErrorKind},
};

/// Store a portal's refresh token, after HubSpot has said that it is good and whose it is.
///
/// Nothing is spent: the token is introspected. A portal that is stored already gets the new token,
/// and the other members of its record are kept.
#[derive(Debug, Args)]
pub(super) struct Enroll {
    /// Read the refresh token from this file, or from standard input with `-`
    #[arg(long, value_name = "FILE", required = true)]
    refresh_token_file: PathBuf,
}

#[derive(Serialize)]
struct Enrolled {
    portal_id: PortalId,
    replaced: bool,
}

impl Enroll {
    pub(super) async fn run(self, global: &Global, output: Output) -> Result<(), Failure> {
        let config = setting::config(global)?;
        let text = super::secret_text(Some(&self.refresh_token_file), "")?;
        let token = RefreshToken::parse(text.trim())
            .map_err(|why| super::malformed("refresh token", why))?;
        let world = daemon::open_world(&config).await?;
        let pair = engine::load_app(&*world.store).await?;
        let told = world.endpoint.introspect(&pair, &token).await.map_err(|r| Failure::from(&r))?;
        let Introspection::Active { portal: Some(portal), .. } = told else {
            return Err(Failure::new(
                Exit::NeedsPerson,
                "grant_refused",
                "HubSpot says that this refresh token is not good for this app",
                "Nothing was stored. Have the customer connect the app again and take the new token.",
            ));
        };
        let key = Key::Portal(portal);
        let (record, expected) = match world.store.read(key).await {
            Ok(stored) => (stored.record, Expected::At(stored.version)),
            Err(error) if error.kind == StoreErrorKind::Missing => {
                (Record::default(), Expected::Absent)
            }
            Err(error) => return Err(error.into()),
        };
        let known = record.portal().is_ok_and(|before| before.refresh_token.same_as(&token));
        let record = record
            .with_refresh_token(&token)
            .with_member("enrolled_at", json!(world.clock.wall().to_string()));
        world.store.write(key, &record, &expected).await?;
        let there = expected != Expected::Absent;
        let enrolled = Enrolled { portal_id: portal, replaced: there && !known };
        output.answer(&enrolled, |done| {
            let how = match (there, known) {
                (true, true) => "it had this grant already",
                (true, false) => "its grant was replaced",
                (false, _) => "it is new",
            };
            format!("portal {} is stored ({how})", done.portal_id)
        })?;
        setting::followed(global, output).await?;
        Ok(())
    }
}
