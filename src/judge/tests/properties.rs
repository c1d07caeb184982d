//! Claims that must hold for every stream, on seeds.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::judge::counter::Counter;
use crate::judge::evalue::{self, GRID_FAIL, GRID_PASS, GRID_SEVERE, ODDS_FAIL, ODDS_PASS, STAKES, Window};

/// How often `n` coins with chance `p` fall on heads.
pub(super) fn binomial(rng: &mut ChaCha8Rng, n: u32, p: f64) -> f64 {
    f64::from((0..n).filter(|_| rng.random_bool(p.min(1.0))).count() as u32)
}

/// E e over two binomial samples, summed exactly.
fn mean(n_c: u32, p_c: f64, n_s: u32, p_s: f64, ln_e: impl Fn(Window) -> f64) -> f64 {
    let (canary, stable) = (pmf(n_c, p_c), pmf(n_s, p_s));
    let mut sum = 0.0;
    for (x_c, chance_c) in canary.iter().enumerate() {
        for (x_s, chance_s) in stable.iter().enumerate() {
            let w = Window {
                n_c: f64::from(n_c),
                n_s: f64::from(n_s),
                x_c: x_c as f64,
                x_s: x_s as f64,
            };
            sum += chance_c * chance_s * ln_e(w).exp();
        }
    }
    sum
}

fn pmf(n: u32, p: f64) -> Vec<f64> {
    let mut choose = 1.0;
    let mut chances = Vec::new();
    for x in 0..=n {
        chances.push(choose * p.powi(x as i32) * (1.0 - p).powi((n - x) as i32));
        choose *= f64::from(n - x) / f64::from(x + 1);
    }
    chances
}

#[test]
fn no_bet_is_better_than_fair_at_the_edge_of_its_null() {
    let fair = |mean: f64, what: &str| assert!(mean <= 1.0 + 1e-9, "{what}: mean {mean}");
    for (n_c, n_s) in [(1, 10), (5, 20), (12, 4)] {
        for p_s in [0.01, 0.1, 0.4] {
            let (allowed, extra) = (1.1, 0.002);
            let p_c = allowed * p_s + extra;
            for g in GRID_FAIL.into_iter().chain(GRID_PASS) {
                let rate = |w| evalue::rate(w, allowed, extra, allowed * g);
                fair(mean(n_c, p_c, n_s, p_s, rate), &format!("rate {n_c}:{n_s} {p_s} x{g}"));
            }
            for g in GRID_SEVERE {
                // Half of stable's success ratio, the edge of the severe channel's null.
                let severe = |w: Window| evalue::rate(w.successes(), 0.5, 0.0, 0.5 * g);
                fair(
                    mean(n_c, 1.0 - 0.5 * (1.0 - p_s), n_s, p_s, severe),
                    &format!("severe {n_c}:{n_s} {p_s} x{g}"),
                );
            }
            for odds in ODDS_FAIL.into_iter().chain(ODDS_PASS) {
                for guess in [0.005, p_s, 0.7] {
                    let share = |w| evalue::share(w, guess, odds);
                    fair(
                        mean(n_c, p_s, n_s, p_s, share),
                        &format!("share {n_c}:{n_s} {p_s} x{odds} guess {guess}"),
                    );
                }
            }
            for a in GRID_FAIL.into_iter().chain(GRID_PASS) {
                let constant = |w: Window| evalue::constant(w.n_c, w.x_c, p_s, a);
                fair(mean(n_c, p_s, 1, 0.5, constant), &format!("constant {n_c} {p_s} x{a}"));
            }
        }
    }
    for stake in STAKES {
        fair(
            0.5 * evalue::sign(true, stake).exp() + 0.5 * evalue::sign(false, stake).exp(),
            "sign",
        );
    }
}

