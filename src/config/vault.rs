//! `[store.vault]` as written → [`vault::Settings`].

use super::{Environment, findings::Findings, place, reader::Section};
use crate::{
    secret::StoreCredential,
    store::vault::{Auth, Settings},
};

pub(super) fn read(
    mut section: Section<'_, '_>,
    default_prefix: &str,
    env: Environment<'_>,
    findings: &mut Findings<'_>,
) -> Option<Settings> {
    let address = match section.text("address", findings) {
        Some(found) => place::base(&found, findings),
        None if section.has("address") => None,
        None => address_from(&section, env, findings),
    };
    let mount = section
        .text("mount", findings)
        .map_or_else(|| Some("secret".to_owned()), |found| place::path_below(&found, findings));
    let prefix = section.text("prefix", findings).map_or_else(
        || Some(default_prefix.to_owned()),
        |found| place::path_below(&found, findings),
    );
    let namespace = section.text("namespace", findings).map(|found| found.value);
    let namespace = namespace.or_else(|| env("VAULT_NAMESPACE").filter(|text| !text.is_empty()));
    let ca_file = section.path("ca_file", findings).map(|found| found.value);
    let auth = section.section("auth", findings);
    let auth = if auth.is_there() {
        read_auth(auth, findings)
    } else {
        token_from(&section, env, findings)
    };
    if env("VAULT_SKIP_VERIFY")
        .is_some_and(|value| !["", "0", "f", "false"].contains(&value.as_str()))
    {
        findings.warn("VAULT_SKIP_VERIFY is ignored: certificates are always checked; name your CA in store.vault.ca_file");
    }
    section.finish(findings);
    Some(Settings {
        address: address?,
        mount: mount?,
        prefix: prefix?,
        namespace,
        ca_file,
        auth: auth?,
    })
}

fn address_from(
    section: &Section<'_, '_>,
    env: Environment<'_>,
    findings: &mut Findings<'_>,
) -> Option<String> {
    let given = ["VAULT_ADDR", "BAO_ADDR"]
        .into_iter()
        .find_map(|name| env(name).filter(|text| !text.is_empty()).map(|text| (name, text)));
    let Some((name, text)) = given else {
        let hint = "write address = \"https://…:8200\", or set VAULT_ADDR";
        section.missing(findings, "address", hint);
        return None;
    };
    match place::url(&text) {
        Ok(base) => Some(base),
        Err(what) => {
            section.wrong(findings, "address", format!("({name}) {what}"), place::HINT);
            None
        }
    }
}

fn token_from(
    section: &Section<'_, '_>,
    env: Environment<'_>,
    findings: &mut Findings<'_>,
) -> Option<Auth> {
    let given =
        ["VAULT_TOKEN", "BAO_TOKEN"].into_iter().filter_map(env).find(|text| !text.is_empty());
    let Some(text) = given else {
        let hint = "write auth = { method = \"approle\", role_id = \"…\", secret_id_file = \"/…\" }, or set VAULT_TOKEN";
        section.missing(findings, "auth", hint);
        return None;
    };
    match StoreCredential::parse(text.trim()) {
        Ok(token) => Some(Auth::Token(token)),
        Err(why) => {
            let what = format!("the token in the environment can't be used: {why}");
            section.wrong(findings, "auth", what, "set VAULT_TOKEN to the token alone");
            None
        }
    }
}

#[derive(Clone, Copy)]
enum Method {
    Token,
    AppRole,
    NotYet,
}

fn read_auth(mut section: Section<'_, '_>, findings: &mut Findings<'_>) -> Option<Auth> {
    let methods = [
        ("token", Method::Token),
        ("approle", Method::AppRole),
        ("kubernetes", Method::NotYet),
        ("jwt", Method::NotYet),
        ("cert", Method::NotYet),
    ];
    let Some(method) = section.one_of("method", &methods, findings) else {
        section.missing(findings, "method", "write method = \"approle\" or \"token\"");
        return None;
    };
    let auth = match method.value {
        Method::Token => {
            let file = section.path("token_file", findings);
            if file.is_none() {
                section.missing(findings, "token_file", "name the file the token is in");
            }
            file.map(|file| Auth::TokenFile(file.value))
        }
        Method::AppRole => {
            let mount = section.text("mount", findings).map_or_else(
                || Some("approle".to_owned()),
                |found| place::path_below(&found, findings),
            );
            let role_id = section.text("role_id", findings);
            if role_id.is_none() {
                section.missing(findings, "role_id", "write the role's id; it is no secret");
            }
            let file = section.path("secret_id_file", findings);
            if file.is_none() {
                section.missing(findings, "secret_id_file", "name the file the secret id is in");
            }
            if let Some(wrapped) = section.flag("wrapped", findings).filter(|flag| flag.value) {
                let hint = "put the secret id itself into the file, and write wrapped = false";
                wrapped.wrong(findings, "is not to be had in this version", hint);
            }
            Some(Auth::AppRole {
                mount: mount?,
                role_id: role_id?.value,
                secret_id_file: file?.value,
            })
        }
        Method::NotYet => {
            method.wrong(
                findings,
                "is not to be had in this version",
                "use \"approle\" or \"token\"",
            );
            return None;
        }
    };
    section.finish(findings);
    auth
}
