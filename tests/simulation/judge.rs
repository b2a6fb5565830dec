//! What must have held, by the stand-in's ground truth: what was presented, what was given out, what is
//! good. Believes nothing that the program says of itself but what it serves and what it tells people.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use crate::{
    process::{app, key},
    story::Story,
};
use grantkeeper::{
    incident::{Change, Kind, Notice},
    journal,
    lifecycle::PortalState,
    portal::PortalId,
    sim::{Delivery, Endpoint, Presentation},
};

/// What is found against a story, in words.
pub(crate) type Verdict = Result<(), String>;

fn check(holds: bool, what: impl FnOnce() -> String) -> Verdict {
    if holds { Ok(()) } else { Err(what()) }
}

/// What was seen to happen so far, by the stand-in's ledger and by what was durable when a process died.
#[derive(Debug, Default)]
pub(crate) struct Record {
    /// The generations of each portal's refresh tokens that were found durable.
    durable: BTreeMap<PortalId, BTreeSet<u32>>,
    /// As far as the ledger has been followed.
    followed: u64,
    /// Of each portal: the last generation that was spent, when it was replaced.
    spent: BTreeMap<PortalId, (u32, u64)>,
    /// The last presentations of each portal that brought another refresh token.
    answered: BTreeMap<PortalId, VecDeque<Presentation>>,
}

/// A grant that was lost, and what is known of how.
#[derive(Debug)]
pub(crate) struct Lost {
    pub(crate) portal: PortalId,
    /// The one that nobody has.
    generation: u32,
    /// Its answer was cut off, or a process died with it.
    excused: bool,
    answered: Option<Presentation>,
}

/// As many presentations of one portal are looked back upon.
const LOOKED_BACK: usize = 16;

impl Record {
    /// Follows the ledger to the first presentation whose answer is still on its way: every one is judged
    /// (I2, I4). Tells which portals were given another refresh token.
    pub(crate) fn follow(&mut self, story: &Story) -> Result<BTreeSet<PortalId>, String> {
        let mut given = BTreeSet::new();
        let entries = story.sim.ledger(self.followed, None);
        for entry in entries.into_iter().take_while(|entry| entry.delivery != Delivery::Pending) {
            self.followed = entry.seq;
            if self.presented(story, &entry)? {
                given.extend(entry.portal);
                let all = self.answered.entry(entry.portal.unwrap_or(PortalId::FIRST)).or_default();
                all.push_back(entry);
                if all.len() > LOOKED_BACK {
                    all.pop_front();
                }
            }
        }
        Ok(given)
    }

    /// One presentation of a refresh token: whether it brought another one.
    fn presented(&mut self, story: &Story, entry: &Presentation) -> Result<bool, String> {
        let (Some(portal), Some(generation)) = (entry.portal, entry.generation) else {
            return Ok(false);
        };
        if entry.endpoint != Endpoint::Token {
            return Ok(false);
        }
        let strays = story.had_strays(entry.at);
        check(entry.concurrent <= 1 || strays, || {
            format!("I2: portal {portal}: {} refreshes in flight at {}", entry.concurrent, entry.at)
        })?;
        let replaces = entry.carried_out && entry.issued.is_some_and(|issued| issued != generation);
        // An older grant's request, which an edge had given up, may arrive after its customer is back.
        let again =
            |(spent, _): &&(u32, u64)| *spent == generation || (*spent > generation && !strays);
        if let Some((spent, first)) = self.spent.get(&portal).filter(again) {
            let (seq, at) = (entry.seq, entry.at);
            return Err(format!(
                "I4: portal {portal}: generation {spent} was spent in {first}, and {generation} presented again in {seq} at {at}"
            ));
        }
        if replaces {
            self.spent.insert(portal, (generation, entry.seq));
        }
        Ok(replaces)
    }

