//! Releases of a version that answers with errors: how fast users are rid of it, and that nothing else is touched.

use crate::support::space::Sample;
use crate::support::trial::{Policy, SHORT, Trial};

/// A plain threshold, and a look at the pods every second: two in a row with a quarter of errors.
const TRIPWIRE: Policy = Policy {
    analysis: "{source: {scrape: {path: /metrics, every: 1s}}, look: 1s, tripwire: {errors: 25%, looks: 2, minRequests: 3}}",
    ..LONG
};

/// Nothing but the judge, with its defaults: METHOD.md promises 15 to 20 s for a version that always fails, 35 to 50 s
/// where its fast path for these does not help.
const JUDGE: Policy = Policy { analysis: "{}", ..LONG };

/// Stages that end by a verdict, not by their time.
const LONG: Policy = Policy {
    strategy: "canary: {steps: [{weight: 25%, max: 40s}, {weight: 50%, max: 40s}], bake: 5s}",
    ..SHORT
};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes node: just cluster-test"]
async fn tripwire_takes_back_a_version_that_always_fails() {
    bad("trip-all", "errors", &TRIPWIRE, 4.0).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes node: just cluster-test"]
async fn tripwire_takes_back_a_version_that_fails_half_the_time() {
    bad("trip-half", "half-errors", &TRIPWIRE, 4.0).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes node: just cluster-test"]
async fn judge_takes_back_a_version_that_always_fails() {
    bad("judge-all", "errors", &JUDGE, 20.0).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes node: just cluster-test"]
async fn judge_takes_back_a_version_that_fails_half_the_time() {
    bad("judge-half", "half-errors", &JUDGE, 45.0).await;
}

async fn bad(test: &str, tag: &str, policy: &Policy, within: f64) {
    let trial = Trial::start(test, &Sample::default()).await;
    let step = trial.deploy(tag, policy);
    let seen = trial.end(step).await;

    let (weight, last) = seen.way_back();
    eprintln!(
        "FIGURE {test}: {weight:.1} s from the first bad answer to the weight back on stable, {last:.1} s to the last bad answer; \
         edge {}; {:.1} s in all",
        seen.tally("edge"),
        seen.took()
    );
    seen.exits_with(3);
    seen.only_bad_from(tag);
    seen.nobody_met_before_its_weight(tag);
    seen.stable_stayed_whole();
    seen.never_below(4);
    seen.everything_as_before().await;
    assert!(weight <= within && last <= within + 1.0, "{}", seen.ended.output());
}
