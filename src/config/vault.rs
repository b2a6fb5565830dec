//! `[store.vault]` as written → [`vault::Settings`].

use std::path::PathBuf;

use super::{Environment, findings::Findings, place, reader::Section};
use crate::{
    secret::StoreCredential,
    store::{
        Layout,
        vault::{Auth, Identity, Method, POD_TOKEN, Settings},
    },
};

pub(super) fn read(
    mut section: Section<'_, '_>,
    default_prefix: &str,
    env: Environment<'_>,
    findings: &mut Findings<'_>,
) -> Option<(Settings, Layout)> {
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
        token_from(&section, env, findings).map(|auth| (auth, None))
    };
    let cert_file = section.path("client_cert_file", findings).map(|found| found.value);
    let key_file = section.path("client_key_file", findings).map(|found| found.value);
    let identity = match (cert_file, key_file) {
        (Some(cert_file), Some(key_file)) => Some(Identity { cert_file, key_file }),
        (None, None) => None,
        (Some(_), None) => {
            section.missing(
                findings,
                "client_key_file",
                "name the PEM file of the certificate's key",
            );
            None
        }
        (None, Some(_)) => {
            section.missing(findings, "client_cert_file", "name the PEM file of the certificate");
            None
        }
    };
    if env("VAULT_SKIP_VERIFY")
        .is_some_and(|value| !["", "0", "f", "false"].contains(&value.as_str()))
    {
        findings.warn("VAULT_SKIP_VERIFY is ignored: certificates are always checked; name your CA in store.vault.ca_file");
    }
    let layout = super::layout::read(&mut section, findings);
    section.finish(findings);
    let (auth, of_login) = auth?;
    let settings = Settings {
        address: address?,
        mount: mount?,
        prefix: prefix?,
        namespace,
        ca_file,
        identity: of_login.or(identity),
        auth,
    };
    Some((settings, layout))
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
enum Way {
    Token,
    AppRole,
    Kubernetes,
    Jwt,
    Cert,
}

/// The login, and the certificate it is made with.
fn read_auth(
    mut section: Section<'_, '_>,
    findings: &mut Findings<'_>,
) -> Option<(Auth, Option<Identity>)> {
    let ways = [
        ("token", Way::Token),
        ("approle", Way::AppRole),
        ("kubernetes", Way::Kubernetes),
        ("jwt", Way::Jwt),
        ("cert", Way::Cert),
    ];
    let Some(way) = section.one_of("method", &ways, findings) else {
        section.missing(
            findings,
            "method",
            "write method = \"approle\", \"kubernetes\", \"jwt\", \"cert\" or \"token\"",
        );
        return None;
    };
    if let Way::Token = way.value {
        let file = file(&mut section, "token_file", "name the file the token is in", findings);
        section.finish(findings);
        return Some((Auth::TokenFile(file?), None));
    }
    let mount = section.text("mount", findings);
    let mut identity = None;
    let method = match way.value {
        Way::Token => None,
        Way::AppRole => {
            let role_id = section.text("role_id", findings);
            if role_id.is_none() {
                section.missing(findings, "role_id", "write the role's id; it is no secret");
            }
            let hint = "name the file the secret id is in";
            let secret_id_file = file(&mut section, "secret_id_file", hint, findings);
            let wrapped = section.flag("wrapped", findings).is_some_and(|flag| flag.value);
            role_id.zip(secret_id_file).map(|(role_id, secret_id_file)| Method::AppRole {
                role_id: role_id.value,
                secret_id_file,
                wrapped,
            })
        }
        Way::Kubernetes => {
            let role = section.text("role", findings);
            if role.is_none() {
                section.missing(findings, "role", "name the role the service account is bound to");
            }
            let file = section.path("jwt_file", findings).map(|found| found.value);
            let jwt_file = file.unwrap_or_else(|| POD_TOKEN.into());
            role.map(|role| Method::Kubernetes { role: role.value, jwt_file })
        }
        Way::Jwt => {
            let role = section.text("role", findings).map(|found| found.value);
            let jwt_file = file(&mut section, "jwt_file", "name the file the JWT is in", findings);
            jwt_file.map(|jwt_file| Method::Jwt { role, jwt_file })
        }
        Way::Cert => {
            let role = section.text("role", findings).map(|found| found.value);
            let hint = "name the PEM file of the certificate";
            let cert_file = file(&mut section, "cert_file", hint, findings);
            let key_file = file(&mut section, "key_file", "name the PEM file of its key", findings);
            identity = cert_file
                .zip(key_file)
                .map(|(cert_file, key_file)| Identity { cert_file, key_file });
            identity.is_some().then_some(Method::Cert { role })
        }
    };
    section.finish(findings);
    let method = method?;
    let mount = mount.map_or_else(
        || Some(method.name().to_owned()),
        |found| place::path_below(&found, findings),
    );
    Some((Auth::Method { mount: mount?, method }, identity))
}

fn file(
    section: &mut Section<'_, '_>,
    key: &'static str,
    hint: &str,
    findings: &mut Findings<'_>,
) -> Option<PathBuf> {
    let file = section.path(key, findings);
    if file.is_none() && !section.has(key) {
        section.missing(findings, key, hint);
    }
    file.map(|file| file.value)
}
