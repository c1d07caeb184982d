//! What the judge answers: the call, the evidence behind it and one sentence for a person.

use serde::{Deserialize, Serialize};

use super::interval::Interval;
use super::observation::{MetricName, Sides};

/// The answer to one look.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Verdict {
    /// What is known now.
    pub call: Call,
    /// Half of the evidence (in logarithms) for a fail is there: the weight must not be raised.
    pub suspicious: bool,
    /// The fail came from a tripwire, the plain rule without a false-alarm bound.
    pub tripped: bool,
    /// ln E over all metrics: how strongly the release speaks against the canary.
    pub evidence: f64,
    /// ln(1/alpha): the evidence at which the canary fails.
    pub needed: f64,
    /// The metric that says most against the canary, when it fails or is suspicious.
    pub blame: Option<MetricName>,
    /// One sentence with the numbers, for every surface.
    pub reason: String,
    /// What each metric saw, in the order of the configuration.
    pub metrics: Vec<MetricEvidence>,
}

/// Pass, fail or not known yet. A missing measurement is never a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Call {
    /// The canary is shown to be within the pass tolerance at this stage.
    Pass,
    /// The canary is worse than what is allowed. Final for the release.
    Fail,
    /// Neither is known yet. Never to be reported as healthy.
    Undecided,
}

/// What one metric saw.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MetricEvidence {
    /// The metric's name in the configuration.
    pub name: MetricName,
    /// ln E of this metric alone, over the release.
    pub ln_e: f64,
    /// The same as odds, E to 1; at most a million million, which is as good as any more.
    #[serde(default)]
    pub odds: f64,
    /// ln P of this metric in this stage: evidence that it is within the pass tolerance; `None` while it cannot have
    /// any (latency before its thresholds are pinned, everything while baking).
    pub pass_ln_p: Option<f64>,
    /// The design effect by which evidence is divided: 1 means independent errors, more means bursts. 1 where none is
    /// estimated; for latency the largest of its thresholds.
    pub phi: f64,
    /// The canary's figure over stable's (or over the objective) in the release, where both are known and not zero:
    /// shares of bad events, the last values of a gauge, for latency the 99th percentile.
    pub ratio: Option<f64>,
    /// Where the true ratio of both sides' shares of bad events lies (against the objective or the bake's limit: of the
    /// canary's to that), at this and every other look. `None` where there are no counts: a gauge has none, and latency has
    /// one per threshold.
    #[serde(default)]
    pub interval: Option<Interval>,
    /// The smallest rise that would have been found with 99 % by now, as a multiple of stable's share (of the
    /// objective), METHOD.md section 5. `None`: none could, or the metric is not a count; latency has one per threshold.
    pub smallest_ratio: Option<f64>,
    /// Increments that were not used because they made no sense (not finite, negative, other buckets, other kind).
    pub dropped: u64,
    /// What the numbers are read from: a metric family on the pods, a query, the router's own counters. Told by the
    /// measuring side; `None` where that has not been said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Ids of traces that show what went wrong, where the metric comes from traces.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub examples: Vec<String>,
    /// The figures themselves.
    pub seen: Seen,
}

/// The figures of a metric; the variant names its kind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", tag = "kind")]
pub enum Seen {
    /// Bad events of both sides.
    Errors {
        /// Since the release began.
        release: Sides<Counts>,
        /// Since the stage began.
        stage: Sides<Counts>,
        /// While baking: the share that the canary may have, as there is no stable beside it.
        max_ratio: Option<f64>,
    },
    /// Bad events against a constant.
    Objective {
        /// Since the release began.
        release: Sides<Counts>,
        /// Since the stage began.
        stage: Sides<Counts>,
        /// The share that the canary may have.
        max_ratio: f64,
    },
    /// Latency of both sides.
    Latency {
        /// Requests since the release began, warm-up included.
        release: Sides<f64>,
        /// Requests since the stage began, warm-up included.
        stage: Sides<f64>,
        /// Seconds below which half of this stage's requests stayed, interpolated; warm-up left out once it is over.
        p50_s: Sides<Option<f64>>,
        /// The same for 99 of 100.
        p99_s: Sides<Option<f64>>,
        /// What is compared; empty during warm-up.
        thresholds: Vec<ThresholdEvidence>,
    },
    /// Values of both sides.
    Gauge {
        /// The last values.
        last: Sides<Option<f64>>,
        /// Pairs that counted since the release began.
        pairs: u64,
        /// Pairs in which the canary was above what is allowed.
        above: u64,
    },
    /// Operations of both sides, as traces tell them.
    Operations {
        /// Requests since the release began.
        requests: Sides<f64>,
        /// How many operations are compared.
        known: usize,
        /// Those that speak most against the canary, worst first; a few.
        operations: Vec<OperationEvidence>,
        /// Errors that stable had not shown when they appeared, worst first; a few.
        signatures: Vec<SignatureEvidence>,
    },
}

