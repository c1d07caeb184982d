//! Requests as the published messages write them, in both encodings, and requests that are none.

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::Event;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};
use prost::Message;

use super::*;
use crate::judge::observation::{Increment, Sides};
use crate::signals::traces::{Names, Rule};

const NOW: i64 = 1_700_000_000;

fn now() -> Timestamp {
    Timestamp::from_second(NOW).unwrap()
}

fn text(key: &str, value: &str) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue {
            value: Some(any_value::Value::StringValue(value.to_owned())),
        }),
        ..KeyValue::default()
    }
}

fn number(key: &str, value: i64) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue {
            value: Some(any_value::Value::IntValue(value)),
        }),
        ..KeyValue::default()
    }
}

fn span(name: &str, trace: u8) -> Span {
    Span {
        trace_id: vec![trace; 16],
        span_id: vec![trace; 8],
        name: name.to_owned(),
        kind: 2,
        start_time_unix_nano: NOW as u64 * 1_000_000_000 - 20_000_000,
        end_time_unix_nano: NOW as u64 * 1_000_000_000,
        ..Span::default()
    }
}

fn request(version: &str, spans: Vec<Span>) -> ExportTraceServiceRequest {
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(Resource {
                attributes: vec![text("service.name", "shop"), text("service.version", version)],
                ..Resource::default()
            }),
            scope_spans: vec![ScopeSpans {
                spans,
                ..ScopeSpans::default()
            }],
            ..ResourceSpans::default()
        }],
    }
}

fn intake(spans_per_second: u32) -> (Intake, TraceBook) {
    let hub = TraceHub::default();
    let book = hub.book(Rule::of("shop"));
    let names = |id: &str, version: &str| {
        Some(Names {
            id: id.to_owned(),
            version: version.to_owned(),
            replica_set: None,
        })
    };
    book.set_sides(Sides {
        canary: names("shop-2", "2.0"),
        stable: names("shop-1", "1.0"),
    });
    (Intake::new(hub, spans_per_second), book)
}

/// An operation, its requests, and its errors as kind, message and count.
type Counted = (String, f64, Vec<(String, String, f64)>);

/// What the canary's spans were counted as.
fn counted(book: &TraceBook) -> Vec<Counted> {
    let Some(Increment::Operations(operations)) = book.take().canary else {
        return Vec::new();
    };
    operations
        .by_name
        .into_iter()
        .map(|(name, counts)| {
            let errors = counts
                .signatures
                .into_iter()
                .map(|s| (s.kind, s.message, s.count))
                .collect();
            (name, counts.requests, errors)
        })
        .collect()
}

fn full() -> ExportTraceServiceRequest {
    let exception = Span {
        events: vec![Event {
            name: "exception".to_owned(),
            attributes: vec![
                text("exception.type", "PaymentError"),
                text("exception.message", "upstream 10.0.0.7:443 refused"),
            ],
            ..Event::default()
        }],
        status: Some(Status {
            message: "ignored".to_owned(),
            code: 2,
        }),
        ..span("POST /pay", 1)
    };
    let by_status = Span {
        attributes: vec![
            text("http.request.method", "GET"),
            text("http.route", "/items/{id}"),
            number("http.response.status_code", 503),
        ],
        ..span("GET", 2)
    };
    let fine = Span {
        attributes: vec![number("http.response.status_code", 404)],
        ..span("GET /items/17", 3)
    };
    let client = Span {
        kind: 3,
        ..span("GET upstream", 4)
    };
    request("2.0", vec![exception, by_status, fine, client])
}

#[test]
fn both_encodings_are_read_as_the_published_messages_write_them() {
    let error = |kind: &str, message: &str| vec![(kind.to_owned(), message.to_owned(), 1.0)];
    let expected = vec![
        ("GET /items/?".to_owned(), 1.0, vec![]),
        ("GET /items/{id}".to_owned(), 1.0, error("HTTP 503", "")),
        ("POST /pay".to_owned(), 1.0, error("PaymentError", "upstream ? refused")),
    ];
    let (intake, book) = intake(1000);
    let done = intake.export(&full().encode_to_vec(), Encoding::Protobuf, now());
    assert_eq!((done, counted(&book)), (Ok(Accepted::default()), expected.clone()));
    let json = serde_json::to_vec(&full()).unwrap();
    let done = intake.export(&json, Encoding::Json, now());
    assert_eq!((done, counted(&book)), (Ok(Accepted::default()), expected));
}

