//! The sample service: a web shop of four routes that can be told to be slow, broken or short-lived.
//!
//! **The idea.** `wade demo`, the quick start and end-to-end tests need a service that behaves like one: it takes its
//! port from `PORT`, answers after times that look like a real service's (log-normal, median 8 ms, p99 40 ms), counts
//! its own requests in Prometheus text, is ready when it listens, and ends gracefully on SIGTERM. Every fault is an
//! option, and the same seed gives the same answers in the same order of requests.
//!
//! | path | answer |
//! |---|---|
//! | `/`, `/cart`, `/pay`, `/refund` | `{"version", "route"}` after a drawn latency; `fail_percent` of them 500, and all of `broken_route` |
//! | `/healthz` | 200 always: a broken version is often *ready* |
//! | `/selftest` | 200, or 500 with the reason when `broken_smoke` is set |
//! | `/version` | `{"version"}` |
//! | `/metrics` | `http_requests_total` and `http_request_duration_seconds`, both by `code` and `route` |
//!
//! Every answer carries `x-version`, so that whoever asks can count by version without reading bodies. Where the
//! environment names an OTLP receiver, every request of a user is a span (see [`spans`]).
//!
//! **Stopping.** On SIGTERM (or Ctrl-C) what the kernel has accepted already is still answered, every answer then says
//! `connection: close`, connections stay open for [`LINGER`] so that a request already on its way is not lost, and the
//! service ends when the last answer is out. New connections are refused from the first moment on.
//!
//! **What it deliberately does not do.** No TLS, no state, no real work: one core carries several of these and their
//! load. It listens on loopback only.

mod metrics;
pub(crate) mod spans;

#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rustix::process::{Pid, getppid};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::clock::stopwatch;
use metrics::Metrics;
use spans::{Failure, Spans};

/// Median of the drawn latencies at `slow_factor` 1.
pub const MEDIAN: Duration = Duration::from_millis(8);
/// 99th percentile of the drawn latencies at `slow_factor` 1.
pub const P99: Duration = Duration::from_millis(40);
/// No latency is drawn above this, whatever the factor.
const LONGEST: Duration = Duration::from_secs(10);
/// How long connections stay open after SIGTERM for requests that are already on their way.
pub const LINGER: Duration = Duration::from_millis(100);
/// How long requests in flight may take to end after SIGTERM.
const DRAIN: Duration = Duration::from_secs(30);
/// How often the parent is looked at.
const PARENT: Duration = Duration::from_millis(200);
/// How long a version that crashes at the start pretends to read its configuration.
const READING: Duration = Duration::from_millis(120);
/// A connection that does not finish its request's head in this time is closed.
const HEAD: Duration = Duration::from_secs(10);

/// The routes that users ask for; all others are answered at once and not counted.
pub const ROUTES: [&str; 4] = ["/", "/cart", "/pay", "/refund"];

/// How the sample service behaves. As `clap` arguments these are the flags of `wade sample-service`.
#[derive(Clone, Debug, PartialEq, clap::Args)]
pub struct SampleOptions {
    /// What it says it is
    #[arg(long, default_value = "1.0.0", env = "VERSION")]
    pub version: String,
    /// Where it listens on loopback; 0 for any free port
    #[arg(long, default_value_t = 0, env = "PORT")]
    pub port: u16,
    /// Percentage of requests that fail with 500, 0 to 100
    #[arg(long, default_value_t = 0.0, value_parser = percent)]
    pub fail_percent: f64,
    /// A route of which every request fails with 500, like `/refund`
    #[arg(long, value_parser = route)]
    pub broken_route: Option<&'static str>,
    /// Factor on every latency
    #[arg(long, default_value_t = 1.0, value_parser = factor)]
    pub slow_factor: f64,
    /// Crash after this time, like `20s`
    #[arg(long, value_parser = humantime::parse_duration)]
    pub crash_after: Option<Duration>,
    /// Crash before listening
    #[arg(long)]
    pub crash_at_start: bool,
    /// Be ready, but fail /selftest
    #[arg(long)]
    pub broken_smoke: bool,
    /// Seed of latencies and failures
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// End when the parent process ends
    #[arg(long)]
    pub with_parent: bool,
}

