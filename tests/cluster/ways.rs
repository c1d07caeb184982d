//! Other ways to release, and what else may lie around a Deployment: no route, blue/green, back to the revision before,
//! Services that select the same pods, connections that are kept open, short histories.

use serde_json::json;

use crate::healthy::{figures, the_judged_pods_serve};
use crate::support::api::Kind;
use crate::support::client::Connections;
use crate::support::recorder::text;
use crate::support::space::{APP, Sample, Space};
use crate::support::trial::{Policy, SHORT, Trial};
use crate::support::{now, seconds};

/// All at once, after a look without users.
const BLUE_GREEN: Policy = Policy {
    strategy: "blueGreen: {preview: 4s, bake: 6s}",
    waits: 2.0 + 4.0 + 6.0 + 3.0,
    ..SHORT
};

/// Seconds; a switch that waited for something would wait for the bake, which is longer. The figure itself is printed.
const AT_ONCE: f64 = 5.0;

/// Looks every second, and a plain threshold.
const QUICK_EYE: Policy = Policy {
    strategy: "canary: {steps: [{weight: 25%, max: 40s}, {weight: 50%, max: 40s}], bake: 5s}",
    analysis: "{source: {scrape: {path: /metrics, every: 1s}}, look: 1s, tripwire: {errors: 25%, looks: 2, minRequests: 3}}",
    ..SHORT
};

