//! What all metrics of a judge share, and the plain rule beside it.

use serde::{Deserialize, Serialize};

use super::capital::{Mix, cap_for, epoch_blocks};
use super::config::{Blocks, Config, Tripwire};
use super::history::History;

/// The share of a mix's money that is bet from the start when some is kept for later epochs.
const START: f64 = 0.5;

/// The judge's settings as its metrics need them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Terms {
    pub(crate) alpha: f64,
    pub(crate) beta: f64,
    pub(crate) block_s: f64,
    pub(crate) severe_block_s: f64,
    pub(crate) severe_blocks: f64,
    pub(crate) min_blocks: u32,
    pub(crate) epoch_s: f64,
    pub(crate) phi0: Option<f64>,
}

impl Terms {
    pub(crate) fn new(config: &Config, history: Option<&History>) -> Self {
        let usual = Blocks {
            burst_window_s: config.burst_window_s,
            min_blocks: config.min_blocks,
        };
        let calm = history.is_some_and(History::shows_calm);
        let blocks = config.when_calm.filter(|_| calm).unwrap_or(usual);
        let phi0 = history.and_then(History::phi0);
        Terms {
            alpha: config.alpha,
            beta: config.beta,
            block_s: blocks.burst_window_s,
            severe_block_s: config.severe_block_s,
            severe_blocks: config.severe_blocks,
            min_blocks: blocks.min_blocks,
            epoch_s: config.epoch_s,
            phi0,
        }
    }

    /// Bets that can fail the canary, for a component with this share of alpha.
    pub(crate) fn fail_mix(&self, bets: usize, weight: f64) -> Mix {
        self.late_mix(bets, weight, f64::from(self.min_blocks), self.block_s)
    }

    /// The same on the short blocks of the severe channel.
    pub(crate) fn severe_mix(&self, bets: usize, weight: f64) -> Mix {
        self.late_mix(bets, weight, self.severe_blocks, self.severe_block_s)
    }

    /// Bets that can pass a stage: all money at once, beta for each metric, because all of them must agree.
    pub(crate) fn pass_mix(&self, bets: usize) -> Mix {
        Mix::new(bets, cap_for(self.beta, 1.0, f64::from(self.min_blocks), 1.0), 1.0, 0)
    }

    /// Bets without a cap, one pair of gauges per `every_s`.
    pub(crate) fn gauge_mix(&self, bets: usize, every_s: f64) -> Mix {
        Mix::new(bets, None, START, epoch_blocks(self.epoch_s, every_s))
    }

    fn late_mix(&self, bets: usize, weight: f64, blocks: f64, block_s: f64) -> Mix {
        Mix::new(
            bets,
            cap_for(self.alpha, weight, blocks, START),
            START,
            epoch_blocks(self.epoch_s, block_s),
        )
    }
}

/// A tripwire and how many looks in a row have exceeded it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Wire {
    rule: Tripwire,
    row: u32,
    /// The last look that counted.
    last: [f64; 2],
}

/// What a tripped wire saw.
pub(crate) struct Tripped<'a> {
    pub(crate) rule: &'a Tripwire,
    pub(crate) total: f64,
    pub(crate) bad: f64,
}

impl Wire {
    pub(crate) fn new(rule: Option<&Tripwire>) -> Option<Self> {
        rule.map(|rule| Wire {
            rule: rule.clone(),
            row: 0,
            last: [0.0; 2],
        })
    }

    pub(crate) fn look(&mut self, canary: Option<[f64; 2]>) {
        let Some([total, bad]) = canary.filter(|[total, _]| *total > 0.0 && *total >= self.rule.min_requests) else {
            return;
        };
        self.last = [total, bad];
        self.row = if bad > self.rule.max_ratio * total {
            self.row.saturating_add(1)
        } else {
            0
        };
    }

    pub(crate) fn tripped(&self) -> Option<Tripped<'_>> {
        let [total, bad] = self.last;
        (self.row >= self.rule.looks.max(1)).then_some(Tripped {
            rule: &self.rule,
            total,
            bad,
        })
    }
}
