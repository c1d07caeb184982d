//! Against a real Jaeger, with spans that the OpenTelemetry SDK sends. Skipped where none is installed
//! (`tests/jaeger/install`), unless `WADE_REQUIRE_JAEGER` is set.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Method};

use super::*;
use crate::clock::{Clock, SystemClock};
use crate::demo::sample::spans::{Failure, Spans};
use crate::judge::observation::{Increment, Sides};
use crate::signals::NoMeasurementKind;
use crate::signals::http::http_client;
use crate::signals::testing::eventually;
use crate::signals::traces::TraceBook;
use crate::signals::traces::attribution::{Names, Rule, SERVICE_VERSION};
use crate::signals::traces::store::tests::all;
use crate::signals::traces::store::{Store, StoreSource};

const PATIENT: Duration = Duration::from_secs(30);

/// Where the binary is, if it is anywhere.
pub(crate) fn binary() -> Option<PathBuf> {
    let said = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let caches = || said("XDG_CACHE_HOME").or_else(|| Some(said("HOME")?.join(".cache")));
    let cache = said("WADE_CLUSTER_CACHE").or_else(|| Some(caches()?.join("wade-cluster")));
    let found = said("WADE_JAEGER").or_else(|| Some(cache?.join("bin/jaeger")));
    let found = found.filter(|path| path.exists());
    if found.is_none() {
        assert!(
            std::env::var_os("WADE_REQUIRE_JAEGER").is_none(),
            "Jaeger is required and not there; run tests/jaeger/install"
        );
        println!("skipped: no Jaeger is installed; run tests/jaeger/install");
    }
    found
}

/// A running server; dropping it kills it and waits for its end.
pub(crate) struct Server {
    process: Child,
    pub(crate) otlp: u16,
    pub(crate) query: u16,
}

impl Server {
    pub(crate) async fn start(binary: &PathBuf) -> Self {
        let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let (otlp, query) = (free(), free());
        // What nobody asks takes any port.
        let unused = [
            "admin.http",
            "collector.grpc-server",
            "collector.http-server",
            "collector.otlp.grpc",
            "http-server",
            "query.grpc-server",
        ];
        let unused = unused.map(|part| format!("--{part}.host-port=127.0.0.1:0"));
        let agents = ["jaeger-binary", "jaeger-compact", "zipkin-compact"];
        let agents = agents.map(|agent| format!("--processor.{agent}.server-host-port=127.0.0.1:0"));
        let process = Command::new(binary)
            .args(unused)
            .args(agents)
            .arg(format!("--collector.otlp.http.host-port=127.0.0.1:{otlp}"))
            .arg(format!("--query.http-server.host-port=127.0.0.1:{query}"))
            .args(["--memory.max-traces=10000", "--log-level=error"])
            // It traces itself otherwise, into itself.
            .env("OTEL_TRACES_SAMPLER", "always_off")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let listens = || std::net::TcpStream::connect(("127.0.0.1", query)).is_ok();
        let server = Self { process, otlp, query };
        assert!(
            eventually(PATIENT, || listens()
                && std::net::TcpStream::connect(("127.0.0.1", otlp)).is_ok())
            .await
        );
        server
    }

    fn jaeger(&self, service: &str) -> Jaeger {
        Jaeger::new(
            http_client().unwrap(),
            &format!("http://127.0.0.1:{}", self.query),
            service,
            None,
        )
        .unwrap()
    }

