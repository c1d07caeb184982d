//! What a release waits for elsewhere, and the author's own jobs beside it.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::account::Account;
use crate::support::api::Kind;
use crate::support::daemon::{Daemon, ended, look_after, says};
use crate::support::eventually;
use crate::support::scene::{Expected, NEW, OLD, QUICK, Scene};
use crate::support::space::{APP, Sample, Space};
use crate::support::step::Step;

const LONG: Duration = Duration::from_secs(80);

async fn apply(space: &Space, object: &Value) {
    let words = ["--namespace", &space.name, "apply", "-f", "-"];
    let applied = space.node.try_kubectl(&words, &object.to_string()).await;
    assert!(applied.status.success(), "{}", String::from_utf8_lossy(&applied.stderr));
}

/// A CronJob that is suspended for good and would run `wade` with these words.
fn cron(space: &Space, name: &str, words: &[&str]) -> Value {
    let container =
        json!({"name": "job", "image": space.node.wade_image(), "imagePullPolicy": "IfNotPresent", "args": words});
    json!({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": name}, "spec": {
        "schedule": "0 0 1 1 *", "suspend": true,
        "jobTemplate": {"spec": {"backoffLimit": 0, "template": {"spec": {
            "restartPolicy": "Never", "containers": [container]}}}},
    }})
}

/// The Jobs of hooks, in the order in which they were made: which hook of which release, and whether it ended well.
async fn ran(space: &Space) -> Vec<String> {
    let path = "jsonpath={range .items[*]}{.metadata.name} {.status.succeeded}{.status.failed}{\"\\n\"}{end}";
    let words = [
        "get",
        "jobs",
        "-l",
        "wade.dev/part=hook",
        "--sort-by=.metadata.creationTimestamp",
        "-o",
        path,
    ];
    let said = space.kubectl(&words).await;
    // `wade-app-1a2b3c4d-1-0 1`: the uid is another one each time.
    said.lines()
        .map(|line| {
            let parts: Vec<&str> = line.split(['-', ' ']).collect();
            parts[3..].join("-")
        })
        .collect()
}

/// Migrations around a release by the daemon: each runs once, under the account its CronJob names; one that fails before
/// the start rejects the version; and nobody writes hooks who may not make Jobs.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes node: just cluster-test"]
async fn hooks_run_around_a_release_and_one_that_fails_rejects_it() {
    let scene = Scene::open("hooks", QUICK).await;
    let space = &scene.space;
    for name in ["expand", "contract", "undo"] {
        apply(space, &cron(space, name, &["--version"])).await;
    }
    let hooks = format!(
        "{QUICK}  hooks:
    - {{cronJob: expand, at: beforeStart, within: 1m}}
    - {{cronJob: contract, at: afterPromotion, within: 1m}}
    - {{cronJob: undo, at: afterRollback, within: 1m}}
"
    );
    let daemon = Daemon::start(space, &[]).await;
    daemon.leads().await;
    look_after(space, QUICK).await;

    // Who may write Rollouts, and no Jobs, writes no hooks.
    let rules =
        json!([{"apiGroups": ["wade.dev"], "resources": ["rollouts"], "verbs": ["get", "patch", "update", "create"]}]);
    let author = Account::new(space, "author", &rules).await;
    let config = author.kubeconfig().to_string_lossy().into_owned();
    let words = ["--kubeconfig", &config, "--namespace", &space.name, "apply", "-f", "-"];
    let rollout = |hooks: &str| {
        format!(
            "apiVersion: wade.dev/v1alpha1\nkind: Rollout\nmetadata: {{name: {APP}, namespace: {}}}\nspec:\n  workload: {{deployment: {APP}}}{hooks}",
            space.name
        )
    };
    let refused = space.node.try_kubectl(&words, &rollout(&hooks)).await;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        !refused.status.success() && said.contains("create` on jobs.batch"),
        "{said}"
    );

    // The daemon may not make any either, until somebody gives it that.
    look_after(space, &hooks).await;
    space.set_image(NEW).await;
    eventually("what is missing is said", Duration::from_secs(20), || async {
        says(space, "message").await.contains("jobs.batch").then_some(())
    })
    .await;
    space
        .kubectl(&[
            "create",
            "rolebinding",
            "wade-hooks",
            "--clusterrole=wade-hooks",
            "--serviceaccount=wade-system:wade",
        ])
        .await;
    // It would look again within a minute by itself.
    space
        .kubectl(&[
            "patch",
            "deployment/app",
            "--type=merge",
            "-p",
            r#"{"spec":{"template":{"metadata":{"annotations":{"again":"1"}}}}}"#,
        ])
        .await;
    assert_eq!(ended(space, 1, LONG).await, "Promoted");
    assert_eq!(ran(space).await, ["1-0-1", "1-1-1"], "before and after, once each");

    apply(space, &cron(space, "expand", &["no-such-verb"])).await;
    space.set_image(OLD).await;
    assert_eq!(ended(space, 2, LONG).await, "Rejected");
    let why = says(space, "message").await;
    assert!(why.contains("hook expand (beforeStart) failed"), "{why}");
    assert!(why.contains("kubectl logs job/wade-app-"), "{why}");
    assert_eq!(
        ran(space).await[2..],
        ["2-0-1", "2-2-1"],
        "the one that failed, and the undoing"
    );
    space.kubectl(&["delete", "jobs", "--all", "--wait=true"]).await;
    // What was rejected waits in the Deployment still; what serves goes on.
    space.set_image(NEW).await;
    scene.close(Expected::on(NEW)).await;
    drop(daemon);
}

