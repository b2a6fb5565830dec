//! An app's side of HubSpot's OAuth, as plain HTTP: what the tests of the stand-in say to it.

use grantkeeper::{
    portal::PortalId,
    secret::{ClientSecret, RefreshToken},
};
use reqwest::{Client, Response, redirect};
use serde_json::Value;

use super::sim::Standin;

/// An app with its pair.
pub(crate) struct App {
    pub(crate) http: Client,
    pub(crate) url: String,
    pub(crate) client_id: String,
    pub(crate) client_secret: String,
}

impl App {
    pub(crate) fn of(standin: &Standin) -> Self {
        let http = Client::builder()
            .no_proxy()
            .redirect(redirect::Policy::none())
            .retry(reqwest::retry::never())
            .build()
            .unwrap();
        Self {
            http,
            url: standin.url.clone(),
            client_id: standin.sim.client_id().to_string(),
            client_secret: standin.sim.client_secret().expose().to_owned(),
        }
    }

    pub(crate) fn with_secret(mut self, secret: &ClientSecret) -> Self {
        secret.expose().clone_into(&mut self.client_secret);
        self
    }

    pub(crate) async fn post(
        &self,
        path: &str,
        form: &[(&str, &str)],
    ) -> Result<Response, reqwest::Error> {
        let pair = [("client_id", &*self.client_id), ("client_secret", &*self.client_secret)];
        let form: Vec<_> = pair.iter().chain(form).collect();
        self.http.post(format!("{}{path}", self.url)).form(&form).send().await
    }

    pub(crate) async fn refresh(&self, token: &RefreshToken) -> (u16, Value) {
        self.refresh_at("/oauth/2026-03/token", token).await
    }

    pub(crate) async fn refresh_at(&self, path: &str, token: &RefreshToken) -> (u16, Value) {
        read(self.try_refresh_at(path, token).await.unwrap()).await
    }

    pub(crate) async fn try_refresh(
        &self,
        token: &RefreshToken,
    ) -> Result<Response, reqwest::Error> {
        self.try_refresh_at("/oauth/2026-03/token", token).await
    }

    async fn try_refresh_at(
        &self,
        path: &str,
        token: &RefreshToken,
    ) -> Result<Response, reqwest::Error> {
        let form = [("grant_type", "refresh_token"), ("refresh_token", token.expose())];
        self.post(path, &form).await
    }

    pub(crate) async fn introspect(&self, token: &str) -> (u16, Value) {
        read(self.post("/oauth/2026-03/token/introspect", &[("token", token)]).await.unwrap()).await
    }

    pub(crate) async fn get(&self, path: &str) -> Response {
        self.http.get(format!("{}{path}", self.url)).send().await.unwrap()
    }

    pub(crate) async fn details(&self, access_token: &str) -> Response {
        self.http
            .get(format!("{}/account-info/2026-03/details", self.url))
            .bearer_auth(access_token)
            .send()
            .await
            .unwrap()
    }

    /// A request to the control API.
    pub(crate) async fn control(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        let method = method.parse().unwrap();
        let url = format!("{}/_sim{path}", self.url);
        read(self.http.request(method, url).body(body.to_owned()).send().await.unwrap()).await
    }
}

/// Status and JSON; null for an empty body.
pub(crate) async fn read(response: Response) -> (u16, Value) {
    let status = response.status().as_u16();
    let body = response.bytes().await.unwrap();
    let json = if body.is_empty() { Value::Null } else { serde_json::from_slice(&body).unwrap() };
    (status, json)
}

pub(crate) fn portal(number: u64) -> PortalId {
    PortalId::new(number).unwrap()
}

pub(crate) fn text<'j>(json: &'j Value, member: &str) -> &'j str {
    json[member].as_str().unwrap_or_else(|| panic!("no `{member}` in {json}"))
}
