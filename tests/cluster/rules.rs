//! What those who run the cluster say, kept to by the daemon and by a step that works by itself alike.

use std::time::Duration;

use serde_json::json;

use crate::support::account::Account;
use crate::support::daemon::{Daemon, ended, installed, look_after, says};
use crate::support::scene::{Expected, NEW, QUICK, Scene};
use crate::support::space::APP;
use crate::support::step::{Ended, Step};
use crate::support::{eventually, now};

const LONG: Duration = Duration::from_secs(80);
/// What everybody is told who is stopped by it.
const WORDS: &str = "of ops until";

async fn ends(step: Step, code: i32) -> Ended {
    let ended = step.ends(LONG).await;
    println!("exit {:?}\n{}", ended.code(), ended.output());
    assert_eq!(ended.code(), Some(code), "{}", ended.output());
    ended
}

/// A freeze at home for the namespaces of one tier: it stops the daemon and a step with the least Role, warns who writes,
/// and an emergency goes through, which the step leaves to the daemon.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes node: just cluster-test"]
async fn a_freeze_stops_daemon_and_step_and_an_emergency_goes_through() {
    let scene = Scene::open("frozen", QUICK).await;
    let space = &scene.space;
    let home = space.name.clone();
    installed(space).await;
    let until = now() + Duration::from_secs(3600);
    let freeze = json!({
        "apiVersion": "wade.dev/v1alpha1", "kind": "Freeze", "metadata": {"name": "xmas", "namespace": home},
        "spec": {"until": until.to_string(), "by": "ops", "reason": "holidays",
            "namespaces": {"matchExpressions": [{"key": "tier", "operator": "In", "values": ["prod"]}]}}
    });
    let applied = space.node.try_kubectl(&["apply", "-f", "-"], &freeze.to_string()).await;
    assert!(applied.status.success(), "{}", String::from_utf8_lossy(&applied.stderr));
    // Nobody is meant yet.
    let words = ["check", "--image", &space.node.image(NEW), "--home", &home];
    let free = scene.wade(&words).ends(LONG).await;
    assert!(!free.output().contains(WORDS), "{}", free.output());
    space.node.kubectl(&["label", "namespace", &home, "tier=prod"]).await;

    // By itself, with the Role that is printed for it and nothing else.
    let printed = Step::start(
        space,
        &["rbac", "-n", &home, "--daemon", "--scrape", "--service-account", "step"],
    );
    let printed = printed.ends(LONG).await;
    let lines: Vec<&str> = printed.lines.iter().map(|line| line.text.as_str()).collect();
    space.kubectl(&["create", "serviceaccount", "step"]).await;
    let step = Account::of(space, "step", &lines.join("\n")).await;
    let refused = ends(scene.deploy_as(step.kubeconfig(), NEW, &["--home", &home]), 5).await;
    assert!(refused.output().contains(WORDS), "{}", refused.output());
    let check = scene.wade_as(step.kubeconfig(), &words);
    let check = ends(check, 5).await;
    assert!(check.output().contains(WORDS), "{}", check.output());

    // Through the daemon, and by the daemon itself.
    let daemon = Daemon::start(space, &[]).await;
    daemon.leads().await;
    look_after(space, QUICK).await;
    let image = space.node.image(NEW);
    let asking = ["deploy", "--image", &image, "--home", &home];
    let refused = ends(scene.wade_as(step.kubeconfig(), &asking), 5).await;
    assert!(refused.output().contains(WORDS), "{}", refused.output());
    let set = ["-n", &home, "set", "image", "deployment/app", &format!("{APP}={image}")];
    let warned = space.node.try_kubectl(&set, "").await;
    assert!(
        warned.status.success(),
        "a policy that is not opted in to refuses nothing"
    );
    let warned = String::from_utf8_lossy(&warned.stderr).into_owned();
    assert!(warned.contains(WORDS), "kubectl says {warned:?}");
    eventually("the daemon refuses it", Duration::from_secs(20), || async {
        (says(space, "phase").await == "Refused").then_some(())
    })
    .await;
    let why = says(space, "message").await;
    assert!(why.contains(WORDS), "{why}");

    // It is left to the daemon, and its bake is ended by hand.
    let emergency = [
        &asking[..],
        &["--emergency", "--reason", "payments are down", "--detach"],
    ]
    .concat();
    let begun = ends(scene.wade_as(step.kubeconfig(), &emergency), 0).await;
    let follow = format!("follow   wade status -w app -n {home}");
    assert!(begun.output().contains(&follow), "{}", begun.output());
    scene.reaches(100, LONG).await;
    // The weight is written a moment before the router has confirmed it and the bake has begun.
    eventually("the bake is ended by hand", Duration::from_secs(20), || async {
        let asked = scene.wade(&["promote"]).ends(LONG).await;
        (asked.code() == Some(0)).then_some(())
    })
    .await;
    assert_eq!(ended(space, 1, LONG).await, "Promoted");
    scene.close(Expected::on(NEW)).await;
    drop(daemon);
}
