//! `grantkeeper app`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde::Serialize;

use super::{
    Global,
    exit::{Exit, Failure},
    output::Output,
    setting,
};
use crate::{
    config::StoreSettings,
    daemon,
    hubspot::{HubSpot, prove},
    lifecycle::{ClientPair, FurtherSecrets},
    portal::ClientId,
    secret::ClientSecret,
    store::{Expected, Key, Record, StoreErrorKind},
    time::SystemClock,
};

/// The app's own credentials.
#[derive(Debug, Subcommand)]
pub(super) enum App {
    /// Store the client id and secret, the first time; later, `rotate client-secret`
    Set(Set),
}

/// Store the app's client id and secret, after HubSpot has accepted them.
#[derive(Debug, Args)]
pub(super) struct Set {
    /// The client id, from the app's Auth page at HubSpot
    #[arg(long, value_name = "ID")]
    client_id: String,
    /// Read the client secret from this file, or from standard input with `-`; asked for at a hidden
    /// prompt otherwise
    #[arg(long, value_name = "FILE")]
    client_secret_file: Option<PathBuf>,
    /// With the embedded store: make its key and its file if there are none yet
    #[arg(long)]
    create_key: bool,
}

#[derive(Serialize)]
struct Done {
    stored: bool,
}

impl App {
    pub(super) async fn run(self, global: &Global, output: Output) -> Result<(), Failure> {
        let Self::Set(set) = self;
        let mut config = setting::config(global)?;
        if let StoreSettings::File(file) = &mut config.store {
            file.create_key = set.create_key;
        } else if set.create_key {
            return Err(Failure::new(
                Exit::Usage,
                "not_embedded",
                "--create-key is for the embedded store only",
                "Leave it out, or set store.kind = \"file\".",
            ));
        }
        let (file, option) = (set.client_secret_file.as_deref(), "--client-secret-file");
        let text = super::secret_text(file, option, "Client secret: ", output)?;
        let client_secret = ClientSecret::parse(text.trim())
            .map_err(|why| super::malformed("client secret", why))?;
        let client_id = ClientId::parse(set.client_id.trim()).map_err(|error| {
            Failure::new(
                Exit::Usage,
                "client_id",
                error.to_string(),
                "Copy it from the app's Auth page.",
            )
        })?;
        let pair = ClientPair { client_id, client_secret, further: FurtherSecrets::default() };
        let hubspot = HubSpot::new(config.hubspot.clone(), std::sync::Arc::new(SystemClock))?;
        prove(&hubspot, &pair, None).await.map_err(|refusal| Failure::from(&refusal))?;

        let store = daemon::open_store(&config.store).await?;
        match store.read(Key::App).await {
            Err(error) if error.kind == StoreErrorKind::Missing => {}
            Err(error) => return Err(error.into()),
            Ok(_) => {
                return Err(Failure::new(
                    Exit::Failed,
                    "app_stored_already",
                    "the app's credentials are stored already",
                    "Nothing was changed. To replace the secret, run `grantkeeper rotate client-secret`.",
                ));
            }
        }
        let record = Record::default().with_client(&pair.client_id, &pair.client_secret);
        store.write(Key::App, &record, &Expected::Absent).await?;
        output.answer(&Done { stored: true }, |_| {
            "HubSpot accepts the app's credentials; they are stored".to_owned()
        })
    }
}
