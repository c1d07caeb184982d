//! What is wrong with an answer, as a table.

use serde_json::json;

use super::*;

fn answer(status: u16, body: &str) -> Answer {
    let mut headers = HeaderMap::new();
    headers.insert("content-type", HeaderValue::from_static("application/json"));
    Answer {
        status: StatusCode::from_u16(status).unwrap(),
        headers,
        body: body.as_bytes().to_vec(),
        cut: false,
        took: Duration::from_millis(30),
    }
}

/// What the report would say of an answer `200 {"ok": true, "n": 2}`.
fn said(test: Value) -> Option<String> {
    let test = serde_json::from_value(test).unwrap();
    match fault(
        &test,
        &answer(200, r#"{"ok": true, "n": 2, "list": ["a"], "at": {"x": 1}}"#),
    ) {
        Ok(()) => None,
        Err(Failure::Answer { what, .. }) => Some(what),
        Err(Failure::Test(why)) => Some(format!("mistake: {why}")),
    }
}

#[test]
fn an_answer_is_compared_with_every_expectation() {
    let table = [
        (json!({"http": "/"}), None),
        (json!({"http": "/", "status": 200}), None),
        (
            json!({"http": "/", "status": 204}),
            Some("answered 200 where 204 was expected"),
        ),
        (
            json!({"http": "/", "expectHeaders": {"Content-Type": "application/json"}}),
            None,
        ),
        (
            json!({"http": "/", "expectHeaders": {"Content-Type": "text/secret"}}),
            Some("answered 200 with another value of the header `content-type` than expected (values are not shown)"),
        ),
        (
            json!({"http": "/", "expectHeaders": {"ETag": "1"}}),
            Some("answered 200 without the header `etag`"),
        ),
        (json!({"http": "/", "contains": "true"}), None),
        (json!({"http": "/", "contains": ""}), None),
        (
            json!({"http": "/", "contains": "false"}),
            Some("answered 200, but its body does not contain `false`"),
        ),
        (
            json!({"http": "/", "json": {"$.n": 2.0, "$.ok": true, "$.list": ["a"], "$.list[*]": ["a"]}}),
            None,
        ),
        (json!({"http": "/", "json": {"$.at": {"x": 1.0}}}), None),
        (
            json!({"http": "/", "json": {"$.n": 3}}),
            Some("answered 200, but `$.n` selects `2` where `3` was expected"),
        ),
        (
            json!({"http": "/", "json": {"$.missing": null}}),
            Some("answered 200, but `$.missing` selects nothing where `null` was expected"),
        ),
        (
            json!({"http": "/", "json": {"$.*": 1}}),
            Some("answered 200, but `$.*` selects 4 values where `1` was expected"),
        ),
        (json!({"http": "/", "within": "30ms"}), None),
        (
            json!({"http": "/", "within": "29ms"}),
            Some("answered 200 after 30 ms where at most 29ms is allowed"),
        ),
    ];
    for (test, expected) in table {
        assert_eq!(said(test.clone()).as_deref(), expected, "{test}");
    }
}

#[test]
fn a_path_that_is_none_is_the_tests_mistake() {
    let why = said(json!({"http": "/", "json": {"status": 1}})).unwrap();
    assert!(why.starts_with("mistake: `status` is not a JSON path ("), "{why}");
}

#[test]
fn a_body_that_is_no_json_or_was_cut_fails_with_its_beginning() {
    let test = serde_json::from_value(json!({"http": "/", "json": {"$.a": 1}})).unwrap();
    let mut html = answer(200, "<html>");
    assert_eq!(
        fault(&test, &html),
        Err(Failure::Answer {
            what: "answered 200, but its body is not JSON (expected value at line 1 column 1)".to_owned(),
            excerpt: Some(("body begins", "<html>".to_owned())),
        })
    );
    html.cut = true;
    assert_eq!(
        fault(&test, &html),
        Err(Failure::Answer {
            what: "answered 200, but its body is longer than 1 MiB and was not read as JSON".to_owned(),
            excerpt: Some(("body begins", "<html>".to_owned())),
        })
    );
}

#[test]
fn an_excerpt_is_bounded_and_moves_no_cursor() {
    let long = format!("\u{1b}[2J\u{202e}{}", "é".repeat(10_000));
    let (_, text) = excerpt(long.as_bytes()).unwrap();
    assert_eq!(text, format!("\\u{{1b}}[2J\\u{{202e}}{}…", "é".repeat(195)));
    assert_eq!(excerpt(b" \n"), None);
}
