//! The author's own jobs: where they stand in the way, and what follows when one fails or never ends.

use insta::assert_snapshot;
use wade::plan::Lane;

use crate::plans::{HOOKED, in_lane, plan};
use crate::story::tell;

#[test]
fn each_runs_at_its_point_and_after_the_gate() {
    assert_snapshot!(tell(&plan(HOOKED), "00:45 ann: approve"));
}

#[test]
fn one_that_fails_before_the_start_rejects_and_nothing_is_started() {
    assert_snapshot!(tell(&plan(HOOKED), "00:00 hook fails beforeStart no table orders"));
}

#[test]
fn one_that_fails_before_all_traffic_goes_back() {
    assert_snapshot!(tell(
        &plan(HOOKED),
        "00:00 hook fails beforeFullTraffic no table orders\n00:45 ann: approve"
    ));
}

#[test]
fn one_that_fails_afterwards_changes_nothing() {
    assert_snapshot!(tell(
        &plan(HOOKED),
        "00:00 hook fails afterPromotion no table orders\n00:45 ann: approve"
    ));
}

#[test]
fn a_way_back_is_followed_by_its_hook_and_one_that_never_ends_keeps_nothing_open() {
    assert_snapshot!(tell(&plan(HOOKED), "00:15 judge fail\n00:15 hook silent"));
}

#[test]
fn one_that_never_ends_before_the_start_is_given_up() {
    assert_snapshot!(tell(&plan(HOOKED), "00:00 hook silent"));
}

#[test]
fn no_person_gets_past_one_but_an_abort_does() {
    assert_snapshot!(tell(
        &plan(HOOKED),
        "00:00 hook silent\n00:05 ann: promote --full\n00:10 ann: abort"
    ));
}

#[test]
fn a_canary_that_fails_while_one_runs_is_taken_back_at_once() {
    assert_snapshot!(tell(
        &plan(HOOKED),
        "00:40 hook silent\n00:45 ann: approve\n00:50 judge fail"
    ));
}

#[test]
fn the_way_back_to_an_older_revision_waits_for_none() {
    assert_snapshot!(tell(&in_lane(Lane::Rollback, HOOKED), ""));
}
