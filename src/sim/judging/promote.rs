//! How long does a good release take until everybody has it? Each stage ends as soon as it is proven.

use serde::Serialize;

use super::count::quantile;
use super::scenarios::{Scenario, calm};
use super::settings::{Reader, Settings};
use super::trial::{End, Stage, Trial};

/// Traffic, settings, and how long a healthy release took.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Promotion {
    /// Requests per second on the whole service.
    pub requests_per_second: f64,
    /// The judge's settings.
    pub settings: &'static str,
    /// Releases that were played.
    pub releases: u64,
    /// Median seconds from the canary's first request to everybody.
    pub median_s: Option<f64>,
    /// The same for 95 of 100.
    pub p95_s: Option<f64>,
    /// Median seconds of each stage.
    pub stages_s: Vec<f64>,
    /// Releases of which every stage was proven.
    pub proven: u64,
    /// Releases that were rolled back although healthy.
    pub rolled_back: u64,
}

/// Plays `releases` of a calm service through these stages, at 1,000, 100 and 10 requests per second.
pub fn promotions(stages: &[Stage], every_s: f64, releases: u64, seed: u64) -> Vec<Promotion> {
    let mut promotions = Vec::new();
    for rps in [1000.0, 100.0, 10.0] {
        let scenario = Scenario { every_s, ..calm(rps) };
        for settings in [Settings::Usual, Settings::Auto] {
            promotions.push(promotion(&scenario, settings, stages, releases, seed));
        }
    }
    promotions
}

fn promotion(scenario: &Scenario, settings: Settings, stages: &[Stage], releases: u64, seed: u64) -> Promotion {
    let ends: Vec<End> = (0..releases)
        .map(|number| {
            let mut trial = Trial::new(scenario, seed.wrapping_mul(1_000_003).wrapping_add(number));
            let history = trial.history();
            let mut reader = Reader::new(settings.config(scenario), history.as_ref());
            trial.play(stages, |look| reader.look(look))
        })
        .collect();
    let mut seconds: Vec<f64> = ends
        .iter()
        .filter(|end| !end.rolled_back)
        .map(|end| end.served_s)
        .collect();
    seconds.sort_by(f64::total_cmp);
    let count = |what: fn(&End, usize) -> bool| ends.iter().filter(|end| what(end, stages.len())).count() as u64;
    let stage = |number: usize| {
        let mut taken: Vec<f64> = ends
            .iter()
            .filter_map(|end| end.stages_s.get(number).copied())
            .collect();
        taken.sort_by(f64::total_cmp);
        quantile(&taken, 0.5)
    };
    Promotion {
        stages_s: (0..stages.len()).filter_map(stage).collect(),
        requests_per_second: scenario.rps,
        settings: settings.name(),
        releases,
        median_s: quantile(&seconds, 0.5),
        p95_s: quantile(&seconds, 0.95),
        proven: count(|end, stages| end.passed as usize == stages),
        rolled_back: count(|end, _| end.rolled_back),
    }
}
