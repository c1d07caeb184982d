//! OTLP in JSON: ids in hexadecimal digits, 64-bit numbers as text, enumerations as numbers, unknown fields ignored.
//!
//! As in protobuf, a short text could ask for a lot of memory, so lists have a greatest length and only what is counted
//! is kept. A part of the message (one resource with its spans) is read whole, because its resource may come last.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{self, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::{Read, Reader, Told};

/// Resources, scopes, attributes or events in one list.
const MAX_LIST: usize = 1_000;
/// Spans in one list.
pub(super) const MAX_SPANS: usize = 20_000;

/// A list of at most so many.
struct Short<T, const MOST: usize>(Vec<T>);

impl<T, const MOST: usize> Default for Short<T, MOST> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>, const MOST: usize> Deserialize<'de> for Short<T, MOST> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Items<T, const MOST: usize>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>, const MOST: usize> Visitor<'de> for Items<T, MOST> {
            type Value = Short<T, MOST>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a list of at most {MOST}")
            }

            fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
                Ok(Short::default())
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = list.next_element()? {
                    if items.len() >= MOST {
                        return Err(de::Error::invalid_length(MOST + 1, &self));
                    }
                    items.push(item);
                }
                Ok(Short(items))
            }
        }
        deserializer.deserialize_any(Items(PhantomData))
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request<'a> {
    #[serde(default, borrow)]
    resource_spans: Short<ResourceSpans<'a>, MAX_LIST>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ResourceSpans<'a> {
    #[serde(default, borrow)]
    resource: Option<Resource<'a>>,
    #[serde(default, borrow)]
    scope_spans: Short<ScopeSpans<'a>, MAX_LIST>,
}

#[derive(Deserialize)]
struct Resource<'a> {
    #[serde(default, borrow)]
    attributes: Attributes<'a>,
}

#[derive(Deserialize)]
struct ScopeSpans<'a> {
    #[serde(default, borrow)]
    spans: Short<Span<'a>, MAX_SPANS>,
}

type Attributes<'a> = Short<KeyValue<'a>, MAX_LIST>;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Span<'a> {
    #[serde(default, borrow)]
    trace_id: Cow<'a, str>,
    #[serde(default, borrow)]
    name: Cow<'a, str>,
    #[serde(default)]
    kind: u64,
    #[serde(default)]
    start_time_unix_nano: Nanos,
    #[serde(default)]
    end_time_unix_nano: Nanos,
    #[serde(default, borrow)]
    attributes: Attributes<'a>,
    #[serde(default, borrow)]
    events: Short<Event<'a>, MAX_LIST>,
    #[serde(default, borrow)]
    status: Option<Status<'a>>,
}

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(default, borrow)]
    name: Cow<'a, str>,
    #[serde(default, borrow)]
    attributes: Attributes<'a>,
}

#[derive(Deserialize)]
struct Status<'a> {
    #[serde(default, borrow)]
    message: Cow<'a, str>,
    #[serde(default)]
    code: u64,
}

#[derive(Deserialize)]
struct KeyValue<'a> {
    #[serde(default, borrow)]
    key: Cow<'a, str>,
    #[serde(default, borrow)]
    value: Option<AnyValue<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AnyValue<'a> {
    #[serde(default, borrow)]
    string_value: Option<Cow<'a, str>>,
    #[serde(default)]
    int_value: Option<Nanos>,
}

/// A 64-bit number, as text or plain.
#[derive(Clone, Copy, Default)]
struct Nanos(i128);

impl<'de> Deserialize<'de> for Nanos {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either<'a> {
            Plain(u64),
            Signed(i64),
            #[serde(borrow)]
            Text(Cow<'a, str>),
        }
        match Either::deserialize(deserializer)? {
            Either::Plain(number) => Ok(Self(number.into())),
            Either::Signed(number) => Ok(Self(number.into())),
            Either::Text(text) => text.parse().map(Self).map_err(de::Error::custom),
        }
    }
}

impl Nanos {
    fn unsigned(self) -> u64 {
        u64::try_from(self.0).unwrap_or_default()
    }
}

/// Reads a request; `allowed` is asked with the number of spans before any is told.
pub(super) fn request<E>(
    body: &[u8],
    allowed: impl FnOnce(u64) -> Result<(), E>,
    reader: &mut impl Reader,
) -> Result<Result<(), E>, serde_json::Error> {
    let request: Request<'_> = serde_json::from_slice(body)?;
    let scopes = |part: &ResourceSpans<'_>| {
        part.scope_spans
            .0
            .iter()
            .map(|scope| scope.spans.0.len() as u64)
            .sum::<u64>()
    };
    if let Err(refused) = allowed(request.resource_spans.0.iter().map(scopes).sum()) {
        return Ok(Err(refused));
    }
    for part in request.resource_spans.0 {
        reader.begin();
        for KeyValue { key, value } in part.resource.into_iter().flat_map(|resource| resource.attributes.0) {
            reader.resource(&key, &told(value));
        }
        reader.spans();
        for span in part.scope_spans.0.into_iter().flat_map(|scope| scope.spans.0) {
            reader.span(read(span));
        }
    }
    Ok(Ok(()))
}

fn read(span: Span<'_>) -> Read<'_> {
    let mut read = Read {
        trace: hex(&span.trace_id),
        name: span.name,
        kind: span.kind,
        start: span.start_time_unix_nano.unsigned(),
        end: span.end_time_unix_nano.unsigned(),
        ..Read::default()
    };
    for KeyValue { key, value } in span.attributes.0 {
        read.attribute(&key, told(value));
    }
    for event in span.events.0.into_iter().filter(|event| event.name == "exception") {
        for KeyValue { key, value } in event.attributes.0 {
            read.exception(&key, told(value));
        }
    }
    if let Some(status) = span.status {
        read.status = status.code;
        read.status_message = status.message;
    }
    read
}

fn told(value: Option<AnyValue<'_>>) -> Told<'_> {
    match value {
        Some(AnyValue {
            string_value: Some(text),
            ..
        }) => Told::Text(text),
        Some(AnyValue {
            int_value: Some(number),
            ..
        }) => i64::try_from(number.0).map_or(Told::Nothing, Told::Number),
        Some(_) | None => Told::Nothing,
    }
}

fn hex(text: &str) -> Option<[u8; 16]> {
    (text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit()))
        .then(|| u128::from_str_radix(text, 16).ok())
        .flatten()
        .map(u128::to_be_bytes)
}
