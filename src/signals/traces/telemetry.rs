//! What is counted about traces themselves, as Prometheus reads it. Whoever floods Wade with spans shows up here.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};

/// One family of counters: its name, its only label and what it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// Its label.
    pub label: &'static str,
    /// What it says.
    pub help: &'static str,
}

/// Requests to the receiver by how they ended.
pub const REQUESTS: Metric = Metric {
    name: "wade_otlp_requests_total",
    label: "outcome",
    help: "Requests to the trace receiver, by how they ended.",
};
/// Server spans by whose they are.
pub const SPANS: Metric = Metric {
    name: "wade_traces_spans_total",
    label: "of",
    help: "Server spans read, by whose they are; other kinds of spans are not counted.",
};
/// Spans that were not used.
pub const DROPPED: Metric = Metric {
    name: "wade_traces_dropped_total",
    label: "reason",
    help: "Spans and requests of spans that were not used, by reason.",
};
/// Spans and errors that went into `(other)`.
pub const OVERFLOW: Metric = Metric {
    name: "wade_traces_overflow_total",
    label: "of",
    help: "Server spans whose operation, and errors whose signature, went into the bucket (other) because of the limits.",
};

/// Every metric of traces; documentation and dashboards are checked against this list.
pub const METRICS: [Metric; 4] = [REQUESTS, SPANS, DROPPED, OVERFLOW];

macro_rules! counts {
    ($($(#[$doc:meta])* $variant:ident = $metric:ident $word:literal;)*) => {
        /// What is counted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Count { $($(#[$doc])* $variant),* }

        const COUNTS: &[(Count, Metric, &str)] = &[$((Count::$variant, $metric, $word)),*];
    };
}

counts! {
    /// Everything in the request was read.
    Accepted = REQUESTS "accepted";
    /// Some of its spans were not used; the sender was told.
    Partial = REQUESTS "partial";
    /// It could not be read.
    Malformed = REQUESTS "malformed";
    /// It was longer than the limit, as sent or after decompression.
    TooLarge = REQUESTS "too_large";
    /// It came without the right token.
    Denied = REQUESTS "denied";
    /// There were too many spans in the last second, or too many requests at once.
    Limited = REQUESTS "limited";
    /// It did not arrive in time.
    Slow = REQUESTS "slow";
    /// The canary's.
    OfCanary = SPANS "canary";
    /// Stable's.
    OfStable = SPANS "stable";
    /// A known service's, of neither of its revisions that are compared now.
    OfNeither = SPANS "neither";
    /// A known service's, but no attribute tells its two revisions apart.
    OfBoth = SPANS "ambiguous";
    /// Of no service that Wade releases.
    Unknown = SPANS "unknown";
    /// More spans a second than is allowed.
    OverRate = DROPPED "rate";
    /// No usable times, or no trace id.
    Senseless = DROPPED "senseless";
    /// They end too long ago (or too far ahead) to say something about now.
    Late = DROPPED "late";
    /// Operations beyond the limit.
    Operation = OVERFLOW "operation";
    /// Error signatures beyond the limit.
    Signature = OVERFLOW "signature";
}

/// The counters, shared by everybody who handles spans.
#[derive(Debug)]
pub struct Telemetry([AtomicU64; COUNTS.len()]);

impl Default for Telemetry {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; COUNTS.len()])
    }
}

impl Telemetry {
    /// Adds to a counter.
    pub fn add(&self, count: Count, by: u64) {
        self.0[count as usize].fetch_add(by, Ordering::Relaxed);
    }

    /// A counter's value.
    pub fn get(&self, count: Count) -> u64 {
        self.0[count as usize].load(Ordering::Relaxed)
    }

    /// The part of the page that Prometheus reads (text format 0.0.4).
    pub fn page(&self) -> String {
        let mut text = String::new();
        for metric in METRICS {
            let Metric { name, label, help } = metric;
            let mut line = |line: std::fmt::Arguments<'_>| {
                text.write_fmt(line).expect("writing to a string cannot fail");
            };
            line(format_args!("# HELP {name} {help}\n# TYPE {name} counter\n"));
            for (count, _, word) in COUNTS.iter().filter(|(_, of, _)| *of == metric) {
                line(format_args!("{name}{{{label}=\"{word}\"}} {}\n", self.get(*count)));
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_count_has_its_own_place_on_the_page() {
        let telemetry = Telemetry::default();
        for (i, (count, ..)) in COUNTS.iter().enumerate() {
            telemetry.add(*count, i as u64 + 1);
        }
        let page = telemetry.page();
        for (i, (_, metric, word)) in COUNTS.iter().enumerate() {
            let line = format!("{}{{{}=\"{word}\"}} {}\n", metric.name, metric.label, i + 1);
            assert!(page.contains(&line), "{line}");
        }
        assert_eq!(page.matches("# TYPE").count(), METRICS.len());
    }
}
