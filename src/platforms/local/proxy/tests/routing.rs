//! Who gets which request: weights, matches, sticky users, mirrors.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::{Request, Response, StatusCode};
use tokio::sync::Semaphore;

use super::harness::*;
use crate::platforms::local::proxy::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn weights_are_exact_with_many_clients_at_once() {
    let (stable, canary) = (Origin::named("stable").await, Origin::named("canary").await);
    let proxy = proxy(split(stable.addr, canary.addr, 37));
    let clients = (0..10).map(|_| {
        let addr = proxy.local_addr();
        tokio::spawn(async move {
            let mut client = Client::to(addr).await;
            for _ in 0..200 {
                client.who().await;
            }
        })
    });
    futures_util::future::join_all(clients).await;
    let seen = proxy.snapshot().revisions;
    let counts = [seen["stable"].users.requests, seen["canary"].users.requests];
    assert_eq!(counts, [2 * 963, 2 * 37]);
}

#[tokio::test]
async fn without_weights_the_answer_is_503_in_one_sentence() {
    let proxy = Proxy::bind(config()).expect("loopback has a port");
    let answer = Client::to(proxy.local_addr()).await.get(&[]).await;
    let expected = "shop serves no revision right now; try again later.\n".to_owned();
    assert_eq!(
        (answer, proxy.snapshot().unrouted),
        ((StatusCode::SERVICE_UNAVAILABLE, expected), 1)
    );
}

