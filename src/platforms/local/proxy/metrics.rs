//! The counters as Prometheus reads them (text format 0.0.4, which OpenMetrics scrapers read too).
//!
//! Labels are the service, the revisions of the routes and words of ours: nothing that a client sends gets here.

use std::fmt::Write;

use super::counters::{CODE_CLASSES, LATENCY_BOUNDS_SECONDS, RevisionCounters, Snapshot, Traffic};

/// One family of metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    /// Its name, without the `_bucket`, `_sum` and `_count` of histograms.
    pub name: &'static str,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// Its labels besides `service`.
    pub labels: &'static [&'static str],
    /// What it says.
    pub help: &'static str,
}

macro_rules! metrics {
    ($($id:ident = $name:literal $kind:ident [$($label:literal),*] $help:literal;)*) => {
        $(const $id: Metric =
            Metric { name: $name, kind: stringify!($kind), labels: &[$($label),*], help: $help };)*
        /// Every metric of the proxy; documentation and dashboards are checked against this list.
        pub const METRICS: &[Metric] = &[$($id),*];
    };
}

metrics! {
    REQUESTS = "wade_proxy_requests_total" counter ["revision", "code_class"]
        "Users' requests answered, by class of status code; 502 and 504 made by the proxy included.";
    ERRORS = "wade_proxy_errors_total" counter ["revision"]
        "Users' requests answered with 5xx, or with a gRPC status that blames the server.";
    DURATION = "wade_proxy_request_duration_seconds" histogram ["revision"]
        "Time until the head of the answer to a user's request; gRPC: until its status.";
    IN_FLIGHT = "wade_proxy_in_flight" gauge ["revision"]
        "Users' requests being answered now, tunnels included.";
    FAILURES = "wade_proxy_failures_total" counter ["revision", "kind"]
        "Requests that the revision gave no answer to, by kind.";
    RESENT = "wade_proxy_resent_total" counter ["revision"]
        "Requests sent again because a kept connection turned out closed.";
    CLIENT_GONE = "wade_proxy_client_gone_total" counter ["revision"]
        "Users who left before their answer came.";
    CUT_SHORT = "wade_proxy_cut_short_total" counter ["revision"]
        "Answers of the revision that broke off after their head.";
    MIRRORED = "wade_proxy_mirrored_total" counter ["revision", "code_class"]
        "Mirrored requests answered, by class of status code.";
    MIRROR_ERRORS = "wade_proxy_mirrored_errors_total" counter ["revision"]
        "Mirrored requests answered with 5xx, or with a gRPC status that blames the server.";
    MIRROR_DURATION = "wade_proxy_mirrored_duration_seconds" histogram ["revision"]
        "Time until the head of the answer to a mirrored request.";
    MIRROR_IN_FLIGHT = "wade_proxy_mirrored_in_flight" gauge ["revision"]
        "Mirrored requests being answered now.";
    MIRROR_SKIPPED = "wade_proxy_mirror_skipped_total" counter ["revision", "reason"]
        "Requests not mirrored to the revision, by reason.";
    UNROUTED = "wade_proxy_unrouted_total" counter []
        "Requests answered 503 because no revision had a weight.";
    CONNECTIONS = "wade_proxy_connections" gauge []
        "Client connections open now.";
    CONNECTIONS_FULL = "wade_proxy_connections_full_total" counter []
        "Times a new connection had to wait because the limit was reached.";
    CONNECTIONS_TIMED_OUT = "wade_proxy_connections_timed_out_total" counter []
        "Client connections closed because they dawdled.";
}

