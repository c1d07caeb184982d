//! Stories: what the judge says to a release that a person would recognise.

use std::sync::Arc;

use super::config::{
    Config, ErrorsConfig, GaugeConfig, LatencyConfig, MetricConfig, MetricKind, ObjectiveConfig, Tripwire,
};
use super::{Call, History, Increment, Judge, Observation, Sides, Verdict};

mod fairness;
mod late;
mod operations;
mod properties;

fn errors() -> MetricConfig {
    MetricConfig::new("errors", MetricKind::Errors(ErrorsConfig::default()))
}

fn with(metrics: Vec<MetricConfig>) -> Config {
    Config {
        metrics,
        ..Config::default()
    }
}

/// Twenty quiet pods, so that stages may pass.
fn quiet() -> History {
    History {
        block_s: 300.0,
        pods: vec![vec![(3000.0, 3.0); 6]; 20],
    }
}

/// What both sides did: `(total, bad)`, `None` where nothing was measured.
fn counts(name: &str, canary: Option<(f64, f64)>, stable: Option<(f64, f64)>) -> Observation {
    let side = |side: Option<(f64, f64)>| side.map(|(total, bad)| Increment::Counts { total, bad });
    seen(name, side(canary), side(stable))
}

fn seen(name: &str, canary: Option<Increment>, stable: Option<Increment>) -> Observation {
    Observation {
        metrics: [(name.to_owned(), Sides { canary, stable })].into(),
    }
}

/// The same observation every 5 s in the span, up to the first call that is not undecided.
fn look_until(judge: &mut Judge, from_s: u32, to_s: u32, each: &Observation) -> (u32, Verdict) {
    let mut last = None;
    for t in (from_s + 5..=to_s).step_by(5) {
        let verdict = judge.look(f64::from(t), each);
        let decided = verdict.call != Call::Undecided;
        last = Some((t, verdict));
        if decided {
            break;
        }
    }
    last.expect("the span holds at least one look")
}

fn at_stage_one(config: Config, history: Option<&History>) -> Judge {
    let mut judge = Judge::new(config, history);
    judge.start_stage(1, 0.0, 0.2);
    judge
}

#[test]
fn a_canary_that_is_down_fails_in_three_severe_blocks() {
    let mut judge = at_stage_one(with(vec![errors()]), None);
    let (at, verdict) = look_until(
        &mut judge,
        0,
        120,
        &counts("errors", Some((50.0, 50.0)), Some((950.0, 1.0))),
    );
    assert_eq!(
        (at, verdict.call, verdict.blame.as_deref()),
        (15, Call::Fail, Some("errors"))
    );
    assert_eq!(
        verdict.reason,
        "errors: canary 150 of 150 (100 %), stable 3 of 2,850 (0.11 %); evidence 100 to 1, needed 100 to 1"
    );
}

#[test]
fn an_outage_of_both_sides_is_not_the_canarys_fault() {
    let mut judge = at_stage_one(with(vec![errors()]), None);
    let outage = counts("errors", Some((50.0, 25.0)), Some((950.0, 475.0)));
    let (_, verdict) = look_until(&mut judge, 0, 300, &outage);
    assert_eq!((verdict.call, verdict.suspicious), (Call::Undecided, false));
}

#[test]
fn one_hiccup_however_bad_decides_nothing() {
    let mut judge = at_stage_one(with(vec![errors()]), None);
    let verdict = judge.look(
        5.0,
        &counts("errors", Some((50_000.0, 50_000.0)), Some((950_000.0, 0.0))),
    );
    assert_eq!(verdict.call, Call::Undecided, "{}", verdict.reason);
}

#[test]
fn a_healthy_stage_passes_at_its_earliest_and_says_what_it_saw() {
    let mut judge = at_stage_one(with(vec![errors()]), Some(&quiet()));
    let healthy = counts("errors", Some((5000.0, 2.5)), Some((45_000.0, 22.5)));
    let (at, verdict) = look_until(&mut judge, 0, 300, &healthy);
    assert_eq!((at, verdict.call), (60, Call::Pass));
    assert_eq!(
        verdict.reason,
        "no worse than allowed: errors canary 30 of 60,000 (0.05 %), stable 270 of 540,000 (0.05 %)"
    );
}

#[test]
fn without_history_or_with_one_pod_nothing_passes_early() {
    let one_pod = History {
        block_s: 300.0,
        pods: vec![vec![(3000.0, 3.0); 6]],
    };
    for history in [None, Some(&one_pod)] {
        let mut judge = at_stage_one(with(vec![errors()]), history);
        let (_, verdict) = look_until(
            &mut judge,
            0,
            300,
            &counts("errors", Some((500.0, 0.0)), Some((4500.0, 2.0))),
        );
        assert_eq!(verdict.call, Call::Undecided);
        assert_eq!(
            verdict.reason,
            "undecided: without history of stable's pods a stage runs its full time, so far errors canary 0 of 30,000 \
             (0 %), stable 120 of 270,000 (0.04 %)"
        );
    }
}

