//! A number per side without counts (queue lag, memory, a ratio from somebody's query) against stable's.
//!
//! A sign bet on thinned pairs: is the canary above what is allowed more often than not? Nothing is assumed about the
//! distribution, so it is slow (at least 9 pairs) and safe only with a margin and an interval that is longer than the
//! gauge's memory. METHOD.md 2.3.

use serde::{Deserialize, Serialize};

use super::capital::{Mix, block_number};
use super::config::GaugeConfig;
use super::evalue::{STAKES, sign};
use super::intake::{admit, value};
use super::observation::{Increment, Sides};
use super::terms::Terms;
use super::verdict::Seen;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Gauge {
    config: GaugeConfig,
    weight: f64,
    fail: Mix,
    pass: Mix,
    /// The interval of the last pair that counted.
    interval: Option<u64>,
    last: Sides<Option<f64>>,
    pairs: u64,
    above: u64,
    dropped: u64,
}

impl Gauge {
    pub(crate) fn new(config: &GaugeConfig, weight: f64, terms: Terms) -> Self {
        Gauge {
            config: config.clone(),
            weight,
            fail: terms.gauge_mix(STAKES.len(), config.every_s),
            pass: Self::pass_mix(),
            interval: None,
            last: Sides::default(),
            pairs: 0,
            above: 0,
            dropped: 0,
        }
    }

    fn pass_mix() -> Mix {
        Mix::new(STAKES.len(), None, 1.0, 0)
    }

    pub(crate) fn start_stage(&mut self) {
        self.pass = Self::pass_mix();
    }

    pub(crate) fn look(&mut self, t_s: f64, sides: &Sides<Option<Increment>>, baking: bool) {
        let seen = admit(sides, &mut self.dropped, value);
        self.last = Sides {
            canary: seen.canary.or(self.last.canary),
            stable: seen.stable.or(self.last.stable),
        };
        let (Some(canary), Some(stable), false) = (seen.canary, seen.stable, baking) else {
            return;
        };
        let interval = block_number(t_s, self.config.every_s);
        if self.interval.is_some_and(|last| interval <= last) {
            return;
        }
        self.interval = Some(interval);
        self.fail.open_block(interval);
        self.pass.open_block(interval);
        let above = canary > (1.0 + self.config.rel) * stable + self.config.abs;
        self.fail.add(&STAKES, |stake| sign(above, stake));
        self.pass.add(&STAKES, |stake| sign(above, -stake));
        self.pairs += 1;
        self.above += u64::from(above);
    }

    pub(crate) fn fail_terms(&self) -> [(f64, f64); 1] {
        [(self.weight, self.fail.ln_e())]
    }

    pub(crate) fn pass_ln_p(&self) -> f64 {
        self.pass.ln_e()
    }

    pub(crate) fn dropped(&self) -> u64 {
        self.dropped
    }

    pub(crate) fn seen(&self) -> Seen {
        Seen::Gauge {
            last: self.last,
            pairs: self.pairs,
            above: self.above,
        }
    }
}
