//! Grafana Tempo, by TraceQL.
//!
//! One question finds the service's server spans with all that is counted of them: `{ resource.service.name = "shop" &&
//! kind = server } | select(…)`. A search takes the first traces that it finds and not the newest, so a window whose
//! answer is full is cut in two and asked again. What an error says is the attribute `error.type` and the status message:
//! events cannot be selected in every Tempo, and an error must be called the same on both sides.
//!
//! Tested against the documented answers and not against a server: Tempo could not be built where this was written.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use jiff::Timestamp;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use reqwest::Client;
use serde::Deserialize;

use super::jaeger::{moment, told};
use super::otlp::{FAILED, Read, SERVER, Told};
use super::store::api::{StoreAddressError, StoreApi};
use super::store::{Found, StoredSpan, Window};
use super::{ServerSpan, TraceId};
use crate::signals::NoMeasurement;
use crate::signals::prometheus::api::Secret;

/// Traces in one answer at most.
const PAGE: usize = 1000;
/// Spans of the service in one trace at most.
const SPANS_PER_TRACE: usize = 50;
/// Questions in one poll at most.
const MAX_QUESTIONS: usize = 8;
/// What is asked of a span besides its resource.
const SELECTED: [&str; 10] = [
    "name",
    "status",
    "statusMessage",
    "span.error.type",
    "span.http.route",
    "span.http.request.method",
    "span.http.method",
    "span.http.response.status_code",
    "span.http.status_code",
    "span.rpc.grpc.status_code",
];

/// A Tempo server.
#[derive(Clone, Debug)]
pub struct Tempo {
    api: StoreApi,
    service: String,
    page: usize,
}

/// What `/api/search` answers.
#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    traces: Vec<Trace>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Trace {
    #[serde(rename = "traceID")]
    trace_id: String,
    #[serde(default)]
    span_sets: Vec<SpanSet>,
    /// Before Tempo 2.2 there was one.
    span_set: Option<SpanSet>,
}

#[derive(Deserialize)]
struct SpanSet {
    #[serde(default)]
    spans: Vec<Span>,
    #[serde(default)]
    matched: usize,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Span {
    #[serde(rename = "spanID")]
    span_id: String,
    #[serde(default)]
    name: String,
    start_time_unix_nano: String,
    duration_nanos: Option<String>,
    #[serde(default)]
    attributes: Vec<KeyValue>,
}

impl fmt::Display for Tempo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.api.fmt(f)
    }
}

