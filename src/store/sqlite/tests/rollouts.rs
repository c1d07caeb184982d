//! What follows from entries, what is kept, and what people asked.

use super::*;
use crate::plan::ALL_STABLE;
use crate::platforms::local::process::ledger::{self, Ledger, ProcessId, ProcessRecord, SlotKey};

fn numbers(store: &SqliteStore) -> Vec<u64> {
    let list = store.list("shop", 100).expect("a list");
    list.into_iter().map(|summary| summary.key.number).collect()
}

fn versions(store: &SqliteStore) -> Vec<String> {
    let revisions = store.revisions("shop").expect("revisions");
    let mut versions: Vec<_> = revisions.into_iter().map(|served| served.revision.version).collect();
    versions.sort();
    versions
}

#[test]
fn the_entry_that_hands_over_changes_what_is_stable_and_nothing_else_does() {
    let store = store();
    store.set_stable("shop", &revision("0.9"), at(-9)).expect("written");
    let mut drive = Drive::begin(&store, "shop", "1.0");
    drive.reach_the_bake();
    assert_eq!(store.stable("shop"), Ok(Some(revision("0.9"))));
    let proof = Proof::NotJudged;
    let adopted = drive.go(&[Event::StageEnded { proof }, Event::Adopted]);
    assert_eq!(store.stable("shop"), Ok(Some(revision("1.0"))));
    // Somebody says otherwise later; a late repetition of the entry does not undo it.
    store.set_stable("shop", &revision("1.1"), at(99)).expect("written");
    drive.write(&adopted).expect("a repetition is fine");
    assert_eq!(store.stable("shop"), Ok(Some(revision("1.1"))));
}

#[test]
fn only_bad_outcomes_quarantine_and_retry_or_serving_ends_it() {
    let outcomes = [
        (Outcome::RolledBack, true),
        (Outcome::Rejected, true),
        (Outcome::Aborted, false),
        (Outcome::Returned, false),
        (Outcome::Superseded, false),
    ];
    for (outcome, quarantined) in outcomes {
        let store = store();
        Drive::begin(&store, "shop", "1.0").retreat(outcome.clone());
        let expected = quarantined.then(|| Quarantine {
            revision: "id-1.0".to_owned(),
            release: 1,
            reason: "because of 2".to_owned(),
            at: at(6),
        });
        assert_eq!(store.quarantined("shop", "id-1.0"), Ok(expected), "{outcome:?}");
        assert_eq!(store.clear_quarantine("shop", "id-1.0"), Ok(quarantined));
        assert_eq!(store.quarantined("shop", "id-1.0"), Ok(None));
    }
    let store = store();
    Drive::begin(&store, "shop", "1.0").retreat(Outcome::RolledBack);
    Drive::begin(&store, "shop", "1.0").promote();
    assert_eq!(store.quarantined("shop", "id-1.0"), Ok(None));
}

#[test]
fn one_release_at_a_time_unless_told() {
    let store = store();
    let drive = Drive::begin(&store, "shop", "1.0");
    let new = new_release("shop", "1.1");
    let refused = store.create_release(&new, Beside::Nothing, at(1)).expect_err("refused");
    assert_eq!(
        refused.to_string(),
        "shop release 1 is not over (waiting): wait for it, or end it with `wade abort shop`"
    );
    let second = store.create_release(&new, Beside::Running, at(1)).expect("created");
    Drive::begin(&store, "cart", "7");
    let running = store.all_running().expect("a list");
    let keys: Vec<_> = running
        .iter()
        .map(|(key, record)| (key.to_string(), record.is_ok()))
        .collect();
    let release = |name: &str| (name.to_owned(), true);
    assert_eq!(
        keys,
        [
            release("cart release 1"),
            release("shop release 1"),
            release("shop release 2")
        ]
    );
    assert_eq!(store.running("shop"), Ok(Some(drive.load())));
    assert_eq!(
        store.latest("shop").expect("read").map(|record| record.key),
        Some(second)
    );
    assert_eq!(store.running("unheard"), Ok(None));
}

#[test]
fn a_list_tells_each_release_in_a_line() {
    let store = store();
    Drive::begin(&store, "shop", "1.0").promote();
    Drive::begin(&store, "shop", "1.1").retreat(Outcome::RolledBack);
    let by = new_release("shop", "1.0").by;
    let summary = |number, version: &str| Summary {
        key: ReleaseKey {
            rollout: "shop".to_owned(),
            number,
        },
        revision: format!("id-{version}"),
        version: version.to_owned(),
        stable_revision: None,
        stable_version: None,
        phase: "done".to_owned(),
        outcome: Some(Outcome::Promoted { proven: true }),
        retreat: None,
        by: by.clone(),
        created: at(0),
        ended: Some(at(13)),
    };
    let promoted = summary(1, "1.0");
    let rolled_back = Summary {
        stable_revision: Some("id-1.0".to_owned()),
        stable_version: Some("1.0".to_owned()),
        outcome: Some(Outcome::RolledBack),
        retreat: Some("because of 2".to_owned()),
        ended: Some(at(6)),
        ..summary(2, "1.1")
    };
    assert_eq!(store.list("shop", 10), Ok(vec![rolled_back.clone(), promoted]));
    assert_eq!(store.list("shop", 1), Ok(vec![rolled_back]));
}

