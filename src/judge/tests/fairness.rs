//! No bet is better than fair, over whole releases and large numbers of them: the mean of every e-process is at most 1
//! when the canary stands exactly at the edge of what is allowed (or, for a pass, of what is not).

use super::properties::binomial;
use super::*;
use crate::judge::errors::Errors;
use crate::judge::gauge::Gauge;
use crate::judge::latency::Latency;
use crate::judge::objective::Objective;
use crate::judge::terms::Terms;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const RELEASES: u64 = 3000;
const LOOKS: u32 = 40;

/// Stops at the first look at which the evidence exceeds this or at the end: a bet may be cashed at any time.
const STOP: f64 = 3.0;

/// The mean of exp(ln e) over releases, stopped where it pleases the canary's enemy, against 1 and its own noise.
fn fair(what: &str, mut release: impl FnMut(&mut ChaCha8Rng, &mut dyn FnMut(f64) -> bool)) {
    let mut all = Vec::new();
    for seed in 0..RELEASES {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut last = 0.0;
        release(&mut rng, &mut |ln_e| {
            last = ln_e;
            ln_e >= STOP
        });
        all.push(f64::exp(last));
    }
    let n = RELEASES as f64;
    let mean = all.iter().sum::<f64>() / n;
    let error = (all.iter().map(|e| (e - mean).powi(2)).sum::<f64>() / n / n).sqrt();
    assert!(error < 0.25, "{what}: {error} is too much noise to say anything");
    assert!(mean <= 1.0 + 4.0 * error, "{what}: mean {mean} +- {error}");
    assert!(all.iter().any(|e| *e != 1.0), "{what}: nothing was bet");
}

fn terms() -> Terms {
    Terms::new(&Config::default(), None)
}

fn pair(canary: (f64, f64), stable: (f64, f64)) -> Sides<Option<Increment>> {
    let side = |(total, bad)| Some(Increment::Counts { total, bad });
    Sides {
        canary: side(canary),
        stable: side(stable),
    }
}

/// Traffic that moves: requests of both sides at a look.
fn traffic(rng: &mut ChaCha8Rng, look: u32) -> (u32, u32) {
    let busy = if look % 10 < 5 { 1 } else { 3 };
    (busy * rng.random_range(0..8), busy * rng.random_range(10..40))
}

/// Plays the errors metric: `shares` gives canary's and stable's at a look, `read` the evidence.
fn errors_are_fair(what: &str, shares: impl Fn(f64) -> f64, read: impl Fn(&Errors) -> f64) {
    fair(what, |rng, stop| {
        let mut errors = Errors::new(&ErrorsConfig::default(), 1.0, terms());
        errors.start_stage(1.0);
        let mut rate: f64 = 0.03;
        for look in 0..LOOKS {
            rate = (rate * rng.random_range(0.8..1.25)).clamp(0.01, 0.1);
            let (n_c, n_s) = traffic(rng, look);
            let canary = (f64::from(n_c), binomial(rng, n_c, shares(rate)));
            let stable = (f64::from(n_s), binomial(rng, n_s, rate));
            errors.look(f64::from(look * 2 + 2), &pair(canary, stable));
            if stop(read(&errors)) {
                return;
            }
        }
    });
}

#[test]
fn errors_against_stable_are_a_fair_bet() {
    errors_are_fair(
        "rate",
        |stable| 1.1 * stable + 0.0002,
        |errors| errors.fail_terms()[0].1,
    );
}

#[test]
fn a_canary_that_succeeds_half_as_often_is_a_fair_bet_for_the_severe_channel() {
    errors_are_fair(
        "severe",
        |stable| 1.0 - 0.5 * (1.0 - stable),
        |errors| errors.fail_terms()[1].1,
    );
}

#[test]
fn a_canary_at_the_pass_tolerance_is_a_fair_bet_for_a_pass() {
    errors_are_fair(
        "pass",
        |stable| 1.5 * stable + 0.001,
        |errors| errors.pass_ln_p().expect("no bake"),
    );
}

/// Requests per bucket, drawn one by one.
fn drawn(rng: &mut ChaCha8Rng, n: u32, shares: [f64; 7]) -> Option<Increment> {
    let mut counts = [0.0; 7];
    for _ in 0..n {
        let mut left: f64 = rng.random();
        let bucket = shares.iter().position(|share| {
            left -= share;
            left < 0.0
        });
        counts[bucket.unwrap_or(6)] += 1.0;
    }
    buckets(counts)
}

