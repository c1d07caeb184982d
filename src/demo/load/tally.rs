//! The account of a load: plain counting, no IO.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::io;
use std::time::Duration;

use jiff::Timestamp;

use super::latency::Latencies;

/// What answers without an `x-version` header are counted under: they come from a proxy, not from the service.
pub const NO_VERSION: &str = "(no version)";
/// Where versions beyond [`MOST_VERSIONS`] are counted.
const OTHER: &str = "(other)";
/// Versions counted by name at most.
const MOST_VERSIONS: usize = 64;

/// A point in time of a load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Since the load began, on a clock that is never set.
    pub after: Duration,
    /// On the wall clock.
    pub at: Timestamp,
}

/// Why a request was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Loss {
    /// Nobody listened.
    Refused,
    /// The connection was reset.
    Reset,
    /// The connection was closed before the answer was whole.
    Closed,
    /// No whole answer within the time limit.
    TimedOut,
    /// Anything else: no free port, no file descriptor, not HTTP.
    Other,
}

impl Loss {
    /// The kind, from the cause that lies deepest.
    pub(super) fn of(error: &(dyn Error + 'static)) -> Self {
        let mut cause = Some(error);
        while let Some(error) = cause {
            if let Some(error) = error.downcast_ref::<io::Error>() {
                match error.kind() {
                    io::ErrorKind::ConnectionRefused => return Self::Refused,
                    io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => return Self::Reset,
                    io::ErrorKind::UnexpectedEof => return Self::Closed,
                    _ => {}
                }
            }
            if let Some(error) = error.downcast_ref::<hyper::Error>()
                && (error.is_incomplete_message() || error.is_closed() || error.is_canceled())
            {
                return Self::Closed;
            }
            cause = error.source();
        }
        Self::Other
    }
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refused => "connection refused",
            Self::Reset => "connection reset",
            Self::Closed => "connection closed before the answer was whole",
            Self::TimedOut => "no whole answer in time",
            Self::Other => "other",
        })
    }
}

/// What has happened so far.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// Since the load began.
    pub after: Duration,
    /// Requests sent: answered, lost and in flight.
    pub sent: u64,
    /// Whole answers, of whatever status.
    pub answered: u64,
    /// Requests without a whole answer, by reason.
    pub lost: BTreeMap<Loss, u64>,
    /// Requests that were due and not sent, because too many were under way.
    pub skipped: u64,
    /// Requests under way.
    pub in_flight: u64,
    /// When the first request was lost.
    pub first_lost_at: Option<Moment>,
    /// When the last request was lost.
    pub last_lost_at: Option<Moment>,
    /// Answers by the version that gave them.
    pub versions: BTreeMap<String, VersionCount>,
}

impl Snapshot {
    /// All lost requests.
    pub fn lost_total(&self) -> u64 {
        self.lost.values().sum()
    }

    /// All answers with status 500 or above.
    pub fn failed_total(&self) -> u64 {
        self.versions.values().map(|version| version.failed).sum()
    }
}

/// The answers of one version.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VersionCount {
    /// Answers with a status below 500.
    pub served: u64,
    /// Answers with status 500 or above.
    pub failed: u64,
    /// Answers by status.
    pub statuses: BTreeMap<u16, u64>,
    /// When the first failed answer came.
    pub first_bad_at: Option<Moment>,
    /// When the last failed answer came.
    pub last_bad_at: Option<Moment>,
    /// Median latency of all its answers, from when they were due; at most 5 % too high.
    pub p50: Option<Duration>,
    /// 99th percentile of the same.
    pub p99: Option<Duration>,
}

#[derive(Default)]
pub(super) struct Tally {
    /// What a snapshot shows, but for the quantiles.
    counts: Snapshot,
    latencies: BTreeMap<String, Latencies>,
}

impl Tally {
    pub(super) fn sent(&mut self) {
        self.counts.sent += 1;
        self.counts.in_flight += 1;
    }

    pub(super) fn skipped(&mut self) {
        self.counts.skipped += 1;
    }

    pub(super) fn lost(&mut self, loss: Loss, now: Moment) {
        self.counts.in_flight -= 1;
        *self.counts.lost.entry(loss).or_default() += 1;
        self.counts.first_lost_at.get_or_insert(now);
        self.counts.last_lost_at = Some(now);
    }

    pub(super) fn answered(&mut self, version: Option<&str>, status: u16, latency: Duration, now: Moment) {
        self.counts.in_flight -= 1;
        self.counts.answered += 1;
        let version = version.unwrap_or(NO_VERSION);
        let known = self.counts.versions.contains_key(version) || self.counts.versions.len() < MOST_VERSIONS;
        let version = if known { version } else { OTHER };
        let count = self.counts.versions.entry(version.to_owned()).or_default();
        *count.statuses.entry(status).or_default() += 1;
        if status < 500 {
            count.served += 1;
        } else {
            count.failed += 1;
            count.first_bad_at.get_or_insert(now);
            count.last_bad_at = Some(now);
        }
        self.latencies.entry(version.to_owned()).or_default().record(latency);
    }

    pub(super) fn snapshot(&self, after: Duration) -> Snapshot {
        let mut snapshot = self.counts.clone();
        snapshot.after = after;
        for (version, count) in &mut snapshot.versions {
            if let Some(latencies) = self.latencies.get(version) {
                count.p50 = latencies.quantile(0.5);
                count.p99 = latencies.quantile(0.99);
            }
        }
        snapshot
    }
}
