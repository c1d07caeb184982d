//! The words of the wire and their translation: the reference's configuration, sums per side, one judge per run.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use crate::judge::config::{Config, ErrorsConfig, ErrorsPass, GaugeConfig, LatencyConfig, MetricConfig, MetricKind};
use crate::judge::{Counter, History, Increment, Judge, Observation, Sides, Standing};

#[derive(Deserialize)]
#[serde(default)]
struct WireConfig {
    alpha: f64,
    beta: f64,
    burst_window: f64,
    severe_block: f64,
    severe_blocks: f64,
    min_blocks: u32,
    epoch: f64,
    min_step: f64,
    pass_early: bool,
    pass_without_history: bool,
    counts: Counting,
    metrics: Vec<WireMetric>,
}

#[derive(Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Counting {
    /// Counts are sums since the release began.
    #[default]
    Cumulative,
    /// Counts are differences between looks.
    Increments,
}

#[derive(Deserialize)]
struct WireMetric {
    #[serde(default = "one")]
    weight: f64,
    #[serde(flatten)]
    kind: WireKind,
}

#[derive(Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum WireKind {
    Errors {
        #[serde(default)]
        max_increase: WireMargin,
        #[serde(default)]
        pass_within: WirePass,
    },
    Latency {
        max_increase: Option<f64>,
        pass_within: Option<f64>,
        quantiles: Option<Vec<f64>>,
        warmup: Option<f64>,
    },
    Gauge {
        #[serde(default)]
        max_increase: WireMargin,
        interval: Option<f64>,
    },
}

#[derive(Default, Deserialize)]
struct WireMargin {
    relative: Option<f64>,
    absolute: Option<f64>,
}

#[derive(Default, Deserialize)]
struct WirePass {
    relative: Option<f64>,
    of_total_traffic: Option<f64>,
    absolute_max: Option<f64>,
}

/// One look.
#[derive(Deserialize)]
pub(crate) struct Look {
    t: f64,
    step: Option<u32>,
    step_start: Option<f64>,
    next_weight: Option<f64>,
    canary: Option<Arm>,
    stable: Option<Arm>,
}

/// A look with its type and run; names that need no escapes, or they are read the long way.
#[derive(Deserialize)]
struct NamedLook<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    run: &'a str,
    t: f64,
    step: Option<u32>,
    step_start: Option<f64>,
    next_weight: Option<f64>,
    canary: Option<Arm>,
    stable: Option<Arm>,
}

/// Type, run and look of a line that is one; `None` if it is something else, or nothing at all.
pub(crate) fn named_look(line: &[u8]) -> Option<(&str, &str, Look)> {
    let NamedLook {
        kind,
        run,
        t,
        step,
        step_start,
        next_weight,
        canary,
        stable,
    } = serde_json::from_slice(line).ok()?;
    let look = Look {
        t,
        step,
        step_start,
        next_weight,
        canary,
        stable,
    };
    Some((kind, run, look))
}

#[derive(Deserialize)]
struct Arm {
    requests: f64,
    errors: f64,
    latency: Option<Histogram>,
    gauge: Option<f64>,
}

#[derive(Deserialize)]
struct Histogram {
    le: Vec<f64>,
    /// Cumulative over `le`.
    counts: Vec<f64>,
}

impl Default for WireConfig {
    fn default() -> Self {
        let Config {
            alpha,
            beta,
            burst_window_s,
            severe_block_s,
            severe_blocks,
            min_blocks,
            epoch_s,
            min_stage_s,
            ..
        } = Config::default();
        WireConfig {
            alpha,
            beta,
            burst_window: burst_window_s,
            severe_block: severe_block_s,
            severe_blocks,
            min_blocks,
            epoch: epoch_s,
            min_step: min_stage_s,
            pass_early: true,
            pass_without_history: false,
            counts: Counting::default(),
            metrics: Vec::new(),
        }
    }
}

fn one() -> f64 {
    1.0
}

