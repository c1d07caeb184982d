//! Small charts for a terminal: how the evidence grew against what is needed, and both sides' failed requests below it.
//!
//! Drawn from the record's [`Course`], which has up to 120 points; a column is a slice of time, and one in which nobody
//! looked shows what was known last. Height is told by block characters and by the numbers beside it, never by colour
//! alone.

use std::fmt::Write as _;

use jiff::SignedDuration;

use super::numbers::{clock, odds, percent};
use crate::judge::Course;
use crate::judge::course::Point;

/// Columns of a chart at most; with the scale on its left it fits into 80.
const COLUMNS: usize = 50;
/// Rows of the evidence up to what is needed; one more begins there, and another is for much more.
const ROWS: usize = 4;
/// The width of the scale.
const SCALE: usize = 12;
/// Parts of a cell, from empty to full.
const EIGHTHS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// Both charts, one above the other; empty before a verdict was told. `needed` is the evidence at which the canary
/// fails. `moment` names the time of a point; [`since_start`] does for a release.
pub fn chart(course: &Course, needed: f64, moment: impl Fn(f64) -> String) -> String {
    let (Some(first), Some(last)) = (course.points().first(), course.points().last()) else {
        return String::new();
    };
    let columns = slices(course.points());
    let mut out = String::new();
    evidence(&mut out, &columns, needed);
    let from = moment(first.t_s);
    // Down at the first look: there is one column and one time.
    let to = if columns.len() > 1 {
        moment(last.t_s)
    } else {
        String::new()
    };
    let gap = columns
        .len()
        .saturating_sub(from.chars().count() + to.chars().count())
        .max(1);
    let _ = writeln!(out, "{:SCALE$}└{}", "", "─".repeat(columns.len()));
    let _ = writeln!(out, "{}", format!("{:SCALE$} {from}{:gap$}{to}", "", "").trim_end());
    shares(&mut out, &columns);
    out
}

/// Seconds of a release as its timeline tells them.
pub fn since_start(t_s: f64) -> String {
    clock(SignedDuration::from_secs(t_s as i64))
}

/// Picks a side's share out of a column.
type Pick = fn(&Column) -> Option<f64>;

/// One column: what was known at its end, and what both sides did in it.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Column {
    evidence: f64,
    canary: Option<f64>,
    stable: Option<f64>,
}

/// As many columns as there is something to tell in, evenly spaced in time.
fn slices(points: &[Point]) -> Vec<Column> {
    let (first, last) = (points[0].t_s, points[points.len() - 1].t_s);
    let count = COLUMNS.min(points.len());
    let width = (last - first) / (count - 1).max(1) as f64;
    let mut next = 0;
    let mut known = points[0];
    let mut before = [[0.0; 2]; 2];
    (0..count)
        .map(|column| {
            // Half a slice around its moment: the first and the last point have columns of their own.
            let end = first + width * (column as f64 + 0.5);
            let begun = next;
            while next < points.len() && points[next].t_s <= end {
                known = points[next];
                next += 1;
            }
            let sums = [known.counts.canary, known.counts.stable];
            let share = |side: usize| {
                let total = sums[side][0] - before[side][0];
                (total > 0.0).then(|| ((sums[side][1] - before[side][1]) / total).clamp(0.0, 1.0))
            };
            let (canary, stable) = (share(0), share(1));
            if next > begun {
                before = sums;
            }
            Column {
                evidence: known.evidence,
                canary,
                stable,
            }
        })
        .collect()
}

fn evidence(out: &mut String, columns: &[Column], needed: f64) {
    let most = columns.iter().map(|column| column.evidence).fold(0.0, f64::max);
    let per_row = needed / ROWS as f64;
    let above = most > needed + per_row;
    let _ = writeln!(out, "evidence against the canary, {} fails it", odds(needed));
    for row in (0..=ROWS + usize::from(above)).rev() {
        let label = match row {
            row if row > ROWS => short(most),
            ROWS => short(needed),
            0 => short(0.0),
            _ => String::new(),
        };
        let cells: String = columns
            .iter()
            .map(|column| {
                let height = column.evidence.max(0.0) / per_row - row as f64;
                match (EIGHTHS[(height * 8.0).round().clamp(0.0, 8.0) as usize], row) {
                    (' ', ROWS) => '┄',
                    // What speaks for the canary is nothing against it, and still something that was seen.
                    (' ', 0) => '▁',
                    (cell, _) => cell,
                }
            })
            .collect();
        let _ = writeln!(out, "{label:>width$} │{}", cells.trim_end(), width = SCALE - 1);
    }
}

/// Odds as they fit beside a chart.
fn short(ln_e: f64) -> String {
    let words = odds(ln_e);
    if words.len() < SCALE {
        words
    } else {
        "> a million".to_owned()
    }
}

/// Both sides' share of failed requests, on one scale.
fn shares(out: &mut String, columns: &[Column]) {
    let sides: [(&str, Pick); 2] = [("canary", |column| column.canary), ("stable", |column| column.stable)];
    let seen = |pick: Pick| columns.iter().filter_map(pick).reduce(f64::max);
    let top = sides.iter().filter_map(|(_, pick)| seen(*pick)).fold(0.0, f64::max);
    if sides.iter().all(|(_, pick)| seen(*pick).is_none()) {
        return;
    }
    out.push_str("failed requests\n");
    for (name, pick) in sides {
        let Some(most) = seen(pick) else { continue };
        let cells: String = columns
            .iter()
            .map(|column| match pick(column) {
                None => ' ',
                Some(share) if share <= 0.0 || top <= 0.0 => '·',
                Some(share) => EIGHTHS[(share / top * 8.0).round().clamp(1.0, 8.0) as usize],
            })
            .collect();
        let _ = writeln!(
            out,
            "{name:>width$} │{}  at most {}",
            cells,
            percent(most),
            width = SCALE - 1
        );
    }
}
