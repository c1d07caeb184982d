//! The judge against the test vectors of the method (vectors.json, copied from shared/judge): every formula on its own,
//! then whole rollouts through the wire protocol's adapter, look by look.

use serde::Deserialize;
use serde_json::Value;

use super::capital::{Mix, cap_for};
use super::counter::Counter;
use super::dispersion::Dispersion;
use super::evalue::{self, Window};
use super::histogram::split_below;
use super::history::History;
use super::pairing::Pair;
use super::stdio::Run;
use super::verdict::{Call, MetricEvidence, Seen};

#[derive(Deserialize)]
struct Vectors {
    constants: Value,
    inc_rate: Vec<RateCase>,
    inc_share: Vec<ShareCase>,
    cap: Vec<CapCase>,
    mix: Vec<MixCase>,
    dispersion: Vec<DispersionCase>,
    phi_from_history: Vec<HistoryCase>,
    margin_split: Vec<SplitCase>,
    counter: Vec<CounterCase>,
    pair: Vec<PairCase>,
    judge: Vec<RolloutCase>,
}

#[derive(Deserialize)]
#[expect(non_snake_case, reason = "the vectors use the method's letters")]
struct RateCase {
    n_c: f64,
    n_s: f64,
    x_c: f64,
    x_s: f64,
    R: f64,
    delta: f64,
    r: f64,
    ln_e: f64,
}

#[derive(Deserialize)]
struct ShareCase {
    n_c: f64,
    n_s: f64,
    x_c: f64,
    x_s: f64,
    theta_s: f64,
    psi: f64,
    ln_e: f64,
}

#[derive(Deserialize)]
struct CapCase {
    level: f64,
    weight: f64,
    m: u32,
    start_mass: f64,
    cap: f64,
}

