//! One trace per release: the release is a span, each phase on its way a child of it, each entry of the history an event.
//!
//! **Why not a tracer of the SDK.** A release outlives the process that carries it. So spans are values that follow from
//! the record: ids are hashes of the release and of the moment a phase began, times are those of the entries. Whoever
//! carries the release on sends the rest of the same trace, and sends the open phase whole. The SDK's exporter sends them.
//!
//! Where the pipeline said `TRACEPARENT` (W3C), the release is a part of the pipeline's trace, and not sent at all if
//! that says that it is not sampled. The span of the release itself is sent with its end; until then its phases stand
//! there without it, which Jaeger and Tempo show as such.

use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use opentelemetry::trace::{
    Event as SpanEvent, SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState,
};
use opentelemetry::{InstrumentationScope, Key, KeyValue, Value};
use opentelemetry_otlp::{SpanExporter as Otlp, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanExporter as _, SpanLinks};
use sha2::{Digest, Sha256};

use super::About;
use super::progress::{Progress, Seen, Step, call, evidence, weight};
use crate::engine::{Outcome, Phase, State, apply};
use crate::plan::Plan;
use crate::redact::redact;
use crate::signals::http::builder;
use crate::store::{Pipeline, ReleaseRecord};

/// How long one export may take.
const EXPORT: Duration = Duration::from_secs(3);
/// The service's name where `OTEL_SERVICE_NAME` gives none.
const SERVICE: &str = "wade";
/// Events that one span has at most.
const MOST_EVENTS: usize = 128;

/// Why there are no spans.
#[derive(Debug, thiserror::Error)]
pub enum SpansError {
    /// The variables name no receiver that can be used.
    #[error("the OTLP exporter cannot be set up; check OTEL_EXPORTER_OTLP_ENDPOINT")]
    Exporter(#[from] opentelemetry_otlp::ExporterBuildError),
    /// No HTTP client.
    #[error("the HTTP client for spans cannot be set up")]
    Http(#[from] reqwest::Error),
}

/// What sends spans: OTLP over HTTP, as the standard variables say.
#[derive(Debug)]
pub struct Exporter(Otlp);

impl Exporter {
    /// As the environment says.
    ///
    /// # Errors
    /// When what it says cannot be used.
    pub fn from_env() -> Result<Self, SpansError> {
        Self::start(None)
    }

    /// To the receiver at `url` (the whole of it, with `/v1/traces`).
    ///
    /// # Errors
    /// When it is no address.
    pub fn to(url: &str) -> Result<Self, SpansError> {
        Self::start(Some(url))
    }

    fn start(url: Option<&str>) -> Result<Self, SpansError> {
        let exporter = Otlp::builder()
            .with_http()
            .with_http_client(builder().timeout(EXPORT).build()?)
            .with_timeout(EXPORT);
        let mut exporter = match url {
            Some(url) => exporter.with_endpoint(url),
            None => exporter,
        }
        .build()?;
        exporter.set_resource(&resource());
        Ok(Self(exporter))
    }

    /// Sends them, trying again after a pause.
    pub(super) async fn send(&self, spans: &[SpanData], tries: u32, pause: Duration) -> Result<(), String> {
        let mut tried = 1;
        loop {
            // The client's own timeout covers an answer that never ends; this one whatever else could hang.
            let why = match tokio::time::timeout(EXPORT * 2, self.0.export(spans.to_vec())).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(error)) => redact(&error.to_string()),
                Err(_) => format!("no answer within {} s", 2 * EXPORT.as_secs()),
            };
            if tried == tries {
                return Err(why);
            }
            tried += 1;
            tokio::time::sleep(pause).await;
        }
    }
}

/// What the environment says of the process, and what it is where that says nothing.
fn resource() -> Resource {
    let said = Resource::builder().build();
    let named = matches!(said.get_ref(&Key::new("service.name")),
        Some(Value::String(name)) if !name.as_str().starts_with("unknown_service"));
    let mut resource = Resource::builder();
    if !named {
        resource = resource.with_service_name(SERVICE);
    }
    resource
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .build()
}

