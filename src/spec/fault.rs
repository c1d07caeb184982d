//! Faults in what a user wrote, all at once, as a good compiler shows them.
//!
//! A fault names the field by its path, the place in the file where there is one, what was found and what to write
//! instead. It carries no severity: whatever is a fault stops the reading; what is merely worth saying is a
//! [`super::Note`].

use std::fmt;

use serde::Serialize;
use serde_json::json;

/// Where in a file, counted from 1, columns in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Place {
    /// The line, from 1.
    pub line: usize,
    /// The column, from 1.
    pub column: usize,
}

/// One step of a [`Path`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Segment {
    Key(String),
    Index(usize),
}

/// Where in a document, by field: `spec.strategy.canary.steps[2].weight`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Path(Vec<Segment>);

impl Path {
    /// The document itself.
    pub const fn root() -> Self {
        Self(Vec::new())
    }

    /// A path of plain field names, separated by dots.
    pub fn of(fields: &str) -> Self {
        Self(fields.split('.').map(|key| Segment::Key(key.to_owned())).collect())
    }

    /// The field `key` below this.
    pub fn key(&self, key: &str) -> Self {
        let mut path = self.clone();
        path.0.push(Segment::Key(key.to_owned()));
        path
    }

    /// The item at `index` below this, from 0.
    pub fn index(&self, index: usize) -> Self {
        let mut path = self.clone();
        path.0.push(Segment::Index(index));
        path
    }

    pub(crate) fn segments(&self) -> &[Segment] {
        &self.0
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, segment) in self.0.iter().enumerate() {
            match segment {
                Segment::Index(index) => write!(f, "[{index}]")?,
                // Keys that a user chose (labels, JSON paths) may hold dots; quoting them keeps the path readable.
                Segment::Key(key) if !is_plain(key) => write!(f, "[{}]", clip(&format!("{key:?}")))?,
                Segment::Key(key) if position == 0 => f.write_str(key)?,
                Segment::Key(key) => write!(f, ".{key}")?,
            }
        }
        Ok(())
    }
}

fn is_plain(key: &str) -> bool {
    !key.is_empty() && key.len() <= MAX_SHOWN && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
}

/// One thing that is wrong, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The field.
    pub path: Path,
    /// Where it is written; `None` when the value did not come from a file.
    pub place: Option<Place>,
    /// What was read; empty if nothing was.
    pub found: String,
    /// What is wrong with it.
    pub problem: String,
    /// What to write instead.
    pub help: String,
}

impl Fault {
    /// A fault at `path`, not yet placed in a file.
    pub fn new(path: Path, problem: impl Into<String>) -> Self {
        Self {
            path,
            place: None,
            found: String::new(),
            problem: clean(&problem.into(), MAX_SENTENCE, false),
            help: String::new(),
        }
    }

    /// Adds what was read.
    #[must_use]
    pub fn found(mut self, found: impl AsRef<str>) -> Self {
        self.found = clean(found.as_ref(), MAX_SENTENCE, false);
        self
    }

    /// Adds what to write instead.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = clean(&help.into(), MAX_HELP, true);
        self
    }

    /// Adds where it is written.
    #[must_use]
    pub fn at(mut self, place: Place) -> Self {
        self.place = Some(place);
        self
    }
}

/// How many faults are kept of one document; more are only counted.
pub const MAX_FAULTS: usize = 100;

/// How much of a value is repeated in a fault, in characters.
pub(crate) const MAX_SHOWN: usize = 60;

/// Everything that is wrong with one document. Never empty when returned as an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Faults {
    /// What the document is called: a file name, `--set`, `strategy careful`.
    pub source: String,
    /// In the order of the file; those without a place come last.
    pub faults: Vec<Fault>,
    /// How many more there were than [`MAX_FAULTS`].
    pub left_out: usize,
}

impl Faults {
    /// Sorts and bounds `faults` of the document called `source`.
    pub fn new(source: impl Into<String>, mut faults: Vec<Fault>) -> Self {
        // Stable, so that faults of one place keep the order in which they were found.
        faults.sort_by_key(|fault| (fault.place.is_none(), fault.place));
        let left_out = faults.len().saturating_sub(MAX_FAULTS);
        faults.truncate(MAX_FAULTS);
        Self {
            source: source.into(),
            faults,
            left_out,
        }
    }