#[test]
fn too_few_requests_say_what_they_could_have_seen() {
    let mut judge = at_stage_one(with(vec![errors()]), Some(&quiet()));
    assert_eq!(
        judge.look(1.0, &Observation::default()).reason,
        "undecided: no canary requests yet"
    );
    let verdict = judge.look(5.0, &counts("errors", Some((84.0, 1.0)), Some((1600.0, 16.0))));
    assert_eq!(
        verdict.reason,
        "undecided: 84 canary requests, could only have seen a rise to x8.3 or more"
    );
    let mut judge = at_stage_one(with(vec![errors()]), Some(&quiet()));
    let verdict = judge.look(5.0, &counts("errors", Some((1.0, 0.0)), Some((20.0, 0.0))));
    assert_eq!(verdict.reason, "undecided: 1 canary requests, too few to see any rise");
}

#[test]
fn suspicion_comes_before_a_fail_and_keeps_a_stage_from_passing() {
    let mut judge = at_stage_one(with(vec![errors()]), Some(&quiet()));
    let bad = counts("errors", Some((50.0, 5.0)), Some((950.0, 5.0)));
    let mut calls = Vec::new();
    for look in 1..=40 {
        let verdict = judge.look(f64::from(look * 5), &bad);
        if verdict.call == Call::Fail {
            break;
        }
        calls.push((
            verdict.suspicious,
            verdict.blame.is_some(),
            verdict.reason.starts_with("suspicious: errors: canary"),
        ));
    }
    calls.dedup();
    assert_eq!(calls, [(false, false, false), (true, true, true)]);
}

#[test]
fn a_fail_is_final() {
    let mut judge = at_stage_one(with(vec![errors()]), None);
    let down = counts("errors", Some((50.0, 50.0)), Some((950.0, 1.0)));
    let (_, failed) = look_until(&mut judge, 0, 120, &down);
    let healthy = counts("errors", Some((50_000.0, 0.0)), Some((950_000.0, 1000.0)));
    judge.start_stage(2, 100.0, 0.5);
    judge.start_bake(120.0);
    assert_eq!(judge.look(500.0, &healthy), failed);
}

#[test]
fn repeating_the_start_of_a_stage_changes_nothing() {
    let mut judge = at_stage_one(with(vec![errors()]), Some(&quiet()));
    judge.look(5.0, &counts("errors", Some((500.0, 0.0)), Some((4500.0, 2.0))));
    let before = judge.clone();
    judge.start_stage(1, 7.0, 0.2);
    assert_eq!(judge, before);
    judge.start_bake(10.0);
    let baking = judge.clone();
    judge.start_bake(11.0);
    assert_eq!(judge, baking);
}

#[test]
fn a_canary_that_goes_bad_while_baking_fails_against_what_stable_showed() {
    let mut judge = at_stage_one(with(vec![errors()]), Some(&quiet()));
    look_until(
        &mut judge,
        0,
        300,
        &counts("errors", Some((50.0, 0.5)), Some((950.0, 9.5))),
    );
    judge.start_bake(300.0);
    let fine = counts("errors", Some((1000.0, 10.0)), Some((0.0, 0.0)));
    let (_, verdict) = look_until(&mut judge, 300, 400, &fine);
    assert_eq!((verdict.call, verdict.suspicious), (Call::Undecided, false));
    assert_eq!(
        verdict.reason,
        "undecided: baking, so far errors canary 200 of 20,000 (1 %), at most 5 % expected"
    );
    let down = counts("errors", Some((1000.0, 900.0)), None);
    let (at, verdict) = look_until(&mut judge, 400, 600, &down);
    assert_eq!(
        (verdict.call, at <= 445),
        (Call::Fail, true),
        "{at}: {}",
        verdict.reason
    );
    let mild = counts("errors", Some((1000.0, 150.0)), None);
    let mut judge = at_stage_one(with(vec![errors()]), Some(&quiet()));
    judge.start_bake(0.0);
    let (at, verdict) = look_until(&mut judge, 0, 300, &mild);
    assert_eq!((verdict.call, at <= 75), (Call::Fail, true), "{at}: {}", verdict.reason);
}

#[test]
fn going_back_from_the_bake_to_a_stage_compares_with_stable_again() {
    let mut judge = at_stage_one(with(vec![errors()]), Some(&quiet()));
    judge.start_bake(10.0);
    judge.start_stage(1, 20.0, 1.0);
    let (_, verdict) = look_until(
        &mut judge,
        20,
        300,
        &counts("errors", Some((5000.0, 5.0)), Some((5000.0, 5.0))),
    );
    assert_eq!(verdict.call, Call::Pass, "{}", verdict.reason);
}

