//! `layout` and `shards` of a store as written → [`Layout`].

use super::{findings::Findings, reader::Section};
use crate::store::{Layout, layout::SHARDS};

const MOST: u64 = 4096;

pub(super) fn read(section: &mut Section<'_, '_>, findings: &mut Findings<'_>) -> Layout {
    let layouts = [("single", false), ("packed", true)];
    let packed = section.one_of("layout", &layouts, findings);
    let shards = section.whole("shards", 1, MOST, findings);
    match (packed.is_some_and(|found| found.value), shards) {
        (true, shards) => {
            let shards = shards.and_then(|found| u16::try_from(found.value).ok());
            Layout::Packed(shards.unwrap_or(SHARDS))
        }
        (false, _) => Layout::Single,
    }
}
