//! The book of open incidents: each cause is opened once, however often it is reported, and
//! resolved once (I12), whatever restarts lie between. Pure, and bounded by the number of portals.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use super::{
    Acknowledged, Change, Incident, InstallUrl, Kind, Moment, NotOpen, Notice,
    burst::Burst,
    open::{NAMED, Open},
    words,
};
use crate::{
    portal::{AppName, PortalId},
    time::BootTime,
};

/// What is open, by cause.
#[derive(Debug, Clone)]
pub struct Book {
    app: AppName,
    install: Option<InstallUrl>,
    /// Names the process in ids: the wall clock alone may be set back to when another gave the same.
    run: String,
    open: BTreeMap<(Kind, Subject), Open>,
    bursts: BTreeMap<Kind, Burst>,
    /// The last number in an id: none is given twice, not even within one second.
    last: i64,
    /// Grows with each change of what is open, told or not.
    revision: u64,
}

/// What one incident of a kind is about, beside others of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Subject {
    /// The app, or whoever is hit together whenever.
    All,
    /// Portals that were hit within one burst.
    Burst(u32),
    Portal(PortalId),
}

impl Book {
    /// The empty book of a process that began at `start`.
    #[must_use]
    pub fn new(app: AppName, start: BootTime) -> Self {
        let run = format!("{:x}", start.since_boot().as_millis());
        let (open, bursts) = (BTreeMap::new(), BTreeMap::new());
        Self { app, install: None, run, open, bursts, last: i64::MIN, revision: 0 }
    }

