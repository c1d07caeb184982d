//! One metric of the judge, whichever kind it is: the common questions, answered per kind.

use serde::{Deserialize, Serialize};

use super::config::{MetricConfig, MetricKind};
use super::errors::Errors;
use super::gauge::Gauge;
use super::interval::Interval;
use super::latency::Latency;
use super::objective::Objective;
use super::observation::{Increment, MetricName, Sides};
use super::operations::Operations;
use super::terms::{Terms, Tripped, Wire};
use super::verdict::{self, Counts, MetricEvidence, Seen};

/// A metric's name and state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Signal {
    pub(crate) name: MetricName,
    state: State,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum State {
    Errors(Box<Errors>),
    Latency(Latency),
    Gauge(Gauge),
    Objective(Objective),
    Operations(Box<Operations>),
}

impl Signal {
    /// `share`: the metric's share of alpha.
    pub(crate) fn new(metric: &MetricConfig, share: f64, terms: Terms) -> Self {
        let state = match &metric.kind {
            MetricKind::Errors(config) => State::Errors(Box::new(Errors::new(config, share, terms))),
            MetricKind::Latency(config) => State::Latency(Latency::new(config, share, terms)),
            MetricKind::Gauge(config) => State::Gauge(Gauge::new(config, share, terms)),
            MetricKind::Objective(config) => State::Objective(Objective::new(config, share, terms)),
            MetricKind::Operations(config) => State::Operations(Box::new(Operations::new(config, share, terms))),
        };
        Signal {
            name: metric.name.clone(),
            state,
        }
    }

    pub(crate) fn start_stage(&mut self, next_weight: f64) {
        match &mut self.state {
            State::Errors(errors) => errors.start_stage(next_weight),
            State::Latency(latency) => latency.start_stage(next_weight),
            State::Gauge(gauge) => gauge.start_stage(),
            State::Objective(objective) => objective.start_stage(),
            // Traces speak about the release as a whole.
            State::Operations(_) => {}
        }
    }

    pub(crate) fn start_bake(&mut self) {
        match &mut self.state {
            State::Errors(errors) => errors.start_bake(),
            State::Latency(latency) => latency.start_bake(),
            State::Gauge(gauge) => gauge.start_stage(),
            State::Objective(objective) => objective.start_stage(),
            State::Operations(_) => {}
        }
    }

    pub(crate) fn look(&mut self, t_s: f64, sides: &Sides<Option<Increment>>, baking: bool) {
        match &mut self.state {
            State::Errors(errors) => errors.look(t_s, sides),
            State::Latency(latency) => latency.look(t_s, sides, baking),
            State::Gauge(gauge) => gauge.look(t_s, sides, baking),
            State::Objective(objective) => objective.look(t_s, sides),
            State::Operations(operations) => operations.look(t_s, sides, baking),
        }
    }

    /// Calls `each` with (weight, ln E) of each component, always in the same order.
    pub(crate) fn fail_terms(&self, mut each: impl FnMut(f64, f64)) {
        let mut all = |terms: &[(f64, f64)]| terms.iter().for_each(|(weight, ln_e)| each(*weight, *ln_e));
        match &self.state {
            State::Errors(errors) => all(&errors.fail_terms()),
            State::Latency(latency) => all(&latency.fail_terms()),
            State::Gauge(gauge) => all(&gauge.fail_terms()),
            State::Objective(objective) => all(&objective.fail_terms()),
            State::Operations(operations) => all(&operations.fail_terms()),
        }
    }

    pub(crate) fn pass_ln_p(&self) -> Option<f64> {
        match &self.state {
            State::Errors(errors) => errors.pass_ln_p(),
            State::Latency(latency) => latency.pass_ln_p(),
            State::Gauge(gauge) => Some(gauge.pass_ln_p()),
            State::Objective(objective) => Some(objective.pass_ln_p()),
            State::Operations(_) => None,
        }
    }

