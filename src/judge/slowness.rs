//! Latency of one operation against stable's: the question of `latency`, with two thresholds and a short grid, because
//! there may be dozens of these and all of them live in the record.

use serde::{Deserialize, Serialize};

use super::capital::Mix;
use super::config::OperationsConfig;
use super::dispersion::Dispersion;
use super::evalue::{Window, share};
use super::histogram::{Split, above, above_split, nearest_bound, split_below};
use super::observation::{OperationCounts, Operations, Sides};
use super::pairing::Pair;
use super::terms::Terms;
use super::verdict::{Counts, ThresholdEvidence};

/// Where stable's distribution is probed: the body and the tail.
const QUANTILES: [f64; 2] = [0.5, 0.99];
/// Odds ratios.
const ODDS: [f64; 4] = [1.5, 3.0, 10.0, 30.0];
/// Stable requests of the operation that the pin needs.
const MIN_PIN: f64 = 100.0;

/// An operation's latency.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Slowness {
    weight: f64,
    terms: Terms,
    block: u64,
    phase: Phase,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
enum Phase {
    /// Collecting stable's histogram until the canary has been asked for this operation for long enough.
    WarmUp {
        bounds: Vec<f64>,
        stable: Vec<f64>,
        first_canary_s: Option<f64>,
    },
    /// Comparing.
    Judging {
        bounds: Vec<f64>,
        pair: Pair,
        thresholds: Vec<Threshold>,
    },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Threshold {
    bound: usize,
    split: Split,
    fail: Mix,
    /// Stable's requests above the split bound and in all, so far.
    guess: [f64; 2],
    dispersion: Dispersion,
    /// Totals of the open block: n_c, n_s, x_c, x_s.
    in_block: [f64; 4],
    /// Requests and those above the bound.
    seen: Sides<[f64; 2]>,
}

impl Slowness {
    pub(crate) fn new(weight: f64, terms: Terms, block: u64) -> Self {
        Slowness {
            weight,
            terms,
            block,
            phase: Phase::WarmUp {
                bounds: Vec::new(),
                stable: Vec::new(),
                first_canary_s: None,
            },
        }
    }

    pub(crate) fn open_block(&mut self, block: u64) {
        self.block = block;
        if let Phase::Judging { thresholds, .. } = &mut self.phase {
            for threshold in thresholds {
                let [n_c, n_s, x_c, x_s] = std::mem::take(&mut threshold.in_block);
                threshold.dispersion.end_block(Window { n_c, n_s, x_c, x_s });
                threshold.fail.open_block(block);
            }
        }
    }

    /// Takes note of a look without judging by it.
    pub(crate) fn note(
        &mut self,
        config: &OperationsConfig,
        t_s: f64,
        seen: &Sides<Option<&Operations>>,
        both: &Sides<OperationCounts>,
    ) {
        let Phase::WarmUp {
            bounds,
            stable,
            first_canary_s,
        } = &mut self.phase
        else {
            return;
        };
        let le = [seen.stable, seen.canary]
            .into_iter()
            .flatten()
            .map(|side| &side.le)
            .next();
        if let (true, Some(le)) = (bounds.is_empty(), le) {
            *bounds = le.to_vec();
            *stable = vec![0.0; le.len() + 1];
        }
        if both.canary.requests > 0.0 {
            first_canary_s.get_or_insert(t_s);
        }
        let same = seen.stable.is_some_and(|side| side.le[..] == bounds[..]);
        if same {
            for (sum, count) in stable.iter_mut().zip(&both.stable.latency) {
                *sum += count;
            }
        }
        let warm = first_canary_s.is_some_and(|first| t_s >= first + config.warmup_s);
        if warm && stable.iter().sum::<f64>() >= MIN_PIN {
            self.pin(config);
        }
    }