#[test]
fn only_the_last_releases_are_kept_and_the_stable_revision_always() {
    let store = store();
    store.set_kept_releases("shop", 3, at(0)).expect("written");
    Drive::begin(&store, "shop", "1.0").promote();
    Drive::begin(&store, "shop", "1.1").promote();
    for version in ["2.0", "2.1", "2.2", "2.3"] {
        Drive::begin(&store, "shop", version).retreat(Outcome::RolledBack);
    }
    assert_eq!(numbers(&store), [6, 5, 4]);
    assert_eq!(versions(&store), ["1.1"]);
    let counts = |table: &str| -> i64 {
        let text = format!("SELECT count(DISTINCT number) FROM {table}");
        store
            .connection()
            .query_row(&text, [], |row| row.get(0))
            .expect("a count")
    };
    assert_eq!(counts("entries"), 3);
    let running = Drive::begin(&store, "shop", "3.0");
    store.set_kept_releases("shop", 0, at(0)).expect("written");
    assert_eq!(numbers(&store), [7, 6], "one finished release at least, and what runs");
    assert_eq!(running.load().stable, Some(revision("1.1")));
    assert_eq!(
        store.rollout("shop").expect("read").expect("there").quarantined.len(),
        4
    );
}

#[test]
fn a_command_and_its_answer_can_be_audited() {
    let store = store();
    let mut drive = Drive::begin(&store, "shop", "1.0");
    let bob = Actor::named("bob");
    let ask = |kind, reason| store.add_command(&drive.key, kind, &bob, reason, at(7)).expect("added");
    let asked = [
        ask(CommandKind::Promote { full: true }, None),
        ask(CommandKind::Pause, Some("lunch")),
        ask(CommandKind::Approve, None),
    ];
    assert_eq!(asked.each_ref().map(|command| command.id), [1, 2, 3]);
    assert_eq!(store.commands_after(&drive.key, 1), Ok(asked[1..].to_vec()));
    let paused = Event::Paused { command: 2, by: bob };
    drive.go(&[Event::Admitted, Event::Refused { command: 1 }, paused]);
    let answers = [
        Some(Answer::Refused { entry: 2 }),
        Some(Answer::Followed { entry: 3 }),
        None,
    ];
    let log = asked.into_iter().zip(answers);
    let log: Vec<_> = log.map(|(command, answer)| CommandRecord { command, answer }).collect();
    assert_eq!(store.command_log(&drive.key), Ok(log));
}

#[test]
fn commands_are_bounded_aborts_get_in_and_nothing_is_asked_of_what_is_over() {
    let store = store();
    let mut drive = Drive::begin(&store, "shop", "1.0");
    let ask = |kind| store.add_command(&drive.key, kind, &Actor::named("bot"), None, at(7));
    for _ in 0..MAX_PENDING_COMMANDS {
        ask(CommandKind::Pause).expect("room");
    }
    let full = ask(CommandKind::Approve).expect_err("full").to_string();
    assert_eq!(
        full,
        "shop release 1 has 64 commands that wait for an answer; approve was not added, try again when they are answered"
    );
    assert_eq!(ask(CommandKind::Abort).map(|command| command.id), Ok(65));
    drive.retreat(Outcome::Aborted);
    let over = store.add_command(&drive.key, CommandKind::Pause, &Actor::named("bot"), None, at(9));
    assert_eq!(
        over.expect_err("over").to_string(),
        "shop release 1 is over (Aborted): there is nothing to pause; `wade status shop` shows what is"
    );
}

#[test]
fn the_last_split_is_kept_between_releases() {
    let store = store();
    assert_eq!(store.route("shop"), Ok(None));
    for split in [Split::weight(Weight::FULL), ALL_STABLE] {
        let route = Route {
            stable: Some("id-1.0".to_owned()),
            canary: None,
            split,
            at: at(3),
        };
        store.set_route("shop", &route).expect("written");
        assert_eq!(store.route("shop"), Ok(Some(route)));
    }
}

#[test]
fn processes_are_rows_of_the_same_file() {
    let store = store();
    let record = |slot, launch: &str, phase| ProcessRecord {
        key: SlotKey {
            service: "shop".to_owned(),
            revision: "id-1.0".to_owned(),
            slot,
        },
        launch: launch.to_owned(),
        phase,
        port: Some(8080),
        started_at: at(0),
        restarts: 2,
        stop: crate::platforms::local::process::StopRule::default(),
    };
    let running = ledger::Phase::Running(ProcessId {
        pid: 4711,
        start_ticks: u64::from(u32::MAX) * 7,
        boot: "b".to_owned(),
    });
    let records = [record(0, "a", running), record(1, "b", ledger::Phase::Intended)];
    store.put(&records[1]).expect("written");
    store.put(&record(0, "old", ledger::Phase::Intended)).expect("written");
    store.put(&records[0]).expect("written");
    assert_eq!(store.all().expect("read"), records);
    store.remove(&records[0].key).expect("removed");
    store.remove(&records[0].key).expect("absent is fine");
    assert_eq!(store.all().expect("read"), records[1..]);
}
