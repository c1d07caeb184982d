//! The trace of a release as a real Jaeger shows it. Skipped where none is installed (`tests/jaeger/install`), unless
//! `WADE_REQUIRE_JAEGER` is set.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use super::*;
use crate::signals::http::http_client;
use crate::signals::traces::jaeger::real::{Server, binary};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

/// The spans of a trace once there are so many, by name; several of one name in their order.
async fn spans(jaeger: &Server, trace: &str, wanted: usize) -> Vec<Value> {
    let client = http_client().expect("a client");
    let url = format!("http://127.0.0.1:{}/api/traces/{trace}", jaeger.query);
    for _ in 0..200 {
        if let Ok(answer) = client.get(&url).send().await
            && let Ok(page) = answer.json::<Value>().await
            && let Some(spans) = page.pointer("/data/0/spans").and_then(Value::as_array)
            && spans.len() >= wanted
        {
            let mut spans = spans.clone();
            spans.sort_by_key(|span| (span["startTime"].as_i64(), span["duration"].as_i64()));
            return spans;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("Jaeger does not show {wanted} spans of {trace}");
}

fn tags(span: &Value) -> BTreeMap<String, Value> {
    let tags = span["tags"].as_array().cloned().unwrap_or_default();
    let pair = |tag: &Value| Some((tag["key"].as_str()?.to_owned(), tag["value"].clone()));
    tags.iter().filter_map(pair).collect()
}

/// The span that it is a child of.
fn parent(span: &Value) -> &str {
    span.pointer("/references/0/spanID")
        .and_then(Value::as_str)
        .unwrap_or_default()
}

fn telemetry(jaeger: &Server) -> Arc<Telemetry> {
    let exporter = Exporter::to(&format!("http://127.0.0.1:{}/v1/traces", jaeger.otlp)).expect("an address");
    Arc::new(Telemetry::with(Settings::default(), Some(exporter)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_is_one_trace_inside_of_its_pipelines_even_if_its_carrier_dies() {
    let Some(binary) = binary() else { return };
    let jaeger = Server::start(&binary).await;
    let mut story = Story::of("checkout", 57, begin());
    story.about.record.pipeline.traceparent = Some(format!("00-{TRACE}-{PARENT}-01"));

    // Its first carrier dies in the middle of the first stage.
    let first = telemetry(&jaeger);
    let following = story.follow(&first, None);
    story.reach_users();
    story.look(Some(verdict(Call::Undecided, 1.0)));
    caught_up(|| first.registry().get(list::SPANS, &["ok"]) == Some(5.0)).await;
    following.abort();

    let second = telemetry(&jaeger);
    let following = story.follow(&second, None);
    story.look(Some(verdict(Call::Fail, 5.0)));
    story.roll_back();
    following.await.expect("no panic");

    let spans = spans(&jaeger, TRACE, 11).await;
    let names: Vec<&str> = spans.iter().filter_map(|span| span["operationName"].as_str()).collect();
    let root = spans
        .iter()
        .find(|span| span["operationName"] == "release")
        .expect("the release");
    let phases: Vec<&str> = names.iter().copied().filter(|name| *name != "release").collect();
    assert_eq!(
        phases,
        [
            "waiting",
            "starting",
            "smoking",
            "preparing",
            "shifting",
            "analysing",
            "returning",
            "returning",
            "returning",
            "returning"
        ]
    );
    assert_eq!(parent(root), PARENT, "the pipeline's step");
    for span in spans.iter().filter(|span| span["operationName"] != "release") {
        assert_eq!(parent(span), root["spanID"], "{span}");
    }
    let said = tags(root);
    let expected = [
        ("wade.rollout", json!("checkout")),
        ("wade.release", json!(57)),
        ("k8s.namespace.name", json!("shop")),
        ("wade.version", json!("1.4.2")),
        ("wade.version.stable", json!("1.4.1")),
        ("wade.outcome", json!("RolledBack")),
        ("wade.reason", json!("everything is as before")),
        ("error", json!(true)),
    ];
    for (name, value) in expected {
        assert_eq!(said.get(name), Some(&value), "{name}: {said:?}");
    }
    assert_eq!(root["duration"].as_i64(), Some(12_000_000), "12 s");
    let judged = spans
        .iter()
        .find(|span| span["operationName"] == "analysing")
        .expect("a stage");
    let said = tags(judged);
    assert_eq!(said.get("wade.stage"), Some(&json!(1)));
    assert_eq!(said.get("wade.weight"), Some(&json!(0.1)));
    assert_eq!(said.get("wade.verdict"), Some(&json!("fail")));
    assert_eq!(said.get("wade.evidence"), Some(&json!(1.25)));
    assert_eq!(
        judged["duration"].as_i64(),
        Some(3_000_000),
        "whole, though its first carrier died in it"
    );
    let events = judged["logs"].to_string();
    assert!(
        events.contains("retreated") && events.contains("30 % of the answers fail"),
        "{events}"
    );

    // Every attribute that is sent is in the list.
    let known: Vec<&str> = list::ATTRIBUTES.iter().map(|(name, _)| *name).collect();
    for span in &spans {
        for name in tags(span)
            .keys()
            .filter(|name| name.starts_with("wade.") || name.starts_with("k8s."))
        {
            assert!(known.contains(&name.as_str()), "{name} is not in the list");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_pipeline_the_trace_follows_from_the_record() {
    let Some(binary) = binary() else { return };
    let jaeger = Server::start(&binary).await;
    let telemetry = telemetry(&jaeger);
    let mut story = Story::of("checkout", 58, begin());
    let trace = spans::trace_id(Some("shop"), &story.about.record);
    let following = story.follow(&telemetry, None);
    story.reach_users();
    story.promote();
    following.await.expect("no panic");
    let spans = spans(&jaeger, &trace, 16).await;
    let root = spans
        .iter()
        .find(|span| span["operationName"] == "release")
        .expect("the release");
    assert_eq!(tags(root).get("wade.proven"), Some(&json!(true)));
    assert_eq!(parent(root), "", "nothing above it");
    let other = Story::of("checkout", 59, begin());
    assert_ne!(trace, spans::trace_id(Some("shop"), &other.about.record));
}

#[tokio::test]
async fn a_pipeline_that_is_not_sampled_and_a_receiver_that_is_gone_cost_nothing() {
    let gone = crate::signals::testing::nobody().await;
    let exporter = Exporter::to(&format!("{gone}/v1/traces")).expect("an address");
    let telemetry = Arc::new(Telemetry::with(Settings::default(), Some(exporter)));
    let mut story = Story::of("checkout", 57, begin());
    story.about.record.pipeline.traceparent = Some(format!("00-{TRACE}-{PARENT}-00"));
    let following = story.follow(&telemetry, None);
    story.reach_users();
    story.roll_back();
    following.await.expect("no panic");
    assert_eq!(
        telemetry.registry().get(list::SPANS, &["failed"]),
        Some(0.0),
        "not even tried"
    );

    let mut story = Story::of("checkout", 58, begin());
    let watch = crate::clock::stopwatch();
    let following = story.follow(&telemetry, None);
    story.reach_users();
    story.roll_back();
    following.await.expect("no panic");
    assert!(watch.elapsed() < Duration::from_secs(8), "{:?}", watch.elapsed());
    assert!(telemetry.registry().get(list::SPANS, &["failed"]) > Some(0.0));
}
