//! Turns counters into increments, one series at a time.
//!
//! The idea: a sum over pods goes down when a pod leaves, and nobody can tell that from a reset, so the difference is
//! taken per series before anything is added up (METHOD.md 3, "counter resets"). The rules, in the order in which
//! they matter:
//!
//! * **Evidence never comes out of nothing.** What a counter showed when Wade first looked is a baseline. Whatever is
//!   unclear (a pod that was forgotten, bucket bounds that changed) is a baseline too: losing a few counts delays a
//!   verdict, inventing them causes a wrong one.
//! * A series that appears *later on a target whose previous scrape lacked it* starts from 0: the first error of a
//!   release usually creates its series, and a baseline would hide it.
//! * A value that went down is a reset and counts from 0. A histogram is reset as a whole if any bucket went down.
//! * A sample that is not newer than the last one of its target is no news.
//!
//! It does not know what a series means; [`families`](super::families) does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

#[cfg(test)]
mod tests;

/// A target that was not seen for this long is forgotten (only its name is kept).
pub const FORGET_AFTER: SignedDuration = SignedDuration::from_mins(30);
/// The most series that are followed at once; those beyond contribute nothing.
pub const MAX_FOLLOWED: usize = 100_000;
/// The most names of forgotten targets that are kept; beyond that, every unknown target is a baseline.
pub const MAX_FORGOTTEN: usize = 10_000;
/// Start times differ by this much between scrapes because of rounding, not because of a restart, in seconds.
const START_JITTER_SECS: f64 = 1.0;

/// A monotone value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A counter.
    Count(f64),
    /// A histogram: `cumulative[i]` events were at most `le[i]`; the last entry (one more than `le`) is all of them.
    Buckets {
        /// Upper bounds, ascending, without +Inf.
        le: Arc<[f64]>,
        /// Events up to each bound.
        cumulative: Vec<f64>,
    },
}

impl Value {
    /// All events.
    pub fn total(&self) -> f64 {
        match self {
            Self::Count(count) => *count,
            Self::Buckets { cumulative, .. } => cumulative.last().copied().unwrap_or_default(),
        }
    }

    /// Only finite values that are not negative can be counters.
    fn is_countable(&self) -> bool {
        let countable = |v: &f64| v.is_finite() && *v >= 0.0;
        match self {
            Self::Count(count) => countable(count),
            Self::Buckets { le, cumulative } => cumulative.len() == le.len() + 1 && cumulative.iter().all(countable),
        }
    }

    /// What was added since `before`; `None` if it went down, `Some(None)` if the two cannot be compared.
    fn since(&self, before: &Self) -> Option<Option<Self>> {
        match (self, before) {
            (Self::Count(now), Self::Count(then)) => (now >= then).then(|| Some(Self::Count(now - then))),
            (
                Self::Buckets { le, cumulative: now },
                Self::Buckets {
                    le: le_then,
                    cumulative: then,
                },
            ) => {
                if le != le_then {
                    return Some(None);
                }
                let added: Vec<f64> = now.iter().zip(then).map(|(now, then)| now - then).collect();
                added.iter().all(|v| *v >= 0.0).then(|| {
                    Some(Self::Buckets {
                        le: le.clone(),
                        cumulative: added,
                    })
                })
            }
            _ => Some(None),
        }
    }
}

/// What a value that went down means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetRule {
    /// One process: it restarted, and what it shows now was counted since.
    FromZero,
    /// A sum over pods: a pod left or restarted, and what was added meanwhile is unknown, so the interval is dropped.
    /// A later jump by at least the loss is the pod coming back, and is dropped too.
    Drop,
}

/// One scrape of one target: everything that was read at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Scrape<S> {
    /// What was scraped: a process, not only a pod, as a pod may have several ports that are scraped at their own times.
    pub target: String,
    /// When, in the source's clock.
    pub at: Timestamp,
    /// When the process started, where known: decides whether an unknown target is new, and shows restarts.
    pub started: Option<Timestamp>,
    /// Series and their values. A repeated series is counted once (the last).
    pub readings: Vec<Reading<S>>,
}

/// One series' value, and what the caller wants to remember about it.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading<S> {
    /// The identity of the series within its target.
    pub series: String,
    /// Its meaning; handed back with the increment.
    pub meaning: S,
    /// What it shows.
    pub value: Value,
    /// What it means when it goes down.
    pub reset: ResetRule,
}

/// The last values of all series, by target.
#[derive(Clone, Debug)]
pub struct SeriesState {
    began: Timestamp,
    established: bool,
    followed: usize,
    targets: BTreeMap<String, Target>,
    forgotten: BTreeSet<String>,
}

#[derive(Clone, Debug)]
struct Target {
    at: Timestamp,
    started: Option<Timestamp>,
    /// Not every series of it could be followed, so a series that appears may be an old one.
    incomplete: bool,
    series: BTreeMap<String, Last>,
}

