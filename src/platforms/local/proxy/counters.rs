//! What the proxy counts. Everything here only grows, except the two `in_flight`, so that a reader takes differences
//! and needs no lock. A request is counted when its answer's head is there (a gRPC call: when its status is), since
//! the judge cannot wait for the end of a stream.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{
    AtomicU64, AtomicUsize, Ordering::Acquire, Ordering::Relaxed, Ordering::Release, Ordering::SeqCst,
};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use http::StatusCode;

use super::spread::Turn;
use crate::clock::stopwatch;

/// Upper bounds of the latency buckets in seconds; one more bucket holds what is above them all. About 1.3 apart, so
/// that a latency ratio of 1.2 moves counts.
pub const LATENCY_BOUNDS_SECONDS: [f64; 36] = [
    0.0005, 0.001, 0.0015, 0.002, 0.003, 0.004, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.025, 0.03, 0.04, 0.05, 0.06, 0.08,
    0.1, 0.125, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.5, 2.0, 3.0, 5.0, 7.5, 10.0, 30.0, 60.0,
];
const BUCKETS: usize = LATENCY_BOUNDS_SECONDS.len() + 1;

/// The five classes of status codes, as labels.
pub const CODE_CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// Revisions whose counters are kept. When there are more, those not in the routes and without requests go, in the
/// order of their names.
pub(super) const MAX_REMEMBERED: usize = 64;

/// Why a revision gave no answer, as seen from the proxy. Each is a 502 or a 504 for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FailureKind {
    /// The routes name no endpoint for the revision.
    NoEndpoint,
    /// No endpoint accepted the connection.
    Refused,
    /// No endpoint accepted the connection in time.
    ConnectTimeout,
    /// The connection ended before an answer came.
    Closed,
    /// What came was not HTTP.
    BadAnswer,
    /// The answer's head did not come in time.
    AnswerTimeout,
}

impl FailureKind {
    /// Every kind.
    pub const ALL: [Self; 6] = [
        Self::NoEndpoint,
        Self::Refused,
        Self::ConnectTimeout,
        Self::Closed,
        Self::BadAnswer,
        Self::AnswerTimeout,
    ];

    /// What the client gets.
    pub fn status(self) -> StatusCode {
        match self {
            Self::NoEndpoint | Self::Refused | Self::Closed | Self::BadAnswer => StatusCode::BAD_GATEWAY,
            Self::ConnectTimeout | Self::AnswerTimeout => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    /// The label in metrics and logs.
    pub fn label(self) -> &'static str {
        match self {
            Self::NoEndpoint => "no_endpoint",
            Self::Refused => "refused",
            Self::ConnectTimeout => "connect_timeout",
            Self::Closed => "closed",
            Self::BadAnswer => "bad_answer",
            Self::AnswerTimeout => "answer_timeout",
        }
    }
}

/// Why a request that should have been mirrored was not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SkipReason {
    /// Its body is too long, or of unknown length.
    Body,
    /// As many as allowed were under way.
    Full,
    /// The user's own request ended before its body was complete.
    Incomplete,
}

impl SkipReason {
    /// Every reason.
    pub const ALL: [Self; 3] = [Self::Body, Self::Full, Self::Incomplete];

    /// The label in metrics and logs.
    pub fn label(self) -> &'static str {
        match self {
            Self::Body => "body",
            Self::Full => "full",
            Self::Incomplete => "incomplete",
        }
    }
}

/// Everything counted at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// Per revision that is or was in the routes.
    pub revisions: BTreeMap<String, RevisionCounters>,
    /// Requests that no revision was there for: 503.
    pub unrouted: u64,
    /// Client connections open now.
    pub connections: u64,
    /// How often a new connection had to wait because `max_connections` were open.
    pub connections_full: u64,
    /// Connections closed because a head took too long, or nothing came at all for `idle_timeout`.
    pub connections_timed_out: u64,
}

