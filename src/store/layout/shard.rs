//! One secret that holds many portals' records: its name, which portals belong there, its members.
//! Knows no store.

use std::{fmt, str::FromStr};

use serde_json::Value;

use super::super::{Record, RecordFault, Version};
use crate::{portal::PortalId, secret::Fingerprint};

/// What a packed record may hold: AWS takes no more in one secret (study `scale.md` 3.6).
pub const LARGEST: usize = 65_536;
const NAME: &str = "shard-";
/// While a record is being moved, its copy says from where: until it is gone there, that one counts.
const MOVED_FROM: &str = "moved_from";
/// A record of its own that is moved away says where to, between its last change and its end: then nobody can
/// have changed it when it is deleted, which no store does conditionally.
const MOVED_TO: &str = "moved_to";
/// Sets a member's version apart from a whole record's.
const MEMBER: &str = "member:";

/// One of the secrets among which portals are spread: `portals/shard-NNN`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Shard(pub u16);

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{NAME}{:03}", self.0)
    }
}

/// The text does not name a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotAShard;

impl FromStr for Shard {
    type Err = NotAShard;

    fn from_str(text: &str) -> Result<Self, NotAShard> {
        let digits = text.strip_prefix(NAME).ok_or(NotAShard)?;
        let shard = Self(digits.parse().map_err(|_| NotAShard)?);
        // Written in one way only.
        if shard.to_string() == text { Ok(shard) } else { Err(NotAShard) }
    }
}

impl Shard {
    /// Where `portal` belongs among `shards`: the first four bytes of the SHA-256 of its id's digits, as a
    /// big-endian number, modulo their count.
    #[must_use]
    pub fn of(portal: PortalId, shards: u16) -> Self {
        let hash = Fingerprint::of(&portal.to_string()).leading();
        let shard = hash % u32::from(shards.max(1));
        Self(u16::try_from(shard).unwrap_or_default())
    }
}

/// A member as it is read: an object, or the same as JSON text (the stores' own command lines write text).
pub(super) fn member(shard: &Record, portal: PortalId) -> Option<Result<Record, RecordFault>> {
    Some(match shard.map().get(&portal.to_string())? {
        Value::Object(members) => Ok(Record::from_members(members.clone())),
        Value::String(text) => Record::parse(text.as_bytes()),
        _ => Err(RecordFault::NotAnObject),
    })
}

/// `shard` with `record` as `portal`'s member, or without one. It stays text where it was text; a new one is an
/// object unless `as_text`.
pub(super) fn with_member(
    shard: &Record,
    portal: PortalId,
    record: Option<&Record>,
    as_text: bool,
) -> Record {
    let name = portal.to_string();
    let value = record.map(|record| match shard.map().get(&name) {
        Some(Value::String(_)) => Value::String(record.to_json().to_string()),
        None if as_text => Value::String(record.to_json().to_string()),
        Some(_) | None => Value::Object(record.members()),
    });
    shard.with_or_without(&name, value)
}

/// The portals that have a member, and the names beside them.
pub(super) fn names(shard: &Record) -> (Vec<PortalId>, Vec<String>) {
    let mut strays = Vec::new();
    let portals = shard.map().keys().filter_map(|name| {
        let portal = name.parse().ok();
        if portal.is_none() {
            strays.push(name.clone());
        }
        portal
    });
    (portals.collect(), strays)
}

/// A member's version: it changes with what it holds, and not with its neighbours.
pub(super) fn version(record: &Record) -> Version {
    Version(format!("{MEMBER}{}", Fingerprint::of(&record.to_json())))
}

/// Whether a record of this version was read out of a shard.
pub(super) fn is_member(version: &Version) -> bool {
    version.0.starts_with(MEMBER)
}

/// Where this copy came from, if its move is not over.
pub(super) fn moved_from(record: &Record) -> Option<&str> {
    record.map().get(MOVED_FROM)?.as_str()
}

