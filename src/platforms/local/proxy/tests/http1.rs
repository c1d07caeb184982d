//! HTTP/1.1: heads, bodies, limits, and what happens when a backend is not there.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::harness::*;
use crate::platforms::local::proxy::*;

/// Answers with the request's head as it came.
async fn head_echo() -> Origin {
    Origin::serving(|request: Request<Incoming>| async move {
        let mut lines = vec![format!(
            "{} {} {:?}",
            request.method(),
            request.uri(),
            request.version()
        )];
        for (name, value) in request.headers() {
            lines.push(format!("{name}: {}", value.to_str().expect("the tests send text")));
        }
        lines[1..].sort();
        let body = request.into_body().collect().await.expect("complete").to_bytes();
        lines.push(format!("{} bytes", body.len()));
        Response::new(text(lines.join("\n")))
    })
    .await
}

#[tokio::test]
async fn one_connection_each_way_serves_many_requests() {
    let origin = Origin::named("stable").await;
    let proxy = proxy(Routes::all_to("stable", vec![origin.addr]));
    let mut client = Client::to(proxy.local_addr()).await;
    for _ in 0..50 {
        assert_eq!(client.who().await, "stable");
    }
    let opened = origin.connections.load(std::sync::atomic::Ordering::SeqCst);
    assert_eq!((opened, proxy.snapshot().connections), (1, 1));
}

#[tokio::test]
async fn clients_in_turn_use_what_their_workers_keep() {
    let origin = Origin::named("stable").await;
    let proxy = proxy(Routes::all_to("stable", vec![origin.addr]));
    for _ in 0..50 {
        assert_eq!(Client::to(proxy.local_addr()).await.who().await, "stable");
    }
    let opened = origin.connections.load(std::sync::atomic::Ordering::SeqCst);
    assert!(
        opened <= workers::count(),
        "{opened} connections for 50 requests in turn"
    );
}

#[tokio::test]
async fn chunked_answers_and_answers_to_head_keep_the_connection_too() {
    let origin = Origin::serving(|_| async {
        let parts = futures_util::stream::iter(["a", "b"].map(|part| Ok(Frame::data(Bytes::from(part)))));
        Response::new(BodyExt::boxed(StreamBody::new(parts)))
    })
    .await;
    let proxy = proxy(Routes::all_to("stable", vec![origin.addr]));
    let mut client = Client::to(proxy.local_addr()).await;
    for _ in 0..10 {
        assert_eq!(client.who().await, "ab");
        let head = Request::head("/").body(text("")).expect("valid");
        assert_eq!(read(client.send(head).await.expect("answered")).await, "");
    }
    assert_eq!(origin.connections.load(std::sync::atomic::Ordering::SeqCst), 1);
}

#[tokio::test]
async fn both_lengths_at_once_go_by_the_chunks_and_close() {
    let origin = head_echo().await;
    let proxy = proxy(Routes::all_to("stable", vec![origin.addr]));
    let smuggled = b"POST /a HTTP/1.1\r\nHost: shop\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n\
        3\r\nabc\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: shop\r\n\r\n";
    let seen = raw(proxy.local_addr(), smuggled).await;
    assert!(seen.starts_with("HTTP/1.1 200") && seen.ends_with("3 bytes"), "{seen}");
    assert!(
        seen.contains("transfer-encoding: chunked") && !seen.contains("content-length: 4"),
        "{seen}"
    );
    assert!(!seen.contains("/smuggled"), "{seen}");
    for bad in [
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, gzip\r\n\r\n",
        "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "GET / HTTP/1.1\r\nHost : a\r\n\r\n",
    ] {
        let seen = raw(proxy.local_addr(), bad.as_bytes()).await;
        assert!(seen.starts_with("HTTP/1.1 400"), "{bad:?}: {seen}");
    }
    assert_eq!(proxy.snapshot().revisions["stable"].users.requests, 1);
}

#[tokio::test]
async fn http_1_0_clients_are_served_and_closed() {
    let origin = head_echo().await;
    let proxy = proxy(Routes::all_to("stable", vec![origin.addr]));
    let seen = raw(proxy.local_addr(), b"GET /old HTTP/1.0\r\nHost: shop\r\n\r\n").await;
    assert!(
        seen.starts_with("HTTP/1.0 200") && seen.contains("GET /old HTTP/1.1"),
        "{seen}"
    );
}

#[tokio::test]
async fn connect_is_refused_in_words() {
    let proxy = proxy(Routes::default());
    let seen = raw(
        proxy.local_addr(),
        b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\nConnection: close\r\n\r\n",
    )
    .await;
    assert!(
        seen.starts_with("HTTP/1.1 501") && seen.ends_with("this is not a forward proxy.\n"),
        "{seen}"
    );
}

