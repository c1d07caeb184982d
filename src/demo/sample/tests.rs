//! The sample service over real connections, and its dice.

use std::collections::BTreeSet;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::*;

struct Served {
    address: SocketAddr,
    stop: oneshot::Sender<io::Result<()>>,
    end: JoinHandle<io::Result<()>>,
}

async fn start(options: SampleOptions) -> Served {
    start_with(options, None).await
}

async fn start_with(options: SampleOptions, spans: Option<Spans>) -> Served {
    let listener = bind(0).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel();
    let end = tokio::spawn(async move { serve_on(listener, &options, spans, async { stopped.await.unwrap() }).await });
    Served { address, stop, end }
}

async fn send(stream: &mut TcpStream, path: &str) {
    let request = format!("GET {path} HTTP/1.1\r\nhost: hello\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
}

/// One answer on a connection that stays open: status, head, body.
async fn receive(stream: &mut TcpStream) -> (u16, String, String) {
    let mut text = Vec::new();
    loop {
        let mut buffer = [0; 4096];
        let count = stream.read(&mut buffer).await.unwrap();
        text.extend_from_slice(&buffer[..count]);
        let so_far = String::from_utf8(text.clone()).unwrap();
        if let Some((head, body)) = so_far.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "))
                .unwrap();
            if body.len() == length.parse::<usize>().unwrap() {
                return (head[9..12].parse().unwrap(), head.to_owned(), body.to_owned());
            }
        }
        assert!(count > 0, "closed in the middle of `{so_far}`");
    }
}

async fn get(address: SocketAddr, path: &str) -> (u16, String, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    send(&mut stream, path).await;
    receive(&mut stream).await
}