#[derive(Clone, Debug)]
struct Last {
    value: Value,
    /// What the last drop of a sum lost; a jump by that much is the same pod returning.
    lost: f64,
}

impl SeriesState {
    /// Nothing seen yet. `began` is when Wade began to look, in the source's clock: a process started later is new.
    pub fn new(began: Timestamp) -> Self {
        Self {
            began,
            established: false,
            followed: 0,
            targets: BTreeMap::new(),
            forgotten: BTreeSet::new(),
        }
    }

    /// Ends the time in which every unknown target is taken for an old one. Call it after the first complete round.
    pub fn establish(&mut self) {
        self.established = true;
    }

    /// Says that this target existed when Wade began, although it could not be read: its first sample is a baseline.
    pub fn existed(&mut self, target: &str) {
        if !self.targets.contains_key(target) && self.forgotten.len() < MAX_FORGOTTEN {
            self.forgotten.insert(target.to_owned());
        }
    }

    /// The last sample of a target.
    pub fn last_of(&self, target: &str) -> Option<Timestamp> {
        self.targets.get(target).map(|target| target.at)
    }

    /// Whether a first complete round was seen.
    pub fn is_established(&self) -> bool {
        self.established
    }

    /// Takes one scrape and returns what was added per series; series to which nothing was added are left out.
    pub fn observe<S>(&mut self, scrape: Scrape<S>) -> Vec<(S, Value)> {
        let Scrape {
            target: name,
            at,
            started,
            readings,
        } = scrape;
        let born_later = match started {
            Some(started) => started > self.began,
            None => self.established && self.forgotten.len() < MAX_FORGOTTEN,
        };
        let unknown_counts = born_later && !self.forgotten.contains(&name);
        let known = self.targets.contains_key(&name);
        let target = self.targets.entry(name).or_insert_with(|| Target {
            at,
            started,
            incomplete: false,
            series: BTreeMap::new(),
        });
        if known && at <= target.at {
            return Vec::new();
        }
        if target.restarted(started) {
            // Every old value is of a process that is gone; without them, all series start from 0.
            self.followed -= target.series.len();
            target.series.clear();
            target.incomplete = false;
        }
        target.at = at;
        target.started = started.or(target.started);
        let from_zero = if known { !target.incomplete } else { unknown_counts };

        let mut unique = BTreeMap::new();
        for reading in readings.into_iter().filter(|reading| reading.value.is_countable()) {
            unique.insert(reading.series.clone(), reading);
        }
        let mut added = Vec::new();
        for (
            series,
            Reading {
                meaning, value, reset, ..
            },
        ) in unique
        {
            let increment = match target.series.get_mut(&series) {
                Some(last) => last.step(value, reset),
                None if self.followed >= MAX_FOLLOWED => {
                    target.incomplete = true;
                    None
                }
                None => {
                    self.followed += 1;
                    target.series.insert(
                        series,
                        Last {
                            value: value.clone(),
                            lost: 0.0,
                        },
                    );
                    from_zero.then_some(value)
                }
            };
            added.extend(
                increment
                    .filter(|value| value.total() > 0.0)
                    .map(|value| (meaning, value)),
            );
        }
        added
    }

    /// Forgets targets that were not seen for [`FORGET_AFTER`]. Should one return, it is a baseline.
    pub fn forget_gone(&mut self) {
        let Some(newest) = self.targets.values().map(|target| target.at).max() else {
            return;
        };
        let Self {
            targets,
            forgotten,
            followed,
            ..
        } = self;
        targets.retain(|name, target| {
            let keep = newest.duration_since(target.at) < FORGET_AFTER;
            if !keep {
                *followed -= target.series.len();
                if forgotten.len() < MAX_FORGOTTEN {
                    forgotten.insert(name.clone());
                }
            }
            keep
        });
    }

    /// How many series are followed.
    pub fn followed(&self) -> usize {
        self.followed
    }
}

impl Target {
    fn restarted(&self, started: Option<Timestamp>) -> bool {
        match (self.started, started) {
            (Some(before), Some(now)) => now.duration_since(before).as_secs_f64() > START_JITTER_SECS,
            _ => false,
        }
    }
}

impl Last {
    fn step(&mut self, now: Value, reset: ResetRule) -> Option<Value> {
        let before = std::mem::replace(&mut self.value, now.clone());
        match (now.since(&before), reset) {
            (Some(added), ResetRule::FromZero) => added,
            (None, ResetRule::FromZero) => Some(now),
            (None, ResetRule::Drop) => {
                // A bucket may have gone down while the total did not.
                self.lost += (before.total() - now.total()).max(0.0);
                None
            }
            (Some(added), ResetRule::Drop) => {
                let added = added?;
                if self.lost > 0.0 && added.total() >= self.lost {
                    self.lost = 0.0;
                    return None;
                }
                Some(added)
            }
        }
    }
}