/// What `TRACEPARENT` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceParent {
    trace: TraceId,
    span: SpanId,
    sampled: bool,
}

impl TraceParent {
    /// Reads `00-<32 hex>-<16 hex>-<2 hex>`; `None` for anything else, as the standard wants it.
    pub fn read(text: &str) -> Option<Self> {
        let parts: Vec<&str> = text.trim().split('-').collect();
        let (version, trace, span, flags) = match parts[..] {
            [version, trace, span, flags] => (version, trace, span, flags),
            // Versions to come may say more.
            [version, trace, span, flags, ..] if version != "00" => (version, trace, span, flags),
            _ => return None,
        };
        let hex = |text: &str, length: usize| {
            text.len() == length && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        };
        if !hex(version, 2) || version == "ff" || !hex(trace, 32) || !hex(span, 16) || !hex(flags, 2) {
            return None;
        }
        let parent = Self {
            trace: TraceId::from_hex(trace).ok()?,
            span: SpanId::from_hex(span).ok()?,
            sampled: u8::from_str_radix(flags, 16).ok()? & 1 == 1,
        };
        (parent.trace != TraceId::INVALID && parent.span != SpanId::INVALID).then_some(parent)
    }
}

/// The id of a release's trace, as 32 hexadecimal letters.
pub fn trace_id(namespace: Option<&str>, record: &ReleaseRecord) -> String {
    trace_of(namespace, record).to_string()
}

fn trace_of(namespace: Option<&str>, record: &ReleaseRecord) -> TraceId {
    match parent(&record.pipeline) {
        Some(parent) => parent.trace,
        None => TraceId::from_bytes(hashed(&[&seed(namespace, record), "trace"])),
    }
}

fn parent(pipeline: &Pipeline) -> Option<TraceParent> {
    pipeline.traceparent.as_deref().and_then(TraceParent::read)
}

/// What makes a release this one and no other, whoever carries it.
fn seed(namespace: Option<&str>, record: &ReleaseRecord) -> String {
    let namespace = namespace.unwrap_or_default();
    format!(
        "{namespace}/{}/{}/{}",
        record.key.rollout, record.key.number, record.created
    )
}

fn hashed<const N: usize>(words: &[&str]) -> [u8; N] {
    let digest = Sha256::digest(words.join("\n").as_bytes());
    let mut bytes = [0; N];
    bytes.copy_from_slice(&digest[..N]);
    bytes
}

/// A phase that goes on.
struct Open {
    phase: Phase,
    since: Timestamp,
    weight: f64,
    events: Vec<SpanEvent>,
    /// The last call and the last evidence.
    verdict: Option<(&'static str, f64)>,
}

/// The trace of one release.
pub(super) struct Trace {
    seed: String,
    trace: TraceId,
    parent: Option<TraceParent>,
    attributes: Vec<KeyValue>,
    started: Timestamp,
    open: Open,
}

impl Trace {
    /// Goes on with the trace from where the record is.
    pub(super) fn of(about: &About, progress: &Progress) -> Self {
        let record = &about.record;
        let namespace = about.namespace.as_deref();
        let mut trace = Self {
            seed: seed(namespace, record),
            trace: trace_of(namespace, record),
            parent: parent(&record.pipeline),
            attributes: attributes(about),
            started: record.created,
            open: Open::at(&progress.plan, &State::new(record.created), record.created),
        };
        if !trace.replay(record) {
            // A history of which a part is gone cannot be gone through; where the release is, is known all the same.
            trace.open = Open::at(&progress.plan, &progress.state, progress.state.since);
        }
        trace
    }

    /// Whether it is sent: a pipeline that is not sampled has said no.
    pub(super) fn is_wanted(&self) -> bool {
        self.parent.is_none_or(|parent| parent.sampled)
    }