    fn spans(&self, version: &str) -> Spans {
        Spans::to(&format!("http://127.0.0.1:{}/v1/traces", self.otlp), version)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn book() -> TraceBook {
    let book = TraceBook::new(Rule::of("wade-sample"), Arc::default());
    let names = |version: &str| {
        Some(Names {
            id: format!("r-{version}"),
            version: version.to_owned(),
            ..Names::default()
        })
    };
    book.set_sides(Sides {
        canary: names("2.0"),
        stable: names("1.0"),
    });
    book
}

/// Requests and errors per side, and the canary's error signatures with their examples.
#[derive(Debug, Default, PartialEq)]
struct Seen {
    canary: (f64, f64),
    stable: (f64, f64),
    signatures: BTreeSet<(String, String, bool)>,
    examples: BTreeSet<String>,
}

impl Seen {
    fn take(&mut self, book: &TraceBook) {
        let sides = book.take();
        for (side, sum) in [(sides.canary, &mut self.canary), (sides.stable, &mut self.stable)] {
            let Some(Increment::Operations(operations)) = side else {
                continue;
            };
            for one in operations.by_name.into_values() {
                *sum = (sum.0 + one.requests, sum.1 + one.errors);
                for signature in one.signatures {
                    self.signatures
                        .insert((signature.kind, signature.message, signature.seen_on_stable));
                    self.examples.extend(signature.examples);
                }
            }
        }
    }
}

fn refund_error(order: u32) -> Failure {
    Failure {
        kind: "RefundError",
        message: format!("no ledger for order {order}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn spans_of_the_sdk_are_counted_once_each_and_a_killed_jaeger_is_a_note() {
    let Some(binary) = binary() else { return };
    let server = Server::start(&binary).await;
    let (stable, canary) = (server.spans("1.0"), server.spans("2.0"));
    let request = |spans: &Spans, failure: Option<Failure>| {
        let span = spans.request(&HeaderMap::new(), &Method::GET, "/refund");
        let trace = span.trace();
        span.end(if failure.is_some() { 500 } else { 200 }, failure.as_ref());
        trace
    };
    let timeout = Failure {
        kind: "StoreTimeout",
        message: "no answer within 93 ms".to_owned(),
    };
    // Before the release: stable's own trouble.
    request(&stable, Some(timeout.clone()));
    let past = async || {
        let now = SystemClock.now();
        let wanted = [SERVICE_VERSION.to_owned()].into();
        let jaeger = server.jaeger("wade-sample");
        let found = jaeger.read(all(now - SignedDuration::from_mins(1), now, &wanted));
        found.await.unwrap().spans
    };
    let mut arrived = past().await;
    for _ in 0..300 {
        if !arrived.is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        arrived = past().await;
    }
    assert_eq!(arrived.len(), 1, "the server span, and not its child: {arrived:?}");
    assert_eq!(arrived[0].span.operation, "GET /refund");
    assert_eq!(arrived[0].span.resource[SERVICE_VERSION], "1.0");

    let book = book();
    let interval = Duration::from_millis(200);
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let store = Store::Jaeger(server.jaeger("wade-sample"));
    let source = StoreSource::start(store, book.clone(), Arc::default(), interval, clock);
    // What the first look finds is not counted.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut seen = Seen::default();
    seen.take(&book);
    assert_eq!(seen, Seen::default());

    for _ in 0..20 {
        request(&stable, None);
    }
    request(&canary, None);
    request(&canary, Some(timeout));
    let traces: BTreeSet<String> = (0..3)
        .map(|order| request(&canary, Some(refund_error(order))))
        .collect();
    let counted = eventually(PATIENT, || {
        seen.take(&book);
        (seen.canary, seen.stable) == ((5.0, 4.0), (20.0, 0.0))
    });
    assert!(counted.await, "each is counted: {seen:?}");
    // Several more looks at the same window.
    tokio::time::sleep(Duration::from_secs(1)).await;
    seen.take(&book);
    assert_eq!((seen.canary, seen.stable), ((5.0, 4.0), (20.0, 0.0)), "and once");
    let known = |kind: &str, message: &str, seen| (kind.to_owned(), message.to_owned(), seen);
    assert_eq!(
        seen.signatures,
        BTreeSet::from([
            known("RefundError", "no ledger for order ?", false),
            known("StoreTimeout", "no answer within ? ms", true),
        ])
    );
    assert!(traces.is_subset(&seen.examples), "{traces:?} {seen:?}");
    assert_eq!(source.take_notes(), []);

    drop(server);
    let mut notes = Vec::new();
    let down = eventually(PATIENT, || {
        notes.extend(source.take_notes());
        !notes.is_empty()
    });
    assert!(down.await);
    assert!(notes[0].reason.contains("cannot be reached"), "{}", notes[0]);
    tokio::join!(stable.end(), canary.end());
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_cover_a_window_that_holds_more_traces_than_an_answer() {
    let Some(binary) = binary() else { return };
    let server = Server::start(&binary).await;
    let spans = server.spans("1.0");
    let began = SystemClock.now();
    for _ in 0..30 {
        spans.request(&HeaderMap::new(), &Method::GET, "/pay").end(200, None);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    spans.end().await;
    let wanted = BTreeSet::new();
    let read = async |page: usize| {
        let mut jaeger = server.jaeger("wade-sample");
        jaeger.page = page;
        jaeger.read(all(began, SystemClock.now(), &wanted)).await.unwrap()
    };
    let ids = |found: &Found| {
        found
            .spans
            .iter()
            .map(|span| span.span.trace)
            .collect::<BTreeSet<_>>()
            .len()
    };
    let mut whole = read(100).await;
    for _ in 0..300 {
        if ids(&whole) == 30 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        whole = read(100).await;
    }
    let paged = read(12).await;
    assert_eq!((ids(&whole), ids(&paged), &paged.missing), (30, 30, &None));
    // Four answers of five, each of which begins with what the one before ended with.
    let cut = read(5).await;
    assert_eq!(
        cut.missing.as_ref().map(|note| note.kind),
        Some(NoMeasurementKind::Partial)
    );
    let newest = whole.spans.iter().map(|span| span.start).max();
    assert_eq!(
        cut.spans.iter().map(|span| span.start).max(),
        newest,
        "the newest are what is read"
    );
    let nobody = server
        .jaeger("nobody")
        .read(all(began, SystemClock.now(), &wanted))
        .await
        .unwrap();
    assert_eq!(nobody, Found::default());
}
