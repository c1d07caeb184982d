//! How much of stable's own past is enough to believe that a quiet minute is health?
//!
//! A stage passes early when its errors show that the canary is within the pass tolerance. Errors that come in bursts
//! make that wrong in one way: between two bursts a canary at the tolerance looks perfect. How bursty they are is
//! learned from stable's pods beforehand, and here is tried from how little: a canary *at* the tolerance of its stage,
//! as bursty as its service, must pass in at most beta (5 %) of all stages.

use serde::Serialize;

use super::scenarios::{Scenario, bursty};
use super::service::{Behaviour, Hiccups};
use super::settings::{Reader, Settings};
use super::trial::{Stage, Trial, past};
use crate::judge::config::{ErrorsPass, MetricKind};

/// How long the stage that is tried may take.
const MAX_S: f64 = 300.0;

/// Stable's past, and how often a canary at the tolerance passed.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Early {
    /// Pods of the service.
    pub pods: u32,
    /// Blocks that were recorded.
    pub blocks: usize,
    /// Seconds of one.
    pub block_s: f64,
    /// The worst scenario.
    pub scenario: &'static str,
    /// The stage's weight there.
    pub weight: f64,
    /// The share of canaries at the tolerance that passed there.
    pub worst: f64,
    /// The same over all scenarios and stages.
    pub mean: f64,
    /// The share of *healthy* canaries that passed, over all.
    pub healthy: f64,
}

/// Tries this much past on every bursty scenario and these stages.
pub fn early(pods: u32, blocks: usize, block_s: f64, stages: &[Stage], releases: u64, seed: u64) -> Early {
    let mut worst = ("", 0.0, -1.0);
    let (mut sum, mut healthy, mut tried) = (0.0, 0.0, 0.0);
    for usual in bursty() {
        let usual = Scenario { pods, ..usual };
        for stage in stages {
            let stage = Stage { max_s: MAX_S, ..*stage };
            let edge = Scenario {
                new_usual: Some(at_tolerance(&usual, &stage)),
                ..usual
            };
            let share = passed(&edge, &stage, blocks, block_s, releases, seed);
            healthy += passed(&usual, &stage, blocks, block_s, releases.div_ceil(4), seed);
            sum += share;
            tried += 1.0;
            if share > worst.2 {
                worst = (usual.name, stage.weight, share);
            }
        }
    }
    Early {
        pods,
        blocks,
        block_s,
        scenario: worst.0,
        weight: worst.1,
        worst: worst.2,
        mean: sum / tried,
        healthy: healthy / tried,
    }
}

/// The share of releases whose only stage passed.
fn passed(scenario: &Scenario, stage: &Stage, blocks: usize, block_s: f64, releases: u64, seed: u64) -> f64 {
    let passed = (0..releases).filter(|number| {
        let mut trial = Trial::new(scenario, seed.wrapping_mul(1_000_003).wrapping_add(*number)).untimed();
        let history = (blocks > 0).then(|| past(scenario, blocks, block_s, trial.chance()));
        let mut config = Settings::Usual.config(scenario);
        config.pass_without_history = true;
        config
            .metrics
            .retain(|metric| matches!(metric.kind, MetricKind::Errors(_)));
        let mut reader = Reader::new(config, history.as_ref());
        trial.play(&[*stage], |look| reader.look(look)).passed > 0
    });
    passed.count() as f64 / releases.max(1) as f64
}

/// The new revision as bad as a pass of this stage tolerates, all that is too much in bursts.
fn at_tolerance(scenario: &Scenario, stage: &Stage) -> Behaviour {
    let pass = ErrorsPass::default();
    let usual = scenario.usual;
    let hiccups = |hiccups: &Hiccups| {
        let (shortest, longest) = hiccups.seconds;
        hiccups.fails * 0.5 * (shortest + longest) / 3600.0
    };
    let in_hiccups = usual.hiccups.map_or(0.0, |own| own.per_pod_hour * hiccups(&own));
    let stable = usual.errors + in_hiccups;
    let budget = (pass.of_total_traffic / stage.next_weight).min(pass.absolute_max);
    let wanted = (1.0 + pass.relative) * stable + budget;
    match usual.hiccups {
        Some(own) => Behaviour {
            hiccups: Some(Hiccups {
                per_pod_hour: (wanted - usual.errors) / hiccups(&own),
                ..own
            }),
            ..usual
        },
        None => Behaviour {
            errors: wanted,
            ..usual
        },
    }
}

/// Amounts of past that the table shows: pods, blocks, seconds of a block.
pub const AMOUNTS: [(u32, usize, f64); 13] = [
    (2, 0, 60.0),
    (2, 10, 60.0),
    (2, 30, 60.0),
    (2, 60, 60.0),
    (4, 10, 60.0),
    (4, 20, 60.0),
    (4, 30, 60.0),
    (20, 2, 60.0),
    (20, 5, 60.0),
    (20, 10, 60.0),
    (60, 2, 60.0),
    (60, 5, 60.0),
    (60, 10, 60.0),
];
