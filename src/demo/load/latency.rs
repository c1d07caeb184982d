//! Latencies in little memory: counts in buckets that are each 5 % wide.

use std::time::Duration;

/// A bucket's upper bound is this times its lower bound: the error of a quantile is at most 5 %.
const STEP: f64 = 1.05;
/// The first bucket holds everything up to this.
const FIRST: Duration = Duration::from_micros(100);
/// With these many buckets, the last one begins at about 10 s, twice what a request may take.
const BUCKETS: usize = 237;

/// A histogram of bounded size.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Latencies {
    buckets: Vec<u64>,
    count: u64,
}

impl Default for Latencies {
    fn default() -> Self {
        Self {
            buckets: vec![0; BUCKETS],
            count: 0,
        }
    }
}

impl Latencies {
    pub(super) fn record(&mut self, took: Duration) {
        let ratio = took.as_secs_f64() / FIRST.as_secs_f64();
        // Below the first bound the logarithm is negative and the cast gives 0.
        let bucket = (ratio.ln() / STEP.ln()).ceil() as usize;
        self.buckets[bucket.min(BUCKETS - 1)] += 1;
        self.count += 1;
    }

    /// The upper bound of the bucket that holds the `quantile` (0 to 1) of all latencies; `None` if there are none.
    pub(super) fn quantile(&self, quantile: f64) -> Option<Duration> {
        let rank = (quantile * self.count as f64).ceil().max(1.0) as u64;
        let mut below = 0;
        for (bucket, count) in self.buckets.iter().enumerate() {
            below += count;
            if below >= rank {
                return Some(FIRST.mul_f64(STEP.powi(bucket as i32)));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_at_most_five_percent_above_the_true_one() {
        let mut latencies = Latencies::default();
        for ms in 1..=1000 {
            latencies.record(Duration::from_millis(ms));
        }
        for (quantile, truth) in [(0.5, 500.0), (0.99, 990.0), (1.0, 1000.0), (0.001, 1.0)] {
            let seen = latencies.quantile(quantile).unwrap().as_secs_f64() * 1000.0;
            assert!(
                (truth * 0.9999..=truth * 1.0501).contains(&seen),
                "{quantile}: {seen} for {truth}"
            );
        }
    }

    #[test]
    fn extremes_are_counted_at_the_edges_and_nothing_has_no_quantile() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.quantile(0.5), None);
        latencies.record(Duration::ZERO);
        assert_eq!(latencies.quantile(0.5), Some(FIRST));
        latencies.record(Duration::from_secs(3600));
        assert!(latencies.quantile(1.0).unwrap() > Duration::from_secs(9));
    }
}
