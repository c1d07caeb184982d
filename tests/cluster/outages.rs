//! Parts of the cluster that Wade rests on go away in mid-release: the API server, Prometheus.

use std::time::Duration;

use crate::support::scene::{Expected, NEW, QUICK, Scene, phase, weights};
use crate::support::targets::Targets;

/// As [`QUICK`], with a first stage that an outage fits into.
const LONGER: &str = "
  strategy:
    canary:
      steps:
        - {weight: 20%, max: 15s}
        - {weight: 50%, max: 6s}
      bake: 4s
  smoke: [{http: /healthz}]
  analysis: {passEarly: {minStage: 3s}}
  limits: {settle: 1s}
";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes node: just cluster-test"]
async fn a_release_outlives_the_api_server() {
    let scene = Scene::open_alone("apiserver", LONGER).await;
    let step = scene.deploy(NEW);
    scene.reaches(20, Duration::from_secs(40)).await;
    let outage = scene.space.node.kill("apiserver");
    tokio::time::sleep(Duration::from_secs(25)).await;
    drop(outage);
    // A node whose kubelet could not report for so long may be called not ready for a while: nothing is measured then.
    let ended = step.ends(Duration::from_secs(180)).await;
    println!("exit {:?}\n{}", ended.code(), ended.output());
    assert_eq!(ended.code(), Some(0));
    goes_only_forward(&scene);
    scene.close(Expected::on(NEW)).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes node: just cluster-test"]
async fn a_release_outlives_a_restart_of_the_api_server() {
    let scene = Scene::open_alone("restarted", QUICK).await;
    let step = scene.deploy(NEW);
    scene.reaches(20, Duration::from_secs(40)).await;
    scene.space.node.restart("apiserver");
    let ended = step.ends(Duration::from_secs(80)).await;
    println!("exit {:?}\n{}", ended.code(), ended.output());
    assert_eq!(ended.code(), Some(0));
    goes_only_forward(&scene);
    scene.close(Expected::on(NEW)).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes node: just cluster-test"]
async fn a_dead_prometheus_is_no_bad_version() {
    // The URL and the namespace are only known once there is a space; the policy is completed below.
    let scene = Scene::open_alone("prometheus", LONGER).await;
    let source = format!(
        "{{prometheus: {{url: \"{}\", every: 2s, podLabel: pod, canary: 'namespace=\"{}\",pod=~\"${{canary}}-.+\"', \
         stable: 'namespace=\"{}\",pod=~\"${{stable}}-.+\"'}}}}",
        scene.space.node.prometheus(),
        scene.space.name,
        scene.space.name
    );
    let policy = std::fs::read_to_string(scene.policy()).expect("the scene wrote it");
    let policy = policy.replace(
        "analysis: {passEarly: {minStage: 3s}}",
        &format!("analysis: {{source: {source}, passEarly: {{minStage: 3s}}}}"),
    );
    std::fs::write(scene.policy(), policy).expect("the scene wrote it");
    let _targets = Targets::start(&scene.space, scene.recorder());
    // Prometheus needs two looks at stable.
    tokio::time::sleep(Duration::from_secs(5)).await;

    let step = scene.deploy(NEW);
    scene.reaches(20, Duration::from_secs(40)).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let outage = scene.space.node.kill("prometheus");
    tokio::time::sleep(Duration::from_secs(60)).await;
    println!("a minute without Prometheus, at {} %:", scene.weight());
    for line in step.lines() {
        println!("{}", line.text);
    }
    assert!(scene.weight() > 0, "the weight stays");
    drop(outage);
    let ended = step.ends(Duration::from_secs(80)).await;
    println!("exit {:?}\n{}", ended.code(), ended.output());
    assert_eq!(ended.code(), Some(0));
    goes_only_forward(&scene);
    scene.close(Expected::on(NEW)).await;
}

/// The canary's weight never falls, until the hand over gives its backend back.
fn goes_only_forward(scene: &Scene) {
    let history = scene.history();
    let shares: Vec<u64> = weights(&history).iter().map(|weight| weight.canary).collect();
    assert_eq!(shares, [0, 20, 50, 100, 0], "{}", phase(&history));
}
