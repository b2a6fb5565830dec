//! Reads a TOML tree by hand, key by key, so that every mistake of a file is reported in one run,
//! each with its place. Knows no section and no meaning.

use std::{net::SocketAddr, ops::Range, path::PathBuf, time::Duration};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    findings::{Findings, Found},
    suggest::{nearest, unknown},
};

/// One table of the file, read key by key.
#[derive(Debug)]
pub(super) struct Section<'s, 't> {
    path: String,
    at: Range<usize>,
    table: Option<&'s DeTable<'t>>,
    asked: Vec<&'static str>,
}

impl<'s, 't> Section<'s, 't> {
    pub(super) const fn root(table: &'s DeTable<'t>, at: Range<usize>) -> Self {
        Self { path: String::new(), at, table: Some(table), asked: Vec::new() }
    }

    /// Whether the file has this section.
    pub(super) const fn is_there(&self) -> bool {
        self.table.is_some()
    }

    /// Whether the section has this key, be its value good or not.
    pub(super) fn has(&self, key: &str) -> bool {
        self.table.is_some_and(|table| table.get(key).is_some())
    }

    /// Notes that `key` is missing, unless it is there and its value has been found wrong.
    pub(super) fn missing(&self, findings: &mut Findings<'_>, key: &str, hint: impl Into<String>) {
        if !self.has(key) {
            self.wrong(findings, key, "is missing", hint);
        }
    }

    /// Notes what is wrong with the section as a whole.
    pub(super) fn wrong(
        &self,
        findings: &mut Findings<'_>,
        key: &str,
        what: impl Into<String>,
        hint: impl Into<String>,
    ) {
        findings.mistake(&self.at, self.path_of(key), what, hint);
    }

    fn path_of(&self, key: &str) -> String {
        match (self.path.is_empty(), key.is_empty()) {
            (true, _) => key.to_owned(),
            (_, true) => self.path.clone(),
            _ => format!("{}.{key}", self.path),
        }
    }

    fn value(&mut self, key: &'static str) -> Option<Found<&'s DeValue<'t>>> {
        self.asked.push(key);
        let found: &'s Spanned<DeValue<'t>> = self.table?.get(key)?;
        Some(Found { value: found.get_ref(), at: found.span(), key: self.path_of(key) })
    }

    /// The table under `key`; an empty one if there is none.
    pub(super) fn section(
        &mut self,
        key: &'static str,
        findings: &mut Findings<'_>,
    ) -> Section<'s, 't> {
        let path = self.path_of(key);
        let nothing =
            Section { path: path.clone(), at: self.at.clone(), table: None, asked: Vec::new() };
        let Some(found) = self.value(key) else { return nothing };
        if let DeValue::Table(table) = found.value {
            return Section { path, at: found.at, table: Some(table), asked: Vec::new() };
        }
        let hint = format!("write a section [{path}] or an inline table {{ … }}");
        found.wrong(findings, "is not a table", hint);
        nothing
    }

    /// Every table of the array of tables under `key`.
    pub(super) fn sections(
        &mut self,
        key: &'static str,
        findings: &mut Findings<'_>,
    ) -> Vec<Section<'s, 't>> {
        let Some(found) = self.value(key) else { return Vec::new() };
        let hint = format!("write one [[{key}]] for each");
        let DeValue::Array(array) = found.value else {
            found.wrong(findings, "is not a list of tables", hint);
            return Vec::new();
        };
        let mut sections = Vec::new();
        for (number, item) in array.iter().enumerate() {
            let path = format!("{}[{number}]", found.key);
            match item.get_ref() {
                DeValue::Table(table) => sections.push(Section {
                    path,
                    at: item.span(),
                    table: Some(table),
                    asked: Vec::new(),
                }),
                _ => findings.mistake(&item.span(), path, "is not a table", hint.clone()),
            }
        }
        sections
    }