/// What one revision did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RevisionCounters {
    /// Requests of users being answered now: until the answer's last byte, and tunnels until their end.
    pub in_flight: u64,
    /// Mirrored requests being answered now.
    pub mirror_in_flight: u64,
    /// Users' requests.
    pub users: Traffic,
    /// Users' requests by the endpoint that answered, or was the last one tried. An endpoint is here while the routes
    /// name it or a request is under way to it; then it is forgotten, and begins at 0 if it comes back. So the sums
    /// may be less than `users`.
    pub endpoints: BTreeMap<SocketAddr, EndpointCounters>,
    /// Mirrored requests; users never saw these.
    pub mirror: Traffic,
    /// Why the proxy answered 502 or 504 in this revision's place; included in `users.errors`.
    pub failures: BTreeMap<&'static str, u64>,
    /// Requests sent a second time because a kept connection turned out closed.
    pub resent: u64,
    /// Users who left before an answer came; not in `users`.
    pub client_gone: u64,
    /// Answers of this revision that broke off after their head.
    pub cut_short: u64,
    /// Requests that were not mirrored to this revision, and why.
    pub mirror_skipped: BTreeMap<&'static str, u64>,
}

/// What one endpoint of a revision did for users; both as in [`Traffic`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EndpointCounters {
    /// Answered requests.
    pub requests: u64,
    /// Those of them that are the server's fault.
    pub errors: u64,
}

/// Answered requests.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Traffic {
    /// All of them.
    pub requests: u64,
    /// Those with a 5xx status, the proxy's own 502 and 504 included, or a gRPC status that blames the server.
    pub errors: u64,
    /// By class of status code, as [`CODE_CLASSES`].
    pub code_classes: [u64; 5],
    /// By time until the answer's head, not cumulative: entry *i* is up to [`LATENCY_BOUNDS_SECONDS`]`[i]`, the last
    /// one is above them all.
    pub latency: Vec<u64>,
    /// The sum of these times, to the microsecond.
    pub latency_sum: Duration,
}

/// [`Traffic`] while it is being counted.
#[derive(Debug)]
struct Tally {
    errors: AtomicU64,
    classes: [AtomicU64; 5],
    latency: [AtomicU64; BUCKETS],
    micros: AtomicU64,
}

impl Default for Tally {
    fn default() -> Self {
        let latency = std::array::from_fn(|_| AtomicU64::new(0));
        Self {
            errors: AtomicU64::default(),
            classes: Default::default(),
            latency,
            micros: AtomicU64::default(),
        }
    }
}

impl Tally {
    fn count(&self, class: usize, error: bool, took: Duration) {
        let seconds = took.as_secs_f64();
        let bucket = LATENCY_BOUNDS_SECONDS.partition_point(|bound| *bound < seconds);
        self.latency[bucket].fetch_add(1, Relaxed);
        self.micros
            .fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Relaxed);
        if error {
            self.errors.fetch_add(1, Relaxed);
        }
        self.classes[class].fetch_add(1, Relaxed);
    }

    fn read(&self) -> Traffic {
        let code_classes = self.classes.each_ref().map(|count| count.load(Relaxed));
        Traffic {
            requests: code_classes.iter().sum(),
            errors: self.errors.load(Relaxed),
            code_classes,
            latency: self.latency.iter().map(|count| count.load(Relaxed)).collect(),
            latency_sum: Duration::from_micros(self.micros.load(Relaxed)),
        }
    }
}

/// [`EndpointCounters`] while they are being counted. Held by the endpoint and by each request under way to it, so
/// that a tally which only the register holds is one nobody will count on again.
#[derive(Debug, Default)]
pub(super) struct EndpointTally {
    requests: AtomicU64,
    errors: AtomicU64,
}

impl EndpointTally {
    fn count(&self, error: bool) {
        // First, and read last: no reader sees more errors than requests.
        self.requests.fetch_add(1, Relaxed);
        if error {
            self.errors.fetch_add(1, Release);
        }
    }

    fn read(&self) -> EndpointCounters {
        let errors = self.errors.load(Acquire);
        EndpointCounters {
            requests: self.requests.load(Relaxed),
            errors,
        }
    }
}

