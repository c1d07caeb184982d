//! What people may ask for, and when it is not followed.

use insta::assert_snapshot;

use crate::plans::{GATED, SHORT, plan};
use crate::story::tell;

#[test]
fn a_gate_is_opened_by_those_it_names() {
    assert_snapshot!(tell(
        &plan(GATED),
        "00:05 bob(payments): approve\n\
         01:00 ann: approve\n\
         01:10 ann: promote\n\
         01:20 ann: promote --full because it looks fine\n\
         02:00 bob(payments): approve because the numbers are good"
    ));
}

#[test]
fn a_named_user_opens_the_gate_without_a_group() {
    assert_snapshot!(tell(&plan(GATED), "01:00 mallory(eve): approve\n01:05 eve: approve"));
}

#[test]
fn a_gate_without_names_is_opened_by_anyone_who_may_approve() {
    let open = format!("{SHORT}\ngates: [{{before: 100%}}]");
    assert_snapshot!(tell(&plan(&open), "02:00 ann: approve"));
}

#[test]
fn required_proof_asks_a_person() {
    let proof = format!("{SHORT}\nanalysis: {{onUndecided: gate}}");
    assert_snapshot!(tell(
        &plan(&proof),
        "00:00 judge undecided\n02:00 ann: approve\n02:30 judge pass"
    ));
}

#[test]
fn required_proof_that_nobody_waives_returns() {
    let proof = format!("{SHORT}\nanalysis: {{onUndecided: gate}}\nlimits: {{gate: 3m}}");
    assert_snapshot!(tell(&plan(&proof), "00:00 judge undecided"));
}

#[test]
fn promote_ends_the_stage_and_only_the_stage() {
    assert_snapshot!(tell(
        &plan(SHORT),
        "00:00 judge undecided\n00:12 ann: promote because seen enough"
    ));
}

#[test]
fn promote_does_not_skip_a_gate() {
    assert_snapshot!(tell(&plan(GATED), "00:10 ann: promote\n00:20 end"));
}

#[test]
fn promote_in_the_bake_hands_over() {
    assert_snapshot!(tell(&plan(SHORT), "00:45 ann: promote"));
}

#[test]
fn promote_full_is_refused_to_who_may_not_open_the_gates_on_the_way() {
    assert_snapshot!(tell(
        &plan(GATED),
        "00:10 ann: promote --full\n00:11 eve: promote --full"
    ));
}

#[test]
fn promote_is_refused_before_the_smoke_tests() {
    assert_snapshot!(tell(
        &plan(SHORT),
        "00:01 ann: promote --full\n00:07 ann: promote\n00:20 end"
    ));
}

#[test]
fn promote_over_suspicion_is_a_persons_answer_and_unproven() {
    assert_snapshot!(tell(
        &plan(SHORT),
        "00:10 judge suspicious\n00:30 ann: promote\n00:40 judge pass"
    ));
}

#[test]
fn promote_answers_for_doubts_that_came_while_the_canary_grew() {
    assert_snapshot!(tell(
        &plan(SHORT),
        "00:19 judge suspicious\n00:20 ann: promote\n00:40 ann: promote because the errors are a known crawler\n00:50 judge pass"
    ));
}

#[test]
fn promote_over_a_failing_verdict_is_not_possible() {
    assert_snapshot!(tell(&plan(SHORT), "00:12 judge fail\n00:12 ann: promote"));
}

#[test]
fn a_pause_keeps_the_weight_and_stops_the_stages_clock() {
    assert_snapshot!(tell(
        &plan(SHORT),
        "00:00 judge undecided\n00:20 ann: pause\n00:30 ann: pause\n05:20 ann: resume\n05:21 ann: resume"
    ));
}

#[test]
fn a_failing_verdict_goes_back_during_a_pause() {
    assert_snapshot!(tell(&plan(SHORT), "00:12 ann: pause\n00:20 judge fail"));
}

#[test]
fn promote_ends_a_pause() {
    assert_snapshot!(tell(&plan(SHORT), "00:12 ann: pause\n00:20 ann: promote"));
}

