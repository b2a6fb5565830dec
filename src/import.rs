//! Many grants into the store: from rows that somebody exported, or from another store. What is stored already is
//! passed over, so that a run that was cut off is finished by the next one. Knows no file and no terminal.

use std::{collections::BTreeMap, time::Duration};

use serde_json::json;
use tokio::{
    task::{Id, JoinError, JoinSet},
    time::sleep,
};

use crate::{
    engine::World,
    lifecycle::{ClientPair, Introspection, Refusal, schedule::Pace},
    portal::{PortalId, Scopes},
    secret::RefreshToken,
    store::{CredentialStore, Expected, Key, Known, Record, StoreError, StoreErrorKind, Stored},
    validate::{Expected as Should, Verdict},
};

pub mod rows;

/// As many records are on their way at once: those of one shard are written together. How many calls that makes
/// at a time is the store's to say.
const AT_ONCE: usize = 1024;
/// After so many in a row that could not be done, the rest is not tried.
const GIVE_UP: usize = 200;

/// When a grant came into the store.
const ENROLLED_AT: &str = "enrolled_at";
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
    /// A row before it has the same grant.
    Repeated,
    /// A row before it has another grant for the same portal.
    Twice(usize),
    /// The row can't be used.
    Unusable(String),
    /// HubSpot says that the grant is not good.
    NotGood(String),
    /// It can't be stored before a person has done something.
    Barred(String),
    /// HubSpot or the store could not be asked; it may go well the next time.
    NotDone(String),
}

impl Fate {
    /// Whether the row's grant is in the store now, or would be.
    #[must_use]
    pub const fn is_done(&self) -> bool {
        matches!(self, Self::Stored | Self::Replaced | Self::Known | Self::Repeated)
    }