impl Default for SampleOptions {
    fn default() -> Self {
        Self {
            version: "1.0.0".to_owned(),
            port: 0,
            fail_percent: 0.0,
            broken_route: None,
            slow_factor: 1.0,
            crash_after: None,
            crash_at_start: false,
            broken_smoke: false,
            seed: 1,
            with_parent: false,
        }
    }
}

fn percent(text: &str) -> Result<f64, String> {
    match text.trim_end_matches('%').parse() {
        Ok(value) if (0.0..=100.0).contains(&value) => Ok(value),
        _ => Err("write a number from 0 to 100".to_owned()),
    }
}

fn route(text: &str) -> Result<&'static str, String> {
    ROUTES
        .into_iter()
        .find(|route| *route == text)
        .ok_or_else(|| format!("write one of {}", ROUTES.join(", ")))
}

fn factor(text: &str) -> Result<f64, String> {
    match text.trim_end_matches('x').parse() {
        Ok(value) if (0.0..=1000.0).contains(&value) => Ok(value),
        _ => Err("write a number from 0 to 1000".to_owned()),
    }
}

/// [`serve`], with the exit code a process should end with; an error that is not a staged crash is said on stderr.
pub async fn run(options: SampleOptions) -> ExitCode {
    match serve(options).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if !is_crash(&error) {
                eprintln!("sample service: {error}");
            }
            ExitCode::FAILURE
        }
    }
}

/// Whether this error is a crash that the options asked for; it has been printed like one already.
pub fn is_crash(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<Crash>())
}

/// Listens on loopback and serves until SIGTERM, Ctrl-C, the parent's end (with `with_parent`) or a staged crash.
///
/// # Errors
/// If the port cannot be listened on, if requests in flight did not end within 30 s of a SIGTERM, and for a staged
/// crash (see [`is_crash`]), which leaves connections as they are: end the process then.
pub async fn serve(options: SampleOptions) -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let parent = options.with_parent.then(getppid).flatten();
    if options.crash_at_start {
        tokio::time::sleep(READING).await;
        return Err(crash("src/config.rs:41:14", "config: missing key `payments.url`"));
    }
    let listener = bind(options.port).await?;
    let crash_after = options.crash_after;
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => Ok(()),
            _ = interrupt.recv() => Ok(()),
            () = parent_ends(parent) => Ok(()),
            error = crashes(crash_after) => Err(error),
        }
    };
    let spans = Spans::from_env(&options.version).unwrap_or_else(|error| {
        // A service that fails because nobody can be told how it does would be upside down.
        eprintln!("sample service: no spans are sent: {error}");
        None
    });
    serve_on(listener, &options, spans, stop).await
}

async fn bind(port: u16) -> io::Result<TcpListener> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    TcpListener::bind(address).await.map_err(|error| {
        let what = format!("cannot listen on {address} ({error}); set PORT to a free port");
        io::Error::new(error.kind(), what)
    })
}

/// Polled, not asked for by a death signal: that one is sent when the *thread* that started us ends.
async fn parent_ends(parent: Option<Pid>) {
    if parent.is_none() {
        return std::future::pending().await;
    }
    while getppid() == parent {
        tokio::time::sleep(PARENT).await;
    }
}

async fn crashes(after: Option<Duration>) -> io::Error {
    match after {
        Some(after) => {
            tokio::time::sleep(after).await;
            crash(
                "src/cart/cache.rs:207:31",
                "called `Option::unwrap()` on a `None` value",
            )
        }
        None => std::future::pending().await,
    }
}

/// A crash that was asked for.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Crash(&'static str);

fn crash(place: &str, message: &'static str) -> io::Error {
    eprintln!("thread 'main' panicked at {place}:\n{message}");
    io::Error::other(Crash(message))
}

