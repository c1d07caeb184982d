//! What a controller writes and reads.

use super::*;
use crate::judge::{Course, HistoryRecorder};
use crate::store::codec::encode;

#[test]
fn a_release_comes_back_whole() {
    let store = store();
    store.set_stable("shop", &revision("0.9"), at(-9)).expect("written");
    let mut drive = Drive::begin(&store, "shop", "1.0");
    let mut expected = ReleaseRecord {
        key: ReleaseKey {
            rollout: "shop".to_owned(),
            number: 1,
        },
        canary: revision("1.0"),
        stable: Some(revision("0.9")),
        plan: plan("shop"),
        state: State::new(at(0)),
        history: Vec::new(),
        judge: None,
        verdict: None,
        course: Course::default(),
        by: new_release("shop", "1.0").by,
        reason: new_release("shop", "1.0").reason,
        deploy_window: Some(true),
        pipeline: new_release("shop", "1.0").pipeline,
        created: at(0),
        ended: None,
    };
    assert_eq!(drive.load(), expected);
    let moves = [
        vec![Event::Admitted, Event::Ready],
        vec![],
        vec![Event::SmokePassed],
        vec![Event::GateOpened {
            command: 7,
            by: Actor::named("ann"),
        }],
    ];
    for (round, events) in moves.iter().enumerate() {
        let mut update = drive.update(events);
        if round != 2 {
            let (judge, verdict) = judged(997.0 + round as f64, 0.7, 1.0);
            let mut course = expected.course.clone();
            course.push(round as f64, &verdict);
            update.course = Some(course);
            update.judge = Some(judge);
            update.verdict = Some(verdict);
        }
        drive.write(&update).expect("written");
        expected.state = update.state;
        expected.history.extend(update.entries);
        expected.judge = update.judge.or(expected.judge);
        expected.verdict = update.verdict.or(expected.verdict);
        expected.course = update.course.unwrap_or(expected.course);
        assert_eq!(drive.load(), expected, "round {round}");
    }
}

#[test]
fn a_judge_with_infinities_goes_on_as_if_nothing_had_happened() {
    let store = store();
    let mut drive = Drive::begin(&store, "shop", "1.0");
    for (total, bad, weight) in [
        (5.0, 1.0, 0.0),
        (100.0, 100.0, 1.0),
        (1e300, 1.0, 1.0),
        (0.1, 0.1, 0.3),
        (1e9, 12_345.678, 1.0),
    ] {
        let (judge, mut verdict) = judged(total, bad, weight);
        verdict.evidence = f64::NEG_INFINITY;
        let mut update = drive.update(&[]);
        update.judge = Some(judge.clone());
        update.verdict = Some(verdict.clone());
        drive.write(&update).expect("written");
        let loaded = drive.load();
        // Compared in words: NaN, should a judge ever hold one, equals nothing.
        let words = |judge: &JudgeRecord| encode(judge).expect("words");
        assert_eq!(loaded.judge.as_ref().map(words), Some(words(&judge)));
        assert_eq!(loaded.verdict, Some(verdict));
    }
}

#[test]
fn the_same_update_again_changes_nothing() {
    let store = store();
    let mut drive = Drive::begin(&store, "shop", "1.0");
    let first = drive.go(&[Event::Admitted, Event::Ready]);
    let once = drive.load();
    drive.write(&first).expect("a repetition is fine");
    assert_eq!(drive.load(), once);
    let mut late = first.clone();
    late.entries.remove(0);
    let second = drive.go(&[Event::SmokePassed]);
    let twice = drive.load();
    drive.write(&late).expect("a late repetition is fine");
    drive.write(&first).expect("a late repetition is fine");
    assert_eq!(drive.load(), twice);
    // A retry that carries what was written and what is new, as after a lost answer.
    let third = drive.update(&[Event::GateOpened {
        command: 1,
        by: Actor::named("ann"),
    }]);
    let both = Update {
        entries: second.entries.into_iter().chain(third.entries).collect(),
        ..third
    };
    drive.write(&both).expect("written");
    assert_eq!(drive.load().state, both.state);
}

