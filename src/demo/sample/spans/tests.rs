//! The SDK's spans as a receiver on loopback gets them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::http::StatusCode;
use axum::routing::post;
use bytes::Bytes;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue as Pair, any_value};
use opentelemetry_proto::tonic::trace::v1::span::SpanKind as Kind;
use prost::Message;
use tokio::net::TcpListener;

use super::*;
use crate::clock::stopwatch;
use crate::signals::testing::{eventually, nobody};

const PATIENT: Duration = Duration::from_secs(20);

#[derive(Clone, Default)]
struct Received(Arc<Mutex<Vec<ExportTraceServiceRequest>>>);

impl Received {
    async fn listen() -> (Self, SocketAddr) {
        let received = Self::default();
        let into = received.clone();
        let app = Router::new().route(
            "/v1/traces",
            post(move |body: Bytes| async move {
                into.0
                    .lock()
                    .unwrap()
                    .push(ExportTraceServiceRequest::decode(body).unwrap());
                StatusCode::OK
            }),
        );
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        (received, address)
    }

    fn spans(&self) -> Vec<opentelemetry_proto::tonic::trace::v1::Span> {
        let all = self.0.lock().unwrap().clone();
        all.into_iter()
            .flat_map(|request| request.resource_spans)
            .flat_map(|resource| resource.scope_spans)
            .flat_map(|scope| scope.spans)
            .collect()
    }

    fn resource(&self) -> BTreeMap<String, String> {
        let all = self.0.lock().unwrap().clone();
        texts(&all[0].resource_spans[0].resource.as_ref().unwrap().attributes)
    }
}

fn texts(pairs: &[Pair]) -> BTreeMap<String, String> {
    let text = |pair: &Pair| match pair.value.as_ref()?.value.as_ref()? {
        any_value::Value::StringValue(text) => Some((pair.key.clone(), text.clone())),
        _ => None,
    };
    pairs.iter().filter_map(text).collect()
}

fn traceparent(sampled: bool) -> HeaderMap {
    let text = format!(
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0{}",
        u8::from(sampled)
    );
    [("traceparent".parse().unwrap(), text.parse().unwrap())]
        .into_iter()
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_request_is_a_server_span_with_its_exception_in_the_callers_trace() {
    let (received, address) = Received::listen().await;
    let spans = Spans::to(&format!("http://{address}/v1/traces"), "1.4.2");
    let request = spans.request(&traceparent(true), &Method::GET, "/refund");
    assert_eq!(request.trace(), "4bf92f3577b34da6a3ce929d0e0e4736");
    let failure = Failure {
        kind: "RefundError",
        message: "no ledger".to_owned(),
    };
    request.end(500, Some(&failure));
    // A caller that does not sample is not overruled.
    spans.request(&traceparent(false), &Method::GET, "/pay").end(200, None);
    spans.end().await;

    let sent = received.spans();
    let server: Vec<_> = sent.iter().filter(|span| span.kind == Kind::Server as i32).collect();
    assert_eq!(
        (sent.len(), server.len()),
        (2, 1),
        "a server span and its child, both flushed at the end: {sent:?}"
    );
    let span = server[0];
    assert_eq!(span.name, "GET /refund");
    assert_eq!(span.parent_span_id, [0x00, 0xf0, 0x67, 0xaa, 0x0b, 0xa9, 0x02, 0xb7]);
    assert_eq!(texts(&span.attributes)["error.type"], "RefundError");
    let event = texts(&span.events[0].attributes);
    assert_eq!(
        (span.events[0].name.as_str(), event["exception.message"].as_str()),
        ("exception", "no ledger")
    );
    assert_eq!(received.resource()["service.version"], "1.4.2");
    assert_eq!(received.resource()["service.name"], NAME);
}

#[tokio::test(flavor = "multi_thread")]
async fn spans_leave_by_themselves_while_the_service_runs() {
    let (received, address) = Received::listen().await;
    let spans = Spans::to(&format!("http://{address}/v1/traces"), "1.4.2");
    spans.request(&HeaderMap::new(), &Method::GET, "/").end(200, None);
    assert!(eventually(PATIENT, || !received.spans().is_empty()).await);
    spans.end().await;
}

/// The runtime is the sample service's own kind: one thread for requests and exports.
#[tokio::test]
async fn a_receiver_that_is_gone_or_hangs_holds_up_nothing() {
    let hangs = TcpListener::bind("127.0.0.1:0").await.unwrap();
    for url in [nobody().await, format!("http://{}", hangs.local_addr().unwrap())] {
        let spans = Spans::to(&format!("{url}/v1/traces"), "1.4.2");
        let began = stopwatch();
        // More than the queue holds.
        for _ in 0..5000 {
            spans.request(&HeaderMap::new(), &Method::GET, "/").end(200, None);
        }
        let took = began.elapsed();
        assert!(took < Duration::from_secs(2), "{url}: 5000 requests took {took:?}");
        let began = stopwatch();
        spans.end().await;
        assert!(began.elapsed() < FLUSH * 3, "{url}: the end took {:?}", began.elapsed());
    }
}