#[tokio::test]
async fn the_client_is_asked_for_its_body_when_a_backend_has_the_request() {
    let origin = head_echo().await;
    let proxy = proxy(Routes::all_to("stable", vec![origin.addr]));
    let mut stream = TcpStream::connect(proxy.local_addr()).await.expect("the proxy listens");
    let head = b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\nConnection: close\r\n\r\n";
    stream.write_all(head).await.expect("the proxy reads");
    let mut go_on = [0; 25];
    stream.read_exact(&mut go_on).await.expect("100");
    assert_eq!(&go_on, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"abc").await.expect("the proxy reads");
    let mut rest = String::new();
    stream.read_to_string(&mut rest).await.expect("an answer");
    assert!(
        rest.starts_with("HTTP/1.1 200") && rest.ends_with("3 bytes") && !rest.contains("expect"),
        "{rest}"
    );
}

#[tokio::test]
async fn bodies_stream_both_ways() {
    let origin =
        Origin::serving(|request: Request<Incoming>| async move { Response::new(request.into_body().boxed()) });
    let origin = origin.await;
    let proxy = proxy(Routes::all_to("stable", vec![origin.addr]));
    let (send, mut receive) = tokio::sync::mpsc::channel::<Result<Frame<Bytes>, hyper::Error>>(1);
    let receive = futures_util::stream::poll_fn(move |cx| receive.poll_recv(cx));
    let mut client = Client::to(proxy.local_addr()).await;
    let request = Request::post("/")
        .body(BodyExt::boxed(StreamBody::new(receive)))
        .expect("valid");
    send.send(Ok(Frame::data(Bytes::from("0"))))
        .await
        .expect("the client reads");
    let answer = tokio::time::timeout(SOON, client.send(request))
        .await
        .expect("before the body ends");
    let mut echo = answer.expect("answered").into_body().into_data_stream();
    for turn in 1..20 {
        // Each part comes back before the next is sent: nobody on the way waits for more.
        let part = tokio::time::timeout(SOON, echo.next())
            .await
            .expect("at once")
            .expect("more")
            .expect("whole");
        assert_eq!(part, (turn - 1).to_string());
        send.send(Ok(Frame::data(Bytes::from(turn.to_string()))))
            .await
            .expect("the client reads");
    }
    assert_eq!(proxy.snapshot().revisions["stable"].in_flight, 1);
    drop(send);
    assert_eq!(echo.next().await.expect("the last").expect("whole"), "19");
    assert!(echo.next().await.is_none());
    until("it is over", || proxy.snapshot().revisions["stable"].in_flight == 0).await;
}

#[tokio::test]
async fn megabytes_arrive_whole() {
    let origin =
        Origin::serving(|request: Request<Incoming>| async move { Response::new(request.into_body().boxed()) });
    let origin = origin.await;
    let proxy = proxy(Routes::all_to("stable", vec![origin.addr]));
    let sent: Bytes = (0..8_000_000u32).map(|n| (n % 251) as u8).collect::<Vec<_>>().into();
    let request = Request::post("/").body(text(sent.clone())).expect("valid");
    let answer = Client::to(proxy.local_addr())
        .await
        .send(request)
        .await
        .expect("answered");
    assert!(answer.into_body().collect().await.expect("complete").to_bytes() == sent);
}

#[tokio::test]
async fn an_endpoint_that_refuses_is_passed_over_and_costs_nobody_an_answer() {
    let (origin, dead) = (Origin::named("stable").await, nowhere().await);
    let proxy = proxy(Routes::all_to("stable", vec![dead, origin.addr]));
    let mut client = Client::to(proxy.local_addr()).await;
    for _ in 0..10 {
        let post = Request::post("/").body(text("not idempotent")).expect("valid");
        assert_eq!(read(client.send(post).await.expect("answered")).await, "stable");
    }
    let seen = &proxy.snapshot().revisions["stable"];
    assert_eq!((seen.users.requests, seen.users.errors), (10, 0));
}

