//! What the simulator has found, each as the smallest case that shows it. Fixed, and to stay so.

use jiff::SignedDuration;
use wade::engine::{Actor, CommandKind, Event, Outcome};
use wade::plan::ALL_STABLE;
use wade::sim::faults::{Fault, Faults, Happening, Window};
use wade::sim::run::Case;
use wade::sim::seen::Seen;
use wade::sim::{Run, check, generate, run};
use wade::spec::{Span, Weight};

const ROLLOUT: &str = r"
apiVersion: wade.dev/v1alpha1
kind: Rollout
metadata: {name: shop}
spec:
  workload: {process: {command: [./shop], port: auto, instances: 3}}
  traffic: {listen: 127.0.0.1:0}
  strategy: {canary: {steps: [{weight: 10%, min: 5s, max: 10s}, {weight: 50%, min: 5s, max: 10s}], bake: 8s}}
  limits: {gate: 60s}
  analysis: {onNoData: {sourceDown: {after: 10m, do: advance}}}
";

fn case() -> Case {
    let scenario = wade::sim::read_scenario("traffic: {rps: 100}\nwatched: false\n", "s").expect("valid");
    let rollout = wade::spec::read_rollout(ROLLOUT, "r").expect("valid");
    wade::sim::scenario::case(&rollout, &scenario).expect("sensible")
}

fn from(case: &Case, fault: Fault, from_secs: i64, to_secs: i64) -> Window {
    let at = |secs| case.start + SignedDuration::from_secs(secs);
    Window {
        fault,
        from: at(from_secs),
        to: at(to_secs),
    }
}

fn events(run: &Run) -> Vec<&Event> {
    run.record.history.iter().map(|entry| &entry.event).collect()
}

#[test]
fn a_lost_answer_of_the_record_is_not_decided_again() {
    for seed in 1..=30 {
        let mut case = Case { seed, ..case() };
        case.faults.windows = vec![from(&case, Fault::StoreRepliesLost, 0, 120)];
        let run = run(&case);
        assert_eq!(check(&run), [], "seed {seed}");
        assert_eq!(
            run.record.state.outcome(),
            Some(&Outcome::Promoted { proven: false }),
            "seed {seed}"
        );
    }
}

#[test]
fn an_abort_works_while_the_record_cannot_be_written() {
    let mut case = case();
    case.faults.windows = vec![from(&case, Fault::StoreFull, 10, 40)];
    case.faults.happenings = vec![(case.start + SignedDuration::from_secs(15), asked(CommandKind::Abort))];
    let run = run(&case);
    assert_eq!(check(&run), []);
    let mut back = run
        .moments
        .iter()
        .filter(|moment| matches!(&moment.seen, Seen::World(truth) if truth.split == ALL_STABLE));
    let after = back.next_back().expect("it went back").at.duration_since(case.start);
    assert!(
        after < SignedDuration::from_secs(40),
        "only {after:#} after the start, when the record was back"
    );
}

#[test]
fn an_abort_while_the_last_write_is_in_doubt_comes_after_what_was_written() {
    // Only the reply of one write is lost; then the record is down, and an abort has to work all the same.
    for seed in 1..=40 {
        let mut case = Case { seed, ..case() };
        case.faults.windows = vec![
            from(&case, Fault::StoreRepliesLost, 5, 18),
            from(&case, Fault::StoreFlaky, 5, 40),
        ];
        case.faults.happenings = vec![(case.start + SignedDuration::from_secs(17), asked(CommandKind::Abort))];
        let run = run(&case);
        assert_eq!(check(&run), [], "seed {seed}");
        assert_eq!(run.record.state.outcome(), Some(&Outcome::Aborted), "seed {seed}");
    }
}

fn asked(kind: CommandKind) -> Happening {
    Happening::Ask {
        kind,
        by: Actor::named("ann"),
        reason: None,
    }
}

#[test]
fn a_release_that_waits_does_not_stay_paused_for_ever() {
    let mut case = case();
    case.faults.happenings = vec![(case.start, asked(CommandKind::Pause))];
    let run = run(&case);
    assert_eq!(check(&run), []);
    assert_eq!(run.record.state.outcome(), Some(&Outcome::Rejected));
}

#[test]
fn a_release_that_waits_is_superseded() {
    let mut case = case();
    case.plan.on_new_revision = wade::spec::OnNewRevision::Supersede;
    case.faults.happenings = vec![
        (case.start, asked(CommandKind::Pause)),
        (case.start, Happening::Newer("v3".to_owned())),
    ];
    let run = run(&case);
    assert_eq!(run.record.state.outcome(), Some(&Outcome::Superseded));
}

#[test]
fn a_release_does_not_end_while_somebody_else_sends_users_to_the_canary() {
    let split = wade::plan::Split::weight(Weight::from_permille(300).expect("valid"));
    let mut case = Case {
        canary: wade::sim::world::Behaviour {
            smoke_passes: false,
            ..generate::healthy()
        },
        ..case()
    };
    case.plan.smoke.tests = vec![serde_json::from_value(serde_json::json!({"http": "/healthz"})).expect("valid")];
    let undisturbed = run(&case);
    let restored = undisturbed.record.history.last().expect("it ended").at;
    // Between the last write and the look that ends it, and well before the rule's allowance for what is unseen.
    let windows = vec![from(&case, Fault::WritesRefused, 9, 30)];
    case.faults = Faults {
        windows,
        happenings: vec![(restored, Happening::Meddle(split))],
    };
    let run = run(&case);
    assert_eq!(check(&run), []);
    let last = run.moments.iter().rev().find_map(|moment| match &moment.seen {
        Seen::World(truth) => Some(truth.split.clone()),
        _ => None,
    });
    assert_eq!(last, Some(ALL_STABLE));
    assert!(matches!(events(&run).last(), Some(Event::Restored)));
}

#[test]
fn a_write_that_is_late_does_not_land_after_the_end() {
    // Hold and canary are under way and not seen yet when the abort comes: nothing seems to be there to take back.
    let late = |seed| {
        let mut case = Case { seed, ..case() };
        case.faults.windows = vec![from(&case, Fault::WritesLate, 0, 20)];
        case.faults.happenings = vec![(case.start + SignedDuration::from_millis(100), asked(CommandKind::Abort))];
        run(&case)
    };
    for seed in 1..=100 {
        let run = late(seed);
        assert_eq!(check(&run), [], "seed {seed}");
        assert_eq!(run.record.state.outcome(), Some(&Outcome::Aborted), "seed {seed}");
    }
}

#[test]
fn a_suspicious_canary_gets_no_more_while_nothing_can_be_measured() {
    // `advance` is the policy for a source that is down; what is known against the canary outlives that.
    let mut suspicious = 0;
    for seed in 1..=100 {
        let mut case = Case { seed, ..case() };
        case.canary.error_rate = 0.02;
        case.plan.stages[0].max = Span::secs(40);
        case.faults.windows = vec![from(&case, Fault::SourceDown, 40, 100)];
        let run = run(&case);
        assert_eq!(check(&run), [], "seed {seed}");
        let lost = run.moments.iter().find_map(|moment| match &moment.seen {
            Seen::Recorded { update, .. } if update.state.no_data.is_some() => update.verdict.as_ref(),
            _ => None,
        });
        suspicious += u32::from(lost.is_some_and(|verdict| verdict.suspicious));
    }
    assert!(
        suspicious > 0,
        "no seed was suspicious when the source went down, so nothing was shown"
    );
}
