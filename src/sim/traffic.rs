//! Requests between two looks: expected numbers are added up exactly, counts are drawn from them at the look.
//!
//! A Poisson number of requests arrives on each side, a binomial share of them fails, and the rest of what a metrics
//! source would show (a latency histogram, counts per instance) is drawn to fit. Expected values are exact for every
//! split that was in force in between, however short.

use std::sync::Arc;

use super::chance::Chance;
use super::world::{Behaviour, Conditions};
use crate::judge::observation::{Increment, Observation, Sides};
use crate::plan::Split;
use crate::signals::{ERRORS, LATENCY};

/// The share of all requests that carry the header or cookie of an A/B match.
const MATCHED: f64 = 0.02;
/// Upper bounds of the latency buckets in seconds.
const BOUNDS: [f64; 14] = [
    0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.5, 5.0,
];

/// Requests sent and not measured yet, as expected numbers.
#[derive(Clone, Debug)]
pub(super) struct Traffic {
    /// Requests per second on the whole service.
    rps: f64,
    canary: Expected,
    stable: Expected,
}

#[derive(Clone, Copy, Debug, Default)]
struct Expected {
    requests: f64,
    errors: f64,
}

/// What one side did, drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Requests.
    pub(super) requests: u64,
    /// How many failed.
    pub(super) errors: u64,
}

impl Traffic {
    /// No requests yet, `rps` per second from now on.
    pub(super) fn new(rps: f64) -> Self {
        Self {
            rps,
            canary: Expected::default(),
            stable: Expected::default(),
        }
    }

    /// Sends requests for `secs` seconds; `error_rates` of canary and stable.
    pub(super) fn send(&mut self, secs: f64, split: &Split, error_rates: (f64, f64), conditions: Conditions) {
        if conditions.both_silent {
            return;
        }
        let all = self.rps * secs;
        let matched = if split.matching.is_some() { MATCHED } else { 0.0 };
        let share = matched + (1.0 - matched) * split.weight.fraction();
        let own = all * share;
        let copies = (all - own) * split.mirror.fraction();
        let reach = if conditions.canary_silent { 0.0 } else { own + copies };
        self.canary.add(reach, error_rates.0);
        self.stable.add(all - own, error_rates.1);
    }

    /// Draws what was sent since the last time.
    pub(super) fn draw(&mut self, chance: &mut Chance) -> Sides<Counts> {
        let mut draw = |expected: Expected| {
            let requests = chance.poisson(expected.requests);
            let rate = if expected.requests > 0.0 {
                expected.errors / expected.requests
            } else {
                0.0
            };
            Counts {
                requests,
                errors: chance.binomial(requests, rate),
            }
        };
        let drawn = Sides {
            canary: draw(self.canary),
            stable: draw(self.stable),
        };
        (self.canary, self.stable) = (Expected::default(), Expected::default());
        drawn
    }
}

impl Expected {
    fn add(&mut self, requests: f64, error_rate: f64) {
        self.requests += requests;
        self.errors += requests * error_rate;
    }
}

/// The counts as the judge takes them, with a latency histogram drawn to fit.
pub(super) fn observation(
    counts: Sides<Counts>,
    behaviours: (&Behaviour, &Behaviour),
    chance: &mut Chance,
) -> Observation {
    let side = |counts: Counts| {
        Some(Increment::Counts {
            total: counts.requests as f64,
            bad: counts.errors as f64,
        })
    };
    let le: Arc<[f64]> = Arc::from(BOUNDS);
    let mut histogram = |counts: Counts, behaviour: &Behaviour| {
        Some(Increment::Histogram {
            le: le.clone(),
            counts: buckets(counts.requests, behaviour, chance),
        })
    };
    let latency = Sides {
        canary: histogram(counts.canary, behaviours.0),
        stable: histogram(counts.stable, behaviours.1),
    };
    let errors = Sides {
        canary: side(counts.canary),
        stable: side(counts.stable),
    };
    Observation {
        metrics: [(ERRORS.to_owned(), errors), (LATENCY.to_owned(), latency)].into(),
    }
}

/// Requests per bucket, log-normal: each bucket takes its share of what the ones before left.
fn buckets(requests: u64, behaviour: &Behaviour, chance: &mut Chance) -> Vec<f64> {
    let (mut left, mut below) = (requests, 0.0);
    let mut counts = Vec::with_capacity(BOUNDS.len() + 1);
    for bound in BOUNDS {
        let upto = normal_cdf((bound / behaviour.latency_secs).ln() / behaviour.latency_sigma);
        let share = if below < 1.0 {
            (upto - below) / (1.0 - below)
        } else {
            0.0
        };
        let taken = chance.binomial(left, share);
        counts.push(taken as f64);
        left -= taken;
        below = upto;
    }
    counts.push(left as f64);
    counts
}

/// The standard normal distribution function (Abramowitz and Stegun 26.2.17, error under 1e-7).
fn normal_cdf(z: f64) -> f64 {
    let t = 1.0 / (1.0 + 0.231_641_9 * z.abs());
    let poly =
        t * (0.319_381_530 + t * (-0.356_563_782 + t * (1.781_477_937 + t * (-1.821_255_978 + t * 1.330_274_429))));
    let tail = poly * (-0.5 * z * z).exp() / std::f64::consts::TAU.sqrt();
    if z >= 0.0 { 1.0 - tail } else { tail }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normal_cdf_agrees_with_the_table() {
        for (z, expected) in [(0.0, 0.5), (1.0, 0.841_344_7), (-1.959_964, 0.025), (3.0, 0.998_650_1)] {
            assert!((normal_cdf(z) - expected).abs() < 1e-6, "{z}");
        }
    }
}