/// The copy that is made before the original is taken away.
pub(super) fn marked(record: &Record, from: &str) -> Record {
    record.with_member(MOVED_FROM, Value::String(from.to_owned()))
}

/// What is left of a record of its own that is moved away.
pub(super) fn forwarding(to: &str) -> Record {
    Record::default().with_member(MOVED_TO, Value::String(to.to_owned()))
}

/// Whether this is all that is left of a record.
pub(super) fn is_forwarding(record: &Record) -> bool {
    record.map().contains_key(MOVED_TO) && record.portal().is_err()
}

/// The copy once the original is gone.
pub(super) fn unmarked(record: &Record) -> Record {
    record.with_or_without(MOVED_FROM, None)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn id(number: u64) -> PortalId {
        PortalId::new(number).unwrap()
    }

    #[test]
    fn a_shard_s_name_is_written_in_one_way() {
        for (text, shard) in [("shard-000", 0), ("shard-063", 63), ("shard-4095", 4095)] {
            assert_eq!(text.parse(), Ok(Shard(shard)));
            assert_eq!(Shard(shard).to_string(), text);
        }
        for text in ["shard-1", "shard-0001", "shard-", "shard-x", "4711", "shard-99999"] {
            assert_eq!(text.parse::<Shard>(), Err(NotAShard), "{text}");
        }
    }

    #[test]
    fn portals_are_spread_evenly_and_always_in_the_same_way() {
        assert_eq!(Shard::of(id(4711), 64), Shard(u16::try_from(HASH_OF_4711 % 64).unwrap()));
        let mut counts = BTreeMap::<Shard, u32>::new();
        for number in 1..=10_000 {
            *counts.entry(Shard::of(id(number), 64)).or_default() += 1;
        }
        assert_eq!(counts.len(), 64);
        assert!(counts.values().all(|count| (100..220).contains(count)), "{counts:?}");
    }

    /// As `printf 4711 | sha256sum` begins.
    const HASH_OF_4711: u32 = 0xde65_0d61;

    #[test]
    fn a_member_may_be_an_object_or_its_text_and_stays_what_it_was() {
        let shard = Record::parse(
            br#"{"1":{"refresh_token":"a"},"2":"{\"refresh_token\":\"b\"}","3":7,"x":{}}"#,
        )
        .unwrap();
        assert_eq!(names(&shard), (vec![id(1), id(2), id(3)], vec!["x".to_owned()]));
        let token =
            |portal| member(&shard, id(portal)).map(|found| found.map(|r| r.to_json().to_string()));
        assert_eq!(token(1), Some(Ok(r#"{"refresh_token":"a"}"#.to_owned())));
        assert_eq!(token(2), Some(Ok(r#"{"refresh_token":"b"}"#.to_owned())));
        assert_eq!(token(3), Some(Err(RecordFault::NotAnObject)));
        assert_eq!(token(4), None);
        let new = Record::parse(br#"{"refresh_token":"c"}"#).unwrap();
        let kinds = |as_text| {
            let mut all = shard.clone();
            for portal in [1, 2, 4] {
                all = with_member(&all, id(portal), Some(&new), as_text);
            }
            ["1", "2", "4"].map(|name| all.map()[name].is_string())
        };
        assert_eq!(kinds(false), [false, true, false]);
        assert_eq!(kinds(true), [false, true, true]);
        assert!(with_member(&shard, id(1), None, false).map().get("1").is_none());
    }

    #[test]
    fn a_member_s_version_is_its_content_s() {
        let one = Record::parse(br#"{"a":1,"b":2}"#).unwrap();
        let same = Record::parse(br#"{"b":2,"a":1}"#).unwrap();
        assert_eq!(version(&one), version(&same));
        assert_ne!(version(&one), version(&marked(&one, "shard-001")));
        assert_eq!(version(&one), version(&unmarked(&marked(&one, "shard-001"))));
        assert!(is_member(&version(&one)) && !is_member(&Version("3@2026".to_owned())));
    }
}