/// One revision's counters, shared by everything that serves it.
#[derive(Debug, Default)]
pub(super) struct RevisionStats {
    pub(super) revision: String,
    /// Which endpoint is next: kept here so that a change of weights does not start again at the first.
    pub(super) turn: AtomicUsize,
    in_flight: [AtomicU64; 2],
    tallies: [Tally; 2],
    /// The register of endpoints; requests do not come here.
    endpoints: Mutex<BTreeMap<SocketAddr, Arc<EndpointTally>>>,
    failures: [AtomicU64; FailureKind::ALL.len()],
    skipped: [AtomicU64; SkipReason::ALL.len()],
    resent: AtomicU64,
    client_gone: AtomicU64,
    cut_short: AtomicU64,
}

impl RevisionStats {
    pub(super) fn failed(&self, kind: FailureKind) {
        self.failures[kind as usize].fetch_add(1, Relaxed);
    }

    pub(super) fn skipped(&self, reason: SkipReason) {
        self.skipped[reason as usize].fetch_add(1, Relaxed);
    }

    pub(super) fn resent(&self) {
        self.resent.fetch_add(1, Relaxed);
    }

    /// The counts of one endpoint, the old ones if requests are still under way to it.
    pub(super) fn endpoint(&self, addr: SocketAddr) -> Arc<EndpointTally> {
        Arc::clone(self.endpoints_in_use().entry(addr).or_default())
    }

    /// The register without those that have left the routes and are drained: both places that look at it forget, so
    /// it holds no more than the routes in force, the ones before, and the requests under way name.
    fn endpoints_in_use(&self) -> MutexGuard<'_, BTreeMap<SocketAddr, Arc<EndpointTally>>> {
        let mut known = self
            .endpoints
            .lock()
            .expect("nothing panics while it holds the register of endpoints");
        // Exact: new holders get theirs from here, under the lock.
        known.retain(|_, tally| Arc::strong_count(tally) > 1);
        known
    }

    /// Whether nobody, user or mirror, waits for this revision.
    pub(super) fn is_quiet(&self) -> bool {
        self.in_flight.iter().all(|count| count.load(SeqCst) == 0)
    }

    fn read(&self) -> RevisionCounters {
        let load = |counts: &[AtomicU64], label: fn(usize) -> &'static str| {
            counts
                .iter()
                .enumerate()
                .map(|(index, count)| (label(index), count.load(Relaxed)))
                .collect()
        };
        RevisionCounters {
            in_flight: self.in_flight[Audience::User as usize].load(SeqCst),
            mirror_in_flight: self.in_flight[Audience::Mirror as usize].load(SeqCst),
            users: self.tallies[Audience::User as usize].read(),
            endpoints: self
                .endpoints_in_use()
                .iter()
                .map(|(addr, tally)| (*addr, tally.read()))
                .collect(),
            mirror: self.tallies[Audience::Mirror as usize].read(),
            failures: load(&self.failures, |index| FailureKind::ALL[index].label()),
            resent: self.resent.load(Relaxed),
            client_gone: self.client_gone.load(Relaxed),
            cut_short: self.cut_short.load(Relaxed),
            mirror_skipped: load(&self.skipped, |index| SkipReason::ALL[index].label()),
        }
    }
}

/// Whom an answer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Audience {
    User,
    Mirror,
}

/// One request under way to a revision: in flight from its creation to its drop, counted once when its outcome is
/// known. Dropped without an outcome, the client has gone.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) stats: Arc<RevisionStats>,
    /// Where it went, the last time if it went to several.
    endpoint: Option<Arc<EndpointTally>>,
    audience: Audience,
    started: Instant,
    counted: bool,
}

impl Flight {
    pub(super) fn start(stats: Arc<RevisionStats>, audience: Audience, started: Instant) -> Self {
        stats.in_flight[audience as usize].fetch_add(1, SeqCst);
        Self {
            stats,
            endpoint: None,
            audience,
            started,
            counted: false,
        }
    }

    /// It is being tried here; what becomes of it is this endpoint's unless another one is tried.
    pub(super) fn tries(&mut self, endpoint: &Arc<EndpointTally>) {
        self.endpoint = Some(Arc::clone(endpoint));
    }

    /// The outcome by HTTP status alone.
    pub(super) fn outcome(&mut self, status: StatusCode) {
        self.count(status, status.is_server_error());
    }

    /// The outcome of a gRPC call, whose HTTP status is 200 whatever happened.
    pub(super) fn grpc_outcome(&mut self, status: StatusCode, grpc_status: Option<&[u8]>) {
        self.count(
            status,
            status.is_server_error() || grpc_status.is_none_or(blames_the_server),
        );
    }

