//! `grantkeeper import`.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{Read, stdin},
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Args;
use serde::Serialize;
use zeroize::Zeroizing;

use super::{
    Global,
    exit::{Exit, Failure},
    output::{Output, table},
    progress::Progress,
    setting,
};
use crate::{
    config::{self, Config},
    daemon,
    engine::load_app,
    import::{
        Fate, Options, Row, Told, import,
        rows::{self, Columns, Format, Unreadable},
    },
    lifecycle::ClientPair,
    portal::PortalId,
    store::{Key, Known, StoreErrorKind},
};

/// As many rows that were not stored are shown on the terminal; `--output json` has them all.
const SHOWN: usize = 30;

/// Store many portals' grants: from JSON lines or CSV, or from another configuration's store.
///
/// Rows that are stored already are passed over, so that it can be run again at any time. Of a portal that has
/// another grant in the store, that one stays unless --replace is given.
#[derive(Debug, Args)]
#[command(after_help = "\
CSV needs a first line with the columns' names; the usual ones (portal_id, hub_id, refresh_token and such) are
found by themselves, however they are written; columns are apart by commas, semicolons or tabs; text is UTF-8.
From another store the app's client id and secret are taken too, where the target has none.

Exit codes: 0 all is stored, 4 some rows need a person, 75 some could not be stored now:
run it again.

  grantkeeper import --dry-run grants.csv --portal-column account --token-column rt
  gpg -d grants.jsonl.gpg | grantkeeper import -
  grantkeeper import --from-config /etc/grantkeeper/old-store.toml")]
pub(super) struct Import {
    /// The rows; `-` reads standard input
    #[arg(value_name = "FILE", required_unless_present = "from_config")]
    file: Option<PathBuf>,
    /// Take every portal's record from this configuration's store instead
    #[arg(long, value_name = "FILE", conflicts_with_all = ["file", "format", "portal_column", "token_column", "keep_column"])]
    from_config: Option<PathBuf>,
    /// Store nothing, and ask HubSpot about each grant
    #[arg(long)]
    dry_run: bool,
    /// Ask HubSpot about each grant, and store only those that are good
    #[arg(long)]
    check: bool,
    /// Put a row's grant in the place of another one that is stored
    #[arg(long)]
    replace: bool,
    /// How the rows are written [default: by how they begin]
    #[arg(long, value_enum, value_name = "FORMAT")]
    format: Option<Written>,
    /// The column, or the member, with the portal's id
    #[arg(long, value_name = "NAME")]
    portal_column: Option<String>,
    /// The column, or the member, with the refresh token
    #[arg(long, value_name = "NAME")]
    token_column: Option<String>,
    /// A further column of a CSV to keep in the record; may be given again
    #[arg(long, value_name = "NAME")]
    keep_column: Vec<String>,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Written {
    /// A JSON object a line.
    Jsonl,
    /// Comma-separated, with a head.
    Csv,
}

#[derive(Serialize)]
struct Imported {
    dry_run: bool,
    /// How many rows met which fate.
    counts: BTreeMap<&'static str, usize>,
    /// Rows that are not in the store now.
    skipped: Vec<Skipped>,
}

#[derive(Serialize)]
struct Skipped {
    line: usize,
    portal_id: Option<PortalId>,
    reason: &'static str,
    detail: String,
}

impl Import {
    pub(super) async fn run(self, global: &Global, output: Output) -> Result<ExitCode, Failure> {
        let config = setting::config(global)?;
        let world = daemon::open_world(&config).await?;
        let (rows, bad, pair) = if let Some(other) = &self.from_config {
            from_store(other, &world.store, self.dry_run, output).await?
        } else {
            let (rows, bad) = self.rows_of_file()?;
            (rows, bad, None)
        };
        let options = Options {
            dry_run: self.dry_run,
            check: self.check || self.dry_run,
            replace: self.replace,
            per_second: config.hubspot.max_refreshes_per_second,
        };
        let progress = Progress::new(output, "grants");
        let told = import(&world, rows, options, pair, |done, of| progress.show(done, of)).await;
        progress.done();
        let mut told = told?;
        told.extend(bad);
        told.sort_by_key(|told| told.line);
        let imported = Imported::of(&told, self.dry_run);
        output.answer(&imported, Imported::show)?;
        let changed = |told: &Told| matches!(told.fate, Fate::Stored | Fate::Replaced);
        if !self.dry_run && told.iter().any(changed) {
            setting::followed(global, output).await?;
        }
        Ok(exit(&told))
    }

