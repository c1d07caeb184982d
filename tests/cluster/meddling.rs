//! People and tools that write what a release is writing: each is noticed, named, and costs no user anything that Wade
//! could have prevented.

use std::time::Duration;

use serde_json::json;

use crate::support::api::Kind;
use crate::support::recorder::text;
use crate::support::space::{APP, Sample};
use crate::support::step::Step;
use crate::support::trial::{Evidence, Policy, SHORT, Trial, weights};
use crate::support::{now, seconds};

/// Time to meddle in.
const WIDE: Policy = Policy {
    strategy: "canary: {steps: [{weight: 25%, max: 12s}, {weight: 50%, max: 3s}], bake: 3s}",
    ..SHORT
};

/// A release at its first weight.
async fn under_way(test: &str) -> (Trial, Step) {
    let trial = Trial::start(test, &Sample::default()).await;
    let step = trial.deploy("1.1", &WIDE);
    trial.weight_is(25).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    (trial, step)
}

fn told(what: &str, seen: &Evidence) {
    let lines: Vec<_> = seen
        .ended
        .lines
        .iter()
        .rev()
        .take(6)
        .map(|line| line.text.trim())
        .collect();
    eprintln!(
        "FIGURE {what}: exit {:?} after {:.1} s; edge {}; service {}; writes {:?}\n    {}",
        seen.ended.code(),
        seen.took(),
        seen.tally("edge"),
        seen.tally("service"),
        seen.writes(),
        lines.into_iter().rev().collect::<Vec<_>>().join("\n    ")
    );
}

