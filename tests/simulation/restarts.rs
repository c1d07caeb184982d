//! A controller that dies at any await is succeeded by one that goes the same way.

use wade::engine::Event;
use wade::sim::world::Behaviour;
use wade::sim::{Case, Run, check, generate, run};

/// What happened, without times, and without what depends on when a look was.
fn way(run: &Run) -> Vec<String> {
    let word = |event: &Event| match event {
        Event::Shifted { .. } => "Shifted".to_owned(),
        Event::Retreated { outcome, command, .. } => format!("Retreated {outcome:?} {command:?}"),
        event => format!("{event:?}"),
    };
    run.record.history.iter().map(|entry| word(&entry.event)).collect()
}

fn case(rollout: &str, canary: Behaviour) -> Case {
    let scenario = wade::sim::read_scenario("traffic: {rps: 100}\nwatched: false\ninstances: 3\n", "s").expect("valid");
    let rollout = wade::spec::read_rollout(rollout, "r").expect("valid");
    let mut case = wade::sim::scenario::case(&rollout, &scenario).expect("sensible");
    case.canary = canary;
    case
}

const ROLLOUT: &str = r"
apiVersion: wade.dev/v1alpha1
kind: Rollout
metadata: {name: shop}
spec:
  workload: {process: {command: [./shop], port: auto, instances: 3}}
  traffic: {listen: 127.0.0.1:0}
  smoke: [{http: /healthz}]
  strategy: {canary: {steps: [{weight: 10%, min: 5s, max: 10s}, {pause: 5s}, {weight: 50%, min: 5s, max: 10s}], bake: 8s}}
";

fn every_death_changes_nothing_but_time(case: &Case) {
    let undisturbed = run(case);
    assert_eq!(check(&undisturbed), []);
    let expected = way(&undisturbed);
    assert!(
        undisturbed.polls > 100,
        "{} polls are too few to prove anything",
        undisturbed.polls
    );
    for poll in 1..=undisturbed.polls {
        let run = run(&Case {
            dies_at_poll: Some(poll),
            ..case.clone()
        });
        assert_eq!(check(&run), [], "died at poll {poll}");
        assert_eq!(way(&run), expected, "died at poll {poll}");
    }
}

#[test]
fn a_crash_at_every_await_changes_nothing_but_time() {
    every_death_changes_nothing_but_time(&case(ROLLOUT, generate::healthy()));
}

#[test]
fn a_crash_at_every_await_of_a_rollback_changes_nothing_but_time() {
    every_death_changes_nothing_but_time(&case(
        ROLLOUT,
        Behaviour {
            error_rate: 0.5,
            ..generate::healthy()
        },
    ));
}
