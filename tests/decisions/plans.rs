//! Plans for stories, from a few lines of YAML.

use std::collections::BTreeMap;

use wade::plan::{Circumstances, Lane, Plan, lower};
use wade::spec::{read_rollout, resolve};

/// A rollout of four instances behind the proxy, with `spec` (YAML lines of the spec) said besides.
pub(crate) fn planned(spec: &str, around: &Circumstances) -> Plan {
    let spec: String = spec.lines().map(|line| format!("  {}\n", line.trim_end())).collect();
    let text = format!(
        "apiVersion: wade.dev/v1alpha1\nkind: Rollout\nmetadata: {{name: shop}}\nspec:\n  \
         workload: {{process: {{command: [./shop], port: auto, instances: 4}}}}\n  \
         traffic: {{listen: \"127.0.0.1:0\"}}\n{spec}"
    );
    let rollout = read_rollout(&text, "shop.yaml").unwrap_or_else(|faults| panic!("{faults}\n{text}"));
    let resolved = resolve(&rollout, &BTreeMap::new()).unwrap_or_else(|faults| panic!("{faults}\n{text}"));
    lower(
        "shop",
        &rollout.spec,
        &resolved.strategy,
        &resolved.analysis,
        &resolved.limits,
        around,
    )
}

/// An ordinary release.
pub(crate) fn plan(spec: &str) -> Plan {
    planned(spec, &Circumstances::default())
}

/// A release of another kind.
pub(crate) fn in_lane(lane: Lane, spec: &str) -> Plan {
    planned(
        spec,
        &Circumstances {
            lane,
            ..Circumstances::default()
        },
    )
}

/// Two short stages and a bake, with one smoke test.
pub(crate) const SHORT: &str = "strategy: {canary: {steps: [{weight: 10%, min: 10s, max: 60s}, \
                         {weight: 50%, min: 10s, max: 60s}], bake: 20s}}\nsmoke: [{http: /healthz}]";

/// [`GATED`] before 100 % instead, and a hook at every point.
pub(crate) const HOOKED: &str = "strategy: {canary: {steps: [{weight: 10%, min: 10s, max: 60s}, \
                         {weight: 50%, min: 10s, max: 60s}], bake: 20s}}\n\
                         gates: [{before: 100%, expires: 10m}]\n\
                         hooks: [{command: [./expand], at: beforeStart, within: 1m}, \
                         {command: [./switch], at: beforeFullTraffic, within: 1m}, \
                         {command: [./contract], at: afterPromotion, within: 1m}, \
                         {command: [./undo], at: afterRollback, within: 1m}]";

/// [`SHORT`] with a gate before 50 %.
pub(crate) const GATED: &str = "strategy: {canary: {steps: [{weight: 10%, min: 10s, max: 60s}, \
                         {weight: 50%, min: 10s, max: 60s}], bake: 20s}}\n\
                         gates: [{before: 50%, approvers: [\"group:payments\", \"user:eve\"], expires: 10m}]";
