//! How entries become bytes and bytes entries: one sealed frame each, bound to its place, so that none
//! can be changed, moved or copied into another segment. Knows no disk.

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::entry::Entry;
use crate::{portal::AppName, sealing::SealingKey};

/// Bound into every frame; changes with the format.
const FORMAT: &str = "grantkeeper journal 1";
/// No frame is longer: a portal's tokens, scopes and ancestors are a few kilobytes.
const LONGEST: usize = 1024 * 1024;
const LENGTH: usize = size_of::<u32>();

/// What stands in a frame.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    /// The first of a segment: everything known before is repeated after it.
    Begin {
        app: String,
    },
    Entry(Box<Entry>),
}

/// One segment on its way to the disk.
pub(super) struct Writer<'k> {
    key: &'k SealingKey,
    segment: u64,
    /// Where the next frame begins.
    at: u64,
    bytes: Vec<u8>,
}

/// The system has no randomness to seal with, or the entry is too long to be one.
#[derive(Debug)]
pub(super) struct NotSealed;

impl<'k> Writer<'k> {
    /// A segment from its beginning.
    pub(super) fn begin(
        key: &'k SealingKey,
        segment: u64,
        app: &AppName,
    ) -> Result<Self, NotSealed> {
        let mut writer = Self::resume(key, segment, 0);
        writer.line(&Line::Begin { app: app.as_str().to_owned() })?;
        Ok(writer)
    }

    /// A segment that is `at` bytes long.
    pub(super) const fn resume(key: &'k SealingKey, segment: u64, at: u64) -> Self {
        Self { key, segment, at, bytes: Vec::new() }
    }

    pub(super) fn push(&mut self, entry: Entry) -> Result<(), NotSealed> {
        self.line(&Line::Entry(Box::new(entry)))
    }

    fn line(&mut self, line: &Line) -> Result<(), NotSealed> {
        // Room for a usual entry, so that growing does not leave copies of it behind.
        let mut text = Zeroizing::new(Vec::with_capacity(8192));
        serde_json::to_writer(&mut *text, line).map_err(|_| NotSealed)?;
        let sealed = self.key.seal(&context(self.segment, self.at), &text).ok_or(NotSealed)?;
        let length = u32::try_from(sealed.len()).map_err(|_| NotSealed)?;
        if sealed.len() > LONGEST {
            return Err(NotSealed);
        }
        self.bytes.extend_from_slice(&length.to_le_bytes());
        self.bytes.extend_from_slice(&sealed);
        self.at += (LENGTH + sealed.len()) as u64;
        Ok(())
    }

    /// What is to be written.
    pub(super) fn finish(self) -> Vec<u8> {
        self.bytes
    }
}

/// What a segment's bytes say.
#[derive(Debug, Default)]
pub(super) struct Reading {
    /// Whose journal it is; none if the first frame does not open.
    pub(super) app: Option<String>,
    /// The entries, in order.
    pub(super) entries: Vec<Entry>,
    /// Bytes at the end that are no whole frame: a write that was cut off.
    pub(super) torn: bool,
    /// Frames with whole frames behind them that do not open: the disk has changed them.
    pub(super) damaged: u32,
}

/// Reads as much of `bytes` as can be believed.
pub(super) fn read(key: &SealingKey, segment: u64, bytes: &[u8]) -> Reading {
    let mut reading = Reading::default();
    let (mut at, mut doubtful) = (0, 0);
    while at < bytes.len() {
        let Some(sealed) = frame_at(bytes, at) else { break };
        let line = key.open(&context(segment, at as u64), sealed);
        let line = line.and_then(|text| serde_json::from_slice::<Line>(&text).ok());
        match line {
            Some(line) => {
                reading.damaged += std::mem::take(&mut doubtful);
                match line {
                    Line::Begin { app } => reading.app = Some(app),
                    Line::Entry(entry) => reading.entries.push(*entry),
                }
            }
            // Torn, if nothing whole follows.
            None => doubtful += 1,
        }
        at += LENGTH + sealed.len();
    }
    reading.torn = doubtful > 0 || at < bytes.len();
    reading
}

fn frame_at(bytes: &[u8], at: usize) -> Option<&[u8]> {
    let (length, rest) = bytes.get(at..)?.split_first_chunk::<LENGTH>()?;
    let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
    if length == 0 || length > LONGEST { None } else { rest.get(..length) }
}

