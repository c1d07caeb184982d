//! What a release tells the cluster of itself.

use crate::support::space::{APP, Sample};
use crate::support::trial::{SHORT, Trial};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes node: just cluster-test"]
async fn a_release_is_told_in_events_of_its_deployment() {
    let trial = Trial::start("events", &Sample::default()).await;
    let step = trial.deploy("1.1", &SHORT);
    let seen = trial.end(step).await;
    seen.exits_with(0);
    // As a person sees them: found by the Deployment's uid, not only by its name.
    let words = ["describe", "deployment", APP];
    let described = seen.trial.space.kubectl(&words).await;
    let told: Vec<&str> = described.lines().filter(|line| line.contains("  wade  ")).collect();
    let order = ["ReleaseBegan", "StageBegan", "Promoted"];
    for reason in order {
        assert!(
            told.iter().any(|line| line.contains(reason)),
            "{reason} is not told:\n{described}"
        );
    }
    let calm = told.iter().all(|line| line.trim_start().starts_with("Normal"));
    assert!(calm, "{told:?}");
}
