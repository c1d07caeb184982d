//! Two daemons, and whoever leads is killed in the middle of a release, again and again, while people use the service.
//!
//! What must hold however often that happens: no request is lost; every release ends as it should; no stage is judged
//! twice; and nothing that has been seen is forgotten (`scene` looks at every version of the record: its history only
//! grows, its epoch never falls, and an epoch is one process's).

use std::collections::BTreeMap;
use std::time::Duration;

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;

use crate::support::api::Kind;
use crate::support::daemon::{Daemon, ended, look_after};
use crate::support::recorder::{Change, History, text};
use crate::support::scene::{Expected, NEW, RECORD, Scene};
use crate::support::{eventually, now, seconds};

/// A killed leader is followed when its Lease has run out, after 15 s; on a busy machine later.
const FOLLOWED_WITHIN: Duration = Duration::from_secs(90);
const ENDS_WITHIN: Duration = Duration::from_secs(150);
/// Versions that take turns.
const VERSIONS: [&str; 4] = [NEW, "2.1", "1.1", "1.2"];
/// About 20 s of its own, with time to die in.
const POLICY: &str = "
  strategy:
    canary:
      steps:
        - {weight: 20%, max: 8s}
        - {weight: 50%, max: 6s}
      bake: 3s
  smoke: [{http: /healthz}]
  analysis: {passEarly: {minStage: 6s}}
  limits: {settle: 1s}
";

/// When a leader dies.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// So long after the change was made.
    After(Duration),
    /// When the canary has this weight.
    At(u64),
    /// When the canary's pods are being given to the Deployment.
    HandOver,
}

/// Twenty moments that nobody chose: `just soak`; without the variable it says so and is done.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes node: just cluster-test"]
async fn soak_leaders_killed_twenty_times() {
    if std::env::var_os("WADE_CLUSTER_SOAK").is_none() {
        eprintln!("not run: WADE_CLUSTER_SOAK is not set");
        return;
    }
    let seed = std::env::var("WADE_CLUSTER_SEED").ok();
    let seed = seed.and_then(|seed| seed.parse().ok()).unwrap_or(20);
    println!("seed {seed}");
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    // From before the release begins to its hand over, and, with the time in which nobody led, to its end.
    let moments: Vec<Moment> = (0..10)
        .flat_map(|_| [random.random_range(100..22_000), random.random_range(30_000..50_000)])
        .map(|millis| Moment::After(Duration::from_millis(millis)))
        .collect();
    killed("soak-killed", &moments, 2).await;
}

/// The moments at which most is under way, both in one release.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes node: just cluster-test"]
async fn leaders_are_killed_at_the_first_weight_and_in_the_hand_over() {
    killed("killed-twice", &[Moment::At(20), Moment::HandOver], 2).await;
}

/// One release after the other; in each `per_release` of these moments.
async fn killed(test: &str, moments: &[Moment], per_release: usize) {
    let scene = Scene::open(test, POLICY).await;
    let mut leader = Daemon::start(&scene.space, &[]).await;
    leader.leads().await;
    let mut standby = Daemon::start(&scene.space, &[]).await;
    look_after(&scene.space, POLICY).await;
    let mut serves = "";
    let begun = now();
    let mut goes_on = Vec::new();
    for (number, moments) in (1_u64..).zip(moments.chunks(per_release)) {
        serves = VERSIONS[usize::try_from(number - 1).expect("a few") % VERSIONS.len()];
        let changed = now();
        scene.space.set_image(serves).await;
        for moment in moments {
            wait_for(&scene, *moment, changed).await;
            let at = format!("{:.1} s, {} %", seconds(changed, now()), scene.weight());
            let killed = now();
            leader.kill().await;
            standby.step.says(" leading ", FOLLOWED_WITHIN).await;
            goes_on.push(seconds(killed, now()));
            println!(
                "release {number} of {serves}: killed at {at}; followed after {:.1} s",
                seconds(killed, now())
            );
            // Not earlier: of two that wait either may be the one.
            let next = Daemon::start(&scene.space, &[]).await;
            leader = std::mem::replace(&mut standby, next);
        }
        assert_eq!(
            ended(&scene.space, number, ENDS_WITHIN).await,
            "Promoted",
            "release {number}"
        );
        println!(
            "release {number} of {serves} promoted after {:.1} s",
            seconds(changed, now())
        );
    }
    let took = seconds(begun, now());
    let longest = goes_on.iter().copied().fold(0.0, f64::max);
    let mean = goes_on.iter().sum::<f64>() / goes_on.len() as f64;
    println!(
        "FIGURE {test}: {} leaders killed in {took:.0} s, followed after {mean:.1} s on average, {longest:.1} s at the most",
        goes_on.len()
    );
    let closed = scene.close(Expected::on(serves)).await;
    let twice = judged_twice(&closed.history);
    assert!(twice.is_empty(), "{}", twice.join("\n"));
    drop((leader, standby));
}

async fn wait_for(scene: &Scene, moment: Moment, changed: jiff::Timestamp) {
    match moment {
        Moment::After(after) => {
            let left = after.as_secs_f64() - seconds(changed, now());
            tokio::time::sleep(Duration::from_secs_f64(left.max(0.0))).await;
        }
        Moment::At(weight) => {
            scene.reaches(weight, ENDS_WITHIN).await;
        }
        Moment::HandOver => {
            eventually("the hand over begins", ENDS_WITHIN, || async {
                let record = scene.record().await?;
                text(&record, "/data/state").contains("handingOver").then_some(())
            })
            .await;
        }
    }
}

/// Releases with a stage that was entered, passed or ended more than once, or with an entry that was lost or told twice.
fn judged_twice(history: &History) -> Vec<String> {
    // The longest history of each release that was seen.
    let mut releases = BTreeMap::<String, String>::new();
    for seen in history.of(Kind::ConfigMap).filter(|seen| seen.name() == RECORD) {
        if seen.change == Change::Deleted {
            continue;
        }
        let entries = text(&seen.object, "/data/history");
        let longest = releases
            .entry(text(&seen.object, "/data/number").to_owned())
            .or_default();
        if entries.len() > longest.len() {
            entries.clone_into(longest);
        }
    }
    let mut faults = Vec::new();
    for (number, entries) in &releases {
        let mut seen = BTreeMap::<String, u32>::new();
        let mut next = 1;
        for line in entries.lines().filter(|line| !line.trim().is_empty()) {
            let Ok(entry) = serde_json::from_str::<Value>(line) else {
                faults.push(format!("release {number}: an entry that cannot be read: {line}"));
                continue;
            };
            if entry["number"].as_u64() != Some(next) {
                faults.push(format!("release {number}: entry {next} is missing: {line}"));
            }
            next = entry["number"].as_u64().unwrap_or(next) + 1;
            let event = match &entry["event"] {
                Value::String(name) => name.clone(),
                Value::Object(event) => event.keys().next().cloned().unwrap_or_default(),
                _ => String::new(),
            };
            *seen.entry(event).or_default() += 1;
        }
        // Two stages and the bake; everything else happens once.
        for (event, times) in seen {
            let most = match event.as_str() {
                "prepared" | "shifted" | "stageEnded" => 3,
                "admitted" | "ready" | "smokePassed" | "adopted" | "stableDrained" | "retired" => 1,
                _ => continue,
            };
            if times > most {
                faults.push(format!("release {number}: {event} {times} times"));
            }
        }
    }
    faults
}
