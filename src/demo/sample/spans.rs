//! The sample service's spans, through the OpenTelemetry SDK, as any instrumented service sends them.
//!
//! **The idea.** The receiver has to work with what real services send, so the service that it is shown with uses the
//! real SDK and is told nothing but the standard variables: `OTEL_EXPORTER_OTLP_ENDPOINT` (or `…_TRACES_ENDPOINT`)
//! switches spans on, `OTEL_RESOURCE_ATTRIBUTES`, `OTEL_SERVICE_NAME`, `OTEL_BSP_*` and `OTEL_TRACES_SAMPLER` mean what
//! they mean everywhere. An incoming `traceparent` is continued.
//!
//! A request is one span of kind server, named `METHOD /route`, with a child of kind client for the store that it asks.
//! A failure is recorded as the convention wants it: an event `exception` with type and message, and the status error.
//!
//! **What it never does** is slow or fail a request. Spans go into a bounded queue and are dropped when it is full; a
//! receiver that is gone or hangs costs the exporter's own thread its time and nobody else.

#[cfg(test)]
mod tests;

use std::time::Duration;

use http::{HeaderMap, Method};
use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::{Span, SpanBuilder, SpanKind, Status, TraceContextExt, TracerProvider};
use opentelemetry::{Context, Key, KeyValue, Value};
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{BatchConfigBuilder, BatchSpanProcessor, SdkTracer, SdkTracerProvider};

use crate::signals::http::builder;

/// How long one export may take.
const EXPORT: Duration = Duration::from_secs(2);
/// How long the last spans may take to leave when the service ends.
const FLUSH: Duration = Duration::from_secs(1);
/// The service's name where `OTEL_SERVICE_NAME` gives none.
const NAME: &str = "wade-sample";

/// Why there are no spans.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SpansError {
    #[error("the OTLP exporter cannot be set up; check OTEL_EXPORTER_OTLP_ENDPOINT")]
    Exporter(#[from] opentelemetry_otlp::ExporterBuildError),
    #[error("the HTTP client for spans cannot be set up")]
    Http(#[from] reqwest::Error),
}

/// What makes spans and sends them.
pub(crate) struct Spans {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
    propagator: TraceContextPropagator,
}

/// What a failed request says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// The exception's type.
    pub(crate) kind: &'static str,
    /// Its message.
    pub(crate) message: String,
}