/// Trials and bad events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Counts {
    /// Requests (or any trials).
    pub total: f64,
    /// How many of them were bad.
    pub bad: f64,
    /// `bad / total`, `None` without requests.
    pub rate: Option<f64>,
}

/// Latency at one pinned threshold, over all that was compared since the pin.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ThresholdEvidence {
    /// The threshold in seconds (a bucket bound).
    pub above_s: f64,
    /// Requests (`total`) and those slower than the threshold (`bad`).
    pub slower: Sides<Counts>,
    /// ln E of this threshold.
    pub ln_e: f64,
    /// Its design effect.
    pub phi: f64,
    /// The canary's share over stable's, where both are known and not zero.
    #[serde(default)]
    pub ratio: Option<f64>,
    /// Where that ratio truly lies, at this and every other look.
    #[serde(default)]
    pub interval: Option<Interval>,
    /// The smallest multiple of stable's share that would have been found with 99 % by now. `None`: none could.
    #[serde(default)]
    pub smallest_ratio: Option<f64>,
}

/// One operation, over the release.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OperationEvidence {
    /// Its name (`POST /pay`).
    pub operation: String,
    /// Requests and errors.
    pub release: Sides<Counts>,
    /// ln E of its errors.
    pub ln_e: f64,
    /// The threshold at which its latency speaks most against the canary; `None` during its warm-up.
    pub slower: Option<ThresholdEvidence>,
}

impl OperationEvidence {
    /// ln E of what speaks most against the canary.
    pub fn worst(&self) -> f64 {
        self.slower
            .as_ref()
            .map_or(self.ln_e, |slower| slower.ln_e.max(self.ln_e))
    }
}

/// An error that stable had not shown when the canary first did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SignatureEvidence {
    /// The operation in which it happens.
    pub operation: String,
    /// The exception's type, or the status.
    pub error: String,
    /// The message without what changes each time; may be empty.
    pub message: String,
    /// All requests, and how many of them showed it.
    pub shown: Sides<Counts>,
    /// ln E against "at most as often as is allowed".
    pub ln_e: f64,
    /// Some traces that show it.
    pub examples: Vec<String>,
}

impl Counts {
    /// Counts with their rate.
    pub fn new(total: f64, bad: f64) -> Self {
        Counts {
            total,
            bad,
            rate: (total > 0.0).then(|| bad / total),
        }
    }
}

impl Verdict {
    /// Says where each metric is read from; metrics that `sources` does not name keep what they have.
    pub fn name_sources(&mut self, source_of: impl Fn(&str) -> Option<String>) {
        for metric in &mut self.metrics {
            if let Some(source) = source_of(&metric.name) {
                metric.source = Some(source);
            }
        }
    }
}

/// A ratio that can be told: both known, neither nothing nor everything.
pub(crate) fn ratio(canary: Option<f64>, stable: Option<f64>) -> Option<f64> {
    let ratio = canary? / stable?;
    (ratio.is_finite() && ratio > 0.0).then_some(ratio)
}

/// Odds that JSON can hold.
pub(crate) fn odds(ln_e: f64) -> f64 {
    const MOST: f64 = 1e12;
    ln_e.exp().min(MOST)
}
