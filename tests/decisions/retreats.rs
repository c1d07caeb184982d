//! Every cause that leads back, what the outcome is called, and where users were at that moment.

use insta::assert_snapshot;

use crate::plans::{GATED, SHORT, plan};
use crate::story::tell;

#[test]
fn a_failing_verdict_goes_back_at_once() {
    assert_snapshot!(tell(&plan(SHORT), "00:12 judge fail"));
}

#[test]
fn a_failing_verdict_in_the_bake_goes_back() {
    assert_snapshot!(tell(&plan(SHORT), "00:45 judge fail"));
}

#[test]
fn a_failing_copy_is_rejected_as_nobody_saw_it() {
    assert_snapshot!(tell(&plan("strategy: {use: shadow}"), "01:00 judge fail"));
}

#[test]
fn a_failing_smoke_test_rejects() {
    assert_snapshot!(tell(
        &plan(SHORT),
        "00:00 smoke fails GET /healthz answered 500, expected 2xx"
    ));
}

#[test]
fn smoke_tests_without_a_result_reject() {
    assert_snapshot!(tell(&plan(SHORT), "00:00 smoke silent"));
}

#[test]
fn a_fatal_diagnosis_rejects_before_any_traffic() {
    assert_snapshot!(tell(
        &plan(SHORT),
        "00:00 canary never ready\n00:01 canary breaks ./shop: no such file; check `command` and `workdir`"
    ));
}

#[test]
fn a_fatal_diagnosis_rolls_back_when_users_have_met_it() {
    assert_snapshot!(tell(
        &plan(SHORT),
        "00:12 canary breaks ./shop was killed for memory 3 times in 10s"
    ));
}

#[test]
fn an_ailing_canary_is_given_its_time_to_become_ready() {
    assert_snapshot!(tell(
        &plan(SHORT),
        "00:00 canary never ready\n00:03 canary ails GET /healthz answers 503\n01:00 canary recovers"
    ));
}

#[test]
fn a_canary_that_is_never_ready_is_rejected_with_its_diagnosis() {
    assert_snapshot!(tell(
        &plan(SHORT),
        "00:00 canary never ready\n00:03 canary ails GET /healthz answers 503"
    ));
}

#[test]
fn a_canary_without_any_ready_instance_has_three_seconds() {
    assert_snapshot!(tell(&plan(SHORT), "00:12 canary has none ready"));
}

#[test]
fn a_canary_that_recovers_within_three_seconds_goes_on() {
    assert_snapshot!(tell(
        &plan(SHORT),
        "00:12 canary has none ready\n00:13 canary recovers\n00:40 end"
    ));
}

#[test]
fn a_canary_that_is_gone_is_rolled_back() {
    assert_snapshot!(tell(&plan(SHORT), "00:12 canary loses all"));
}

#[test]
fn a_restart_in_the_bake_rolls_back_and_one_before_does_not() {
    assert_snapshot!(tell(&plan(SHORT), "00:12 canary restarts\n00:45 canary restarts"));
}

#[test]
fn a_canary_that_does_not_grow_is_returned() {
    assert_snapshot!(tell(
        &plan(SHORT),
        "00:10 canary never ready\n00:30 canary ails no room for more instances"
    ));
}

#[test]
fn a_router_that_does_not_take_the_weight_ends_the_release() {
    assert_snapshot!(tell(&plan(SHORT), "00:00 platform refuses route 10%"));
}

#[test]
fn time_without_proof_returns_where_the_plan_says_so() {
    let strict = format!("{SHORT}\nanalysis: {{onUndecided: return}}");
    assert_snapshot!(tell(&plan(&strict), "00:00 judge undecided"));
}

#[test]
fn the_release_limit_returns() {
    let short = format!("{SHORT}\nlimits: {{release: 70s}}");
    assert_snapshot!(tell(&plan(&short), "00:00 judge undecided"));
}

#[test]
fn a_newer_revision_supersedes_by_going_back_first() {
    let daemon = format!("{SHORT}\nonNewRevision: supersede");
    assert_snapshot!(tell(&plan(&daemon), "00:30 newer 1.4.3"));
}

#[test]
fn a_newer_revision_waits_where_the_plan_says_so() {
    assert_snapshot!(tell(&plan(SHORT), "00:30 newer 1.4.3"));
}

#[test]
fn a_newer_revision_comes_too_late_for_the_hand_over() {
    let daemon = format!("{SHORT}\nonNewRevision: supersede");
    assert_snapshot!(tell(
        &plan(&daemon),
        "00:00 platform refuses adopt\n01:10 newer 1.4.3\n01:15 platform does adopt"
    ));
}

#[test]
fn a_newer_revision_supersedes_one_that_waits_for_its_window() {
    let daemon = format!(
        "{SHORT}\nonNewRevision: supersede\n\
         windows: {{freezes: [{{from: 2026-03-01, to: 2026-03-31, why: audit}}], outside: wait}}"
    );
    assert_snapshot!(tell(&plan(&daemon), "02:00 newer 1.4.3"));
}

#[test]
fn an_unopened_gate_returns() {
    assert_snapshot!(tell(&plan(GATED), ""));
}

#[test]
fn a_failing_verdict_at_the_gate_goes_back() {
    assert_snapshot!(tell(&plan(GATED), "01:00 judge fail"));
}

#[test]
fn an_unended_pause_returns() {
    let limited = format!("{SHORT}\nlimits: {{gate: 5m}}");
    assert_snapshot!(tell(
        &plan(&limited),
        "00:12 ann: pause because I want to look at the logs"
    ));
}

#[test]
fn an_unended_pause_before_the_window_rejects() {
    let closed = format!(
        "{SHORT}\nlimits: {{gate: 5m}}\n\
         windows: {{freezes: [{{from: 2026-03-01, to: 2026-03-31, why: audit}}], outside: wait}}"
    );
    assert_snapshot!(tell(&plan(&closed), "00:12 ann: pause"));
}