/// The judge's settings that a `start` line's `config` means; null for the defaults. Metrics are named by their kind.
///
/// # Errors
/// What is wrong with it.
pub fn config(words: &Value) -> Result<Config, serde_json::Error> {
    let wire = Option::<WireConfig>::deserialize(words)?.unwrap_or_default();
    let mut config = wire.translated();
    for metric in &mut config.metrics {
        if let Some((kind, _)) = metric.name.rsplit_once('-') {
            metric.name = kind.to_owned();
        }
    }
    Ok(config)
}

impl WireConfig {
    /// The judge's configuration; metrics are named by kind and position, as the wire does not name them.
    fn translated(self) -> Config {
        let errors = || WireMetric {
            weight: 1.0,
            kind: WireKind::Errors {
                max_increase: WireMargin::default(),
                pass_within: WirePass::default(),
            },
        };
        let metrics = if self.metrics.is_empty() {
            vec![errors()]
        } else {
            self.metrics
        };
        Config {
            alpha: self.alpha,
            beta: self.beta,
            burst_window_s: self.burst_window,
            severe_block_s: self.severe_block,
            min_blocks: self.min_blocks,
            when_calm: None,
            severe_blocks: self.severe_blocks,
            epoch_s: self.epoch,
            min_stage_s: self.min_step,
            pass_early: self.pass_early,
            pass_without_history: self.pass_without_history,
            metrics: metrics
                .into_iter()
                .enumerate()
                .map(|(i, metric)| metric.translated(i))
                .collect(),
        }
    }
}

impl WireMetric {
    fn translated(self, i: usize) -> MetricConfig {
        let (name, kind) = match self.kind {
            WireKind::Errors {
                max_increase,
                pass_within,
            } => {
                let pass = ErrorsPass::default();
                let config = ErrorsConfig {
                    allow_ratio: max_increase.relative.unwrap_or(0.1),
                    allow_abs: max_increase.absolute.unwrap_or(0.0),
                    pass: ErrorsPass {
                        relative: pass_within.relative.unwrap_or(pass.relative),
                        of_total_traffic: pass_within.of_total_traffic.unwrap_or(pass.of_total_traffic),
                        absolute_max: pass_within.absolute_max.unwrap_or(pass.absolute_max),
                    },
                    tripwire: None,
                };
                ("errors", MetricKind::Errors(config))
            }
            WireKind::Latency {
                max_increase,
                pass_within,
                quantiles,
                warmup,
            } => {
                let default = LatencyConfig::default();
                let config = LatencyConfig {
                    max_increase: max_increase.unwrap_or(default.max_increase),
                    pass_within: pass_within.unwrap_or(default.pass_within),
                    pass_of_total_traffic: default.pass_of_total_traffic,
                    quantiles: quantiles.unwrap_or(default.quantiles),
                    warmup_s: warmup.unwrap_or(default.warmup_s),
                };
                ("latency", MetricKind::Latency(config))
            }
            WireKind::Gauge { max_increase, interval } => {
                let default = GaugeConfig::default();
                let config = GaugeConfig {
                    rel: max_increase.relative.unwrap_or(default.rel),
                    abs: max_increase.absolute.unwrap_or(default.abs),
                    every_s: interval.unwrap_or(default.every_s),
                };
                ("gauge", MetricKind::Gauge(config))
            }
        };
        MetricConfig {
            name: format!("{name}-{i}"),
            weight: self.weight,
            kind,
        }
    }
}

/// A judge with what the wire needs around it: sums into increments, steps into stages.
pub(crate) struct Run {
    judge: Judge,
    metrics: Vec<(String, Kind)>,
    counting: Counting,
    canary: Counter,
    stable: Counter,
    /// The bounds of the last histogram, to be shared instead of copied.
    le: Arc<[f64]>,
}

#[derive(Clone, Copy)]
enum Kind {
    Counts,
    Histogram,
    Value,
}

