use super::*;
use crate::clock::{ManualClock, SystemClock};
use crate::judge::observation::{Increment, Sides};
use crate::signals::exposition::MAX_SERIES;
use crate::signals::http::http_client;
use crate::signals::testing::{Answer, FakeServer, eventually, nobody};
use crate::signals::{Condition, ERRORS, PodIncrement};

fn at(secs: i64) -> Timestamp {
    Timestamp::from_second(1_000 + secs).unwrap()
}

fn target(pod: &str, side: Side, url: String) -> Target {
    Target {
        pod: pod.to_owned(),
        side,
        url,
        started: None,
    }
}

fn requests(good: u32, bad: u32) -> Answer {
    let bad = if bad == 0 {
        String::new()
    } else {
        format!("http_requests_total{{code=\"500\"}} {bad}\n")
    };
    FakeServer::metrics(format!(
        "http_requests_total{{code=\"200\"}} {good}\n{bad}queue_lag {good}\n"
    ))
}

fn config() -> ScrapeConfig {
    let series = SeriesMatch {
        name: "queue_lag".to_owned(),
        labels: Labels::new(),
    };
    let gauge = ScrapeMetric::Gauge {
        name: "lag".to_owned(),
        series,
    };
    ScrapeConfig {
        timeout: Duration::from_millis(300),
        metrics: vec![gauge],
        ..ScrapeConfig::default()
    }
}

/// Rounds at given times, without the background task.
struct Rounds {
    client: Client,
    clock: ManualClock,
    tally: Tally,
    first: bool,
    config: ScrapeConfig,
}

impl Rounds {
    fn new() -> Self {
        let tally = Tally::new(at(0), Patience::default(), BTreeSet::new());
        Self {
            client: http_client().unwrap(),
            clock: ManualClock::new(at(0)),
            tally,
            first: true,
            config: config(),
        }
    }

    async fn round(&mut self, secs: i64, targets: &[Target]) -> Vec<NoMeasurementKind> {
        self.clock.set(at(secs));
        let round = scrape_round(&self.client, &self.config, &self.clock, targets.to_vec(), self.first).await;
        self.first &= round.scrapes.is_empty();
        let failures = round.failures.iter().map(|(_, failure)| failure.kind).collect();
        self.tally.round(at(secs), round);
        failures
    }
}

fn counts(total: f64, bad: f64) -> Option<Increment> {
    Some(Increment::Counts { total, bad })
}

#[tokio::test]
async fn both_sides_are_differenced_per_pod_and_the_first_error_counts() {
    let (a, b) = (
        FakeServer::start(requests(1000, 0)).await,
        FakeServer::start(requests(0, 0)).await,
    );
    let stable = target("a", Side::Stable, a.url("/metrics"));
    let canary = target("b", Side::Canary, b.url("/metrics"));
    let mut rounds = Rounds::new();
    rounds.round(0, std::slice::from_ref(&stable)).await;
    a.set(requests(1100, 1));
    b.set(requests(7, 3));
    rounds.round(1, &[stable, canary]).await;
    let sample = rounds.tally.take(at(1));
    let lag = Sides {
        canary: Some(Increment::Value(7.0)),
        stable: Some(Increment::Value(1100.0)),
    };
    let expected = [
        (
            ERRORS.to_owned(),
            Sides {
                canary: counts(10.0, 3.0),
                stable: counts(101.0, 1.0),
            },
        ),
        ("lag".to_owned(), lag),
    ];
    assert_eq!(sample.observation.metrics, expected.into());
    let pod = |pod: &str, side, requests, errors| PodIncrement {
        pod: pod.to_owned(),
        side,
        requests,
        errors,
    };
    assert_eq!(
        sample.pods,
        [pod("b", Side::Canary, 10.0, 3.0), pod("a", Side::Stable, 101.0, 1.0)]
    );
    assert_eq!(
        (sample.found, sample.condition),
        (vec!["http_requests_total".to_owned()], Condition::Measured)
    );
}

