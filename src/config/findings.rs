//! What was found in the file, and what was found wrong with it, each with its place. Quotes no
//! value that could be a secret.

use std::ops::Range;

use serde::Serialize;

/// Something in the file that can't stay. Quotes no value that could be a secret.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Mistake {
    /// Counted from 1.
    pub line: usize,
    /// Counted from 1, in characters.
    pub column: usize,
    /// The key, as a path: `store.vault.address`.
    pub key: String,
    /// What is wrong.
    pub what: String,
    /// What to write instead.
    pub hint: String,
}

/// What was found wrong so far.
#[derive(Debug)]
pub(super) struct Findings<'t> {
    text: &'t str,
    pub(super) mistakes: Vec<Mistake>,
    pub(super) warnings: Vec<String>,
}

impl<'t> Findings<'t> {
    pub(super) const fn new(text: &'t str) -> Self {
        Self { text, mistakes: Vec::new(), warnings: Vec::new() }
    }

    pub(super) fn mistake(
        &mut self,
        at: &Range<usize>,
        key: impl Into<String>,
        what: impl Into<String>,
        hint: impl Into<String>,
    ) {
        let before = self.text.get(..at.start).unwrap_or(self.text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        self.mistakes.push(Mistake {
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            key: key.into(),
            what: what.into(),
            hint: hint.into(),
        });
    }

    pub(super) fn warn(&mut self, warning: impl Into<String>) {
        self.warnings.push(warning.into());
    }
}

/// A value with its place and the path of its key.
#[derive(Debug, Clone)]
pub(super) struct Found<T> {
    pub(super) value: T,
    pub(super) at: Range<usize>,
    pub(super) key: String,
}

impl<T> Found<T> {
    /// Notes what is wrong with this value.
    pub(super) fn wrong(
        &self,
        findings: &mut Findings<'_>,
        what: impl Into<String>,
        hint: impl Into<String>,
    ) {
        findings.mistake(&self.at, self.key.clone(), what, hint);
    }

    pub(super) fn with<U>(&self, value: U) -> Found<U> {
        Found { value, at: self.at.clone(), key: self.key.clone() }
    }
}