#[tokio::test]
async fn a_dead_canary_answers_502_on_its_own_account() {
    let stable = Origin::named("stable").await;
    let proxy = proxy(split(stable.addr, nowhere().await, 500));
    let mut client = Client::to(proxy.local_addr()).await;
    let mut lost = Vec::new();
    for _ in 0..100 {
        let (status, body) = client.get(&[]).await;
        if status != StatusCode::OK {
            lost.push((status, body));
        }
    }
    let sentence = "shop cannot be reached right now; try again later.\n".to_owned();
    assert!(
        lost.iter()
            .all(|answer| *answer == (StatusCode::BAD_GATEWAY, sentence.clone())),
        "{lost:?}"
    );
    let seen = proxy.snapshot().revisions;
    let [stable, canary] = [&seen["stable"], &seen["canary"]];
    assert_eq!(
        (stable.users.requests, stable.users.errors),
        (100 - lost.len() as u64, 0)
    );
    assert_eq!(
        (canary.users.requests, canary.users.errors),
        (lost.len() as u64, lost.len() as u64)
    );
    assert_eq!(
        (canary.failures["refused"], canary.users.code_classes[4]),
        (lost.len() as u64, lost.len() as u64)
    );
    assert!((45..=55).contains(&lost.len()));
}

/// Accepts, reads a little, and does this.
async fn odd(answer: &'static [u8], then_hang: bool) -> SocketAddr {
    let listener = TcpListener::bind(LOOPBACK).await.expect("loopback has a port");
    let addr = listener.local_addr().expect("it is bound");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let _ = stream.read(&mut [0; 4096]).await;
                let _ = stream.write_all(answer).await;
                if then_hang {
                    std::future::pending::<()>().await;
                }
            });
        }
    });
    addr
}

