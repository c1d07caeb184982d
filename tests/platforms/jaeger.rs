//! A release that is judged by what a real Jaeger knows of it: the service sends its spans there, and Wade asks.
//!
//! Skipped where no Jaeger is installed (`tests/jaeger/install`), unless `WADE_REQUIRE_JAEGER` is set.

use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use wade::demo::load::Load;
use wade::engine::Outcome;
use wade::judge::verdict::Seen;

use super::yard::{Rollout, Yard, free_port};

/// A server that ends with the value.
struct Jaeger {
    process: Child,
    otlp: u16,
    query: u16,
}

impl Jaeger {
    fn start() -> Option<Self> {
        let binary = binary()?;
        let (otlp, query) = (free_port(), free_port());
        // What nobody asks takes any port.
        let unused = [
            "admin.http",
            "collector.grpc-server",
            "collector.http-server",
            "collector.otlp.grpc",
            "http-server",
            "query.grpc-server",
        ];
        let agents = ["jaeger-binary", "jaeger-compact", "zipkin-compact"];
        let process = Command::new(binary)
            .args(unused.map(|part| format!("--{part}.host-port=127.0.0.1:0")))
            .args(agents.map(|agent| format!("--processor.{agent}.server-host-port=127.0.0.1:0")))
            .arg(format!("--collector.otlp.http.host-port=127.0.0.1:{otlp}"))
            .arg(format!("--query.http-server.host-port=127.0.0.1:{query}"))
            .args(["--memory.max-traces=20000", "--log-level=error"])
            .env("OTEL_TRACES_SAMPLER", "always_off")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the binary runs");
        Some(Self { process, otlp, query })
    }

    fn answers(&self) -> bool {
        [self.otlp, self.query].map(|port| TcpStream::connect(("127.0.0.1", port)).is_ok()) == [true; 2]
    }
}

impl Drop for Jaeger {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn binary() -> Option<PathBuf> {
    let said = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let caches = || said("XDG_CACHE_HOME").or_else(|| Some(said("HOME")?.join(".cache")));
    let cache = said("WADE_CLUSTER_CACHE").or_else(|| Some(caches()?.join("wade-cluster")));
    let found = said("WADE_JAEGER").or_else(|| Some(cache?.join("bin/jaeger")));
    let found = found.filter(|path| path.exists());
    if found.is_none() {
        let required = std::env::var_os("WADE_REQUIRE_JAEGER").is_some();
        assert!(!required, "Jaeger is required and not there; run tests/jaeger/install");
        println!("skipped: no Jaeger is installed; run tests/jaeger/install");
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_that_hide_in_one_operation_are_found_by_asking_jaeger() {
    let Some(jaeger) = Jaeger::start() else { return };
    let mut yard = Yard::new(&Rollout {
        steps: "{weight: 50%, max: 60s}",
        instances: 1,
        ..Rollout::default()
    });
    let (otlp, query) = (jaeger.otlp, jaeger.query);
    let exporter =
        format!("env: {{OTEL_EXPORTER_OTLP_ENDPOINT: 'http://127.0.0.1:{otlp}', OTEL_BSP_SCHEDULE_DELAY: '500', ");
    let traces = format!(
        "    traces:\n      from: {{jaeger: {{url: 'http://127.0.0.1:{query}', every: 1s}}}}\n      service: wade-sample\n"
    );
    let text = std::fs::read_to_string(yard.path("rollouts/hello.yaml")).unwrap();
    let text = text
        .replace("env: {", &exporter)
        // In every version: a hundredth more is nothing that all requests together would show in time.
        .replace("sample-service,", "sample-service, --fail-percent=3,")
        .replace("    passEarly: {minStage: 2s}\n", "    passEarly: false\n")
        .replace("    look: 200ms\n", &format!("    look: 500ms\n{traces}"));
    yard.write("rollouts/hello.yaml", &text);
    yard.until("Jaeger answers", async || jaeger.answers().then_some(()))
        .await;

    let client = yard.start().await;
    let first = yard.release(&client, "1.0.0", "--slow-factor=1").await;
    assert_eq!(first.state.outcome(), Some(&Outcome::FirstDeploy), "{}", yard.log());
    let load = Load::start(yard.address(), 200.0, 1);
    // Stable's own errors, so that they are not new.
    tokio::time::sleep(Duration::from_secs(8)).await;
    let record = yard.release(&client, "1.1.0", "--broken-route=/refund").await;
    load.stop().await;

    let verdict = record.verdict.as_deref().expect("it was judged");
    assert_eq!(record.state.outcome(), Some(&Outcome::RolledBack), "{}", verdict.reason);
    assert_eq!(verdict.blame.as_deref(), Some("traces"), "{}", verdict.reason);
    assert!(verdict.reason.contains("GET /refund"), "{}", verdict.reason);
    let metric = verdict.metrics.iter().find(|metric| metric.name == "traces").unwrap();
    let source = metric.source.as_deref().unwrap_or_default();
    assert!(
        source.starts_with(&format!("Jaeger at http://127.0.0.1:{query}")),
        "{source}"
    );
    let Seen::Operations {
        operations, signatures, ..
    } = &metric.seen
    else {
        panic!("no operations: {metric:?}")
    };
    let refund = operations.iter().find(|one| one.operation == "GET /refund").unwrap();
    assert_eq!(refund.release.canary.bad, refund.release.canary.total, "{refund:?}");
    let new = signatures.iter().find(|one| one.error == "RefundError").unwrap();
    assert!(!new.examples.is_empty() && new.shown.stable.bad == 0.0, "{new:?}");
}
