//! How many times as often does it happen on the canary as on stable? A range that may be looked at at any time.
//!
//! The range is a *confidence sequence*: for a ratio that stays what it is, the chance that the range ever leaves it out,
//! at any of the looks of a release, is at most 5 % ([`CONFIDENCE`]). A usual 95 % interval promises that for one look.
//!
//! It is the judge's own evidence turned around. The two-stream rate e-value (METHOD.md 2.1) of the alternative r against
//! the null R without an absolute margin is a plain quotient of likelihoods, `ln e = l(r) - l(R)` with
//!
//! ```text
//! l(ratio) = sum over windows of x_c ln ratio - (x_c + x_s) ln(1 + w (ratio - 1)),     w = n_c / (n_c + n_s)
//! ```
//!
//! so one mixture over r serves all nulls at once: a ratio is left out when the mixture's likelihood is 20 times its own
//! (Robbins 1970; Waudby-Smith and Ramdas 2020, prior-posterior-ratio martingale). l is concave in ln ratio, so what
//! remains is one range. All of l is divided by the design effect phi as it is known when the range is told, which can only
//! widen it: a mixture of powers below 1 is at most that power of the mixture, whichever the power and however it was
//! chosen.
//!
//! Why not a formula on the totals: the canary's share of the traffic changes from stage to stage, and totals over
//! stages compare different times of day. Why not the 2x2 e-value of latency: its nulls need a guess of stable's share
//! for each ratio. For shares that are not small (slower than the median) the range is wider than it could be.
//!
//! What it does not promise: the judge's cap on blocks is not part of it, so for errors in bursts it rests on phi alone; and
//! a ratio that changes in the middle of a release is no one number.

use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

use super::capital::ln_sum;
use super::evalue::Window;

/// How sure a range is, over all looks of a release together.
pub const CONFIDENCE: f64 = 0.95;
/// Ratios are looked for up to this and down to one over it; beyond, a range is open.
pub const MAX_RATIO: f64 = 100.0;

/// Points at which l is kept. It is analytic, so the polynomial through them is off by less than 1e-6 per event.
const KEPT: usize = 24;
/// Points of the mixture, densest around 1.
const MIXED: usize = 121;
/// How far around 1 (in ln) the mixture is about evenly dense.
const DENSE: f64 = 0.5;
/// Halvings of the gap between two points of the mixture: a ten-thousandth of it is left.
const HALVINGS: u32 = 14;

/// The range in which a ratio lies.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Interval {
    /// The chance that the true ratio is inside at every look of the release.
    pub confidence: f64,
    /// Smaller ratios are excluded; `None` if none is.
    pub low: Option<f64>,
    /// Larger ratios are excluded; `None` if none is.
    pub high: Option<f64>,
}

/// What all windows together say about the ratio; the state of a range.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Likelihood {
    /// Canary events.
    events: f64,
    /// Per kept point: the sum of `m ln(1 + w (ratio - 1))`. Empty before the first event.
    spent: Vec<f64>,
}

/// ln ratio and ratio of the kept points (Chebyshev), and the weights of the polynomial through them.
struct Points {
    ln: [f64; KEPT],
    ratio: [f64; KEPT],
    weight: [f64; KEPT],
}

static POINTS: LazyLock<Points> = LazyLock::new(|| {
    let angle = |j: usize| std::f64::consts::PI * (2 * j + 1) as f64 / (2 * KEPT) as f64;
    let ln = std::array::from_fn(|j| MAX_RATIO.ln() * angle(j).cos());
    Points {
        ln,
        ratio: ln.map(f64::exp),
        weight: std::array::from_fn(|j| if j % 2 == 0 { angle(j).sin() } else { -angle(j).sin() }),
    }
});

/// ln ratio of the mixture's points, ascending; each has the same weight.
static MIXTURE: LazyLock<[f64; MIXED]> = LazyLock::new(|| {
    let reach = (MAX_RATIO.ln() / DENSE).asinh();
    std::array::from_fn(|i| DENSE * (reach * (2.0 * i as f64 / (MIXED - 1) as f64 - 1.0)).sinh())
});

/// Per point of the mixture, how much of each kept point's value it has: the polynomial, written out.
static SHARES: LazyLock<Vec<[f64; KEPT]>> = LazyLock::new(|| MIXTURE.iter().map(|at| shares(*at)).collect());

