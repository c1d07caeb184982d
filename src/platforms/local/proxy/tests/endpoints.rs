//! Counts per endpoint: what the judge learns about how stable's own instances differ.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use http::StatusCode;

use super::harness::*;
use crate::platforms::local::proxy::*;

fn seen(proxy: &Proxy, revision: &str) -> BTreeMap<SocketAddr, EndpointCounters> {
    proxy.snapshot().revisions[revision].endpoints.clone()
}

fn counts<const N: usize>(of: [(SocketAddr, u64, u64); N]) -> BTreeMap<SocketAddr, EndpointCounters> {
    of.map(|(addr, requests, errors)| (addr, EndpointCounters { requests, errors }))
        .into()
}

#[tokio::test]
async fn each_endpoint_is_counted_for_its_own_answers() {
    let good = Origin::named("good").await;
    let bad = Origin::failing(StatusCode::INTERNAL_SERVER_ERROR).await;
    let proxy = proxy(Routes::all_to("stable", vec![good.addr, bad.addr]));
    assert_eq!(seen(&proxy, "stable"), counts([(good.addr, 0, 0), (bad.addr, 0, 0)]));
    let mut client = Client::to(proxy.local_addr()).await;
    for _ in 0..10 {
        client.get(&[]).await;
    }
    assert_eq!(seen(&proxy, "stable"), counts([(good.addr, 5, 0), (bad.addr, 5, 5)]));
}

#[tokio::test]
async fn a_request_passed_on_counts_where_it_was_answered_and_a_lost_one_where_it_was_tried_last() {
    let (origin, dead) = (Origin::named("stable").await, nowhere().await);
    let proxy = proxy(Routes::all_to("stable", vec![origin.addr, dead]));
    let mut client = Client::to(proxy.local_addr()).await;
    for _ in 0..6 {
        assert_eq!(client.get(&[]).await.0, StatusCode::OK);
    }
    assert_eq!(seen(&proxy, "stable"), counts([(origin.addr, 6, 0), (dead, 0, 0)]));
    proxy.set_routes(Routes::all_to("stable", vec![dead])).expect("valid");
    assert_eq!(client.get(&[]).await.0, StatusCode::BAD_GATEWAY);
    assert_eq!(seen(&proxy, "stable"), counts([(dead, 1, 1)]));
}

#[tokio::test]
async fn mirrored_answers_are_not_the_endpoints_work_for_users() {
    let (stable, shadow) = (Origin::named("stable").await, Origin::named("shadow").await);
    let mut routes = split(stable.addr, shadow.addr, 0);
    routes.mirror = Some(Mirror {
        revision: "canary".to_owned(),
        permille: 1000,
    });
    let proxy = proxy(routes);
    Client::to(proxy.local_addr()).await.who().await;
    until("the copy is answered", || {
        proxy.snapshot().revisions["canary"].mirror.requests == 1
    })
    .await;
    let both = (seen(&proxy, "stable"), seen(&proxy, "canary"));
    assert_eq!(both, (counts([(stable.addr, 1, 0)]), counts([(shadow.addr, 0, 0)])));
}

#[tokio::test]
async fn an_endpoint_that_has_left_is_forgotten_when_drained_and_begins_anew() {
    let ((old, gate), new) = (held("old").await, Origin::named("new").await);
    let proxy = proxy(Routes::all_to("stable", vec![old.addr]));
    let addr = proxy.local_addr();
    gate.add_permits(2);
    let mut client = Client::to(addr).await;
    assert_eq!(
        (client.who().await, client.who().await),
        ("old".to_owned(), "old".to_owned())
    );
    let last = tokio::spawn(async move { client.who().await });
    until("it is under way", || {
        proxy.snapshot().revisions["stable"].in_flight == 1
    })
    .await;
    // Away, back (its counts go on, since somebody still waits for it), and away again.
    for endpoints in [vec![new.addr], vec![old.addr, new.addr], vec![new.addr]] {
        proxy.set_routes(Routes::all_to("stable", endpoints)).expect("valid");
        assert_eq!(seen(&proxy, "stable"), counts([(old.addr, 2, 0), (new.addr, 0, 0)]));
    }
    gate.add_permits(1);
    assert_eq!(last.await.expect("it ran"), "old");
    until("it is forgotten", || {
        seen(&proxy, "stable") == counts([(new.addr, 0, 0)])
    })
    .await;
    proxy
        .set_routes(Routes::all_to("stable", vec![old.addr, new.addr]))
        .expect("valid");
    assert_eq!(seen(&proxy, "stable"), counts([(old.addr, 0, 0), (new.addr, 0, 0)]));
}
