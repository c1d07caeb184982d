//! Cumulative counters into increments, for sources that only know running sums (the wire protocol, recordings).
//!
//! Sources that see single series take differences per series themselves; see `signals`.

use serde::{Deserialize, Serialize};

/// The running sums of one side. They start at 0 when the release starts, so the first sample is an increment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Counter {
    previous: Option<Vec<f64>>,
}

impl Counter {
    /// What was added since the last sample. `None` if there is no sample, or if any sum went down: after a restart
    /// one sum cannot tell what happened in between, so that interval gives no evidence.
    pub fn increments(&mut self, sample: Option<&[f64]>) -> Option<Vec<f64>> {
        let sample = sample?;
        let Some(previous) = self.previous.replace(sample.to_vec()) else {
            return Some(sample.to_vec());
        };
        let both = || sample.iter().zip(&previous);
        let reset = both().any(|(now, before)| now < before);
        (!reset).then(|| both().map(|(now, before)| now - before).collect())
    }
}
