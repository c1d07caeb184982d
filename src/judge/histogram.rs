//! Shares and quantiles of a latency histogram: `counts[i]` requests in bucket i, the last bucket above every bound.

use serde::{Deserialize, Serialize};

/// Where a shifted threshold falls: bucket `bucket` counts with weight `part`, those above it in full.
///
/// Fixed when it is pinned (METHOD.md 2.2), because an e-value may not choose its threshold by the data it judges.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Split {
    pub(crate) bucket: usize,
    pub(crate) part: f64,
}

/// Requests above bound `j`.
pub(crate) fn above(counts: &[f64], j: usize) -> f64 {
    counts[j + 1..].iter().sum()
}

/// Requests above a split bound.
pub(crate) fn above_split(counts: &[f64], split: Split) -> f64 {
    above(counts, split.bucket) + split.part * counts[split.bucket]
}

/// The share above bound `j`, smoothed so that it is never 0 or 1.
pub(crate) fn share_above(counts: &[f64], j: usize) -> f64 {
    (above(counts, j) + 0.5) / (counts.iter().sum::<f64>() + 1.0)
}

/// Where `bounds[j] / (1 + shift)` falls, with the logit of the share above taken as linear in ln(latency) inside a
/// bucket: good for body and tail, where plain log-linear interpolation hid regressions of the tail.
pub(crate) fn split_below(bounds: &[f64], counts: &[f64], j: usize, shift: f64) -> Split {
    let threshold = bounds[j] / (1.0 + shift);
    let mut bucket = j;
    while bucket > 0 && threshold < bounds[bucket - 1] {
        bucket -= 1;
    }
    let high = bounds[bucket];
    if threshold >= high {
        return Split { bucket, part: 0.0 };
    }
    let low = if bucket == 0 { 0.0 } else { bounds[bucket - 1] };
    if low <= 0.0 {
        return Split {
            bucket,
            part: (high - threshold) / high,
        };
    }
    let (above_high, above_low) = (share_above(counts, bucket), share_above(counts, bucket - 1));
    if above_low - above_high <= 0.0 {
        return Split { bucket, part: 1.0 };
    }
    let z = logit(above_high) + (logit(above_low) - logit(above_high)) * (high / threshold).ln() / (high / low).ln();
    let above_threshold = 1.0 / (1.0 + (-z).exp());
    Split {
        bucket,
        part: ((above_threshold - above_high) / (above_low - above_high)).clamp(0.0, 1.0),
    }
}

/// The bound whose smoothed share above is nearest to `1 - q` in logarithms; ties go to the lower bound.
pub(crate) fn nearest_bound(bounds: &[f64], counts: &[f64], q: f64) -> usize {
    // Rounded, so that rounding errors do not break ties.
    let distance = |j| ((share_above(counts, j) / (1.0 - q)).ln().abs() * 1e12).round_ties_even();
    (0..bounds.len())
        .min_by(|a, b| f64::total_cmp(&distance(*a), &distance(*b)))
        .unwrap_or(0)
}

/// The latency below which the share `q` of requests stayed, linear inside a bucket; for the open bucket above every
/// bound it is the last bound, as nothing more is known. `None` without requests.
pub(crate) fn quantile(bounds: &[f64], counts: &[f64], q: f64) -> Option<f64> {
    let total: f64 = counts.iter().sum();
    if total <= 0.0 {
        return None;
    }
    let wanted = q * total;
    let mut below = 0.0;
    for (j, (high, count)) in bounds.iter().zip(counts).enumerate() {
        if below + count >= wanted && *count > 0.0 {
            let low = if j == 0 { 0.0 } else { bounds[j - 1] };
            return Some(low + (high - low) * (wanted - below) / count);
        }
        below += count;
    }
    bounds.last().copied()
}

fn logit(p: f64) -> f64 {
    (p / (1.0 - p)).ln()
}
