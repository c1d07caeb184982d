//! Where a verb's words go: standard output as text or JSON, and on a terminal one live line below.
//!
//! Colours are taken out where nobody sees them (`NO_COLOR`, pipes), and the live line exists only on a real terminal
//! outside of CI, so a log holds plain lines. A reader that has gone away (`wade history x | head -1`) is no reason to
//! stop following a release: what cannot be written is dropped.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::render::Line;

/// How results are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line, the same structures as the API.
    Json,
}

/// `--output`.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub struct OutputArg {
    /// How results are written: text, or json with one object a line as the API has them
    #[arg(
        long,
        short = 'o',
        value_enum,
        default_value_t,
        value_name = "FORMAT",
        hide_possible_values = true
    )]
    pub output: Format,
}

/// Standard output.
pub struct Screen {
    format: Format,
    bar: Option<ProgressBar>,
}

impl Screen {
    /// Output in `format`, without a live line.
    pub const fn new(format: Format) -> Self {
        Self { format, bar: None }
    }

    /// Whether JSON was asked for.
    pub fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// Whether colours would be seen.
    pub fn colours() -> bool {
        anstream::AutoStream::choice(&std::io::stdout()) != anstream::ColorChoice::Never
    }

    /// Adds the live line, where there is a terminal for it.
    #[must_use]
    pub fn with_live(mut self) -> Self {
        let watched = std::io::stdout().is_terminal() && std::io::stderr().is_terminal();
        if self.format == Format::Text && watched && std::env::var_os("CI").is_none() {
            let bar = ProgressBar::new_spinner();
            let style = ProgressStyle::with_template("{spinner} {wide_msg}").expect("the template is a constant");
            bar.set_style(style);
            bar.enable_steady_tick(Duration::from_millis(120));
            self.bar = Some(bar);
        }
        self
    }

    /// Whether there is a live line.
    pub const fn is_live(&self) -> bool {
        self.bar.is_some()
    }

    /// Replaces the live line.
    pub fn live(&self, line: &Line) {
        if let Some(bar) = &self.bar {
            bar.set_message(line.to_string().replace('\n', " "));
        }
    }

    /// Takes the live line away for good.
    pub fn end_live(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    /// A line of a timeline.
    pub fn line(&self, line: &Line) {
        self.write(&(line.styled() + "\n"));
    }

    /// Text as it is, ended by a line break if it has none.
    pub fn text(&self, text: &str) {
        let end = if text.ends_with('\n') || text.is_empty() {
            ""
        } else {
            "\n"
        };
        self.write(&format!("{text}{end}"));
    }

    /// Text byte for byte, for programs that go on with it: colours are not taken out, and half of it is a fault.
    ///
    /// # Errors
    /// Not all of it could be written.
    pub fn exact(&self, text: &str) -> std::io::Result<()> {
        let mut out = std::io::stdout().lock();
        out.write_all(text.as_bytes()).and_then(|()| out.flush())
    }

    /// One object on one line.
    pub fn json(&self, value: &impl Serialize) {
        let line = serde_json::to_string(value).expect("what Wade shows are plain values");
        self.write(&(line + "\n"));
    }

    fn write(&self, text: &str) {
        let write = || {
            let mut out = anstream::stdout().lock();
            // See the module's head: a reader that has gone is no fault of ours.
            let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
        };
        match &self.bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }
}