#[test]
fn json_is_read_as_the_protocol_writes_it_and_whatever_the_order() {
    let body = format!(
        r#"{{"resourceSpans":[{{"scopeSpans":[{{"spans":[{{"traceId":"5B8EFFF798038103D269B633813FC60C","spanId":"EEE19B7EC3C1B174",
        "name":"GET /","kind":2,"startTimeUnixNano":"{0}","endTimeUnixNano":{0},"status":{{"code":2,"message":"no caf\u00e9"}},
        "attributes":[{{"key":"list","value":{{"arrayValue":{{"values":[{{"intValue":"1"}}]}}}}}}],"unknown":{{"deep":[1,2]}}}}]}}],
        "resource":{{"attributes":[{{"key":"service.name","value":{{"stringValue":"shop"}}}},{{"key":"service.version","value":{{"stringValue":"2.0"}}}}]}}}}]}}"#,
        NOW * 1_000_000_000
    );
    let (intake, book) = intake(1000);
    assert_eq!(
        intake.export(body.as_bytes(), Encoding::Json, now()),
        Ok(Accepted::default())
    );
    let error = ("error".to_owned(), "no café".to_owned(), 1.0);
    assert_eq!(counted(&book), [("GET /".to_owned(), 1.0, vec![error])]);
}

#[test]
fn spans_of_no_use_are_told_and_those_of_others_only_counted() {
    let (intake, book) = intake(1000);
    let no_trace = Span {
        trace_id: vec![0; 16],
        ..span("GET /", 1)
    };
    let backwards = Span {
        end_time_unix_nano: 1,
        ..span("GET /", 1)
    };
    let body = request("2.0", vec![no_trace, backwards, span("GET /", 1)]).encode_to_vec();
    assert_eq!(
        intake.export(&body, Encoding::Protobuf, now()),
        Ok(Accepted { rejected: 2 })
    );
    assert_eq!(counted(&book), [("GET /".to_owned(), 1.0, vec![])]);
    let body = request("0.9", vec![span("GET /", 1)]).encode_to_vec();
    assert_eq!(intake.export(&body, Encoding::Protobuf, now()), Ok(Accepted::default()));
    let telemetry = intake.hub().telemetry();
    let counts = [
        Count::Accepted,
        Count::Partial,
        Count::Senseless,
        Count::OfNeither,
        Count::OfCanary,
    ];
    assert_eq!(counts.map(|count| telemetry.get(count)), [1, 1, 2, 1, 1]);
}

#[test]
fn too_many_spans_a_second_are_refused_with_a_time_to_come_back() {
    let (intake, _) = intake(10);
    let body = request("2.0", (0..35).map(|i| span("GET /", i + 1)).collect()).encode_to_vec();
    let mut at = now();
    // A large request overdraws what there is, and is paid for afterwards.
    assert!(intake.export(&body, Encoding::Protobuf, at).is_ok());
    let after = Duration::from_secs(3);
    assert_eq!(
        intake.export(&body, Encoding::Protobuf, at),
        Err(Refused::TooMany { after })
    );
    assert_eq!(intake.hub().telemetry().get(Count::OverRate), 35);
    at += SignedDuration::from_secs(3);
    assert!(intake.export(&body, Encoding::Protobuf, at).is_ok());
}

#[test]
fn bodies_that_are_none_are_refused_and_nothing_panics() {
    let (intake, _) = intake(u32::MAX);
    let whole = full().encode_to_vec();
    for cut in 0..whole.len() {
        // Some cuts are messages of their own; none may do harm.
        let _ = intake.export(&whole[..cut], Encoding::Protobuf, now());
    }
    let mut spoilt = whole;
    for at in 0..spoilt.len() {
        spoilt[at] ^= 0xff;
        let _ = intake.export(&spoilt, Encoding::Protobuf, now());
        spoilt[at] ^= 0xff;
    }
    let table: [(&[u8], Encoding); 5] = [
        (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", Encoding::Protobuf),
        (b"GET / HTTP/1.1", Encoding::Protobuf),
        (b"{\"resourceSpans\":[{]}", Encoding::Json),
        (b"{\"resourceSpans\":{}}", Encoding::Json),
        (b"", Encoding::Json),
    ];
    for (body, encoding) in table {
        assert!(
            matches!(intake.export(body, encoding, now()), Err(Refused::Malformed(_))),
            "{}",
            String::from_utf8_lossy(body)
        );
    }
}

#[test]
fn millions_of_empty_spans_in_a_small_body_cost_nothing_but_time() {
    let (intake, _) = intake(u32::MAX);
    // A span of no bytes is two bytes long.
    let spans = [0x12, 0x00].repeat(1_000_000);
    let field = |number: u8, content: &[u8]| {
        let mut out = vec![number << 3 | 2];
        prost::encoding::encode_varint(content.len() as u64, &mut out);
        out.extend(content);
        out
    };
    let body = field(1, &field(2, &spans));
    assert_eq!(intake.export(&body, Encoding::Protobuf, now()), Ok(Accepted::default()));
    // In JSON they would take room while they are read: there is a limit to how many there may be.
    let json = format!(
        r#"{{"resourceSpans":[{{"scopeSpans":[{{"spans":[{}{{}}]}}]}}]}}"#,
        "{},".repeat(json::MAX_SPANS)
    );
    assert!(matches!(
        intake.export(json.as_bytes(), Encoding::Json, now()),
        Err(Refused::Malformed(_))
    ));
}
