//! Each strategy when nothing goes wrong, and each kind of release.

use insta::assert_snapshot;
use wade::plan::{Circumstances, Lane, Plan};

use crate::plans::{SHORT, in_lane, plan, planned};
use crate::story::tell;

fn named(name: &str) -> Plan {
    plan(&format!("strategy: {{use: {name}}}\nsmoke: [{{http: /healthz}}]"))
}

#[test]
fn careful_is_proven_at_every_weight() {
    assert_snapshot!(tell(&named("careful"), ""));
}

#[test]
fn quick_takes_two_steps() {
    assert_snapshot!(tell(&named("quick"), ""));
}

#[test]
fn blue_green_previews_at_full_size_and_switches_at_once() {
    assert_snapshot!(tell(&named("blue-green"), ""));
}

#[test]
fn ab_goes_to_those_who_ask_first() {
    assert_snapshot!(tell(&named("ab-header"), ""));
}

#[test]
fn shadow_copies_requests_before_anybody_sees_an_answer() {
    assert_snapshot!(tell(&named("shadow"), ""));
}

#[test]
fn demo_is_over_in_half_a_minute() {
    assert_snapshot!(tell(&named("demo"), ""));
}

#[test]
fn undecided_stages_run_their_time_and_leave_the_release_unproven() {
    assert_snapshot!(tell(&named("careful"), "00:00 judge undecided"));
}

#[test]
fn a_pause_lasts_its_time_however_good_it_looks() {
    let steps =
        "strategy: {canary: {steps: [{pause: 20s}, {weight: 10%, min: 10s, max: 60s}, {pause: 30s}], bake: 20s}}";
    assert_snapshot!(tell(&plan(steps), ""));
}

#[test]
fn a_quiet_service_gets_two_long_stages() {
    let around = Circumstances {
        requests_per_second: Some(0.2),
        ..Circumstances::default()
    };
    assert_snapshot!(tell(
        &planned("strategy: {use: careful}", &around),
        "00:00 judge undecided"
    ));
}

#[test]
fn a_quiet_service_is_smoked_again_and_again() {
    let around = Circumstances {
        requests_per_second: Some(0.2),
        ..Circumstances::default()
    };
    assert_snapshot!(tell(
        &planned("smoke: [{http: /healthz}]", &around),
        "00:00 judge both silent\n07:00 smoke fails GET /healthz answered 500"
    ));
}

#[test]
fn a_first_deploy_starts_is_smoked_and_serves() {
    assert_snapshot!(tell(&in_lane(Lane::FirstDeploy, SHORT), ""));
}

#[test]
fn a_first_deploy_that_fails_its_smoke_test_never_serves() {
    assert_snapshot!(tell(
        &in_lane(Lane::FirstDeploy, SHORT),
        "00:00 smoke fails GET /healthz answered 500"
    ));
}

#[test]
fn a_rollback_takes_one_short_look_and_no_gate() {
    let gated = format!("{SHORT}\ngates: [{{before: 50%}}]\nanalysis: {{onUndecided: gate}}");
    assert_snapshot!(tell(&in_lane(Lane::Rollback, &gated), "00:00 judge undecided"));
}

#[test]
fn a_rollback_goes_on_while_the_metrics_server_is_down() {
    assert_snapshot!(tell(&in_lane(Lane::Rollback, SHORT), "00:00 judge source down"));
}

fn emergency() -> Plan {
    let closed = format!(
        "{SHORT}\ngates: [{{before: 10%, approvers: [\"user:eve\"]}}]\n\
         windows: {{freezes: [{{from: 2026-03-01, to: 2026-03-31, why: audit}}]}}"
    );
    in_lane(
        Lane::Emergency {
            reason: "checkout is down".to_owned(),
        },
        &closed,
    )
}

#[test]
fn an_emergency_skips_windows_gates_and_comparison_but_not_smoke() {
    assert_snapshot!(tell(&emergency(), ""));
}

#[test]
fn an_emergency_that_fails_its_smoke_test_is_rejected() {
    assert_snapshot!(tell(&emergency(), "00:00 smoke fails GET /healthz answered 500"));
}

#[test]
fn an_emergency_gets_out_while_the_metrics_server_is_down() {
    assert_snapshot!(tell(&emergency(), "00:00 judge source down"));
}

#[test]
fn an_emergency_that_makes_it_worse_is_rolled_back() {
    assert_snapshot!(tell(&emergency(), "00:30 judge fail"));
}

#[test]
fn observe_mode_says_once_what_it_would_have_done_and_goes_on() {
    let observe = format!("{SHORT}\nmode: observe\nanalysis: {{onUndecided: return}}");
    assert_snapshot!(tell(&plan(&observe), "00:20 judge fail"));
}

#[test]
fn observe_mode_ends_a_blind_stage_by_its_time() {
    let observe = format!("{SHORT}\nmode: observe");
    assert_snapshot!(tell(&plan(&observe), "00:10 judge source down"));
}