/// Serves on a listener until `stop` says how to end: `Ok` gracefully, with the last spans sent, `Err` at once. Tests
/// use it directly.
async fn serve_on(
    listener: TcpListener,
    options: &SampleOptions,
    spans: Option<Spans>,
    stop: impl Future<Output = io::Result<()>>,
) -> io::Result<()> {
    let sample = Arc::new(Sample::new(options, spans));
    let result = serve_until(listener, &sample, stop).await;
    // Connections that were cut off still hold it; their spans are lost with their requests.
    if result.is_ok()
        && let Some(spans) = Arc::into_inner(sample).and_then(|sample| sample.spans)
    {
        spans.end().await;
    }
    result
}

async fn serve_until(
    listener: TcpListener,
    sample: &Arc<Sample>,
    stop: impl Future<Output = io::Result<()>>,
) -> io::Result<()> {
    let (closing, closed) = (CancellationToken::new(), CancellationToken::new());
    let mut connections = JoinSet::new();
    let mut stop = std::pin::pin!(stop);
    loop {
        tokio::select! {
            end = &mut stop => {
                end?;
                break;
            }
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(connection(stream, Arc::clone(sample), closing.clone(), closed.clone()));
                }
                // Out of file descriptors, or the peer is gone already: neither gets better by spinning.
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
    closing.cancel();
    // What the kernel has accepted for us would be reset when the listener closes.
    while let Ok(Ok((stream, _))) = tokio::time::timeout(Duration::ZERO, listener.accept()).await {
        connections.spawn(connection(stream, Arc::clone(sample), closing.clone(), closed.clone()));
    }
    drop(listener);
    let all_gone = async { while connections.join_next().await.is_some() {} };
    let mut all_gone = std::pin::pin!(all_gone);
    if tokio::time::timeout(LINGER, &mut all_gone).await.is_ok() {
        return Ok(());
    }
    closed.cancel();
    tokio::time::timeout(DRAIN, all_gone).await.map_err(|_| {
        io::Error::new(
            io::ErrorKind::TimedOut,
            "requests in flight did not end within 30 s of the stop; they are cut off",
        )
    })
}

async fn connection(stream: TcpStream, sample: Arc<Sample>, closing: CancellationToken, closed: CancellationToken) {
    // Small answers must not wait for the peer's delayed acknowledgement.
    let _ = stream.set_nodelay(true);
    let service = service_fn(|request| {
        let (sample, closing) = (Arc::clone(&sample), closing.clone());
        async move {
            let mut answer = sample.answer(&request).await;
            if closing.is_cancelled() {
                answer
                    .headers_mut()
                    .insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(answer)
        }
    });
    let mut serving = std::pin::pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD)
            .serve_connection(TokioIo::new(stream), service)
    );
    // A connection's error is the peer's business: it went away.
    tokio::select! {
        _ = serving.as_mut() => {}
        () = closed.cancelled() => {
            serving.as_mut().graceful_shutdown();
            let _ = serving.await;
        }
    }
}

struct Sample {
    version: String,
    version_header: HeaderValue,
    broken_smoke: bool,
    broken_route: Option<&'static str>,
    chance: Mutex<Chance>,
    metrics: Mutex<Metrics>,
    spans: Option<Spans>,
}

impl Sample {
    fn new(options: &SampleOptions, spans: Option<Spans>) -> Self {
        Self {
            spans,
            broken_route: options.broken_route,
            version: options.version.clone(),
            version_header: HeaderValue::from_str(&options.version).unwrap_or(HeaderValue::from_static("unprintable")),
            broken_smoke: options.broken_smoke,
            chance: Mutex::new(Chance::new(
                options.seed,
                options.fail_percent / 100.0,
                options.slow_factor,
            )),
            metrics: Mutex::new(Metrics::default()),
        }
    }

