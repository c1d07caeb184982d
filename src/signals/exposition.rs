//! Reads what a process exposes under `/metrics`: Prometheus classic text 0.0.4 and OpenMetrics 1.0.
//!
//! One tolerant reader serves both formats, since processes in the wild mix them: a line that makes no sense is
//! counted and skipped, as one broken label must not hide the rest. Three things are *not* tolerated, because they
//! would be mistaken for measurements: an answer in which nothing can be read (an HTML login page), one that was cut
//! off (a number without its last digits looks like a counter reset), and one beyond the limits.
//!
//! It does not keep exemplars, timestamps, help texts, units and `_created` series, and it does not decide what a
//! counter means; see [`families`](super::families) for that.

use std::collections::{BTreeMap, BTreeSet};

#[cfg(test)]
mod tests;

/// The longest answer that is read, in bytes.
pub const MAX_BYTES: usize = 4 << 20;
/// The most series that one answer may have.
pub const MAX_SERIES: usize = 10_000;

/// Label names and values, in the order of their names.
pub type Labels = BTreeMap<String, String>;

/// The two text formats; the difference is how an answer ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Prometheus text format 0.0.4: every line ends with a line feed.
    Classic,
    /// OpenMetrics text format 1.0: the last line is `# EOF`.
    OpenMetrics,
}

impl Format {
    /// The format that a `content-type` header names. Anything unknown is read as classic, which has no end mark.
    pub fn of_content_type(content_type: Option<&str>) -> Self {
        let essence = content_type
            .unwrap_or_default()
            .split(';')
            .next()
            .unwrap_or_default()
            .trim();
        if essence.eq_ignore_ascii_case("application/openmetrics-text") {
            Self::OpenMetrics
        } else {
            Self::Classic
        }
    }
}

/// What a `# TYPE` line said about a family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// Monotone.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Classic buckets.
    Histogram,
    /// Quantiles computed by the process; only its `_count` and `_sum` can be summed over pods.
    Summary,
    /// Not said.
    #[default]
    Untyped,
}

/// One value of one series.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    /// The sample's name, with its suffix (`_bucket`, `_count`, `_total`).
    pub name: String,
    /// The labels, without the name.
    pub labels: Labels,
    /// The family's kind.
    pub kind: Kind,
    /// The value; may be NaN or infinite, as exposed.
    pub value: f64,
}

impl Point {
    /// A label's value; empty where there is none, which means the same in Prometheus.
    pub fn label(&self, name: &str) -> &str {
        self.labels.get(name).map_or("", String::as_str)
    }
}

/// The identity of a series: its name and sorted labels, without `le` where the buckets of one histogram are meant.
pub fn series_id(name: &str, labels: &Labels, without: Option<&str>) -> String {
    let mut id = String::with_capacity(name.len() + 24 * labels.len() + 2);
    id.push_str(name);
    id.push('{');
    for (label, value) in labels.iter().filter(|(label, _)| Some(label.as_str()) != without) {
        id.push_str(label);
        id.push('=');
        // Debug quoting escapes the quote, so that no two label sets share an id.
        id.push_str(&format!("{value:?},"));
    }
    id.push('}');
    id
}

/// What was read from one answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Exposition {
    /// Every series once; of a series that is exposed twice, the last value.
    pub points: Vec<Point>,
    /// Lines that made no sense.
    pub skipped: usize,
}

/// Why an answer was not used at all.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExpositionError {
    /// More bytes than [`MAX_BYTES`].
    #[error("the answer has more than {} MiB, the limit; expose fewer series or drop labels with many values", MAX_BYTES >> 20)]
    TooLong,
    /// More series than [`MAX_SERIES`].
    #[error("the answer has more than {MAX_SERIES} series, the limit; expose fewer or drop labels with many values")]
    TooManySeries,
    /// OpenMetrics without its end mark.
    #[error("the answer ends without `# EOF`, so it was cut off and its last numbers cannot be trusted")]
    CutOff,
    /// Nothing in it is a metric.
    #[error("the answer is not metrics text (it begins with {beginning:?}); is this the metrics port and path?")]
    NotMetrics {
        /// The first characters.
        beginning: String,
    },
}

/// How much of a foreign answer is quoted in an error, in characters.
const QUOTED_CHARS: usize = 40;

/// Reads one answer.
///
/// # Errors
/// [`ExpositionError`] where nothing in the answer may be used. Never panics, whatever the bytes.
pub fn parse(body: &[u8], format: Format) -> Result<Exposition, ExpositionError> {
    if body.len() > MAX_BYTES {
        return Err(ExpositionError::TooLong);
    }
    let text = String::from_utf8_lossy(body);
    let mut reader = Reader::default();
    let mut ended = false;
    for line in text.split_inclusive('\n') {
        let whole = line.ends_with('\n');
        let line = line.trim();
        if line == "# EOF" {
            ended = true;
            break;
        }
        if line.is_empty() {
            continue;
        }
        // A classic answer's last line has no end mark but its line feed: without it, digits may be missing.
        if !whole && !line.starts_with('#') {
            reader.out.skipped += 1;
            continue;
        }
        reader.line(line)?;
    }
    if reader.out.points.is_empty() && reader.out.skipped > 0 {
        return Err(ExpositionError::NotMetrics {
            beginning: text.trim().chars().take(QUOTED_CHARS).collect(),
        });
    }
    if format == Format::OpenMetrics && !ended {
        return Err(ExpositionError::CutOff);
    }
    Ok(reader.finish())
}

