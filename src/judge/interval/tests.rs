//! Is the truth inside at every look, and is the range of any use?

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;

/// A Poisson number by counting exponential waits; the means here are small.
fn poisson(rng: &mut ChaCha8Rng, mean: f64) -> f64 {
    let (mut waited, mut count) = (0.0, 0.0);
    loop {
        waited += -(1.0 - rng.random::<f64>()).ln();
        if waited > mean {
            return count;
        }
        count += 1.0;
    }
}

fn binomial(rng: &mut ChaCha8Rng, n: f64, p: f64) -> f64 {
    (0..n as u32).filter(|_| rng.random::<f64>() < p).count() as f64
}

/// A release in 5 s looks: 5, 20 and 50 % of the traffic, two minutes each, stable's rate of events `share` swinging by
/// half around itself with the time of day. Answers whether the truth was ever left out, and the last range.
fn release(rng: &mut ChaCha8Rng, rps: f64, share: f64, ratio: f64) -> (bool, Interval) {
    let mut seen = Likelihood::default();
    let mut left_out = false;
    let mut look = 0.0;
    for weight in [0.05, 0.2, 0.5] {
        for _ in 0..24 {
            look += 1.0;
            let stable = share * (1.0 + 0.5 * f64::sin(look / 9.0));
            let (n_c, n_s) = (
                poisson(rng, rps * 5.0 * weight),
                poisson(rng, rps * 5.0 * (1.0 - weight)),
            );
            if n_c == 0.0 || n_s == 0.0 {
                continue;
            }
            let (x_c, x_s) = (binomial(rng, n_c, ratio * stable), binomial(rng, n_s, stable));
            seen.add(Window { n_c, n_s, x_c, x_s });
            left_out |= !has(seen.interval(1.0), ratio);
        }
    }
    (left_out, seen.interval(1.0))
}

fn has(range: Interval, ratio: f64) -> bool {
    range.low.is_none_or(|low| low <= ratio) && range.high.is_none_or(|high| ratio <= high)
}

#[test]
fn the_truth_is_inside_at_every_look_of_95_of_100_releases() {
    let mut rng = ChaCha8Rng::seed_from_u64(20_261_122);
    let releases = 400;
    // (requests per second, stable's share, ratio): small shares as errors have them, large ones as latency has.
    for (rps, share, ratio) in [
        (20.0, 0.02, 1.0),
        (20.0, 0.02, 3.0),
        (20.0, 0.1, 0.5),
        (20.0, 0.3, 1.2),
        (4.0, 0.01, 8.0),
    ] {
        let mut left_out = 0;
        let (mut wide, mut known) = (0.0, 0);
        for _ in 0..releases {
            let (ever, last) = release(&mut rng, rps, share, ratio);
            left_out += u32::from(ever);
            if let (Some(low), Some(high)) = (last.low, last.high) {
                wide += (high / low).ln();
                known += 1;
            }
        }
        let width = f64::exp(wide / f64::from(known));
        println!(
            "{rps} rps, {share} x{ratio}: left out {left_out} of {releases}, {known} bounded, high/low {width:.2}"
        );
        assert!(
            left_out <= releases / 20,
            "{rps} {share} x{ratio}: {left_out} of {releases}"
        );
        assert!(known > releases / 4, "a range that is never bounded says nothing");
    }
}

#[test]
fn a_range_on_totals_of_one_split_is_what_the_formula_says() {
    // With one split, l(ratio) is known in closed form; what is kept at 24 points must give the same range.
    let mut seen = Likelihood::default();
    let (n_c, n_s, x_c, x_s) = (500.0, 9_500.0, 12.0, 95.0);
    for _ in 0..20 {
        seen.add(Window { n_c, n_s, x_c, x_s });
    }
    let exact = |ln: f64| 20.0 * (x_c * ln - (x_c + x_s) * (n_c / (n_c + n_s) * (ln.exp() - 1.0)).ln_1p());
    let mixed: Vec<f64> = MIXTURE.iter().map(|ln| exact(*ln)).collect();
    let (kept, exact) = (seen.interval(1.0), within(&mixed, exact));
    for (kept, exact) in [(kept.low, exact.low), (kept.high, exact.high)] {
        let (kept, exact) = (kept.unwrap(), exact.unwrap());
        assert!((kept / exact - 1.0).abs() < 1e-4, "{kept} should be {exact}");
    }
    // 240 of 10,000 to 1,900 of 190,000 is 2.4 times; for one look, two standard deviations reach from 2.1 to 2.7.
    let (low, high) = (kept.low.unwrap(), kept.high.unwrap());
    assert!(
        (1.8..2.1).contains(&low) && (2.7..3.2).contains(&high),
        "{low} to {high}"
    );
}

