//! What the OpenTelemetry protocol delivers, from the bytes of a request to the books; no network.
//!
//! [`Intake::export`] is all of it: a body comes in (already decompressed), server spans go into the books of those whose
//! they are, and the sender is told how many were of no use. Spans a second are limited, before they are looked at.

mod json;
mod wire;

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::hub::TraceHub;
use super::telemetry::Count;
use super::{Belongs, ServerSpan, SpanError, TraceBook, TraceId};
use crate::signals::Side;

/// Spans a second when nobody says.
pub const SPANS_PER_SECOND: u32 = 10_000;
/// The longest value of a resource attribute that is looked at.
const MAX_VALUE: usize = 256;
/// `SPAN_KIND_SERVER`.
pub(super) const SERVER: u64 = 2;
/// `STATUS_CODE_ERROR`.
pub(super) const FAILED: u64 = 2;
/// The first HTTP status that blames the server.
const FIRST_BAD_STATUS: i64 = 500;

/// How a body is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// Protocol buffers.
    Protobuf,
    /// JSON, as OTLP writes it.
    Json,
}

/// What became of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Accepted {
    /// Spans that were of no use: without a trace id, without times, too old.
    pub rejected: u64,
}

/// Why a request was refused as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It is not what it says it is.
    Malformed(String),
    /// There were too many spans lately.
    TooMany {
        /// When to try again.
        after: Duration,
    },
}

/// Takes requests in.
#[derive(Debug)]
pub struct Intake {
    hub: TraceHub,
    rate: Mutex<Rate>,
}

/// A bucket of spans that fills with time. One request may overdraw it: a limit that refuses a large request for ever
/// would be a fault of its own.
#[derive(Debug)]
struct Rate {
    per_second: f64,
    left: f64,
    at: Option<Timestamp>,
}

impl Intake {
    /// An intake for the books of `hub`.
    pub fn new(hub: TraceHub, spans_per_second: u32) -> Self {
        let per_second = f64::from(spans_per_second.max(1));
        let rate = Rate {
            per_second,
            left: per_second,
            at: None,
        };
        Self {
            hub,
            rate: Mutex::new(rate),
        }
    }

    /// Where the intake's counters are.
    pub fn hub(&self) -> &TraceHub {
        &self.hub
    }

    /// Takes a request in.
    ///
    /// # Errors
    /// When it cannot be read, or there were too many spans lately; then none of it was used, except that of a garbled
    /// request the spans before the fault may have been.
    pub fn export(&self, body: &[u8], encoding: Encoding, now: Timestamp) -> Result<Accepted, Refused> {
        let done = self.read(body, encoding, now);
        let telemetry = self.hub.telemetry();
        match &done {
            Ok(Accepted { rejected: 0 }) => telemetry.add(Count::Accepted, 1),
            Ok(_) => telemetry.add(Count::Partial, 1),
            Err(Refused::Malformed(_)) => telemetry.add(Count::Malformed, 1),
            Err(Refused::TooMany { .. }) => telemetry.add(Count::Limited, 1),
        }
        done
    }

    fn read(&self, body: &[u8], encoding: Encoding, now: Timestamp) -> Result<Accepted, Refused> {
        let mut into = Sorter {
            books: self.hub.books(),
            hub: &self.hub,
            now,
            resource: BTreeMap::new(),
            owners: Owners::default(),
            rejected: 0,
        };
        match encoding {
            Encoding::Protobuf => {
                let garbled = |wire::Garbled| {
                    Refused::Malformed("the body is no ExportTraceServiceRequest in protobuf".to_owned())
                };
                self.allow(wire::count(body).map_err(garbled)?, now)?;
                wire::request(body, &mut into).map_err(garbled)?;
            }
            Encoding::Json => json::request(body, |spans| self.allow(spans, now), &mut into).map_err(|error| {
                Refused::Malformed(format!("the body is no ExportTraceServiceRequest in JSON: {error}"))
            })??,
        }
        Ok(Accepted {
            rejected: into.rejected,
        })
    }

    fn allow(&self, spans: u64, now: Timestamp) -> Result<(), Refused> {
        let mut rate = self.rate.lock().unwrap_or_else(PoisonError::into_inner);
        rate.take(spans as f64, now).map_err(|after| {
            self.hub.telemetry().add(Count::OverRate, spans);
            Refused::TooMany { after }
        })
    }
}

impl Rate {
    fn take(&mut self, spans: f64, now: Timestamp) -> Result<(), Duration> {
        let passed = self
            .at
            .map_or(SignedDuration::ZERO, |at| now.duration_since(at))
            .as_secs_f64()
            .max(0.0);
        self.at = self.at.max(Some(now));
        self.left = (self.left + passed * self.per_second).min(self.per_second);
        if self.left <= 0.0 {
            return Err(Duration::from_secs_f64(
                (-self.left / self.per_second).ceil().clamp(1.0, 3600.0),
            ));
        }
        self.left -= spans;
        Ok(())
    }
}