#[tokio::test]
async fn refused_routes_change_nothing() {
    let proxy = Proxy::bind(config()).expect("loopback has a port");
    let good = split(LOOPBACK, LOOPBACK, 10);
    proxy.set_routes(good.clone()).expect("valid");
    let mut sum = good.clone();
    sum.split[0].weight = 10;
    let mut twice = good.clone();
    twice.split[1].revision = "stable".to_owned();
    let rule = |on, revision: &str| MatchRule {
        on,
        test: MatchTest::Present,
        revision: revision.to_owned(),
    };
    let unknown = Routes {
        matches: vec![rule(MatchOn::Cookie("a".to_owned()), "gone")],
        ..good.clone()
    };
    let name = Routes {
        matches: vec![rule(MatchOn::Header("a b".to_owned()), "canary")],
        ..good.clone()
    };
    let mirror = Routes {
        mirror: Some(Mirror {
            revision: "canary".to_owned(),
            permille: 1001,
        }),
        ..good.clone()
    };
    let faults = [sum, twice, unknown, name, mirror].map(|routes| proxy.set_routes(routes).unwrap_err().to_string());
    insta::assert_snapshot!(faults.join("\n"), @r#"
    weights sum to 20 permille; make them sum to 1000, or all 0 to answer 503
    revision "stable" is in the split twice; name each once, with all its endpoints
    a match rule names revision "gone", which is not in the split; add it there, with weight 0 if need be
    "a b" is not a valid header or cookie name; use letters, digits and -_ only
    the mirror asks for 1001 permille; 1000 is everything
    "#);
    assert_eq!(proxy.routes(), good);
}

#[tokio::test]
async fn matches_come_before_weights_and_reach_weight_zero() {
    let (stable, canary) = (Origin::named("stable").await, Origin::named("canary").await);
    let mut routes = split(stable.addr, canary.addr, 0);
    let rule = |on, test| MatchRule {
        on,
        test,
        revision: "canary".to_owned(),
    };
    routes.matches = vec![
        rule(MatchOn::Header("X-Team".to_owned()), MatchTest::Exact("pay".to_owned())),
        rule(
            MatchOn::Header("user-agent".to_owned()),
            MatchTest::Prefix("smoke/".to_owned()),
        ),
        rule(MatchOn::Cookie("beta".to_owned()), MatchTest::Present),
    ];
    let proxy = proxy(routes);
    let mut client = Client::to(proxy.local_addr()).await;
    let cases: [(&[(&str, &str)], &str); 7] = [
        (&[], "stable"),
        (&[("x-team", "pay")], "canary"),
        (&[("x-team", "payments")], "stable"),
        (&[("user-agent", "smoke/1.0")], "canary"),
        (&[("cookie", "a=b; beta=; c=d")], "canary"),
        (&[("cookie", "betamax=1")], "stable"),
        (&[("x-team", "ship"), ("x-team", "pay")], "canary"),
    ];
    for (headers, expected) in cases {
        assert_eq!(client.get(headers).await.1, expected, "{headers:?}");
    }
}

#[tokio::test]
async fn sticky_users_stay_on_a_growing_canary_and_leave_it_at_weight_zero() {
    let (stable, canary) = (Origin::named("stable").await, Origin::named("canary").await);
    let proxy = proxy(Routes::default());
    let set = |weight| {
        let sticky = Some(StickyCookie {
            name: "wade".to_owned(),
            ttl: Duration::from_secs(3600),
        });
        proxy
            .set_routes(Routes {
                sticky,
                ..split(stable.addr, canary.addr, weight)
            })
            .expect("valid");
    };
    set(100);
    let mut client = Client::to(proxy.local_addr()).await;
    let mut users = Vec::new();
    for _ in 0..200 {
        let answer = client.send(get(&[])).await.expect("answered");
        let cookie = answer.headers()["set-cookie"].to_str().expect("text").to_owned();
        let (value, attributes) = cookie.split_once(';').expect("attributes");
        assert_eq!(attributes, " Path=/; Max-Age=3600; HttpOnly; SameSite=Lax");
        users.push((value.to_owned(), read(answer).await));
    }
    // New users follow the exact split.
    assert_eq!(users.iter().filter(|(_, at)| at == "canary").count(), 20);
    let mut on_canary = Vec::new();
    for weight in [100, 500, 0, 100] {
        set(weight);
        let mut now = 0;
        for (cookie, first) in &users {
            let answer = client.send(get(&[("cookie", cookie)])).await.expect("answered");
            assert!(
                !answer.headers().contains_key("set-cookie"),
                "a known user needs no new cookie"
            );
            let at = read(answer).await;
            assert!(
                weight == 0 || first == "stable" || at == "canary",
                "a canary user left at {weight}"
            );
            now += usize::from(at == "canary");
        }
        on_canary.push(now);
    }
    // 200 users at 50 %: 70 to 130 is four and more standard deviations.
    assert!(matches!(on_canary[..], [20, 70..=130, 0, 20]), "{on_canary:?}");
    // A cookie that is not ours goes by the split and is replaced.
    set(0);
    let answer = client
        .send(get(&[("cookie", "wade=revision-7")]))
        .await
        .expect("answered");
    assert!(answer.headers().contains_key("set-cookie"));
    assert_eq!(read(answer).await, "stable");
}

#[tokio::test]
async fn mirrored_answers_are_counted_apart_and_never_delay_the_user() {
    let stable = Origin::named("stable").await;
    let gate = Arc::new(Semaphore::new(0));
    let marked = Arc::new(AtomicUsize::new(0));
    let (held, marks) = (Arc::clone(&gate), Arc::clone(&marked));
    let shadow = Origin::serving(move |request: Request<hyper::body::Incoming>| {
        let (held, marks) = (Arc::clone(&held), Arc::clone(&marks));
        async move {
            let mark = request.headers().get("x-wade-mirror").is_some_and(|mark| mark == "1");
            let body = http_body_util::BodyExt::collect(request.into_body())
                .await
                .expect("complete")
                .to_bytes();
            marks.fetch_add(
                usize::from(mark && (body.is_empty() || body == "four")),
                Ordering::SeqCst,
            );
            held.acquire().await.expect("open").forget();
            let mut answer = Response::new(text("lost"));
            *answer.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            answer
        }
    })
    .await;
    let mut settings = config();
    settings.mirror_concurrency = 4;
    settings.mirror_body_bytes = 4;
    let proxy = Proxy::bind(settings).expect("loopback has a port");
    let mirror = Some(Mirror {
        revision: "shadow".to_owned(),
        permille: 1000,
    });
    let split = vec![
        backend("stable", 1000, &[stable.addr]),
        backend("shadow", 0, &[shadow.addr]),
    ];
    proxy
        .set_routes(Routes {
            split,
            mirror,
            ..Routes::default()
        })
        .expect("valid");
    let mut client = Client::to(proxy.local_addr()).await;
    let post = |body: &'static str| Request::post("/").body(text(body)).expect("valid");
    // Too long; then three without a body and one with, which all hang; then one too many.
    for request in [post("fives"), get(&[]), get(&[]), post("four"), get(&[]), get(&[])] {
        assert_eq!(read(client.send(request).await.expect("answered")).await, "stable");
    }
    until("four copies arrive", || marked.load(Ordering::SeqCst) == 4).await;
    let before = proxy.snapshot().revisions["shadow"].clone();
    assert_eq!(
        (
            before.mirror_in_flight,
            before.mirror_skipped["body"],
            before.mirror_skipped["full"]
        ),
        (4, 1, 1)
    );
    gate.add_permits(4);
    until("copies end", || {
        proxy.snapshot().revisions["shadow"].mirror_in_flight == 0
    })
    .await;
    let seen = proxy.snapshot().revisions;
    let (stable, shadow) = (&seen["stable"], &seen["shadow"]);
    assert_eq!(
        (stable.users.requests, stable.users.errors, stable.mirror.requests),
        (6, 0, 0)
    );
    assert_eq!(
        (shadow.users.requests, shadow.mirror.requests, shadow.mirror.errors),
        (0, 4, 4)
    );
    assert_eq!(shadow.mirror.latency.iter().sum::<u64>(), 4);
}
