//! What releases tell machines: metrics, Kubernetes Events, one trace per release, JSON logs.
//!
//! **The idea.** One observer per release ([`follow`]) is fed with the same notices that everybody can follow, folds
//! them over the record with the engine's own table ([`progress`]), and turns each step into numbers ([`releases`]), an
//! Event ([`events`]) and spans ([`spans`]). It runs beside the release, which never waits for it; what cannot be
//! delivered is dropped and counted. So telemetry can be wrong about nothing that the record is right about, and a
//! release goes the same way without it.
//!
//! What it does not do: decide anything, keep anything (a restart begins its counters at zero; spans carry ids that
//! follow from the record, so they stay in one trace), or tell people, which `notify` does.
//!
//! In reading order: [`list`] (every name there is), [`numbers`] (series and the page), [`progress`], [`releases`],
//! [`events`], [`spans`], [`lane`] (the bounded queue before whatever can be slow), [`meters`] (what the store and the
//! API server are counted with), [`logs`].

pub mod events;
mod lane;
pub mod list;
pub mod logs;
pub mod meters;
pub mod numbers;
mod progress;
mod releases;
pub mod spans;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

pub use crate::redact::redact;
pub use events::EventSink;
pub use numbers::{CONTENT_TYPE, Numbers};

use crate::controller::Notice;
use crate::store::ReleaseRecord;
use events::Words;
use lane::Lane;
use list::Bound;
use numbers::OTHER;
use progress::{Progress, Seen};
use spans::Exporter;

/// How long what is still to be sent may take when a release is over.
const FINISH_WITHIN: Duration = Duration::from_secs(5);
/// Rollouts with series of their own unless told otherwise: about 40 series each.
const MOST_ROLLOUTS: usize = 200;

/// How a process tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Rollouts that have series of their own; the others are counted together as `other`.
    pub most_rollouts: usize,
    /// Whether spans are sent, as the standard variables say (`OTEL_EXPORTER_OTLP_ENDPOINT` and its kin).
    pub spans: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            most_rollouts: MOST_ROLLOUTS,
            spans: false,
        }
    }
}

impl Settings {
    /// As the environment says; `variable` is the environment, an empty value counts as none.
    pub fn from_env(variable: impl Fn(&str) -> Option<String>) -> Self {
        let said = |name: &str| variable(name).filter(|value| !value.trim().is_empty());
        let receiver = said("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT").or_else(|| said("OTEL_EXPORTER_OTLP_ENDPOINT"));
        let off = said("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"))
            || said("OTEL_TRACES_EXPORTER").is_some_and(|value| value == "none");
        Self {
            spans: receiver.is_some() && !off,
            ..Self::default()
        }
    }
}

/// The telemetry of one process; made once and shared.
pub struct Telemetry {
    numbers: Numbers,
    settings: Settings,
    exporter: Option<Arc<Exporter>>,
    /// Rollouts with series of their own, by namespace and name.
    known: Mutex<BTreeSet<(String, String)>>,
    /// Rollouts without.
    others: Mutex<BTreeSet<(String, String)>>,
}

impl fmt::Debug for Telemetry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Telemetry({:?})", self.settings)
    }
}

impl Telemetry {
    /// The telemetry of this process. Where spans are wanted and their receiver cannot be used, that is said in the log
    /// and everything else goes on.
    pub fn new(settings: Settings) -> Arc<Self> {
        let exporter = if settings.spans {
            Exporter::from_env()
                .inspect_err(|error| tracing::warn!(%error, "no spans of releases are sent"))
                .ok()
        } else {
            None
        };
        Arc::new(Self::with(settings, exporter))
    }

    fn with(settings: Settings, exporter: Option<Exporter>) -> Self {
        let numbers = Numbers::default();
        numbers.set(list::BUILD, &[env!("CARGO_PKG_VERSION")], 1.0);
        numbers.set(list::OTHER, &[], 0.0);
        numbers.set(list::RUNNING, &[], 0.0);
        for metric in [
            list::LOOKS,
            list::DECISION,
            list::NOTIFICATIONS_FAILED,
            list::MISSED,
            list::RESTORED_SECONDS,
            list::RECORD_SECONDS,
        ] {
            numbers.begin(metric, &[]);
        }
        // Small lists of words begin whole.
        for metric in [
            list::DURATION,
            list::PHASE_SECONDS,
            list::COMMANDS_SEEN,
            list::RECORD_WRITES,
            list::EVENTS,
            list::SPANS,
        ] {
            for label in metric.labels {
                if let Bound::Words(words) = label.bound {
                    words.iter().for_each(|word| numbers.begin(metric, &[word]));
                }
            }
        }
        Self {
            numbers,
            settings,
            exporter: exporter.map(Arc::new),
            known: Mutex::default(),
            others: Mutex::default(),
        }
    }

    /// The numbers, for whoever counts something of its own that is in the [list](list::METRICS).
    pub fn registry(&self) -> &Numbers {
        &self.numbers
    }

    /// The page of metrics as OpenMetrics text ([`CONTENT_TYPE`]).
    pub fn render(&self) -> String {
        self.numbers.render()
    }