    /// The stable word.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Stored => "stored",
            Self::Replaced => "replaced",
            Self::Known => "known",
            Self::Other => "other_grant",
            Self::Repeated => "repeated",
            Self::Twice(_) => "twice",
            Self::Unusable(_) => "unusable",
            Self::NotGood(_) => "not_good",
            Self::Barred(_) => "barred",
            Self::NotDone(_) => "not_done",
        }
    }

    /// Why, for people; nothing where there is nothing to say.
    #[must_use]
    pub fn why(&self) -> String {
        match self {
            Self::Stored | Self::Replaced | Self::Known | Self::Repeated => String::new(),
            Self::Other => {
                "another grant is stored for this portal; --replace puts this one in its place"
                    .to_owned()
            }
            Self::Twice(line) => {
                format!("line {line} has another grant for the same portal, and comes first")
            }
            Self::Unusable(why) | Self::NotGood(why) | Self::Barred(why) | Self::NotDone(why) => {
                why.clone()
            }
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
/// HubSpot is asked with `pair`, or with the one in the store. Told in the order of the rows.
///
/// # Errors
/// The target can't be read at all, or has no app record to ask HubSpot with.
pub async fn import(
    world: &World,
    rows: Vec<Row>,
    options: Options,
    pair: Option<ClientPair>,
    tell: impl FnMut(usize, usize),
) -> Result<Vec<Told>, StoreError> {
    let pair = match pair {
        _ if !options.check => None,
        None => Some(crate::engine::load_app(&*world.store).await?),
        pair => pair,
    };
    let mut stored = what_is_stored(&*world.store).await?;
    let mut first: BTreeMap<PortalId, (usize, Option<RefreshToken>)> = BTreeMap::new();
    let mut pace = Pace::per_second(options.per_second);
    let mut run = Run::new(rows.len(), tell);
    for row in rows {
        run.take_what_is_done();
        let (line, portal) = (row.line, row.portal);
        let token = row.record.portal().ok().map(|grant| grant.refresh_token);
        if let Some((earlier, before)) = first.get(&portal) {
            let same = matches!((before, &token), (Some(a), Some(b)) if a.same_as(b));
            let fate = if same { Fate::Repeated } else { Fate::Twice(*earlier) };
            run.settle(Told { line, portal: Some(portal), fate });
            continue;
        }
        first.insert(portal, (line, token));
        if let Some(why) = run.given_up() {
            run.settle(Told { line, portal: Some(portal), fate: Fate::NotDone(why) });
            continue;
        }
        let standing = stored.remove(&portal);
        let settled = match &standing {
            Some(Standing::Spoilt) => Some(Fate::Barred(SPOILT.to_owned())),
            Some(standing) if standing.is_same(&row.record) => Some(Fate::Known),
            Some(_) if !options.replace => Some(Fate::Other),
            _ => None,
        };
        // A dry run looks at every grant, stored already or not.
        if let (Some(fate), false) = (&settled, options.dry_run) {
            run.settle(Told { line, portal: Some(portal), fate: fate.clone() });
            continue;
        }
        if pair.is_some() {
            while let Err(free) = pace.take(world.clock.boot()) {
                let wait = free.until(world.clock.boot()).max(Duration::from_millis(1));
                run.take_during(sleep(wait)).await;
            }
        }
        run.make_room().await;
        let (world, pair) = (world.clone(), pair.clone());
        run.begin(line, portal, async move {
            if let Some(pair) = pair
                && let Err(fate) = examine(&world, &pair, &row).await
            {
                return fate;
            }
            match settled {
                Some(fate) => fate,
                None => store(&world, row, standing, options.dry_run).await,
            }
        });
    }
    Ok(run.end().await)
}

/// What is on its way, and what has ended.
struct Run<T> {
    running: JoinSet<Fate>,
    rows: BTreeMap<Id, (usize, PortalId)>,
    told: Vec<Told>,
    total: usize,
    tell: T,
    /// How many in a row could not be done.
    failing: usize,
    last_failure: String,
}

impl<T: FnMut(usize, usize)> Run<T> {
    fn new(total: usize, tell: T) -> Self {
        Self {
            running: JoinSet::new(),
            rows: BTreeMap::new(),
            told: Vec::with_capacity(total),
            total,
            tell,
            failing: 0,
            last_failure: String::new(),
        }
    }

    fn settle(&mut self, told: Told) {
        self.told.push(told);
        (self.tell)(self.told.len(), self.total);
    }

    fn begin(
        &mut self,
        line: usize,
        portal: PortalId,
        work: impl Future<Output = Fate> + Send + 'static,
    ) {
        let id = self.running.spawn(work).id();
        self.rows.insert(id, (line, portal));
    }

    fn take(&mut self, ended: Result<(Id, Fate), JoinError>) {
        let (id, fate) = ended.unwrap_or_else(|error| {
            let why = "it was broken off; run it again, and if it stays so, report it as a defect";
            (error.id(), Fate::NotDone(why.to_owned()))
        });
        let Some((line, portal)) = self.rows.remove(&id) else { return };
        if let Fate::NotDone(why) = &fate {
            self.failing += 1;
            self.last_failure.clone_from(why);
        } else {
            self.failing = 0;
        }
        self.settle(Told { line, portal: Some(portal), fate });
    }

    fn take_what_is_done(&mut self) {
        while let Some(ended) = self.running.try_join_next_with_id() {
            self.take(ended);
        }
    }

    /// Takes what ends before `pause` does.
    async fn take_during(&mut self, pause: impl Future<Output = ()>) {
        tokio::pin!(pause);
        loop {
            tokio::select! {
                () = &mut pause => return,
                Some(ended) = self.running.join_next_with_id() => self.take(ended),
            }
        }
    }

    async fn make_room(&mut self) {
        while self.running.len() >= AT_ONCE
            && let Some(ended) = self.running.join_next_with_id().await
        {
            self.take(ended);
        }
    }

    fn given_up(&self) -> Option<String> {
        let why = || format!("not tried, since {GIVE_UP} before it failed: {}", self.last_failure);
        (self.failing >= GIVE_UP).then(why)
    }

    async fn end(mut self) -> Vec<Told> {
        while let Some(ended) = self.running.join_next_with_id().await {
            self.take(ended);
        }
        self.told.sort_by_key(|told| told.line);
        self.told
    }
}

/// A record that stands in the target.
#[derive(Debug)]
enum Standing {
    Record(Box<Stored>),
    /// It can't be read: nobody but a person may write over it.
    Spoilt,
}

impl Standing {
    fn is_same(&self, record: &Record) -> bool {
        let Self::Record(stored) = self else { return false };
        let tokens = (stored.record.portal(), record.portal());
        matches!(tokens, (Ok(old), Ok(new)) if old.refresh_token.same_as(&new.refresh_token))
    }
}

async fn what_is_stored(
    store: &dyn CredentialStore,
) -> Result<BTreeMap<PortalId, Standing>, StoreError> {
    let contents = store.load(&Known::new()).await?;
    let mut standing = BTreeMap::new();
    for (portal, stored) in contents.records {
        let found = match stored {
            Ok(stored) => Standing::Record(Box::new(stored)),
            Err(error) if error.kind == StoreErrorKind::Corrupt => Standing::Spoilt,
            Err(error) => return Err(error),
        };
        standing.insert(portal, found);
    }
    Ok(standing)
}

async fn store(world: &World, row: Row, standing: Option<Standing>, dry_run: bool) -> Fate {
    let (fate, before, expected) = match standing {
        Some(Standing::Record(stored)) => {
            (Fate::Replaced, stored.record, Expected::At(stored.version))
        }
        Some(Standing::Spoilt) => return Fate::Barred(SPOILT.to_owned()),
        None => (Fate::Stored, Record::default(), Expected::Absent),
    };
    if dry_run {
        return fate;
    }
    let mut record = match before.with_grant_of(&row.record) {
        Ok(record) => record,
        Err(fault) => return Fate::Unusable(fault.to_string()),
    };
    if !row.record.has(ENROLLED_AT) {
        record = record.with_member(ENROLLED_AT, json!(world.clock.wall().to_string()));
    }
    match world.store.write(Key::Portal(row.portal), &record, &expected).await {
        Ok(_) => fate,
        Err(error) if error.kind == StoreErrorKind::Conflict => Fate::NotDone(
            "somebody else stored a grant for this portal meanwhile; run it again".to_owned(),
        ),
        Err(error) if error.kind == StoreErrorKind::Unreachable => {
            Fate::NotDone(format!("{error}. {}", error.hint))
        }
        Err(error) => Fate::Barred(format!("{error}. {}", error.hint)),
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