#[tokio::test]
async fn every_bad_answer_is_its_own_kind_of_no_measurement() {
    let many: String = (0..=MAX_SERIES).map(|i| format!("a{{i=\"{i}\"}} 1\n")).collect();
    let elsewhere = FakeServer::start(requests(5, 0)).await;
    let table = [
        (Answer::Never, NoMeasurementKind::Slow),
        (Answer::Status(401, ""), NoMeasurementKind::Denied),
        (Answer::Status(403, ""), NoMeasurementKind::Denied),
        (Answer::Status(404, ""), NoMeasurementKind::Refused),
        (Answer::Status(500, ""), NoMeasurementKind::Refused),
        (
            Answer::Redirect(elsewhere.url("/metrics")),
            NoMeasurementKind::Redirected,
        ),
        (Answer::Endless, NoMeasurementKind::TooLarge),
        (FakeServer::metrics(many), NoMeasurementKind::TooLarge),
        (FakeServer::metrics("<html>login</html>\n"), NoMeasurementKind::Garbled),
        (
            Answer::Text("application/openmetrics-text; version=1.0.0", "a_total 1\n".to_owned()),
            NoMeasurementKind::Garbled,
        ),
    ];
    let server = FakeServer::start(Answer::Never).await;
    let mut rounds = Rounds::new();
    for (answer, kind) in table {
        // Only the silent one may run into the limit.
        rounds.config.timeout = Duration::from_millis(if matches!(answer, Answer::Never) { 100 } else { 30_000 });
        server.set(answer);
        let seen = rounds
            .round(1, &[target("a", Side::Stable, server.url("/metrics"))])
            .await;
        assert_eq!(seen, [kind], "{kind:?}");
    }
    assert_eq!(elsewhere.requests().len(), 0, "a redirect is not followed");
    let seen = rounds.round(1, &[target("a", Side::Stable, nobody().await)]).await;
    assert_eq!(seen, [NoMeasurementKind::Unreachable]);
    let Condition::SourceDown { reason } = rounds.tally.take(at(20)).condition else {
        panic!("not down")
    };
    assert!(
        reason.contains("refused") && reason.contains("a (http://127"),
        "{reason}"
    );
}

#[tokio::test]
async fn a_pod_that_could_not_be_read_at_first_does_not_bring_its_whole_life() {
    let (up, flaky) = (
        FakeServer::start(requests(10, 0)).await,
        FakeServer::start(Answer::Status(503, "")).await,
    );
    let targets = [
        target("a", Side::Stable, up.url("/")),
        target("c", Side::Canary, flaky.url("/")),
    ];
    let mut rounds = Rounds::new();
    rounds.round(0, &targets).await;
    flaky.set(requests(1_000_000, 500));
    rounds.round(1, &targets).await;
    flaky.set(requests(1_000_002, 501));
    rounds.round(2, &targets).await;
    let errors = &rounds.tally.take(at(2)).observation.metrics[ERRORS];
    assert_eq!(errors.canary, counts(3.0, 1.0));
}

#[tokio::test]
async fn at_most_ten_pods_a_side_are_asked() {
    let server = FakeServer::start(requests(1, 0)).await;
    let targets: Vec<Target> = (0..30)
        .map(|i| {
            target(
                &format!("p{i}"),
                if i < 15 { Side::Stable } else { Side::Canary },
                server.url("/"),
            )
        })
        .collect();
    Rounds::new().round(0, &targets).await;
    assert_eq!(server.requests().len(), 2 * MAX_PODS);
    assert!(
        server.requests()[0].1["user-agent"]
            .to_str()
            .unwrap()
            .starts_with("wade/")
    );
}

#[tokio::test]
async fn the_background_task_scrapes_and_take_returns_at_once() {
    let (good, hangs) = (
        FakeServer::start(requests(10, 0)).await,
        FakeServer::start(Answer::Never).await,
    );
    let clock = Arc::new(SystemClock);
    let config = ScrapeConfig {
        interval: Duration::from_millis(20),
        ..config()
    };
    let mut scraper = Scraper::start(http_client().unwrap(), config, Arc::clone(&clock) as Arc<dyn Clock>);
    scraper.set_targets(vec![
        target("a", Side::Stable, good.url("/")),
        target("b", Side::Canary, hangs.url("/")),
    ]);
    let before = crate::clock::stopwatch();
    let sample = scraper.take(clock.now());
    assert!(before.elapsed() < Duration::from_millis(100) && sample.observation.metrics.is_empty());
    let mut total = 0.0;
    let mut grown = false;
    let counted = eventually(Duration::from_secs(20), || {
        let sample = scraper.take(clock.now());
        if sample.newest.is_some() && !grown {
            grown = true;
            good.set(requests(15, 0));
        }
        if let Some(Increment::Counts { total: new, .. }) =
            sample.observation.metrics.get(ERRORS).and_then(|e| e.stable.clone())
        {
            total += new;
        }
        total >= 5.0
    });
    assert!(counted.await && total == 5.0, "{total}");
}
