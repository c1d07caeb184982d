//! Exactly the Role that `wade rbac` prints is enough for a release, and what is missing is named before anything is
//! touched.

use std::fs;
use std::time::Duration;

use crate::support::account::Account;
use crate::support::api::Kind;
use crate::support::space::{APP, Sample, Space};
use crate::support::step::{Ended, Step};

const POLICY: &str = "spec:\n  workload: {deployment: app}\n  strategy: {canary: {steps: [{weight: 50%, max: 3s}], bake: 2s}}\n  \
                      smoke: [{http: /healthz}]\n  analysis: {passEarly: {minStage: 3s}}\n  limits: {settle: 1s}\n";

/// `wade` with these words, to its end.
async fn wade(space: &Space, account: Option<&Account>, words: &[&str]) -> Ended {
    let words = [words, &["--namespace", &space.name]].concat();
    let step = match account {
        Some(account) => Step::start_as(space, account.kubeconfig(), &words),
        None => Step::start(space, &words),
    };
    step.ends(Duration::from_secs(90)).await
}

/// The account `ci` with the printed Role, changed by `change`.
async fn account(space: &Space, change: impl FnOnce(String) -> String) -> Account {
    let words = ["rbac", "--scrape", "--daemon", "--service-account", "ci"];
    let printed = wade(space, None, &words).await;
    assert_eq!(printed.code(), Some(0), "{}", printed.output());
    let lines: Vec<String> = printed.lines.iter().map(|line| line.text.clone()).collect();
    let about = format!(
        "apiVersion: v1\nkind: ServiceAccount\nmetadata: {{name: ci, namespace: {}}}\n---\n",
        space.name
    );
    Account::of(space, "ci", &(about + &change(lines.join("\n")))).await
}

/// The policy as a file.
fn policy(space: &Space) -> String {
    let file = space.node.run_folder().join(format!("{}.policy.yaml", space.name));
    let head = format!(
        "apiVersion: wade.dev/v1alpha1\nkind: Rollout\nmetadata: {{name: app, namespace: {}}}\n",
        space.name
    );
    fs::write(&file, head + POLICY).expect("the node's folder is there");
    file.display().to_string()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes node: just cluster-test"]
async fn the_printed_role_is_enough_for_a_release() {
    let space = Space::new("rbac").await;
    space.deploy(&Sample::default()).await;
    let ci = account(&space, |role| role).await;
    let policy = policy(&space);
    let (image, target) = (space.node.image("1.1"), format!("deployment/{APP}"));
    let words = ["check", &target, "-f", &policy, "--image", &image];
    let checked = wade(&space, Some(&ci), &words).await;
    assert_eq!(checked.code(), Some(0), "{}", checked.output());
    assert!(!checked.output().contains("missing"), "{}", checked.output());
    let released = wade(
        &space,
        Some(&ci),
        &["deploy", &target, "-f", &policy, "--image", &image],
    )
    .await;
    assert_eq!(released.code(), Some(0), "{}", released.output());
    assert!(!released.output().contains("forbidden"), "{}", released.output());
    let waited = wade(&space, Some(&ci), &["wait", &target, "--wait", "10s"]).await;
    assert_eq!(waited.code(), Some(0), "{}", waited.output());
    let _ = fs::remove_file(&policy);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes node: just cluster-test"]
async fn a_missing_permission_is_named_before_anything_is_touched() {
    let space = Space::new("norbac").await;
    space.deploy(&Sample::default()).await;
    let ci = account(&space, |role| {
        let without = role.replace("verbs: [get, create, update]", "verbs: [get]").replace(
            "verbs: [get, list, watch, create, patch, delete]",
            "verbs: [get, list, watch, patch]",
        );
        assert_ne!(without, role);
        without
    })
    .await;
    let policy = policy(&space);
    let (image, target) = (space.node.image("1.1"), format!("deployment/{APP}"));
    let before = space.get(Kind::Deployment, APP).await.expect("it is there");
    let refused = wade(
        &space,
        Some(&ci),
        &["deploy", &target, "-f", &policy, "--image", &image],
    )
    .await;
    assert_eq!(refused.code(), Some(7), "{}", refused.output());
    for right in [
        "create, delete replicasets.apps",
        "create, update leases.coordination.k8s.io",
        "create, delete services",
    ] {
        assert!(refused.output().contains(right), "{right}: {}", refused.output());
    }
    let after = space.get(Kind::Deployment, APP).await.expect("it is there");
    assert_eq!(after, before);
    assert_eq!(space.get(Kind::Lease, "wade-app").await, None);
    let _ = fs::remove_file(&policy);
}