    /// What is known of a grant's loss at the time when people are told of it.
    pub(crate) fn lost(&self, story: &Story, portal: PortalId, generation: u32) -> Lost {
        let all = self.answered.get(&portal);
        let answered = all.and_then(|all| all.iter().find(|e| e.issued == Some(generation)));
        let excused = answered.is_none_or(|entry| {
            let reached = story.received(portal, generation);
            entry.delivery != Delivery::Delivered || !reached || story.crashed_since(entry.at)
        });
        Lost { portal, generation, excused, answered: answered.cloned() }
    }

    /// Looks at the journal and the store as a process left them (I3).
    pub(crate) async fn look(&mut self, story: &Story) -> Verdict {
        let mut names = Vec::new();
        if story.place.journal {
            // A copy: opening writes.
            let disk = story.place.disk.copy();
            let clock = Arc::new(story.place.clock.clone());
            let opened = journal::open(Arc::new(disk), key(), &app(), clock).await;
            let (_, recovered, _) = opened.map_err(|error| format!("I3: the journal: {error}"))?;
            check(recovered.damaged == 0, || "I3: the journal is damaged".to_owned())?;
            let newest = |(id, trail): (&PortalId, &journal::Trail)| {
                Some((*id, trail.newest.as_ref()?.fingerprint()))
            };
            names.extend(recovered.trails.iter().filter_map(newest));
        }
        for (portal, record) in story.place.store.portals() {
            let token = record.portal().map_err(|fault| format!("I3: a record: {fault}"))?;
            names.push((portal, token.refresh_token.fingerprint()));
        }
        for (portal, name) in names {
            let generation = story.generation(portal, name);
            let generation = generation.ok_or_else(|| format!("portal {portal}: {name} is new"))?;
            self.durable.entry(portal).or_default().insert(generation);
        }
        self.published(story)
    }

    /// Whatever callers could have had is of a grant that is durable (I3), unless neither the journal's
    /// disk nor the store takes it, and people are told of both.
    fn published(&self, story: &Story) -> Verdict {
        let Some(process) = &story.process else { return Ok(()) };
        let overall = process.view.overall.load();
        let disk_fails = overall.incidents.iter().any(|open| open.kind == Kind::JournalFailing);
        for (portal, slot) in process.view.portals.load().iter() {
            let Some(issued) = &slot.now().token else { continue };
            let Some(name) = story.place.hubspot.came_with(issued.fingerprint) else { continue };
            let Some(generation) = story.generation(*portal, name) else { continue };
            let durable = self.durable.get(portal).and_then(BTreeSet::last).copied();
            let durable = durable.unwrap_or_default();
            let nowhere = disk_fails && slot.now().portal.save_at.is_some();
            check(generation <= durable || nowhere, || {
                format!(
                    "I3: portal {portal} was served at generation {generation}, and {durable} is durable"
                )
            })?;
        }
        Ok(())
    }
}

/// The whole story, at its end.
pub(crate) fn judge(story: &Story) -> Verdict {
    let ((refreshes, requests), allowed) =
        (story.place.hubspot.worst_second(), story.budget_per_second());
    check(refreshes <= allowed, || {
        format!("I8: {refreshes} refreshes sent in the worst second, {allowed} are allowed")
    })?;
    // The probe of the client pair takes no slot, and may ask about the pair before.
    check(requests <= allowed + 2, || {
        format!(
            "I8: {requests} requests sent in the worst second, {allowed} and a probe are allowed"
        )
    })?;
    grants(story)?;
    notices(story)
}