#[test]
fn another_entry_under_a_number_and_a_gap_are_refused_whole() {
    let store = store();
    let mut drive = Drive::begin(&store, "shop", "1.0");
    let first = drive.go(&[Event::Admitted, Event::Ready]);
    let before = drive.load();
    let mut other = first;
    other.entries[1].reason.push('!');
    let next = drive.update(&[Event::SmokePassed]);
    let mut gap = next.clone();
    gap.entries[0].number += 1;
    let mut state_ahead = next.clone();
    state_ahead.entries.clear();
    let mut state_behind = next.clone();
    state_behind.state.next_entry -= 1;
    let said: Vec<_> = [&other, &gap, &state_ahead, &state_behind]
        .map(|update| drive.write(update).expect_err("refused").to_string())
        .into();
    assert_eq!(
        said,
        [
            "the record of shop release 1 entry 2 (table entries) is damaged: another entry is recorded under this \
             number; two controllers have written, or this is a bug in Wade",
            "the record of shop release 1 (table entries) is damaged: entry 4 was to follow entry 2; those between are \
             missing",
            "the record of shop release 1 (table releases) is damaged: its history ends with entry 2 and its state \
             expects entry 4 next",
            "the record of shop release 1 (table releases) is damaged: its history ends with entry 3 and its state \
             expects entry 3 next",
        ]
    );
    assert_eq!(drive.load(), before);
    drive.write(&next).expect("the right one is fine");
}

#[test]
fn a_lower_epoch_than_seen_is_fenced() {
    let store = store();
    let mut drive = Drive::begin(&store, "shop", "1.0");
    let update = drive.update(&[Event::Admitted]);
    let fenced = |ours, theirs| {
        Err(StoreError::Fenced {
            key: ReleaseKey {
                rollout: "shop".to_owned(),
                number: 1,
            },
            ours,
            theirs,
        })
    };
    drive.epoch = 0;
    assert_eq!(drive.write(&update), fenced(0, 1));
    drive.epoch = 5;
    assert_eq!(drive.write(&update), Ok(()));
    drive.epoch = 4;
    let next = drive.update(&[Event::Ready]);
    assert_eq!(drive.write(&next), fenced(4, 5));
    assert_eq!(drive.load().history.len(), 1);
}

#[test]
fn an_unknown_release_is_named() {
    let store = store();
    let mut drive = Drive::begin(&store, "shop", "1.0");
    let update = drive.update(&[]);
    drive.key.number = 9;
    let unknown = StoreError::Unknown(drive.key.clone());
    assert_eq!(drive.write(&update), Err(unknown.clone()));
    assert_eq!(store.release(&drive.key), Err(unknown.clone()));
    assert_eq!(store.commands_after(&drive.key, 0), Err(unknown.clone()));
    assert_eq!(store.command_log(&drive.key), Err(unknown));
}

#[tokio::test]
async fn the_trait_reads_and_writes_the_same() {
    let store = store();
    let mut drive = Drive::begin(&store, "shop", "1.0");
    let shared: Arc<dyn Store> = Arc::new(store.clone());
    let update = drive.update(&[Event::Admitted]);
    shared.record(&drive.key, 1, &update).await.expect("written");
    let command = store
        .add_command(&drive.key, CommandKind::Pause, &Actor::named("bob"), None, at(5))
        .expect("added");
    assert_eq!(shared.load(&drive.key).await, Ok(drive.load()));
    assert_eq!(shared.commands(&drive.key, 0).await, Ok(vec![command]));
    assert_eq!(shared.commands(&drive.key, 1).await, Ok(vec![]));
}

#[test]
fn what_was_recorded_of_stable_is_kept_per_service() {
    let store = store();
    assert_eq!(store.kept_history("shop"), Ok(None));
    let mut recorder = HistoryRecorder::new(300.0);
    for minute in 0..40i32 {
        for pod in ["a", "b"] {
            recorder.record(f64::from(minute) * 60.0, pod, 100.25, 0.5);
        }
        store
            .keep_history("shop", &recorder, at(minute.into()))
            .expect("written");
    }
    assert_eq!(store.kept_history("shop"), Ok(Some(recorder.clone())));
    assert_eq!(store.kept_history("other"), Ok(None));
    assert!(recorder.enough(6), "and it is still enough");
}