const SHAPE: [f64; 7] = [0.05, 0.25, 0.35, 0.2, 0.1, 0.04, 0.01];

/// Plays the latency metric: `canary` is its distribution while stable has [`SHAPE`].
fn latency_is_fair(what: &str, config: &LatencyConfig, canary: [f64; 7], read: impl Fn(&Latency) -> f64) {
    fair(what, |rng, stop| {
        let mut latency = Latency::new(config, 1.0, terms());
        latency.start_stage(1.0);
        for look in 0..LOOKS + 5 {
            let (n_c, n_s) = traffic(rng, look);
            let sides = Sides {
                canary: drawn(rng, n_c, canary),
                stable: drawn(rng, n_s + 30, SHAPE),
            };
            latency.look(f64::from(look * 2 + 2), &sides, false);
            if stop(read(&latency)) {
                return;
            }
        }
    });
}

fn unshifted() -> LatencyConfig {
    LatencyConfig {
        max_increase: 0.0,
        pass_within: 0.0,
        warmup_s: 4.0,
        ..LatencyConfig::default()
    }
}

#[test]
fn equal_latency_is_a_fair_bet_against_and_for_the_canary() {
    let mean_of = |latency: &Latency| {
        let terms = latency.fail_terms();
        let sum: f64 = terms.iter().map(|(weight, ln_e)| weight * ln_e.exp()).sum();
        sum.ln()
    };
    latency_is_fair("latency", &unshifted(), SHAPE, mean_of);
    latency_is_fair("latency pass", &unshifted(), SHAPE, |latency| {
        latency.pass_ln_p().unwrap_or(0.0)
    });
}

#[test]
fn a_canary_that_spends_the_budget_is_a_fair_bet_for_a_pass() {
    let config = LatencyConfig {
        pass_of_total_traffic: 0.02,
        quantiles: vec![0.9],
        ..unshifted()
    };
    // Two points more in the slowest bucket than stable has, the edge of the budget at the last stage.
    let mut canary = SHAPE;
    canary[6] += 0.02;
    canary[2] -= 0.02;
    latency_is_fair("latency budget", &config, canary, |latency| {
        latency.pass_ln_p().unwrap_or(0.0)
    });
}

#[test]
fn a_gauge_that_is_above_half_of_the_time_is_a_fair_bet() {
    let config = GaugeConfig {
        every_s: 2.0,
        ..GaugeConfig::default()
    };
    let play = |read: fn(&Gauge) -> f64| {
        move |rng: &mut ChaCha8Rng, stop: &mut dyn FnMut(f64) -> bool| {
            let mut gauge = Gauge::new(&config, 1.0, terms());
            for look in 0..LOOKS {
                let canary = if rng.random_bool(0.5) { 2.0 } else { 1.0 };
                let sides = Sides {
                    canary: Some(Increment::Value(canary)),
                    stable: Some(Increment::Value(1.0)),
                };
                gauge.look(f64::from(look * 2 + 2), &sides, false);
                if stop(read(&gauge)) {
                    return;
                }
            }
        }
    };
    fair("gauge", play.clone()(|gauge| gauge.fail_terms()[0].1));
    fair("gauge pass", play(Gauge::pass_ln_p));
}

#[test]
fn a_canary_at_its_objective_is_a_fair_bet() {
    let config = ObjectiveConfig {
        max_ratio: 0.05,
        tripwire: None,
    };
    let play = |read: fn(&Objective) -> f64| {
        let config = config.clone();
        move |rng: &mut ChaCha8Rng, stop: &mut dyn FnMut(f64) -> bool| {
            let mut objective = Objective::new(&config, 1.0, terms());
            for look in 0..LOOKS {
                let (n_c, _) = traffic(rng, look);
                let canary = (f64::from(n_c), binomial(rng, n_c, 0.05));
                objective.look(f64::from(look * 2 + 2), &pair(canary, (0.0, 0.0)));
                if stop(read(&objective)) {
                    return;
                }
            }
        }
    };
    fair("objective", play(|objective| objective.fail_terms()[0].1));
    fair("objective pass", play(Objective::pass_ln_p));
}
