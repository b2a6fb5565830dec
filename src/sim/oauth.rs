//! The rules of HubSpot's token endpoints: what is granted, what is refused, and in which order it
//! is looked at (client id, client secret, grant type, grant). Knows no HTTP; told the time.

use std::{collections::BTreeMap, sync::Arc};

use aws_lc_rs::digest;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    refusal::Refusal,
    settings::Settings,
    state::{Access, Now, Portal, State},
};
use crate::{
    hubspot::wire::{grant_type, token_use},
    portal::{PortalId, Scopes},
};

/// A form's members.
pub(super) type Form = BTreeMap<String, String>;

fn member<'f>(form: &'f Form, name: &str) -> Option<&'f str> {
    form.get(name).map(String::as_str)
}

/// A successful answer of the token endpoint (study `hubspot.md` 1.3).
#[derive(Serialize)]
pub(super) struct Tokens {
    pub(super) access_token: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) refresh_token: Option<String>,
    pub(super) expires_in: u32,
    pub(super) token_type: &'static str,
    #[serde(flatten)]
    pub(super) about: About,
}

/// The members of a token answer that v1 lacked in its early years ([`BARE_LACKS`]).
#[derive(Serialize)]
pub(super) struct About {
    token_use: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    hub_id: Option<PortalId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_id: Option<u32>,
    scopes: Scopes,
}

/// The names of the members of [`About`].
pub(super) const BARE_LACKS: [&str; 4] = ["token_use", "hub_id", "user_id", "scopes"];

/// The client pair in `form`, which must be the app's own.
pub(super) fn check_client(state: &State, form: &Form, now: Now) -> Result<(), Refusal> {
    if member(form, "client_id") != Some(state.client_id.as_str()) {
        return Err(Refusal::BadClientId);
    }
    match member(form, "client_secret") {
        Some(secret) if state.takes_secret(secret, now) => Ok(()),
        _ => Err(Refusal::BadClientSecret),
    }
}

/// The token endpoint.
pub(super) fn token(
    state: &mut State,
    rules: &Settings,
    form: &Form,
    now: Now,
) -> Result<Tokens, Refusal> {
    check_client(state, form, now)?;
    match member(form, "grant_type") {
        Some(grant_type::REFRESH_TOKEN) => refresh(state, rules, form, now),
        Some(grant_type::AUTHORIZATION_CODE) => exchange(state, rules, form, now),
        Some(grant_type::CLIENT_CREDENTIALS) if rules.client_credentials => {
            app_token(state, rules, form, now)
        }
        _ => Err(Refusal::BadGrantType),
    }
}

fn refresh(state: &mut State, rules: &Settings, form: &Form, now: Now) -> Result<Tokens, Refusal> {
    let presented = member(form, "refresh_token").ok_or(Refusal::BadRefreshToken)?;
    let (issued, _) = state.good(presented, rules, now)?;
    let refresh_token = if rules.rotating {
        let new = state.rotate(presented, rules.grace(), now).ok_or(Refusal::BadRefreshToken)?;
        // exposed: into the answer to the client that refreshed
        new.expose().to_owned()
    } else {
        presented.to_owned()
    };
    grant(state, rules, issued.portal, refresh_token, now)
}

fn exchange(state: &mut State, rules: &Settings, form: &Form, now: Now) -> Result<Tokens, Refusal> {
    let presented = member(form, "code").ok_or(Refusal::BadAuthCode)?;
    let code = state.code(presented).ok_or(Refusal::BadAuthCode)?;
    if code.expires <= now.boot {
        return Err(Refusal::ExpiredAuthCode);
    }
    if code.redirect_uri.is_some() && code.redirect_uri.as_deref() != member(form, "redirect_uri") {
        return Err(Refusal::BadRedirectUri);
    }
    // A verifier without a challenge is refused too: RFC 9700 section 4.8.2, the downgrade.
    if code.challenge != member(form, "code_verifier").map(challenge_of) {
        return Err(Refusal::BadCodeVerifier);
    }
    let code = state.take_code(presented).ok_or(Refusal::BadAuthCode)?;
    state.install(code.portal, Arc::new(code.scopes), now);
    let refresh_token = state.issue_refresh(code.portal, None);
    // exposed: into the answer to the client that exchanged the code
    grant(state, rules, code.portal, refresh_token.expose().to_owned(), now)
}