#[test]
fn mean_evidence_of_a_canary_at_the_edge_is_at_most_one_through_stages_and_bake() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let releases = 1500;
    let mut evidence = Vec::new();
    let mut failed = 0;
    for _ in 0..releases {
        let mut judge = Judge::new(with(vec![errors()]), None);
        let mut rate: f64 = 0.02;
        let mut standing = None;
        for look in 0..40u32 {
            match look {
                0 => judge.start_stage(0, 0.0, 0.5),
                15 => judge.start_stage(1, 75.0, 1.0),
                30 => judge.start_bake(150.0),
                _ => {}
            }
            // Both sides drift together, which the comparison must not mind.
            rate = (rate * rng.random_range(0.8..1.25)).clamp(0.005, 0.08);
            let (n_c, n_s) = if look < 15 { (10, 90) } else { (40, 60) };
            let seen = if look < 30 {
                let canary = (f64::from(n_c), binomial(&mut rng, n_c, 1.1 * rate + 0.0002));
                let stable = (f64::from(n_s), binomial(&mut rng, n_s, rate));
                counts("errors", Some(canary), Some(stable))
            } else {
                // The least that the bake allows.
                counts("errors", Some((100.0, binomial(&mut rng, 100, 0.02))), None)
            };
            standing = Some(judge.take_in(f64::from(look * 5 + 5), &seen));
        }
        let standing = standing.expect("there were looks");
        failed += u32::from(standing.call == Call::Fail);
        evidence.push(standing.ln_e.exp());
    }
    let n = f64::from(releases);
    let mean = evidence.iter().sum::<f64>() / n;
    let error = (evidence.iter().map(|e| (e - mean).powi(2)).sum::<f64>() / n / n).sqrt();
    assert!(mean <= 1.0 + 4.0 * error, "mean {mean} +- {error}");
    assert!(
        f64::from(failed) <= 0.01 * n + 4.0 * (0.01 * n).sqrt(),
        "{failed} of {releases} failed, alpha is 1 %"
    );
}

/// A stream with every kind of metric, gaps on either side, regressions and stages.
fn stream(rng: &mut ChaCha8Rng) -> Vec<(f64, Observation)> {
    let bad = [1.0, 1.0, 3.0, 20.0][rng.random_range(0..4)];
    let mut t = 0.0;
    (0..50)
        .map(|_| {
            t += rng.random_range(1.0..8.0);
            let mut seen = Observation::default();
            for name in ["errors", "latency", "lag", "promise"] {
                let mut side = |worse: f64, n: u32| {
                    if rng.random_bool(0.1) {
                        return None;
                    }
                    Some(match name {
                        "latency" => {
                            let counts = [1.0, 2.0, 4.0, 2.0, 1.0, worse, 0.0].map(|c: f64| c * f64::from(n) / 8.0);
                            buckets(counts).expect("buckets are a histogram")
                        }
                        "lag" => Increment::Value(rng.random_range(50.0..100.0) * worse),
                        _ => Increment::Counts {
                            total: f64::from(n),
                            bad: binomial(rng, n, 0.01 * worse),
                        },
                    })
                };
                let sides = Sides {
                    canary: side(bad, 20),
                    stable: side(1.0, 180),
                };
                seen.metrics.insert(name.to_owned(), sides);
            }
            (t, seen)
        })
        .collect()
}

fn every_kind() -> Judge {
    let mut config = with(vec![
        errors(),
        MetricConfig::new(
            "latency",
            MetricKind::Latency(LatencyConfig {
                warmup_s: 20.0,
                ..LatencyConfig::default()
            }),
        ),
        MetricConfig::new(
            "lag",
            MetricKind::Gauge(GaugeConfig {
                every_s: 10.0,
                ..GaugeConfig::default()
            }),
        ),
        MetricConfig::new(
            "promise",
            MetricKind::Objective(ObjectiveConfig {
                max_ratio: 0.05,
                tripwire: None,
            }),
        ),
    ]);
    if let MetricKind::Errors(errors) = &mut config.metrics[0].kind {
        errors.tripwire = Some(Tripwire {
            max_ratio: 0.9,
            looks: 3,
            min_requests: 5.0,
        });
    }
    at_stage_one(config, Some(&quiet()))
}

/// Stages and bake at fixed looks.
fn advance(judge: &mut Judge, look: usize, t: f64) {
    match look {
        20 => judge.start_stage(2, t, 0.5),
        40 => judge.start_bake(t),
        _ => {}
    }
}

#[test]
fn saved_and_loaded_anywhere_a_judge_says_the_same() {
    for seed in 0..12 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let (mut kept, mut reloaded) = (every_kind(), every_kind());
        for (look, (t, seen)) in stream(&mut rng).into_iter().enumerate() {
            advance(&mut kept, look, t);
            advance(&mut reloaded, look, t);
            assert_eq!(kept.look(t, &seen), reloaded.look(t, &seen), "seed {seed}, {t} s");
            let saved = serde_json::to_string(&reloaded).unwrap();
            reloaded = serde_json::from_str(&saved).unwrap();
            assert_eq!(kept, reloaded, "seed {seed}, {t} s");
        }
    }
}

#[test]
fn a_verdict_survives_the_record() {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let mut judge = every_kind();
    for (t, seen) in stream(&mut rng) {
        let verdict = judge.look(t, &seen);
        assert_eq!(
            serde_json::from_str::<Verdict>(&serde_json::to_string(&verdict).unwrap()).unwrap(),
            verdict
        );
    }
}

