//! Where the judge gets its observations: counters of both revisions, differenced per series, summed per side.
//!
//! The idea: facts, not averages. Whatever the source (pods' own `/metrics`, Prometheus, the router in front), Wade
//! reads monotone *counters per pod*, takes the differences itself where resets can still be seen ([`series`]), and
//! hands the judge increments. A source runs in the background and [`Signals::take`] only drains what it gathered, so
//! an abort never waits for a metrics server.
//!
//! What this deliberately does not do: judge. A source that cannot be measured is a [`Condition`] and a
//! [`NoMeasurement`] in words, never a zero, never health and never a failure; how long which condition may last is
//! the engine's business.
//!
//! Reading order: [`exposition`] (text to points), [`families`] (points to requests, errors, latency), [`series`]
//! (counters to increments), [`tally`] (increments to one sample), [`presence`] (who is silent), then the sources:
//! [`scrape`], [`prometheus`], [`router`], [`mod@source`] (from a rollout's words), and [`merge`] to use two at once.

pub mod agreement;
pub mod exposition;
pub mod families;
pub mod http;
pub mod merge;
pub mod presence;
pub mod prometheus;
pub mod router;
pub mod scrape;
pub mod series;
pub mod source;
pub mod tally;
pub mod traces;

#[cfg(test)]
pub(crate) mod testing;

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::judge::History;
use crate::judge::observation::{CountsDiffer, MetricName, Observation, Sides};

/// The metric name under which requests and errors are reported.
pub const ERRORS: &str = "errors";
/// The metric name under which the latency histogram is reported.
pub const LATENCY: &str = "latency";

/// What the controller asks for measurements.
///
/// # Promises
/// `take` returns at once: it never waits for a network. Each increment is handed out exactly once. Dropping the
/// source ends its background work.
pub trait Signals: Send {
    /// What was gathered since the last call. `now` is used for silence and staleness only.
    fn take(&mut self, now: Timestamp) -> Sample;

    /// Tells the source since when the canary should be receiving traffic (`None`: it should not). Without it a
    /// canary without traffic is never called silent.
    fn expect_canary_traffic(&mut self, since: Option<Timestamp>) {
        let _ = since;
    }

    /// How stable's own pods behaved before the release, where the source knows; it has been asked for in the
    /// background and may come a little after the start.
    fn history(&self) -> Option<History> {
        None
    }
}

impl<S: Signals + ?Sized> Signals for Box<S> {
    fn take(&mut self, now: Timestamp) -> Sample {
        (**self).take(now)
    }

    fn expect_canary_traffic(&mut self, since: Option<Timestamp>) {
        (**self).expect_canary_traffic(since);
    }

    fn history(&self) -> Option<History> {
        (**self).history()
    }
}

/// One of the two revisions that are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Side {
    /// The new revision.
    Canary,
    /// The revision that serves now.
    Stable,
}

impl Side {
    /// Both, in the order in which they are reported.
    pub const BOTH: [Self; 2] = [Self::Canary, Self::Stable];

    /// The word used everywhere for this side.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Canary => "canary",
            Self::Stable => "stable",
        }
    }

    /// This side's entry.
    pub fn of<T>(self, sides: &Sides<T>) -> &T {
        match self {
            Self::Canary => &sides.canary,
            Self::Stable => &sides.stable,
        }
    }

    /// This side's entry, to be changed.
    pub fn of_mut<T>(self, sides: &mut Sides<T>) -> &mut T {
        match self {
            Self::Canary => &mut sides.canary,
            Self::Stable => &mut sides.stable,
        }
    }
}

impl std::fmt::Display for Side {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Everything a source knows that it had not said before.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Increments since the last call. Empty when nothing new was measured.
    pub observation: Observation,
    /// Whether measuring works and who is silent, as of now.
    pub condition: Condition,
    /// The newest sample timestamp seen so far, in the source's own clock.
    pub newest: Option<Timestamp>,
    /// Requests per second lately; `None` until two samples of that side were seen.
    pub rates: Sides<Option<f64>>,
    /// Requests and errors per pod, already contained in `observation`; for the history of stable.
    pub pods: Vec<PodIncrement>,
    /// What could not be measured and why; each is a sentence for the release's timeline.
    pub notes: Vec<NoMeasurement>,
    /// Router and pods have counted the same requests and do not agree.
    pub doubt: Option<CountsDiffer>,
    /// What the numbers are read from (`http_requests_total`), for the `found` line. Sorted, without repetition.
    pub found: Vec<String>,
    /// The same per metric, with where it was read (`http_requests_total on the pods' own page`), for verdicts.
    pub sources: BTreeMap<MetricName, String>,
}

impl Sample {
    /// A sample without any measurement.
    pub fn empty(condition: Condition) -> Self {
        Self {
            observation: Observation::default(),
            condition,
            newest: None,
            rates: Sides::default(),
            pods: Vec::new(),
            notes: Vec::new(),
            doubt: None,
            found: Vec::new(),
            sources: BTreeMap::new(),
        }
    }
}

/// Whether measuring works, and which side is silent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "condition")]
pub enum Condition {
    /// At least one side has traffic and nothing that should be measured is missing.
    Measured,
    /// Stable cannot be measured, so nothing can be compared.
    SourceDown {
        /// What was tried, what came back, what to do.
        reason: String,
    },
    /// Stable has traffic, and the canary, which should have some, has none or cannot be reached.
    CanarySilent,
    /// Neither side has traffic.
    BothSilent,
    /// There is nothing to measure by.
    Unmeasured {
        /// Why, and what would change it.
        reason: String,
    },
}

/// What one pod did since the last call.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodIncrement {
    /// The pod's (or process instance's) name.
    pub pod: String,
    /// The side it belongs to.
    pub side: Side,
    /// Requests it answered.
    pub requests: f64,
    /// How many of them were errors.
    pub errors: f64,
}

/// A measurement that did not happen, and why, in words. Never a verdict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NoMeasurement {
    /// What kind of failure it was; stable, for programs and metrics.
    pub kind: NoMeasurementKind,
    /// One sentence: the object, what was tried, what to do instead.
    pub reason: String,
}

impl NoMeasurement {
    /// A failure of `kind`, explained by `reason`.
    pub fn new(kind: NoMeasurementKind, reason: impl Into<String>) -> Self {
        Self {
            kind,
            reason: reason.into(),
        }
    }
}

impl std::fmt::Display for NoMeasurement {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for NoMeasurement {}

/// The ways in which measuring fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum NoMeasurementKind {
    /// No connection, or it broke.
    Unreachable,
    /// No complete answer in time.
    Slow,
    /// The credentials were refused (401, 403).
    Denied,
    /// A redirect, which is never followed.
    Redirected,
    /// Another status that is not success.
    Refused,
    /// The answer was longer, or had more series, than the limit.
    TooLarge,
    /// The answer could not be understood.
    Garbled,
    /// The answer was fine and had nothing in it.
    Empty,
    /// The value was not a number (NaN) or not finite.
    NotANumber,
    /// The source said that its answer is incomplete or doubtful.
    Partial,
    /// The source answers, but its newest sample is old.
    Stale,
    /// The two sides cannot be compared (different histogram bounds, a ratio of several series, ...).
    Unusable,
}

/// How patient a source is before it calls something silent or down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// A side without requests for this long is silent. At least 2.5 sample intervals are always waited.
    pub silent_after: Duration,
    /// A source without new samples for this long is down. At least 2.5 sample intervals are always waited.
    pub down_after: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            silent_after: Duration::from_secs(15),
            down_after: Duration::from_secs(15),
        }
    }
}