fn grant(
    state: &mut State,
    rules: &Settings,
    id: PortalId,
    refresh_token: String,
    now: Now,
) -> Result<Tokens, Refusal> {
    let portal = state.portals.get(&id).ok_or(Refusal::BadHub)?;
    let about = About {
        token_use: token_use::ACCESS_TOKEN,
        hub_id: Some(id),
        user_id: Some(portal.user_id),
        scopes: (*portal.scopes).clone(),
    };
    let scopes = Arc::clone(&portal.scopes);
    Ok(Tokens {
        access_token: state.issue_access(Some(id), scopes, rules.access_life(), now),
        refresh_token: Some(refresh_token),
        expires_in: rules.expires_in,
        token_type: "bearer",
        about,
    })
}

/// The prefix of the scopes that an app can have for itself (study `hubspot.md` 5.3).
const APP_SCOPES: &str = "developer.";

fn app_token(
    state: &mut State,
    rules: &Settings,
    form: &Form,
    now: Now,
) -> Result<Tokens, Refusal> {
    let asked: Scopes =
        member(form, "scope").unwrap_or_default().split_ascii_whitespace().collect();
    let can_be_had = |scope: &str| match &rules.app_scopes {
        Some(all) => all.iter().any(|own| own == scope),
        None => scope.starts_with(APP_SCOPES),
    };
    if asked.is_empty() || !asked.iter().all(can_be_had) {
        return Err(Refusal::BadScopes);
    }
    Ok(Tokens {
        access_token: state.issue_access(None, Arc::new(asked.clone()), rules.access_life(), now),
        refresh_token: None,
        expires_in: rules.expires_in,
        token_type: "bearer",
        about: About {
            token_use: token_use::CLIENT_CREDENTIALS,
            hub_id: None,
            user_id: None,
            scopes: asked,
        },
    })
}

/// PKCE's S256 (RFC 7636 section 4.2).
pub(super) fn challenge_of(verifier: &str) -> String {
    URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, verifier.as_bytes()))
}

/// What introspection (RFC 7662) says of a token, active or not.
pub(super) fn introspection(state: &State, rules: &Settings, token: &str, now: Now) -> Value {
    let found = describe_access(state, rules, token, now)
        .map(|found| (found, token_use::ACCESS_TOKEN))
        .or_else(|| Some((describe_refresh(state, rules, token, now)?, token_use::REFRESH_TOKEN)));
    let Some((about, token_use)) = found else { return json!({"active": false}) };
    let said = json!({
        "active": true,
        "token_use": token_use,
        "token_type": "Bearer",
        "client_id": state.client_id,
        "app_id": state.app_id,
    });
    joined(said, about)
}

/// What v1 says of an access token, if it is good.
pub(super) fn access_metadata(
    state: &State,
    rules: &Settings,
    token: &str,
    now: Now,
) -> Option<Value> {
    let about = describe_access(state, rules, token, now)?;
    Some(joined(json!({"token_type": "access", "app_id": state.app_id}), about))
}

/// What v1 says of a refresh token, if it is good.
pub(super) fn refresh_metadata(
    state: &State,
    rules: &Settings,
    token: &str,
    now: Now,
) -> Option<Value> {
    let about = describe_refresh(state, rules, token, now)?;
    Some(joined(json!({"token_type": "refresh", "client_id": state.client_id}), about))
}

fn joined(mut one: Value, other: Value) -> Value {
    if let (Value::Object(one), Value::Object(other)) = (&mut one, other) {
        one.extend(other);
    }
    one
}

fn describe_refresh(state: &State, rules: &Settings, token: &str, now: Now) -> Option<Value> {
    let (issued, portal) = state.good(token, rules, now).ok()?;
    Some(describe(token, Some((issued.portal, portal)), &portal.scopes))
}

fn describe_access(state: &State, rules: &Settings, token: &str, now: Now) -> Option<Value> {
    let Access { portal, scopes, expires } = state.access(token, rules)?;
    let left = expires.until(now.boot);
    if left.is_zero() {
        return None;
    }
    let portal = portal.and_then(|id| Some((id, state.portals.get(&id)?)));
    let ends = now.wall.checked_add(left).unwrap_or(now.wall);
    let only_access = json!({
        "expires_in": left.as_secs(),
        "is_private_distribution": false,
        "signed_access_token": {
            "expiresAt": ends.as_millisecond(),
            "scopes": &**scopes,
            "hubId": portal.map(|(id, _)| id),
            "userId": portal.map(|(_, portal)| portal.user_id),
            "appId": state.app_id,
            "hublet": "na1",
            "isPrivateDistribution": false,
        },
    });
    Some(joined(only_access, describe(token, portal, scopes)))
}