    /// Goes through what was recorded, for the phase that is open; the spans before it were sent by whoever carried it.
    fn replay(&mut self, record: &ReleaseRecord) -> bool {
        let mut state = State::new(record.created);
        for entry in &record.history {
            let Ok(after) = apply(&record.plan, &state, &entry.event, entry.at) else {
                return false;
            };
            let step = Step {
                plan: &record.plan,
                entry,
                before: &state,
                after: &after,
            };
            self.step(&step);
            state = after;
        }
        state.phase == record.state.phase
    }

    /// The spans that ended with what was seen.
    pub(super) fn see(&mut self, seen: &Seen<'_>) -> Vec<SpanData> {
        match seen {
            Seen::Step(step) => self.step(step),
            Seen::Look { at, verdict, .. } => {
                if let Some(verdict) = verdict {
                    let now = (call(verdict), evidence(verdict));
                    if self.open.verdict.is_none_or(|(before, _)| before != now.0) {
                        self.open.tell(
                            "verdict",
                            *at,
                            vec![
                                KeyValue::new("wade.verdict", now.0),
                                KeyValue::new("wade.reason", redact(&verdict.reason)),
                            ],
                        );
                    }
                    self.open.verdict = Some(now);
                }
                Vec::new()
            }
            Seen::Trouble { at, message } => {
                let why = KeyValue::new("wade.reason", redact(message));
                self.open.tell("trouble", *at, vec![why]);
                Vec::new()
            }
        }
    }

    fn step(&mut self, step: &Step<'_>) -> Vec<SpanData> {
        let entry = step.entry;
        if let Some(verdict) = &entry.verdict {
            self.open.verdict = Some((call(verdict), evidence(verdict)));
        }
        self.open.tell(
            &name_of(step),
            entry.at,
            vec![
                KeyValue::new("wade.entry", i64::try_from(entry.number).unwrap_or(i64::MAX)),
                KeyValue::new("wade.reason", redact(&entry.reason)),
            ],
        );
        if step.before.phase == step.after.phase {
            return Vec::new();
        }
        let next = Open::at(step.plan, step.after, entry.at);
        let ended = std::mem::replace(&mut self.open, next);
        let mut spans = vec![self.phase(ended, entry.at, &entry.reason)];
        if let Some(outcome) = step.after.outcome() {
            spans.push(self.release(outcome, entry.at, &entry.reason));
        }
        spans
    }

    fn phase(&self, open: Open, end: Timestamp, reason: &str) -> SpanData {
        let mut attributes = vec![
            KeyValue::new("wade.phase", open.phase.label()),
            KeyValue::new("wade.weight", open.weight),
            KeyValue::new("wade.reason", redact(reason)),
        ];
        if let Some(stage) = open.phase.stage() {
            attributes.push(KeyValue::new(
                "wade.stage",
                i64::try_from(stage + 1).unwrap_or(i64::MAX),
            ));
        }
        if let Some((call, evidence)) = open.verdict {
            attributes.push(KeyValue::new("wade.verdict", call));
            attributes.push(KeyValue::new("wade.evidence", evidence));
        }
        let own = SpanId::from_bytes(hashed(&[&self.seed, open.phase.label(), &open.since.to_string()]));
        let mut span = self.span(open.phase.label(), own, self.root(), open.since, end, attributes);
        span.events.events = open.events;
        span
    }

    fn release(&self, outcome: &Outcome, end: Timestamp, reason: &str) -> SpanData {
        let mut attributes = self.attributes.clone();
        attributes.push(KeyValue::new("wade.outcome", outcome.label()));
        attributes.push(KeyValue::new("wade.reason", redact(reason)));
        if let Outcome::Promoted { proven } = outcome {
            attributes.push(KeyValue::new("wade.proven", *proven));
        }
        let parent = self.parent.map_or(SpanId::INVALID, |parent| parent.span);
        let mut span = self.span("release", self.root(), parent, self.started, end, attributes);
        span.parent_span_is_remote = self.parent.is_some();
        span.status = match outcome {
            Outcome::Promoted { .. } | Outcome::FirstDeploy => Status::Ok,
            Outcome::Aborted | Outcome::Superseded => Status::Unset,
            Outcome::RolledBack | Outcome::Returned | Outcome::Rejected => Status::error(redact(reason)),
        };
        span
    }

