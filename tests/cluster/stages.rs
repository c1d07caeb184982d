//! Stages that are no weights: requests that carry a header or a cookie, and copies of requests.

use std::time::Duration;

use serde_json::Value;

use crate::support::api::Kind;
use crate::support::eventually;
use crate::support::recorder::text;
use crate::support::space::Sample;
use crate::support::step::Step;
use crate::support::trial::{Policy, SHORT, Trial};

const WITHIN: Duration = Duration::from_secs(60);

/// Six seconds for those who match, then everybody in two steps.
const BY_HEADER: Policy = Policy {
    strategy: "ab: {match: {header: {name: X-Wade-Canary, value: always}}, min: 6s, max: 6s, steps: [{weight: 50%, max: 4s}], bake: 3s}",
    ..SHORT
};

const BY_COOKIE: Policy = Policy {
    strategy: "ab: {match: {cookie: {name: beta, value: always}}, min: 6s, max: 6s, steps: [{weight: 50%, max: 4s}], bake: 3s}",
    ..SHORT
};

const BY_COPIES: Policy = Policy {
    strategy: "shadow: {mirror: 50%, min: 6s, max: 6s, steps: [{weight: 50%, max: 4s}], bake: 3s}",
    ..SHORT
};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes node: just cluster-test"]
async fn a_header_leads_those_who_carry_it() {
    only_who_asks("header", &BY_HEADER, ("x-wade-canary", "always")).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes node: just cluster-test"]
async fn a_cookie_leads_those_who_carry_it() {
    only_who_asks("cookie", &BY_COOKIE, ("cookie", "theme=dark; beta=always; lang=en")).await;
}

async fn only_who_asks(test: &str, policy: &Policy, header: (&'static str, &'static str)) {
    let mut trial = Trial::start(test, &Sample::default()).await;
    let insider = trial.space.through_edge_with(20, header);
    trial.add("insider", insider);
    let step = trial.deploy("1.1", policy);
    // Two seconds of the matched stage: all who ask for it get the new version, and nobody else does.
    eventually("those who ask get the new version", WITHIN, || async {
        let met = trial.so_far("insider").only(|answer| answer.is_from("1.1")).total();
        (met >= 40).then_some(())
    })
    .await;
    nobody_else_until_its_weight(trial, step).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes node: just cluster-test"]
async fn copies_reach_the_canary_and_their_answers_nobody() {
    let trial = Trial::start("copies", &Sample::default()).await;
    let step = trial.deploy("1.1", &BY_COPIES);
    eventually("the canary answers copies", WITHIN, || async {
        (answered_by(&trial, ":1.1").await >= 40.0).then_some(())
    })
    .await;
    nobody_else_until_its_weight(trial, step).await;
}

/// So far only the matched stage's users have met the new version; then it is promoted as any other.
async fn nobody_else_until_its_weight(trial: Trial, step: Step) {
    for everybody in ["edge", "service"] {
        let met = trial.so_far(everybody).only(|answer| answer.is_from("1.1"));
        assert_eq!(met.total(), 0, "{everybody}: {met}");
    }
    let seen = trial.end(step).await;
    seen.exits_with(0);
    seen.nothing_lost();
    seen.never_below(4);
    seen.nothing_left_but_the_record().await;
}

/// How many requests the pods with this image have answered, as they tell it themselves.
async fn answered_by(trial: &Trial, image: &str) -> f64 {
    let mut sum = 0.0;
    for pod in trial.space.list(Kind::Pod).await {
        let running = pod.pointer("/status/phase") == Some(&Value::from("Running"));
        if !running || !text(&pod, "/spec/containers/0/image").ends_with(image) {
            continue;
        }
        let path = format!(
            "/api/v1/namespaces/{}/pods/{}:8080/proxy/metrics",
            trial.space.name,
            text(&pod, "/metadata/name")
        );
        let metrics = trial.space.kubectl(&["get", "--raw", &path]).await;
        let counts = metrics.lines().filter(|line| line.starts_with("http_requests_total{"));
        sum += counts
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum::<f64>();
    }
    sum
}
