//! `[store.aws]` as written → [`aws::Settings`].

use super::{findings::Findings, place, reader::Section};
use crate::store::aws::Settings;

pub(super) fn read(
    mut section: Section<'_, '_>,
    default_prefix: &str,
    findings: &mut Findings<'_>,
) -> Option<Settings> {
    let region = section.text("region", findings).map(|found| found.value);
    let prefix = section.text("prefix", findings).map_or_else(
        || Some(default_prefix.to_owned()),
        |found| place::path_below(&found, findings),
    );
    let endpoint_url =
        section.text("endpoint_url", findings).map(|found| place::base(&found, findings));
    let layouts = [("single", true), ("packed", false)];
    if let Some(layout) = section.one_of("layout", &layouts, findings).filter(|l| !l.value) {
        layout.wrong(findings, "is not to be had in this version", "write layout = \"single\"");
    }
    section.whole("shards", 1, 4096, findings);
    section.finish(findings);
    let endpoint_url = match endpoint_url {
        None => None,
        Some(good) => Some(good?),
    };
    Some(Settings { region, prefix: prefix?, endpoint_url })
}
