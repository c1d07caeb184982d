//! Smoke runs against real servers on loopback and real commands.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use axum::Router;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{get, post};
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use serde_json::json;
use tokio::net::TcpListener;

use super::*;

async fn serve(name: &str, router: Router) -> SmokeTarget {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    SmokeTarget {
        name: name.to_owned(),
        address,
        prefix: String::new(),
    }
}

/// An address where nobody listens.
async fn nobody(name: &str) -> SmokeTarget {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    SmokeTarget {
        name: name.to_owned(),
        address: listener.local_addr().unwrap(),
        prefix: String::new(),
    }
}

fn healthy() -> Router {
    Router::new().route("/healthz", get(|| async { "ok" })).route(
        "/cart",
        post(|headers: HeaderMap, body: String| async move {
            let asked = headers.get("x-shop").map(|value| value.to_str().unwrap().to_owned());
            (
                [("x-served-by", "hello")],
                axum::Json(json!({"asked": asked, "body": body, "items": [1, 2]})),
            )
        }),
    )
}

/// Tests as a user writes them.
fn plan(tests: serde_json::Value) -> SmokePlan {
    SmokePlan {
        tests: serde_json::from_value(tests).unwrap(),
        tries: 1,
        within: Span::secs(20),
        again: None,
    }
}

async fn outcome(plan: &SmokePlan, targets: &[SmokeTarget]) -> SmokeReport {
    with_env(plan, targets, &[]).await
}

async fn with_env(plan: &SmokePlan, targets: &[SmokeTarget], env: &[(&str, &str)]) -> SmokeReport {
    let env = env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let (plan, targets) = (plan.clone(), targets.to_vec());
    // Spawned as the controller does: the future has to be `Send`.
    tokio::spawn(async move { run(&plan, &targets, &env, &http_client()).await })
        .await
        .unwrap()
}

/// The summary without the time it took.
fn timeless(report: &SmokeReport) -> String {
    match (report.summary.find(" in "), report.summary.find(" (")) {
        (Some(from), Some(to)) if report.passed => format!("{}{}", &report.summary[..from], &report.summary[to..]),
        _ => report.summary.clone(),
    }
}

fn failed(summary: &str) -> SmokeReport {
    report(false, summary.to_owned())
}

#[tokio::test]
async fn a_report_of_success_names_every_test_and_the_number_of_instances() {
    let targets = [serve("hello-1", healthy()).await, serve("hello-2", healthy()).await];
    let plan = plan(json!([
        {"http": "/healthz"},
        {"http": "/cart", "method": "POST", "headers": {"X-Shop": "berlin"}, "body": "tea",
         "status": 200, "expectHeaders": {"X-Served-By": "hello"}, "contains": "\"tea\"",
         "json": {"$.asked": "berlin", "$.items[*]": [1, 2.0]}, "within": "5s"},
        {"command": ["/bin/sh", "-c", "true"]},
    ]));
    let report = outcome(&plan, &targets).await;
    assert!(report.passed, "{}", report.summary);
    assert_eq!(
        timeless(&report),
        "smoke tests passed: 3 of 3 (GET /healthz on 2 instances, POST /cart on 2 instances, command `/bin/sh -c true` on 2 instances)"
    );
}

#[tokio::test]
async fn one_bad_instance_fails_the_revision_and_the_report_shows_what_it_said() {
    let bad = Router::new().route(
        "/healthz",
        get(|| async { (StatusCode::INTERNAL_SERVER_ERROR, "no\n\u{1b}[31mdatabase") }),
    );
    let targets = [serve("hello-1", healthy()).await, serve("hello-2", bad).await];
    let mut plan = plan(json!([{"http": "/healthz?token=secret"}]));
    plan.tries = 2;
    assert_eq!(
        outcome(&plan, &targets).await,
        failed(
            "smoke test GET /healthz failed on hello-2: answered 500 where 2xx was expected (2 tries); body begins `no\\n\\u{1b}[31mdatabase`"
        )
    );
}

