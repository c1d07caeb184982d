//! Many releases of each scenario before each judge, counted.

use serde::Serialize;

use super::scenarios::{SCENARIOS, Scenario, Truth};
use super::settings::{Reader, Settings};
use super::trial::{End, Stage, Trial};

/// What became of the releases of one scenario before one judge.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Row {
    /// The scenario.
    pub scenario: &'static str,
    /// The judge's settings.
    pub settings: &'static str,
    /// Releases that were played.
    pub releases: u64,
    /// Those that were rolled back.
    pub rolled_back: u64,
    /// Median seconds from the beginning of the fault to the rollback, of those that were.
    pub median_s: Option<f64>,
    /// The same for 95 of 100.
    pub p95_s: Option<f64>,
    /// The share of stages that passed early.
    pub passed_early: f64,
    /// Looks in all.
    pub looks: u64,
}

/// METHOD.md's weights, each for one to five minutes.
pub const STAGES: [Stage; 4] = [stage(0.01, 0.05), stage(0.05, 0.2), stage(0.2, 0.5), stage(0.5, 1.0)];

const fn stage(weight: f64, next_weight: f64) -> Stage {
    Stage {
        weight,
        next_weight,
        min_s: 60.0,
        max_s: 300.0,
    }
}

/// Plays `releases` of a scenario before a judge with these settings.
pub fn play(scenario: &Scenario, settings: Settings, stages: &[Stage], releases: u64, seed: u64) -> Row {
    let ends: Vec<End> = (0..releases)
        .map(|number| {
            let mut trial = Trial::new(scenario, seed.wrapping_mul(1_000_003).wrapping_add(number));
            let history = trial.history();
            let mut reader = Reader::new(settings.config(scenario), history.as_ref());
            trial.play(stages, |look| reader.look(look))
        })
        .collect();
    let mut seconds: Vec<f64> = ends.iter().filter_map(End::seconds_to_detect).collect();
    seconds.sort_by(f64::total_cmp);
    let all = (releases.max(1) * stages.len() as u64) as f64;
    Row {
        scenario: scenario.name,
        settings: settings.name(),
        releases,
        rolled_back: seconds.len() as u64,
        median_s: quantile(&seconds, 0.5),
        p95_s: quantile(&seconds, 0.95),
        passed_early: ends.iter().map(|end| f64::from(end.passed)).sum::<f64>() / all,
        looks: ends.iter().map(|end| end.looks).sum(),
    }
}

/// The value below which this share of sorted values lies.
pub fn quantile(sorted: &[f64], share: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    sorted.get((share * last as f64).round() as usize).copied()
}

/// The scenarios of one truth.
pub fn scenarios(truth: Truth) -> impl Iterator<Item = &'static Scenario> {
    SCENARIOS.iter().filter(move |scenario| scenario.truth == truth)
}

/// One judge over all scenarios.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// The judge's settings.
    pub settings: &'static str,
    /// The share of healthy releases that were rolled back, mean over the scenarios.
    pub false_mean: f64,
    /// The same in the worst scenario.
    pub false_worst: f64,
    /// Which one that is.
    pub false_where: &'static str,
    /// The share of bad releases that were rolled back in the worst scenario.
    pub detected_worst: f64,
    /// Which one that is.
    pub detected_where: &'static str,
}

/// Sums up what one judge did; scenarios beyond the promise do not count.
pub fn summary(settings: Settings, rows: &[(Truth, Row)]) -> Summary {
    let mut summary = Summary {
        settings: settings.name(),
        detected_worst: 1.0,
        false_where: "-",
        detected_where: "-",
        ..Summary::default()
    };
    let mut healthy = 0.0;
    for (truth, row) in rows.iter().filter(|(_, row)| row.settings == settings.name()) {
        let share = row.rolled_back as f64 / row.releases.max(1) as f64;
        match truth {
            Truth::Healthy => {
                healthy += 1.0;
                summary.false_mean += share;
                if share > summary.false_worst {
                    (summary.false_worst, summary.false_where) = (share, row.scenario);
                }
            }
            Truth::Bad => {
                if share < summary.detected_worst {
                    (summary.detected_worst, summary.detected_where) = (share, row.scenario);
                }
            }
            Truth::Beyond => {}
        }
    }
    summary.false_mean /= f64::max(healthy, 1.0);
    summary
}
