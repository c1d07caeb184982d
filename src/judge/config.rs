//! What the judge is told before a release: how sure it must be and what is allowed.
//!
//! The defaults are those of METHOD.md and of DESIGN.md (section 4); the specification's validation checks the
//! ranges, so nothing here is an `Option` that means "default".

use serde::{Deserialize, Serialize};

use super::observation::MetricName;

/// The judge's settings for one release.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Config {
    /// The chance, over the whole release, of ever failing a canary that is within what is allowed (a bound).
    pub alpha: f64,
    /// The chance of passing a canary that is worse than the pass tolerance.
    pub beta: f64,
    /// Seconds of the longest hiccup that must not decide anything; evidence is capped per block of this length.
    /// At least the scrape interval.
    pub burst_window_s: f64,
    /// Block length in seconds of the severe channel, which finds a canary that is down.
    pub severe_block_s: f64,
    /// How many of these blocks must agree; with a fraction the last one need not be full.
    #[serde(default = "severe_blocks")]
    pub severe_blocks: f64,
    /// How many blocks must agree before a neutral judge can fail a canary.
    pub min_blocks: u32,
    /// Shorter blocks for a stable whose history shows that it does not burst ([`History::shows_calm`]); without
    /// that, and without this, the ones above. `burstWindow: auto` in a rollout.
    ///
    /// [`History::shows_calm`]: super::History::shows_calm
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when_calm: Option<Blocks>,
    /// Seconds between two staggered starts, which keep regressions late in a release visible.
    pub epoch_s: f64,
    /// A stage never passes before this many seconds.
    pub min_stage_s: f64,
    /// Whether a stage may pass before its time is up at all.
    pub pass_early: bool,
    /// Whether it may do so although nothing is known about how bursty stable's errors are. A minute without a burst
    /// looks like health, so this is for benches, not for production.
    pub pass_without_history: bool,
    /// What is compared. Names should differ.
    pub metrics: Vec<MetricConfig>,
}

/// Blocks of the bets on errors and latency.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Blocks {
    /// Seconds of one.
    pub burst_window_s: f64,
    /// How many must agree.
    pub min_blocks: u32,
}

impl Blocks {
    /// For a calm stable, measured every so many seconds: as short as [`CALM_WINDOW_S`], but two measurements long, so
    /// that one that comes late cannot leave a block empty; never longer than the usual window.
    pub fn calm(every_s: f64) -> Self {
        let Config {
            burst_window_s,
            min_blocks,
            ..
        } = Config::default();
        Blocks {
            burst_window_s: (2.0 * every_s).clamp(CALM_WINDOW_S, burst_window_s),
            min_blocks,
        }
    }
}

/// The shortest burst window of a calm stable. `wade judge simulate` shows what it costs and brings.
pub const CALM_WINDOW_S: f64 = 4.0;
/// The shortest block of the severe channel.
const FAST_SEVERE_BLOCK_S: f64 = 2.0;
/// With these short blocks two are never enough, and the first requests of a third are: at 5 requests a second on the
/// canary a whole third block would be the 8 s within which a canary that is down is to be found.
const FAST_SEVERE_BLOCKS: f64 = 2.2;

impl Config {
    /// The severe channel where nobody says: its blocks follow the measurements, every so many seconds, from 2 s to
    /// METHOD.md's 5 s.
    #[must_use]
    pub fn with_severe_blocks_for(mut self, every_s: f64) -> Self {
        if every_s <= FAST_SEVERE_BLOCK_S {
            self.severe_block_s = FAST_SEVERE_BLOCK_S;
            self.severe_blocks = FAST_SEVERE_BLOCKS;
        } else {
            self.severe_block_s = self.severe_block_s.min(every_s);
        }
        self
    }
}

/// One metric of the analysis.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MetricConfig {
    /// The key under which observations carry it.
    pub name: MetricName,
    /// Its share of alpha relative to the other metrics. With 0 it is reported and can keep a stage from passing
    /// early, but it cannot fail a canary.
    #[serde(default = "one")]
    pub weight: f64,
    /// How it is judged.
    pub kind: MetricKind,
}

/// How a metric is judged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum MetricKind {
    /// Bad events against stable's (METHOD.md 2.1).
    Errors(ErrorsConfig),
    /// A latency histogram against stable's (METHOD.md 2.2).
    Latency(LatencyConfig),
    /// A number per side without counts (METHOD.md 2.3).
    Gauge(GaugeConfig),
    /// Bad events against a constant (METHOD.md 2.3, last line); needs no stable.
    Objective(ObjectiveConfig),
    /// Traces: errors and latency per operation, and errors that stable has never shown. Never part of a pass.
    Operations(OperationsConfig),
}

/// Errors may be `1 + allow_ratio` times stable's share plus `allow_abs`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ErrorsConfig {
    /// R - 1: 0.1 allows a tenth more than stable.
    pub allow_ratio: f64,
    /// d: allowed on top, as a share of the canary's requests (0.0002 = 0.02 percentage points).
    pub allow_abs: f64,
    /// What "shown to be fine" means.
    pub pass: ErrorsPass,
    /// The plain rule beside the judge, if wanted.
    pub tripwire: Option<Tripwire>,
}

