//! Quotas, evictions and autoscalers: what takes pods away, or does not give them, in the middle of a release.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use crate::healthy::{figures, the_judged_pods_serve};
use crate::support::api::Kind;
use crate::support::metrics::Metrics;
use crate::support::recorder::{lowest, text};
use crate::support::space::{APP, Sample, Space};
use crate::support::trial::{Evidence, Policy, SHORT, Trial, weights};
use crate::support::{eventually, now, seconds};

fn quota(pods: u32) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "room"},
        "spec": {"hard": {"pods": pods.to_string()}}
    })
}

/// Waits until the quota is counted: before, it refuses every pod.
async fn with_quota(space: &Space, pods: u32) {
    space.create_object(Kind::ResourceQuota, &quota(pods)).await;
    eventually("the quota is counted", Duration::from_secs(20), || async {
        let quota = space.get(Kind::ResourceQuota, "room").await?;
        quota.pointer("/status/used/pods").map(drop)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes node: just cluster-test"]
async fn quota_too_small_is_refused_untouched() {
    let space = Space::new("quota").await;
    space.deploy(&Sample::default()).await;
    with_quota(&space, 6).await;
    let trial = Trial::of(space, true).await;
    let step = trial.deploy("1.1", &SHORT);
    let seen = trial.end(step).await;
    seen.exits_with(5);
    seen.says("quota room");
    seen.nothing_lost();
    assert!(seen.writes().is_empty(), "{:?}", seen.writes());
    seen.everything_as_before().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes node: just cluster-test"]
async fn quota_that_shrinks_in_mid_release() {
    let space = Space::new("quota-less").await;
    space.deploy(&Sample::default()).await;
    with_quota(&space, 8).await;
    let trial = Trial::of(space, true).await;
    let step = trial.deploy("1.1", &SHORT);
    trial.weight_is(25).await;
    let path = trial.space.path(Kind::ResourceQuota, "room");
    let smaller = json!({"spec": {"hard": {"pods": "5"}}});
    trial.space.api.merge(&path, &smaller).await.expect("an admin may");
    let seen = trial.end(step).await;
    eprintln!(
        "FIGURE quota that shrinks: {:.1} s in all, exit {:?}",
        seen.took(),
        seen.ended.code()
    );
    seen.exits_with(3);
    seen.says("quota");
    seen.nothing_lost();
    seen.stable_stayed_whole();
    seen.everything_as_before().await;
}

/// A drain of the node in the bake: pods are evicted as fast as the budgets allow.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes node: just cluster-test"]
async fn evictions_in_the_bake_keep_the_budget() {
    let policy = Policy {
        strategy: "canary: {steps: [{weight: 50%, max: 5s}], bake: 12s}",
        waits: 2.0 * 2.0 + 5.0 + 12.0 + 3.0,
        ..SHORT
    };
    let space = Space::new("evictions").await;
    space.deploy(&Sample::default()).await;
    let budget = json!({
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": APP},
        "spec": {"minAvailable": 3, "selector": {"matchLabels": {"app": APP}}}
    });
    space.create_object(Kind::PodDisruptionBudget, &budget).await;
    let trial = Trial::of(space, true).await;
    let step = trial.deploy("1.1", &policy);
    trial.weight_is(100).await;
    let begun = now();
    let (mut evicted, mut refused) = (0, 0);
    while seconds(begun, now()) < 9.0 {
        for pod in trial.space.list(Kind::Pod).await {
            if !text(&pod, "/spec/containers/0/image").ends_with(":1.1")
                || pod.pointer("/metadata/deletionTimestamp").is_some()
            {
                continue;
            }
            let name = text(&pod, "/metadata/name");
            let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}});
            let path = format!("{}/eviction", trial.space.path(Kind::Pod, name));
            let asked = trial
                .space
                .api
                .send(Method::POST, &path, Some(("application/json", &eviction)));
            match asked.await {
                Ok(_) => evicted += 1,
                Err(_) => refused += 1,
            }
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    let seen = trial.end(step).await;
    let ready = seen
        .history
        .ready_pods(|pod| text(pod, "/spec/containers/0/image").ends_with(":1.1"));
    let full = weights(&seen.history).into_iter().find(|(_, weight)| *weight == 100);
    let least = lowest(&ready, full.expect("it was at 100 %").0);
    eprintln!(
        "FIGURE evictions in the bake: {evicted} evicted, {refused} refused, {least:?} ready pods of the new revision at the least; exit {:?}; edge {}",
        seen.ended.code(),
        seen.tally("edge")
    );
    assert!(evicted > 0 && refused > 0, "{evicted} evicted, {refused} refused");
    seen.nothing_lost();
    seen.exits_with(0);
    assert!(least >= Some(3), "{ready:?}");
    seen.nothing_left_but_the_record().await;
}

/// A real HorizontalPodAutoscaler on a queue of ten for each pod.
async fn scaled(space: &Space, queue: u32) -> Metrics {
    let metrics = Metrics::new(space);
    set_queue(&metrics, queue);
    let target = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": APP});
    let average = json!({"type": "AverageValue", "averageValue": "10"});
    let hpa = json!({
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": APP},
        "spec": {"scaleTargetRef": target, "minReplicas": 2, "maxReplicas": 8, "metrics": [
            {"type": "External", "external": {"metric": {"name": "queue"}, "target": average}}
        ]}
    });
    space.create_object(Kind::HorizontalPodAutoscaler, &hpa).await;
    metrics
}

fn set_queue(metrics: &Metrics, queue: u32) {
    metrics.set(&json!({"external": {"queue": queue.to_string()}}));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes node: just cluster-test"]
async fn autoscaler_scales_up_in_mid_release() {
    let space = Space::new("hpa-up").await;
    space.deploy(&Sample::default()).await;
    let metrics = scaled(&space, 40).await;
    let trial = Trial::of(space, true).await;
    let step = trial.deploy("1.1", &SHORT);
    trial.weight_is(25).await;
    set_queue(&metrics, 60);
    let seen = trial.end(step).await;
    figures("autoscaler up", &seen, &SHORT);
    seen.exits_with(0);
    seen.nothing_lost();
    seen.never_below(4);
    never_below_target(&seen);
    assert_eq!(replicas(&seen).await, 6);
    the_new_serve(&seen, 6).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes node: just cluster-test"]
async fn autoscaler_scales_down_in_mid_release() {
    let space = Space::new("hpa-down").await;
    space.deploy(&Sample::default()).await;
    let metrics = scaled(&space, 40).await;
    let trial = Trial::of(space, true).await;
    let step = trial.deploy("1.1", &SHORT);
    trial.weight_is(25).await;
    // Its load goes where the traffic goes; the way back has to stay warm.
    set_queue(&metrics, 20);
    let seen = trial.end(step).await;
    seen.exits_with(0);
    seen.nothing_lost();
    never_below_target(&seen);
    // Afterwards it has its way.
    eventually("the autoscaler has its way", Duration::from_secs(30), || async {
        (replicas(&seen).await == 2).then_some(())
    })
    .await;
}

/// Somebody scales in the very moment in which the new ReplicaSet is given away.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes node: just cluster-test"]
async fn scaled_down_in_the_moment_of_the_hand_over() {
    scaled_at_the_hand_over("moment-down", 6, 3).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes node: just cluster-test"]
async fn scaled_up_in_the_moment_of_the_hand_over() {
    scaled_at_the_hand_over("moment-up", 4, 6).await;
}

async fn scaled_at_the_hand_over(test: &str, from: u32, to: u32) {
    let sample = Sample {
        replicas: from,
        ..Sample::default()
    };
    let policy = Policy {
        strategy: "canary: {steps: [{weight: 50%, max: 3s}], bake: 3s}",
        waits: 2.0 * 2.0 + 3.0 + 3.0 + 3.0,
        ..SHORT
    };
    let trial = Trial::start(test, &sample).await;
    let step = trial.deploy("1.1", &policy);
    let path = trial.space.path(Kind::Deployment, APP);
    let recorder = trial.recorder.clone();
    // Faster than any poll through the API: what the witness hears is what the controllers hear.
    let given = loop {
        let history = recorder.history();
        let given = history.of(Kind::ReplicaSet).any(|set| {
            text(&set.object, "/spec/template/spec/containers/0/image").ends_with(":1.1")
                && set.object.pointer("/metadata/ownerReferences/0/kind") != Some(&json!("Service"))
        });
        if given {
            break now();
        }
        assert!(
            seconds(history.of(Kind::Pod).next().expect("pods").at, now()) < 100.0,
            "no hand over"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    let scale = json!({"spec": {"replicas": to}});
    trial.space.api.merge(&path, &scale).await.expect("an admin may");
    let scaled_after = seconds(given, now());
    let seen = trial.end(step).await;
    seen.trial.space.rolled_out().await;
    let ready = seen.history.ready_endpoints(APP);
    eprintln!(
        "FIGURE scaled {from} to {to} {scaled_after:.3} s after the hand over: at least {:?} ready endpoints",
        lowest(&ready, seen.started)
    );
    seen.exits_with(0);
    seen.nothing_lost();
    seen.never_below(from.min(to) as usize);
    the_new_serve(&seen, to as usize).await;
}

async fn replicas(seen: &Evidence) -> u64 {
    let deployment = seen.trial.space.get(Kind::Deployment, APP).await.expect("it is there");
    deployment
        .pointer("/spec/replicas")
        .and_then(Value::as_u64)
        .unwrap_or(0)
}

/// So many pods of the new revision serve, and no others.
async fn the_new_serve(seen: &Evidence, wanted: usize) {
    seen.trial.space.rolled_out().await;
    let pods = seen.trial.space.list(Kind::Pod).await;
    let serving = pods
        .iter()
        .filter(|pod| pod.pointer("/metadata/deletionTimestamp").is_none());
    let images: Vec<_> = serving.map(|pod| text(pod, "/spec/containers/0/image")).collect();
    assert_eq!(images.len(), wanted, "{images:?}");
    assert!(images.iter().all(|image| image.ends_with(":1.1")), "{images:?}");
    if wanted == 4 {
        the_judged_pods_serve(seen, wanted);
    }
}

/// Neither the Services nor, while it has all the traffic, the canary ever had fewer ready endpoints than the Deployment
/// had asked for at any time in the ten seconds before.
fn never_below_target(seen: &Evidence) {
    let mut targets = Vec::new();
    for deployment in seen.history.of(Kind::Deployment) {
        let replicas = deployment.object.pointer("/spec/replicas").and_then(Value::as_u64);
        targets.push((deployment.at, usize::try_from(replicas.unwrap_or(0)).expect("a few")));
    }
    let services = [(APP, seen.started, seen.over)];
    let full: Vec<_> = weights(&seen.history)
        .windows(2)
        .filter(|pair| pair[0].1 == 100)
        .map(|pair| ("app-canary", pair[0].0, pair[1].0))
        .collect();
    for (service, from, to) in services.into_iter().chain(full) {
        for (at, ready) in seen.history.ready_endpoints(service) {
            if at < from || at >= to {
                continue;
            }
            let least = lowest(
                &targets
                    .iter()
                    .filter(|(then, _)| *then <= at)
                    .copied()
                    .collect::<Vec<_>>(),
                at - Duration::from_secs(10),
            );
            assert!(
                Some(ready) >= least,
                "{service} had {ready} ready endpoints of {least:?}"
            );
        }
    }
}

/// Half of the pods judged, the rest by the Deployment's own rolling update.
const ROLLING: Policy = Policy {
    strategy: "canary: {steps: [{weight: 25%, max: 4s}, {weight: 50%, max: 4s}], bake: 3s}",
    finish: "rolling",
    ..SHORT
};

/// The sample application with room for two pods more than it has.
async fn tight(test: &str) -> Trial {
    let space = Space::new(test).await;
    let sample = Sample {
        over: json!({"spec": {"minReadySeconds": 3}}),
        ..Sample::default()
    };
    space.deploy(&sample).await;
    with_quota(&space, 6).await;
    Trial::of(space, true).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes node: just cluster-test"]
async fn a_rolling_finish_needs_only_the_judged_pods_room() {
    let trial = tight("rolling").await;
    let step = trial.deploy("1.1", &ROLLING);
    let seen = trial.end(step).await;
    seen.exits_with(0);
    seen.nothing_lost();
    seen.never_below(4);
    seen.nothing_left_but_the_record().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes node: just cluster-test"]
async fn an_abort_while_it_rolls_rolls_back() {
    let trial = tight("rolling-back").await;
    let step = trial.deploy("1.1", &ROLLING);
    trial.weight_is(50).await;
    // Some of the old pods are gone already.
    let recorder = trial.recorder.clone();
    let stable = trial.stable().to_owned();
    eventually("the Deployment rolls", Duration::from_secs(60), || async {
        let history = recorder.history();
        let pods = history.present(Kind::Pod);
        let left = pods
            .iter()
            .filter(|pod| text(pod, "/metadata/labels/pod-template-hash") == stable)
            .filter(|pod| pod.pointer("/metadata/deletionTimestamp").is_none());
        (left.count() < 4).then_some(())
    })
    .await;
    let abort = trial.wade(&["abort", "deployment/app", "--reason", "not this one"]);
    let aborted = abort.ends(Duration::from_secs(90)).await;
    assert_eq!(aborted.code(), Some(0), "{}", aborted.output());
    let seen = trial.end(step).await;
    seen.exits_with(4);
    seen.nothing_lost();
    seen.never_below(4);
    seen.everything_as_before().await;
}
