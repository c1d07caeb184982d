//! Simulated releases: the whole controller, engine and judge in virtual time, faults included. The number that
//! matters is how many seeds a test may afford.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use wade::sim::{generate, run};

/// How many seeds make one round: enough for every strategy and most faults.
const SEEDS: u64 = 50;

fn releases(criterion: &mut Criterion) {
    let cases: Vec<_> = (1..=SEEDS).map(generate::case).collect();
    let mut group = criterion.benchmark_group("simulate");
    group.throughput(Throughput::Elements(SEEDS));
    group.sample_size(10);
    group.bench_function("releases", |bencher| {
        bencher.iter(|| {
            for case in &cases {
                black_box(run(black_box(case)));
            }
        });
    });
    group.finish();
}

criterion_group!(benches, releases);
criterion_main!(benches);