#[test]
fn looks_without_data_change_nothing() {
    let nothing = [
        Observation::default(),
        counts("errors", None, None),
        counts("errors", Some((0.0, 0.0)), Some((0.0, 0.0))),
        counts("promise", Some((0.0, 0.0)), None),
        seen("latency", buckets([0.0; 7]), None),
    ];
    for seed in 0..12 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let (mut plain, mut restless) = (every_kind(), every_kind());
        for (look, (t, seen)) in stream(&mut rng).into_iter().enumerate() {
            advance(&mut plain, look, t);
            advance(&mut restless, look, t);
            for (i, nothing) in nothing.iter().enumerate() {
                let before = restless.clone();
                let earlier = t - 1.0 + 0.1 * i as f64;
                let verdict = restless.look(earlier, nothing);
                assert_eq!(restless, before, "seed {seed}, {t} s, {nothing:?}");
                assert_ne!((verdict.call, plain.failed), (Call::Fail, false));
            }
            assert_eq!(plain.look(t, &seen), restless.look(t, &seen), "seed {seed}, {t} s");
        }
    }
}

#[test]
fn a_counter_that_starts_again_gives_no_evidence() {
    for seed in 0..20 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let (mut restarting, mut unmeasured) = (
            at_stage_one(with(vec![errors()]), None),
            at_stage_one(with(vec![errors()]), None),
        );
        let mut counter = Counter::default();
        let mut sums = [0.0, 0.0];
        for look in 1..=60 {
            let (total, bad) = (40.0, binomial(&mut rng, 40, 0.05));
            let restart = rng.random_bool(0.2) && sums[0] > 0.0;
            // A restarted pod has served a little less than it had before.
            sums = if restart {
                [sums[0] - 1.0, bad]
            } else {
                [sums[0] + total, sums[1] + bad]
            };
            let increments = counter
                .increments(Some(&sums))
                .map(|increments| (increments[0], increments[1]));
            assert_eq!(
                increments,
                (!restart).then_some((total, bad)),
                "seed {seed}, look {look}"
            );
            let stable = Some((160.0, 8.0));
            let t = f64::from(look * 5);
            let expected = if restart { None } else { Some((total, bad)) };
            let got = restarting.look(t, &counts("errors", increments, stable));
            assert_eq!(got, unmeasured.look(t, &counts("errors", expected, stable)));
        }
    }
}

#[test]
fn nonsense_is_dropped_counted_and_never_poisons_the_state() {
    let odd = [
        f64::NAN,
        f64::INFINITY,
        f64::NEG_INFINITY,
        -1.0,
        1e300,
        5e-324,
        0.0,
        1e15,
        0.5,
    ];
    for seed in 0..300 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut judge = every_kind();
        for look in 0..60 {
            let mut any = || {
                if rng.random_bool(0.3) {
                    odd[rng.random_range(0..odd.len())]
                } else {
                    rng.random_range(0.0..100.0)
                }
            };
            let increments = [
                Increment::Counts {
                    total: any(),
                    bad: any(),
                },
                Increment::Value(any()),
                Increment::Histogram {
                    le: Arc::new([any(), any()]),
                    counts: vec![any(), any(), any()],
                },
                Increment::Histogram {
                    le: Arc::new([0.1, 0.2]),
                    counts: vec![any(), any(), any()],
                },
                Increment::Histogram {
                    le: Arc::new([0.0, 0.1, 0.2]),
                    counts: vec![any()],
                },
                Increment::Histogram {
                    le: Arc::new([]),
                    counts: vec![any()],
                },
            ];
            let t = any() + f64::from(look);
            let mut observation = Observation::default();
            for name in ["errors", "latency", "lag", "promise", "unknown"] {
                let mut one = || {
                    let i = rng.random_range(0..=increments.len());
                    increments.get(i).cloned()
                };
                observation.metrics.insert(
                    name.to_owned(),
                    Sides {
                        canary: one(),
                        stable: one(),
                    },
                );
            }
            advance(&mut judge, look as usize, t);
            let verdict = judge.look(t, &observation);
            assert!(verdict.evidence.is_finite(), "seed {seed}: {verdict:?}");
            let saved = serde_json::to_string(&judge).unwrap();
            assert_eq!(serde_json::from_str::<Judge>(&saved).unwrap(), judge, "seed {seed}");
        }
    }
    let mut judge = at_stage_one(with(vec![errors()]), None);
    let evidence_of = |verdict: Verdict| (verdict.evidence, verdict.metrics[0].dropped);
    let before = evidence_of(judge.look(5.0, &counts("errors", Some((50.0, 1.0)), Some((950.0, 5.0)))));
    let after = evidence_of(judge.look(10.0, &counts("errors", Some((-50.0, 1.0)), Some((f64::NAN, 5.0)))));
    assert_eq!((before.0, before.1 + 2), after);
}
