//! Well-known metric families, recognised without configuration.
//!
//! The idea: nearly every service already counts its requests under one of a dozen names. [`track`] reads points of
//! one target and says which series are requests, which of them are errors and which are durations. It keeps *every*
//! known family, so that the choice between them ([`choose`]) can be made later, from traffic that was really seen,
//! without a series ever being met for the first time in the middle of a release.
//!
//! It does not look for client-side families (they count what the service asks of others), and it leaves out health
//! and metrics requests where a label tells: probes would make a silent canary look busy.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::signals::exposition::{Point, series_id};
use crate::signals::series::Value;

#[cfg(test)]
mod tests;

/// Name of the series that tells when a process started, in Unix seconds.
pub const PROCESS_START: &str = "process_start_time_seconds";

/// How a family says whether a request was an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    /// HTTP status in the first of these labels that is present; 5xx is an error.
    Http(&'static [&'static str]),
    /// OpenTelemetry: the status, or `error_type` where there was no answer.
    OpenTelemetry,
    /// gRPC status name.
    Grpc,
    /// Istio: HTTP status and numeric gRPC status, as gRPC errors are HTTP 200.
    Istio,
    /// Linkerd's own classification, which knows gRPC.
    Linkerd,
    /// The first digit of the status.
    EnvoyClass,
}

/// One row of the table of known families.
#[derive(Debug)]
struct Known {
    name: &'static str,
    counter: &'static str,
    status: Status,
    /// The bucket series and how many seconds its unit has.
    buckets: Option<(&'static str, f64)>,
    /// Only series with this label value are requests *to* the service.
    only: Option<(&'static str, &'static str)>,
}

const HTTP_LABELS: &[&str] = &[
    "code",
    "status",
    "status_code",
    "http_status_code",
    "http_response_status_code",
];
const SECONDS: f64 = 1.0;
const MILLISECONDS: f64 = 1e-3;

/// In order of preference: the process's own view by the newest convention first, what stands in front of it last.
static KNOWN: [Known; 11] = [
    Known {
        name: "http_server_request_duration_seconds",
        counter: "http_server_request_duration_seconds_count",
        status: Status::OpenTelemetry,
        buckets: Some(("http_server_request_duration_seconds_bucket", SECONDS)),
        only: None,
    },
    Known {
        name: "http_requests_total",
        counter: "http_requests_total",
        status: Status::Http(HTTP_LABELS),
        buckets: None,
        only: None,
    },
    Known {
        name: "http_request_duration_seconds",
        counter: "http_request_duration_seconds_count",
        status: Status::Http(HTTP_LABELS),
        buckets: Some(("http_request_duration_seconds_bucket", SECONDS)),
        only: None,
    },
    Known {
        name: "http_server_requests_seconds",
        counter: "http_server_requests_seconds_count",
        status: Status::Http(HTTP_LABELS),
        buckets: Some(("http_server_requests_seconds_bucket", SECONDS)),
        only: None,
    },
    Known {
        name: "http_server_duration_milliseconds",
        counter: "http_server_duration_milliseconds_count",
        status: Status::OpenTelemetry,
        buckets: Some(("http_server_duration_milliseconds_bucket", MILLISECONDS)),
        only: None,
    },
    Known {
        name: "grpc_server_handled_total",
        counter: "grpc_server_handled_total",
        status: Status::Grpc,
        buckets: Some(("grpc_server_handling_seconds_bucket", SECONDS)),
        only: None,
    },
    Known {
        name: "istio_requests_total",
        counter: "istio_requests_total",
        status: Status::Istio,
        buckets: Some(("istio_request_duration_milliseconds_bucket", MILLISECONDS)),
        only: Some(("reporter", "destination")),
    },
    Known {
        name: "response_total",
        counter: "response_total",
        status: Status::Linkerd,
        buckets: Some(("response_latency_ms_bucket", MILLISECONDS)),
        only: Some(("direction", "inbound")),
    },
    Known {
        name: "envoy_cluster_upstream_rq_xx",
        counter: "envoy_cluster_upstream_rq_xx",
        status: Status::EnvoyClass,
        buckets: Some(("envoy_cluster_upstream_rq_time_bucket", MILLISECONDS)),
        only: None,
    },
    Known {
        name: "nginx_ingress_controller_requests",
        counter: "nginx_ingress_controller_requests",
        status: Status::Http(HTTP_LABELS),
        buckets: Some(("nginx_ingress_controller_request_duration_seconds_bucket", SECONDS)),
        only: None,
    },
    Known {
        name: "traefik_service_requests_total",
        counter: "traefik_service_requests_total",
        status: Status::Http(HTTP_LABELS),
        buckets: Some(("traefik_service_request_duration_seconds_bucket", SECONDS)),
        only: None,
    },
];

/// A known family; ordered by preference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Family(usize);

impl Family {
    /// All of them, the preferred first.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..KNOWN.len()).map(Self)
    }