/// Every portal's grant at the end (I3, I5), and what may be lost.
fn grants(story: &Story) -> Verdict {
    let process = story.process.as_ref().ok_or("no process at the end")?;
    for portal in story.sim.portals(None, usize::MAX) {
        let id = portal.portal;
        if story.gone.contains(&id) {
            continue;
        }
        let slot = process.view.slot(id).ok_or_else(|| format!("portal {id} is not known"))?;
        let view = slot.now();
        let state = process.handle.state(&view);
        check(state == PortalState::Live, || {
            format!("portal {id} is {state:?} at the end: {:?}", view.portal)
        })?;
        let stored = story.place.store.get(grantkeeper::store::Key::Portal(id)).unwrap();
        let stored = stored.portal().unwrap().refresh_token;
        check(story.sim.is_good(&stored), || format!("I3: portal {id} has lost its grant"))?;
    }
    for Lost { portal, generation, excused, answered } in &story.lost {
        let durable = story.record.durable.get(portal).is_some_and(|all| all.contains(generation));
        // Of a grant that was durable none may be lost, whatever crashed.
        let newer = story.generation_of_newest(*portal) > *generation;
        check(newer, || format!("I3: portal {portal} was not connected again"))?;
        check(*excused && !durable, || {
            format!(
                "I3: portal {portal} lost generation {generation} (durable: {durable}): {answered:?}"
            )
        })?;
    }
    Ok(())
}

/// No cause is opened anew while it is open, whatever died in between, and none is resolved that is not (I12).
fn once(told: &[Notice]) -> Verdict {
    let mut open = BTreeMap::new();
    for notice in told {
        let incident = &notice.incident;
        let alone = incident.kind.is_single() && notice.sharing.is_empty();
        let cause = (incident.kind, incident.portals.first().copied().filter(|_| alone));
        let id = &incident.incident_id;
        let known = open.get(&cause).is_none_or(|known| *known == id);
        match notice.change {
            Change::Opened => {
                check(known, || format!("I12: {cause:?} is opened again, as {id}"))?;
                open.insert(cause, id);
            }
            Change::Resolved => {
                check(known, || format!("I12: {id} is resolved, and is not the one that is open"))?;
                open.remove(&cause);
            }
            Change::Updated | Change::Acknowledged | Change::Reminded => {}
        }
    }
    Ok(())
}

/// What people were told (I5, I6, I12).
fn notices(story: &Story) -> Verdict {
    let told = story.place.told.0.lock().unwrap();
    let mut times: BTreeMap<String, usize> = BTreeMap::new();
    for notice in told.iter() {
        *times.entry(notice.key()).or_default() += 1;
    }
    // What a process told as it died, the next one tells again, under the same key.
    let most = times.values().max().copied().unwrap_or_default();
    check(most <= 1 + story.crashes(), || format!("I12: one notice was told {most} times"))?;
    if story.setting.journal && !story.place.disk.has_refused() {
        once(&told)?;
    }
    let opened = |kind: Kind| -> Vec<(usize, &Notice)> {
        let open = |n: &Notice| n.change != Change::Resolved && n.incident.kind == kind;
        told.iter().enumerate().filter(|(_, n)| open(n)).collect()
    };
    for (place, notice) in opened(Kind::GrantRevoked) {
        let portal = notice.incident.portals[0];
        check(story.was_away(portal, place), || {
            format!(
                "I5: portal {portal} was called revoked at {}, and its customer never left",
                notice.at
            )
        })?;
    }
    for kind in [Kind::GrantMismatched, Kind::PortalUnavailable] {
        for (place, notice) in opened(kind) {
            let portal = notice.incident.portals[0];
            check(story.was_away(portal, place), || {
                format!("I6: portal {portal} was blamed ({kind}) at {}", notice.at)
            })?;
        }
    }
    // All is well, so nothing is open but what only a person can mend.
    let process = story.process.as_ref().ok_or("no process at the end")?;
    for open in process.view.overall.load().incidents.iter() {
        let known = open.portals.iter().all(|portal| story.gone.contains(portal));
        check(known && !open.portals.is_empty(), || {
            format!("I12: {} is open at the end: {:?}", open.kind, open.portals)
        })?;
    }
    for Lost { portal, .. } in &story.lost {
        let of_losses = |n: &&Notice| n.incident.kind == Kind::GrantLost;
        let named = told.iter().filter(of_losses).any(|n| n.incident.portals.contains(portal));
        check(named, || format!("portal {portal} lost its grant and nobody was told"))?;
    }
    Ok(())
}
