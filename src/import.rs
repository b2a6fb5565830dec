//! Many grants into the store: from rows that somebody exported, or from another store. What is stored already is
//! passed over, so that a run that was cut off is finished by the next one. Knows no file and no terminal.

use std::{collections::BTreeMap, time::Duration};

use serde_json::json;
use tokio::{task::JoinSet, time::sleep};

use crate::{
    engine::World,
    lifecycle::{ClientPair, Introspection, Refusal, schedule::Pace},
    portal::{PortalId, Scopes},
    secret::RefreshToken,
    store::{CredentialStore, Expected, Key, Known, Record, StoreError, StoreErrorKind, Version},
    validate::{Expected as Should, Verdict},
};

pub mod rows;

/// As many records are on their way at once: those of one shard are written together. How many calls that makes
/// at a time is the store's to say.
const AT_ONCE: usize = 1024;
/// A store that can't be had for so many records in a row is not asked on for the rest.
const GIVE_UP: usize = 200;

const SPOILT: &str =
    "the record that stands there can't be read: look at it, and take it away before the next run";

/// One grant to store.
#[derive(Debug, Clone)]
pub struct Row {
    /// Where it stood, for people: a line's number, or 0.
    pub line: usize,
    /// Whose.
    pub portal: PortalId,
    /// What is to be stored, with the refresh token among its members.
    pub record: Record,
}

/// How it is done.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Store nothing.
    pub dry_run: bool,
    /// Ask HubSpot about each grant, and store only those that are good.
    pub check: bool,
    /// Put the row's grant in the place of another one that is stored.
    pub replace: bool,
    /// Questions to HubSpot a second.
    pub per_second: f64,
}

/// What became of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// It is stored; in a dry run, it would be.
    Stored,
    /// It is stored in the place of another grant; in a dry run, it would be.
    Replaced,
    /// The same grant was stored already.
    Known,
    /// Another grant is stored for this portal.
    Other,
    /// A row before it is for the same portal.
    Twice(usize),
    /// The row can't be used.
    Unusable(String),
    /// HubSpot says that the grant is not good.
    NotGood(String),
    /// HubSpot or the store could not be asked.
    NotDone(String),
}

impl Fate {
    /// Whether the row's grant is in the store now, or would be.
    #[must_use]
    pub const fn is_done(&self) -> bool {
        matches!(self, Self::Stored | Self::Replaced | Self::Known)
    }

    /// The stable word.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Stored => "stored",
            Self::Replaced => "replaced",
            Self::Known => "known",
            Self::Other => "other_grant",
            Self::Twice(_) => "twice",
            Self::Unusable(_) => "unusable",
            Self::NotGood(_) => "not_good",
            Self::NotDone(_) => "not_done",
        }
    }

    /// Why, for people; nothing where there is nothing to say.
    #[must_use]
    pub fn why(&self) -> String {
        match self {
            Self::Stored | Self::Replaced | Self::Known => String::new(),
            Self::Other => {
                "another grant is stored for this portal; --replace puts this one in its place"
                    .to_owned()
            }
            Self::Twice(line) => format!("line {line} is for the same portal, and counts"),
            Self::Unusable(why) | Self::NotGood(why) | Self::NotDone(why) => why.clone(),
        }
    }
}

/// A row's end.
#[derive(Debug, Clone)]
pub struct Told {
    /// See [`Row::line`].
    pub line: usize,
    /// Whose; none where the row does not say.
    pub portal: Option<PortalId>,
    /// What became of it.
    pub fate: Fate,
}

/// Stores every row's grant, as far as that is possible and wanted; `tell` hears after each how many are done.
/// Told in the order of the rows.
///
/// # Errors
/// The target can't be read at all, or has no app record to ask HubSpot with.
pub async fn import(
    world: &World,
    rows: Vec<Row>,
    options: Options,
    mut tell: impl FnMut(usize, usize),
) -> Result<Vec<Told>, StoreError> {
    let pair =
        if options.check { Some(crate::engine::load_app(&*world.store).await?) } else { None };
    let stored = what_is_stored(&*world.store).await?;
    let (total, mut done) = (rows.len(), 0);
    let mut told = Vec::with_capacity(total);
    let mut first: BTreeMap<PortalId, usize> = BTreeMap::new();
    let mut pace = Pace::per_second(options.per_second);
    let mut running = JoinSet::new();
    let mut failing = 0;
    for row in rows {
        let (line, portal) = (row.line, row.portal);
        let earlier = *first.entry(portal).or_insert(line);
        let known = stored.get(&portal);
        let settled = match known {
            _ if earlier != line => Some(Fate::Twice(earlier)),
            _ if failing >= GIVE_UP => {
                Some(Fate::NotDone("the store could not be had for those before it".to_owned()))
            }
            Some(known) if known.version.is_none() => Some(Fate::NotDone(SPOILT.to_owned())),
            Some(known) if known.is_same(&row.record) => Some(Fate::Known),
            Some(_) if !options.replace => Some(Fate::Other),
            _ => None,
        };
        if let Some(fate) = settled {
            told.push(Told { line, portal: Some(portal), fate });
            done += 1;
            tell(done, total);
            continue;
        }
        if pair.is_some() {
            while let Err(free) = pace.take(world.clock.boot()) {
                sleep(free.until(world.clock.boot()).max(Duration::from_millis(1))).await;
            }
        }
        while running.len() >= AT_ONCE {
            take(running.join_next().await, &mut told, &mut failing);
            done += 1;
            tell(done, total);
        }
        let (world, pair) = (world.clone(), pair.clone());
        let at = known.and_then(|known| known.version.clone());
        running.spawn(async move {
            let fate = store(&world, pair, row, at, options.dry_run).await;
            Told { line, portal: Some(portal), fate }
        });
    }
    while !running.is_empty() {
        take(running.join_next().await, &mut told, &mut failing);
        done += 1;
        tell(done, total);
    }
    told.sort_by_key(|told| told.line);
    Ok(told)
}

