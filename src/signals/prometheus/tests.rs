use serde_json::{Value as Json, json};

use super::api::{ApiError, Auth, Secret};
use super::*;
use crate::clock::ManualClock;
use crate::judge::observation::Increment;
use crate::signals::Condition;
use crate::signals::http::http_client;
use crate::signals::testing::{Answer, FakeServer, nobody};

const START: i64 = 1_700_000_000;

fn at(secs: i64) -> Timestamp {
    Timestamp::from_second(START + secs).unwrap()
}

fn api(server: &FakeServer) -> Api {
    Api::new(http_client().unwrap(), &server.url("/prom/"), Auth::None, &[]).unwrap()
}

fn matchers() -> Sides<String> {
    Sides {
        canary: "side=\"canary\"".to_owned(),
        stable: "side=\"stable\"".to_owned(),
    }
}

fn config(metrics: Vec<PrometheusMetric>) -> PrometheusConfig {
    PrometheusConfig {
        metrics,
        ..PrometheusConfig::known(matchers())
    }
}

fn known() -> PrometheusConfig {
    config(vec![PrometheusMetric::Known])
}

fn poller(api: Api, config: PrometheusConfig) -> Poller {
    Poller::new(api, config, Arc::new(ManualClock::new(at(0)))).unwrap()
}

fn success(data: &Json) -> Answer {
    FakeServer::json(json!({"status": "success", "data": data}).to_string())
}

fn matrix(series: &Json) -> Answer {
    success(&json!({"resultType": "matrix", "result": series}))
}

fn kinds(round: &Round) -> Vec<NoMeasurementKind> {
    round.failures.iter().map(|(_, failure)| failure.kind).collect()
}

