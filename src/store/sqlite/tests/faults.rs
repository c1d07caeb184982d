//! What the world does to a file: full disks, power cuts, `kill -9`, and people with `sqlite3`.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command as Process, Stdio};

use super::*;
use crate::engine::replay;
use crate::platforms::local::process::ledger::Ledger;

fn page_limit(store: &SqliteStore, pages: i64) -> i64 {
    store
        .connection()
        .pragma_update_and_check(None, "max_page_count", pages, |row| row.get(0))
        .expect("a limit")
}

#[test]
fn a_full_disk_writes_nothing_by_halves_and_work_goes_on_when_there_is_room() {
    let home = tempfile::tempdir().expect("a folder");
    let data = DataDir::open(home.path(), at(0)).expect("opened");
    let mut drive = Drive::begin(data.store(), "shop", "1.0");
    // SQLite takes the present size if the limit is below it.
    let size = page_limit(data.store(), 1);
    page_limit(data.store(), size + 8);
    drive.go(&[Event::Admitted]);
    let mut written = drive.load();
    let (update, error) = loop {
        let command = drive.state.handled + 1;
        let update = drive.update(&[Event::Refused { command }]);
        match drive.write(&update) {
            Ok(()) => written = drive.load(),
            Err(error) => break (update, error),
        }
    };
    assert_eq!(
        error,
        StoreError::Unavailable {
            what: "written",
            why: format!(
                "no space is left for {}: free some on its disk, Wade then goes on by itself",
                home.path().join("wade.db").display()
            ),
        }
    );
    assert!(written.history.len() > 3, "the disk was not full from the start");
    assert_eq!(drive.load(), written);
    page_limit(data.store(), size + 100);
    drive.write(&update).expect("there is room");
    assert_eq!(drive.load().history.len(), written.history.len() + 1);
}

#[test]
fn a_read_only_database_says_so_and_can_still_be_read() {
    let store = store();
    let mut drive = Drive::begin(&store, "shop", "1.0");
    sql(&store, "PRAGMA query_only = on");
    let update = drive.update(&[Event::Admitted]);
    let said = drive.write(&update).expect_err("refused").to_string();
    assert!(
        said.starts_with("the record cannot be written: :memory: is read-only"),
        "{said}"
    );
    assert_eq!(drive.load().history, []);
    sql(&store, "PRAGMA query_only = off");
    drive.write(&update).expect("writable again");
}

/// Changes that people and bad disks make, and the row that must be named.
#[test]
fn content_that_makes_no_sense_is_named_and_hides_nothing_else() {
    let cases = [
        (
            "UPDATE releases SET plan = '{' WHERE number = 2",
            "shop release 2 (table releases)",
            "column plan: ",
        ),
        (
            "UPDATE releases SET judge = 'null ' || judge WHERE number = 2",
            "shop release 2 (table releases)",
            "column judge: ",
        ),
        (
            "UPDATE releases SET created = 'noon' WHERE number = 2",
            "shop release 2 (table releases)",
            "column created: ",
        ),
        (
            "UPDATE entries SET entry = '7' WHERE number = 2 AND seq = 3",
            "shop release 2 entry 3 (table entries)",
            "column entry: ",
        ),
        (
            "DELETE FROM entries WHERE number = 2 AND seq = 3",
            "shop release 2 entry 3 (table entries)",
            "column seq: found number 4",
        ),
        (
            "DELETE FROM entries WHERE number = 2 AND seq = 9",
            "shop release 2 (table releases)",
            "its history has 8 entries",
        ),
    ];
    for (change, what, why) in cases {
        let store = store();
        let drive = with_history(&store);
        sql(&store, change);
        match store.release(&drive.key) {
            Err(StoreError::Damaged { what: w, why: y }) => {
                assert_eq!(w, what, "{change}");
                assert!(y.starts_with(why), "{change}: {y}");
            }
            other => panic!("{change}: {other:?}"),
        }
        let running = store.all_running().expect("a list");
        assert!(running[0].1.is_err());
        let first = ReleaseKey { number: 1, ..drive.key };
        assert!(store.release(&first).is_ok(), "{change}");
    }
}

