//! The load against small servers: what it counts, and that it counts all.

use std::collections::BTreeMap;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::clock::ManualClock;

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

async fn until(load: &Load, what: impl Fn(&Snapshot) -> bool) -> Snapshot {
    tokio::time::timeout(Duration::from_secs(10), async {
        loop {
            let snapshot = load.snapshot();
            if what(&snapshot) {
                return snapshot;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await
    .unwrap_or_else(|_| panic!("it did not come to that: {:?}", load.snapshot()))
}

fn whole(snapshot: &Snapshot) -> bool {
    snapshot.sent == snapshot.answered + snapshot.lost_total() + snapshot.in_flight
}

#[tokio::test]
async fn answers_are_counted_by_version_and_status_and_bad_ones_are_dated() {
    let (listener, address) = listen().await;
    let router = Router::new()
        .route("/", get(|| async { ([("x-version", "1")], "a") }))
        .route(
            "/cart",
            get(|| async { (StatusCode::INTERNAL_SERVER_ERROR, [("x-version", "2")], "b") }),
        )
        .fallback(get(|| async { StatusCode::SERVICE_UNAVAILABLE }));
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    let at: jiff::Timestamp = "2026-03-01T12:00:00Z".parse().unwrap();
    let load = Load::start_with(address, 500.0, 1, Arc::new(ManualClock::new(at)));
    until(&load, |seen| seen.versions.len() == 3 && seen.answered >= 50).await;
    let last = load.stop().await;
    assert!(
        whole(&last) && last.in_flight == 0 && last.lost.is_empty() && last.skipped == 0,
        "{last:?}"
    );
    let statuses: BTreeMap<&str, Vec<u16>> = last
        .versions
        .iter()
        .map(|(version, count)| (version.as_str(), count.statuses.keys().copied().collect()))
        .collect();
    assert_eq!(
        statuses,
        BTreeMap::from([("1", vec![200]), ("2", vec![500]), (NO_VERSION, vec![503])])
    );
    let (good, bad) = (&last.versions["1"], &last.versions["2"]);
    assert_eq!((good.failed, good.first_bad_at, bad.served), (0, None, 0));
    assert_eq!(good.served + last.failed_total(), last.answered);
    let (first, final_) = (bad.first_bad_at.unwrap(), bad.last_bad_at.unwrap());
    assert!(first.at == at && first.after <= final_.after && final_.after <= last.after);
    assert!(good.p50.is_some() && good.p50 <= good.p99);
}

#[tokio::test]
async fn the_rate_is_kept_while_nothing_is_answered_until_the_bound_and_what_is_skipped_is_counted() {
    let (listener, address) = listen().await;
    // Accepts and never answers.
    tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            kept.push(stream);
        }
    });
    let load = Load::start(address, 2000.0, 1);
    let seen = until(&load, |seen| seen.skipped >= 20).await;
    assert_eq!(
        (seen.in_flight, seen.sent, seen.answered),
        (MOST_IN_FLIGHT as u64, MOST_IN_FLIGHT as u64, 0)
    );
    assert!(seen.lost.is_empty(), "{seen:?}");
}

#[tokio::test]
async fn lost_requests_are_counted_with_the_reason() {
    let (listener, address) = listen().await;
    drop(listener);
    let load = Load::start(address, 200.0, 1);
    until(&load, |seen| seen.lost_total() >= 3).await;
    let last = load.stop().await;
    assert!(whole(&last) && last.answered == 0, "{last:?}");
    assert_eq!(last.lost, BTreeMap::from([(Loss::Refused, last.sent)]));
    assert!(last.first_lost_at.is_some());

    // Closes each connection in the middle of the answer.
    let (listener, address) = listen().await;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = [0; 1024];
            let _ = stream.read(&mut head).await;
            let _ = stream
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nab")
                .await;
        }
    });
    let load = Load::start(address, 200.0, 1);
    until(&load, |seen| seen.lost_total() >= 3).await;
    let last = load.stop().await;
    assert_eq!(last.lost, BTreeMap::from([(Loss::Closed, last.sent)]), "{last:?}");
}

#[tokio::test]
async fn a_connection_the_other_side_closed_while_idle_loses_nothing() {
    let (listener, address) = listen().await;
    // Answers one request on each connection as if it would stay open, then closes it.
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = [0; 1024];
            let _ = stream.read(&mut head).await;
            let _ = stream
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
                .await;
        }
    });
    let load = Load::start(address, 50.0, 1);
    until(&load, |seen| seen.answered >= 10).await;
    let last = load.stop().await;
    assert!(last.lost.is_empty() && last.answered == last.sent, "{last:?}");
}

#[tokio::test]
async fn connections_are_kept_alive() {
    let (listener, address) = listen().await;
    let accepted = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counter = Arc::clone(&accepted);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            counter.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            tokio::spawn(async move {
                let mut head = [0; 1024];
                while let Ok(1..) = stream.read(&mut head).await {
                    let _ = stream
                        .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
                        .await;
                }
            });
        }
    });
    let load = Load::start(address, 100.0, 1);
    until(&load, |seen| seen.answered >= 40).await;
    let last = load.stop().await;
    let connections = accepted.load(std::sync::atomic::Ordering::SeqCst);
    assert!(
        last.lost.is_empty() && connections <= last.answered as usize / 2,
        "{connections} connections"
    );
}

#[test]
fn the_mix_covers_every_throw() {
    let shares: u32 = MIX.iter().map(|(_, share)| share).sum();
    assert_eq!(shares, 100);
    assert_eq!(
        [0, 59, 60, 88, 89, 98, 99].map(pick),
        ["/", "/", "/cart", "/cart", "/pay", "/pay", "/refund"]
    );
}

#[tokio::test]
async fn no_rate_sends_nothing() {
    let (_listener, address) = listen().await;
    for rps in [0.0, -1.0, f64::NAN] {
        let last = Load::start(address, rps, 1).stop().await;
        assert_eq!((last.sent, last.skipped), (0, 0), "{rps}");
    }
}

/// What the demo asks of this machine: run with `--ignored --nocapture` under `time`.
#[tokio::test]
#[ignore = "a measurement"]
async fn six_hundred_requests_a_second_against_the_sample_service() {
    let (free, address) = listen().await;
    drop(free);
    let options = crate::demo::sample::SampleOptions {
        port: address.port(),
        fail_percent: 2.0,
        ..Default::default()
    };
    let service = tokio::spawn(crate::demo::sample::serve(options));
    tokio::time::sleep(Duration::from_millis(300)).await;
    let load = Load::start(address, 600.0, 1);
    tokio::time::sleep(Duration::from_secs(10)).await;
    let last = load.stop().await;
    service.abort();
    eprintln!("{last:#?}");
    assert!(last.lost.is_empty() && last.skipped == 0);
}
