//! Jaeger, by its query API v3: OTLP inside of JSON.
//!
//! `GET /api/v3/traces` takes a service and a window and answers whole traces, the newest first, as many as were asked
//! for. There is no cursor: a page that is full is followed by one whose window ends where the full one began, as long as
//! that is of use, and what comes twice is known by its ids. Whole traces hold other services' spans too; they are left out here.

#[cfg(test)]
pub(crate) mod real;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use jiff::{SignedDuration, Timestamp};
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, Span, TracesData};
use reqwest::Client;
use serde::Deserialize;

use super::attribution::SERVICE_NAME;
use super::otlp::{Read, SERVER, Told};
use super::store::api::{StoreAddressError, StoreApi};
use super::store::{Found, StoredSpan, Window};
use super::{ServerSpan, TraceId};
use crate::signals::NoMeasurement;
use crate::signals::prometheus::api::Secret;

/// Traces in one answer at most.
const PAGE: usize = 1000;
/// Answers in one poll at most.
const MAX_PAGES: usize = 4;

/// A Jaeger query service.
#[derive(Clone, Debug)]
pub struct Jaeger {
    api: StoreApi,
    service: String,
    page: usize,
}

/// What `/api/v3/traces` answers.
#[derive(Deserialize)]
struct Answer {
    result: TracesData,
}

/// What it answers when it does not.
#[derive(Deserialize)]
struct Complaint {
    error: Message,
}

#[derive(Deserialize)]
struct Message {
    message: String,
}

impl fmt::Display for Jaeger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.api.fmt(f)
    }
}

impl Jaeger {
    /// The query service at `url` (`http://jaeger-query:16686`), asked for the spans of `service`.
    ///
    /// # Errors
    /// [`StoreAddressError`] if the address cannot be used.
    pub fn new(client: Client, url: &str, service: &str, token: Option<Secret>) -> Result<Self, StoreAddressError> {
        Ok(Self {
            api: StoreApi::new("Jaeger", "http://jaeger-query:16686", client, url, token)?,
            service: service.to_owned(),
            page: PAGE,
        })
    }

    #[cfg(test)]
    pub(super) fn set_timeout(&mut self, timeout: std::time::Duration) {
        self.api.set_timeout(timeout);
    }

    /// The service's server spans in the window.
    pub(super) async fn read(&self, window: Window<'_>) -> Result<Found, NoMeasurement> {
        let mut found = Found::default();
        let mut known: BTreeSet<TraceId> = BTreeSet::new();
        let mut to = window.to;
        for _ in 0..MAX_PAGES {
            let page = self.page(window.from, to).await?;
            let newest = newest_starts(&page);
            let full = newest.len() >= self.page;
            let progress = newest.keys().any(|trace| !known.contains(trace));
            known.extend(newest.keys().copied());
            // Of the traces that are not on this page, none has begun after all the spans of one that is.
            to = newest.into_values().min().unwrap_or(window.from);
            let before = found.spans.len();
            found.spans.extend(self.server_spans(page, window.wanted));
            if !full || !progress || !window.goes_on(to, &found.spans[before..]) {
                return Ok(found);
            }
        }
        found.missing = Some(self.api.too_many(&format!("{} traces", MAX_PAGES * self.page)));
        Ok(found)
    }

    async fn page(&self, from: Timestamp, to: Timestamp) -> Result<Vec<ResourceSpans>, NoMeasurement> {
        let parameters = [
            ("query.service_name", self.service.clone()),
            ("query.start_time_min", from.to_string()),
            ("query.start_time_max", to.to_string()),
            ("query.num_traces", self.page.to_string()),
            // The same in Jaeger 2.
            ("query.search_depth", self.page.to_string()),
        ];
        let complaint = |body: &[u8]| Some(serde_json::from_slice::<Complaint>(body).ok()?.error.message);
        let Some(body) = self.api.get("api/v3/traces", &parameters, complaint).await? else {
            return Ok(Vec::new());
        };
        let answer: Answer = serde_json::from_slice(&body).map_err(|error| self.api.garbled(error))?;
        Ok(answer.result.resource_spans)
    }