    /// The name under which people know it.
    pub fn name(self) -> &'static str {
        KNOWN[self.0].name
    }

    /// The series that counts requests.
    pub fn counter(self) -> &'static str {
        KNOWN[self.0].counter
    }

    /// The series with its latency buckets.
    pub fn buckets(self) -> Option<&'static str> {
        KNOWN[self.0].buckets.map(|(name, _)| name)
    }
}

/// Whether a counted request was an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// Answered as it should be (4xx is the client's doing).
    Good,
    /// An error of the service.
    Bad,
    /// The family has no label that would tell.
    Unknown,
}

/// What a series of a known family means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Meaning {
    /// It counts requests with this outcome.
    Requests(Outcome),
    /// Its buckets hold durations in seconds.
    Durations,
}

/// One series of a known family.
#[derive(Clone, Debug, PartialEq)]
pub struct Tracked {
    /// The family.
    pub family: Family,
    /// What it counts.
    pub meaning: Meaning,
    /// Its identity within the target.
    pub series: String,
    /// What it shows; bounds in seconds.
    pub value: Value,
}

impl Tracked {
    /// What [`choose`] looks at.
    pub fn sighting(&self) -> (Family, Meaning, f64) {
        (self.family, self.meaning, self.value.total())
    }
}

/// What one target (or one side) shows now, in numbers; for the `found` line and for checking a setup.
#[derive(Clone, Debug, PartialEq)]
pub struct Extract {
    /// The family the requests are read from.
    pub family: Family,
    /// All requests.
    pub requests: f64,
    /// How many of them were errors; `None` where the family cannot tell.
    pub errors: Option<f64>,
    /// The latency histogram, summed over series with equal bounds, and its family.
    pub latency: Option<(Family, Value)>,
}

/// Requests that are no traffic: probes, metrics, reflection.
fn is_housekeeping(point: &Point) -> bool {
    const ROUTE_LABELS: [&str; 8] = [
        "http_route",
        "route",
        "path",
        "uri",
        "handler",
        "endpoint",
        "url",
        "url_path",
    ];
    const HOUSEKEEPING: [&str; 7] = [
        "/metrics", "/healthz", "/livez", "/readyz", "/health", "/live", "/ready",
    ];
    let route = ROUTE_LABELS
        .iter()
        .map(|label| point.label(label))
        .find(|route| !route.is_empty())
        .unwrap_or("");
    let path = route.split('?').next().unwrap_or_default().trim_end_matches('/');
    let spring = ["/actuator/health", "/actuator/prometheus"]
        .iter()
        .any(|p| path.starts_with(p));
    let service = point.label("grpc_service");
    let grpc = service == "grpc.health.v1.Health" || service.starts_with("grpc.reflection.");
    HOUSEKEEPING.contains(&path) || spring || grpc
}

fn http_outcome(status: &str) -> Outcome {
    match status {
        "" => Outcome::Unknown,
        "error" | "failure" => Outcome::Bad,
        status if status.len() == 3 && status.starts_with('5') => Outcome::Bad,
        _ => Outcome::Good,
    }
}

