//! `ClusterStrategy`: a strategy that those who run the cluster offer by name, and what nobody may go below.
//!
//! A Rollout that uses it (`strategy: {use: NAME}`) may still override steps and bake, as with any strategy; the minima
//! bound that. They are held against the *plan*, after everything has been laid together, so there is no spelling that
//! gets around them; and against the plan for a service with users and a router, because what Wade itself makes of it
//! where there are none (fewer, longer stages) is not the author's doing. Releases that go back, first deploys and emergencies are not held to them: a way back must never
//! be slower for being safe.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::plan::{Circumstances, Found, Lane, Plan, StageKind, lower};
use crate::spec::{
    API_VERSION, AnalysisSpec, Limits, Metadata, Resolved, Rollout, Span, Strategy, StrategyChoice, StrategyFile,
    StrategySpec, Weight,
};

/// The spec of a ClusterStrategy: that of a strategy's file, and minima.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClusterStrategySpec {
    /// How traffic is shifted.
    pub strategy: Strategy,
    /// What is measured and what follows from it.
    #[serde(default, skip_serializing_if = "AnalysisSpec::is_empty")]
    pub analysis: AnalysisSpec,
    /// How long each part may take.
    #[serde(default, skip_serializing_if = "Limits::is_empty")]
    pub limits: Limits,
    /// What a release may not go below.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minima: Option<Minima>,
}

/// What a release may not go below. What is not said is not asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Minima {
    /// They hold for every Rollout in the cluster, not only for those that use this strategy.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub everywhere: bool,
    /// The least bake.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bake: Option<Span>,
    /// The least number of judged stages before all users are on the new version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 20))]
    pub stages: Option<u32>,
    /// The most that the first stage may give the new version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_weight: Option<Weight>,
    /// The least time that a judged stage takes, however good it looks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage: Option<Span>,
    /// Smoke tests there must be.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub smoke: bool,
}

impl ClusterStrategySpec {
    /// The strategy as one that lies in a file, for [`crate::spec::resolve`].
    pub fn file(&self, name: &str) -> StrategyFile {
        StrategyFile {
            api_version: API_VERSION.to_owned(),
            kind: "Strategy".to_owned(),
            metadata: Metadata {
                name: name.to_owned(),
                namespace: None,
                labels: Default::default(),
            },
            spec: StrategySpec {
                strategy: self.strategy.clone(),
                analysis: self.analysis.clone(),
                limits: self.limits.clone(),
            },
        }
    }

    /// The minima that `rollout` is held to because of this strategy, called `name`.
    pub fn minima_for(&self, name: &str, rollout: &Rollout) -> Option<&Minima> {
        let used = matches!(&rollout.spec.strategy, StrategyChoice::Named(named) if named.name == name);
        self.minima.as_ref().filter(|minima| used || minima.everywhere)
    }
}

/// Where a policy goes below `minima`, one sentence each; nothing if it is within them or not held to them.
pub fn below_minima(rollout: &Rollout, resolved: &Resolved, lane: &Lane, minima: &Minima) -> Vec<String> {
    if *lane != Lane::Normal {
        return Vec::new();
    }
    let around = Circumstances {
        found: Some(Found {
            takes_requests: true,
            by_instances: false,
            instances: 1,
            metrics: None,
        }),
        ..Circumstances::default()
    };
    let (strategy, analysis, limits) = (&resolved.strategy, &resolved.analysis, &resolved.limits);
    let plan = lower(
        &rollout.metadata.name,
        &rollout.spec,
        strategy,
        analysis,
        limits,
        &around,
    );
    of_plan(&plan, minima)
}

fn of_plan(plan: &Plan, minima: &Minima) -> Vec<String> {
    let judged: Vec<_> = plan
        .stages
        .iter()
        .filter(|stage| matches!(stage.kind, StageKind::Judge | StageKind::Pause) && stage.split.reaches_canary())
        .collect();
    let mut below = Vec::new();
    let bake = plan
        .stages
        .iter()
        .find(|stage| stage.kind == StageKind::Bake)
        .map_or(Span::secs(0), |stage| stage.max);
    if let Some(least) = minima.bake.filter(|least| bake < *least) {
        below.push(format!(
            "the bake takes {bake}, and the least is {least}: set `bake: {least}`"
        ));
    }
    let before_all = judged.iter().filter(|stage| !stage.split.weight.is_full()).count();
    if let Some(least) = minima.stages.filter(|least| before_all < *least as usize) {
        below.push(format!(
            "{before_all} stages are judged before all users are on the new version, and the least is {least}: add steps"
        ));
    }
    let first = plan
        .stages
        .iter()
        .map(|stage| stage.split.weight)
        .find(|weight| !weight.is_zero());
    if let (Some(most), Some(first)) = (minima.first_weight, first)
        && first > most
    {
        below.push(format!(
            "the first stage gives the new version {first}, and the most is {most}: begin with a step of {most}"
        ));
    }
    if let Some(least) = minima.stage
        && let Some(short) = judged.iter().find(|stage| stage.min < least)
    {
        below.push(format!(
            "the stage at {} may end after {}, and the least is {least}: set `min: {least}`",
            short.split, short.min
        ));
    }
    if minima.smoke && plan.smoke.tests.is_empty() {
        below.push("there is no smoke test, and one is asked for: add `smoke: [{http: /healthz}]`".to_owned());
    }
    below
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::spec::{read_rollout, resolve};

    fn below(strategy: &str, lane: &Lane, minima: &Minima) -> Vec<String> {
        let text = format!(
            "apiVersion: wade.dev/v1alpha1\nkind: Rollout\nmetadata: {{name: x}}\nspec:\n  workload: {{deployment: x}}\n  strategy: {strategy}\n"
        );
        let rollout = read_rollout(&text, "x").expect("it is valid");
        let resolved = resolve(&rollout, &BTreeMap::new()).expect("it resolves");
        below_minima(&rollout, &resolved, lane, minima)
    }

    fn minima() -> Minima {
        Minima {
            everywhere: false,
            bake: Some(Span::secs(300)),
            stages: Some(2),
            first_weight: Weight::from_permille(100),
            stage: Some(Span::secs(60)),
            smoke: true,
        }
    }

    #[test]
    fn a_policy_is_told_everything_that_it_goes_below_at_once() {
        let careful = below("{use: careful}", &Lane::Normal, &minima());
        assert_eq!(careful.len(), 1, "{careful:?}");
        assert!(careful[0].contains("smoke test"), "{careful:?}");
        let overridden = "{use: careful, with: {steps: [{weight: 50%, min: 1s}], bake: 10s}}";
        let all = below(overridden, &Lane::Normal, &minima()).join("\n");
        for word in [
            "bake takes 10s",
            "1 stages are judged",
            "gives the new version 50%",
            "may end after 1s",
            "smoke",
        ] {
            assert!(all.contains(word), "{word}: {all}");
        }
        assert!(
            below(overridden, &Lane::Rollback, &minima()).is_empty(),
            "the way back is not held up"
        );
        assert!(below(overridden, &Lane::Normal, &Minima::default()).is_empty());
    }
}
