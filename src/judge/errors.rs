//! Errors (any bad events) of the canary against stable's, and against a constant while baking.
//!
//! Two bets share the metric's money: the main one on error counts, slow to believe and blind to bursts, and the severe
//! one on successes, which needs only that the canary answers less than half as often as stable and so finds a canary
//! that is down in three short blocks. Both cancel incidents that hit both sides.

use serde::{Deserialize, Serialize};

use super::capital::{Mix, block_number};
use super::config::ErrorsConfig;
use super::dispersion::Dispersion;
use super::evalue::{GRID_FAIL, GRID_PASS, GRID_SEVERE, Window, constant, rate};
use super::intake::{Tally, admit, counts};
use super::interval::{Interval, Likelihood};
use super::observation::{Increment, Sides};
use super::pairing::Pair;
use super::planning;
use super::terms::{Terms, Wire};
use super::verdict::Seen;

/// The severe channel's share of the metric's money.
const SEVERE_SHARE: f64 = 0.1;
/// Severe means: less than this share of stable's success ratio.
const SEVERE_SUCCESS: f64 = 0.5;
/// While baking, errors up to this share are never news.
const BAKE_MIN_RATIO: f64 = 0.02;
/// While baking, errors up to this many times what stable showed in the release are not news either.
const BAKE_STABLE_FACTOR: f64 = 5.0;
/// The share of the money kept for later that is bet when the bake begins, as earlier bets may be lost by then.
const BAKE_START: f64 = 0.5;
/// The next weight before the first stage is announced.
const FIRST_WEIGHT: f64 = 0.05;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Errors {
    config: ErrorsConfig,
    weight: f64,
    terms: Terms,
    main: Mix,
    severe: Mix,
    pass: Mix,
    pass_extra: f64,
    dispersion: Dispersion,
    phi: f64,
    pair: Pair,
    block: u64,
    severe_block: u64,
    /// Totals of the open block: n_c, n_s, x_c, x_s.
    in_block: [f64; 4],
    bake: Option<Bake>,
    wire: Option<Wire>,
    tally: Tally,
    /// What the windows say about the ratio of both sides' shares.
    #[serde(default)]
    ratio: Likelihood,
    dropped: u64,
}

/// What replaces stable while baking.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Bake {
    /// The share of errors that the canary may have.
    max_ratio: f64,
    /// The success ratio below which it counts as severe.
    min_success: f64,
}

impl Errors {
    pub(crate) fn new(config: &ErrorsConfig, weight: f64, terms: Terms) -> Self {
        let dispersion = Dispersion::new(terms.phi0);
        let mut errors = Errors {
            config: config.clone(),
            weight,
            terms,
            main: terms.fail_mix(GRID_FAIL.len(), weight * (1.0 - SEVERE_SHARE)),
            severe: terms.severe_mix(GRID_SEVERE.len(), weight * SEVERE_SHARE),
            pass: terms.pass_mix(GRID_PASS.len()),
            pass_extra: 0.0,
            phi: dispersion.phi(),
            dispersion,
            pair: Pair::new(2),
            block: 0,
            severe_block: 0,
            in_block: [0.0; 4],
            bake: None,
            wire: Wire::new(config.tripwire.as_ref()),
            tally: Tally::default(),
            ratio: Likelihood::default(),
            dropped: 0,
        };
        errors.start_stage(FIRST_WEIGHT);
        errors
    }

    pub(crate) fn start_stage(&mut self, next_weight: f64) {
        let pass = &self.config.pass;
        self.pass_extra = (pass.of_total_traffic / next_weight.max(1e-9)).min(pass.absolute_max);
        self.pass = self.terms.pass_mix(GRID_PASS.len());
        self.bake = None;
        self.tally.start_stage();
    }

    pub(crate) fn learn(&mut self, phi0: f64) {
        self.terms.phi0 = Some(phi0);
    }

    /// From now on the canary has all traffic. The evidence so far stays; what is added is measured against a constant
    /// (METHOD.md 2.3), which is as fair a bet, so the two may be multiplied.
    pub(crate) fn start_bake(&mut self) {
        let stable = self.tally.release().stable.rate.unwrap_or(0.0).min(1.0);
        self.bake = Some(Bake {
            max_ratio: BAKE_MIN_RATIO.max(BAKE_STABLE_FACTOR * stable),
            min_success: SEVERE_SUCCESS * (1.0 - stable),
        });
        self.main.invest(BAKE_START);
        self.severe.invest(BAKE_START);
        self.pair = Pair::new(2);
        self.tally.start_stage();
    }