    /// The same as Prometheus text 0.0.4, to be joined with other pages.
    pub fn render_text(&self) -> String {
        self.numbers.render_text()
    }

    /// Says whether this process is the one that carries releases.
    pub fn leads(&self, leads: bool) {
        let now = f64::from(u8::from(leads));
        if self.numbers.get(list::LEADER, &[]).is_some_and(|before| before != now) {
            self.numbers.count(list::LEADER_CHANGES, &[]);
        } else {
            self.numbers.begin(list::LEADER_CHANGES, &[]);
        }
        self.numbers.set(list::LEADER, &[], now);
    }

    /// Says how many watches of this process are told everything, and how many are not.
    pub fn watches(&self, synced: usize, broken: usize) {
        self.numbers.set(list::WATCHES, &["synced"], synced as f64);
        self.numbers.set(list::WATCHES, &["broken"], broken as f64);
    }

    /// Counts a request to Wade's own API; `took` is `None` for a stream.
    pub fn answered(&self, status: u16, took: Option<Duration>) {
        let class = match status {
            0..300 => "2xx",
            300..400 => "3xx",
            400..500 => "4xx",
            _ => "5xx",
        };
        self.numbers.count(list::API, &[class]);
        if let Some(took) = took {
            self.numbers.observe(list::API_SECONDS, &[], took.as_secs_f64());
        }
    }

    /// Counts a look at a release: from its begin until what it decided was recorded and asked for.
    pub fn looked(&self, took: Duration) {
        self.numbers.count(list::LOOKS, &[]);
        self.numbers.observe(list::DECISION, &[], took.as_secs_f64());
    }

    /// Counts a message to people that could not be delivered.
    pub fn untold(&self) {
        self.numbers.count(list::NOTIFICATIONS_FAILED, &[]);
    }

    /// The labels of a rollout: its own as long as there is room, `other` beyond.
    fn labels(&self, namespace: &str, rollout: &str) -> [String; 2] {
        let own = (namespace.to_owned(), rollout.to_owned());
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.contains(&own) || known.len() < self.settings.most_rollouts {
            known.insert(own);
            return [namespace.to_owned(), rollout.to_owned()];
        }
        let mut others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        // It is a count for people, so it may stop growing where nobody would read on.
        if others.len() < 10_000 {
            others.insert(own);
        }
        self.numbers.set(list::OTHER, &[], others.len() as f64);
        [OTHER.to_owned(), OTHER.to_owned()]
    }
}

/// Which release is followed.
#[derive(Clone, Debug)]
pub struct About {
    /// Its namespace; none on one machine.
    pub namespace: Option<String>,
    /// The record as it was when following began.
    pub record: ReleaseRecord,
}

/// Follows one release to its end, or until nobody carries it here any more. It returns when everything was sent, or
/// after five seconds. Dropping it in the middle loses what was not sent and harms nothing else.
pub async fn follow(
    telemetry: Arc<Telemetry>,
    about: About,
    mut notices: broadcast::Receiver<Notice>,
    events: Option<EventSink>,
) {
    let mut progress = Progress::of(&about);
    let namespace = about.namespace.as_deref().unwrap_or_default();
    let mut counted = releases::Counted::begin(&telemetry, namespace, &progress);
    let mut trace = spans::Trace::of(&about, &progress);
    let mut speaker = events::Speaker::about(&about);
    let exporter = telemetry.exporter.clone().filter(|_| trace.is_wanted());
    let spans = exporter.map(|exporter| Lane::of_spans(&telemetry, exporter));
    if spans.is_some() {
        let record = &about.record;
        let trace_id = spans::trace_id(about.namespace.as_deref(), record);
        tracing::info!(
            namespace,
            rollout = record.key.rollout,
            release = record.key.number,
            trace_id,
            "spans are sent"
        );
    }
    let events = events.map(|sink| Lane::of_events(&telemetry, sink));
    loop {
        let notice = match notices.recv().await {
            Ok(notice) => notice,
            Err(RecvError::Lagged(missed)) => {
                telemetry.numbers.add(list::MISSED, &[], missed as f64);
                continue;
            }
            Err(RecvError::Closed) => break,
        };
        let Some(seen) = progress.see(&notice) else { continue };
        counted.see(&seen);
        if let Some(lane) = &spans {
            trace.see(&seen).into_iter().for_each(|span| lane.put(span));
        }
        if let Some(lane) = &events {
            match speaker.of(&seen) {
                Words::Say(said) => lane.put(said),
                Words::Drop => telemetry.numbers.count(list::EVENTS, &["dropped"]),
                Words::Nothing => {}
            }
        }
        if matches!(&seen, Seen::Step(step) if step.after.outcome().is_some()) {
            break;
        }
    }
    drop(counted);
    // Both at once, each within its time.
    let spans = async {
        if let Some(lane) = spans {
            lane.finish(FINISH_WITHIN).await;
        }
    };
    let events = async {
        if let Some(lane) = events {
            lane.finish(FINISH_WITHIN).await;
        }
    };
    tokio::join!(spans, events);
}