    fn root(&self) -> SpanId {
        SpanId::from_bytes(hashed(&[&self.seed, "release"]))
    }

    fn span(
        &self,
        name: &'static str,
        own: SpanId,
        parent: SpanId,
        start: Timestamp,
        end: Timestamp,
        attributes: Vec<KeyValue>,
    ) -> SpanData {
        SpanData {
            span_context: SpanContext::new(self.trace, own, TraceFlags::SAMPLED, false, TraceState::NONE),
            parent_span_id: parent,
            parent_span_is_remote: false,
            span_kind: SpanKind::Internal,
            name: name.into(),
            start_time: SystemTime::from(start),
            end_time: SystemTime::from(end.max(start)),
            attributes,
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: Status::Unset,
            instrumentation_scope: InstrumentationScope::builder(SERVICE)
                .with_version(env!("CARGO_PKG_VERSION"))
                .build(),
        }
    }
}

impl Open {
    fn at(plan: &Plan, state: &State, since: Timestamp) -> Self {
        Self {
            phase: state.phase.clone(),
            since,
            weight: weight(plan, state),
            events: Vec::new(),
            verdict: None,
        }
    }

    fn tell(&mut self, name: &str, at: Timestamp, attributes: Vec<KeyValue>) {
        if self.events.len() < MOST_EVENTS {
            self.events
                .push(SpanEvent::new(name.to_owned(), SystemTime::from(at), attributes, 0));
        }
    }
}

/// What the record calls what happened: `stageEnded`.
fn name_of(step: &Step<'_>) -> String {
    match serde_json::to_value(&step.entry.event) {
        Ok(serde_json::Value::String(name)) => name,
        Ok(serde_json::Value::Object(fields)) => fields.keys().next().cloned().unwrap_or_default(),
        _ => "entry".to_owned(),
    }
}

fn attributes(about: &About) -> Vec<KeyValue> {
    let record = &about.record;
    let pipeline = &record.pipeline;
    let mut attributes = vec![
        KeyValue::new("wade.rollout", record.key.rollout.clone()),
        KeyValue::new("wade.release", i64::try_from(record.key.number).unwrap_or(i64::MAX)),
        KeyValue::new("wade.version", record.canary.version.clone()),
        KeyValue::new("wade.strategy", record.plan.strategy.clone()),
        KeyValue::new("wade.by", record.by.user.clone()),
    ];
    let more = [
        ("k8s.namespace.name", about.namespace.as_ref()),
        (
            "wade.version.stable",
            record.stable.as_ref().map(|stable| &stable.version),
        ),
        ("cicd.pipeline.run.url.full", pipeline.url.as_ref()),
        ("vcs.ref.head.revision", pipeline.commit.as_ref()),
    ];
    attributes.extend(
        more.into_iter()
            .filter_map(|(name, value)| Some(KeyValue::new(name, redact(value?)))),
    );
    attributes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traceparent_is_read_as_the_standard_says() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let parent = TraceParent::read(good).expect("it is one");
        assert_eq!(parent.trace.to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(parent.span.to_string(), "00f067aa0ba902b7");
        assert!(parent.sampled);
        assert!(
            !TraceParent::read(&good.replace("-01", "-00"))
                .expect("it is one")
                .sampled
        );
        let later = format!("cc{}-more", &good[2..]);
        assert!(TraceParent::read(&later).is_some(), "a version to come");
        for wrong in [
            "",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
        ] {
            assert_eq!(TraceParent::read(wrong), None, "{wrong}");
        }
    }
}
