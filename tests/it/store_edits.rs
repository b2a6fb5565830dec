//! Other hands in the store while the service runs, on each store and layout: what is edited, added and deleted is
//! picked up on schedule, on SIGHUP, and at once when a refresh is refused; what is not ours stays.

use std::sync::Arc;

use grantkeeper::{
    secret::{ClientSecret, RefreshToken},
    store::{CredentialStore, Expected, Key, LaidOut, Layout, Record, vault::VaultStore},
    time::SystemClock,
};
use rustix::process::Signal;
use serde_json::json;

use crate::support::{
    moto, openbao,
    service::{Place, Service, eventually, portal},
};

const LONG: &str = "[settings]\nrotating = true\nexpires_in = 1800";
const SHORT: &str = "[settings]\nrotating = true\nexpires_in = 6";

/// A place, and the hand of another tool in its store.
struct Hands {
    place: Place,
    tool: Arc<dyn CredentialStore>,
}

async fn vault(scenario: &str) -> Hands {
    let mut place = Place::new(3, scenario).await;
    let (_, store) = place.move_to_openbao(openbao().await).await;
    Hands { place, tool: Arc::new(store) }
}

async fn aws(scenario: &str) -> Hands {
    let mut place = Place::new(3, scenario).await;
    let store = place.move_to_aws(moto().await).await;
    Hands { place, tool: Arc::new(store) }
}

async fn vault_packed(scenario: &str) -> Hands {
    let mut place = Place::new(3, scenario).await;
    let bao = openbao().await;
    let mount = bao.mount().await;
    place.use_openbao(bao, &mount, &bao.root_token);
    place.store.push_str("layout = \"packed\"\nshards = 2\n");
    let mut settings = bao.settings(&mount);
    "grantkeeper/acme-sync".clone_into(&mut settings.prefix);
    let store = VaultStore::connect(settings, Arc::new(SystemClock)).unwrap();
    let tool = LaidOut::new(Arc::new(store), Layout::Packed(2));
    place.fill(&tool).await;
    Hands { place, tool: Arc::new(tool) }
}

impl Hands {
    async fn edit(&self, number: u64, change: impl Fn(&Record) -> Record) {
        let key = Key::Portal(portal(number));
        loop {
            // The service writes as well.
            let found = self.tool.read(key).await.unwrap();
            let at = Expected::At(found.version);
            if self.tool.write(key, &change(&found.record), &at).await.is_ok() {
                return;
            }
        }
    }

    async fn stored(&self, number: u64) -> serde_json::Value {
        let found = self.tool.read(Key::Portal(portal(number))).await.unwrap();
        serde_json::from_str(&found.record.to_json()).unwrap()
    }

    /// The customer connects the app anew, and somebody stores what that brought.
    async fn reconnect(&self, number: u64) -> RefreshToken {
        let (_, token) = self.place.standin.sim.install(Some(portal(number)), None);
        self.edit(number, |record| {
            record.with_refresh_token(&token).with_member("owner", json!("theirs"))
        })
        .await;
        token
    }
}

async fn told(service: &Service, number: u64) -> String {
    let answer = service.get(&format!("/v1/portals/{number}")).await;
    answer.map_or_else(|_| "unknown".to_owned(), |body| body["state"].as_str().unwrap().to_owned())
}

async fn on_sighup_what_was_edited_added_and_deleted_is_picked_up(hands: Hands) {
    let Hands { place, tool } = &hands;
    let service = place.serve().await;
    service.ready().await;
    let before = service.token(1).await.unwrap()["access_token"].clone();

    hands.reconnect(1).await;
    let (_, token) = place.standin.sim.install(Some(portal(4)), None);
    let record = Record::default().with_refresh_token(&token);
    tool.write(Key::Portal(portal(4)), &record, &Expected::Absent).await.unwrap();
    let third = tool.read(Key::Portal(portal(3))).await.unwrap();
    tool.remove(Key::Portal(portal(3)), &third.version).await.unwrap();
    service.signal(Signal::HUP);

    eventually("the new portal is served", async || service.token(4).await.is_ok()).await;
    eventually("the deleted one is gone", async || told(&service, 3).await == "unknown").await;
    assert_eq!(service.refusal(3).await, "unknown_portal");
    eventually("the edited grant is in use", async || {
        service.token(1).await.unwrap()["access_token"] != before
    })
    .await;
    // What HubSpot gave for it is stored, and what is not ours stays.
    eventually("its next refresh token is stored", async || {
        let stored = hands.stored(1).await;
        let token = RefreshToken::parse(stored["refresh_token"].as_str().unwrap()).unwrap();
        place.standin.sim.is_good(&token) && stored["owner"] == "theirs"
    })
    .await;
    assert_eq!(place.alerts.of("grant_revoked", "opened").len(), 0);
    assert_eq!(service.stop().await, 0);
}

