//! Many hands on one rollout: two pipelines at once, and people in other shells while a release runs.

use std::time::Duration;

use serde_json::json;

use crate::support::account::Account;
use crate::support::eventually;
use crate::support::scene::{Expected, NEW, OLD, QUICK, SLOW, Scene, phase};
use crate::support::step::Ended;

/// As good as [`NEW`].
const NEWER: &str = "2.1";
const LONG: Duration = Duration::from_secs(85);

fn say(who: &str, ended: &Ended) {
    println!("{who}: exit {:?}\n{}", ended.code(), ended.output());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes node: just cluster-test"]
async fn of_two_steps_with_the_same_revision_one_works() {
    let scene = Scene::open("same", QUICK).await;
    let (first, second) = (scene.deploy(NEW), scene.deploy(NEW));
    let (first, second) = tokio::join!(first.ends(LONG), second.ends(LONG));
    say("one", &first);
    say("the other", &second);
    let mut codes = [first.code(), second.code()];
    codes.sort();
    assert_eq!(codes, [Some(0), Some(5)]);
    let refused = if first.code() == Some(5) { first } else { second };
    assert!(
        refused.output().contains("is releasing 2.0 already"),
        "{}",
        refused.output()
    );
    let closed = scene.close(Expected::on(NEW)).await;
    assert_eq!(closed.history.pods().len(), 8, "each pod is started once");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes node: just cluster-test"]
async fn a_newer_revision_waits_for_its_turn() {
    let scene = Scene::open("waiting", QUICK).await;
    let first = scene.deploy(NEW);
    scene.reaches(20, Duration::from_secs(40)).await;
    let second = scene.deploy(NEWER);
    let (first, second) = tokio::join!(first.ends(LONG), second.ends(LONG));
    say("first", &first);
    say("second", &second);
    assert_eq!((first.code(), second.code()), (Some(0), Some(0)));
    let closed = scene.close(Expected::on(NEWER)).await;
    assert!(phase(&closed.history).contains("Promoted"));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes node: just cluster-test"]
async fn a_newer_revision_supersedes_where_the_policy_says_so() {
    let scene = Scene::open("superseding", &format!("{QUICK}  onNewRevision: supersede\n")).await;
    let first = scene.deploy(NEW);
    scene.reaches(20, Duration::from_secs(40)).await;
    let second = scene.deploy(NEWER);
    let (first, second) = tokio::join!(first.ends(LONG), second.ends(LONG));
    say("first", &first);
    say("second", &second);
    assert_eq!(first.code(), Some(8), "{}", first.output());
    assert!(first.output().contains("2.1 is to be released"), "{}", first.output());
    assert_eq!(second.code(), Some(0));
    scene.close(Expected::on(NEWER)).await;
}

/// A gate before 50 %, which only the admin may open.
const GATED: &str = "
  strategy:
    canary:
      steps:
        - {weight: 20%, max: 3s}
        - {weight: 50%, max: 10m}
      bake: 4s
  smoke: [{http: /healthz}]
  gates: [{before: 50%, approvers: [admin]}]
  analysis: {passEarly: {minStage: 10m}}
  limits: {settle: 1s}
";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes node: just cluster-test"]
async fn a_step_does_not_detach_from_what_only_it_carries() {
    let scene = Scene::open("detached", GATED).await;
    let step = scene.deploy_as(&scene.space.node.kubeconfig(), NEW, &["--detach"]);
    let ended = step.ends(Duration::from_secs(20)).await;
    say("wade deploy --detach", &ended);
    assert_eq!(ended.code(), Some(2));
    assert!(scene.record().await.is_none(), "nothing was begun");
    scene.close(Expected::on(OLD)).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes node: just cluster-test"]
async fn people_in_other_shells_are_heard() {
    let scene = Scene::open("shells", GATED).await;
    let everything = json!([{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]);
    let stranger = Account::new(&scene.space, "stranger", &everything).await;
    let step = scene.deploy(NEW);
    eventually("the release waits at its gate", Duration::from_secs(40), || async {
        phase(&scene.history()).contains("gated").then_some(())
    })
    .await;
    let ask = async |words: &[&str]| {
        let ended = scene.wade(words).ends(Duration::from_secs(20)).await;
        say(&format!("wade {}", words.join(" ")), &ended);
        (ended.code(), ended.output())
    };

    let (code, said) = ask(&["status"]).await;
    assert!(code == Some(0) && said.contains("20") && said.contains(NEW), "{said}");
    // Not on the list of those who may.
    let words = ["approve", "--reason", "let me"];
    let refused = scene
        .wade_as(stranger.kubeconfig(), &words)
        .ends(Duration::from_secs(20))
        .await;
    say("a stranger approves", &refused);
    assert_eq!(refused.code(), Some(5));
    assert_eq!(scene.weight(), 20);

    assert_eq!(ask(&["pause", "--reason", "lunch"]).await.0, Some(0));
    assert_eq!(ask(&["approve", "--reason", "looks good"]).await.0, Some(0));
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(scene.weight(), 20, "paused, an open gate moves nothing");
    assert_eq!(ask(&["resume"]).await.0, Some(0));
    scene.reaches(50, Duration::from_secs(20)).await;
    assert_eq!(ask(&["approve"]).await.0, Some(5), "there is no gate any more");
    assert_eq!(ask(&["promote", "--reason", "enough"]).await.0, Some(0));

    let ended = step.ends(Duration::from_secs(60)).await;
    say("the step", &ended);
    assert_eq!(ended.code(), Some(0));
    // Afterwards there is nothing to abort, and all of it can be read.
    assert_eq!(ask(&["abort"]).await.0, Some(5));
    let (code, said) = ask(&["history"]).await;
    assert!(code == Some(0) && said.contains(NEW), "{said}");
    let (code, said) = ask(&["why"]).await;
    assert!(
        code == Some(0) && said.contains("looks good") && said.contains("admin"),
        "{said}"
    );
    scene.close(Expected::on(NEW)).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes node: just cluster-test"]
async fn an_abort_from_another_shell_is_told_to_its_end() {
    let scene = Scene::open("aborting", SLOW).await;
    let step = scene.deploy(NEW);
    scene.reaches(20, Duration::from_secs(40)).await;
    let asked = crate::support::now();
    let abort = scene.wade(&["abort", "--reason", "customers call"]);
    let back = scene.is_back(asked, Duration::from_secs(10)).await;
    println!(
        "FIGURE abort to the weight restored: {:.2} s",
        crate::support::seconds(asked, back)
    );
    let (abort, step) = tokio::join!(abort.ends(LONG), step.ends(LONG));
    say("abort", &abort);
    say("step", &step);
    assert_eq!((abort.code(), step.code()), (Some(0), Some(4)));
    assert!(step.output().contains("customers call"), "{}", step.output());
    scene.close(Expected::on(OLD)).await;
}
