//! The daemon: what others change becomes a release, what dies is gone on with, and a pipeline's step asks it.

use std::time::Duration;

use crate::support::daemon::{Daemon, ended, look_after, says};
use crate::support::recorder::text;
use crate::support::scene::{Expected, NEW, OLD, QUICK, Scene, phase};
use crate::support::space::APP;
use crate::support::{eventually, now, seconds};

const LONG: Duration = Duration::from_secs(80);
/// As [`QUICK`], judged for longer: time to die in.
const LONGER: &str = "
  strategy:
    canary:
      steps:
        - {weight: 20%, max: 12s}
        - {weight: 50%, max: 8s}
      bake: 3s
  smoke: [{http: /healthz}]
  analysis: {passEarly: {minStage: 8s}}
  limits: {settle: 1s}
";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes node: just cluster-test"]
async fn what_kubectl_changes_is_released() {
    let scene = Scene::open("by-anyone", QUICK).await;
    let before = pods(&scene).await;
    let daemon = Daemon::start(&scene.space, &[]).await;
    look_after(&scene.space, QUICK).await;
    assert_eq!(pods(&scene).await, before, "adopting touches no pod");
    scene.space.set_image(NEW).await;
    assert_eq!(ended(&scene.space, 1, LONG).await, "Promoted");
    assert_eq!(says(&scene.space, "stable").await, NEW);
    let shown = scene
        .space
        .kubectl(&[
            "get",
            "releases.wade.dev/app-1",
            "-o",
            "jsonpath={.status.outcome} {.spec.by}",
        ])
        .await;
    assert_eq!(shown, "Promoted kubectl-set");
    let closed = scene.close(Expected::on(NEW)).await;
    assert!(phase(&closed.history).contains("Promoted"));
    drop(daemon);
}

async fn pods(scene: &Scene) -> String {
    let names = "jsonpath={.items[*].metadata.name}";
    scene
        .space
        .kubectl(&["get", "pods", "-l", "app=app", "-o", names])
        .await
}

