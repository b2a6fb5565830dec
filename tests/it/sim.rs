//! The stand-in's endpoints over real HTTP: what is granted, what is refused and with which body.

use std::time::Duration;

use grantkeeper::{
    secret::{ClientSecret, RefreshToken},
    sim::{Gone, RateLimit, Uninstalled, Version},
};
use serde_json::{Value, json};

use crate::support::{
    sim::Standin,
    sim_client::{App, portal, read, text},
};

const DATED: &str = "/oauth/2026-03/token";

async fn started() -> (Standin, App) {
    let standin = Standin::start("").await;
    let app = App::of(&standin);
    (standin, app)
}

/// The refusal of the token endpoint as HubSpot words it.
#[track_caller]
fn refused_with(answer: &(u16, Value), status: &str, error: &str) {
    assert_eq!(answer.0, 400, "{answer:?}");
    assert_eq!(answer.1["status"], status, "{answer:?}");
    assert_eq!(answer.1["error"], error, "{answer:?}");
    assert_eq!(answer.1["message"], answer.1["error_description"], "{answer:?}");
    assert!(answer.1.get("correlationId").is_none(), "{answer:?}");
}

#[tokio::test]
async fn every_oauth_version_refreshes_and_keeps_the_refresh_token() {
    let (standin, app) = started().await;
    let (id, token) = standin.sim.install(None, None);
    assert!(token.expose().starts_with("na1-"));
    for version in ["v1", "v3", "2026-03", "2026-09"] {
        let (status, body) = app.refresh_at(&format!("/oauth/{version}/token"), &token).await;
        assert_eq!(status, 200, "{version}");
        assert_eq!(text(&body, "refresh_token"), token.expose());
        assert!(text(&body, "access_token").len() >= 200);
        assert_eq!(body["expires_in"], 1800);
        assert_eq!(body["token_type"], "bearer");
        assert_eq!(body["token_use"], "access_token");
        assert_eq!(body["hub_id"], id.number());
        assert_eq!(body["scopes"], json!(["crm.objects.contacts.read", "oauth"]));
    }
    for version in ["v2", "2025-09", ""] {
        assert_eq!(app.refresh_at(&format!("/oauth/{version}/token"), &token).await.0, 404);
    }
    standin.stop().await;
}

#[tokio::test]
async fn the_pair_is_looked_at_before_the_grant_type_and_that_before_the_grant() {
    let (_standin, mut app) = started().await;
    let nonsense = [("grant_type", "nonsense"), ("refresh_token", "nonsense")];
    let ask = async |app: &App| read(app.post(DATED, &nonsense).await.unwrap()).await;

    refused_with(&ask(&app).await, "BAD_GRANT_TYPE", "unsupported_grant_type");
    let right = std::mem::replace(&mut app.client_secret, "wrong".to_owned());
    refused_with(&ask(&app).await, "BAD_CLIENT_SECRET", "invalid_client");
    app.client_id = "wrong".to_owned();
    refused_with(&ask(&app).await, "BAD_CLIENT_ID", "invalid_request");
    app.client_secret = right;
    refused_with(&ask(&app).await, "BAD_CLIENT_ID", "invalid_request");

    let empty = app.http.post(format!("{}{DATED}", app.url)).send().await.unwrap();
    refused_with(&read(empty).await, "BAD_CLIENT_ID", "invalid_request");
}

#[tokio::test]
async fn unknown_revoked_and_uninstalled_grants_are_bad_refresh_tokens() {
    let (standin, app) = started().await;
    let unknown = RefreshToken::parse("na1-unknown").unwrap();
    refused_with(&app.refresh(&unknown).await, "BAD_REFRESH_TOKEN", "invalid_grant");

    let (revoked, token) = standin.sim.install(None, None);
    standin.sim.revoke(revoked);
    refused_with(&app.refresh(&token).await, "BAD_REFRESH_TOKEN", "invalid_grant");

    let (left, token) = standin.sim.install(None, None);
    standin.sim.uninstall(left);
    refused_with(&app.refresh(&token).await, "BAD_REFRESH_TOKEN", "invalid_grant");
    standin.sim.configure(|settings| settings.uninstalled = Uninstalled::BadHub);
    refused_with(&app.refresh(&token).await, "BAD_HUB", "access_denied");

    let (_, again) = standin.sim.install(Some(left), None);
    assert_eq!(app.refresh(&again).await.0, 200);
    refused_with(&app.refresh(&token).await, "BAD_REFRESH_TOKEN", "invalid_grant");
    assert!(!standin.sim.is_good(&token) && standin.sim.is_good(&again));
}