fn without_route() -> Sample {
    Sample {
        route: false,
        ..Sample::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes node: just cluster-test"]
async fn share_by_pods_promotes_a_healthy_version() {
    let mut trial = Trial::start("share", &without_route()).await;
    let kept = trial.space.through_service(APP, 20, Connections::Kept).await;
    trial.add("kept", kept);
    let step = trial.deploy("1.1", &SHORT);
    let seen = trial.end(step).await;
    figures("share by pods", &seen, &SHORT);
    seen.exits_with(0);
    seen.nothing_lost();
    seen.never_below(4);
    the_judged_pods_serve(&seen, 4);
    seen.nothing_left_but_the_record().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes node: just cluster-test"]
async fn share_by_pods_takes_a_bad_version_back() {
    let trial = Trial::start("share-bad", &without_route()).await;
    let step = trial.deploy("errors", &QUICK_EYE);
    let seen = trial.end(step).await;
    let bad = seen.tally("service").bad();
    let (first, last) = (bad.first().expect("users met it"), bad.last().expect("they did"));
    eprintln!(
        "FIGURE share by pods, every answer 500: {:.1} s from the first bad answer to the last one; {}",
        seconds(first, last),
        seen.tally("service")
    );
    seen.exits_with(3);
    seen.only_bad_from("errors");
    seen.stable_stayed_whole();
    seen.never_below(4);
    seen.everything_as_before().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes node: just cluster-test"]
async fn blue_green_through_a_route() {
    let trial = Trial::start("bluegreen", &Sample::default()).await;
    let step = trial.deploy("2.0", &BLUE_GREEN);
    let seen = trial.end(step).await;
    figures("blue/green through a route", &seen, &BLUE_GREEN);
    seen.exits_with(0);
    seen.nothing_lost();
    seen.nobody_met_before_its_weight("2.0");
    seen.never_below(4);
    the_judged_pods_serve(&seen, 4);
    seen.nothing_left_but_the_record().await;
    // At once: no answer of the old one after the first of the new one, but for what was under way.
    let edge = seen.tally("edge");
    let first = edge.only(|answer| answer.is_from("2.0")).first().expect("it serves");
    let last = edge.only(|answer| answer.is_from("1.0")).last().expect("it served");
    let both = seconds(first, last);
    eprintln!("FIGURE blue/green through a route: both versions answered for {both:.2} s");
    assert!(both < AT_ONCE, "both answered for {both:.1} s");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes node: just cluster-test"]
async fn blue_green_without_a_route() {
    let trial = Trial::start("bluegreen-pin", &without_route()).await;
    let step = trial.deploy("2.0", &BLUE_GREEN);
    let seen = trial.end(step).await;
    figures("blue/green without a route", &seen, &BLUE_GREEN);
    seen.exits_with(0);
    seen.nothing_lost();
    seen.never_below(4);
    the_judged_pods_serve(&seen, 4);
    seen.nothing_left_but_the_record().await;
    let tally = seen.tally("service");
    let first = tally.only(|answer| answer.is_from("2.0")).first().expect("it serves");
    let last = tally.only(|answer| answer.is_from("1.0")).last().expect("it served");
    let both = seconds(first, last);
    eprintln!("FIGURE blue/green without a route: both versions answered for {both:.2} s");
    assert!(both < AT_ONCE, "both answered for {both:.1} s");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes node: just cluster-test"]
async fn bad_blue_green_goes_back() {
    let policy = Policy {
        strategy: "blueGreen: {preview: 3s, bake: 30s}",
        ..QUICK_EYE
    };
    let trial = Trial::start("bluegreen-bad", &Sample::default()).await;
    let step = trial.deploy("errors", &policy);
    let seen = trial.end(step).await;
    let (weight, last) = seen.way_back();
    eprintln!(
        "FIGURE blue/green, every answer 500: {weight:.1} s to the weight back, {last:.1} s to the last bad answer"
    );
    seen.exits_with(3);
    seen.only_bad_from("errors");
    seen.stable_stayed_whole();
    seen.everything_as_before().await;
}

/// A, then B, then A again: the pods that are judged on the way back are those that serve, in the ReplicaSet that A had.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes node: just cluster-test"]
async fn back_to_the_revision_before() {
    let space = Space::new("aba").await;
    space.deploy(&Sample::default()).await;
    let image = format!("{APP}={}", space.node.image("1.1"));
    space.kubectl(&["set", "image", "deployment/app", &image]).await;
    space.rolled_out().await;
    // What is leaving would count as a pod that was there.
    tokio::time::sleep(std::time::Duration::from_secs(6)).await;

    let trial = Trial::of(space, true).await;
    let step = trial.deploy("1.0", &SHORT);
    let seen = trial.end(step).await;
    figures("A, B and A again", &seen, &SHORT);
    seen.exits_with(0);
    seen.nothing_lost();
    seen.nobody_met_before_its_weight("1.0");
    seen.never_below(4);
    the_judged_pods_serve(&seen, 4);
    seen.nothing_left_but_the_record().await;
    assert_eq!(
        seen.trial.space.list(Kind::ReplicaSet).await.len(),
        2,
        "a second set for A"
    );
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes node: just cluster-test"]
async fn bad_way_back_to_the_revision_before() {
    let space = Space::new("aba-bad").await;
    let sample = Sample {
        tag: "errors",
        ..Sample::default()
    };
    space.deploy(&sample).await;
    let image = format!("{APP}={}", space.node.image("1.1"));
    space.kubectl(&["set", "image", "deployment/app", &image]).await;
    space.rolled_out().await;
    tokio::time::sleep(std::time::Duration::from_secs(6)).await;

    let trial = Trial::of(space, true).await;
    let step = trial.deploy("errors", &QUICK_EYE);
    let seen = trial.end(step).await;
    seen.exits_with(3);
    seen.only_bad_from("errors");
    seen.stable_stayed_whole();
    seen.everything_as_before().await;
    // The set that was there before is the Deployment's again, and empty.
    let sets = seen.trial.space.list(Kind::ReplicaSet).await;
    assert_eq!(sets.len(), 2);
    for set in &sets {
        assert_eq!(text(set, "/metadata/ownerReferences/0/kind"), "Deployment");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes node: just cluster-test"]
async fn rollback_after_a_release() {
    let trial = Trial::start("rollback", &Sample::default()).await;
    let first = trial
        .deploy("1.1", &SHORT)
        .ends(std::time::Duration::from_secs(90))
        .await;
    assert_eq!(first.code(), Some(0), "{}", first.output());
    tokio::time::sleep(std::time::Duration::from_secs(6)).await;
    let begun = now();
    let step = trial.wade(&["rollback", "deployment/app", "--reason", "wrong prices"]);
    let seen = trial.end(step).await;
    eprintln!(
        "FIGURE rollback: {:.1} s, {} pod starts\n{}",
        seconds(begun, seen.over),
        seen.history.since(begun).pods().len(),
        seen.ended.output()
    );
    seen.exits_with(0);
    seen.nothing_lost();
    seen.never_below(4);
    assert_eq!(seen.started_pods().len(), 8, "four for each of the two releases");
    assert_eq!(seen.trial.space.list(Kind::ReplicaSet).await.len(), 2);
    seen.nothing_left_but_the_record().await;
}

/// A second Service selects the same pods, a headless one: its clients resolve every pod by themselves.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes node: just cluster-test"]
async fn headless_service_does_not_leak_the_canary() {
    let space = Space::new("headless").await;
    space.deploy(&Sample::default()).await;
    let headless = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "app-peers"},
        "spec": {"clusterIP": "None", "selector": {"app": APP}, "ports": [{"name": "http", "port": 8080}]}
    });
    space.create_object(Kind::Service, &headless).await;
    let trial = Trial::of(space, true).await;
    let step = trial.deploy("1.1", &SHORT);
    let seen = trial.end(step).await;
    seen.exits_with(0);
    seen.nothing_lost();
    seen.nobody_met_before_its_weight("1.1");
    let canary = seen.started_pods();
    let handed = seen
        .history
        .of(Kind::ReplicaSet)
        .filter(|set| set.at > seen.started)
        .find(|set| canary_set_is_handed_over(set))
        .expect("it was handed over")
        .at;
    for slice in seen
        .history
        .until(handed - std::time::Duration::from_secs(3))
        .of(Kind::EndpointSlice)
    {
        if text(&slice.object, "/metadata/labels/kubernetes.io~1service-name") == "app-canary" {
            continue;
        }
        for endpoint in slice.object["endpoints"].as_array().into_iter().flatten() {
            let pod = text(endpoint, "/targetRef/uid");
            assert!(!canary.contains(pod), "{} leads to a pod of the canary", slice.name());
        }
    }
    seen.nothing_left_but_the_record().await;
}

fn canary_set_is_handed_over(set: &crate::support::recorder::Seen) -> bool {
    text(&set.object, "/spec/template/spec/containers/0/image").ends_with(":1.1")
        && text(&set.object, "/metadata/ownerReferences/0/kind") == "Deployment"
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes node: just cluster-test"]
async fn connections_that_are_kept_lose_nothing() {
    let mut trial = Trial::start("kept", &Sample::default()).await;
    let edge = trial.space.through_edge(20, Connections::Kept);
    trial.add("edge, kept open", edge);
    let service = trial.space.through_service(APP, 20, Connections::Kept).await;
    trial.add("service, kept open", service);
    let step = trial.deploy("1.1", &SHORT);
    let seen = trial.end(step).await;
    seen.exits_with(0);
    seen.nothing_lost();
    seen.never_below(4);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes node: just cluster-test"]
async fn history_of_none_promotes() {
    with_history("history0", 0, "1.1", &SHORT, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes node: just cluster-test"]
async fn history_of_none_goes_back() {
    with_history("history0-bad", 0, "errors", &QUICK_EYE, 3).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes node: just cluster-test"]
async fn history_of_one_goes_back() {
    with_history("history1-bad", 1, "errors", &QUICK_EYE, 3).await;
}

async fn with_history(test: &str, limit: u32, tag: &str, policy: &Policy, code: i32) {
    let space = Space::new(test).await;
    let sample = Sample {
        over: json!({"spec": {"revisionHistoryLimit": limit}}),
        ..Sample::default()
    };
    space.deploy(&sample).await;
    // One more revision behind it, as far as there is a history.
    let image = format!("{APP}={}", space.node.image("1.2"));
    space.kubectl(&["set", "image", "deployment/app", &image]).await;
    space.rolled_out().await;
    tokio::time::sleep(std::time::Duration::from_secs(6)).await;
    let trial = Trial::of(space, true).await;
    let step = trial.deploy(tag, policy);
    let seen = trial.end(step).await;
    seen.exits_with(code);
    seen.only_bad_from("errors");
    seen.never_below(4);
    if code == 0 {
        the_judged_pods_serve(&seen, 4);
        seen.nothing_left_but_the_record().await;
    } else {
        seen.stable_stayed_whole();
        seen.everything_as_before().await;
    }
}
