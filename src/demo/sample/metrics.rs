//! The sample service's own counters, in classic Prometheus text (version 0.0.4).
//!
//! Written by hand: two families of fixed labels are less than what a client library has to be told, and the library
//! at hand writes OpenMetrics only.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

/// The content type of the text.
pub(super) const CONTENT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Upper bounds in milliseconds, from 1 ms to 10 s. No step is more than a factor of 2 (1.5 where latencies usually are),
/// so that a threefold slowdown moves every request over at least one bound and most over two.
const BOUNDS_MS: [u32; 24] = [
    1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 2048, 4096, 8192, 10_000,
];

#[derive(Clone, Debug, Default, PartialEq)]
struct Series {
    /// Requests per bucket, not cumulative; the last one is beyond all bounds.
    buckets: [u64; BOUNDS_MS.len() + 1],
    sum_secs: f64,
}

impl Series {
    fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

/// Requests by route and status: at most three routes and two statuses, so it does not grow.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Metrics(BTreeMap<(&'static str, u16), Series>);

impl Metrics {
    pub(super) fn record(&mut self, route: &'static str, code: u16, took: Duration) {
        let series = self.0.entry((route, code)).or_default();
        let bucket = BOUNDS_MS.partition_point(|bound| Duration::from_millis(u64::from(*bound)) < took);
        series.buckets[bucket] += 1;
        series.sum_secs += took.as_secs_f64();
    }

    pub(super) fn text(&self) -> String {
        let mut out = String::with_capacity(16 << 10);
        out.push_str("# HELP http_requests_total Requests answered.\n# TYPE http_requests_total counter\n");
        for ((route, code), series) in &self.0 {
            let count = series.count();
            let _ = writeln!(out, "http_requests_total{{code=\"{code}\",route=\"{route}\"}} {count}");
        }
        out.push_str("# HELP http_request_duration_seconds How long requests took.\n");
        out.push_str("# TYPE http_request_duration_seconds histogram\n");
        for ((route, code), series) in &self.0 {
            let labels = format!("code=\"{code}\",route=\"{route}\"");
            let mut below = 0;
            for (bound, count) in BOUNDS_MS.iter().zip(&series.buckets) {
                below += count;
                let le = f64::from(*bound) / 1000.0;
                let _ = writeln!(
                    out,
                    "http_request_duration_seconds_bucket{{{labels},le=\"{le}\"}} {below}"
                );
            }
            let (count, sum) = (series.count(), series.sum_secs);
            let _ = writeln!(
                out,
                "http_request_duration_seconds_bucket{{{labels},le=\"+Inf\"}} {count}"
            );
            let _ = writeln!(out, "http_request_duration_seconds_sum{{{labels}}} {sum}");
            let _ = writeln!(out, "http_request_duration_seconds_count{{{labels}}} {count}");
        }
        out
    }
}