#[tokio::test]
async fn a_deleted_portal_is_a_bad_hub_with_either_status() {
    let (standin, app) = started().await;
    let (id, token) = standin.sim.install(None, None);
    standin.sim.delete(id);
    refused_with(&app.refresh(&token).await, "BAD_HUB", "access_denied");
    app.control("PUT", "/settings", r#"{"bad_hub_http": 403}"#).await;
    let (status, body) = app.refresh(&token).await;
    assert_eq!((status, text(&body, "status")), (403, "BAD_HUB"));
}

#[tokio::test]
async fn a_grant_of_another_app_is_a_mismatch() {
    let (standin, app) = started().await;
    let (id, token) = standin.sim.install(None, None);
    standin.sim.set_foreign(id, true);
    refused_with(&app.refresh(&token).await, "MISMATCH_REFRESH_TOKEN_CLIENT", "invalid_grant");
    assert_eq!(app.introspect(token.expose()).await, (200, json!({"active": false})));
}

#[tokio::test]
async fn the_older_error_shape_has_a_correlation_id_instead_of_oauth_members() {
    let (standin, app) = started().await;
    standin.sim.configure(|settings| settings.old_error_shape = true);
    let (_, body) = app.refresh(&RefreshToken::parse("na1-unknown").unwrap()).await;
    assert_eq!(body["status"], "BAD_REFRESH_TOKEN");
    assert_eq!(text(&body, "correlationId").len(), 36);
    assert_eq!(body.as_object().unwrap().len(), 3);
}

#[tokio::test]
async fn a_rotating_refresh_replaces_the_token_at_once_or_after_its_grace() {
    let (standin, app) = started().await;
    let (id, first) = standin.sim.install(None, None);
    standin.sim.configure(|settings| settings.rotating = true);
    let (_, body) = app.refresh(&first).await;
    let second = RefreshToken::parse(text(&body, "refresh_token")).unwrap();
    assert!(!second.same_as(&first));
    refused_with(&app.refresh(&first).await, "BAD_REFRESH_TOKEN", "invalid_grant");

    standin.sim.configure(|settings| settings.rotation_grace = 60);
    let (_, body) = app.refresh(&second).await;
    assert_ne!(text(&body, "refresh_token"), second.expose());
    assert_eq!(app.refresh(&second).await.0, 200, "within its grace");
    let report = standin.sim.portal(id).unwrap();
    assert_eq!(report.generation, 4);
    let good: Vec<(u32, bool)> = report.tokens.iter().map(|t| (t.generation, t.good)).collect();
    assert_eq!(good, [(1, false), (2, true), (3, true), (4, true)]);
}

#[tokio::test]
async fn a_new_client_secret_ends_the_old_one_after_its_grace_which_may_be_none() {
    let (standin, app) = started().await;
    let (_, token) = standin.sim.install(None, None);
    let next = standin.sim.rotate_client_secret(Duration::from_secs(60));
    assert_eq!(app.refresh(&token).await.0, 200);
    let app = app.with_secret(&next);
    assert_eq!(app.refresh(&token).await.0, 200);

    let last = ClientSecret::parse("chosen").unwrap();
    standin.sim.set_client_secret(last.clone(), Duration::ZERO);
    refused_with(&app.refresh(&token).await, "BAD_CLIENT_SECRET", "invalid_client");
    assert_eq!(app.with_secret(&last).refresh(&token).await.0, 200);
}

#[tokio::test]
async fn a_json_body_is_415_unless_the_stand_in_is_lenient() {
    let (standin, app) = started().await;
    let (_, token) = standin.sim.install(None, None);
    let body = json!({
        "grant_type": "refresh_token",
        "refresh_token": token.expose(),
        "client_id": app.client_id,
        "client_secret": app.client_secret,
        "code": null,
    });
    let url = format!("{}{DATED}", app.url);
    let send = async || read(app.http.post(&url).json(&body).send().await.unwrap()).await;
    assert_eq!(send().await.0, 415);
    standin.sim.configure(|settings| settings.lenient_json = true);
    assert_eq!(send().await.0, 200);
}

#[tokio::test]
async fn v1_alone_reads_the_query() {
    let (standin, app) = started().await;
    let (_, token) = standin.sim.install(None, None);
    for (version, expected) in [("v1", 200), ("2026-03", 400)] {
        let response = app
            .http
            .post(format!("{}/oauth/{version}/token", app.url))
            .query(&[("client_secret", &*app.client_secret), ("refresh_token", token.expose())])
            .form(&[("grant_type", "refresh_token"), ("client_id", &*app.client_id)])
            .send()
            .await
            .unwrap();
        assert_eq!(response.status(), expected, "{version}");
    }
}

#[tokio::test]
async fn an_app_can_have_a_token_of_its_own_for_developer_scopes_only() {
    let (standin, app) = started().await;
    let ask = async |scope: &str| {
        let form = [("grant_type", "client_credentials"), ("scope", scope)];
        read(app.post(DATED, &form).await.unwrap()).await
    };
    refused_with(&ask("").await, "BAD_SCOPES", "invalid_scope");
    refused_with(&ask("oauth").await, "BAD_SCOPES", "invalid_scope");
    let (status, body) = ask("developer.webhooks_journal.read").await;
    assert_eq!((status, text(&body, "token_use")), (200, "client_credentials"));
    assert!(body.get("refresh_token").is_none() && body.get("hub_id").is_none());
    standin.sim.configure(|settings| {
        settings.app_scopes = Some(["developer.other"].into_iter().collect());
    });
    refused_with(&ask("developer.webhooks_journal.read").await, "BAD_SCOPES", "invalid_scope");
    standin.sim.configure(|settings| settings.client_credentials = false);
    refused_with(&ask("").await, "BAD_GRANT_TYPE", "unsupported_grant_type");
}

#[tokio::test]
async fn introspection_tells_both_kinds_of_token_and_denies_the_rest_with_a_200() {
    let (standin, app) = started().await;
    let (id, token) = standin.sim.install(None, None);
    let (_, granted) = app.refresh(&token).await;
    let access = text(&granted, "access_token");

    let (status, body) = app.introspect(token.expose()).await;
    assert_eq!(status, 200);
    assert_eq!(body["active"], true);
    assert_eq!(body["token"], token.expose());
    assert_eq!(body["token_use"], "refresh_token");
    assert_eq!(body["token_type"], "Bearer");
    assert_eq!(body["hub_id"], id.number());
    assert_eq!(body["client_id"], *app.client_id);
    assert!(body.get("expires_in").is_none());

    let (_, body) = app.introspect(access).await;
    assert_eq!(body["token_use"], "access_token");
    assert!((1798..=1800).contains(&body["expires_in"].as_u64().unwrap()));
    assert_eq!(body["signed_access_token"]["hubId"], id.number());

    for unknown in ["", "na1-unknown"] {
        assert_eq!(app.introspect(unknown).await, (200, json!({"active": false})));
    }
    standin.sim.revoke(id);
    assert_eq!(app.introspect(token.expose()).await, (200, json!({"active": false})));
    assert_eq!(app.introspect(access).await.1["active"], true, "it lives to its own expiry");

    let app = app.with_secret(&ClientSecret::parse("wrong").unwrap());
    refused_with(&app.introspect(access).await, "BAD_CLIENT_SECRET", "invalid_client");
}

#[tokio::test]
async fn revoking_ends_the_refresh_token_and_leaves_its_access_tokens_alone() {
    let (standin, app) = started().await;
    let (_, token) = standin.sim.install(None, None);
    let (_, granted) = app.refresh(&token).await;
    let access = text(&granted, "access_token");
    let revoke = async |token: &str| {
        app.post("/oauth/2026-09/token/revoke", &[("token", token)]).await.unwrap().status()
    };
    assert_eq!(revoke("na1-unknown").await, 200);
    assert_eq!(revoke(access).await, 200);
    assert_eq!(app.refresh(&token).await.0, 200, "revoking the access token did nothing");
    assert_eq!(revoke(token.expose()).await, 200);
    refused_with(&app.refresh(&token).await, "BAD_REFRESH_TOKEN", "invalid_grant");
    assert_eq!(app.details(access).await.status(), 200);
    assert_eq!(app.post("/oauth/v1/token/revoke", &[]).await.unwrap().status(), 404);
}

#[tokio::test]
async fn the_old_metadata_endpoints_tell_and_end_tokens_by_path() {
    let (standin, app) = started().await;
    let (id, token) = standin.sim.install(None, None);
    let (_, granted) = app.refresh(&token).await;
    let path = format!("/oauth/v1/access-tokens/{}", text(&granted, "access_token"));
    let (status, body) = read(app.get(&path).await).await;
    assert_eq!((status, text(&body, "token_type")), (200, "access"));
    assert_eq!(body["hub_id"], id.number());

    let path = format!("/oauth/v1/refresh-tokens/{}", token.expose());
    let (status, body) = read(app.get(&path).await).await;
    assert_eq!((status, text(&body, "token_type")), (200, "refresh"));
    assert_eq!(text(&body, "client_id"), app.client_id);
    let url = format!("{}{path}", app.url);
    assert_eq!(app.http.delete(&url).send().await.unwrap().status(), 204);
    let (status, body) = read(app.get(&path).await).await;
    assert_eq!((status, text(&body, "status")), (404, "error"));
    assert_eq!(app.refresh(&token).await.0, 400);
}

#[tokio::test]
async fn account_details_answer_the_portal_of_the_token_with_its_rate_limit() {
    let (standin, app) = started().await;
    let (id, token) = standin.sim.install(None, None);
    let (_, granted) = app.refresh(&token).await;
    let access = text(&granted, "access_token");
    let response = app.details(access).await;
    let header = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
    assert_eq!(header("x-hubspot-ratelimit-max"), "110");
    assert_eq!(header("x-hubspot-ratelimit-remaining"), "109");
    assert_eq!(header("x-hubspot-ratelimit-interval-milliseconds"), "10000");
    let (status, body) = read(response).await;
    assert_eq!((status, &body["portalId"]), (200, &json!(id.number())));
    assert_eq!(text(&body, "dataHostingLocation"), "na1");

    for _ in 0..109 {
        assert_eq!(app.details(access).await.status(), 200);
    }
    let (status, body) = read(app.details(access).await).await;
    assert_eq!((status, text(&body, "policyName")), (429, "TEN_SECONDLY_ROLLING"));
}

#[tokio::test]
async fn a_bad_or_expired_access_token_is_401_with_its_category() {
    let (standin, app) = started().await;
    for bad in ["", "nonsense"] {
        let (status, body) = read(app.details(bad).await).await;
        assert_eq!((status, text(&body, "category")), (401, "INVALID_AUTHENTICATION"));
    }
    let (_, token) = standin.sim.install(None, None);
    standin.sim.configure(|settings| settings.expires_in = 0);
    let (_, granted) = app.refresh(&token).await;
    let (status, body) = read(app.details(text(&granted, "access_token")).await).await;
    assert_eq!((status, text(&body, "category")), (401, "EXPIRED_AUTHENTICATION"));
    assert!(body["context"]["expire time"][0].is_string(), "{body}");
}

#[tokio::test]
async fn a_grant_without_the_oauth_scope_may_not_read_account_details() {
    let (standin, app) = started().await;
    let (_, token) = standin.sim.install(None, Some(["tickets"].into_iter().collect()));
    let (_, granted) = app.refresh(&token).await;
    let (status, body) = read(app.details(text(&granted, "access_token")).await).await;
    assert_eq!((status, text(&body, "category")), (403, "MISSING_SCOPES"));
}

#[tokio::test]
async fn the_token_endpoint_s_limit_is_one_over_any_second() {
    let (standin, app) = started().await;
    let (_, token) = standin.sim.install(None, None);
    standin.sim.configure(|settings| {
        settings.rate_limit = Some(RateLimit { per_second: 2, retry_after: Some(3) });
    });
    assert_eq!(app.refresh(&token).await.0, 200);
    assert_eq!(app.refresh(&token).await.0, 200);
    let response = app.try_refresh(&token).await.unwrap();
    assert_eq!(response.headers()["retry-after"], "3");
    let (status, body) = read(response).await;
    assert_eq!(status, 429);
    assert_eq!(body["status"], "error");
    assert_eq!(body["errorType"], "RATE_LIMIT");
    assert_eq!(body["policyName"], "SECONDLY");
    assert_eq!(standin.sim.report().worst_second, 3);
}

#[tokio::test]
async fn a_retired_version_is_gone_in_the_way_that_was_set() {
    let (standin, app) = started().await;
    let (_, token) = standin.sim.install(None, None);
    for (gone, status) in [(Gone::NotFound, 404), (Gone::Gone, 410)] {
        standin.sim.configure(|settings| {
            settings.retired.insert(Version::V1, gone);
        });
        assert_eq!(app.refresh_at("/oauth/v1/token", &token).await.0, status);
        assert_eq!(app.get("/oauth/v1/access-tokens/x").await.status(), status);
    }
    assert_eq!(app.refresh(&token).await.0, 200);
}

#[tokio::test]
async fn a_consent_brings_a_code_that_is_good_once_and_for_its_redirect_uri() {
    let (standin, app) = started().await;
    let back = "http://127.0.0.1:9/back?keep=1";
    let consent = async |more: &[(&str, &str)]| {
        let query =
            [("client_id", &*app.client_id), ("redirect_uri", back), ("scope", "oauth tickets")];
        let query: Vec<_> = query.iter().chain(more).collect();
        let url = format!("{}/oauth/authorize", app.url);
        let response = app.http.get(url).query(&query).send().await.unwrap();
        assert_eq!(response.status(), 302);
        let location: reqwest::Url =
            response.headers()["location"].to_str().unwrap().parse().unwrap();
        location.query_pairs().into_owned().collect::<std::collections::HashMap<_, _>>()
    };
    let exchange = async |code: &str, more: &[(&str, &str)]| {
        let mut form = vec![("grant_type", "authorization_code"), ("code", code)];
        form.extend(more);
        read(app.post(DATED, &form).await.unwrap()).await
    };
    let redirect = ("redirect_uri", back);

    let answer = consent(&[("state", "a b"), ("portal", "4711")]).await;
    assert_eq!((&*answer["state"], &*answer["keep"]), ("a b", "1"));
    let code = &answer["code"];
    refused_with(&exchange(code, &[]).await, "BAD_REDIRECT_URI", "invalid_grant");
    assert!(standin.sim.portal(portal(4711)).is_none(), "installed by the exchange only");
    let (status, body) = exchange(code, &[redirect]).await;
    assert_eq!((status, &body["hub_id"]), (200, &json!(4711)));
    assert_eq!(body["scopes"], json!(["oauth", "tickets"]));
    let token = RefreshToken::parse(text(&body, "refresh_token")).unwrap();
    assert_eq!(app.refresh(&token).await.0, 200);
    refused_with(&exchange(code, &[redirect]).await, "BAD_AUTH_CODE", "invalid_grant");

    // RFC 7636 appendix B.
    let challenge = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";
    let pkce = [("code_challenge", challenge), ("code_challenge_method", "S256")];
    let code = &consent(&pkce).await["code"];
    refused_with(&exchange(code, &[redirect]).await, "BAD_CODE_VERIFIER", "invalid_grant");
    let verifier = ("code_verifier", "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk");
    assert_eq!(exchange(code, &[redirect, verifier]).await.0, 200);

    standin.sim.configure(|settings| settings.code_expires_in = 0);
    let code = &consent(&[]).await["code"];
    refused_with(&exchange(code, &[redirect]).await, "EXPIRED_AUTH_CODE", "invalid_grant");
    assert_eq!(consent(&[("deny", "")]).await["error"], "access_denied");
}

#[tokio::test]
async fn a_consent_that_can_t_be_given_is_400_with_the_reason() {
    let standin = Standin::start("app = { redirect_uris = [\"http://127.0.0.1/back\"] }").await;
    let app = App::of(&standin);
    let id = &app.client_id;
    for (query, why) in [
        (String::new(), "client_id"),
        (format!("client_id={id}"), "redirect_uri is missing"),
        (format!("client_id={id}&redirect_uri=x"), "not a URL"),
        (format!("client_id={id}&redirect_uri=http://other/"), "not one of the app's"),
        (format!("client_id={id}&redirect_uri=http://127.0.0.1/back"), "scope is missing"),
    ] {
        let (status, body) = read(app.get(&format!("/oauth/authorize?{query}")).await).await;
        assert_eq!(status, 400);
        assert!(text(&body, "message").contains(why), "{body}");
    }
}

#[tokio::test]
async fn the_status_page_and_the_date_say_what_was_set() {
    let (standin, app) = started().await;
    standin.sim.configure(|settings| settings.date_offset = -7200);
    app.control("PUT", "/settings", r#"{"indicator": "major"}"#).await;
    let response = app.get("/api/v2/status.json").await;
    let date = response.headers()["date"].to_str().unwrap().to_owned();
    let (_, body) = read(response).await;
    assert_eq!(body["status"]["indicator"], "major");
    let shown = jiff::fmt::rfc2822::parse(&date).unwrap().timestamp();
    let page: jiff::Timestamp = text(&body["page"], "updated_at").parse().unwrap();
    assert!((7198..=7202).contains(&page.duration_since(shown).as_secs()), "{date}");
}
