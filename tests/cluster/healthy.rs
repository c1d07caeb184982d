//! A release that nothing is wrong with: nobody notices, and afterwards it is as if Wade had never been there.

use serde_json::json;

use crate::support::api::Kind;
use crate::support::recorder::text;
use crate::support::space::{APP, Sample};
use crate::support::trial::{Evidence, Policy, SHORT, Trial};

/// Writes that a release may cost, without the record and the Lease.
const MOST_WRITES: usize = 25;
/// Seconds over what the policy waits: 7 to 10 on a node of two cores that runs two other tests. How many exactly is a
/// figure, and printed; more than this is a wait for something that did not come.
const MOST_EXTRA: f64 = 25.0;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes node: just cluster-test"]
async fn healthy_release_loses_nothing_first() {
    healthy("healthy1").await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes node: just cluster-test"]
async fn healthy_release_loses_nothing_again() {
    healthy("healthy2").await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes node: just cluster-test"]
async fn healthy_release_loses_nothing_a_third_time() {
    healthy("healthy3").await;
}

/// Ten in a row: `WADE_CLUSTER_SOAK=1 just cluster-test soak`; without the variable it says so and is done.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes node: just cluster-test"]
async fn soak_healthy_release_ten_times() {
    if std::env::var_os("WADE_CLUSTER_SOAK").is_none() {
        eprintln!("not run: WADE_CLUSTER_SOAK is not set");
        return;
    }
    for _ in 0..10 {
        healthy("soak").await;
    }
}

async fn healthy(test: &str) {
    // As Helm and Argo CD do it: what they apply next must meet no conflict.
    let sample = Sample {
        applied_by: Some("helm"),
        ..Sample::default()
    };
    let trial = Trial::start(test, &sample).await;
    let step = trial.deploy("1.1", &SHORT);
    let seen = trial.end(step).await;

    figures("healthy release", &seen, &SHORT);
    seen.exits_with(0);
    seen.nothing_lost();
    seen.nobody_met_before_its_weight("1.1");
    seen.never_below(4);
    the_judged_pods_serve(&seen, 4);
    assert!(
        seen.writes().values().sum::<usize>() <= MOST_WRITES,
        "{:?}",
        seen.writes()
    );
    let record = seen.record_writes().values().sum::<usize>() as f64;
    assert!(
        record <= seen.took(),
        "{:?} in {:.1} s",
        seen.record_writes(),
        seen.took()
    );
    assert!(
        seen.took() - SHORT.waits <= MOST_EXTRA,
        "{:.1} s\n{}",
        seen.took(),
        seen.ended.output()
    );
    seen.nothing_left_but_the_record().await;
    helm_meets_no_conflict(&seen, &sample).await;
    kubectl_goes_on(&seen).await;
}

/// A line with what a healthy release cost.
pub(crate) fn figures(what: &str, seen: &Evidence, policy: &Policy) {
    eprintln!(
        "FIGURE {what}: {:.1} s, {:.1} s over what the policy waits; {} writes {:?}; record and Lease {:?}; {} pod starts; {} KiB",
        seen.took(),
        seen.took() - policy.waits,
        seen.writes().values().sum::<usize>(),
        seen.writes(),
        seen.record_writes(),
        seen.started_pods().len(),
        seen.ended.most_memory_kib,
    );
    if seen.took() - policy.waits > MOST_EXTRA {
        // What it waited for is worth knowing.
        eprintln!("{}", seen.ended.output());
    }
}

/// So many pods were started, none of them again, and all of them are there at the end.
pub(crate) fn the_judged_pods_serve(seen: &Evidence, replicas: usize) {
    let started = seen.started_pods();
    assert_eq!(started.len(), replicas, "{}", seen.ended.output());
    assert_eq!(seen.history.restarts(), 0);
    let present = seen.history.present(Kind::Pod);
    let serving: Vec<_> = present
        .iter()
        .filter(|pod| pod.pointer("/metadata/deletionTimestamp").is_none())
        .collect();
    assert_eq!(serving.len(), replicas);
    for pod in serving {
        assert!(started.contains(text(pod, "/metadata/uid")), "another one serves");
        assert_eq!(text(pod, "/metadata/labels/app"), APP);
    }
}

/// What a person does next works as if Wade had never been there.
async fn kubectl_goes_on(seen: &Evidence) {
    let space = &seen.trial.space;
    let status = space
        .kubectl(&["rollout", "status", "deployment/app", "--timeout=5s"])
        .await;
    assert!(status.contains("successfully rolled out"), "{status}");
    let history = space.kubectl(&["rollout", "history", "deployment/app"]).await;
    let revisions: Vec<_> = history
        .lines()
        .filter(|line| line.starts_with(char::is_numeric))
        .collect();
    assert_eq!(revisions.len(), 2, "{history}");
    space.kubectl(&["rollout", "undo", "deployment/app"]).await;
    space.rolled_out().await;
    let image = space.get(Kind::Deployment, APP).await.expect("it is there");
    assert_eq!(
        text(&image, "/spec/template/spec/containers/0/image"),
        space.node.image("1.0")
    );
}

/// What the tool that made the Deployment wants to do next, without force: it owns what it owned.
async fn helm_meets_no_conflict(seen: &Evidence, sample: &Sample) {
    let space = &seen.trial.space;
    let next = Sample {
        tag: "1.2",
        over: json!({"spec": {
            "paused": false,
            "revisionHistoryLimit": 5,
            "strategy": {"rollingUpdate": {"maxSurge": 1}},
            "template": {"metadata": {"annotations": {"release": "next"}}}
        }}),
        ..sample.clone()
    };
    for (kind, object) in space.objects(&next) {
        let applied = space.apply(kind, &object, "helm&dryRun=All").await;
        applied.unwrap_or_else(|refused| panic!("{kind:?}: {}", refused.message));
    }
}
