//! What was seen of both revisions between two looks: the judge's only input besides time.
//!
//! Everything here is an *increment*: events since the previous observation, already differenced per series
//! (counter resets are the signals' business, see `signals`). A side that could not be measured is `None`;
//! a side that was measured and did nothing is `Some` with zeros. The two are never the same thing.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The name of a metric as the analysis lists it (`errors`, `latency`, or the user's own).
pub type MetricName = String;

/// Two counts of the same requests that cannot both be right.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CountsDiffer {
    /// They are the canary's requests, and not stable's.
    pub of_canary: bool,
    /// What the router counted.
    pub router: f64,
    /// What the pods counted.
    pub pods: f64,
    /// Over how many seconds.
    pub over_s: f64,
}

/// The name of the metric that traces are.
pub const TRACES: &str = "traces";

/// One value for the canary and one for stable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Sides<T> {
    /// The new revision.
    pub canary: T,
    /// The revision that serves now.
    pub stable: T,
}

/// What one side did since the previous observation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Increment {
    /// Requests (or any trials) and how many of them were bad.
    Counts {
        /// How many there were.
        total: f64,
        /// How many of them were bad (errors).
        bad: f64,
    },
    /// A latency histogram: `counts[i]` requests took at most `le[i]` seconds and more than `le[i - 1]`;
    /// the last entry of `counts` (one longer than `le`) holds those above every bound.
    Histogram {
        /// Upper bounds in seconds, ascending, without +Inf.
        le: Arc<[f64]>,
        /// Requests per bucket, not cumulative over `le`.
        counts: Vec<f64>,
    },
    /// The present value of a gauge (already one number per side).
    Value(f64),
    /// Requests per operation, as traces tell them.
    Operations(Operations),
}

/// What one side's traces tell: per operation requests, errors, latency, and the errors by what they say.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Operations {
    /// Upper bounds of the latency histograms in seconds, ascending, without +Inf.
    pub le: Arc<[f64]>,
    /// By the operation's name (`POST /pay`).
    pub by_name: BTreeMap<String, OperationCounts>,
}

/// One operation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OperationCounts {
    /// How many requests there were.
    pub requests: f64,
    /// How many of them failed.
    pub errors: f64,
    /// Requests per latency bucket, not cumulative; one more than `le`. Empty if not known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub latency: Vec<f64>,
    /// The errors by what they say.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub signatures: Vec<SignatureCounts>,
}

/// Errors of one operation that say the same.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SignatureCounts {
    /// The exception's type, or the status.
    pub kind: String,
    /// The message, without what changes from one error to the next.
    pub message: String,
    /// How many there were.
    pub count: f64,
    /// Stable has shown it before: it is not new.
    #[serde(default)]
    pub seen_on_stable: bool,
    /// Some traces that show it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub examples: Vec<String>,
}

/// One observation: for each metric, what both sides did since the one before.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Observation {
    /// Per metric of the analysis. A metric that is missing here was not measured on either side.
    pub metrics: BTreeMap<MetricName, Sides<Option<Increment>>>,
}
