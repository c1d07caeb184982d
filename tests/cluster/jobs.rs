//! Wade as a Job: a release that outlives the shell which asked for it, and a watchdog beside one that does not.

use std::time::Duration;

use crate::support::api::Kind;
use crate::support::eventually;
use crate::support::recorder::text;
use crate::support::scene::{Expected, NEW, OLD, QUICK, SLOW, Scene, phase};
use crate::support::space::Space;
use crate::support::step::{Ended, Step};

/// As [`QUICK`], with a first stage in which a pod can be lost and replaced.
const LONG: &str = "
  strategy:
    canary:
      steps:
        - {weight: 20%, max: 30s}
        - {weight: 50%, max: 6s}
      bake: 4s
  smoke: [{http: /healthz}]
  analysis: {passEarly: {minStage: 3s}}
  limits: {settle: 1s}
";

/// The account that Jobs run as, with the Role that `wade rbac` prints and nothing else.
async fn account(space: &Space) {
    space.kubectl(&["create", "serviceaccount", "wade"]).await;
    let words = [
        "rbac",
        "-n",
        &space.name,
        "--service-account",
        &format!("{}/wade", space.name),
    ];
    let printed = Step::start(space, &words).ends(Duration::from_secs(20)).await;
    assert_eq!(printed.code(), Some(0), "{}", printed.output());
    let lines: Vec<&str> = printed.lines.iter().map(|line| line.text.as_str()).collect();
    let file = space.node.run_folder().join(format!("{}.role.yaml", space.name));
    std::fs::write(&file, lines.join("\n")).expect("the node's folder is there");
    space.kubectl(&["apply", "-f", &file.to_string_lossy()]).await;
    let _ = std::fs::remove_file(&file);
}

fn in_job(scene: &Scene, tag: &str) -> Step {
    let image = scene.space.node.wade_image();
    let words = ["--in-cluster", "--wade-image", image];
    scene.deploy_as(&scene.space.node.kubeconfig(), tag, &words)
}

/// Closes the scene once the Jobs, which Kubernetes would keep for an hour, are gone.
async fn close(scene: Scene, version: &str) {
    scene.space.kubectl(&["delete", "jobs", "--all", "--wait=true"]).await;
    scene.close(Expected::on(version)).await;
}

async fn ended(step: Step) -> Ended {
    let ended = step.ends(Duration::from_secs(100)).await;
    println!("exit {:?}\n{}", ended.code(), ended.output());
    ended
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes node: just cluster-test"]
async fn a_release_in_a_job_outlives_the_shell_that_asked_for_it() {
    let scene = Scene::open("injob", QUICK).await;
    account(&scene.space).await;
    let step = in_job(&scene, NEW);
    scene.reaches(20, Duration::from_secs(60)).await;
    let killed = step.kill().await;
    println!("killed:\n{}", killed.output());
    // Whoever looks later sees it through.
    let watcher = ended(scene.wade(&["status", "-w"])).await;
    assert!(watcher.output().contains("PROMOTED"), "{}", watcher.output());
    close(scene, NEW).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes node: just cluster-test"]
async fn a_job_that_loses_its_pod_goes_on_with_the_release() {
    let scene = Scene::open("jobpod", LONG).await;
    account(&scene.space).await;
    let step = in_job(&scene, NEW);
    scene.reaches(20, Duration::from_secs(60)).await;
    let pods = scene.space.list(Kind::Pod).await;
    let pod = pods
        .iter()
        .find(|pod| text(pod, "/metadata/ownerReferences/0/kind") == "Job")
        .expect("the Job has a pod");
    let name = text(pod, "/metadata/name");
    // As a node that is emptied for good does, only without its thirty seconds.
    scene.space.kubectl(&["delete", "pod", name, "--grace-period=1"]).await;
    let end = ended(step).await;
    assert_eq!(end.code(), Some(0));
    assert!(phase(&scene.history()).contains("Promoted"));
    close(scene, NEW).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes node: just cluster-test"]
async fn what_a_job_refuses_is_told_with_its_exit_code() {
    let scene = Scene::open("jobrefused", QUICK).await;
    // Nothing to run as: said before anything is made.
    let end = ended(in_job(&scene, NEW)).await;
    assert!(end.output().contains("no ServiceAccount wade"), "{}", end.output());
    assert!(scene.space.list(Kind::Job).await.is_empty());
    account(&scene.space).await;
    let here = ended(scene.deploy("latest")).await;
    let there = ended(in_job(&scene, "latest")).await;
    assert_eq!(there.code(), here.code());
    assert!(there.output().contains("latest"), "{}", there.output());
    close(scene, OLD).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes node: just cluster-test"]
async fn a_watchdog_takes_back_what_a_killed_step_left() {
    let scene = Scene::open("watchdog", SLOW).await;
    account(&scene.space).await;
    let image = scene.space.node.wade_image();
    let words = ["--watchdog", "--wade-image", image];
    let step = scene.deploy_as(&scene.space.node.kubeconfig(), NEW, &words);
    step.says("watched", Duration::from_secs(60)).await;
    scene.reaches(20, Duration::from_secs(60)).await;
    eventually("the watchdog runs", Duration::from_secs(60), || async {
        let pods = scene.space.list(Kind::Pod).await;
        let watching = pods.iter().any(|pod| {
            text(pod, "/metadata/ownerReferences/0/kind") == "Job" && text(pod, "/status/phase") == "Running"
        });
        watching.then_some(())
    })
    .await;
    let killed = step.kill().await;
    println!("killed:\n{}", killed.output());
    eventually("the weight is back on stable", Duration::from_secs(60), || async {
        (scene.weight() == 0).then_some(())
    })
    .await;
    close(scene, OLD).await;
}