#[tokio::test]
async fn a_later_try_may_pass_and_no_more_tries_are_made_than_said() {
    let asked = Arc::new(AtomicU32::new(0));
    let counter = Arc::clone(&asked);
    let warming = Router::new().route(
        "/",
        get(move || async move {
            match counter.fetch_add(1, Ordering::SeqCst) {
                0 | 1 => StatusCode::SERVICE_UNAVAILABLE,
                _ => StatusCode::OK,
            }
        }),
    );
    let targets = [serve("hello-1", warming).await];
    let mut plan = plan(json!([{"http": "/"}]));
    plan.tries = 2;
    assert!(!outcome(&plan, &targets).await.passed);
    assert_eq!(asked.load(Ordering::SeqCst), 2);
    assert!(outcome(&plan, &targets).await.passed);
    assert_eq!(asked.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_redirect_is_an_answer_and_is_not_followed() {
    let away = Router::new()
        .route(
            "/",
            get(|| async { (StatusCode::FOUND, [("location", "/healthz")], "") }),
        )
        .merge(healthy());
    let targets = [serve("hello-1", away).await];
    assert_eq!(
        outcome(&plan(json!([{"http": "/"}])), &targets).await,
        failed("smoke test GET / failed on hello-1: answered 302 where 2xx was expected (1 try)")
    );
    assert!(
        outcome(&plan(json!([{"http": "/", "status": 302}])), &targets)
            .await
            .passed
    );
}

#[tokio::test]
async fn a_client_that_follows_redirects_is_refused() {
    let away = Router::new()
        .route(
            "/",
            get(|| async { (StatusCode::FOUND, [("location", "/healthz")], "") }),
        )
        .merge(healthy());
    let targets = [serve("hello-1", away).await];
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let report = run(&plan(json!([{"http": "/"}])), &targets, &BTreeMap::new(), &client).await;
    assert_eq!(
        report,
        failed(
            "smoke test GET / cannot run on hello-1: the HTTP client followed a redirect, so another server may have answered; use `smoke::http_client`"
        )
    );
}

#[tokio::test]
async fn an_answer_that_comes_late_fails_with_the_time_it_took() {
    let slow = Router::new().route(
        "/",
        get(|| async {
            tokio::time::sleep(Duration::from_millis(60)).await;
            "ok"
        }),
    );
    let targets = [serve("hello-1", slow).await];
    let report = outcome(&plan(json!([{"http": "/", "within": "20ms"}])), &targets).await;
    let begin = "smoke test GET / failed on hello-1: answered 200 after ";
    let rest = report
        .summary
        .strip_prefix(begin)
        .unwrap_or_else(|| panic!("{}", report.summary));
    assert!(rest.ends_with("where at most 20ms is allowed (1 try)"), "{rest}");
}

#[tokio::test]
async fn silence_ends_with_the_time_for_all_tests_and_later_tests_do_not_run() {
    let silent = Router::new().route("/", get(|| async { std::future::pending::<&str>().await }));
    let targets = [serve("hello-1", silent).await];
    let mut plan = plan(json!([{"http": "/"}, {"command": ["/does/not/exist"]}]));
    plan.tries = 5;
    plan.within = Span::millis(150);
    let report = outcome(&plan, &targets).await;
    let begin = "smoke test GET / failed on hello-1: no answer within the ";
    let rest = report
        .summary
        .strip_prefix(begin)
        .unwrap_or_else(|| panic!("{}", report.summary));
    assert!(
        rest.ends_with(" left of 150ms for all smoke tests (1 try); then the 150ms for all smoke tests were up"),
        "{rest}"
    );
}

#[tokio::test]
async fn an_instance_that_cannot_be_reached_fails_with_the_reason() {
    let targets = [nobody("hello-1").await];
    assert_eq!(
        outcome(&plan(json!([{"http": "/"}])), &targets).await,
        failed(
            "smoke test GET / failed on hello-1: it could not be reached (Connection refused (os error 111)) (1 try)"
        )
    );
    assert_eq!(
        outcome(&plan(json!([{"grpc": ""}])), &targets).await,
        failed(
            "smoke test gRPC health failed on hello-1: it could not be reached (Connection refused (os error 111)) (1 try)"
        )
    );
}

#[tokio::test]
async fn grpc_health_is_asked_by_service_name() {
    let (reporter, service) = tonic_health::server::health_reporter();
    reporter
        .set_service_status("shop.Cart", tonic_health::ServingStatus::Serving)
        .await;
    reporter
        .set_service_status("shop.Pay", tonic_health::ServingStatus::NotServing)
        .await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let targets = [SmokeTarget {
        name: "hello-1".to_owned(),
        address: listener.local_addr().unwrap(),
        prefix: String::new(),
    }];
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = TowerToHyperService::new(service.clone());
            let connection = http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service);
            tokio::spawn(connection);
        }
    });
    let report = outcome(&plan(json!([{"grpc": "shop.Cart"}, {"grpc": ""}])), &targets).await;
    assert_eq!(
        timeless(&report),
        "smoke tests passed: 2 of 2 (gRPC health of shop.Cart on 1 instance, gRPC health on 1 instance)"
    );
    assert_eq!(
        outcome(&plan(json!([{"grpc": "shop.Pay"}])), &targets).await,
        failed(
            "smoke test gRPC health of shop.Pay failed on hello-1: answered NOT_SERVING where SERVING was expected (1 try)"
        )
    );
    assert_eq!(
        outcome(&plan(json!([{"grpc": "shop.Tea"}])), &targets).await,
        failed(
            "smoke test gRPC health of shop.Tea failed on hello-1: it does not report the health of such a service; check the name (1 try)"
        )
    );
}

fn sh(script: &str) -> SmokePlan {
    plan(json!([{"command": ["/bin/sh", "-c", script]}]))
}

