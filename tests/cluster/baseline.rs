//! What Kubernetes does by itself, measured the way Wade's releases are measured.

use std::time::Duration;

use crate::support::api::Kind;
use crate::support::client::Connections;
use crate::support::recorder::lowest;
use crate::support::space::{APP, Sample, Space};
use crate::support::{now, seconds};

/// Requests a second of each client.
const RATE: u32 = 50;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes node: just cluster-test"]
async fn plain_rolling_update_baseline() {
    let space = Space::new("baseline").await;
    space.deploy(&Sample::default()).await;
    let recorder = space.recorder().await;
    let edge = space.through_edge(RATE, Connections::New);
    let service = space.through_service(APP, RATE, Connections::New).await;
    let kept = space.through_service(APP, RATE, Connections::Kept).await;
    tokio::time::sleep(Duration::from_secs(2)).await;

    let begun = now();
    let image = format!("{APP}={}", space.node.image("2.0"));
    space.kubectl(&["set", "image", "deployment/app", &image]).await;
    space.rolled_out().await;
    let took = seconds(begun, now());
    // Long enough for the last old pod to have drained.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let ended = now();

    let history = recorder.history();
    let old = history.until(begun).pods();
    let started = history.pods().difference(&old).count();
    let fewest = lowest(&history.ready_endpoints(APP), begun);
    let writes = history.since(begun).writes(Kind::Deployment, APP);
    println!("a plain rolling update of 4 pods: {took:.1} s, {started} pod starts, {writes} states of the Deployment");
    println!("ready endpoints at the least: {fewest:?}");
    let mut lost = 0;
    for (path, client) in [("edge", edge), ("service", service), ("service, kept open", kept)] {
        let tally = client.stop().await;
        println!("{path}: {tally}");
        // The loop is open and nothing is forgotten: as many as the time and the rate say.
        let expected = seconds(begun, ended) * f64::from(RATE);
        let sent = tally.between(begun, ended).total() as f64;
        assert!(
            (sent - expected).abs() <= 2.0,
            "{path}: {sent} requests in place of {expected:.0}"
        );
        for version in ["1.0", "2.0"] {
            assert_ne!(
                tally.only(|answer| answer.is_from(version)).total(),
                0,
                "{path}: none from {version}"
            );
        }
        // Once the update is over, nobody is left on the old version.
        let late = tally.between(begun + Duration::from_secs_f64(took + 4.0), ended);
        assert_eq!(
            late.only(|answer| answer.is_from("1.0")).total(),
            0,
            "{path}: old answers after the drain"
        );
        lost += tally.bad().total();
    }
    assert_eq!((old.len(), started, history.restarts()), (4, 4, 0));
    // The default surge is a quarter, and so is what may be missing: 3 of 4.
    assert!(fewest >= Some(3), "{fewest:?} ready endpoints");
    assert_eq!(
        lost, 0,
        "the application drains, so a plain update loses nothing either"
    );
}
