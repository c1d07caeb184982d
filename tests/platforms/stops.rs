//! Stopping, and dying: the daemon's processes are not the daemon.

use std::time::Duration;

use rustix::process::Signal;
use wade::clock::{Clock, SystemClock};
use wade::demo::load::{Load, NO_VERSION};
use wade::engine::Outcome;
use wade::store::sqlite::DataDir;

use super::yard::{GOOD, Rollout, SERVICE, Yard, signal};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_keeps_processes_and_the_next_start_adopts_them() {
    let mut yard = Yard::new(&Rollout::default());
    let client = yard.start().await;
    let first = yard.release(&client, "1.0.0", GOOD).await;
    assert_eq!(first.state.outcome(), Some(&Outcome::FirstDeploy));
    let before = yard.samples();
    assert_eq!(before.len(), 2, "{before:?}");

    let load = Load::start(yard.address(), 100.0, 1);
    tokio::time::sleep(Duration::from_millis(500)).await;
    let status = yard.terminate().await;
    assert_eq!(status.code(), Some(0), "{}", yard.log());
    assert_eq!(yard.samples(), before, "stopping the daemon stops no process");
    let client = yard.start().await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let down = load.snapshot();
    tokio::time::sleep(Duration::from_millis(1000)).await;
    assert_eq!(yard.samples(), before, "what runs is adopted, not started again");
    let end = load.stop().await;
    assert_eq!(
        end.lost_total(),
        down.lost_total(),
        "only while the daemon was away: {end:?}"
    );
    assert_eq!(end.failed_total(), 0, "{end:?}");
    println!(
        "lost while the daemon was stopped and started: {:?} of {}",
        end.lost, end.sent
    );
    let view = client.rollout(SERVICE).await.expect("an answer");
    let stable = view.stable.expect("stable serves");
    assert_eq!(
        (stable.ready, stable.instances.iter().map(|i| i.restarts).sum::<u32>()),
        (2, 0)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_recorded_of_stable_outlives_the_daemon() {
    let mut yard = Yard::new(&Rollout::default());
    let client = yard.start().await;
    yard.release(&client, "1.0.0", GOOD).await;
    let load = Load::start(yard.address(), 200.0, 1);
    // The requests that are known, once the daemon has stopped and let go of its folder.
    let known = |yard: &Yard| {
        let data = DataDir::open(&yard.path("data"), SystemClock.now()).expect("nobody has it open");
        let kept = data.store().kept_history(SERVICE).expect("it can be read");
        kept.expect("something was kept").lately().0
    };
    tokio::time::sleep(Duration::from_secs(5)).await;
    yard.terminate().await;
    let before = known(&yard);
    assert!(before > 200.0, "{before} requests in five seconds\n{}", yard.log());
    yard.start().await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    yard.terminate().await;
    let after = known(&yard);
    load.stop().await;
    assert!(
        after > before + 50.0,
        "{before}, then {after}: it began anew\n{}",
        yard.log()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_instance_comes_back_and_only_its_requests_in_flight_are_lost() {
    let mut yard = Yard::new(&Rollout::default());
    let client = yard.start().await;
    yard.release(&client, "1.0.0", GOOD).await;
    let before = yard.samples();
    let load = Load::start(yard.address(), 100.0, 1);
    tokio::time::sleep(Duration::from_millis(500)).await;
    signal(before[0].pid, Signal::KILL);
    let back = yard
        .until("a second instance again", async || {
            let view = client.rollout(SERVICE).await.ok()?;
            let stable = view.stable?;
            (stable.ready == 2 && stable.instances.iter().any(|instance| instance.restarts == 1)).then_some(stable)
        })
        .await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let end = load.stop().await;
    let after = yard.samples();
    assert_eq!(
        (after.len(), after[1].pid),
        (2, before[1].pid),
        "the other one is left alone"
    );
    assert_ne!(after[0].pid, before[0].pid);
    assert_eq!(
        back.instances
            .iter()
            .map(|instance| instance.restarts)
            .collect::<Vec<_>>(),
        [1, 0]
    );
    // 100 requests a second of about 10 ms: one or two are under way at any moment.
    let failed = end.failed_total() + end.lost_total();
    println!(
        "failed when an instance was killed: {failed} of {} ({:?})",
        end.sent,
        end.versions.get(NO_VERSION)
    );
    assert!(failed <= 5, "{end:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stop_processes_stops_them_even_while_somebody_follows() {
    let mut yard = Yard::new(&Rollout {
        steps: "{weight: 20%, min: 30s, max: 30s}",
        ..Rollout::default()
    });
    yard.launch(&["--stop-processes"]);
    let client = yard.answering().await;
    yard.release(&client, "1.0.0", GOOD).await;
    let started = client
        .release(SERVICE, &super::yard::request("1.1.0", GOOD))
        .await
        .expect("a release");
    let key = started.release.expect("a new revision");
    let mut events = client.events(&key, 1).await.expect("events");
    yard.phase(&client, "analysing").await;
    let follower = tokio::spawn(async move { while let Ok(Some(_)) = events.next().await {} });
    let status = yard.terminate().await;
    assert_eq!((status.code(), yard.samples()), (Some(0), Vec::new()), "{}", yard.log());
    tokio::time::timeout(Duration::from_secs(2), follower)
        .await
        .expect("followers are let go")
        .expect("no panic");
}
