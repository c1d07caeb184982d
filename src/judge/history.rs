//! How bursty are stable's errors when nothing is being released? Asked before a release, answered with one number.
//!
//! Errors that come in bursts carry less evidence than their count says. Stable's own pods, compared with each other
//! while nothing changes, show by how much: phi0, Pearson's dispersion of errors over pods within blocks of time
//! (METHOD.md 2.4). Swings that all pods share cancel. It can come from a metrics server (30 min in 5 min blocks) or
//! from a [`HistoryRecorder`] that Wade fed itself. It deliberately does not estimate an error *rate*: the judge needs none.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use super::intake::plausible;

/// How long stable's pods must have been watched before a quiet stage may be called health: minutes times pods. With
/// this much, in at least [`EARLY_PASS_MINUTES`], a canary at the pass tolerance is passed in less than the 5 % that are
/// promised, in every bursty scenario and for services of 2 to 60 pods; with half of it in 10 %
/// (`wade judge simulate early-pass`). It is the time in which a hiccup that a pod has once an hour is seen twice.
pub const EARLY_PASS_POD_MINUTES: u32 = 120;
/// However many pods there are: what they do together (a burst of the whole service every minute) takes time to show.
pub const EARLY_PASS_MINUTES: u64 = 10;
/// Blocks that a recorder keeps; the oldest go first. With 1 min blocks: an hour and a half, which is more than enough
/// of two pods.
pub const MAX_BLOCKS: usize = 90;
/// Pods per block that a recorder keeps. More are ignored: phi0 compares pods with each other, a sample of them will do.
pub const MAX_PODS: usize = 256;
/// Seconds of history without which nothing is called calm.
const CALM_SPAN_S: f64 = 1500.0;
/// Up to this design effect stable counts as calm. Independent errors of twenty pods give 1.0 to 1.3.
const CALM_PHI0: f64 = 1.5;
/// Weight of the prior belief in independent errors: phi0 starts at 10/10 (METHOD.md 2.4).
const PRIOR: f64 = 10.0;

/// What stable's pods did before the release.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct History {
    /// Block length in seconds. It should be several times the burst window, or bursts are cut to pieces.
    #[serde(default)]
    pub block_s: f64,
    /// `pods[j][t]`: (requests, errors) of pod j in block t. Blocks beyond the shortest pod's are not used.
    #[serde(default)]
    pub pods: Vec<Vec<(f64, f64)>>,
}

impl History {
    /// phi0, or `None` if no block has two pods with requests: a single pod has nothing to be compared with, and
    /// calling it free of bursts would let a stage pass on nothing.
    pub fn phi0(&self) -> Option<f64> {
        let blocks = self.pods.iter().map(Vec::len).min()?;
        let (mut num, mut den) = (PRIOR, PRIOR);
        let mut compared = false;
        for t in 0..blocks {
            let cells = || self.pods.iter().map(|pod| pod[t]);
            if !cells().all(|(n, x)| plausible(n) && plausible(x)) || cells().filter(|(n, _)| *n > 0.0).count() < 2 {
                continue;
            }
            compared = true;
            let n: f64 = cells().map(|(requests, _)| requests).sum();
            let m: f64 = cells().map(|(_, errors)| errors).sum();
            for (requests, errors) in cells() {
                let share = requests / n;
                num += (errors - m * share).powi(2);
                den += m * share * (1.0 - share) * (1.0 - m / n).max(0.0);
            }
        }
        compared.then(|| (num / den).max(1.0))
    }

    /// How much it holds for comparing pods with each other: minutes times pods, over the blocks in which at least two
    /// pods had requests.
    pub fn pod_minutes(&self) -> f64 {
        let blocks = self.pods.iter().map(Vec::len).min().unwrap_or(0);
        let busy = |t: usize| self.pods.iter().filter(|pod| pod[t].0 > 0.0).count();
        let pods: usize = (0..blocks).map(busy).filter(|busy| *busy >= 2).sum();
        pods as f64 * self.block_s / 60.0
    }

