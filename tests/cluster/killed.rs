//! The step killed without warning at moments nobody chose, and gone on with by another process; hung; interrupted.

use std::time::Duration;

use futures_util::future::join_all;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use crate::support::api::Kind;
use crate::support::recorder::text;
use crate::support::scene::{Expected, NEW, OLD, QUICK, RECORD, SLOW, Scene, phase};
use crate::support::{now, seconds};

/// How a release goes on whose step was killed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Then {
    /// `wade deploy` of the same revision: forward.
    Deploy,
    /// `wade settle`, as in a pipeline's after-script: back, unless it was past the point of no return.
    Settle,
    /// `wade abort` from another shell: the same, and at once.
    Abort,
}

/// Repeats: a few in the suite, `WADE_CLUSTER_SOAK=20` for the long run.
fn repeats(few: u64) -> u64 {
    let soak = std::env::var("WADE_CLUSTER_SOAK").ok();
    soak.and_then(|soak| soak.parse().ok()).unwrap_or(few)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes node: just cluster-test"]
async fn a_killed_step_is_gone_on_with_by_deploy() {
    killed_and(Then::Deploy, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes node: just cluster-test"]
async fn a_killed_step_is_undone_by_settle() {
    killed_and(Then::Settle, 101).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes node: just cluster-test"]
async fn a_killed_step_is_undone_by_abort() {
    killed_and(Then::Abort, 201).await;
}

/// Two at a time: they wait most of the time, but each has its clients.
async fn killed_and(then: Then, first: u64) {
    let seeds: Vec<u64> = (first..first + repeats(2)).collect();
    for pair in seeds.chunks(2) {
        join_all(pair.iter().map(|seed| killed_at_random(then, *seed))).await;
    }
}

async fn killed_at_random(then: Then, seed: u64) {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    // From before the hold to after the hand over.
    let moment = Duration::from_millis(random.random_range(300..24_000));
    let scene = Scene::open(&format!("killed-{seed}"), QUICK).await;
    let step = scene.deploy(NEW);
    tokio::time::sleep(moment).await;
    let killed = step.kill().await;
    let weight = scene.weight();
    println!(
        "seed {seed}: killed after {moment:?} at {weight} %, it had said:\n{}",
        killed.output()
    );
    let killed_at = now();
    let again = match then {
        Then::Deploy => scene.deploy(NEW),
        Then::Settle => scene.wade(&["settle", "--wait", "60s"]),
        Then::Abort => scene.wade(&["abort", "--reason", "its step was killed"]),
    };
    let ended = again.ends(Duration::from_secs(80)).await;
    println!(
        "seed {seed}: {then:?} took {:.1} s, exit {:?}:\n{}",
        seconds(killed_at, now()),
        ended.code(),
        ended.output()
    );
    let over = phase(&scene.history());
    let promoted = over.contains("Promoted");
    // A step that had ended already has nothing to be gone on with: deploy says so, abort refuses.
    let allowed: &[i32] = match then {
        Then::Deploy | Then::Settle => &[0],
        Then::Abort if killed.code().is_some() || promoted => &[0, 5],
        Then::Abort => &[0, 5],
    };
    assert!(
        allowed.contains(&ended.code().unwrap_or(-1)),
        "seed {seed}: {}",
        ended.output()
    );
    if then == Then::Deploy {
        assert!(promoted, "seed {seed}: {over}");
    }
    scene.close(Expected::on(if promoted { NEW } else { OLD })).await;
}

/// How long an abort may take from its command to the router's weight while the holder hangs: the 2 s that a holder is
/// given, and what a busy machine adds.
const HUNG_ABORT: f64 = 5.0;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes node: just cluster-test"]
async fn an_abort_does_not_wait_for_a_step_that_hangs() {
    let scene = Scene::open("hanging", SLOW).await;
    let step = scene.deploy(NEW);
    scene.reaches(20, Duration::from_secs(40)).await;
    step.signal("STOP");
    let asked = now();
    let abort = scene.wade(&["abort", "--reason", "it hangs"]);
    let back = scene.is_back(asked, Duration::from_secs(15)).await;
    let ended = abort.ends(Duration::from_secs(40)).await;
    let took = seconds(asked, back);
    println!("FIGURE abort of a hanging step to the weight restored: {took:.2} s");
    assert_eq!(ended.code(), Some(0), "{}", ended.output());
    assert!(took < HUNG_ABORT, "{took} s\n{}", ended.output());

    // It wakes up as the one before, and what it writes now would undo the way back.
    let epoch = record_epoch(&scene).await;
    let woken = now();
    step.signal("CONT");
    let step = step.ends(Duration::from_secs(30)).await;
    println!("the step that hung, exit {:?}:\n{}", step.code(), step.output());
    let closed = scene.close(Expected::on(OLD)).await;
    let record = closed.space.get(Kind::ConfigMap, RECORD).await.expect("a record");
    assert_eq!(text(&record, "/data/epoch"), epoch, "the record is another's");
    let wrong: Vec<_> = closed
        .requests
        .iter()
        .filter(|request| request.is_write() && request.user_agent.contains("wade"))
        .filter(|request| request.at > woken && request.response.as_ref().is_some_and(|answer| answer.code < 300))
        .filter_map(|request| request.object.as_ref())
        // It may say that it has been superseded; that changes nothing.
        .filter(|object| object.resource != "events")
        .map(|object| format!("{}/{}", object.resource, object.name))
        .collect();
    assert_eq!(wrong, Vec::<String>::new(), "written after the step woke up");
    assert!(phase(&closed.history).contains("Aborted"), "{}", phase(&closed.history));
}

async fn record_epoch(scene: &Scene) -> String {
    text(&scene.record().await.expect("a record"), "/data/epoch").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes node: just cluster-test"]
async fn an_interrupted_step_goes_back() {
    for signal in ["INT", "TERM"] {
        let scene = Scene::open(&format!("interrupted-{}", signal.to_lowercase()), SLOW).await;
        let step = scene.deploy(NEW);
        scene.reaches(20, Duration::from_secs(40)).await;
        let sent = now();
        step.signal(signal);
        let back = scene.is_back(sent, Duration::from_secs(15)).await;
        let ended = step.ends(Duration::from_secs(30)).await;
        println!(
            "FIGURE SIG{signal} to the weight restored: {:.2} s",
            seconds(sent, back)
        );
        println!("FIGURE memory of the step: {} KiB", ended.most_memory_kib);
        assert_eq!(ended.code(), Some(4), "{}", ended.output());
        scene.close(Expected::on(OLD)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes node: just cluster-test"]
async fn a_second_interrupt_leaves_the_release() {
    let scene = Scene::open("detached", SLOW).await;
    let step = scene.deploy(NEW);
    scene.reaches(20, Duration::from_secs(40)).await;
    step.signal("INT");
    step.says("interrupted", Duration::from_secs(5)).await;
    step.signal("INT");
    let ended = step.ends(Duration::from_secs(10)).await;
    println!("exit {:?}:\n{}", ended.code(), ended.output());
    assert_eq!(ended.code(), Some(1), "{}", ended.output());
    // Whoever comes next finishes what was left.
    let settled = scene
        .wade(&["settle", "--wait", "60s"])
        .ends(Duration::from_secs(80))
        .await;
    assert_eq!(settled.code(), Some(0), "{}", settled.output());
    scene.close(Expected::on(OLD)).await;
}