    fn examples(&self) -> Vec<String> {
        match &self.state {
            State::Operations(operations) => operations.examples(),
            State::Errors(_) | State::Latency(_) | State::Gauge(_) | State::Objective(_) => Vec::new(),
        }
    }

    /// Whether it can show that a canary is fine. Traces cannot: somebody else decides which requests they are.
    pub(crate) fn can_prove(&self) -> bool {
        !matches!(self.state, State::Operations(_))
    }

    /// Whether it may keep the weight where it is and no more.
    pub(crate) fn only_holds(&self) -> bool {
        matches!(&self.state, State::Operations(operations) if operations.only_holds())
    }

    pub(crate) fn tripped(&self) -> Option<Tripped<'_>> {
        match &self.state {
            State::Errors(errors) => errors.wire().and_then(Wire::tripped),
            State::Objective(objective) => objective.wire().and_then(Wire::tripped),
            State::Latency(_) | State::Gauge(_) | State::Operations(_) => None,
        }
    }

    /// Whether its events can come in bursts that a quiet minute would hide, so that a pass needs history.
    pub(crate) fn needs_history(&self) -> bool {
        match &self.state {
            State::Errors(_) | State::Objective(_) => true,
            State::Latency(_) | State::Gauge(_) | State::Operations(_) => false,
        }
    }

    /// Takes note of how bursty stable is; see [`super::Judge::learn`].
    pub(crate) fn learn(&mut self, phi0: f64) {
        match &mut self.state {
            State::Errors(errors) => errors.learn(phi0),
            State::Objective(objective) => objective.learn(phi0),
            State::Latency(_) | State::Gauge(_) | State::Operations(_) => {}
        }
    }

    /// What it saw; `ln_e` is its own evidence, `baking` takes the pass away.
    pub(crate) fn evidence(&self, ln_e: f64, baking: bool) -> MetricEvidence {
        let (phi, smallest_ratio, dropped, seen) = match &self.state {
            State::Errors(errors) => (errors.phi(), errors.smallest_ratio(), errors.dropped(), errors.seen()),
            State::Latency(latency) => (latency.phi(), None, latency.dropped(), latency.seen()),
            State::Gauge(gauge) => (1.0, None, gauge.dropped(), gauge.seen()),
            State::Objective(objective) => (
                objective.phi(),
                objective.smallest_ratio(),
                objective.dropped(),
                objective.seen(),
            ),
            State::Operations(operations) => (operations.phi(), None, operations.dropped(), operations.seen()),
        };
        MetricEvidence {
            name: self.name.clone(),
            ln_e,
            odds: verdict::odds(ln_e),
            pass_ln_p: if baking { None } else { self.pass_ln_p() },
            phi,
            ratio: ratio(&seen),
            interval: self.interval(),
            smallest_ratio,
            dropped,
            source: None,
            examples: self.examples(),
            seen,
        }
    }
}

impl Signal {
    /// The range of the ratio that the metric is about, where it is about one.
    fn interval(&self) -> Option<Interval> {
        match &self.state {
            State::Errors(errors) => Some(errors.interval()),
            State::Objective(objective) => Some(objective.interval()),
            // One for each operation would be more state than it is worth; their counts are told.
            State::Latency(_) | State::Gauge(_) | State::Operations(_) => None,
        }
    }
}

fn ratio(seen: &Seen) -> Option<f64> {
    let rate = |counts: &Counts| counts.rate;
    let (canary, stable) = match seen {
        Seen::Errors {
            stage,
            max_ratio: Some(max_ratio),
            ..
        } => (rate(&stage.canary), Some(*max_ratio)),
        Seen::Errors {
            release,
            max_ratio: None,
            ..
        } => (rate(&release.canary), rate(&release.stable)),
        Seen::Objective { release, max_ratio, .. } => (rate(&release.canary), Some(*max_ratio)),
        Seen::Latency { p99_s, .. } => (p99_s.canary, p99_s.stable),
        Seen::Gauge { last, .. } => (last.canary, last.stable),
        // There is one for each operation.
        Seen::Operations { .. } => (None, None),
    };
    verdict::ratio(canary, stable)
}