#[derive(Deserialize)]
struct MixCase {
    k: usize,
    cap: Option<f64>,
    start_mass: f64,
    epoch_blocks: u64,
    events: Vec<MixEvent>,
    log_e: Vec<f64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum MixEvent {
    Add(Vec<f64>),
    Block(u64),
}

#[derive(Deserialize)]
struct DispersionCase {
    phi0: f64,
    c0: f64,
    blocks: Vec<[f64; 4]>,
    phi: Vec<f64>,
}

#[derive(Deserialize)]
struct HistoryCase {
    pods: Vec<Vec<(f64, f64)>>,
    phi: f64,
}

#[derive(Deserialize)]
struct SplitCase {
    bounds: Vec<f64>,
    hist: Vec<f64>,
    j: usize,
    shift: f64,
    i: usize,
    f: f64,
}

#[derive(Deserialize)]
struct CounterCase {
    samples: Vec<Option<Vec<f64>>>,
    increments: Vec<Option<Vec<f64>>>,
}

#[derive(Deserialize)]
struct PairCase {
    pushes: Vec<[Option<Vec<f64>>; 2]>,
    windows: Vec<Option<[Vec<f64>; 2]>>,
}

#[derive(Deserialize)]
struct RolloutCase {
    name: String,
    config: Value,
    history: Value,
    looks: Vec<Value>,
    expect: Vec<Expected>,
}

#[derive(Deserialize)]
struct Expected {
    verdict: String,
    log_e: f64,
    pass_log_e: Vec<Option<f64>>,
    phi: Vec<Value>,
}

fn vectors() -> Vectors {
    serde_json::from_str(include_str!("vectors.json")).expect("vectors.json has the shape described above")
}

/// Agreement to 1e-9, relative, absolute near zero.
fn near(got: f64, want: f64) -> bool {
    (got - want).abs() <= 1e-9 * want.abs().max(1.0)
}

#[track_caller]
fn assert_near(got: f64, want: f64, what: &str) {
    assert!(near(got, want), "{what}: {got} should be {want}");
}

#[test]
fn grids_and_constants_are_those_of_the_method() {
    let constants = vectors().constants;
    let grids: [(&str, &[f64]); 6] = [
        ("GRID_FAIL", &evalue::GRID_FAIL),
        ("GRID_SEVERE", &evalue::GRID_SEVERE),
        ("GRID_PASS", &evalue::GRID_PASS),
        ("PSI_FAIL", &evalue::ODDS_FAIL),
        ("PSI_PASS", &evalue::ODDS_PASS),
        ("LAMBDA", &evalue::STAKES),
    ];
    for (name, grid) in grids {
        let wanted: Vec<f64> = serde_json::from_value(constants[name].clone()).unwrap();
        assert_eq!(grid, wanted, "{name}");
    }
    let config = super::Config::default();
    let settings = [
        ("block_s", config.burst_window_s),
        ("severe_block_s", config.severe_block_s),
        ("epoch_s", config.epoch_s),
        ("min_blocks", f64::from(config.min_blocks)),
        ("alpha", config.alpha),
        ("beta", config.beta),
    ];
    for (name, value) in settings {
        assert_eq!(constants[name].as_f64(), Some(value), "{name}");
    }
}

#[test]
fn single_windows_agree() {
    let vectors = vectors();
    for (i, c) in vectors.inc_rate.iter().enumerate() {
        let w = Window {
            n_c: c.n_c,
            n_s: c.n_s,
            x_c: c.x_c,
            x_s: c.x_s,
        };
        assert_near(evalue::rate(w, c.R, c.delta, c.r), c.ln_e, &format!("inc_rate {i}"));
    }
    for (i, c) in vectors.inc_share.iter().enumerate() {
        let w = Window {
            n_c: c.n_c,
            n_s: c.n_s,
            x_c: c.x_c,
            x_s: c.x_s,
        };
        assert_near(evalue::share(w, c.theta_s, c.psi), c.ln_e, &format!("inc_share {i}"));
    }
    assert_eq!((vectors.inc_rate.len(), vectors.inc_share.len()), (14, 8));
}

#[test]
fn caps_and_mixes_agree() {
    let vectors = vectors();
    for (i, c) in vectors.cap.iter().enumerate() {
        assert_near(
            cap_for(c.level, c.weight, f64::from(c.m), c.start_mass).unwrap(),
            c.cap,
            &format!("cap {i}"),
        );
    }
    for (i, c) in vectors.mix.iter().enumerate() {
        let mut mix = Mix::new(c.k, c.cap, c.start_mass, c.epoch_blocks);
        for (event, want) in c.events.iter().zip(&c.log_e) {
            match event {
                MixEvent::Add(gains) => mix.add(gains, |gain| gain),
                MixEvent::Block(number) => mix.open_block(*number),
            }
            assert_near(mix.ln_e(), *want, &format!("mix {i}"));
        }
        assert_eq!(c.events.len(), c.log_e.len());
    }
}

#[test]
fn dispersion_and_history_agree() {
    let vectors = vectors();
    for (i, c) in vectors.dispersion.iter().enumerate() {
        let mut dispersion = Dispersion::with_prior(c.phi0, c.c0);
        for ([n_c, n_s, x_c, x_s], want) in c.blocks.iter().copied().zip(&c.phi) {
            dispersion.end_block(Window { n_c, n_s, x_c, x_s });
            assert_near(dispersion.phi(), *want, &format!("dispersion {i}"));
        }
    }
    for (i, c) in vectors.phi_from_history.iter().enumerate() {
        let history = History {
            block_s: 300.0,
            pods: c.pods.clone(),
        };
        assert_near(history.phi0().unwrap(), c.phi, &format!("phi_from_history {i}"));
    }
}

#[test]
fn margin_splits_agree() {
    let vectors = vectors();
    for (i, c) in vectors.margin_split.iter().enumerate() {
        let split = split_below(&c.bounds, &c.hist, c.j, c.shift);
        assert_eq!(split.bucket, c.i, "margin_split {i}");
        assert_near(split.part, c.f, &format!("margin_split {i}"));
    }
    assert_eq!(vectors.margin_split.len(), 27);
}

#[test]
fn counters_and_pairs_agree() {
    let vectors = vectors();
    for c in &vectors.counter {
        let mut counter = Counter::default();
        let got: Vec<_> = c
            .samples
            .iter()
            .map(|sample| counter.increments(sample.as_deref()))
            .collect();
        assert_eq!(got, c.increments);
    }
    for c in &vectors.pair {
        let mut pair = Pair::new(2);
        let push = |[canary, stable]: &[Option<Vec<f64>>; 2]| {
            pair.push(canary.as_deref(), stable.as_deref())
                .map(|window| [window.canary, window.stable])
        };
        assert_eq!(c.pushes.iter().map(push).collect::<Vec<_>>(), c.windows);
    }
}

#[test]
fn whole_rollouts_agree_after_every_look() {
    let rollouts = vectors().judge;
    assert_eq!(rollouts.len(), 13);
    for rollout in rollouts {
        let mut run = Run::new(&rollout.config, &rollout.history).unwrap();
        // The vectors stop at a fail, which is final.
        let fails = rollout.expect.last().is_some_and(|last| last.verdict == "fail");
        assert!(fails || rollout.looks.len() == rollout.expect.len(), "{}", rollout.name);
        for (i, (look, want)) in rollout.looks.iter().zip(&rollout.expect).enumerate() {
            let what = format!("{}, look {i}", rollout.name);
            let verdict = run.look_at(look).unwrap();
            let call = match verdict.call {
                Call::Pass => "pass",
                Call::Fail => "fail",
                Call::Undecided => "keep",
            };
            assert_eq!(call, want.verdict, "{what}: {}", verdict.reason);
            assert_near(verdict.evidence, want.log_e, &what);
            let pass: Vec<_> = verdict.metrics.iter().map(|metric| metric.pass_ln_p).collect();
            let pass_agrees = pass.len() == want.pass_log_e.len()
                && pass.iter().zip(&want.pass_log_e).all(|pair| match pair {
                    (Some(got), Some(want)) => near(*got, *want),
                    (None, None) => true,
                    _ => false,
                });
            assert!(pass_agrees, "{what}: pass {pass:?} should be {:?}", want.pass_log_e);
            let phi: Vec<_> = verdict.metrics.iter().map(phis).collect();
            assert!(
                phi.iter().zip(&want.phi).all(|(got, want)| phi_agrees(got, want)),
                "{what}: {phi:?} {:?}",
                want.phi
            );
        }
    }
}

fn phis(metric: &MetricEvidence) -> Vec<f64> {
    match &metric.seen {
        Seen::Latency { thresholds, .. } => thresholds.iter().map(|threshold| threshold.phi).collect(),
        Seen::Errors { .. } | Seen::Objective { .. } => vec![metric.phi],
        Seen::Gauge { .. } | Seen::Operations { .. } => Vec::new(),
    }
}

/// The vectors have a number for errors, a list for latency and null where there is none.
fn phi_agrees(got: &[f64], want: &Value) -> bool {
    let want: Vec<f64> = match want {
        Value::Array(list) => list.iter().filter_map(Value::as_f64).collect(),
        Value::Number(number) => number.as_f64().into_iter().collect(),
        _ => Vec::new(),
    };
    got.len() == want.len() && got.iter().zip(&want).all(|(got, want)| near(*got, *want))
}