/// Nothing begins before the rollout that it comes after is through, and before staging has promoted the very image.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes node: just cluster-test"]
async fn what_goes_to_production_is_through_elsewhere_first() {
    let staging = Space::new("staging").await;
    staging.deploy(&Sample::default()).await;
    let scene = Scene::open("production", QUICK).await;
    let space = &scene.space;
    let policy = format!(
        "{QUICK}  after: [ledger]\n  requires: {{namespace: {}, sameDigest: true}}\n",
        staging.name
    );
    let head = format!(
        "apiVersion: wade.dev/v1alpha1\nkind: Rollout\nmetadata: {{name: {APP}, namespace: {}}}\nspec:\n  workload: {{deployment: {APP}}}",
        space.name
    );
    std::fs::write(scene.policy(), format!("{head}{policy}")).expect("the node's folder is there");
    let refused = async |words: &str| {
        let ended = scene.deploy(NEW).ends(LONG).await;
        assert_eq!(ended.code(), Some(5), "{}", ended.output());
        assert!(ended.output().contains(words), "{}", ended.output());
    };
    refused("there is no deployment").await;
    let container = json!({"name": "app", "image": "lab.local/app:not-there"});
    let ledger = |replicas: u32| {
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "ledger"}, "spec": {
            "replicas": replicas, "selector": {"matchLabels": {"app": "ledger"}},
            "template": {"metadata": {"labels": {"app": "ledger"}}, "spec": {"containers": [container]}}}})
    };
    apply(space, &ledger(0)).await;
    refused("has not been promoted there by Wade").await;

    // Staging releases it.
    let file = space.node.run_folder().join(format!("{}.yaml", staging.name));
    let text = format!(
        "apiVersion: wade.dev/v1alpha1\nkind: Rollout\nmetadata: {{name: {APP}}}\nspec:\n  workload: {{deployment: {APP}}}{QUICK}"
    );
    std::fs::write(&file, text).expect("the node's folder is there");
    let (image, path) = (space.node.image(NEW), file.to_string_lossy().into_owned());
    let words = [
        "deploy",
        "deployment/app",
        "-n",
        &staging.name,
        "--image",
        &image,
        "-f",
        &path,
    ];
    let ended = Step::start(&staging, &words).ends(LONG).await;
    assert_eq!(ended.code(), Some(0), "{}", ended.output());
    let _ = std::fs::remove_file(&file);

    let other = scene.deploy("1.1").ends(LONG).await;
    assert_eq!(other.code(), Some(5), "{}", other.output());
    assert!(
        other.output().contains("its container app is 2.0, and this is 1.1"),
        "{}",
        other.output()
    );
    // The ledger rolls, and never gets there; when that is over, this goes on by itself.
    apply(space, &ledger(1)).await;
    let step = scene.deploy(NEW);
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert!(scene.record().await.is_none(), "nothing has begun");
    apply(space, &ledger(0)).await;
    let done = step.ends(LONG).await;
    assert_eq!(done.code(), Some(0), "{}", done.output());
    let record = scene.record().await.expect("a record").to_string();
    assert!(
        record.contains("digests"),
        "what the pods have to run was known: {record}"
    );
    space.kubectl(&["delete", "deployment/ledger"]).await;
    assert!(space.get(Kind::Deployment, "ledger").await.is_none());
    scene.close(Expected::on(NEW)).await;
}