fn context(segment: u64, at: u64) -> Vec<u8> {
    format!("{FORMAT}\n{segment}\n{at}").into_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        portal::PortalId,
        secret::RefreshToken,
        time::{Clock, Stamp, SystemClock},
    };

    fn key() -> SealingKey {
        SealingKey::from_bytes(&[7; 32]).unwrap()
    }

    fn written(segment: u64, count: u64) -> (Vec<u8>, Vec<usize>) {
        let key = key();
        let app = AppName::parse("acme").unwrap();
        let mut bytes = Writer::begin(&key, segment, &app).unwrap().finish();
        let mut ends = vec![bytes.len()];
        for number in 1..=count {
            let mut writer = Writer::resume(&key, segment, bytes.len() as u64);
            let spent = RefreshToken::parse(format!("token-{number}")).unwrap().fingerprint();
            let at = Stamp::of(SystemClock.boot(), &SystemClock);
            let portal = PortalId::new(number).unwrap();
            writer.push(Entry::Intent { portal, spent, at }).unwrap();
            bytes.extend(writer.finish());
            ends.push(bytes.len());
        }
        (bytes, ends)
    }

    fn portals(reading: &Reading) -> Vec<u64> {
        let of = |entry: &Entry| match entry {
            Entry::Intent { portal, .. } => portal.number(),
            other => panic!("{other:?}"),
        };
        reading.entries.iter().map(of).collect()
    }

    proptest! {
        #[test]
        fn i3_a_journal_cut_off_anywhere_is_read_up_to_its_last_whole_frame(
            count in 0_u64..12, cut in any::<prop::sample::Index>(), rubbish in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            let (mut bytes, ends) = written(3, count);
            bytes.truncate(cut.index(bytes.len() + 1));
            let whole = ends.iter().filter(|end| **end <= bytes.len()).count();
            let torn = !ends.contains(&bytes.len()) && !bytes.is_empty();
            let reading = read(&key(), 3, &bytes);
            prop_assert_eq!(reading.app.is_some(), whole > 0);
            prop_assert_eq!(portals(&reading), (1..whole as u64).collect::<Vec<_>>());
            prop_assert_eq!((reading.torn, reading.damaged), (torn, 0));
            // Whatever a dying machine leaves behind the last whole frame adds nothing.
            bytes.extend(rubbish);
            prop_assert_eq!(portals(&read(&key(), 3, &bytes)), (1..whole as u64).collect::<Vec<_>>());
        }

        #[test]
        fn i3_a_byte_that_the_disk_changed_costs_its_own_frame_at_most_what_follows(
            count in 1_u64..12, at in any::<prop::sample::Index>(), flip in 1_u8..,
        ) {
            let (mut bytes, ends) = written(3, count);
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            let hit = ends.iter().filter(|end| **end <= at).count() as u64;
            let reading = read(&key(), 3, &bytes);
            let found = portals(&reading);
            let before: Vec<u64> = (1..hit).collect();
            prop_assert!(found.starts_with(&before), "{found:?} after {hit}");
            prop_assert!(!found.contains(&hit) || hit == 0, "a changed frame was believed");
            prop_assert!(reading.torn || reading.damaged > 0 || reading.app.is_none());
        }

        #[test]
        fn arbitrary_bytes_are_no_journal_and_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
            let reading = read(&key(), 3, &bytes);
            prop_assert!(reading.app.is_none() && reading.entries.is_empty());
        }
    }

    #[test]
    fn a_changed_frame_in_the_middle_is_skipped_and_told() {
        let (mut bytes, ends) = written(3, 4);
        bytes[ends[1] + 20] ^= 1;
        let reading = read(&key(), 3, &bytes);
        assert_eq!(portals(&reading), [1, 3, 4]);
        assert_eq!((reading.damaged, reading.torn), (1, false));
    }

    #[test]
    fn a_frame_opens_in_its_own_place_and_segment_only() {
        let (bytes, ends) = written(3, 2);
        assert!(read(&key(), 4, &bytes).app.is_none(), "another segment's");
        let mut moved = bytes[..ends[0]].to_vec();
        moved.extend_from_slice(&bytes[ends[1]..]);
        assert!(portals(&read(&key(), 3, &moved)).is_empty());
        let other = SealingKey::from_bytes(&[8; 32]).unwrap();
        assert!(read(&other, 3, &bytes).app.is_none(), "another key");
    }

    #[test]
    fn i10_nothing_readable_stands_in_a_frame() {
        let (bytes, _) = written(3, 3);
        for word in ["acme", "intent", "token", "portal"] {
            assert!(!bytes.windows(word.len()).any(|w| w == word.as_bytes()), "{word}");
        }
    }
}
