//! Switching, draining, dying and stopping: nothing may be lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use http::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};

use super::harness::*;
use crate::platforms::local::proxy::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_while_weights_flip_and_backends_come_and_go() {
    let (stable, canary) = (Origin::named("stable").await, Origin::named("canary").await);
    let third = Origin::named("third").await;
    let proxy = proxy(split(stable.addr, canary.addr, 0));
    let over = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let (addr, over) = (proxy.local_addr(), Arc::clone(&over));
            tokio::spawn(async move {
                let mut client = Client::to(addr).await;
                let mut sent = 0u64;
                while !over.load(Ordering::SeqCst) {
                    // Not repeatable, so that a retry cannot hide a loss.
                    let post = Request::post("/").body(text("pay")).expect("valid");
                    let answer = client.send(post).await.expect("the proxy answers");
                    assert_eq!(answer.status(), StatusCode::OK);
                    assert!(["stable", "canary", "third"].contains(&read(answer).await.as_str()));
                    sent += 1;
                }
                sent
            })
        })
        .collect();
    for flip in 0u16..300 {
        let mut routes = split(stable.addr, canary.addr, flip * 37 % 1001);
        if flip % 3 == 0 {
            routes.split[1] = backend("third", routes.split[1].weight, &[third.addr]);
        }
        proxy.set_routes(routes).expect("valid");
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    over.store(true, Ordering::SeqCst);
    let mut sent = 0;
    for client in clients {
        sent += client.await.expect("no client saw an error");
    }
    let seen = proxy.snapshot().revisions;
    let answered: u64 = seen.values().map(|counters| counters.users.requests).sum();
    let lost: u64 = seen
        .values()
        .map(|counters| counters.users.errors + counters.client_gone)
        .sum();
    assert_eq!((answered, lost), (sent, 0));
    assert!(sent > 1000, "only {sent} requests: the test says little");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_that_dies_under_load_costs_no_idempotent_request() {
    let mut instances = vec![
        Origin::named("a").await,
        Origin::named("b").await,
        Origin::named("c").await,
    ];
    let proxy = proxy(Routes::all_to(
        "stable",
        instances.iter().map(|origin| origin.addr).collect(),
    ));
    let (over, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let clients: Vec<_> = (0..6)
        .map(|_| {
            let (addr, over, sent) = (proxy.local_addr(), Arc::clone(&over), Arc::clone(&sent));
            tokio::spawn(async move {
                let mut client = Client::to(addr).await;
                while !over.load(Ordering::SeqCst) {
                    assert_eq!(client.get(&[]).await.0, StatusCode::OK);
                    sent.fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    for alive in [2, 1] {
        let so_far = sent.load(Ordering::SeqCst);
        until("load flows", || sent.load(Ordering::SeqCst) > so_far + 500).await;
        instances.truncate(alive);
    }
    let so_far = sent.load(Ordering::SeqCst);
    until("load flows on", || sent.load(Ordering::SeqCst) > so_far + 500).await;
    over.store(true, Ordering::SeqCst);
    for client in clients {
        client.await.expect("no client saw an error");
    }
    assert_eq!(proxy.snapshot().revisions["stable"].users.errors, 0);
}

#[tokio::test]
async fn a_request_stays_where_it_began_and_is_what_draining_waits_for() {
    let (old, gate) = held("old").await;
    let new = Origin::named("new").await;
    let proxy = Arc::new(proxy(Routes::all_to("old", vec![old.addr])));
    let addr = proxy.local_addr();
    let first = tokio::spawn(async move { Client::to(addr).await.who().await });
    until("it is under way", || proxy.snapshot().revisions["old"].in_flight == 1).await;
    assert!(!proxy.drained("old"), "it is in the routes");
    proxy.set_routes(Routes::all_to("new", vec![new.addr])).expect("valid");
    assert_eq!(Client::to(addr).await.who().await, "new");
    assert_eq!(
        proxy.wait_drained("old", Duration::from_millis(30)).await,
        Drain::TimedOut
    );
    gate.add_permits(1);
    assert_eq!(first.await.expect("it ran"), "old");
    assert_eq!(proxy.wait_drained("old", SOON).await, Drain::Drained);
    assert!(proxy.drained("never heard of"));
}

#[tokio::test]
async fn idle_connections_to_removed_endpoints_are_closed() {
    let open = Arc::new(AtomicUsize::new(0));
    let listener = TcpListener::bind(LOOPBACK).await.expect("loopback has a port");
    let addr = listener.local_addr().expect("it is bound");
    let count = Arc::clone(&open);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let count = Arc::clone(&count);
            count.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                let service = hyper::service::service_fn(|_| async {
                    Ok::<_, std::convert::Infallible>(Response::new(text("here")))
                });
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
                count.fetch_sub(1, Ordering::SeqCst);
            });
        }
    });
    let proxy = proxy(Routes::all_to("old", vec![addr]));
    assert_eq!(Client::to(proxy.local_addr()).await.who().await, "here");
    assert_eq!(open.load(Ordering::SeqCst), 1);
    proxy.set_routes(Routes::default()).expect("valid");
    until("it is closed", || open.load(Ordering::SeqCst) == 0).await;
}

#[tokio::test]
async fn shutdown_finishes_what_runs_and_takes_nothing_new() {
    let (origin, gate) = held("late").await;
    let proxy = Arc::new(proxy(Routes::all_to("stable", vec![origin.addr])));
    let addr = proxy.local_addr();
    let resting = TcpStream::connect(addr).await.expect("the proxy listens");
    let h1 = tokio::spawn(async move {
        let answer = Client::to(addr).await.send(get(&[])).await.expect("answered");
        (answer.headers().get("connection").cloned(), read(answer).await)
    });
    let stream = TcpStream::connect(addr).await.expect("the proxy listens");
    let (mut sender, conn) = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .expect("HTTP/2");
    let goaway = tokio::spawn(conn);
    let request = Request::get(format!("http://{addr}/")).body(text("")).expect("valid");
    let h2 = tokio::spawn(async move { read(sender.send_request(request).await.expect("answered")).await });
    until("both are under way", || {
        proxy.snapshot().revisions["stable"].in_flight == 2
    })
    .await;
    let stopping = tokio::spawn({
        let proxy = Arc::clone(&proxy);
        async move { proxy.shutdown(SOON).await }
    });
    let refused = async {
        while TcpStream::connect(addr).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(SOON, refused).await.expect("it stops listening");
    gate.add_permits(2);
    let (connection, body) = h1.await.expect("it ran");
    assert_eq!(
        (connection.expect("told to close"), body.as_str()),
        ("close".parse().expect("a value"), "late")
    );
    assert_eq!(h2.await.expect("it ran"), "late");
    goaway.await.expect("it ran").expect("a clean end");
    assert_eq!(stopping.await.expect("it ran"), Shutdown::Drained);
    drop(resting);
}

#[tokio::test]
async fn shutdown_cuts_what_outlives_its_grace() {
    let (origin, _gate) = held("never").await;
    let proxy = proxy(Routes::all_to("stable", vec![origin.addr]));
    let mut client = Client::to(proxy.local_addr()).await;
    let hanging = tokio::spawn(async move { client.send(get(&[])).await.map(|answer| answer.status()) });
    until("it is under way", || {
        proxy.snapshot().revisions["stable"].in_flight == 1
    })
    .await;
    assert_eq!(
        proxy.shutdown(Duration::from_millis(30)).await,
        Shutdown::Cut { connections: 1 }
    );
    assert!(hanging.await.expect("it ran").is_err());
    assert_eq!(proxy.snapshot().revisions["stable"].in_flight, 0);
}

#[tokio::test]
async fn a_kept_connection_that_was_closed_meanwhile_costs_nothing() {
    // Says keep-alive and closes after each answer: every second request meets a closed connection.
    let listener = TcpListener::bind(LOOPBACK).await.expect("loopback has a port");
    let addr = listener.local_addr().expect("it is bound");
    tokio::spawn(async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                .await;
        }
    });
    let proxy = proxy(Routes::all_to("stable", vec![addr]));
    let mut client = Client::to(proxy.local_addr()).await;
    for _ in 0..100 {
        assert_eq!(client.get(&[]).await, (StatusCode::OK, "ok".to_owned()));
    }
    assert_eq!(proxy.snapshot().revisions["stable"].users.errors, 0);
}

#[tokio::test]
async fn dropping_a_proxy_closes_its_port_and_its_connections() {
    let (origin, _gate) = held("never").await;
    let proxy = proxy(Routes::all_to("stable", vec![origin.addr]));
    let addr = proxy.local_addr();
    let hanging = tokio::spawn(async move {
        Client::to(addr)
            .await
            .send(get(&[]))
            .await
            .map(|answer| answer.status())
    });
    until("it is under way", || {
        proxy.snapshot().revisions["stable"].in_flight == 1
    })
    .await;
    drop(proxy);
    assert!(hanging.await.expect("it ran").is_err());
    let refused = async {
        while TcpStream::connect(addr).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(SOON, refused).await.expect("nobody listens");
}
