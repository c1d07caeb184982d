use super::*;
use crate::signals::exposition::{Format, parse};

fn points(text: &str) -> Vec<Point> {
    parse(format!("{}\n", text.trim()).as_bytes(), Format::Classic)
        .unwrap()
        .points
}

fn family(name: &str) -> Family {
    Family::all().find(|family| family.name() == name).unwrap()
}

#[test]
fn every_known_family_is_read_without_configuration() {
    /// (family, text, requests, errors, latency bounds and cumulative counts)
    type Case = (
        &'static str,
        &'static str,
        f64,
        Option<f64>,
        Option<(&'static [f64], &'static [f64])>,
    );
    let table: &[Case] = &[
        (
            "http_server_request_duration_seconds",
            r#"
http_server_request_duration_seconds_bucket{http_response_status_code="200",http_route="/a",le="0.1"} 8
http_server_request_duration_seconds_bucket{http_response_status_code="200",http_route="/a",le="+Inf"} 10
http_server_request_duration_seconds_count{http_response_status_code="200",http_route="/a"} 10
http_server_request_duration_seconds_bucket{http_response_status_code="503",http_route="/a",le="0.1"} 1
http_server_request_duration_seconds_bucket{http_response_status_code="503",http_route="/a",le="+Inf"} 3
http_server_request_duration_seconds_count{http_response_status_code="503",http_route="/a"} 3
http_server_request_duration_seconds_count{error_type="timeout",http_route="/a"} 2"#,
            15.0,
            Some(5.0),
            Some((&[0.1], &[9.0, 13.0])),
        ),
        (
            "http_requests_total",
            "http_requests_total{code=\"200\"} 7\nhttp_requests_total{status=\"500\"} 2\nhttp_requests_total{status_code=\"5xx\"} 1\nhttp_requests_total{code=\"404\"} 4",
            14.0,
            Some(3.0),
            None,
        ),
        (
            "http_request_duration_seconds",
            "http_request_duration_seconds_count 4\nhttp_request_duration_seconds_bucket{le=\"1\"} 3\nhttp_request_duration_seconds_bucket{le=\"+Inf\"} 4",
            4.0,
            None,
            Some((&[1.0], &[3.0, 4.0])),
        ),
        (
            "http_server_requests_seconds",
            "http_server_requests_seconds_count{outcome=\"SUCCESS\",status=\"200\",uri=\"/cart\"} 5\nhttp_server_requests_seconds_count{status=\"500\",uri=\"/cart\"} 1\nhttp_server_requests_seconds_count{status=\"200\",uri=\"/actuator/prometheus\"} 99",
            6.0,
            Some(1.0),
            None,
        ),
        (
            "grpc_server_handled_total",
            r#"
grpc_server_handled_total{grpc_code="OK",grpc_service="shop.Cart"} 10
grpc_server_handled_total{grpc_code="NotFound",grpc_service="shop.Cart"} 2
grpc_server_handled_total{grpc_code="Unknown",grpc_service="shop.Cart"} 1
grpc_server_handled_total{grpc_code="DeadlineExceeded",grpc_service="shop.Cart"} 1
grpc_server_handled_total{grpc_code="Unimplemented",grpc_service="shop.Cart"} 1
grpc_server_handled_total{grpc_code="Internal",grpc_service="shop.Cart"} 1
grpc_server_handled_total{grpc_code="Unavailable",grpc_service="shop.Cart"} 1
grpc_server_handled_total{grpc_code="DataLoss",grpc_service="shop.Cart"} 1
grpc_server_handled_total{grpc_code="OK",grpc_service="grpc.health.v1.Health"} 500
grpc_server_handling_seconds_bucket{grpc_service="shop.Cart",le="+Inf"} 18"#,
            18.0,
            Some(6.0),
            Some((&[], &[18.0])),
        ),
        (
            "istio_requests_total",
            r#"
istio_requests_total{reporter="destination",response_code="200",grpc_response_status="14"} 1
istio_requests_total{reporter="destination",response_code="200"} 8
istio_requests_total{reporter="destination",response_code="0"} 1
istio_requests_total{reporter="source",response_code="503"} 100
istio_request_duration_milliseconds_bucket{reporter="destination",le="250"} 9
istio_request_duration_milliseconds_bucket{reporter="destination",le="+Inf"} 10"#,
            10.0,
            Some(2.0),
            Some((&[0.25], &[9.0, 10.0])),
        ),
        (
            "response_total",
            "response_total{direction=\"inbound\",classification=\"success\"} 5\nresponse_total{direction=\"inbound\",classification=\"failure\"} 1\nresponse_total{direction=\"outbound\",classification=\"failure\"} 9\nresponse_latency_ms_bucket{direction=\"inbound\",le=\"500\"} 6\nresponse_latency_ms_bucket{direction=\"inbound\",le=\"+Inf\"} 6",
            6.0,
            Some(1.0),
            Some((&[0.5], &[6.0, 6.0])),
        ),
        (
            "envoy_cluster_upstream_rq_xx",
            "envoy_cluster_upstream_rq_xx{envoy_response_code_class=\"2\"} 5\nenvoy_cluster_upstream_rq_xx{envoy_response_code_class=\"5\"} 2",
            7.0,
            Some(2.0),
            None,
        ),
        (
            "nginx_ingress_controller_requests",
            "nginx_ingress_controller_requests{status=\"200\"} 5\nnginx_ingress_controller_requests{status=\"502\"} 2",
            7.0,
            Some(2.0),
            None,
        ),
        (
            "traefik_service_requests_total",
            "traefik_service_requests_total{code=\"200\"} 5\ntraefik_service_requests_total{code=\"500\"} 2",
            7.0,
            Some(2.0),
            None,
        ),
    ];
    for (name, text, requests, errors, latency) in table {
        let latency = latency.map(|(le, cumulative)| {
            (
                family(name),
                Value::Buckets {
                    le: le.into(),
                    cumulative: cumulative.to_vec(),
                },
            )
        });
        let expected = Extract {
            family: family(name),
            requests: *requests,
            errors: *errors,
            latency,
        };
        assert_eq!(extract(&points(text)), Some(expected), "{name}");
    }
}