#[test]
fn hours_spent_waiting_for_people_do_not_count_against_the_release() {
    let limited = "limits: {release: 10m, gate: 8h}";
    assert_snapshot!(tell(
        &plan(&format!("{SHORT}\n{limited}")),
        "00:12 ann: pause because lunch\n90:00 ann: promote because lunch is over"
    ));
    let gated = format!("{SHORT}\ngates: [{{before: 50%}}]\n{limited}");
    assert_snapshot!(tell(&plan(&gated), "90:00 ann: promote --full"));
    assert_snapshot!(tell(
        &plan(&gated),
        "30:00 ann: pause\n60:00 ann: approve\n90:00 ann: resume"
    ));
}

#[test]
fn a_pause_inside_a_gate_is_counted_once() {
    let limited = format!("{SHORT}\ngates: [{{before: 50%}}]\nlimits: {{release: 10m, gate: 8h}}");
    // 89 minutes of waiting and ten of release: over at 100 minutes, not later.
    assert_snapshot!(tell(
        &plan(&limited),
        "30:00 ann: pause\n60:00 ann: approve\n90:00 judge suspicious\n90:00 ann: resume"
    ));
}

const BLOCKED: &str = "windows: {freezes: [{from: 2026-03-01, to: 2026-03-31, why: audit}], outside: wait}";

#[test]
fn abort_while_waiting_ends_it_on_the_spot() {
    assert_snapshot!(tell(
        &plan(&format!("{SHORT}\n{BLOCKED}")),
        "05:00 ann: pause\n06:00 ann: abort because not today"
    ));
}

#[test]
fn abort_while_starting() {
    assert_snapshot!(tell(&plan(SHORT), "00:01 ann: abort"));
}

#[test]
fn abort_while_smoking() {
    assert_snapshot!(tell(&plan(SHORT), "00:00 smoke silent\n00:08 ann: abort"));
}

#[test]
fn abort_at_the_gate() {
    assert_snapshot!(tell(&plan(GATED), "01:00 ann: abort"));
}

#[test]
fn abort_while_preparing() {
    assert_snapshot!(tell(&plan(SHORT), "00:20 ann: abort"));
}

#[test]
fn abort_while_the_router_hesitates() {
    assert_snapshot!(tell(&plan(SHORT), "00:00 platform refuses route 10%\n00:12 ann: abort"));
}

#[test]
fn abort_while_analysing() {
    assert_snapshot!(tell(&plan(SHORT), "00:12 ann: abort because orders are missing"));
}

#[test]
fn abort_during_a_pause() {
    assert_snapshot!(tell(&plan(SHORT), "00:12 ann: pause\n00:20 ann: abort"));
}

#[test]
fn abort_in_the_bake() {
    assert_snapshot!(tell(&plan(SHORT), "00:50 ann: abort"));
}

#[test]
fn abort_works_while_nothing_can_be_observed() {
    assert_snapshot!(tell(
        &plan(SHORT),
        "00:12 platform dark\n00:13 ann: abort\n00:40 platform seen"
    ));
}

#[test]
fn abort_in_the_hand_over_is_refused_with_the_way_out() {
    assert_snapshot!(tell(
        &plan(SHORT),
        "00:00 platform refuses adopt\n01:10 ann: abort\n01:15 platform does adopt"
    ));
}

#[test]
fn abort_on_the_way_back_is_refused() {
    assert_snapshot!(tell(
        &plan(SHORT),
        "00:10 canary busy\n00:12 judge fail\n00:15 ann: abort"
    ));
}

#[test]
fn commands_after_the_end_are_refused() {
    assert_snapshot!(tell(
        &plan(SHORT),
        "00:12 ann: abort\n00:30 ann: approve + promote + pause + resume + retry + abort"
    ));
}

#[test]
fn an_abort_voids_what_was_asked_before_it() {
    assert_snapshot!(tell(
        &plan(SHORT),
        "00:12 ann: promote + pause + abort because I changed my mind"
    ));
}

#[test]
fn an_abort_behind_a_hundred_commands_is_followed_at_once() {
    let hundred = format!("00:12 ann: {}abort", "promote + ".repeat(100));
    let timeline = tell(&plan(SHORT), &hundred);
    let aborted = timeline
        .lines()
        .find(|line| line.contains("aborted by ann"))
        .expect("it is followed");
    assert!(aborted.starts_with(" 00:12"), "{timeline}");
}

#[test]
fn retry_with_nothing_stuck_says_what_it_is_for() {
    assert_snapshot!(tell(
        &plan(SHORT),
        "00:12 ann: retry\n00:13 ann: resume\n00:14 ann: approve\n00:20 end"
    ));
}