impl Tempo {
    /// The server at `url` (`http://tempo:3200`), asked for the spans of `service`.
    ///
    /// # Errors
    /// [`StoreAddressError`] if the address cannot be used.
    pub fn new(client: Client, url: &str, service: &str, token: Option<Secret>) -> Result<Self, StoreAddressError> {
        Ok(Self {
            api: StoreApi::new("Tempo", "http://tempo:3200", client, url, token)?,
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
        let query = self.query(window.wanted);
        let mut found = Found::default();
        // Tempo counts time in whole seconds. The newest window is asked first: it is what is new.
        let mut windows = vec![(window.from.as_second(), window.to.as_second() + 1)];
        let mut missing = false;
        let mut questions = 0;
        while let Some((from, to)) = windows.pop() {
            questions += 1;
            if questions > MAX_QUESTIONS {
                missing = true;
                break;
            }
            let traces = self.search(&query, from, to).await?;
            if traces.len() >= self.page && to - from > 1 {
                let middle = from + (to - from) / 2;
                windows.extend([(from, middle), (middle, to)]);
                continue;
            }
            missing |= traces.len() >= self.page;
            let before = found.spans.len();
            for trace in traces {
                missing |= self.add(trace, window.wanted, &mut found.spans)?;
            }
            let oldest = Timestamp::from_second(from).unwrap_or(window.from);
            if !window.goes_on(oldest, &found.spans[before..]) {
                break;
            }
        }
        if missing {
            let limit = format!(
                "{} traces of {SPANS_PER_TRACE} spans a second, {MAX_QUESTIONS} questions",
                self.page
            );
            found.missing = Some(self.api.too_many(&limit));
        }
        Ok(found)
    }

    fn query(&self, wanted: &BTreeSet<String>) -> String {
        // TraceQL's strings are Go's, and so are JSON's where it matters: quotes and backslashes are escaped.
        let service = serde_json::Value::from(self.service.as_str());
        let resource = wanted.iter().map(|name| match is_plain(name) {
            true => format!("resource.{name}"),
            false => format!("resource.{}", serde_json::Value::from(name.as_str())),
        });
        let fields: Vec<String> = SELECTED.map(str::to_owned).into_iter().chain(resource).collect();
        format!(
            "{{ resource.service.name = {service} && kind = server }} | select({})",
            fields.join(", ")
        )
    }

    async fn search(&self, query: &str, from: i64, to: i64) -> Result<Vec<Trace>, NoMeasurement> {
        let parameters = [
            ("q", query.to_owned()),
            ("start", from.to_string()),
            ("end", to.to_string()),
            ("limit", self.page.to_string()),
            ("spss", SPANS_PER_TRACE.to_string()),
        ];
        // Tempo complains in plain text.
        let complaint = |body: &[u8]| Some(String::from_utf8_lossy(body).into_owned()).filter(|text| !text.is_empty());
        let Some(body) = self.api.get("api/search", &parameters, complaint).await? else {
            return Ok(Vec::new());
        };
        let answer: Answer = serde_json::from_slice(&body).map_err(|error| self.api.garbled(error))?;
        Ok(answer.traces)
    }

    /// Adds a trace's spans; true if some are missing.
    fn add(&self, trace: Trace, wanted: &BTreeSet<String>, to: &mut Vec<StoredSpan>) -> Result<bool, NoMeasurement> {
        let id = TraceId::try_from(trace.trace_id).map_err(|error| self.api.garbled(error))?;
        let mut missing = false;
        let sets = match trace.span_sets.is_empty() {
            true => trace.span_set.into_iter().collect(),
            false => trace.span_sets,
        };
        for set in sets {
            missing |= set.matched > set.spans.len();
            for span in set.spans {
                to.push(stored(&span, id, wanted).ok_or_else(|| self.api.garbled("a span without id or times"))?);
            }
        }
        Ok(missing)
    }
}

/// Whether TraceQL takes the name without quotes.
fn is_plain(name: &str) -> bool {
    name.chars()
        .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
}

fn stored(span: &Span, trace: TraceId, wanted: &BTreeSet<String>) -> Option<StoredSpan> {
    let id = u64::from_str_radix(&span.span_id, 16).ok()?;
    let begun: u64 = span.start_time_unix_nano.parse().ok()?;
    // Left out if it is zero.
    let nanos: u64 = span.duration_nanos.as_deref().unwrap_or("0").parse().ok()?;
    let mut read = Read {
        trace: Some(trace.0),
        name: span.name.as_str().into(),
        kind: SERVER,
        start: begun,
        end: begun.checked_add(nanos)?,
        ..Read::default()
    };
    let mut resource = BTreeMap::new();
    for pair in &span.attributes {
        match (pair.key.as_str(), told(pair)) {
            ("name", Told::Text(name)) => read.name = name,
            ("status", Told::Text(status)) => read.status = if status == "error" { FAILED } else { 0 },
            ("statusMessage", Told::Text(message)) => read.status_message = message,
            (name, Told::Text(text)) if wanted.contains(name) => {
                resource.insert(name.to_owned(), text.into_owned());
            }
            (name, value) => read.attribute(name, value),
        }
    }
    Some(StoredSpan {
        start: moment(begun)?,
        id,
        span: ServerSpan {
            resource,
            ..read.server_span()?
        },
    })
}
