//! Against answers as Tempo's documentation shows them.

use serde_json::{Value, json};

use super::*;
use crate::signals::NoMeasurementKind;
use crate::signals::http::http_client;
use crate::signals::testing::FakeServer;
use crate::signals::traces::SpanError;
use crate::signals::traces::store::tests::{all, at};

fn trace(id: &str, matched: usize) -> Value {
    let text = |key: &str, value: &str| json!({"key": key, "value": {"stringValue": value}});
    json!({
        "traceID": id, "rootServiceName": "front", "rootTraceName": "checkout",
        "startTimeUnixNano": "1684778327699392724", "durationMs": 557,
        "spanSets": [{"spans": [{
            "spanID": "563d623c76514f8e", "name": "POST", "startTimeUnixNano": "1684778327735077898",
            "durationNanos": "446979497",
            "attributes": [
                text("status", "error"), text("statusMessage", "no ledger"), text("error.type", "RefundError"),
                text("http.route", "/refund"), text("http.request.method", "POST"), text("service.name", "shop"), text("service.version", "1.1"),
                {"key": "http.response.status_code", "value": {"intValue": "500"}},
            ],
        }], "matched": matched}],
    })
}

fn tempo(server: &FakeServer) -> Tempo {
    Tempo::new(http_client().unwrap(), &server.url("/tempo"), "shop \"x\"", None).unwrap()
}

fn wanted() -> BTreeSet<String> {
    ["service.version", "team name"].map(str::to_owned).into()
}

#[tokio::test]
async fn one_question_finds_all_that_is_counted_of_a_span() {
    // Without its leading zeros, as Tempo writes ids.
    let answer = json!({"traces": [trace("f3e0cee77ae5dc9c17ade3689eb2e54", 1)], "metrics": {"totalBlocks": 13}});
    let server = FakeServer::start(FakeServer::json(answer.to_string())).await;
    let found = tempo(&server).read(all(at(0), at(5), &wanted())).await.unwrap();
    let span = StoredSpan {
        start: "2023-05-22T17:58:47.735077898Z".parse().unwrap(),
        id: 0x563d_623c_7651_4f8e,
        span: ServerSpan {
            at: "2023-05-22T17:58:48.182057395Z".parse().unwrap(),
            resource: [("service.version".to_owned(), "1.1".to_owned())].into(),
            operation: "POST /refund".to_owned(),
            seconds: 0.446_979_497,
            error: Some(SpanError {
                kind: "RefundError".to_owned(),
                message: "no ledger".to_owned(),
            }),
            trace: "0f3e0cee77ae5dc9c17ade3689eb2e54".to_owned().try_into().unwrap(),
        },
    };
    assert_eq!((found.spans, found.missing), (vec![span], None));
    let (uri, _) = server.requests().remove(0);
    let asked = reqwest::Url::parse(&format!("http://tempo{uri}")).unwrap();
    let asked: BTreeMap<String, String> = asked.query_pairs().into_owned().collect();
    assert_eq!(uri.path(), "/tempo/api/search");
    assert_eq!(
        asked["q"],
        "{ resource.service.name = \"shop \\\"x\\\"\" && kind = server } | select(name, status, statusMessage, \
         span.error.type, span.http.route, span.http.request.method, span.http.method, \
         span.http.response.status_code, span.http.status_code, span.rpc.grpc.status_code, resource.service.version, \
         resource.\"team name\")"
    );
    assert_eq!(
        (asked["start"].as_str(), asked["end"].as_str()),
        ("1700000000", "1700000006")
    );
}

#[tokio::test]
async fn a_full_answer_is_asked_again_in_halves_and_what_is_left_out_is_said() {
    let answer = json!({"traces": [trace("1", 1), trace("2", 1)]});
    let server = FakeServer::start(FakeServer::json(answer.to_string())).await;
    let mut tempo = tempo(&server);
    tempo.page = 2;
    let found = tempo.read(all(at(0), at(3), &wanted())).await.unwrap();
    let windows: Vec<(i64, i64)> = server
        .requests()
        .iter()
        .map(|(uri, _)| {
            let bound = |name: &str| -> i64 {
                let query = uri
                    .query()
                    .unwrap()
                    .split('&')
                    .find_map(|pair| pair.strip_prefix(name))
                    .unwrap();
                query.parse::<i64>().unwrap() - 1_700_000_000
            };
            (bound("start="), bound("end="))
        })
        .collect();
    assert_eq!(
        windows,
        [(0, 4), (2, 4), (3, 4), (2, 3), (0, 2), (1, 2), (0, 1)],
        "the newest first"
    );
    assert_eq!(found.spans.len(), 8);
    assert_eq!(found.missing.map(|note| note.kind), Some(NoMeasurementKind::Partial));

    tempo.page = 1000;
    let many = json!({"traces": [trace("1", 60)]});
    server.set(FakeServer::json(many.to_string()));
    let found = tempo.read(all(at(0), at(3), &wanted())).await.unwrap();
    assert_eq!(
        found.missing.map(|note| note.kind),
        Some(NoMeasurementKind::Partial),
        "spans of a trace"
    );
    server.set(FakeServer::json("{}"));
    assert_eq!(tempo.read(all(at(0), at(3), &wanted())).await, Ok(Found::default()));
}
