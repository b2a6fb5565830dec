//! What the stand-in starts with: the app, the portals, the settings, the faults, from a TOML file
//! or from defaults that work. Every mistake is told with its line and column.

use std::{collections::BTreeSet, fmt, ops::Range};

use serde::{Deserialize, Deserializer, de};
use toml::Spanned;

use super::{fault::Fault, settings::Settings};
use crate::{
    portal::{ClientId, PortalId, Scopes},
    secret::{ClientSecret, RefreshToken},
};

/// The most portals one scenario may install.
const MOST_PORTALS: u64 = 2_000_000;

/// What the stand-in starts with.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Scenario {
    /// Makes every token and every roll of the dice repeatable.
    pub seed: Option<u64>,
    /// The app.
    pub app: AppScenario,
    /// Behaviour.
    pub settings: Settings,
    /// Many portals alike.
    pub fleet: Option<FleetScenario>,
    /// Portals by name.
    #[serde(rename = "portal")]
    pub portals: Vec<PortalScenario>,
    /// What goes wrong from the start.
    #[serde(rename = "fault")]
    pub faults: Vec<Fault>,
}

/// The app that the stand-in knows. What is left out is drawn at random.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AppScenario {
    /// Public half of the pair.
    #[serde(deserialize_with = "client_id")]
    pub client_id: Option<ClientId>,
    /// Secret half of the pair.
    pub client_secret: Option<ClientSecret>,
    /// HubSpot's number for the app.
    pub app_id: Option<u32>,
    /// The redirect URIs that consent is given for; any by default.
    pub redirect_uris: Vec<String>,
}

fn client_id<'de, D: Deserializer<'de>>(from: D) -> Result<Option<ClientId>, D::Error> {
    let text = String::deserialize(from)?;
    ClientId::parse(text).map(Some).map_err(de::Error::custom)
}

/// Portals with ids in a row, each with a grant.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FleetScenario {
    /// The lowest id.
    pub first: PortalId,
    /// How many.
    pub count: u64,
    /// What each has consented to.
    #[serde(default)]
    pub scopes: Option<Scopes>,
}

/// One portal with a grant, as if its customer had consented.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortalScenario {
    /// Its id.
    pub id: PortalId,
    /// What it has consented to.
    #[serde(default)]
    pub scopes: Option<Scopes>,
    /// Its refresh token; drawn at random by default.
    #[serde(default)]
    pub refresh_token: Option<RefreshToken>,
    /// Whether its grant was given to another app.
    #[serde(default)]
    pub foreign: bool,
}

impl PortalScenario {
    /// A portal with this id and otherwise nothing special.
    #[must_use]
    pub const fn new(id: PortalId) -> Self {
        Self { id, scopes: None, refresh_token: None, foreign: false }
    }
}

impl Scenario {
    /// # Errors
    /// Text that is not TOML or not a scenario; every mistake in it that can be told at once.
    pub fn parse(text: &str) -> Result<Self, ScenarioError> {
        let scenario: Self = toml::from_str(text).map_err(|error| {
            // The error's own display repeats the line of the file, and a secret may stand there.
            ScenarioError(vec![Mistake::at(text, error.span(), error.message().to_owned())])
        })?;
        let mistakes = scenario.mistakes(text);
        if mistakes.is_empty() { Ok(scenario) } else { Err(ScenarioError(mistakes)) }
    }

    /// Every portal to install, the named ones first.
    pub(super) fn all_portals(&self) -> impl Iterator<Item = PortalScenario> {
        let fleet = self.fleet.iter().flat_map(|fleet| {
            let first = fleet.first.number();
            (first..first.saturating_add(fleet.count)).filter_map(|number| {
                let portal = PortalScenario::new(PortalId::new(number).ok()?);
                Some(PortalScenario { scopes: fleet.scopes.clone(), ..portal })
            })
        });
        self.portals.iter().cloned().chain(fleet)
    }

