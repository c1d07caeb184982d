//! What a report may quote: bounded, on one line, and without anything that could move a terminal's cursor.

use std::error::Error;
use std::fmt::Write as _;
use std::time::Duration;

use crate::redact::redact;

/// Characters of a body or of a command's last lines that a report shows.
pub(super) const EXCERPT: usize = 200;
/// Characters of a path, service or command that a report shows.
pub(super) const LABEL: usize = 80;

/// `text` without what looks like a secret, with control and direction-changing characters escaped, cut after `most`
/// characters of the original.
pub(super) fn quoted(text: &str, most: usize) -> String {
    let text = redact(text);
    let mut out = String::new();
    let mut chars = text.trim_end().chars();
    for c in chars.by_ref().take(most) {
        if c.is_control() || redirects(c) {
            let _ = write!(out, "{}", c.escape_default());
        } else {
            out.push(c);
        }
    }
    if chars.next().is_some() {
        out.push('…');
    }
    out
}

/// Characters that make what follows look like something else: zero-width ones and direction overrides.
fn redirects(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// A duration as a person would say it: `120 ms`, `2.4 s`, `90 s`.
pub(super) fn rounded(time: Duration) -> String {
    match time.as_millis() {
        0 => "under 1 ms".to_owned(),
        ms @ 1..1_000 => format!("{ms} ms"),
        ms => {
            let seconds = format!("{:.1}", ms as f64 / 1_000.0);
            format!("{} s", seconds.trim_end_matches(".0"))
        }
    }
}

/// The innermost cause: the layers above it only repeat that a request failed.
pub(super) fn root_cause(error: &dyn Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    quoted(&cause.to_string(), EXCERPT)
}
