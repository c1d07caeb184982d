//! What people ask of a release, through the command line and the socket, with the exit codes that pipelines read.

use std::process::Stdio;
use std::time::Duration;

use tokio::process::{Child, Command};
use wade::clock::stopwatch;
use wade::daemon::api::CommandRequest;
use wade::demo::load::Load;
use wade::engine::{CommandKind, Outcome};
use wade::plan::ALL_STABLE;
use wade::store::{ReleaseKey, ReleaseRecord};

use super::yard::{GOOD, Rollout, SERVICE, WADE, Yard, request};

/// Stages that end by command or not at all.
const LONG: &str = "{weight: 20%, min: 60s, max: 60s}, {weight: 50%, min: 60s, max: 60s}";
/// A whole release in about two seconds, most of it baking.
const SHORT: &str = "{weight: 50%, min: 1s, max: 1s}";

/// `wade` in the background, like a pipeline's last step.
fn background(yard: &Yard, words: &[&str]) -> Child {
    let mut command = Command::new(WADE);
    command.args(words).env("WADE_SOCKET", yard.socket()).kill_on_drop(true);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary runs")
}

async fn code(mut child: Child) -> Option<i32> {
    let status = tokio::time::timeout(Duration::from_secs(30), child.wait()).await;
    status.expect("it ends with its release").expect("our own child").code()
}

fn key(number: u64) -> ReleaseKey {
    ReleaseKey {
        rollout: SERVICE.to_owned(),
        number,
    }
}