#[tokio::test]
async fn odd_backends_get_the_status_and_the_counter_that_say_why() {
    let mut settings = config();
    settings.answer_timeout = Duration::from_millis(50);
    let proxy = Proxy::bind(settings).expect("loopback has a port");
    let cases = [
        ("closes", odd(b"", false).await, StatusCode::BAD_GATEWAY, "closed"),
        (
            "babbles",
            odd(b"hello there\r\n\r\n", false).await,
            StatusCode::BAD_GATEWAY,
            "bad_answer",
        ),
        (
            "hangs",
            odd(b"", true).await,
            StatusCode::GATEWAY_TIMEOUT,
            "answer_timeout",
        ),
    ];
    for (revision, addr, status, kind) in cases {
        proxy.set_routes(Routes::all_to(revision, vec![addr])).expect("valid");
        let (seen, _) = Client::to(proxy.local_addr()).await.get(&[]).await;
        let counters = &proxy.snapshot().revisions[revision];
        assert_eq!(
            (seen, counters.failures[kind], counters.users.errors),
            (status, 1, 1),
            "{revision}"
        );
    }
    proxy.set_routes(Routes::all_to("empty", vec![])).expect("valid");
    let (seen, _) = Client::to(proxy.local_addr()).await.get(&[]).await;
    assert_eq!(
        (seen, proxy.snapshot().revisions["empty"].failures["no_endpoint"]),
        (StatusCode::BAD_GATEWAY, 1)
    );
    let breaks = odd(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", false).await;
    proxy.set_routes(Routes::all_to("breaks", vec![breaks])).expect("valid");
    let whole = match Client::to(proxy.local_addr()).await.send(get(&[])).await {
        Ok(answer) => answer.into_body().collect().await.is_ok(),
        Err(_) => false,
    };
    assert!(!whole, "the client must see that the body is not whole");
    until("it is counted", || proxy.snapshot().revisions["breaks"].cut_short == 1).await;
}

#[tokio::test]
async fn a_client_that_leaves_is_nobodys_error() {
    let origin = odd(b"", true).await;
    let proxy = proxy(Routes::all_to("stable", vec![origin]));
    let mut stream = TcpStream::connect(proxy.local_addr()).await.expect("the proxy listens");
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .expect("the proxy reads");
    until("it is under way", || {
        proxy.snapshot().revisions["stable"].in_flight == 1
    })
    .await;
    drop(stream);
    until("it is noticed", || proxy.snapshot().revisions["stable"].in_flight == 0).await;
    let seen = &proxy.snapshot().revisions["stable"];
    assert_eq!((seen.client_gone, seen.users.requests), (1, 0));
}

#[tokio::test]
async fn slow_heads_are_cut_and_resting_connections_are_not() {
    let origin = Origin::named("stable").await;
    let mut settings = config();
    settings.head_timeout = Duration::from_millis(100);
    let proxy = Proxy::bind(settings).expect("loopback has a port");
    proxy
        .set_routes(Routes::all_to("stable", vec![origin.addr]))
        .expect("valid");
    let mut resting = Client::to(proxy.local_addr()).await;
    assert_eq!(resting.who().await, "stable");
    for start in ["", "P", "PR", "GET / HTTP/1.1\r\nHost: a\r\n"] {
        assert_eq!(raw(proxy.local_addr(), start.as_bytes()).await, "", "{start:?}");
    }
    assert_eq!(proxy.snapshot().connections_timed_out, 4);
    assert_eq!(resting.who().await, "stable");
}

#[tokio::test]
async fn resting_connections_end_after_the_idle_timeout() {
    let origin = Origin::named("stable").await;
    let mut settings = config();
    settings.idle_timeout = Duration::from_millis(50);
    let proxy = Proxy::bind(settings).expect("loopback has a port");
    proxy
        .set_routes(Routes::all_to("stable", vec![origin.addr]))
        .expect("valid");
    let seen = raw(proxy.local_addr(), b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(seen.ends_with("stable"), "{seen}");
}

#[tokio::test]
async fn large_heads_get_431_and_nothing_of_them_gets_to_a_backend() {
    let origin = Origin::named("stable").await;
    let proxy = proxy(Routes::all_to("stable", vec![origin.addr]));
    let with = |size: usize| {
        format!(
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nX: {}\r\n\r\n",
            "y".repeat(size)
        )
    };
    assert!(
        raw(proxy.local_addr(), with(60_000).as_bytes())
            .await
            .ends_with("stable")
    );
    assert!(
        raw(proxy.local_addr(), with(70_000).as_bytes())
            .await
            .starts_with("HTTP/1.1 431")
    );
    let many: String = (0..101).map(|n| format!("X-{n}: a\r\n")).collect();
    let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{many}\r\n");
    assert!(
        raw(proxy.local_addr(), many.as_bytes())
            .await
            .starts_with("HTTP/1.1 431")
    );
    assert_eq!(proxy.snapshot().revisions["stable"].users.requests, 1);
}

#[tokio::test]
async fn beyond_max_connections_clients_wait_and_are_counted() {
    let origin = Origin::named("stable").await;
    let mut settings = config();
    settings.max_connections = 1;
    let proxy = Proxy::bind(settings).expect("loopback has a port");
    proxy
        .set_routes(Routes::all_to("stable", vec![origin.addr]))
        .expect("valid");
    let mut first = Client::to(proxy.local_addr()).await;
    assert_eq!(first.who().await, "stable");
    let mut second = Client::to(proxy.local_addr()).await;
    let waiting = tokio::spawn(async move { second.who().await });
    assert_eq!(first.who().await, "stable");
    assert_eq!(proxy.snapshot().connections, 1);
    drop(first);
    assert_eq!(waiting.await.expect("it ran"), "stable");
    assert!(proxy.snapshot().connections_full >= 1);
}

#[tokio::test]
async fn an_address_in_use_is_named() {
    let first = Proxy::bind(config()).expect("loopback has a port");
    let mut settings = config();
    settings.listen = first.local_addr();
    let error = Proxy::bind(settings).unwrap_err().to_string();
    let addr = first.local_addr();
    let expected = format!(
        "the proxy of shop cannot listen on {addr}: the address is in use; stop what listens there (`ss -ltnp` shows it) or choose another"
    );
    assert_eq!(error, expected);
}

#[tokio::test]
async fn the_metrics_page_lists_what_it_says_it_lists() {
    let origin = Origin::failing(StatusCode::NOT_FOUND).await;
    let proxy = proxy(Routes::all_to("a\"b", vec![origin.addr]));
    Client::to(proxy.local_addr()).await.who().await;
    let page = proxy.encode_metrics();
    let typed: Vec<_> = page
        .lines()
        .filter(|line| line.starts_with("# TYPE"))
        .map(str::to_owned)
        .collect();
    let listed: Vec<_> = METRICS
        .iter()
        .map(|metric| format!("# TYPE {} {}", metric.name, metric.kind))
        .collect();
    assert_eq!(typed, listed);
    let line = r#"wade_proxy_requests_total{service="shop",revision="a\"b",code_class="4xx"} 1"#;
    assert!(page.lines().any(|seen| seen == line), "{page}");
    assert!(page.contains(r#"wade_proxy_request_duration_seconds_bucket{service="shop",revision="a\"b",le="+Inf"} 1"#));
}

#[tokio::test]
async fn hop_by_hop_headers_of_answers_stay_here() {
    let origin = Origin::serving(|_| async {
        let mut answer = Response::new(text("x"));
        let headers: HeaderMap = [("connection", "x-private"), ("x-private", "1"), ("x-public", "2")]
            .map(|(name, value)| (name.parse().expect("a name"), value.parse().expect("a value")))
            .into_iter()
            .collect();
        answer.headers_mut().extend(headers);
        answer
    })
    .await;
    let proxy = proxy(Routes::all_to("stable", vec![origin.addr]));
    let answer = Client::to(proxy.local_addr())
        .await
        .send(get(&[]))
        .await
        .expect("answered");
    let has = |name: &str| answer.headers().contains_key(name);
    assert_eq!(
        (has("x-private"), has("connection"), has("x-public")),
        (false, false, true)
    );
}
