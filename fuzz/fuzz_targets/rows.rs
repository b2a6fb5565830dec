//! Arbitrary files to import: no panic, each row is used or told of, and what is told holds nothing of the file.
#![no_main]

use grantkeeper::import::rows::{Columns, Format, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    for format in [Format::of(text), Format::Csv, Format::JsonLines] {
        match parse(text, format, &Columns::default()) {
            Ok((rows, bad)) => {
                for row in rows {
                    assert!(row.record.portal().is_ok());
                }
                assert!(bad.iter().all(|told| !told.fate.is_done()));
            }
            Err(why) => assert!(!why.to_string().is_empty()),
        }
    }
});
