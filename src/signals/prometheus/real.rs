//! Against a real Prometheus, started on a free port with a store of its own. Skipped where none is installed.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::api::Auth;
use super::*;
use crate::clock::SystemClock;
use crate::judge::observation::Increment;
use crate::signals::Condition;
use crate::signals::http::http_client;
use crate::signals::testing::{FakeServer, eventually};

pub(crate) const BINARY: &str = "/usr/bin/prometheus";
const PATIENT: Duration = Duration::from_secs(30);

/// A running server; dropping it kills it and waits for its end.
pub(crate) struct Server(Child);

impl Server {
    pub(crate) fn start(dir: &Path, port: u16) -> Self {
        let child = Command::new(BINARY)
            .arg(format!("--config.file={}", dir.join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", dir.join("data").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .arg("--log.level=error")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self(child)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn page(good: u32, bad: u32) -> String {
    let bad_line = if bad == 0 {
        String::new()
    } else {
        format!("http_requests_total{{code=\"500\"}} {bad}\n")
    };
    let all = good + bad;
    format!(
        "# TYPE http_requests_total counter\nhttp_requests_total{{code=\"200\"}} {good}\n{bad_line}http_request_duration_seconds_bucket{{le=\"0.1\"}} {good}\nhttp_request_duration_seconds_bucket{{le=\"+Inf\"}} {all}\n"
    )
}

/// What was counted over all samples, and the last condition.
#[derive(Debug, Default)]
struct Seen {
    errors: Sides<(f64, f64)>,
    buckets: Sides<Vec<f64>>,
    condition: Option<Condition>,
    newest: bool,
}

impl Seen {
    fn take(&mut self, source: &mut Prometheus) {
        let sample = source.take(SystemClock.now());
        self.newest |= sample.newest.is_some();
        self.condition = Some(sample.condition);
        for sides in sample.observation.metrics.into_values() {
            for side in Side::BOTH {
                match side.of(&sides) {
                    Some(Increment::Counts { total, bad }) => {
                        let sum = side.of_mut(&mut self.errors);
                        *sum = (sum.0 + total, sum.1 + bad);
                    }
                    Some(Increment::Histogram { counts, .. }) => {
                        let sum = side.of_mut(&mut self.buckets);
                        sum.resize(counts.len(), 0.0);
                        sum.iter_mut().zip(counts).for_each(|(sum, n)| *sum += n);
                    }
                    Some(Increment::Value(_) | Increment::Operations(_)) | None => {}
                }
            }
        }
    }
}

#[tokio::test]
async fn a_prometheus_that_is_killed_is_source_down_and_its_return_invents_nothing() {
    if !Path::new(BINARY).exists() {
        println!("skipped: {BINARY} is not installed");
        return;
    }
    let stable = FakeServer::start(FakeServer::metrics(page(1000, 0))).await;
    let canary = FakeServer::start(FakeServer::metrics(page(0, 0))).await;
    let dir = tempfile::tempdir().unwrap();
    let address = |server: &FakeServer| server.url("").trim_start_matches("http://").to_owned();
    let targets = format!(
        "global: {{scrape_interval: 1s, scrape_timeout: 1s}}\nscrape_configs:\n- job_name: app\n  static_configs:\n  - {{targets: ['{}'], labels: {{side: stable, pod: a}}}}\n  - {{targets: ['{}'], labels: {{side: canary, pod: b}}}}\n",
        address(&stable),
        address(&canary)
    );
    std::fs::write(dir.path().join("prometheus.yml"), targets).unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let server = Server::start(dir.path(), port);

    let api = Api::new(
        http_client().unwrap(),
        &format!("http://127.0.0.1:{port}"),
        Auth::None,
        &[],
    )
    .unwrap();
    let matchers = Sides {
        canary: "side=\"canary\"".to_owned(),
        stable: "side=\"stable\"".to_owned(),
    };
    let patience = Patience {
        silent_after: Duration::from_secs(3),
        down_after: Duration::from_secs(3),
    };
    let config = PrometheusConfig {
        interval: Duration::from_millis(250),
        patience,
        ..PrometheusConfig::known(matchers)
    };
    let mut source = Prometheus::start(api.clone(), config.clone(), Arc::new(SystemClock)).unwrap();
    let mut seen = Seen::default();

    let both_read = |seen: &Seen| seen.newest && seen.condition == Some(Condition::BothSilent);
    let began = eventually(PATIENT, || {
        seen.take(&mut source);
        both_read(&seen)
    });
    assert!(began.await, "both sides are read and idle: {seen:?}");

    stable.set(FakeServer::metrics(page(1010, 0)));
    canary.set(FakeServer::metrics(page(7, 3)));
    let counted = eventually(PATIENT, || {
        seen.take(&mut source);
        seen.errors
            == Sides {
                canary: (10.0, 3.0),
                stable: (10.0, 0.0),
            }
    });
    assert!(counted.await, "each request is counted once: {seen:?}");
    // A young store has no 5 min of history; the question itself must be understood.
    if let Err(failure) = history(&api, &config, &SystemClock, SignedDuration::from_mins(30)).await {
        assert_eq!(failure.kind, NoMeasurementKind::Empty, "{failure}");
    }

    drop(server);
    let down = eventually(PATIENT, || {
        seen.take(&mut source);
        matches!(seen.condition, Some(Condition::SourceDown { .. }))
    });
    assert!(down.await, "{seen:?}");
    let Some(Condition::SourceDown { reason }) = &seen.condition else {
        panic!("not down")
    };
    assert!(reason.contains("cannot be reached"), "{reason}");
    stable.set(FakeServer::metrics(page(1025, 1)));
    canary.set(FakeServer::metrics(page(9, 3)));

    let _server = Server::start(dir.path(), port);
    let total = Sides {
        canary: (12.0, 3.0),
        stable: (26.0, 1.0),
    };
    let back = eventually(PATIENT, || {
        seen.take(&mut source);
        seen.errors == total
    });
    assert!(back.await, "{seen:?}");
    // Several more scrapes of unchanged pages, until silence is noticed, add nothing.
    let silent = eventually(PATIENT, || {
        seen.take(&mut source);
        seen.condition == Some(Condition::BothSilent)
    });
    assert!(silent.await, "{seen:?}");
    assert_eq!(seen.errors, total);
    assert_eq!(
        seen.buckets,
        Sides {
            canary: vec![9.0, 3.0],
            stable: vec![25.0, 1.0]
        }
    );
}

/// Sums over a replayed period: requests and errors, and the buckets.
fn sums(samples: &[(Timestamp, Sample)]) -> (Sides<(f64, f64)>, Sides<f64>) {
    let (mut errors, mut buckets): (Sides<(f64, f64)>, Sides<f64>) = Default::default();
    for (_, sample) in samples {
        for sides in sample.observation.metrics.values() {
            for side in Side::BOTH {
                match side.of(sides) {
                    Some(Increment::Counts { total, bad }) => {
                        let sum = side.of_mut(&mut errors);
                        *sum = (sum.0 + total, sum.1 + bad);
                    }
                    Some(Increment::Histogram { counts, .. }) => {
                        *side.of_mut(&mut buckets) += counts.iter().sum::<f64>();
                    }
                    _ => {}
                }
            }
        }
    }
    (errors, buckets)
}

#[tokio::test]
async fn a_past_period_shows_each_request_once_also_over_a_restart() {
    if !Path::new(BINARY).exists() {
        println!("skipped: {BINARY} is not installed");
        return;
    }
    let stable = FakeServer::start(FakeServer::metrics(page(1000, 0))).await;
    let canary = FakeServer::start(FakeServer::metrics(page(0, 0))).await;
    let dir = tempfile::tempdir().unwrap();
    let address = |server: &FakeServer| server.url("").trim_start_matches("http://").to_owned();
    let targets = format!(
        "global: {{scrape_interval: 1s, scrape_timeout: 1s}}\nscrape_configs:\n- job_name: app\n  static_configs:\n  - {{targets: ['{}'], labels: {{side: stable, pod: a}}}}\n  - {{targets: ['{}'], labels: {{side: canary, pod: b}}}}\n",
        address(&stable),
        address(&canary)
    );
    std::fs::write(dir.path().join("prometheus.yml"), targets).unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let _server = Server::start(dir.path(), port);
    let url = format!("http://127.0.0.1:{port}");
    let api = Api::new(http_client().unwrap(), &url, Auth::None, &[]).unwrap();
    let config = PrometheusConfig::known(Sides {
        canary: "side=\"canary\"".to_owned(),
        stable: "side=\"stable\"".to_owned(),
    });
    // Whether the server has scraped a page with this many requests of a side.
    let scraped = async |side: &str, total: f64| {
        let query = format!("sum(http_requests_total{{side=\"{side}\"}}) == {total}");
        let asking = Duration::from_millis(200);
        for _ in 0..150 {
            if let Ok(Data::Vector(found)) = api.instant(query.clone()).await
                && !found.is_empty()
            {
                return true;
            }
            tokio::time::sleep(asking).await;
        }
        false
    };
    assert!(
        scraped("stable", 1000.0).await && scraped("canary", 0.0).await,
        "both are scraped"
    );
    let from = SystemClock.now();
    for (good, bad) in [(10, 1), (25, 2)] {
        stable.set(FakeServer::metrics(page(1000 + good, 0)));
        canary.set(FakeServer::metrics(page(good, bad)));
        assert!(scraped("canary", f64::from(good + bad)).await);
        assert!(scraped("stable", f64::from(1000 + good)).await);
    }
    // The canary starts anew and counts from nothing: 4 + 1 more.
    canary.set(FakeServer::metrics(page(4, 1)));
    assert!(scraped("canary", 5.0).await);
    let to = SystemClock.now() + SignedDuration::from_secs(1);
    let expected = (
        Sides {
            canary: (32.0, 3.0),
            stable: (25.0, 0.0),
        },
        Sides {
            canary: 32.0,
            stable: 25.0,
        },
    );
    for step in [SignedDuration::from_secs(1), SignedDuration::from_millis(2500)] {
        let samples = past::samples(&api, &config, from, to, step).await.unwrap();
        assert_eq!(sums(&samples), expected, "looks every {step}");
        let last = &samples.last().unwrap().1;
        let source = &last.sources[ERRORS];
        assert!(
            source.starts_with("http_requests_total{side=\"canary\"} against"),
            "{source}"
        );
    }
    // A sum over pods is evaluated at each look instead; its resets cannot be told apart and are left out.
    let own = PrometheusConfig {
        metrics: vec![
            PrometheusMetric::Counts {
                name: "jobs".to_owned(),
                bad: "sum by (pod) (http_requests_total{${side},code=\"500\"})".to_owned(),
                total: "sum by (pod) (http_requests_total{${side}})".to_owned(),
            },
            PrometheusMetric::Gauge {
                name: "up".to_owned(),
                query: "sum(up{${side}})".to_owned(),
            },
        ],
        ..config.clone()
    };
    let step = SignedDuration::from_secs(1);
    let samples = past::samples(&api, &own, from, to, step).await.unwrap();
    let (jobs, _) = sums(&samples);
    assert_eq!((jobs.stable, jobs.canary.0), ((25.0, 0.0), 32.0), "{jobs:?}");
    let up = samples
        .iter()
        .filter_map(|(_, sample)| sample.observation.metrics.get("up"));
    assert!(
        up.clone().count() > 2
            && up
                .flat_map(|sides| &sides.stable)
                .all(|up| *up == Increment::Value(1.0))
    );
    let nobody = PrometheusConfig::known(Sides {
        canary: "side=\"canary\"".to_owned(),
        stable: "side=\"nobody\"".to_owned(),
    });
    let failure = past::samples(&api, &nobody, from, to, step).await.unwrap_err();
    assert!(failure.reason.contains("side=\"nobody\""), "{failure}");
}
