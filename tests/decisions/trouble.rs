//! Platforms that refuse, other people's weights, and Wade itself going away.

use insta::assert_snapshot;

use crate::plans::{GATED, SHORT, plan};
use crate::story::tell;

#[test]
fn a_way_back_that_the_router_refuses_is_stuck_until_it_obeys() {
    assert_snapshot!(tell(
        &plan(SHORT),
        "00:10 platform refuses route 0%\n00:12 judge fail\n03:00 ann: retry\n05:00 platform does route 0%"
    ));
}

#[test]
fn a_way_back_that_cannot_be_observed_says_so() {
    assert_snapshot!(tell(
        &plan(SHORT),
        "00:12 judge fail\n00:12 platform dark\n03:00 platform seen"
    ));
}

#[test]
fn a_way_back_with_an_unknown_router_says_so() {
    assert_snapshot!(tell(
        &plan(SHORT),
        "00:10 platform refuses route\n00:12 router unknown\n00:13 ann: abort\n03:00 platform does route"
    ));
}

#[test]
fn a_canary_that_stays_busy_is_removed_when_the_drain_is_over() {
    assert_snapshot!(tell(&plan(SHORT), "00:10 canary busy\n00:12 judge fail"));
}

#[test]
fn a_canary_that_will_not_go_is_stuck_with_traffic_on_stable() {
    assert_snapshot!(tell(
        &plan(SHORT),
        "00:10 platform refuses remove\n00:12 judge fail\n03:00 platform does remove"
    ));
}

#[test]
fn a_template_that_will_not_go_back_is_stuck_with_traffic_on_stable() {
    assert_snapshot!(tell(
        &plan(SHORT),
        "00:10 platform refuses restore\n00:12 judge fail\n03:00 ann: retry + abort\n03:01 platform does restore"
    ));
}

#[test]
fn a_hand_over_that_is_refused_is_stuck_with_traffic_on_the_canary() {
    assert_snapshot!(tell(
        &plan(SHORT),
        "00:00 platform refuses adopt\n03:00 ann: retry because the quota was raised\n05:00 platform does adopt"
    ));
}

#[test]
fn a_hand_over_that_does_not_retire_is_stuck_and_then_goes_on() {
    assert_snapshot!(tell(
        &plan(SHORT),
        "00:00 platform refuses retire\n04:00 platform does retire"
    ));
}

#[test]
fn an_overwritten_weight_ends_no_stage_and_is_written_again() {
    assert_snapshot!(tell(
        &plan(SHORT),
        "00:10 platform refuses route 10%\n00:12 router 30%\n02:00 platform does route 10%\n02:10 end"
    ));
}

#[test]
fn an_overwritten_weight_is_what_the_release_is_waiting_for() {
    assert_snapshot!(tell(
        &plan(SHORT),
        "00:10 platform refuses route 10%\n00:12 router 30%\n00:20 end"
    ));
}

#[test]
fn an_unobserved_platform_ends_no_stage() {
    assert_snapshot!(tell(
        &plan(SHORT),
        "00:12 platform dark\n03:00 platform seen\n03:10 end"
    ));
}

#[test]
fn a_restart_in_the_bake_changes_nothing() {
    let told = |script: &str| {
        let timeline = tell(&plan(SHORT), script);
        // What is wanted is said again by the new process; nothing else may differ.
        let events = |line: &&str| !line.contains("> restart") && !line.starts_with("        =");
        timeline.lines().filter(events).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(told("00:45 restart"), told(""));
}

#[test]
fn a_restart_at_the_gate_changes_nothing() {
    assert_snapshot!(tell(
        &plan(GATED),
        "05:00 restart\n06:00 bob(payments): approve\n06:03 restart\n06:20 end"
    ));
}

#[test]
fn a_restart_on_the_way_back_wants_the_same_things_again() {
    assert_snapshot!(tell(&plan(SHORT), "00:10 canary busy\n00:12 judge fail\n00:15 restart"));
}

#[test]
fn a_stage_counts_only_the_time_in_which_somebody_looked() {
    assert_snapshot!(tell(
        &plan(SHORT),
        "00:12 judge undecided\n00:40 away 20\n01:00 restart\n02:00 judge pass"
    ));
}

#[test]
fn a_bake_counts_only_the_time_in_which_somebody_looked() {
    assert_snapshot!(tell(&plan(SHORT), "00:50 away 10"));
}
