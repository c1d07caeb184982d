//! Versions that do not even come up: said in words within seconds, and no user meets them.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::support::api::Kind;
use crate::support::recorder::{History, text};
use crate::support::seconds;
use crate::support::space::Sample;
use crate::support::step::Step;
use crate::support::trial::{Evidence, Policy, SHORT, Trial};

/// Pods get a while to be ready, and prove it longer than the sample that crashes after three seconds.
const PATIENT: Policy = Policy {
    limits: "{settle: 5s, ready: 15s}",
    ..SHORT
};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes node: just cluster-test"]
async fn crash_at_start_is_rejected() {
    let start = |trial: &Trial| trial.deploy("crash", &PATIENT);
    let seen = rejected("crash", &Sample::default(), start).await;
    seen.says("exit code 3");
    seen.says("DATABASE_URL is not set");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes node: just cluster-test"]
async fn crash_after_ready_is_rejected() {
    let start = |trial: &Trial| trial.deploy("crash-later", &PATIENT);
    let seen = rejected("crash-later", &Sample::default(), start).await;
    seen.says("exit code 1");
    seen.says("lost the connection to the database");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes node: just cluster-test"]
async fn missing_image_is_rejected() {
    let start = |trial: &Trial| trial.deploy("9.9", &PATIENT);
    let seen = rejected("no-image", &Sample::default(), start).await;
    seen.says("lab.local/app:9.9");
    seen.says("container app of pod app-");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes node: just cluster-test"]
async fn unreachable_registry_is_rejected() {
    let sample = Sample {
        container: json!({"imagePullPolicy": "IfNotPresent"}),
        ..Sample::default()
    };
    let policy = Policy {
        limits: "{settle: 2s, ready: 50s}",
        ..SHORT
    };
    let start = |trial: &Trial| trial.deploy_with(&["--image", "registry.invalid/app:1.1"], &policy);
    let seen = rejected("no-registry", &sample, start).await;
    seen.says("registry.invalid");
    seen.says("container app of pod app-");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes node: just cluster-test"]
async fn missing_config_key_is_rejected() {
    let sample = Sample {
        container: json!({"env": [
            {"name": "KEY", "valueFrom": {"configMapKeyRef": {"name": "kube-root-ca.crt", "key": "colour"}}}
        ]}),
        tag: "1.1",
        ..Sample::default()
    };
    let start = |trial: &Trial| trial.deploy_manifest(&sample, &PATIENT);
    let seen = rejected("no-key", &Sample::default(), start).await;
    seen.says("colour");
    seen.says("kube-root-ca.crt");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes node: just cluster-test"]
async fn unschedulable_pods_are_rejected() {
    let sample = Sample {
        container: json!({"resources": {"requests": {"cpu": "1000"}}}),
        tag: "1.1",
        ..Sample::default()
    };
    let policy = Policy {
        limits: "{settle: 2s, ready: 50s}",
        ..SHORT
    };
    let start = |trial: &Trial| trial.deploy_manifest(&sample, &policy);
    let seen = rejected("no-place", &Sample::default(), start).await;
    seen.says("cpu");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes node: just cluster-test"]
async fn failing_readiness_is_rejected() {
    let start = |trial: &Trial| trial.deploy("unready", &PATIENT);
    let seen = rejected("unready", &Sample::default(), start).await;
    seen.says("503");
}

/// Releases what `start` starts; it must end before any traffic, with everything as before.
async fn rejected(test: &str, sample: &Sample, start: impl Fn(&Trial) -> Step) -> Evidence {
    let trial = Trial::start(test, sample).await;
    let step = start(&trial);
    let seen = trial.end(step).await;
    let sign = first_sign(&seen.history, seen.started);
    eprintln!(
        "FIGURE {test}: rejected {:.1} s after the start of the step, {:.1} s after the first sign; it says: {}",
        seen.took(),
        sign.map_or(f64::NAN, |sign| seconds(sign, seen.over)),
        seen.ended.lines.last().map_or("nothing", |line| line.text.trim())
    );
    seen.exits_with(5);
    seen.nothing_lost();
    seen.stable_stayed_whole();
    seen.never_below(4);
    seen.everything_as_before().await;
    assert!(seen.took() < Duration::from_secs(60).as_secs_f64());
    seen
}

/// When something was first wrong with a pod of the canary: a container that waits for anything but its creation or has
/// ended, or a pod without a place.
fn first_sign(history: &History, from: Timestamp) -> Option<Timestamp> {
    let wrong = |pod: &Value| {
        let conditions = pod.pointer("/status/conditions").and_then(Value::as_array);
        let no_place = conditions
            .into_iter()
            .flatten()
            .any(|one| text(one, "/reason") == "Unschedulable");
        let statuses = pod.pointer("/status/containerStatuses").and_then(Value::as_array);
        let stopped = statuses.into_iter().flatten().any(|status| {
            let waits = text(status, "/state/waiting/reason");
            !["", "ContainerCreating", "PodInitializing"].contains(&waits)
                || status.pointer("/state/terminated").is_some()
                || status.pointer("/lastState/terminated").is_some()
        });
        no_place || stopped
    };
    let pods = history.of(Kind::Pod).filter(|seen| seen.at >= from);
    pods.filter(|seen| seen.object.pointer("/metadata/deletionTimestamp").is_none())
        .find(|seen| wrong(&seen.object))
        .map(|seen| seen.at)
}