/// The page that Prometheus reads.
pub(super) fn encode(service: &str, snapshot: &Snapshot) -> String {
    let mut page = Page {
        service: escape(service),
        text: String::with_capacity(16 * 1024),
    };
    let all = &snapshot.revisions;
    page.traffic(REQUESTS, ERRORS, DURATION, snapshot, |counters| &counters.users);
    page.each(IN_FLIGHT, snapshot, |counters| counters.in_flight);
    page.head(FAILURES);
    for (revision, counters) in all {
        for (kind, count) in &counters.failures {
            page.line(FAILURES.name, &[("revision", revision), ("kind", kind)], count);
        }
    }
    page.each(RESENT, snapshot, |counters| counters.resent);
    page.each(CLIENT_GONE, snapshot, |counters| counters.client_gone);
    page.each(CUT_SHORT, snapshot, |counters| counters.cut_short);
    page.traffic(MIRRORED, MIRROR_ERRORS, MIRROR_DURATION, snapshot, |counters| {
        &counters.mirror
    });
    page.each(MIRROR_IN_FLIGHT, snapshot, |counters| counters.mirror_in_flight);
    page.head(MIRROR_SKIPPED);
    for (revision, counters) in all {
        for (reason, count) in &counters.mirror_skipped {
            page.line(
                MIRROR_SKIPPED.name,
                &[("revision", revision), ("reason", reason)],
                count,
            );
        }
    }
    page.one(UNROUTED, snapshot.unrouted);
    page.one(CONNECTIONS, snapshot.connections);
    page.one(CONNECTIONS_FULL, snapshot.connections_full);
    page.one(CONNECTIONS_TIMED_OUT, snapshot.connections_timed_out);
    page.text
}

struct Page {
    service: String,
    text: String,
}

impl Page {
    fn head(&mut self, metric: Metric) {
        let Metric { name, kind, help, .. } = metric;
        self.push(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
    }

    fn line(&mut self, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        let service = std::mem::take(&mut self.service);
        self.push(format_args!("{name}{{service=\"{service}\""));
        for (label, text) in labels {
            let text = escape(text);
            self.push(format_args!(",{label}=\"{text}\""));
        }
        self.push(format_args!("}} {value}\n"));
        self.service = service;
    }

    fn one(&mut self, metric: Metric, value: u64) {
        self.head(metric);
        self.line(metric.name, &[], value);
    }

    fn each(&mut self, metric: Metric, snapshot: &Snapshot, value: fn(&RevisionCounters) -> u64) {
        self.head(metric);
        for (revision, counters) in &snapshot.revisions {
            self.line(metric.name, &[("revision", revision)], value(counters));
        }
    }

    fn traffic(
        &mut self,
        requests: Metric,
        errors: Metric,
        duration: Metric,
        snapshot: &Snapshot,
        of: fn(&RevisionCounters) -> &Traffic,
    ) {
        self.head(requests);
        for (revision, counters) in &snapshot.revisions {
            for (class, count) in CODE_CLASSES.iter().zip(of(counters).code_classes) {
                self.line(requests.name, &[("revision", revision), ("code_class", class)], count);
            }
        }
        self.head(errors);
        for (revision, counters) in &snapshot.revisions {
            self.line(errors.name, &[("revision", revision)], of(counters).errors);
        }
        self.head(duration);
        for (revision, counters) in &snapshot.revisions {
            self.histogram(duration.name, revision, of(counters));
        }
    }

    fn histogram(&mut self, name: &str, revision: &str, traffic: &Traffic) {
        let bounds = LATENCY_BOUNDS_SECONDS
            .iter()
            .map(f64::to_string)
            .chain(["+Inf".to_owned()]);
        let mut up_to = 0;
        for (bound, count) in bounds.zip(&traffic.latency) {
            up_to += count;
            self.line(
                &format!("{name}_bucket"),
                &[("revision", revision), ("le", &bound)],
                up_to,
            );
        }
        self.line(
            &format!("{name}_sum"),
            &[("revision", revision)],
            traffic.latency_sum.as_secs_f64(),
        );
        self.line(&format!("{name}_count"), &[("revision", revision)], up_to);
    }

    fn push(&mut self, text: std::fmt::Arguments<'_>) {
        self.text.write_fmt(text).expect("writing to a string cannot fail");
    }
}

/// Label values escape backslash, quote and newline.
fn escape(label: &str) -> String {
    label.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n")
}
