//! What one look costs the judge, with four metrics. The goal is under 50 µs: a look is taken every one to five
//! seconds, in each release that runs.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use wade::judge::{Call, Config, Increment, Judge, Observation, Sides};
use wade::plan::{Comparison, judge_config};
use wade::spec::read_strategy;

/// Seconds between two looks.
const EVERY: f64 = 2.0;

/// Errors, latency, a pair of counters and a gauge.
fn config() -> Config {
    let text = "apiVersion: wade.dev/v1alpha1\nkind: Strategy\nmetadata: {name: bench}\nspec:\n  \
                strategy: {canary: {steps: [{weight: 10%}]}}\n  \
                analysis:\n    metrics:\n      - errors: {}\n      - latency: {}\n      \
                - counters: {name: payments, total: payments_total, bad: payments_failed_total}\n      \
                - gauge: {name: lag, query: queue_lag_seconds}\n";
    let strategy = read_strategy(text, "bench.yaml").unwrap_or_else(|faults| panic!("{faults}"));
    let config = judge_config(&strategy.spec.analysis, &Comparison::WithStable);
    assert_eq!(config.metrics.len(), 4);
    config
}

/// What both sides did in two seconds at 500 requests per second, a tenth of them on the canary.
fn seen(look: u32) -> Observation {
    let le: Arc<[f64]> = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0].into();
    let shape = [0.02, 0.1, 0.25, 0.3, 0.2, 0.08, 0.03, 0.01, 0.006, 0.003, 0.001, 0.0];
    let side = |requests: f64| {
        let bad = f64::from(u32::from(look.is_multiple_of(7)));
        [
            Increment::Counts { total: requests, bad },
            Increment::Histogram {
                le: Arc::clone(&le),
                counts: shape.iter().map(|share| (share * requests).round()).collect(),
            },
            Increment::Counts {
                total: requests / 5.0,
                bad,
            },
            Increment::Value(3.0 + f64::from(look % 5)),
        ]
    };
    let names = ["errors", "latency", "payments", "lag"];
    let both = side(100.0).into_iter().zip(side(900.0));
    let sides = both.map(|(canary, stable)| Sides {
        canary: Some(canary),
        stable: Some(stable),
    });
    Observation {
        metrics: names
            .map(str::to_owned)
            .into_iter()
            .zip(sides)
            .collect::<BTreeMap<_, _>>(),
    }
}

/// A judge ten minutes into a release, when it carries the most.
fn judge() -> (Judge, f64) {
    let mut judge = Judge::new(config(), None);
    judge.start_stage(0, 0.0, 0.2);
    let mut t = 0.0;
    for look in 0..300 {
        t = f64::from(look) * EVERY;
        assert_ne!(judge.look(t, &seen(look)).call, Call::Fail);
    }
    (judge, t)
}

fn looks(criterion: &mut Criterion) {
    let (judge, t) = judge();
    let next = seen(300);
    criterion.bench_function("judge/look_with_four_metrics", |bencher| {
        bencher.iter_batched_ref(
            || judge.clone(),
            |judge| judge.look(black_box(t + EVERY), black_box(&next)),
            BatchSize::SmallInput,
        );
    });
    criterion.bench_function("judge/state_to_json", |bencher| {
        bencher.iter(|| serde_json::to_vec(black_box(&judge)));
    });
}

criterion_group!(benches, looks);
criterion_main!(benches);
