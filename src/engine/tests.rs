//! The small rules below the timelines of `tests/decisions`: sizes, names, and what each phase wants.

use super::desired::{instances, split_now};
use super::{Action, Actor, HandOver, Outcome, Phase, Retreat, Return, State, desired};
use crate::plan::{ALL_STABLE, Circumstances, Plan, Split, lower};
use crate::spec::{Weight, read_rollout, resolve};

fn weight(percent: u16) -> Weight {
    Weight::from_permille(percent * 10).expect("at most 100")
}

/// 10 %, 50 %, 100 %.
fn plan() -> Plan {
    let text = "apiVersion: wade.dev/v1alpha1\nkind: Rollout\nmetadata: {name: shop}\nspec:\n  \
                workload: {process: {command: [./shop], port: auto}}\n  traffic: {}\n  \
                strategy: {canary: {steps: [{weight: 10%}, {weight: 50%}]}}\n";
    let rollout = read_rollout(text, "shop.yaml").expect("a valid rollout");
    let resolved = resolve(&rollout, &Default::default()).expect("a sensible rollout");
    let around = Circumstances::default();
    lower(
        "shop",
        &rollout.spec,
        &resolved.strategy,
        &resolved.analysis,
        &resolved.limits,
        &around,
    )
}

fn at(phase: Phase, split_of: Option<usize>) -> State {
    let start = "2026-03-02T10:00:00Z".parse().expect("a literal timestamp");
    State {
        phase,
        split_of,
        ..State::new(start)
    }
}

#[test]
fn a_share_of_the_instances_is_enough_and_at_least_one() {
    let table = [
        (0, 4, 1),
        (1, 4, 1),
        (25, 4, 1),
        (26, 4, 2),
        (50, 4, 2),
        (50, 5, 3),
        (99, 4, 4),
        (100, 4, 4),
        (100, 0, 1),
        (5, 1, 1),
        (5, 1000, 50),
    ];
    for (percent, full, expected) in table {
        assert_eq!(instances(weight(percent), full), expected, "{percent} % of {full}");
    }
    assert_eq!(instances(Weight::FULL, u32::MAX), u32::MAX);
}

#[test]
fn approvers_are_users_groups_or_plain_names() {
    let bob = Actor {
        user: "bob".to_owned(),
        groups: vec!["payments".to_owned()],
        from: None,
    };
    let table: [(&[&str], bool); 8] = [
        (&[], true),
        (&["bob"], true),
        (&["user:bob"], true),
        (&["group:payments"], true),
        (&["group:bob"], false),
        (&["user:payments", "payments"], false),
        (&["ann", "group:web"], false),
        (&["ann", "group:payments"], true),
    ];
    for (approvers, expected) in table {
        let approvers: Vec<String> = approvers.iter().map(|&name| name.to_owned()).collect();
        assert_eq!(bob.is_among(&approvers), expected, "{approvers:?}");
    }
}

#[test]
fn the_split_is_the_one_that_was_written_last() {
    let plan = plan();
    assert_eq!(split_now(&plan, &at(Phase::Preparing { stage: 0 }, None)), ALL_STABLE);
    assert_eq!(
        split_now(&plan, &at(Phase::Preparing { stage: 1 }, Some(0))),
        Split::weight(weight(10))
    );
}

#[test]
fn the_canary_grows_before_the_weight_does() {
    let preparing = desired(&plan(), &at(Phase::Preparing { stage: 1 }, Some(0)));
    let capacity = weight(50);
    assert_eq!(
        preparing,
        [
            Action::Hold,
            Action::Canary { capacity },
            Action::Route(Split::weight(weight(10)))
        ]
    );
}

#[test]
fn a_gate_wants_what_was_there_before_it() {
    let plan = plan();
    let gated = desired(&plan, &at(Phase::Gated { stage: 1 }, Some(0)));
    assert_eq!(gated, desired(&plan, &at(Phase::Analysing { stage: 0 }, Some(0))));
}

#[test]
fn every_step_of_the_way_back_wants_the_route_first_and_nothing_forward() {
    let why = Retreat {
        outcome: Outcome::RolledBack,
        reason: "errors".to_owned(),
    };
    let wanted = |part| desired(&plan(), &at(Phase::Returning(part, why.clone()), Some(1)));
    let route = Action::Route(ALL_STABLE);
    assert_eq!(wanted(Return::Route), std::slice::from_ref(&route));
    assert_eq!(wanted(Return::Drain), std::slice::from_ref(&route));
    assert_eq!(wanted(Return::Remove), [route.clone(), Action::RemoveCanary]);
    assert_eq!(wanted(Return::Restore), [route, Action::RemoveCanary, Action::Restore]);
    for part in [Return::Route, Return::Drain, Return::Remove, Return::Restore] {
        assert!(!wanted(part).iter().any(Action::is_forward));
    }
}

#[test]
fn stable_is_removed_only_after_the_canary_was_adopted_and_drained() {
    let retires = |part| desired(&plan(), &at(Phase::HandingOver(part), Some(2))).contains(&Action::Retire);
    assert_eq!(
        [HandOver::Adopt, HandOver::Drain, HandOver::Retire].map(retires),
        [false, false, true]
    );
}

#[test]
fn nothing_is_wanted_before_the_beginning_and_after_the_end() {
    for phase in [Phase::Waiting, Phase::Done(Outcome::Aborted)] {
        assert_eq!(desired(&plan(), &at(phase, None)), []);
    }
}
