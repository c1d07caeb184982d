//! What could a stage see, before it is run? For `wade plan` and for telling how much an undecided stage could know.
//!
//! METHOD.md section 5: with a share w of the traffic, a canary whose errors are r times stable's is found with 99 %
//! once it has made `K = 7.2 / (ln a + (1-w)/(w r) ln b)` errors (a, b of 2.1). The formula leaves out the waiting for
//! blocks, so nothing is found sooner than about three burst windows, whatever it says.

/// The rise that is allowed by default (R = 1.1): nothing at or below it is a regression.
pub const ALLOWED: f64 = 1.1;
/// Evidence at which 99 of 100 releases are decided.
const EVIDENCE: f64 = 7.2;
/// No ratio above this is looked for.
const MAX_RATIO: f64 = 1000.0;

/// Canary errors needed to see that its error rate is `ratio` times stable's when `allowed` times is allowed and the
/// canary has the share `weight` of the traffic. `None` for a ratio that is allowed or a weight outside (0, 1).
pub fn errors_needed(ratio: f64, weight: f64, allowed: f64) -> Option<f64> {
    if !(ratio > allowed && allowed > 0.0 && weight > 0.0 && weight < 1.0) {
        return None;
    }
    let ln_b = ((allowed - ratio) * weight / (ratio * weight + 1.0 - weight)).ln_1p();
    let ln_a = (ratio / allowed).ln() + ln_b;
    Some(EVIDENCE / (ln_a + (1.0 - weight) / (weight * ratio) * ln_b))
}

/// The same against a constant share of bad events instead of stable's: `ratio` times that constant.
pub fn errors_needed_against_constant(ratio: f64) -> Option<f64> {
    (ratio > 1.0).then(|| EVIDENCE / (ratio.ln() + 1.0 / ratio - 1.0))
}

/// Seconds until a rise to `ratio` times stable's `error_rate` (a share of requests) is seen at `rps` requests per
/// second in all, of which the canary gets the share `weight`.
pub fn seconds_needed(ratio: f64, weight: f64, rps: f64, error_rate: f64, allowed: f64) -> Option<f64> {
    let canary_errors_per_s = rps * weight * (ratio * error_rate).min(1.0);
    (canary_errors_per_s > 0.0).then(|| errors_needed(ratio, weight, allowed).map(|k| k / canary_errors_per_s))?
}

/// The smallest rise in errors, as a multiple of stable's `error_rate`, that a stage of `duration_s` seconds would
/// see. `None` if it would see none at all: too little traffic, or stable makes no errors to multiply.
pub fn smallest_visible_ratio(weight: f64, rps: f64, error_rate: f64, duration_s: f64, allowed: f64) -> Option<f64> {
    let most = (1.0 / error_rate).min(MAX_RATIO);
    smallest(allowed, most, |ratio| {
        seconds_needed(ratio, weight, rps, error_rate, allowed).is_some_and(|seconds| seconds <= duration_s)
    })
}

/// What has been visible by now: `requests` of the canary beside `stable_requests`, with stable's `error_rate` and the
/// evidence divided by `phi`.
pub(crate) fn visible_by_now(
    requests: f64,
    stable_requests: f64,
    error_rate: f64,
    phi: f64,
    allowed: f64,
) -> Option<f64> {
    let weight = requests / (requests + stable_requests);
    let most = (1.0 / error_rate).min(MAX_RATIO);
    smallest(allowed, most, |ratio| {
        errors_needed(ratio, weight, allowed).is_some_and(|k| k * phi <= requests * ratio * error_rate)
    })
}

/// The same against a constant.
pub(crate) fn visible_by_now_against_constant(requests: f64, max_ratio: f64, phi: f64) -> Option<f64> {
    let most = (1.0 / max_ratio).min(MAX_RATIO);
    smallest(1.0, most, |ratio| {
        errors_needed_against_constant(ratio).is_some_and(|k| k * phi <= requests * ratio * max_ratio)
    })
}