    fn mistakes(&self, text: &str) -> Vec<Mistake> {
        let mut mistakes = Vec::new();
        let mut named = BTreeSet::new();
        let fleet = self.fleet.as_ref().map_or(0..0, |fleet| {
            let first = fleet.first.number();
            first..first.saturating_add(fleet.count)
        });
        for (portal, span) in self.portals.iter().zip(Places::of(text)) {
            let id = portal.id;
            if !named.insert(id) {
                let what = format!("portal {id} is named twice");
                mistakes.push(Mistake::at(text, Some(span), what));
            } else if fleet.contains(&id.number()) {
                let what = format!("portal {id} is also one of the fleet");
                mistakes.push(Mistake::at(text, Some(span), what));
            }
        }
        if fleet.end - fleet.start > MOST_PORTALS {
            let place = text.find("[fleet]").map(|start| start..start);
            let what = format!("a fleet has at most {MOST_PORTALS} portals");
            mistakes.push(Mistake::at(text, place, what));
        }
        mistakes
    }
}

/// Where the portals stand in the file.
#[derive(Deserialize)]
struct Places {
    #[serde(default)]
    portal: Vec<Spanned<de::IgnoredAny>>,
}

impl Places {
    fn of(text: &str) -> impl Iterator<Item = Range<usize>> {
        let places = toml::from_str::<Self>(text).map(|places| places.portal).unwrap_or_default();
        places.into_iter().map(|place| place.span())
    }
}

/// One mistake in a scenario file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// Counted from 1.
    pub line: usize,
    /// Counted from 1, in characters.
    pub column: usize,
    /// What is wrong.
    pub what: String,
}

impl Mistake {
    fn at(text: &str, span: Option<Range<usize>>, what: String) -> Self {
        let before = span.and_then(|span| text.get(..span.start)).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
        Self { line, column, what }
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}: {}", self.line, self.column, self.what.replace('\n', "; "))
    }
}

/// The mistakes of a scenario file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the scenario can't be used: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
pub struct ScenarioError(pub Vec<Mistake>);

impl ScenarioError {
    /// What the reader can do.
    #[must_use]
    pub const fn hint(&self) -> &'static str {
        "Correct the lines named; docs/simulator.md lists every member of a scenario."
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_at_all_is_a_scenario() {
        let scenario = Scenario::parse("").unwrap();
        assert_eq!(scenario.all_portals().count(), 0);
        assert_eq!(scenario.settings, Settings::default());
    }

    #[test]
    fn a_full_scenario_is_read() {
        let scenario = Scenario::parse(
            r#"
            seed = 7
            [app]
            client_id = "id"
            client_secret = "secret"
            redirect_uris = ["http://127.0.0.1/back"]
            [settings]
            expires_in = 2
            retired = { v1 = 410 }
            rate_limit = { per_second = 5 }
            [fleet]
            first = 100
            count = 3
            [[portal]]
            id = 1
            scopes = ["oauth"]
            refresh_token = "na1-known"
            [[fault]]
            effect = { http = 503, retry_after = 1 }
            endpoint = "token"
            probability = 0.5
            [[fault]]
            effect = "reset_after"
            "#,
        )
        .unwrap();
        let ids: Vec<u64> = scenario.all_portals().map(|portal| portal.id.number()).collect();
        assert_eq!(ids, [1, 100, 101, 102]);
        assert_eq!(scenario.faults.len(), 2);
    }

    #[test]
    fn mistakes_have_a_place_and_never_echo_a_secret() {
        for (text, place) in [
            ("sed = 1", "line 1, column 1: "),
            ("[settings]\nexpires_in = \"x\"", "line 2, column 14: "),
            ("[app]\nclient_secret = \"CANARY x\"", "line 2, column 17: "),
            ("[app]\nclient_secret = CANARY", "line 2, column 17: "),
            ("[[fault]]\neffect = \"CANARY\"", "line 2, column 10: "),
            ("[[portal]]\nid = 0", "line 2, column 6: "),
        ] {
            let error = Scenario::parse(text).unwrap_err().to_string();
            assert!(error.contains(place), "{text}: {error}");
            if text.contains("client_secret") {
                assert!(!error.contains("CANARY"), "{error}");
            }
        }
    }

    #[test]
    fn all_portals_named_twice_are_told_in_one_run() {
        let text = "[fleet]\nfirst = 5\ncount = 3000000\n\
                    [[portal]]\nid = 1\n[[portal]]\nid = 1\n[[portal]]\nid = 6\n";
        let error = Scenario::parse(text).unwrap_err();
        assert_eq!(error.0.len(), 3, "{error}");
        assert_eq!((error.0[0].line, error.0[1].line, error.0[2].line), (6, 8, 1));
    }
}