    /// How much time it holds, in seconds.
    pub fn span_s(&self) -> f64 {
        self.pods.iter().map(Vec::len).min().unwrap_or(0) as f64 * self.block_s
    }

    /// Whether it is long enough, and free enough of bursts, to say that stable does not burst.
    pub fn shows_calm(&self) -> bool {
        self.span_s() >= CALM_SPAN_S && self.phi0().is_some_and(|phi0| phi0 <= CALM_PHI0)
    }
}

/// Builds a [`History`] from what Wade itself saw of stable's pods, for where no metrics server keeps it.
///
/// Bounded by [`MAX_BLOCKS`] and [`MAX_PODS`]. Only finished blocks count.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HistoryRecorder {
    block_s: f64,
    blocks: VecDeque<Block>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Block {
    number: u64,
    pods: BTreeMap<String, (f64, f64)>,
}

impl HistoryRecorder {
    /// Records in blocks of `block_s` seconds (at least a millisecond).
    pub fn new(block_s: f64) -> Self {
        HistoryRecorder {
            block_s: if block_s.is_finite() { block_s.max(1e-3) } else { 300.0 },
            blocks: VecDeque::new(),
        }
    }

    /// What was recorded before a pause, to go on with at `t_s`: `None` if it was recorded in blocks of another length.
    /// Blocks that ended more than `most_s` before are forgotten, and so are those that a clock which was put back has not
    /// reached yet.
    #[must_use]
    pub fn resumed(mut self, block_s: f64, t_s: f64, most_s: f64) -> Option<Self> {
        if Self::new(block_s).block_s != self.block_s {
            return None;
        }
        let began = |number: u64| number as f64 * self.block_s;
        self.blocks
            .retain(|block| began(block.number) <= t_s && began(block.number + 1) >= t_s - most_s);
        Some(self)
    }

    /// Adds what a pod did since it was last recorded; `t_s` is any clock in seconds that does not go back.
    /// Increments that make no sense, and times before the open block, are ignored.
    pub fn record(&mut self, t_s: f64, pod: &str, requests: f64, errors: f64) {
        if !plausible(requests) || !plausible(errors) || !t_s.is_finite() {
            return;
        }
        let number = (t_s / self.block_s).max(0.0) as u64;
        match self.blocks.back() {
            Some(open) if number < open.number => return,
            Some(open) if number == open.number => {}
            _ => {
                self.blocks.push_back(Block {
                    number,
                    pods: BTreeMap::new(),
                });
                // One more than the bound: the open block does not count yet.
                if self.blocks.len() > MAX_BLOCKS + 1 {
                    self.blocks.pop_front();
                }
            }
        }
        let Some(open) = self.blocks.back_mut() else { return };
        if open.pods.len() >= MAX_PODS && !open.pods.contains_key(pod) {
            return;
        }
        let cell = open.pods.entry(pod.to_owned()).or_default();
        cell.0 += requests;
        cell.1 += errors;
    }

    /// Requests and errors of all pods in the newest block and the one before it: how stable does now.
    pub fn lately(&self) -> (f64, f64) {
        let newest = self.blocks.iter().rev().take(2);
        newest
            .flat_map(|block| block.pods.values())
            .fold((0.0, 0.0), |sum, cell| (sum.0 + cell.0, sum.1 + cell.1))
    }

    /// Whether at least `min_blocks` finished blocks have two pods with requests to compare.
    pub fn enough(&self, min_blocks: usize) -> bool {
        self.finished()
            .filter(|block| block.pods.values().filter(|(n, _)| *n > 0.0).count() >= 2)
            .count()
            >= min_blocks
    }

    /// The finished blocks as a history. Rows are ranks within their block, not one pod's life: phi0 never compares a
    /// pod with itself, so pods may come and go.
    pub fn history(&self) -> History {
        let rows = self.finished().map(|block| block.pods.len()).max().unwrap_or(0);
        let mut pods = vec![Vec::new(); rows];
        for block in self.finished() {
            let mut cells = block.pods.values();
            for row in &mut pods {
                row.push(cells.next().copied().unwrap_or_default());
            }
        }
        History {
            block_s: self.block_s,
            pods,
        }
    }

