//! What people asked of a release, and what came of it.
//!
//! A command is written here before anybody acts on it, by whoever serves the person; whoever drives the release reads
//! it at its next pass. The answer is derived from the history entry that handled it, so command and answer can be
//! audited together for as long as the release is kept.

use jiff::Timestamp;
use rusqlite::{Connection, Row, params};
use serde::{Deserialize, Serialize};

use super::SqliteStore;
use super::fault::{Cells, Fault, encode, execute, row, rows, signed};
use super::releases::release_name;
use crate::engine::{Actor, Command, CommandKind, Outcome};
use crate::store::shared::{CommandError, MAX_PENDING_ABORTS, MAX_PENDING_COMMANDS};
use crate::store::{ReleaseKey, StoreError};

/// A command and what came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CommandRecord {
    /// What was asked.
    pub command: Command,
    /// What came of it; `None` while it waits.
    pub answer: Option<Answer>,
}

/// What came of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Answer {
    /// It was followed; the history entry of this number says how.
    Followed {
        /// Number of the entry.
        entry: u64,
    },
    /// It could not be followed; the history entry of this number says why.
    Refused {
        /// Number of the entry.
        entry: u64,
    },
}

impl SqliteStore {
    /// Writes down what somebody asks of a release. The caller should wake whoever drives it.
    ///
    /// # Errors
    /// If the release is over, or too many commands wait.
    pub fn add_command(
        &self,
        key: &ReleaseKey,
        kind: CommandKind,
        by: &Actor,
        reason: Option<&str>,
        now: Timestamp,
    ) -> Result<Command, CommandError> {
        let command = Command {
            id: 0,
            kind,
            by: by.clone(),
            reason: reason.map(str::to_owned),
            at: now,
        };
        self.write(|transaction| add(transaction, key, command))?
    }

    /// Every command of a release with its answer, oldest first.
    ///
    /// # Errors
    /// `Unknown`, or `Damaged` with the row that makes no sense.
    pub fn command_log(&self, key: &ReleaseKey) -> Result<Vec<CommandRecord>, StoreError> {
        self.read(|connection| {
            exists(connection, key)?;
            rows(
                connection,
                "SELECT id, kind, asked_by, reason, at, entry, refused FROM commands
                 WHERE rollout = ?1 AND number = ?2 ORDER BY id",
                params![key.rollout, signed(key.number)?],
                |row| command_record(key, row),
            )
        })
    }

    pub(super) fn commands_after(&self, key: &ReleaseKey, handled: u64) -> Result<Vec<Command>, StoreError> {
        self.read(|connection| {
            exists(connection, key)?;
            rows(
                connection,
                "SELECT id, kind, asked_by, reason, at, entry, refused FROM commands
                 WHERE rollout = ?1 AND number = ?2 AND id > ?3 ORDER BY id",
                params![key.rollout, signed(key.number)?, signed(handled)?],
                |row| Ok(command_record(key, row)?.command),
            )
        })
    }
}

fn add(connection: &Connection, key: &ReleaseKey, command: Command) -> Result<Result<Command, CommandError>, Fault> {
    let kind = command.kind;
    if let Some(outcome) = exists(connection, key)? {
        let key = key.clone();
        return Ok(Err(CommandError::Over { key, kind, outcome }));
    }
    let number = signed(key.number)?;
    let counted = row(
        connection,
        "SELECT coalesce(max(id), 0) AS last, count(*) FILTER (WHERE entry IS NULL) AS waiting FROM commands
         WHERE rollout = ?1 AND number = ?2",
        params![key.rollout, number],
        |row| {
            let cells = Cells::new("commands", release_name(key), row);
            Ok((cells.number("last")?, cells.number("waiting")?))
        },
    )?;
    let (last, waiting) = counted.unwrap_or_default();
    let most = match kind {
        CommandKind::Abort | CommandKind::Supersede => MAX_PENDING_COMMANDS + MAX_PENDING_ABORTS,
        CommandKind::Approve
        | CommandKind::Promote { .. }
        | CommandKind::Pause
        | CommandKind::Resume
        | CommandKind::Retry => MAX_PENDING_COMMANDS,
    };
    if waiting >= most {
        let key = key.clone();
        return Ok(Err(CommandError::TooMany { key, kind, waiting }));
    }
    let command = Command {
        id: last + 1,
        ..command
    };
    execute(
        connection,
        "INSERT INTO commands (rollout, number, id, kind, asked_by, reason, at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        params![
            key.rollout,
            number,
            signed(command.id)?,
            encode(&command.kind)?,
            encode(&command.by)?,
            command.reason,
            command.at.to_string()
        ],
    )?;
    Ok(Ok(command))
}

/// The release's outcome, if it has ended; an error if there is no such release.
fn exists(connection: &Connection, key: &ReleaseKey) -> Result<Option<Outcome>, Fault> {
    row(
        connection,
        "SELECT outcome FROM releases WHERE rollout = ?1 AND number = ?2",
        params![key.rollout, signed(key.number)?],
        |row| Cells::new("releases", release_name(key), row).value_or_none("outcome"),
    )?
    .ok_or_else(|| StoreError::Unknown(key.clone()).into())
}

fn command_record(key: &ReleaseKey, row: &Row<'_>) -> Result<CommandRecord, Fault> {
    let id = Cells::new("commands", release_name(key), row).number("id")?;
    let cells = Cells::new("commands", format!("{key} command {id}"), row);
    let answered: Option<i64> = cells.plain("entry")?;
    let answer = match answered {
        None => None,
        Some(_) => {
            let entry = cells.number("entry")?;
            Some(if cells.plain::<bool>("refused")? {
                Answer::Refused { entry }
            } else {
                Answer::Followed { entry }
            })
        }
    };
    Ok(CommandRecord {
        command: Command {
            id,
            kind: cells.value("kind")?,
            by: cells.value("asked_by")?,
            reason: cells.plain("reason")?,
            at: cells.time("at")?,
        },
        answer,
    })
}