    fn rows_of_file(&self) -> Result<(Vec<Row>, Vec<Told>), Failure> {
        let text = read(self.file.as_deref())?;
        let format = match self.format {
            Some(Written::Jsonl) => Format::JsonLines,
            Some(Written::Csv) => Format::Csv,
            None => Format::of(&text),
        };
        let columns = Columns {
            portal: self.portal_column.clone(),
            token: self.token_column.clone(),
            keep: self.keep_column.clone(),
        };
        rows::parse(&text, format, &columns).map_err(|why| {
            let hint = match why {
                Unreadable::Empty => "Nothing was stored. Is it the right file?",
                Unreadable::NoColumn { .. } => {
                    "The first line has to name the columns; if it does, say which hold what with --portal-column and --token-column."
                }
                Unreadable::Array => "Nothing was stored. Write it anew as JSON lines.",
            };
            Failure::new(Exit::Usage, "no_rows", why.to_string(), hint)
        })
    }
}

/// The rows' text, wiped after use.
fn read(file: Option<&Path>) -> Result<Zeroizing<String>, Failure> {
    let name = file.map_or_else(|| "-".into(), Path::to_string_lossy);
    let refused = |why: &str, hint: &str| {
        let what = format!("the rows can't be read from {name}");
        Failure::new(Exit::Usage, "no_rows", what, hint).because(why)
    };
    let mut bytes = Zeroizing::new(Vec::new());
    let read = match file {
        Some(path) if path != Path::new("-") => {
            File::open(path).and_then(|mut file| file.read_to_end(&mut bytes))
        }
        _ => stdin().read_to_end(&mut bytes),
    };
    read.map_err(|error| {
        refused(&error.to_string(), "Name a readable file, or `-` for standard input.")
    })?;
    let error = match std::str::from_utf8(&bytes) {
        Ok(text) => return Ok(Zeroizing::new(text.to_owned())),
        Err(error) => error,
    };
    let good = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
    let line = 1 + good.matches('\n').count();
    let hint = "Save it as UTF-8 (in Excel: \"CSV UTF-8\"), or convert it with `iconv`.";
    Err(refused(&format!("line {line} is not UTF-8 text"), hint))
}

/// Every portal's record of another store; the app's own too, where the target has none. In a dry run it is given
/// back, to ask HubSpot with.
async fn from_store(
    other: &Path,
    target: &std::sync::Arc<dyn crate::store::CredentialStore>,
    dry_run: bool,
    output: Output,
) -> Result<(Vec<Row>, Vec<Told>, Option<ClientPair>), Failure> {
    let other = Config::load(other, &config::environment)?;
    let source = daemon::open_store(&other.store).await?;
    let missing = target.read(Key::App).await.is_err_and(|e| e.kind == StoreErrorKind::Missing);
    let mut pair = None;
    if missing && dry_run {
        pair = Some(load_app(&*source).await?);
        output.remark("the target has no client pair yet; that of the other store would be taken");
    } else if missing {
        let app = source.read(Key::App).await?;
        target.write(Key::App, &app.record, &crate::store::Expected::Absent).await?;
        output.remark("the target had no client pair; that of the other store was taken");
    }
    let contents = source.load(&Known::new()).await?;
    let (mut rows, mut bad) = (Vec::new(), Vec::new());
    for (line, (portal, stored)) in (1..).zip(contents.records) {
        let usable = stored.map_err(|error| error.to_string()).and_then(|stored| {
            stored.record.portal().map(drop).map_err(|fault| fault.to_string())?;
            Ok(stored.record)
        });
        match usable {
            Ok(record) => rows.push(Row { line, portal, record }),
            Err(why) => bad.push(Told { line, portal: Some(portal), fate: Fate::Unusable(why) }),
        }
    }
    Ok((rows, bad, pair))
}

fn exit(told: &[Told]) -> ExitCode {
    let any = |wanted: fn(&Fate) -> bool| told.iter().any(|told| wanted(&told.fate));
    if any(|fate| matches!(fate, Fate::NotDone(_))) {
        Exit::TryAgain.into()
    } else if any(|fate| !fate.is_done()) {
        Exit::NeedsPerson.into()
    } else {
        ExitCode::SUCCESS
    }
}

impl Imported {
    fn of(told: &[Told], dry_run: bool) -> Self {
        let mut counts = BTreeMap::new();
        for one in told {
            *counts.entry(one.fate.as_str()).or_default() += 1;
        }
        let skipped = told.iter().filter(|told| !told.fate.is_done()).map(|told| Skipped {
            line: told.line,
            portal_id: told.portal,
            reason: told.fate.as_str(),
            detail: told.fate.why(),
        });
        Self { dry_run, counts, skipped: skipped.collect() }
    }

    fn show(&self) -> String {
        let mut text = String::new();
        if !self.skipped.is_empty() {
            text = table(
                &["LINE", "PORTAL", "FATE", "WHY"],
                self.skipped.iter().take(SHOWN).map(|row| {
                    let portal = row.portal_id.map_or_else(|| "-".to_owned(), |id| id.to_string());
                    vec![row.line.to_string(), portal, row.reason.to_owned(), row.detail.clone()]
                }),
            );
            if self.skipped.len() > SHOWN {
                let rest = self.skipped.len() - SHOWN;
                text += &format!("and {rest} more; --output json has them all\n");
            }
            text += "\n";
        }
        let counts: Vec<_> =
            self.counts.iter().map(|(fate, count)| format!("{count} {fate}")).collect();
        let how = if self.dry_run { "nothing was stored; it would be: " } else { "" };
        let all =
            if counts.is_empty() { "there were no rows".to_owned() } else { counts.join(", ") };
        text + how + &all
    }
}