#[derive(Default)]
struct Reader {
    kinds: BTreeMap<String, Kind>,
    out: Exposition,
}

impl Reader {
    fn line(&mut self, line: &str) -> Result<(), ExpositionError> {
        if let Some(comment) = line.strip_prefix('#') {
            self.comment(comment);
            return Ok(());
        }
        match sample(line) {
            None => self.out.skipped += 1,
            Some((name, ..)) if name.ends_with("_created") => {}
            Some((name, labels, value)) => {
                if self.out.points.len() == MAX_SERIES {
                    return Err(ExpositionError::TooManySeries);
                }
                self.out.points.push(Point {
                    name,
                    labels,
                    kind: Kind::Untyped,
                    value,
                });
            }
        }
        Ok(())
    }

    fn comment(&mut self, comment: &str) {
        let mut words = comment.split_whitespace();
        if words.next() != Some("TYPE") {
            return;
        }
        let (Some(family), Some(kind)) = (words.next(), words.next()) else {
            return;
        };
        let kind = match kind {
            "counter" => Kind::Counter,
            "gauge" => Kind::Gauge,
            "histogram" => Kind::Histogram,
            "summary" => Kind::Summary,
            _ => Kind::Untyped,
        };
        // A family that is announced twice keeps its first kind: the second is usually another registry's.
        self.kinds.entry(family.trim_matches('"').to_owned()).or_insert(kind);
    }

    /// Kinds are filled in at the end, as a family may be announced late; repeated series keep the last value.
    fn finish(mut self) -> Exposition {
        for point in &mut self.out.points {
            point.kind = kind_of(&self.kinds, &point.name);
        }
        let mut seen = BTreeSet::new();
        self.out.points.reverse();
        self.out
            .points
            .retain(|point| seen.insert(series_id(&point.name, &point.labels, None)));
        self.out.points.reverse();
        self.out
    }
}

fn kind_of(kinds: &BTreeMap<String, Kind>, name: &str) -> Kind {
    if let Some(kind) = kinds.get(name) {
        return *kind;
    }
    ["_total", "_bucket", "_count", "_sum"]
        .iter()
        .find_map(|suffix| kinds.get(name.strip_suffix(suffix)?))
        .copied()
        .unwrap_or_default()
}

/// `name{label="value",...} value [timestamp] [# exemplar]`, or with a quoted name inside the braces.
fn sample(line: &str) -> Option<(String, Labels, f64)> {
    let name_len = line.find(|c: char| c == '{' || c.is_whitespace())?;
    let mut name = line[..name_len].to_owned();
    let mut rest = line[name_len..].trim_start();
    let mut labels = Labels::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = label_set(inside, &mut name, &mut labels)?;
    }
    if !is_name(&name) {
        return None;
    }
    let mut words = rest.split_whitespace();
    let value = words.next()?.parse().ok()?;
    // The second word may only be a timestamp or the beginning of an exemplar.
    match words.next() {
        None | Some("#") => {}
        Some(word) if word.parse::<f64>().is_ok() => {}
        Some(_) => return None,
    }
    Some((name, labels, value))
}

/// Names may be any UTF-8 when quoted; spaces and control characters only ever come from something else (HTML).
fn is_name(name: &str) -> bool {
    let mut chars = name.chars();
    chars.next().is_some_and(|c| c.is_alphabetic() || c == '_' || c == ':')
        && chars.all(|c| c.is_alphanumeric() || "_:.-/".contains(c))
}

/// Reads labels up to the closing brace and returns what follows it.
fn label_set<'a>(mut rest: &'a str, name: &mut String, labels: &mut Labels) -> Option<&'a str> {
    loop {
        rest = rest.trim_start();
        if let Some(after) = rest.strip_prefix('}') {
            return Some(after);
        }
        let label = if let Some(quoted_part) = rest.strip_prefix('"') {
            let (label, after) = quoted(quoted_part)?;
            rest = after.trim_start();
            label
        } else {
            let end = rest.find(['=', '}', ',', '"'])?;
            let label = rest[..end].trim().to_owned();
            rest = &rest[end..];
            label
        };
        if let Some(after) = rest.strip_prefix('=') {
            let (value, after) = quoted(after.trim_start().strip_prefix('"')?)?;
            // An empty label is no label in Prometheus; keeping it would make two ids of one series.
            if !value.is_empty() {
                labels.insert(label, value);
            }
            rest = after.trim_start();
        } else if name.is_empty() {
            *name = label;
        } else {
            return None;
        }
        match rest.strip_prefix(',') {
            Some(after) => rest = after,
            None if rest.starts_with('}') => {}
            None => return None,
        }
    }
}

/// Reads a quoted string whose opening quote is already gone; returns it unescaped and what follows.
fn quoted(rest: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = rest.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &rest[at + 1..])),
            '\\' => match chars.next()?.1 {
                'n' => value.push('\n'),
                escaped @ ('"' | '\\') => value.push(escaped),
                // Unknown escapes are kept as they are, as Prometheus does.
                other => value.extend(['\\', other]),
            },
            c => value.push(c),
        }
    }
    None
}