impl Status {
    fn outcome(self, point: &Point) -> Outcome {
        match self {
            Self::Http(labels) => http_outcome(
                labels
                    .iter()
                    .map(|label| point.label(label))
                    .find(|v| !v.is_empty())
                    .unwrap_or(""),
            ),
            Self::OpenTelemetry => match [
                point.label("http_response_status_code"),
                point.label("http_status_code"),
            ] {
                ["", ""] if point.label("error_type").is_empty() => Outcome::Unknown,
                ["", ""] => Outcome::Bad,
                ["", status] | [status, _] => http_outcome(status),
            },
            // The codes that are the server's doing; the others are answers to what was asked.
            Self::Grpc => match point.label("grpc_code") {
                "" => Outcome::Unknown,
                "Unknown" | "DeadlineExceeded" | "Unimplemented" | "Internal" | "Unavailable" | "DataLoss" => {
                    Outcome::Bad
                }
                _ => Outcome::Good,
            },
            Self::Istio => match point.label("grpc_response_status") {
                "2" | "4" | "12" | "13" | "14" | "15" => Outcome::Bad,
                // Istio reports 0 where the connection ended without an answer.
                _ if point.label("response_code") == "0" => Outcome::Bad,
                _ => http_outcome(point.label("response_code")),
            },
            Self::Linkerd => match point.label("classification") {
                "" => Outcome::Unknown,
                "failure" => Outcome::Bad,
                _ => Outcome::Good,
            },
            Self::EnvoyClass => match point.label("envoy_response_code_class") {
                "" => Outcome::Unknown,
                "5" => Outcome::Bad,
                _ => Outcome::Good,
            },
        }
    }
}

/// Says of one target's points which belong to a known family, and what they mean.
pub fn track(points: &[Point]) -> Vec<Tracked> {
    let mut tracked = Vec::new();
    let mut buckets: BTreeMap<(Family, String), Vec<(f64, f64)>> = BTreeMap::new();
    for point in points {
        for family in Family::all() {
            let known = &KNOWN[family.0];
            let is_counter = point.name == known.counter;
            let unit = known
                .buckets
                .and_then(|(name, unit)| (name == point.name).then_some(unit));
            if !is_counter && unit.is_none() {
                continue;
            }
            if known.only.is_some_and(|(label, value)| point.label(label) != value) || is_housekeeping(point) {
                continue;
            }
            if is_counter {
                tracked.push(Tracked {
                    family,
                    meaning: Meaning::Requests(known.status.outcome(point)),
                    series: series_id(&point.name, &point.labels, None),
                    value: Value::Count(point.value),
                });
            } else if let (Some(unit), Ok(le)) = (unit, point.label("le").parse::<f64>()) {
                let series = series_id(&point.name, &point.labels, Some("le"));
                buckets
                    .entry((family, series))
                    .or_default()
                    .push((le * unit, point.value));
            }
        }
    }
    let mut bounds = Bounds::default();
    for ((family, series), pairs) in buckets {
        if let Some(value) = bounds.histogram(pairs) {
            tracked.push(Tracked {
                family,
                meaning: Meaning::Durations,
                series,
                value,
            });
        }
    }
    tracked
}

/// Keeps one copy of bucket bounds that repeat from series to series.
#[derive(Default)]
pub struct Bounds(Option<Arc<[f64]>>);

