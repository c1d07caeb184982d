//! Latency of the canary against stable's, from histograms.
//!
//! "Is a larger share of the canary slower than b than of stable slower than b/(1 + allowed)?", asked at up to four
//! bucket bounds b from the median to the far tail, each with the 2x2 GRO e-value (METHOD.md 2.2). The bounds are pinned
//! once, from stable alone, at the end of the canary's warm-up: choosing them later would be choosing by the answer.
//! It deliberately never compares estimated percentiles; those are only shown.

use serde::{Deserialize, Serialize};

use super::capital::{Mix, block_number};
use super::config::LatencyConfig;
use super::dispersion::Dispersion;
use super::evalue::{GRID_PASS, ODDS_FAIL, ODDS_PASS, Window, rate, share};
use super::histogram::{Split, above, above_split, nearest_bound, quantile, split_below};
use super::intake::{admit, histogram};
use super::interval::{Likelihood, Spent};
use super::observation::{Increment, Sides};
use super::pairing::Pair;
use super::planning;
use super::terms::Terms;
use super::verdict::{self, Counts, Seen, ThresholdEvidence};

/// The most that the budget of a pass may allow the canary itself, as for errors.
const PASS_EXTRA_MAX: f64 = 0.05;
/// Stable requests that the pin needs.
const MIN_PIN: f64 = 100.0;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Latency {
    config: LatencyConfig,
    weight: f64,
    terms: Terms,
    /// The share of the canary's requests that may be slow besides, for a pass of this stage.
    #[serde(default)]
    pass_extra: f64,
    block: u64,
    /// The first histogram's bounds; others are dropped. Empty before.
    bounds: Vec<f64>,
    phase: Phase,
    release: Sides<f64>,
    stage: Sides<f64>,
    /// This stage's histograms, for showing percentiles.
    shown: Sides<Vec<f64>>,
    dropped: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
enum Phase {
    /// Collecting stable's histogram until the canary has been serving for long enough.
    WarmUp {
        stable: Vec<f64>,
        first_canary_s: Option<f64>,
    },
    /// Comparing at pinned thresholds.
    Judging { pair: Pair, thresholds: Vec<Threshold> },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Threshold {
    /// Which bound.
    bound: usize,
    weight: f64,
    fail: Mix,
    pass: Mix,
    /// Where the bound falls in stable's histogram after the allowed slowdown, and after the pass tolerance.
    fail_split: Split,
    pass_split: Split,
    /// Stable's requests above the split bound and in all, so far.
    fail_guess: [f64; 2],
    pass_guess: [f64; 2],
    dispersion: Dispersion,
    phi: f64,
    /// Totals of the open block: n_c, n_s, x_c, x_s.
    in_block: [f64; 4],
    /// Requests and those above the bound, unshifted, for showing.
    seen: Sides<[f64; 2]>,
    /// What the windows say about the ratio of those shares.
    #[serde(default)]
    ratio: Likelihood,
}

impl Latency {
    pub(crate) fn new(config: &LatencyConfig, weight: f64, terms: Terms) -> Self {
        Latency {
            config: config.clone(),
            weight,
            terms,
            pass_extra: 0.0,
            block: 0,
            bounds: Vec::new(),
            phase: Phase::WarmUp {
                stable: Vec::new(),
                first_canary_s: None,
            },
            release: Sides::default(),
            stage: Sides::default(),
            shown: Sides::default(),
            dropped: 0,
        }
    }

    pub(crate) fn start_stage(&mut self, next_weight: f64) {
        self.pass_extra = (self.config.pass_of_total_traffic / next_weight.max(1e-9)).min(PASS_EXTRA_MAX);
        let fresh = self.pass_mix();
        if let Phase::Judging { thresholds, .. } = &mut self.phase {
            for threshold in thresholds {
                threshold.pass = fresh.clone();
            }
        }
        self.stage = Sides::default();
        self.clear_shown();
    }

    pub(crate) fn start_bake(&mut self) {
        self.start_stage(1.0);
    }

    /// What excludes the slowdown, and what excludes that more are slow than the budget has room for. Who is slower by
    /// more than the budget is also slower than the slowdown allows, so both kinds of bets are fair against that.
    fn pass_mix(&self) -> Mix {
        let budgeted = if self.pass_extra > 0.0 { GRID_PASS.len() } else { 0 };
        self.terms.pass_mix(ODDS_PASS.len() + budgeted)
    }

    pub(crate) fn look(&mut self, t_s: f64, sides: &Sides<Option<Increment>>, baking: bool) {
        self.adopt_bounds(sides);
        let known = |le: &[f64]| self.bounds.is_empty() || le == self.bounds;
        let seen = admit(sides, &mut self.dropped, |increment| {
            histogram(increment)
                .filter(|(le, _)| known(le))
                .map(|(_, counts)| counts)
        });
        let total = |counts: Option<&[f64]>| counts.map_or(0.0, |counts| counts.iter().sum());
        let (n_c, n_s): (f64, f64) = (total(seen.canary), total(seen.stable));
        if n_c + n_s <= 0.0 {
            return;
        }
        self.show(&seen, n_c, n_s);
        if baking {
            return;
        }
        self.open_blocks(t_s);
        match &mut self.phase {
            Phase::WarmUp { stable, first_canary_s } => {
                if n_c > 0.0 {
                    first_canary_s.get_or_insert(t_s);
                }
                for (sum, count) in stable.iter_mut().zip(seen.stable.unwrap_or_default()) {
                    *sum += count;
                }
                let warm = first_canary_s.is_some_and(|first| t_s >= first + self.config.warmup_s);
                if warm && stable.iter().sum::<f64>() >= MIN_PIN {
                    self.pin();
                }
            }
            Phase::Judging { pair, thresholds } => {
                let with_total = |n: f64, counts: Option<&[f64]>| {
                    counts.map(|counts| std::iter::once(n).chain(counts.iter().copied()).collect::<Vec<_>>())
                };
                let (canary, stable) = (with_total(n_c, seen.canary), with_total(n_s, seen.stable));
                if let Some(window) = pair.push(canary.as_deref(), stable.as_deref()) {
                    let requests = |columns: &[f64]| columns.first().copied().unwrap_or_default();
                    let each = Spent::at(requests(&window.canary), requests(&window.stable));
                    for threshold in thresholds {
                        threshold.compare(&window, self.pass_extra, &each);
                    }
                }
            }
        }
    }

    /// The first histogram with requests decides which bounds are compared.
    fn adopt_bounds(&mut self, sides: &Sides<Option<Increment>>) {
        if !self.bounds.is_empty() {
            return;
        }
        let used = |(_, counts): &(_, &[f64])| counts.iter().any(|count| *count > 0.0);
        let first = [&sides.canary, &sides.stable]
            .into_iter()
            .flatten()
            .filter_map(histogram)
            .find(used);
        let Some((le, counts)) = first else { return };
        self.bounds = le.to_vec();
        self.phase = Phase::WarmUp {
            stable: vec![0.0; counts.len()],
            first_canary_s: None,
        };
        self.clear_shown();
    }

    fn clear_shown(&mut self) {
        let empty = vec![0.0; self.bounds.len() + 1];
        self.shown = Sides {
            canary: empty.clone(),
            stable: empty,
        };
    }

    fn show(&mut self, seen: &Sides<Option<&[f64]>>, n_c: f64, n_s: f64) {
        for total in [&mut self.release, &mut self.stage] {
            total.canary += n_c;
            total.stable += n_s;
        }
        for (shown, counts) in [
            (&mut self.shown.canary, seen.canary),
            (&mut self.shown.stable, seen.stable),
        ] {
            for (sum, count) in shown.iter_mut().zip(counts.unwrap_or_default()) {
                *sum += count;
            }
        }
    }

    fn open_blocks(&mut self, t_s: f64) {
        let block = block_number(t_s, self.terms.block_s);
        if block <= self.block {
            return;
        }
        self.block = block;
        if let Phase::Judging { thresholds, .. } = &mut self.phase {
            for threshold in thresholds {
                threshold.open_block(block);
            }
        }
    }

    /// Chooses the thresholds from stable's warm-up histogram and begins to compare.
    fn pin(&mut self) {
        let Phase::WarmUp { stable, .. } = &self.phase else {
            return;
        };
        let mut pinned: Vec<usize> = Vec::new();
        for q in &self.config.quantiles {
            let bound = nearest_bound(&self.bounds, stable, *q);
            if !pinned.contains(&bound) {
                pinned.push(bound);
            }
        }
        let weight = self.weight / pinned.len() as f64;
        let thresholds = pinned
            .into_iter()
            .map(|bound| self.threshold(stable, bound, weight))
            .collect();
        self.phase = Phase::Judging {
            pair: Pair::new(self.bounds.len() + 2),
            thresholds,
        };
        self.clear_shown();
    }

    fn threshold(&self, stable: &[f64], bound: usize, weight: f64) -> Threshold {
        let split = |shift| split_below(&self.bounds, stable, bound, shift);
        let guess = |split| [0.5 + above_split(stable, split), 1.0 + stable.iter().sum::<f64>()];
        let (fail_split, pass_split) = (split(self.config.max_increase), split(self.config.pass_within));
        let mut fail = self.terms.fail_mix(ODDS_FAIL.len(), weight);
        fail.begin_in_block(self.block);
        let dispersion = Dispersion::new(None);
        Threshold {
            bound,
            weight,
            fail,
            pass: self.pass_mix(),
            fail_split,
            pass_split,
            fail_guess: guess(fail_split),
            pass_guess: guess(pass_split),
            phi: dispersion.phi(),
            dispersion,
            in_block: [0.0; 4],
            seen: Sides::default(),
            ratio: Likelihood::default(),
        }
    }

    fn thresholds(&self) -> &[Threshold] {
        match &self.phase {
            Phase::WarmUp { .. } => &[],
            Phase::Judging { thresholds, .. } => thresholds,
        }
    }

    /// (weight, ln E) of each threshold; before the pin the metric is neutral.
    pub(crate) fn fail_terms(&self) -> Vec<(f64, f64)> {
        match self.thresholds() {
            [] => vec![(self.weight, 0.0)],
            thresholds => thresholds
                .iter()
                .map(|threshold| (threshold.weight, threshold.fail.ln_e()))
                .collect(),
        }
    }

    /// The weakest threshold's.
    pub(crate) fn pass_ln_p(&self) -> Option<f64> {
        self.thresholds()
            .iter()
            .map(|threshold| threshold.pass.ln_e())
            .reduce(f64::min)
    }

    pub(crate) fn phi(&self) -> f64 {
        self.thresholds()
            .iter()
            .map(|threshold| threshold.phi)
            .fold(1.0, f64::max)
    }

    pub(crate) fn dropped(&self) -> u64 {
        self.dropped
    }

    pub(crate) fn seen(&self) -> Seen {
        let quantiles = |q| Sides {
            canary: quantile(&self.bounds, &self.shown.canary, q),
            stable: quantile(&self.bounds, &self.shown.stable, q),
        };
        Seen::Latency {
            release: self.release,
            stage: self.stage,
            p50_s: quantiles(0.5),
            p99_s: quantiles(0.99),
            thresholds: self
                .thresholds()
                .iter()
                .map(|threshold| threshold.evidence(self.bounds[threshold.bound]))
                .collect(),
        }
    }
}

impl Threshold {
    fn open_block(&mut self, block: u64) {
        let [n_c, n_s, x_c, x_s] = std::mem::take(&mut self.in_block);
        self.dispersion.end_block(Window { n_c, n_s, x_c, x_s });
        self.phi = self.dispersion.phi();
        self.fail.open_block(block);
        self.pass.open_block(block);
    }

    /// Bets on a window: per side the requests, then the buckets.
    fn compare(&mut self, window: &Sides<Vec<f64>>, pass_extra: f64, each: &Spent) {
        let ((n_c, canary), (n_s, stable)) = (split_first(&window.canary), split_first(&window.stable));
        let x_c = above(canary, self.bound);
        let x_fail = above_split(stable, self.fail_split);
        let x_pass = above_split(stable, self.pass_split);
        for (sum, value) in self.in_block.iter_mut().zip([n_c, n_s, x_c, x_fail]) {
            *sum += value;
        }
        let phi = self.phi;
        let against = |x_s| Window { n_c, n_s, x_c, x_s };
        let guess = |[above, total]: [f64; 2]| above / total;
        let (fail_guess, pass_guess) = (guess(self.fail_guess), guess(self.pass_guess));
        self.fail
            .add(&ODDS_FAIL, |odds| share(against(x_fail), fail_guess, odds) / phi);
        self.pass
            .add(&ODDS_PASS, |odds| share(against(x_pass), pass_guess, odds) / phi);
        if pass_extra > 0.0 {
            self.pass.add_after(ODDS_PASS.len(), &GRID_PASS, |g| {
                rate(against(x_pass), 1.0, pass_extra, g) / phi
            });
        }
        for (guess, x) in [(&mut self.fail_guess, x_fail), (&mut self.pass_guess, x_pass)] {
            guess[0] += x;
            guess[1] += n_s;
        }
        for (seen, n, x) in [
            (&mut self.seen.canary, n_c, x_c),
            (&mut self.seen.stable, n_s, above(stable, self.bound)),
        ] {
            seen[0] += n;
            seen[1] += x;
        }
        let x_s = above(stable, self.bound);
        self.ratio.add_at(each, x_c, x_s);
    }

    fn evidence(&self, above_s: f64) -> ThresholdEvidence {
        let counts = |[total, slower]: [f64; 2]| Counts::new(total, slower);
        let (canary, stable) = (counts(self.seen.canary), counts(self.seen.stable));
        // The share that is betted against is stable's after the allowed slowdown; what is told is against stable as it is.
        let [above, total] = self.fail_guess;
        let smallest = planning::slower_by_now(canary.total, stable.total, above / total, self.phi);
        ThresholdEvidence {
            above_s,
            slower: Sides { canary, stable },
            ln_e: self.fail.ln_e(),
            phi: self.phi,
            ratio: verdict::ratio(canary.rate, stable.rate),
            interval: Some(self.ratio.interval(self.phi)),
            smallest_ratio: verdict::ratio(smallest, stable.rate),
        }
    }
}

fn split_first(columns: &[f64]) -> (f64, &[f64]) {
    columns.split_first().map_or((0.0, &[]), |(n, buckets)| (*n, buckets))
}