impl Spans {
    /// As the environment says: `None` if it names no receiver or switches the SDK off. Must be called inside a tokio
    /// runtime, which sends the spans.
    pub(crate) fn from_env(version: &str) -> Result<Option<Self>, SpansError> {
        let said = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let asked = said("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT").or_else(|| said("OTEL_EXPORTER_OTLP_ENDPOINT"));
        let off = said("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"))
            || said("OTEL_TRACES_EXPORTER").is_some_and(|value| value == "none");
        if asked.is_none() || off {
            return Ok(None);
        }
        Self::start(None, version, BatchConfigBuilder::default()).map(Some)
    }

    /// To the receiver at `url` (the whole of it, with `/v1/traces`), every 100 ms.
    #[cfg(test)]
    pub(crate) fn to(url: &str, version: &str) -> Self {
        let often = BatchConfigBuilder::default().with_scheduled_delay(Duration::from_millis(100));
        Self::start(Some(url), version, often).expect("the address is one")
    }

    fn start(url: Option<&str>, version: &str, batches: BatchConfigBuilder) -> Result<Self, SpansError> {
        let client = Client {
            client: builder().timeout(EXPORT).build()?,
            runtime: tokio::runtime::Handle::current(),
        };
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(client)
            .with_timeout(EXPORT);
        let exporter = match url {
            Some(url) => exporter.with_endpoint(url),
            None => exporter,
        };
        let processor = BatchSpanProcessor::builder(exporter.build()?)
            .with_batch_config(batches.build())
            .build();
        let provider = SdkTracerProvider::builder()
            .with_span_processor(processor)
            .with_resource(resource(version))
            .build();
        Ok(Self {
            tracer: provider.tracer("wade-sample"),
            provider,
            propagator: TraceContextPropagator::new(),
        })
    }

    /// Begins a request's span, as a child of what `headers` say.
    pub(crate) fn request(&self, headers: &HeaderMap, method: &Method, route: &'static str) -> RequestSpan {
        let parent = self.propagator.extract_with_context(&Context::new(), &Headers(headers));
        let span = SpanBuilder::from_name(format!("{method} {route}"))
            .with_kind(SpanKind::Server)
            .with_attributes([
                KeyValue::new("http.request.method", method.to_string()),
                KeyValue::new("http.route", route),
                KeyValue::new("url.scheme", "http"),
            ])
            .start_with_context(&self.tracer, &parent);
        let inside = Context::new().with_remote_span_context(span.span_context().clone());
        let store = SpanBuilder::from_name("store.read")
            .with_kind(SpanKind::Client)
            .with_attributes([KeyValue::new("db.system.name", "sample")])
            .start_with_context(&self.tracer, &inside);
        RequestSpan { span, store }
    }

    /// Sends what is left and ends; what cannot be sent in a second is lost.
    pub(crate) async fn end(self) {
        // It blocks, and what it waits for is done by this runtime.
        let ended = tokio::task::spawn_blocking(move || self.provider.shutdown_with_timeout(FLUSH));
        // Spans that nobody took are nothing that a service could act on when it ends.
        let _ = ended.await;
    }
}

/// A request that is being answered.
pub(crate) struct RequestSpan {
    span: opentelemetry_sdk::trace::Span,
    store: opentelemetry_sdk::trace::Span,
}

impl RequestSpan {
    /// Its trace, as `traceparent` writes it.
    #[cfg(test)]
    pub(crate) fn trace(&self) -> String {
        self.span.span_context().trace_id().to_string()
    }

    /// Ends it with the answer's status, and the reason if it is a failure.
    pub(crate) fn end(mut self, status: u16, failure: Option<&Failure>) {
        self.store.end();
        self.span
            .set_attribute(KeyValue::new("http.response.status_code", i64::from(status)));
        if let Some(Failure { kind, message }) = failure {
            self.span.set_attribute(KeyValue::new("error.type", *kind));
            self.span.add_event(
                "exception",
                vec![
                    KeyValue::new("exception.type", *kind),
                    KeyValue::new("exception.message", message.clone()),
                ],
            );
            self.span.set_status(Status::error(message.clone()));
        }
        self.span.end();
    }
}

/// What the environment says of the process, and what it is where that says nothing.
fn resource(version: &str) -> Resource {
    let said = Resource::builder().build();
    let named = matches!(said.get_ref(&Key::new("service.name")),
        Some(Value::String(name)) if !name.as_str().starts_with("unknown_service"));
    let mut resource = Resource::builder();
    if !named {
        resource = resource.with_service_name(NAME);
    }
    if said.get_ref(&Key::new("service.version")).is_none() {
        resource = resource.with_attribute(KeyValue::new("service.version", version.to_owned()));
    }
    resource.build()
}

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}

/// Wade's HTTP client for the SDK's thread, which has no runtime of its own.
#[derive(Debug)]
struct Client {
    client: reqwest::Client,
    runtime: tokio::runtime::Handle,
}

#[async_trait::async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let client = self.client.clone();
        self.runtime
            .spawn(async move { sent(client.send_bytes(request)).await })
            .await?
    }
}

/// The client's own timeout covers its body too; this one is for what it does not cover, so that no thread is stuck.
async fn sent(sending: impl Future<Output = Result<Response<Bytes>, HttpError>>) -> Result<Response<Bytes>, HttpError> {
    tokio::time::timeout(EXPORT * 2, sending).await?
}
