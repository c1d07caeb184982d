//! Nothing can be measured: three kinds, four policies, and never a verdict.

use insta::assert_snapshot;

use crate::plans::{GATED, SHORT, plan};
use crate::story::tell;

fn with(policy: &str) -> String {
    format!("{SHORT}\nanalysis: {{onNoData: {{{policy}}}}}")
}

#[test]
fn source_down_keeps_the_weight_and_returns_after_ten_minutes() {
    assert_snapshot!(tell(&plan(SHORT), "00:12 judge source down"));
}

#[test]
fn signals_that_come_back_go_on_where_they_were() {
    assert_snapshot!(tell(&plan(SHORT), "00:12 judge source down\n09:00 judge pass"));
}

#[test]
fn silence_of_the_canary_alone_rolls_back_after_two_minutes() {
    assert_snapshot!(tell(&plan(SHORT), "00:12 judge canary silent"));
}

#[test]
fn silence_on_both_sides_goes_on_unproven_when_the_time_is_up() {
    assert_snapshot!(tell(&plan(SHORT), "00:12 judge both silent"));
}

#[test]
fn a_bake_in_which_nothing_was_seen_proves_nothing() {
    assert_snapshot!(tell(&plan(SHORT), "00:50 judge both silent"));
}

#[test]
fn a_pause_in_which_nothing_was_seen_proves_nothing() {
    let steps = "strategy: {canary: {steps: [{weight: 10%, min: 10s, max: 60s}, {pause: 30s}], bake: 20s}}";
    assert_snapshot!(tell(&plan(steps), "00:30 judge both silent\n01:00 judge pass"));
}

#[test]
fn hold_waits_until_the_release_is_too_old() {
    let hold = format!(
        "{}\nlimits: {{release: 20m}}",
        with("sourceDown: {after: 10s, do: hold}")
    );
    assert_snapshot!(tell(&plan(&hold), "00:12 judge source down"));
}

#[test]
fn advance_goes_on_while_the_source_is_down() {
    assert_snapshot!(tell(
        &plan(&with("sourceDown: {after: 10s, do: advance}")),
        "00:12 judge source down"
    ));
}

#[test]
fn rollback_treats_a_dead_source_as_the_plan_says() {
    assert_snapshot!(tell(
        &plan(&with("sourceDown: {after: 10s, do: rollback}")),
        "00:12 judge source down"
    ));
}

#[test]
fn each_kind_has_a_clock_of_its_own() {
    assert_snapshot!(tell(
        &plan(SHORT),
        "00:12 judge canary silent\n01:30 judge both silent\n01:40 judge canary silent"
    ));
}

#[test]
fn no_policy_acts_during_a_pause() {
    assert_snapshot!(tell(
        &plan(SHORT),
        "00:12 ann: pause\n00:20 judge canary silent\n10:00 judge pass\n10:10 ann: resume"
    ));
}

#[test]
fn a_gate_is_watched_too() {
    assert_snapshot!(tell(&plan(GATED), "01:00 judge canary silent"));
}

#[test]
fn no_reading_at_all_ends_no_stage() {
    assert_snapshot!(tell(&plan(SHORT), "00:12 judge nothing\n05:00 judge pass"));
}

#[test]
fn suspicion_holds_the_weight_past_the_stages_time() {
    assert_snapshot!(tell(&plan(SHORT), "00:12 judge suspicious\n03:00 judge pass"));
}

#[test]
fn suspicion_holds_the_bake() {
    assert_snapshot!(tell(&plan(SHORT), "00:45 judge suspicious\n03:00 judge pass"));
}

#[test]
fn suspicion_while_the_canary_grows_is_not_called_a_late_canary() {
    let limited = format!("{SHORT}\nlimits: {{release: 20m}}");
    assert_snapshot!(tell(&plan(&limited), "00:19 judge suspicious"));
}