    /// Leaves `keys` unread without calling them unknown.
    pub(super) fn pass_over(&mut self, keys: &[&'static str]) {
        self.asked.extend_from_slice(keys);
    }

    /// The text under `key`, if it is one; what is wrong with it is told by whoever reads it as something else.
    pub(super) fn word(&self, key: &str) -> Option<&str> {
        match self.table?.get(key)?.get_ref() {
            DeValue::String(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn text(
        &mut self,
        key: &'static str,
        findings: &mut Findings<'_>,
    ) -> Option<Found<String>> {
        let found = self.value(key)?;
        match found.value {
            DeValue::String(text) if !text.is_empty() => Some(found.with(text.to_string())),
            DeValue::String(_) => {
                found.wrong(findings, "is empty", "give it a value, or leave it out");
                None
            }
            _ => {
                found.wrong(findings, "is not text", "put it in quotation marks");
                None
            }
        }
    }

    /// A list of texts that are not empty; with `numbers`, whole numbers count as texts.
    pub(super) fn texts(
        &mut self,
        key: &'static str,
        numbers: bool,
        findings: &mut Findings<'_>,
    ) -> Option<Vec<Found<String>>> {
        let found = self.value(key)?;
        let hint = "write a list of texts, such as [\"a\", \"b\"]";
        let DeValue::Array(array) = found.value else {
            found.wrong(findings, "is not a list", hint);
            return None;
        };
        let mut texts = Vec::new();
        for item in array {
            match item.get_ref() {
                DeValue::String(text) if !text.is_empty() => texts.push(Found {
                    value: text.to_string(),
                    at: item.span(),
                    key: found.key.clone(),
                }),
                DeValue::Integer(number) if numbers => texts.push(Found {
                    value: number.as_str().to_owned(),
                    at: item.span(),
                    key: found.key.clone(),
                }),
                _ => findings.mistake(&item.span(), found.key.clone(), "is not text", hint),
            }
        }
        Some(texts)
    }

    pub(super) fn flag(
        &mut self,
        key: &'static str,
        findings: &mut Findings<'_>,
    ) -> Option<Found<bool>> {
        let found = self.value(key)?;
        if let DeValue::Boolean(value) = found.value {
            return Some(found.with(*value));
        }
        found.wrong(findings, "is neither true nor false", "write true or false, without quotes");
        None
    }

    /// A whole number from `least` to `most`.
    pub(super) fn whole(
        &mut self,
        key: &'static str,
        least: u64,
        most: u64,
        findings: &mut Findings<'_>,
    ) -> Option<Found<u64>> {
        let found = self.value(key)?;
        let number = match found.value {
            DeValue::Integer(number) => u64::from_str_radix(number.as_str(), number.radix()).ok(),
            _ => None,
        };
        let good = number.filter(|number| (least..=most).contains(number));
        if good.is_none() {
            let what = format!("is not a whole number from {least} to {most}");
            found.wrong(findings, what, "write digits only, without quotes");
        }
        good.map(|number| found.with(number))
    }

    /// A number from `least` to `most`.
    pub(super) fn number(
        &mut self,
        key: &'static str,
        least: f64,
        most: f64,
        findings: &mut Findings<'_>,
    ) -> Option<f64> {
        let found = self.value(key)?;
        let number: Option<f64> = match found.value {
            DeValue::Integer(number) => number.as_str().parse().ok(),
            DeValue::Float(number) => number.as_str().parse().ok(),
            _ => None,
        };
        let good = number.filter(|number| (least..=most).contains(number));
        if good.is_none() {
            let what = format!("is not a number from {least} to {most}");
            found.wrong(findings, what, "write it without quotes");
        }
        good
    }

    /// A duration such as `"90s"`, `"5m"` or `"1h 30m"`, from `least` to `most`.
    pub(super) fn duration(
        &mut self,
        key: &'static str,
        least: Duration,
        most: Duration,
        findings: &mut Findings<'_>,
    ) -> Option<Duration> {
        let found = self.value(key)?;
        let text = match found.value {
            DeValue::String(text) => text,
            DeValue::Integer(number) => {
                let hint = format!("say which unit: \"{}s\"", number.as_str());
                found.wrong(findings, "is a number without a unit", hint);
                return None;
            }
            _ => {
                found.wrong(
                    findings,
                    "is not a duration",
                    "write it like \"90s\", \"5m\" or \"1h\"",
                );
                return None;
            }
        };
        let parsed: Option<jiff::SignedDuration> = text.parse().ok();
        let Some(duration) = parsed.and_then(|signed| Duration::try_from(signed).ok()) else {
            found.wrong(findings, "is not a duration", "write it like \"90s\", \"5m\" or \"1h\"");
            return None;
        };
        if (least..=most).contains(&duration) {
            return Some(duration);
        }
        let what = format!("is not between {} s and {} s", least.as_secs_f64(), most.as_secs());
        found.wrong(findings, what, "choose a value in between");
        None
    }

    /// One of a closed list of words.
    pub(super) fn one_of<T: Copy>(
        &mut self,
        key: &'static str,
        words: &[(&str, T)],
        findings: &mut Findings<'_>,
    ) -> Option<Found<T>> {
        let found = self.text(key, findings)?;
        let known = words.iter().find(|(word, _)| *word == found.value);
        if let Some((_, value)) = known {
            return Some(found.with(*value));
        }
        let list: Vec<_> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
        let near = nearest(&found.value, words.iter().map(|(word, _)| *word));
        let hint = near.map_or_else(
            || format!("write one of {}", list.join(", ")),
            |near| format!("did you mean \"{near}\"? It is one of {}", list.join(", ")),
        );
        found.wrong(findings, "is not a value this key takes", hint);
        None
    }

    /// An absolute path.
    pub(super) fn path(
        &mut self,
        key: &'static str,
        findings: &mut Findings<'_>,
    ) -> Option<Found<PathBuf>> {
        let found = self.text(key, findings)?;
        let path = PathBuf::from(&found.value);
        if path.is_absolute() {
            return Some(found.with(path));
        }
        found.wrong(findings, "is not an absolute path", "let it begin with /");
        None
    }

    pub(super) fn address(
        &mut self,
        key: &'static str,
        findings: &mut Findings<'_>,
    ) -> Option<SocketAddr> {
        let found = self.text(key, findings)?;
        let address = found.value.parse().ok();
        if address.is_none() {
            let hint = "write an address and a port, such as \"127.0.0.1:9464\"";
            found.wrong(findings, "is not an address to listen on", hint);
        }
        address
    }

    /// Notes every key nobody asked for. Call it last.
    pub(super) fn finish(self, findings: &mut Findings<'_>) {
        let Some(table) = self.table else { return };
        for (key, _) in table {
            let word = key.get_ref().as_ref();
            if self.asked.contains(&word) {
                continue;
            }
            let (what, hint) = unknown(word, &self.asked);
            // A key may be anything in quotation marks, a secret pasted into the wrong place too.
            let plain = word.len() <= 32
                && word.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c));
            let shown = if plain { self.path_of(word) } else { self.path_of("") };
            findings.mistake(&key.span(), shown, what, hint);
        }
    }
}
