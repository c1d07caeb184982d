//! The judge: observations in, verdict with evidence out.
pub mod config;
pub mod history;
mod intake;
pub mod observation;
pub mod planning;
pub mod verdict;

use serde::{Deserialize, Serialize};

pub use config::Config;
pub use history::{History, HistoryRecorder};
pub use observation::{Increment, MetricName, Observation, Sides};
pub use verdict::{Call, MetricEvidence, Verdict};

/// Judges one release. Its whole state is serialisable.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Judge {
    config: Config,
}

impl Judge {
    /// A judge without evidence.
    pub fn new(config: Config, _history: Option<&History>) -> Self {
        Judge { config }
    }

    /// A stage begins; what would pass it is collected anew.
    pub fn start_stage(&mut self, _stage: u32, _at_s: f64, _next_weight: f64) {}

    /// All traffic is the canary's: from now on it is judged by absolute guards.
    pub fn start_bake(&mut self, _at_s: f64) {}

    /// Takes in what was seen since the last look and says what is known.
    pub fn look(&mut self, _t_s: f64, _seen: &Observation) -> Verdict {
        Verdict {
            call: Call::Undecided,
            suspicious: false,
            tripped: false,
            evidence: 0.0,
            needed: -self.config.alpha.ln(),
            blame: None,
            reason: String::new(),
            metrics: Vec::new(),
        }
    }
}