#[test]
fn nothing_seen_excludes_nothing_and_one_side_without_events_only_one_end() {
    assert_eq!(Likelihood::default().interval(1.0), Interval::unknown());
    let after = |x_c, x_s| {
        let mut seen = Likelihood::default();
        for _ in 0..10 {
            let (n_c, n_s) = (100.0, 1_900.0);
            seen.add(Window { n_c, n_s, x_c, x_s });
        }
        seen.interval(1.0)
    };
    assert_eq!(after(0.0, 0.0), Interval::unknown());
    let down = after(50.0, 0.0);
    assert!(down.low.unwrap() > 20.0 && down.high.is_none(), "{down:?}");
    let better = after(0.0, 40.0);
    assert!(better.low.is_none() && better.high.unwrap() < 0.5, "{better:?}");
}

#[test]
fn bursts_make_a_range_wider() {
    let after = |phi| {
        let mut seen = Likelihood::default();
        let window = Window {
            n_c: 1_000.0,
            n_s: 9_000.0,
            x_c: 30.0,
            x_s: 180.0,
        };
        seen.add(window);
        seen.interval(phi)
    };
    let (calm, bursty) = (after(1.0), after(4.0));
    assert!(bursty.low.unwrap() < calm.low.unwrap() && calm.high.unwrap() < bursty.high.unwrap());
}

#[test]
fn against_a_constant_it_is_the_same_promise() {
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let (limit, ratio, releases) = (0.02, 0.7, 400);
    let mut left_out = 0;
    for _ in 0..releases {
        let (mut total, mut bad, mut ever) = (0.0, 0.0, false);
        for _ in 0..60 {
            total += 100.0;
            bad += binomial(&mut rng, 100.0, limit * ratio);
            ever |= !has(Interval::against_constant(total, bad, limit, 1.0), ratio);
        }
        left_out += u32::from(ever);
    }
    assert!(left_out <= releases / 20, "{left_out} of {releases}");
    let last = Interval::against_constant(10_000.0, 300.0, limit, 1.0);
    assert!(last.low.unwrap() > 1.2 && last.high.unwrap() < 1.9, "{last:?}");
}

#[test]
fn a_range_survives_being_saved() {
    let mut seen = Likelihood::default();
    seen.add(Window {
        n_c: 31.0,
        n_s: 477.0,
        x_c: 3.0,
        x_s: 5.0,
    });
    let text = serde_json::to_string(&seen).unwrap();
    let read: Likelihood = serde_json::from_str(&text).unwrap();
    assert_eq!(read, seen);
    assert!(text.len() < 600, "{} bytes", text.len());
}

/// Errors that come 15 at a time, on whichever side has the requests: the design effect has to carry the range.
#[test]
fn with_history_of_bursts_the_truth_is_inside_as_often() {
    use crate::judge::{Config, History, Increment, Judge, Observation, Sides};
    const CLUMP: f64 = 15.0;
    let mut rng = ChaCha8Rng::seed_from_u64(15);
    let (mut left_out, mut unbounded) = (0, 0);
    let releases = 150;
    for _ in 0..releases {
        let mut clumps = |requests: f64| CLUMP * poisson(&mut rng, requests * 0.004 / CLUMP);
        let pods = (0..20)
            .map(|_| (0..6).map(|_| (6_000.0, clumps(6_000.0))).collect())
            .collect();
        let history = History { block_s: 300.0, pods };
        let mut config = Config::default();
        config.metrics.truncate(1);
        let mut judge = Judge::new(config, Some(&history));
        let (mut ever, mut look) = (false, 0);
        let mut last = Interval::unknown();
        for (stage, weight) in [0.05, 0.2, 0.5].into_iter().enumerate() {
            judge.start_stage(stage as u32, f64::from(look) * 5.0, 0.5);
            for _ in 0..36 {
                look += 1;
                let mut side = |share: f64| {
                    let total = 2_000.0 * share;
                    let bad = clumps(total);
                    Some(Increment::Counts { total, bad })
                };
                let sides = Sides {
                    canary: side(weight),
                    stable: side(1.0 - weight),
                };
                let mut seen = Observation::default();
                seen.metrics.insert("errors".to_owned(), sides);
                let verdict = judge.look(f64::from(look) * 5.0, &seen);
                last = verdict.metrics[0].interval.unwrap();
                ever |= !has(last, 1.0);
            }
        }
        left_out += u32::from(ever);
        unbounded += u32::from(last.high.is_none());
    }
    println!("bursts of {CLUMP}: left out {left_out} of {releases}, {unbounded} without an upper end");
    assert!(left_out <= releases / 20, "{left_out} of {releases}");
    assert!(unbounded < releases / 2, "a range that is never bounded says nothing");
}