    fn server_spans(&self, page: Vec<ResourceSpans>, wanted: &BTreeSet<String>) -> Vec<StoredSpan> {
        let mut found = Vec::new();
        for ResourceSpans {
            resource, scope_spans, ..
        } in page
        {
            let mut attributes = texts(resource.map(|resource| resource.attributes).unwrap_or_default());
            if attributes.get(SERVICE_NAME) != Some(&self.service) {
                continue;
            }
            attributes.retain(|name, _| wanted.contains(name));
            let spans = scope_spans.into_iter().flat_map(|scope| scope.spans);
            found.extend(spans.filter_map(|span| stored(&span, &attributes)));
        }
        found
    }
}

/// Per trace of the page, when the last of its spans began.
fn newest_starts(page: &[ResourceSpans]) -> BTreeMap<TraceId, Timestamp> {
    let mut newest = BTreeMap::new();
    let scopes = page.iter().flat_map(|resource| &resource.scope_spans);
    for span in scopes.flat_map(|scope| &scope.spans) {
        if let (Some(trace), Some(start)) = (trace_id(&span.trace_id), moment(span.start_time_unix_nano)) {
            let last = newest.entry(trace).or_insert(start);
            *last = start.max(*last);
        }
    }
    newest
}

fn stored(span: &Span, resource: &BTreeMap<String, String>) -> Option<StoredSpan> {
    let mut read = Read {
        trace: trace_id(&span.trace_id).map(|id| id.0),
        name: span.name.as_str().into(),
        kind: u64::try_from(span.kind).ok()?,
        start: span.start_time_unix_nano,
        end: span.end_time_unix_nano,
        ..Read::default()
    };
    if read.kind != SERVER {
        return None;
    }
    if let Some(status) = &span.status {
        read.status = u64::try_from(status.code).ok()?;
        read.status_message = status.message.as_str().into();
    }
    for pair in &span.attributes {
        read.attribute(&pair.key, told(pair));
    }
    for event in span.events.iter().filter(|event| event.name == "exception") {
        for pair in &event.attributes {
            read.exception(&pair.key, told(pair));
        }
    }
    let (id, start) = (
        span.span_id.as_slice().try_into().ok()?,
        moment(span.start_time_unix_nano)?,
    );
    Some(StoredSpan {
        start,
        id: u64::from_be_bytes(id),
        span: ServerSpan {
            resource: resource.clone(),
            ..read.server_span()?
        },
    })
}

/// An attribute's value, as far as it is looked at.
pub(super) fn told(pair: &KeyValue) -> Told<'_> {
    match pair.value.as_ref().and_then(|value| value.value.as_ref()) {
        Some(any_value::Value::StringValue(text)) => Told::Text(text.into()),
        Some(any_value::Value::IntValue(number)) => Told::Number(*number),
        _ => Told::Nothing,
    }
}

fn texts(attributes: Vec<KeyValue>) -> BTreeMap<String, String> {
    let text = |pair: KeyValue| match pair.value?.value? {
        any_value::Value::StringValue(text) => Some((pair.key, text)),
        _ => None,
    };
    attributes.into_iter().filter_map(text).collect()
}

/// Ids of 64 bits, which some of Jaeger's clients still make, are padded.
fn trace_id(bytes: &[u8]) -> Option<TraceId> {
    let mut id = [0; 16];
    let from = id.len().checked_sub(bytes.len())?;
    id[from..].copy_from_slice(bytes);
    (id != [0; 16]).then_some(TraceId(id))
}

/// Nanoseconds since 1970 as a moment.
pub(super) fn moment(nanos: u64) -> Option<Timestamp> {
    let nanos = SignedDuration::from_nanos(i64::try_from(nanos).ok()?);
    Timestamp::UNIX_EPOCH.checked_add(nanos).ok()
}