#[test]
fn no_content_of_any_column_makes_a_reader_panic() {
    let store = store();
    let drive = with_history(&store);
    sql(
        &store,
        "PRAGMA foreign_keys = off; PRAGMA ignore_check_constraints = on",
    );
    let tables = ["meta", "rollouts", "revisions", "releases", "entries", "commands"];
    let mut damaged = 0;
    for table in tables {
        let columns: Vec<String> = store
            .connection()
            .prepare(&format!("SELECT name FROM pragma_table_info('{table}')"))
            .and_then(|mut statement| statement.query_map([], |row| row.get(0))?.collect())
            .expect("columns");
        for column in columns {
            for garbage in ["'x'", "-1", "9223372036854775807", "'null'", "NULL"] {
                sql(&store, "SAVEPOINT before");
                let change = format!("UPDATE OR IGNORE {table} SET {column} = {garbage}");
                // Strict tables refuse most of it by themselves.
                if store.connection().execute_batch(&change).is_ok() {
                    let failed = [
                        store.release(&drive.key).is_err(),
                        store.list("shop", 10).is_err(),
                        store.all_running().is_err(),
                        store.rollouts().is_err(),
                        store.rollout("shop").is_err(),
                        store.revisions("shop").is_err(),
                        store.command_log(&drive.key).is_err(),
                        store.commands_after(&drive.key, 0).is_err(),
                        store.quarantined("shop", "id-1.0").is_err(),
                        store.route("shop").is_err(),
                        store.all().is_err(),
                    ];
                    damaged += usize::from(failed.contains(&true));
                }
                sql(&store, "ROLLBACK TO before; RELEASE before");
            }
        }
    }
    assert!(damaged > 40, "only {damaged} changes were noticed");
    assert!(store.release(&drive.key).is_ok());
}

#[test]
fn a_log_that_was_cut_off_gives_an_earlier_whole_record() {
    let home = tempfile::tempdir().expect("a folder");
    let data = DataDir::open(home.path(), at(0)).expect("opened");
    let drive = with_history(data.store());
    let log = fs::read(home.path().join("wade.db-wal")).expect("a log");
    let file = fs::read(home.path().join("wade.db")).expect("a file");
    let mut lengths = Vec::new();
    for cut in 0..24 {
        let copy = tempfile::tempdir().expect("a folder");
        fs::write(copy.path().join("wade.db"), &file).expect("copied");
        let kept = log.len() - log.len() * cut / 24;
        fs::write(copy.path().join("wade.db-wal"), &log[..kept]).expect("copied");
        let copy = DataDir::open(copy.path(), at(1)).expect("opened");
        match copy.store().release(&drive.key) {
            Ok(record) => {
                assert_eq!(
                    replay(&record.plan, record.created, &record.history),
                    Ok(record.state.clone())
                );
                lengths.push(record.history.len());
            }
            Err(error) => {
                assert_eq!(error, StoreError::Unknown(drive.key.clone()));
                lengths.push(0);
            }
        }
    }
    assert_eq!(lengths[0], drive.load().history.len());
    assert!(lengths.is_sorted_by(|a, b| a >= b), "{lengths:?}");
    assert_eq!(lengths.last(), Some(&0));
}

/// Set for the process that is to be killed: the folder to write to.
const VICTIM: &str = "WADE_TEST_STORE_VICTIM";

/// Not a test by itself: what `what_was_answered_survives_kill_9` starts and kills.
#[test]
fn victim() {
    let Some(path) = std::env::var_os(VICTIM) else { return };
    let data = DataDir::open(Path::new(&path), at(0)).expect("opened");
    let mut drive = Drive::begin(data.store(), "shop", "1.0");
    for command in 1..100_000 {
        drive.go(&[Event::Refused { command }]);
        println!("answered {command}");
    }
}

#[test]
fn what_was_answered_survives_kill_9() {
    let home = tempfile::tempdir().expect("a folder");
    let mut child = Process::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "store::sqlite::tests::faults::victim", "--nocapture"])
        .env(VICTIM, home.path())
        .stdout(Stdio::piped())
        .spawn()
        .expect("started");
    let output = BufReader::new(child.stdout.take().expect("piped"));
    let mut answered = 0;
    for line in output.lines() {
        let line = line.expect("text");
        if let Some((_, number)) = line.split_once("answered ") {
            answered = number.parse().expect("a number");
        }
        if answered == 25 {
            // Whatever it answers between here and its end is read as well.
            child.kill().expect("killed");
        }
    }
    child.wait().expect("ended");
    assert!(answered >= 25);
    let data = DataDir::open(home.path(), at(1)).expect("its lock ended with it");
    let record = data.store().running("shop").expect("read").expect("there");
    let written = record.history.len() as u64;
    assert!(
        written == answered || written == answered + 1,
        "{written} of {answered}"
    );
    assert_eq!(replay(&record.plan, record.created, &record.history), Ok(record.state));
}
