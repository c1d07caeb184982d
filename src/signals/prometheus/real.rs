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

const BINARY: &str = "/usr/bin/prometheus";
const PATIENT: Duration = Duration::from_secs(30);

/// A running server; dropping it kills it and waits for its end.
struct Server(Child);

impl Server {
    fn start(dir: &Path, port: u16) -> Self {
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