fn describe(token: &str, portal: Option<(PortalId, &Portal)>, scopes: &Scopes) -> Value {
    let Some((id, portal)) = portal else { return json!({"token": token, "scopes": scopes}) };
    let domain = format!("portal-{id}.example.com");
    json!({
        "token": token,
        "user": format!("admin@{domain}"),
        "hub_domain": domain,
        "scopes": scopes,
        "hub_id": id,
        "user_id": portal.user_id,
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use jiff::Timestamp;
    use proptest::prelude::*;

    use super::*;
    use crate::{sim::scenario::Scenario, time::BootTime};

    fn at(seconds: u64) -> Now {
        Now { boot: BootTime::new(Duration::from_secs(seconds)), wall: Timestamp::UNIX_EPOCH }
    }

    fn state() -> State {
        let scenario = "seed = 1\n[app]\nclient_id = \"id\"\nclient_secret = \"secret\"\n\
                        [[portal]]\nid = 1\nrefresh_token = \"first\"\n";
        State::new(&Scenario::parse(scenario).unwrap(), at(0))
    }

    fn form(members: &[(&str, &str)]) -> Form {
        let pair = [("client_id", "id"), ("client_secret", "secret")];
        pair.iter().chain(members).map(|(name, text)| ((*name).into(), (*text).into())).collect()
    }

    fn refreshing(token: &str) -> Form {
        form(&[("grant_type", "refresh_token"), ("refresh_token", token)])
    }

    #[test]
    fn an_access_token_lives_for_expires_in_and_not_a_second_longer() {
        let (mut state, rules) = (state(), Settings::default());
        let tokens = token(&mut state, &rules, &refreshing("first"), at(10)).unwrap();
        let life =
            |now| introspection(&state, &rules, &tokens.access_token, now)["expires_in"].as_u64();
        assert_eq!(life(at(10)), Some(1800));
        assert_eq!(life(at(1809)), Some(1));
        assert_eq!(life(at(1810)), None);
    }

    #[test]
    fn a_rotated_token_is_good_until_its_grace_is_over() {
        let mut state = state();
        let rules = Settings { rotating: true, rotation_grace: 5, ..Settings::default() };
        token(&mut state, &rules, &refreshing("first"), at(10)).unwrap();
        assert!(state.good("first", &rules, at(14)).is_ok());
        let late = token(&mut state, &rules, &refreshing("first"), at(15));
        assert_eq!(late.err(), Some(Refusal::BadRefreshToken));
    }

    #[test]
    fn a_replaced_token_is_not_revived_by_refreshing_with_it_again() {
        let mut state = state();
        let rules = Settings { rotating: true, rotation_grace: 5, ..Settings::default() };
        for second in [10, 14] {
            token(&mut state, &rules, &refreshing("first"), at(second)).unwrap();
        }
        assert!(state.good("first", &rules, at(15)).is_err());
    }

    #[test]
    fn an_old_client_secret_is_taken_until_its_grace_is_over() {
        let (mut state, rules) = (state(), Settings::default());
        let new = crate::secret::ClientSecret::parse("new").unwrap();
        state.set_secret(new, Duration::from_secs(5), at(10));
        assert!(token(&mut state, &rules, &refreshing("first"), at(14)).is_ok());
        let late = token(&mut state, &rules, &refreshing("first"), at(15));
        assert_eq!(late.err(), Some(Refusal::BadClientSecret));
    }

    #[test]
    fn a_challenge_is_that_of_rfc_7636() {
        assert_eq!(
            challenge_of("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"),
            "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"
        );
    }

    proptest! {
        #[test]
        fn whatever_is_asked_nothing_is_granted_without_the_pair_and_a_good_grant(
            members in proptest::collection::btree_map(
                proptest::sample::select(vec![
                    "client_id", "client_secret", "grant_type", "refresh_token", "code", "scope",
                ]),
                prop_oneof![
                    proptest::sample::select(vec![
                        "id", "secret", "refresh_token", "authorization_code", "client_credentials",
                        "first", "developer.x", "",
                    ]).prop_map(str::to_owned),
                    any::<String>(),
                ],
                0..6,
            )
        ) {
            let asked: Form =
                members.iter().map(|(name, text)| ((*name).to_owned(), text.clone())).collect();
            let is = |name: &str, text: &str| asked.get(name).is_some_and(|t| t == text);
            let granted = token(&mut state(), &Settings::default(), &asked, at(1)).is_ok();
            let pair = is("client_id", "id") && is("client_secret", "secret");
            let grant = (is("grant_type", "refresh_token") && is("refresh_token", "first"))
                || (is("grant_type", "client_credentials") && is("scope", "developer.x"));
            prop_assert!(!granted || (pair && grant));
        }
    }
}