impl Run {
    /// `config` and `history` as on the wire; null takes the defaults.
    pub(crate) fn new(config: &Value, history: &Value) -> Result<Self, serde_json::Error> {
        let wire = Option::<WireConfig>::deserialize(config)?.unwrap_or_default();
        let history = Option::<History>::deserialize(history)?;
        let counting = wire.counts;
        let config = wire.translated();
        let kind = |metric: &MetricConfig| match metric.kind {
            MetricKind::Errors(_) | MetricKind::Objective(_) => Some(Kind::Counts),
            MetricKind::Latency(_) => Some(Kind::Histogram),
            MetricKind::Gauge(_) => Some(Kind::Value),
            // The protocol has no words for operations.
            MetricKind::Operations(_) => None,
        };
        Ok(Run {
            metrics: config
                .metrics
                .iter()
                .filter_map(|metric| Some((metric.name.clone(), kind(metric)?)))
                .collect(),
            judge: Judge::new(config, history.as_ref()),
            counting,
            canary: Counter::default(),
            stable: Counter::default(),
            le: Arc::new([]),
        })
    }

    /// One look, answered in short.
    #[expect(clippy::needless_pass_by_value, reason = "a look is read for this and nothing else")]
    pub(crate) fn take_in(&mut self, look: Look) -> Standing {
        let observation = self.observe(&look);
        self.judge.take_in(look.t, &observation)
    }

    /// One look, answered in full.
    #[cfg(test)]
    pub(crate) fn look_at(&mut self, look: &Value) -> Result<crate::judge::Verdict, serde_json::Error> {
        let look = Look::deserialize(look)?;
        let observation = self.observe(&look);
        Ok(self.judge.look(look.t, &observation))
    }

    fn observe(&mut self, look: &Look) -> Observation {
        if let Some(step) = look.step {
            self.judge
                .start_stage(step, look.step_start.unwrap_or(look.t), look.next_weight.unwrap_or(1.0));
        }
        let arms = Sides {
            canary: look.canary.as_ref(),
            stable: look.stable.as_ref(),
        };
        let le = [arms.canary, arms.stable]
            .into_iter()
            .flatten()
            .find_map(|arm| arm.latency.as_ref())
            .map(|l| &l.le);
        if let Some(le) = le.filter(|le| le[..] != self.le[..]) {
            self.le = le.as_slice().into();
        }
        let counting = self.counting;
        let counts = Sides {
            canary: increments(counting, &mut self.canary, arms.canary),
            stable: increments(counting, &mut self.stable, arms.stable),
        };
        let mut observation = Observation::default();
        for (name, kind) in &self.metrics {
            let side = |arm: Option<&Arm>, counts: Option<&[f64]>| match kind {
                Kind::Counts => counts.map(|counts| Increment::Counts {
                    total: counts[0],
                    bad: counts[1],
                }),
                Kind::Histogram => counts.and_then(|counts| self.histogram(&counts[2..])),
                Kind::Value => arm.and_then(|arm| arm.gauge).map(Increment::Value),
            };
            let sides = Sides {
                canary: side(arms.canary, counts.canary.as_deref()),
                stable: side(arms.stable, counts.stable.as_deref()),
            };
            observation.metrics.insert(name.clone(), sides);
        }
        observation
    }

    /// Differences of sums over `le` into requests per bucket.
    fn histogram(&self, sums: &[f64]) -> Option<Increment> {
        let mut below = 0.0;
        let counts: Vec<f64> = sums
            .iter()
            .map(|sum| sum - std::mem::replace(&mut below, *sum))
            .collect();
        (!counts.is_empty()).then(|| Increment::Histogram {
            le: Arc::clone(&self.le),
            counts,
        })
    }
}

/// Requests, errors and the histogram's sums of one side since the last look that had them.
fn increments(counting: Counting, counter: &mut Counter, arm: Option<&Arm>) -> Option<Vec<f64>> {
    let sample = arm.map(|arm| {
        let sums = arm.latency.iter().flat_map(|latency| &latency.counts);
        [arm.requests, arm.errors]
            .iter()
            .chain(sums)
            .copied()
            .collect::<Vec<f64>>()
    });
    match counting {
        Counting::Cumulative => counter.increments(sample.as_deref()),
        Counting::Increments => sample,
    }
}
