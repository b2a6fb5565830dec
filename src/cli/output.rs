//! The rules of our terminal: the answer goes to standard output, everything else to standard
//! error; a table for people or one JSON document for programs; no colour where nobody sees it.

use std::io::{self, IsTerminal, Write};

use anstyle::{AnsiColor, Style};
use comfy_table::{Table, presets};
use serde::Serialize;

use super::exit::Failure;

/// What an answer looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// For programs.
    Json,
}

/// Where answers and remarks go.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    /// What an answer looks like.
    pub format: Format,
    /// Leave remarks out.
    pub quiet: bool,
}

/// What a word means to the reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    /// As it should be.
    Good,
    /// Worth a look.
    Fair,
    /// Needs somebody.
    Bad,
    /// Beside the point.
    Faint,
}

/// `text` in the colour of its tone; the stream takes it out again where it can't be shown.
#[must_use]
pub fn toned(text: &str, tone: Tone) -> String {
    let style = match tone {
        Tone::Good => AnsiColor::Green.on_default(),
        Tone::Fair => AnsiColor::Yellow.on_default(),
        Tone::Bad => AnsiColor::Red.on_default().bold(),
        Tone::Faint => Style::new().dimmed(),
    };
    format!("{style}{text}{style:#}")
}

/// The tone of a state's word.
#[must_use]
pub fn tone_of(word: &str) -> Tone {
    match word {
        "live" | "ok" | "good" | "ready" | "kept" => Tone::Good,
        "pending" | "retrying" | "suspended" | "unsaved" | "unproven" | "doubted" | "note" => {
            Tone::Fair
        }
        _ => Tone::Bad,
    }
}

impl Output {
    /// Writes an answer: the document as JSON, or what `table` makes of it.
    ///
    /// # Errors
    /// Standard output can't be written to; a reader who went away is no error.
    pub fn answer<T: Serialize>(
        self,
        document: &T,
        table: impl FnOnce(&T) -> String,
    ) -> Result<(), Failure> {
        let text = match self.format {
            Format::Json => serde_json::to_string_pretty(document).unwrap_or_default(),
            Format::Table => table(document),
        };
        self.line(text.trim_end())
    }

    /// Writes one line of an answer.
    ///
    /// # Errors
    /// See [`Output::answer`].
    pub fn line(self, text: &str) -> Result<(), Failure> {
        let mut out = anstream::stdout().lock();
        match writeln!(out, "{text}").and_then(|()| out.flush()) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                Err(cant_write("standard output", &error))
            }
            _ => Ok(()),
        }
    }

    /// Writes a remark to standard error, unless told to be quiet.
    pub fn remark(self, text: &str) {
        if !self.quiet {
            say(text);
        }
    }

    /// Writes a failure to standard error: three lines, or one object.
    pub fn failure(self, failure: &Failure) {
        if self.format == Format::Json {
            say(&serde_json::to_string(failure).unwrap_or_default());
            return;
        }
        let label = |word, tone| toned(word, tone);
        say(&format!("{} {}", label("error:", Tone::Bad), failure.message));
        if let Some(cause) = &failure.cause {
            say(&format!("{} {cause}", label("  why:", Tone::Faint)));
        }
        say(&format!("{} {}", label("  fix:", Tone::Good), failure.hint));
    }
}

fn say(text: &str) {
    // Nobody is left to be told that standard error is gone.
    writeln!(anstream::stderr().lock(), "{text}").ok();
}

/// Standard output or a file can't be written to.
#[must_use]
pub fn cant_write(what: &str, error: &io::Error) -> Failure {
    Failure::new(
        super::exit::Exit::Failed,
        "output",
        format!("{what} can't be written to"),
        "See that the disk is not full and the place may be written to.",
    )
    .because(error.to_string())
}

/// Whether somebody looks at standard output.
#[must_use]
pub fn is_watched() -> bool {
    io::stdout().is_terminal()
}

/// Rows under a header, in columns.
#[must_use]
pub fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header.to_vec());
    for row in rows {
        table.add_row(row);
    }
    let text = table.to_string();
    // Every cell is padded on both sides; the first column's padding would indent the whole table.
    let trimmed = |line: &str| line.strip_prefix(' ').unwrap_or(line).trim_end().to_owned();
    text.lines().map(|line| trimmed(line) + "\n").collect()
}