/// Who is told what a request says, in this order per part: `begin`, `resource`s, `spans`, `span`s.
trait Reader {
    /// A resource with its spans begins.
    fn begin(&mut self);
    /// One of the resource's attributes.
    fn resource(&mut self, key: &str, value: &Told<'_>);
    /// Its attributes are over.
    fn spans(&mut self);
    /// One of its spans.
    fn span(&mut self, read: Read<'_>);
}

/// An attribute's value, as far as it is looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Told<'a> {
    #[default]
    Nothing,
    Text(Cow<'a, str>),
    Number(i64),
}

impl Told<'_> {
    fn number(&self) -> Option<i64> {
        match self {
            Self::Number(number) => Some(*number),
            // Some libraries write every attribute as text.
            Self::Text(text) => text.parse().ok(),
            Self::Nothing => None,
        }
    }
}

/// A span as it was written, as far as it is looked at.
#[derive(Debug, Default)]
pub(super) struct Read<'a> {
    pub(super) trace: Option<[u8; 16]>,
    pub(super) name: Cow<'a, str>,
    pub(super) kind: u64,
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) status: u64,
    pub(super) status_message: Cow<'a, str>,
    pub(super) method: Option<Cow<'a, str>>,
    pub(super) route: Option<Cow<'a, str>>,
    pub(super) http_status: Option<i64>,
    pub(super) grpc_status: Option<i64>,
    pub(super) error_type: Option<Cow<'a, str>>,
    pub(super) exception_type: Option<Cow<'a, str>>,
    pub(super) exception_message: Option<Cow<'a, str>>,
}

impl<'a> Read<'a> {
    /// One of the span's attributes, by today's names or by those before 2023.
    pub(super) fn attribute(&mut self, key: &str, value: Told<'a>) {
        match (key, value) {
            ("http.request.method" | "http.method", Told::Text(text)) => self.method = Some(text),
            ("http.route", Told::Text(text)) => self.route = Some(text),
            ("http.response.status_code" | "http.status_code", value) => self.http_status = value.number(),
            ("rpc.grpc.status_code", value) => self.grpc_status = value.number(),
            ("error.type", Told::Text(text)) => self.error_type = Some(text),
            _ => {}
        }
    }

    /// One of the attributes of an exception that the span recorded; the last exception is the one that got out.
    pub(super) fn exception(&mut self, key: &str, value: Told<'a>) {
        match (key, value) {
            ("exception.type", Told::Text(text)) => self.exception_type = Some(text),
            ("exception.message", Told::Text(text)) => self.exception_message = Some(text),
            _ => {}
        }
    }

    /// The span as it is counted; `None` if it makes no sense.
    pub(super) fn server_span(self) -> Option<ServerSpan> {
        let trace = self.trace.filter(|id| *id != [0; 16])?;
        let at = i128::from(self.end);
        if self.end == 0 || self.start > self.end {
            return None;
        }
        let at = Timestamp::from_nanosecond(at).ok()?;
        let error = self.error();
        let operation = match (&self.method, &self.route) {
            (Some(method), Some(route)) => format!("{method} {route}"),
            _ => self.name.into_owned(),
        };
        Some(ServerSpan {
            at,
            // Whose it is has been told by its resource already.
            resource: BTreeMap::new(),
            operation,
            seconds: (self.end - self.start) as f64 / 1e9,
            error,
            trace: TraceId(trace),
        })
    }

    /// Why it failed, if it did: by its status, or by an HTTP status that blames the server where nobody set one.
    fn error(&self) -> Option<SpanError> {
        let bad_status = self.http_status.filter(|status| *status >= FIRST_BAD_STATUS);
        if self.status != FAILED && (self.status != 0 || bad_status.is_none()) {
            return None;
        }
        let text = |text: &Option<Cow<'_, str>>| text.as_deref().filter(|text| !text.is_empty()).map(str::to_owned);
        let kind = text(&self.exception_type)
            .or_else(|| text(&self.error_type).filter(|kind| kind.parse::<u16>().is_err()))
            .or_else(|| self.http_status.map(|status| format!("HTTP {status}")))
            .or_else(|| self.grpc_status.map(|status| format!("gRPC status {status}")))
            .unwrap_or_else(|| "error".to_owned());
        let message = text(&self.exception_message).unwrap_or_else(|| self.status_message.clone().into_owned());
        Some(SpanError { kind, message })
    }
}

/// Sorts spans into the books that they belong to.
struct Sorter<'h> {
    books: Vec<TraceBook>,
    hub: &'h TraceHub,
    now: Timestamp,
    /// Attributes of the resource whose spans come next.
    resource: BTreeMap<String, String>,
    owners: Owners,
    rejected: u64,
}

/// Whose the spans of one resource are.
#[derive(Debug, Default)]
struct Owners {
    to: Vec<(usize, Side)>,
    otherwise: Option<Count>,
}

/// More attributes of one resource than this are not looked at.
const MAX_RESOURCE: usize = 64;

impl Reader for Sorter<'_> {
    fn begin(&mut self) {
        self.resource.clear();
    }

    fn resource(&mut self, key: &str, value: &Told<'_>) {
        if let Told::Text(text) = value
            && text.len() <= MAX_VALUE
            && key.len() <= MAX_VALUE
            && self.resource.len() < MAX_RESOURCE
        {
            self.resource.insert(key.to_owned(), text.clone().into_owned());
        }
    }

    fn spans(&mut self) {
        let mut owners = Owners::default();
        for (i, book) in self.books.iter().enumerate() {
            match book.side_of(&self.resource) {
                Belongs::To(side) => owners.to.push((i, side)),
                Belongs::Both => owners.otherwise = Some(Count::OfBoth),
                Belongs::Neither => owners.otherwise = owners.otherwise.or(Some(Count::OfNeither)),
                Belongs::Elsewhere => {}
            }
        }
        self.owners = owners;
    }

    fn span(&mut self, read: Read<'_>) {
        if read.kind != SERVER {
            return;
        }
        let telemetry = self.hub.telemetry();
        let Some(span) = read.server_span() else {
            telemetry.add(Count::Senseless, 1);
            self.rejected += 1;
            return;
        };
        if self.owners.to.is_empty() {
            telemetry.add(self.owners.otherwise.unwrap_or(Count::Unknown), 1);
        }
        for (book, side) in &self.owners.to {
            self.books[*book].add(*side, &span, self.now);
        }
    }
}
