//! Which configuration and which socket a command means.

use std::path::PathBuf;

use super::{Global, exit::Failure, output::Output};
use crate::{
    config::{self, Config},
    socket::{Client, client::AskError, protocol::ReloadedBody},
};

/// The configuration as named, or the default one.
pub(super) fn config(global: &Global) -> Result<Config, Failure> {
    let path = config_path(global);
    Ok(Config::load(&path, &config::environment)?)
}

/// The same, for a command that tells nobody of incidents.
pub(super) fn config_but_alerts(global: &Global, output: Output) -> Result<Config, Failure> {
    let config = Config::load_but_alerts(&config_path(global), &config::environment)?;
    for warning in &config.warnings {
        output.remark(&format!("the configuration: {warning}"));
    }
    Ok(config)
}

/// Where the configuration is.
pub(super) fn config_path(global: &Global) -> PathBuf {
    global.config.clone().unwrap_or_else(|| PathBuf::from(config::DEFAULT_PATH))
}

/// The running service: by `--socket`, else by the configuration, else where it usually is.
pub(super) fn service(global: &Global) -> Result<Client, Failure> {
    if let Some(path) = &global.socket {
        return Ok(Client::new(path));
    }
    // A configuration that was named must be good; the default one need not exist for those who
    // only use the socket.
    if global.config.is_some() {
        // The service may run well all the same, by what the file said before.
        let named = Config::load_but_alerts(&config_path(global), &config::environment);
        let named = named.map_err(Failure::from).map_err(|failure| {
            let hint = format!("{} A running service can be asked by --socket PATH.", failure.hint);
            Failure { hint, ..failure }
        });
        return Ok(Client::new(named?.socket.path));
    }
    let usual = Config::load_but_alerts(&config_path(global), &config::environment);
    Ok(Client::new(usual.map_or_else(|_| PathBuf::from(config::DEFAULT_SOCKET), |c| c.socket.path)))
}

/// Tells the running service that records have changed: whether it uses the client pair that is stored.
pub(super) async fn tell(global: &Global) -> Result<Result<bool, AskError>, Failure> {
    let told = service(global)?.post::<ReloadedBody>("/v1/reload").await;
    Ok(told.map(|reloaded| reloaded.follows))
}

/// Tells the running service, if there is one, that records have changed; says what came of it.
pub(super) async fn followed(global: &Global, output: Output) -> Result<bool, Failure> {
    let told = tell(global).await?;
    output.remark(&match &told {
        Ok(true) => "followed: the running service uses it".to_owned(),
        Ok(false) => {
            "the running service was told, and does not use the stored client secret: it follows once HubSpot accepts that".to_owned()
        }
        Err(AskError::Unreachable { .. }) => {
            "no service is running here; one that runs elsewhere notices by itself".to_owned()
        }
        Err(AskError::Refused(problem)) if problem.code == "forbidden" => {
            "the running service was not told, since this user may not: it notices by itself within validate.every; run it as the service's own user to have it at once".to_owned()
        }
        Err(error) => format!("the running service was not told ({error}); it notices by itself within validate.every"),
    });
    Ok(matches!(told, Ok(true)))
}
