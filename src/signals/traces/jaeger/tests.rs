use super::*;
use crate::signals::http::http_client;
use crate::signals::testing::{Answer, FakeServer};
use crate::signals::traces::SpanError;
use crate::signals::traces::store::tests::{all, at};

/// As Jaeger 1.62 answered.
const ANSWER: &str = r#"{"result":{"resourceSpans":[{"resource":{"attributes":[
{"key":"service.name","value":{"stringValue":"shop"}},{"key":"service.version","value":{"stringValue":"1.1"}},
{"key":"process.pid","value":{"intValue":"12"}}]},"scopeSpans":[{"scope":{"name":"x"},"spans":[
{"traceId":"806330393c69ee86321b01de1cc76868","spanId":"327255c697b98dd5","parentSpanId":"","name":"GET /refund","kind":2,
"startTimeUnixNano":"1795336445075371472","endTimeUnixNano":"1795336445080371472","attributes":[
{"key":"http.response.status_code","value":{"intValue":"500"}}],"events":[{"timeUnixNano":"1795336445080371472",
"name":"exception","attributes":[{"key":"exception.message","value":{"stringValue":"no ledger 12"}},
{"key":"exception.type","value":{"stringValue":"RefundError"}}]}],"status":{"message":"no ledger","code":2}},
{"traceId":"806330393c69ee86321b01de1cc76868","spanId":"bff97a26bef8032c","parentSpanId":"327255c697b98dd5",
"name":"store","kind":3,"startTimeUnixNano":"1795336445075371472","endTimeUnixNano":"1795336445076371472","status":{}}]}]},
{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"ledger"}}]},"scopeSpans":[{"scope":{},"spans":[
{"traceId":"806330393c69ee86321b01de1cc76868","spanId":"0000000000000001","name":"GET /","kind":2,
"startTimeUnixNano":"1795336445075371472","endTimeUnixNano":"1795336445076371472","status":{}}]}]}]}}"#;

async fn read(answer: Answer) -> Result<Found, NoMeasurement> {
    let server = FakeServer::start(answer).await;
    let jaeger = Jaeger::new(http_client().unwrap(), &server.url(""), "shop", None).unwrap();
    let wanted = ["service.version", "k8s.pod.name"].map(str::to_owned).into();
    jaeger.read(all(at(0), at(5), &wanted)).await
}

#[tokio::test]
async fn of_whole_traces_the_services_server_spans_are_read() {
    let found = read(FakeServer::json(ANSWER)).await.unwrap();
    let span = StoredSpan {
        start: "2026-11-22T08:34:05.075371472Z".parse().unwrap(),
        id: 0x3272_55c6_97b9_8dd5,
        span: ServerSpan {
            at: "2026-11-22T08:34:05.080371472Z".parse().unwrap(),
            resource: [("service.version".to_owned(), "1.1".to_owned())].into(),
            operation: "GET /refund".to_owned(),
            seconds: 0.005,
            error: Some(SpanError {
                kind: "RefundError".to_owned(),
                message: "no ledger 12".to_owned(),
            }),
            trace: "806330393c69ee86321b01de1cc76868".to_owned().try_into().unwrap(),
        },
    };
    assert_eq!((found.spans, found.missing), (vec![span], None));
}

#[tokio::test]
async fn nothing_found_is_an_answer_and_a_wrong_path_is_none() {
    let nothing = Answer::Status(404, r#"{"error":{"httpCode":404,"message":"No traces found"}}"#);
    assert_eq!(read(nothing).await, Ok(Found::default()));
    let failure = read(Answer::Status(404, "404 page not found")).await.unwrap_err();
    assert!(failure.reason.contains("check the address"), "{failure}");
}