async fn a_refused_refresh_finds_the_grant_that_somebody_stored_meanwhile(hands: Hands) {
    let Hands { place, .. } = &hands;
    let service = place.serve().await;
    service.ready().await;
    // The customer removes the app and connects it anew between two refreshes, and nobody tells the service.
    place.standin.sim.uninstall(portal(2));
    hands.reconnect(2).await;
    let refused =
        || place.standin.sim.ledger(0, Some(portal(2))).iter().any(|e| e.http == Some(400));
    eventually("the old grant is refused once", async || refused()).await;
    eventually("and the new one serves", async || told(&service, 2).await == "live").await;
    service.token(2).await.unwrap();
    assert_eq!(place.alerts.of("grant_revoked", "opened").len(), 0, "a lost race is no revocation");
    assert_eq!(service.stop().await, 0);
}

async fn a_changed_client_secret_is_proven_before_it_takes_the_place_of_the_one_that_works(
    hands: Hands,
) {
    let Hands { place, tool } = &hands;
    let service = place.serve().await;
    service.ready().await;
    let change = async |secret: &ClientSecret| {
        let found = tool.read(Key::App).await.unwrap();
        let id = place.standin.sim.client_id();
        let record = found.record.with_client(&id, secret).with_member("team", json!("theirs"));
        tool.write(Key::App, &record, &Expected::At(found.version)).await.unwrap();
        service.signal(Signal::HUP);
    };
    change(&ClientSecret::parse("a-slip-of-the-pen").unwrap()).await;
    eventually("the wrong one is seen", async || {
        let status = service.get("/v1/status").await.unwrap();
        status["remarks"].to_string().contains("client id and secret that HubSpot refuses")
    })
    .await;
    let refreshes = place.standin.sim.report().refreshes;
    eventually("refreshes go on", async || place.standin.sim.report().refreshes > refreshes + 2)
        .await;
    assert_eq!(place.alerts.of("app_rejected", "opened").len(), 0);

    let new = place.standin.sim.rotate_client_secret(std::time::Duration::ZERO);
    change(&new).await;
    eventually("the new one is proven", async || {
        let status = service.get("/v1/status").await.unwrap();
        !status["remarks"].to_string().contains("HubSpot refuses")
            && service.log().contains("new client pair is proven and in use")
    })
    .await;
    service.token(1).await.unwrap();
    assert_eq!(service.stop().await, 0);
}

macro_rules! on_each {
    ($($store:ident),+: $($claim:ident with $scenario:ident),+ $(,)?) => {
        on_each!(@stores [$($store),+] [$($claim with $scenario),+]);
    };
    (@stores [$($store:ident),+] $claims:tt) => {
        $(on_each!(@one $store $claims);)+
    };
    (@one $store:ident [$($claim:ident with $scenario:ident),+]) => {
        mod $store {
            $(
                #[tokio::test]
                async fn $claim() {
                    super::$claim(super::$store(super::$scenario).await).await;
                }
            )+
        }
    };
}

on_each!(vault, vault_packed, aws:
    on_sighup_what_was_edited_added_and_deleted_is_picked_up with LONG,
    a_refused_refresh_finds_the_grant_that_somebody_stored_meanwhile with SHORT,
    a_changed_client_secret_is_proven_before_it_takes_the_place_of_the_one_that_works with SHORT,
);

#[tokio::test]
async fn on_schedule_what_was_edited_is_picked_up_without_a_word() {
    let mut hands = vault(LONG).await;
    hands.place.extra += "[validate]\nevery = \"10s\"\n";
    let service = hands.place.serve().await;
    service.ready().await;
    let before = service.token(1).await.unwrap()["access_token"].clone();
    hands.reconnect(1).await;
    eventually("the edited grant is in use", async || {
        service.token(1).await.unwrap()["access_token"] != before
    })
    .await;
    assert_eq!(service.stop().await, 0);
}