    pub(crate) fn look(&mut self, t_s: f64, sides: &Sides<Option<Increment>>) {
        let seen = admit(sides, &mut self.dropped, counts);
        if ![seen.canary, seen.stable]
            .iter()
            .flatten()
            .flatten()
            .any(|count| *count > 0.0)
        {
            return;
        }
        self.tally.add(&seen);
        if let Some(wire) = &mut self.wire {
            wire.look(seen.canary);
        }
        self.open_blocks(t_s);
        match self.bake {
            None => {
                if let Some(window) = self.pair.push(
                    seen.canary.as_ref().map(|c| &c[..]),
                    seen.stable.as_ref().map(|s| &s[..]),
                ) {
                    self.compare(&window);
                }
            }
            Some(bake) => self.guard(bake, seen.canary.unwrap_or_default()),
        }
    }

    fn open_blocks(&mut self, t_s: f64) {
        let block = block_number(t_s, self.terms.block_s);
        if block > self.block {
            let [n_c, n_s, x_c, x_s] = std::mem::take(&mut self.in_block);
            self.dispersion.end_block(Window { n_c, n_s, x_c, x_s });
            self.phi = self.dispersion.phi();
            self.main.open_block(block);
            self.pass.open_block(block);
            self.block = block;
        }
        let severe_block = block_number(t_s, self.terms.severe_block_s);
        if severe_block > self.severe_block {
            self.severe.open_block(severe_block);
            self.severe_block = severe_block;
        }
    }

    fn compare(&mut self, window: &Sides<Vec<f64>>) {
        let (n_c, n_s) = (window.canary[0], window.stable[0]);
        // More errors than requests come from two counters read at different moments; the null is about shares.
        let (x_c, x_s) = (window.canary[1].min(n_c), window.stable[1].min(n_s));
        let w = Window { n_c, n_s, x_c, x_s };
        for (sum, value) in self.in_block.iter_mut().zip([n_c, n_s, x_c, x_s]) {
            *sum += value;
        }
        let allowed = 1.0 + self.config.allow_ratio;
        let (extra, phi) = (self.config.allow_abs, self.phi);
        self.ratio.add(w);
        self.main
            .add(&GRID_FAIL, |g| rate(w, allowed, extra, allowed * g) / phi);
        self.severe.add(&GRID_SEVERE, |g| {
            rate(w.successes(), SEVERE_SUCCESS, 0.0, SEVERE_SUCCESS * g)
        });
        // A pass never trusts in less burstiness than history showed.
        let (tolerance, pass_extra) = (1.0 + self.config.pass.relative, self.pass_extra);
        let pass_phi = phi.max(self.terms.phi0.unwrap_or(1.0));
        self.pass
            .add(&GRID_PASS, |g| rate(w, tolerance, pass_extra, tolerance * g) / pass_phi);
    }

    fn guard(&mut self, bake: Bake, [total, bad]: [f64; 2]) {
        let phi = self.phi;
        self.main
            .add(&GRID_FAIL, |a| constant(total, bad, bake.max_ratio, a) / phi);
        self.severe
            .add(&GRID_SEVERE, |a| constant(total, total - bad, bake.min_success, a));
    }

    /// (weight, ln E) of each component.
    pub(crate) fn fail_terms(&self) -> [(f64, f64); 2] {
        [
            (self.weight * (1.0 - SEVERE_SHARE), self.main.ln_e()),
            (self.weight * SEVERE_SHARE, self.severe.ln_e()),
        ]
    }

    pub(crate) fn pass_ln_p(&self) -> Option<f64> {
        self.bake.is_none().then(|| self.pass.ln_e())
    }

    pub(crate) fn phi(&self) -> f64 {
        self.phi
    }

    pub(crate) fn dropped(&self) -> u64 {
        self.dropped
    }

    pub(crate) fn wire(&self) -> Option<&Wire> {
        self.wire.as_ref()
    }

    pub(crate) fn seen(&self) -> Seen {
        Seen::Errors {
            release: self.tally.release(),
            stage: self.tally.stage(),
            max_ratio: self.bake.map(|bake| bake.max_ratio),
        }
    }

    /// Against stable over the release; in the bake against what may be, since it began.
    pub(crate) fn interval(&self) -> Interval {
        let Some(bake) = self.bake else {
            return self.ratio.interval(self.phi);
        };
        let canary = self.tally.stage().canary;
        Interval::against_constant(canary.total, canary.bad, bake.max_ratio, self.phi)
    }

    pub(crate) fn smallest_ratio(&self) -> Option<f64> {
        if let Some(bake) = self.bake {
            let canary = self.tally.stage().canary.total;
            return planning::visible_by_now_against_constant(canary, bake.max_ratio, self.phi);
        }
        let Sides { canary, stable } = self.tally.release();
        let rate = (stable.bad + 0.5) / (stable.total + 1.0);
        let allowed = 1.0 + self.config.allow_ratio + self.config.allow_abs / rate;
        planning::visible_by_now(canary.total, stable.total, rate, self.phi, allowed)
    }
}