#[tokio::test]
async fn every_answer_says_which_version_gave_it() {
    let served = start(SampleOptions {
        version: "1.4.2".to_owned(),
        slow_factor: 0.0,
        ..SampleOptions::default()
    })
    .await;
    for (path, status, body) in [
        ("/", 200, r#"{"version":"1.4.2","route":"/","method":"GET"}"#),
        (
            "/cart?id=1",
            200,
            r#"{"version":"1.4.2","route":"/cart","method":"GET"}"#,
        ),
        ("/healthz", 200, r#"{"status":"ok"}"#),
        ("/selftest", 200, r#"{"ok":true,"version":"1.4.2"}"#),
        ("/version", 200, r#"{"version":"1.4.2"}"#),
        ("/nothing", 404, r#"{"error":"no such route"}"#),
    ] {
        let answer = get(served.address, path).await;
        assert_eq!((answer.0, answer.2.trim_end()), (status, body), "{path}");
        assert!(answer.1.contains("\r\nx-version: 1.4.2\r\n"), "{path}: {}", answer.1);
    }
    served.end.abort();
}

#[tokio::test]
async fn a_broken_smoke_version_is_ready_and_fails_its_self_test() {
    let served = start(SampleOptions {
        broken_smoke: true,
        ..SampleOptions::default()
    })
    .await;
    assert_eq!(get(served.address, "/healthz").await.0, 200);
    let (status, _, body) = get(served.address, "/selftest").await;
    assert_eq!(
        (status, body.trim_end()),
        (
            500,
            r#"{"ok":false,"version":"1.0.0","error":"payments: certificate of payments.internal expired"}"#
        )
    );
    served.end.abort();
}

#[tokio::test]
async fn metrics_count_users_requests_by_code_and_route() {
    let served = start(SampleOptions {
        fail_percent: 100.0,
        slow_factor: 0.0,
        ..SampleOptions::default()
    })
    .await;
    for path in ["/pay", "/pay", "/", "/healthz", "/nothing"] {
        get(served.address, path).await;
    }
    let (_, head, text) = get(served.address, "/metrics").await;
    assert!(head.contains("content-type: text/plain; version=0.0.4"));
    let totals: BTreeSet<&str> = text
        .lines()
        .filter(|line| line.starts_with("http_requests_total{"))
        .collect();
    assert_eq!(
        totals,
        BTreeSet::from([
            r#"http_requests_total{code="500",route="/"} 1"#,
            r#"http_requests_total{code="500",route="/pay"} 2"#,
        ])
    );
    assert!(text.contains(r#"http_request_duration_seconds_bucket{code="500",route="/pay",le="+Inf"} 2"#));
    assert!(text.contains(r#"http_request_duration_seconds_count{code="500",route="/pay"} 2"#));
    served.end.abort();
}

#[test]
fn buckets_are_cumulative_and_a_bound_belongs_to_its_bucket() {
    let mut metrics = Metrics::default();
    for ms in [1, 8, 9, 20_000] {
        metrics.record("/", 200, Duration::from_millis(ms));
    }
    let text = metrics.text();
    for (le, count) in [
        ("0.001", 1),
        ("0.006", 1),
        ("0.008", 2),
        ("0.012", 3),
        ("10", 3),
        ("+Inf", 4),
    ] {
        let line = format!("http_request_duration_seconds_bucket{{code=\"200\",route=\"/\",le=\"{le}\"}} {count}\n");
        assert!(text.contains(&line), "{line}{text}");
    }
}

#[tokio::test]
async fn on_a_stop_requests_in_flight_and_on_their_way_are_answered_and_new_connections_refused() {
    // Slow enough that the stop comes first, whatever is drawn.
    let served = start(SampleOptions {
        slow_factor: 20.0,
        ..SampleOptions::default()
    })
    .await;
    let mut in_flight = TcpStream::connect(served.address).await.unwrap();
    let mut idle = TcpStream::connect(served.address).await.unwrap();
    send(&mut idle, "/healthz").await;
    receive(&mut idle).await;
    send(&mut in_flight, "/pay").await;
    // Answered after the request above has been read: connections are served in turn.
    send(&mut idle, "/healthz").await;
    receive(&mut idle).await;
    let mut in_backlog = TcpStream::connect(served.address).await.unwrap();
    served.stop.send(Ok(())).unwrap();
    send(&mut idle, "/version").await;
    send(&mut in_backlog, "/version").await;
    for stream in [&mut idle, &mut in_backlog, &mut in_flight] {
        let (status, head, _) = receive(stream).await;
        assert_eq!(status, 200);
        assert!(head.contains("\r\nconnection: close\r\n"), "{head}");
    }
    served.end.await.unwrap().unwrap();
    assert!(TcpStream::connect(served.address).await.is_err());
}

#[tokio::test]
async fn an_idle_connection_does_not_hold_up_a_stop() {
    let served = start(SampleOptions::default()).await;
    let mut idle = TcpStream::connect(served.address).await.unwrap();
    send(&mut idle, "/healthz").await;
    receive(&mut idle).await;
    served.stop.send(Ok(())).unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(5), served.end).await;
    ended.expect("well before the limit for requests").unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn staged_crashes_end_the_service_with_an_error_that_is_known_as_one() {
    let began = tokio::time::Instant::now();
    let at_start = serve(SampleOptions {
        crash_at_start: true,
        ..SampleOptions::default()
    });
    let error = at_start.await.unwrap_err();
    assert_eq!(error.to_string(), "config: missing key `payments.url`");
    assert!(is_crash(&error) && began.elapsed() < Duration::from_millis(300));
    let later = serve(SampleOptions {
        crash_after: Some(Duration::from_secs(20)),
        ..SampleOptions::default()
    });
    let error = later.await.unwrap_err();
    assert!(is_crash(&error) && began.elapsed() >= Duration::from_secs(20));
}

#[tokio::test]
async fn a_port_in_use_is_an_error_that_says_what_to_do() {
    let taken = bind(0).await.unwrap();
    let port = taken.local_addr().unwrap().port();
    let error = serve(SampleOptions {
        port,
        ..SampleOptions::default()
    })
    .await
    .unwrap_err();
    assert!(!is_crash(&error));
    assert_eq!(
        error.to_string(),
        format!("cannot listen on 127.0.0.1:{port} (Address already in use (os error 98)); set PORT to a free port")
    );
}

#[test]
fn latencies_are_log_normal_with_the_stated_median_and_p99_and_scale_with_the_factor() {
    let draws = |slow| {
        let mut chance = Chance::new(7, 0.0, slow);
        let mut seconds: Vec<f64> = (0..20_000).map(|_| chance.draw().latency.as_secs_f64()).collect();
        seconds.sort_by(f64::total_cmp);
        (seconds[10_000], seconds[19_800])
    };
    let (median, p99) = draws(1.0);
    assert!(
        (0.0076..0.0084).contains(&median) && (0.036..0.044).contains(&p99),
        "{median} {p99}"
    );
    let (slow_median, slow_p99) = draws(3.0);
    assert!((slow_median / median - 3.0).abs() < 1e-6 && (slow_p99 / p99 - 3.0).abs() < 1e-6);
}

#[test]
fn failures_come_at_the_stated_rate_and_one_seed_gives_one_course() {
    let course = |seed, fails| {
        let mut chance = Chance::new(seed, fails, 1.0);
        (0..10_000).map(|_| chance.draw()).collect::<Vec<_>>()
    };
    let failed = course(1, 0.3).iter().filter(|draw| draw.fails).count();
    assert!((2_800..3_200).contains(&failed), "{failed}");
    assert_eq!(course(1, 0.3), course(1, 0.3));
    assert_ne!(course(1, 0.3), course(2, 0.3));
    assert!(course(1, 1.0).iter().all(|draw| draw.fails));
    assert!(!course(1, 0.0).iter().any(|draw| draw.fails));
}

#[test]
fn flags_are_read_as_they_are_documented() {
    #[derive(clap::Parser)]
    struct Flags {
        #[command(flatten)]
        options: SampleOptions,
    }
    let line =
        "sample-service --version 2.0.0 --port 8081 --fail-percent 4% --slow-factor 3x --crash-after 20s --with-parent";
    let flags = <Flags as clap::Parser>::try_parse_from(line.split(' ')).unwrap();
    assert_eq!(
        flags.options,
        SampleOptions {
            version: "2.0.0".to_owned(),
            port: 8081,
            fail_percent: 4.0,
            slow_factor: 3.0,
            crash_after: Some(Duration::from_secs(20)),
            with_parent: true,
            ..SampleOptions::default()
        }
    );
    for bad in ["--fail-percent 101", "--fail-percent NaN", "--slow-factor -1"] {
        let line = format!("sample-service {bad}");
        assert!(
            <Flags as clap::Parser>::try_parse_from(line.split(' ')).is_err(),
            "{bad}"
        );
    }
}

/// Not a test: what the tests below start as a process of its own, through this very binary.
#[tokio::test]
#[ignore = "started by other tests as a process"]
async fn child() {
    let Ok(port) = std::env::var("WADE_TEST_SAMPLE_PORT") else {
        return;
    };
    let options = SampleOptions {
        port: port.parse().unwrap(),
        with_parent: true,
        ..SampleOptions::default()
    };
    serve(options).await.unwrap();
}

/// The arguments that make this binary run [`child`].
const CHILD: &str = "--exact demo::sample::tests::child --ignored --quiet";

/// A port that was free a moment ago.
async fn free_port() -> u16 {
    bind(0).await.unwrap().local_addr().unwrap().port()
}

async fn until_listening(port: u16, wanted: bool) {
    tokio::time::timeout(Duration::from_secs(20), async {
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.is_ok() != wanted {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap_or_else(|_| panic!("listening is {wanted} in time"));
}

fn command(program: &std::path::Path, port: u16) -> tokio::process::Command {
    let mut command = tokio::process::Command::new(program);
    command
        .env("WADE_TEST_SAMPLE_PORT", port.to_string())
        .stdout(std::process::Stdio::null())
        .kill_on_drop(true);
    command
}

#[tokio::test]
async fn sigterm_answers_what_is_in_flight_and_ends_with_0() {
    let port = free_port().await;
    let mut process = command(&std::env::current_exe().unwrap(), port)
        .args(CHILD.split(' '))
        .spawn()
        .unwrap();
    until_listening(port, true).await;
    let mut idle = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
    let mut in_flight = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
    send(&mut in_flight, "/pay").await;
    send(&mut idle, "/healthz").await;
    receive(&mut idle).await;
    let id = Pid::from_raw(process.id().unwrap().cast_signed()).unwrap();
    rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
    assert_eq!(receive(&mut in_flight).await.0, 200);
    assert_eq!(process.wait().await.unwrap().code(), Some(0));
}

#[tokio::test]
async fn with_parent_it_ends_when_its_parent_is_killed() {
    let port = free_port().await;
    let script = format!("'{}' {CHILD} & wait", std::env::current_exe().unwrap().display());
    let mut shell = command(std::path::Path::new("/bin/sh"), port)
        .args(["-c", &script])
        .spawn()
        .unwrap();
    until_listening(port, true).await;
    shell.kill().await.unwrap();
    until_listening(port, false).await;
}

#[tokio::test]
async fn a_broken_route_fails_always_and_the_others_do_not() {
    let served = start(SampleOptions {
        broken_route: Some("/refund"),
        slow_factor: 0.0,
        ..SampleOptions::default()
    })
    .await;
    for path in ["/refund", "/refund", "/pay", "/"] {
        let (status, _, body) = get(served.address, path).await;
        assert_eq!(status == 500, path == "/refund", "{path}: {body}");
        assert_eq!(
            body.contains("RefundError: no ledger"),
            path == "/refund",
            "{path}: {body}"
        );
    }
    served.end.abort();
}

#[tokio::test]
async fn with_spans_to_nobody_every_request_is_answered_and_the_end_is_soon() {
    let nobody = crate::signals::testing::nobody().await;
    let options = SampleOptions {
        slow_factor: 0.0,
        ..SampleOptions::default()
    };
    let served = start_with(options, Some(Spans::to(&format!("{nobody}/v1/traces"), "1.0.0"))).await;
    for _ in 0..50 {
        assert_eq!(get(served.address, "/pay").await.0, 200);
    }
    served.stop.send(Ok(())).unwrap();
    tokio::time::timeout(Duration::from_secs(10), served.end)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
}
