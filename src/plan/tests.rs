//! Plans as they are shown, and the few rules that hold for every plan.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use insta::assert_snapshot;

use super::{Circumstances, Lane, Outlook, Plan, StageKind, lower, render};
use crate::judge::config::{MetricKind, OperationsConfig};
use crate::spec::{OnUndecided, Span, Weight, read_rollout, resolve, strategies};

const BUSY: Outlook = Outlook {
    requests_per_second: 200.0,
    error_rate: 0.001,
};

fn with(workload: &str, spec: &str, around: &Circumstances) -> Plan {
    let spec: String = spec.lines().map(|line| format!("  {}\n", line.trim_end())).collect();
    let text =
        format!("apiVersion: wade.dev/v1alpha1\nkind: Rollout\nmetadata: {{name: shop}}\nspec:\n  {workload}\n{spec}");
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

fn planned(spec: &str, around: &Circumstances) -> Plan {
    let workload =
        "workload: {process: {command: [./shop], port: auto, instances: 4}}\n  traffic: {listen: \"127.0.0.1:0\"}";
    with(workload, spec, around)
}

fn plan(spec: &str) -> Plan {
    planned(spec, &Circumstances::default())
}

fn worker(spec: &str) -> Plan {
    let workload = "workload: {process: {command: [./work], instances: 5}}";
    with(workload, spec, &Circumstances::default())
}

fn in_lane(lane: Lane, spec: &str) -> Plan {
    let around = Circumstances {
        lane,
        ..Circumstances::default()
    };
    planned(spec, &around)
}

/// What is shown, and what is not: the gate's side of each stage and the weight its proof must be good for.
fn told(plan: &Plan, outlook: Option<Outlook>) -> String {
    let mut text = render(plan, outlook);
    for (index, stage) in plan.stages.iter().enumerate() {
        let _ = writeln!(
            text,
            "  ({}: {:?}, canary at {} of its size, then {})",
            index + 1,
            stage.kind,
            stage.capacity,
            stage.next_weight
        );
    }
    text
}

#[test]
fn every_strategy_that_comes_with_wade() {
    let all: Vec<String> = strategies::names()
        .map(|name| {
            let spec = format!("strategy: {{use: {name}}}\nsmoke: [{{http: /healthz}}]");
            told(&plan(&spec), Some(BUSY))
        })
        .collect();
    assert_snapshot!(all.join("\n"));
}

#[test]
fn a_service_with_little_traffic() {
    let little = Circumstances {
        requests_per_second: Some(0.3),
        ..Circumstances::default()
    };
    let outlook = Outlook {
        requests_per_second: 0.3,
        error_rate: 0.0,
    };
    assert_snapshot!(told(&planned("smoke: [{http: /healthz}]", &little), Some(outlook)));
}

#[test]
fn own_steps_are_kept_whatever_the_traffic() {
    let little = Circumstances {
        requests_per_second: Some(0.3),
        ..Circumstances::default()
    };
    let with_steps = planned("strategy: {use: careful, with: {steps: [{weight: 30%}]}}", &little);
    let weights: Vec<_> = with_steps
        .stages
        .iter()
        .map(|stage| stage.split.weight.to_string())
        .collect();
    assert_eq!(weights, ["30%", "100%"]);
}

#[test]
fn work_without_requests() {
    assert_snapshot!(told(&worker(""), None));
}

#[test]
fn gates_between_steps_stand_for_work_without_requests_too() {
    let plan = worker(
        "strategy: {canary: {steps: [{weight: 5%}, {gate: {approvers: [\"user:ann\"]}}, {weight: 20%}, \
         {gate: {approvers: [\"user:bob\"]}}, {weight: 50%}]}}",
    );
    assert_snapshot!(told(&plan, None));
}

#[test]
fn gates_of_the_rollout_and_between_steps() {
    assert_snapshot!(told(
        &plan(
            "strategy: {canary: {steps: [{weight: 5%}, {gate: {expires: 30m}}, {weight: 20%}, {weight: 50%}]}}\n\
             gates: [{before: 30%, approvers: [\"group:payments\", \"user:eve\"]}, {before: 100%}]\n\
             limits: {gate: 2h}"
        ),
        None
    ));
}

#[test]
fn pauses_prove_nothing_so_the_stage_before_proves_for_the_rise_after() {
    assert_snapshot!(told(
        &plan("strategy: {canary: {steps: [{pause: 10s}, {weight: 5%}, {pause: 1m}, {pause: 1m}, {weight: 60%}]}}"),
        None
    ));
}

#[test]
fn a_pause_at_the_end_is_a_longer_bake() {
    assert_snapshot!(told(
        &plan("strategy: {canary: {steps: [{weight: 5%}, {gate: {}}, {weight: 100%, max: 1m}, {pause: 2m}]}}"),
        None
    ));
}

const GATED: &str = "gates: [{before: 20%}]\nsmoke: [{http: /healthz}]\nanalysis: {onUndecided: gate}";

#[test]
fn going_back_to_a_revision_that_has_served() {
    assert_snapshot!(told(&in_lane(Lane::Rollback, GATED), Some(BUSY)));
}

#[test]
fn an_emergency() {
    let reason = "checkout is down".to_owned();
    assert_snapshot!(told(&in_lane(Lane::Emergency { reason }, GATED), Some(BUSY)));
}

#[test]
fn a_first_deploy() {
    assert_snapshot!(told(&in_lane(Lane::FirstDeploy, GATED), Some(BUSY)));
}

#[test]
fn a_stable_that_fails_itself_is_no_comparison() {
    let around = Circumstances {
        stable_unfit: Some("stable has no ready instance".to_owned()),
        ..Circumstances::default()
    };
    assert_snapshot!(told(&planned("", &around), Some(BUSY)));
}

#[test]
fn watching_only() {
    assert_snapshot!(told(&plan("mode: observe\nanalysis: {passEarly: false}"), None));
}

fn lanes() -> [Lane; 4] {
    let reason = "checkout is down".to_owned();
    [
        Lane::Normal,
        Lane::FirstDeploy,
        Lane::Rollback,
        Lane::Emergency { reason },
    ]
}

fn every_plan() -> Vec<Plan> {
    let named = strategies::names().flat_map(|name| {
        let spec = format!("strategy: {{use: {name}}}\nsmoke: [{{http: /healthz}}]");
        lanes().map(|lane| in_lane(lane, &spec))
    });
    let long = "strategy: {canary: {steps: [{weight: 1%, max: 3h}, {pause: 5h}, {weight: 50%, max: 9h}], bake: 12h}}";
    named.chain([worker(""), plan(long)]).collect()
}

#[test]
fn the_release_limit_is_never_shorter_than_the_longest_plan() {
    for plan in every_plan() {
        assert!(plan.release_within.0 >= plan.longest(), "{}", render(&plan, None));
    }
}

#[test]
fn a_release_limit_that_was_said_is_kept() {
    assert_eq!(plan("limits: {release: 5m}").release_within, Span::secs(300));
}

#[test]
fn the_bake_is_last_at_full_size_and_nothing_is_left_of_a_match() {
    for plan in every_plan() {
        let bakes = plan.stages.iter().filter(|stage| stage.kind == StageKind::Bake).count();
        let last = &plan.stages[plan.bake()];
        assert_eq!((bakes, last.kind, last.capacity), (1, StageKind::Bake, Weight::FULL));
        assert_eq!(last.split, super::Split::weight(Weight::FULL));
    }
}

#[test]
fn weights_grow_and_the_canary_is_large_enough_for_them() {
    for plan in every_plan() {
        let weights: Vec<Weight> = plan.stages.iter().map(|stage| stage.split.weight).collect();
        assert!(weights.is_sorted(), "{}", render(&plan, None));
        for stage in &plan.stages {
            assert!(stage.capacity >= stage.split.weight.max(stage.split.mirror) && stage.min <= stage.max);
            assert!(stage.next_weight >= stage.split.weight, "{}", render(&plan, None));
        }
    }
}

#[test]
fn a_way_out_of_trouble_never_asks_for_proof_or_goes_back_for_want_of_it() {
    for undecided in ["gate", "return"] {
        for lane in lanes().into_iter().skip(2) {
            let plan = in_lane(lane, &format!("analysis: {{onUndecided: {undecided}}}"));
            assert_eq!(plan.on_undecided, OnUndecided::Advance);
            assert!(plan.stages.iter().all(|stage| stage.gate.is_none()));
        }
    }
}

#[test]
fn a_plan_comes_back_from_its_record() {
    for plan in every_plan() {
        let text = serde_json::to_string(&plan).expect("a plan can be written");
        assert_eq!(serde_json::from_str::<Plan>(&text).expect("a plan can be read"), plan);
    }
}

#[test]
fn traces_are_judged_where_they_are_asked_for_and_there_is_somebody_to_compare_with() {
    let traces = |plan: &Plan| {
        plan.judge.metrics.iter().find_map(|metric| match &metric.kind {
            MetricKind::Operations(config) => Some((metric.name.clone(), metric.weight, config.clone())),
            _ => None,
        })
    };
    assert_eq!(traces(&plan("")), None);
    let asked = plan("analysis: {traces: {newErrors: 0.5%, latency: 2x, onWorse: hold, weight: 2}}");
    let expected = OperationsConfig {
        new_errors: 0.005,
        max_increase: 1.0,
        only_hold: true,
        ..OperationsConfig::default()
    };
    assert_eq!(traces(&asked), Some(("traces".to_owned(), 2.0, expected)));
    assert_eq!(asked.judge.metrics.len(), 3, "beside errors and latency");
    let lane = Lane::Emergency {
        reason: "fire".to_owned(),
    };
    assert_eq!(traces(&in_lane(lane, "analysis: {traces: {}}")), None);
}