    /// The same, with what an earlier process had open (I12): its latest notices.
    #[must_use]
    pub fn restored<'a>(
        mut self,
        notices: impl IntoIterator<Item = &'a Notice>,
        now: Moment,
    ) -> Self {
        for notice in notices {
            let kind = notice.incident.kind;
            if notice.change == Change::Resolved || kind == Kind::Test {
                continue;
            }
            let subject = match notice.incident.portals.first() {
                Some(portal) if kind.is_single() && notice.sharing.is_empty() => {
                    Subject::Portal(*portal)
                }
                _ if kind.is_single() => {
                    // A burst lasts as long as it takes others in.
                    let last = match notice.change {
                        Change::Updated => notice.at,
                        _ => notice.incident.since,
                    };
                    let ago = now.wall.duration_since(last);
                    let ago = Duration::try_from(ago).unwrap_or_default();
                    Subject::Burst(self.bursts.entry(kind).or_default().resumed(ago, now.boot))
                }
                _ => Subject::All,
            };
            let sharing = notice.sharing.clone();
            let open = Open::new(notice.incident.clone(), sharing, notice.number + 1);
            self.open.insert((kind, subject), open);
        }
        self
    }

    /// From now on, incidents that a new install mends say where to begin it.
    pub fn link_to(&mut self, install: Option<InstallUrl>) {
        self.install = install;
    }

    /// Notes that `kind` is the case for `portal`, or for the whole app. `affected` are the portals
    /// to name when it is about the app. Nothing if it is open already, or if others are told first.
    pub fn open(
        &mut self,
        kind: Kind,
        portal: Option<PortalId>,
        detail: Option<&str>,
        affected: &[PortalId],
        now: Moment,
    ) -> Option<Notice> {
        if let Some(portal) = portal
            && let Some(subject) = self.subject_of(kind, portal)
        {
            // Known; but it may have become another matter.
            let alone = Some(portal).filter(|_| subject == Subject::Portal(portal));
            let many = alone.is_none();
            let link = self.install.as_ref().map(|url| url.of(alone));
            let (summary, action) = words::of(kind, alone, detail, many, link.as_deref());
            if let Some(open) = self.open.get_mut(&(kind, subject)).filter(|_| !many) {
                let reworded = open.reword(summary, action, kind.severity_when(detail, many));
                self.revision += u64::from(reworded);
            }
            return None;
        }
        let single = portal.filter(|_| kind.is_single());
        let burst = single.and_then(|_| self.bursts.entry(kind).or_default().takes(now.boot));
        let subject = match (single, burst) {
            (Some(_), Some(burst)) => Subject::Burst(burst),
            (Some(portal), None) => Subject::Portal(portal),
            (None, _) => Subject::All,
        };
        let alone = single.filter(|_| burst.is_none());
        let many = alone.is_none() && kind.is_about_portals();
        let sharing: BTreeSet<_> = portal.filter(|_| many).into_iter().collect();
        let link = self.install.as_ref().map(|url| url.of(alone));
        let (summary, action) = words::of(kind, alone, detail, many, link.as_deref());
        let severity = kind.severity_when(detail, many);
        if let Some(open) = self.open.get_mut(&(kind, subject)) {
            for portal in sharing {
                open.join(portal);
                self.revision += 1;
            }
            self.revision += u64::from(open.reword(summary, action, severity));
            return None;
        }
        let about = portal.as_ref().map_or(affected, std::slice::from_ref);
        let named = match alone {
            Some(portal) => portal.to_string(),
            None if many => "portals".to_owned(),
            None => "app".to_owned(),
        };
        self.last = now.wall.as_millisecond().max(self.last.saturating_add(1));
        let incident = Incident {
            incident_id: format!("{}-{kind}-{named}-{}-{}", self.app, self.last, self.run),
            kind,
            severity,
            app: self.app.clone(),
            portals: about.iter().take(NAMED).copied().collect(),
            portal_count: about.len(),
            summary,
            action,
            since: now.wall,
            acknowledged: None,
        };
        self.revision += 1;
        let open = Open::new(incident, sharing, 0);
        let open = self.open.entry((kind, subject)).or_insert(open);
        Some(open.notice(Change::Opened, now))
    }

    /// Whether `kind` is known to be the case for `portal`.
    #[must_use]
    pub fn concerns(&self, kind: Kind, portal: PortalId) -> bool {
        self.subject_of(kind, portal).is_some()
    }

    /// Where `kind` is known to be the case for `portal`, by itself or with others.
    fn subject_of(&self, kind: Kind, portal: PortalId) -> Option<Subject> {
        let alone = Subject::Portal(portal);
        if self.open.contains_key(&(kind, alone)) {
            return Some(alone);
        }
        let together = self.open.range((kind, Subject::All)..(kind, alone));
        let mut together = together.filter(|(_, open)| open.concerns(portal));
        together.next().map(|((_, subject), _)| *subject)
    }

    /// Notes that `kind` is no longer the case for `portal`, or for the app. Nothing if it was not open,
    /// or if it goes on for others: those are told of by [`Book::due`].
    pub fn close(&mut self, kind: Kind, portal: Option<PortalId>, now: Moment) -> Option<Notice> {
        let subject = match portal {
            None => Subject::All,
            Some(portal) => self.subject_of(kind, portal)?,
        };
        let key = (kind, subject);
        let open = self.open.get_mut(&key)?;
        self.revision += 1;
        if let (Some(portal), false) = (portal, matches!(subject, Subject::Portal(_)))
            && open.leave(portal)
        {
            return None;
        }
        self.open.remove(&key).map(|mut open| open.notice(Change::Resolved, now))
    }

    /// Closes everything that is open about `portal`: it is no longer ours.
    pub fn forget(&mut self, portal: PortalId, now: Moment) -> Vec<Notice> {
        Kind::ALL.into_iter().filter_map(|kind| self.close(kind, Some(portal), now)).collect()
    }

    /// Notes that `uid` has taken an incident on. Nothing if somebody had.
    ///
    /// # Errors
    /// No such incident is open.
    pub fn acknowledge(
        &mut self,
        incident: &str,
        uid: u32,
        now: Moment,
    ) -> Result<Option<Notice>, NotOpen> {
        let mut all = self.open.values_mut();
        let open = all.find(|open| open.incident.incident_id == incident).ok_or(NotOpen)?;
        if open.incident.acknowledged.is_some() {
            return Ok(None);
        }
        let acknowledged = Some(Acknowledged { at: now.wall, uid });
        Arc::make_mut(&mut open.incident).acknowledged = acknowledged;
        self.revision += 1;
        Ok(Some(open.notice(Change::Acknowledged, now)))
    }

    /// What has changed and may be told by now: the portals that open incidents concern.
    pub fn due(&mut self, now: Moment) -> Vec<Notice> {
        if self.wakes().is_none_or(|due| due > now.boot) {
            return Vec::new();
        }
        self.revision += 1;
        let due = self.open.values_mut().filter(|o| o.changed && o.update_due <= now.boot);
        due.map(|open| {
            open.updates += 1;
            open.notice(Change::Updated, now)
        })
        .collect()
    }

    /// The process ends: what has changed, whether it is time to tell it or not.
    pub fn rest(&mut self, now: Moment) -> Vec<Notice> {
        let changed = self.open.values_mut().filter(|open| open.changed);
        changed.map(|open| open.notice(Change::Updated, now)).collect()
    }

    /// When [`Book::due`] next has something to say.
    #[must_use]
    pub fn wakes(&self) -> Option<BootTime> {
        self.open.values().filter(|open| open.changed).map(|open| open.update_due).min()
    }

    /// Another number whenever what is open has changed, told or not.
    #[must_use]
    pub const fn revision(&self) -> u64 {
        self.revision
    }

    /// Whether this is open about the app.
    #[must_use]
    pub fn is_open(&self, kind: Kind) -> bool {
        self.open.contains_key(&(kind, Subject::All))
    }

    /// The portals for which `kind` is the case.
    #[must_use]
    pub fn portals(&self, kind: Kind) -> BTreeSet<PortalId> {
        let mut all = BTreeSet::new();
        for ((_, subject), open) in self.open.iter().filter(|((of, _), _)| *of == kind) {
            all.extend(if let Subject::Portal(portal) = subject { Some(*portal) } else { None });
            all.extend(&open.sharing);
        }
        all
    }

    /// Everything open, by kind and portal.
    pub fn incidents(&self) -> impl Iterator<Item = &Arc<Incident>> {
        self.open.values().map(|open| &open.incident)
    }

    /// The latest of everything open, as it would be told now.
    #[must_use]
    pub fn standing(&self) -> Vec<Notice> {
        let standing = |open: &Open| Notice {
            incident: Incident::clone(&open.incident),
            change: if open.notices > 1 { Change::Updated } else { Change::Opened },
            at: open.incident.since,
            number: open.notices.saturating_sub(1),
            sharing: BTreeSet::new(),
        };
        self.open.values().map(standing).collect()
    }
}

#[cfg(test)]
mod tests;
