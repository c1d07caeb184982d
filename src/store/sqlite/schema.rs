//! The tables, and how an older file becomes a newer one.
//!
//! `PRAGMA user_version` counts the migrations that a file has seen. Each runs in a transaction of its own together with
//! the new number, so a crash in between leaves a whole older version. A migration that was released is never edited;
//! a change of the tables is one more line in [`MIGRATIONS`].

use std::path::Path;

use rusqlite::{Connection, TransactionBehavior};

use super::data_dir::OpenError;
use super::fault::Fault;

/// In order; a file of version n has seen the first n.
pub(super) const MIGRATIONS: &[&str] = &[V1, V2];

/// "Wade", so that no other program's database is taken for ours.
const APPLICATION_ID: i32 = 0x5761_6465;

/// Columns with a list or a structure hold JSON (see `codec`); moments are RFC 3339 in UTC. A release keeps both its
/// revisions as they were when it began; `revisions` holds those that have served, which is where a rollback finds them.
const V1: &str = "
CREATE TABLE meta (
    one   INTEGER PRIMARY KEY CHECK (one = 1),
    epoch INTEGER NOT NULL
) STRICT;
INSERT INTO meta VALUES (1, 0);

CREATE TABLE rollouts (
    name        TEXT PRIMARY KEY,
    stable      TEXT,
    next_number INTEGER NOT NULL DEFAULT 1,
    kept        INTEGER NOT NULL,
    updated     TEXT NOT NULL,
    FOREIGN KEY (name, stable) REFERENCES revisions (rollout, id) DEFERRABLE INITIALLY DEFERRED
) STRICT;

CREATE TABLE revisions (
    rollout      TEXT NOT NULL REFERENCES rollouts (name),
    id           TEXT NOT NULL,
    version      TEXT NOT NULL,
    variables    TEXT NOT NULL,
    workload     TEXT NOT NULL,
    first_served TEXT NOT NULL,
    last_served  TEXT NOT NULL,
    PRIMARY KEY (rollout, id)
) STRICT;

CREATE TABLE quarantine (
    rollout  TEXT NOT NULL REFERENCES rollouts (name),
    revision TEXT NOT NULL,
    release  INTEGER NOT NULL,
    reason   TEXT NOT NULL,
    at       TEXT NOT NULL,
    PRIMARY KEY (rollout, revision)
) STRICT;

CREATE TABLE releases (
    rollout         TEXT NOT NULL REFERENCES rollouts (name),
    number          INTEGER NOT NULL,
    epoch           INTEGER NOT NULL,
    phase           TEXT NOT NULL,
    outcome         TEXT,
    retreat         TEXT,
    revision        TEXT NOT NULL,
    version         TEXT NOT NULL,
    stable_revision TEXT,
    stable_version  TEXT,
    canary          TEXT NOT NULL,
    stable          TEXT,
    plan            TEXT NOT NULL,
    state           TEXT NOT NULL,
    judge           TEXT,
    verdict         TEXT,
    asked_by        TEXT NOT NULL,
    reason          TEXT,
    deploy_window   INTEGER,
    pipeline        TEXT NOT NULL,
    created         TEXT NOT NULL,
    ended           TEXT,
    PRIMARY KEY (rollout, number)
) STRICT;
CREATE INDEX running ON releases (rollout, number) WHERE outcome IS NULL;

CREATE TABLE entries (
    rollout TEXT NOT NULL,
    number  INTEGER NOT NULL,
    seq     INTEGER NOT NULL,
    entry   TEXT NOT NULL,
    PRIMARY KEY (rollout, number, seq),
    FOREIGN KEY (rollout, number) REFERENCES releases ON DELETE CASCADE
) STRICT;

CREATE TABLE commands (
    rollout  TEXT NOT NULL,
    number   INTEGER NOT NULL,
    id       INTEGER NOT NULL,
    kind     TEXT NOT NULL,
    asked_by TEXT NOT NULL,
    reason   TEXT,
    at       TEXT NOT NULL,
    entry    INTEGER,
    refused  INTEGER,
    PRIMARY KEY (rollout, number, id),
    FOREIGN KEY (rollout, number) REFERENCES releases ON DELETE CASCADE
) STRICT;

CREATE TABLE routes (
    rollout TEXT PRIMARY KEY REFERENCES rollouts (name),
    stable  TEXT,
    canary  TEXT,
    split   TEXT NOT NULL,
    at      TEXT NOT NULL
) STRICT;

CREATE TABLE processes (
    service  TEXT NOT NULL,
    revision TEXT NOT NULL,
    slot     INTEGER NOT NULL,
    record   TEXT NOT NULL,
    PRIMARY KEY (service, revision, slot)
) STRICT;
";

/// The course of a release's evidence, and what was recorded of stable between releases and during them.
const V2: &str = "
ALTER TABLE releases ADD COLUMN course TEXT;

CREATE TABLE histories (
    service  TEXT PRIMARY KEY,
    recorder TEXT NOT NULL,
    updated  TEXT NOT NULL
) STRICT;
";

/// Brings the file to the newest version; `migrations` is [`MIGRATIONS`] but in tests.
///
/// # Errors
/// If the file is newer than this binary, or another program's; it is left untouched then.
pub(super) fn migrate(connection: &mut Connection, file: &Path, migrations: &[&str]) -> Result<(), OpenError> {
    let fault = |fault: Fault| OpenError::Store(fault.into_error("read", file));
    let (version, application, tables) = look(connection).map_err(|error| fault(error.into()))?;
    let ours = application == APPLICATION_ID || (version == 0 && application == 0 && tables == 0);
    if !ours {
        return Err(OpenError::NotOurs { file: file.to_owned() });
    }
    let known = migrations.len();
    let seen = usize::try_from(version).map_err(|_| OpenError::NotOurs { file: file.to_owned() })?;
    if seen > known {
        return Err(OpenError::Newer {
            file: file.to_owned(),
            found: seen,
            known,
        });
    }
    for (index, sql) in migrations.iter().enumerate().skip(seen) {
        apply(connection, sql, index + 1)
            .map_err(|error| OpenError::Store(Fault::from(error).into_error("written", file)))?;
    }
    Ok(())
}

fn look(connection: &Connection) -> Result<(i32, i32, i64), rusqlite::Error> {
    Ok((
        connection.pragma_query_value(None, "user_version", |row| row.get(0))?,
        connection.pragma_query_value(None, "application_id", |row| row.get(0))?,
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?,
    ))
}

fn apply(connection: &mut Connection, sql: &str, version: usize) -> Result<(), rusqlite::Error> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    transaction.execute_batch(sql)?;
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", i64::try_from(version).unwrap_or(i64::MAX))?;
    transaction.commit()
}