/// A version whose pods never become ready, by a tool that applies its manifests again and again: taken back, not tried
/// again, and the next version goes out.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes node: just cluster-test"]
async fn a_bad_version_is_taken_back_and_the_next_one_goes_out() {
    let scene = Scene::open("next-one", QUICK).await;
    let daemon = Daemon::start(&scene.space, &[]).await;
    look_after(&scene.space, QUICK).await;
    let image = format!("{APP}={}", "lab.local/app:not-there");
    scene.space.kubectl(&["set", "image", "deployment/app", &image]).await;
    assert_eq!(ended(&scene.space, 1, LONG).await, "Rejected");
    let why = says(&scene.space, "message").await;
    assert!(why.contains("image"), "{why}");
    // The same again: it is known, and nothing begins.
    scene.space.kubectl(&["set", "image", "deployment/app", &image]).await;
    eventually("it is refused", Duration::from_secs(20), || async {
        (says(&scene.space, "phase").await == "Refused").then_some(())
    })
    .await;
    let why = says(&scene.space, "message").await;
    assert!(why.contains("failed in release 1"), "{why}");
    scene.space.set_image(NEW).await;
    assert_eq!(ended(&scene.space, 2, LONG).await, "Promoted");
    scene.close(Expected::on(NEW)).await;
    drop(daemon);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes node: just cluster-test"]
async fn a_leader_that_is_killed_is_followed_by_its_standby() {
    let scene = Scene::open("killed-leader", LONGER).await;
    let first = Daemon::start(&scene.space, &[]).await;
    first.leads().await;
    let second = Daemon::start(&scene.space, &[]).await;
    look_after(&scene.space, LONGER).await;
    scene.space.set_image(NEW).await;
    scene.reaches(20, LONG).await;
    let killed = now();
    first.kill().await;
    second.leads().await;
    let leads = seconds(killed, now());
    second.step.says("going on with what nobody carried", LONG).await;
    println!(
        "FIGURE leader killed: the standby leads after {leads:.1} s, and goes on after {:.1} s",
        seconds(killed, now())
    );
    assert!(leads < 40.0, "the Lease runs out after 15 s: {leads:.1} s");
    assert_eq!(ended(&scene.space, 1, LONG).await, "Promoted");
    scene.close(Expected::on(NEW)).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes node: just cluster-test"]
async fn a_leader_that_is_stopped_hands_over_at_once() {
    let scene = Scene::open("stopped-leader", LONGER).await;
    let first = Daemon::start(&scene.space, &[]).await;
    first.leads().await;
    let second = Daemon::start(&scene.space, &[]).await;
    look_after(&scene.space, LONGER).await;
    scene.space.set_image(NEW).await;
    scene.reaches(20, LONG).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let told = now();
    let ended_first = tokio::spawn(first.stop());
    let leads = second.step.says(" leading ", LONG).await;
    let goes_on = second.step.says("going on with what nobody carried", LONG).await;
    println!(
        "FIGURE leader stopped: the standby leads after {:.2} s, and goes on after {:.2} s",
        seconds(told, leads.at),
        seconds(told, goes_on.at)
    );
    let ended_first = ended_first.await.expect("it ends");
    assert_eq!(ended_first.code(), Some(0), "{}", ended_first.output());
    // Neither waited for the Lease to run out: that takes 15 s. How quick it was is printed above.
    assert!(seconds(told, leads.at) < 7.0, "{}", seconds(told, leads.at));
    assert!(seconds(told, goes_on.at) < 10.0, "{}", seconds(told, goes_on.at));
    assert_eq!(ended(&scene.space, 1, LONG).await, "Promoted");
    scene.close(Expected::on(NEW)).await;
}

/// As a pipeline calls it: nothing but the image.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes node: just cluster-test"]
async fn a_step_asks_the_daemon_and_either_goes_on_with_what_the_other_began() {
    let scene = Scene::open("through", LONGER).await;
    let image = scene.space.node.image(NEW);
    let daemon = Daemon::start(&scene.space, &[]).await;
    daemon.leads().await;
    look_after(&scene.space, LONGER).await;
    let home = scene.space.name.clone();
    let words = ["deploy", "--image", &image, "--home", &home];
    let step = scene.wade(&words);
    scene.reaches(20, LONG).await;
    let asked = scene
        .space
        .kubectl(&["get", "releases.wade.dev", "-o", "jsonpath={.items[*].spec.by}"])
        .await;
    assert_eq!(asked, "admin");
    // The step dies: the daemon does not mind.
    step.kill().await;
    // The daemon dies: a step goes on.
    tokio::time::sleep(Duration::from_secs(1)).await;
    daemon.kill().await;
    let step = scene.wade(&words);
    let by_itself = step.ends(LONG).await;
    println!("exit {:?}\n{}", by_itself.code(), by_itself.output());
    assert_eq!(by_itself.code(), Some(0), "{}", by_itself.output());
    // And the way back: a step begins by itself, dies, and the daemon goes on with it.
    let step = scene.deploy("1.1");
    step.says("20 %", LONG).await;
    step.kill().await;
    let daemon = Daemon::start(&scene.space, &[]).await;
    daemon.step.says("going on with what nobody carried", LONG).await;
    assert_eq!(ended(&scene.space, 2, LONG).await, "Promoted");
    scene.close(Expected::on("1.1")).await;
}

/// Where the API server has no such policies: the Deployment stays paused between releases.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes node: just cluster-test"]
async fn without_policies_it_stays_paused_between_releases() {
    let scene = Scene::open("stays-paused", QUICK).await;
    let daemon = Daemon::start(&scene.space, &["--hold", "paused"]).await;
    look_after(&scene.space, QUICK).await;
    let paused = async || {
        let said = scene
            .space
            .kubectl(&["get", "deployment/app", "-o", "jsonpath={.spec.paused}"])
            .await;
        (said == "true").then_some(())
    };
    eventually("it is paused", Duration::from_secs(20), paused).await;
    scene.space.set_image(NEW).await;
    assert_eq!(ended(&scene.space, 1, LONG).await, "Promoted");
    eventually("it is paused again", Duration::from_secs(20), paused).await;
    scene.space.kubectl(&["delete", "rollouts.wade.dev/app"]).await;
    // Let go of, it is as it was.
    let closed = scene.close(Expected::on(NEW)).await;
    let deployment = closed.space.kubectl(&["get", "deployment/app", "-o", "json"]).await;
    let deployment = serde_json::from_str(&deployment).expect("kubectl prints JSON");
    assert_eq!(text(&deployment, "/metadata/labels/wade.dev~1hold"), "");
    assert_eq!(
        text(&deployment, "/spec/template/spec/containers/0/image"),
        closed.space.node.image(NEW)
    );
    drop((daemon, OLD));
}
