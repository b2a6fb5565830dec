//! `[store.aws]` as written → [`aws::Settings`].

use super::{findings::Findings, place, reader::Section};
use crate::store::{
    Layout,
    aws::{AssumeRole, Settings},
};

pub(super) fn read(
    mut section: Section<'_, '_>,
    default_prefix: &str,
    findings: &mut Findings<'_>,
) -> Option<(Settings, Layout)> {
    let region = section.text("region", findings).map(|found| found.value);
    let prefix = section.text("prefix", findings).map_or_else(
        || Some(default_prefix.to_owned()),
        |found| place::path_below(&found, findings),
    );
    let endpoint_url =
        section.text("endpoint_url", findings).map(|found| place::base(&found, findings));
    let layout = super::layout::read(&mut section, findings);
    let role = section.text("assume_role", findings);
    let external_id = section.text("external_id", findings).map(|found| found.value);
    let assume_role = role.map(|role| {
        if !role.value.starts_with("arn:") || !role.value.contains(":role/") {
            role.wrong(
                findings,
                "is not the ARN of a role",
                "write assume_role = \"arn:aws:iam::<account>:role/<name>\"",
            );
        }
        AssumeRole { arn: role.value, external_id: external_id.clone() }
    });
    if assume_role.is_none() && external_id.is_some() {
        section.missing(findings, "assume_role", "an external id goes with a role to assume");
    }
    section.finish(findings);
    let endpoint_url = match endpoint_url {
        None => None,
        Some(good) => Some(good?),
    };
    Some((Settings { region, prefix: prefix?, endpoint_url, assume_role }, layout))
}