/// What `kubectl rollout restart` writes; kubectl itself refuses to restart a paused Deployment, other tools do not.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes node: just cluster-test"]
async fn restart_in_mid_release() {
    let (trial, step) = under_way("restarted").await;
    let words = ["--namespace", &trial.space.name, "rollout", "restart", "deployment/app"];
    let by_kubectl = trial.space.node.try_kubectl(&words, "").await;
    let refusal = String::from_utf8_lossy(&by_kubectl.stderr).into_owned();
    assert!(refusal.contains("paused"), "kubectl says: {refusal}");
    let restart = json!({"spec": {"template": {"metadata": {"annotations": {
        "kubectl.kubernetes.io/restartedAt": "2026-11-22T06:00:00Z"
    }}}}});
    let path = trial.space.path(Kind::Deployment, APP);
    trial.space.api.merge(&path, &restart).await.expect("an admin may");
    let seen = trial.end(step).await;
    told("restart in mid-release", &seen);
    seen.exits_with(8);
    seen.says("changed in mid-release (last written by ");
    seen.nothing_lost();
    seen.stable_stayed_whole();
    its_own_revision_waits(&seen).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes node: just cluster-test"]
async fn new_image_in_mid_release() {
    let (trial, step) = under_way("new-image").await;
    let image = format!("{APP}={}", trial.space.node.image("1.2"));
    trial.space.kubectl(&["set", "image", "deployment/app", &image]).await;
    let seen = trial.end(step).await;
    told("set image in mid-release", &seen);
    seen.exits_with(8);
    seen.says("changed in mid-release (last written by kubectl-set");
    seen.nothing_lost();
    seen.stable_stayed_whole();
    seen.nobody_met("1.2");
    its_own_revision_waits(&seen).await;
}

/// What somebody else wrote is still there, and goes out when they say so.
async fn its_own_revision_waits(seen: &Evidence) {
    let space = &seen.trial.space;
    let deployment = space.get(Kind::Deployment, APP).await.expect("it is there");
    assert_eq!(deployment.pointer("/spec/paused"), Some(&json!(true)), "{deployment}");
    space.kubectl(&["rollout", "resume", "deployment/app"]).await;
    space.rolled_out().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes node: just cluster-test"]
async fn resumed_in_mid_release() {
    let (trial, step) = under_way("resumed").await;
    trial.space.kubectl(&["rollout", "resume", "deployment/app"]).await;
    let seen = trial.end(step).await;
    told("resume in mid-release", &seen);
    seen.exits_with(10);
    seen.says("was resumed in mid-release");
    seen.nothing_lost();
    // The Deployment controller begins to roll at once and may, by the Deployment's own words, have one missing.
    seen.never_below(3);
    seen.everything_as_before().await;
    seen.trial.space.rolled_out().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes node: just cluster-test"]
async fn undone_in_mid_release() {
    let (trial, step) = under_way("undone").await;
    let stable = json!({"spec": {"template": {"spec": {"containers": [
        {"name": APP, "image": trial.space.node.image("1.0")}
    ]}}}});
    let words = stable.to_string();
    trial.space.kubectl(&["patch", "deployment/app", "-p", &words]).await;
    let seen = trial.end(step).await;
    told("template put back in mid-release", &seen);
    seen.exits_with(10);
    seen.says("put back in mid-release (last written by kubectl-patch");
    seen.nothing_lost();
    seen.stable_stayed_whole();
    seen.everything_as_before().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes node: just cluster-test"]
async fn canary_set_deleted() {
    let (trial, step) = under_way("set-deleted").await;
    let sets = trial.space.list(Kind::ReplicaSet).await;
    let canary = sets
        .iter()
        .find(|set| text(set, "/spec/template/spec/containers/0/image").ends_with(":1.1"));
    let name = text(canary.expect("it is there"), "/metadata/name").to_owned();
    let deleted = now();
    let path = trial.space.path(Kind::ReplicaSet, &name);
    trial.space.api.delete(&path).await.expect("an admin may");
    let seen = trial.end(step).await;
    back_in(&seen, "canary's set deleted", deleted);
    seen.exits_with(3);
    // Its pods leave the data plane at once, and the weight is back a moment later: a request may fall in between.
    assert!(seen.tally("edge").bad().total() <= 2, "{}", seen.tally("edge"));
    assert_eq!(seen.tally("service").bad().total(), 0);
    seen.stable_stayed_whole();
    seen.everything_as_before().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes node: just cluster-test"]
async fn anchor_deleted() {
    let (trial, step) = under_way("anchor-deleted").await;
    let deleted = now();
    let path = trial.space.path(Kind::Service, "app-canary");
    trial.space.api.delete(&path).await.expect("an admin may");
    let seen = trial.end(step).await;
    back_in(&seen, "anchor deleted", deleted);
    seen.stable_stayed_whole();
    seen.everything_as_before().await;
    // The route leads to a Service that is gone until the weight is back; Envoy answers these with an error.
    assert!(seen.tally("edge").bad().total() <= 20, "{}", seen.tally("edge"));
    assert_eq!(seen.tally("service").bad().total(), 0);
    seen.exits_with(3);
}

fn back_in(seen: &Evidence, what: &str, deleted: jiff::Timestamp) {
    told(what, seen);
    let back = weights(&seen.history)
        .into_iter()
        .find(|(at, weight)| *at > deleted && *weight == 0);
    let back = back.map_or(f64::NAN, |(at, _)| seconds(deleted, at));
    eprintln!("FIGURE {what}: weight back {back:.2} s after it");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes node: just cluster-test"]
async fn deployment_deleted() {
    let (trial, step) = under_way("gone").await;
    trial.space.kubectl(&["delete", "deployment/app", "--wait=false"]).await;
    let seen = trial.end(step).await;
    told("deployment deleted", &seen);
    seen.says("deployment app was deleted in mid-release");
    assert_ne!(seen.ended.code(), Some(0));
    let space = &seen.trial.space;
    let route = space.get(Kind::HttpRoute, APP).await.expect("it is there");
    let backends = route
        .pointer("/spec/rules/0/backendRefs")
        .and_then(|refs| refs.as_array());
    assert_eq!(backends.map(Vec::len), Some(1), "{route}");
    assert!(space.get(Kind::Service, "app-canary").await.is_none());
    assert!(space.list(Kind::ReplicaSet).await.is_empty());
}

/// Wade puts the weights back, and says who it was.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes node: just cluster-test"]
async fn weights_reset() {
    let (trial, step) = under_way("weights").await;
    let rules = json!({"spec": {"rules": [{"backendRefs": [{"name": APP, "port": 80}]}]}});
    let words = rules.to_string();
    let asked = now();
    trial
        .space
        .kubectl(&["patch", "httproute/app", "--type=merge", "-p", &words])
        .await;
    let seen = trial.end(step).await;
    told("weights reset", &seen);
    // By the witness, not by kubectl's end: Wade may be quicker than that.
    let mut since = weights(&seen.history)
        .into_iter()
        .skip_while(|(at, weight)| *at < asked || *weight != 0);
    let reset = since.next().expect("the weight is reset").0;
    let back = since
        .find(|(_, weight)| *weight == 25)
        .expect("the weight is put back")
        .0;
    eprintln!("FIGURE weights reset: put back {:.2} s after it", seconds(reset, back));
    seen.exits_with(0);
    seen.says("last written by kubectl-patch");
    seen.nothing_lost();
    seen.nothing_left_but_the_record().await;
}
