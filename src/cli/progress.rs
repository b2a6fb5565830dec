//! A bar on the terminal for what takes a while; nothing where nobody looks.

use std::{
    io::{IsTerminal, stderr},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::output::Output;

const REDRAWN: u8 = 10;

/// How far something is.
#[derive(Debug)]
pub(super) struct Progress(ProgressBar);

impl Progress {
    /// A bar that counts `what`, on standard error.
    pub(super) fn new(output: Output, what: &'static str) -> Self {
        let seen = stderr().is_terminal() && !output.quiet;
        let target = if seen {
            ProgressDrawTarget::stderr_with_hz(REDRAWN)
        } else {
            ProgressDrawTarget::hidden()
        };
        let bar = ProgressBar::with_draw_target(None, target);
        let template = "{bar:40} {pos} of {len} {msg}, {elapsed} so far, {eta} left";
        // A template that can't be read would leave the plain bar.
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_message(what);
        bar.enable_steady_tick(Duration::from_secs(1));
        Self(bar)
    }

    pub(super) fn show(&self, done: usize, of: usize) {
        self.0.set_length(of as u64);
        self.0.set_position(done as u64);
    }

    pub(super) fn done(&self) {
        self.0.finish_and_clear();
    }
}