#[tokio::test]
async fn every_bad_answer_is_its_own_kind_of_no_measurement() {
    let elsewhere = FakeServer::start(matrix(&json!([]))).await;
    let table = [
        (Answer::Never, NoMeasurementKind::Slow, "in time"),
        (Answer::Status(401, "no"), NoMeasurementKind::Denied, "credentials"),
        (Answer::Status(403, "no"), NoMeasurementKind::Denied, "credentials"),
        (Answer::Status(404, "no"), NoMeasurementKind::Refused, "404"),
        (
            Answer::Status(
                400,
                r#"{"status":"error","errorType":"bad_data","error":"parse error: here"}"#,
            ),
            NoMeasurementKind::Refused,
            "parse error: here",
        ),
        (Answer::Status(503, "busy"), NoMeasurementKind::Refused, "503"),
        (
            Answer::Redirect(elsewhere.url("/")),
            NoMeasurementKind::Redirected,
            "not followed",
        ),
        (Answer::Endless, NoMeasurementKind::TooLarge, "16 MiB"),
        (FakeServer::json("<html>"), NoMeasurementKind::Garbled, "not understood"),
        (
            FakeServer::json(r#"{"status":"error","error":"told off"}"#),
            NoMeasurementKind::Refused,
            "told off",
        ),
        (
            FakeServer::json(r#"{"status":"success"}"#),
            NoMeasurementKind::Garbled,
            "without data",
        ),
        (
            FakeServer::json(
                r#"{"status":"success","data":{"resultType":"matrix","result":[]},"warnings":["store gone"]}"#,
            ),
            NoMeasurementKind::Partial,
            "store gone",
        ),
        (matrix(&json!([])), NoMeasurementKind::Empty, "label matchers"),
    ];
    let server = FakeServer::start(Answer::Never).await;
    for (answer, kind, says) in table {
        // Only the silent one may run into the limit; 16 MiB take a while on a busy machine.
        let timeout = Duration::from_millis(if matches!(answer, Answer::Never) { 100 } else { 30_000 });
        let mut poller = poller(api(&server).with_timeout(timeout), known());
        server.set(answer);
        let round = poller.poll().await;
        assert_eq!((kinds(&round), round.scrapes), (vec![kind], vec![]), "{says}");
        assert!(round.failures[0].1.reason.contains(says), "{}", round.failures[0].1);
        assert!(
            round.failures[0].1.reason.contains("Prometheus at http://127.0.0.1"),
            "the object is named"
        );
    }
    assert_eq!(elsewhere.requests().len(), 0, "a redirect is not followed");
    let dead = Api::new(http_client().unwrap(), &nobody().await, Auth::None, &[]).unwrap();
    let round = poller(dead, known()).poll().await;
    assert_eq!(kinds(&round), [NoMeasurementKind::Unreachable]);
}

#[tokio::test]
async fn not_a_number_is_said_and_not_counted() {
    let series =
        json!([{"metric": {"__name__": "http_requests_total", "code": "200", "pod": "a"}, "values": [[START, "NaN"]]}]);
    let server = FakeServer::start(matrix(&series)).await;
    let mut poller = poller(api(&server), known());
    let round = poller.poll().await;
    assert_eq!(kinds(&round), [NoMeasurementKind::NotANumber]);
    let mut tally = poller.new_tally(at(0));
    tally.round(at(0), round);
    assert_eq!(tally.take(at(0)).observation.metrics, BTreeMap::new());
}

#[tokio::test]
async fn credentials_are_sent_and_never_printed() {
    let server = FakeServer::start(matrix(&json!([]))).await;
    let headers = [("X-Scope-OrgID".to_owned(), Secret::new("tenant-7"))];
    let auth = Auth::Bearer(Secret::new("hunter2"));
    let api = Api::new(http_client().unwrap(), &server.url("/prom"), auth, &headers).unwrap();
    assert!(!format!("{api:?} {api}").contains("hunter2") && !format!("{api:?}").contains("tenant-7"));
    api.instant("up".to_owned()).await.unwrap();
    let (uri, sent) = server.requests().remove(0);
    assert_eq!(uri.to_string(), "/prom/api/v1/query?query=up");
    assert_eq!(
        (&sent["authorization"], &sent["x-scope-orgid"]),
        (&"Bearer hunter2".parse().unwrap(), &"tenant-7".parse().unwrap())
    );

    let basic = Auth::Basic {
        user: "wade".to_owned(),
        password: Secret::new("hunter2"),
    };
    assert!(!format!("{basic:?}").contains("hunter2"));
    let in_url = Api::new(http_client().unwrap(), "http://u:p@h/", Auth::None, &[]);
    assert_eq!(in_url.map(|_| ()), Err(ApiError::CredentialsInAddress));
}

#[test]
fn queries_that_cannot_tell_the_sides_apart_are_refused() {
    let gauge = PrometheusMetric::Gauge {
        name: "lag".to_owned(),
        query: "sum(lag)".to_owned(),
    };
    let error = plan(&config(vec![gauge])).unwrap_err();
    assert_eq!(
        error,
        PrometheusConfigError::NoSide {
            metric: "lag".to_owned(),
            query: "sum(lag)".to_owned()
        }
    );
    let nobody = PrometheusConfig {
        matchers: Sides {
            canary: " ".to_owned(),
            ..matchers()
        },
        ..known()
    };
    assert_eq!(
        plan(&nobody).unwrap_err(),
        PrometheusConfigError::NoMatchers { side: Side::Canary }
    );
}

/// One query's answers in the order in which `plan` asks, understood without a server.
fn understand(poller: &mut Poller, tally: &mut Tally, secs: i64, answers: Vec<Json>) {
    let data = |json| Ok(serde_json::from_value::<Data>(json).unwrap());
    let round = poller.understand(answers.into_iter().map(data).collect()).unwrap();
    tally.round(at(secs), round);
}

#[tokio::test]
async fn an_unchanged_scrape_is_no_news_and_one_between_two_polls_is_not_lost() {
    let server = FakeServer::start(Answer::Never).await;
    let mut poller = poller(api(&server), known());
    let mut tally = poller.new_tally(at(0));
    let series = |side: &str, code: &str, values: Json| json!({"metric": {"__name__": "http_requests_total", "code": code, "pod": side, "side": side}, "values": values});
    let matrix = |series: Json| json!({"resultType": "matrix", "result": series});
    let old = [json!([START - 2, "90"]), json!([START - 1, "100"])];
    understand(
        &mut poller,
        &mut tally,
        0,
        vec![matrix(json!([])), matrix(json!([series("stable", "200", json!(old))]))],
    );
    assert_eq!(tally.take(at(0)).newest, Some(at(-1)));
    understand(
        &mut poller,
        &mut tally,
        1,
        vec![matrix(json!([])), matrix(json!([series("stable", "200", json!(old))]))],
    );
    assert_eq!(
        tally.take(at(1)).observation.metrics,
        BTreeMap::new(),
        "the same scrape again"
    );
    // Two scrapes since: a restart lies between them, which the last one alone would not show.
    let stable = json!([series(
        "stable",
        "200",
        json!([[START - 1, "100"], [START + 1, "150"], [START + 2, "160"]])
    )]);
    let canary = json!([
        series("canary", "200", json!([[START + 1, "30"], [START + 2, "4"]])),
        series("canary", "500", json!([[START + 2, "2"]]))
    ]);
    understand(&mut poller, &mut tally, 2, vec![matrix(canary), matrix(stable)]);
    let counts = |total, bad| Some(Increment::Counts { total, bad });
    let sample = tally.take(at(2));
    assert_eq!(
        sample.observation.metrics[ERRORS],
        Sides {
            canary: counts(36.0, 2.0),
            stable: counts(60.0, 0.0)
        }
    );
    assert_eq!(sample.condition, Condition::Measured);
}

#[tokio::test]
async fn own_promql_is_differenced_per_pod_and_gauges_are_one_number() {
    let metrics = vec![
        PrometheusMetric::Counts {
            name: "jobs".to_owned(),
            bad: "sum by (pod) (failed{${side}})".to_owned(),
            total: "sum by (pod) (jobs{${side}})".to_owned(),
        },
        PrometheusMetric::Gauge {
            name: "lag".to_owned(),
            query: "max(lag{${side}})".to_owned(),
        },
    ];
    let server = FakeServer::start(Answer::Never).await;
    let mut poller = poller(api(&server), config(metrics));
    let mut tally = poller.new_tally(at(0));
    let vector = |secs: i64, pods: &[(&str, u32)]| {
        let series: Vec<Json> = pods
            .iter()
            .map(|(pod, n)| json!({"metric": {"pod": pod}, "value": [START + secs, n.to_string()]}))
            .collect();
        json!({"resultType": "vector", "result": series})
    };
    let lag = |n: u32| vector(0, &[("", n)]);
    let start = vec![
        vector(0, &[]),
        vector(0, &[]),
        lag(3),
        vector(0, &[("a", 50)]),
        vector(0, &[]),
        lag(4),
    ];
    understand(&mut poller, &mut tally, 0, start);
    let next = vec![
        vector(1, &[("c", 5)]),
        vector(1, &[("c", 1)]),
        lag(5),
        vector(1, &[("a", 60)]),
        vector(1, &[("a", 2)]),
        lag(6),
    ];
    understand(&mut poller, &mut tally, 1, next);
    let counts = |total, bad| Some(Increment::Counts { total, bad });
    let expected = [
        (
            "jobs".to_owned(),
            Sides {
                canary: counts(5.0, 1.0),
                stable: counts(10.0, 2.0),
            },
        ),
        (
            "lag".to_owned(),
            Sides {
                canary: Some(Increment::Value(5.0)),
                stable: Some(Increment::Value(6.0)),
            },
        ),
    ];
    assert_eq!(tally.take(at(1)).observation.metrics, expected.into());
}

#[tokio::test]
async fn a_gauge_of_several_series_or_not_a_number_is_explained() {
    let gauge = PrometheusMetric::Gauge {
        name: "lag".to_owned(),
        query: "lag".to_owned(),
    };
    let asked = plan(&config(vec![gauge])).unwrap().remove(0);
    let vector = |values: &[&str]| {
        let series: Vec<Json> = values
            .iter()
            .map(|v| json!({"metric": {}, "value": [START, v]}))
            .collect();
        serde_json::from_value(json!({"resultType": "vector", "result": series})).unwrap()
    };
    let kind = |values: &[&str]| asked.one_value(vector(values)).map_err(|failure| failure.kind);
    assert_eq!(kind(&["2.5"]), Ok(2.5));
    assert_eq!(kind(&[]), Err(NoMeasurementKind::Empty));
    assert_eq!(kind(&["1", "2"]), Err(NoMeasurementKind::Unusable));
    assert_eq!(kind(&["NaN"]), Err(NoMeasurementKind::NotANumber));
}

#[tokio::test]
async fn history_is_blocks_of_requests_and_errors_per_pod() {
    let series = |pod: &str, code: &str, from: i64, values: &[u32]| {
        let values: Vec<Json> = (from..)
            .zip(values)
            .map(|(i, n)| json!([START - 1800 + 300 * i, n.to_string()]))
            .collect();
        json!({"metric": {"__name__": "http_requests_total", "code": code, "pod": pod}, "values": values})
    };
    let server = FakeServer::start(matrix(&json!([
        series("a", "200", 0, &[1000, 1010, 1020, 1030, 1040, 1050, 1060]),
        series("a", "500", 3, &[2, 2, 2, 2]),
        series("b", "200", 0, &[500, 520, 5, 25, 45, 65, 85]),
    ])))
    .await;
    let read = history(
        &api(&server),
        &known(),
        &ManualClock::new(at(0)),
        SignedDuration::from_mins(30),
    )
    .await
    .unwrap();
    let a = [
        (10.0, 0.0),
        (10.0, 0.0),
        (12.0, 2.0),
        (10.0, 0.0),
        (10.0, 0.0),
        (10.0, 0.0),
    ];
    let b = [
        (20.0, 0.0),
        (5.0, 0.0),
        (20.0, 0.0),
        (20.0, 0.0),
        (20.0, 0.0),
        (20.0, 0.0),
    ];
    let pod = |pod: &str, blocks: &[(f64, f64)]| PodHistory {
        pod: pod.to_owned(),
        blocks: blocks.to_vec(),
    };
    assert_eq!(read, [pod("a", &a), pod("b", &b)]);
    server.set(matrix(&json!([])));
    let nothing = history(
        &api(&server),
        &known(),
        &ManualClock::new(at(0)),
        SignedDuration::from_mins(30),
    )
    .await;
    assert_eq!(nothing.unwrap_err().kind, NoMeasurementKind::Empty);
}

#[tokio::test]
async fn native_histograms_arrive_as_the_buckets_that_everything_else_knows() {
    let histogram = |fast: u32, slow: u32| {
        json!({"count": (fast + slow).to_string(), "sum": "1", "buckets": [
            [0, "0.1", "0.125", fast.to_string()], [0, "0.42", "0.5", slow.to_string()]]})
    };
    let series = json!([{"metric": {"__name__": "http_request_duration_seconds", "pod": "a"},
        "histograms": [[START, histogram(10, 0)], [START + 2, histogram(20, 5)]]}]);
    let server = FakeServer::start(matrix(&series)).await;
    let data = api(&server).range("x".to_owned(), START, START + 2, 1).await.unwrap();
    let Data::Matrix(series) = data else { panic!("{data:?}") };
    let last = |le: &str| {
        let one = series
            .iter()
            .find(|one| one.metric().get("le").is_some_and(|own| own == le));
        one.and_then(|one| one.samples().last()).map(|sample| sample.value())
    };
    assert_eq!(
        (last("0.125"), last("0.5"), last("+Inf")),
        (Some(20.0), Some(25.0), Some(25.0))
    );
}