impl Bounds {
    /// A histogram from (upper bound, cumulative count); `None` without a +Inf bucket or with a NaN in it.
    pub fn histogram(&mut self, mut pairs: Vec<(f64, f64)>) -> Option<Value> {
        if pairs.iter().any(|(le, count)| le.is_nan() || !count.is_finite()) {
            return None;
        }
        pairs.sort_by(|a, b| a.0.total_cmp(&b.0));
        pairs.dedup_by(|later, kept| later.0 == kept.0);
        if pairs.last()?.0 != f64::INFINITY {
            return None;
        }
        let mut highest = 0.0_f64;
        let cumulative: Vec<f64> = pairs
            .iter()
            .map(|(_, count)| {
                // A scrape may catch the buckets between two increments; the running maximum puts that right.
                highest = highest.max(*count);
                highest
            })
            .collect();
        let finite = &pairs[..pairs.len() - 1];
        let le = match &self.0 {
            Some(le) if le.iter().eq(finite.iter().map(|(le, _)| le)) => le.clone(),
            _ => finite.iter().map(|(le, _)| *le).collect(),
        };
        self.0 = Some(le.clone());
        Some(Value::Buckets { le, cumulative })
    }
}

/// The families that one side is read from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Choice {
    /// Requests and errors.
    pub requests: Option<Family>,
    /// Durations; the same family where it has buckets.
    pub durations: Option<Family>,
}

/// Chooses among the families that are there: those with traffic first, then `prefer` (what the other side is read
/// from, as like should be compared with like), then those that can tell errors, then the table's order.
///
/// Each item is one series: its family, what it means, and the total it shows.
pub fn choose(series: &[(Family, Meaning, f64)], prefer: Choice) -> Choice {
    let requests = best(series, prefer.requests, |meaning| {
        matches!(meaning, Meaning::Requests(_))
    });
    let durations = best(series, prefer.durations.or(requests), |meaning| {
        meaning == Meaning::Durations
    });
    Choice { requests, durations }
}

fn best(series: &[(Family, Meaning, f64)], prefer: Option<Family>, wanted: impl Fn(Meaning) -> bool) -> Option<Family> {
    // (without traffic, not preferred, cannot tell errors): the smallest is the best.
    let mut ranks: BTreeMap<Family, (bool, bool, bool)> = BTreeMap::new();
    for (family, meaning, total) in series.iter().filter(|(_, meaning, _)| wanted(*meaning)) {
        let rank = ranks.entry(*family).or_insert((true, Some(*family) != prefer, true));
        rank.0 &= *total <= 0.0 || total.is_nan();
        rank.2 &= *meaning == Meaning::Requests(Outcome::Unknown);
    }
    ranks
        .into_iter()
        .min_by_key(|(family, rank)| (*rank, *family))
        .map(|(family, _)| family)
}

/// What these points show now, read from the best family; `None` where no known family is among them.
pub fn extract(points: &[Point]) -> Option<Extract> {
    let tracked = track(points);
    let series: Vec<_> = tracked.iter().map(Tracked::sighting).collect();
    let choice = choose(&series, Choice::default());
    let family = choice.requests?;
    let (mut requests, mut errors, mut can_tell) = (0.0, 0.0, false);
    let mut latency: Option<(Family, Value)> = None;
    for one in tracked {
        match (one.meaning, one.value) {
            (Meaning::Requests(outcome), Value::Count(count)) if one.family == family && count.is_finite() => {
                requests += count;
                errors += if outcome == Outcome::Bad { count } else { 0.0 };
                can_tell |= outcome != Outcome::Unknown;
            }
            (Meaning::Durations, value) if Some(one.family) == choice.durations => match (&mut latency, value) {
                (None, value) => latency = Some((one.family, value)),
                (
                    Some((_, Value::Buckets { le, cumulative })),
                    Value::Buckets {
                        le: other_le,
                        cumulative: other,
                    },
                ) if *le == other_le => {
                    cumulative.iter_mut().zip(other).for_each(|(sum, n)| *sum += n);
                }
                _ => {}
            },
            _ => {}
        }
    }
    Some(Extract {
        family,
        requests,
        errors: can_tell.then_some(errors),
        latency,
    })
}

/// When the process of these points started, in Unix seconds, where it says so.
pub fn process_start(points: &[Point]) -> Option<jiff::Timestamp> {
    let point = points.iter().find(|point| point.name == PROCESS_START)?;
    jiff::Timestamp::from_millisecond((point.value * 1e3) as i64).ok()
}