    pub(crate) fn look(
        &mut self,
        config: &OperationsConfig,
        t_s: f64,
        seen: &Sides<Option<&Operations>>,
        both: &Sides<OperationCounts>,
    ) {
        let Phase::Judging {
            bounds,
            pair,
            thresholds,
        } = &mut self.phase
        else {
            self.note(config, t_s, seen, both);
            return;
        };
        let columns = |side: Option<&Operations>, counts: &OperationCounts| {
            let same = side.is_some_and(|side| side.le[..] == bounds[..]) && counts.latency.len() == bounds.len() + 1;
            same.then(|| {
                let total: f64 = counts.latency.iter().sum();
                std::iter::once(total)
                    .chain(counts.latency.iter().copied())
                    .collect::<Vec<_>>()
            })
        };
        let (canary, stable) = (columns(seen.canary, &both.canary), columns(seen.stable, &both.stable));
        if let Some(window) = pair.push(canary.as_deref(), stable.as_deref()) {
            for threshold in thresholds {
                threshold.compare(&window);
            }
        }
    }

    /// Chooses the thresholds from stable's histogram alone.
    fn pin(&mut self, config: &OperationsConfig) {
        let Phase::WarmUp { bounds, stable, .. } = &self.phase else {
            return;
        };
        let mut pinned: Vec<usize> = QUANTILES.iter().map(|q| nearest_bound(bounds, stable, *q)).collect();
        pinned.dedup();
        let weight = self.weight / pinned.len() as f64;
        let thresholds = pinned
            .into_iter()
            .map(|bound| {
                let split = split_below(bounds, stable, bound, config.max_increase);
                let mut fail = self.terms.fail_mix(ODDS.len(), weight);
                fail.begin_in_block(self.block);
                Threshold {
                    bound,
                    split,
                    fail,
                    guess: [0.5 + above_split(stable, split), 1.0 + stable.iter().sum::<f64>()],
                    dispersion: Dispersion::new(None),
                    in_block: [0.0; 4],
                    seen: Sides::default(),
                }
            })
            .collect();
        self.phase = Phase::Judging {
            pair: Pair::new(bounds.len() + 2),
            bounds: bounds.clone(),
            thresholds,
        };
    }

    /// The average over the thresholds; neutral before there are any.
    pub(crate) fn ln_e(&self) -> f64 {
        match &self.phase {
            Phase::WarmUp { .. } => 0.0,
            Phase::Judging { thresholds, .. } => {
                super::capital::ln_sum(thresholds.iter().map(|threshold| threshold.fail.ln_e()))
                    - (thresholds.len() as f64).ln()
            }
        }
    }

    /// The threshold that says most against the canary.
    pub(crate) fn evidence(&self) -> Option<ThresholdEvidence> {
        let Phase::Judging { bounds, thresholds, .. } = &self.phase else {
            return None;
        };
        let worst = thresholds
            .iter()
            .max_by(|a, b| f64::total_cmp(&a.fail.ln_e(), &b.fail.ln_e()))?;
        let counts = |[total, slower]: [f64; 2]| Counts::new(total, slower);
        let (canary, stable) = (counts(worst.seen.canary), counts(worst.seen.stable));
        Some(ThresholdEvidence {
            above_s: bounds[worst.bound],
            slower: Sides { canary, stable },
            ln_e: worst.fail.ln_e(),
            phi: worst.dispersion.phi(),
            ratio: super::verdict::ratio(canary.rate, stable.rate),
            // A range for each of many operations would be more to keep than all the rest.
            interval: None,
            smallest_ratio: None,
        })
    }
}

impl Threshold {
    /// Bets on a window: per side the requests, then the buckets.
    fn compare(&mut self, window: &Sides<Vec<f64>>) {
        let (n_c, n_s) = (window.canary[0], window.stable[0]);
        let (canary, stable) = (&window.canary[1..], &window.stable[1..]);
        let (x_c, x_s) = (above(canary, self.bound), above_split(stable, self.split));
        for (sum, value) in self.in_block.iter_mut().zip([n_c, n_s, x_c, x_s]) {
            *sum += value;
        }
        let (phi, guess) = (self.dispersion.phi(), self.guess[0] / self.guess[1]);
        self.fail
            .add(&ODDS, |odds| share(Window { n_c, n_s, x_c, x_s }, guess, odds) / phi);
        self.guess[0] += x_s;
        self.guess[1] += n_s;
        for (seen, n, x) in [
            (&mut self.seen.canary, n_c, x_c),
            (&mut self.seen.stable, n_s, above(stable, self.bound)),
        ] {
            seen[0] += n;
            seen[1] += x;
        }
    }
}
