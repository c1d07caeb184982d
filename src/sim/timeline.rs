//! A run as an operator would read it: when, at which weight, what, and why.
//!
//! What Wade says stands as it stands on every other surface; what happens *to* it (a fault, a person, a death) is set
//! off by a dot, because in production nobody would be told. In the column of weights `+20%` means that a header or
//! cookie is matched besides, `~20%` that the canary gets copies only.

use std::collections::BTreeSet;
use std::fmt;

use jiff::{SignedDuration, Timestamp};

use super::run::Run;
use super::seen::Seen;
use crate::engine::{Entry, Event, Outcome};
use crate::plan::{ALL_STABLE, Lane, Split};

/// A release, told.
#[derive(Clone, Debug, PartialEq)]
pub struct Timeline {
    /// What is released and how.
    pub title: String,
    /// What happened, in order.
    pub lines: Vec<Line>,
    /// How it ended; `None` if it had not ended when the simulation was given up.
    pub outcome: Option<Outcome>,
    /// The sentence of the end.
    pub end: String,
    /// When it ended, from the beginning.
    pub took: SignedDuration,
}

/// One line of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// When, from the beginning.
    pub at: SignedDuration,
    /// The split in force.
    pub split: Split,
    /// Who speaks.
    pub voice: Voice,
    /// What, and why.
    pub text: String,
}

/// Who speaks in a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Voice {
    /// Wade, as on every surface.
    Wade,
    /// The simulation: something happened that Wade is not told.
    World,
}

/// Tells a run.
pub fn timeline(run: &Run) -> Timeline {
    let start = run.case.start;
    let mut split = ALL_STABLE;
    let mut lines: Vec<Line> = Vec::new();
    // Said once until something could be recorded again.
    let mut trouble = BTreeSet::new();
    let mut began = false;
    let mut splits: Vec<(Timestamp, Split)> = Vec::new();
    for moment in &run.moments {
        let mut line = |voice: Voice, text: String, split: &Split| {
            lines.push(Line {
                at: moment.at.duration_since(start),
                split: split.clone(),
                voice,
                text,
            });
        };
        match &moment.seen {
            Seen::World(truth) => {
                split = truth.split.clone();
                splits.push((moment.at, split.clone()));
            }
            Seen::Recorded { update, .. } => {
                trouble.clear();
                for entry in update.entries.iter().filter(|entry| tells(entry)) {
                    // A retreat is done before it can be recorded; it is told where it was done.
                    let before = splits
                        .iter()
                        .rev()
                        .find(|(at, _)| *at < entry.at)
                        .map_or(&ALL_STABLE, |(_, split)| split);
                    lines.push(Line {
                        at: entry.at.duration_since(start),
                        split: before.clone(),
                        voice: Voice::Wade,
                        text: entry.reason.clone(),
                    });
                }
            }
            Seen::Asked(command) => {
                line(
                    Voice::World,
                    format!("{} asks: {}", command.by.user, command.kind),
                    &split,
                );
            }
            Seen::FaultBegan(fault) => line(Voice::World, format!("{fault:?} begins"), &split),
            Seen::FaultEnded(fault) => line(Voice::World, format!("{fault:?} ends"), &split),
            Seen::Died { .. } => line(Voice::World, "the controller is killed".to_owned(), &split),
            Seen::Started { .. } if std::mem::replace(&mut began, true) => {
                line(
                    Voice::World,
                    "another controller starts and reads the record".to_owned(),
                    &split,
                );
            }
            Seen::Trouble { message, .. } if trouble.insert(message.clone()) => {
                line(Voice::Wade, format!("trouble: {message}"), &split);
            }
            Seen::Waits { what, .. } => line(Voice::Wade, what.clone(), &split),
            _ => {}
        }
    }
    lines.sort_by_key(|line| line.at);
    let last = run.record.history.last();
    let why = run.record.history.iter().rev().find_map(|entry| match &entry.event {
        Event::Retreated { reason, .. } => Some(reason.clone()),
        _ => None,
    });
    let outcome = run.record.state.outcome().cloned();
    Timeline {
        title: title(run),
        lines,
        end: match &outcome {
            None => "not over when the simulation was given up".to_owned(),
            Some(Outcome::Promoted { proven: true }) => {
                "proven: every judged stage ended with a passing verdict".to_owned()
            }
            Some(Outcome::Promoted { proven: false }) => "unproven".to_owned(),
            Some(Outcome::FirstDeploy) => format!("{} serves", run.record.canary.version),
            Some(_) => why.unwrap_or_else(|| "back on stable".to_owned()),
        },
        outcome,
        took: end_of(run, last).duration_since(start),
    }
}

fn title(run: &Run) -> String {
    let plan = &run.case.plan;
    let weights: Vec<String> = plan.stages.iter().map(|stage| stage.split.to_string()).collect();
    let versions = match &run.record.stable {
        Some(stable) => format!("{} → {}", stable.version, run.record.canary.version),
        None => run.record.canary.version.clone(),
    };
    let lane = match &plan.lane {
        Lane::Normal => String::new(),
        Lane::FirstDeploy => ", first deploy".to_owned(),
        Lane::Rollback => ", fast lane back".to_owned(),
        Lane::Emergency { reason } => format!(", EMERGENCY ({reason})"),
    };
    format!(
        "{} {versions} by {}{lane}: {}   simulated: {} requests/s, {} instances, seed {}",
        plan.rollout,
        plan.strategy,
        weights.join(" → "),
        run.case.rps,
        run.case.full,
        run.case.seed
    )
}

/// Whether an entry is worth a line: the way back has four steps of which the router's word and the end matter.
fn tells(entry: &Entry) -> bool {
    !matches!(
        entry.event,
        Event::CanaryDrained | Event::CanaryRemoved | Event::StableDrained
    )
}

fn end_of(run: &Run, last: Option<&Entry>) -> Timestamp {
    match (run.record.state.outcome(), last) {
        (Some(_), Some(entry)) => entry.at,
        _ => run.moments.last().map_or(run.case.start, |moment| moment.at),
    }
}

impl fmt::Display for Timeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.title)?;
        for line in &self.lines {
            let (mark, split) = match line.voice {
                Voice::Wade => (' ', short(&line.split)),
                Voice::World => ('·', String::new()),
            };
            writeln!(f, "{}  {split:>5} {mark} {}", clock(line.at), line.text)?;
        }
        let label = self
            .outcome
            .as_ref()
            .map_or("UNFINISHED".to_owned(), |outcome| in_capitals(outcome.label()));
        writeln!(f, "{}  {label}  {}", clock(self.took), self.end)
    }
}

/// A split in a narrow column: the weight, marked where it is not the whole story.
fn short(split: &Split) -> String {
    match &split.matching {
        Some(_) => format!("+{}", split.weight),
        None if !split.mirror.is_zero() => format!("~{}", split.mirror),
        None => split.weight.to_string(),
    }
}

/// `RolledBack` as a headline: `ROLLED BACK`.
fn in_capitals(label: &str) -> String {
    let mut text = String::new();
    for (index, letter) in label.char_indices() {
        if index > 0 && letter.is_uppercase() {
            text.push(' ');
        }
        text.extend(letter.to_uppercase());
    }
    text
}

/// Minutes and seconds, with hours where there are some.
fn clock(since: SignedDuration) -> String {
    let secs = since.as_secs();
    let (hours, minutes, secs) = (secs / 3600, secs / 60 % 60, secs % 60);
    if hours > 0 {
        format!("{hours}:{minutes:02}:{secs:02}")
    } else {
        format!("{minutes:02}:{secs:02}")
    }
}