/// The smallest share of the canary's requests beyond a latency threshold that has been visible by now, where stable has
/// `allowed` of its requests beyond it after the allowed slowdown: the one at which the 2x2 e-value (METHOD.md 2.2) is
/// expected to have grown to what 99 of 100 releases need.
pub(crate) fn slower_by_now(requests: f64, stable_requests: f64, allowed: f64, phi: f64) -> Option<f64> {
    let known = requests > 0.0 && stable_requests > 0.0 && allowed > 0.0 && allowed < 1.0;
    let share = |odds: f64| {
        let odds = odds * allowed / (1.0 - allowed);
        odds / (1.0 + odds)
    };
    let visible = |odds: f64| {
        let canary = share(odds);
        let both = (requests * canary + stable_requests * allowed) / (requests + stable_requests);
        requests * divergence(canary, both) + stable_requests * divergence(allowed, both) >= EVIDENCE * phi
    };
    known.then(|| smallest(1.0, MAX_RATIO, visible))?.map(share)
}

/// How much a coin with chance `p` speaks, a throw, against being one with chance `q` (Kullback and Leibler).
fn divergence(p: f64, q: f64) -> f64 {
    let part = |p: f64, q: f64| if p > 0.0 { p * (p / q).ln() } else { 0.0 };
    part(p, q) + part(1.0 - p, 1.0 - q)
}

/// The smallest ratio in (`low`, `high`] that is visible, given that every larger one then is too.
fn smallest(low: f64, high: f64, visible: impl Fn(f64) -> bool) -> Option<f64> {
    if high <= low || !visible(high) {
        return None;
    }
    let (mut unseen, mut seen) = (low, high);
    // Each round halves the logarithm of the gap; 1000 to 1 shrinks below a thousandth in 14, 20 leave room.
    for _ in 0..20 {
        let middle = (unseen * seen).sqrt();
        if visible(middle) {
            seen = middle;
        } else {
            unseen = middle;
        }
    }
    Some(seen)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_needed_match_the_quoted_figures() {
        let figures = |weight| {
            [1.5, 2.0, 5.0, 20.0].map(|ratio| (errors_needed(ratio, weight, ALLOWED).unwrap() * 10.0).round() / 10.0)
        };
        let quoted_5 = [176.0, 52.0, 11.0, 4.5];
        let quoted_50 = [368.0, 115.0, 28.0, 15.0];
        for (got, quoted) in figures(0.05)
            .into_iter()
            .zip(quoted_5)
            .chain(figures(0.5).into_iter().zip(quoted_50))
        {
            assert!((got - quoted).abs() <= 0.5, "{got} should be {quoted}");
        }
    }

    #[test]
    fn a_smallest_visible_ratio_takes_just_the_time_given() {
        let ratio = smallest_visible_ratio(0.05, 1000.0, 0.002, 120.0, ALLOWED).unwrap();
        let seconds = seconds_needed(ratio, 0.05, 1000.0, 0.002, ALLOWED).unwrap();
        assert!((seconds - 120.0).abs() < 0.2, "x{ratio} takes {seconds} s");
    }

    #[test]
    fn what_cannot_be_seen_is_none() {
        assert_eq!(
            smallest_visible_ratio(0.01, 1.0, 0.001, 60.0, ALLOWED),
            None,
            "too little traffic"
        );
        assert_eq!(
            smallest_visible_ratio(0.05, 1000.0, 0.0, 60.0, ALLOWED),
            None,
            "no errors to multiply"
        );
        assert_eq!(
            smallest_visible_ratio(1.0, 1000.0, 0.01, 60.0, ALLOWED),
            None,
            "no stable beside it"
        );
        assert_eq!(smallest_visible_ratio(0.05, f64::NAN, 0.01, 60.0, ALLOWED), None);
        assert_eq!(errors_needed(1.1, 0.05, ALLOWED), None, "allowed");
    }
}