    /// `Ok` if nothing is wrong.
    pub(crate) fn check(source: &str, faults: Vec<Fault>) -> Result<(), Self> {
        if faults.is_empty() {
            Ok(())
        } else {
            Err(Self::new(source, faults))
        }
    }

    /// The faults as JSON: `{source, faults: [{path, line, column, found, problem, help}], leftOut}`; line and column
    /// are null for a value that did not come from a file.
    pub fn to_json(&self) -> serde_json::Value {
        let faults: Vec<_> = self.faults.iter().map(fault_json).collect();
        json!({ "source": self.source, "faults": faults, "leftOut": self.left_out })
    }

    /// These faults with the lines of `text` filled in, and `source` as the document's name. For faults that were
    /// found in the typed value (by [`super::resolve`]) after the text had been read.
    #[must_use]
    pub fn located_in(self, text: &str, source: &str) -> Self {
        let Ok(Some(root)) = super::nodes::parse(text) else {
            return Self {
                source: source.to_owned(),
                ..self
            };
        };
        let left_out = self.left_out;
        let faults = self.faults.into_iter().map(|fault| root.place(fault)).collect();
        let mut located = Self::new(source, faults);
        located.left_out += left_out;
        located
    }
}

fn fault_json(fault: &Fault) -> serde_json::Value {
    json!({
        "path": fault.path.to_string(),
        "line": fault.place.map(|place| place.line),
        "column": fault.place.map(|place| place.column),
        "found": fault.found,
        "problem": fault.problem,
        "help": fault.help,
    })
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for fault in &self.faults {
            write!(f, "{}", self.source)?;
            if let Some(Place { line, column }) = fault.place {
                write!(f, ":{line}:{column}")?;
            }
            if fault.path == Path::root() {
                writeln!(f, ": {}", fault.problem)?;
            } else {
                writeln!(f, " {}: {}", fault.path, fault.problem)?;
            }
            for (label, text) in [("found", &fault.found), ("help", &fault.help)] {
                if !text.is_empty() {
                    writeln!(f, "    {label:<6}{text}")?;
                }
            }
        }
        let count = self.faults.len() + self.left_out;
        match (count, self.left_out) {
            (1, _) => write!(f, "1 fault"),
            (_, 0) => write!(f, "{count} faults"),
            (_, left_out) => write!(f, "{count} faults, {left_out} of them not shown"),
        }
    }
}

impl std::error::Error for Faults {}

/// How long the sentences of a fault may be, in characters: some repeat what was written, whatever that is.
const MAX_SENTENCE: usize = 240;
/// How long a fault's help may be, in characters: it may list all known names.
const MAX_HELP: usize = 1200;

/// A value on one line, short enough to be shown, without control characters that could play with a terminal.
pub(crate) fn clip(text: &str) -> String {
    clean(text, MAX_SHOWN, false)
}

fn clean(text: &str, most: usize, lines: bool) -> String {
    let harmless = |c: char| {
        if c.is_control() && !(lines && c == '\n') {
            ' '
        } else {
            c
        }
    };
    let mut shown: String = text.chars().take(most).map(harmless).collect();
    if text.chars().nth(most).is_some() {
        shown.push('…');
    }
    shown
}

/// The known name nearest to what was written, if one is near enough to be meant.
pub(crate) fn nearest<'k>(written: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    const NEAR_ENOUGH: f64 = 0.78;
    // The measure is quadratic in length; nobody means a field by three hundred characters.
    if written.len() > 64 {
        return None;
    }
    let lower = written.to_lowercase();
    known
        .into_iter()
        .map(|name| (strsim::jaro_winkler(&lower, &name.to_lowercase()), name))
        .filter(|(score, _)| *score >= NEAR_ENOUGH)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name)
}

/// Help for a name that is not known: the nearest, then all.
pub(crate) fn did_you_mean(written: &str, known: &[&str]) -> String {
    let all = known.join(", ");
    match nearest(written, known.iter().copied()) {
        Some(name) if known.len() > 1 => format!("did you mean `{name}`? known here: {all}"),
        Some(name) => format!("did you mean `{name}`?"),
        None if known.is_empty() => "nothing can be written here; remove it".to_owned(),
        None => format!("known here: {all}"),
    }
}
