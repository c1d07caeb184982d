//! The design effect phi: by how much bursts make counts look more certain than they are (METHOD.md 2.4).
//!
//! Estimated from whole blocks, as the squared distance between the canary's events and what its share of the traffic
//! and the running ratio predict, over what independence would give. Dividing ln e by a phi >= 1 that is known before
//! the block keeps the bets fair. Without it (and without the cap) healthy but bursty canaries are rolled back half of
//! the time.

use serde::{Deserialize, Serialize};

use super::evalue::Window;

/// Weight of the prior when history told phi.
const PRIOR_HISTORY: f64 = 50.0;
/// Weight of the prior phi = 1 without history.
const PRIOR_NONE: f64 = 10.0;
/// Forgetting per block of the running ratio.
const MEMORY: f64 = 0.97;
/// Pseudo-events of the running ratio.
const PSEUDO: f64 = 0.5;

/// A running estimate of phi.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Dispersion {
    num: f64,
    den: f64,
    events_c: f64,
    events_s: f64,
}

impl Dispersion {
    /// Starts from what history told, if it did.
    pub(crate) fn new(phi0: Option<f64>) -> Self {
        match phi0 {
            Some(phi0) => Self::with_prior(phi0, PRIOR_HISTORY),
            None => Self::with_prior(1.0, PRIOR_NONE),
        }
    }

    pub(crate) fn with_prior(phi0: f64, weight: f64) -> Self {
        Dispersion {
            num: weight * phi0,
            den: weight,
            events_c: 0.0,
            events_s: 0.0,
        }
    }

    /// phi from the blocks that have ended.
    pub(crate) fn phi(&self) -> f64 {
        (self.num / self.den).max(1.0)
    }

    /// Learns from the totals of a block. A block without requests on a side teaches nothing.
    pub(crate) fn end_block(&mut self, block: Window) {
        if block.n_c <= 0.0 || block.n_s <= 0.0 {
            return;
        }
        let (n, m) = (block.n_c + block.n_s, block.x_c + block.x_s);
        let w = block.n_c / n;
        self.events_c = MEMORY * self.events_c + block.x_c * (1.0 - w);
        self.events_s = MEMORY * self.events_s + block.x_s * w;
        let r = (self.events_c + PSEUDO) / (self.events_s + PSEUDO);
        let share = r * w / (r * w + 1.0 - w);
        self.num += (block.x_c - m * share).powi(2);
        self.den += m * share * (1.0 - share) * (1.0 - m / n).max(0.0);
    }
}