fn take(
    ended: Option<Result<Told, tokio::task::JoinError>>,
    told: &mut Vec<Told>,
    failing: &mut usize,
) {
    if let Some(Ok(one)) = ended {
        *failing = if matches!(one.fate, Fate::NotDone(_)) { *failing + 1 } else { 0 };
        told.push(one);
    }
}

/// A record that stands in the target.
#[derive(Debug)]
struct Standing {
    token: Option<RefreshToken>,
    /// None if it can't be read: nobody but a person may write over it.
    version: Option<Version>,
}

impl Standing {
    fn is_same(&self, record: &Record) -> bool {
        let new = record.portal().map(|portal| portal.refresh_token);
        new.is_ok_and(|new| self.token.as_ref().is_some_and(|token| token.same_as(&new)))
    }
}

async fn what_is_stored(
    store: &dyn CredentialStore,
) -> Result<BTreeMap<PortalId, Standing>, StoreError> {
    let contents = store.load(&Known::new()).await?;
    let mut standing = BTreeMap::new();
    for (portal, stored) in contents.records {
        match stored {
            Ok(stored) => {
                let token = stored.record.portal().ok().map(|portal| portal.refresh_token);
                standing.insert(portal, Standing { token, version: Some(stored.version) });
            }
            Err(error) if error.kind == StoreErrorKind::Corrupt => {
                standing.insert(portal, Standing { token: None, version: None });
            }
            Err(error) => return Err(error),
        }
    }
    Ok(standing)
}

async fn store(
    world: &World,
    pair: Option<ClientPair>,
    row: Row,
    at: Option<Version>,
    dry_run: bool,
) -> Fate {
    if let Some(pair) = pair
        && let Err(fate) = examine(world, &pair, &row).await
    {
        return fate;
    }
    let fate = if at.is_some() { Fate::Replaced } else { Fate::Stored };
    if dry_run {
        return fate;
    }
    let expected = at.map_or(Expected::Absent, Expected::At);
    let record = row.record.with_member("enrolled_at", json!(world.clock.wall().to_string()));
    match world.store.write(Key::Portal(row.portal), &record, &expected).await {
        Ok(_) => fate,
        Err(error) if error.kind == StoreErrorKind::Conflict => Fate::NotDone(
            "somebody else stored a grant for this portal meanwhile; run it again".to_owned(),
        ),
        Err(error) => Fate::NotDone(format!("{error}. {}", error.hint)),
    }
}

/// What HubSpot says of the row's grant.
async fn examine(world: &World, pair: &ClientPair, row: &Row) -> Result<(), Fate> {
    let unusable = |fault: crate::store::RecordFault| Fate::Unusable(fault.to_string());
    let token = row.record.portal().map_err(unusable)?.refresh_token;
    let told =
        world.endpoint.introspect(pair, &token).await.map_err(|refusal| not_told(&refusal))?;
    let none = Scopes::default();
    let should = Should { portal: row.portal, client_id: &pair.client_id, required: &none };
    let why = match (should.judge(&told), told) {
        (Verdict::Good | Verdict::ScopesMissing(_), _) => return Ok(()),
        (_, Introspection::Inactive) => {
            "HubSpot says that it is revoked, or was never good for this app".to_owned()
        }
        (Verdict::WrongPortal(other), _) => format!("HubSpot says that it is portal {other}'s"),
        (_, _) => "HubSpot says that it was given to another app".to_owned(),
    };
    Err(Fate::NotGood(why))
}

fn not_told(refusal: &Refusal) -> Fate {
    Fate::NotDone(format!("HubSpot could not be asked ({}); run it again", refusal.class.as_str()))
}