#[tokio::test]
async fn a_command_sees_the_address_and_what_was_passed_and_nothing_of_ours() {
    let targets = [nobody("hello-1").await];
    // `PWD`, `OLDPWD`, `SHLVL` and `_` are the shell's own.
    let script = r#"
        for name in $(env | cut -d= -f1); do
            case $name in
                PATH|HOME|LANG|TZ|TMPDIR|WADE_URL|EXPECTED|PWD|OLDPWD|SHLVL|_) ;;
                *) echo "also sees $name"; exit 1 ;;
            esac
        done
        test "$WADE_URL" = "$EXPECTED" && test -n "$PATH""#;
    let expected = format!("http://{}", targets[0].address);
    let report = with_env(
        &sh(script),
        &targets,
        &[("EXPECTED", &expected), ("WADE_URL", "overridden")],
    )
    .await;
    assert!(report.passed, "{}", report.summary);
}

#[tokio::test]
async fn a_command_that_fails_is_reported_with_its_last_lines() {
    let targets = [nobody("hello-1").await];
    let mut plan = sh("for i in 1 2 3 4 5 6; do echo line $i; done; exit 3");
    plan.tries = 2;
    assert_eq!(
        outcome(&plan, &targets).await,
        failed(
            "smoke test command `/bin/sh -c for i in 1 2 3 4 5 6; do echo line $i; done; exit 3` failed on hello-1: ended with 3 where 0 was expected (2 tries); last lines `line 3 | line 4 | line 5 | line 6`"
        )
    );
}

#[tokio::test]
async fn a_command_that_cannot_be_started_is_not_tried_again() {
    let targets = [nobody("hello-1").await];
    let mut plan = plan(json!([{"command": ["/does/not/exist"]}]));
    plan.tries = 100;
    assert_eq!(
        outcome(&plan, &targets).await,
        failed(
            "smoke test command `/does/not/exist` cannot run on hello-1: `/does/not/exist` cannot be started (No such file or directory (os error 2)); check the path and that it is executable"
        )
    );
}

/// Whether the process that wrote its number into `file` still runs.
fn runs(file: &Path) -> bool {
    let id = std::fs::read_to_string(file).unwrap();
    // A zombie that nobody has reaped yet has a state, too.
    std::fs::read_to_string(format!("/proc/{}/stat", id.trim())).is_ok_and(|stat| {
        !stat
            .rsplit(')')
            .next()
            .unwrap_or_default()
            .trim_start()
            .starts_with(['Z', 'X'])
    })
}

async fn ends(file: &Path) {
    tokio::time::timeout(Duration::from_secs(5), async {
        while runs(file) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("the process ends");
}

#[tokio::test]
async fn at_the_limit_a_command_is_killed_with_what_it_started() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("grandchild");
    let targets = [nobody("hello-1").await];
    let script = format!("echo begun; sleep 100 & echo $! > {}; wait", file.display());
    let plan = plan(json!([{"command": ["/bin/sh", "-c", script], "within": "300ms"}]));
    let report = outcome(&plan, &targets).await;
    assert!(
        report
            .summary
            .ends_with("it did not end within 300 ms and was killed (1 try); last lines `begun`"),
        "{}",
        report.summary
    );
    ends(&file).await;
}

#[tokio::test]
async fn what_a_command_leaves_behind_does_not_hold_up_the_run_and_ends_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("grandchild");
    let targets = [nobody("hello-1").await];
    let report = outcome(&sh(&format!("sleep 100 & echo $! > {}", file.display())), &targets).await;
    assert!(report.passed, "{}", report.summary);
    ends(&file).await;
}

#[tokio::test]
async fn a_dropped_run_kills_the_command() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("grandchild");
    let targets = [nobody("hello-1").await];
    let plan = sh(&format!("sleep 100 & echo $! > {}; wait", file.display()));
    let (env, client) = (BTreeMap::new(), http_client());
    let begun = async {
        while !std::fs::read_to_string(&file).is_ok_and(|text| text.ends_with('\n')) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        report = run(&plan, &targets, &env, &client) => panic!("{}", report.summary),
        () = begun => {}
    }
    ends(&file).await;
}

#[tokio::test]
async fn no_tests_pass_and_no_instances_do_not() {
    assert_eq!(
        outcome(&plan(json!([])), &[]).await,
        report(true, "no smoke tests are declared".to_owned())
    );
    assert_eq!(
        outcome(&plan(json!([{"http": "/"}])), &[]).await,
        failed("smoke tests did not run: the new revision has no instance to ask (1 declared); check that it starts")
    );
}

#[tokio::test]
async fn mistakes_in_a_test_are_named_without_its_secrets() {
    let targets = [serve("hello-1", healthy()).await];
    for (test, why) in [
        (
            json!({"http": "@example.org/"}),
            "`@example.org/` is not a path; begin it with `/`",
        ),
        (
            json!({"http": "/", "method": "GE T"}),
            "`GE T` is not an HTTP method; write one like `POST`",
        ),
        (
            json!({"http": "/", "headers": {"Authorization": "Bearer a\nb"}}),
            "the value of header `Authorization` cannot be sent; remove line breaks and control characters",
        ),
        (
            json!({"http": "/", "headers": {"a b": "c"}}),
            "`a b` is not a header name; use letters, digits and `-`",
        ),
    ] {
        let report = outcome(&plan(json!([test])), &targets).await;
        let (_, said) = report
            .summary
            .split_once(" cannot run on hello-1: ")
            .expect("a mistake in the test");
        assert_eq!(said, why);
    }
}
