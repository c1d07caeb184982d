//! The folder: who may have it, and which files it may hold.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use super::super::schema::{MIGRATIONS, migrate};
use super::*;

fn mode(path: &Path) -> u32 {
    path.metadata().expect("there").mode() & 0o7777
}

fn refused(path: &Path) -> String {
    DataDir::open(path, at(0)).expect_err("refused").to_string()
}

#[test]
fn a_second_daemon_is_told_who_has_the_folder() {
    let home = tempfile::tempdir().expect("a folder");
    let data = home.path().join("a/b");
    let first = DataDir::open(&data, at(0)).expect("opened");
    assert_eq!(
        refused(&data),
        format!(
            "the data folder {} is in use by wade (pid {}) since {}; stop it or use another folder (--data)",
            data.display(),
            std::process::id(),
            at(0)
        )
    );
    // Whoever still writes keeps the folder.
    let writer = first.store().clone();
    drop(first);
    assert!(refused(&data).contains("in use"));
    drop(writer);
    assert!(DataDir::open(&data, at(1)).is_ok());
}

#[test]
fn each_open_raises_the_epoch_and_fences_the_one_before() {
    let home = tempfile::tempdir().expect("a folder");
    let first = DataDir::open(home.path(), at(0)).expect("opened");
    let mut drive = Drive::begin(first.store(), "shop", "1.0");
    drive.epoch = first.epoch();
    drive.go(&[Event::Admitted]);
    let before = drive.load();
    assert_eq!(first.epoch(), 1);
    drive.store = store();
    drop(first);
    let second = DataDir::open(home.path(), at(1)).expect("opened");
    assert_eq!(second.epoch(), 2);
    drive.store = second.store().clone();
    assert_eq!(drive.load(), before);
    let update = drive.update(&[Event::Ready]);
    let late = drive.write(&update).expect_err("the old daemon's epoch");
    assert_eq!(
        late.to_string(),
        "another controller holds shop release 1 now (epoch 2, ours 1); this one stops"
    );
    drive.epoch = second.epoch();
    drive.write(&update).expect("the new one's");
}

#[test]
fn files_are_for_their_owner_only() {
    let home = tempfile::tempdir().expect("a folder");
    let path = home.path().join("data");
    let data = DataDir::open(&path, at(0)).expect("opened");
    Drive::begin(data.store(), "shop", "1.0");
    let modes = ["", "lock", "wade.db", "wade.db-wal", "wade.db-shm"].map(|name| mode(&path.join(name)));
    assert_eq!(modes, [0o700, 0o600, 0o600, 0o600, 0o600]);
    drop(data);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).expect("changed");
    assert_eq!(
        refused(&path),
        format!(
            "others may write into the data folder {0} (mode 777); run `chmod go-w {0}` or use another folder (--data)",
            path.display()
        )
    );
}

#[test]
fn a_file_in_place_of_the_folder_is_said_so() {
    let home = tempfile::tempdir().expect("a folder");
    let path = home.path().join("data");
    fs::write(&path, "mine").expect("written");
    let said = refused(&path);
    assert!(said.contains("cannot be made; make it a folder"), "{said}");
    let said = refused(&path.join("below"));
    assert!(said.contains("cannot be made; make it a folder"), "{said}");
    assert_eq!(fs::read_to_string(&path).expect("there"), "mine");
}

#[test]
fn files_that_are_not_ours_or_newer_are_left_alone() {
    let home = tempfile::tempdir().expect("a folder");
    let file = home.path().join("wade.db");
    drop(DataDir::open(home.path(), at(0)).expect("opened"));
    let change = |text: &str| {
        let connection = Connection::open(&file).expect("opened");
        connection.execute_batch(text).expect("legal SQL");
    };
    let newer = MIGRATIONS.len() + 1;
    change(&format!("PRAGMA user_version = {newer}"));
    let said = refused(home.path());
    let expected = format!(
        "{} was written by a newer wade (format {newer}, this one knows {}); use that version again, or put back the copy \
         of the file from before the upgrade",
        file.display(),
        MIGRATIONS.len()
    );
    assert_eq!(said, expected);
    change("PRAGMA application_id = 7");
    assert!(refused(home.path()).contains("another program's database"));
    fs::write(&file, "these are my notes, not a database").expect("written");
    let said = refused(home.path());
    assert!(said.contains("wade.db is damaged"), "{said}");
    assert!(said.contains("move it away to begin anew"), "{said}");
    assert_eq!(
        fs::read_to_string(&file).expect("there"),
        "these are my notes, not a database"
    );
}

fn schema_of(connection: &Connection) -> Vec<String> {
    let mut statement = connection
        .prepare("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY name")
        .expect("legal SQL");
    let rows = statement.query_map([], |row| row.get(0)).expect("rows");
    rows.collect::<Result<_, _>>().expect("text")
}

#[test]
fn every_old_format_becomes_the_newest() {
    // Two steps more than there are yet, so that the walk is tried for real.
    let more = [
        "ALTER TABLE rollouts ADD COLUMN note TEXT",
        "CREATE TABLE later (x TEXT) STRICT",
    ];
    let all: Vec<&str> = MIGRATIONS.iter().copied().chain(more).collect();
    let file = Path::new("test.db");
    let mut newest = Connection::open_in_memory().expect("opened");
    migrate(&mut newest, file, &all).expect("migrated");
    for old in 0..=all.len() {
        let mut connection = Connection::open_in_memory().expect("opened");
        migrate(&mut connection, file, &all[..old]).expect("the old format");
        if old > 0 {
            let text = "INSERT INTO rollouts (name, kept, updated) VALUES ('shop', 3, 'then')";
            connection.execute_batch(text).expect("legal SQL");
        }
        migrate(&mut connection, file, &all).expect("migrated");
        assert_eq!(schema_of(&connection), schema_of(&newest), "from {old}");
        let kept: i64 = connection
            .query_row("SELECT count(*) FROM rollouts WHERE kept = 3", [], |row| row.get(0))
            .expect("a count");
        assert_eq!(kept, i64::from(old > 0), "from {old}");
    }
}

#[test]
fn a_migration_that_fails_leaves_the_older_format_whole() {
    let file = Path::new("test.db");
    let mut connection = Connection::open_in_memory().expect("opened");
    migrate(&mut connection, file, MIGRATIONS).expect("migrated");
    let before = schema_of(&connection);
    let broken = [
        MIGRATIONS,
        &["CREATE TABLE half (x TEXT) STRICT; CREATE TABLE meta (x TEXT)"],
    ]
    .concat();
    assert!(migrate(&mut connection, file, &broken).is_err());
    assert_eq!(schema_of(&connection), before);
    migrate(&mut connection, file, MIGRATIONS).expect("still the older format");
}
