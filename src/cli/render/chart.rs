//! A small chart for a terminal: how many of both sides' requests failed, at each verdict of the record.
//!
//! Bars and not a curve: a record holds the few verdicts that decided something, and a line between them would show
//! what nobody measured.

use std::fmt::Write as _;

use jiff::SignedDuration;

use super::numbers::{clock, percent};
use crate::judge::verdict::Seen;
use crate::store::ReleaseRecord;

/// Cells of the longest bar.
const WIDTH: usize = 40;
/// Points shown; more than this and the first ones are left out, because the end is what is asked about.
const MOST: usize = 12;

/// One verdict of the record.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Since the release began.
    pub at: SignedDuration,
    /// Share of the canary's requests that failed in the stage, 0 to 1.
    pub canary: f64,
    /// The same for stable; `None` where it had no requests (in the bake).
    pub stable: Option<f64>,
}

/// The error rates that the record's verdicts rest on, oldest first.
pub fn points(record: &ReleaseRecord) -> Vec<Point> {
    let rates = |entry: &crate::engine::Entry| {
        let verdict = entry.verdict.as_ref()?;
        verdict.metrics.iter().find_map(|metric| match &metric.seen {
            Seen::Errors { release, stage, .. } => {
                let sides = if stage.canary.total > 0.0 { stage } else { release };
                let at = entry.at.duration_since(record.created);
                Some(Point {
                    at,
                    canary: sides.canary.rate?,
                    stable: sides.stable.rate,
                })
            }
            Seen::Objective { .. } | Seen::Latency { .. } | Seen::Gauge { .. } | Seen::Operations { .. } => None,
        })
    };
    record.history.iter().filter_map(rates).collect()
}

/// The chart, one pair of bars per point; empty without points.
pub fn bars(points: &[Point]) -> String {
    let shown = &points[points.len().saturating_sub(MOST)..];
    let top = shown
        .iter()
        .flat_map(|point| [Some(point.canary), point.stable])
        .flatten()
        .fold(0.0, f64::max);
    let mut out = String::new();
    for point in shown {
        let _ = writeln!(out, "{:>5}  canary  {}", clock(point.at), bar(point.canary, top));
        if let Some(stable) = point.stable {
            let _ = writeln!(out, "       stable  {}", bar(stable, top));
        }
    }
    out
}

/// A bar in eighths of a cell; whatever is not zero shows.
fn bar(share: f64, top: f64) -> String {
    const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let eighths = if top > 0.0 {
        (share / top * (WIDTH * 8) as f64).round() as usize
    } else {
        0
    };
    let eighths = if share > 0.0 { eighths.max(1) } else { eighths };
    format!("{}{} {}", "█".repeat(eighths / 8), EIGHTHS[eighths % 8], percent(share))
        .trim_start()
        .to_owned()
}
