//! What is answered and how it is described: the OpenAPI document, the page in docs/, and what a record does not show.

use std::collections::BTreeSet;

use serde_json::Value;

use super::super::answers::HIDDEN;
use super::super::openapi::document;
use super::super::routes::{Access, ROUTES, Sent, VERBS};
use super::kit::Served;
use crate::spec::SmokeTest;

const PAGE: &str = include_str!("../../../docs/api.md");

fn references<'a>(value: &'a Value, found: &mut BTreeSet<&'a str>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        Value::Object(fields) => {
            found.extend(fields.get("$ref").and_then(Value::as_str));
            fields.values().for_each(|value| references(value, found));
        }
        _ => {}
    }
}

#[test]
fn the_description_has_every_route_and_every_reference_leads_somewhere() {
    let document = document();
    let paths = document["paths"].as_object().unwrap();
    let said: usize = paths.values().map(|item| item.as_object().unwrap().len()).sum();
    assert_eq!(said, ROUTES.len());
    for route in &ROUTES {
        let operation = &document["paths"][route.path][route.method.as_str().to_ascii_lowercase()];
        assert_eq!(operation["summary"], route.summary, "{}", route.path);
        assert_eq!(
            operation["requestBody"].is_object(),
            route.sent != Sent::Nothing,
            "{}",
            route.path
        );
        assert_eq!(
            operation["security"].is_array(),
            route.access != Access::Open,
            "{}",
            route.path
        );
        let named: BTreeSet<&str> = operation["parameters"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|parameter| parameter["in"] == "path")
            .map(|parameter| parameter["name"].as_str().unwrap())
            .collect();
        let braces: BTreeSet<&str> = route
            .path
            .split('/')
            .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
            .collect();
        assert_eq!(named, braces, "{}", route.path);
    }
    let mut found = BTreeSet::new();
    references(&document, &mut found);
    assert!(found.len() > 30, "{found:?}");
    for reference in found {
        let pointer = reference.strip_prefix('#').expect("all in one document");
        assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
    }
    for schema in [
        "ReleaseRequest",
        "CommandRequest",
        "ReleaseRecord",
        "Problem",
        "Verdict",
        "Notice",
        "Outline",
    ] {
        assert!(document["components"]["schemas"][schema].is_object(), "{schema}");
    }
}

#[tokio::test]
async fn the_description_is_served_and_says_what_is_answered() {
    let served = Served::open().await;
    let text = served
        .client
        .get(served.url("/api/v1/openapi.json"))
        .send()
        .await
        .unwrap();
    let described: Value = text.json().await.unwrap();
    assert_eq!(described, document());
    assert_eq!(
        served.client.get(served.url("/healthz")).send().await.unwrap().status(),
        200
    );
    let schemas = &described["components"]["schemas"];
    for (path, schema) in [
        (served.shop.rollout(""), "RolloutView"),
        (served.shop.path(""), "ReleaseRecord"),
        (served.shop.path("/timeline"), "Timeline"),
        (served.shop.path("/evidence"), "Evidence"),
    ] {
        let answer: Value = served.get("ann", &path).await.json().await.unwrap();
        let known = schemas[schema]["properties"].as_object().unwrap();
        for field in answer.as_object().unwrap().keys() {
            assert!(known.contains_key(field), "{schema}.{field} is not described");
        }
        for field in schemas[schema]["required"].as_array().unwrap() {
            assert!(
                answer.get(field.as_str().unwrap()).is_some(),
                "{schema}.{field} is not answered"
            );
        }
    }
    let timeline: Value = served
        .get("ann", &served.shop.path("/timeline"))
        .await
        .json()
        .await
        .unwrap();
    let entries = served.shop.record.lock().unwrap().history.len();
    assert_eq!(timeline["entries"].as_array().unwrap().len(), entries);
}

#[test]
fn the_page_lists_the_same_routes_rights_and_verbs() {
    let row = |cells: [&str; 4]| format!("| {} |", cells.join(" | "));
    for route in &ROUTES {
        let (method, path) = (route.method.as_str(), format!("`{}`", route.path));
        let row = row([method, &path, &route.access.words(), route.summary]);
        assert!(PAGE.contains(&row), "docs/api.md should have:\n{row}");
    }
    let rows = PAGE
        .lines()
        .filter(|line| line.starts_with("| GET") || line.starts_with("| POST"))
        .count();
    assert_eq!(rows, ROUTES.len(), "and nothing else");
    for (verb, what) in VERBS {
        let row = format!("| `{verb}` | {what} |");
        assert!(PAGE.contains(&row), "docs/api.md should have:\n{row}");
    }
}

#[tokio::test]
async fn a_record_leaves_without_templates_tokens_and_the_judges_inner_state() {
    let served = Served::open().await;
    {
        let mut record = served.shop.record.lock().unwrap();
        record.plan.smoke.tests = serde_json::from_str::<Vec<SmokeTest>>(
            r#"[{"http": "/x?key=SECRET", "headers": {"authorization": "SECRET"}, "body": "SECRET",
                 "expectHeaders": {"x": "SECRET"}}, {"command": ["check", "SECRET"]}]"#,
        )
        .unwrap();
        record.plan.measure.source = Some(
            serde_json::from_str(r#"{"prometheus": {"url": "http://a:SECRET@prom/", "tokenFile": "/SECRET", "canary": "a", "stable": "b"}}"#)
                .unwrap(),
        );
    }
    let text = served.get("ann", &served.shop.path("")).await.text().await.unwrap();
    assert!(!text.contains("SECRET"), "{text}");
    assert!(text.contains(HIDDEN) && text.contains("http://prom/"));
    let record: crate::store::ReleaseRecord = serde_json::from_str(&text).expect("still a record, for clients");
    assert_eq!(record.judge, None);
}
