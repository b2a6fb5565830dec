//! Arbitrary configurations: no panic; each mistake has a place in the text and a hint.
#![no_main]

use std::path::Path;

use grantkeeper::config::{Config, ConfigError};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    match Config::parse(text, Path::new("fuzz.toml"), &|_| None) {
        Ok(config) => assert!(!config.app.name.as_str().is_empty()),
        Err(ConfigError::Mistakes { mistakes, .. }) => assert!(!mistakes.is_empty()),
        Err(error) => panic!("{error}"),
    }
});
