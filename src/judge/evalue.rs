//! What one window of counts says, as a bet: ln e for each null of METHOD.md, section 2.
//!
//! An e-value is the payoff of a bet that is fair or worse if the canary is fine, so its mean is then at most 1 and a
//! large one is hard to get by luck. Each function takes one alternative; [`super::capital`] spreads money over a grid
//! of them. The same function with the alternative on the other side of the null tests the opposite null: that is how a
//! stage passes. Why bets and not a p-value: they may be looked at after every scrape without spending anything.

/// Alternatives for a fail, as multiples of what is allowed.
pub(crate) const GRID_FAIL: [f64; 8] = [1.2, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 100.0];
/// Alternatives of the severe channel, as multiples of half of stable's success ratio.
pub(crate) const GRID_SEVERE: [f64; 3] = [0.5, 0.2, 0.04];
/// Alternatives for a pass, as multiples of the pass tolerance.
pub(crate) const GRID_PASS: [f64; 6] = [0.8, 0.6, 0.4, 0.2, 0.05, 0.01];
/// Odds ratios for latency, fail.
pub(crate) const ODDS_FAIL: [f64; 8] = [1.2, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 100.0];
/// Odds ratios for latency, pass.
pub(crate) const ODDS_PASS: [f64; 6] = [1.0 / 1.2, 1.0 / 1.5, 1.0 / 2.0, 1.0 / 3.0, 1.0 / 5.0, 1.0 / 10.0];
/// Stakes of the sign bets on gauges.
pub(crate) const STAKES: [f64; 5] = [0.2, 0.4, 0.6, 0.8, 0.95];

/// One window: requests and events of both sides.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Window {
    /// Canary requests.
    pub(crate) n_c: f64,
    /// Stable requests.
    pub(crate) n_s: f64,
    /// Canary events.
    pub(crate) x_c: f64,
    /// Stable events.
    pub(crate) x_s: f64,
}

impl Window {
    /// The same window with successes as events. A source may count an error before its request; that is no success.
    pub(crate) fn successes(self) -> Window {
        Window {
            x_c: (self.n_c - self.x_c).max(0.0),
            x_s: (self.n_s - self.x_s).max(0.0),
            ..self
        }
    }
}

/// ln e against `p_c <= allowed p_s + extra` (with `r > allowed`) or against `p_c >= allowed p_s + extra` (with
/// `r < allowed`): the two-stream rate e-value, METHOD.md 2.1.
pub(crate) fn rate(w: Window, allowed: f64, extra: f64, r: f64) -> f64 {
    if w.n_c <= 0.0 || w.n_s <= 0.0 {
        return 0.0;
    }
    let ln_b = ((allowed - r) * w.n_c / (r * w.n_c + w.n_s)).ln_1p();
    let ln_a = (r / allowed).ln() + ln_b;
    let gain = w.x_c * ln_a + w.x_s * ln_b;
    if extra == 0.0 {
        gain
    } else {
        gain - extra * w.n_c * ln_a.exp_m1()
    }
}

/// ln e of `x` events in `n` trials against a share of at most `p` (with `a > 1`) or at least `p` (with `a < 1`): the
/// rate e-value with stable replaced by a constant, METHOD.md 2.3.
pub(crate) fn constant(n: f64, x: f64, p: f64, a: f64) -> f64 {
    x * a.ln() - n * p * (a - 1.0)
}

/// ln e against "the canary's share is at most stable's" (`odds > 1`) or "at least stable's" (`odds < 1`): the 2x2 GRO
/// e-value, METHOD.md 2.2. `guess` is what stable's share was before this window; only power depends on it.
pub(crate) fn share(w: Window, guess: f64, odds: f64) -> f64 {
    if w.n_c <= 0.0 || w.n_s <= 0.0 {
        return 0.0;
    }
    let t_s = guess.clamp(1e-6, 1.0 - 1e-6);
    let o = odds * t_s / (1.0 - t_s);
    let t_c = o / (1.0 + o);
    let t_0 = (w.n_c * t_c + w.n_s * t_s) / (w.n_c + w.n_s);
    w.x_c * (t_c / t_0).ln()
        + (w.n_c - w.x_c) * ((1.0 - t_c) / (1.0 - t_0)).ln()
        + w.x_s * (t_s / t_0).ln()
        + (w.n_s - w.x_s) * ((1.0 - t_s) / (1.0 - t_0)).ln()
}

/// ln e of one pair of gauges against "the canary is above at most half of the time"; a negative stake tests the
/// opposite.
pub(crate) fn sign(above: bool, stake: f64) -> f64 {
    (if above { stake } else { -stake }).ln_1p()
}
