use proptest::prelude::*;

use super::*;

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs
        .iter()
        .map(|(label, value)| ((*label).to_owned(), (*value).to_owned()))
        .collect()
}

fn point(name: &str, pairs: &[(&str, &str)], kind: Kind, value: f64) -> Point {
    Point {
        name: name.to_owned(),
        labels: labels(pairs),
        kind,
        value,
    }
}

#[test]
fn classic_text_is_read_with_kinds_escapes_and_timestamps() {
    let text = r#"
# HELP http_requests_total The total number of HTTP requests.
# TYPE http_requests_total counter
http_requests_total{method="post",code="200"} 1027 1395066363000
http_requests_total { method = "post" , code="400", } 3
# A comment
msdos_file_access_time_seconds{path="C:\\DIR\\FILE.TXT",error="Cannot find file:\n\"FILE.TXT\""} 1.458255915e9
something_weird{problem="division by zero"} +Inf -3982045
odd{} NaN
# TYPE rpc_seconds histogram
rpc_seconds_bucket{le="0.05"} 24054
rpc_seconds_bucket{le="+Inf"} 144320
rpc_seconds_sum 53423
rpc_seconds_count 144320
# TYPE temperature gauge
temperature{room="é"} -3.5
"#;
    let mut read = parse(text.as_bytes(), Format::Classic).unwrap();
    // NaN equals nothing, so it is checked by itself.
    let odd = read.points.iter().position(|p| p.name == "odd").unwrap();
    assert!(read.points.remove(odd).value.is_nan());
    let expected = vec![
        point(
            "http_requests_total",
            &[("method", "post"), ("code", "200")],
            Kind::Counter,
            1027.0,
        ),
        point(
            "http_requests_total",
            &[("method", "post"), ("code", "400")],
            Kind::Counter,
            3.0,
        ),
        point(
            "msdos_file_access_time_seconds",
            &[
                ("path", "C:\\DIR\\FILE.TXT"),
                ("error", "Cannot find file:\n\"FILE.TXT\""),
            ],
            Kind::Untyped,
            1.458_255_915e9,
        ),
        point(
            "something_weird",
            &[("problem", "division by zero")],
            Kind::Untyped,
            f64::INFINITY,
        ),
        point("rpc_seconds_bucket", &[("le", "0.05")], Kind::Histogram, 24054.0),
        point("rpc_seconds_bucket", &[("le", "+Inf")], Kind::Histogram, 144_320.0),
        point("rpc_seconds_sum", &[], Kind::Histogram, 53423.0),
        point("rpc_seconds_count", &[], Kind::Histogram, 144_320.0),
        point("temperature", &[("room", "é")], Kind::Gauge, -3.5),
    ];
    assert_eq!(
        read,
        Exposition {
            points: expected,
            skipped: 0
        }
    );
}

#[test]
fn openmetrics_exemplars_and_created_series_are_left_out() {
    let text = "# TYPE acme_http counter\n# UNIT acme_http requests\nacme_http_total{code=\"500\"} 17.0 1520879607.789 # {trace_id=\"KOO\"} 0.67 1520879607\nacme_http_created{code=\"500\"} 1520430000.123\n# TYPE lat histogram\nlat_bucket{le=\"1.0\"} 8 # {trace_id=\"a b } \"} 0.5\n# EOF\n";
    let read = parse(
        text.as_bytes(),
        Format::of_content_type(Some("application/openmetrics-text; version=1.0.0")),
    )
    .unwrap();
    let expected = vec![
        point("acme_http_total", &[("code", "500")], Kind::Counter, 17.0),
        point("lat_bucket", &[("le", "1.0")], Kind::Histogram, 8.0),
    ];
    assert_eq!(
        read,
        Exposition {
            points: expected,
            skipped: 0
        }
    );
}

#[test]
fn quoted_utf8_names_are_read() {
    let read = parse(b"{\"http.requests\", \"my.code\"=\"200\"} 4\n", Format::Classic).unwrap();
    assert_eq!(
        read.points,
        vec![point("http.requests", &[("my.code", "200")], Kind::Untyped, 4.0)]
    );
}

#[test]
fn a_series_exposed_twice_counts_once_and_families_may_be_announced_twice() {
    let text = "# TYPE a counter\na{x=\"1\"} 1\n# TYPE a gauge\na{x=\"1\",y=\"\"} 2\nb 3\n";
    let read = parse(text.as_bytes(), Format::Classic).unwrap();
    let expected = vec![
        point("a", &[("x", "1")], Kind::Counter, 2.0),
        point("b", &[], Kind::Untyped, 3.0),
    ];
    assert_eq!(read.points, expected);
}

#[test]
fn what_would_be_mistaken_for_a_measurement_is_an_error() {
    let long = vec![b'a'; MAX_BYTES + 1];
    let many: String = (0..=MAX_SERIES).map(|i| format!("a{{i=\"{i}\"}} 1\n")).collect();
    let cases: [(&[u8], Format, ExpositionError); 4] = [
        (&long, Format::Classic, ExpositionError::TooLong),
        (many.as_bytes(), Format::Classic, ExpositionError::TooManySeries),
        (b"a_total 12\n", Format::OpenMetrics, ExpositionError::CutOff),
        (
            b"<!doctype html>\n<html>\n",
            Format::Classic,
            ExpositionError::NotMetrics {
                beginning: "<!doctype html>\n<html>".to_owned(),
            },
        ),
    ];
    for (body, format, error) in cases {
        assert_eq!(parse(body, format), Err(error));
    }
    assert!(
        ExpositionError::TooManySeries.to_string().contains("10000 series"),
        "the error names the limit"
    );
}

#[test]
fn exactly_the_limit_is_still_read() {
    let many: String = (0..MAX_SERIES).map(|i| format!("a{{i=\"{i}\"}} 1\n")).collect();
    assert_eq!(
        parse(many.as_bytes(), Format::Classic).unwrap().points.len(),
        MAX_SERIES
    );
}

#[test]
fn a_last_line_without_line_feed_is_not_trusted() {
    let read = parse(b"a_total 100\nb_total 12", Format::Classic).unwrap();
    assert_eq!(
        read,
        Exposition {
            points: vec![point("a_total", &[], Kind::Untyped, 100.0)],
            skipped: 1
        }
    );
}

#[test]
fn an_empty_answer_is_no_series_and_no_error() {
    assert_eq!(parse(b"", Format::Classic), Ok(Exposition::default()));
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(body in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = parse(&body, Format::Classic);
        let _ = parse(&body, Format::OpenMetrics);
    }

    #[test]
    fn nothing_like_metrics_text_makes_it_panic(body in "([a-z_]{1,4}(\\{[a-z=\",\\\\}é]{0,12})? ?[0-9eEnNaA+.-]{0,5}( #)?\n?){0,9}") {
        let _ = parse(body.as_bytes(), Format::Classic);
    }

    #[test]
    fn what_is_written_is_read_back(value in any::<String>(), number in any::<f64>()) {
        let escaped = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let read = parse(format!("m{{l=\"{escaped}\"}} {number:?}\n").as_bytes(), Format::Classic).unwrap();
        prop_assert_eq!(read.points.len(), 1);
        prop_assert_eq!(read.points[0].label("l"), value.as_str());
        prop_assert!(read.points[0].value == number || number.is_nan());
    }
}
