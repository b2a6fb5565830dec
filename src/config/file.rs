//! `[store.file]` as written → [`file::Settings`].

use super::{findings::Findings, reader::Section};
use crate::store::file::Settings;

pub(super) fn read(mut section: Section<'_, '_>, findings: &mut Findings<'_>) -> Option<Settings> {
    let path = section.path("path", findings);
    if path.is_none() {
        section.missing(findings, "path", "say where the store's file is to be");
    }
    let key_file = section.path("key_file", findings);
    if key_file.is_none() {
        section.missing(findings, "key_file", "say where the store's key is to be");
    }
    section.finish(findings);
    Some(Settings { path: path?.value, key_file: key_file?.value, create_key: false })
}