    fn finished(&self) -> impl Iterator<Item = &Block> {
        self.blocks.iter().take(self.blocks.len().saturating_sub(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bursts_of_single_pods_show_and_common_swings_do_not() {
        let calm = vec![vec![(1000.0, 2.0); 6]; 8];
        let mut bursty = calm.clone();
        bursty[3][2] = (1000.0, 60.0);
        let mut common = calm.clone();
        common.iter_mut().for_each(|pod| pod[2] = (1000.0, 60.0));
        let phi0 = |pods: Vec<Vec<(f64, f64)>>| History { block_s: 300.0, pods }.phi0().unwrap();
        assert_eq!((phi0(calm), phi0(common)), (1.0, 1.0));
        assert!(phi0(bursty) > 10.0);
    }

    #[test]
    fn nothing_to_compare_is_no_history() {
        let nan = vec![vec![(f64::NAN, 0.0)], vec![(1.0, 0.0)]];
        for pods in [
            vec![],
            vec![vec![(1000.0, 2.0); 6]],
            vec![vec![], vec![]],
            vec![vec![(0.0, 0.0)]; 5],
            nan,
        ] {
            assert_eq!(
                History {
                    block_s: 300.0,
                    pods: pods.clone()
                }
                .phi0(),
                None,
                "{pods:?}"
            );
        }
    }

    #[test]
    fn a_recorder_counts_finished_blocks_with_two_pods() {
        let mut recorder = HistoryRecorder::new(10.0);
        recorder.record(1.0, "a", 5.0, 0.0);
        recorder.record(2.0, "b", 6.0, 1.0);
        recorder.record(9.0, "a", 5.0, 2.0);
        assert!(!recorder.enough(1), "the block is open");
        assert_eq!(recorder.lately(), (16.0, 3.0));
        recorder.record(12.0, "c", 7.0, 0.0);
        recorder.record(11.0, "d", -7.0, 0.0);
        recorder.record(3.0, "b", 9.0, 9.0);
        assert!(recorder.enough(1));
        recorder.record(21.0, "a", 1.0, 0.0);
        assert!(!recorder.enough(2), "only one pod in the second block");
        let pods = vec![vec![(10.0, 2.0), (7.0, 0.0)], vec![(6.0, 1.0), (0.0, 0.0)]];
        assert_eq!(recorder.history(), History { block_s: 10.0, pods });
    }

    #[test]
    fn a_recorder_goes_on_after_a_pause_without_what_is_too_old_or_in_the_future() {
        let mut recorder = HistoryRecorder::new(10.0);
        for block in 0..10 {
            for pod in ["a", "b"] {
                recorder.record(f64::from(block) * 10.0, pod, 5.0, 0.0);
            }
        }
        let blocks = |most_s, t_s| {
            let resumed = recorder.clone().resumed(10.0, t_s, most_s).unwrap();
            resumed.blocks.iter().map(|block| block.number).collect::<Vec<_>>()
        };
        assert_eq!(recorder.clone().resumed(10.0, 95.0, 1e9), Some(recorder.clone()));
        assert_eq!(blocks(30.0, 100.0), [6, 7, 8, 9]);
        assert_eq!(blocks(1e9, 35.0), [0, 1, 2, 3], "the clock was put back");
        assert_eq!(blocks(30.0, 1e6), [0u64; 0]);
        assert_eq!(recorder.resumed(60.0, 95.0, 1e9), None, "other blocks");
    }

    #[test]
    fn a_recorder_is_bounded() {
        let mut recorder = HistoryRecorder::new(1.0);
        for block in 0..200 {
            for pod in 0..300 {
                recorder.record(f64::from(block), &format!("pod-{pod}"), 1.0, 0.0);
            }
        }
        let history = recorder.history();
        assert_eq!((history.pods.len(), history.pods[0].len()), (MAX_PODS, MAX_BLOCKS));
    }
}