#[test]
fn probes_and_scrapes_are_not_traffic() {
    let text = [
        "/metrics",
        "/healthz",
        "/livez",
        "/readyz",
        "/healthz/",
        "/readyz?verbose",
        "/pay",
    ]
    .map(|path| format!("http_requests_total{{code=\"200\",path=\"{path}\"}} 10"))
    .join("\n");
    assert_eq!(extract(&points(&text)).unwrap().requests, 10.0);
}

#[test]
fn only_housekeeping_or_unknown_names_are_no_family() {
    assert_eq!(
        extract(&points("http_requests_total{path=\"/metrics\"} 5\ngo_goroutines 7")),
        None
    );
}

#[test]
fn the_choice_prefers_traffic_then_the_other_sides_family_then_the_table() {
    let choose = |text: &str, prefer: Choice| {
        let series: Vec<_> = track(&points(text)).iter().map(Tracked::sighting).collect();
        choose(&series, prefer).requests.map(Family::name)
    };
    let otel = "http_server_request_duration_seconds_count{http_response_status_code=\"200\"}";
    let plain = "http_requests_total{code=\"200\"}";
    let grpc = "grpc_server_handled_total{grpc_code=\"OK\"}";
    let prefer = Choice {
        requests: Some(family("http_requests_total")),
        durations: None,
    };
    let cases = [
        (
            format!("{plain} 5\n{otel} 5"),
            Choice::default(),
            "http_server_request_duration_seconds",
        ),
        (
            format!("{plain} 0\n{grpc} 5"),
            Choice::default(),
            "grpc_server_handled_total",
        ),
        (format!("{plain} 5\n{otel} 5"), prefer, "http_requests_total"),
        (
            format!("{plain} 0\n{otel} 5"),
            prefer,
            "http_server_request_duration_seconds",
        ),
        (
            "http_requests_total 5\nhttp_request_duration_seconds_count{code=\"200\"} 5".to_owned(),
            Choice::default(),
            "http_request_duration_seconds",
        ),
    ];
    for (text, prefer, expected) in cases {
        assert_eq!(choose(&text, prefer), Some(expected), "{text}");
    }
}

#[test]
fn a_histogram_without_inf_or_with_nan_is_not_read_and_a_torn_one_is_made_monotone() {
    let mut bounds = Bounds::default();
    let inf = f64::INFINITY;
    assert_eq!(bounds.histogram(vec![(0.1, 1.0)]), None);
    assert_eq!(bounds.histogram(vec![(0.1, f64::NAN), (inf, 1.0)]), None);
    let torn = bounds.histogram(vec![(inf, 4.0), (0.1, 5.0)]);
    assert_eq!(
        torn,
        Some(Value::Buckets {
            le: [0.1].into(),
            cumulative: vec![5.0, 5.0]
        })
    );
}

#[test]
fn the_start_of_the_process_is_read() {
    let start = process_start(&points("process_start_time_seconds 1.5e9"));
    assert_eq!(start, Some(jiff::Timestamp::from_second(1_500_000_000).unwrap()));
}