fn shares(at: f64) -> [f64; KEPT] {
    let points = &*POINTS;
    if let Some(hit) = points.ln.iter().position(|ln| (ln - at).abs() < 1e-12) {
        return std::array::from_fn(|j| f64::from(u8::from(j == hit)));
    }
    let pull: [f64; KEPT] = std::array::from_fn(|j| points.weight[j] / (at - points.ln[j]));
    let all: f64 = pull.iter().sum();
    pull.map(|pull| pull / all)
}

impl Default for Likelihood {
    fn default() -> Self {
        Self {
            events: 0.0,
            spent: Vec::new(),
        }
    }
}

/// What one event speaks against each kept ratio at a given split of the requests: `ln(1 + w (ratio - 1))`. Several
/// likelihoods of one window share it, as it is what adding a window costs.
pub(crate) struct Spent([f64; KEPT]);

impl Spent {
    /// At `n_c` of the canary's requests beside `n_s` of stable's.
    pub(crate) fn at(n_c: f64, n_s: f64) -> Self {
        let weight = n_c / (n_c + n_s);
        Self(POINTS.ratio.map(|ratio| (1.0 + weight * (ratio - 1.0)).ln()))
    }
}

impl Likelihood {
    /// Adds a window of events on both sides.
    pub(crate) fn add(&mut self, window: Window) {
        let Window { n_c, n_s, x_c, x_s } = window;
        if x_c + x_s > 0.0 && n_c > 0.0 && n_s > 0.0 {
            self.add_at(&Spent::at(n_c, n_s), x_c, x_s);
        }
    }

    /// The same where the split is known already.
    pub(crate) fn add_at(&mut self, each: &Spent, x_c: f64, x_s: f64) {
        let events = x_c + x_s;
        if events <= 0.0 {
            return;
        }
        self.spent.resize(KEPT, 0.0);
        self.events += x_c;
        for (spent, each) in self.spent.iter_mut().zip(&each.0) {
            *spent += events * each;
        }
    }

    /// The ratios that are not excluded, with events that count `phi` times less.
    pub(crate) fn interval(&self, phi: f64) -> Interval {
        if self.spent.len() != KEPT {
            return Interval::unknown();
        }
        let at = |ln: f64, shares: &[f64; KEPT]| {
            let spent: f64 = shares.iter().zip(&self.spent).map(|(share, spent)| share * spent).sum();
            (self.events * ln - spent) / phi
        };
        let mixed: Vec<f64> = MIXTURE
            .iter()
            .zip(SHARES.iter())
            .map(|(ln, shares)| at(*ln, shares))
            .collect();
        within(&mixed, |ln| at(ln, &shares(ln)))
    }
}

impl Interval {
    /// Nothing is excluded.
    pub const fn unknown() -> Self {
        Self {
            confidence: CONFIDENCE,
            low: None,
            high: None,
        }
    }

    /// Of the canary's rate of events over a constant: `bad` of `total` where `limit` is the constant, counted at an even
    /// design effect. The likelihood is that of the e-value against a constant (METHOD.md 2.3).
    pub(crate) fn against_constant(total: f64, bad: f64, limit: f64, phi: f64) -> Self {
        let at = |ln: f64| (bad * ln - total * limit * ln.exp()) / phi;
        let mixed: Vec<f64> = MIXTURE.iter().map(|ln| at(*ln)).collect();
        within(&mixed, at)
    }
}

/// The points at which `at` (which is concave) is not too far below the mixture; `mixed` holds its values at the
/// mixture's points.
fn within(mixed: &[f64], at: impl Fn(f64) -> f64) -> Interval {
    let least = ln_sum(mixed.iter().copied()) - (MIXED as f64).ln() + (1.0 - CONFIDENCE).ln();
    let inside = |value: &f64| *value > least;
    // The largest value is never below the mean, so there is always a first and a last one; NaN would leave neither.
    let (Some(first), Some(last)) = (mixed.iter().position(inside), mixed.iter().rposition(inside)) else {
        return Interval::unknown();
    };
    let edge = |inner: usize, outer: usize| {
        let (mut inner, mut outer) = (MIXTURE[inner], MIXTURE[outer]);
        for _ in 0..HALVINGS {
            let middle = f64::midpoint(inner, outer);
            if at(middle) > least {
                inner = middle;
            } else {
                outer = middle;
            }
        }
        outer.exp()
    };
    Interval {
        confidence: CONFIDENCE,
        low: (first > 0).then(|| edge(first, first - 1)),
        high: (last + 1 < MIXED).then(|| edge(last, last + 1)),
    }
}

#[cfg(test)]
mod tests;
