//! What is learned of stable after the release has begun.

use super::*;

#[test]
fn history_that_comes_later_lets_later_stages_pass_and_changes_no_evidence() {
    let mut judge = at_stage_one(with(vec![errors()]), None);
    let healthy = counts("errors", Some((5000.0, 2.5)), Some((45_000.0, 22.5)));
    let (_, first) = look_until(&mut judge, 0, 300, &healthy);
    assert_eq!((first.call, judge.knows_bursts()), (Call::Undecided, false));
    let mut before = judge.clone();
    judge.learn(&quiet());
    assert_eq!(
        judge.look(300.0, &Observation::default()).evidence,
        before.look(300.0, &Observation::default()).evidence
    );
    judge.start_stage(2, 300.0, 0.5);
    let (at, second) = look_until(&mut judge, 300, 600, &healthy);
    assert_eq!((at, second.call), (360, Call::Pass));
}

#[test]
fn bursts_that_are_learned_late_are_reckoned_with() {
    let mut bursty = quiet();
    for (number, pod) in bursty.pods.iter_mut().enumerate() {
        pod[number % 6].1 = 60.0;
    }
    let healthy = counts("errors", Some((500.0, 0.5)), Some((4500.0, 4.5)));
    let passes_at = |history: &History| {
        let mut judge = at_stage_one(with(vec![errors()]), None);
        judge.learn(history);
        judge.start_stage(2, 0.0, 0.5);
        let (at, verdict) = look_until(&mut judge, 0, 300, &healthy);
        (verdict.call == Call::Pass).then_some(at)
    };
    assert!(passes_at(&quiet()).is_some());
    assert_eq!(
        passes_at(&bursty),
        None,
        "a quiet stage of a bursty service proves nothing"
    );
}

#[test]
fn a_single_pod_teaches_nothing() {
    let mut judge = at_stage_one(with(vec![errors()]), None);
    let one = History {
        block_s: 60.0,
        pods: vec![vec![(3000.0, 3.0); 200]],
    };
    judge.learn(&one);
    assert!(!judge.knows_bursts());
    assert!(one.pod_minutes() < 1.0 && quiet().pod_minutes() > 599.0);
}

#[test]
fn short_blocks_are_for_a_stable_that_is_known_to_be_calm() {
    let blocks = crate::judge::config::Blocks::calm(2.0);
    let auto = Config {
        when_calm: Some(blocks),
        ..with(vec![errors()])
    };
    let half = counts("errors", Some((10.0, 5.0)), Some((190.0, 0.0)));
    let found_at = |config: &Config, history: Option<&History>| {
        let mut judge = at_stage_one(config.clone(), history);
        let (at, verdict) = look_until(&mut judge, 0, 300, &half);
        assert_eq!(verdict.call, Call::Fail);
        at
    };
    let mut bursty = quiet();
    bursty.pods[3][2].1 = 60.0;
    let short = History {
        block_s: 60.0,
        pods: vec![vec![(600.0, 1.0); 20]; 20],
    };
    let usual = found_at(&with(vec![errors()]), Some(&quiet()));
    assert!(found_at(&auto, Some(&quiet())) <= 20, "calm");
    assert_eq!(found_at(&auto, None), found_at(&with(vec![errors()]), None), "unknown");
    assert!(found_at(&auto, Some(&bursty)) >= usual, "bursty");
    assert!(found_at(&auto, Some(&short)) >= usual, "twenty minutes are not enough");
}
