//! `[[access]]` as written → rules, names resolved against the machine's own users and groups.

use std::collections::BTreeSet;

use nix::unistd::{Group, User};

use super::{
    findings::{Findings, Found},
    reader::Section,
};
use crate::{
    access::{Portals, Right, Rule, Who},
    portal::PortalId,
};

pub(super) fn read(sections: Vec<Section<'_, '_>>, findings: &mut Findings<'_>) -> Vec<Rule> {
    sections.into_iter().filter_map(|section| rule(section, findings)).collect()
}

fn rule(mut section: Section<'_, '_>, findings: &mut Findings<'_>) -> Option<Rule> {
    let who = who(&mut section, findings);
    let portals = section.texts("portals", true, findings);
    if portals.is_none() {
        section.missing(findings, "portals", "write portals = [\"*\"], or a list of ids");
    }
    if portals.as_ref().is_some_and(Vec::is_empty) {
        section.wrong(findings, "portals", "is empty", "name a portal, or take the entry out");
    }
    let portals = portals.and_then(|texts| portal_set(&texts, findings));
    let allow = section.texts("allow", false, findings);
    if allow.is_none() {
        let hint = "write allow = [\"token\"], or more of token, status, refresh, enroll, revoke, rotate, verify_webhook, admin";
        section.missing(findings, "allow", hint);
    }
    if allow.as_ref().is_some_and(Vec::is_empty) {
        section.wrong(findings, "allow", "is empty", "name a right, or take the entry out");
    }
    let mut rights = BTreeSet::new();
    for found in allow.unwrap_or_default() {
        match found.value.parse::<Right>() {
            Ok(right) => drop(rights.insert(right)),
            Err(error) => found.wrong(findings, "is not a right", error.to_string()),
        }
    }
    section.finish(findings);
    Some(Rule { who: who?, portals: portals?, allow: rights })
}

fn who(section: &mut Section<'_, '_>, findings: &mut Findings<'_>) -> Option<Who> {
    let user = section.text("user", findings);
    let uid = section.whole("uid", 0, u64::from(u32::MAX), findings);
    let group = section.text("group", findings);
    let gid = section.whole("gid", 0, u64::from(u32::MAX), findings);
    let number = |found: Found<u64>| u32::try_from(found.value).ok();
    match (user, uid, group, gid) {
        (Some(user), None, None, None) => user_id(&user, findings).map(Who::Uid),
        (None, Some(uid), None, None) => number(uid).map(Who::Uid),
        (None, None, Some(group), None) => group_of(&group, findings),
        (None, None, None, Some(gid)) => {
            let gid = number(gid)?;
            let known = Group::from_gid(gid.into()).ok().flatten();
            Some(Who::Group {
                gid,
                members: known.map(|group| members(&group)).unwrap_or_default(),
            })
        }
        // One that is there and wrong has been told.
        _ if ["user", "uid", "group", "gid"].iter().filter(|key| section.has(key)).count() == 1 => {
            None
        }
        _ => {
            let hint = "name exactly one of user, uid, group and gid";
            section.wrong(findings, "", "does not say whom it is about", hint);
            None
        }
    }
}

fn user_id(found: &Found<String>, findings: &mut Findings<'_>) -> Option<u32> {
    if let Ok(Some(user)) = User::from_name(&found.value) {
        return Some(user.uid.as_raw());
    }
    let hint = "create it, correct the name, or write uid = … instead";
    found.wrong(findings, "is not a user of this machine", hint);
    None
}

fn group_of(found: &Found<String>, findings: &mut Findings<'_>) -> Option<Who> {
    if let Ok(Some(group)) = Group::from_name(&found.value) {
        return Some(Who::Group { gid: group.gid.as_raw(), members: members(&group) });
    }
    let hint = "create it, correct the name, or name it by its number (here `gid = …`, in [socket] `group = \"…\"`)";
    found.wrong(findings, "is not a group of this machine", hint);
    None
}

fn members(group: &Group) -> BTreeSet<u32> {
    let users = group.mem.iter().filter_map(|name| User::from_name(name).ok().flatten());
    users.map(|user| user.uid.as_raw()).collect()
}

/// The group a name means on this machine.
pub(super) fn group_id(found: &Found<String>, findings: &mut Findings<'_>) -> Option<u32> {
    // In a container a group often has a number and no name.
    if let (Ok(None), Ok(gid)) = (Group::from_name(&found.value), found.value.parse()) {
        return Some(gid);
    }
    match group_of(found, findings)? {
        Who::Group { gid, .. } => Some(gid),
        Who::Uid(_) => None,
    }
}

fn portal_set(texts: &[Found<String>], findings: &mut Findings<'_>) -> Option<Portals> {
    if let [only] = texts
        && only.value == "*"
    {
        return Some(Portals::All);
    }
    let mut ids = BTreeSet::new();
    let mut good = true;
    for found in texts {
        match found.value.parse::<PortalId>() {
            Ok(id) if !ids.insert(id) => {
                found.wrong(findings, "names a portal twice", "take one of them out");
                good = false;
            }
            Ok(_) => {}
            Err(error) => {
                found.wrong(
                    findings,
                    "is not a portal id",
                    format!("{error}; or [\"*\"] alone for all"),
                );
                good = false;
            }
        }
    }
    good.then_some(Portals::These(ids))
}