    /// The answer broke off after its head.
    pub(super) fn cut_short(&self) {
        self.stats.cut_short.fetch_add(1, Relaxed);
    }

    /// The time counts from now on: a copy that waited for a body has not begun before.
    pub(super) fn restart(&mut self) {
        self.started = stopwatch();
    }

    fn count(&mut self, status: StatusCode, error: bool) {
        if std::mem::replace(&mut self.counted, true) {
            return;
        }
        let class = usize::from(status.as_u16() / 100).clamp(1, 5) - 1;
        self.stats.tallies[self.audience as usize].count(class, error, stopwatch() - self.started);
        if let (Audience::User, Some(endpoint)) = (self.audience, &self.endpoint) {
            endpoint.count(error);
        }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        if !self.counted && self.audience == Audience::User {
            self.stats.client_gone.fetch_add(1, Relaxed);
        }
        // Last: whoever sees the flight over also sees it counted.
        self.stats.in_flight[self.audience as usize].fetch_sub(1, SeqCst);
    }
}

/// UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE and DATA_LOSS are the server's fault (OpenTelemetry
/// semantic conventions for gRPC server spans); a call without any status broke off, which is too.
fn blames_the_server(grpc_status: &[u8]) -> bool {
    matches!(grpc_status, b"2" | b"4" | b"12" | b"13" | b"14" | b"15")
}

/// All counters of one proxy.
#[derive(Debug, Default)]
pub(super) struct Counters {
    revisions: Mutex<BTreeMap<String, Arc<RevisionStats>>>,
    pub(super) turn: Turn,
    pub(super) mirror_turn: Turn,
    pub(super) unrouted: AtomicU64,
    pub(super) connections: AtomicU64,
    pub(super) connections_full: AtomicU64,
    pub(super) connections_timed_out: AtomicU64,
}

impl Counters {
    /// The counters of these revisions, old ones where they exist. Forgets others when there are too many.
    pub(super) fn of<'a>(&self, revisions: impl Iterator<Item = &'a str>) -> BTreeMap<String, Arc<RevisionStats>> {
        let mut known = self
            .revisions
            .lock()
            .expect("nothing panics while it holds the counters");
        let wanted: BTreeMap<String, Arc<RevisionStats>> = revisions
            .map(|revision| {
                let stats = known.entry(revision.to_owned()).or_insert_with(|| {
                    Arc::new(RevisionStats {
                        revision: revision.to_owned(),
                        ..RevisionStats::default()
                    })
                });
                (revision.to_owned(), Arc::clone(stats))
            })
            .collect();
        let mut excess = known.len().saturating_sub(MAX_REMEMBERED);
        known.retain(|revision, stats| {
            let forget = excess > 0 && !wanted.contains_key(revision) && stats.is_quiet();
            excess -= usize::from(forget);
            !forget
        });
        wanted
    }

    pub(super) fn is_quiet(&self, revision: &str) -> bool {
        let known = self
            .revisions
            .lock()
            .expect("nothing panics while it holds the counters");
        known.get(revision).is_none_or(|stats| stats.is_quiet())
    }

    pub(super) fn read(&self) -> Snapshot {
        let known = self
            .revisions
            .lock()
            .expect("nothing panics while it holds the counters");
        Snapshot {
            revisions: known
                .iter()
                .map(|(revision, stats)| (revision.clone(), stats.read()))
                .collect(),
            unrouted: self.unrouted.load(Relaxed),
            connections: self.connections.load(Relaxed),
            connections_full: self.connections_full.load(Relaxed),
            connections_timed_out: self.connections_timed_out.load(Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_that_come_and_go_do_not_add_up_when_nobody_reads() {
        let stats = RevisionStats::default();
        let mut held = None;
        for port in 1..1000 {
            held = Some(stats.endpoint(SocketAddr::from(([127, 0, 0, 1], port))));
        }
        // The last, and the one before: it was still held when the last was asked for.
        assert_eq!(stats.endpoints.lock().expect("whole").len(), 2);
        drop(held);
        assert_eq!(stats.read().endpoints, BTreeMap::new());
    }
}
