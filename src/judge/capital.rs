//! The money behind the bets: METHOD.md 2.4.
//!
//! A [`Mix`] starts with 1 and spreads it over a grid of alternatives. Three rules keep it honest and fast. What one
//! block of time may *add* is capped (losses never), so that one hiccup cannot decide anything. Part of the money starts
//! later, a little each epoch, so that a regression in minute 15 meets bets that have not been lost yet. And all money
//! stays in the mix, so that its mean is at most 1 whenever one looks, if the canary is fine.
//!
//! Blocks are closed when data of a later block arrive, not when time passes: a look without data changes nothing.

use serde::{Deserialize, Serialize};

/// The share of the remaining cash that each epoch puts into the bets.
const HAZARD: f64 = 1.0 / 32.0;
/// Slightly more than a third of the way, so that three full blocks are enough in spite of rounding.
const CAP_SLACK: f64 = 1.0001;
/// Times are clamped to this (ten years), so that a broken clock costs a bounded number of epochs.
pub(crate) const MAX_TIME_S: f64 = 3.2e8;

/// Bets of one metric on a grid of alternatives.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Mix {
    /// The most that the open block may add to a bet (ln).
    cap: Option<f64>,
    /// Blocks per epoch; 0 puts nothing aside for later.
    epoch_blocks: u64,
    /// Per bet: ln of its money at the end of the last closed block.
    capital: Vec<f64>,
    /// Per bet: ln e of the open block.
    open: Vec<f64>,
    /// Money not bet yet.
    cash: f64,
    /// Epochs whose start has been paid for.
    epoch: u64,
}

impl Mix {
    /// `bets` bets that share `start` of the money, the rest in cash for later epochs.
    pub(crate) fn new(bets: usize, cap: Option<f64>, start: f64, epoch_blocks: u64) -> Self {
        Mix {
            cap,
            epoch_blocks,
            capital: vec![start.ln() - (bets as f64).ln(); bets],
            open: vec![0.0; bets],
            cash: 1.0 - start,
            epoch: 0,
        }
    }

    /// Closes the open block and opens block `number` (counted from 0, increasing).
    pub(crate) fn open_block(&mut self, number: u64) {
        for (capital, open) in self.capital.iter_mut().zip(&mut self.open) {
            *capital += capped(*open, self.cap);
            *open = 0.0;
        }
        let Some(epoch) = number.checked_div(self.epoch_blocks) else {
            return;
        };
        while self.epoch < epoch {
            self.epoch += 1;
            if self.invest(HAZARD) <= 0.0 {
                self.epoch = epoch;
            }
        }
    }

    /// Takes note that the bets begin in block `number`: earlier epochs are not made up for.
    pub(crate) fn begin_in_block(&mut self, number: u64) {
        self.epoch = number.checked_div(self.epoch_blocks).unwrap_or(0);
    }

    /// Puts a share of the cash into the bets, evenly; returns how much money that was.
    pub(crate) fn invest(&mut self, share: f64) -> f64 {
        let added = share * self.cash;
        if added > 0.0 {
            self.cash -= added;
            let each = added.ln() - (self.capital.len() as f64).ln();
            for capital in &mut self.capital {
                *capital = ln_add(*capital, each);
            }
        }
        added
    }

    /// Adds a window's ln e to each bet: `gain(alternative)` over the grid.
    pub(crate) fn add(&mut self, grid: &[f64], gain: impl Fn(f64) -> f64) {
        self.add_after(0, grid, gain);
    }

    /// The same for the bets after the first `skipped`, whose alternatives are on another grid.
    pub(crate) fn add_after(&mut self, skipped: usize, grid: &[f64], gain: impl Fn(f64) -> f64) {
        for (open, alternative) in self.open.iter_mut().skip(skipped).zip(grid) {
            *open += gain(*alternative);
        }
    }

    /// ln E: all the money, the open block capped.
    pub(crate) fn ln_e(&self) -> f64 {
        let money = self
            .capital
            .iter()
            .zip(&self.open)
            .map(|(capital, open)| capital + capped(*open, self.cap));
        let bets = ln_sum(money);
        if self.cash > 0.0 {
            ln_add(bets, self.cash.ln())
        } else {
            bets
        }
    }
}

fn capped(gain: f64, cap: Option<f64>) -> f64 {
    cap.map_or(gain, |cap| gain.min(cap))
}

/// The cap with which `blocks` blocks must agree before a component of this weight reaches its level from the start.
/// `None` (nothing to cap) for a component without weight: it decides nothing.
pub(crate) fn cap_for(level: f64, weight: f64, blocks: f64, start: f64) -> Option<f64> {
    let cap = (1.0 / (level * weight * start)).ln() / blocks * CAP_SLACK;
    cap.is_finite().then_some(cap)
}

/// The block that a look at `t_s` closes or fills: looks at the end of a block belong to it.
pub(crate) fn block_number(t_s: f64, block_s: f64) -> u64 {
    // A negative or infinite quotient ends at a bound: the cast saturates.
    ((t_s.min(MAX_TIME_S) / block_s - 1e-9).ceil() - 1.0).max(0.0) as u64
}

/// Blocks per epoch, at least one.
pub(crate) fn epoch_blocks(epoch_s: f64, block_s: f64) -> u64 {
    (epoch_s / block_s).round_ties_even().max(1.0) as u64
}

/// ln(exp a + exp b)
pub(crate) fn ln_add(a: f64, b: f64) -> f64 {
    if a == f64::NEG_INFINITY {
        return b;
    }
    if b == f64::NEG_INFINITY {
        return a;
    }
    a.max(b) + (-(a - b).abs()).exp().ln_1p()
}

/// ln of a sum of exponentials, added in the order given; minus infinity for none.
pub(crate) fn ln_sum(terms: impl Iterator<Item = f64> + Clone) -> f64 {
    let largest = terms.clone().fold(f64::NEG_INFINITY, f64::max);
    if largest == f64::NEG_INFINITY {
        return largest;
    }
    largest + terms.map(|term| (term - largest).exp()).sum::<f64>().ln()
}