#[test]
fn an_objective_needs_no_stable_and_holds_while_baking() {
    let objective = ObjectiveConfig {
        max_ratio: 0.05,
        tripwire: None,
    };
    let config = with(vec![MetricConfig::new("promise", MetricKind::Objective(objective))]);
    let mut judge = at_stage_one(config.clone(), Some(&quiet()));
    judge.start_bake(0.0);
    let (_, verdict) = look_until(&mut judge, 0, 300, &counts("promise", Some((100.0, 20.0)), None));
    assert_eq!(verdict.call, Call::Fail);
    assert_eq!(
        verdict.reason.split(';').next(),
        Some("promise: canary 200 of 1,000 (20 %), at most 5 % allowed")
    );
    let mut judge = at_stage_one(config, Some(&quiet()));
    let (_, verdict) = look_until(&mut judge, 0, 300, &counts("promise", Some((500.0, 5.0)), None));
    assert_eq!(verdict.call, Call::Pass, "{}", verdict.reason);
}

#[test]
fn a_tripwire_fails_at_once_in_consecutive_looks_with_enough_requests() {
    let tripwire = Tripwire {
        max_ratio: 0.25,
        looks: 2,
        min_requests: 20.0,
    };
    let config = ErrorsConfig {
        tripwire: Some(tripwire),
        ..ErrorsConfig::default()
    };
    let mut judge = at_stage_one(
        with(vec![MetricConfig::new("errors", MetricKind::Errors(config))]),
        None,
    );
    let mut look = |t, total, bad| judge.look(t, &counts("errors", Some((total, bad)), Some((380.0, 0.0))));
    assert!(!look(1.0, 30.0, 20.0).tripped);
    assert!(!look(2.0, 30.0, 1.0).tripped, "a good look breaks the row");
    assert!(!look(3.0, 30.0, 20.0).tripped);
    assert!(!look(4.0, 10.0, 10.0).tripped, "too few requests neither count");
    let verdict = look(5.0, 30.0, 15.0);
    assert_eq!((verdict.call, verdict.tripped), (Call::Fail, true), "nor break the row");
    assert_eq!(
        verdict.reason,
        "errors: canary 15 of 30 (50 %) in the last look, tripwire at 25 % for 2 looks in a row"
    );
}

/// A histogram over 10, 20, 50, 100, 200, 500 ms.
fn buckets(counts: [f64; 7]) -> Option<Increment> {
    let le: Arc<[f64]> = Arc::new([0.01, 0.02, 0.05, 0.1, 0.2, 0.5]);
    Some(Increment::Histogram {
        le,
        counts: counts.to_vec(),
    })
}

#[test]
fn a_slower_canary_fails_after_warm_up_with_shares_and_percentiles() {
    let config = with(vec![MetricConfig::new(
        "latency",
        MetricKind::Latency(LatencyConfig::default()),
    )]);
    let mut judge = at_stage_one(config, None);
    let slower = seen(
        "latency",
        buckets([0.0, 5.0, 20.0, 40.0, 30.0, 5.0, 0.0]),
        buckets([0.0, 50.0, 400.0, 450.0, 90.0, 10.0, 0.0]),
    );
    let (at, verdict) = look_until(&mut judge, 0, 60, &slower);
    assert_eq!((at, verdict.evidence), (60, 0.0), "warm-up says nothing");
    assert_eq!(verdict.reason, "undecided: latency p99 canary 440 ms, stable 200 ms");
    let (at, verdict) = look_until(&mut judge, 60, 300, &slower);
    assert_eq!(verdict.call, Call::Fail, "{at}: {}", verdict.reason);
    assert_eq!(
        verdict.reason.split(';').next(),
        Some("latency: canary 35 % of 700 slower than 100 ms, stable 10 % of 7,000")
    );
}

#[test]
fn a_gauge_fails_on_pairs() {
    let gauge = MetricConfig::new("lag", MetricKind::Gauge(GaugeConfig::default()));
    let mut judge = at_stage_one(with(vec![gauge]), None);
    let twice = seen("lag", Some(Increment::Value(158.2)), Some(Increment::Value(91.0)));
    let (at, verdict) = look_until(&mut judge, 0, 600, &twice);
    assert_eq!((at, verdict.call), (275, Call::Fail));
    assert_eq!(
        verdict.reason.split(';').next(),
        Some("lag: canary 158, stable 91, above what is allowed in 10 of 10 pairs")
    );
}

#[test]
fn a_metric_of_weight_zero_is_reported_and_never_fails() {
    let watched = MetricConfig {
        weight: 0.0,
        ..errors()
    };
    let promise = ObjectiveConfig {
        max_ratio: 0.9,
        tripwire: None,
    };
    let config = with(vec![
        watched,
        MetricConfig::new("promise", MetricKind::Objective(promise)),
    ]);
    let mut judge = at_stage_one(config, None);
    let (_, verdict) = look_until(
        &mut judge,
        0,
        200,
        &counts("errors", Some((50.0, 50.0)), Some((950.0, 1.0))),
    );
    assert_eq!((verdict.call, verdict.suspicious), (Call::Undecided, false));
    assert!(verdict.metrics[0].ln_e > 50.0, "its own evidence is shown");
}

#[test]
fn a_judge_without_metrics_stays_undecided() {
    let mut judge = at_stage_one(with(Vec::new()), None);
    let verdict = judge.look(1000.0, &Observation::default());
    assert_eq!(
        (verdict.call, verdict.reason.as_str()),
        (Call::Undecided, "undecided: no metric is configured")
    );
}
