//! `grantkeeper run`.

use super::{Global, exit::Failure, setting};
use crate::daemon;

pub(super) async fn run(global: &Global) -> Result<(), Failure> {
    let config = setting::config(global)?;
    let reread = || setting::config(global).map_err(|failure| failure.message);
    Ok(daemon::run(config, reread).await?)
}
