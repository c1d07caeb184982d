//! How soon is a canary found that fails outright? 100 requests a second in all, 5 % of them on the canary.

use super::count::{Row, play};
use super::scenarios::{Scenario, failing};
use super::settings::Settings;
use super::trial::Stage;

/// One stage at 5 %.
const STAGE: [Stage; 1] = [Stage {
    weight: 0.05,
    next_weight: 0.2,
    min_s: 60.0,
    max_s: 300.0,
}];

/// A fault, scrapes and settings; how soon it was found.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Speed {
    /// The share of requests that fails.
    pub fails: f64,
    /// Seconds between two scrapes.
    pub every_s: f64,
    /// Requests per second on the whole service.
    pub requests_per_second: f64,
    /// What came of it.
    #[serde(flatten)]
    pub row: Row,
}

/// All combinations.
pub fn speeds(releases: u64, seed: u64) -> Vec<Speed> {
    let mut speeds = Vec::new();
    for rps in [100.0, 1000.0] {
        for fails in [1.0, 0.5] {
            for every_s in [1.0, 2.0, 5.0] {
                for settings in [Settings::Reference, Settings::Usual, Settings::Auto] {
                    let scenario = Scenario {
                        rps,
                        every_s,
                        ..failing(fails)
                    };
                    speeds.push(Speed {
                        fails,
                        every_s,
                        requests_per_second: rps,
                        row: play(&scenario, settings, &STAGE, releases, seed),
                    });
                }
            }
        }
    }
    speeds
}