    async fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let path = request.uri().path();
        let mut answer = match ROUTES.into_iter().find(|route| *route == path) {
            Some(route) => self.shop(route, request).await,
            None => self.plain(path),
        };
        answer.headers_mut().insert("x-version", self.version_header.clone());
        answer
    }

    /// A user's request: drawn latency, drawn failure, counted, told as a span.
    async fn shop(&self, route: &'static str, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let began = stopwatch();
        let method = request.method();
        let span = self
            .spans
            .as_ref()
            .map(|spans| spans.request(request.headers(), method, route));
        let draw = locked(&self.chance).draw();
        tokio::time::sleep(draw.latency).await;
        let failure = self.failure(route, draw);
        let mut body = serde_json::json!({"version": self.version, "route": route});
        let status = match &failure {
            Some(failure) => {
                body["error"] = format!("{}: {}", failure.kind, failure.message).into();
                StatusCode::INTERNAL_SERVER_ERROR
            }
            None => {
                body["method"] = method.as_str().into();
                StatusCode::OK
            }
        };
        locked(&self.metrics).record(route, status.as_u16(), began.elapsed());
        if let Some(span) = span {
            span.end(status.as_u16(), failure.as_ref());
        }
        json(status, &body)
    }

    /// Why this request fails, if it does. Messages carry numbers, as real ones do.
    fn failure(&self, route: &str, draw: Draw) -> Option<Failure> {
        if self.broken_route == Some(route) {
            let message = format!("no ledger for currency EUR of order {}", draw.order);
            return Some(Failure {
                kind: "RefundError",
                message,
            });
        }
        draw.fails.then(|| Failure {
            kind: "StoreTimeout",
            message: format!("the store did not answer within {} ms", draw.latency.as_millis()),
        })
    }

    /// What operators and probes ask: at once and not counted.
    fn plain(&self, path: &str) -> Response<Full<Bytes>> {
        match path {
            "/healthz" => json(StatusCode::OK, &serde_json::json!({"status": "ok"})),
            "/version" => json(StatusCode::OK, &serde_json::json!({"version": self.version})),
            "/selftest" if self.broken_smoke => {
                let why = "payments: certificate of payments.internal expired";
                let body = serde_json::json!({"ok": false, "version": self.version, "error": why});
                json(StatusCode::INTERNAL_SERVER_ERROR, &body)
            }
            "/selftest" => json(
                StatusCode::OK,
                &serde_json::json!({"ok": true, "version": self.version}),
            ),
            "/metrics" => body(StatusCode::OK, metrics::CONTENT, locked(&self.metrics).text()),
            _ => json(StatusCode::NOT_FOUND, &serde_json::json!({"error": "no such route"})),
        }
    }
}

/// A poisoned lock only means that another request panicked; counters and dice are whole at every moment.
fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn json(status: StatusCode, value: &serde_json::Value) -> Response<Full<Bytes>> {
    body(status, "application/json", format!("{value}\n"))
}

fn body(status: StatusCode, content: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(content));
    response
}

/// The dice: latencies and failures, the same for the same seed.
struct Chance {
    dice: ChaCha8Rng,
    fails: f64,
    slow: f64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Draw {
    latency: Duration,
    fails: bool,
    /// The order that the request is about, which only its error message says.
    order: u32,
}

impl Chance {
    fn new(seed: u64, fails: f64, slow: f64) -> Self {
        Self {
            dice: ChaCha8Rng::seed_from_u64(seed),
            fails,
            slow,
        }
    }

    /// A log-normal latency: `median * exp(sigma * z)` with `sigma = ln(p99 / median) / 2.3263` (the standard normal's
    /// 99th percentile) and `z` by Box and Muller. Both dice are thrown whatever the options, so that two versions with
    /// one seed differ only by what their options say.
    fn draw(&mut self) -> Draw {
        let (u, v, w): (f64, f64, f64) = (self.dice.random(), self.dice.random(), self.dice.random());
        // `1 - u` is in (0, 1]: the logarithm is finite.
        let z = (-2.0 * (1.0 - u).ln()).sqrt() * (std::f64::consts::TAU * v).cos();
        let sigma = (P99.as_secs_f64() / MEDIAN.as_secs_f64()).ln() / 2.3263;
        let seconds = MEDIAN.as_secs_f64() * (sigma * z).exp() * self.slow;
        Draw {
            latency: Duration::from_secs_f64(seconds.clamp(0.0, LONGEST.as_secs_f64())),
            fails: w < self.fails,
            // Of the same die, so that the throws after it are what they were.
            order: 10_000 + (w * 90_000.0) as u32,
        }
    }
}
