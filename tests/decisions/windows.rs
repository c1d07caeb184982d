//! When a release may begin.

use insta::assert_snapshot;

use crate::plans::{SHORT, in_lane, plan};
use crate::story::tell;
use wade::plan::Lane;

// Stories begin at 10:00 UTC on a Monday.
const LATER: &str = "{open: [{days: [mon], from: \"10:30\", to: \"11:00\", zone: UTC}]";

#[test]
fn outside_of_the_window_is_rejected_with_the_next_opening() {
    assert_snapshot!(tell(&plan(&format!("{SHORT}\nwindows: {LATER}}}")), ""));
}

#[test]
fn outside_of_the_window_waits_where_the_rollout_says_so() {
    assert_snapshot!(tell(
        &plan(&format!("{SHORT}\nwindows: {LATER}, outside: wait}}")),
        "35:00 end"
    ));
}

#[test]
fn a_window_that_closes_in_mid_release_changes_nothing() {
    let window = "{open: [{days: [mon], from: \"09:00\", to: \"10:01\", zone: UTC}]}";
    assert_snapshot!(tell(&plan(&format!("{SHORT}\nwindows: {window}")), ""));
}

#[test]
fn deploy_window_false_rejects() {
    assert_snapshot!(tell(&plan(SHORT), "00:00 DEPLOY_WINDOW false"));
}

#[test]
fn deploy_window_false_is_not_waited_for() {
    // A pipeline's word does not change any more: waiting for it would be waiting for ever.
    let waits = format!("{SHORT}\nwindows: {LATER}, outside: wait}}");
    assert_snapshot!(tell(&plan(&waits), "00:10 DEPLOY_WINDOW false"));
}

#[test]
fn a_rollback_ignores_windows() {
    let closed = format!("{SHORT}\nwindows: {LATER}}}");
    assert_snapshot!(tell(&in_lane(Lane::Rollback, &closed), "00:05 end"));
}

#[test]
fn a_pause_while_waiting_keeps_it_from_beginning() {
    let waits = format!("{SHORT}\nwindows: {LATER}, outside: wait}}\nlimits: {{release: 5m}}");
    assert_snapshot!(tell(&plan(&waits), "10:00 ann: pause\n40:00 ann: resume"));
}
