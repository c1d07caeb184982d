//! Windows in which both sides have requests.
//!
//! Scrapes of two sides are skewed, get lost or find nothing at low traffic. Increments are therefore held until both
//! sides have moved, and then compared as one window: nothing is lost and nothing is compared with nothing.

use serde::{Deserialize, Serialize};

use super::observation::Sides;

/// Increments waiting for the other side. The first column counts requests.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Pair {
    held: Sides<Vec<f64>>,
}

impl Pair {
    pub(crate) fn new(columns: usize) -> Self {
        Pair {
            held: Sides {
                canary: vec![0.0; columns],
                stable: vec![0.0; columns],
            },
        }
    }

    /// Forgets what one column holds: from now on it counts something else.
    pub(crate) fn clear_column(&mut self, column: usize) {
        for held in [&mut self.held.canary, &mut self.held.stable] {
            if let Some(value) = held.get_mut(column) {
                *value = 0.0;
            }
        }
    }

    /// Adds increments; returns what both sides did since the last window once both have requests.
    pub(crate) fn push(&mut self, canary: Option<&[f64]>, stable: Option<&[f64]>) -> Option<Sides<Vec<f64>>> {
        for (held, increment) in [(&mut self.held.canary, canary), (&mut self.held.stable, stable)] {
            for (sum, value) in held.iter_mut().zip(increment.unwrap_or_default()) {
                *sum += value;
            }
        }
        let both = [&self.held.canary, &self.held.stable]
            .into_iter()
            .all(|held| held.first().is_some_and(|n| *n > 0.0));
        both.then(|| {
            let columns = self.held.canary.len();
            std::mem::replace(self, Pair::new(columns)).held
        })
    }
}
