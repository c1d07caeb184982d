//! One line of a timeline: when, what, why. The columns are the same on every surface.

use std::fmt;

use anstyle::{AnsiColor, Style};
use jiff::SignedDuration;

use super::numbers::{clean, clock, wrapped};

/// Where the text begins; further lines of it are indented to here.
const TEXT_AT: usize = 17;

/// How a line feels, for terminals that show colours. Nothing is told by colour alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tone {
    /// As it should be.
    #[default]
    Plain,
    /// Good news.
    Good,
    /// Something needs attention or waits for a person.
    Warn,
    /// Bad news.
    Bad,
    /// Beside the point.
    Quiet,
}

impl Tone {
    /// The style of what carries the tone.
    pub const fn style(self) -> Style {
        match self {
            Self::Plain => Style::new(),
            Self::Good => Style::new()
                .fg_color(Some(anstyle::Color::Ansi(AnsiColor::Green)))
                .bold(),
            Self::Warn => Style::new()
                .fg_color(Some(anstyle::Color::Ansi(AnsiColor::Yellow)))
                .bold(),
            Self::Bad => Style::new().fg_color(Some(anstyle::Color::Ansi(AnsiColor::Red))).bold(),
            Self::Quiet => Style::new().dimmed(),
        }
    }
}

/// One line: when, what, why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Since the release began; `None` for a line that has no time of its own.
    pub at: Option<SignedDuration>,
    /// What, in a word or a weight.
    pub label: String,
    /// Why, in a sentence; may have several lines.
    pub text: String,
    /// How it feels.
    pub tone: Tone,
}

impl Line {
    /// A line at `at`.
    pub fn new(at: SignedDuration, tone: Tone, label: impl Into<String>, text: impl Into<String>) -> Self {
        Self {
            at: Some(at),
            label: label.into(),
            text: text.into(),
            tone,
        }
    }

    /// A line without a time: a heading's detail, or the continuation of the line above.
    pub fn aside(tone: Tone, label: impl Into<String>, text: impl Into<String>) -> Self {
        Self {
            at: None,
            label: label.into(),
            text: text.into(),
            tone,
        }
    }

    /// The line with the escape sequences of its tone; the printer takes them out where nobody can see colours.
    pub fn styled(&self) -> String {
        self.compose(self.tone.style())
    }

    /// The line broken to the width of a page.
    #[must_use]
    pub fn fitted(mut self) -> Self {
        let label = clean(&self.label).chars().count();
        // A long label moves its first line to the right; what follows stands in its column.
        let text = wrapped(&self.text, TEXT_AT + label.saturating_sub(8), "");
        self.text = text.lines().map(str::trim_start).collect::<Vec<_>>().join("\n");
        self
    }

    fn compose(&self, style: Style) -> String {
        let at = self.at.map(clock).unwrap_or_default();
        let label = clean(&self.label);
        let pad = " ".repeat(8usize.saturating_sub(label.chars().count()));
        let text = clean(self.text.trim_end()).replace('\n', &format!("\n{:TEXT_AT$}", ""));
        format!("{at:>5}  {style}{label}{style:#}{pad}  {text}")
            .trim_end()
            .to_owned()
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.compose(Style::new()))
    }
}
