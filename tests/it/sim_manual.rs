//! docs/simulator.md against the stand-in itself: what it shows works, and nothing is left out.

use grantkeeper::sim::{Endpoint, Scenario, Settings};
use serde_json::Value;

const MANUAL: &str = include_str!("../../docs/simulator.md");

#[test]
fn the_scenario_in_the_manual_is_one() {
    let start = MANUAL.find("```toml\n").unwrap() + "```toml\n".len();
    let length = MANUAL[start..].find("```").unwrap();
    // Placeholders stand for values that a reader has.
    let scenario = Scenario::parse(&MANUAL[start..start + length].replace('…', "x")).unwrap();
    assert_eq!((scenario.portals.len(), scenario.faults.len()), (1, 1));
}

#[test]
fn every_setting_is_in_the_manual_with_its_default() {
    let Value::Object(settings) = serde_json::to_value(Settings::default()).unwrap() else {
        panic!("settings are an object");
    };
    for (name, default) in settings {
        let shown = match default {
            Value::String(word) => format!("`{word}`"),
            Value::Null | Value::Object(_) => "none".to_owned(),
            plain => plain.to_string(),
        };
        let line = format!("| `{name}` | {shown} |");
        assert!(MANUAL.contains(&line), "no line {line}");
    }
}

#[test]
fn every_effect_and_endpoint_is_in_the_manual() {
    let shown = serde_json::from_str::<grantkeeper::sim::Effect>("\"?\"").unwrap_err().to_string();
    let words = shown.split("an effect is ").nth(1).unwrap().split(", bare").next().unwrap();
    for word in words.split(", ").chain(["bare"]) {
        assert!(MANUAL.contains(&format!("`\"{word}\"`")), "{word}");
    }
    for endpoint in [
        Endpoint::Token,
        Endpoint::Introspect,
        Endpoint::Revoke,
        Endpoint::Metadata,
        Endpoint::AccountInfo,
        Endpoint::Journal,
        Endpoint::JournalSubscriptions,
        Endpoint::JournalFile,
    ] {
        let word = serde_json::to_value(endpoint).unwrap();
        assert!(MANUAL.contains(&format!("`{}`", word.as_str().unwrap())), "{word}");
    }
}