/// The pass tolerance for errors: `(1 + relative) * stable + min(absolute_max, of_total_traffic / next weight)`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ErrorsPass {
    /// R_p - 1.
    pub relative: f64,
    /// The share of *all* traffic that may fail after the next step: a small next weight needs little proof.
    pub of_total_traffic: f64,
    /// The most that the budget above may allow the canary itself.
    pub absolute_max: f64,
}

/// The canary may be slower than stable by the factor `1 + max_increase`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LatencyConfig {
    /// The allowed slowdown (0.2 = 1.2x).
    pub max_increase: f64,
    /// The slowdown that must be excluded for a pass.
    pub pass_within: f64,
    /// Besides that slowdown, the share of *all* traffic that may be slow after the next step, as for errors: the far
    /// tail of a small canary would take many minutes to prove, and it hurts few. 0 is METHOD.md's rule.
    pub pass_of_total_traffic: f64,
    /// Where stable's distribution is probed; the nearest bucket bounds are pinned at the end of warm-up.
    pub quantiles: Vec<f64>,
    /// Seconds from the canary's first traffic on during which latency is not judged.
    pub warmup_s: f64,
}

/// The canary's value may be `(1 + rel) * stable + abs`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GaugeConfig {
    /// The relative margin. Gauges are autocorrelated: margin and thinning carry the guarantee.
    pub rel: f64,
    /// The absolute margin, in the gauge's own unit.
    pub abs: f64,
    /// One pair of values counts per this many seconds.
    pub every_s: f64,
}

/// What each operation may do against the same operation of stable.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OperationsConfig {
    /// R - 1, for an operation's errors and for new errors: 0.1 allows a tenth more than stable.
    pub allow_ratio: f64,
    /// d: allowed on top, as a share of the canary's requests of the operation.
    pub allow_abs: f64,
    /// The share of all of the canary's requests that may show an error which stable has never shown.
    pub new_errors: f64,
    /// The allowed slowdown (0.2 = 1.2x).
    pub max_increase: f64,
    /// Seconds from the canary's first request of an operation on during which its latency is not judged.
    pub warmup_s: f64,
    /// A canary that is worse is held at its weight for a person to look at, and not failed.
    pub only_hold: bool,
}

/// The share of bad events may be at most `max_ratio`, whatever stable does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectiveConfig {
    /// p_max, a share of the canary's requests.
    pub max_ratio: f64,
    /// The plain rule beside the judge, if wanted.
    #[serde(default)]
    pub tripwire: Option<Tripwire>,
}

/// The plain rule people know: fail at once when the canary's share of bad events exceeds `max_ratio` in `looks`
/// looks in a row. It has no false-alarm bound. Looks with fewer than `min_requests` canary requests neither count
/// nor break the row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tripwire {
    /// The share of bad events that must be exceeded.
    pub max_ratio: f64,
    /// In how many looks in a row.
    pub looks: u32,
    /// Canary requests that a look must have.
    pub min_requests: f64,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            alpha: 0.01,
            beta: 0.05,
            burst_window_s: 15.0,
            severe_block_s: 5.0,
            severe_blocks: severe_blocks(),
            min_blocks: 3,
            when_calm: None,
            epoch_s: 60.0,
            min_stage_s: 60.0,
            pass_early: true,
            pass_without_history: false,
            metrics: vec![
                MetricConfig::new("errors", MetricKind::Errors(ErrorsConfig::default())),
                MetricConfig::new("latency", MetricKind::Latency(LatencyConfig::default())),
            ],
        }
    }
}

impl MetricConfig {
    /// A metric of weight 1.
    pub fn new(name: &str, kind: MetricKind) -> Self {
        MetricConfig {
            name: name.to_owned(),
            weight: one(),
            kind,
        }
    }
}

impl Default for ErrorsConfig {
    fn default() -> Self {
        ErrorsConfig {
            allow_ratio: 0.1,
            allow_abs: 0.0002,
            pass: ErrorsPass::default(),
            tripwire: None,
        }
    }
}

impl Default for ErrorsPass {
    fn default() -> Self {
        ErrorsPass {
            relative: 0.5,
            of_total_traffic: 0.001,
            absolute_max: 0.05,
        }
    }
}

impl Default for LatencyConfig {
    fn default() -> Self {
        LatencyConfig {
            max_increase: 0.2,
            pass_within: 0.5,
            pass_of_total_traffic: 0.0,
            quantiles: vec![0.5, 0.9, 0.99, 0.999],
            warmup_s: 60.0,
        }
    }
}

impl Default for OperationsConfig {
    fn default() -> Self {
        let (errors, latency) = (ErrorsConfig::default(), LatencyConfig::default());
        OperationsConfig {
            allow_ratio: errors.allow_ratio,
            allow_abs: errors.allow_abs,
            new_errors: 0.001,
            max_increase: latency.max_increase,
            warmup_s: latency.warmup_s,
            only_hold: false,
        }
    }
}

impl Default for GaugeConfig {
    fn default() -> Self {
        GaugeConfig {
            rel: 0.25,
            abs: 0.0,
            every_s: 30.0,
        }
    }
}

fn one() -> f64 {
    1.0
}

fn severe_blocks() -> f64 {
    3.0
}
