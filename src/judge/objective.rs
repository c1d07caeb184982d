//! Bad events of the canary against a constant that somebody promised (`max: 5%`), whatever stable does.
//!
//! The rate e-value with stable replaced by a constant (METHOD.md 2.3). It needs no stable, so it also works while
//! baking; the price is that an incident which hits both sides fails the canary.

use serde::{Deserialize, Serialize};

use super::capital::{Mix, block_number};
use super::config::ObjectiveConfig;
use super::evalue::{GRID_FAIL, GRID_PASS, constant};
use super::intake::{Tally, admit, counts};
use super::interval::Interval;
use super::observation::{Increment, Sides};
use super::planning;
use super::terms::{Terms, Wire};
use super::verdict::Seen;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Objective {
    max_ratio: f64,
    weight: f64,
    terms: Terms,
    fail: Mix,
    pass: Mix,
    block: u64,
    wire: Option<Wire>,
    tally: Tally,
    dropped: u64,
}

impl Objective {
    pub(crate) fn new(config: &ObjectiveConfig, weight: f64, terms: Terms) -> Self {
        Objective {
            max_ratio: config.max_ratio,
            weight,
            terms,
            fail: terms.fail_mix(GRID_FAIL.len(), weight),
            pass: terms.pass_mix(GRID_PASS.len()),
            block: 0,
            wire: Wire::new(config.tripwire.as_ref()),
            tally: Tally::default(),
            dropped: 0,
        }
    }

    pub(crate) fn start_stage(&mut self) {
        self.pass = self.terms.pass_mix(GRID_PASS.len());
        self.tally.start_stage();
    }

    pub(crate) fn learn(&mut self, phi0: f64) {
        self.terms.phi0 = Some(phi0);
    }

    pub(crate) fn look(&mut self, t_s: f64, sides: &Sides<Option<Increment>>) {
        let seen = admit(sides, &mut self.dropped, counts);
        self.tally.add(&seen);
        let Some([total, bad]) = seen.canary.filter(|counts| counts.iter().any(|count| *count > 0.0)) else {
            return;
        };
        if let Some(wire) = &mut self.wire {
            wire.look(seen.canary);
        }
        let block = block_number(t_s, self.terms.block_s);
        if block > self.block {
            self.fail.open_block(block);
            self.pass.open_block(block);
            self.block = block;
        }
        let (max_ratio, phi) = (self.max_ratio, self.phi());
        self.fail.add(&GRID_FAIL, |a| constant(total, bad, max_ratio, a) / phi);
        self.pass.add(&GRID_PASS, |a| constant(total, bad, max_ratio, a) / phi);
    }

    pub(crate) fn fail_terms(&self) -> [(f64, f64); 1] {
        [(self.weight, self.fail.ln_e())]
    }

    pub(crate) fn pass_ln_p(&self) -> f64 {
        self.pass.ln_e()
    }

    /// What history showed: without a second side there is nothing to estimate it from.
    pub(crate) fn phi(&self) -> f64 {
        self.terms.phi0.unwrap_or(1.0)
    }

    pub(crate) fn dropped(&self) -> u64 {
        self.dropped
    }

    pub(crate) fn wire(&self) -> Option<&Wire> {
        self.wire.as_ref()
    }

    pub(crate) fn seen(&self) -> Seen {
        Seen::Objective {
            release: self.tally.release(),
            stage: self.tally.stage(),
            max_ratio: self.max_ratio,
        }
    }

    pub(crate) fn interval(&self) -> Interval {
        let canary = self.tally.release().canary;
        Interval::against_constant(canary.total, canary.bad, self.max_ratio, self.phi())
    }

    pub(crate) fn smallest_ratio(&self) -> Option<f64> {
        let requests = self.tally.release().canary.total;
        planning::visible_by_now_against_constant(requests, self.max_ratio, self.phi())
    }
}