fn outcome(record: &ReleaseRecord) -> Option<&Outcome> {
    record.state.outcome()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_pauses_resumes_opens_the_gate_and_promotes() {
    let mut yard = Yard::new(&Rollout {
        steps: LONG,
        more: "  gates: [{before: 50%}]\n",
        ..Rollout::default()
    });
    let client = yard.start().await;
    yard.release(&client, "1.0.0", GOOD).await;
    let load = Load::start(yard.address(), 50.0, 1);
    assert_eq!(
        yard.wade(&["deploy", SERVICE, "--version", "1.1.0", "--detach"])
            .await
            .0,
        0
    );
    yard.phase(&client, "analysing").await;

    let (exit, said, _) = yard.wade(&["approve", SERVICE]).await;
    assert!(exit == 5 && said.contains("no gate is waiting"), "{exit}: {said}");
    let (exit, said, _) = yard.wade(&["pause", SERVICE, "--reason", "lunch"]).await;
    assert!(exit == 0 && said.contains("paused by"), "{exit}: {said}");
    assert!(client.record(&key(2)).await.expect("a record").state.paused.is_some());
    let (exit, said, _) = yard.wade(&["pause", SERVICE]).await;
    assert!(exit == 5 && said.contains("paused already"), "{exit}: {said}");
    assert_eq!(yard.wade(&["resume", SERVICE]).await.0, 0);

    assert_eq!(yard.wade(&["promote", SERVICE]).await.0, 0);
    let gated = yard.phase(&client, "gated").await;
    assert_eq!(gated.split.to_string(), "20%", "a gate keeps the weight");
    let (exit, said, _) = yard.wade(&["promote", SERVICE]).await;
    assert!(exit == 5 && said.contains("wade approve"), "{exit}: {said}");
    assert_eq!(yard.wade(&["approve", SERVICE, "--reason", "looked at it"]).await.0, 0);
    let half = yard.phase(&client, "analysing").await;
    assert_eq!(half.split.to_string(), "50%");
    assert_eq!(yard.wade(&["promote", SERVICE, "--full"]).await.0, 0);
    let record = yard.over(&client, &key(2)).await;
    assert_eq!(outcome(&record), Some(&Outcome::Promoted { proven: false }));
    let (exit, _, said) = yard.wade(&["abort", SERVICE]).await;
    assert!(exit == 5 && said.contains("nothing to abort"), "{exit}: {said}");
    let end = load.stop().await;
    assert_eq!((end.lost_total(), end.failed_total()), (0, 0), "{end:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_abort_has_the_router_back_on_stable_within_a_second() {
    let mut yard = Yard::new(&Rollout {
        steps: LONG,
        ..Rollout::default()
    });
    let client = yard.start().await;
    yard.release(&client, "1.0.0", GOOD).await;
    let load = Load::start(yard.address(), 50.0, 1);
    let deploy = background(&yard, &["deploy", SERVICE, "--version", "1.1.0"]);
    yard.phase(&client, "analysing").await;
    let asked = stopwatch();
    let ask = CommandRequest {
        kind: CommandKind::Abort,
        reason: Some("customers call".to_owned()),
    };
    let answer = client.command(SERVICE, &ask).await.expect("an answer");
    let view = client.rollout(SERVICE).await.expect("an answer");
    let took = asked.elapsed();
    assert_eq!(
        (answer.followed, view.split),
        (Some(true), ALL_STABLE),
        "{}",
        answer.message
    );
    assert!(took < Duration::from_secs(1), "{took:?}");
    println!("back on stable {took:?} after the abort was asked for");
    assert_eq!(
        code(deploy).await,
        Some(4),
        "the pipeline learns that a person ended it"
    );
    let record = yard.over(&client, &key(2)).await;
    assert_eq!(outcome(&record), Some(&Outcome::Aborted));
    let end = load.stop().await;
    assert_eq!((end.lost_total(), end.failed_total()), (0, 0), "{end:?}");
    assert_eq!(yard.samples().len(), 2, "the canary is gone");
    // A person's no is not the version's fault.
    let again = background(&yard, &["deploy", SERVICE, "--version", "1.1.0", "--detach"]);
    assert_eq!(code(again).await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rollback_goes_to_an_earlier_release_and_a_failed_one_waits_for_retry() {
    let mut yard = Yard::new(&Rollout {
        steps: SHORT,
        ..Rollout::default()
    });
    let client = yard.start().await;
    yard.release(&client, "1.0.0", GOOD).await;
    let load = Load::start(yard.address(), 100.0, 1);
    assert_eq!(yard.wade(&["deploy", SERVICE, "--version", "1.1.0"]).await.0, 0);
    assert_eq!(yard.wade(&["deploy", SERVICE, "--version", "1.2.0"]).await.0, 0);
    assert_eq!(
        yard.wade(&["rollback", SERVICE, "--to", "1"]).await.0,
        0,
        "{}",
        yard.log()
    );
    let stable = async || {
        client
            .rollout(SERVICE)
            .await
            .expect("an answer")
            .stable
            .expect("stable")
            .version
    };
    assert_eq!(stable().await, "1.0.0");
    assert_eq!(yard.wade(&["rollback", SERVICE]).await.0, 0);
    assert_eq!(stable().await, "1.2.0", "the one that served before");
    let (exit, _, said) = yard.wade(&["rollback", SERVICE, "--to", "99"]).await;
    assert!(exit == 2 && said.contains("wade history"), "{exit}: {said}");

    let bad = [
        "deploy",
        SERVICE,
        "--version",
        "1.3.0",
        "--set",
        "flaw=--fail-percent=80",
    ];
    assert_eq!(yard.wade(&bad).await.0, 3, "{}", yard.log());
    assert_eq!(stable().await, "1.2.0");
    let (exit, _, said) = yard.wade(&bad).await;
    assert!(
        exit == 5 && said.contains("failed in release 6") && said.contains("wade retry hello"),
        "{exit}: {said}"
    );
    assert_eq!(
        yard.wade(&["retry", SERVICE]).await.0,
        3,
        "asked for by a person it is tried, and fails again"
    );
    assert_eq!(
        client.releases(SERVICE).await.expect("an answer").len(),
        7,
        "a refusal is no release"
    );
    let end = load.stop().await;
    assert_eq!(end.lost_total(), 0, "{end:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_revision_supersedes_the_one_that_runs_if_the_rollout_says_so() {
    let mut yard = Yard::new(&Rollout {
        steps: LONG,
        more: "  onNewRevision: supersede\n",
        ..Rollout::default()
    });
    let client = yard.start().await;
    yard.release(&client, "1.0.0", GOOD).await;
    let _load = Load::start(yard.address(), 50.0, 1);
    let older = background(&yard, &["deploy", SERVICE, "--version", "1.1.0"]);
    yard.phase(&client, "analysing").await;
    let newer = client
        .release(SERVICE, &request("1.2.0", GOOD))
        .await
        .expect("it is admitted");
    assert_eq!(newer.release, Some(key(3)));
    assert_eq!(code(older).await, Some(8));
    assert_eq!(outcome(&yard.over(&client, &key(2)).await), Some(&Outcome::Superseded));
    yard.phase(&client, "analysing").await;
    let versions: Vec<String> = client
        .releases(SERVICE)
        .await
        .expect("an answer")
        .into_iter()
        .map(|release| release.version)
        .collect();
    assert_eq!(versions, ["1.2.0", "1.1.0", "1.0.0"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_revision_waits_for_the_one_that_runs_if_the_rollout_says_so() {
    let mut yard = Yard::new(&Rollout {
        steps: SHORT,
        more: "  onNewRevision: wait\n",
        ..Rollout::default()
    });
    let client = yard.start().await;
    yard.release(&client, "1.0.0", GOOD).await;
    let load = Load::start(yard.address(), 50.0, 1);
    let older = background(&yard, &["deploy", SERVICE, "--version", "1.1.0"]);
    yard.until("the first one runs", async || client.record(&key(2)).await.ok())
        .await;
    let newer = background(&yard, &["deploy", SERVICE, "--version", "1.2.0"]);
    assert_eq!(
        (code(older).await, code(newer).await),
        (Some(0), Some(0)),
        "{}",
        yard.log()
    );
    let stable = client
        .rollout(SERVICE)
        .await
        .expect("an answer")
        .stable
        .expect("stable");
    assert_eq!(stable.version, "1.2.0");
    let (first, second) = (
        client.record(&key(2)).await.expect("a record"),
        client.record(&key(3)).await.expect("a record"),
    );
    assert!(first.ended <= Some(second.created), "one after the other");
    let end = load.stop().await;
    assert_eq!((end.lost_total(), end.failed_total()), (0, 0), "{end:?}");
}

/// Commands of the author's own: told which release they belong to, one that fails before the start rejects the version
/// with its last words, and the one after it runs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hooks_are_run_around_a_release_and_one_that_fails_rejects_it() {
    let mut yard = Yard::new(&Rollout {
        steps: SHORT,
        more: "  hooks:
    - {command: [sh, -c, 'echo $WADE_HOOK $WADE_RELEASE $WADE_VERSION; test $WADE_VERSION != 1.2.0'], at: beforeStart}
    - {command: [sh, -c, 'exit 4'], at: afterPromotion}
    - {command: [sh, -c, 'true'], at: afterRollback}
",
        ..Rollout::default()
    });
    let client = yard.start().await;
    yard.release(&client, "1.0.0", GOOD).await;
    let first = client.record(&key(1)).await.expect("a record");
    assert!(outcome(&first).is_some_and(Outcome::is_forward));
    let said = |record: &ReleaseRecord| -> Vec<String> {
        let hooks = record.history.iter().filter(|entry| entry.reason.contains("hook"));
        hooks.map(|entry| entry.reason.clone()).collect()
    };
    assert_eq!(
        said(&first),
        [
            "hooks beforeStart ended well: sh",
            "hook sh (afterPromotion) failed: ended with 4 where 0 was expected; the outcome stays FirstDeploy"
        ]
    );
    let begun = client.release(SERVICE, &request("1.2.0", GOOD)).await;
    assert_eq!(begun.expect("it is admitted").release, Some(key(2)));
    let second = yard.over(&client, &key(2)).await;
    assert_eq!(outcome(&second), Some(&Outcome::Rejected));
    let all = said(&second);
    assert!(all[0].contains("beforeStart 2 1.2.0"), "its last words: {all:?}");
    assert_eq!(
        all.last().map(String::as_str),
        Some("hooks afterRollback ended well: sh")
    );
}
